"""Compiled arithmetic of values with error bounds.

A ball (m, r, e) says that a value lies within (m - r, m + r) 2^e, and r = 0 that it is exactly m 2^e. With e = 0, and
well inside float64's range, a step is plain float64 with the rounding errors of every operation taken exactly;
elsewhere exponents are aligned by hand.
"""

from __future__ import annotations

import math

from numba import njit

from stability.foundation.formats import ROUNDOFF
from stability.foundation.kernels.double_double import two_product, two_sum

#: More than the rounding of the few operations of any one bound.
UP = 1.0 + 2.0**-48
_FLOOR = 2.0**-1000  # an error bound above 0 stays above 0


@njit(inline="always")
def sign(x):
    return 1 if x > 0 else (-1 if x < 0 else 0)


@njit(inline="always")
def affine(weight, weight_error, bias, bias_error, m, r):
    """Return weight m + bias with a bound of its error, 0 where it is exact."""
    p, p_error = two_product(weight, m)
    s, s_error = two_sum(p, bias)
    error = abs(p_error + s_error) + abs(weight) * r + weight_error * (abs(m) + r) + bias_error
    return s, max(error * UP, _FLOOR) if error > 0.0 or r > 0.0 else error


@njit
def _scaled(r, exponent):
    """Return a bound of r 2^exponent for r >= 0."""
    if r == 0.0:
        return 0.0
    if exponent > 1000:
        return math.inf
    return max(math.ldexp(r, int(max(exponent, -1000))), _FLOOR)


@njit
def _wide_product(m, r, e, weight, weight_error, weight_exponent):
    a, i = math.frexp(m)
    b, j = math.frexp(weight)
    r, weight_error = _scaled(r, -i), _scaled(weight_error, -j)
    error = abs(a) * weight_error + abs(b) * r + r * weight_error + 2 * ROUNDOFF * abs(a * b)
    exact = error == 0.0 and (r == 0.0 or weight_error == 0.0)
    return a * b, 0.0 if exact else max(error * UP, _FLOOR), e + i + weight_exponent + j


@njit
def _wide_sum(m1, r1, e1, m2, r2, e2):
    if m1 == 0.0 and r1 == 0.0:
        return m2, r2, e2
    if m2 == 0.0 and r2 == 0.0:
        return m1, r1, e1
    if e1 < e2:
        m1, r1, e1, m2, r2, e2 = m2, r2, e2, m1, r1, e1
    s = m1 + math.ldexp(m2, int(max(e2 - e1, -1000)))
    return s, (r1 + _scaled(r2, e2 - e1) + 2 * ROUNDOFF * abs(s) + _FLOOR) * UP, e1


@njit
def wide_affine(weight, weight_error, weight_exponent, bias, bias_error, bias_exponent, m, r, e):
    """`affine` for numbers with exponents of their own; returns a ball."""
    m, r, e = _wide_product(m, r, e, weight, weight_error, weight_exponent)
    a, i = math.frexp(bias)
    m, r, e = _wide_sum(m, r, e, a, _scaled(bias_error, -i), bias_exponent + i)
    if m == 0.0:
        return m, r, e if r > 0.0 else 0
    a, i = math.frexp(m)
    if -400 < e + i < 400:
        return math.ldexp(a, int(e + i)), _scaled(r, e), 0
    return a, _scaled(r, -i), e + i
