"""Where branches meet: sums, maxima and compositions are counted right, or say that they may not be."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional

import stability as st

from . import exact_lines as exact

LINE = st.PiecewiseLinear((-2, 2), (-2, 2))
N = 150


def double(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def certain(f, pieces):
    """Assert that the counts are right where nothing is undecided; return whether nothing is."""
    c = f.count()
    if c.undecided == 0:
        assert (c.folds, c.turns, c.regions) == exact.count(pieces)
    return c.undecided == 0


NUMBERS = {
    "thirds": some.integers(-9, 9).map(lambda i: i / 3),
    "decimal": some.integers(-9, 9).map(lambda i: i / 10),
    "generic": some.floats(-1, 1),
}


@some.composite
def layers(draw, *shapes):
    number = NUMBERS[draw(some.sampled_from(sorted(NUMBERS)))]
    return [
        ([[draw(number) for _ in range(inputs)] for _ in range(outputs)], [draw(number) for _ in range(outputs)])
        for outputs, inputs in shapes
    ]


def follow(f, layer):
    return functional.linear(f, double(layer[0]), double(layer[1]))


# Sums ---------------------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    """A layer after the sum of two branches, each a layer and an activation."""

    def __init__(self, first, second, last):
        super().__init__()
        self.first, self.second, self.last = first, second, last

    def forward(self, x):
        one, two = functional.relu(follow(x, self.first)), functional.leaky_relu(follow(x, self.second), 0.25)
        return follow(one + two, self.last)

    def pieces(self):
        line = exact.identity(-2, 2)
        branches = exact.leaky(exact.linear(line, *self.first), 0), exact.leaky(exact.linear(line, *self.second), 0.25)
        both = exact.joined(*branches)
        weight, bias = self.last
        return exact.linear(both, [[*row, *row] for row in weight], bias)


def test_kinks_of_two_branches_that_rounding_joins_are_parted_by_rational_numbers():
    # 1/3 and 0.1/0.3 are not equal, as they are stored, but are in float64.
    net = Sum(([[3.0]], [-1.0]), ([[0.3]], [-0.1]), ([[1.0]], [0.0]))
    assert Fraction(0.1) / Fraction(0.3) != Fraction(1, 3)
    assert exact.count(net.pieces())[2] == 3
    assert net(st.segment([-2.0], [2.0])).undecided > 0
    assert certain(st.restrict(net, LINE), net.pieces())


def test_kinks_of_two_branches_that_rounding_parts_are_joined_by_rational_numbers():
    # The kink of both is at 1/3, found from -2 and 2 in one branch and from 0 and 2 in the other.
    def net(x):
        return functional.relu(3 * x - 1) - functional.relu(3 * functional.relu(x) - 1) + x

    line = exact.identity(-2, 2)
    one = exact.leaky(exact.linear(line, [[3]], [-1]), 0)
    other = exact.leaky(exact.linear(exact.leaky(line, 0), [[3]], [-1]), 0)
    pieces = exact.linear(exact.joined(one, other, line), [[1, -1, 1]], [0])
    assert exact.count(pieces) == (0, 0, 3)
    f = net(LINE)
    assert len(f.knots) == 5
    assert f.undecided > 0
    assert certain(st.restrict(net, LINE), pieces)


@settings(max_examples=N)
@given(layers((2, 1), (2, 1), (1, 2)))
def test_sums_of_branches(given_layers):
    net = Sum(*given_layers)
    f = st.restrict(net, LINE)
    certain(f, net.pieces())
    c = st.restrict(net, LINE, exact=True).count()
    assert (c.folds, c.turns, c.regions) == exact.count(net.pieces())


def test_a_kink_that_two_branches_share_is_one():
    class Shared(nn.Module):
        def forward(self, x):
            h = functional.relu(x * 0.7 - 0.1)
            return functional.relu(h * 0.3 - 0.2) + h + functional.relu(h * 0.5 - 0.1)

    f = st.restrict(Shared(), LINE)
    assert f.undecided == 0
    assert f.count() == st.Count(3, 0, 4)


@pytest.mark.parametrize("operation", ["sum", "cat", "maximum"])
def test_functions_of_the_same_line_join_their_knots(operation):
    f = st.PiecewiseLinear([-2.0, 1 / 3, 2.0], [0.0, 1.0, 0.0])  # knots that are given are exact
    g = st.PiecewiseLinear([-2.0, 1 / 3, 1.0, 2.0], [-3.0, -1.0, -4.0, -3.0])
    both = {"sum": lambda: f + g, "cat": lambda: torch.stack([f, g]), "maximum": lambda: torch.maximum(f, g)}[
        operation
    ]()
    assert len(both.knots) == 4
    assert both.undecided == 0


# Maxima -------------------------------------------------------------------------------------------------------------


def pooled(first, windows):
    line = exact.leaky(exact.linear(exact.identity(-2, 2), *first), 0.25)
    return exact.largest(line, windows)


@settings(max_examples=N)
@given(layers((4, 1), (1, 2)), some.sampled_from([1, 2]))
@example(([([[0.0], [-0.6], [0.0], [-0.3]], [0.1, 0.3, -0.1, 0.0]), ([[0.0, 0.0]], [0.0])]), 2)  # of two windows
def test_max_pooling(given_layers, stride):
    first, last = given_layers
    windows = [(0, 1), (2, 3)] if stride == 2 else [(0, 1, 2), (1, 2, 3)]

    def net(x):
        h = functional.leaky_relu(follow(x, first), 0.25).reshape(1, 4)
        return follow(functional.max_pool1d(h, len(windows[0]), stride), last).reshape(1)

    certain(st.restrict(net, st.segment([-2.0], [2.0])), exact.linear(pooled(first, windows), *last))


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ([1.0, -2 / 7, 5 / 7], [1.5, 12 / 35, 87 / 70]),  # one is the largest between two crossings, or is not
        ([0.9, -0.8, 0.6], [-0.47, 0.04, -0.38]),
        ([4 / 3, -1 / 3, 2 / 3], [-2 / 15, 8 / 15, 2 / 15]),  # the largest changes twice, in places that rounding swaps
        ([-1.0, -4 / 3, 1 / 3], [-0.2, -7 / 30, -1 / 15]),
    ],
)
def test_three_entries_that_cross_in_one_place(weight, bias):
    first = [[w] for w in weight], bias

    def net(x):
        return functional.max_pool1d(follow(x, first)[None], 3)[0]

    line = st.segment([-2.0], [2.0])
    f = st.restrict(net, line)
    pieces = exact.largest(exact.linear(exact.identity(-2, 2), *first), [(0, 1, 2)])
    assert net(line).undecided > 0
    assert certain(f, pieces)
    for t, x in ((0.0, -2), (0.5, 0), (1.0, 2)):
        assert f(t)[0] == pytest.approx(max(w * x + b for w, b in zip(weight, bias, strict=True)), abs=1e-14)


@given(layers((3, 1), (3, 1)))
def test_maxima_of_two(given_layers):
    first, second = given_layers
    f, g = (functional.leaky_relu(follow(LINE[None], layer), 0.25) for layer in given_layers)
    line = exact.identity(-2, 2)
    both = exact.joined(*(exact.leaky(exact.linear(line, *layer), 0.25) for layer in (first, second)))
    certain(torch.maximum(f, g), exact.largest(both, [(0, 3), (1, 4), (2, 5)]))


# Compositions -------------------------------------------------------------------------------------------------------

eighth = some.integers(-9, 9).map(lambda i: i / 10)


@settings(max_examples=N)
@given(some.lists(eighth, min_size=3, max_size=5), some.lists(eighth, min_size=3, max_size=5), layers((2, 1), (1, 2)))
@example([0.0, 0.0, -0.8], [0.0, 0.0, 0.0], [([[5 / 3], [0.0]], [4 / 3, 0.0]), ([[1 / 3, 0.0]], [0.0])])
def test_compositions(inner, outer, given_layers):
    f = st.PiecewiseLinear(np.arange(len(inner)) / 7, inner)
    g = st.PiecewiseLinear(np.linspace(-1, 1, len(outer)), outer)
    p, q = (exact.through(h.knots.tolist(), h.values.tolist()) for h in (f, g))
    certain(g(f), exact.composed(q, p))
    # With an inner function whose values and knots are rounded.
    first, last = given_layers
    h = follow(functional.relu(follow(LINE[None], first)), last)[0] * 0.1
    pieces = exact.linear(exact.leaky(exact.linear(exact.identity(-2, 2), *first), 0), *last)
    pieces = exact.linear(pieces, [[0.1]], [0])
    if abs(h.values).max() < 0.99:
        certain(g(h), exact.composed(q, pieces))
    # With an outer function whose knots are rounded.
    certain(h(f), exact.composed(pieces, p))


def test_a_value_that_may_be_a_kink_of_the_outer_function():
    # At its largest the inner function is 0.1 + 0.2, which is 0.3 or a rounding more, as the kink is.
    inner = (st.PiecewiseLinear([0.0, 1.0, 2.0], [0.0, 0.1, 0.0]) + 0.2) * 1.0
    pieces = exact.linear(exact.through([0, 1, 2], [0, 0.1, 0]), [[1]], [0.2])
    for kink in (0.3, 0.1 + 0.2):
        outer = st.PiecewiseLinear([0.0, kink, 1.0], [0.0, 1.0, 0.0])
        assert not certain(outer(inner), exact.composed(exact.through([0, kink, 1], [0, 1, 0]), pieces))
        assert inner.undecided == outer.undecided == 0
    outer = st.PiecewiseLinear([0.0, 0.25, 1.0], [0.0, 1.0, 0.0])
    assert certain(outer(inner), exact.composed(exact.through([0, 0.25, 1], [0, 1, 0]), pieces))


def test_an_end_of_a_part_that_may_be_a_knot():
    f = st.restrict(lambda x: functional.relu(3 * x - 1), LINE)
    pieces = exact.leaky(exact.linear(exact.identity(1 / 3, 2), [[3]], [-1]), 0)
    assert exact.count(pieces)[2] == 2  # 1/3 is a little more than it is as it is stored
    assert not certain(f.restrict(1 / 3, 2), pieces)
    assert certain(f.restrict(0.25, 2), exact.leaky(exact.linear(exact.identity(0.25, 2), [[3]], [-1]), 0))


# Windows ------------------------------------------------------------------------------------------------------------


def pooled_pair(last):
    """The larger of x and -x, times `last`, with a kink at 0 in any case."""

    def net(x):
        return functional.max_pool1d(torch.cat([x, -x], dim=1), 2).reshape(1) * last

    def pieces(x):
        return exact.linear(exact.largest(exact.linear(x, [[1], [-1]], [0, 0]), [(0, 1)]), [[last]], [0])

    return net, pieces


def of_one_row(slope):
    return np.array([[0.0, 1.0, 0.0, 1.0, 0.0, slope]]), lambda x: exact.leaky(x, slope)


def as_function(slope):
    return lambda x: functional.leaky_relu(x, slope), lambda x: exact.leaky(x, slope)


def as_composition(slope):
    f = st.PiecewiseLinear([-2.0, 0.0, 2.0], [-2 * slope, 0.0, 2.0])
    return lambda x: f(x.reshape(())), lambda x: exact.leaky(x, slope)


@pytest.mark.parametrize(
    ("make", "bent", "straight"),
    [(as_function, 0.25, 1.0), (of_one_row, 0.25, 1.0), (as_composition, 0.25, 1.0), (pooled_pair, 1.0, 0.0)],
)
def test_a_kink_at_the_cut_of_two_windows(make, bent, straight):
    for number in (bent, straight):
        net, pieces = make(number)
        windows = [st.restrict(net, pair) for pair in pairwise((-2, 0, 2))]
        c = st.count(windows)
        assert c.undecided > 0 or (c.folds, c.turns, c.regions) == exact.count(pieces(exact.identity(-2, 2)))
        # What bends at the cut is a kink beyond doubt.
        assert (c.folds, c.undecided > 0) == (int(number == bent), number == straight)


def test_parts_of_a_function_that_are_cut_at_its_knots():
    f = st.restrict(np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, -0.5, 1.0, 0.0, 0.25]]), LINE)
    assert f.count() == st.Count(1, 0, 3)
    parts = [f.restrict(-2, 0), f.restrict(0, 2)]
    assert st.count(parts).regions == 3 or st.count(parts).undecided > 0


def test_windows_whose_cut_is_a_kink():
    low = -2 * 0.6180339887498949  # from here to 2 more the first cut is at 0
    table = np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], *([0.0, 1.0, i / 8 - 5 / 16, 1.0, 0.0, 0.5] for i in range(6))])
    pieces = exact.identity(low, low + 2)
    for _, weight, bias, _, _, slope in table.tolist():
        pieces = exact.leaky(exact.linear(pieces, [[weight]], [bias]), slope)
    windows = list(st.restrict(table, (low, low + 2), window=4))
    assert windows[0].interval[1] == 0
    c = st.count(windows)
    assert c.undecided > 0 or (c.folds, c.turns, c.regions) == exact.count(pieces)
