"""Compiled loops: what a format's range, and its roundings, are to be expected to do to a width-1 chain."""

from __future__ import annotations

import math

from numba import njit

from stability.foundation.kernels.wide_numbers import (
    add,
    after_activation,
    log_size,
    multiply,
    normalise,
    pre_activation,
)


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
            h, e = normalise(x[p], 0)
            for r in range(rows + 1):
                if e < floor or (e == floor and abs(h) == 0.5):
                    h, e = 0.0, 0
                log_sizes[r, s, p] = log_size(h, e)
                if r == rows:
                    break
                row = table[s, r]
                z, z_exponent = pre_activation(h, e, row)
                if z_exponent < floor or (z_exponent == floor and abs(z) == 0.5):
                    z, z_exponent = 0.0, 0
                positive[r, s, p] = z > 0.0
                h, e = after_activation(h, e, z, z_exponent, row[0], row)


@njit(inline="always")
def _add_square(total, exponent, factor, number, number_exponent):
    """Return total + factor number^2."""
    m, e = normalise(number, number_exponent)
    return add(total, exponent, factor * m * m, 2 * e)


@njit(inline="always")
def _times_square(total, exponent, factor):
    """Return total factor^2."""
    m, e = normalise(factor, 0)
    return normalise(total * m * m, exponent + 2 * e)


@njit(inline="always")
def _smaller(a, a_exponent, b, b_exponent):
    """Return the number of the smaller modulus."""
    a, a_exponent = normalise(a, a_exponent)
    b, b_exponent = normalise(b, b_exponent)
    if a == 0.0 or (b != 0.0 and (a_exponent, abs(a)) < (b_exponent, abs(b))):
        return a, a_exponent
    return b, b_exponent


@njit(inline="always")
def _add_rounding_of_sum(total, exponent, unit, a, a_exponent, b, b_exponent):
    """Return total + the mean square of the rounding of a + b, which is never further off than either is large."""
    m, e = add(a, a_exponent, b, b_exponent)
    m, e = _smaller(math.sqrt(unit) * m, e, a, a_exponent)
    m, e = _smaller(m, e, b, b_exponent)
    return _add_square(total, exponent, 1.0, m, e)


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
    floor, floor_exponent = 1.0 / 3.0, 2 * log2_least
    for s in range(first, last):
        for p in range(len(x)):
            h, e = normalise(x[p], 0)
            variance, ve = _add_square(0.0, 0, unit, h, e)
            for layer in range(depth + 1):
                logs[layer, s, p] = 0.5 * log_size(variance, ve)
                if layer == depth:
                    break
                skip, weight, bias, outer_weight, outer_bias, slope = table[s, layer]
                product, pe = multiply(h, e, weight, 0)
                z, ze = add(product, pe, bias, 0)
                # Parameters, products and sums are each rounded once.
                rounding, re = _add_square(floor, floor_exponent, 2.0 * unit, product, pe)
                if bias != 0.0:
                    rounding, re = _add_square(rounding, re, unit, bias, 0)
                    rounding, re = _add_rounding_of_sum(rounding, re, unit, product, pe, bias, 0)
                side = 1.0 if z > 0.0 else slope
                value, value_exponent = multiply(z, ze, side, 0)
                rounding, re = _times_square(rounding, re, side)
                if not z > 0.0 and slope != 0.0:
                    rounding, re = _add_square(rounding, re, 2.0 * unit, value, value_exponent)
                    rounding, re = add(rounding, re, floor, floor_exponent)
                if outer:
                    value, value_exponent = multiply(value, value_exponent, outer_weight, 0)
                    rounding, re = _times_square(rounding, re, outer_weight)
                    rounding, re = _add_square(rounding, re, 2.0 * unit, value, value_exponent)
                    rounding, re = add(rounding, re, floor, floor_exponent)
                kept, kept_exponent = multiply(h, e, skip, 0)
                if skips:
                    rounding, re = _add_square(rounding, re, 2.0 * unit, kept, kept_exponent)
                    rounding, re = add(rounding, re, floor, floor_exponent)
                if kept != 0.0:
                    rounding, re = _add_rounding_of_sum(rounding, re, unit, kept, kept_exponent, value, value_exponent)
                h, e = add(kept, kept_exponent, value, value_exponent)
                if outer_bias != 0.0:
                    rounding, re = _add_square(rounding, re, unit, outer_bias, 0)
                    rounding, re = _add_rounding_of_sum(rounding, re, unit, h, e, outer_bias, 0)
                h, e = add(h, e, outer_bias, 0)
                gain, gain_exponent = multiply(outer_weight, 0, weight, 0)
                gain, gain_exponent = multiply(gain, gain_exponent, side, 0)
                gain, gain_exponent = add(gain, gain_exponent, skip, 0)
                variance, ve = normalise(variance * gain * gain, ve + 2 * gain_exponent)
                variance, ve = add(variance, ve, rounding, re)
