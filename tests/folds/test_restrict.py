"""Chains and tables along a line: against rational arithmetic of another make, the chains, and windows."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

import stability as st
from stability.folds.lines import line_of

FIVE = list(st.ARCHITECTURES)


def value(table, x):
    """The value of a table at a rational x, exactly."""
    h = Fraction(x)
    for row in table:
        skip, weight, bias, outer_weight, outer_bias, slope = map(Fraction, row)
        z = weight * h + bias
        h = skip * h + outer_weight * (z if z > 0 else slope * z) + outer_bias
    return h


def breaks(table, low, high):
    """The knots of a table inside (low, high), exactly: where a pre-activation is 0 and not on both sides."""
    points = [(Fraction(low), Fraction(low)), (Fraction(high), Fraction(high))]  # (x, h)
    for row in table:
        skip, weight, bias, outer_weight, outer_bias, slope = map(Fraction, row)
        out = []
        for (x, h), (y, g) in itertools.pairwise(points):
            out.append((x, h))
            a, b = weight * h + bias, weight * g + bias
            if a * b < 0:
                out.append((x + (y - x) * a / (a - b), -bias / weight))
        points = [*out, points[-1]]
        moved = []
        for x, h in points:
            z = weight * h + bias
            moved.append((x, skip * h + outer_weight * (z if z > 0 else slope * z) + outer_bias))
        points = moved
    return points


def bends(points):
    """Where the slope changes, exactly."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    return [p[0] for p, left, right in zip(points[1:-1], slopes, slopes[1:], strict=False) if left != right]


@pytest.mark.parametrize("init", ["pytorch", "uniform", "knots"])
@pytest.mark.parametrize("name", FIVE)
def test_chains_are_their_restrictions(name, init):
    chain = st.Chain(name, 12, seeds=4, init=init)
    x = torch.linspace(-3, 3, 997, dtype=torch.float64)
    with torch.no_grad():
        expected = chain(x)
    functions = st.restrict(chain, (-3, 3))
    assert len(functions) == 4
    for f, table, y in zip(functions, chain.table(), expected, strict=True):
        assert (f(x) - y).abs().max() <= 1e-13 * max(1.0, float(y.abs().max()))
        points = breaks(table.tolist(), -3, 3)
        # Without biases a knot at 0 is at the kink of every later layer.
        assert f.undecided == 0 or init != "pytorch"
        np.testing.assert_allclose(f.knots, [float(p[0]) for p in points], rtol=0, atol=1e-12)
        np.testing.assert_allclose(f.folds(), [float(t) for t in bends(points)], rtol=0, atol=1e-12)
        alone = st.restrict(table, (-3, 3))
        np.testing.assert_array_equal(alone.values, f.values)


@pytest.mark.parametrize("name", ["residual2_prelu", "plain_prelu", "residual2_relu"])
def test_value_errors_are_bounded(name):
    for table in st.Chain(name, 25, seeds=5).table():
        f = st.restrict(table, (-3, 3))
        k, reach = len(f.knots), abs(f.slopes)
        exact = [value(table.tolist(), Fraction(t)) for t in f.knots.tolist()]
        error = np.array([float(abs(Fraction(v) - e)) for v, e in zip(f.values.tolist(), exact, strict=True)])
        # Values are those at the true knots: beside the bound, what a rounding of the place makes on a piece beside.
        steep = np.maximum(np.append(reach, 0), np.append(0, reach))
        assert (error <= f._errors[:k] + steep * 2.0**-50 * 3 * len(table)).all()
        e = st.restrict(table, (-3, 3), exact=True)
        assert len(e.knots) == k
        assert f.undecided == 0
        # Against the exact knots there is no such allowance.
        assert all(
            abs(Fraction(v) - w) <= Fraction(b) for v, w, b in zip(f.values, e.values, f._errors[:k], strict=True)
        )
        slopes = zip(f.slopes, e.slopes, f._errors[k : 2 * k - 1], strict=True)
        assert all(abs(Fraction(v) - w) <= Fraction(b) for v, w, b in slopes)


