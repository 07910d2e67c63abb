"""The knots of a piecewise-linear function, and what is known at them and between them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from fractions import Fraction
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stability.folds.numbers import FLOOR, Array, flatten_rows, lift_zeros, rationals, row_size
from stability.folds.own_ways import own_way
from stability.folds.places import Neurons, Places, merge
from stability.folds.refuse import refuse
from stability.foundation.formats import ROUNDOFF

P = TypeVar("P", bound="Pieces")


decision = itertools.count()

#: Where decisions are that rounding leaves open, (n, 2) ends of stretches of the line, by the step that met them.
Doubts = dict[int, NDArray[np.float64]]

#: Where the largest values that a network makes on its way are put down, if they are asked for.
measured: ContextVar[list[float] | None] = ContextVar("sizes of values", default=None)

#: Of the knots of a function in a network that is followed, where there is no limit to them; None where none is.
NO_LIMIT = 2**62


class TooManyKnots(Exception):
    """A function has more knots than its window may hold."""


class TooMuchMemory(TooManyKnots):
    """The numbers of a function take more memory than they may."""


#: How many bytes the numbers of one function may take, of which several copies are held at a time.
most_bytes: ContextVar[float | None] = ContextVar("how many bytes a function may take", default=None)


class Pieces:
    """Rows of numbers: K values at the knots, K - 1 slopes between them, K - 2 bends at those inside.

    A linear map acts on all three alike. Each row has a bound of its rounding errors.
    """

    def _hold(
        self,
        places: Places,
        data: Array,
        errors: Array | Callable[[], Array],
        undecided: Doubts,
        limit: int | None,
    ) -> None:
        # What was left undecided, by the decision that left it: a sum of branches counts what they share once.
        # Rows of data: K values, K - 1 slopes, K - 2 bends. A linear map acts on all of them alike.
        if limit is not None and len(places.at) > limit:
            raise TooManyKnots
        if (most := most_bytes.get()) is not None and data.nbytes > most:
            raise TooMuchMemory
        self._places, self._data, self._bounds = places, data, errors
        # Inside a network there is a limit, be it out of reach.
        self._undecided, self._limit = undecided, limit
        self._neurons = Neurons()
        if (sizes := measured.get()) is not None:
            sizes.append(float(np.abs(data[: len(places.at)]).max(initial=0)))
        self._views: weakref.WeakSet[Pieces] | None = None

    @classmethod
    def _make(
        cls,
        places: Places,
        data: Array,
        errors: Array | Callable[[], Array],
        undecided: Doubts,
        limit: int | None = None,
    ) -> Self:
        f = cls.__new__(cls)
        f._hold(places, data, errors, undecided, limit)
        return f

    def _like(self, data: Array, errors: Array | None = None) -> Self:
        errors = self._errors if errors is None else errors
        return self._make(self._places, data, errors, self._undecided, self._limit)

    def _shaped(self, shape: tuple[int, ...]) -> Self:
        """Return the same entries in another shape, as another function."""
        f = self._like(self._data.reshape(len(self._data), *shape))
        f._neurons = self._neurons
        return f

    def _again(self) -> Self:
        """Return the same as another function, which in-place operations can take from this one."""
        return self._shaped(self.shape)

    def _become(self, other: Self) -> Self:
        """Take the place of an in-place operation."""
        if self._views is not None and len(self._views) > 1:
            refuse("an in-place operation on a tensor of which a view is in use", "use the form that returns a new one")
        self._places, self._data, self._bounds = other._places, other._data, other._bounds
        self._undecided, self._limit, self._neurons = other._undecided, other._limit, other._neurons
        return self

    # What it is -----------------------------------------------------------------------------------------------------

    def _doubt(self, stretches: NDArray[np.float64]) -> None:
        """Add decisions that rounding leaves open, each on a stretch of the line, (n, 2)."""
        if len(stretches):
            self._undecided = self._undecided | {next(decision): stretches}

    def _around(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the stretches from the knot before a knot to that after it."""
        last = len(self.knots) - 1
        return np.stack([self.knots[np.maximum(rows - 1, 0)], self.knots[np.minimum(rows + 1, last)]], axis=1)

    @property
    def knots(self) -> Array:
        return self._places.at

    @property
    def values(self) -> Array:
        return _fixed(self._data[: self._points])

    @property
    def _points(self) -> int:
        """How many of the rows of data are values, to which constants are added."""
        return len(self.knots)

    @property
    def _held(self) -> list[slice]:
        """Which rows have no 0 but exact ones: the values, and in a network that is followed the bends."""
        k = self._points
        return [slice(k)] if self._limit is None else [slice(k), slice(2 * k - 1, None)]

    @property
    def slopes(self) -> Array:
        return _fixed(self._data[len(self.knots) : 2 * len(self.knots) - 1])

    @property
    def bends(self) -> Array:
        return _fixed(self._data[2 * len(self.knots) - 1 :])

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
        # A vector has no turns: of its slopes only the changes count.
        return sum(map(len, self._undecided.values())) + int(self._lost().sum())

    def _lost(self) -> NDArray[np.bool_]:
        """Which slopes, of a scalar, and bends may be no more than rounding, in that order."""
        rows = len(self.knots) if self.shape.numel() == 1 else 2 * len(self.knots) - 1
        errors = self._errors[rows:]
        if self.exact:  # of numbers that may be beyond float64
            return np.zeros(len(errors), dtype=bool)
        # A bound that is not a number is a doubt.
        return np.asarray((errors != 0) & ~(row_size(self._data[rows:]) > errors))

    def to_exact(self, kind: type = Fraction) -> Self:
        """Return the function of the same knots and values, read as rational numbers: no later operation rounds."""
        if self.exact:
            data = self._data
            knots, data = (v if type(data.flat[0]) is kind else rationals(v, kind) for v in (self.knots, data))
            places = Places(knots, origins=self._places.origins)
            return self._make(places, data, self._errors, self._undecided, self._limit)
        knots = rationals(self.knots, kind)
        data = interpolated(knots, rationals(self.values, kind))
        return self._make(Places(knots, origins=self._places.origins), data, np.zeros(len(data)), {}, self._limit)

    def _scalar(self, what: str) -> Self:
        if self.shape.numel() != 1:
            raise ValueError(
                f"the function has values of shape {tuple(self.shape)}: {what} need a scalar; take one entry, "
                f"f[{', '.join('0' * len(self.shape))}]"
            )
        return self if not self.shape else self._shaped(())

    def _at(self, t: Array) -> Array:
        """The values at places inside the interval, of shape (*t.shape, *shape)."""
        at = t.ravel()
        piece = np.clip(np.searchsorted(self.knots, at, "right") - 1, 0, len(self.knots) - 2)
        # From the nearer knot: the other one may be far, and its error with it.
        near = piece + (at - self.knots[piece] > self.knots[piece + 1] - at)
        away = (at - self.knots[near]).reshape(-1, *[1] * len(self.shape))
        out: Array = (self.values[near] + self.slopes[piece] * away).reshape(t.shape + tuple(self.shape))
        return out

    def _bent(self) -> NDArray[np.bool_]:
        return np.asarray(flatten_rows(self.bends != 0).any(axis=1), dtype=bool)

    def _spread(self, dims: int) -> Array:
        """The data with the values' shape extended to `dims` dimensions in front, for broadcasting."""
        return self._data.reshape(len(self._data), *[1] * (dims - len(self.shape)), *self.shape)


