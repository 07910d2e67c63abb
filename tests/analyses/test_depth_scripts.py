"""The scripts on infinite depth and on depth as time, against what can be said by hand."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stability as st
from tests.analyses.scripts import run

ROOT = Path(__file__).parents[2]


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "analyses")
    spec = importlib.util.spec_from_file_location(name, ROOT / "analyses" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, script)
    spec.loader.exec_module(script)
    return script


def quick(name, folder):
    done = run(name, "--quick", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in folder.iterdir()} == {".png", ".pdf", ".nc"}
    data = st.plots.read_data(folder / f"{name}.nc")
    return data, {claim["statement"]: claim["verdict"] for claim in json.loads(data.attrs["claims"])}


def test_random_tables_have_the_negative_slopes_that_are_asked_for(monkeypatch):
    script, random = load("infinite_depth", monkeypatch), np.random.default_rng(3)
    for negative in (0, 1, 4):
        table = script.random_table(random, negative, 9)
        skip, weight, bias, outer, outer_bias, slope = table.T[:, :, None]
        z = weight * np.array([-99, -98, 98, 99]) + bias  # far from every kink, on both sides
        h = skip * [-99, -98, 98, 99] + outer * np.where(z > 0, z, slope * z) + outer_bias
        slopes = np.diff(h)[:, ::2]
        assert (slopes < 0).any(axis=1).sum() == script.negative_steps(table) == negative
        assert (slopes < 0).sum() == negative
        assert (abs(slopes) > 0.3).all()
        assert (abs(slopes) < 3.1).all()


def test_errors_of_width_one_and_two_are_of_the_same_task(monkeypatch):
    script = load("infinite_depth", monkeypatch)
    one, two = script.sine(50, 1), script.sine(50, 2)
    assert torch.equal(one.x, two.x[:, 0])
    assert torch.equal(one.y, two.y[:, 0])
    assert not two.x[:, 1].any()
    assert not two.y[:, 1].any()
    # The best increasing function: the sine until it turns, and its mean over the pools at both ends.
    best = st.references.best_monotone(script.sine(100_001, 1))
    assert best == pytest.approx(0.0421754, abs=1e-5)


def test_a_fold_that_is_divided_no_longer_folds(monkeypatch):
    script = load("depth_as_time", monkeypatch)
    absolute = st.Chain.from_table([[[1.0, -1.0, 0.0, 2.0, 0.0, 0.0]]], "residual2_relu")  # h + 2 relu(-h) = |h|
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    assert torch.equal(script.divided(absolute, x, 1)[0], x.abs())
    for parts in (2, 3, 8):
        expected = torch.where(x < 0, (1 - 2 / parts) ** parts * x, x)
        torch.testing.assert_close(script.divided(absolute, x, parts)[0], expected)
    assert [script.turns(script.divided(absolute, x, parts)[0].numpy()) for parts in (1, 3)] == [1, 0]


def test_the_adjoint_of_linear_steps_is_off_by_what_its_states_are(monkeypatch):
    """Of h + w h / L, both as numbers: gradient at the outer map sum_l a_l h_l, adjoint at the later, rebuilt state."""
    script, depth, wa, wb = load("depth_as_time", monkeypatch), 20, 0.8, 1.5
    chain = st.Chain(st.Architecture("line", skip=1, maps=2, activation="linear", branch_power=-1), depth)
    with torch.no_grad():
        for kind, value in chain.named_parameters():
            value.fill_({"weight": wa, "outer_weight": wb}.get(kind, 0.0))
    exact, adjoint = script.gradients(chain, torch.tensor([1.0], dtype=torch.float64))
    q = wa * wb / depth
    h, a = (1 + q) ** depth, 2 * (1 + q) ** depth
    kinds = [kind for kind, _ in chain.named_parameters()]
    place = slice(kinds.index("outer_weight") * depth, (kinds.index("outer_weight") + 1) * depth)
    truth = [a * (1 + q) ** (depth - 1 - step) * wa * (1 + q) ** step / depth for step in range(depth)]
    # Back by h - q h, at whose place before the step the adjoint reads the branch.
    back = [a * (1 + q) ** (depth - 1 - step) * wa * h * (1 - q) ** (depth - 1 - step) / depth for step in range(depth)]
    np.testing.assert_allclose(exact[0, place], truth, rtol=1e-12)
    np.testing.assert_allclose(adjoint[0, place], back, rtol=1e-12)


@pytest.mark.slow
def test_infinite_depth(tmp_path):
    data, verdicts = quick("infinite_depth", tmp_path)
    assert list(verdicts.values())[:2] == ["held", "held"]
    assert float(data.error.where(data.turns == 0).min()) >= float(data.best_monotone) * (1 - 1e-9)
    assert (data.turns.fillna(0) <= 2.0**data.negative - 1).where(data.negative.notnull(), True).all()
    assert float(data.error.sel(case="grown", depth=6).median()) < float(data.best_monotone)


@pytest.mark.slow
def test_depth_as_time(tmp_path):
    data, _ = quick("depth_as_time", tmp_path)
    falls = np.log2(data.distance.isel(depth=slice(-2, None))).diff("depth")
    assert (abs(falls + math.log2(20 / 10)) < 0.1).all()
    grown = data.sel(name="growth")
    assert (grown.turns.sel(parts=1) == 2).all()
    assert (grown.step_distance.isel(rank=1) > 1).all()
    assert (grown.error.sel(parts=8) > 100 * grown.error.sel(parts=1)).all()
