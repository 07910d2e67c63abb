"""Counts of width-1 chains against rational enumeration, closed forms and laws."""

import importlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as some

import stability as st

from .oracle import count as oracle
from .oracle import count_pieces, enumerate_pieces

INF = math.inf
EVERYWHERE = (-INF, INF)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def counted(table, interval):
    c = st.count(np.array(table, dtype=np.float64), interval)
    assert 0 <= c.turns <= c.folds <= c.regions - 1
    return c.folds, c.turns, c.regions


def agrees(table, interval):
    got, expected = counted(table, interval), oracle(table, interval)
    assert got == expected, f"{got} instead of {expected}"
    return got


# --- rational enumeration ---


def random_table(rng, family):
    depth = int(rng.integers(1, 61))
    table = np.empty((depth, 6))
    table[:, 0] = rng.choice([-1, 0, 0.5, 1, 2], depth)
    if family == "normal":
        table[:, 1:] = rng.normal(size=(depth, 5)).astype(np.float32)
    elif family == "normal, 53 bits":
        table = table[:25]
        table[:, 1:] = rng.normal(size=(len(table), 5))
    elif family == "coarse":
        table[:, 1:] = rng.integers(-4, 5, (depth, 5)) / 4
    elif family == "coarser":
        table[:, 1:] = rng.integers(-2, 3, (depth, 5)) / 2
    elif family == "residual":
        table[:, 0] = 1
        table[:, 1:5] = rng.uniform(-1, 1, (depth, 4)).astype(np.float32)
        table[:, 5] = rng.choice([0, 0.25, 1, -0.5], depth)
    elif family == "residual on a grid":
        table[:, 0] = 1
        table[:, 1:] = rng.integers(-3, 4, (depth, 5)) / 2
    elif family == "folding":
        table[:, 0] = 0
        table[:, 1:] = (1, -0.5, -1.9, 1, -1) + 0.05 * rng.normal(size=(depth, 5)).astype(np.float32)
    return table


FAMILIES = ["normal", "normal, 53 bits", "coarse", "coarser", "residual", "residual on a grid", "folding"]
INTERVALS = [(-3.0, 3.0), EVERYWHERE, (0.0, 1.0), (-0.5, 0.25), (-INF, 0.5), (0.0, INF)]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_count_is_wrong_on_five_thousand_tables(family):
    rng, wrong, most = np.random.default_rng(FAMILIES.index(family)), [], 0
    for _ in range(715):
        table, interval = random_table(rng, family), INTERVALS[rng.integers(len(INTERVALS))]
        rows, _, slopes = enumerate_pieces(table, interval, limit=400)
        expected = count_pieces(slopes)
        most = max(most, expected[0])
        if rows and counted(table[:rows], interval) != expected:
            wrong.append((table[:rows].tolist(), interval))
    assert not wrong, f"{len(wrong)} wrong, the first: {wrong[0]}"
    assert most > 10


def test_no_count_is_wrong_with_a_thousand_pieces():
    rng = np.random.default_rng(0)
    for _ in range(5):
        table = random_table(rng, "folding")
        rows, _, slopes = enumerate_pieces(table, (0.0, 1.0))
        assert counted(table[:rows], (0.0, 1.0)) == count_pieces(slopes)


# --- adversarial tables ---

