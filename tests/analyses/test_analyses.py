"""The scripts, run as a user runs them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray

import stability as st
from tests.analyses.scripts import ROOT, SCRIPTS, run

NEVER_BELOW = "No monotone fit is below the best monotone function, none below the best spline of its folds"


BROKEN = "broken on purpose"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_four_options_and_the_method(name):
    done = run(name, "--help")
    assert done.returncode == 0
    shown = done.stdout
    for word in ("--quick", "--out", "--seed", "Question.", "Method.", "Reading."):
        assert word in shown


def test_a_script_runs_by_itself():
    command = [sys.executable, str(ROOT / "analyses" / "jacobian_spectrum.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert shown.returncode == 0, shown.stderr
    assert "--quick" in shown.stdout


@pytest.mark.slow
def test_jacobian_spectrum(tmp_path):
    done = run("jacobian_spectrum", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    names = [f"jacobian_spectrum{end}" for end in (".nc", ".pdf", ".png", "_growth.pdf", "_growth.png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with xarray.open_datatree(tmp_path / "jacobian_spectrum.nc", engine="h5netcdf") as data:
        fresh, trained = data["fresh"].to_dataset(), data["trained"].to_dataset()
        verdicts = {claim["statement"]: claim["verdict"] for claim in json.loads(data.attrs["claims"])}
        assert verdicts["plain, fresh: float32 and float64 hold |J| of 300 layers"] == "refined"
        assert verdicts["residual, fresh: float32 and float64 hold |J| of 300 layers"] == "held"
        assert verdicts["The mean growth a layer at width 1 is what theory says"] == "held"
        assert verdicts["The mean growth a layer at width 16 is what theory says"] == "held"
        assert verdicts["A product formed in float64 and decomposed gives its singular values"] == "refuted"
        assert fresh.log_values.dims == trained.log_values.dims == ("chain", "depth", "seed", "x", "index")
        exponent = fresh.log_values.isel(depth=-1, index=0).mean("x") / 300
        for name in fresh.chain.values:
            one = exponent.sel(chain=name)
            z = (one.mean() - fresh.predicted.sel(chain=name)) / (one.std() / np.sqrt(one.size))
            assert abs(z) < 4, name
        # What is lost in float32 is below half of the least number above 0, 2^-149.
        lost = (fresh.log_values <= -150 * np.log(2)).mean(["seed", "x", "index"])
        np.testing.assert_allclose(fresh.lost.sel(format="float32", step=fresh.depth.values), lost, atol=0.01)
        plain, residual = (trained.loss.sel(chain=name).median() for name in ("plain", "residual"))
        assert plain > 0.5 > 0.05 > residual
        for width in (1, 16):
            growth = data[f"growth_{width}"].to_dataset()
            means = growth.exponent.mean("index").stack(scheme=("architecture", "init"))
            known = growth.predicted.stack(scheme=("architecture", "init")).dropna("scheme")
            assert known.size == {1: 13, 16: 4}[width]
            for scheme in known.scheme.values:
                one = means.sel(scheme=scheme)
                error = one.std(ddof=1) / np.sqrt(one.size)
                assert abs(one.mean() - known.sel(scheme=scheme)) <= 4 * error + 1e-12, scheme
        assert data["wide"].checked.all()
        naive = data["naive"].to_dataset()
        assert naive.checked
        assert (abs(naive.naive - naive.true).isel(depth=0) < 1e-9).all()
        assert (abs(naive.naive - naive.true).isel(depth=-1, index=-1) > 1).all()


@pytest.mark.slow
def test_fit_sine(tmp_path):
    done = run("fit_sine", "--quick", "--out", tmp_path, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 5  # two figures of one dataset
    with xarray.open_dataset(tmp_path / "fit_sine.nc", engine="h5netcdf") as data:
        stated = {claim["statement"]: claim for claim in json.loads(data.attrs["claims"])}
        verdicts = {statement: claim["verdict"] for statement, claim in stated.items()}
        assert verdicts == {
            "plain_relu dies: with more layers everything is 0": "held",
            "residual1_relu can only grow, so f(x) >= x": "held",
            "residual2_relu keeps folding; very deep it can die": "refined",
            "residual2_prelu solves the dying": "refined",
            "plain_prelu does not work either": "refined",
            NEVER_BELOW: "held",
            "A chain of L steps fits no better than a spline with L knots": "refuted",
            "Adam fits as well as second-order methods in the same time": "refuted",
            "More steps fit better": "refuted",
            "Adam's error at depth 30 is what a chain cannot express": "refuted",
        }
        assert re.match(r"0 of \d+ and 0 of \d\d+ fits are \(must be 0\)", stated[NEVER_BELOW]["measured"])
        # The stored errors are those of the stored fits.
        errors = ((data.fit - data.target) ** 2).mean("x", skipna=False)
        stored = data.train_error.sel(depth=data.shown.values).where(
            data.train_error.sel(depth=data.shown.values) < 1e6
        )
        shown = errors.where(errors < 1e6).rename(shown="depth")
        np.testing.assert_allclose(shown.transpose(*stored.dims), stored, rtol=1e-3, atol=1e-7)
        assert (data.sel(case="residual1_relu").least_rise.dropna("seed", how="all").fillna(0) >= 0).all()

        # Isotonic regression by its min-max formula, in the middles of 301 cells.
        y = np.sin(6 * (np.arange(301) + 0.5) / 301 - 3)
        sums = np.concatenate([[0], np.cumsum(y)])
        means = [[(sums[k + 1] - sums[i]) / (k + 1 - i) if k >= i else np.inf for k in range(301)] for i in range(301)]
        least = np.minimum.accumulate(np.array(means)[:, ::-1], axis=1)[:, ::-1]
        isotonic = [least[: j + 1, j].max() for j in range(301)]
        assert abs(float(data.best_monotone) - np.mean((isotonic - y) ** 2)) < 2e-4
        error = data.error
        assert (error.where(data.turns == 0).fillna(1) >= float(data.best_monotone) * (1 - 1e-9)).all()
        assert float(error.where(data.turns > 0).min()) < 1e-7

        grown = error.sel(case="residual2_prelu", by="growth")
        for depth, times in ((10, 0.5), (30, 1), (100, 10)):
            assert float(grown.sel(depth=depth).median()) <= times * float(data.spline.sel(spline_folds=depth)), depth
        assert float(grown.sel(depth=30).max()) <= 1e-5
        assert float(grown.sel(depth=1000).median()) < 1e-6
        assert float(grown.sel(depth=1000).max()) < 1e-4
        # The best knots of 10 folds leave what is known of them to four digits.
        assert abs(float(data.spline.sel(spline_folds=10)) / 3.8088e-5 - 1) < 1e-3
        adam = data.race_adam.median("racer").min("tried")
        assert (adam >= 10 * data.race_lm.median("racer")).all()
        # Levenberg-Marquardt from 1000 spread kinks stops where a monotone function can do no more.
        trapped = error.sel(case="residual2_prelu", by="LM, knots", depth=1000).median()
        assert 1 <= float(trapped) / float(data.best_monotone) < 1.1

        held = error.sel(case="plain_prelu, slopes >= 0")
        assert float(held.min()) >= float(data.best_monotone) * (1 - 1e-9)
        assert float(error.sel(case="plain_prelu", by="growth").min()) < 1e-6


@pytest.mark.slow
def test_digits(tmp_path):
    done = run("digits", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with xarray.open_dataset(tmp_path / "digits.nc", engine="h5netcdf") as data:
        verdicts = [claim["verdict"] for claim in json.loads(data.attrs["claims"])]
        assert verdicts[1:] == ["held", "held"]
        assert verdicts[0] in ("refined", "refuted")  # whether an epsilon of 0 saves any of eight chains
        # More digits change neither what Adam finds nor that it finds nothing.
        digits = data.precise_error / data.precise_error.sel(precision="50 digits")
        assert (abs(digits.sel(precision=["53 bits", "64 bits"]) - 1) < 1e-6).all()
        lowest = data.chance_error.min("chain")
        assert float(lowest.sel(start="signs")) < 0.2 * float(data.monotone)
        assert float(lowest.sel(start="epsilon 1e-8")) > 0.9 * float(data.constant)
        # The first gradient by the chain rule, written out.
        chain, task = st.Chain("plain_prelu", 30, seeds=8), st.Task(torch.sin, (-3, 3), points=32)
        h, slope = task.x.expand(8, 32), task.x.expand(8, 32)
        for k, (weight, bias) in enumerate(zip(chain.weight.T, chain.bias.T, strict=True)):
            z = weight[:, None] * h + bias[:, None]
            bent = torch.where(z > 0, 1.0, 0.25)
            h, slope = bent * z, slope * bent * (1 if k == 0 else weight[:, None])
        residual = chain.readout_weight[:, None] * h + chain.readout_bias[:, None] - task.y
        by_hand = (2 * residual * chain.readout_weight[:, None] * slope).mean(1).abs().detach()
        np.testing.assert_allclose(data.first_gradient.sel(start="epsilon 1e-8"), by_hand, rtol=1e-6)


@pytest.mark.slow
def test_fold_counts(tmp_path):
    done = run("fold_counts", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with xarray.open_dataset(tmp_path / "fold_counts.nc", engine="h5netcdf") as data:
        verdicts = [claim["verdict"] for claim in json.loads(data.attrs["claims"])]
        assert verdicts[:2] == ["refuted", "held"]
        assert verdicts[3:6] == ["held", "refined", "refuted"]
        for counts in (data.fresh, data.line, data.trained, data.along):
            folds, turns, regions = (counts.sel(kind=kind) for kind in ("folds", "turns", "regions"))
            assert (turns <= folds).all()
            assert (folds <= regions - 1).all()
            assert counts.dtype.kind == "i"
        assert (data.fresh.sel(kind="turns", architecture=["plain_relu", "plain_prelu"]) == 0).all()
        assert (data.fresh.sel(kind="folds") <= 2.0**data.depth - 1).all()
        # What a part of the line has, the whole has.
        assert (data.fresh <= data.line).all()
        # On the whole line every kink of a step that maps it onto itself is met once.
        others = data.line.sel(architecture=["residual1_relu", "residual2_relu", "residual2_prelu", "plain_prelu"])
        assert (others.sel(kind="folds") == data.depth).all()
        # What is watched along training begins with the fresh chains of the same seeds.
        start = data.along.isel(iteration=0).sel(architecture="residual2_prelu", kind="folds", depth_trained=30)
        np.testing.assert_array_equal(
            start, data.fresh.sel(architecture="residual2_prelu", kind="folds", depth=30)[: start.size]
        )


@pytest.mark.slow
def test_folding(tmp_path):
    done = run("folding", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".nc", ".pdf", ".png"]
    with xarray.open_dataset(tmp_path / "folding.nc", engine="h5netcdf") as data:
        sine, anything, below, _ = json.loads(data.attrs["claims"])
        assert (sine["verdict"], anything["verdict"], below["verdict"]) == ("held", "refuted", "held")
        assert "x + 1.5 sin 3x: no chain of any depth is nearer than 1.00" in anything["measured"]
        assert "0 of 128 fits are below it" in below["measured"]
        bounds = dict(zip(data.target.values.tolist(), data.bound.values.tolist(), strict=True))
        # x + 1.5 sin 3x falls from its maximum at x1 to its minimum at x2, where 1 + 4.5 cos 3x = 0, by 2.005.
        x1, x2 = np.arccos(-1 / 4.5) / 3, (2 * np.pi - np.arccos(-1 / 4.5)) / 3
        fall = x1 + 1.5 * np.sin(3 * x1) - x2 - 1.5 * np.sin(3 * x2)
        assert fall / 2 - 0.02 < bounds.pop("x + 1.5 sin 3x") <= fall / 2
        assert set(bounds.values()) == {0.0}
        assert (data.reached >= data.bound).all()


@pytest.mark.slow
def test_gradient_norms(tmp_path):
    done = run("gradient_norms", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with xarray.open_dataset(tmp_path / "gradient_norms.nc", engine="h5netcdf") as stored:
        data = stored.load()
    stated = json.loads(data.attrs["claims"])
    assert [claim["verdict"] for claim in stated[:6]] == ["refined", "held", "refined", "refined", "held", "refined"]
    assert "plain PReLU" in stated[6]["measured"]
    assert "left as it is" in stated[6]["measured"]

    # E log(1 + a b) for a, b uniform on (-1, 1), by its series.
    k = 2 * np.arange(1, 10**5)
    product = {slope: -(slope**k / k / (k + 1.0) ** 2).sum() for slope in (1.0, 0.25)}
    exact = {
        ("plain_prelu", "x = 1"): -1 - np.log(4) / 2,
        ("residual2_prelu", "x = 1"): (product[1.0] + product[0.25]) / 2,
        ("residual2_relu", "x = 1"): product[1.0] / 2,
        ("residual1_relu", "x = 1"): np.log(2) - 0.5,
        ("residual1_relu", "x = -1"): -0.5,
    }
    for (name, place), expected in exact.items():
        one = data.sel(architecture=name, init="uniform", place=place)
        assert abs(one.predicted - expected) < 1e-4, name
        assert abs(one.rate - expected) < 4 * one.standard_error, name
    both = (data.rate.notnull() & np.isfinite(data.predicted)).values
    assert both.sum() > 30
    off = abs(data.rate - data.predicted).values
    assert (off[both] <= 4 * data.standard_error.values[both] + 1e-7).all()
    for init in ("pytorch", "uniform", "he", "orthogonal"):
        at_1 = data.sel(init=init, place="x = 1")
        plain, residual = (at_1.sel(architecture=name) for name in ("plain_prelu", "residual2_prelu"))
        assert plain.high < 5 * residual.low < 0, init
        relu = at_1.sel(architecture="plain_relu")
        assert relu.dead_share == 1, init
        assert relu.rate.isnull(), init
        # Where x and -x part for good, the norm over the interval follows the larger of the two.
        if init != "pytorch":
            assert data.rate.sel(architecture="plain_prelu", init=init, place="interval") > plain.rate
    for name, init in (("plain_relu", "identity"), ("residual1_relu", "scaled"), ("plain_prelu", "scaled")):
        assert (data["shape"].sel(architecture=name, init=init) == "does not exist").all()

    assert (data.log10_norm.diff("quantile") >= 0).all()
    plain, residual = (data.log10_norm.sel(case=case, quantile=0.5) for case in ("plain PReLU", "residual 2 PReLU"))
    assert plain[0] < -60 < -6 < residual[0]
    # The median of 60 sums of 99 steps, each with a variance of 1 + (log 2)^2.
    error = 1.2533 * np.sqrt(99 * (1 + np.log(2) ** 2) / 60) / np.log(10)
    assert abs(plain[0] - plain[-1] - 99 * exact["plain_prelu", "x = 1"] / np.log(10)) < 4 * error
    assert abs(data.lost.sel(case="plain PReLU").median() + plain[0] - plain[-1]) < 4 * error
    # What rounds to 0 in float32 is below 10^-45, in float64 below 10^-323.
    zero = data.zero.sel(case="plain PReLU").mean("member")
    assert zero.sel(format="float32") > 0.9
    assert zero.sel(format="float64") == 0
    assert not data.zero.sel(case="residual 2 PReLU").any()

    relu, dead = data.sel(architecture="plain_relu"), data.dead.mean("member")
    assert dead.sel(architecture="plain_relu")[-1] > 0.9
    assert (dead.sel(architecture=["plain_prelu", "residual2_prelu", "residual1_relu"]) == 0).all()
    alive = 0.5**data.depth
    error = np.sqrt(alive * (1 - alive) / data.sizes["member"])
    assert (abs(1 - relu.dead_at_1.mean("member") - alive) <= 4 * error + 1e-6).all()
    # A gradient that is 0 over the whole interval is 0 at each of its points.
    assert (relu.dead <= relu.dead_at_1).all()
    assert (data.left.sel(architecture="residual1_relu", quantile=0.5)[-1] > 10).all()

    ratio = data["first"] - data["last"]
    assert (abs(ratio.sel(start="plain, identity", iteration=0)) < 1e-6).all()
    assert ratio.sel(start="plain PReLU")[-1].median() < -15 < -3 < ratio.sel(start="residual 2 PReLU")[-1].median()
    # Training lowers the error of all.
    assert (data.loss[:, -1].median("seed") < data.loss[:, 0].median("seed")).all()


PARTS = ("", "_fits", "_failures")


@pytest.mark.slow
def test_hard_targets(tmp_path):
    done = run("hard_targets", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    names = {"hard_targets.nc", *(f"hard_targets{part}.{kind}" for part in PARTS for kind in ("png", "pdf"))}
    assert {path.name for path in tmp_path.iterdir()} == names
    with xarray.open_dataset(tmp_path / "hard_targets.nc", engine="h5netcdf") as data:
        anything, spikes, path, more, turns_found, homotopy = json.loads(data.attrs["claims"])
        assert anything["verdict"] == "refined"
        assert anything["measured"].endswith("on triangle wave, sawtooth, x + 1.5 sin 3x")
        assert spikes["verdict"] == "refined"
        assert "takes 50% of its range on one" in spikes["measured"]
        assert path["source"] == "common practice"
        assert turns_found["verdict"] in ("refined", "held")
        assert "sin 2x: 2 of 4" in turns_found["measured"]
        # What is said of the members that failed is in the data.
        one = data.sel(target="sin 2x")
        variance = float(one.constant)
        assert float(one.failed) == (one.error.sel(way="growth") > 0.01 * variance).sum() > 0
        for claim, kind in ((more, "still"), (homotopy, "healed")):
            assert f"{int(one[kind])} of {int(one.failed)}" in claim["measured"]
            assert (data[kind] <= data.failed).all()
        best = data.error.min(["way", "seed"])
        for name, limit in {"|x|": 1e-20, "exp(-x^2)": 1e-5, "sin 2x": 1e-4, "exp(-x^2) cos 5x": 1e-2}.items():
            assert best.sel(target=name) < limit, name
        # The best of the stored fits has the stored error, up to the coarser grid.
        for name in ("exp(-x^2)", "sin 2x", "exp(-x^2) cos 5x"):
            one = data.sel(target=name)
            stored = one.error.sel(way=str(one.best_method.values)).to_numpy()
            np.testing.assert_allclose(((one.best_fit - one.wanted) ** 2).mean("x"), stored.min(), rtol=0.1)
            assert abs(one.fits[stored.argmin()] - one.best_fit).max() < 6e-4
        # Variances in closed form; a jump or a corner costs less than one of the 10,000 cells.
        variances = {"|x|": 3 / 4, "step": 1 / 4, "triangle wave": 1 / 12, "sawtooth": 1 / 12}
        variances["sin 2x"] = (1 - np.sin(12) / 12) / 2
        for name, variance in variances.items():
            assert abs(data.constant.sel(target=name) - variance) < 1e-4 * variance + 1e-7, name
        assert (data.spline_bound <= data.spline).all()
        turns = {"|x|": 1, "exp(-x^2)": 1, "step": 0, "sin 2x": 4, "triangle wave": 9, "sawtooth": 8}
        for name, count in turns.items():
            assert data.turns_of_target.sel(target=name) == count, name
        # The whole range on a monotone stretch: every chain, and of the targets all but one, whose middle rise
        # is between the turns where cos 3x = -2/9 and whose range ends at those next to the ends.
        turn, period = np.arccos(-2 / 9) / 3, 2 * np.pi / 3
        share = (turn + 1.5 * np.sin(3 * turn)) / (turn + period + 1.5 * np.sin(3 * turn))
        shares = data.share_of_target
        assert abs(shares.sel(target="x + 1.5 sin 3x") - share) < 1e-4
        assert (shares.drop_sel(target="x + 1.5 sin 3x") > 0.999).all()
        assert (data.share_of_best > 0.99).all()
        # No training from a random start comes near it, a chain built with spikes does.
        far = data.error.sel(target="x + 1.5 sin 3x")
        assert far.sel(way="own path").min() < 0.1 * far.drop_sel(way="own path").min()


@pytest.mark.slow
def test_identity_distance(tmp_path):
    done = run("identity_distance", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.png")} == {"identity_distance.png", "identity_distance_widths.png"}
    with xarray.open_datatree(tmp_path / "identity_distance.nc", engine="h5netcdf") as data:
        for name in ("plain_prelu", "residual2_prelu"):
            for width in (1, 4, 16, 64):
                one = data[f"{name}_{width}"].to_dataset()
                # Near the identity all is near 1, far from it the deepest is far from 1.
                assert (one.decades.isel(strength=0) < 1).all()
                assert one.decades.isel(depth=-1).max() > 7
                assert (one.log10_condition <= 2 * one.decades + 1e-6).all()
                assert (one.log10_condition == 0).all() == (width == 1)
        # What the figure says of the article: at one distance, many layers leave the range that few stay in.
        plain = data["plain_prelu_16"].to_dataset().sel(strength=0.5, method="nearest").decades
        assert plain[-1] > 5 * plain[plain.depth.to_numpy().searchsorted(10)]
        remark, predicted, _, _, plain, residual = json.loads(data.attrs["claims"])
        verdicts = [claim["verdict"] for claim in (remark, predicted, plain, residual)]
        assert verdicts == ["refined", "held", "refuted", "held"]
        trained = data["trained"].to_dataset()
        assert dict(trained.sizes) == {"architecture": 2, "start": 2, "depth": 3, "seed": 16}
        assert (trained.distance.sel(start="pytorch", architecture="plain_prelu") > 0.5).all()
        assert (trained.distance.sel(architecture="residual2_prelu") < 0.5).all()


@pytest.mark.slow
def test_phase_diagram(tmp_path):
    done = run("phase_diagram", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".pdf", ".nc"}
    with xarray.open_datatree(tmp_path / "phase_diagram.nc", engine="h5netcdf") as tree:
        data = {name: tree[name].to_dataset().load() for name in ("theory", "measured", "predicted", "trained")}
        stated = json.loads(tree.attrs["claims"])
    plane, measured, predicted, trained = data.values()
    assert [claim["statement"].split()[-2:] for claim in stated[:4:2]] == [["reach", "deepest"]] * 2
    assert "refuted" not in [claim["verdict"] for claim in stated[:4]]
    assert stated[4]["verdict"] == "refuted"
    # Order and chaos lie on their sides of the edge, by the sign of the gradients and by the fixed correlation.
    ordered = plane.weight_scale < plane.edge
    assert ((plane.gradient_scale > 0) == ordered).all()
    assert ((plane.fixed_correlation == 1) == ordered).all()
    # Scales on both sides of the edge fall off; each is farthest next to it.
    farthest = abs(plane.gradient_scale).idxmax("weight_scale")
    assert (abs(farthest - plane.edge) < 1.01 * float(plane.weight_scale.diff("weight_scale")[0])).all()
    # Networks of width 48 are where the theory of infinite width says, before correlations are noise of their width.
    early = {"depth": slice(0, 8)}
    gap = abs(measured.difference - predicted.difference).isel(early)
    assert (gap < 3 / np.sqrt(48 * 4)).all()
    # Gradients lag by 1 / width a layer, most so in chaos; they vanish and explode where they should.
    rates, expected = ((one.log10_gradient / 20).isel(layer=20) for one in (measured, predicted))
    assert (abs(rates - expected) < 0.02 + 0.4 * abs(expected)).all()
    assert np.corrcoef(rates, expected)[0, 1] > 0.95
    # Shallow networks learn in order; deep ones neither far in order nor in chaos.
    error = trained.error.median("seed")
    assert error.isel(weight_scale=1, depth=0) < 0.5
    assert (error.isel(weight_scale=[0, -1], depth=-1) > 0.5).all()


@pytest.mark.slow
def test_precision(tmp_path):
    done = run("precision", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with xarray.open_dataset(tmp_path / "precision.nc", engine="h5netcdf") as stored:
        data = stored.load()
    stated = [claim["verdict"] for claim in json.loads(data.attrs["claims"])]
    assert stated[:2] == ["held", "held"]
    assert (stated[3], stated[4], stated[6], stated[7]) == ("held", "held", "refuted", "refined")

    def median(layers):
        return layers.where(layers > 0, np.inf).median("seed")

    for init in ("pytorch", "uniform", "he"):
        one = data.sel(init=init)
        depth = one.attrs["depth"]
        plain = one.sel(architecture="plain_prelu")
        # Ranges of 2^30, 2^254, 2^254 and 2^2046: the formats fail in this order, float64 not at all within this depth.
        layers = plain["first"].sel(quantity=["products", "gradients"])
        reached = layers.where(layers > 0, depth + 1)
        half, single = (reached.sel(dtype=dtype) for dtype in ("float16", "float32"))
        assert (half.median("seed") < single.median("seed")).all(), init
        assert (half < single).where(half <= depth, True).all(), init
        assert (layers.sel(dtype="float64") == 0).all(), init
        # Of the formats only those of 16 bits run out of digits.
        digits = one.measured.sel(kind="digits", quantity="activations", architecture="residual2_prelu")
        assert (digits.sel(dtype=["float32", "float64"]) == 0).all(), init
        # Where it is the range that fails, the logarithms say where; He's initialisation is chaotic in 16 bits.
        assert (one.agreement.sel(dtype=["float32", "float64"]) >= 0.95 - 1e-6).all(), init
        if init != "he":
            assert (one.agreement.sel(quantity=["products", "gradients"]) >= 0.95 - 1e-6).all(), init
        measured, predicted = (median(one[v]) for v in ("first", "first_predicted"))
        both = np.isfinite(measured) & np.isfinite(predicted)
        near = abs(measured - predicted) <= np.maximum(1, 0.02 * depth)
        assert near.where(both & (one.quantity != "activations"), True).all(), init
    torch_init = data.sel(init="pytorch", architecture="plain_prelu", quantity=["products", "gradients"])
    assert (median(torch_init["first"].sel(dtype="float16")) < 15).all()
    assert (abs(median(torch_init["first"].sel(dtype="float32")) - 52) < 8).all()

    pair = ["plain_prelu", "residual2_prelu"]
    assert (data.violations == 0).all()
    assert data.compared.sum() > 10000
    assert (data.log_errors <= data.log_bounds).all()
    assert (data.error <= data.bound).where(data.error.notnull(), True).all()
    # The bound is of use: it promises at least half of the digits that are right, and never more than those.
    assert (data.kept.sel(init="pytorch", architecture=pair) > 0.5).all()
    assert (data.kept <= 1 + 1e-12).where(np.isfinite(data.kept), True).all()
    # More digits, less error.
    order = data.error.sel(init="pytorch", dtype=["float64", "float32", "float16", "bfloat16"]).median("seed")
    assert (order.sel(architecture=pair).diff("dtype") > 0).all()

    # The range of the gradients of a chain only grows with depth, so that its loss scales run out.
    room = data.scale.sel(end="largest") - data.scale.sel(end="least")
    assert (room.sel(architecture="plain_prelu").median("seed").diff("total") <= 0).all()
    assert (room.sel(half="float16") < room.sel(half="bfloat16")).all()
    have = room.sel(half="float16") >= 0
    plain, residual = (have.sel(architecture=name).mean("seed") for name in pair)
    assert plain.sel(total=10) > 0.5
    assert plain.sel(total=50) == 0
    assert residual.sel(total=50) == 1
    # A scale that exists saves the run, which without it fails.
    tried = data.failed.sel(architecture=pair).where(have)
    assert tried.sel(architecture="plain_prelu", total=10, run="no scale").mean() > 0.9
    assert tried.sel(run="middle scale").mean() <= 0.05


@pytest.mark.slow
def test_theory_check(tmp_path):
    done = run("theory_check", "--quick", "--roots", 5, "--members", 200, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    data = st.plots.read_data(tmp_path / "theory_check.nc")
    claims = json.loads(data.attrs["claims"])
    assert {claim["verdict"] for claim in claims[:-1]} == {"held"}
    assert len(claims) == 3 + 11
    good, bad = (data.isel(case=np.flatnonzero(keep)) for keep in (data.kind != BROKEN, data.kind == BROKEN))
    assert claims[0]["statement"] == f"{good.case.size} closed forms are what chains do"
    assert good.z.size >= 40 * 5
    assert len(set(data.case.values.tolist())) == data.case.size
    z = (good.measured - good.predicted) / good.standard_error
    np.testing.assert_allclose(z, good.z, rtol=1e-6, atol=1e-6)
    assert (abs(z) < 4).all()
    # The sum of squares is within four standard deviations of a chi-square, of every root and of all.
    for one in (*z.transpose("root", "case"), z):
        assert abs((one**2).sum() - one.size) < 4 * np.sqrt(2 * one.size)
    assert f"all: {float((z**2).sum()):.1f} of {z.size}" in claims[0]["measured"]
    # Both signs and zero among the exponents, and assumptions that fail where they are broken.
    exponents = good.predicted[(good.kind == "exponent").values]
    assert exponents.min() < -1
    assert exponents.max() > 0.3
    assert (abs(exponents) < 1e-12).any()
    assert bad.case.size >= 5
    assert (abs(bad.z).mean("root") > 3).all()


def test_the_page_of_theory_is_what_its_script_writes(tmp_path):
    made = tmp_path / "closed_forms.md"
    done = run("theory_page", "--out", made, "--data", ROOT / "figures" / "theory_check.nc", folder="docs")
    assert done.returncode == 0, done.stderr
    committed = (ROOT / "docs/reference/closed_forms.md").read_text()
    assert made.read_text() == committed, "run docs/theory_page.py and commit what it writes"
    # Statement, assumptions, derivation and check of everything that is held against simulation.
    data = st.plots.read_data(ROOT / "figures" / "theory_check.nc")
    text = made.read_text()
    for name in data.case.values[data.kind.values != BROKEN]:
        _, _, after = text.partition(f"**`{name}`**")
        entry = after.partition("**`")[0]
        assert "- Check" in entry, name
        if data.kind.values[data.case.values == name] != "width n":
            assert "- Assumptions: " in entry, name
            assert "- Derivation: " in entry, name


@pytest.mark.slow
def test_training_death(tmp_path):
    done = run("training_death", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    with xarray.open_dataset(tmp_path / "training_death.nc", engine="h5netcdf") as whole:
        data = whole.load()
    relu, residual, prelu, back, *_ = stated = json.loads(data.attrs["claims"])
    assert len(stated) == 7
    flat = data.flat.sel(run="plain_prelu, 10, pytorch, adam, 1.0, alive").dropna("seed")
    assert (residual["verdict"], prelu["verdict"]) == ("refuted", "refined" if flat.mean() > 0.5 else "held")
    assert "ever dead: 0 %" in residual["measured"]
    assert back["verdict"] in ("held", "refined")

    # Without biases half of the points are alive behind the first layer, and a layer kills by a weight below 0.
    he = data.birth.sel(start="he").to_numpy()
    for layer in range(1, 6):
        expected = 0.5 ** (layer - 1) if layer > 1 else 0
        expected = he.size * expected
        assert abs((he == layer).sum() - expected) <= 4 * np.sqrt(expected), layer
    born = data.birth.sel(start="pytorch").to_numpy()
    assert f"depth 3 {100 * ((born > 0) & (born <= 3)).mean():.3g} %" in relu["measured"]

    assert data.sizes["run"] > 20
    for name in data.run.values:
        one = data.sel(run=name)
        one = one.isel(seed=np.flatnonzero(one.dead.notnull()))
        died, number = one.iteration_of_death > 0, one.dead_by_iteration.dropna("iteration").to_numpy()
        assert one.dead.where(~died & (one.born_dead == 0), 0).sum() == 0
        assert one.flat.where(one.dead > 0, 1).all()
        # Every first death is counted, and only revivals and the members born dead are missing.
        first = [int((died & (one.iteration_of_death <= k)).sum()) for k in range(len(number))]
        gone = number - int(one.born_dead.sum())
        assert (gone <= first).all()
        assert (gone >= np.array(first) - int(one.revivals.sum())).all()
        assert number[-1] == one.dead.sum()
        if not name.startswith("plain_relu"):
            assert not died.any()
            assert not one.born_dead.any()
            continue
        if not one.born_dead.any():
            assert ((one.layer_of_death > 0) == died).all()
        assert (one.distance.notnull() == died).all()
        np.testing.assert_allclose(one.drop_by.sum("mover")[died], one["drop"][died], rtol=1e-5, atol=1e-7)
        off = one.all_off == 1
        assert (one["drop"] >= one.distance * (1 - 1e-6)).where(off, True).all()
        assert (one.distance > 0).where(died, True).all()
        assert (one.range_before > 0).where(died, True).all()
    # Hardly any comes back: only where layers that are each off at some points together are off at all.
    (dead,) = (name for name in data.run.values if name.endswith("dead") and ", adam" in name)
    assert data.dead.sel(run=dead).mean() > 0.9

    # One member by itself: its function varies until the step before, and is a constant from the next.
    death = int(data.example_death)
    varies = data.example.max("x") - data.example.min("x")
    assert varies.sel(at=death) == 0 < varies.sel(at=death - 1)


@pytest.mark.slow
def test_your_model(tmp_path):
    done = run("your_model", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["resnet", "transformer", "mlp_tanh", "mlp_relu", "mlp_torch"]
    with xarray.open_dataset(tmp_path / "your_model.nc", engine="h5netcdf") as whole:
        data = {name: whole.sel(network=name).load() for name in names}
        assert len(json.loads(whole.attrs["claims"])) == 3 + len(names)
    for name, one in data.items():
        # A page of each report, which is stored with the data and printed.
        assert "<html" in (tmp_path / f"your_model_{name}.html").read_text()
        assert json.loads(one.report.item())["title"] in done.stdout
        assert one.log_values.sizes == {"depth": 16, "x": 4, "index": 96}
        one["log_condition"] = one.log_values.isel(index=0) - one.log_values.isel(index=-1)
    for name, one in data.items():
        assert one.passed.all(), name
        assert one.log_values.dims == ("depth", "x", "index")
        # |J_l ... J_1| <= product of 1 + |J_i - I|, and float32 stores the left side to 1e-6.
        largest = one.log_values.sel(index=1)
        assert (largest <= np.log1p(one.distance_from_identity).cumsum("depth") + 1e-6 * (1 + abs(largest))).all(), name
        # The leading value a naive product has right.
        np.testing.assert_allclose(one.naive[:, 0], largest[:, 0], rtol=1e-6, atol=1e-6)
    for name in ("resnet", "transformer"):
        one = data[name]
        assert (one["rank"] == one.index.size).all()
        assert (one.right == one.index.size).all()
        assert one.distance_from_identity[-1].median() < 1 < data["mlp_tanh"].distance_from_identity.min()
        # Less than a third of the decades, at every point.
        assert 3 * one.log_condition[-1].max() < data["mlp_tanh"].log_condition[-1].min()
    # In float64 nothing smaller than 2^-52 of the largest value can be told.
    tanh, relu = data["mlp_tanh"], data["mlp_relu"]
    assert (tanh["rank"] == tanh.index.size).all()
    assert tanh.log_condition[-1].min() > np.log(2.0**52)
    assert tanh.right[-1] < tanh.index.size
    # Ranks only fall, and a naive product does not see it.
    assert (relu["rank"].diff("depth") <= 0).all()
    assert (relu["rank"][-1] < relu.index.size / 2).all()
    assert np.isinf(relu.log_condition[-1]).all()
    assert (relu.naive[-1] > -np.inf).sum() > relu["rank"][-1, 0]
    # The largest value of one layer is at the edge of infinite width to a relative n^(-2/3).
    assert (abs(relu.log_values.sel(index=1, depth=1) - relu.theory.sel(depth=1)) < relu.index.size ** (-2 / 3)).all()


@pytest.mark.slow
def test_ensemble(tmp_path):
    done = run("ensemble", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with xarray.open_datatree(tmp_path / "ensemble.nc", engine="h5netcdf") as data:
        chains, modules = data["chains"].to_dataset(), data["modules"].to_dataset()
        assert {claim["source"] for claim in json.loads(data.attrs["claims"])} >= {"Veit 2016", "theory", "design"}
        for one in (chains, modules):
            np.testing.assert_allclose(one.share.sum("length"), 1, rtol=1e-5)
            np.testing.assert_allclose(one.random.sum("length"), 1, rtol=1e-5)
            assert not one.change.sel(left_out=0).any()
            assert float(one.expected_change.max()) <= 1 + 1e-6
        # A fresh chain is near what random signs give, a trained one is not.
        ratio = (chains.change / chains.expected_change).sel(network="residual2_prelu", left_out=[1, 2]).median("seed")
        assert (abs(np.log(ratio.sel(state="start"))) < np.log(1.5)).all()
        assert (ratio.sel(state="trained") > 1.5).all()
        folds = chains.folds.sel(network=["residual2_relu", "residual2_prelu"])
        assert (folds.sel(where="before", what="kept") == folds.sel(where="before", what="all")).all()
        assert not folds.sel(where=["own", "after"], what="kept").any()
        # Without any of its steps a residual chain is the line x.
        x = np.linspace(-3, 3, 257)
        line = np.mean((x - np.sin(x)) ** 2) / np.var(np.sin(x), ddof=1)
        np.testing.assert_allclose(chains.error.sel(network="residual2_relu").isel(left_out=-1), line, rtol=1e-5)


def test_what_ensemble_measures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "analyses")
    import ensemble_cells as cells
    import ensemble_networks as networks

    # A direction is pushed through layers as their Jacobians would push it: a linear network, one direction after
    # another, gives the Frobenius norms.
    generator = torch.Generator().manual_seed(0)
    matrices = torch.eye(4) + 0.5 * torch.randn(5, 4, 4, generator=generator)
    blocks = [lambda h, m=m: h @ m.T for m in matrices.double()]
    energies = 0
    for direction in torch.eye(4, dtype=torch.float64):
        one = networks.probed(blocks, torch.zeros(4, dtype=torch.float64), direction)
        total = torch.linalg.multi_dot(list(matrices.double().flip(0))) @ direction
        assert one["share"].shape == (6,)
        c0 = direction.square().sum().item()
        energies = energies + one["share"] / one["share"][0] * c0  # the energy of length 0 is that of the direction
        assert total.isfinite().all()
    exact = (2 * st.paths(matrices.double()).log_norms).exp().numpy()
    np.testing.assert_allclose(energies, exact, rtol=1e-9)

    # |x| then | |x| - 1 |: without the first step the second folds at 1, without the second there is one fold at 0.
    table = np.array([[0.0, 0, 0, 0, 0, 1]] * 2)
    table[:, 0], table[:, 1], table[:, 2] = 1.0, -1.0, [0.0, 1.0]  # x + 2 relu(-x + b) - b
    table[:, 3], table[:, 4], table[:, 5] = 2.0, [0.0, -1.0], 0.0
    folds, maker = cells.made_by(table, 2)
    np.testing.assert_allclose(folds, [-1, 0, 1])
    assert maker.tolist() == [1, 0, 1]
    # Without the first the fold at 1 stays, which is where |x| = x; without the second that at 0.
    assert cells.folds_left(table, 2) == [[1, 1, 0], [3, 0, 0], [2, 1, 0]]
