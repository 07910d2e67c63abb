"""Compiled loops that copy numbers one by one.

Assigning an array to a slice does the same, but with it numba compiles the words of an error about shapes, which takes
two seconds of a first call. Nothing else compares the shapes then: the source must be as large as the target.
"""

from __future__ import annotations

from numba import njit


@njit
def copy(source, target):
    """Copy the numbers of a row into another."""
    for i in range(target.shape[0]):
        target[i] = source[i]


@njit
def copy_rows(source, target):
    """Copy the rows of a table into another."""
    for i in range(target.shape[0]):
        copy(source[i], target[i])
