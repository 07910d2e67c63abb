"""Compiled loops for layers of many neurons on an interval: only what changes at a knot is carried.

A vector of functions is known by its values and slopes at the left end and its bends at the knots. A kink of one
neuron makes a bend with one entry that is not 0, so the next layer costs one column of its weights and not a product
with the whole matrix.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.formats import ROUNDOFF

_COLUMNS = 32
_FLOOR = 2.0**-1000  # more than underflow takes from any sum


@njit(fastmath={"nnan", "ninf", "nsz"})
def _sizes(entries):
    """Return the least and the largest absolute value."""
    # In columns, none of which waits for another.
    least, largest = np.full(_COLUMNS, np.abs(entries[0])), np.full(_COLUMNS, np.abs(entries[0]))
    whole = len(entries) // _COLUMNS * _COLUMNS
    for start in range(0, whole, _COLUMNS):
        for i in range(_COLUMNS):
            size = abs(entries[start + i])
            least[i], largest[i] = min(least[i], size), max(largest[i], size)
    for i in range(whole, len(entries)):
        least[0], largest[0] = min(least[0], abs(entries[i])), max(largest[0], abs(entries[i]))
    return least.min(), largest.max()


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def enumerate_layers(widths, parameters, slopes, low, high, limit):
    """Return what layers W h + b, with an activation between any two, do to the line from `low` to `high`.

    Args:
        widths: inputs of the first layer, which is 1, and outputs of every layer.
        parameters: of every layer, the weights row by row and the biases. slopes: of every neuron that has an
            activation, its slope below 0.
        limit: the largest number of knots.

    Returns:
        knots; rows of values, slopes and bends, (3 knots - 3, outputs); bounds of their errors; a bound of the errors
        of the knots; the number of undecided signs. There are no knots where there would be more than `limit`.
    """
    length = high - low
    reach = max(abs(low), abs(high))
    value, slope = np.full(1, low), np.ones(1)
    knots = np.empty(0)
    bends = np.empty((0, 1))
    single = np.empty(0, np.int64)  # the one entry that is not 0 of a fresh bend, else -1
    value_error = slope_error = place_error = 0.0
    undecided = 0
    # Where a layer is dead what follows is exactly 0, which sums that end at 0 cannot tell: pieces on which no neuron
    # moves, and knots at which none bends.
    dead, straight = np.zeros(1, np.bool_), np.empty(0, np.bool_)
    at = slope_at = 0
    layers = len(widths) - 1
    for layer in range(layers):
        inputs, outputs = widths[layer], widths[layer + 1]
        weight = parameters[at : at + inputs * outputs].reshape(outputs, inputs)
        bias = parameters[at + inputs * outputs : at + (inputs + 1) * outputs]
        at += (inputs + 1) * outputs
        norm = frobenius = 0.0
        for i in range(outputs):
            total = 0.0
            for j in range(inputs):
                total += abs(weight[i, j])
                frobenius += weight[i, j] * weight[i, j]
            norm = max(norm, total)
        new_value, new_slope = np.empty(outputs), np.empty(outputs)
        for i in range(outputs):
            v = s = 0.0
            for j in range(inputs):
                v += weight[i, j] * value[j]
                s += weight[i, j] * slope[j]
            new_value[i], new_slope[i] = v + bias[i], s
        value_squares = slope_squares = total_bend = 0.0
        for j in range(inputs):
            value_squares += value[j] * value[j]
            slope_squares += slope[j] * slope[j]
        count = len(knots)
        new_bends = np.empty((count, outputs))
        older = np.empty((count, inputs))
        many = 0
        for k in range(count):
            squares = 0.0
            for j in range(inputs):
                squares += bends[k, j] * bends[k, j]
            total_bend += np.sqrt(squares)
            if single[k] >= 0:
                b = bends[k, single[k]]
                for i in range(outputs):
                    new_bends[k, i] = b * weight[i, single[k]]
            else:
                older[many] = bends[k]
                many += 1
        if many:
            product = older[:many] @ weight.T
            many = 0
            for k in range(count):
                if single[k] < 0:
                    new_bends[k] = product[many]
                    many += 1
        largest_bias = 0.0
        for i in range(outputs):
            largest_bias = max(largest_bias, abs(bias[i]))
        # Errors are those of the sums, slope + bends and value + widths times slopes: what a bend takes from a slope
        # it takes with its error, so these do not add up along the line.
        # A product with a row of weights errs by terms * unit * |row| |vector| at most.
        rounding = np.sqrt(frobenius) * (inputs + 2) * ROUNDOFF * 1.001
        total_slope = np.sqrt(slope_squares) + total_bend
        value_error = norm * value_error * 1.001 + rounding * (np.sqrt(value_squares) + length * total_slope)
        value_error += 2 * ROUNDOFF * largest_bias + _FLOOR
        slope_error = norm * slope_error * 1.001 + rounding * total_slope + _FLOOR
        value, slope, bends = new_value, new_slope, new_bends

        # Values at both ends and at all knots, slopes on all pieces, from left to right.
        z = np.empty((count + 2, outputs))
        steep = np.empty((count + 1, outputs))
        z[0], steep[0] = value, slope
        crossings = 0
        on_piece = np.zeros(count + 1, np.int64)
        for k in range(count + 1):
            width = (knots[k] if k < count else high) - (knots[k - 1] if k > 0 else low)
            changes = 0
            if dead[k]:
                steep[k] = 0.0  # which slope and bends add up to but for rounding
            for j in range(outputs):
                before = z[k, j]
                after = before + steep[k, j] * width
                z[k + 1, j] = after
                # By comparisons: the product of small numbers is 0.
                changes += (before < 0.0) & (after > 0.0) | (before > 0.0) & (after < 0.0)
            if k < count:
                for j in range(outputs):
                    steep[k + 1, j] = steep[k, j] + bends[k, j]
            on_piece[k] = changes
            crossings += changes
        (least_value, largest_value), (_, largest_slope) = _sizes(z.ravel()), _sizes(steep.ravel())
        slope_error += count * ROUNDOFF * largest_slope
        value_error += 3 * (count + 1) * ROUNDOFF * (largest_value + largest_slope * length)
        if layer == layers - 1:
            rows = np.empty((3 * count + 3, outputs))
            rows[: count + 2], rows[count + 2 : 2 * count + 3], rows[2 * count + 3 :] = z, steep, bends
            errors = np.empty(3 * count + 3)
            errors[: count + 2] = value_error
            for k in range(count + 1):
                errors[count + 2 + k] = 0.0 if dead[k] else slope_error
            for k in range(count):
                errors[2 * count + 3 + k] = 0.0 if straight[k] else 2.0 * slope_error
            all_knots = np.empty(count + 2)
            all_knots[0], all_knots[1:-1], all_knots[-1] = low, knots, high
            return all_knots, rows, errors, place_error, undecided
        if count + crossings + 2 > limit:
            break

        alpha = slopes[slope_at : slope_at + outputs]
        slope_at += outputs
        new_knots, owner, piece = np.empty(crossings), np.empty(crossings, np.int64), np.empty(crossings, np.int64)
        crossing = np.empty(outputs + 1, np.int64)
        found = 0
        ordinary = least_value > 2.0**-500  # no product underflows
        for k in range(count + 1):
            left, right = knots[k - 1] if k > 0 else low, knots[k] if k < count else high
            first = found
            if on_piece[k] == 0:
                continue
            met = 0
            for j in range(outputs):
                # Written always and kept now and then: a branch here would be mispredicted at every crossing.
                crossing[met] = j
                before, after = z[k, j], z[k + 1, j]
                if ordinary:
                    met += before * after < 0.0
                else:
                    met += (before < 0.0) & (after > 0.0) | (before > 0.0) & (after < 0.0)
            for i in range(met):
                j = crossing[i]
                a, b = abs(z[k, j]), abs(z[k + 1, j])
                t = left + a / (a + b) * (right - left)
                place = found
                while place > first and new_knots[place - 1] > t:
                    new_knots[place], owner[place] = new_knots[place - 1], owner[place - 1]
                    place -= 1
                new_knots[place], owner[place] = t, j
                piece[found] = k
                found += 1
            passed = -np.inf
            for i in range(first, found):
                # Kinks of two neurons that rounding may have parted, joined, or put in the wrong order.
                blur = 2.0 * value_error / abs(steep[k, owner[i]]) + 4.0 * ROUNDOFF * (reach + length)
                undecided += new_knots[i] - blur <= passed
                passed = max(passed, new_knots[i] + blur)
                place_error = max(place_error, min(blur, length))
        largest_gain = 1.0
        for j in range(outputs):
            largest_gain = max(largest_gain, abs(alpha[j]))
        at_zero = least_value == 0.0
        if not least_value > value_error:
            for k in range(count + 2):
                for j in range(outputs):
                    undecided += abs(z[k, j]) <= value_error
        merged_knots = np.empty(count + found)
        merged = np.zeros((count + found, outputs))
        merged_single = np.full(count + found, -1)
        size = event = 0
        moving = 0  # neurons that are on, on the piece at hand
        flat = True
        for j in range(outputs):
            flat = flat and alpha[j] == 0.0
        new_dead, new_straight = np.zeros(count + found + 1, np.bool_), np.zeros(count + found, np.bool_)
        for k in range(count + 1):
            first = size
            if flat and (k == 0 or at_zero):
                moving = 0
                for j in range(outputs):
                    moving += max(z[k, j], z[k + 1, j]) > 0.0 and z[k, j] >= 0.0
            new_dead[size] = dead[k] or (flat and moving == 0)
            while event < found and piece[event] == k:
                j, t = owner[event], new_knots[event]
                if size == first or merged_knots[size - 1] != t:
                    merged_knots[size] = t
                    merged_single[size] = j
                    new_straight[size] = alpha[j] == 1.0
                    size += 1
                else:
                    merged_single[size - 1] = -1
                    new_straight[size - 1] &= alpha[j] == 1.0
                change = (1.0 - alpha[j]) * steep[k, j]
                merged[size - 1, j] = change if z[k, j] < 0.0 else -change
                moving += 1 if z[k, j] < 0.0 else -1
                new_dead[size] = flat and moving == 0
                event += 1
            if k < count:
                merged_knots[size] = knots[k]
                new_straight[size] = straight[k] or (flat and moving == 0 and not at_zero)
                for j in range(outputs):
                    merged[size, j] = bends[k, j] * (1.0 if z[k + 1, j] > 0.0 else alpha[j])
                if at_zero:
                    # A knot at 0 itself takes each side's own branch.
                    for j in range(outputs):
                        if z[k + 1, j] == 0.0:
                            before = steep[k, j] * (1.0 if z[k, j] > 0.0 else alpha[j])
                            merged[size, j] = steep[k + 1, j] * (1.0 if z[k + 2, j] > 0.0 else alpha[j]) - before
                size += 1
        value_error += 8 * found * ROUNDOFF * (1.0 + largest_gain) * largest_slope * (reach + length)
        value_error *= largest_gain
        slope_error = largest_gain * slope_error + 2 * (count + found) * ROUNDOFF * (1.0 + largest_gain) * largest_slope
        for j in range(outputs):
            on = z[0, j] > 0.0 or (z[0, j] == 0.0 and z[1, j] > 0.0)
            value[j] = z[0, j] * (1.0 if z[0, j] > 0.0 else alpha[j])
            slope[j] = steep[0, j] * (1.0 if on else alpha[j])
        knots, bends, single = merged_knots[:size], merged[:size], merged_single[:size]
        dead, straight = new_dead[: size + 1], new_straight[:size]
    return np.empty(0), np.empty((0, 1)), np.empty(0), 0.0, 0
