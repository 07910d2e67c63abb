"""Piecewise-linear functions as values: against closed forms, rational arithmetic and quadrature of other makes."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as some

import stability as st

UNIT = 2.0**-53

small = some.integers(-12, 12).map(lambda i: Fraction(i, 4))
steps = some.integers(1, 9).map(lambda i: Fraction(i, 3))


@some.composite
def functions(draw, knots=6, shape=()):
    """Exact functions on [0, 10], at most `knots` of them inside."""
    inside = sorted({sum(draw(some.lists(steps, min_size=1, max_size=3)), Fraction(0)) for _ in range(knots)})
    t = [Fraction(0), *[k for k in inside if k < 10], Fraction(10)]
    size = len(t) * math.prod(shape)
    v = draw(some.lists(small, min_size=size, max_size=size))
    return st.PiecewiseLinear(t, np.array(v, dtype=object).reshape(len(t), *shape))


def interpolate(f, t):
    """The value of a scalar f at t, by the definition."""
    knots, values = f.knots.tolist(), f.values.tolist()
    i = max(i for i in range(len(knots) - 1) if knots[i] <= t)
    return values[i] + (values[i + 1] - values[i]) * (t - knots[i]) / (knots[i + 1] - knots[i])


def places(*fs):
    """The knots of all, and three points on every piece between."""
    knots = sorted({k for f in fs for k in f.knots.tolist()})
    between = [a + (b - a) * Fraction(i, 7) for a, b in itertools.pairwise(knots) for i in (1, 3, 6)]
    return sorted([*knots, *between])


def is_consistent(f):
    """Values, slopes and bends tell the same function."""
    width = np.diff(f.knots)
    assert (np.diff(f.values) == width * f.slopes).all()
    assert (np.diff(f.slopes) == f.bends).all()
    return True


# --- evaluation, counting, roots, extrema ---


def test_a_zigzag_by_hand():
    f = st.PiecewiseLinear([0.0, 1.0, 2.0, 4.0], [0.0, 2.0, 1.0, 5.0])
    assert f.interval == (0.0, 4.0)
    assert f.slopes.tolist() == [2.0, -1.0, 2.0]
    assert f.bends.tolist() == [-3.0, 3.0]
    assert (f(0.5), f(1.0), f(1.5), f(3.0), f(4.0)) == (1.0, 2.0, 1.5, 3.0, 5.0)
    assert f.folds().tolist() == [1.0, 2.0]
    assert f.count() == st.Count(2, 2, 3)
    assert [a.tolist() for a in f.extrema()] == [[1.0, 2.0], [2.0, 1.0]]
    assert f.integral() == 1.0 + 1.5 + 6.0
    assert f.undecided == 0
    assert repr(f) == "PiecewiseLinear([0, 4], pieces=3, shape=())"


def test_evaluation_keeps_the_shape_of_t_in_front():
    f = st.PiecewiseLinear([0, 1, 3], np.arange(12.0).reshape(3, 2, 2))
    assert f(0.5).shape == (2, 2)
    assert f(np.zeros((5, 4))).shape == (5, 4, 2, 2)
    assert f(np.zeros(0)).shape == (0, 2, 2)
    at = f(torch.tensor([0.0, 2.0], dtype=torch.float32))
    assert at.dtype == torch.float64
    assert at[1].tolist() == [[6.0, 7.0], [8.0, 9.0]]
    assert type(st.PiecewiseLinear([0, 1], [0, 1])(0.5)) is float


@given(functions())
def test_evaluation_is_interpolation(f):
    t = places(f)
    assert f(np.array(t, dtype=object)).tolist() == [interpolate(f, x) for x in t]
    g = st.PiecewiseLinear(f.knots.astype(float), f.values.astype(float))
    got = g(np.array(t, dtype=float))
    # Values up to 3, slopes up to 18 on pieces up to 10 wide, knots and t rounded.
    np.testing.assert_allclose(got, [float(interpolate(f, x)) for x in t], rtol=0, atol=18 * 20 * 4 * UNIT)


def test_evaluation_next_to_a_far_knot_is_local():
    f = st.PiecewiseLinear([-1e9, 0.0, 1e9], [1e9, 0.0, 1e9])
    assert f(-1e-9) == 1e-9
    assert f(1e-9) == 1e-9


@given(functions())
def test_counts_follow_their_definitions(f):
    slopes = [(b - a) / w for a, b, w in zip(f.values[:-1], f.values[1:], np.diff(f.knots), strict=True)]
    changes = [f.knots[i + 1] for i in range(len(slopes) - 1) if slopes[i] != slopes[i + 1]]
    signs = [s > 0 for s in slopes if s != 0]
    turns = sum(a != b for a, b in itertools.pairwise(signs))
    assert f.folds().tolist() == changes
    assert f.count() == st.Count(len(changes), turns, len(slopes))
    assert turns <= len(changes) <= len(slopes) - 1
    assert len(f.extrema()[0]) == turns


def test_plateaus_count_once():
    f = st.PiecewiseLinear(range(7), [0, 1, 1, 1, 0, 0, 1])  # a plateau with a knot inside, and a valley
    assert f.count() == st.Count(4, 2, 6)
    assert [a.tolist() for a in f.extrema()] == [[1.0, 4.0], [1.0, 0.0]]
    assert st.PiecewiseLinear(range(4), [0, 1, 1, 2]).count() == st.Count(2, 0, 3)  # a stair
    assert st.PiecewiseLinear(range(3), [1, 1, 1]).count() == st.Count(0, 0, 2)
    assert [len(a) for a in st.PiecewiseLinear([0, 1], [1, 1]).extrema()] == [0, 0]


@given(functions())
def test_roots_are_all_there_are(f):
    roots = f.roots().tolist()
    assert all(interpolate(f, r) == 0 for r in roots)
    assert roots == sorted(set(roots))
    knots, v = f.knots.tolist(), f.values.tolist()
    crossed = {
        knots[i] - v[i] * (knots[i + 1] - knots[i]) / (v[i + 1] - v[i])
        for i in range(len(v) - 1)
        if v[i] != v[i + 1] and min(v[i], v[i + 1]) <= 0 <= max(v[i], v[i + 1])
    }
    flat = {k for i in range(len(v) - 1) if v[i] == v[i + 1] == 0 for k in knots[i : i + 2]}
    assert set(roots) == crossed | flat


# --- integrals ---


def moments(f, g=None, p=1):
    """The integral of f^p or f g of exact functions by Simpson's or a Newton-Cotes rule of high enough order."""
    knots = sorted({*f.knots.tolist(), *(g.knots.tolist() if g is not None else [])})
    total = Fraction(0)
    for a, b in itertools.pairwise(knots):
        at = [a, (a + b) / 2, b]
        v = [interpolate(f, x) * interpolate(g, x) if g is not None else interpolate(f, x) ** p for x in at]
        total += (b - a) * (v[0] + 4 * v[1] + v[2]) / 6  # exact up to cubics
    return total


