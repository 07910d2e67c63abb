"""Compiled arithmetic of about 106 bits at any magnitude.

A number is (high, low, exponent), two doubles that do not overlap (Dekker 1971) times 2^exponent, with high in [1/2, 1)
or 0.
"""

from __future__ import annotations

import math

from numba import njit

from stability.foundation.kernels.wide_numbers import normalise, wide


@njit(inline="always")
def two_sum(a, b):
    """Return the rounded sum, and what rounding took."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit(inline="always")
def two_product(a, b):
    """Return the rounded product, and what rounding took."""
    p = a * b
    t = 134217729.0 * a
    a_high = t - (t - a)
    a_low = a - a_high
    t = 134217729.0 * b
    b_high = t - (t - b)
    b_low = b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@njit
def tidy(high, low, exponent):
    """Return the number of two doubles and an exponent."""
    s, rest = two_sum(high, low)
    if s == 0.0:
        return 0.0, 0.0, 0
    m, e = math.frexp(s)
    return m, math.ldexp(rest, int(-e)), exponent + e


@njit
def double_double(value):
    """Return a plain number as one of these."""
    m, e = normalise(wide(value))
    return m, 0.0, e


@njit
def times(first, second):
    high, low, exponent = first
    other_high, other_low, other_exponent = second
    p, rest = two_product(high, other_high)
    return tidy(p, rest + (low * other_high + high * other_low), exponent + other_exponent)


@njit
def plus(first, second):
    if first[0] == 0.0:
        return second
    if second[0] == 0.0:
        return first
    if first[2] < second[2]:
        first, second = second, first
    high, low, exponent = first
    shift = max(second[2] - exponent, -1000)  # smaller ones are far under the last bit
    s, rest = two_sum(high, math.ldexp(second[0], int(shift)))
    t, more = two_sum(low, math.ldexp(second[1], int(shift)))
    s, rest = two_sum(s, rest + t)
    return tidy(s, rest + more, exponent)


@njit
def is_positive(number):
    return number[0] > 0.0