ADVERSARIAL = {
    # table, interval, (folds, turns, regions)
    "kinks that cancel": ([(1, 1, 0, 1, 0, 0), (1, 1, 0, -0.5, 0, 0)], EVERYWHERE, (0, 0, 2)),
    "kinks at one third that cancel": ([(1, 3, -1, 1, 0, 0), (1, 3, -1, -0.25, 0, 0)], EVERYWHERE, (0, 0, 2)),
    "kinks at one third that do not": ([(1, 3, -1, 1, 0, 0), (1, 3, -1, -0.125, 0, 0)], EVERYWHERE, (1, 0, 2)),
    "49 times the rounded 1 / 49 is not 1": ([(49, 49, -1, 1, 0, 0), (1, 1, -1, -0.5, 0, 0)], EVERYWHERE, (0, 0, 2)),
    "a turn undone": ([(0, 1, 0, 1, 0, -1), (0, 1, 0, -2, 0, 0.5)], EVERYWHERE, (1, 1, 2)),
    "a kink on the low end": ([(1, 1, 0, 1, 0, 0)], (0, 1), (0, 0, 1)),
    "a kink on the high end": ([(1, 1, 0, 1, 0, 0)], (-1, 0), (0, 0, 1)),
    "kinks on both ends": ([(1, 1, 1, 1, 0, 0), (1, 1, -1, 1, 0, 0)], (-1, 0), (0, 0, 1)),
    "0 on a whole piece": ([(0, 1, 0, 1, 0, 0), (1, 1, 0, 1, 0, 0.5)], EVERYWHERE, (1, 0, 2)),
    "0 on a whole piece, then folded": (
        [(0, 1, 0, 1, 0, 0), (1, -1, 0, 1, 0, 0.5), (0, 1, 0, 1, -1, -1)],
        EVERYWHERE,
        (1, 0, 2),
    ),
    "a plateau at the bottom": ([(0, 1, 0, 1, 0, -1), (0, 1, -1, 1, 0, 0)], EVERYWHERE, (2, 1, 4)),
    "a plateau on top": ([(0, 1, 0, 1, 0, -1), (0, 1, -1, -1, 0, 0)], EVERYWHERE, (2, 1, 4)),
    "a plateau between slopes of one sign": ([(0, 1, 0, 1, 0, 0), (0, -1, 1, 1, 0, 0)], EVERYWHERE, (2, 0, 3)),
    "no inner weight": ([(2, 0, 1, 1, 1, 0.5)], EVERYWHERE, (0, 0, 1)),
    "no inner weight and no skip": ([(0, 0, 1, 1, 1, 0.5), (1, 1, -2, 1, 0, 0)], EVERYWHERE, (0, 0, 1)),
    "no outer weight": ([(1, 1, 0, 0, 1, 0.5)], EVERYWHERE, (0, 0, 2)),
    "slope 1": ([(1, 1, 0, 1, 1, 1)], EVERYWHERE, (0, 0, 2)),
    "slope 0": ([(0, 1, 0, 1, 0, 0)], EVERYWHERE, (1, 0, 2)),
    "a negative slope": ([(0, 1, 0, 1, 0, -0.5)], EVERYWHERE, (1, 1, 2)),
    "dead below": ([(0, 1, 0, 1, 1, 0), (0, -1, 0, 1, 0, 0), (1, 1, 0, 1, 0, 0)], EVERYWHERE, (0, 0, 2)),
    "dead with a kink": ([(0, 1, 0, 0, 1, 0), (0, 1, -1, 1, 0, 0)], EVERYWHERE, (0, 0, 2)),
    "a minus zero": ([(-0.0, -1, -0.0, -1, -0.0, -0.0)], (-1, 1), (1, 0, 2)),
    "equal values by two ways": ([(0, 1, 0, 1, 0, -1), (0, 1, -1, 1, 0, -1), (0, 1, -1, 1, 0, -1)], (-4, 4), (5, 5, 6)),
    # The kink's value is void in float64 until it is known exactly, also past a step with no inner weight.
    "no bound past a step with no inner weight": (
        [(1, 2.0**300, 2.0**300, -(2.0**-299), 0, 0), (1, 0, 0, 2.0**300, 0, 0), (1, 1, 0.5, 1, 0, 0)],
        (-3, 3),
        (1, 1, 2),
    ),
    "a kink of subnormals": ([(1, 5e-324, -1.5e-323, 1e308, 0, -1)], (-INF, INF), (1, 0, 2)),
    "a kink of the largest": ([(1, 1e308, -1.7e308, 1, 0, -1)], (-INF, INF), (1, 1, 2)),
    "a kink past the largest": ([(1, 5e-324, -1.7e308, 1, 0, 0)], (-INF, INF), (1, 0, 2)),
    "a kink past the largest, seen from a finite interval": (
        [(1, 5e-324, -1.7e308, 1, 0, 0)],
        (-1e308, 1e308),
        (0, 0, 1),
    ),
    "ends of the largest": ([(1, 1, 0, 1, 0, 0)] * 3, (-1.7e308, 1.7e308), (1, 0, 2)),
    "ends of the smallest": ([(1, 1, 0, 1, 0, 0)] * 3, (-5e-324, 5e-324), (1, 0, 2)),
    "an interval of one unit": ([(0, 1, -1, 1, 0, 0)], (1 - 2.0**-53, 1 + 2.0**-52), (1, 0, 2)),
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_adversarial_tables(case):
    table, interval, expected = ADVERSARIAL[case]
    assert agrees(table, interval) == expected


WILD = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -2.0,
    3.0,
    1e-200,
    -1e-200,
    1e200,
    -1e200,
    5e-324,
    -1.5e-323,
    2.0**1000,
    -(2.0**-1000),
]


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_all_sizes(seed):
    rng = np.random.default_rng(seed)
    for _ in range(150):
        depth = int(rng.integers(1, 9))
        table = rng.integers(-4, 5, (depth, 6)) / 2.0
        wild = rng.random((depth, 6)) < rng.choice([0.1, 0.4, 1.0])
        table[wild] = rng.choice(WILD, wild.sum())
        agrees(table, INTERVALS[rng.integers(len(INTERVALS))])


