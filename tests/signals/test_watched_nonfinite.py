"""A watched training that turns NaN ends there, and is told why."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stability as st
from tests.precision.planted import FAULTS, Fault


class Model(nn.Module):
    """Two layers with dropout, and a fault in a call of a number."""

    def __init__(self, name=None, at=4):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.fault = Fault(None if name is None else FAULTS[name][0], 1)
        self.at, self.iteration = at, 0

    def forward(self, x):
        h = F.dropout(self.first(x), 0.2, self.training)
        if x[0, 0] > 100:  # the batch that is bad
            h = self.fault.function(h)
        return {"y": self.last(h)}


def batch(number, at):
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(number))
    return torch.where(torch.arange(48).view(6, 8) == 0, 101.0, x) if number == at else x


def train(model, iterations=8, at=4, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if options.pop("optimize", False):
        options["optimizer"] = optimizer
    with st.watch(model, layers=["first", "last"], nonfinite="explain", **options):
        for number in range(iterations):
            optimizer.zero_grad()
            (model(batch(number, at))["y"] - 0.3).square().mean().backward()
            optimizer.step()


@pytest.mark.filterwarnings("ignore:std\\(\\).*degrees of freedom")
@pytest.mark.parametrize("name", FAULTS)
def test_the_iteration_is_explained(name):
    model = Model(name)
    with pytest.raises(st.NotFinite) as caught:
        train(model)
    assert isinstance(caught.value, FloatingPointError)
    found = caught.value.found
    assert (found.operation, found.direction, found.cause) == FAULTS[name][1:]
    assert found.module == ""
    assert caught.value.iteration == 4
    assert "backward pass 4" in str(caught.value)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_healthy_training_is_the_same_to_the_bit():
    plain, seen = Model(), Model()
    torch.manual_seed(1)
    train(seen, at=None, optimize=True)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-3)
    for number in range(8):
        optimizer.zero_grad()
        (plain(batch(number, None))["y"] - 0.3).square().mean().backward()
        optimizer.step()
    for one, other in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(one, other)


def test_random_numbers_are_drawn_again():
    class Rare(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            h = self.linear(x)
            return h / 0 if torch.rand(()) < 0.05 else h

    model = Rare()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(0)

    def run():
        with st.watch(model, layers=["linear"], nonfinite="explain"):
            for number in range(500):
                optimizer.zero_grad()
                model(batch(number, None)).square().mean().backward()

    with pytest.raises(st.NotFinite) as caught:
        run()
    assert (caught.value.found.operation, caught.value.found.cause) == ("div", "pole")
    assert caught.value.iteration > 0


def test_a_loss_that_is_not_finite_is_given_by_its_gradient():
    model = Model()
    with pytest.raises(st.NotFinite) as caught, st.watch(model, layers=["first", "last"], nonfinite="explain"):
        (model(batch(0, None))["y"] * math.nan).sum().backward()
    found = caught.value.found
    assert (found.cause, found.direction, found.module) == ("given", "backward", "last")
    assert "the gradient of the output holds NaN" in found.why


def test_batch_and_parameters_are_kept(tmp_path):
    model = Model("by_zero")
    with pytest.raises(st.NotFinite):
        train(model, keep=tmp_path / "bad.pt")
    kept = torch.load(tmp_path / "bad.pt")
    model.load_state_dict(kept["parameters"])
    assert torch.equal(kept["batch"][0]["args"][0], batch(4, 4))
    assert st.first_nonfinite(model, kept["batch"][0]["args"]).cause == "pole"


@pytest.mark.parametrize(
    ("make", "gradient", "cause", "word"),
    [
        (lambda p: torch.optim.SGD(p, lr=1e30), 1e10, "overflow", "learning rate 1e+30"),
        (lambda p: torch.optim.Adam(p, lr=1e-3, eps=0.0), 0.0, "invalid", "exp_avg_sq"),
        (lambda p: torch.optim.Adam(p, lr=math.inf), 1.0, "given", "learning rate is inf"),
    ],
)
def test_a_step_is_explained_from_the_state_of_the_optimiser(make, gradient, cause, word):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = make(model.parameters())
    with st.watch(model, optimizer=optimizer, nonfinite="explain"):
        (model(batch(0, None)).sum() * gradient).backward()
        with pytest.raises(st.NotFinite) as caught:
            optimizer.step()
    found = caught.value.found
    assert (found.direction, found.module, found.cause) == ("update", "0", cause)
    assert word in found.why


def test_a_scaler_that_skips_steps_is_no_fault_but_a_forward_is():
    model = Model("by_zero")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1000)
    with st.watch(model, layers=["first", "last"], optimizer=optimizer, scaler=scaler, nonfinite="explain") as record:
        for number in range(8):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(batch(number, None))["y"].float() * 100).square().sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert bool(record.skipped[0])
        with pytest.raises(st.NotFinite) as caught, torch.autocast("cpu", torch.bfloat16):
            scaler.scale(model(batch(4, 4))["y"].float().sum()).backward()
    assert (caught.value.found.operation, caught.value.found.dtype) == ("div", torch.bfloat16)


def test_wrong_options_are_refused():
    model = Model()
    with pytest.raises(ValueError, match="nonfinite"):
        st.watch(model, keep="x.pt")
    with pytest.raises(ValueError, match="explain"):
        st.watch(model, nonfinite="stop")


class Counts(nn.Module):
    """Divides by zero in a call of a number, or as an attribute, a generator of Python or one of numpy says."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(5)
        self.linear, self.how, self.calls, self.mode = nn.Linear(8, 8), how, 0, "good"
        self.last = nn.Linear(8, 8)

    def forward(self, x):
        self.calls += 1
        h = self.linear(x)
        bad = {
            "counter": lambda: self.calls == 5,
            "counter backward": lambda: self.calls == 5,
            "attribute": lambda: self.mode == "bad",
            "python": lambda: random.random() < 0.05,
            "numpy": lambda: np.random.rand() < 0.05,  # noqa: NPY002
        }[self.how]()
        if bad and self.how != "counter backward":
            h = h / 0
        y = self.last(h)
        if bad and self.how == "counter backward":
            y = y + (y[:, :1] * 0).sqrt()
        elif (
            self.how == "counter backward" and self.calls == 6
        ):  # which a replay of the fifth is: the same output, and other gradients
            y = y + (y * 0 + 1).acos()
        return y


