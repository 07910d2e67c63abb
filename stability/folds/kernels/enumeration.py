"""Compiled loops of enumeration: the knots of a width-1 chain, with values, slopes and bends.

A layer whose kink is outside the range of values is one affine map for all knots; such maps are gathered in two
numbers and applied when a kink falls inside the next time. The loops below are short, so that they run in the lanes of
the processor; slices take the place of i + 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_UNIT = 2.0**-53
_FAR = 2.0**300
_TINY = 2.0**-1022  # more than underflow takes from a product
_NEAR_FADING = 2.0**-900
_CONTRACT = {"contract", "nsz"}


@njit(fastmath={"nnan", "ninf", "nsz"})
def _extremes(h):
    low = high = h[0]
    for i in range(len(h)):
        low, high = min(low, h[i]), max(high, h[i])
    return low, high


@njit(fastmath={"nnan", "ninf", "nsz"})
def _largest(h):
    largest = 0.0
    for i in range(len(h)):
        largest = max(largest, abs(h[i]))
    return largest


@njit(fastmath=_CONTRACT)
def _apply(factor, shift, extra, h, error, slope, bend):
    """Apply the gathered affine map; `extra` bounds what it adds to the errors."""
    for i in range(len(h)):
        h[i] = factor * h[i] + shift
    for i in range(len(h)):
        error[i] = abs(factor) * error[i] + extra
    for i in range(len(slope)):
        slope[i] *= factor
    for i in range(len(bend)):
        bend[i] *= factor


@njit(fastmath=_CONTRACT)
def _activate(weight, bias, h, error, z):
    """Fill z = weight h + bias; return how many are no larger than a bound of their errors."""
    small = 0
    size = abs(weight)
    for i in range(len(h)):
        product = weight * h[i]
        z[i] = product + bias
        small += abs(z[i]) <= size * error[i] + 2.0 * _UNIT * (abs(product) + abs(z[i]))
    return small


@njit
def _near_0(weight, h, error, z):
    """Return how many z are too close to 0 to tell, and how many are 0."""
    close = zeros = 0
    for i in range(len(z)):
        bound = abs(weight) * error[i] + 2.0 * _UNIT * (abs(weight * h[i]) + abs(z[i]))
        close += abs(z[i]) <= bound and bound > 0.0  # a 0 that nothing has rounded is a 0
        zeros += z[i] == 0.0
    return close, zeros


@njit
def _crossings(z, right, where):
    """Fill the pieces on which z changes sign strictly, from z to its right neighbour; return how many."""
    found = 0
    for i in range(len(z)):
        # Written always and kept now and then: a branch here would be mispredicted at every knot.
        where[found] = i
        found += (z[i] > 0.0) & (right[i] < 0.0) | (z[i] < 0.0) & (right[i] > 0.0)
    return found


@njit
def _insert(kink, kink_error, n, found, where, x, h, error, slope, bend, z):
    """Put a knot into each of the `found` pieces in `where`, from the last one on, in place.

    Returns the largest ratio of width to height of the pieces.
    """
    end = n
    flattest = 0.0
    for m in range(found, 0, -1):
        left = where[m - 1]
        # Signs are opposite, so this quotient of sums has no cancellation at any distance.
        width = x[left + 1] - x[left]
        flatness = width / (abs(z[left]) + abs(z[left + 1]))
        flattest = max(flattest, flatness)
        place = x[left] + min(abs(z[left]) * flatness, width)
        for i in range(end - 1, left, -1):
            x[i + m] = x[i]
            h[i + m] = h[i]
            error[i + m] = error[i]
            slope[i + m] = slope[i]
            bend[i + m - 1] = bend[i - 1]
            z[i + m] = z[i]
        new = left + m
        x[new], h[new], error[new] = place, kink, kink_error
        slope[new], bend[new - 1], z[new] = slope[left], 0.0, 0.0
        end = left + 1
    return flattest


@njit(fastmath=_CONTRACT)
def _step(below, above, below_shift, above_shift, gain_error, shift_error, h, error, z):
    for i in range(len(h)):
        positive = z[i] > 0.0
        factor = above if positive else below
        shift = above_shift if positive else below_shift
        product = factor * h[i]
        value = product + shift
        error[i] = (
            abs(factor) * error[i]
            + gain_error * (abs(h[i]) + error[i])
            + shift_error
            + 2.0 * _UNIT * (abs(product) + abs(value))
        )
        h[i] = value


@njit(fastmath={"nnan", "ninf", "nsz"})
def _faintest(numbers):
    """Return the least size of those that are not 0, 1 at most."""
    least = 1.0
    for i in range(len(numbers)):
        least = min(least, abs(numbers[i]) if numbers[i] != 0.0 else 1.0)
    return least


@njit
def _alive(h, error):
    """Return which values are not 0 beyond doubt."""
    return (h != 0.0) | (error > 0.0)


@njit
def _faded_values(alive, z):
    faded = 0
    for i in range(len(z)):
        faded += alive[i] and abs(z[i]) <= _TINY
    return faded


@njit
def _keep_lost(alive, below, above, error, z):
    """Let what underflow has taken stay lost, however small the bound of it becomes."""
    for i in range(len(error)):
        if alive[i] and (above if z[i] > 0.0 else below) != 0.0:
            error[i] += _TINY


@njit(fastmath=_CONTRACT)
def _turn(below, above, slope, z, right):
    for i in range(len(slope)):
        slope[i] *= above if max(z[i], right[i]) > 0.0 else below


@njit(fastmath=_CONTRACT)
def _bend(below, above, bend, slope, next_slope, z, middle, right):
    """Scale the bends at knots inside; where the branches on the two sides differ it is the change of the slope."""
    for i in range(len(bend)):
        before, after = max(z[i], middle[i]) > 0.0, max(middle[i], right[i]) > 0.0
        scaled = bend[i] * (above if after else below)
        bend[i] = scaled if before == after else next_slope[i] - slope[i]


@njit
def _bends_at_zeros(bend, slope, next_slope, z, middle, right, relative):
    """Look at the bends where the branches on the two sides differ.

    Returns how many of them may be 0 or not, and the largest ratio of the slopes to their change.
    """
    close, ratio = 0, 1.0
    for i in range(len(bend)):
        if (max(z[i], middle[i]) > 0.0) != (max(middle[i], right[i]) > 0.0):
            size = abs(next_slope[i]) + abs(slope[i])
            if abs(bend[i]) <= relative * size:
                close += size > 0.0
            else:
                ratio = max(ratio, size / abs(bend[i]))
    return close, ratio


@njit
def _faded(below, above, old_slope, slope, old_bend, bend, z):
    """Count slopes and bends that are not 0 and have left the range of normal numbers."""
    faded = 0
    for i in range(len(slope)):
        factor = above if max(z[i], z[i + 1]) > 0.0 else below
        faded += old_slope[i] != 0.0 and factor != 0.0 and abs(slope[i]) < _TINY
    for i in range(len(bend)):
        before, after = max(z[i], z[i + 1]) > 0.0, max(z[i + 1], z[i + 2]) > 0.0
        factor = above if after else below
        faded += before == after and old_bend[i] != 0.0 and factor != 0.0 and abs(bend[i]) < _TINY
    return faded


@njit
def _faded_in_all(scale, slope):
    faded = 0
    for i in range(len(slope)):
        faded += slope[i] != 0.0 and abs(scale * slope[i]) < _TINY
    return faded


@njit(cache=True, nogil=True)
def enumerate_chain(table, gain, gain_error, shift, shift_error, low, high, limit, work, where):
    """Return what the chain does to the line from `low` to `high`.

    Args:
        table: (rows, 6). gain, shift and their errors: (rows, 2), of h -> gain h + shift for z <= 0 and z > 0.
        limit: the largest number of knots.
        work, where: room to work in, (6, room) and integers (room,); more is taken if it does not do.

    Returns:
        the number of knots, 0 where there would be more than `limit`; the relative errors of the slopes and of the
        bends; the error of the knots' places; whether kinks are at the two ends themselves; the number of undecided
        signs; whether all is finite; and the room, whose first rows are then the knots, the values, bounds of their
        errors, the slopes and the bends.
    """
    room = len(where)
    x, h, error, slope, bend, z = work
    n = 2
    error[:2] = 0.0
    x[0], x[1], h[0], h[1], slope[0] = low, high, low, high, 1.0
    relative = 0.0  # the relative error of slopes
    ratio = 1.0  # what bends, which are differences of slopes, make of it at most
    exponent = 0  # slopes and bends are to be multiplied by 2^exponent
    least = 1.0  # what is not 0 of them is no smaller than this
    undecided = 0
    place_error = 0.0
    at_low = at_high = False
    length = high - low
    # All values that are not 0 beyond doubt, and all bounds that are not 0, are no smaller than _UNIT faintest least.
    faintest = min(_faintest(shift[:, 0]), _faintest(shift[:, 1]))
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
        margin = abs(weight) * extra + 4.0 * _UNIT * (abs(weight) * max(abs(bottom), abs(top)) + abs(bias)) + _TINY
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
        relative += 2.0 * _UNIT
        least = max(least * smallest, _TINY)
        fading = least < _NEAR_FADING
        if outside and 1.0 / _FAR < abs(factor * gain[k, branch]) < _FAR:
            g, c = gain[k, branch], shift[k, branch]
            size = abs(factor) * reach + abs(offset) + extra
            moved = g * offset
            factor *= g
            offset = moved + c
            extra = abs(g) * extra + gain_error[k, branch] * size + shift_error[k, branch]
            extra = 1.0001 * (extra + 2.0 * _UNIT * (abs(factor) * reach + abs(moved) + abs(offset)))
            if reach > 0.0 or size > 0.0:
                extra += _TINY
            a, b = g * bottom + c, g * top + c
            bottom, top = min(a, b), max(a, b)
            continue
        if factor != 1.0 or offset != 0.0:
            extra += 2.0 * _UNIT * (abs(factor) * reach + abs(offset))
            if fading:
                undecided += _faded_in_all(factor, slope[: n - 1]) + _faded_in_all(factor, bend[: n - 2])
            _apply(factor, offset, extra, h[:n], error[:n], slope[: n - 1], bend[: n - 2])
            largest_error = abs(factor) * largest_error + extra
            reach = abs(factor) * reach + abs(offset)
            factor, offset, extra = 1.0, 0.0, 0.0
        close = zeros = 0
        if _activate(weight, bias, h[:n], error[:n], z[:n]):
            close, zeros = _near_0(weight, h[:n], error[:n], z[:n])
        faint = least * faintest * min(abs(weight), 1.0) < _NEAR_FADING
        if weight != 0.0:
            undecided += close
            if faint:
                undecided += _faded_values(_alive(h[:n], error[:n]), z[:n])
            at_low |= z[0] == 0.0 and z[1] != 0.0
            at_high |= z[n - 1] == 0.0 and z[n - 2] != 0.0
        found = _crossings(z[: n - 1], z[1:n], where)
        if found:
            if n + found > limit:
                return 0, relative, relative, 0.0, (False, False), undecided, True, work, where
            if n + found > room:
                room = 3 * (n + found) // 2 + 104  # rows a power of two apart would share their places in the cache
                old, work = work, np.empty((6, room))
                work[:, :n] = old[:, :n]
                x, h, error, slope, bend, z = work
                old_where, where = where, np.empty(room, np.int64)
                where[:found] = old_where[:found]
            kink = -bias / weight
            kink_error = _UNIT * abs(kink) + (_TINY if bias != 0.0 else 0.0)
            if bias != 0.0:
                faintest = min(faintest, max(abs(kink), _TINY))
            blur = abs(weight) * largest_error + 4.0 * _UNIT * (abs(weight) * reach + abs(bias))
            flattest = _insert(kink, kink_error, n, found, where, x, h, error, slope, bend, z)
            place_error += min(2.0 * blur * flattest, length) + 4.0 * _UNIT * (max(abs(low), abs(high)) + length)
            n += found
        g0, g1 = gain[k, 0], gain[k, 1]
        if faint:
            alive = _alive(h[:n], error[:n])
        _step(g0, g1, shift[k, 0], shift[k, 1], worst, worst_shift, h[:n], error[:n], z[:n])
        if faint:
            _keep_lost(alive, g0, g1, error[:n], z[:n])
        if fading:
            old_slope, old_bend = slope[: n - 1].copy(), bend[: n - 2].copy()
        _turn(g0, g1, slope[: n - 1], z[: n - 1], z[1:n])
        _bend(g0, g1, bend[: n - 2], slope[: n - 2], slope[1 : n - 1], z[: n - 2], z[1 : n - 1], z[2:n])
        if (found or zeros) and weight != 0.0 and table[k, 3] != 0.0 and table[k, 5] != 1.0:
            jump, size = abs(g1 - g0), abs(g1) + abs(g0)
            if jump <= gain_error[k, 0] + gain_error[k, 1] + 4.0 * _UNIT * size:
                undecided += found + zeros  # it bends by less than the rounding of its gains
            else:
                ratio = max(ratio, size / jump)
            if zeros:
                close, most = _bends_at_zeros(
                    bend[: n - 2], slope[: n - 2], slope[1 : n - 1], z[: n - 2], z[1 : n - 1], z[2:n], relative
                )
                undecided += close
                ratio = max(ratio, most)
        if fading:
            undecided += _faded(g0, g1, old_slope, slope[: n - 1], old_bend, bend[: n - 2], z[:n])
        bottom, top = _extremes(h[:n])
        reach = max(abs(bottom), abs(top))
        largest_error = _largest(error[:n])
        bottom, top, extra = bottom - largest_error, top + largest_error, 0.0
        passes += 1
        if passes % 8 == 0:
            steepest = _largest(slope[: n - 1])
            if steepest > _FAR or 0.0 < steepest < 1.0 / _FAR:
                scale = 1.0 / _FAR if steepest > 1.0 else _FAR
                exponent += 300 if steepest > 1.0 else -300
                if steepest > 1.0:
                    least *= scale
                    undecided += _faded_in_all(scale, slope[: n - 1]) + _faded_in_all(scale, bend[: n - 2])
                for i in range(n - 1):
                    slope[i] *= scale
                    bend[i] *= scale
    if factor != 1.0 or offset != 0.0:
        extra += 2.0 * _UNIT * (abs(factor) * reach + abs(offset))
        if least < _NEAR_FADING:
            undecided += _faded_in_all(factor, slope[: n - 1]) + _faded_in_all(factor, bend[: n - 2])
        _apply(factor, offset, extra, h[:n], error[:n], slope[: n - 1], bend[: n - 2])
    while exponent != 0:
        scale = _FAR if exponent > 0 else 1.0 / _FAR
        exponent -= 300 if exponent > 0 else -300
        undecided += _faded_in_all(scale, slope[: n - 1]) + _faded_in_all(scale, bend[: n - 2])
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
    return n, relative, bend_error, place_error, (at_low, at_high), undecided, finite, work, where
