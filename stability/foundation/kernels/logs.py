"""Compiled loops: the logs of many numbers with exponents of their own, in vector lanes.

The library's log takes one number at a time, at three times the cost.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_LOG_2 = math.log(2.0)
_EXPONENT, _MANTISSA = 0x7FF0000000000000, 0x000FFFFFFFFFFFFF
#: The bits of 2^52, to which an integer is added by writing it into the mantissa; and of 1.
_TWO_52, _ONE = 0x4330000000000000, 0x3FF0000000000000


# Not the error model of Python, whose look for a division by 0 would leave no vector lanes.
@njit(inline="never", error_model="numpy")
def fill_logs(mantissas, exponents, factor, bits, logs):
    """Fill factor ln |mantissa 2^exponent|, to about a unit in the last place; -inf for 0.

    With |mantissa| = 2^k m, m within a root of 2 of 1 and s = (m - 1) / (m + 1), ln m = 2 (s + s^3/3 + s^5/5 + ...).

    Args:
        mantissas, exponents: (n,), finite; the exponents int32.
        factor: of the logs.
        bits: scratch, int64 (2, n or more).
        logs: out, (n,).
    """
    n = len(mantissas)
    given = mantissas.view(np.int64)
    powers, ones = bits[0], bits[1]
    small = 0
    for i in range(n):
        small += 1 if (given[i] & _EXPONENT) == 0 else 0
        powers[i] = ((given[i] & _EXPONENT) >> 52) | _TWO_52
        ones[i] = (given[i] & _MANTISSA) | _ONE
    power, one = powers.view(np.float64), ones.view(np.float64)
    for i in range(n):
        halved = one[i] > 1.4142135623730951
        m = 0.5 * one[i] if halved else one[i]
        whole = power[i] - (2.0**52 + 1023.0) + (1.0 if halved else 0.0) + exponents[i]
        s = (m - 1.0) / (m + 1.0)
        t = s * s
        # The series itself: s is at most 0.1716, so that what is left out is below 1e-17 of the sum.
        rest = 1 / 19 + t * (1 / 21)
        rest = 1 / 15 + t * (1 / 17 + t * rest)
        rest = 1 / 11 + t * (1 / 13 + t * rest)
        rest = 1 / 7 + t * (1 / 9 + t * rest)
        rest = t * (1 / 3 + t * (1 / 5 + t * rest))
        logs[i] = factor * (2.0 * (s + s * rest) + whole * _LOG_2)
    if small:
        for i in range(n):
            if (given[i] & _EXPONENT) == 0:
                size = abs(mantissas[i])
                logs[i] = factor * (math.log(size) + exponents[i] * _LOG_2) if size > 0.0 else -np.inf