@pytest.mark.parametrize("size", [60, 120, 300, 450])
def test_powers_of_two_between_the_steps_change_nothing(size):
    # Row k takes and gives values that are 2^t[k] times as large; its pre-activation is 2^s[k] times as large.
    rng = np.random.default_rng(size)
    for _ in range(150):
        depth = int(rng.integers(2, 20))
        table = rng.integers(-3, 4, (depth, 6)) / 2.0
        table[rng.random(depth) < 0.3, 1] = 0
        expected = counted(table, (-4, 4))
        t, s = rng.integers(-size, size + 1, depth + 1), rng.integers(-size, size + 1, depth)
        t[0] = 0
        exponents = np.stack([t[1:] - t[:-1], s - t[:-1], s, t[1:] - s, t[1:], 0 * s], axis=1)
        assert counted(np.ldexp(table, exponents), (-4, 4)) == expected


def test_gaps_far_under_one_unit():
    # h -> h + relu(h - c) doubles what is above c; with c in the upper half of the image the folds crowd.
    rng, table = np.random.default_rng(0), []
    low, high = Fraction(0), Fraction(1)
    for _ in range(300):
        c = float(low + (high - low) * Fraction(rng.uniform(0.5, 0.9)))
        assert low < Fraction(c) < high
        table.append((1, 1, -c, 1, 0, 0))
        high += high - Fraction(c)
    assert counted(table, (0, 1)) == (300, 0, 301)
    # Three hundred layers near the fixed point 0 of h -> 2 h: the gaps are 2^-300.
    coarse = [(1, 1, -int(rng.integers(0, 64)) / 64, 1, 0, 0) for _ in range(150)]
    assert agrees(coarse, (-1, 2.0**-3))[0] > 20
    assert agrees(coarse, (0, INF))[0] > 20


def test_slopes_that_underflow():
    # The lowest piece has slope 4^-900, and no kink leaves the image of (-1, 1).
    table = [(0, 1, -0.0005, 1, 0, 0.25)] * 900
    assert counted(table, (-1, 1)) == (900, 0, 901)


