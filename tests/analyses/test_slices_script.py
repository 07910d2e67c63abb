"""How layers cut a plane: the networks against points of a grid, and the script as a user runs it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

import stability as st

from .test_analyses import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def slices(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "analyses")
    monkeypatch.delitem(sys.modules, "slices", raising=False)
    import slices

    return slices


def test_images_are_drawn_figures(slices):
    x, kind = slices.images(50, torch.Generator().manual_seed(0))
    assert x.shape == (50, 64)
    assert sorted(set(kind.tolist())) == list(range(10))
    ink = (x > 0.5).sum(1)
    wanted = torch.tensor([one.count("1") for one in slices.FIGURES])[kind]
    assert (ink - wanted).abs().max() <= 1


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_chains_have_no_more_patterns_than_regions(slices, kind):
    net = slices.Narrow(kind, 3, 0)
    f = st.restrict(net, slices.square())
    grid = torch.linspace(-1, 1, 101, dtype=torch.float64)
    h = torch.cartesian_prod(grid, grid)
    expected = net(h)
    np.testing.assert_allclose(f((h + 1) / 2), expected, atol=1e-12)
    signs = []
    for weight, bias, outer in net.steps:
        z = h @ weight.T + bias
        signs.append(z > 0)
        h = z.relu() if kind == "plain" else h + z.relu() @ outer.T
    patterns = len(torch.cat(signs, 1).unique(dim=0))
    assert 0.5 * f.count().regions < patterns <= f.count().regions


@pytest.mark.slow
def test_the_script(tmp_path):
    done = run("slices", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".nc", ".pdf", ".png"]
    with xarray.open_dataset(tmp_path / "slices.nc", engine="h5netcdf") as data:
        stated = json.loads(data.attrs["claims"])
        assert [claim["verdict"] for claim in (stated[0], stated[-1])] == ["held", "held"]
        assert (data.cut.sel(what="folds") > 0).all()
        assert not data.unsettled.any()
