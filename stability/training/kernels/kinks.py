"""Compiled loops: where a kink promises most, steps that are put in there, and kinks that bend nothing moved there."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.kernels.copying import copy
from stability.networks.kernels.steps import FAST
from stability.training.kernels.marquardt import (
    ABOVE,
    BELOW,
    BIAS,
    FIRST_DAMPING,
    OUTER_BIAS,
    OUTER_WEIGHT,
    SLOPE,
    WEIGHT,
    factorise,
    gram,
    linearise,
    mean_square,
    pull_back,
    set_sides,
    sides,
    solve_lower,
    solve_upper,
)
from stability.training.status import CONVERGED, MOVING

#: Kinks looked at for every position.
CANDIDATES = 16
#: A bend whose own part is this share of it or less is one that the numbers trained can make already.
_NEW = 1e-9
#: The share of the error that a kink must promise to be moved.
_WORTH = 1e-6


@njit(cache=True, nogil=True, error_model="numpy")
def _tangent(table, fit):
    """Return one member's states, its residuals less what the numbers trained can take away, J, and chol(J J^T).

    Where there are as many numbers as points they can make everything: nothing is taken away, and there is no factor.
    """
    count, points = fit.rows.shape[0], fit.x.shape[0]
    states, residuals, jacobian = linearise(table, fit)
    if count >= points:
        return states, residuals, jacobian[:0], np.empty((0, 0))
    factor = np.empty((count, count))
    gram(jacobian, factor)
    mean = 0.0
    for i in range(count):
        mean += factor[i, i] / count
    for i in range(count):
        factor[i, i] += 1e-10 * factor[i, i] + 1e-13 * mean
    if not factorise(factor):
        return states, residuals, jacobian[:0], np.empty((0, 0))
    _take_away(jacobian, factor, residuals)
    return states, residuals, jacobian, factor


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _take_away(jacobian, factor, values):
    """Take from values (points,) their part in the span of the rows of J, whose J J^T has this factor."""
    count, points = jacobian.shape
    parts = np.zeros(count)
    for i in range(count):
        for p in range(points):
            parts[i] += jacobian[i, p] * values[p]
    solve_lower(factor, parts)
    solve_upper(factor, parts)
    for i in range(count):
        for p in range(points):
            values[p] -= jacobian[i, p] * parts[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _best_kink(h, back, residuals, jacobian, factor, uniform, above_too):
    """Return the fall of the squared error that the best bend at a position promises, its kink and its side.

    A bend is c = back max(h - t, 0), or back min(h - t, 0). With c' the part of it that the numbers trained cannot make
    it promises (c'.r)^2 / (c'.c').

    Args:
        h, back: (points,), the states there and the derivatives of the output by them.
        residuals: (points,), what the numbers trained leave.
        jacobian, factor: from `_tangent`.
        uniform: (candidates,), random numbers, at which quantiles of h the kinks are.
        above_too: whether the bend over the kink is one that the step can make, beside the one under it.
    """
    count, points, candidates = jacobian.shape[0], h.shape[0], uniform.shape[0]
    order = np.argsort(h)
    place = np.sort(uniform) * (points - 1)
    kinks, ends = np.empty(candidates), np.empty(candidates + 1, np.int64)
    for k in range(candidates):
        left = min(int(place[k]), points - 2)
        low, high = h[order[left]], h[order[left + 1]]
        kinks[k] = low + (place[k] - left) * (high - low)
        ends[k] = left + 1
    ends[candidates] = points
    # parts[i, k] = J_i . c_k for the bends under the kinks, then those over them, from sums over the points between.
    parts = np.empty((count, 2 * candidates))
    sorted_back, sorted_h, values = back[order], h[order], np.empty(points)
    mass, moment = np.empty(candidates + 1), np.empty(candidates + 1)
    for i in range(count):
        for q in range(points):
            values[q] = jacobian[i, order[q]] * sorted_back[q]
        start = 0
        for k in range(candidates + 1):
            total = weighted = 0.0
            for q in range(start, ends[k]):
                total += values[q]
                weighted += values[q] * sorted_h[q]
            mass[k], moment[k], start = total, weighted, ends[k]
        total = weighted = 0.0
        for k in range(candidates):
            total += mass[k]
            weighted += moment[k]
            parts[i, k] = weighted - kinks[k] * total
        total = weighted = 0.0
        for k in range(candidates, 0, -1):
            total += mass[k]
            weighted += moment[k]
            parts[i, candidates + k - 1] = weighted - kinks[k - 1] * total
    # Forward substitution for all bends at once, in vector lanes.
    for i in range(count):
        for j in range(i):
            for k in range(2 * candidates):
                parts[i, k] -= factor[i, j] * parts[j, k]
        for k in range(2 * candidates):
            parts[i, k] /= factor[i, i]
    best, best_kink, best_side = 0.0, kinks[0], BELOW
    for k in range(2 * candidates if above_too else candidates):
        kink = kinks[k % candidates]
        product = square = 0.0
        for p in range(points):
            distance = h[p] - kink
            bend = back[p] * distance if (distance > 0) == (k >= candidates) else 0.0
            product += bend * residuals[p]
            square += bend * bend
        own = square
        for i in range(count):
            own -= parts[i, k] * parts[i, k]
        if own > _NEW * square and product * product > best * own:
            best, best_kink, best_side = product * product / own, kink, ABOVE if k >= candidates else BELOW
    return best, best_kink, best_side


@njit(cache=True, nogil=True, error_model="numpy")
def insert(tables, used, position, kink, side, bypassed):
    """Put a step that is the identity before a row of one member whose rows behind the `used` ones are not in use.

    Args:
        tables: (rows, 6), changed in place; the rows from `position` to `used` move one on.
        used: how many rows are in use, a read-out among them.
        position: from 0 to `used`.
        kink: where the step can bend; side: `BELOW` or `ABOVE`, to which side it looks where that matters.
        bypassed: whether a step has skip 1 and an outer map, 0 at first; else it has none, and a PReLU of slope 1 that
            takes h to h - kink, which the row behind it takes back.
    """
    for r in range(used, position, -1):
        copy(tables[r - 1], tables[r])
    row = tables[position]
    row[0], row[OUTER_BIAS] = 0.0, 0.0
    row[WEIGHT], row[BIAS], row[OUTER_WEIGHT], row[SLOPE] = 1.0, -kink, 1.0, 1.0
    if bypassed:
        row[0], row[OUTER_WEIGHT], row[SLOPE] = 1.0, 0.0, 0.25
        if side == BELOW:
            row[WEIGHT], row[BIAS] = -1.0, kink
    else:
        after = tables[position + 1]
        after[BIAS] += after[WEIGHT] * kink
        after[OUTER_BIAS] += after[0] * kink


@njit(cache=True, nogil=True, error_model="numpy")
def grow(first, last, tables, used, more, fit, uniform, bypassed, slope):
    """Insert `more` steps into each of the members first to last, one at most before each row, where most is promised.

    Args:
        first, last: which members.
        tables: (seeds, used + more, 6), changed in place, the last `more` rows of each not in use before.
        used: how many rows are in use, a read-out among them.
        more: how many to insert, at most one for every position.
        fit: a `marquardt.Fit`, by numbers of the rows in use.
        uniform: (seeds, positions, candidates), random numbers in (0, 1).
        bypassed: as in `insert`; slope: the fixed slope of the activation, NaN for one that is trained.
    """
    points = fit.x.shape[0]
    positions = uniform.shape[1]
    promises, where, side = np.empty(positions), np.empty(positions), np.empty(positions, np.int64)
    for s in range(first, last):
        table = tables[s, :used]
        states, residuals, jacobian, factor = _tangent(table, fit)
        back = np.ones(points)
        for r in range(used, -1, -1):
            if r < positions:
                promises[r], where[r], side[r] = _best_kink(
                    states[r], back, residuals, jacobian, factor, uniform[s, r], bypassed
                )
            if r > 0:
                pull_back(table[r - 1], states[r - 1], back)
        best = np.sort(np.argsort(-promises, kind="mergesort")[:more])
        for i in range(more - 1, -1, -1):
            place = best[i]
            insert(tables[s], used + more - 1 - i, place, where[place], side[place], bypassed)
            if not np.isnan(slope):
                tables[s, place, SLOPE] = slope


@njit(cache=True, nogil=True, error_model="numpy")
def use_idle_kinks(first, last, tables, fit, uniform, slope, damping, status):
    """Move kinks that bend nothing to where the error is, in the members first to last; their functions stay.

    A kink bends nothing where all states of the points lie on one side of it, or where both sides have one slope. It
    goes where `_best_kink` says, among the candidates at its own position, one step after the other, each taking its
    part of the residuals. The step's one slope stays, so the function is the same up to rounding: a ReLU step is moved
    only where that slope is 0. A member with a kink moved goes on, from the first damping.

    Args:
        first, last, tables, fit, damping, status: as in `marquardt.iterate`.
        uniform: (seeds, steps, candidates), random numbers in (0, 1).
        slope: the fixed slope of the activation, NaN for one that is trained.
    """
    points, steps = fit.x.shape[0], uniform.shape[1]
    h, h_next = np.empty_like(fit.x), np.empty_like(fit.x)
    for s in range(first, last):
        if status[s] > CONVERGED:
            continue
        table = tables[s]
        loss = mean_square(table, fit.x, fit.y, h, h_next)
        states, residuals, jacobian, factor = _tangent(table, fit)
        back = np.ones(points)
        moved_any = False
        for r in range(table.shape[0] - 1, -1, -1):
            if r < steps:
                below, above = sides(table[r])
                kink = -table[r, BIAS] / table[r, WEIGHT] if table[r, WEIGHT] != 0.0 else np.inf
                low, high = states[r].min(), states[r].max()
                one_slope = below if kink >= high else above
                idle = low < high and (not low < kink < high or below == above)
                if idle and (np.isnan(slope) or one_slope == 0.0):
                    promise, where, side = _best_kink(states[r], back, residuals, jacobian, factor, uniform[s, r], True)
                    if promise > _WORTH * loss * points:
                        _replace(table[r], states[r, 0], states[r + 1, 0], where, side, one_slope)
                        if not np.isnan(slope):
                            table[r, SLOPE] = slope
                        bend = np.zeros(points)
                        for p in range(points):
                            distance = states[r, p] - where
                            if (distance > 0) == (side == ABOVE):
                                bend[p] = back[p] * distance
                        _take_away(jacobian, factor, bend)
                        residuals -= bend * (np.dot(bend, residuals) / np.dot(bend, bend))
                        moved_any = True
            pull_back(table[r], states[r], back)
        if moved_any:
            damping[s], status[s] = FIRST_DAMPING, MOVING


@njit(cache=True, nogil=True, error_model="numpy")
def _replace(row, h, h_next, kink, side, one_slope):
    """Give an idle row another kink, with its one slope on both sides and the same value h_next at h."""
    if one_slope == 0.0:
        row[WEIGHT], row[BIAS], row[OUTER_WEIGHT] = (1.0, -kink, 0.0) if side == ABOVE else (-1.0, kink, 0.0)
    else:
        set_sides(row, kink, one_slope, one_slope)
    # A step solved for its outer_bias.
    row[OUTER_BIAS] = h_next - row[0] * h - one_slope * (h - kink)
