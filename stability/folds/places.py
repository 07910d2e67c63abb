"""Knots: where they are, how far from the true ones at most, and which of two functions are the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stability.folds.kinks_met import kinks_met
from stability.folds.numbers import Array
from stability.folds.origins import Origins, gathered

_BITS = 36
_blocks = itertools.count()
_ALL = slice(None)


class Places:
    """Knots in order.

    Two branches of a network have in common the knots of what came before they parted. Which ones these are the
    places do not tell: rounding may have brought a knot of one branch to that of another, or have parted two that are
    one. So every knot has a number for life, from when it is made.

    Args:
        at: (K,), the places.
        error: bounds of their errors, (K,) or one for all; that of knots which are given is 0.
        births: (K,), the numbers; without, all knots are new.
        ends: whether a kink is at the first place itself, and at the last: which only what lies beyond could tell.
        origins: whose kinks they are; None where nobody keeps account of it.
    """

    def __init__(
        self,
        at: Array,
        error: NDArray[np.float64] | float = 0.0,
        births: NDArray[np.int64] | None = None,
        ends: tuple[bool, bool] = (False, False),
        origins: Origins | None = None,
    ) -> None:
        self.ends, self.origins = ends, origins
        self.at = at[...]
        self.at.flags.writeable = False
        self._error = error
        if births is not None:
            self.births = births

    @cached_property
    def births(self) -> NDArray[np.int64]:
        return (next(_blocks) << _BITS) + np.arange(len(self.at))

    @property
    def error(self) -> NDArray[np.float64]:
        return np.broadcast_to(np.asarray(self._error, dtype=np.float64), len(self.at))

    @property
    def rounded(self) -> bool:
        """Whether any knot may be elsewhere."""
        return bool(np.any(self._error))

    def __getitem__(self, rows: NDArray[np.intp] | slice) -> Places:
        origins = self.origins and self.origins.taken(rows)
        return Places(self.at[rows], self.error[rows], self.births[rows], origins=origins)

    def with_new(self, new: NDArray[np.intp], fresh: Places) -> Places:
        """Return these knots and fresh ones, which become the rows `new`."""
        count = len(self.at) + len(fresh.at)
        kept = np.ones(count, dtype=bool)
        kept[new] = False

        def joined(old: Array, more: Array) -> Array:
            column = np.empty(count, dtype=old.dtype)
            column[kept], column[new] = old, more
            return column

        at, error = joined(self.at, fresh.at), joined(self.error, fresh.error)
        origins = gathered(count, (self.origins, np.flatnonzero(kept), _ALL), (fresh.origins, new, _ALL))
        return Places(at, error, joined(self.births, fresh.births), self.ends, origins)

    def with_ends(self, first: bool, last: bool) -> Places:
        """Return these places, with kinks at the ends besides those that are there."""
        ends = self.ends[0] or bool(first), self.ends[1] or bool(last)
        return self if ends == self.ends else Places(self.at, self.error, self.births, ends, self.origins)

    def of(self, origins: Origins | None) -> Places:
        """Return these places as those of kinks with these origins."""
        return Places(self.at, self.error, self.births, self.ends, origins)

    def near(self, points: Sequence[float]) -> NDArray[np.float64]:
        """Return where knots may be on either side of one of these points, (n, 2)."""
        if not self.rounded:
            return np.empty((0, 2))
        found = [(np.abs(self.at - point) <= self.error) & (self.error > 0) for point in points]
        rows = np.concatenate([np.flatnonzero(mask) for mask in found])
        return np.stack([self.at[rows] - self.error[rows], self.at[rows] + self.error[rows]], axis=1)


class Neurons:
    """Which neurons the entries of a function are, so that the kinks of one are the same wherever it goes.

    Args:
        number: of the entries, flattened, as they were when the function was made; without, in order.
    """

    def __init__(self, number: NDArray[np.intp] | None = None, block: int | None = None) -> None:
        self._number, self._block = number, next(_blocks) << _BITS if block is None else block

    def taken(self, index: NDArray[np.intp]) -> Neurons:
        """Return the neurons of entries that are these ones, flattened."""
        return Neurons(index if self._number is None else self._number[index], self._block)

    def births(self, rows: int, row: NDArray[np.intp], entry: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the numbers of knots at which entries, flattened, cross 0 on these of so many rows."""
        number = entry if self._number is None else self._number[entry]
        return self._block + number.astype(np.int64) * rows + row