coarse = some.integers(-8, 8).map(lambda i: i / 4)
rows = some.tuples(some.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), coarse, coarse, coarse, coarse, coarse)


@given(some.lists(rows, min_size=1, max_size=5))
def test_exact_restriction_of_any_table(table):
    f = st.restrict(np.array(table), (-3, 3), exact=True)
    points = breaks(table, -3, 3)
    assert f.knots.tolist() == [p[0] for p in points]
    assert f.values.tolist() == [p[1] for p in points]
    assert f.folds().tolist() == bends(points)
    assert f.undecided == 0


@given(some.lists(rows, min_size=1, max_size=5))
def test_float_restriction_of_any_table_is_right_or_says_so(table):
    f = st.restrict(np.array(table), (-3, 3))
    points = breaks(table, -3, 3)
    if f.undecided == 0:
        assert len(f.knots) == len(points)
        assert len(f.folds()) == len(bends(points))
    for t in (-3.0, -1.125, 0.5, 2.75):
        # Coarse numbers: values below 4^10, of a few roundings each.
        assert f(t) == pytest.approx(float(value(table, t)), abs=1e-9, rel=1e-9)


def test_lines_other_than_the_identity():
    table = st.tent(4)
    back = st.PiecewiseLinear([0.0, 1.0, 3.0], [0.0, 1.0, 0.5])
    f = st.restrict(table, back)
    assert f.interval == (0.0, 3.0)
    t = np.linspace(0, 3, 100)
    expected = [float(value(table.tolist(), back(x))) for x in t]
    np.testing.assert_allclose(f(t), expected, atol=1e-13)
    assert st.restrict(table, back, exact=True).count() == f.count() == st.Count(15 + 1 + 7, 15 + 1 + 7, 24)
    with pytest.raises(ValueError, match="the line is constant"):
        st.restrict(table, st.PiecewiseLinear([0.0, 1.0], [0.5, 0.5]))
    with pytest.raises(ValueError, match=r"shape \(2,\): a chain of width 1 takes an interval"):
        st.restrict(table, st.segment([0.0, 0.0], [1.0, 1.0]))


# --- undecided ---


def test_undecided_is_0_on_generic_networks():
    torch.manual_seed(0)
    for name in FIVE:
        assert all(f.undecided == 0 for f in st.restrict(st.Chain(name, 30, seeds=10), (-3, 3)))
    for width in (8, 64):
        model = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        assert st.restrict(model, (-3, 3)).undecided == 0


@pytest.mark.parametrize("error", [0.0, 2.0**-53, -(2.0**-53)])
def test_undecided_is_above_0_where_a_knot_is_at_a_kink(error):
    # The first layer folds at 1/3, with the value 1/3 + 0.1; the second has its kink there, up to a rounding.
    at = 1 / 3
    table = np.array([[1.0, 1.0, -at, 1.0, 0.1, 0.0], [1.0, 1.0, -(at + 0.1) + error, -3.0, 0.0, 0.0]])
    assert st.restrict(table, (0, 1)).undecided > 0
    assert st.restrict(table, (0, 1), exact=True).undecided == 0
    far = table.copy()
    far[1, 2] += 1e-12
    assert st.restrict(far, (0, 1)).undecided == 0
    # The same as a module, in the compiled way and by the rules.
    for model in (two_layers(at, error), nn.Sequential(nn.Sequential(two_layers(at, error)))):
        c, sure = st.restrict(model, (0, 1)).count(), st.restrict(model, (0, 1), exact=True).count()
        assert (c, c.undecided) == (sure, 0)


def two_layers(at, error):
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([-at, 1.0], dtype=torch.float64))
        model[2].weight.copy_(torch.tensor([[1.0, 0.7]], dtype=torch.float64))
        model[2].bias.copy_(torch.tensor([-0.7 * (1 + at) + error], dtype=torch.float64))
    return model


# --- windows ---