def test_values_that_overflow():
    grow, fold = [(2.0**200, 0, 0, 0, 0, 1)] * 8, [(0, 1, 0, 1, 0, -0.5), (1, 2.0**-900, -1, 3, 0, 0.25)]
    assert agrees([*fold, *grow, *fold, *grow, *fold], (-3, 3))[0] > 1
    assert agrees([*grow, (0, 1, -1e300, 1, 0, -0.5), *grow, *fold], (-3, 3))[0] >= 1
    shrink = [(2.0**-200, 0, 0, 0, 0, 1)] * 8
    assert agrees([*fold, *shrink, (0, 1, 0, 1, 0, -0.5), *grow, *fold], (-3, 3))[0] >= 1
    # The numbers of every step are moderate here, and the values are not.
    down, up = [(2.0**-90, 0, 0, 0, 0, 1)] * 24, [(2.0**90, 0, 0, 0, 0, 1)] * 24
    rounded = [(1, 1, -0.3, -3, 0.1, 0.7), (1, -1, 0.1, 3, 0, 0.25)]
    exact = [(1, 1, -0.25, -3, 0.5, 0.5), (1, -1, 0.125, 3, 0, 0.25)]
    for bends in (rounded, exact):
        for there, back in ((down, up), (up, down)):
            assert agrees([*bends, *there, (1, 1, 0, -3, 0, 0.5), *back, *bends], (-3, 3))[0] > 1
    # Of h -> 3 h + prelu(h - 1) on (-1, 1) every layer but the first has its kink, 1, inside the image.
    assert agrees([(3, 1, -1, 1, 0, 0.5)] * 40, (-1, 1)) == (39, 0, 40)
    assert counted([(3, 1, -1, 1, 0, 0.5)] * 3000, (-1, 1)) == (2999, 0, 3000)


def test_chaotic_chains_whose_signs_float64_leaves_open():
    rng = np.random.default_rng(0)
    for width, depth in ((2.0**-70, 84), (2.0**-90, 106)):
        table = np.tile([0.0, 1.0, -0.5, -1.9, 1.0, -1.0], (depth, 1))
        table[:, 2] += 0.01 * rng.normal(size=depth)
        table[0] = (width, 0, 0, 0, 0.375, 1)  # of (0, 1) only a part that float64 does not resolve
        rows, _, slopes = enumerate_pieces(table, (0.0, 1.0), limit=400)
        assert rows > 0.9 * depth
        expected = count_pieces(slopes)
        assert counted(table[:rows], (0.0, 1.0)) == expected
        assert expected[0] > 50


def test_gains_that_are_not_0_by_less_than_all_their_rounding_errors():
    # a b c is within 2^-105 of m 2^105 for a convergent c of a b / 2^105: less than any rounding error on the way.
    rng, wrong, tried = np.random.default_rng(0), [], 0
    for _ in range(300):
        a, b = (int(n) | 1 for n in rng.integers(2**52, 2**53, 2))
        top, bottom, before, c = a * b % 2**105, 2**105, 1, 0
        while bottom and top // bottom * c + before < 2**53:
            quotient, rest = divmod(top, bottom)
            top, bottom, before, c = bottom, rest, c, quotient * c + before
        m = round(Fraction(a * b * c, 2**105))
        if not 0 < m < 2**53 or m << 105 == a * b * c:
            continue
        tried += 1
        weight, outer_weight, slope = a / 2**52, b / 2**52, c / 2**53
        table = [(-m / 2**52, weight, -weight, outer_weight, 0.25, slope), (1, 1, -0.25, 1, 0, 0)]
        if counted(table, (0, 2)) != oracle(table, (0, 2)):
            wrong.append(table)
    assert tried > 100
    assert not wrong, f"{len(wrong)} wrong of {tried}, the first: {wrong[0]}"


# --- laws ---

coarse = some.integers(-8, 8).map(lambda i: i / 4)
rows = some.tuples(some.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), coarse, coarse, coarse, coarse, coarse)
tables = some.lists(rows, min_size=1, max_size=8)
ends = some.one_of(some.sampled_from([-INF, INF]), some.integers(-16, 16).map(lambda i: i / 4))


