"""Compiled enumeration: the knots of a width-1 chain, with values, slopes and bends.

A layer whose kink is outside the range of values is one affine map for all knots; such maps are gathered in two
numbers and applied when a kink falls inside the next time.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.folds.kernels.knot_loops import (
    apply_affine,
    crossings,
    extremes,
    insert_knots,
    insert_layer,
    largest_size,
    pre_activations,
    step_values,
    turn_bends,
    turn_slopes,
)
from stability.folds.kernels.open_signs import (
    TINY,
    bends_at_zeros,
    faded_in_all,
    faded_values,
    keep_lost,
    least_size,
    near_0,
    newly_faded,
    surely_not_0,
)
from stability.foundation.formats import ROUNDOFF
from stability.foundation.kernels.copying import copy, copy_rows

_FAR = 2.0**300
_NEAR_FADING = 2.0**-900


@njit(cache=True, nogil=True)
def enumerate_chain(table, gain, gain_error, shift, shift_error, low, high, limit, space):
    """Return what the chain does to the line from `low` to `high`.

    Args:
        table: (rows, 6). gain, shift and their errors: (rows, 2), of h -> gain h + shift for z <= 0 and z > 0.
        limit: the largest number of knots.
        space: to work in, (6, room), integers (room,), and integers (room,) or (0,): then the layers at which the knots
            were born are not wanted. More is taken if it does not do.

    Returns:
        the number of knots, 0 where there would be more than `limit`; the relative errors of the slopes and of the
        bends; the error of the knots' places; whether kinks are at the two ends themselves; the number of undecided
        signs; whether all is finite; and the space, whose first rows are then the knots, the values, bounds of their
        errors, the slopes and the bends, and the layers of their births, -1 for the two ends.
    """
    work, where, born = space
    room = len(where)
    x, h, error, slope, bend, z = work
    n = 2
    error[:2] = 0.0
    born[:2] = -1
    x[0], x[1], h[0], h[1], slope[0] = low, high, low, high, 1.0
    relative = 0.0  # the relative error of slopes
    ratio = 1.0  # what bends, which are differences of slopes, make of it at most
    exponent = 0  # slopes and bends are to be multiplied by 2^exponent
    least = 1.0  # what is not 0 of them is no smaller than this
    undecided = 0
    place_error = 0.0
    at_low = at_high = False
    length = high - low
    # All values that are not 0 beyond doubt, and all bounds that are not 0, are at least ROUNDOFF faintest least.
    faintest = min(least_size(shift[:, 0]), least_size(shift[:, 1]))
    for end in (low, high):
        if end != 0.0:
            faintest = min(faintest, abs(end))
    passes = 0
    # What is gathered: h stands for factor h + offset, give or take `extra`.
    factor, offset, extra = 1.0, 0.0, 0.0
    bottom, top = low, high
    largest_error = 0.0
    reach = max(abs(low), abs(high))  # of the h that are stored
    for k in range(len(table)):
        weight, bias = table[k, 1], table[k, 2]
        a, b = weight * bottom + bias, weight * top + bias
        margin = abs(weight) * extra + 4.0 * ROUNDOFF * (abs(weight) * max(abs(bottom), abs(top)) + abs(bias)) + TINY
        outside = min(a, b) > margin or max(a, b) < -margin or weight == 0.0
        branch = 1 if a > 0.0 else 0
        worst = max(gain_error[k, 0], gain_error[k, 1])
        worst_shift = max(shift_error[k, 0], shift_error[k, 1])
        smallest = 1.0
        for side in range(2):
            if gain_error[k, side] > 0.0:
                relative += gain_error[k, side] / max(abs(gain[k, side]), gain_error[k, side])
            if gain[k, side] != 0.0:
                smallest = min(smallest, abs(gain[k, side]))
        relative += 2.0 * ROUNDOFF
        least = max(least * smallest, TINY)
        fading = least < _NEAR_FADING
        if outside and 1.0 / _FAR < abs(factor * gain[k, branch]) < _FAR:
            g, c = gain[k, branch], shift[k, branch]
            size = abs(factor) * reach + abs(offset) + extra
            moved = g * offset
            factor *= g
            offset = moved + c
            extra = abs(g) * extra + gain_error[k, branch] * size + shift_error[k, branch]
            extra = 1.0001 * (extra + 2.0 * ROUNDOFF * (abs(factor) * reach + abs(moved) + abs(offset)))
            if reach > 0.0 or size > 0.0:
                extra += TINY
            a, b = g * bottom + c, g * top + c
            bottom, top = min(a, b), max(a, b)
            continue
        if factor != 1.0 or offset != 0.0:
            extra += 2.0 * ROUNDOFF * (abs(factor) * reach + abs(offset))
            if fading:
                undecided += faded_in_all(factor, slope[: n - 1]) + faded_in_all(factor, bend[: n - 2])
            apply_affine(factor, offset, extra, h[:n], error[:n], slope[: n - 1], bend[: n - 2])
            largest_error = abs(factor) * largest_error + extra
            reach = abs(factor) * reach + abs(offset)
            factor, offset, extra = 1.0, 0.0, 0.0
        close = zeros = 0
        if pre_activations(weight, bias, h[:n], error[:n], z[:n]):
            close, zeros = near_0(weight, h[:n], error[:n], z[:n])
        faint = least * faintest * min(abs(weight), 1.0) < _NEAR_FADING
        if weight != 0.0:
            undecided += close
            if faint:
                undecided += faded_values(surely_not_0(h[:n], error[:n]), z[:n])
            at_low |= z[0] == 0.0 and z[1] != 0.0
            at_high |= z[n - 1] == 0.0 and z[n - 2] != 0.0
        found = crossings(z[: n - 1], z[1:n], where)
        if found:
            if n + found > limit:
                return 0, relative, relative, 0.0, (False, False), undecided, True, (work, where, born)
            if n + found > room:
                room = 3 * (n + found) // 2 + 104  # rows a power of two apart would share their places in the cache
                old, work = work, np.empty((6, room))
                copy_rows(old[:, :n], work[:, :n])
                x, h, error, slope, bend, z = work
                old_where, where = where, np.empty(room, np.int64)
                copy(old_where, where[:found])
                if len(born):
                    old_born, born = born, np.empty(room, np.int64)
                    copy(old_born, born[:n])
            kink = -bias / weight
            kink_error = ROUNDOFF * abs(kink) + (TINY if bias != 0.0 else 0.0)
            if bias != 0.0:
                faintest = min(faintest, max(abs(kink), TINY))
            blur = abs(weight) * largest_error + 4.0 * ROUNDOFF * (abs(weight) * reach + abs(bias))
            if len(born):
                insert_layer(born, n, found, where, k)
            flattest = insert_knots(work, n, found, where, kink, kink_error)
            place_error += min(2.0 * blur * flattest, length) + 4.0 * ROUNDOFF * (max(abs(low), abs(high)) + length)
            n += found
        g0, g1 = gain[k, 0], gain[k, 1]
        if faint:
            alive = surely_not_0(h[:n], error[:n])
        step_values(g0, g1, shift[k, 0], shift[k, 1], worst, worst_shift, h[:n], error[:n], z[:n])
        if faint:
            keep_lost(alive, g0, g1, error[:n], z[:n])
        if fading:
            old_slope, old_bend = slope[: n - 1].copy(), bend[: n - 2].copy()
        turn_slopes(g0, g1, slope[: n - 1], z[: n - 1], z[1:n])
        turn_bends(g0, g1, bend[: n - 2], slope[: n - 2], slope[1 : n - 1], z[: n - 2], z[1 : n - 1], z[2:n])
        if (found or zeros) and weight != 0.0 and table[k, 3] != 0.0 and table[k, 5] != 1.0:
            jump, size = abs(g1 - g0), abs(g1) + abs(g0)
            if jump <= gain_error[k, 0] + gain_error[k, 1] + 4.0 * ROUNDOFF * size:
                undecided += found + zeros  # it bends by less than the rounding of its gains
            else:
                ratio = max(ratio, size / jump)
            if zeros:
                close, most = bends_at_zeros(
                    bend[: n - 2], slope[: n - 2], slope[1 : n - 1], z[: n - 2], z[1 : n - 1], z[2:n], relative
                )
                undecided += close
                ratio = max(ratio, most)
        if fading:
            undecided += newly_faded(g0, g1, old_slope, slope[: n - 1], old_bend, bend[: n - 2], z[:n])
        bottom, top = extremes(h[:n])
        reach = max(abs(bottom), abs(top))
        largest_error = largest_size(error[:n])
        bottom, top, extra = bottom - largest_error, top + largest_error, 0.0
        passes += 1
        if passes % 8 == 0:
            steepest = largest_size(slope[: n - 1])
            if steepest > _FAR or 0.0 < steepest < 1.0 / _FAR:
                scale = 1.0 / _FAR if steepest > 1.0 else _FAR
                exponent += 300 if steepest > 1.0 else -300
                if steepest > 1.0:
                    least *= scale
                    undecided += faded_in_all(scale, slope[: n - 1]) + faded_in_all(scale, bend[: n - 2])
                for i in range(n - 1):
                    slope[i] *= scale
                    bend[i] *= scale
    if factor != 1.0 or offset != 0.0:
        extra += 2.0 * ROUNDOFF * (abs(factor) * reach + abs(offset))
        if least < _NEAR_FADING:
            undecided += faded_in_all(factor, slope[: n - 1]) + faded_in_all(factor, bend[: n - 2])
        apply_affine(factor, offset, extra, h[:n], error[:n], slope[: n - 1], bend[: n - 2])
    while exponent != 0:
        scale = _FAR if exponent > 0 else 1.0 / _FAR
        exponent -= 300 if exponent > 0 else -300
        undecided += faded_in_all(scale, slope[: n - 1]) + faded_in_all(scale, bend[: n - 2])
        for i in range(n - 1):
            slope[i] *= scale
        for i in range(n - 2):
            bend[i] *= scale
    finite = True
    for i in range(n):
        finite = finite and abs(h[i]) < np.inf
    for i in range(n - 1):
        finite = finite and abs(slope[i]) < np.inf
    relative = min(1.01 * relative, 0.999)
    # Whether a slope or a bend is 0 has been decided where it was made: a bound as large as it would ask again.
    bend_error = min(2.0 * ratio * relative, 0.999)
    return n, relative, bend_error, place_error, (at_low, at_high), undecided, finite, (work, where, born)
