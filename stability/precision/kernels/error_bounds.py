"""Compiled loops: how far a run of a width-1 chain in a format is from one of about 106 bits and at any magnitude."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.kernels import double_double as precise
from stability.foundation.kernels.wide_numbers import log_size, plus, times, wide
from stability.networks.kernels import steps
from stability.networks.step_formula import step_formulas

row_of, pre_activation, phi, _, after_activation = step_formulas(
    precise.times, precise.plus, precise.is_positive, precise.double_double, njit(inline="always")
)[:5]


@njit
def _step(numbers, h):
    """Return the state after one step, and the pre-activation."""
    row = row_of(numbers)
    z = pre_activation(row, h)
    return after_activation(row, h, phi(row, z)), z


@njit(inline="always")
def _plain(number):
    """Return the number as a double, 0 or infinite where it has none."""
    m, e = number
    if e > 1024:
        return math.copysign(np.inf, m)
    return math.ldexp(m, int(max(e, -2000)))


@njit
def _difference(computed, exact):
    """Return a double less an exact number, as mantissa and exponent."""
    high, low, exponent = exact
    return plus(plus(wide(computed), (-high, exponent)), (-low, exponent))


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
            exact, bound = precise.double_double(x[p]), (0.0, 0)
            local = _difference(computed[0, s, p], exact)
            lost = False
            for layer in range(depth + 1):
                lost = lost or not np.isfinite(computed[layer, s, p])
                log_sizes[layer, s, p] = log_size((exact[0], exact[2]))
                log_errors[layer, s, p] = log_bounds[layer, s, p] = np.inf
                if not lost:
                    # What this step did to the computed state, beside what an exact step would have done.
                    bound = plus(bound, (abs(local[0]), local[1]))
                    log_errors[layer, s, p] = log_size(_difference(computed[layer, s, p], exact))
                    # The additions of this bound round too.
                    bound = bound[0] * (1.0 + 1e-14), bound[1]
                    log_bounds[layer, s, p] = log_size(bound)
                if layer < depth:
                    numbers = table[s, layer]
                    exact, z = _step(numbers, exact)
                    if not lost:
                        slope = _steepest(numbers, _plain((z[0], z[2])), _plain(bound))
                        bound = times(bound, wide(slope))
                        following = computed[layer + 1, s, p]
                        if np.isfinite(following):
                            after, _ = _step(numbers, precise.double_double(computed[layer, s, p]))
                            local = _difference(following, after)


@njit(inline="always")
def _steepest(numbers, z, error):
    """Return the largest slope of a step within `error` of a state with pre-activation z."""
    row = steps.row_of(numbers)
    inner, leak = steps.through(row, 1.0), max(1.0, abs(row.slope))
    # A slope of 0 is one of 0 even where the weights' product overflows.
    above, below = abs(steps.gain(row, 1.0)), abs(steps.gain(row, row.slope) if row.slope != 0.0 else row.skip)
    reach = abs(row.weight) * error
    if z > reach:
        slope = above
    elif z < -reach:
        slope = below
    else:
        slope = max(above, below)
    # Of a slope that cancels the rounding counts against its terms, of one that underflows against the least number.
    return slope * (1.0 + 1e-14) + 1e-15 * (abs(row.skip) + abs(inner) * leak) + 1e-323 * leak
