"""Compiled: the numbers of a layer, one a point, with one exponent for all where they lie close enough together."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.kernels.wide_numbers import normalise

#: The bits of infinity, those that are not the sign's, and those of the least normal number.
_INFINITY, _SIZE, _LEAST = 0x7FF0000000000000, 0x7FFFFFFFFFFFFFFF, 0x0010000000000000


@njit(inline="never")
def all_alike(exponents):
    """Whether all are the same."""
    others = 0
    for exponent in exponents:
        others += 0 if exponent == exponents[0] else 1
    return others == 0


@njit(inline="never")
def _ends(numbers):
    """Return the exponents of the least modulus that is not 0 and of the largest, and whether both can be read off."""
    bits = numbers.view(np.int64)
    least, most = np.int64(_INFINITY), np.int64(0)
    for p in range(len(bits)):  # integers, which are in the order of the numbers, and have no NaN to look out for
        size = bits[p] & _SIZE
        least, most = min(least, size if size != 0 else np.int64(_INFINITY)), max(most, size)
    return (least >> 52) - 1022, (most >> 52) - 1022, least >= _LEAST and most >= _LEAST


@njit
def gather(mantissas, exponents, bits, near_zero):
    """Give all points one exponent if their mantissas then lie in 2^-bits .. 1; leave all as it is if not.

    Args:
        mantissas, exponents: in and out, (points,).
        bits: how far apart they may be.
        near_zero: whether to take the exponent 0 where that leaves all within 2^-bits .. 2^bits.

    Returns:
        The exponent, the exponent of the least mantissa that is not zero, whether it could be done.
    """
    bottom, top, shared = _ends(mantissas)
    shared &= all_alike(exponents)
    if shared:
        top, bottom = exponents[0] + top, exponents[0] + bottom
    else:
        top, bottom = -(2**62), 2**62
        for p in range(len(mantissas)):
            m, e = normalise((mantissas[p], exponents[p]))
            if m != 0.0:
                top, bottom = max(top, e), min(bottom, e)
    if top < bottom:  # all are zero
        top = bottom = 0
    if near_zero and -bits < bottom and top < bits:
        top = bottom = 0
    if top - bottom >= bits:
        return 0, 0, False
    if shared and abs(exponents[0] - top) < 1000:
        mantissas *= math.ldexp(1.0, int(exponents[0] - top))
        exponents[:] = 0
        return top, bottom - top - 1, True
    for p in range(len(mantissas)):
        mantissas[p] = math.ldexp(mantissas[p], int(max(exponents[p] - top, -2000)))
        exponents[p] = 0
    return top, bottom - top - 1, True
