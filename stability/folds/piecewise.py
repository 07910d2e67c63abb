"""A piecewise-linear function of one variable, held as a value."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stability.checks import check_finite, check_integer
from stability.folds.refusal import refuse

Array = NDArray[Any]
_UNIT = 2.0**-53
_decision = itertools.count()


@dataclass(frozen=True)
class Count:
    """How often a line is folded.

    Attributes:
        folds: points where the slope of the output changes.
        turns: points where it changes sign, flat stretches passed over; None for a vector, which has no sign.
        regions: activation patterns met along the line.

    Always turns <= folds <= regions - 1. Each is an integer, or for several seeds an object array (seeds,).
    """

    folds: Any
    turns: Any
    regions: Any


class TooManyKnots(Exception):
    """A function has more knots than its window may hold."""


class PiecewiseLinear:
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
        undecided: how many decisions (the sign of a pre-activation at a knot, whether a knot bends) the rounding
            errors leave open; 0 means that all are certain. Always 0 in exact arithmetic.
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

    #: What torch functions do to a function: name -> rule(f, *args, **kwargs), filled by `torch_rules`.
    rules: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, knots: ArrayLike, values: ArrayLike) -> None:
        t, v = _numbers("knots", knots), _numbers("values", values)
        if (t.dtype == object) != (v.dtype == object):
            t, v = (_rationals(a) for a in (t, v))
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
        width = (t[1:] - t[:-1]).reshape(-1, *[1] * (v.ndim - 1))
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is named below
            slopes = (v[1:] - v[:-1]) / width
            data = np.concatenate([v, slopes, slopes[1:] - slopes[:-1]])
        errors = np.zeros(len(data))
        if data.dtype != object:
            check_finite("the slopes of the function (piece)", data[len(v) :])
            size = _row_size(v)
            rise = 3 * _UNIT * (_row_size(slopes)) + _UNIT * (size[1:] + size[:-1]) * (
                size[1:] != size[:-1]
            ) / np.ravel(width)
            errors[len(v) : len(v) + len(slopes)] = rise
            errors[len(v) + len(slopes) :] = rise[1:] + rise[:-1]
        self._hold(t, data, errors, {}, None)

    def _hold(
        self,
        knots: Array,
        data: Array,
        errors: Array | Callable[[], Array],
        undecided: dict[int, int],
        limit: int | None,
    ) -> None:
        # What was left undecided, by the decision that left it: a sum of branches counts what they share once.
        # Rows of data: K values, K - 1 slopes, K - 2 bends. A linear map acts on all of them alike.
        if limit is not None and len(knots) > limit:
            raise TooManyKnots
        self.knots, self._data, self._bounds = knots, data, errors
        self._undecided, self._limit = undecided, limit
        self._views: weakref.WeakSet[PiecewiseLinear] | None = None

    @classmethod
    def _make(
        cls,
        knots: Array,
        data: Array,
        errors: Array | Callable[[], Array],
        undecided: dict[int, int],
        limit: int | None = None,
    ) -> PiecewiseLinear:
        f = cls.__new__(cls)
        f._hold(knots, data, errors, undecided, limit)
        return f

    def _like(self, data: Array, errors: Array | None = None) -> PiecewiseLinear:
        errors = self._errors if errors is None else errors
        return self._make(self.knots, data, errors, self._undecided, self._limit)

    def _become(self, other: PiecewiseLinear) -> PiecewiseLinear:
        """Take the place of an in-place operation."""
        if self._views is not None and len(self._views) > 1:
            refuse("an in-place operation on a tensor of which a view is in use", "use the form that returns a new one")
        self.knots, self._data, self._bounds = other.knots, other._data, other._bounds
        self._undecided, self._limit = other._undecided, other._limit
        return self

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def values(self) -> Array:
        return self._data[: len(self.knots)]

    @property
    def slopes(self) -> Array:
        return self._data[len(self.knots) : 2 * len(self.knots) - 1]

    @property
    def bends(self) -> Array:
        return self._data[2 * len(self.knots) - 1 :]

    @property
    def _errors(self) -> Array:
        """Bounds of the rounding errors of the rows of data, made when they are first asked for."""
        if not isinstance(self._bounds, np.ndarray):
            self._bounds = self._bounds()
        return self._bounds

    @property
    def shape(self) -> torch.Size:
        """The shape of a value, () for a scalar."""
        return torch.Size(self._data.shape[1:])

    @property
    def interval(self) -> tuple[Any, Any]:
        """Where the function is known, (low, high)."""
        return self.knots[0], self.knots[-1]

    @property
    def exact(self) -> bool:
        return self._data.dtype == object

    @property
    def undecided(self) -> int:
        errors = self._errors[2 * len(self.knots) - 1 :]
        return sum(self._undecided.values()) + int(np.sum((errors > 0) & (_row_size(self.bends) <= errors)))

    def to_exact(self, kind: type = Fraction) -> PiecewiseLinear:
        """Return the function of the same knots and values, read as rational numbers: no later operation rounds."""
        if self.exact and kind is type(self._data.flat[0]):
            return self
        f = PiecewiseLinear.__new__(PiecewiseLinear)
        if self.exact:
            f._hold(
                _rationals(self.knots, kind), _rationals(self._data, kind), self._errors, self._undecided, self._limit
            )
            return f
        f.__init__(_rationals(self.knots), _rationals(self.values))  # type: ignore[misc]
        f._limit = self._limit
        return f.to_exact(kind)

    def __repr__(self) -> str:
        low, high = map(float, self.interval)
        return f"PiecewiseLinear([{low:g}, {high:g}], pieces={len(self.knots) - 1}, shape={tuple(self.shape)})"

    def _scalar(self, what: str) -> PiecewiseLinear:
        if self.shape.numel() != 1:
            raise ValueError(
                f"the function has values of shape {tuple(self.shape)}: {what} need a scalar; take one entry, "
                f"f[{', '.join('0' * len(self.shape))}]"
            )
        return self if not self.shape else self._like(self._data.reshape(len(self._data)))

    def __call__(self, t: Any) -> Any:
        """Return the value at t: a number, an array or a tensor, which adds its shape in front; or compose, f(g)."""
        if isinstance(t, PiecewiseLinear):
            from stability.folds.calculus import compose

            return compose(self, t)
        at = _numbers("t", t) if not isinstance(t, Tensor) else t.detach().cpu().double().numpy()
        low, high = self.interval
        if at.size and not (np.all(at >= low) and np.all(at <= high)):
            raise ValueError(f"t goes from {at.min()} to {at.max()}: the function is known on [{low}, {high}]")
        piece = np.clip(np.searchsorted(self.knots, at.ravel(), "right") - 1, 0, len(self.knots) - 2)
        # From the nearer knot: the other one may be far, and its error with it.
        near = piece + (at.ravel() - self.knots[piece] > self.knots[piece + 1] - at.ravel())
        away = (at.ravel() - self.knots[near]).reshape(-1, *[1] * len(self.shape))
        out = (self.values[near] + self.slopes[piece] * away).reshape(at.shape + tuple(self.shape))
        if isinstance(t, Tensor):
            return torch.from_numpy(out).to(t.device)
        return out if out.ndim else out.item() if out.dtype != object else out[()]

    # Counting -------------------------------------------------------------------------------------------------------

    def _bent(self) -> NDArray[np.bool_]:
        return np.asarray(_flat(self.bends != 0).any(axis=1), dtype=bool)

    def folds(self) -> Array:
        """Return the knots where the slope changes, (folds,)."""
        return self.knots[1:-1][self._bent()]

    def _turns(self) -> NDArray[np.int64]:
        """The knots, by number, at which the slope's sign changes, a flat stretch's first one."""
        signs = _signs(self._scalar("turns").slopes)
        steep = np.flatnonzero(signs)
        change = signs[steep[1:]] != signs[steep[:-1]]
        return np.asarray(steep[:-1][change] + 1)

    def count(self) -> Count:
        """Return how many folds, turns and regions there are inside the interval."""
        turns = len(self._turns()) if self.shape.numel() == 1 else None
        return Count(int(self._bent().sum()), turns, len(self.knots) - 1)

    def extrema(self) -> tuple[Array, Array]:
        """Return where the local extrema inside the interval are and the values there, two arrays (turns,).

        A flat stretch that is an extremum counts once, at its left end. The function must be scalar.
        """
        turns, f = self._turns(), self._scalar("extrema")
        return f.knots[turns], f.values[turns]

    def roots(self) -> Array:
        """Return where a scalar function is 0, increasing; of a piece that is 0 all along, its two ends."""
        f = self._scalar("roots")
        signs = _signs(f.values)
        i = np.flatnonzero(signs[:-1] * signs[1:] < 0)
        part = abs(f.values[i]) / (abs(f.values[i]) + abs(f.values[i + 1]))
        crossings = f.knots[i] + part * (f.knots[i + 1] - f.knots[i])
        return np.sort(np.concatenate([crossings, f.knots[signs == 0]]))

    def simplify(self) -> PiecewiseLinear:
        """Return the same function without the knots where nothing bends."""
        keep = np.flatnonzero(np.concatenate([[True], self._bent(), [True]]))
        count = len(self.knots)
        rows = np.concatenate([keep, count + keep[:-1], 2 * count - 2 + keep[1:-1]])
        return self._make(self.knots[keep], self._data[rows], self._errors[rows], self._undecided, self._limit)

    # Arithmetic -----------------------------------------------------------------------------------------------------

    def _with(self, other: Any, sign: int) -> PiecewiseLinear:
        if isinstance(other, PiecewiseLinear):
            f, g = align(self, other)
            data = f._data + g._data if sign > 0 else f._data - g._data
            rounding = 0.0 if f.exact else _UNIT * _row_size(data)
            undecided = f._undecided | g._undecided
            return f._make(
                f.knots, data, f._errors + g._errors + rounding * (_touched(f) & _touched(g)), undecided, f._limit
            )
        constant = self._constant(other)
        shape = np.broadcast_shapes(self.shape, constant.shape)
        data = np.broadcast_to(self._spread(len(shape)), (len(self._data), *shape)).copy()
        count, errors = len(self.knots), self._errors.copy()
        data[:count] += constant if sign > 0 else -constant
        if not self.exact:
            errors[:count] += _UNIT * _row_size(data[:count])
        return self._like(data, errors)

    def _spread(self, dims: int) -> Array:
        """The data with the values' shape extended to `dims` dimensions in front, for broadcasting."""
        return self._data.reshape(len(self._data), *[1] * (dims - len(self.shape)), *self.shape)

    def _constant(self, other: Any) -> Array:
        if isinstance(other, Tensor):
            other = other.detach().cpu().double().numpy()
        constant = other if isinstance(other, np.ndarray) and other.dtype == object else _numbers("the operand", other)
        return _rationals(constant, type(self._data.flat[0])) if self.exact else constant

    def __add__(self, other: Any) -> PiecewiseLinear:
        return self._with(other, 1)

    def __sub__(self, other: Any) -> PiecewiseLinear:
        return self._with(other, -1)

    def __neg__(self) -> PiecewiseLinear:
        return self._like(-self._data)

    def __radd__(self, other: Any) -> PiecewiseLinear:
        return self._with(other, 1)

    def __rsub__(self, other: Any) -> PiecewiseLinear:
        return (-self)._with(other, 1)

    def __mul__(self, other: Any) -> PiecewiseLinear:
        if isinstance(other, PiecewiseLinear):
            refuse("the product of two functions", "it is not piecewise linear; f.inner(g) integrates it")
        factor = self._constant(other)
        data = self._spread(max(factor.ndim, len(self.shape))) * factor
        size = float(np.max(abs(factor)))
        rounding = 0.0 if self.exact else _UNIT * _row_size(data)
        return self._like(data, self._errors * size + rounding)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> PiecewiseLinear:
        if isinstance(other, PiecewiseLinear):
            refuse("a quotient by a function", "it is not piecewise linear")
        divisor = self._constant(other)
        if np.any(divisor == 0):
            raise ZeroDivisionError("the function is divided by 0: expected numbers other than 0")
        data = self._spread(max(divisor.ndim, len(self.shape))) / divisor
        rounding = 0.0 if self.exact else _UNIT * _row_size(data)
        return self._like(data, self._errors / float(np.min(abs(divisor))) + rounding)

    def __iadd__(self, other: Any) -> PiecewiseLinear:
        return self._become(self + other)

    def __isub__(self, other: Any) -> PiecewiseLinear:
        return self._become(self - other)

    def __imul__(self, other: Any) -> PiecewiseLinear:
        return self._become(self * other)

    def __itruediv__(self, other: Any) -> PiecewiseLinear:
        return self._become(self / other)

    def __abs__(self) -> PiecewiseLinear:
        return hinge(self, 0.0, -1.0, 1.0)

    def abs(self) -> PiecewiseLinear:
        """Return |f|."""
        return abs(self)

    def maximum(self, other: Any) -> PiecewiseLinear:
        """Return the larger of the two at every point."""
        g = other if isinstance(other, PiecewiseLinear) else self * 0 + other
        f, g = align(self, g)
        return select(f - g, f, g)

    def minimum(self, other: Any) -> PiecewiseLinear:
        """Return the smaller of the two at every point."""
        return -((-self).maximum(-other))

    def restrict(self, low: Any, high: Any) -> PiecewiseLinear:
        """Return the function on a smaller interval, low < high."""
        first, last = self.interval
        low, high = _numbers("the interval", [low, high])
        if not first <= low < high <= last:
            raise ValueError(f"the interval is ({low}, {high}): expected low < high within [{first}, {last}]")
        f = insert_at(self, np.array([low, high], dtype=self.knots.dtype))
        i, j = np.searchsorted(f.knots, low, "right") - 1, np.searchsorted(f.knots, high, "left")
        k = len(f.knots)
        rows = np.concatenate([np.arange(i, j + 1), k + np.arange(i, j), 2 * k - 1 + np.arange(i, j - 1)])
        return f._make(f.knots[i : j + 1], f._data[rows], f._errors[rows], f._undecided, f._limit)

    # Integrals ------------------------------------------------------------------------------------------------------

    def integral(self) -> Any:
        """Return the integral over the interval, of the values' shape."""
        width = np.diff(self.knots).reshape(-1, *[1] * len(self.shape))
        total = (width * (self.values[1:] + self.values[:-1]) / 2).sum(axis=0)
        return total if self.shape else total if self.exact else float(total)

    def inner(self, other: PiecewiseLinear) -> Any:
        """Return the scalar product, the integral of f g, summed over the entries of a tensor."""
        f, g = align(self, other)
        a, b, c, d = f.values[:-1], f.values[1:], g.values[:-1], g.values[1:]
        width = np.diff(f.knots).reshape(-1, *[1] * len(f.shape))
        total = (width * (2 * a * c + a * d + b * c + 2 * b * d) / 6).sum()
        return total if f.exact else float(total)

    def norm(self, p: float = 2) -> float:
        """Return (the integral of |f|^p)^(1/p) for an integer p >= 1, or the maximum of |f| for p = inf.

        The entries of a tensor are summed under the integral, or are all looked at.
        """
        if p == math.inf:
            return float(abs(self.values).max())
        p = check_integer("p", p, 1)
        f = abs(self)
        a, b = f.values[:-1], f.values[1:]
        # The mean of |f|^p over a piece from a >= 0 to b >= 0: no root is taken of a difference.
        mean = sum(a**i * b ** (p - i) for i in range(p + 1)) / (p + 1)
        width = np.diff(f.knots).reshape(-1, *[1] * len(f.shape))
        return float(float((width * mean).sum()) ** (1 / p))

    def distance(self, target: PiecewiseLinear | Callable[[Tensor], Tensor]) -> float:
        """Return the L2 distance, (the integral of (f - target)^2)^(1/2).

        For a smooth target, a function of a float64 tensor (points,), it is taken by Gauss-Legendre quadrature on the
        pieces, halved until two rules agree to a relative 1e-10; the target must be smooth inside each piece.
        """
        if isinstance(target, PiecewiseLinear):
            return (self - target).norm(2)
        from stability.folds.calculus import distance

        return distance(self, target)

    # In the place of a tensor ---------------------------------------------------------------------------------------

    dtype = torch.float64
    device = torch.device("cpu")
    requires_grad = False
    is_cuda = is_nested = is_quantized = is_sparse = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        rule = cls.rules.get(name)
        if rule is None:
            refuse(f"torch's {name}", "it is not a rule for piecewise-linear functions")
        return rule(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in type(self).rules:
            return partial(type(self).rules[name], self)
        if hasattr(torch.Tensor, name):
            refuse(f"Tensor.{name}", "it is not a rule for piecewise-linear functions")
        raise AttributeError(f"a PiecewiseLinear has no {name!r}")

    def __getitem__(self, index: Any) -> PiecewiseLinear:
        index = index if isinstance(index, tuple) else (index,)
        return view(self, self._data[(slice(None), *index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        refuse("an assignment to entries", "build the tensor with cat or stack")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar function has no length")
        return self.shape[0]

    def _refuse_comparison(self, *_: Any) -> Any:
        refuse("a comparison or a branch on values", "along the line it is not one value; use maximum, minimum or abs")

    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __float__ = __int__ = __index__ = _refuse_comparison

    def __pow__(self, _: Any) -> PiecewiseLinear:
        return refuse("a power", "it is not piecewise linear; f.norm(p) integrates |f|^p")

    def __array__(self, *_: Any, **__: Any) -> Array:
        return refuse("numpy", "use f.knots, f.values and f.slopes, or f(t)")

    def __matmul__(self, other: Any) -> PiecewiseLinear:
        return self.rules["matmul"](self, other)  # type: ignore[no-any-return]


# The operations that all others are made of -------------------------------------------------------------------------


def _numbers(name: str, given: ArrayLike) -> Array:
    if isinstance(given, Tensor):
        given = given.detach().cpu().double().numpy()
    array = np.asarray(given)
    if array.dtype == object and array.size and all(isinstance(v, Fraction | int) for v in array.ravel()):
        return _rationals(array)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} holds {array.dtype}: expected real numbers")
    array = array.astype(np.float64)
    check_finite(name, array)
    return array


def _rationals(array: Array, kind: type = Fraction) -> Array:
    """The entries as rational numbers of one type, `Fraction` or the faster fmpq of python-flint."""
    flat = np.empty(array.size, dtype=object)
    flat[:] = [v if type(v) is kind else kind(*_ratio(v)) for v in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _ratio(value: Any) -> tuple[int, int]:
    return (int(value.p), int(value.q)) if hasattr(value, "p") else value.as_integer_ratio()


def _flat(rows: Array) -> Array:
    flat: Array = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    return flat


def _row_size(rows: Array) -> Array:
    """The largest modulus in each row."""
    flat = _flat(rows)
    if not len(flat):
        return np.zeros(0)
    size: Array = np.abs(flat[:, 0]) if flat.shape[1] == 1 else np.maximum(flat.max(axis=1), -flat.min(axis=1))
    return size.astype(np.float64)


def _touched(f: PiecewiseLinear) -> Array:
    """Which rows are not 0 all along: a sum with a row of zeros does not round."""
    return _row_size(f._data) > 0


def _signs(values: Array) -> NDArray[np.int8]:
    return (values > 0).astype(np.int8) - (values < 0).astype(np.int8)


def view(f: PiecewiseLinear, data: Array) -> PiecewiseLinear:
    """Return `f` with its entries arranged as in `data`, for in-place operations one tensor with `f`."""
    g = f._like(data)
    if f._views is None:
        f._views = weakref.WeakSet([f])
    f._views.add(g)
    g._views = f._views
    return g


def insert(f: PiecewiseLinear, piece: Array, knots: Array, planted: Array | None = None) -> PiecewiseLinear:
    """Return `f` with more knots, sorted, each inside the piece of that number; nothing bends there.

    `planted` are errors of the new knots' places, (new,).
    """
    if not len(knots):
        return f
    old, k = len(f.knots), len(f.knots) + len(knots)
    new = piece + 1 + np.arange(len(knots))
    is_new = np.zeros(k, dtype=bool)
    is_new[new] = True
    kept = np.flatnonzero(~is_new)
    on_piece = np.cumsum(~is_new)[:-1] - 1
    t = np.empty(k, dtype=f.knots.dtype)
    t[new], t[kept] = knots, f.knots
    if f._limit is not None and k > f._limit:
        raise TooManyKnots
    data = np.empty((3 * k - 3, *f.shape), dtype=f._data.dtype)
    errors = np.zeros(3 * k - 3)
    near = piece + (knots - f.knots[piece] > f.knots[piece + 1] - knots)
    away = (knots - f.knots[near]).reshape(-1, *[1] * len(f.shape))
    data[kept] = f.values
    data[new] = f.values[near] + f.slopes[piece] * away
    data[k : 2 * k - 1] = f.slopes[on_piece]
    data[2 * k - 1 :] = 0
    data[2 * k - 2 + kept[1:-1]] = f.bends
    if not f.exact:
        slope_errors = f._errors[old : 2 * old - 1]
        size = _row_size(f.slopes)[piece]
        errors[kept] = f._errors[:old]
        # The values of the ends bound those between; a step along the slope adds its own error.
        errors[new] = (
            np.maximum(f._errors[piece], f._errors[piece + 1])
            + slope_errors[piece] * np.abs(knots - f.knots[near])
            + 3 * _UNIT * (_row_size(data[new]) + size * np.abs(knots - f.knots[near]))
        )
        if planted is not None:
            errors[new] += size * planted
        errors[k : 2 * k - 1] = slope_errors[on_piece]
        errors[2 * k - 2 + kept[1:-1]] = f._errors[2 * old - 1 :]
    return f._make(t, data, errors, f._undecided, f._limit)


def insert_at(f: PiecewiseLinear, knots: Array) -> PiecewiseLinear:
    """Return `f` with knots at these sorted places too, where it has none."""
    place = np.searchsorted(f.knots, knots, "left")
    place = np.minimum(place, len(f.knots) - 1)
    new = f.knots[place] != knots
    return insert(f, place[new.astype(bool)] - 1, knots[new.astype(bool)])


def align(f: PiecewiseLinear, g: PiecewiseLinear) -> tuple[PiecewiseLinear, PiecewiseLinear]:
    """Return both on the knots of either, and with values of one shape."""
    if not isinstance(g, PiecewiseLinear):
        raise TypeError(f"the operand is a {type(g).__name__}: expected a PiecewiseLinear")
    if f.exact != g.exact:
        f, g = f.to_exact(), g.to_exact()
    if f.interval != g.interval:
        low, high = max(f.knots[0], g.knots[0]), min(f.knots[-1], g.knots[-1])
        raise ValueError(
            f"the functions are known on [{f.knots[0]}, {f.knots[-1]}] and [{g.knots[0]}, {g.knots[-1]}]: restrict "
            f"both to one interval" + (f", f.restrict({low}, {high})" if low < high else "; these do not overlap")
        )
    shape = np.broadcast_shapes(f.shape, g.shape)
    f, g = (
        h if h.shape == shape else h._like(np.broadcast_to(h._spread(len(shape)), (len(h._data), *shape)).copy())
        for h in (f, g)
    )
    if f._limit != g._limit:
        f._limit = g._limit = min(v for v in (f._limit, g._limit) if v is not None)
    if f.knots is g.knots or (len(f.knots) == len(g.knots) and (f.knots == g.knots).all()):
        return f, g
    return _fill(f, g.knots), _fill(g, f.knots)


def _fill(f: PiecewiseLinear, knots: Array) -> PiecewiseLinear:
    """Insert those of `knots` that `f` lacks; of several equal ones (narrower than floats tell) as many as lack."""

    def occurrence(t: Array) -> Array:
        return np.arange(len(t)) - np.searchsorted(t, t, "left")

    have = np.searchsorted(f.knots, knots, "right") - np.searchsorted(f.knots, knots, "left")
    lacking = knots[occurrence(knots) >= have]
    # Past the last equal one, so that the piece is the one to its right; at the very end, the one to its left.
    piece = np.minimum(np.searchsorted(f.knots, lacking, "right") - 1, len(f.knots) - 2)
    return insert(f, piece, lacking)


def select(condition: PiecewiseLinear, positive: PiecewiseLinear, other: PiecewiseLinear) -> PiecewiseLinear:
    """Return `positive` where condition > 0 and `other` elsewhere; all on the same knots, equal where it is 0."""
    condition, (positive, other), _ = cross(condition, (positive, other))
    return _choose(condition, positive, other)


def hinge(f: PiecewiseLinear, at: Any, below: Any, above: Any) -> PiecewiseLinear:
    """Return at + below (f - at) where f <= at and at + above (f - at) where f > at.

    `below` and `above` are numbers, or arrays that broadcast against the values.
    """
    at, below, above = (f._constant(v) for v in (at, below, above))
    condition, (f,), zero = cross(f - at if at.any() else f, (f,))
    if at.any():
        f.values[zero] = np.broadcast_to(at, f.shape)[tuple(np.nonzero(zero)[1:])] if f.shape else at

    def side(f: PiecewiseLinear, slope: Array) -> PiecewiseLinear:
        if np.all(slope == 1):
            return f
        return (f - at) * slope + at if at.any() else f * slope

    return _choose(condition, side(f, above), side(f, below))


def cross(
    condition: PiecewiseLinear, others: Sequence[PiecewiseLinear]
) -> tuple[PiecewiseLinear, list[PiecewiseLinear], Array]:
    """Put a knot wherever an entry of `condition` crosses 0, in it and in the others; return also the zeros planted."""
    z = _flat(condition.values)
    positive, negative = z > 0, z < 0
    piece, entry = np.nonzero((positive[:-1] & negative[1:]) | (negative[:-1] & positive[1:]))
    close = 0
    if not condition.exact:
        errors = condition._errors[: len(z), None]
        if errors.any():
            uncertain = np.abs(z) <= errors
            if uncertain.any():
                # A neuron that is 0 on both sides of a knot passes 0 on whatever its sign is taken to be.
                flat = _flat(condition.slopes) == 0
                still = np.concatenate([flat[:1], flat[1:] & flat[:-1], flat[-1:]])
                close = int((uncertain & ~((z == 0) & still)).sum())
    given, condition = condition, condition._like(condition._data)
    if close:
        condition._undecided = condition._undecided | {next(_decision): close}
    if not len(piece):
        return condition, list(others), np.zeros((len(z), *condition.shape), dtype=bool)
    left, right = abs(z[piece, entry]), abs(z[piece + 1, entry])
    start, end = condition.knots[piece], condition.knots[piece + 1]
    # The signs are opposite: neither the quotient nor the place suffers from cancellation.
    t = np.where(
        left <= right, start + left / (left + right) * (end - start), end - right / (left + right) * (end - start)
    )
    t = np.clip(t, start, end)
    planted = np.zeros(len(t))
    if not condition.exact:
        steep = np.abs(_flat(condition.slopes)[piece, entry])
        blur = np.maximum(condition._errors[piece], condition._errors[piece + 1])
        width = (end - start).astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            planted = np.minimum(2 * blur / steep + 4 * _UNIT * (np.abs(t) + width), width)
    order = sorted(range(len(t)), key=lambda i: (piece[i], t[i])) if condition.exact else np.lexsort((t, piece))
    piece, t, entry, planted = piece[order], t[order], entry[order], planted[order]
    fresh = np.concatenate([[True], (piece[1:] != piece[:-1]) | (t[1:] != t[:-1]).astype(bool)])
    number = np.cumsum(fresh) - 1
    blur = np.zeros(number[-1] + 1)
    np.maximum.at(blur, number, planted)
    condition = insert(condition, piece[fresh], t[fresh], blur)
    others = [condition if f is given else insert(f, piece[fresh], t[fresh], blur) for f in others]
    row = (piece[fresh] + 1 + np.arange(len(blur)))[number]
    zero = np.zeros((len(condition.knots), z.shape[1]), dtype=bool)
    zero[row, entry] = True
    _flat(condition.values)[row, entry] = 0
    for f in others:
        if f.knots is not condition.knots:
            f.knots = condition.knots
    return condition, others, zero.reshape(len(zero), *condition.shape)


def _choose(condition: PiecewiseLinear, positive: PiecewiseLinear, other: PiecewiseLinear) -> PiecewiseLinear:
    k = len(condition.knots)
    at = condition.values > 0
    on = at[:-1] | at[1:]
    data = np.empty_like(condition._data)
    np.copyto(data[:k], np.where(at, positive.values, other.values))
    slopes = np.where(on, positive.slopes, other.slopes)
    data[k : 2 * k - 1] = slopes
    bends = np.where(on[1:], positive.bends, other.bends)
    differ = on[1:] != on[:-1]
    bends[differ] = slopes[1:][differ] - slopes[:-1][differ]
    data[2 * k - 1 :] = bends
    errors = np.zeros(len(data))
    if not condition.exact:
        # A row has the errors of the sides that are in it: where all neurons are dead it is exactly 0.
        for rows, side in ((slice(0, k), at), (slice(k, 2 * k - 1), on), (slice(2 * k - 1, None), on[1:])):
            above, below = _flat(side).any(axis=1), ~_flat(side).all(axis=1)
            errors[rows] = np.maximum(positive._errors[rows] * above, other._errors[rows] * below)
        changed = _flat(differ).any(axis=1)
        slope_errors = errors[k : 2 * k - 1] + _UNIT * _row_size(slopes)
        errors[2 * k - 1 :] += np.where(changed, slope_errors[1:] + slope_errors[:-1], 0.0)
    undecided = condition._undecided | positive._undecided | other._undecided
    return condition._make(condition.knots, data, errors, undecided, condition._limit)
