"""Compiled: how large the values, slopes and bends of a layer are."""

from __future__ import annotations

import numpy as np
from numba import njit

_COLUMNS = 32

fast = njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@njit(fastmath={"nnan", "ninf", "nsz"})
def sizes(entries):
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


@fast
def sizes_before(value, slope, dense, rows, change):
    """Return the norms of the values, and of the slope with those of all bends added."""
    squares = steepness = 0.0
    for j in range(len(value)):
        squares += value[j] * value[j]
        steepness += slope[j] * slope[j]
    total = np.sqrt(steepness)
    for k in range(len(dense)):
        bend = 0.0
        for j in range(dense.shape[1]):
            bend += dense[k, j] * dense[k, j]
        total += np.sqrt(bend)
    for k in range(len(rows)):
        total += abs(change[k]) if rows[k] < 0 else 0.0
    return np.sqrt(squares), total