@given(functions(), functions())
def test_integrals_are_exact(f, g):
    assert f.integral() == moments(f)
    assert f.inner(g) == moments(f, g)
    assert f.norm(2) == pytest.approx(math.sqrt(moments(f, p=2)), rel=8 * UNIT)
    assert f.norm(math.inf) == max(abs(v) for v in f.values)
    distance = f.distance(g)
    assert distance == pytest.approx(math.sqrt(moments(f, p=2) - 2 * moments(f, g) + moments(g, p=2)), rel=8 * UNIT)
    # |f| by its sign between roots: the second oracle.
    pieces = sorted({*f.knots.tolist(), *f.roots().tolist()})
    for p in (1, 3):
        total = Fraction(0)
        for a, b in itertools.pairwise(pieces):
            v = [abs(interpolate(f, x)) ** p for x in (a, (a + b) / 2, b)]
            total += (b - a) * (v[0] + 4 * v[1] + v[2]) / 6
        assert f.norm(p) == pytest.approx(float(total) ** (1 / p), rel=8 * UNIT)


@given(functions(), functions())
def test_float_integrals_are_near_exact_ones(f, g):
    a, b = (st.PiecewiseLinear(h.knots.astype(float), h.values.astype(float)) for h in (f, g))
    # At most 14 pieces, each term below 90, and the knots rounded.
    assert a.integral() == pytest.approx(float(f.integral()), abs=14 * 8 * 90 * UNIT)
    assert a.inner(b) == pytest.approx(float(f.inner(g)), abs=14 * 8 * 90 * 20 * UNIT)


