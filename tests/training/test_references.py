"""References against closed forms, definitions and brute force."""

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


def test_no_chain_comes_nearer_than_the_bound_and_one_comes_near_what_is_no_wave():
    def wave(x):
        return x + 1.5 * torch.sin(3 * x)

    # Its middle rise is between the turns where 1 + 4.5 cos 3x = 0; the fall before it is what no chain follows.
    first, second = np.arccos(-1 / 4.5) / 3, (2 * np.pi - np.arccos(-1 / 4.5)) / 3
    fall = first + 1.5 * np.sin(3 * first) - second - 1.5 * np.sin(3 * second)
    for sign in (1.0, -1.0):  # a fall and a rise, read from either side
        bound = st.references.nearest_chain(st.Task(lambda x, sign=sign: sign * wave(x), (-3, 3), points=2001))
        assert fall / 2 - 0.02 < bound <= fall / 2
    coarse = st.references.nearest_chain(st.Task(wave, (-3, 3), points=41))
    assert 0 <= coarse < bound  # what the function may do between the points is allowed for
    fits = st.evaluate(st.Chain("residual2_prelu", 30, seeds=50), torch.linspace(-3, 3, 2001, dtype=torch.float64))
    assert (fits - wave(torch.linspace(-3, 3, 2001, dtype=torch.float64))).abs().amax(1).min() >= bound
    for target in (torch.sin, torch.abs, lambda x: x.sign()):
        assert st.references.nearest_chain(st.Task(target, (-3, 3), points=501)) == 0


def test_bad_input_is_refused():
    wide = st.Task.from_samples(torch.zeros(3, 2), torch.zeros(3, 2))
    one_variable = ("best_monotone", "constant", "best_above_identity", "nearest_chain")
    for reference in (getattr(st.references, name) for name in one_variable):
        with pytest.raises(ValueError, match="references need one variable"):
            reference(wide)
