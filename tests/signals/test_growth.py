"""Growth laws against known ones: coverage, densities from scipy, right picks, and what the verdict says."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stability.signals.growth_laws import SHAPES, SPREADS
from stability.signals.growth_verdict import fit_series

LAYERS = np.arange(1.0, 41.0)
LAWS = [(shape, spread) for shape in SHAPES for spread in SPREADS]
#: Log-factors of a layer and their mean.
LOG_FACTORS = {
    "normal, growing": (lambda random, shape: random.normal(0.3, 1.2, shape), 0.3),
    "normal, neither": (lambda random, shape: random.normal(0.0, 0.7, shape), 0.0),
    "uniform, decaying": (lambda random, shape: random.uniform(-1.0, 0.6, shape), -0.2),
    "log |U(-1, 1)|, decaying": (lambda random, shape: np.log(abs(random.uniform(-1, 1, shape))), -1.0),
}


def fit(logs, positions=None, along="depth", **options):
    positions = LAYERS[: len(logs)] if positions is None else positions
    return fit_series(positions, logs, quantity="gradient norm", along=along, **options)


def curve(shape, positions, exponent=None):
    return {
        "constant": lambda x: 0 * x,
        "exponential": lambda x: x,
        "power": np.log,
        "stretched": lambda x: x**exponent,
    }[shape](positions)[:, None]


def noise(random, spread, n, seeds):
    steps = random.standard_normal((n, seeds))
    return steps.cumsum(axis=0) if spread == "random walk" else steps


def straight(slopes, n=20):
    """Members that go straight, each at its own slope: a random walk's shape with everything known by hand."""
    return LAYERS[:n, None] * np.asarray(slopes)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOG_FACTORS)
@pytest.mark.parametrize("seeds", [8, 50])
def test_the_interval_covers_the_mean_log_of_a_factor(name, seeds):
    draw, truth = LOG_FACTORS[name]
    random = np.random.default_rng([seeds, list(LOG_FACTORS).index(name)])
    covered = 0
    for _ in range(500):
        low, high = fit(draw(random, (40, seeds)).cumsum(axis=0)).law("exponential", "random walk").interval
        covered += low <= truth <= high
    assert 460 <= covered <= 490, covered


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 0.8])
def test_the_level_is_that_of_the_interval(level):
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        logs = 2 * np.log(LAYERS)[:, None] + noise(random, "independent", 40, 5)
        low, high = fit(logs, level=level).law("power", "independent").interval
        covered += low <= 2 <= high
    assert abs(covered / 500 - level) < 4 * math.sqrt(level * (1 - level) / 500)


@pytest.mark.parametrize(("shape", "spread"), LAWS)
@pytest.mark.parametrize("unit", [1.0, 7.0])
def test_the_likelihood_is_the_density_of_the_differences_and_at_its_greatest(shape, spread, unit):
    random = np.random.default_rng(1)
    positions = unit * np.array([1.0, 2, 3, 5, 8, 13, 21, 24])
    logs = 3 * random.standard_normal(5) + random.standard_normal((8, 5)) - 0.2 * curve("stretched", positions, 0.6)
    law = fit(logs, positions).law(shape, spread)
    neighbours = np.diff(np.eye(8), axis=0)
    of_noise = neighbours @ neighbours.T if spread == "independent" else np.diag(np.diff(positions))

    def log_likelihood(coefficient, sigma, exponent):
        mean = coefficient * neighbours @ curve(shape, positions, exponent)[:, 0]
        return stats.multivariate_normal(mean, sigma**2 * of_noise).logpdf((neighbours @ logs).T).sum()

    greatest = log_likelihood(law.coefficient, law.sigma, law.exponent)
    parameters = {"constant": 1, "exponential": 2, "power": 2, "stretched": 3}[shape]
    assert law.bic == pytest.approx(-2 * greatest + parameters * math.log(5 * 7), rel=1e-12)
    for step in (-1e-3, 1e-3):
        assert log_likelihood(law.coefficient, law.sigma * (1 + step), law.exponent) < greatest
        if shape != "constant":
            assert log_likelihood(law.coefficient * (1 + step), law.sigma, law.exponent) < greatest
        if shape == "stretched" and 0.1 < law.exponent + step < 0.9:
            assert log_likelihood(law.coefficient, law.sigma, law.exponent + step) < greatest


