"""Compiled: sums and norms of numbers with exponents of their own."""

from __future__ import annotations

import math

from numba import njit

from stability.foundation.kernels.wide_numbers import log_size, plus
from stability.foundation.kernels.wide_numbers import square as wide_square
from stability.signals.kernels.shared_exponents import all_alike

#: Sums over points may be reordered, so that they run in vector lanes; products are not fused, so that a
#: pre-activation has the sign that it has elsewhere.
SUMS = {"reassoc", "nsz"}


@njit
def sum_of(mantissas, exponents):
    """Return the sum of numbers with exponents of their own."""
    top = -(2**62)
    for p in range(len(mantissas)):
        if mantissas[p] != 0.0:
            top = max(top, exponents[p])
    total = 0.0
    for p in range(len(mantissas)):
        if mantissas[p] != 0.0 and exponents[p] - top > -1100:
            total += math.ldexp(mantissas[p], int(exponents[p] - top))
    return (total, top) if total != 0.0 else (0.0, 0)


@njit(inline="always")
def in_middle(square):
    return (square > 2.0**-900) & (square < 2.0**900)


@njit(inline="never", fastmath=SUMS)
def square_sum(values):
    total = 0.0
    for value in values:
        total += value * value
    return total


@njit(inline="never")
def log_norm(values, exponents):
    """Return the log of the norm of numbers with exponents of their own."""
    if all_alike(exponents):
        square = square_sum(values)
        if in_middle(square):
            return 0.5 * log_size((square, 2 * exponents[0]))
    total = (0.0, 0)
    for r in range(len(values)):
        total = plus(total, wide_square((values[r], exponents[r])))
    return 0.5 * log_size(total)
