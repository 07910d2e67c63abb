"""Splines and their bounds against exact rational arithmetic, brute force over runs and knots, and closed forms."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import stability as st
from stability.training.kernels.knots import insertions
from stability.training.kernels.segments import segment_costs

best_spline = st.references.best_spline


def random_samples(seed):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 9, 10) / 2.0
    return list(zip(x, np.round(generator.normal(size=10), 2), strict=True))


samples = some.builds(random_samples, some.integers(0, 10**6)) | some.lists(
    some.tuples(some.integers(-5, 5).map(float), some.integers(-20, 20).map(lambda i: i / 4)), min_size=2, max_size=12
)
TARGETS = {
    "sin": torch.sin,
    "sin 2x": lambda x: torch.sin(2 * x),
    "wave packet": lambda x: (-(x**2)).exp() * (5 * x).cos(),
    "cubic with a kink": lambda x: x.abs() + 0.3 * x**3,
    "noise": lambda x: torch.sin(x) + 0.1 * torch.randn(len(x), generator=torch.Generator().manual_seed(0)),
}


def line_cost(x, y):
    """The sum of squares that the best line leaves, exactly."""
    x, y = [Fraction(v) for v in x], [Fraction(v) for v in y]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    xx = sum((v - mean_x) ** 2 for v in x)
    xy = sum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True))
    return sum((v - mean_y) ** 2 for v in y) - (xy**2 / xx if xx else 0)


def spline_error(x, y, knots):
    """Least squares on 1, x and (x - t)+: another basis than the one under test."""
    basis = np.stack([np.ones_like(x), x, *(np.maximum(x - t, 0) for t in knots)], axis=1)
    return np.mean((basis @ np.linalg.lstsq(basis, y, rcond=None)[0] - y) ** 2)


@settings(max_examples=100, deadline=None)
@given(samples, some.integers(0, 4))
def test_the_bound_is_the_best_over_all_runs_of_points(pairs, folds):
    pairs = sorted(pairs)
    levels = sorted({u for u, _ in pairs})
    runs = {
        (i, j): line_cost(*zip(*[p for p in pairs if levels[i] <= p[0] <= levels[j - 1]], strict=True))
        for i, j in itertools.combinations(range(len(levels) + 1), 2)
    }
    cuts = range(1, len(levels))
    exact = min(
        sum(runs[run] for run in itertools.pairwise([0, *chosen, len(levels)]))
        for chosen in itertools.combinations(cuts, min(folds, len(cuts)))
    ) / len(pairs)
    spline = best_spline(st.Task.from_samples(*zip(*pairs, strict=True)), folds)
    assert spline.lower_bound <= exact
    # What is subtracted for rounding is small next to the squares themselves.
    assert spline.lower_bound >= float(exact) * (1 - 1e-10) - 1e-18


@settings(max_examples=40, deadline=None)
@given(some.integers(0, 10**6), some.sampled_from([1.0, 1e-6, 1e-10]), some.sampled_from([0.0, 1e3]))
def test_costs_of_runs_are_below_the_exact_ones_and_close(seed, noise, offset):
    generator = np.random.default_rng(seed)
    x = np.sort(generator.uniform(-1, 1, 14))
    y = offset + x + noise * generator.normal(size=14)
    costs = segment_costs(x, y, np.arange(15))
    for j in range(14):
        for i in range(j + 1):
            exact = line_cost(x[i : j + 1], y[i : j + 1])
            assert costs[j * (j + 1) // 2 + i] <= exact
            if i == 0 and j > 3 and noise * 1e9 > abs(offset) * 1e-3:
                assert costs[j * (j + 1) // 2] >= 0.99 * exact


@pytest.mark.parametrize("gap", [1e-165, 1e-160, 1e-155, 1e-145, 1e-130, 1e-100])
def test_costs_of_runs_survive_gaps_whose_squares_underflow(gap):
    x = np.array([0.0, gap, 2.1 * gap, 2.9 * gap, 4.3 * gap, 0.5, 0.7])
    for seed in range(20):
        y = np.random.default_rng(seed).normal(size=7)
        costs = segment_costs(x, y, np.arange(8))
        for j in range(7):
            for i in range(j + 1):
                assert 0 <= costs[j * (j + 1) // 2 + i] <= line_cost(x[i : j + 1], y[i : j + 1])


@settings(max_examples=40, deadline=None)
@given(samples)
def test_more_folds_are_never_worse_and_never_below_the_bound(pairs):
    task = st.Task.from_samples(*zip(*pairs, strict=True))
    x, y = (np.array(v) for v in zip(*pairs, strict=True))
    before = math.inf
    for folds in range(len(np.unique(x)) + 2):
        spline = best_spline(task, folds)
        assert len(spline.knots) == len(spline.values) <= folds + 2
        assert (np.diff(spline.knots) > 0).all()
        assert (spline.knots[0], spline.knots[-1]) == task.interval
        assert spline.error == pytest.approx(np.mean((spline(x) - y) ** 2), rel=1e-9, abs=1e-28)
        assert spline.lower_bound <= spline.error <= before
        before = spline.error
    noise = sum(sum((v - y[x == u].mean()) ** 2 for v in y[x == u]) for u in np.unique(x)) / len(x)
    assert before == pytest.approx(noise, rel=1e-12, abs=1e-28)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_knots_on_a_grid_are_better(target):
    task = st.Task(target, (-2, 3), points=60)
    x, y = task.x.numpy(), task.y.numpy()
    grid = np.linspace(-1.97, 2.93, 50)
    assert best_spline(task, 0).error == pytest.approx(spline_error(x, y, []), rel=1e-10)
    for folds in (1, 2):
        brute = min(spline_error(x, y, knots) for knots in itertools.combinations(grid, folds))
        spline = best_spline(task, folds)
        assert spline.error <= brute
        assert spline.error >= 0.8 * brute
        assert spline.error == pytest.approx(spline_error(x, y, spline.knots[1:-1]), rel=1e-9)
    spline = best_spline(task, 8)
    for j, shift in itertools.product(range(8), (-1e-3, 1e-3)):
        moved = spline.knots[1:-1].copy()
        moved[j] += shift
        # The error has kinks where a knot meets a point, which slow the search down.
        assert spline_error(x, y, moved) >= spline.error * (1 - 1e-3)


def test_knots_on_points_are_hardly_ever_better_for_noisy_samples():
    x = np.linspace(-1, 1, 16)
    ratios = []
    for seed, folds in itertools.product(range(12), (2, 3)):
        y = np.sin(4 * x) + 0.5 * np.random.default_rng(seed).normal(size=16)
        brute = min(spline_error(x, y, knots) for knots in itertools.combinations(x[1:-1], folds))
        ratios.append(best_spline(st.Task.from_samples(x, y), folds).error / brute)
    assert max(ratios) < 1.01
    assert np.mean(ratios) < 0.95


def test_an_inserted_knot_is_where_its_hat_gains_the_most():
    generator = np.random.default_rng(0)
    x, y = np.linspace(0, 1, 30), generator.normal(size=30)
    knots, values = np.array([0.0, 0.31, 0.72, 1.0]), generator.normal(size=4)
    gains, places = np.empty(3), np.empty(3)
    insertions(x, y, knots, values, gains, places)
    residual = y - np.interp(x, knots, values)
    for j in range(3):
        best = 0.0
        for t in (x[1:] + x[:-1]) / 2:
            if knots[j] < t < knots[j + 1]:
                hat = np.interp(x, [knots[j], t, knots[j + 1]], [0, 1, 0], left=0, right=0)
                left = residual - hat * np.linalg.lstsq(hat[:, None], residual, rcond=None)[0]
                best = max(best, residual @ residual - left @ left)
        # A piece with samples on both sides of its ends may not use the gap across an end.
        assert 0.9 * best <= gains[j] <= best * (1 + 1e-12)


@pytest.mark.parametrize(
    ("target", "folds"),
    [
        (lambda x: (x + 1).relu() - 2 * (x - 0.5).relu(), 2),
        (torch.abs, 1),
        (lambda x: (x > 0.3).double(), 2),
        (lambda x: ((x + 3) / 1.2 % 1 - 0.5).abs(), 9),
        (lambda x: (x + 3) / 1.2 % 1, 9),
    ],
    ids=["two bends", "abs", "step", "five teeth", "five jumps"],
)
def test_a_spline_is_recovered(target, folds):
    task = st.Task(target, (-3, 3), points=256)
    spline = best_spline(task, folds)
    assert spline.error < 1e-29
    assert best_spline(task, folds - 1).error > 1e-4
    assert best_spline(task, folds + 5).error <= spline.error


def test_the_sine_has_the_known_figures_and_the_rate_of_the_fourth_power():
    task = st.Task(torch.sin, (-3, 3), points=2001)
    for folds, known in ((2, 4.7e-3), (4, 7.4e-4), (10, 3.8e-5), (30, 6.7e-7)):
        spline = best_spline(task, folds)
        assert spline.error == pytest.approx(known, rel=0.02)
        assert spline.lower_bound == pytest.approx(spline.error, rel=1e-6)
    # (int |y''|^(2/5))^5 / (720 |interval| n^4) for n pieces: de Boor's density with the constant of a line, 1 / 720.
    x = np.linspace(-3, 3, 100_001)
    density = np.mean(np.abs(np.sin(x)) ** 0.4) * 6
    assert best_spline(task, 60).error * 61**4 == pytest.approx(density**5 / (720 * 6), rel=0.05)


def test_a_convex_target_needs_a_piece_for_every_two_points():
    x = np.sort(np.random.default_rng(0).uniform(-1, 2, 40))
    task = st.Task.from_samples(x, np.exp(x))
    assert best_spline(task, 19).error < 1e-29
    assert best_spline(task, 18).error >= best_spline(task, 18).lower_bound > 1e-12


def test_asking_in_any_order_gives_the_same():
    first, second = (st.Task(TARGETS["noise"], (-3, 3), points=80 + i) for i in (0, 0))
    upwards = [best_spline(first, folds).error for folds in range(12)]
    # Another task, so that nothing is kept; then many folds before few.
    best_spline(st.Task(torch.sin, (-3, 3), points=90), 3)
    for name in ("cos", "exp", "tanh", "abs"):
        best_spline(st.Task(getattr(torch, name), (-3, 3), points=20), 1)
    assert [best_spline(second, folds).error for folds in reversed(range(12))] == upwards[::-1]


def test_a_spline_is_a_function():
    spline = best_spline(st.Task(torch.sin, (-3, 3)), 5)
    x = np.linspace(-3, 3, 11)
    np.testing.assert_allclose(st.PiecewiseLinear(spline.knots, spline.values)(x), spline(x), atol=1e-14)
    assert spline(x[:10].reshape(2, 5)).shape == (2, 5)
    with pytest.raises(ValueError, match="read-only"):
        spline.values[0] = 1.0


def test_as_many_knots_as_points_leave_only_the_noise():
    task = st.Task.from_samples([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 3.0, 1.0])
    assert best_spline(task, 1).error == pytest.approx(2 / 4)
    one = best_spline(st.Task.from_samples([2.0, 2.0], [0.0, 4.0]), 3)
    assert (one.error, one.knots.tolist(), one.values.tolist()) == (4.0, [2.0], [2.0])
    assert one.lower_bound == pytest.approx(4.0)


def test_noise_is_added_to_what_a_spline_can_do():
    x = np.repeat(np.linspace(-2, 3, 20), 2)
    y = np.sin(x) + np.tile([0.3, -0.3], 20)
    task = st.Task.from_samples(x, y)
    assert best_spline(task, 0).error == pytest.approx(spline_error(x, y, []), rel=1e-12)
    clean = st.Task.from_samples(x[::2], np.sin(x[::2]))
    assert best_spline(task, 2).error == pytest.approx(0.09 + best_spline(clean, 2).error, rel=1e-6)


@pytest.mark.parametrize(
    ("x_scale", "y_scale"), [(1e-150, 1.0), (1e-307, 1.0), (1e150, 1.0), (5e307, 1.0), (1.0, 1e-100), (1.0, 1e100)]
)
def test_splines_know_no_scale(x_scale, y_scale):
    x = np.linspace(-2, 3, 50)
    expected = best_spline(st.Task.from_samples(x, np.sin(x)), 3)
    got = best_spline(st.Task.from_samples(x_scale * x, y_scale * np.sin(x)), 3)
    assert got.error == pytest.approx(y_scale**2 * expected.error, rel=1e-6)
    assert got.lower_bound == pytest.approx(y_scale**2 * expected.lower_bound, rel=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        [-1.0, -0.5, 0.0, 1e-20, 1e-310, 0.25, 0.5, 1.0, 1.0 + 1e-15],
        [1e16 + 2 * i for i in range(9)],
        [0.0, 5e-324, 1e-323, 2e-323, 0.25, 0.5, 0.75, 0.9, 1.0],
    ],
)
def test_points_closer_than_rounding_do_no_harm(x):
    y = np.array([0.0, 1.0, 0.0, 2.0, 1.0, 3.0, 1.0, 0.0, 1.0])
    task = st.Task.from_samples(np.array(x), y)
    before = math.inf
    for folds in range(8):
        spline = best_spline(task, folds)
        assert 0 <= spline.lower_bound <= spline.error <= before
        assert (np.diff(spline.knots) > 0).all()
        before = spline.error
    assert before == 0


def test_bad_input_is_refused():
    task = st.Task(torch.sin, (-3, 3))
    with pytest.raises(ValueError, match="folds is -1"):
        best_spline(task, -1)
    with pytest.raises(TypeError, match=r"folds is 2\.0"):
        best_spline(task, 2.0)
    with pytest.raises(ValueError, match=r"6000 distinct points: best_spline .* at most 5000; give"):
        best_spline(st.Task(torch.sin, (-3, 3), points=6000), 1)
    with pytest.raises(ValueError, match="references need one variable"):
        best_spline(st.Task.from_samples(torch.zeros(3, 2), torch.zeros(3, 2)), 1)
