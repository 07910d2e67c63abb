"""Compiled: what a step of a width-1 chain does to all knots, with their values, slopes and bends.

The loops are short, so that they run in the lanes of the processor; slices take the place of i + 1.
"""

from __future__ import annotations

from numba import njit

from stability.foundation.formats import ROUNDOFF

CONTRACT = {"contract", "nsz"}


@njit(fastmath={"nnan", "ninf", "nsz"})
def extremes(h):
    low = high = h[0]
    for i in range(len(h)):
        low, high = min(low, h[i]), max(high, h[i])
    return low, high


@njit(fastmath={"nnan", "ninf", "nsz"})
def largest_size(h):
    largest = 0.0
    for i in range(len(h)):
        largest = max(largest, abs(h[i]))
    return largest


@njit(fastmath=CONTRACT)
def apply_affine(factor, shift, extra, h, error, slope, bend):
    """Apply the gathered affine map; `extra` bounds what it adds to the errors."""
    for i in range(len(h)):
        h[i] = factor * h[i] + shift
    for i in range(len(h)):
        error[i] = abs(factor) * error[i] + extra
    for i in range(len(slope)):
        slope[i] *= factor
    for i in range(len(bend)):
        bend[i] *= factor


@njit(fastmath=CONTRACT)
def pre_activations(weight, bias, h, error, z):
    """Fill z = weight h + bias; return how many are no larger than a bound of their errors."""
    small = 0
    size = abs(weight)
    for i in range(len(h)):
        product = weight * h[i]
        z[i] = product + bias
        small += abs(z[i]) <= size * error[i] + 2.0 * ROUNDOFF * (abs(product) + abs(z[i]))
    return small


@njit
def crossings(z, right, where):
    """Fill the pieces on which z changes sign strictly, from z to its right neighbour; return how many."""
    found = 0
    for i in range(len(z)):
        # Written always and kept now and then: a branch here would be mispredicted at every knot.
        where[found] = i
        found += (z[i] > 0.0) & (right[i] < 0.0) | (z[i] < 0.0) & (right[i] > 0.0)
    return found


@njit
def insert_knots(work, n, found, where, kink, kink_error):
    """Put a knot into each of the `found` pieces in `where`, from the last one on, in place.

    Returns the largest ratio of width to height of the pieces.
    """
    x, h, error, slope, bend, z = work
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


@njit
def insert_layer(born, n, found, where, layer):
    """Put the layer of their birth where `insert_knots` puts the knots."""
    end = n
    for m in range(found, 0, -1):
        left = where[m - 1]
        for i in range(end - 1, left, -1):
            born[i + m] = born[i]
        born[left + m] = layer
        end = left + 1


@njit(fastmath=CONTRACT)
def step_values(below, above, below_shift, above_shift, gain_error, shift_error, h, error, z):
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
            + 2.0 * ROUNDOFF * (abs(product) + abs(value))
        )
        h[i] = value


@njit(fastmath=CONTRACT)
def turn_slopes(below, above, slope, z, right):
    for i in range(len(slope)):
        slope[i] *= above if max(z[i], right[i]) > 0.0 else below


@njit(fastmath=CONTRACT)
def turn_bends(below, above, bend, slope, next_slope, z, middle, right):
    """Scale the bends at knots inside; where the branches on the two sides differ it is the change of the slope."""
    for i in range(len(bend)):
        before, after = max(z[i], middle[i]) > 0.0, max(middle[i], right[i]) > 0.0
        scaled = bend[i] * (above if after else below)
        bend[i] = scaled if before == after else next_slope[i] - slope[i]