def in_windows(net, line, window, **options):
    parts = list(st.restrict(net, line, window=window, **options))
    ends = line.interval if isinstance(line, st.PiecewiseLinear) else line
    assert (parts[0].interval[0], parts[-1].interval[1]) == tuple(ends)
    for a, b in itertools.pairwise(parts):
        assert a.interval[1] == b.interval[0]
    assert all(len(f.knots) <= window for f in parts)
    return parts


@pytest.mark.parametrize("window", [4, 10, 100])
def test_windows_of_a_table_add_up(window):
    table = st.tent(7)
    whole = st.restrict(table, (0, 1))
    parts = in_windows(table, (0, 1), window)
    assert len(parts) >= 128 / window
    assert st.count(parts) == st.count(iter(parts)) == whole.count() == st.Count(127, 127, 128)
    x = np.linspace(0, 1, 777)
    for f in parts:
        inside = x[(x >= f.interval[0]) & (x <= f.interval[1])]
        np.testing.assert_allclose(f(inside), whole(inside), rtol=0, atol=1e-12)
    in_windows(table, (0, 1), window, exact=True)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_windows_of_modules_add_up(outputs, nested):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(1, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, outputs))
    net = nn.Sequential(model) if nested else model
    whole = st.restrict(net, (-5, 5))
    assert whole.count().folds > 20
    parts = in_windows(net, (-5, 5), 12)
    assert len(parts) > 2
    assert st.count(parts) == whole.count()
    assert all(f.undecided == 0 for f in parts)


def test_windows_along_a_segment_bound_every_layer():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 1, 1, 6, 6, generator=generator)
    whole = st.restrict(model, st.segment(p, q))
    parts = in_windows(model, st.segment(p, q), 15)
    assert len(parts) > 2
    assert st.count(parts).folds == whole.count().folds


def test_windows_of_a_line_that_is_bent_itself():
    t = np.arange(50.0)
    line = st.PiecewiseLinear(t, np.cos(t)[:, None])
    assert st.count(in_windows(nn.Identity(), line, 10)).folds == 48


def test_windows_that_cannot_be():
    with pytest.raises(ValueError, match=r"more than 4 knots, .* and floats cannot part them: give a larger window"):
        list(st.restrict(st.tent(60), (0.5, 1), window=4))
    with pytest.raises(ValueError, match="window is 3: expected an integer >= 4"):
        st.restrict(st.tent(3), (0, 1), window=3)
    with pytest.raises(TypeError, match=r"window is 4\.5"):
        st.restrict(st.tent(3), (0, 1), window=4.5)
    with pytest.raises(ValueError, match="there are 2 seeds: windows are of one function"):
        st.restrict(st.Chain("plain_relu", 3, seeds=2), (0, 1), window=10)


def test_values_out_of_range_are_refused():
    table = np.tile([0.0, 1e200, 1.0, 1.0, 0.0, 0.5], (3, 1))
    with pytest.raises(ValueError, match=r"leave float64's range: its knots cannot be listed; st.count counts them"):
        st.restrict(table, (-1, 1))


def test_a_zero_that_nothing_has_rounded_is_decided():
    table = np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 0.25]] * 5)  # h -> prelu(h): the kink maps to itself
    f = st.restrict(table, (-1, 1))
    assert f.undecided == 0
    assert f.count() == st.Count(1, 0, 2)


# --- underflow, and gains that cancel ---


class Repeated(nn.Module):
    """A chain of width 1 of one row, as a module."""

    def __init__(self, row, times):
        super().__init__()
        self.row, self.times = row, times

    def forward(self, x):
        skip, weight, bias, outer_weight, outer_bias, slope = self.row
        for _ in range(self.times):
            x = skip * x + outer_weight * nn.functional.leaky_relu(weight * x + bias, slope) + outer_bias
        return x