def test_rates_of_members_are_those_of_regression_and_their_interval_students():
    random = np.random.default_rng(2)
    logs = noise(random, "random walk", 40, 6)
    found = fit(logs)
    by_hand = {
        ("exponential", "independent"): [stats.linregress(LAYERS, y).slope for y in logs.T],
        ("power", "independent"): [stats.linregress(np.log(LAYERS), y).slope for y in logs.T],
        ("exponential", "random walk"): (logs[-1] - logs[0]) / 39,
        ("constant", "independent"): np.zeros(6),
        ("constant", "random walk"): np.zeros(6),
    }
    for name, slopes in by_hand.items():
        law = found.law(*name)
        np.testing.assert_allclose(law.by_seed, slopes, rtol=1e-10, atol=1e-14)
        assert law.coefficient == pytest.approx(np.mean(slopes), abs=1e-14)
        assert law.median == pytest.approx(np.median(slopes), abs=1e-14)
        if law.shape != "constant":
            expected = stats.t.interval(0.95, 5, loc=np.mean(slopes), scale=stats.sem(slopes))
            assert law.interval == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("shape", "spread", "coefficient"),
    [
        ("constant", "independent", 0.0),
        ("constant", "random walk", 0.0),
        ("exponential", "independent", -0.1),
        ("exponential", "random walk", 0.5),
        ("power", "independent", -1.5),
        ("power", "random walk", 8.0),
        ("stretched", "independent", -2.0),
    ],
)
def test_the_law_that_made_the_data_is_picked(shape, spread, coefficient):
    random = np.random.default_rng([3, LAWS.index((shape, spread))])
    right = 0
    for _ in range(100):
        logs = random.normal(0, 5, 8) + coefficient * curve(shape, LAYERS, 0.5) + noise(random, spread, 40, 8)
        best = fit(logs).best
        right += (best.shape, best.spread) == (shape, spread)
    assert right >= 93, right


def test_the_exponent_of_a_stretched_law_is_found():
    random = np.random.default_rng(4)
    for exponent in (0.2, 0.5, 0.8):
        logs = -5 * curve("stretched", LAYERS, exponent) + 0.1 * noise(random, "independent", 40, 50)
        assert fit(logs).best.exponent == pytest.approx(exponent, abs=0.02)
    assert fit(-5 * curve("stretched", LAYERS, 0.37) + np.arange(3)).best.exponent == pytest.approx(0.37, abs=1e-6)


def test_the_verdict_of_an_exponential_law():
    # Slopes 0.01 apart: their standard error is 0.00913, Student's 2.306 of it 0.02105, and exp(-1.7) is 0.18268.
    slopes = -1.7 + 0.01 * np.arange(-4, 5)
    found = fit(straight(slopes))
    assert found.verdict == (
        "decays by a factor 0.183 a layer (0.179 to 0.187); e-folding depth 0.588; "
        "spread of the log 0.0258 times the root of the depth"
    )
    assert repr(found) == f"GrowthFit(gradient norm along depth: {found.verdict})"
    assert found.rate == pytest.approx(-1.7)
    assert found.factor == pytest.approx(math.exp(-1.7))
    assert found.e_folding == pytest.approx(1 / 1.7)
    assert found.interval == pytest.approx((-1.72105, -1.67895), abs=1e-5)
    assert fit(straight(-slopes), along="layer").verdict == (
        "grows by a factor 5.47 a layer (5.36 to 5.59); e-folding depth 0.588; "
        "spread of the log 0.0258 times the root of the layer count"
    )


def test_the_verdict_has_the_digits_that_the_interval_bears():
    assert fit(straight(1.2345e-3 + 1e-5 * np.arange(-4, 5))).verdict.startswith(
        "grows by a factor 1.00124 a layer (1.00121 to 1.00126)"
    )


