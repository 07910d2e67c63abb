"""A piecewise-linear function of one variable, held as a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stability.folds.as_tensor import AsTensor
from stability.folds.bends import hinge, select
from stability.folds.calculus import compose, distance
from stability.folds.numbers import FLOOR, Array, numbers, rationals, row_size, signs_of
from stability.folds.origins import Births, Origins
from stability.folds.pieces import align, insert_at, interpolated
from stability.folds.places import Places
from stability.folds.refuse import refuse
from stability.foundation.arguments import check_numbers, door
from stability.foundation.checks import check_finite, check_integer
from stability.foundation.formats import ROUNDOFF
from stability.foundation.shown import Shown


@dataclass(frozen=True)
class Count(Shown):
    """How often a function along a line, or over a plane, is folded.

    Attributes:
        folds: points where the slope of the output changes; over a plane edges at which its map does.
        turns: points where it changes sign, flat stretches passed over; None for a vector, which has no sign, and over
            a plane.
        regions: activation patterns met along the line; over a plane polygons, see `PiecewiseLinearSlice`.

    Along a line turns <= folds <= regions - 1. Each is an integer, or for several seeds an object array (seeds,).
    """

    folds: Any
    turns: Any
    regions: Any
    #: How many decisions rounding left open; 0 wherever the counts are certain, as those of a chain always are.
    undecided: int = field(default=0, compare=False)
    #: Where asked for, how many of the folds were born at each layer, first to last, a tuple of integers; for several
    #: seeds an object array (seeds,) of tuples.
    births: tuple[int, ...] | NDArray[np.object_] | None = field(default=None, compare=False, repr=False)


class PiecewiseLinear(AsTensor, Shown):
    """A continuous piecewise-linear function of one variable, of scalar or tensor values.

    Between two knots the function is affine. It is known three times over, each to rounding: by its values at the
    knots, by its slopes on the pieces, and by its bends, the slope on the right of a knot less that on the left. So
    pieces far narrower than the spacing of floats keep their slopes, and whether the slope changes is not asked of
    the difference of two rounded numbers.

    `st.restrict` makes one of a network. `PiecewiseLinear(knots, values)` interpolates: knots (K,) increasing,
    values (K,) or (K, *shape), or `Fraction`s for exact arithmetic. It can be added, subtracted, scaled, composed
    (`f(g)`), compared (`maximum`), integrated, and given to a piecewise-linear torch module in the place of a tensor
    of shape `f.shape`.

    Attributes:
        knots: (K,), the ends of the interval among them.
        values: (K, *shape), at the knots.
        slopes: (K - 1, *shape), of the pieces.
        bends: (K - 2, *shape), at the knots inside.
        undecided: how many decisions (the sign of a pre-activation at a knot, or of the slope of a scalar, whether a
            knot bends, whether two are one and which comes first) rounding and underflow leave open; 0 means that all
            are certain. Always 0 in exact arithmetic.
        exact: whether the numbers are `Fraction`s.

    Raises:
        ValueError, TypeError: for knots that do not increase, shapes that do not match, values that are not finite.

    >>> import stability as st
    >>> f = st.PiecewiseLinear([0.0, 1.0, 3.0], [0.0, 2.0, 0.0])
    >>> f(2.0), f.integral(), f.folds().tolist()
    (1.0, 3.0, [1.0])
    >>> (f - f).norm(2)
    0.0
    """

    def __init__(self, knots: ArrayLike, values: ArrayLike) -> None:
        t, v = numbers("knots", knots), numbers("values", values)
        if (t.dtype == object) != (v.dtype == object):
            t, v = (rationals(a) for a in (t, v))
        if t.ndim != 1 or len(t) < 2 or v.ndim == 0 or len(v) != len(t):
            raise ValueError(
                f"the knots have shape {t.shape} and the values {v.shape}: expected (K,) and (K, ...) with K >= 2"
            )
        wrong = np.flatnonzero(~(t[1:] > t[:-1]).astype(bool))
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(
                f"the knots are {t[i]}, {t[i + 1]} at {i} and {i + 1}: expected increasing numbers, low before high"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is named below
            data = interpolated(t, v)
        errors = np.zeros(len(data))
        if data.dtype != object:
            check_finite("the slopes of the function (piece)", data[len(t) :])
            # Two differences and a quotient, each of numbers that are exact.
            slopes = errors[len(t) : 2 * len(t) - 1]
            slopes[:] = 3 * ROUNDOFF * row_size(data[len(t) : 2 * len(t) - 1])
            slopes += FLOOR * (row_size(v[1:] - v[:-1]) > 0)
            errors[2 * len(t) - 1 :] = slopes[1:] + slopes[:-1] + ROUNDOFF * row_size(data[2 * len(t) - 1 :])
        self._hold(Places(t), data, errors, {}, None)

    def __repr__(self) -> str:
        low, high = map(float, self.interval)
        return f"PiecewiseLinear([{low:g}, {high:g}], pieces={len(self.knots) - 1}, shape={tuple(self.shape)})"

    @overload
    def __call__(self, t: PiecewiseLinear) -> PiecewiseLinear: ...

    @overload
    def __call__(self, t: Tensor) -> Tensor: ...

    @overload
    def __call__(self, t: Array | Sequence[float | Fraction]) -> Array: ...

    @overload
    def __call__(self, t: float | Fraction) -> Array | float | Fraction: ...

    def __call__(self, t: object) -> object:
        """Return the value at t: a number, an array or a tensor, which adds its shape in front; or compose, f(g)."""
        if isinstance(t, PiecewiseLinear):
            return compose(self, t)
        at = numbers("t", t)
        low, high = self.interval
        if at.size and not (np.all(at >= low) and np.all(at <= high)):
            raise ValueError(f"t goes from {at.min()} to {at.max()}: the function is known on [{low}, {high}]")
        out = self._at(at)
        if isinstance(t, Tensor):
            return torch.from_numpy(out).to(t.device)
        return out if out.ndim else out.item() if out.dtype != object else out[()]

    # Counting -------------------------------------------------------------------------------------------------------

    @overload
    def folds(self, births: Literal[False] = False) -> Array: ...

    @overload
    def folds(self, births: Literal[True]) -> Births: ...

    @overload
    def folds(self, births: bool) -> Array | Births: ...

    @door
    def folds(self, births: bool = False) -> Array | Births:
        """Return the knots where the slope changes, (folds,).

        With `births` return them as a `Births`: at each the layer, the module and the unit whose kink it is, for what
        `st.restrict` made and for what was made of it.

        >>> import torch, stability as st
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> births = st.restrict(model, (-3, 3)).folds(births=True)
        >>> set(births.modules) <= {"1"}, bool((births.units < 8).all())
        (True, True)
        """
        if not births:
            return self.knots[1:-1][self._bent()]
        bent = np.flatnonzero(self._bent()) + 1
        return self._origins().births(self.knots[bent], bent)

    def _origins(self) -> Origins:
        if self._places.origins is None:
            raise ValueError(
                "where the folds of the function were born is not known: expected what st.restrict(network, line) "
                "returns, or what was made of it"
            )
        return self._places.origins

    def _turns(self) -> NDArray[np.int64]:
        """The knots, by number, at which the slope's sign changes, a flat stretch's first one."""
        signs = signs_of(self._scalar("turns").slopes)
        steep = np.flatnonzero(signs)
        change = signs[steep[1:]] != signs[steep[:-1]]
        return np.asarray(steep[:-1][change] + 1)

    @door
    def count(self, births: bool = False) -> Count:
        """Return how many folds, turns and regions there are inside the interval, with `births` layer by layer too."""
        turns = len(self._turns()) if self.shape.numel() == 1 else None
        by_layer = self._origins().by_layer(self.folds(births=True)) if births else None
        return Count(int(self._bent().sum()), turns, len(self.knots) - 1, self.undecided, by_layer)

    def extrema(self) -> tuple[Array, Array]:
        """Return where the local extrema inside the interval are and the values there, two arrays (turns,).

        A flat stretch that is an extremum counts once, at its left end. The function must be scalar.
        """
        turns, f = self._turns(), self._scalar("extrema")
        return f.knots[turns], f.values[turns]

    def roots(self) -> Array:
        """Return where a scalar function is 0, increasing; of a piece that is 0 all along, its two ends."""
        f = self._scalar("roots")
        signs = signs_of(f.values)
        i = np.flatnonzero(signs[:-1] * signs[1:] < 0)
        part = abs(f.values[i]) / (abs(f.values[i]) + abs(f.values[i + 1]))
        crossings = f.knots[i] + part * (f.knots[i + 1] - f.knots[i])
        return np.sort(np.concatenate([crossings, f.knots[signs == 0]]))

    def simplify(self) -> PiecewiseLinear:
        """Return the same function without the knots where nothing bends."""
        return self._without(np.flatnonzero(~self._bent()) + 1)

    def _without(self, knots: NDArray[np.intp]) -> PiecewiseLinear:
        """Return the same function without some of the knots inside, where nothing bends."""
        count = len(self.knots)
        keep = np.delete(np.arange(count), knots)
        rows = np.concatenate([keep, count + keep[:-1], 2 * count - 2 + keep[1:-1]])
        places = self._places[keep].with_ends(*self._places.ends)
        return self._make(places, self._data[rows], self._errors[rows], self._undecided, self._limit)

    # New functions --------------------------------------------------------------------------------------------------

    def __abs__(self) -> PiecewiseLinear:
        return hinge(self, 0.0, -1.0, 1.0)

    def abs(self) -> PiecewiseLinear:
        """Return |f|."""
        return abs(self)

    def maximum(self, other: PiecewiseLinear | Tensor | Array | float) -> PiecewiseLinear:
        """Return the larger of the two at every point."""
        g = other if isinstance(other, PiecewiseLinear) else self * 0 + other
        f, g = align(self, g)
        return select(f - g, f, g)

    def minimum(self, other: PiecewiseLinear | Tensor | Array | float) -> PiecewiseLinear:
        """Return the smaller of the two at every point."""
        return -((-self).maximum(-other))

    def restrict(self, low: float | Fraction, high: float | Fraction) -> PiecewiseLinear:
        """Return the function on a smaller interval, low < high."""
        first, last = self.interval
        for name, value in (("low", low), ("high", high)):
            check_numbers(name, value)
        start, end = numbers("the interval", [low, high])
        if not first <= start < end <= last:
            raise ValueError(f"the interval is ({start}, {end}): expected low < high within [{first}, {last}]")
        f = insert_at(self, np.array([start, end], dtype=self.knots.dtype))
        i, j = np.searchsorted(f.knots, start, "right") - 1, np.searchsorted(f.knots, end, "left")
        k = len(f.knots)
        rows = np.concatenate([np.arange(i, j + 1), k + np.arange(i, j), 2 * k - 1 + np.arange(i, j - 1)])
        inside, (at_first, at_last) = self.knots[1:-1], self._places.ends
        ends = (
            (inside == start).any() or (at_first and start == first),
            (inside == end).any() or (at_last and end == last),
        )
        undecided = {k: of[(of[:, 1] >= start) & (of[:, 0] <= end)] for k, of in f._undecided.items()}
        part = f._make(f._places[i : j + 1].with_ends(*ends), f._data[rows], f._errors[rows], undecided, f._limit)
        part._doubt(self._places.near((start, end)))
        return part

    # Integrals ------------------------------------------------------------------------------------------------------

    def _not_inside(self, name: str) -> None:
        """Refuse in a network that is followed: there the name is that of a method of tensors with another meaning."""
        if self._limit is not None:
            refuse(f"Tensor.{name}", "it is not piecewise linear; what st.restrict(network, line) returns has norms")

    def integral(self) -> Array | float | Fraction:
        """Return the integral over the interval, of the values' shape."""
        width = np.diff(self.knots).reshape(-1, *[1] * len(self.shape))
        total = (width * (self.values[1:] + self.values[:-1]) / 2).sum(axis=0)
        return total if self.shape else total if self.exact else float(total)

    def inner(self, other: PiecewiseLinear) -> float | Fraction:
        """Return the scalar product, the integral of f g, summed over the entries of a tensor."""
        self._not_inside("inner")
        f, g = align(self, other)
        a, b, c, d = f.values[:-1], f.values[1:], g.values[:-1], g.values[1:]
        width = np.diff(f.knots).reshape(-1, *[1] * len(f.shape))
        total = (width * (2 * a * c + a * d + b * c + 2 * b * d) / 6).sum()
        return total if f.exact else float(total)

    def norm(self, p: float | None = None, *more: object, **options: object) -> float:
        """Return (the integral of |f|^p)^(1/p) for an integer p >= 1, or the maximum of |f| for p = inf.

        There is no default. The entries of a tensor are summed under the integral, or are all looked at.

        In a network that is followed, or is called with a segment, it is the norm of a tensor, of p = 1 or infinity.
        """
        if self._limit is not None:
            return cast(float, self.rules["norm"](self, 2 if p is None else p, *more, **options))
        if p is None or more or options:
            raise TypeError(
                "norm of a function takes its p and no more, such as f.norm(2); in a network it would be the norm of a "
                "tensor, which is not piecewise linear"
            )
        size = float(abs(self.values).max())
        if isinstance(p, float | np.floating) and p == math.inf:
            return size
        p = check_integer("p", p, 1, 100_000)
        if size == 0:
            return size
        f = abs(self) / size
        a, b = f.values[:-1], f.values[1:]
        # The mean of |f|^p over a piece from a >= 0 to b >= 0: no root is taken of a difference.
        mean = sum(a**i * b ** (p - i) for i in range(p + 1)) / (p + 1)
        width = np.diff(f.knots).reshape(-1, *[1] * len(f.shape))
        return float(size * float((width * mean).sum()) ** (1 / p))

    def distance(self, target: PiecewiseLinear | Callable[[Tensor], Tensor]) -> float:
        """Return the L2 distance, (the integral of (f - target)^2)^(1/2).

        For a smooth target, a function of a float64 tensor (points,), it is taken by Gauss-Legendre quadrature on the
        pieces, halved until two rules agree to a relative 1e-10; the target must be smooth inside each piece, and what
        it does within a thousandth of the interval may be missed.
        """
        if isinstance(target, PiecewiseLinear):
            return (self - target).norm(2)
        return distance(self, target)