def crowded(piece: Array, at: Array, error: Array, low: Array, high: Array) -> NDArray[np.float64]:
    """Return stretches on which a knot may be one with an earlier one on the same piece, or precede it, (n, 2).

    The knots come in order, and all of them are on their pieces, from `low` to `high`, beyond doubt.
    """
    first, last = np.maximum(at - error, low), np.minimum(at + error, high)
    reach = np.maximum.accumulate(last)
    passed = ~(first[1:] >= reach[:-1]) | ((piece[1:] == piece[:-1]) & (at[1:] == at[:-1]))
    begin, end = np.minimum(first[1:], first[:-1]), np.maximum(reach[:-1], last[1:])
    return np.stack([begin[passed], end[passed]], axis=1)


def merge(f: Places, g: Places) -> tuple[Places, NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the knots of either, the rows among them of those of f and of those of g, and stretches in doubt, (n, 2).

    In doubt are two, each of them in one only, that are nearer than their errors: they may be one, or the other way
    round.
    """
    _, i, j = np.intersect1d(f.births[1:-1], g.births[1:-1], assume_unique=True, return_indices=True)
    order = np.argsort(i)
    # Between two knots in common, the ends among them, lie those that are in one only.
    i, j = (np.concatenate([[0], index[order] + 1, [len(p.at) - 1]]) for index, p in ((i, f), (j, g)))
    f_only, g_only = np.ones(len(f.at), dtype=bool), np.ones(len(g.at), dtype=bool)
    f_only[i] = g_only[j] = False
    kind = np.concatenate([np.where(f_only, 0, -1), np.ones(g_only.sum(), dtype=int)])  # -1 for those in common
    segment = np.concatenate([np.cumsum(~f_only), np.cumsum(~g_only)[g_only]]) - 1
    at, error, births = (
        np.concatenate([a, b[g_only]]) for a, b in ((f.at, g.at), (f.error, g.error), (f.births, g.births))
    )
    place = np.unique(at, return_inverse=True)[1] if at.dtype == object else at
    order = np.lexsort((kind, place, kind >= 0, segment))
    kind, segment, at, error, births = (v[order] for v in (kind, segment, at, error, births))
    doubtful = np.zeros(len(at), dtype=bool)
    if f.rounded or g.rounded:
        ends = f.at[i]
        first = np.maximum(at - error, ends[segment])
        last = np.minimum(at + error, ends[np.minimum(segment + 1, len(ends) - 1)])
        for one in (0, 1):
            reach = np.maximum.accumulate(np.where(kind == one, last, -np.inf))
            doubtful[1:] |= (kind[1:] == 1 - one) & ~(first[1:] >= reach[:-1])
    # In the same place they share a row.
    same = np.zeros(len(at), dtype=bool)
    same[1:] = (kind[1:] == 1) & (kind[:-1] == 0) & (segment[1:] == segment[:-1]) & (at[1:] == at[:-1]).astype(bool)
    twin = np.flatnonzero(same)
    if (kinks := kinks_met.get()) is not None:
        kinks.note_twins(births[twin - 1], births[twin])
    error[twin - 1] = np.maximum(error[twin - 1], error[twin])
    doubtful[twin] |= error[twin - 1] > 0
    row = np.cumsum(~same) - 1
    f_rows, g_rows = row[kind < 1], np.empty(len(g.at), dtype=np.intp)
    g_rows[g_only], g_rows[j] = row[kind == 1], f_rows[i]
    origins = gathered(int(row[-1]) + 1, (f.origins, f_rows, _ALL), (g.origins, g_rows, _ALL))
    places = Places(at[~same], error[~same], births[~same], f.ends, origins).with_ends(*g.ends)
    rows = np.flatnonzero(doubtful)
    before, reach = np.maximum(rows - 1, 0), error[rows]
    begin = np.minimum(at[rows] - reach, at[before] - error[before])
    end = np.maximum(at[rows] + reach, at[before] + error[before])
    return places, f_rows, g_rows, np.stack([begin, end], axis=1).astype(np.float64)
