"""What the README and the site say of the figures of the scripts on the frame is in their data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import stability as st
from tests.prose import numbers, says

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "block_order",
        "bypass",
        "depth_as_time",
        "digits",
        "ensemble",
        "fit_sine",
        "fold_counts",
        "folding",
        "gradient_norms",
        "hard_targets",
        "identity_distance",
        "infinite_depth",
        "jacobian_spectrum",
        "phase_diagram",
        "precision",
        "slices",
        "theory_check",
        "training_death",
        "your_model",
    ],
)
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


def test_slices():
    data = st.plots.read_data(ROOT / "figures" / "slices.nc")
    after, before, depth, residual = numbers(
        r"cut the triangle into (\S+) regions \(median of 8 networks\), and into (\S+) before training.* At "
        r"depth (\d+) a residual chain of width 2 has (\d+) folds, a plain one none"
    )
    last = data.cut.sel(what="regions").isel(layer=-1).median("seed")
    assert (float(last.sel(net="trained")), float(last.sel(net="before"))) == (after, before)
    folds = data.folds.sel(depth=depth).median("chain")
    assert (float(folds.sel(kind="residual")), float(folds.sel(kind="plain"))) == (residual, 0)
    assert data.sizes["seed"] == 8
    assert not data.open.any()


def test_fold_counts():
    data = st.plots.read_data(ROOT / "figures" / "fold_counts.nc")
    least, most, depth = numbers(r"fresh, they have few folds \(medians of (\d+) to (\d+) at depth (\d+)\) and no turn")
    medians = data.fresh.sel(kind="folds", depth=depth).median("seed_fresh")
    assert (round(float(medians.min())), round(float(medians.max()))) == (least, most)
    assert not data.fresh.sel(kind="turns").any()
    assert says("a residual chain has two folds in three steps, with two turns")
    three = data.trained.sel(architecture="residual2_prelu", depth_trained=3).median("seed")
    assert three.sel(kind="folds") == three.sel(kind="turns") == 2
    assert says("a plain chain with slopes >= 0 never turns")
    plain = data.sel(architecture=["plain_relu", "plain_prelu"])
    assert not plain.trained.sel(kind="turns").where(plain.slope_below_0 == 0, 0).any()


def test_ensemble():
    data = st.plots.read_data(ROOT / "figures" / "ensemble.nc")
    chain = data["chains"].to_dataset().sel(network="residual2_prelu")
    chain = chain.isel(seed=np.flatnonzero(chain.error.sel(left_out=0) < 0.02))
    resnet, transformer = (data["modules"].to_dataset().sel(network=name) for name in ("resnet", "transformer"))
    depth, *lengths = numbers(r"of (\d+) layers (\S+) in a residual PReLU chain .* (\S+) in a ResNet and (\S+) in a tr")
    assert data.attrs["depth"] == depth
    found = [one["mean"].sel(state="trained").median("seed") for one in (chain, resnet, transformer)]
    assert [round(float(one), 1) for one in found] == lengths
    said = numbers(r"the last two lose (\d+) % and (\d+) % of what .* whose paths are the shortest, loses (\d+) %")
    lost = []
    for one, guess in ((resnet, 0.9), (transformer, 63 / 64), (chain, 1)):
        whole = one.error.sel(left_out=0)
        lost.append(round(100 * float(((one.error.sel(left_out=1) - whole) / (guess - whole)).median("seed"))))
    assert lost == said
    assert says("all folds made before stay where they were, and none of those made after")
    folds = chain.folds.sum("seed")
    assert folds.sel(where="before", what="kept") == folds.sel(where="before", what="all") > 0
    assert folds.sel(where="after", what="kept") == 0 < folds.sel(where="after", what="all")
    low, high, random = numbers(r"blocks have paths of (\S+) to (\S+), more than twice the (\S+) of random signs")
    splice = data["splice"].to_dataset()
    assert [round(float(one), 1) for one in (splice["mean"].min(), splice["mean"].max())] == [low, high]
    assert round(float(splice.random_mean.median()), 1) == random
    assert float((splice["mean"] / splice.random_mean).min()) > 2


def test_precision():
    data = st.plots.read_data(ROOT / "figures" / "precision.nc")
    part, case, cases = numbers(
        r"was exceeded by (\S+) % of the errors over all, and by at most (\S+) % in each of the (\d+) cases"
    )
    shares = 100 * data.exceeded / data.compared
    assert says("The bound of `st.forward_error` was never violated")
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


def test_jacobian_spectrum():
    data = st.plots.read_data(ROOT / "figures" / "jacobian_spectrum.nc")
    depth, plain, single, double, residual, fit_depth, residual_error, near = numbers(
        r"After (\d+) layers the derivative of a plain PReLU chain, initialised as torch does, is 10\^(-\d+): float32 "
        r"reads 0 for half of the chains from depth (\d+) on, float64 from depth (\d+)\. That of a residual PReLU "
        r"chain is 10\^(-\d+), and at depth (\d+) it fits sin\(x\) to (\S+) where the plain one ends as a constant\..* "
        r"it does train, and stops at (0\.\d+), where any monotone function must stop"
    )
    fresh, trained = (data[group].to_dataset() for group in ("fresh", "trained"))
    assert (fresh.depth[-1], trained.depth[-1]) == (depth, fit_depth)
    for name, expected in (("plain", plain), ("residual", residual)):
        assert round(float(fresh.log_values.sel(chain=name).isel(depth=-1).median()) / np.log(10)) == expected
    for format, expected in (("float32", single), ("float64", double)):
        lost = fresh.lost.sel(chain="plain", format=format)
        assert int(fresh.step[(lost >= 0.5).to_numpy()][0]) == expected
    errors = {name: float(trained.loss.sel(chain=name).median()) for name in trained.chain.values}
    assert float(f"{errors['residual']:.0e}") == residual_error
    assert errors["plain"] > 0.99 * data.attrs["constant"]
    assert round(errors["identity start"], 3) == near == round(data.attrs["monotone"], 3)
    width, decades, deep, lost_from = numbers(
        r"At width (\d+) the plain chain's singular values part by 10\^(\d+) in (\d+) layers; a product formed in "
        r"float64 \(crosses\) has fewer than half of them right from depth (\d+)"
    )
    wide, naive = data["wide"].to_dataset(), data["naive"].to_dataset()
    last = wide.log_values.sel(chain="plain").isel(depth=-1) / np.log(10)
    assert (wide.sizes["index"], wide.depth[-1]) == (width, deep)
    assert round(float((last[..., 0] - last[..., -1]).median())) == decades
    right = (abs(naive.naive - naive.true) < 1e-9 / np.log(10)).sum("index")
    assert int(naive.depth[(right < width / 2).to_numpy()][0]) == lost_from


def test_theory_check():
    data = st.plots.read_data(ROOT / "figures" / "theory_check.nc")
    count, square, freedom = numbers(
        r"holds (\d+) of them against fresh chains at five roots.* chi-square is (\d+) of (\d+) degrees of freedom"
    )
    z = data.z[(data.kind != "broken on purpose").to_numpy()]
    assert (z.sizes["case"], z.sizes["root"], z.size) == (count, 5, freedom)
    assert round(float((z**2).sum())) == square
    assert (abs(data.z[(data.kind == "broken on purpose").to_numpy()]) > 3).all()


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


def test_bypass():
    data = st.plots.read_data(ROOT / "figures" / "bypass.nc")
    two, one, depth, above, grown, deep, other = numbers(
        r"has condition number (\d+) at every depth for a bypass of two and (\d+) at depth (\d+) for one, .* alone at "
        r"zero it is above (\d+) for two\. .* grow by 10\^(\S+) at depth (\d+), and by 10\^(\S+) with its ReLU first, "
        r"or two or three maps\."
    )
    best, of = numbers(r"By Adam three maps fit sin\(x\) best at (\d+) of (\d+) depths")
    start, signal = data["start"].to_dataset(), data["growth"].signal.sel(power=-0.5).isel(depth=-1)
    zero = start.condition.sel(start="all maps zero")
    assert zero.sel(maps=2).to_numpy() == pytest.approx(two, rel=1e-9)
    assert (int(start.depth[-1]), round(float(zero.sel(maps=1)[-1, 0]))) == (depth, one)
    # The closed form for a x: 1 + L (2 - a) / (a - 1).
    closed = 1 + start.depth * (2 - 1.7) / 0.7
    np.testing.assert_allclose(zero.sel(maps=1).isel(seed=0), closed, rtol=1e-9)
    assert not start.gradient.sel(start="all maps zero", maps=[2, 3]).any()
    assert float(start.condition.sel(start="last map zero", maps=2)[-1].median()) > above
    middle = signal.median("seed")
    assert (round(float(middle.sel(block="1")), 1), int(signal.depth)) == (grown, deep)
    assert all(round(float(middle.sel(block=name)), 1) == other for name in ("1, ReLU first", "2", "3"))
    medians = data["trained"].error.median("seed")
    by = [medians.sel(run=[f"{maps} Adam", f"{maps} Adam, identity"]).min("run") for maps in (1, 2, 3)]
    assert (int(((by[2] < by[0]) & (by[2] < by[1])).sum()), by[2].size) == (best, of)


def test_block_order():
    data = st.plots.read_data(ROOT / "figures" / "block_order.nc")
    depth, full, after, before, bare_before, bare_after, thin, dead, of = numbers(
        r"In (\d+) blocks of width 32 with layer normalisation, on sines, the errors over the variance rank alike: "
        r"(\S+), (\S+), (\d\.\d+)\. .* is second \((\S+)\), after it last but one \((\S+)\)\. .* between the maps is "
        r"best \((\S+)\), and after the addition (\d+) of (\d+) fresh members have no gradient"
    )
    medians = data["trained"].error.median("seed").min("rate")
    found = {name: float(medians.sel(block=name)) for name in medians.block.values}
    wide, bare = "width 32, normalised: ", "width 32: "
    said = {
        **{f"{wide}full_pre_activation": full, f"{wide}original": after, f"{wide}before_addition": before},
        **{f"{bare}before_addition": bare_before, f"{bare}original": bare_after, "width 1: between": thin},
    }
    assert {name: float(f"{found[name]:.2g}") for name in said} == said
    assert full < after < before
    ranked = sorted((name for name in found if name.startswith(bare)), key=found.get)
    assert [name.removeprefix(bare) for name in ranked[1:3]] == ["before_addition", "original"]
    assert min((name for name in found if name.startswith("width 1:")), key=found.get) == "width 1: between"
    fresh = data["fresh"].dead.sel(block="width 1: original")
    assert (fresh.sum(), fresh.notnull().sum(), data.attrs["depth"]) == (dead, of, depth)


def test_depth_as_time():
    data = st.plots.read_data(ROOT / "figures" / "depth_as_time.nc")
    (power,) = numbers(r"Fresh ones under 1/L come to their flow as L\^-(\d\.\d+), and")
    assert [round(float(one), 2) for one in data.order.isel(end=0)] == [power] * data.sizes["fresh"]
    falls = -np.polyfit(np.log(data.depth), np.log(data.adjoint.median("seed")).T, 1)[0]
    assert (abs(falls - power) < 0.01).all()
    grown, wide = data.sel(name="growth"), data.sel(name="1/L, width 2")
    some, of, depth, far = numbers(
        r"(\d+) of (\d+) chains of (\d+) steps have (\d+) steps with \|J - I\| above 1 and none has fewer"
    )
    counts = (grown.step_distance > 1).sum("rank")
    assert (int((counts == far).sum()), counts.size, grown.sizes["rank"], int(counts.min())) == (some, of, depth, far)
    whole, half, parts, off = numbers(
        r"error goes from (\S+) to (\S+), in (\d+) parts no grown chain turns at all, .* is off by (\d+) % of it"
    )
    medians = grown.error.median("seed_trained")
    assert (float(f"{medians[0]:.0e}"), round(float(medians[1]), 2)) == (whole, half)
    assert int(grown.parts[1]) == 2
    assert (grown.turns.sel(parts=slice(parts, None)) == 0).all()
    assert round(100 * float(grown.trained_adjoint.median())) == off
    assert not (wide.step_distance > 1).any()
    assert (wide.turns == 2).all()


def test_infinite_depth():
    data = st.plots.read_data(ROOT / "figures" / "infinite_depth.nc")
    assert not data.increasing_turns.any()
    assert (data.random_turns <= 2.0**data.random_negative - 1).all()
    assert (data.tent_turns == 2.0**data.steps - 1).all()
    below = data.error < data.best_monotone
    counts = below.sum("seed")
    (deep,) = numbers(r"no chain of width 1 passes the best monotone function at depth (\d+), under 1/sqrt\(L\) or 1/L")
    root, line = (data.sel(case=f"width 1, {factor}").case.item() for factor in ("1/sqrt(L)", "1/L"))
    assert not counts.sel(case=[root, line], depth=deep).any()
    many, of, middle, some, also, shallow = numbers(
        r"\((\d+) of (\d+) under 1/sqrt\(L\) at depth (\d+), (\d+) of (\d+) under 1/L at depth (\d+)\)"
    )
    assert (int(counts.sel(case=root, depth=middle)), int(counts.sel(case=line, depth=shallow))) == (many, some)
    assert data.sizes["seed"] == of == also
    # What passes turns, and what turns has a step with a negative slope.
    narrow, below = data.sel(case=[root, line]), below.sel(case=[root, line])
    assert (narrow.turns.where(below, 1) > 0).all()
    assert (narrow.negative.where(narrow.turns > 0, 1) > 0).all()
    grown, depth = numbers(r"Free ones grow to (\S+) at depth (\d+)\.")
    assert float(f"{float(data.error.sel(case='grown', depth=depth).median()):.0e}") == grown
    depth, *errors = numbers(r"all of depth (\d+) pass it under both factors, with errors of (\S+) and (\d\S*\d)\.")
    wide = data.error.sel(case=["width 2, 1/sqrt(L)", "width 2, 1/L"], depth=depth)
    assert (wide < data.best_monotone).all()
    assert [float(f"{float(one):.0e}") for one in wide.median("seed")] == errors
