"""What the README says of the figures of the scripts on the frame is in their data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import stability as st

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text().split())


def numbers(pattern):
    """Return the numbers in the README's sentence, whose words must be there."""
    (found,) = re.findall(pattern, README)
    return [float(one) for one in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("name", ["folding", "your_model"])
def test_they_are_of_full_runs_and_hold_settings_versions_and_claims(name):
    attributes = st.plots.read_data(ROOT / "figures" / f"{name}.nc").attrs
    assert (attributes["script"], attributes["quick"], attributes["seed"]) == (name, 0, 0)
    assert {"settings", "version_stability", "version_torch", "version_numpy", "platform"} <= set(attributes)
    stated = json.loads(attributes["claims"])
    assert len(stated) >= 3
    assert all(claim["verdict"] in ("held", "refuted", "refined") for claim in stated)


def test_folding():
    data = st.plots.read_data(ROOT / "figures" / "folding.nc")
    bound, seeds, reached = numbers(
        r"closer to x \+ 1\.5 sin 3x than (\S+); the best of (\d+) trained ones reaches (\d\.\d+)"
    )
    hardest = data.sel(target="x + 1.5 sin 3x")
    assert round(float(hardest.bound), 2) == bound
    assert round(float(hardest.reached.min()), 2) == reached
    assert hardest.sizes["seed"] == seeds


def test_your_model():
    data = st.plots.read_data(ROOT / "figures" / "your_model.nc")
    depth, least, most, tanh, right, width = numbers(
        r"after (\d+) blocks the singular values of the residual networks span (\d+) to (\d+) decades, those of the "
        r"tanh perceptron (\d+), of which a product formed in float64 has (\d+) of (\d+) values right"
    )
    last = data.log_values.isel(depth=-1)
    last = last.where(np.isfinite(last)) / np.log(10)
    spans = (last.max("index") - last.min("index")).median("x")
    assert (data.sizes["depth"], data.sizes["index"]) == (depth, width)
    assert sorted(round(float(spans.sel(network=name))) for name in ("resnet", "transformer")) == [least, most]
    assert round(float(spans.sel(network="mlp_tanh"))) == tanh
    assert int(data.right.sel(network="mlp_tanh")[-1]) == right
