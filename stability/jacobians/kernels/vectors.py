"""Compiled loops: inner products, norms and reflections of vectors."""

from __future__ import annotations

import math

from numba import njit

_REASSOCIATE = {"reassoc", "contract", "nsz"}


@njit(fastmath=_REASSOCIATE, inline="never")
def dot(a, b):
    """The inner product."""
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit
def norm(a):
    """The L2 norm, of numbers of any size."""
    square = dot(a, a)
    if 1e-200 < square < 1e200:
        return math.sqrt(square)
    largest = 0.0
    for value in a:
        largest = max(largest, abs(value))
    if largest == 0.0:
        return 0.0
    total = 0.0
    for value in a:
        total += (value / largest) ** 2
    return largest * math.sqrt(total)


@njit(fastmath=_REASSOCIATE, inline="never")
def subtract(a, factor, b):
    """a -= factor b."""
    for i in range(len(a)):
        a[i] -= factor * b[i]


@njit
def reflect(x):
    """Overwrite x with the vector v for which I - factor v v^T maps it to (pivot, 0, ...); return pivot and factor."""
    length = norm(x)
    pivot = -length if x[0] > 0.0 else length
    first = x[0] - pivot
    for i in range(1, len(x)):
        x[i] /= first
    x[0] = 1.0
    return pivot, -first / pivot
