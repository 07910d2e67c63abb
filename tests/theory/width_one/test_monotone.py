"""How many steps a turn takes, and how many fresh residual chains cannot turn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy.special import k0

import stability as st

theory = st.theory


@given(some.integers(0, 2**32), some.integers(1, 12))
def test_no_table_turns_more_often_than_its_steps_allow(seed, depth):
    table = np.random.default_rng(seed).normal(size=(depth, 6)) * [1, 2, 1, 2, 1, 1]
    table[:, 0] = 1
    turns = st.count(table, (-math.inf, math.inf)).turns
    sides = table[:, 0] + table[:, 3] * table[:, 1] * np.stack([np.ones(depth), table[:, 5]])
    negative = int((sides < 0).any(axis=0).sum())
    assert theory.least_turning_steps().value(turns=turns) <= negative


@given(some.integers(0, 2**32), some.integers(1, 60))
def test_steps_of_positive_slopes_increase_however_many(seed, depth):
    random = np.random.default_rng(seed)
    above, below = np.exp(random.uniform(-5, 5, (2, depth)))
    table = random.normal(size=(depth, 6)) * [1, 2, 1, 2, 1, 1]
    # The slopes above and below the kink, the other way round where the weight is negative.
    table[:, 0], table[:, 5] = below, 0
    table[:, 3] = (above - below) / table[:, 1]
    least = (table[:, 0] + np.minimum(table[:, 1] * table[:, 3], 0)).min()
    assert least > 0
    assert st.count(table, (-math.inf, math.inf)).turns == 0


@given(some.integers(0, 2**32), some.integers(1, 30))
def test_one_negative_slope_turns_a_chain_once_at_most(seed, depth):
    random = np.random.default_rng(seed)
    table = random.normal(size=(depth, 6))
    table[:, 0], table[:, 1], table[:, 5] = 1, 1, 0
    table[:, 3] = random.uniform(-0.9, 2, depth)
    place = random.integers(depth)
    table[place, 3] = -1 - random.exponential()
    assert st.count(table, (-math.inf, math.inf)).turns == 1  # |x| large is on both sides of every kink


@pytest.mark.parametrize("depth", [1, 2, 5, 40])
def test_a_tent_reaches_the_bound(depth):
    turns = st.count(st.tent(depth), (0, 1)).turns
    assert turns == 2**depth - 1
    assert theory.least_turning_steps().value(turns=float(turns)) == depth
    assert theory.least_turning_steps().value(turns=float(turns + 1)) == depth + 1


@pytest.mark.parametrize(("depth", "power"), [(4, 0.0), (12, -0.3), (9, -0.5)])
def test_the_share_of_increasing_chains_is_that_of_fresh_ones(depth, power):
    architecture = st.Architecture("scaled_normal", skip=1, maps=2, activation="relu", branch_power=power)
    normal = st.Distribution("normal")
    init = st.Init("normal", "", normal, normal, normal, normal)
    table = st.Chain(architecture, depth, 20_000, init=init).table()
    slopes = 1 + table[..., 1] * table[..., 3]
    increasing = (slopes > 0).all(axis=1).astype(float)
    assert abs(theory.monotone_share().check(increasing, depth=depth, power=power, scale=1).z) < 4
    assert 0.05 < increasing.mean() < 0.95


def test_the_tail_is_that_of_the_density():
    x = np.linspace(1.7, 60, 2_000_001)
    tail = np.trapezoid(k0(x), x) / math.pi
    assert theory.monotone_share().value(depth=1, power=0, scale=1 / 1.7) == pytest.approx(1 - tail, abs=1e-10)


def test_scaled_chains_end_increasing_and_others_do_not():
    form = theory.monotone_share()
    for power in (-0.5, -1):
        assert form.value(depth=1e4, power=power) > 1 - 1e-12
    assert form.value(depth=1e4, power=0) < 1e-12


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="turns is -1"):
        theory.least_turning_steps().value(turns=-1)
    with pytest.raises(ValueError, match="scale is 0"):
        theory.monotone_share().value(scale=0)
