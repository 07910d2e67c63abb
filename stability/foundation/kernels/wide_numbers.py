"""Compiled arithmetic of numbers with an exponent of their own: (mantissa, exponent), value mantissa * 2^exponent."""

from __future__ import annotations

import math

from numba import njit


@njit(inline="always")
def normalise(mantissa, exponent):
    m, e = math.frexp(mantissa)
    return m, exponent + e if m != 0.0 else 0


@njit(inline="always")
def multiply(m1, e1, m2, e2):
    a, b = normalise(m1, e1)
    c, d = normalise(m2, e2)
    return normalise(a * c, b + d)


@njit(inline="always")
def add(m1, e1, m2, e2):
    a, b = normalise(m1, e1)
    c, d = normalise(m2, e2)
    if a == 0.0:
        return c, d
    if c == 0.0:
        return a, b
    if b < d:
        a, b, c, d = c, d, a, b
    # Below 2^-1000 of the larger one a number is far under its last bit.
    return normalise(a + math.ldexp(c, max(d - b, -1000)), b)


@njit(inline="always")
def log_size(mantissa, exponent):
    """Return the natural log of the modulus, -inf for 0."""
    return math.log(abs(mantissa)) + exponent * math.log(2.0) if mantissa != 0.0 else -math.inf


@njit(inline="always")
def pre_activation(mantissa, exponent, row):
    """Return weight h + bias."""
    z, z_exponent = multiply(mantissa, exponent, row[1], 0)
    return add(z, z_exponent, row[2], 0)


@njit(inline="always")
def after_activation(mantissa, exponent, z, z_exponent, skip, row):
    """Return skip h + outer_weight phi(z) + outer_bias."""
    if not z > 0.0:
        z, z_exponent = multiply(z, z_exponent, row[5], 0)
    z, z_exponent = multiply(z, z_exponent, row[3], 0)
    kept, kept_exponent = multiply(mantissa, exponent, skip, 0)
    z, z_exponent = add(kept, kept_exponent, z, z_exponent)
    return add(z, z_exponent, row[4], 0)


@njit
def wide_step(mantissa, exponent, row):
    """One step h -> skip h + outer_weight phi(weight h + bias) + outer_bias at any exponent."""
    z, z_exponent = pre_activation(mantissa, exponent, row)
    positive = z > 0.0
    z, z_exponent = after_activation(mantissa, exponent, z, z_exponent, row[0], row)
    if -400 < z_exponent < 400:
        return math.ldexp(z, z_exponent), 0, positive
    return z, z_exponent, positive
