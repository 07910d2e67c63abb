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


@pytest.mark.parametrize("name", ["folding", "hard_targets", "training_death", "your_model"])
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


def test_hard_targets():
    data = st.plots.read_data(ROOT / "figures" / "hard_targets.nc")
    assert numbers(r"nine functions, at depth (\d+) with (\d+) members and four") == [data.depth, data.sizes["seed"]]
    shown = numbers(
        r"reach (\S+) on \|x\|, (\S+) on exp\(-x\^2\), (\S+) on sin 2x, (\S+) on exp\(-x\^2\) cos 5x and (\S+) on a "
        r"triangle wave"
    )
    best = data.error.min("seed")
    names = ("|x|", "exp(-x^2)", "sin 2x", "exp(-x^2) cos 5x", "triangle wave")
    assert [float(f"{float(best.sel(target=name).min()):.0e}") for name in names] == shown
    often = data.isel(target=np.flatnonzero(data.failed > 0.1 * data.sizes["seed"]))
    still = 100 * often.still / often.failed
    least, most = numbers(r"members of growth fail, (\d+) to (\d+) % of these stand still")
    assert (round(float(still.min())), round(float(still.max())), often.sizes["target"]) == (least, most, 5)
    failed, target = numbers(r"half the turns of the target \((\d+) of (\d+)\)")
    one = data.sel(target="sin 2x")
    assert (float(one.turns_failed), int(one.turns_of_target)) == (failed, target)
    failed, target, good = numbers(r"they have (\d+) of (\d+), and those that succeed (\d+), so that")
    one = data.sel(target="exp(-x^2) cos 5x")
    assert (float(one.turns_failed), int(one.turns_of_target), float(one.turns_good)) == (failed, target, good)
    healed = numbers(r"Homotopy heals (\d+) % of them on sin 2x, (\d+) % on exp\(-x\^2\) cos 5x and none")
    names = ("sin 2x", "exp(-x^2) cos 5x", "triangle wave")
    found = [100 * float(data.healed.sel(target=name) / data.failed.sel(target=name)) for name in names]
    assert [round(value) for value in found] == [*healed, 0]
    four, own = best.isel(way=slice(-1)).min("way"), best.sel(way="own path")
    shown = numbers(r"comes to (\S+) by the four methods, and to (\S+) where it is led")
    assert [float(f"{float(one.sel(target='sawtooth')):.0e}") for one in (four, own)] == shown
    stays, built = numbers(r"x \+ 1\.5 sin 3x stays at (\S+): .* built with them, it comes to (\d\S*)\.")
    assert round(float(four.sel(target="x + 1.5 sin 3x")), 2) == stays
    assert float(f"{float(own.sel(target='x + 1.5 sin 3x')):.0e}") == built


def test_training_death():
    data = st.plots.read_data(ROOT / "figures" / "training_death.nc")

    def run(depth, factor=1.0):
        one = data.sel(run=f"plain_relu, {depth}, pytorch, adam, {factor}, alive")
        return one.isel(seed=np.flatnonzero(one.dead.notnull()))

    birth = data.birth.sel(start="pytorch").to_numpy()
    born = [100 * ((birth > 0) & (birth <= depth)).mean() for depth in (3, 10)]
    shallow, deep = numbers(r"mostly born dead: (\d+) % at depth 3, (\S+) % at depth 10")
    assert (round(born[0]), round(born[1], 1)) == (shallow, deep)
    later = numbers(r"Of the rest (\d+) % and (\d+) % are dead after training")
    assert [round(100 * float(run(depth).dead.mean())) for depth in (3, 10)] == later
    runs = [run(depth) for depth in (3, 5, 10)]
    when, back, left = (
        np.concatenate([one[name].to_numpy()[one.iteration_of_death > 0] for one in runs])
        for name in ("iteration_of_death", "dead", "distance")
    )
    assert numbers(r"Half of the deaths come by iteration (\d+), from") == [np.median(when)]
    assert np.median(left) / 0.01 == pytest.approx(1, abs=0.1)
    assert numbers(r"above 0, and (\d+) of (\d+) comes back") == [(back == 0).sum(), back.size]
    usual, slow = numbers(r"lowers (\d+) % to (\d+) % at depth 5")
    # 62.5 and 55.5 %, halves away from 0.
    assert abs(100 * float(run(5).dead.mean()) - usual) <= 0.5
    assert abs(100 * float(run(5, 0.3).dead.mean()) - slow) <= 0.5
    others = data.isel(run=np.flatnonzero(data.architecture != "plain_relu"))
    assert int((others.born_dead > 0).sum() + (others.iteration_of_death > 0).sum()) == 0
    plain = data.isel(run=np.flatnonzero((data.architecture == "plain_prelu") & (data.depth >= 30)))
    at_start = plain.sel(run=[name for name in plain.run.values if ", pytorch," in name])
    for flat in (at_start.flat, at_start.flat_first):
        assert (flat.fillna(1) == 1).all()
