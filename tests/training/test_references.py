"""References against closed forms, definitions and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from scipy.integrate import quad

import stability as st

FINE = st.Task(torch.sin, (-3, 3), points=200_001)
samples = some.lists(
    some.tuples(some.integers(-5, 5).map(float), some.integers(-20, 20).map(lambda i: i / 4)), min_size=2, max_size=12
)


def test_references_of_the_sine_are_their_integrals():
    assert st.references.constant(FINE) == pytest.approx(0.5 - math.sin(6) / 12, abs=1e-5)
    above = quad(lambda x: (x - math.sin(x)) ** 2, 0, 3)[0] / 6
    assert st.references.best_above_identity(FINE) == pytest.approx(above, abs=2e-5)
    # The isotonic fit of an odd rise and fall: sin x up to a, then the mean of the rest, which sin a must equal.
    a = next(t for t in np.linspace(0, 1.5, 150_001) if math.sin(t) >= (math.cos(t) - math.cos(3)) / (3 - t))
    monotone = 2 * quad(lambda x: (math.sin(x) - math.sin(a)) ** 2, a, 3)[0] / 6
    assert st.references.best_monotone(FINE) == pytest.approx(monotone, abs=1e-5)


@given(samples)
def test_constant_and_above_identity_by_definition(pairs):
    task = st.Task.from_samples(*zip(*pairs, strict=True))
    x, y = (np.array(v) for v in zip(*pairs, strict=True))
    assert st.references.constant(task) == pytest.approx(np.mean((y - y.mean()) ** 2), abs=1e-12)
    # At each x the best value not below x, found by trying the mean and x itself.
    total = 0.0
    for value in np.unique(x):
        here = y[x == value]
        candidates = [c for c in (here.mean(), value) if c >= value]
        total += min(((here - c) ** 2).sum() for c in candidates)
    assert st.references.best_above_identity(task) == pytest.approx(total / len(x), abs=1e-12)


@given(samples)
def test_monotone_by_the_min_max_formula(pairs):
    task = st.Task.from_samples(*zip(*pairs, strict=True))
    x, y = (np.array(v) for v in zip(*pairs, strict=True))
    errors = []
    for sign in (1, -1):
        levels = np.unique(x)
        fit = {}
        for i, level in enumerate(levels):
            fit[level] = max(
                min(np.mean(sign * y[(x >= levels[j]) & (x <= levels[k])]) for k in range(i, len(levels)))
                for j in range(i + 1)
            )
        errors.append(np.mean([(sign * v - fit[u]) ** 2 for u, v in zip(x, y, strict=True)]))
    assert st.references.best_monotone(task) == pytest.approx(min(errors), abs=1e-12)


def spline_error(x, y, knots):
    """Least squares on 1, x and (x - t)+: another basis than the one under test."""
    basis = np.stack([np.ones_like(x), x, *(np.maximum(x - t, 0) for t in knots)], axis=1)
    return np.mean((basis @ np.linalg.lstsq(basis, y, rcond=None)[0] - y) ** 2)


@pytest.mark.parametrize("target", [torch.sin, lambda x: (-(x**2)).exp(), lambda x: x.abs() + 0.3 * x**3])
def test_splines_are_as_good_as_brute_force(target):
    task = st.Task(target, (-2, 3), points=60)
    x, y = task.x.numpy(), task.y.numpy()
    grid = np.linspace(-1.9, 2.9, 49)
    for folds in (1, 2):
        brute = min(spline_error(x, y, knots) for knots in itertools.combinations(grid, folds))
        # A local minimum, so the best on a grid may be a little lower.
        assert st.references.best_spline(task, folds) <= brute * (1 + 1e-3)
        assert st.references.best_spline(task, folds) >= 0.5 * brute
    assert st.references.best_spline(task, 0) == pytest.approx(spline_error(x, y, []), rel=1e-10)


def test_a_spline_is_recovered_and_the_rate_is_the_fourth_power():
    bent = st.Task(lambda x: (x + 1).relu() - 2 * (x - 0.5).relu(), (-3, 3))
    assert st.references.best_spline(bent, 2) < 1e-12
    # sin with n folds: near 0.667 / (n + 1)^4 on a fine grid.
    task = st.Task(torch.sin, (-3, 3), points=2001)
    assert st.references.best_spline(task, 30) * 31**4 == pytest.approx(0.667, rel=0.1)
    assert st.references.best_spline(task, 4) == pytest.approx(7.4e-4, rel=0.02)


def test_as_many_knots_as_points_leave_only_the_noise():
    task = st.Task.from_samples([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 3.0, 1.0])
    assert st.references.best_spline(task, 1) == pytest.approx(2 / 4)


def test_noise_is_added_to_what_a_spline_can_do():
    x = np.repeat(np.linspace(-2, 3, 20), 2)
    y = np.sin(x) + np.tile([0.3, -0.3], 20)
    task = st.Task.from_samples(x, y)
    assert st.references.best_spline(task, 0) == pytest.approx(spline_error(x, y, []), rel=1e-12)
    clean = st.Task.from_samples(x[::2], np.sin(x[::2]))
    assert st.references.best_spline(task, 2) == pytest.approx(0.09 + st.references.best_spline(clean, 2), rel=1e-6)


@pytest.mark.parametrize(("x_scale", "y_scale"), [(1e-150, 1.0), (1e150, 1.0), (1.0, 1e-100), (1.0, 1e100)])
def test_splines_know_no_scale(x_scale, y_scale):
    x = np.linspace(-2, 3, 50)
    expected = st.references.best_spline(st.Task.from_samples(x, np.sin(x)), 3)
    got = st.references.best_spline(st.Task.from_samples(x_scale * x, y_scale * np.sin(x)), 3)
    assert got == pytest.approx(y_scale**2 * expected, rel=1e-4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="folds is -1"):
        st.references.best_spline(FINE, -1)
    wide = st.Task.from_samples(torch.zeros(3, 2), torch.zeros(3, 2))
    for reference in (st.references.best_monotone, st.references.constant, st.references.best_above_identity):
        with pytest.raises(ValueError, match="references need one variable"):
            reference(wide)
