"""A short training decides how severe a finding is, and a step of the optimiser is held against its derivative."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import binom
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
    assert well >= 20
    # As many as chance allows, in 99 of 100 samples, where 85 % of the ones and 3 % of the others are told.
    assert told >= binom.ppf(0.01, ill, 0.85)
    assert wrong <= binom.ppf(0.99, well, 0.03)
