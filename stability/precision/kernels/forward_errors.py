"""Compiled loops: a width-1 chain in about 106 bits and at any magnitude, as the reference for runs in a format.

A number is high + low, two doubles that do not overlap (Dekker 1971), times 2^exponent, with high in [1/2, 1) or 0.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.kernels.wide_numbers import add, log_size, multiply, normalise


@njit(inline="always")
def _two_sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit(inline="always")
def _two_product(a, b):
    p = a * b
    t = 134217729.0 * a
    a_high = t - (t - a)
    a_low = a - a_high
    t = 134217729.0 * b
    b_high = t - (t - b)
    b_low = b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@njit
def _tidy(high, low, exponent):
    s, rest = _two_sum(high, low)
    if s == 0.0:
        return 0.0, 0.0, 0
    m, e = math.frexp(s)
    return m, math.ldexp(rest, -e), exponent + e


@njit
def _times(high, low, exponent, factor):
    """Return the product with a double."""
    m, e = normalise(factor, 0)
    p, rest = _two_product(high, m)
    return _tidy(p, rest + low * m, exponent + e)


@njit
def _plus(high, low, exponent, other_high, other_low, other_exponent):
    if high == 0.0:
        return other_high, other_low, other_exponent
    if other_high == 0.0:
        return high, low, exponent
    if exponent < other_exponent:
        high, low, exponent, other_high, other_low, other_exponent = (
            other_high, other_low, other_exponent, high, low, exponent,
        )  # fmt: skip
    shift = max(other_exponent - exponent, -1000)  # smaller ones are far under the last bit
    s, rest = _two_sum(high, math.ldexp(other_high, shift))
    t, more = _two_sum(low, math.ldexp(other_low, shift))
    s, rest = _two_sum(s, rest + t)
    return _tidy(s, rest + more, exponent)


@njit
def _step(high, low, exponent, row):
    """Return the state after one step, and the pre-activation."""
    bias, bias_exponent = normalise(row[2], 0)
    outer_bias, outer_bias_exponent = normalise(row[4], 0)
    zh, zl, ze = _times(high, low, exponent, row[1])
    zh, zl, ze = _plus(zh, zl, ze, bias, 0.0, bias_exponent)
    z, z_exponent = zh, ze
    if not zh > 0.0:
        zh, zl, ze = _times(zh, zl, ze, row[5])
    ah, al, ae = _times(zh, zl, ze, row[3])
    sh, sl, se = _times(high, low, exponent, row[0])
    sh, sl, se = _plus(sh, sl, se, ah, al, ae)
    sh, sl, se = _plus(sh, sl, se, outer_bias, 0.0, outer_bias_exponent)
    return sh, sl, se, z, z_exponent


@njit(inline="always")
def _plain(m, e):
    """Return the number as a double, 0 or infinite where it has none."""
    if e > 1024:
        return math.copysign(np.inf, m)
    return math.ldexp(m, max(e, -2000))


@njit
def _difference(computed, high, low, exponent):
    """Return a double less a number, as mantissa and exponent."""
    m, e = normalise(computed, 0)
    m, e = add(m, e, -high, exponent)
    return add(m, e, -low, exponent)


@njit(cache=True, nogil=True)
def forward_errors(first, last, table, x, computed, log_sizes, log_errors, log_bounds):
    """Fill the size of the exact states, how far the computed ones are from them, and a bound of that.

    Args:
        first, last: which seeds.
        table: (seeds, depth, 6), the exact parameters.
        x: (points,), the exact points.
        computed: (depth + 1, seeds, points), the states of a run in a format, as float64.
        log_sizes, log_errors, log_bounds: out, (depth + 1, seeds, points).
    """
    depth, points = table.shape[1], len(x)
    for s in range(first, last):
        for p in range(points):
            high, exponent = normalise(x[p], 0)
            low, bound, bound_exponent = 0.0, 0.0, 0
            local, local_exponent = _difference(computed[0, s, p], high, low, exponent)
            lost = False
            for layer in range(depth + 1):
                lost = lost or not np.isfinite(computed[layer, s, p])
                log_sizes[layer, s, p] = log_size(high, exponent)
                log_errors[layer, s, p] = log_bounds[layer, s, p] = np.inf
                if not lost:
                    # What this step did to the computed state, beside what an exact step would have done.
                    bound, bound_exponent = add(bound, bound_exponent, abs(local), local_exponent)
                    m, e = _difference(computed[layer, s, p], high, low, exponent)
                    log_errors[layer, s, p] = log_size(m, e)
                    # The additions of this bound round too.
                    bound *= 1.0 + 1e-14
                    log_bounds[layer, s, p] = log_size(bound, bound_exponent)
                if layer < depth:
                    row = table[s, layer]
                    high, low, exponent, z, z_exponent = _step(high, low, exponent, row)
                    if not lost:
                        slope = _steepest(row, _plain(z, z_exponent), _plain(bound, bound_exponent))
                        bound, bound_exponent = multiply(bound, bound_exponent, slope, 0)
                        following = computed[layer + 1, s, p]
                        if np.isfinite(following):
                            m, e = normalise(computed[layer, s, p], 0)
                            exact_high, exact_low, exact_exponent, _, _ = _step(m, 0.0, e, row)
                            local, local_exponent = _difference(following, exact_high, exact_low, exact_exponent)


@njit(inline="always")
def _steepest(row, z, error):
    """Return the largest slope of a step within `error` of a state with pre-activation z."""
    inner, leak = row[3] * row[1], max(1.0, abs(row[5]))
    above, below = abs(row[0] + inner), abs(row[0] + inner * row[5] if row[5] != 0.0 else row[0])
    reach = abs(row[1]) * error
    if z > reach:
        slope = above
    elif z < -reach:
        slope = below
    else:
        slope = max(above, below)
    # Of a slope that cancels the rounding counts against its terms, of one that underflows against the least number.
    return slope * (1.0 + 1e-14) + 1e-15 * (abs(row[0]) + abs(inner) * leak) + 1e-323 * leak
