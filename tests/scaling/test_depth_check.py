"""Depth checks of networks whose exponents are known, of users' models, and of what is refused."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import stability as st
from stability.scaling.depth_exponents import fit_exponent
from stability.scaling.depth_stack import interpolated

from .known_cases import CASES, DEPTHS, RATE, SMALL, Net, OneToken, X, adam, loss, sgd, slope

LAST = {
    "plain, SGD": "multiply the rate by depth^-1",
    "unscaled residual": "multiply the branches by depth^-1/2, which needs no other rate with SGD",
    "1/L, Adam": "nothing to undo",
}
LEVEL = 0.95


class Small(nn.Module):
    """A residual network as a user writes it, with dropout and a normalisation that counts batches."""

    def __init__(self, depth, norm=True):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(16) if norm else nn.Identity(), nn.Linear(16, 16), nn.Dropout(0.1))
            for _ in range(depth)
        )
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(torch.tanh(h))


BATCH = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def square(y):
    return y.square().mean()


def plain(depth):
    return nn.Sequential(*(nn.Linear(6, 6) for _ in range(depth)))


def by_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01)


@pytest.mark.parametrize("name", list(CASES))
def test_known_exponents(name):
    case = CASES[name]
    check = st.depth_check(case.make, case.depths, case.x, loss, case.optimizer, steps=1, seeds=5)
    for quantity, truth in case.truths.items():
        found, known = check.exponents[quantity], slope(truth, case.depths)
        low, high = found.interval
        # Of 60 exponents 3 are outside of their intervals, and twice as far 1 in 200.
        assert abs(found.value - known) <= high - low, (quantity, known, str(found))
    if name in LAST:
        assert LAST[name] in check.advice


def applied(remedy, kind, power):
    """The network and the optimiser of a case with a remedy applied."""
    rate = lambda depth: RATE * depth**remedy.rate  # noqa: E731
    optimizer = {
        "SGD": lambda parameters, depth: torch.optim.SGD(parameters, lr=rate(depth)),
        "Adam": lambda parameters, depth: torch.optim.Adam(parameters, lr=rate(depth), eps=1e-20),
    }
    return (lambda depth: Net(depth, kind, power + remedy.branches)), optimizer


@pytest.mark.parametrize(
    ("kind", "power", "optimizer", "left"),
    [
        ("residual", 0.0, "SGD", 0.35),
        ("residual", -0.5, "Adam", 0.2),
        ("residual", -1.0, "SGD", 0.35),
        ("pre", 0.0, "Adam", 0.25),
    ],
)
def test_what_is_advised_undoes_it(kind, power, optimizer, left):
    ways = {"SGD": sgd, "Adam": adam}
    depths = (4, 16, 32)
    check = st.depth_check(lambda d: Net(d, kind, power), depths, X, loss, ways[optimizer], steps=1, seeds=3)
    assert check.remedies
    for remedy in check.remedies:
        make, mended = applied(remedy, kind, power)
        after = st.depth_check(make, depths, X, loss, mended[optimizer], steps=1, seeds=4)
        # What is left is that of (1 + 1/L)^(L/2) and log L over these depths.
        assert abs(after.exponents["relative change"].value) < left, (remedy.words, str(after))


def test_an_exponential_is_told_from_a_power():
    check = st.depth_check(Net, (4, 8, 16, 32), X, loss, sgd, steps=1, seeds=3)
    rate = check.exponents["state"].rate
    assert rate == pytest.approx(math.log(2) / 2, rel=0.1)
    assert "grows exponentially, by a factor 1.4" in repr(check)
    assert st.depth_check(lambda d: Net(d, "pre"), (4, 8, 16, 32), X, loss, sgd, 1, 3).exponents["state"].rate is None


def test_the_state_of_a_transformer_follows_its_derivation_along_the_layers():
    # The claimed l^0.48 of a pre-norm stream is that of sqrt(c l + r^2) over a few layers: 1/2 in the limit.
    check = st.depth_check(OneToken, (2, 8), SMALL * X[None], loss, steps=1, seeds=3)
    assert 0.45 < check.exponents["state"].value < 0.55
    assert check.skips
    assert check.kind == "TransformerEncoderLayer"


def test_nothing_of_the_user_is_changed():
    made, generator = [], torch.Generator().manual_seed(3)

    def make(depth):
        torch.rand(1, generator=generator)
        model = Small(depth)
        made.append(model)
        return model

    cached = {depth: Small(depth) for depth in (2, 4)}
    before = {d: {n: v.clone() for n, v in m.state_dict().items()} for d, m in cached.items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), generator.get_state()  # noqa: NPY002
    st.depth_check(make, (2, 4), BATCH, square, seeds=2, steps=2)
    st.depth_check(cached.__getitem__, (2, 4), BATCH, square, seeds=1, steps=2)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(states[3], generator.get_state())
    assert made == []
    for depth, model in cached.items():
        assert model.training
        assert all(value.grad is None for value in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[depth][name]), name


def test_the_numbers_are_those_of_a_plain_loop():
    depth, seed = 4, 1
    torch.manual_seed(seed)
    model = Small(depth, norm=False).double()
    check = st.depth_check(
        lambda d: Small(d, norm=False).double().eval(), (2, depth), BATCH.double(), square, by_sgd, steps=2, seeds=2
    )
    model.eval()
    states = []
    hooks = [
        block.register_forward_pre_hook(lambda _, taken: states.append(taken[0].detach())) for block in model.blocks
    ]
    start = model(BATCH.double())
    optimizer = by_sgd(model.parameters())
    first = list(states)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for iteration in range(2):
        optimizer.zero_grad()
        square(model(BATCH.double())).backward()
        if iteration == 0:
            gradient = torch.cat([v.grad.flatten() for v in model.blocks[3].parameters()]).norm().log()
        optimizer.step()
    states.clear()
    output = model(BATCH.double())
    rms = lambda t: t.square().mean().sqrt().log().item()  # noqa: E731
    at = (1, seed)
    # The state after block k is that before block k + 1; of four states two are looked at.
    assert check.log_state[at][0].item() == pytest.approx(rms(first[2]), abs=1e-12)
    assert check.log_change[at][-1, 0].item() == pytest.approx(rms(states[2] - first[2]), abs=1e-9)
    assert check.log_output_change[at][-1].item() == pytest.approx(rms(output - start), abs=1e-9)
    assert check.log_gradient[at][-1].item() == pytest.approx(gradient.item(), abs=1e-12)
    after = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in after.items():
            if not name.startswith("blocks.3."):
                value.copy_(before[name])
    assert check.log_share[at][-1].item() == pytest.approx(rms(model(BATCH.double()) - start), abs=1e-9)
    for hook in hooks:
        hook.remove()


def test_a_training_that_diverges_is_a_finding():
    check = st.depth_check(plain, (2, 3, 4), 30 * torch.ones(2, 6), square, lambda p: torch.optim.SGD(p, lr=1e6), 4, 2)
    assert (check.diverged > 0).all()
    assert "diverges at depth 4 for 2 of 2 seeds" in check.findings[2]
    assert "fewer than two depths train" in repr(check)
    assert "no advice" in check.advice
    assert "<table>" in check._repr_html_()
    assert st.plots.depth_check(check) is not None


def test_what_rounding_explains_is_no_change():
    check = st.depth_check(plain, (2, 4), torch.ones(2, 6), square, lambda p: torch.optim.SGD(p, lr=3e-7), seeds=2)
    assert "change" not in check.exponents
    assert "lost in rounding at depth 2" in repr(check)


def test_a_dead_network_has_no_exponent():
    def make(depth):
        model = plain(depth)
        with torch.no_grad():
            model[depth - 1].weight.zero_()
        return model

    check = st.depth_check(make, (2, 4), torch.ones(2, 6), lambda y: y.sum(), by_sgd, 1, 2)
    assert "share" in check.exponents
    zero = dataclasses.replace(check, log_gradient=torch.full_like(check.log_gradient, -math.inf))
    assert "the gradient of a layer is exactly 0 at depth 2 for 2 of 2 seeds" in repr(zero)


def test_one_seed_has_no_interval_and_settles_nothing():
    check = st.depth_check(plain, (2, 4), torch.ones(2, 6), square, by_sgd, 1, seeds=1)
    assert check.exponents["state"].interval == (-math.inf, math.inf)
    assert check.exponents["state"].verdict == "open"
    assert "one seed: no interval" in repr(check)
    assert "more seeds" in check.advice


def test_tied_layers_have_no_share():
    class Loop(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.depth, self.cell = depth, nn.Linear(6, 6)

        def forward(self, h):
            for _ in range(self.depth):
                h = torch.tanh(self.cell(h))
            return h

    check = st.depth_check(Loop, (2, 4), torch.ones(2, 6), square, by_sgd, 1, 2)
    assert check.log_share.isnan().all()
    assert "share" not in check.exponents
    assert "change" in check.exponents


def test_layers_with_others_between_are_compared_at_the_same_place():
    def make(depth):
        parts = [part for _ in range(depth) for part in (nn.Linear(6, 6), nn.Tanh())]
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *parts, nn.Linear(6, 2))

    check = st.depth_check(make, (2, 5), torch.ones(2, 4), square, by_sgd, 1, 2)
    assert check.kind == "Tanh"
    assert check.layers == (3, 6)  # the first one has an activation of the same kind behind it
    assert not check.skips


def test_an_interval_is_student_s():
    logs = np.log(np.array([2.0, 4.0, 8.0]))[:, None] * np.array([0.4, 0.5, 0.6])
    found = fit_exponent("state", (2, 4, 8), logs, LEVEL)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # of two degrees of freedom
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert fit_exponent("state", (2, 4, 8), logs[:, [1, 1]], LEVEL).interval == pytest.approx((0.499, 0.501))


def test_places_between_layers_are_interpolated():
    values = torch.tensor([1.0, 2.0, 4.0, -math.inf], dtype=torch.float64)
    assert interpolated(values, np.array([0.25, 0.5, 0.625])).tolist() == pytest.approx([1, 2, 3])
    assert interpolated(values, np.array([0.5, 0.75])).tolist() == [2.0, 4.0]
    assert interpolated(values, np.array([1.0])).tolist() == [-math.inf]


def test_a_store_keeps_the_models(tmp_path):
    first = st.depth_check(plain, (2, 4), torch.ones(2, 6), square, by_sgd, 1, 2, store=tmp_path / "kept")
    files = sorted((tmp_path / "kept" / "cells").rglob("*.nc"))
    assert len(files) == 4
    times = [file.stat().st_mtime_ns for file in files]
    more = st.depth_check(plain, (2, 4, 8), torch.ones(2, 6), square, by_sgd, 1, 2, store=tmp_path / "kept")
    assert [file.stat().st_mtime_ns for file in files] == times
    assert len(list((tmp_path / "kept" / "cells").rglob("*.nc"))) == 6
    here = st.depth_check(plain, (2, 4, 8), torch.ones(2, 6), square, by_sgd, 1, 2)
    assert torch.equal(more.log_change, here.log_change)
    assert torch.equal(first.log_share, here.log_share[:2])
    with pytest.raises(ValueError, match="is the store of"):
        st.depth_check(plain, (2, 4), 2 * torch.ones(2, 6), square, by_sgd, 1, 2, store=tmp_path / "kept")
    with pytest.raises(TypeError, match=r"optimizer is .*<lambda>"):
        st.depth_check(
            plain, (2, 4), torch.ones(2, 6), square, lambda p: torch.optim.SGD(p, lr=0.1), store=tmp_path / "new"
        )


@pytest.mark.slow
def test_processes_give_the_same():
    here = st.depth_check(plain, (2, 4), torch.ones(2, 6), square, by_sgd, 1, 2)
    there = st.depth_check(plain, (2, 4), torch.ones(2, 6), square, by_sgd, 1, 2, workers=1)
    assert torch.allclose(here.log_change, there.log_change, atol=1e-6)


def refused(words, **wrong):
    given = {"make": plain, "depths": (2, 4), "x": torch.ones(2, 6), "loss": square, "steps": 1, "seeds": 2} | wrong
    with pytest.raises((TypeError, ValueError), match=words):
        st.depth_check(**given)


def same(depth):
    torch.manual_seed(0)
    return plain(depth)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("make is 3: expected a function", {"make": 3}),
        (r"make\(2\) gives a list: expected an nn.Module", {"make": lambda depth: [depth]}),
        (r"make\(2\) raises KeyError", {"make": lambda depth: {}[depth]}),
        (r"make\(2\) gives a Chain", {"make": lambda depth: st.Chain("plain_prelu", depth)}),
        ("two depths or more", {"depths": [4]}),
        ("expected rising numbers", {"depths": [4, 2]}),
        ("expected rising numbers", {"depths": [4, 4]}),
        ("a depth in depths is 0", {"depths": [0, 4]}),
        ("a depth in depths is 2.5", {"depths": [2.5, 4]}),
        ("no more layers when they are deeper: 3 at depth 2, 3 at depth 4", {"make": lambda _: plain(3)}),
        ("does not grow with the depth", {"make": lambda d: plain({2: 2, 3: 2, 4: 3}[d]), "depths": [2, 3, 4]}),
        ("the same model for the seeds 0 and 1", {"make": same}),
        ("steps is 0", {"steps": 0}),
        ("seeds is 0", {"seeds": 0}),
        ("loss is 3: expected a function", {"loss": 3}),
        ("the loss has shape", {"loss": lambda y: y.square()}),
        ("not finite at value.*depth 2, seed 0, iteration 0", {"loss": lambda y: y.sum() * math.nan}),
        ("does not take x", {"x": torch.ones(2, 5)}),
        ("optimizer is a int", {"optimizer": 3}),
        ("gives a list: expected a torch.optim.Optimizer", {"optimizer": list}),
        ("LBFGS", {"optimizer": torch.optim.LBFGS}),
        ("client= was given without store=", {"client": "tcp://127.0.0.1:1"}),
        ("frozen", {"make": lambda d: plain(d).requires_grad_(False)}),
    ],
)
def test_what_is_refused(words, wrong):
    refused(words, **wrong)


def test_the_dataset_has_all_that_the_result_has():
    check = st.depth_check(plain, DEPTHS, torch.ones(2, 6), square, by_sgd, 2, 2)
    data = check.to_dataset()
    assert data["log_change"].dims == ("depth", "seed", "iteration", "relative_depth")
    assert data["exponent"].sel(quantity="state").item() == check.exponents["state"].value
    assert data["layers"].values.tolist() == list(DEPTHS)
    assert data.attrs["advice"] == check.advice
    figure = st.plots.depth_check(data)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == [f"depth {DEPTHS[0]}", *map(str, DEPTHS[1:])]
    drawn = np.exp(np.median(check.log_change[2, :, -1].numpy(), axis=0))
    assert lines[2].get_ydata() == pytest.approx(drawn)
