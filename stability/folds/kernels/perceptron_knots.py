"""Compiled loops for layers of many neurons on an interval: only what changes at a knot is carried.

A vector of functions is known by its values and slopes at the left end and its bends at the knots. A kink of one
neuron makes a bend with one entry that is not 0, so the next layer costs one column of its weights and not a product
with the whole matrix.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.folds.kernels.layer_sizes import fast, sizes, sizes_before
from stability.foundation.formats import ROUNDOFF
from stability.foundation.kernels.copying import copy, copy_rows

_FLOOR = 2.0**-1000  # more than underflow takes from any sum
_BLOCK = 8  # numbers in a line of the cache


@fast
def _taken(block, rows, columns):
    """Return room for so many rows, of a block if it is there."""
    size = rows * columns
    return block[:size].reshape(rows, columns) if size <= len(block) else np.empty((rows, columns))


@fast
def _through_weights(weight, bias, value, slope, dense, rows, fresh, block):
    """Return value, slope and bends after a layer's affine map, and the rows of the bends, knot by knot.

    Args:
        dense: bends with many entries. rows: which of them is that of a knot, -1 where only one entry is not 0.
        fresh: of such a knot that entry and what it is.

    Also returns the largest sum of absolute weights of a row, the largest norm of one, and the largest absolute bias.
    """
    outputs, inputs = weight.shape
    new_value, new_slope = np.empty(outputs), np.empty(outputs)
    norm = longest = largest = 0.0
    for i in range(outputs):
        v = s = total = squares = 0.0
        for j in range(inputs):
            w = weight[i, j]
            v += w * value[j]
            s += w * slope[j]
            total += abs(w)
            squares += w * w
        new_value[i], new_slope[i] = v + bias[i], s
        norm, longest, largest = max(norm, total), max(longest, squares), max(largest, abs(bias[i]))
    entry, change = fresh
    count, many = len(rows), len(dense)
    bends, place = _taken(block, count, outputs), np.empty(count, np.int64)
    single = np.empty(count - many, np.int64)
    found = 0
    for k in range(count):
        place[k] = rows[k] if rows[k] >= 0 else many + found
        if rows[k] < 0:
            single[found] = k
            found += 1
    if many:
        np.dot(dense, weight.T, bends[:many])
    for top in range(0, outputs, _BLOCK):  # whole columns would miss the cache at every number
        end = min(top + _BLOCK, outputs)
        for m in range(found):
            j, b = entry[single[m]], change[single[m]]
            for i in range(top, end):
                bends[many + m, i] = b * weight[i, j]
    return new_value, new_slope, bends, place, (norm, np.sqrt(longest), largest)


@fast
def _along(ends, value, slope, bends, place, dead, blocks):
    """Return values at both ends and at all knots, slopes on all pieces, and how many neurons change sign on each."""
    count, outputs = len(bends), len(value)
    z, steep = _taken(blocks[2], count + 2, outputs), _taken(blocks[3], count + 1, outputs)
    changing = np.zeros(count + 1, np.int64)
    copy(value, z[0])
    copy(slope, steep[0])
    for k in range(count + 1):
        width, changes = ends[k + 1] - ends[k], 0
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
                steep[k + 1, j] = steep[k, j] + bends[place[k], j]
        changing[k] = changes
    return z, steep, changing


@fast
def _kinks(ends, z, steep, changing, value_error, ordinary):
    """Return where neurons change sign, which ones and on which pieces, in order on each.

    Args:
        ordinary: whether no product of two values underflows.

    Returns:
        places, neurons, pieces; bounds of the errors of the places; the stretches on which two are not told apart.
    """
    outputs, length = z.shape[1], ends[-1] - ends[0]
    total, reach = changing.sum(), max(abs(ends[0]), abs(ends[-1]))
    at, owner, piece = np.empty(total), np.empty(total, np.int64), np.empty(total, np.int64)
    blur, doubts = np.empty(total), np.empty((total, 2))
    crossing = np.empty(outputs + 1, np.int64)
    found = undecided = 0
    for k in range(len(changing)):
        first = found
        if changing[k] == 0:
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
            t = ends[k] + a / (a + b) * (ends[k + 1] - ends[k])
            place = found
            while place > first and at[place - 1] > t:
                at[place], owner[place] = at[place - 1], owner[place - 1]
                place -= 1
            at[place], owner[place] = t, j
            piece[found] = k
            found += 1
        passed = -np.inf
        for i in range(first, found):
            # Kinks of two neurons that rounding may have parted, joined, or put in the wrong order.
            blur[i] = min(2.0 * value_error / abs(steep[k, owner[i]]) + 4.0 * ROUNDOFF * (reach + length), length)
            if at[i] - blur[i] <= passed:
                doubts[undecided, 0] = max(min(at[i] - blur[i], at[i - 1] - blur[i - 1]), ends[k])
                passed = max(passed, at[i] + blur[i])
                doubts[undecided, 1] = min(passed, ends[k + 1])
                undecided += 1
            passed = max(passed, at[i] + blur[i])
    return at, owner, piece, blur, doubts[:undecided]


@fast
def _near_zeros(ends, z, value_error):
    """Return the stretches around knots at which rounding leaves open which sign a neuron has."""
    doubts, found = np.empty((len(z), 2)), 0
    for k in range(len(z)):
        close = 0
        for j in range(z.shape[1]):
            close += abs(z[k, j]) <= value_error
        if close:
            doubts[found, 0], doubts[found, 1] = ends[max(k - 1, 0)], ends[min(k + 1, len(z) - 1)]
            found += 1
    return doubts[:found]


@fast
def _through_activation(ends, z, steep, bent, kinks, alpha, dead, straight, at_zero, origins):
    """Return the knots, old and new, the bends at them after the activation, and what is flat.

    Args:
        bent: the bends, which become those after the activation, and the row of every knot.
        kinks: places, neurons, pieces and blurs, of `_kinks`, and their layer.
        alpha: the slope of every neuron below 0.
        dead, straight: pieces on which no neuron moves, and knots at which none bends.
        at_zero: whether any value is exactly 0.
        origins: layers and neurons whose kinks the old knots are, and bounds of the errors of their places.

    Returns:
        knots; bends; their rows, and the one entry and the bend of what has none; dead; straight; origins.
    """
    at, owner, piece, blur, layer = kinks
    bends, place = bent
    whose, blurs = origins
    count, outputs, found = len(place), z.shape[1], len(at)
    knots, rows = np.empty(count + found), np.empty(count + found, np.int64)
    entry, change = np.empty(count + found, np.int64), np.empty(count + found)
    new_whose, new_blurs = np.empty((count + found, 2), np.int64), np.empty(count + found)
    new_dead, new_straight = np.zeros(count + found + 1, np.bool_), np.zeros(count + found, np.bool_)
    met_before = 0
    for event in range(1, found):
        met_before += at[event] == at[event - 1] and piece[event] == piece[event - 1]
    if met_before:  # kinks of several neurons in one place make a bend with as many entries
        old, bends = bends, np.zeros((count + met_before, outputs))
        copy_rows(old, bends[:count])
    size = event = moving = 0  # moving: neurons that are on, on the piece at hand
    many = count
    flat = True
    for j in range(outputs):
        flat = flat and alpha[j] == 0.0
    for k in range(count + 1):
        first = size
        if flat and (k == 0 or at_zero):
            moving = 0
            for j in range(outputs):
                moving += max(z[k, j], z[k + 1, j]) > 0.0 and z[k, j] >= 0.0
        new_dead[size] = dead[k] or (flat and moving == 0)
        while event < found and piece[event] == k:
            j, t = owner[event], at[event]
            bend = (1.0 - alpha[j]) * (steep[k, j] if z[k, j] < 0.0 else -steep[k, j])
            if size == first or knots[size - 1] != t:
                knots[size], rows[size], entry[size], change[size] = t, -1, j, bend
                new_whose[size, 0], new_whose[size, 1], new_blurs[size] = layer, j, blur[event]
                new_straight[size] = alpha[j] == 1.0
                size += 1
            else:
                if rows[size - 1] < 0:
                    rows[size - 1] = many
                    bends[many, entry[size - 1]] = change[size - 1]
                    many += 1
                bends[rows[size - 1], j] = bend
                new_straight[size - 1] &= alpha[j] == 1.0
                new_blurs[size - 1] = max(new_blurs[size - 1], blur[event])
            moving += 1 if z[k, j] < 0.0 else -1
            new_dead[size] = flat and moving == 0
            event += 1
        if k < count:
            row = place[k]
            knots[size], rows[size] = ends[k + 1], row
            new_whose[size, 0], new_whose[size, 1], new_blurs[size] = whose[k, 0], whose[k, 1], blurs[k]
            new_straight[size] = straight[k] or (flat and moving == 0 and not at_zero)
            for j in range(outputs):
                bends[row, j] *= 1.0 if z[k + 1, j] > 0.0 else alpha[j]
            if at_zero:
                # A knot at 0 itself takes each side's own branch.
                for j in range(outputs):
                    if z[k + 1, j] == 0.0:
                        before = steep[k, j] * (1.0 if z[k, j] > 0.0 else alpha[j])
                        bends[row, j] = steep[k + 1, j] * (1.0 if z[k + 2, j] > 0.0 else alpha[j]) - before
            size += 1
    fresh = entry[:size], change[:size]
    new_origins = new_whose[:size], new_blurs[:size]
    return knots[:size], bends[:many], rows[:size], fresh, new_dead[: size + 1], new_straight[:size], new_origins


@fast
def _in_rows(z, steep, bends, place, dead, straight, value_error, slope_error):
    """Return values, slopes and bends in one array, and bounds of their errors, which are 0 for what is exact."""
    count = len(place)
    rows, errors = np.empty((3 * count + 3, z.shape[1])), np.empty(3 * count + 3)
    copy_rows(z, rows[: count + 2])
    copy_rows(steep, rows[count + 2 : 2 * count + 3])
    for k in range(count):
        copy(bends[place[k]], rows[2 * count + 3 + k])
    errors[: count + 2] = value_error
    for k in range(count + 1):
        errors[count + 2 + k] = 0.0 if dead[k] else slope_error
    for k in range(count):
        errors[2 * count + 3 + k] = 0.0 if straight[k] else 2.0 * slope_error
    return rows, errors


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def enumerate_layers(widths, parameters, slopes, low, high, limit, line, blocks):
    """Return what layers W h + b, with an activation between any two, do to a straight line from `low` to `high`.

    Args:
        widths: inputs of the first layer, and outputs of every layer.
        parameters: of every layer, the weights row by row and the biases. slopes: of every neuron that has an
            activation, its slope below 0.
        limit: the largest number of knots.
        line: the value at `low` and the slope, (inputs,), and bounds of the errors of either.
        blocks: to work in, (4, room); more is taken where it does not do.

    Returns:
        knots; rows of values, slopes and bends, (3 knots - 3, outputs); bounds of their errors; the stretches of the
        line on which signs are undecided, (n, 2); the layers and neurons whose kinks the knots inside are, and bounds
        of the errors of their places. There are no knots where there would be more than `limit`.
    """
    length, reach = high - low, max(abs(low), abs(high))
    value, slope, value_error, slope_error = line
    ends = np.empty(2)  # of all pieces: the knots are those between
    ends[0], ends[1] = low, high
    origins = np.empty((0, 2), np.int64), np.empty(0)
    # Bends with more than one entry that is not 0, the rows of the knots in them, and of other knots that entry.
    dense, rows, fresh = np.empty((0, widths[0])), np.empty(0, np.int64), (np.empty(0, np.int64), np.empty(0))
    doubts = np.empty((0, 2))
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
        # Errors are those of the sums, slope + bends and value + widths times slopes: what a bend takes from a slope
        # it takes with its error, so these do not add up along the line.
        # A product with a row of weights errs by terms * unit * |row| |vector| at most.
        size, total_slope = sizes_before(value, slope, dense, rows, fresh[1])
        value, slope, bends, place, (norm, longest, largest_bias) = _through_weights(
            weight, bias, value, slope, dense, rows, fresh, blocks[layer % 2]
        )
        rounding = longest * (inputs + 2) * ROUNDOFF * 1.001
        value_error = norm * value_error * 1.001 + rounding * (size + length * total_slope)
        value_error += 2 * ROUNDOFF * largest_bias + _FLOOR
        slope_error = norm * slope_error * 1.001 + rounding * total_slope + _FLOOR

        z, steep, changing = _along(ends, value, slope, bends, place, dead, blocks)
        count, crossings = len(place), changing.sum()
        (least_value, largest_value), (_, largest_slope) = sizes(z.ravel()), sizes(steep.ravel())
        slope_error += count * ROUNDOFF * largest_slope
        value_error += 3 * (count + 1) * ROUNDOFF * (largest_value + largest_slope * length)
        if layer == layers - 1:
            numbers, errors = _in_rows(z, steep, bends, place, dead, straight, value_error, slope_error)
            return ends, numbers, errors, doubts, origins
        if count + crossings + 2 > limit:
            break

        alpha = slopes[slope_at : slope_at + outputs]
        slope_at += outputs
        new, owner, piece, blur, unclear = _kinks(ends, z, steep, changing, value_error, least_value > 2.0**-500)
        if len(unclear):
            doubts = np.concatenate((doubts, unclear))
        if not least_value > value_error:
            doubts = np.concatenate((doubts, _near_zeros(ends, z, value_error)))
        kinks = (new, owner, piece, blur, layer)
        knots, dense, rows, fresh, dead, straight, origins = _through_activation(
            ends, z, steep, (bends, place), kinks, alpha, dead, straight, least_value == 0.0, origins
        )
        gain = max(1.0, np.abs(alpha).max())
        value_error += 8 * crossings * ROUNDOFF * (1.0 + gain) * largest_slope * (reach + length)
        value_error *= gain
        slope_error = gain * slope_error + 2 * (count + crossings) * ROUNDOFF * (1.0 + gain) * largest_slope
        for j in range(outputs):
            on = z[0, j] > 0.0 or (z[0, j] == 0.0 and z[1, j] > 0.0)
            value[j] = z[0, j] * (1.0 if z[0, j] > 0.0 else alpha[j])
            slope[j] = steep[0, j] * (1.0 if on else alpha[j])
        ends = np.empty(len(knots) + 2)
        ends[0], ends[-1] = low, high
        copy(knots, ends[1:-1])
    return np.empty(0), np.empty((0, 1)), np.empty(0), doubts, origins
