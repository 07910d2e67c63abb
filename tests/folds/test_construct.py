"""Chains made to measure, and the functions for which there are none."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as strategy

import stability as st


def same(table, knots, values):
    """Assert that the chain is the function: at the knots, between them, and in its folds and turns."""
    table, ends, heights = np.asarray(table), list(map(Fraction, knots)), list(map(Fraction, values))
    knots, values = np.asarray(knots, dtype=float), np.asarray(values, dtype=float)
    assert (table[:, 0] == 1).all()
    assert (table[:, 5] == 0).all()
    chain = st.Chain.from_table(table[None], "residual2_relu")
    x = np.concatenate([knots, (knots[1:] + knots[:-1]) / 2, np.linspace(knots[0], knots[-1], 50)])
    h = x.copy()
    for skip, weight, bias, outer_weight, outer_bias, _ in table:  # by hand, with no code of the package
        h = skip * h + outer_weight * np.maximum(weight * h + bias, 0) + outer_bias
    scale = np.abs(values).max() + np.abs(knots).max()
    steepness = np.abs(np.diff(values) / np.diff(knots)).max() + 1
    np.testing.assert_allclose(h, np.interp(x, knots, values), atol=1e-12 * scale * steepness * len(table))
    slopes = [(b - a) / (d - c) for a, b, c, d in zip(heights, heights[1:], ends, ends[1:], strict=False)]
    signs = [s for s in slopes if s]
    count = st.count(chain, (knots[0], knots[-1]))
    folds = sum(a != b for a, b in itertools.pairwise(slopes))
    if len(set(values)) == len(values):
        assert count.folds[0] == folds
    else:  # of extrema with equal heights a fold may come apart, a rounding wide
        f = st.restrict(chain, (knots[0], knots[-1]))[0]
        apart = np.diff(np.concatenate([f.folds(), [np.inf]])) > 1e-9
        assert apart.sum() == folds
    assert count.turns[0] == sum(a * b < 0 for a, b in itertools.pairwise(signs))


@pytest.mark.parametrize(
    ("knots", "values"),
    [
        ([0, 1], [0, 1]),
        ([0, 1], [5, -3]),
        ([-1, 1], [2, 2]),
        ([0, 1, 2], [0, 1, 5]),
        ([0, 1, 2], [3, -1, -1.5]),
        ([0, 1, 2], [0, 1, 0]),
        ([0, 1, 2, 3], [0, 2, 1, 1.5]),
        ([0, 1, 2, 3], [2, 0, 0, 1]),
        ([0, 1, 2, 3, 4], [0, 1, 1, 0.25, 0.5]),
        ([0, 1, 2, 3, 4, 5], [0, 0, 1, 0.5, 1, 1]),
        ([0, 1, 2, 3, 4, 5], [0.5, 1, 0, 1, 0.25, 0.75]),
        ([-1, -0.75, -0.5, -0.25, 0.75, 1], [0.75, 0.75, 1, 0.75, 0.75, 1]),
    ],
)
def test_it_is_the_function(knots, values):
    same(st.construct(knots, values), knots, values)


def test_sawtooth_of_many_teeth():
    knots = np.arange(33.0)
    values = np.arange(33) % 2
    table = st.construct(knots, values)
    same(table, knots, values)
    assert len(table) <= 12, "teeth of one height double with every fold"


def test_it_takes_a_function_and_fractions():
    f = st.PiecewiseLinear([Fraction(0), Fraction(1, 2), Fraction(1)], [Fraction(0), Fraction(1), Fraction(1, 4)])
    np.testing.assert_array_equal(st.construct(f), st.construct([0, 0.5, 1], [0, 1, 0.25]))


coarse = strategy.integers(-8, 8).map(lambda k: k / 8)
step = strategy.tuples(
    strategy.sampled_from([-1.0, 1.0]), coarse, strategy.sampled_from([-3.0, -2.0, -1.0, -0.5, 0.5, 2.0])
)


@given(strategy.lists(step, min_size=1, max_size=6))
def test_what_a_chain_makes_is_made_again(steps):
    """Every function of a chain has a chain: none is refused, and the new one is the same function."""
    table = np.array([(1, side, bias, scale, 0, 0) for side, bias, scale in steps])
    f = st.restrict(table, (-1, 1), exact=True).simplify()
    same(st.construct(f), f.knots, f.values)


def whole_range_on_a_monotone_stretch(values):
    """By brute force over all pairs of knots."""
    reach = max(values) - min(values)
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            part = np.diff(values[i : j + 1])
            if ((part >= 0).all() or (part <= 0).all()) and abs(values[j] - values[i]) == reach:
                return True
    return reach == 0


@given(strategy.lists(strategy.integers(-4, 4), min_size=2, max_size=7))
def test_the_theorem(values):
    """What does not take its whole range on a monotone stretch has no chain; what is built does, and is right."""
    knots = np.arange(len(values), dtype=float)
    if not whole_range_on_a_monotone_stretch(values):
        with pytest.raises(ValueError, match="no chain of one neuron equals this function"):
            st.construct(knots, values)
        return
    try:
        table = st.construct(knots, values)
    except ValueError:
        return
    same(table, knots, values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            [0, 0.6, 0.4, 1],
            "range is [0, 1], and the monotone stretch with the largest share of it, from 0 to 1, has only 60%",
        ),
        ([0, 0.5, 0.5, 1], "flat from 1 to 2 inside a stretch on which it is monotone"),
        ([0, 1, 0.5, 0.8, 0.2], "whichever of its folds are undone"),
    ],
)
def test_the_reason_is_told(values, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        st.construct(np.arange(len(values)), values)


def test_no_chain_of_two_steps_is_refused_wrongly():
    """All functions of two one-kink maps on a coarse grid, by brute force, are constructed."""
    grid = [-1.0, 0.0, 1.0]
    slopes = [-1.0, 0.0, 2.0]
    made = 0
    for kink1 in grid[1:2]:
        for a, b in [(a, b) for a in slopes for b in slopes]:
            for kink2 in (-0.5, 0.0, 0.5):
                for c, d in [(c, d) for c in slopes for d in slopes]:

                    def f(x, kink1=kink1, a=a, b=b, kink2=kink2, c=c, d=d):
                        h = np.where(x > kink1, b * (x - kink1), a * (x - kink1))
                        return np.where(h > kink2, d * (h - kink2), c * (h - kink2))

                    x = np.linspace(-1, 1, 17)
                    y = f(x)
                    bend = np.flatnonzero(np.diff(y, 2)) + 1
                    knots = x[np.concatenate([[0], bend, [16]])]
                    same(st.construct(knots, f(knots)), knots, f(knots))
                    made += 1
    assert made == 243


def test_bad_input():
    with pytest.raises(TypeError, match="there are no values"):
        st.construct([0, 1, 2])
    with pytest.raises(ValueError, match="increasing"):
        st.construct([0, 0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="values of shape"):
        st.construct(st.segment([0.0, 0.0], [1.0, 1.0]))
    with pytest.raises(ValueError, match="depth is 0"):
        st.tent(0)


def test_where_folds_come_apart_the_turns_are_kept():
    # Two extrema of equal heights: the table as it is rounded at first has a turn too many.
    f = st.PiecewiseLinear([0, 1, 2.1, 3.3, 4.1, 5, 6.3], [1, 3, 0, 1 / 3, 0.2, 1 / 3, 0])
    c = st.count(st.construct(f), (0, 6.3))
    assert c.turns == f.count().turns == 5
    assert c.folds == 6


@pytest.mark.parametrize(
    ("knots", "values"),
    [
        ([0, 1.3, 2.3, 3.3, 4.4, 5.3, 6.3], [1, 0.7, 0, 0, 0.1, 0.1, 0]),
        ([0, 1.3, 2.1, 3.1, 4.0, 5.3], [0.7, 1, 1, 1 / 3, 0.3, 1]),
    ],
)
def test_kinks_are_moved_until_the_folds_are_right_too(knots, values):
    # The table as it is rounded at first has the turns, and a fold too many.
    f = st.PiecewiseLinear(knots, values)
    c = st.count(st.construct(f), f.interval)
    assert (c.folds, c.turns) == (f.count().folds, f.count().turns)