@given(tables, ends, ends)
def test_agrees_with_rational_enumeration(table, low, high):
    assume(low < high)
    agrees(table, (low, high))


@given(tables, some.lists(some.integers(-24, 24), min_size=2, max_size=2, unique=True), some.data())
@example([(1.0, 1.0, -0.25, 1.0, 0.0, 0.0)], [-4, 4], None)
def test_folds_of_adjacent_intervals_add_up(table, ends, data):
    low, high = (i / 4 for i in sorted(ends))
    _, breaks, slopes = enumerate_pieces(table, (low, high))
    exact = [i for i, (p, q) in enumerate(breaks[1:-1]) if Fraction(p, q) == Fraction(p / q)]
    middle = (low + high) / 2
    if exact:
        i = exact[0] if data is None else data.draw(some.sampled_from(exact))
        middle = breaks[i + 1][0] / breaks[i + 1][1]
    at = [i for i, (p, q) in enumerate(breaks[1:-1]) if Fraction(p, q) == Fraction(middle)]
    whole, left, right = (counted(table, pair) for pair in ((low, high), (low, middle), (middle, high)))
    bent = any(slopes[i] != slopes[i + 1] for i in at)
    assert whole[0] == left[0] + right[0] + bent
    assert whole[2] == left[2] + right[2] - (not at)
    assert whole[1] - left[1] - right[1] in (0, 1)


def test_the_middle_is_sometimes_a_fold_and_sometimes_a_kink_that_cancels():
    bend, undo = (1.0, 1.0, -0.25, 1.0, 0.0, 0.0), (1.0, 1.0, -0.25, -0.5, 0.0, 0.0)
    for table, folds in (([bend], 1), ([bend, undo], 0)):
        assert counted(table, (-1, 1)) == (folds, 0, 2)
        assert counted(table, (-1, 0.25)) == counted(table, (0.25, 1)) == (0, 0, 1)


@given(tables, ends, ends, some.integers(-60, 60), some.sampled_from([-3.0, -1.0, 0.1, 1.0, 7.0]), coarse)
def test_invertible_affine_maps_before_and_after_change_nothing(table, low, high, power, factor, shift):
    assume(low < high)
    expected = counted(table, (low, high))
    assert counted([(-1.0, 0, 0, 0, 0, 1), *table], (-high, -low)) == expected
    scale = 2.0**power
    assert counted([(scale, 0, 0, 0, 0, 1), *table], (low / scale, high / scale)) == expected
    assert counted([*table, IDENTITY], (low, high)) == expected
    assert counted([*table, (factor, 0, 0, 0, shift, 1)], (low, high)) == expected
    # An identity with a kink of its own bounds regions, and bends nothing.
    *same, regions = counted([*table, (1.0, 1.0, shift, 0.0, 0.0, 0.5)], (low, high))
    assert same == list(expected[:2])
    assert regions >= expected[2]


@given(tables, rows, ends, ends)
def test_a_slope_of_1_adds_no_folds(table, row, low, high):
    assume(low < high)
    before = counted(table, (low, high))
    linear = (*row[:5], 1.0)
    after = counted([*table, linear], (low, high))
    gain = row[0] + row[1] * row[3]
    assert after[:2] == (before[:2] if gain else (0, 0))
    assert after[2] >= before[2]
    assert counted([(*r[:5], 1.0) for r in table], (low, high))[:2] == (0, 0)


@given(tables, ends, ends)
def test_a_plain_chain_with_slopes_above_0_has_no_turn(table, low, high):
    assume(low < high)
    plain = [(0.0, r[1], r[2], 1.0, 0.0, abs(r[5])) for r in table]
    folds, turns, regions = counted(plain, (low, high))
    assert turns == 0
    assert folds <= len(plain)
    assert regions <= len(plain) + 1


@given(tables, ends, ends)
def test_no_more_than_two_to_the_depth(table, low, high):
    assume(low < high)
    folds, turns, regions = counted(table, (low, high))
    assert turns <= folds <= regions - 1 <= 2 ** len(table) - 1


