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


@pytest.mark.parametrize("name", ["fold_counts", "folding", "gradient_norms", "precision", "your_model"])
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


def test_fold_counts():
    data = st.plots.read_data(ROOT / "figures" / "fold_counts.nc")
    least, most, depth = numbers(r"fresh, they have few folds \(medians of (\d+) to (\d+) at depth (\d+)\) and no turn")
    medians = data.fresh.sel(kind="folds", depth=depth).median("seed_fresh")
    assert (round(float(medians.min())), round(float(medians.max()))) == (least, most)
    assert not data.fresh.sel(kind="turns").any()
    assert "a residual chain has two folds in three steps, with two turns" in README
    three = data.trained.sel(architecture="residual2_prelu", depth_trained=3).median("seed")
    assert three.sel(kind="folds") == three.sel(kind="turns") == 2
    assert "a plain chain with slopes >= 0 never turns" in README
    plain = data.sel(architecture=["plain_relu", "plain_prelu"])
    assert not plain.trained.sel(kind="turns").where(plain.slope_below_0 == 0, 0).any()


def test_precision():
    data = st.plots.read_data(ROOT / "figures" / "precision.nc")
    part, case, cases = numbers(
        r"was exceeded by (\S+) % of the errors over all, and by at most (\S+) % in each of the (\d+) cases"
    )
    shares = 100 * data.exceeded / data.compared
    assert "The bound of `st.forward_error` was never violated" in README
    assert not data.violations.any()
    assert round(float(100 * data.exceeded.sum() / data.compared.sum()), 1) == part
    assert float(shares.max()) <= case + 0.005
    assert shares.size == cases
    of, right, cases = numbers(r"1 % of the depth for (\d+) % of the members in (\d+) of its (\d+) cases")
    assert int((data.agreement >= of / 100 - 1e-6).sum()) == right
    assert data.agreement.size == cases
    depth, low, high, layers, within = numbers(
        r"\(bfloat16 after (\d+) layers of residual chains: (\d+) to (\d+) %\): when a random walk of errors reaches "
        r"the state is spread over some (\d+) layers, within which (\d+) % of the members"
    )
    residual = data.sel(architecture=["residual2_relu", "residual2_prelu"], quantity="activations", dtype="bfloat16")
    one = residual.sel(init="pytorch")
    assert [round(100 * float(share)) for share in (one.agreement.min(), one.agreement.max())] == [low, high]
    assert data.attrs["depth"] == depth
    reached = one.digits_between.sel(end="least") > 0
    ends = one.digits_between.where(one.digits_between > 0, depth + 1)
    first, last = (ends.sel(end=end) for end in ("least", "largest"))
    assert abs(float((last - first).where(reached).median()) - layers) < 20
    lost = one.measured.sel(kind="digits")
    lost = lost.where(lost > 0, depth + 1)
    assert int(100 * ((lost >= first) & (lost <= last)).where(reached).mean()) >= within
    low, high = numbers(r"as He et al\. in 16 bits, which are chaotic \((\d+) to (\d+) %\)")
    chaotic = 100 * data.agreement.sel(init="he", architecture=["residual2_relu", "residual2_prelu"])
    chaotic = chaotic.where(chaotic < 95 - 1e-4)
    assert (round(float(chaotic.min())), round(float(chaotic.max()))) == (low, high)
    assert not chaotic.sel(dtype=["float32", "float64"]).notnull().any()


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
