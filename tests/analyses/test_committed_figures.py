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


@pytest.mark.parametrize("name", ["digits", "fit_sine", "folding", "identity_distance", "phase_diagram", "your_model"])
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


def test_digits():
    data = st.plots.read_data(ROOT / "figures" / "digits.nc")
    change, gradient, free, signs = numbers(
        r"errors change by less than (\S+) of themselves\. At depth 30 the first gradients are below (\S+), .* With "
        r"epsilon 0 (\d+) % of the members get below the best monotone function; .* no signal fades, (\d+) % do"
    )
    errors = data.precise_error.sel(run=["free", "held"])
    assert float(abs(errors / errors.sel(precision="50 digits") - 1).max()) < change
    assert float(data.first_gradient.sel(start="epsilon 1e-8").max()) < gradient
    below = 100 * (data.chance_error < 0.98 * data.monotone).mean("chain")
    assert [round(float(below.sel(start=start))) for start in ("epsilon 0", "signs")] == [free, signs]


def test_fit_sine():
    data = st.plots.read_data(ROOT / "figures" / "fit_sine.nc")
    error, medians = data.error, data.error.median("seed")

    def agree(value, said):
        """As many digits as are said."""
        assert f"{float(value):.0e}" == f"{said:.0e}", (float(value), said)

    (monotone,) = numbers(r"3 steps reach the best monotone function, (0\.\d+)")
    assert round(float(data.best_monotone), 3) == monotone
    assert float(error.sel(case="plain_relu", depth=3).min()) < 1.01 * monotone
    assert (data.dead.sel(case="plain_relu", by="Adam", depth=slice(10, None)).fillna(1) == 1).all()
    (above,) = numbers(r"the best are at the limit that this sets, (0\.\d+)")
    assert round(float(data.best_above_x), 2) == round(float(error.sel(case="residual1_relu").min()), 2) == above
    middle, deep, adam = numbers(r"refined: growth has (\S+) at depth 30 and (\S+) at 1000; Adam (\S+) at depth 30")
    grown, by_adam = (medians.sel(case="residual2_relu", by=by) for by in ("growth", "Adam"))
    for value, said in ((grown.sel(depth=30), middle), (grown.sel(depth=1000), deep), (by_adam.sel(depth=30), adam)):
        agree(value, said)
    middle, deep = numbers(r"growth has (\S+) at depth 30 \(a tenth of the best spline of 30 folds\) and (\S+) at 1000")
    grown = medians.sel(case="residual2_prelu", by="growth")
    agree(grown.sel(depth=30), middle)
    agree(grown.sel(depth=1000), deep)
    assert 0.05 < float(grown.sel(depth=30) / data.spline.sel(spline_folds=30)) < 0.15
    (plain,) = numbers(r"expressible \(growth: (\S+) at depth 30 by the best members\)")
    agree(error.sel(case="plain_prelu", by="growth", depth=30).min(), plain)
    (behind,) = numbers(r"Adam's best start and rate is more than (\d+) times behind")
    assert float((data.race_adam.median("racer").min("tried") / data.race_lm.median("racer")).min()) > behind


def test_identity_distance():
    claims = json.loads(st.plots.read_data(ROOT / "figures" / "identity_distance.nc").attrs["claims"])
    least, most, low, high, factor = numbers(
        r"\(L\^-(\S+) to L\^-(\S+) by width\)\..* distance falls as L\^-(\S+) to L\^-(\S+) over these depths.* "
        r"predicted within a factor of (\d\.\d)"
    )
    for claim, said in ((claims[2], (least, most)), (claims[3], (low, high))):
        powers = [float(one) for one in re.findall(r"L\^-(\d\.\d+) \+-", claim["measured"])]
        assert (round(min(powers), 1), round(max(powers), 1)) == said
    assert round(float(re.findall(r"a factor of (\S+)", claims[1]["measured"])[0]), 1) == factor


def test_phase_diagram():
    claims = json.loads(st.plots.read_data(ROOT / "figures" / "phase_diagram.nc").attrs["claims"])
    width, factor, order, chaos = numbers(
        r"signals and gradients of width (\d+) reach as deep as theory says for infinite width, to a median factor of "
        r"(\S+), .* In order it reaches (\S+) times six depth scales of signals \(median\), in chaos (\S+) times"
    )
    for claim in claims[1:4:2]:
        found = re.match(r"width (\d+): median factor (\S+) between", claim["measured"])
        assert (int(found[1]), round(float(found[2]), 1)) == (width, factor)
    reached = re.search(r"in order (\S+) .* in chaos (\S+) ", claims[4]["measured"])
    assert [round(float(one), 1) for one in reached.groups()] == [order, chaos]
