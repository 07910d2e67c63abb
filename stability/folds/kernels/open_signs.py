"""Compiled: what rounding and underflow leave open along a width-1 chain."""

from __future__ import annotations

from numba import njit

from stability.foundation.formats import ROUNDOFF

#: More than underflow takes from a product.
TINY = 2.0**-1022


@njit
def near_0(weight, h, error, z):
    """Return how many z are too close to 0 to tell, and how many are 0."""
    close = zeros = 0
    for i in range(len(z)):
        bound = abs(weight) * error[i] + 2.0 * ROUNDOFF * (abs(weight * h[i]) + abs(z[i]))
        close += abs(z[i]) <= bound and bound > 0.0  # a 0 that nothing has rounded is a 0
        zeros += z[i] == 0.0
    return close, zeros


@njit
def bends_at_zeros(bend, slope, next_slope, z, middle, right, relative):
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


@njit(fastmath={"nnan", "ninf", "nsz"})
def least_size(numbers):
    """Return the least size of those that are not 0, 1 at most."""
    least = 1.0
    for i in range(len(numbers)):
        least = min(least, abs(numbers[i]) if numbers[i] != 0.0 else 1.0)
    return least


@njit
def surely_not_0(h, error):
    """Return which values are not 0 beyond doubt."""
    return (h != 0.0) | (error > 0.0)


@njit
def keep_lost(alive, below, above, error, z):
    """Let what underflow has taken stay lost, however small the bound of it becomes."""
    for i in range(len(error)):
        if alive[i] and (above if z[i] > 0.0 else below) != 0.0:
            error[i] += TINY


@njit
def faded_values(alive, z):
    faded = 0
    for i in range(len(z)):
        faded += alive[i] and abs(z[i]) <= TINY
    return faded


@njit
def newly_faded(below, above, old_slope, slope, old_bend, bend, z):
    """Count slopes and bends that are not 0 and have left the range of normal numbers."""
    faded = 0
    for i in range(len(slope)):
        factor = above if max(z[i], z[i + 1]) > 0.0 else below
        faded += old_slope[i] != 0.0 and factor != 0.0 and abs(slope[i]) < TINY
    for i in range(len(bend)):
        before, after = max(z[i], z[i + 1]) > 0.0, max(z[i + 1], z[i + 2]) > 0.0
        factor = above if after else below
        faded += before == after and old_bend[i] != 0.0 and factor != 0.0 and abs(bend[i]) < TINY
    return faded


@njit
def faded_in_all(scale, slope):
    faded = 0
    for i in range(len(slope)):
        faded += slope[i] != 0.0 and abs(scale * slope[i]) < TINY
    return faded
