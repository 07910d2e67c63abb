"""Compiled arithmetic of numbers with an exponent of their own: pairs (mantissa, exponent), mantissa * 2^exponent."""

from __future__ import annotations

import math

from numba import njit


@njit
def normalise(number):
    """Return the pair of a mantissa in [1/2, 1), or of 0 and 0."""
    mantissa, exponent = number
    m, e = math.frexp(mantissa)
    return m, exponent + e if m != 0.0 else 0


@njit
def wide(value):
    """Return a plain number as a pair."""
    return float(value), 0


@njit
def times(first, second):
    a, b = normalise(first)
    c, d = normalise(second)
    return normalise((a * c, b + d))


@njit
def plus(first, second):
    a, b = normalise(first)
    c, d = normalise(second)
    if a == 0.0:
        return c, d
    if c == 0.0:
        return a, b
    if b < d:
        a, b, c, d = c, d, a, b
    # Below 2^-1000 of the larger one a number is far under its last bit.
    return normalise((a + math.ldexp(c, int(max(d - b, -1000))), b))


@njit
def square(number):
    """Return the square, its mantissa not brought to order 1."""
    m, e = normalise(number)
    return m * m, 2 * e


@njit
def is_positive(number):
    return number[0] > 0.0


@njit
def log_size(number):
    """Return the natural log of the modulus, -inf for 0."""
    mantissa, exponent = number
    return math.log(abs(mantissa)) + exponent * math.log(2.0) if mantissa != 0.0 else -math.inf
