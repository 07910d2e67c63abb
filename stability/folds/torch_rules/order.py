"""Rules of what takes entries by their order: which is the larger is asked of every two in a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stability.folds.bends import cross
from stability.folds.entries import take
from stability.folds.kinks_met import idle_knot, next_layer
from stability.folds.numbers import flatten_rows, lift_zeros, row_size
from stability.folds.own_ways import own_way
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.dimensions import dimensions, windows
from stability.folds.torch_rules.registry import rule
from stability.foundation.formats import ROUNDOFF

#: How many comparisons of entries, at all knots or on all regions, an order may take in memory.
COMPARED_AT_MOST = 2**27

Index = NDArray[np.intp]


@own_way
def by_rank(f: PiecewiseLinear, entries: Index, ranks: Sequence[int]) -> PiecewiseLinear:
    """Return the entries of these ranks, 0 for the largest, in every window, of shape (ranks, windows).

    Args:
        entries: (places, windows), numbers of entries of `f`, flattened.
    """
    f = f._shaped((f.shape.numel(),))
    first, second = np.triu_indices(len(entries), 1)
    if first.size * entries.shape[1] * len(f._data) > COMPARED_AT_MOST:
        raise ValueError(
            f"the order of {len(entries)} entries in {entries.shape[1]} places on {len(f.knots)} knots is too much to "
            "hold: follow shorter parts of the line, with `window`"
        )
    if not first.size:
        return take(f, entries[list(ranks)])
    difference = take(f, entries[first].ravel()) - take(f, entries[second].ravel())
    next_layer()
    condition, (f_crossed,), _ = cross(difference, (f,), units=entries.shape[1])
    entry = entries[_order(condition, entries, first, second)[:, list(ranks)], np.arange(entries.shape[1])]
    g = f._make(condition._places, f_crossed._data, f_crossed._errors, f._undecided | condition._undecided, f._limit)
    g, entry = _needed(f, g, entry)
    if (knot := idle_knot.get()) is not None:
        knot.note(g._places.births[1:-1], (entry[1:] != entry[:-1]).any(axis=1))
    return _following(g, entry)


def _order(condition: PiecewiseLinear, entries: Index, first: Index, second: Index) -> Index:
    """Return which place is the largest, the second, ... on every piece, (pieces, places, windows)."""
    values = condition.values.reshape(-1, len(first), entries.shape[1])
    # The sign inside a piece: at a knot of others rounding may give a pair that is equal there either sign. Equal ones
    # keep their order.
    behind = (values[:-1] + values[1:] < 0).astype(bool)
    wins = np.zeros((len(behind), *entries.shape), dtype=np.intp)
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        wins[:, a] += ~behind[:, pair]
        wins[:, b] += behind[:, pair]
    return np.argsort(-wins, axis=1, kind="stable")


def _needed(f: PiecewiseLinear, g: PiecewiseLinear, entry: Index) -> tuple[PiecewiseLinear, Index]:
    """Return `g` and the entries on its pieces, without the knots where other ranks than those asked for change."""
    changes = (entry[1:] != entry[:-1]).any(axis=(1, 2))
    inside = np.flatnonzero(changes | np.isin(g._places.births[1:-1], f._places.births[1:-1])) + 1
    k = len(g.knots)
    keep = np.concatenate([[0], inside, [k - 1]])
    rows = np.concatenate([keep, k + keep[:-1], 2 * k - 2 + inside])
    places = g._places[keep].with_ends(*g._places.ends)
    return g._make(places, g._data[rows], g._errors[rows], g._undecided, g._limit), entry[keep[:-1]]


def _following(g: PiecewiseLinear, entry: Index) -> PiecewiseLinear:
    """Return the function that is these entries on its pieces (pieces, ...), equal where they change."""
    k, shape = len(g.knots), entry.shape[1:]
    entry = flatten_rows(entry)
    slopes = np.take_along_axis(g.slopes, entry, 1)
    same = entry[1:] == entry[:-1]
    bends = np.where(same, np.take_along_axis(g.bends, entry[1:], 1), slopes[1:] - slopes[:-1])
    data = np.concatenate([np.take_along_axis(g.values, np.concatenate([entry[:1], entry]), 1), slopes, bends])
    errors = g._errors.copy()
    if not g.exact:
        rise = errors[k : 2 * k - 1] + ROUNDOFF * row_size(slopes)
        steady = same.all(axis=1)
        errors[2 * k - 1 :] += np.where(steady, 0.0, rise[1:] + rise[:-1])
        lift_zeros(data[2 * k - 1 :], errors[2 * k - 1 :], ~same & (bends == 0))
        # Where only others bend, the row has none of their errors.
        errors[2 * k - 1 :][steady & ~data[2 * k - 1 :].any(axis=1)] = 0.0
    return g._like(data.reshape(len(data), *shape), errors)


def _along(f: PiecewiseLinear, dim: int, ranks: Sequence[int], keepdim: bool = True) -> PiecewiseLinear:
    if not f.shape:
        return f._again()
    (axis,) = dimensions(f, dim)
    rest = [n for d, n in enumerate(f.shape) if d != axis]
    g = by_rank(f, windows(f, [axis]), ranks)
    index = np.moveaxis(np.arange(g.shape.numel()).reshape(len(ranks), *rest), 0, axis)
    return take(g, index if keepdim else index.squeeze(axis))


def _length(f: PiecewiseLinear, dim: int) -> int:
    return f.shape[dimensions(f, dim)[0]] if f.shape else 1


def _named(name: str, values: PiecewiseLinear) -> object:
    # As torch, (values, indices), but the indices change along the line.
    return getattr(torch.return_types, name)((values, None))


@rule("sort")
def _(f: PiecewiseLinear, dim: int = -1, descending: bool = False, *, stable: bool = False) -> object:  # noqa: ARG001
    ranks = range(_length(f, dim))
    return _named("sort", _along(f, dim, ranks if descending else ranks[::-1]))


rule("msort")(lambda f: _along(f, 0, range(_length(f, 0))[::-1]))


@rule("topk")
def _(f: PiecewiseLinear, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> object:
    if not sorted:
        refuse("topk that is not sorted", "its order is torch's own; use sorted=True")
    ranks = range(_length(f, dim))
    if not 0 < k <= len(ranks):
        raise ValueError(f"topk is of {k} entries: expected from 1 to {len(ranks)}")
    return _named("topk", _along(f, dim, (ranks if largest else ranks[::-1])[:k]))


@rule("kthvalue")
def _kth(f: PiecewiseLinear, k: int, dim: int = -1, keepdim: bool = False, name: str = "kthvalue") -> object:
    count = _length(f, dim)
    if not 0 < k <= count:
        raise ValueError(f"kthvalue is entry {k}: expected from 1 to {count}")
    return _named(name, _along(f, dim, [count - k], keepdim))


@rule("median", "nanmedian")
def _(f: PiecewiseLinear, dim: int | None = None, keepdim: bool = False) -> object:
    if dim is None:
        entries = np.arange(f.shape.numel())[:, None]
        g = by_rank(f, entries, [len(entries) // 2])
        return g._shaped(())
    return _kth(f, (_length(f, dim) + 1) // 2, dim, keepdim, "median")
