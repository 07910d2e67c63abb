"""The largest of several entries: max pooling, and maxima along a dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stability.folds.kinks_met import idle_knot, kinks_met, next_layer
from stability.folds.numbers import Array, lift_zeros, row_size
from stability.folds.own_ways import own_way
from stability.folds.pieces import insert
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places, crowded
from stability.foundation.formats import ROUNDOFF

Index = NDArray[np.intp]


@own_way
def largest(f: PiecewiseLinear, entries: Index, shape: Sequence[int]) -> PiecewiseLinear:
    """Return the largest entry of every window, of values of that shape.

    Where two entries cross is a matter of these two alone, so windows that share them share the knot. Knots are put
    only where a window's largest entry changes.

    Args:
        entries: (places, windows), numbers of entries of `f`, flattened; a window may see one twice.
    """
    next_layer()
    f = f._shaped((f.shape.numel(),))
    first = _winner(f.values[:-1], f.slopes, entries)
    undecided = [] if f.exact else [_ties(f, entries)]
    piece, window, place, step, loser, winner, error = _crossings(f, entries, first)
    old_pieces = len(first)
    if len(piece):
        pair = np.minimum(loser, winner) * f._data.shape[1] + np.maximum(loser, winner)
        if f.exact:
            order = np.array(sorted(range(len(piece)), key=lambda i: (piece[i], place[i])))
        else:
            order = np.lexsort((step, place, piece))
        piece, window, place, winner, pair, error = (v[order] for v in (piece, window, place, winner, pair, error))
        fresh = np.concatenate([[True], (piece[1:] != piece[:-1]) | (place[1:] != place[:-1]).astype(bool)])
        if not f.exact:
            other = np.flatnonzero(np.concatenate([[True], fresh[1:] | (pair[1:] != pair[:-1])]))
            on = piece[other]
            undecided.append(crowded(on, place[other], error[other], f.knots[on], f.knots[on + 1]))
        blur = np.zeros(fresh.sum())
        np.maximum.at(blur, np.cumsum(fresh) - 1, error)
        places = Places(place[fresh], blur)
        if (kinks := kinks_met.get()) is not None:
            kinks.note(places.births, np.minimum.reduceat(window, np.flatnonzero(fresh)))
        f = _planted(f, piece[fresh], places)
        start = np.concatenate([[0], np.cumsum(np.bincount(piece[fresh], minlength=old_pieces) + 1)[:-1]])
        # The largest entry where it is first known; each holds until the next.
        entry = np.full((len(f.knots) - 1, entries.shape[1]), -1, dtype=np.intp)
        entry[start] = first
        entry[piece + np.cumsum(fresh), window] = winner
        since = np.maximum.accumulate(np.where(entry >= 0, np.arange(len(entry))[:, None], 0), axis=0)
        entry = np.take_along_axis(entry, since, 0)
        if not f.exact:
            undecided.append(_third(f, entries, entry, piece[fresh] + 1 + np.arange(len(blur))))
    else:
        entry = first
    k = len(f.knots)
    data = np.empty((3 * k - 3, entries.shape[1]), dtype=f._data.dtype)
    data[:k] = np.take_along_axis(f.values, np.concatenate([entry[:1], entry]), 1)
    slopes = data[k : 2 * k - 1] = np.take_along_axis(f.slopes, entry, 1)
    same = entry[1:] == entry[:-1]
    if (knot := idle_knot.get()) is not None:
        knot.note(f._places.births[1:-1], ~same)
    data[2 * k - 1 :] = np.where(same, np.take_along_axis(f.bends, entry[1:], 1), slopes[1:] - slopes[:-1])
    errors = f._errors.copy()
    if not f.exact:
        rise = errors[k : 2 * k - 1] + ROUNDOFF * row_size(slopes)
        steady = same.all(axis=1)
        errors[2 * k - 1 :] += np.where(steady, 0.0, rise[1:] + rise[:-1])
        lift_zeros(data[2 * k - 1 :], errors[2 * k - 1 :], ~same & (data[2 * k - 1 :] == 0))
        # Where only losers bend, the row has none of their errors.
        errors[2 * k - 1 :][steady & ~data[2 * k - 1 :].any(axis=1)] = 0.0
    places = f._places.with_ends(*(_tied_at_end(f, entries, end) for end in (0, -1)))
    g = f._make(places, data.reshape(len(data), *shape), errors, f._undecided, f._limit)
    for stretches in undecided:
        g._doubt(stretches)
    return g


def _planted(f: PiecewiseLinear, piece: Index, places: Places) -> PiecewiseLinear:
    """Return `f` with knots where entries cross, give or take what rounding moves these."""
    g = insert(f, piece, places, planted=True)
    if not f.exact:
        g._errors[piece + 1 + np.arange(len(piece))] += 2 * np.maximum(f._errors[piece], f._errors[piece + 1])
    return g


def _winner(values: Array, slopes: Array, entries: Index) -> Index:
    """The entry with the largest value in each window, of equal ones the steepest, (rows, windows)."""
    best = np.broadcast_to(entries[0], (len(values), entries.shape[1]))
    top, steep = values[:, entries[0]], slopes[:, entries[0]]
    for entry in entries[1:]:
        v, s = values[:, entry], slopes[:, entry]
        better = ((v > top) | ((v == top) & (s > steep))).astype(bool)
        best, top, steep = np.where(better, entry, best), np.where(better, v, top), np.where(better, s, steep)
    return best


def _crossings(
    f: PiecewiseLinear, entries: Index, first: Index
) -> tuple[Index, Index, Array, Index, Index, Index, NDArray[np.float64]]:
    """Where the largest entry of a window changes inside a piece.

    Returns piece, window, place, how often it has changed on the piece before, the largest entry before and after, and
    a bound of the place's error.
    """
    start, end = f.values[:-1], f.values[1:]
    top = np.take_along_axis(end, first, 1)
    passed = np.zeros(first.shape, dtype=bool)
    for entry in entries:
        passed |= (end[:, entry] > top).astype(bool)
    piece, window = np.nonzero(passed)
    now = first[piece, window]
    errors = f._errors[: len(f.knots)]
    found = [(piece[:0], window[:0], f.knots[:0], now[:0], now[:0], now[:0], errors[:0])]
    since, step = f.knots[piece], 0
    while len(piece):
        # The next one is that which the present one meets first, of several the steepest. All that are higher at the
        # end are below at the start, but for rounding.
        seen = entries[:, window]
        below, above = start[piece, now] - start[piece, seen], end[piece, seen] - end[piece, now]
        rising = (above > 0).astype(bool)
        below = np.where(below > 0, below, below * 0)
        part = np.where(rising, below / np.where(rising, below + above, 1), 2)
        steep = f.slopes[piece, seen]
        next_one, soonest, steepest = seen[0], part[0], steep[0]
        for i in range(1, len(seen)):
            better = ((part[i] < soonest) | ((part[i] == soonest) & (steep[i] > steepest))).astype(bool)
            next_one, soonest = np.where(better, seen[i], next_one), np.where(better, part[i], soonest)
            steepest = np.where(better, steep[i], steepest)
        go = (soonest < 2).astype(bool)
        piece, window, now, next_one, since = piece[go], window[go], now[go], next_one[go], since[go]
        left, right = abs(start[piece, now] - start[piece, next_one]), abs(end[piece, now] - end[piece, next_one])
        begin, finish = f.knots[piece], f.knots[piece + 1]
        share = np.minimum(left, right) / (left + right) * (finish - begin)
        # Where several cross in one place, rounding must not put a later change before an earlier one.
        place = np.maximum(np.where(left <= right, begin + share, finish - share), since)
        error = np.zeros(len(piece))
        if not f.exact:
            width = finish - begin
            blur = 4 * np.maximum(errors[piece], errors[piece + 1]) / (left + right)
            error = np.minimum(blur * width + 4 * ROUNDOFF * (np.abs(place) + width), width)
        found.append((piece, window, place, np.full(len(piece), step), now, next_one, error))
        now, since, step = next_one, place, step + 1
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def _ties(f: PiecewiseLinear, entries: Index) -> NDArray[np.float64]:
    """Where rounding leaves open which entry of a window is the largest at a knot, (n, 2)."""
    blur = 2 * f._errors[: len(f.knots), None]
    if not blur.any():
        return np.empty((0, 2))
    best = _winner(f.values, f.values, entries)
    top = np.take_along_axis(f.values, best, 1)
    tied = np.zeros(best.shape, dtype=bool)
    for entry in entries:
        knot, window = np.nonzero(~(top - f.values[:, entry] > blur) & (entry != best))
        doubtful = ~_alike(f, knot, best[knot, window], entry[window])
        tied[knot[doubtful], window[doubtful]] = True
    return f._around(np.nonzero(tied)[0])


def _tied_at_end(f: PiecewiseLinear, entries: Index, end: int) -> bool:
    """Whether several entries of a window are the largest at an end, and part there."""
    v, s = f.values[end][entries], f.slopes[end][entries]
    best = v == v.max(axis=0)
    return bool((best & (s != s[np.argmax(best, axis=0), np.arange(s.shape[1])])).any())


def _third(f: PiecewiseLinear, entries: Index, largest: Index, rows: Index) -> NDArray[np.float64]:
    """Where a third entry may be the largest near new knots, these rows, at which two others cross, (n, 2)."""
    before, after = largest[rows - 1], largest[rows]
    values, blur = f.values[rows], 2 * f._errors[rows, None]
    top = np.take_along_axis(values, after, 1)
    crossed = before != after
    tied = np.zeros(crossed.shape, dtype=bool)
    for entry in entries:
        close = crossed & ~(top - values[:, entry] > blur) & (entry != before) & (entry != after)
        row, window = np.nonzero(close)
        doubtful = np.ones(len(row), dtype=bool)
        for side in (before, after):
            doubtful &= ~_alike(f, rows[row], side[row, window], entry[window])
        tied[row[doubtful], window[doubtful]] = True
    return f._around(rows[np.nonzero(tied)[0]])


def _alike(f: PiecewiseLinear, knot: Index, one: Index, other: Index) -> NDArray[np.bool_]:
    """Whether entries are both exactly 0 at a knot, as dead neurons are: these may part there without any doubt."""
    return np.asarray((f.values[knot, one] == 0) & (f.values[knot, other] == 0))