@pytest.mark.parametrize("spread", SPREADS)
def test_the_verdict_of_a_constant_law(spread):
    found = fit(noise(np.random.default_rng(5), spread, 40, 20))
    low, high = found.interval
    expected = f"neither grows nor decays: the rate is within {low:+.2g} to {high:+.2g} a layer"
    if spread == "random walk":
        expected += f"; spread of the log {found.best.sigma:.3g} times the root of the depth"
    assert low < 0 < high
    assert found.verdict == expected
    assert (found.best.shape, found.best.spread) == ("constant", spread)
    assert found.interval == found.law("exponential", spread).interval
    assert found.rate == found.law("exponential", spread).coefficient
    assert found.factor == math.exp(found.rate)
    assert found.e_folding is None


def test_a_rate_too_near_zero_for_a_law_of_its_own_is_told():
    # The interval leaves 0 out at about 2 standard errors, BIC asks for more.
    random, found = np.random.default_rng(6), None
    for _ in range(50):
        found = fit(0.002 * LAYERS[:, None] + 0.3 * noise(random, "independent", 40, 20))
        if found.best.shape == "constant" and found.interval[0] > 0:
            break
    assert "a layer, too near 0 to be told from it" in found.verdict
    assert found.e_folding is None


def test_an_exponential_law_whose_interval_holds_zero_has_no_e_folding_depth():
    # Members that go straight in both directions: their increments say exponential, their spread says nothing.
    logs = straight([3.0, 2.0, 1.5, 0.5, -0.5]) + 0.01 * noise(np.random.default_rng(7), "independent", 20, 5)
    found = fit(logs)
    assert found.best.shape == "exponential"
    assert found.interval[0] < 0 < found.interval[1]
    assert found.e_folding is None
    assert "; the interval holds no change; " in found.verdict
    assert "e-folding" not in found.verdict


@pytest.mark.parametrize("along", ["depth", "layer"])
def test_the_verdict_of_a_power_law_has_its_exponent_and_no_rate(along):
    logs = -1.5 * np.log(LAYERS)[:, None] + noise(np.random.default_rng(8), "independent", 40, 20)
    powers = [stats.linregress(np.log(LAYERS), y).slope for y in logs.T]
    low, high = stats.t.interval(0.95, 19, loc=np.mean(powers), scale=stats.sem(powers))
    found = fit(logs, along=along)
    assert low < -1.5 < high
    assert found.verdict == f"falls as {along}^{np.mean(powers):.3g} ({low:.3g} to {high:.3g})"
    assert (found.rate, found.interval, found.factor, found.e_folding) == (None, None, None, None)
    assert fit(-logs, along=along).verdict == f"grows as {along}^{-np.mean(powers):.3g} ({-high:.3g} to {-low:.3g})"


def test_the_verdict_of_a_stretched_law_has_its_exponent_and_no_rate():
    random = np.random.default_rng(9)
    found = fit(-2 * curve("stretched", LAYERS, 0.5) + 0.02 * noise(random, "independent", 40, 20))
    words = re.fullmatch(r"falls as exp\((.*) depth\^(.*)\) \((.*) to (.*) at the exponent (.*)\)", found.verdict)
    coefficient, exponent, low, high, again = map(float, words.groups())
    assert coefficient == pytest.approx(found.best.coefficient, rel=1e-2)
    assert (low, high) == pytest.approx(found.best.interval, rel=1e-2)
    assert exponent == again == pytest.approx(0.5, abs=0.02)
    assert (found.rate, found.interval, found.factor, found.e_folding) == (None, None, None, None)
    # Outside of the range that exponents are looked for in.
    edges = {0.08: "at the exponent 0.1, the end of its range)", 0.93: "at the exponent 0.9, the end of its range)"}
    for exponent, expected in edges.items():
        edge = fit(10 * curve("stretched", LAYERS, exponent) + 0.001 * noise(random, "independent", 40, 20))
        assert expected in edge.verdict


def test_laws_that_the_data_do_not_tell_apart_are_named():
    steps, said = noise(np.random.default_rng(10), "random walk", 40, 8), set()
    for drift in np.linspace(0.1, 0.4, 40):
        found = fit(steps + drift * LAYERS[:, None])
        other = next(law for law in found.laws if law.shape != found.best.shape)
        expected = f"the data do not tell {found.best.shape} from {other.shape}"
        close = other.bic - found.best.bic < 2
        assert (expected in found.verdict) == close == ("tell" in found.verdict)
        said.add(close)
    assert said == {True, False}