def test_norms_of_a_line_in_closed_form():
    f = st.PiecewiseLinear([-1.0, 1.0], [-1.0, 1.0])
    for p in (1, 2, 3, 4, 7):
        assert f.norm(p) == pytest.approx((2 / (p + 1)) ** (1 / p), rel=4 * UNIT)
    assert f.norm(math.inf) == 1.0
    assert f.integral() == 0.0
    v = st.PiecewiseLinear([0, 1], [[1.0, 2.0], [1.0, 2.0]])
    assert v.integral().tolist() == [1.0, 2.0]
    assert v.norm(2) == math.sqrt(5)
    assert v.norm(1) == 3.0
    assert v.inner(v) == 5.0


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_the_distance_to_a_sine_is_that_of_mpmath(pieces):
    knots = np.linspace(-3, 2, pieces + 1)
    f = st.PiecewiseLinear(knots, np.cos(3 * knots))
    with mpmath.workdps(30):
        total = mpmath.mpf(0)
        for i in range(pieces):
            a, b, u, v = (mpmath.mpf(float(x)) for x in (*knots[i : i + 2], *f.values[i : i + 2]))

            def square(t, a=a, b=b, u=u, v=v):
                return (u + (v - u) * (t - a) / (b - a) - mpmath.sin(t)) ** 2

            total += mpmath.quad(square, [a, b])
        expected = float(mpmath.sqrt(total))
    assert f.distance(torch.sin) == pytest.approx(expected, rel=1e-12)


