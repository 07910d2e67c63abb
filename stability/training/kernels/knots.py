"""Compiled loops: the values and the knots of a continuous piecewise-linear least-squares fit."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.kernels.copying import copy, copy_rows


@njit(cache=True, nogil=True, error_model="numpy")
def moments(x, y, knots, values, m):
    """Fill m (K - 1, 5) for the pieces between K knots, and return the sum of squares.

    With the hats a and b of a piece's two ends and r = fit - y: the sums of a a, a b, b b, a r, b r.
    """
    m[:] = 0.0
    total = 0.0
    j = 0
    for p in range(len(x)):
        while j < len(knots) - 2 and x[p] > knots[j + 1]:
            j += 1
        b = (x[p] - knots[j]) / (knots[j + 1] - knots[j])
        a = 1.0 - b
        r = values[j] * a + values[j + 1] * b - y[p]
        total += r * r
        m[j, 0] += a * a
        m[j, 1] += a * b
        m[j, 2] += b * b
        m[j, 3] += a * r
        m[j, 4] += b * r
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def solve_banded(band, rhs):
    """Solve a symmetric positive system in place: band[i, d] is the entry (i, i - d); rhs becomes the solution."""
    size, width = band.shape
    for i in range(size):
        for d in range(min(width - 1, i), -1, -1):
            k = i - d
            total = band[i, d]
            for e in range(1, min(width - 1 - d, k) + 1):
                total -= band[i, d + e] * band[k, e]
            if d > 0:
                band[i, d] = total / band[k, 0]
            else:
                # A pivot lost to rounding belongs to a knot that nothing depends on: it stays where it is.
                band[i, 0] = np.sqrt(total) if total > 1e-14 * band[i, 0] else 1e150
    for i in range(size):
        for d in range(1, min(width - 1, i) + 1):
            rhs[i] -= band[i, d] * rhs[i - d]
        rhs[i] /= band[i, 0]
    for i in range(size - 1, -1, -1):
        rhs[i] /= band[i, 0]
        for d in range(1, min(width - 1, i) + 1):
            rhs[i - d] -= band[i, d] * rhs[i]


@njit(cache=True, nogil=True, error_model="numpy")
def fit_values(x, y, knots, values, m):
    """Move the values to the least-squares fit on these knots, and return its sum of squares; m as in `moments`."""
    total = moments(x, y, knots, values, m)
    band, update = np.empty((len(knots), 2)), np.empty(len(knots))
    # Solved for a correction: the second pass takes away what rounding left in the first.
    for _ in range(3):
        band[:], update[:] = 0.0, 0.0
        for j in range(len(knots) - 1):
            band[j, 0] += m[j, 0]
            band[j + 1, 0] += m[j, 2]
            band[j + 1, 1] = m[j, 1]
            update[j] -= m[j, 3]
            update[j + 1] -= m[j, 4]
        for j in range(len(knots)):
            band[j, 0] = band[j, 0] * (1 + 1e-14) + 1e-200
        solve_banded(band, update)
        update += values
        after = moments(x, y, knots, update, m)
        if not after < total:
            moments(x, y, knots, values, m)
            break
        copy(update, values)
        total, done = after, after > 0.999 * total
        if done:
            break
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def improve(x, y, knots, values, rounds):
    """Move knots and values to a local minimum of the sum of squares, which is returned: Levenberg-Marquardt.

    A update moves knots and values together; then the values are fitted anew. A knot moves by less than half the gap to
    its neighbour, so that the order stays. The ends stay. One update takes O(samples).
    """
    count = len(knots)
    m, trial_m = np.empty((count - 1, 5)), np.empty((count - 1, 5))
    total = fit_values(x, y, knots, values, m)
    band, update = np.empty((2 * count, 4)), np.empty(2 * count)
    trial, trial_values = np.empty(count), np.empty(count)
    damping, idle = 1e-3, 0
    for _ in range(rounds):
        band[:], update[:] = 0.0, 0.0
        # Unknowns 2 j: knot j; 2 j + 1: value j. A knot acts as its value does, times minus the slope of the piece.
        for j in range(count - 1):
            s = -(values[j + 1] - values[j]) / (knots[j + 1] - knots[j])
            aa, ab, bb, ar, br = m[j]
            i = 2 * j
            band[i, 0] += s * s * aa
            band[i + 1, 1] += s * aa
            band[i + 1, 0] += aa
            band[i + 2, 2] = s * s * ab
            band[i + 2, 1] = s * ab
            band[i + 2, 0] += s * s * bb
            band[i + 3, 3] = s * ab
            band[i + 3, 2] = ab
            band[i + 3, 1] += s * bb
            band[i + 3, 0] += bb
            update[i] -= s * ar
            update[i + 1] -= ar
            update[i + 2] -= s * br
            update[i + 3] -= br
        for i in (0, 2 * count - 2):
            for d in range(1, 4):
                if i - d >= 0:
                    band[i, d] = 0.0
                if i + d < 2 * count:
                    band[i + d, d] = 0.0
            band[i, 0], update[i] = 1.0, 0.0
        for i in range(2 * count):
            band[i, 0] = band[i, 0] * (1 + damping) + 1e-200
        solve_banded(band, update)
        for j in range(count):
            low = knots[j] - 0.45 * (knots[j] - knots[max(j - 1, 0)])
            high = knots[j] + 0.45 * (knots[min(j + 1, count - 1)] - knots[j])
            move = update[2 * j]
            trial[j] = min(max(knots[j] + move, low), high) if np.isfinite(move) else knots[j]
            trial_values[j] = values[j]
        ordered = True
        for j in range(count - 1):
            ordered &= trial[j + 1] - trial[j] > 1e-13
        after = fit_values(x, y, trial, trial_values, trial_m) if ordered else np.inf
        if after < total:
            idle = idle + 1 if after > total * (1 - 1e-6) else 0
            copy(trial, knots)
            copy(trial_values, values)
            copy_rows(trial_m, m)
            total = after
            damping = max(damping * 0.2, 1e-12)
            if idle >= 4:
                break
        else:
            damping *= 4
            if damping > 1e8:
                break
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def insertions(x, y, knots, values, gains, places):
    """For each piece find the knot between its points whose hat, added to the fit, would gain the most.

    Args:
        x, y, knots, values: the samples and the fit.
        gains, places: out, (K - 1,), what the sum of squares would lose, 0 for a piece without samples, and the knot.
    """
    gains[:] = 0.0
    first = 0
    for j in range(len(knots) - 1):
        low, high = knots[j], knots[j + 1]
        last = first
        while last < len(x) and (x[last] <= high or j == len(knots) - 2):
            last += 1
        places[j] = 0.5 * (low + high)
        # At most 64 places a piece: the knot moves afterwards.
        stride = max((last - first) // 64, 1)
        for p in range(first, last - 1, stride):
            t = 0.5 * (x[p] + x[p + 1])
            if t <= low or t >= high:
                continue
            product = square = 0.0
            for q in range(first, last):
                hat = (x[q] - low) / (t - low) if x[q] < t else (high - x[q]) / (high - t)
                b = (x[q] - low) / (high - low)
                product += hat * (values[j] * (1 - b) + values[j + 1] * b - y[q])
                square += hat * hat
            gain = product * product / square if square > 0 else 0.0
            if gain > gains[j]:
                gains[j], places[j] = gain, t
        first = last
