"""A short training decides how severe a finding is, and a step of the optimiser is held against its derivative."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional

import stability as st
from stability.report.learning import HORIZON, ITERATIONS, Learning
from tests.report import architectures as a
from tests.report.faults import after
from tests.report.trained import measured, shares


def detached():
    sample = a.mlp(32, 6, seed=1)
    return after(sample, "blocks.1", lambda h: h.detach())


def only(report, code):
    return next(one for one in report.findings if one.code == code)


def test_a_cut_that_training_goes_around_is_to_watch():
    sample = detached()
    found = only(st.examine(sample.net, sample.x, sample.loss), "cut_gradient")
    assert found.severity == "watch"
    assert found.layer == "blocks.1.block.0"
    assert found.evidence["loss_after"] < found.evidence["loss_before"] / 2
    assert "learns all the same" in found.why
    assert "Adam at 0.001" in found.why


def test_without_a_loss_the_thresholds_alone_decide():
    sample = detached()
    assert only(st.examine(sample.net, sample.x), "cut_gradient").severity == "harmful"


def test_a_network_that_learns_nothing_stays_harmful_and_says_so():
    sample = a.mlp(48, 60, nn.ReLU, "default")
    found = only(st.examine(sample.net, sample.x, sample.loss), "vanishing_gradient")
    assert found.severity == "harmful"
    assert "where an output that ignores the points has 1.39" in found.why
    assert found.evidence["loss_after"] > 0.9 * math.log(4)


def test_what_the_last_bias_learns_alone_is_no_learning():
    sample = a.mlp(48, 60, nn.ReLU, "default")
    target = torch.where(torch.arange(32) % 8 == 0, 6.0, 5.0)[:, None]

    def loss(output):  # falls a hundredfold by a constant of 5.1
        return functional.mse_loss(output, target.expand_as(output))

    optimizer = torch.optim.SGD(sample.net.parameters(), 0.5)
    found = only(st.examine(sample.net, sample.x, loss, optimizer=optimizer), "vanishing_gradient")
    assert found.evidence["loss_after"] < found.evidence["loss_before"] / 50
    assert found.severity == "harmful"


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_a_loss_without_a_scale_decides_nothing(shift):
    sample = detached()
    report = st.examine(sample.net, sample.x, lambda y: y.square().mean() + shift)
    found = only(report, "cut_gradient")
    assert found.severity == "harmful"
    assert "loss_after" not in found.evidence


def test_what_training_does_not_mend_is_raised_from_watch():
    torch.manual_seed(0)
    sample = a.residual(16, 16, seed=2)
    sample.x = sample.x * 1e-4
    found = only(st.examine(sample.net, sample.x, sample.loss), "input_scale")
    assert found.severity == "harmful"
    assert "take the loss of a copy from" in found.why


def test_nothing_of_the_network_or_its_optimizer_is_trained():
    sample = detached()
    optimizer = torch.optim.Adam(sample.net.parameters(), 1e-3)
    before = [p.clone() for p in sample.net.parameters()]
    st.examine(sample.net, sample.x, sample.loss, optimizer=optimizer)
    assert all(torch.equal(p, q) for p, q in zip(sample.net.parameters(), before, strict=True))
    assert not optimizer.state


@given(some.floats(0.001, 0.1), some.floats(0.1, 10.0))
def test_a_loss_that_falls_in_proportion_learns_where_its_law_says_so(pace, start):
    losses = tuple(start * math.exp(-pace * k) for k in range(ITERATIONS + 1))
    end = start * math.exp(-pace * HORIZON)
    if abs(math.log(end / (start / 2))) > 1e-6:
        assert Learning(losses, start, "SGD").learns == (end < start / 2)


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_does_not_learn(last):
    assert not Learning((1.0, last), 1.0, "SGD").learns


class Product(nn.Module):
    """f(x) = w_2 w_1 x, one number each."""

    def __init__(self, first, second):
        super().__init__()
        self.maps = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        for linear, weight in zip(self.maps, (first, second), strict=True):
            nn.init.constant_(linear.weight, weight)

    def forward(self, x):
        return self.maps(x)


@settings(max_examples=15)
@given(some.floats(0.5, 2.0), some.floats(0.5, 2.0), some.floats(0.01, 2.0))
def test_the_higher_orders_of_a_step_are_those_of_the_closed_form(first, second, rate):
    net, x = Product(first, second).double(), torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    optimizer = torch.optim.SGD(net.parameters(), rate)
    report = st.examine(net, x, lambda y: (y - 7 * x).square().mean(), optimizer=optimizer)
    one, other = (linear.weight.item() for linear in net.maps)
    common = 2 * (7 - one * other) * float(x.square().mean())
    change, further = rate * common * other, rate * common * one  # of the first weight, and of the second
    expected = change * further / (one * further + other * change)
    (look,) = (look for look in report.looked_at if look.code == "step_too_large")
    assert look.value == pytest.approx(expected, rel=1e-4)


def test_a_step_that_raises_the_loss_is_too_large_and_a_shorter_one_is_advised():
    sample = a.mlp(64, 6, seed=3)
    report = st.examine(sample.net, sample.x, sample.loss, optimizer=torch.optim.Adam(sample.net.parameters(), 0.1))
    found = only(report, "step_too_large")
    assert found.severity == "watch"
    assert found.tried.after < 0.5 < found.tried.before
    assert "of the rate" in found.remedy


@pytest.mark.slow
def test_severity_is_that_of_training():
    ill, told, well, wrong = shares(measured(every=9, start=4))
    assert ill >= 8
    assert told >= 0.85 * ill
    assert well >= 20
    assert wrong <= 0.03 * well + 1


def by_a_loss(loss, optimizer=None, sample=None):
    sample = detached() if sample is None else sample
    given = None if optimizer is None else optimizer(sample.net.parameters())
    return st.examine(sample.net, sample.x, loss(sample), optimizer=given, formats=("float32",))


@pytest.mark.parametrize(
    "loss",
    [
        lambda _: lambda y: functional.cross_entropy(y, torch.arange(32) % 4, label_smoothing=0.5),
        lambda sample: lambda y: sample.loss(y) + 10,
    ],
    ids=["smoothed", "offset"],
)
def test_a_loss_that_cannot_fall_to_half_is_held_against_the_best_output(loss):
    found = only(by_a_loss(loss), "cut_gradient")
    assert found.severity == "watch"
    assert "and the best one" in found.why


@given(some.floats(0.02, 0.2), some.floats(2.0, 100.0))
def test_a_fall_towards_what_a_constant_has_is_no_learning(pace, start):
    losses = tuple(1 + (start - 1) * math.exp(-pace * k) for k in range(ITERATIONS + 1))
    assert not Learning(losses, 1.0, "SGD").learns


def test_what_falls_below_what_a_constant_has_in_the_last_iteration_may_be_chance():
    assert not Learning((*[5.0] * ITERATIONS, 0.97), 1.0, "SGD").learns


@given(some.floats(0.0, 5.0), some.floats(0.001, 0.1))
def test_what_learns_does_not_depend_on_what_a_loss_has_at_least(floor, pace):
    falls = [math.exp(-pace * k) for k in range(ITERATIONS + 1)]
    plain = Learning(tuple(falls), 1.0, "SGD")
    assert Learning(tuple(floor + fall for fall in falls), floor + 1.0, "SGD", floor).learns == plain.learns


def far():
    sample = a.residual(16, 4, seed=2)
    sample.x = sample.x * 100
    return sample


def test_a_rate_that_a_schedule_has_not_raised_yet_decides_nothing():
    sample = far()
    optimizer = torch.optim.Adam(sample.net.parameters(), 1e-3)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 100)
    report = st.examine(sample.net, sample.x, sample.loss, optimizer=optimizer)
    assert only(report, "input_scale").severity == "watch"
    assert any("decides nothing: a schedule" in note for note in report.notes)


def test_a_start_far_off_is_not_told_of_the_points():
    sample = a.mlp(32, 4, seed=1)
    sample.x = sample.x * 100
    target = 1000 + torch.randn(32, 4)
    report = st.examine(sample.net, sample.x, lambda y: functional.mse_loss(y, target))
    assert only(report, "input_scale").severity == "watch"
    assert any("a start far off" in note for note in report.notes)


def test_a_rate_by_which_the_loss_diverges_is_harmful():
    report = by_a_loss(lambda sample: sample.loss, lambda p: torch.optim.SGD(p, 1e4), a.mlp(32, 4, seed=1))
    assert only(report, "step_too_large").severity == "harmful"


def test_a_loss_that_rises_a_little_may_come_back():
    assert not Learning((1.5, 2.2), 1.4, "Adam").diverges
    assert Learning((1.5, 15.1), 1.4, "Adam").diverges
    assert Learning((1.5, math.nan), 1.4, "Adam").diverges


class Fading:
    """A loss whose weight falls by a hundredth at every call."""

    def __init__(self, loss):
        self.loss, self.weight = loss, 1.0

    def __call__(self, y):
        self.weight *= 0.99
        return self.loss(y) * self.weight


@pytest.mark.parametrize(
    "loss",
    [lambda sample: Fading(sample.loss), lambda _: lambda y: functional.mse_loss(y, torch.randn_like(y))],
    ids=["fading", "random"],
)
def test_a_loss_that_changes_by_itself_decides_nothing(loss):
    report = by_a_loss(loss)
    assert only(report, "cut_gradient").severity == "harmful"
    assert "no trial of training was made: the loss gives other values for the same output" in report.notes


def test_what_a_loss_counts_is_no_higher_order_of_a_step():
    sample, count = a.mlp(32, 3, seed=1), 0

    def loss(y):  # falls at its second call, rises at its third
        nonlocal count
        count += 1
        return sample.loss(y) * (1.5, 1.0, 0.9)[count % 3]

    report = st.examine(sample.net, sample.x, loss, optimizer=torch.optim.SGD(sample.net.parameters(), 0.01))
    assert not report.findings
    assert count == 0


class WithMore(torch.optim.SGD):
    """An optimiser that holds more than torch copies."""

    def __init__(self, parameters):
        super().__init__(parameters, 0.1)
        self.more = 1

    def step(self):
        return self.more


class WithClosure(torch.optim.SGD):
    """An optimiser that steps on a closure alone."""

    def __init__(self, parameters):
        super().__init__(parameters, 0.1)

    def step(self, closure=None):
        assert closure is not None, "give a closure"


def without_rate(parameters):
    optimizer = torch.optim.Adam(parameters, 1e-3)
    optimizer.param_groups[0]["lr"] = None
    return optimizer


@pytest.mark.parametrize("optimizer", [WithMore, WithClosure, torch.optim.LBFGS, without_rate])
def test_an_optimiser_that_raises_on_a_copy_is_told_by_name(optimizer):
    report = by_a_loss(lambda sample: sample.loss, optimizer)
    assert only(report, "cut_gradient").severity == "harmful"
    for start in ("a step of the optimiser was not looked at", "no trial of training was made"):
        assert any(note.startswith(f"{start}: the optimiser raises ") for note in report.notes)


def test_a_network_in_half_precision_is_not_trained_by_an_epsilon_of_0():
    sample = far()
    sample.net.half()
    sample.x = sample.x.half()
    found = only(by_a_loss(lambda sample: sample.loss, sample=sample), "input_scale")
    assert found.severity == "watch"
    assert "Adam at 0.001 in float32" in found.why