def test_the_distance_to_what_is_not_smooth_or_not_a_tensor():
    f = st.PiecewiseLinear([0.0, 1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"the quadrature does not settle near t = .*split the interval"):
        f.distance(lambda t: 1 / (t - 0.4142135))
    with pytest.raises(ValueError, match=r"the target on the interval \(point\) has .* not finite"):
        f.distance(lambda t: t / 0)
    with pytest.raises(TypeError, match="expected a tensor of the same shape"):
        f.distance(lambda _: 0.0)
    assert f.distance(lambda t: t) == pytest.approx(math.sqrt(1 / 3), rel=1e-14)


# --- arithmetic ---


@given(functions(), functions(), small)
def test_arithmetic_is_pointwise(f, g, c):
    t = places(f, g)
    at = np.array(t, dtype=object)
    u, v = [interpolate(f, x) for x in t], [interpolate(g, x) for x in t]
    for h, expected in (
        (f + g, [a + b for a, b in zip(u, v, strict=True)]),
        (f - g, [a - b for a, b in zip(u, v, strict=True)]),
        (f + c, [a + c for a in u]),
        (c - f, [c - a for a in u]),
        (f * c, [a * c for a in u]),
        (c * f, [a * c for a in u]),
        (-f, [-a for a in u]),
        (f / 3, [a / 3 for a in u]),
        (abs(f), [abs(a) for a in u]),
        (f.maximum(g), [max(a, b) for a, b in zip(u, v, strict=True)]),
        (f.minimum(g), [min(a, b) for a, b in zip(u, v, strict=True)]),
        (f.maximum(c), [max(a, c) for a in u]),
        (f.simplify(), u),
    ):
        assert h(at).tolist() == expected
        assert h.exact
        assert is_consistent(h)
        assert h.undecided == 0


@given(functions())
def test_a_function_less_itself_is_zero(f):
    for g in (f, st.PiecewiseLinear(f.knots.astype(float), f.values.astype(float))):
        zero = g - g
        assert not zero.values.any()
        assert not zero.slopes.any()
        assert zero.count().folds == zero.count().turns == 0
        assert zero.norm(1) == zero.norm(2) == zero.norm(math.inf) == 0.0
        assert len(zero.simplify().knots) == 2


@given(functions(), functions())
def test_float_arithmetic_is_within_its_bounds(f, g):
    a, b = (st.PiecewiseLinear(h.knots.astype(float), h.values.astype(float)) for h in (f, g))
    e, d = a.to_exact(), b.to_exact()  # the functions that the floats are
    for rounded, exact in ((a + b, e + d), (a - b, e - d), (a * 0.3, e * 0.3), (2 * a + b / 3, 2 * e + d / 3)):
        assert (rounded.knots == exact.knots.astype(float)).all()
        k = len(rounded.knots)
        for rows, errors in (
            (rounded.values - exact.values.astype(float), rounded._errors[:k]),
            (rounded.slopes - exact.slopes.astype(float), rounded._errors[k : 2 * k - 1]),
            (rounded.bends - exact.bends.astype(float), rounded._errors[2 * k - 1 :]),
        ):
            # Half an ulp more: the exact one is rounded to be compared.
            assert (np.abs(rows) <= errors * (1 + 1e-9) + UNIT * 60).all()


@given(functions(), some.lists(some.integers(0, 40), min_size=2, max_size=9))
def test_composition_is_pointwise(f, heights):
    inner = st.PiecewiseLinear(range(len(heights)), [Fraction(h, 4) for h in heights])
    h = f(inner)
    t = places(h)
    assert h(np.array(t, dtype=object)).tolist() == [interpolate(f, interpolate(inner, x)) for x in t]
    assert is_consistent(h)
    # Wherever the slope of the composition changes there is a knot: checked on the finer grid of all candidates.
    assert set(inner.knots.tolist()) <= set(h.knots.tolist())


def test_composition_in_floats_and_of_vectors():
    outer = st.PiecewiseLinear([0.0, 0.5, 1.0], [[0.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
    inner = st.PiecewiseLinear([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    h = outer(inner)
    assert h.knots.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert h.values.tolist() == [[0.0, 1.0], [1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [0.0, 1.0]]
    assert h.count() == st.Count(3, None, 4)
    tent = st.PiecewiseLinear([0.0, 0.5, 1.0], [0.0, 1.0, 0.0])
    twice = tent(tent(tent))
    assert twice.count() == st.Count(7, 7, 8)
    with pytest.raises(ValueError, match=r"goes from 0.0 to 2.0: the outer one is known on \[0.0, 1.0\]"):
        tent(tent * 2)
    with pytest.raises(ValueError, match="inner functions need a scalar"):
        tent(outer)


@given(functions(), some.integers(0, 29), some.integers(1, 30))
def test_a_smaller_interval(f, i, j):
    assume(i < j)
    low, high = Fraction(i, 3), Fraction(j, 3)
    g = f.restrict(low, high)
    assert g.interval == (low, high)
    t = [x for x in places(f, g) if low <= x <= high]
    assert g(np.array(t, dtype=object)).tolist() == [interpolate(f, x) for x in t]
    assert set(g.knots.tolist()) == {low, high} | {k for k in f.knots.tolist() if low < k < high}
    assert is_consistent(g)
    assert g.folds().tolist() == [k for k in f.folds().tolist() if low < k < high]


@given(functions(shape=(2, 2)), functions(shape=(2,)))
def test_vectors_are_their_entries(f, g):
    h = f + g
    assert h.shape == (2, 2)
    top = f.maximum(g)
    for i in range(2):
        for j in range(2):
            t = np.array(places(f, g), dtype=object)
            assert (h[i, j](t) == f[i, j](t) + g[j](t)).all()
            assert top[i, j](t).tolist() == [max(a, b) for a, b in zip(f[i, j](t), g[j](t), strict=True)]
    assert h.count().turns is None
    assert set(f.folds().tolist()) == {k for i in range(2) for j in range(2) for k in f[i, j].folds().tolist()}


def test_simplify_drops_what_does_not_bend():
    f = st.PiecewiseLinear(range(6), [0, 1, 2, 3, 2, 1])
    g = f.simplify()
    assert g.knots.tolist() == [0, 3, 5]
    assert g.slopes.tolist() == [1, -1]
    assert g.bends.tolist() == [-2]
    assert f.count().folds == g.count().folds == 1
    v = st.PiecewiseLinear([0, 1, 2, 3], [[0, 0], [1, 0], [2, 1], [3, 2]]).simplify()
    assert v.knots.tolist() == [0, 1, 3]


def test_fractions_stay_fractions():
    f = st.PiecewiseLinear([Fraction(0), Fraction(1, 3), 1], [0, Fraction(1, 7), 2])
    assert f.exact
    assert f(Fraction(1, 3)) == Fraction(1, 7)
    assert type(f.integral()) is Fraction
    mixed = f + st.PiecewiseLinear([0.0, 1.0], [0.0, 0.1])
    assert mixed.exact
    assert mixed(Fraction(1)) == 2 + Fraction(0.1)
    assert st.PiecewiseLinear([0.0, 1.0], [0.0, 0.1]).to_exact().values.tolist() == [0, Fraction(0.1)]
    assert st.PiecewiseLinear([Fraction(0), Fraction(1)], [0.0, 0.5]).exact  # either makes both


def test_in_place_arithmetic_is_seen_through_every_name():
    f = g = st.PiecewiseLinear([0.0, 1.0], [0.0, 1.0])
    f += 1
    f *= 4
    f -= st.PiecewiseLinear([0.0, 1.0], [1.0, 1.0])
    f /= 2
    assert g is f
    assert g.values.tolist() == [1.5, 3.5]


def test_the_operands_are_left_as_they_were():
    f = st.PiecewiseLinear([0.0, 1.0, 2.0], [-1.0, 1.0, -2.0])
    g = st.PiecewiseLinear([0.0, 0.3, 2.0], [0.5, -1.0, 0.0])
    before = [a.copy() for h in (f, g) for a in (h.knots, h._data, h._errors)]
    _ = f + g, f - g, abs(f), f.maximum(g), f.minimum(0.1), f.restrict(0.2, 1.5), f.simplify(), torch.relu(f), f.norm(1)
    _ = torch.clamp(f, -0.5, 0.5), torch.cat([f[None], g[None]]), f.distance(g), f.roots(), f.inner(g), f.to_exact()
    after = [a for h in (f, g) for a in (h.knots, h._data, h._errors)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


# --- what is refused ---

F = st.PiecewiseLinear([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
VECTOR = st.PiecewiseLinear([0.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: st.PiecewiseLinear([0, 2, 1], [0, 0, 0]), ValueError, "knots are 2.0, 1.0 at 1 and 2: expected incr"),
        (lambda: st.PiecewiseLinear([0, 0], [0, 1]), ValueError, "expected increasing numbers, low before high"),
        (lambda: st.PiecewiseLinear([1, 0], [0, 1]), ValueError, "low before high"),
        (lambda: st.PiecewiseLinear([0, 1], [0, 1, 2]), ValueError, r"shape \(2,\) and the values \(3,\): expected"),
        (lambda: st.PiecewiseLinear([0], [0]), ValueError, "with K >= 2"),
        (lambda: st.PiecewiseLinear([[0, 1]], [0, 1]), ValueError, r"shape \(1, 2\)"),
        (lambda: st.PiecewiseLinear([0, 1], 0.0), ValueError, "expected"),
        (lambda: st.PiecewiseLinear([0, math.nan], [0, 1]), ValueError, "knots has 1 values that are not finite"),
        (lambda: st.PiecewiseLinear([0, 1], [0, math.inf]), ValueError, "values has 1 values that are not finite"),
        (lambda: st.PiecewiseLinear(["a", "b"], [0, 1]), TypeError, "expected real numbers"),
        (lambda: st.PiecewiseLinear([0, 1j], [0, 1]), TypeError, "expected real numbers"),
        (lambda: st.PiecewiseLinear([0, 1e-300], [0, 1e300]), ValueError, "slopes of the function"),
        (lambda: F(2.5), ValueError, r"t goes from 2.5 to 2.5: the function is known on \[0.0, 2.0\]"),
        (lambda: F(np.array([0.0, -1.0])), ValueError, "t goes from -1.0 to 0.0"),
        (lambda: F(math.nan), ValueError, "not finite"),
        (lambda: F(torch.tensor(math.nan)), ValueError, "t has 1 values that are not finite"),
        (lambda: F + VECTOR, ValueError, r"known on \[0.0, 2.0\] and \[0.0, 1.0\]: restrict both .*restrict\(0.0, 1.0"),
        (lambda: F + st.PiecewiseLinear([3, 4], [0, 1]), ValueError, "these do not overlap"),
        (lambda: VECTOR + np.zeros(3), ValueError, "broadcast"),
        (lambda: VECTOR.roots(), ValueError, r"shape \(2,\): roots need a scalar; take one entry, f\[0\]"),
        (lambda: VECTOR.extrema(), ValueError, "need a scalar"),
        (lambda: VECTOR.distance(torch.sin), ValueError, "distances to a target need a scalar"),
        (lambda: bool(F > 0), TypeError, "a comparison or a branch on values cannot be followed.*minimum or abs"),
        (lambda: max(F, F), TypeError, "a comparison"),
        (lambda: bool(F), TypeError, "a comparison or a branch"),
        (lambda: float(F), TypeError, "a comparison or a branch"),
        (lambda: F * F, TypeError, "the product of two functions.*not piecewise linear"),
        (lambda: F / F, TypeError, "a quotient by a function"),
        (lambda: 1 / F, TypeError, "quotient by a function|unsupported operand"),
        (lambda: F**2, TypeError, "a power"),
        (lambda: F / 0, ZeroDivisionError, "divided by 0"),
        (lambda: np.asarray(F), TypeError, "numpy.*use f.knots"),
        (lambda: F + "a", TypeError, "expected real numbers"),
        (lambda: F + math.nan, ValueError, "the operand has 1 values that are not finite"),
        (lambda: F.norm(0.5), TypeError, "p is 0.5: expected an integer >= 1"),
        (lambda: F.norm(0), ValueError, "p is 0: expected an integer >= 1"),
        (lambda: F.norm("fro"), TypeError, "p is 'fro'"),
        (lambda: F.restrict(1, 0.5), ValueError, r"the interval is \(1.0, 0.5\): expected low < high within \[0.0"),
        (lambda: F.restrict(0, 3), ValueError, "within"),
        (lambda: F.restrict(0, math.nan), ValueError, "not finite"),
        (lambda: F.inner(3.0), TypeError, "the operand is a float: expected a PiecewiseLinear"),
        (lambda: len(F), TypeError, "no length"),
        (lambda: F.wrong_name, AttributeError, "has no 'wrong_name'"),
        (lambda: F.exp, TypeError, r"Tensor.exp cannot be followed"),
        (lambda: VECTOR.__setitem__(0, 1.0), TypeError, "an assignment to entries"),
        (lambda: st.restrict(torch.nn.ReLU(), (1, 0)), ValueError, r"the interval \(1.0, 0.0\) is empty or reversed"),
        (lambda: st.restrict(torch.nn.ReLU(), (1, 1)), ValueError, "empty or reversed"),
        (lambda: st.restrict(torch.nn.ReLU(), (0, math.nan)), ValueError, "two finite ends"),
        (lambda: st.restrict(torch.nn.ReLU(), (-math.inf, 0)), ValueError, "two finite ends"),
        (lambda: st.restrict(torch.nn.ReLU(), "ab"), TypeError, r"expected an interval \(low, high\)"),
        (lambda: st.restrict(torch.nn.ReLU(), 0.0), TypeError, r"expected an interval \(low, high\)"),
        (lambda: st.segment([0.0, 1.0], [0.0, 1.0]), ValueError, "from a point to itself"),
        (lambda: st.segment([0.0], [0.0, 1.0]), ValueError, r"from shape \(1,\) to shape \(2,\)"),
        (lambda: st.segment([], []), ValueError, "at least one entry"),
        (lambda: st.segment([0.0], [math.nan]), ValueError, "end has 1 values that are not finite"),
        (lambda: st.segment(["a"], ["b"]), TypeError, "start holds .*expected real numbers"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_lines():
    f = st.restrict(torch.nn.Identity(), (-3, 3))
    assert f.knots.tolist() == f.values.tolist() == [-3.0, 3.0]
    assert f.slopes.tolist() == [1.0]
    assert st.restrict(torch.nn.Identity(), [-3, 3]).interval == (-3.0, 3.0)
    g = st.segment(torch.zeros(1, 2), torch.tensor([[1.0, -2.0]]))
    assert g.shape == (1, 2)
    assert g(0.25).tolist() == [[0.25, -0.5]]
    assert st.segment(0.0, 1.0).shape == ()


def test_a_value_cannot_be_written_to():
    f = st.PiecewiseLinear([0.0, 1.0, 3.0], [0.0, 2.0, 0.0])
    for array in (f.knots, f.values, f.slopes, f.bends):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 10


def test_numpy_s_numbers_scale_and_shift_from_the_left():
    f = st.PiecewiseLinear([0.0, 1.0, 3.0], [0.0, 2.0, 0.0])
    np.testing.assert_array_equal((np.float64(2) * f).values, [0, 4, 0])
    np.testing.assert_array_equal((np.ones(2) + f).values, [[1, 1], [3, 3], [1, 1]])
    with pytest.raises(TypeError, match="a comparison"):
        f == f  # noqa: B015
    with pytest.raises(TypeError, match="a quotient by a function"):
        1 / f


def test_norms_of_high_order_stay_in_range():
    f = st.PiecewiseLinear([0.0, 1.0], [0.0, 3.0])
    assert f.norm(2000) == pytest.approx(3 * 2001 ** (-1 / 2000), rel=1e-12)
    assert (f - f).norm(2000) == 0


def test_the_distance_sees_what_is_narrow():
    zero = st.PiecewiseLinear([0.0, 3.0], [0.0, 0.0])
    bump = zero.distance(lambda t: torch.exp(-(((t - 1.2345) * 50) ** 2)))
    assert bump == pytest.approx((math.pi / 2) ** 0.25 / 50**0.5, rel=1e-9)
    with pytest.raises(TypeError, match=r"the target returns torch.complex128"):
        zero.distance(lambda t: torch.complex(t, t))
    with pytest.raises(TypeError, match=r"expected a function such as torch.sin"):
        zero.distance("sin")
    with pytest.raises(TypeError, match=r"start holds torch.complex64"):
        st.segment(torch.tensor([1j, 2]), torch.tensor([1.0, 1.0]))