@given(tables)
def test_the_whole_range_is_taken_on_a_monotone_stretch(table):
    values = list(st.restrict(np.array(table), (-3, 3), exact=True).values)
    stretches, start = [], 0
    for i in range(1, len(values)):
        rises = {(b > a) - (b < a) for a, b in zip(values[start:i], values[start + 1 : i + 1], strict=True)}
        if {-1, 1} <= rises:
            stretches.append(values[start:i])
            start = i - 1
    stretches.append(values[start:])
    whole = max(values) - min(values)
    assert any(max(s) - min(s) == whole for s in stretches)
    assert counted(table, (-3, 3))[1] == len(stretches) - 1


@pytest.mark.parametrize("depth", [1, 2, 63, 64, 65, 127, 128, 129, 300, 1000, 2000])
def test_a_tent_has_two_to_the_depth_pieces(depth):
    c = st.count(st.tent(depth), (0, 1))
    assert c == st.Count(2**depth - 1, 2**depth - 1, 2**depth)


def test_a_tent_with_room_around_it():
    # Outside (0, 1) every step of the tent map has one piece more on either side.
    assert agrees(st.tent(8), (-1, 2)) == counted(st.tent(8), EVERYWHERE)


def test_many_values_and_many_pairs():
    # Every layer cuts at another place, so that room must be made many times over.
    rng = np.random.default_rng(0)
    table = np.tile([0.0, 1.0, 0.0, -1.5, 1.0, -1.0], (200, 1))
    table[:, 2] = -rng.integers(1, 64, 200) / 64
    whole = counted(table, (0, 1))
    halves = [counted(table, (i / 8, (i + 1) / 8)) for i in range(8)]
    missing = whole[0] - sum(h[0] for h in halves)
    assert 0 <= missing <= 7
    assert whole[0] > 2**60