def test_two_spreads_of_one_shape_need_not_be_told_apart():
    random, near = np.random.default_rng(13), 0
    for _ in range(20):
        found = fit(3 * LAYERS[:6, None] + noise(random, "random walk", 6, 3))
        first, second, third = found.laws[:3]
        if first.shape == second.shape and second.bic - first.bic < 2 < third.bic - first.bic:
            near += 1
            assert "tell" not in found.verdict
    assert near


def test_a_few_members_that_carry_the_mean_are_told():
    found = fit(straight([-0.1] * 40 + [-3.0] * 10))
    assert "the median over seeds differs, -0.1: a few members carry the mean" in found.verdict
    assert found.best.median == pytest.approx(-0.1)
    assert "median" not in fit(straight(np.linspace(-1, -0.5, 50))).verdict


def test_dead_members_are_counted_and_left_out():
    slopes = -1.7 + 0.01 * np.arange(-4, 5)
    logs = np.full((20, 14), -math.inf)
    logs[:, :9] = straight(slopes)
    logs[:12, 9:13] = -1.0  # four die at layer 13
    logs[:, 13] = -5.0
    logs[3, 13] = -math.inf  # one has a layer without gradient
    found = fit(logs)
    assert (found.seeds, found.alive) == (14, 9)
    assert found.dead == 4 / 14
    alive = fit(straight(slopes))
    assert found.verdict == (
        alive.verdict
        + "; 28.6 % of members exactly dead at depth 20; 1 of 14 members exactly zero elsewhere and left out"
    )
    np.testing.assert_array_equal(found.best.by_seed, alive.best.by_seed)
    assert fit(logs, along="layer").verdict.count("exactly dead at layer 20") == 1


def test_a_rate_is_declined_where_there_are_no_data_for_one():
    logs = straight([-1.0, -1.1, -1.2, -1.3, -1.4])
    dead = np.full_like(logs, -math.inf)
    two = np.where(np.arange(5) < 2, logs, -math.inf)
    three = np.where(np.arange(5) < 3, logs, -math.inf)
    reasons = {
        "no rate: all 5 members are exactly dead at depth 20": fit(dead),
        "no rate: 2 of 5 members are alive at every position, and it takes 3": fit(two),
        "no rate: 1 of 1 members are alive at every position, and it takes 3: join the results of several seeds by "
        "of_seeds": fit(logs[:, :1]),
        "no rate: there are 3 positions, and it takes 4": fit(logs[:3]),
    }
    for reason, found in reasons.items():
        assert found.verdict == reason
        assert (found.best, found.laws, found.rate, found.interval) == (None, (), None, None)
        assert (found.factor, found.e_folding) == (None, None)
        with pytest.raises(ValueError, match=f"no law was fitted to gradient norm: {reason}"):
            found.law("power", "independent")
        with pytest.raises(ValueError, match=f"no law was fitted to gradient norm: {reason}"):
            found.predict([1.0])
    assert fit(three).rate == pytest.approx(-1.1)
    assert fit(logs[:4]).rate == pytest.approx(-1.2)


@pytest.mark.parametrize("offsets", [np.zeros(4), np.array([1e-3, -700, 3, 0.1])])
@pytest.mark.parametrize("shape", ["constant", "exponential", "power"])
@pytest.mark.parametrize("coefficient", [-0.1, 12.3])
def test_data_without_noise_show_their_law(offsets, shape, coefficient):
    found = fit(offsets + coefficient * curve(shape, LAYERS))
    assert found.best.shape == shape
    assert found.best.sigma == 0
    coefficient *= shape != "constant"
    assert found.best.coefficient == pytest.approx(coefficient, rel=1e-12, abs=1e-14)
    assert found.best.interval == pytest.approx((coefficient, coefficient), rel=1e-12, abs=1e-14)
    assert "spread" not in found.verdict
    assert "median" not in found.verdict
    assert "tell" not in found.verdict