@pytest.mark.parametrize("row", [(0.0, 1.0, -0.0005, 1.0, 0.0, 0.25), (0.0, 1.0, -0.001, 0.5, 0.0, 0.25)])
@pytest.mark.parametrize("as_module", [False, True])
def test_folds_lost_to_underflow_are_undecided(row, as_module):
    for times in (50, 700):
        table = np.array([row] * times)
        f = st.restrict(Repeated(row, times) if as_module else table, (-1, 1))
        right = st.count(table, (-1, 1)) == f.count()
        assert right or f.undecided > 0
        assert times > 100 or f.undecided == 0


def test_slopes_lost_on_the_way_are_undecided():
    rows = np.array([[0.0, 2.0**-300, 0.0, 1.0, 0.0, 0.5]] * 5)
    assert st.restrict(rows, (-1, 1)).undecided > 0
    f = st.PiecewiseLinear([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    for net in (lambda x: x * 2.0**-600 * 2.0**-600, lambda x: x / 2.0**600 / 2.0**600):
        assert net(f).undecided > 0
    assert (f * 0).undecided == 0
    tiny = st.PiecewiseLinear([-1.0, 0.0, 1.0], [0.0, 0.0, 2.0**-600])
    assert tiny(tiny).undecided > 0
    assert st.PiecewiseLinear([-1e300, 0.0, 1e300], [0.0, 0.0, 1e-300]).undecided > 0


@pytest.mark.parametrize("slope", [0.5, 1.0])
@pytest.mark.parametrize("power", [-20, -300])
def test_values_lost_near_a_kink_at_0_are_undecided(power, slope):
    # Every kink on the way is at 0, where the first is; the slopes are kept, but the values beside it become 0.
    times = 1100 // -power
    small, large = ((0.0, 2.0**p, 0.0, 1.0, 0.0, slope) for p in (power, -power))
    first, last = (0.0, 1.0, 0.0, 1.0, 0.0, 0.5), (0.0, 1.0, -(2.0**-10), 1.0, 0.0, 0.5)
    for many in (times // 2, times):
        table = [first, *[small] * many, *[large] * many, last]
        points = breaks(table, -1, 1)
        f = st.restrict(np.array(table), (-1, 1))
        right = (len(f.folds()), len(f.knots)) == (len(bends(points)), len(points))
        assert right or f.undecided > 0
        assert right or many == times
        assert f.undecided == 0 or many == times


@pytest.mark.parametrize(
    "table",
    [
        [[0.0, 1.0, 0.0, 1.0, 0.0, -1.0], [1.0, 5.0, 0.0, -0.2, 0.0, 1.0]],  # a gain that is 0 but for rounding
        [[0.0, 1.0, 0.0, 1.0, 0.0, 0.3], [0.0, 1.0, 0.0, 1.0, 0.0, 1 / 0.3]],  # slopes that are equal but for that
        [[1.0, 1.0, 0.0, 1e-3, 0.0, 1 - 2.0**-53]],  # gains that are
    ],
)
def test_what_is_0_but_for_rounding(table):
    f = st.restrict(np.array(table), (-1, 1))
    exact = st.restrict(np.array(table), (-1, 1), exact=True).count()
    assert st.count(np.array(table), (-1, 1)) == exact
    assert f.undecided > 0 or f.count() == exact


@pytest.mark.parametrize("pair", [(-3, 3), (0.1, 0.3), (-1e-320, 1e-310), (1.0, 1.0 + 2.0**-52), (-1e308, 7e307)])
def test_an_interval_is_the_function_through_its_ends(pair):
    line, made = line_of(pair), st.PiecewiseLinear(pair, pair)
    assert line._data.tolist() == made._data.tolist()
    assert line._errors.tolist() == made._errors.tolist()
    assert line.knots.tolist() == made.knots.tolist()


@pytest.mark.parametrize(
    "ends", [lambda n: (torch.full((1, 2), n), torch.zeros(1, 3)), lambda n: {"a": torch.full((1, 2), n)}]
)
def test_a_segment_between_several_inputs_is_refused_with_a_way_out(ends):
    with pytest.raises(TypeError, match=r"start is a (tuple|dict) of several inputs.*holds the other inputs fixed"):
        st.segment(ends(0.0), ends(1.0))
