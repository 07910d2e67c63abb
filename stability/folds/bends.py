"""Where functions bend: knots at the zeros of one, and the choice between two by its sign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stability.folds.arithmetic import A
from stability.folds.kinks_met import idle_knot, kinks_met, next_layer
from stability.folds.numbers import Array, flatten_rows, lift_zeros, row_size
from stability.folds.own_ways import own_way
from stability.folds.pieces import insert
from stability.folds.places import Places, crowded
from stability.foundation.formats import ROUNDOFF


@own_way
def select(condition: A, positive: A, other: A) -> A:
    """Return `positive` where condition > 0 and `other` elsewhere; all on the same knots, equal where it is 0."""
    next_layer()
    condition, (positive, other), _ = cross(condition, (positive, other))
    return _choose(condition, positive, other)


@own_way
def hinge(f: A, at: object, below: object, above: object) -> A:
    """Return at + below (f - at) where f <= at and at + above (f - at) where f > at.

    `below` and `above` are numbers, or arrays that broadcast against the values.
    """
    at, below, above = (f._constant(v) for v in (at, below, above))
    next_layer()
    condition, (f,), zero = cross(f - at if at.any() else f, (f,))
    if at.any():
        f._data[: len(f.knots)][zero] = np.broadcast_to(at, f.shape)[tuple(np.nonzero(zero)[1:])] if f.shape else at

    def side(f: A, slope: Array) -> A:
        if np.all(slope == 1):
            return f
        return (f - at) * slope + at if at.any() else f * slope

    return _choose(condition, side(f, above), side(f, below))


def cross(condition: A, others: Sequence[A], units: int | None = None) -> tuple[A, list[A], Array]:
    """Put a knot wherever an entry of `condition` crosses 0, in it and in the others; return also the zeros planted.

    With `units` the entries are those of so many units, over and over.
    """
    z = flatten_rows(condition.values)
    positive, negative = z > 0, z < 0
    piece, entry = np.nonzero((positive[:-1] & negative[1:]) | (negative[:-1] & positive[1:]))
    given, condition = condition, condition._again()
    if not condition.exact and (errors := condition._errors[: len(z), None]).any():
        # A 0 is exact; a bound that is not a number is a doubt.
        condition._doubt(condition._around(np.nonzero((z != 0) & ~(np.abs(z) > errors))[0]))
    condition._places = condition._places.with_ends(
        *(bool(((z[end] == 0) & (z[inside] != 0)).any()) for end, inside in ((0, 1), (-1, -2)))
    )
    if units is None and (kinks := kinks_met.get()) is not None:
        # Of several kinks in one place the first is named.
        at, unit = np.nonzero((z[1:-1] == 0) & ((positive[:-2] & negative[2:]) | (negative[:-2] & positive[2:])))
        kinks.note(condition._places.births[1 + at], unit)
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
        blur = np.maximum(condition._errors[piece], condition._errors[piece + 1])
        width = (end - start).astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            planted = np.minimum(2 * blur / (left + right) * width + 4 * ROUNDOFF * (np.abs(t) + width), width)
    order = sorted(range(len(t)), key=lambda i: (piece[i], t[i])) if condition.exact else np.lexsort((t, piece))
    piece, t, entry, planted = piece[order], t[order], entry[order], planted[order]
    if not condition.exact:
        condition._doubt(crowded(piece, t, planted, start[order], end[order]))
    fresh = np.concatenate([[True], (piece[1:] != piece[:-1]) | (t[1:] != t[:-1]).astype(bool)])
    number = np.cumsum(fresh) - 1
    blur = np.zeros(number[-1] + 1)
    np.maximum.at(blur, number, planted)
    births = None if condition.exact else condition._neurons.births(len(condition._data), piece[fresh], entry[fresh])
    places = Places(t[fresh], blur, births)
    if (kinks := kinks_met.get()) is not None:
        unit = entry if units is None else entry % units
        kinks.note(places.births, np.minimum.reduceat(unit, np.flatnonzero(fresh)))
    condition = insert(condition, piece[fresh], places, planted=True)
    others = [condition if f is given else insert(f, piece[fresh], places, planted=True) for f in others]
    row = (piece[fresh] + 1 + np.arange(len(blur)))[number]
    zero = np.zeros((len(condition.knots), z.shape[1]), dtype=bool)
    zero[row, entry] = True
    flatten_rows(condition._data[: len(zero)])[row, entry] = 0
    for f in others:
        f._places = condition._places
    return condition, others, zero.reshape(len(zero), *condition.shape)


def _choose(condition: A, positive: A, other: A) -> A:
    k = len(condition.knots)
    at = condition.values > 0
    # The sign inside a piece: at a knot of others rounding may give a neuron that is 0 there either sign.
    on = condition.values[:-1] + condition.values[1:] > 0
    data = np.empty_like(condition._data)
    np.copyto(data[:k], np.where(at, positive.values, other.values))
    slopes = np.where(on, positive.slopes, other.slopes)
    data[k : 2 * k - 1] = slopes
    bends = np.where(on[1:], positive.bends, other.bends)
    differ = on[1:] != on[:-1]
    bends[differ] = slopes[1:][differ] - slopes[:-1][differ]
    if (knot := idle_knot.get()) is not None:
        knot.note(condition._places.births[1:-1], flatten_rows(differ))
    data[2 * k - 1 :] = bends
    errors = np.zeros(len(data))
    if not condition.exact:
        # A row has the errors of the sides that are in it: where all neurons are dead it is exactly 0.
        for rows, side in ((slice(0, k), at), (slice(k, 2 * k - 1), on), (slice(2 * k - 1, None), on[1:])):
            above, below = flatten_rows(side).any(axis=1), ~flatten_rows(side).all(axis=1)
            errors[rows] = np.maximum(positive._errors[rows] * above, other._errors[rows] * below)
        changed = flatten_rows(differ).any(axis=1)
        slope_errors = errors[k : 2 * k - 1] + ROUNDOFF * row_size(slopes)
        errors[2 * k - 1 :] += np.where(changed, slope_errors[1:] + slope_errors[:-1], 0.0)
        if condition._limit is not None:
            lift_zeros(data[2 * k - 1 :], errors[2 * k - 1 :], differ & (bends == 0))
    undecided = condition._undecided | positive._undecided | other._undecided
    return condition._make(condition._places, data, errors, undecided, condition._limit)
