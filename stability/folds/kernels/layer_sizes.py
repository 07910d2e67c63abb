"""Compiled: how large the weights of a layer and its values are, and the transposed weights."""

from __future__ import annotations

import numpy as np
from numba import njit

_COLUMNS = 32


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


fast = njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@fast
def norms(weight, bias):
    """Return the largest sum of absolute weights of a row, the largest norm of one, and the largest absolute bias."""
    norm = most = largest = 0.0
    for i in range(weight.shape[0]):
        total = squares = 0.0
        for j in range(weight.shape[1]):
            total += abs(weight[i, j])
            squares += weight[i, j] * weight[i, j]
        norm, most, largest = max(norm, total), max(most, squares), max(largest, abs(bias[i]))
    return norm, np.sqrt(most), largest


@fast
def transposed(weight):
    """Return the transposed matrix, written block by block: whole columns would miss the cache at every number."""
    rows, columns = weight.shape
    result = np.empty((columns, rows))
    for top in range(0, rows, 8):
        for left in range(0, columns, 8):
            for i in range(top, min(top + 8, rows)):
                for j in range(left, min(left + 8, columns)):
                    result[j, i] = weight[i, j]
    return result
