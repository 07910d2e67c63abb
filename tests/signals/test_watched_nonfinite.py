"""A watched training that turns NaN ends there, and is told why."""

import math

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