def _fixed(array: Array) -> Array:
    """A view of the array that cannot be written to."""
    view = array[...]
    view.flags.writeable = False
    return view


def interpolated(knots: Array, values: Array) -> Array:
    """Return the rows of data, values, slopes and bends, of the function through points."""
    width = (knots[1:] - knots[:-1]).reshape(-1, *[1] * (values.ndim - 1))
    slopes = (values[1:] - values[:-1]) / width
    return np.concatenate([values, slopes, slopes[1:] - slopes[:-1]])


def view(f: P, g: P) -> P:
    """Return `g`, entries of `f` in some arrangement, as one tensor with `f` for in-place operations."""
    if f._views is None:
        f._views = weakref.WeakSet([f])
    f._views.add(g)
    g._views = f._views
    return g


def insert(f: P, piece: Array, fresh: Places, planted: bool = False, lift: bool = True) -> P:
    """Return `f` with more knots, in order, each inside the piece of that number; nothing bends there.

    With `planted` the values are those at the true knots, to the errors of the places. Without `lift` a value that
    rounds to 0 is 0, as it is to be in a line that a user restricts.
    """
    knots = fresh.at
    if not len(knots):
        return f
    old, k = len(f.knots), len(f.knots) + len(knots)
    new = piece + 1 + np.arange(len(knots))
    is_new = np.zeros(k, dtype=bool)
    is_new[new] = True
    kept = np.flatnonzero(~is_new)
    on_piece = np.cumsum(~is_new)[:-1] - 1
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
        size = row_size(f.slopes)[piece]
        errors[kept] = f._errors[:old]
        # The values of the ends bound those between; a step along the slope adds its own error.
        errors[new] = (
            np.maximum(f._errors[piece], f._errors[piece + 1])
            + slope_errors[piece] * np.abs(knots - f.knots[near])
            + 3 * ROUNDOFF * (row_size(data[new]) + size * np.abs(knots - f.knots[near]))
            + FLOOR * (size > 0)
        )
        if planted:
            errors[new] += size * fresh.error
        false = data[new] == 0
        if lift and false.any():
            inside, rows = errors[new], data[new]
            lift_zeros(rows, inside, false & ((f.values[piece] != 0) | (f.values[piece + 1] != 0)))
            data[new], errors[new] = rows, inside
        errors[k : 2 * k - 1] = slope_errors[on_piece]
        errors[2 * k - 2 + kept[1:-1]] = f._errors[2 * old - 1 :]
    return f._make(f._places.with_new(new, fresh), data, errors, f._undecided, f._limit)


def insert_at(f: P, knots: Array) -> P:
    """Return `f` with knots at these sorted places too, where it has none."""
    place = np.searchsorted(f.knots, knots, "left")
    place = np.minimum(place, len(f.knots) - 1)
    new = f.knots[place] != knots
    return insert(f, place[new.astype(bool)] - 1, Places(knots[new.astype(bool)]), lift=False)


@own_way
def align(f: P, g: P) -> tuple[P, P]:
    """Return both on the knots of either, and with values of one shape."""
    if not isinstance(g, Pieces):
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
    if f._places is g._places or np.array_equal(f._places.births, g._places.births):
        places = f._places.with_ends(*g._places.ends)
        if places is not f._places or places.ends != g._places.ends:
            f, g = (h._make(places, h._data, h._errors, h._undecided, h._limit) for h in (f, g))
        return f, g
    places, *rows, doubtful = merge(f._places, g._places)
    f, g = (_fill(h, places, of_h) for h, of_h in zip((f, g), rows, strict=True))
    f._doubt(doubtful)
    return f, g


def _fill(f: P, places: Places, rows: NDArray[np.intp]) -> P:
    """Return `f`, whose knots are these rows of `places`, on all of them."""
    lacking = np.ones(len(places.at), dtype=bool)
    lacking[rows] = False
    new = np.flatnonzero(lacking)
    g = insert(f, new - 1 - np.arange(len(new)), places[new])
    return g._make(places, g._data, g._errors, g._undecided, g._limit)