@pytest.mark.parametrize("seeds", [3, 7, 10, 50])
def test_equal_members_have_intervals_without_width(seeds):
    random = np.random.default_rng(11)
    for _ in range(5):
        found = fit(noise(random, "random walk", 40, 1) - LAYERS[:, None] + np.zeros(seeds))
        low, high = found.best.interval
        assert high - low < 1e-13
        assert found.best.sigma > 0
        assert "median" not in found.verdict


@pytest.mark.parametrize("value", [0.0, 0.1, -300.7])
def test_members_that_never_change_have_a_rate_of_exactly_zero(value):
    found = fit(np.full((40, 3), value))
    assert found.verdict == "neither grows nor decays: the rate is within +0 to +0 a layer"
    assert found.interval == (0.0, 0.0)
    np.testing.assert_allclose(found.predict(LAYERS), value, rtol=1e-15)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("shape", "coefficient"), [("exponential", -1.0), ("power", -20.0), ("stretched", -9.0)])
def test_predictions_are_the_mean_curve(shape, spread, coefficient):
    random = np.random.default_rng(12)
    scale, seeds = 0.1, 200
    logs = 3 + coefficient * curve(shape, LAYERS, 0.5) + scale * noise(random, spread, 40, seeds)
    found = fit(logs)
    assert (found.best.shape, found.best.spread) == (shape, spread)
    at = np.array([[1.0, 7.0], [20.0, 40.0]])
    # The mean at the last position is off by sigma sqrt(depth / seeds) for a walk, which bounds the others.
    error = 4 * scale * math.sqrt(40 / seeds)
    np.testing.assert_allclose(
        found.predict(at), 3 + coefficient * curve(shape, at.ravel(), 0.5).reshape(2, 2), atol=error
    )
    law = found.law("exponential", spread)
    if spread == "random walk":
        assert law.intercept + law.coefficient == pytest.approx(logs[0].mean())
    else:
        assert law.intercept + law.coefficient * LAYERS.mean() == pytest.approx(logs.mean())


def test_tensors_and_whole_numbers_are_taken():
    logs = straight([-1.0, -1.1, -1.3])
    expected = fit(logs)
    assert fit(torch.tensor(logs, requires_grad=True), torch.arange(1, 21)).verdict == expected.verdict
    assert fit(logs.tolist(), list(range(1, 21))).rate == expected.rate
    given, positions = logs.copy(), LAYERS[:20].copy()
    found = fit(given, positions)
    positions[:] = 0
    np.testing.assert_array_equal(given, logs)
    np.testing.assert_array_equal(found.positions, LAYERS[:20])


def broken(place, value):
    logs = np.zeros((4, 3))
    logs[place] = value
    return logs


@pytest.mark.parametrize(
    ("positions", "logs", "error", "message"),
    [
        ([1, 2, 3], np.zeros((4, 3)), ValueError, r"shapes \(3,\) and \(4, 3\): expected \(n,\) and"),
        ([1, 2, 3, 4], np.zeros(4), ValueError, r"and \(4,\): .* a single series is log_values\[:, None\]"),
        ([[1], [2]], np.zeros((2, 3)), ValueError, r"shapes \(2, 1\)"),
        ([1, 2, 3, 4], np.zeros((4, 0)), ValueError, r"\(4, 0\): .* at least one member"),
        ([], np.zeros((0, 3)), ValueError, r"\(0, 3\)"),
        ([0, 1, 2, 3], np.zeros((4, 3)), ValueError, "begin at 0: expected numbers above 0; count layers from 1"),
        ([1, 2, 2, 3], np.zeros((4, 3)), ValueError, "go from 2 to 2 at place 2: expected rising numbers"),
        ([4, 3, 2, 1], np.zeros((4, 3)), ValueError, "go from 4 to 3 at place 1"),
        ([1, 2, math.nan, 4], np.zeros((4, 3)), ValueError, "positions has 1 values that are not finite"),
        ([1, 2, 3, math.inf], np.zeros((4, 3)), ValueError, "positions has 1 values that are not finite"),
        ([1, 2, 3, 4], broken((2, 1), math.nan), ValueError, r"NaN or \+inf, the first nan at \(2, 1\): expected nat"),
        ([1, 2, 3, 4], broken((0, 2), math.inf), ValueError, r"NaN or \+inf, the first inf at \(0, 2\)"),
        ([1, 2, 3, 4], np.zeros((4, 3), complex), TypeError, "log_values holds complex128: expected real numbers"),
        (["a"], np.zeros((1, 3)), TypeError, "positions holds <U1"),
    ],
)
def test_what_is_refused(positions, logs, error, message):
    with pytest.raises(error, match=message):
        fit(logs, positions)