@pytest.mark.parametrize("how", ["counter", "counter backward", "attribute", "python", "numpy"])
def test_a_replay_that_is_another_pass_names_no_cause(how):
    model = Counts(how)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    random.seed(1), np.random.seed(1)  # noqa: NPY002

    def run():
        with st.watch(model, layers=["linear", "last"], nonfinite="explain"):
            for number in range(200):
                optimizer.zero_grad()
                model.mode = "bad" if number == 4 else "good"
                loss = model(batch(number, None)).square().mean()
                model.mode = "good"
                loss.backward()

    with pytest.raises(st.NotFinite) as caught:
        run()
    if how in ("python", "numpy"):  # which are drawn again
        assert (caught.value.found.operation, caught.value.found.cause) == ("div", "pole")
    else:
        assert caught.value.iteration == 4
        assert caught.value.found is None
        assert "the replay does not show it: the model depends on state outside of its tensors" in str(caught.value)


@pytest.mark.parametrize("hidden", ["sum", "parameters"])
def test_a_gradient_that_is_not_of_the_output_is_no_fault_of_the_model(hidden):
    model = Model()
    x = batch(0, None)

    def run():
        with st.watch(model, layers=["first", "last"], nonfinite="explain"):
            if hidden == "sum":
                for _ in range(60):
                    (model(x)["y"].sum() * 1e36).backward()
            else:
                (model(x)["y"].sum() + (model.first.bias * 0).sqrt().sum()).backward()

    with pytest.raises(st.NotFinite) as caught:
        run()
    assert caught.value.found is None
    assert "the other comes from what the loss takes of the parameters themselves, from the sum" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_beside_finite_gradients_is_told(value):
    model = Model()

    def run():
        with st.watch(model, layers=["first", "last"], nonfinite="explain"):
            for number in range(4):
                y = model(batch(number, None))["y"]
                (y.square().mean() + (y.sum().detach() * value if number == 2 else 0)).backward()

    with pytest.raises(st.NotFinite) as caught:
        run()
    assert caught.value.iteration == 2
    assert caught.value.found is None
    assert "the loss is not finite in backward pass 2" in str(caught.value)
    assert "made after the output of the model, in the loss, whose last operation is add" in str(caught.value)


def test_an_infinite_number_that_nothing_is_trained_on_is_no_fault():
    model = Model()
    with st.watch(model, layers=["first", "last"], nonfinite="explain"):
        y = model(batch(0, None))["y"]
        masked = y.masked_fill(torch.arange(8) > 5, -math.inf)
        torch.autograd.grad(masked.sum(), model.first.weight, retain_graph=True)
        masked.backward(torch.ones_like(masked))


def test_what_a_pass_that_raised_has_left_does_not_hide_the_next():
    model = Model("by_zero")

    def stop(_):
        raise KeyError("stopped")

    with st.watch(model, layers=["first", "last"], nonfinite="explain"):
        loss = model(batch(0, None))["y"].sum()
        handle = model.first.weight.register_hook(stop)
        with pytest.raises(KeyError):
            loss.backward()
        handle.remove()
        with pytest.raises(st.NotFinite):
            model(batch(4, 4))["y"].sum().backward()


def test_a_gradient_that_is_not_finite_without_the_scale_either_is_told():
    model = Model("root_at_zero")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with st.watch(model, layers=["first", "last"], optimizer=optimizer, scaler=scaler, nonfinite="explain"):
        with pytest.raises(st.NotFinite) as caught:
            scaler.scale(model(batch(4, 4))["y"].sum()).backward()
        assert (caught.value.found.operation, caught.value.found.direction) == ("sqrt", "backward")


def test_a_pass_through_a_part_of_the_model_is_told():
    model = Model()
    with st.watch(model, layers=["first", "last"], nonfinite="explain"), pytest.raises(st.NotFinite) as caught:
        (model.first(batch(0, None)) / 0).sum().backward()
    assert "goes through no call of the model itself" in str(caught.value)


def test_a_replay_that_raises_is_told():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(8, 8), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise KeyError("called too often")
            return self.linear(x) / 0

    model = Once()
    with st.watch(model, layers=["linear"], nonfinite="explain"), pytest.raises(st.NotFinite) as caught:
        model(batch(0, None)).sum().backward()
    assert "the replay raises ValueError: Once does not take" in str(caught.value)


def test_sparse_gradients_are_looked_at():
    model = nn.Sequential(nn.Embedding(5, 8, sparse=True), nn.Linear(8, 1))
    model[1].requires_grad_(False)
    with st.watch(model, layers=["0"], nonfinite="explain"), pytest.raises(st.NotFinite) as caught:
        (model(torch.tensor([1, 2])) * 0).sqrt().sum().backward()
    assert "the gradient of 0.weight is not finite" in str(caught.value)
