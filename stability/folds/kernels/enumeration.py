"""Compiled loops of enumeration: the knots of a width-1 chain, with values, slopes and bends."""

from __future__ import annotations

import numpy as np
from numba import njit

_UNIT = 2.0**-53
_FAR = 2.0**300


@njit(cache=True, nogil=True)
def enumerate_chain(table, gain, gain_error, shift, shift_error, low, high, limit):
    """Return what the chain does to the line from `low` to `high`.

    A layer looks at the pre-activations z at all knots, puts a knot where two neighbours have opposite signs, and
    passes values, slopes (of the piece on a knot's right) and bends (slope on the right less slope on the left) on.
    A bend changes by the gain of its branch; only where the branches on its sides differ is it a difference of slopes.

    Args:
        table: (rows, 6). gain, shift and their errors: (rows, 2), of h -> gain h + shift for z <= 0 and z > 0.
        limit: the largest number of knots.

    Returns:
        knots, values, bounds of the values' errors, slopes, bends, the relative error of a slope, the number of
        undecided signs; with no knots where there would be more than `limit`.
    """
    room = 64
    x, h, error, slope, bend, z = np.empty((6, room))
    n = 2
    x[0], x[1] = low, high
    h[0], h[1] = low, high
    error[:2] = 0.0
    slope[0] = 1.0
    bend[:2] = 0.0
    relative = 0.0
    exponent = 0
    undecided = 0
    for k in range(len(table)):
        weight, bias = table[k, 1], table[k, 2]
        size = abs(weight)
        close = 0
        for i in range(n):
            product = weight * h[i]
            z[i] = product + bias
            if weight != 0.0:
                close += abs(z[i]) <= size * error[i] + _UNIT * (abs(product) + abs(z[i]))
        if weight != 0.0:
            undecided += close
        crossings = 0
        for i in range(n - 1):
            crossings += (z[i] > 0.0) & (z[i + 1] < 0.0) | (z[i] < 0.0) & (z[i + 1] > 0.0)
        if crossings:
            if n + crossings > limit:
                return x[:0], h[:0], error[:0], slope[:0], bend[:0], relative, undecided
            if n + crossings > room:
                room = 2 * (n + crossings)
                old = x, h, error, slope, bend, z
                x, h, error, slope, bend, z = np.empty((6, room))
                x[:n], h[:n], error[:n] = old[0][:n], old[1][:n], old[2][:n]
                slope[:n], bend[:n], z[:n] = old[3][:n], old[4][:n], old[5][:n]
            kink = -bias / weight
            place = n + crossings - 1
            n += crossings
            for i in range(n - crossings - 1, -1, -1):
                if place != i:
                    x[place], h[place], error[place] = x[i], h[i], error[i]
                    slope[place], bend[place], z[place] = slope[i], bend[i], z[i]
                place -= 1
                if i > 0 and (z[i - 1] > 0.0 and z[i] < 0.0 or z[i - 1] < 0.0 and z[i] > 0.0):
                    # Signs are opposite, so this quotient of sums has no cancellation at any distance.
                    part = abs(z[i - 1]) / (abs(z[i - 1]) + abs(z[i]))
                    x[place] = x[i - 1] + part * (x[i] - x[i - 1])
                    h[place], error[place] = kink, _UNIT * abs(kink)
                    slope[place], bend[place], z[place] = slope[i - 1], 0.0, 0.0
                    place -= 1
        below, above = gain[k, 0], gain[k, 1]
        below_shift, above_shift = shift[k, 0], shift[k, 1]
        worst = max(gain_error[k, 0], gain_error[k, 1])
        worst_shift = max(shift_error[k, 0], shift_error[k, 1])
        for i in range(n):
            factor = above if z[i] > 0.0 else below
            product = factor * h[i]
            value = product + (above_shift if z[i] > 0.0 else below_shift)
            error[i] = (
                abs(factor) * error[i]
                + worst * (abs(h[i]) + error[i])
                + worst_shift
                + 1.01 * _UNIT * (abs(product) + abs(value))
            )
            h[i] = value
        for i in range(n - 1):
            slope[i] *= above if max(z[i], z[i + 1]) > 0.0 else below
        for i in range(1, n - 1):
            left, right = max(z[i - 1], z[i]) > 0.0, max(z[i], z[i + 1]) > 0.0
            bend[i] = (bend[i] * (above if left else below)) if left == right else slope[i] - slope[i - 1]
        for branch in range(2):
            if gain_error[k, branch] > 0.0:
                relative += gain_error[k, branch] / max(abs(gain[k, branch]), gain_error[k, branch])
        relative += 2 * _UNIT
        if k % 8 == 7:
            largest = 0.0
            for i in range(n - 1):
                largest = max(largest, abs(slope[i]))
            if largest > _FAR or 0.0 < largest < 1.0 / _FAR:
                factor = 1.0 / _FAR if largest > 1.0 else _FAR
                exponent += 300 if largest > 1.0 else -300
                for i in range(n - 1):
                    slope[i] *= factor
                    bend[i] *= factor
    while exponent != 0:
        factor = _FAR if exponent > 0 else 1.0 / _FAR
        exponent -= 300 if exponent > 0 else -300
        for i in range(n - 1):
            slope[i] *= factor
            lost = bend[i] != 0.0
            bend[i] *= factor
            undecided += lost and bend[i] == 0.0
    return x[:n], h[:n], error[:n], slope[: n - 1], bend[1 : n - 1], relative, undecided