@pytest.mark.parametrize("name", list(st.ARCHITECTURES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chain_counts_as_its_tables_do(name, dtype):
    chain = st.Chain(name, 60, seeds=12, dtype=dtype, init="uniform")
    c, table = st.count(chain, (-3, 3)), chain.table()
    for counts in (c.folds, c.turns, c.regions):
        assert counts.shape == (12,)
        assert counts.dtype == object
        assert all(type(n) is int for n in counts)
    together = st.count(table, (-3, 3))
    for seed in range(12):
        one = counted(table[seed], (-3, 3))
        assert one == (c.folds[seed], c.turns[seed], c.regions[seed])
        assert one == (together.folds[seed], together.turns[seed], together.regions[seed])
        agrees(table[seed, :24], (-3, 3))


def test_big_counts_of_several_seeds_are_python_integers():
    c = st.count(np.stack([st.tent(200), st.tent(200)[::-1]]), (0, 1))
    assert list(c.folds) == [2**200 - 1] * 2
    assert all(type(n) is int for n in (*c.folds, *c.turns, *c.regions))


def test_tensors_lists_and_functions_count_alike():
    table = st.tent(5)
    expected = st.count(table, (0, 1))
    assert st.count(torch.tensor(table), (0, 1)) == expected
    assert st.count(table.tolist(), [0, 1]) == expected
    assert st.count(table, (0, 1)) == expected
    assert st.count(st.restrict(table, (0, 1))) == expected


# --- what is refused ---

TABLE = st.tent(3)


def spoilt(value):
    table = st.tent(3)
    table[1, 2] = value
    return table


@pytest.mark.parametrize(
    ("net", "interval", "error", "message"),
    [
        (TABLE, (1, 0), ValueError, r"\(1.0, 0.0\) is empty or reversed: expected low < high"),
        (TABLE, (1, 1), ValueError, "empty or reversed"),
        (TABLE, (INF, INF), ValueError, "empty or reversed"),
        (TABLE, (0, math.nan), ValueError, "nan.*expected numbers, or -inf and inf"),
        (TABLE, (0, 10**400), ValueError, "expected ends in float64's range"),
        (TABLE, None, TypeError, r"there is no interval: expected st.count\(net, \(low, high\)\)"),
        (TABLE, 3, TypeError, "the interval is 3: expected two numbers"),
        (TABLE, "01", TypeError, "the interval is '01': expected two numbers"),
        (TABLE, (0, 1, 2), TypeError, "expected two numbers"),
        (TABLE, ("low", "high"), TypeError, "expected two numbers"),
        (TABLE[:, :5], (0, 1), ValueError, r"shape \(1, 3, 5\): expected \(seeds, rows, 6\)"),
        (TABLE[0], (0, 1), ValueError, r"shape \(6,\): expected \(seeds, rows, 6\)"),
        (TABLE[:0], (0, 1), ValueError, "at least one seed and one row"),
        ([], (0, 1), ValueError, "at least one seed and one row"),
        (spoilt(math.nan), (0, 1), ValueError, "not finite, the first nan"),
        (spoilt(-INF), (0, 1), ValueError, "not finite, the first -inf"),
        (TABLE.astype(str), (0, 1), TypeError, "expected real numbers"),
        ("tent", (0, 1), TypeError, "net is a str: expected a Chain, a step table or a"),
        ("tent", None, TypeError, "net is a str: expected a Chain, a step table or a"),
        (b"tent", (0, 1), TypeError, "net is a bytes: expected a Chain, a step table or a"),
        ({"a": 1}, (0, 1), TypeError, "net is a dict: expected a Chain, a step table or a"),
        (iter([3]), None, TypeError, "among the windows is a int: expected what st.restrict"),
        ([st.restrict(TABLE, (0, 1))], (0, 1), TypeError, "the windows have intervals of their own"),
        (None, (0, 1), TypeError, "net is a NoneType: expected a Chain, a step table or a"),
        (st.Chain("plain_relu", 3, width=2), (0, 1), ValueError, "width 2: only chains of width 1 are followed"),
    ],
)
def test_bad_input_is_refused(net, interval, error, message):
    with pytest.raises(error, match=message):
        st.count(net, interval)


def test_a_smooth_chain_is_refused():
    architecture = st.Architecture("plain_tanh", skip=0, maps=1, activation="tanh")
    with pytest.raises(ValueError, match=r"'tanh' has no step table.*piecewise-linear activation"):
        st.count(st.Chain(architecture, 3), (0, 1))


def test_a_chain_is_counted_along_a_straight_line_of_numbers_and_along_no_other():
    chain = st.Chain("residual2_prelu", depth=20, seeds=3)
    whole = st.count(chain, (-3, 3))
    for line in (st.segment(-3.0, 3.0), st.segment(3.0, -3.0)):
        along = st.count(chain, line)
        assert (along.folds == whole.folds).all()
        assert along.folds.tolist() == [f.count().folds for f in st.restrict(chain, line)]
    for line in (st.segment([0.0, 0.0], [1.0, 2.0]), st.PiecewiseLinear([0, 1, 2], [-3, 3, -3])):
        with pytest.raises(ValueError, match="a chain is counted on an interval"):
            st.count(chain, line)
    for pair in (("-3", "3"), {-3: 1, 3: 2}, {-3, 3}):
        with pytest.raises(TypeError, match="expected two numbers"):
            st.count(chain, pair)


def test_tables_counted_together_have_the_counts_of_each(monkeypatch):
    folding = importlib.import_module("stability.folds.count_folds")
    tables = np.random.default_rng(0).integers(-2, 3, size=(40, 12, 6)).astype(float)  # many kinks meet, some exactly
    together = st.count(tables, (-3, 3), births=True)
    monkeypatch.setattr(folding, "_ROWS_TOGETHER", 1)
    alone = st.count(tables, (-3, 3), births=True)
    for name in ("folds", "turns", "regions", "births"):
        assert getattr(together, name).tolist() == getattr(alone, name).tolist()
    assert together.folds.max() > 1