def test_options_that_are_refused():
    logs = straight([-1.0, -1.1, -1.3])
    with pytest.raises(ValueError, match="unknown along 'layers': known are 'layer', 'depth'; the nearest is 'layer'"):
        fit(logs, along="layers")
    for level in (0.0, 1.0, 95, math.nan):
        with pytest.raises(ValueError, match=f"level is {level}: expected a share above 0 and below 1"):
            fit(logs, level=level)
    found = fit(logs)
    with pytest.raises(ValueError, match="unknown shape 'powr'"):
        found.law("powr", "independent")
    with pytest.raises(ValueError, match="unknown spread 'walk'"):
        found.law("power", "walk")
    for at in (0.0, [1.0, -1.0], math.nan, math.inf):
        with pytest.raises(ValueError, match="expected finite numbers above 0"):
            found.predict(at)


@st.composite
def series(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, seeds = draw(st.integers(4, 30)), draw(st.integers(3, 10))
    positions = random.integers(1, 5, n).cumsum().astype(float)
    shape, spread = draw(st.sampled_from(LAWS))
    logs = random.normal(0, 2) * curve(shape, positions, 0.5) + noise(random, spread, n, seeds)
    return positions, logs, random


def same(laws, others, of_coefficient=lambda _: 1.0, of_sigma=lambda _: 1.0):
    """Hold the laws of two fits together, up to the factors that coefficient and sigma are expected to change by."""
    for law in laws:
        other = next(o for o in others if (o.shape, o.spread) == (law.shape, law.spread))
        scale = of_coefficient(law)
        # The exponent is where a parabola is least, known to the root of eps, and what hangs on it as well.
        known = {"rel": 1e-4, "abs": 1e-7} if law.shape == "stretched" else {"rel": 1e-8, "abs": 1e-10}
        assert other.coefficient == pytest.approx(scale * law.coefficient, **known)
        assert sorted(other.interval) == pytest.approx(sorted(scale * end for end in law.interval), **known)
        assert other.median == pytest.approx(scale * law.median, **known)
        assert other.sigma == pytest.approx(of_sigma(law) * law.sigma, rel=1e-8)
        assert other.bic == pytest.approx(law.bic, rel=1e-8, abs=1e-6)
        if law.exponent is not None:
            assert other.exponent == pytest.approx(law.exponent, abs=1e-5)


@given(series(), st.floats(-1e3, 1e3))
def test_a_constant_for_each_member_changes_no_rate(drawn, size):
    positions, logs, random = drawn
    same(fit(logs, positions).laws, fit(logs + size * random.standard_normal(logs.shape[1]), positions).laws)


@given(series(), st.floats(1e-3, 1e3))
def test_another_unit_of_depth_scales_the_rate(drawn, unit):
    positions, logs, _ = drawn
    powers = {"constant": 0, "exponential": 1, "power": 0}
    same(
        fit(logs, positions).laws,
        fit(logs, unit * positions).laws,
        of_coefficient=lambda law: unit ** -powers.get(law.shape, law.exponent),
        of_sigma=lambda law: 1.0 if law.spread == "independent" else unit**-0.5,
    )


@given(series())
def test_the_order_of_members_changes_nothing(drawn):
    positions, logs, random = drawn
    order = random.permutation(logs.shape[1])
    before, after = fit(logs, positions), fit(logs[:, order], positions)
    same(before.laws, after.laws)
    for law in after.laws:
        np.testing.assert_allclose(law.by_seed, before.law(law.shape, law.spread).by_seed[order], rtol=1e-4, atol=1e-7)


@given(series())
def test_the_inverse_has_the_opposite_rate(drawn):
    positions, logs, _ = drawn
    same(fit(logs, positions).laws, fit(-logs, positions).laws, of_coefficient=lambda _: -1.0)
