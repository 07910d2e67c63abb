"""Compiled loops: what a format's range, and its roundings, are to be expected to do to a width-1 chain."""

from __future__ import annotations

import math

from numba import njit

from stability.foundation.kernels.wide_numbers import is_positive, log_size, normalise, plus, times, wide
from stability.networks.kernels.wide_steps import after_activation, gain, phi, pre_activation, row_of, side


@njit(inline="always")
def _in_range(number, floor):
    """Return a normalised number, or 0 where it is at most half of 2^floor."""
    mantissa, exponent = number
    if exponent < floor or (exponent == floor and abs(mantissa) == 0.5):
        return 0.0, 0
    return mantissa, exponent


@njit(cache=True, nogil=True)
def states_in_range(first, last, table, x, log2_least, log_sizes, positive):
    """Fill log |h| and the branches of a run with exact digits, in which what a format cannot hold becomes zero.

    A state that grows past the range goes on, with the sign that an infinite one has.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6).
        x: (points,).
        log2_least: of the largest number that rounds to zero.
        log_sizes: out, (rows + 1, seeds, points).
        positive: out, bool (rows, seeds, points), whether z > 0.
    """
    rows = table.shape[1]
    floor = log2_least + 1  # as the mantissa of a power of 2 is 1/2
    for s in range(first, last):
        for p in range(len(x)):
            h = normalise(wide(x[p]))
            for r in range(rows + 1):
                h = _in_range(h, floor)
                log_sizes[r, s, p] = log_size(h)
                if r == rows:
                    break
                row = row_of(table[s, r])
                z = _in_range(pre_activation(row, h), floor)
                positive[r, s, p] = is_positive(z)
                h = after_activation(row, h, phi(row, z))


@njit(inline="always")
def _add_square(total, factor, number):
    """Return total + factor number^2."""
    m, e = normalise(number)
    return plus(total, (factor * m * m, 2 * e))


@njit(inline="always")
def _times_square(total, factor):
    """Return total factor^2."""
    m, e = normalise(factor)
    return normalise((total[0] * m * m, total[1] + 2 * e))


@njit(inline="always")
def _smaller(first, second):
    """Return the number of the smaller modulus."""
    a, a_exponent = normalise(first)
    b, b_exponent = normalise(second)
    if a == 0.0 or (b != 0.0 and (a_exponent, abs(a)) < (b_exponent, abs(b))):
        return a, a_exponent
    return b, b_exponent


@njit(inline="always")
def _add_rounding_of_sum(total, unit, first, second):
    """Return total + the mean square of the rounding of a sum, which is never further off than either is large."""
    m, e = plus(first, second)
    return _add_square(total, 1.0, _smaller(_smaller((math.sqrt(unit) * m, e), first), second))


@njit(cache=True, nogil=True)
def log_expected_errors(first, last, table, x, roundoff, log2_least, outer, skips, logs):
    """Fill the log of the root mean square error of a run in a format, its roundings taken as random.

    A rounding of a number a has the mean square 0.18 (roundoff a)^2: uniform to the spacing on either side, a over a
    binade logarithmically uniform. States and mean squares have an exponent of their own, and cannot leave the range.

    Args:
        first, last: which seeds.
        table: (seeds, depth, 6).
        x: (points,).
        roundoff, log2_least: of the format.
        outer, skips: whether the step has a second affine map, and a weight of its own on the bypass.
        logs: out, (depth + 1, seeds, points).
    """
    depth = table.shape[1]
    unit = 0.18 * roundoff * roundoff
    floor = (1.0 / 3.0, 2 * log2_least)
    for s in range(first, last):
        for p in range(len(x)):
            h = normalise(wide(x[p]))
            variance = _add_square((0.0, 0), unit, h)
            for layer in range(depth + 1):
                logs[layer, s, p] = 0.5 * log_size(variance)
                if layer == depth:
                    break
                # The step one operation after the other, as each has a rounding of its own.
                row = row_of(table[s, layer])
                product = times(row.weight, h)
                z = plus(product, row.bias)
                # Parameters, products and sums are each rounded once.
                rounding = _add_square(floor, 2.0 * unit, product)
                if row.bias[0] != 0.0:
                    rounding = _add_square(rounding, unit, row.bias)
                    rounding = _add_rounding_of_sum(rounding, unit, product, row.bias)
                on = side(row, z)
                value = times(on, z)
                rounding = _times_square(rounding, on)
                if not is_positive(z) and row.slope[0] != 0.0:
                    rounding = plus(_add_square(rounding, 2.0 * unit, value), floor)
                if outer:
                    value = times(row.outer_weight, value)
                    rounding = _times_square(rounding, row.outer_weight)
                    rounding = plus(_add_square(rounding, 2.0 * unit, value), floor)
                kept = times(row.skip, h)
                if skips:
                    rounding = plus(_add_square(rounding, 2.0 * unit, kept), floor)
                if kept[0] != 0.0:
                    rounding = _add_rounding_of_sum(rounding, unit, kept, value)
                h = plus(kept, value)
                if row.outer_bias[0] != 0.0:
                    rounding = _add_square(rounding, unit, row.outer_bias)
                    rounding = _add_rounding_of_sum(rounding, unit, h, row.outer_bias)
                h = plus(h, row.outer_bias)
                variance = plus(_times_square(variance, gain(row, on)), rounding)
