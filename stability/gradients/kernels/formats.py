"""Compiled loops: what a format's range, and its roundings, are to be expected to do to a width-1 chain."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.jacobians.kernels.wide import after_activation, log_size, normalise, pre_activation

_LOG_2 = math.log(2.0)
#: So many binades from 1 a state and its error may be.
_BITS = 100


@njit(cache=True, nogil=True)
def states_in_range(first, last, table, x, least, log_sizes, positive):
    """Fill log |h| and the branches of a run with exact digits, in which what a format cannot hold becomes zero.

    A state that grows past the range goes on, with the sign that an infinite one has.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6).
        x: (points,).
        least: what rounds to zero.
        log_sizes: out, (rows + 1, seeds, points).
        positive: out, bool (rows, seeds, points), whether z > 0.
    """
    rows = table.shape[1]
    floor_mantissa, floor = normalise(least, 0)
    for s in range(first, last):
        for p in range(len(x)):
            h, e = normalise(x[p], 0)
            for r in range(rows + 1):
                if e < floor or (e == floor and abs(h) <= floor_mantissa):
                    h, e = 0.0, 0
                log_sizes[r, s, p] = log_size(h, e)
                if r == rows:
                    break
                row = table[s, r]
                z, z_exponent = pre_activation(h, e, row)
                if z_exponent < floor or (z_exponent == floor and abs(z) <= floor_mantissa):
                    z, z_exponent = 0.0, 0
                positive[r, s, p] = z > 0.0
                h, e = after_activation(h, e, z, z_exponent, row[0], row)


@njit(inline="always")
def _in_middle(h, variance, exponent):
    """Bring a state with its variance near 1 if either is far from it."""
    size = max(abs(h), math.sqrt(variance))
    if 2.0**-_BITS < size < 2.0**_BITS or not 0.0 < size < np.inf:
        return h, variance, exponent
    shift = math.frexp(size)[1]
    return math.ldexp(h, -shift), math.ldexp(variance, -2 * shift), exponent + shift


@njit(inline="always")
def _of_sum(a, b, unit):
    """Return the mean square of the rounding of a sum, which is never further off than either summand is large."""
    return min(unit * (a + b) * (a + b), a * a, b * b)


@njit(cache=True, nogil=True)
def log_expected_errors(first, last, table, x, roundoff, least, outer, skips, logs):
    """Fill the log of the root mean square error of a run in a format, its roundings taken as random.

    A rounding of a number a has the mean square 0.18 (roundoff a)^2: uniform to the spacing on either side, a over a
    binade logarithmically uniform.

    Args:
        first, last: which seeds.
        table: (seeds, depth, 6).
        x: (points,).
        roundoff, least: of the format.
        outer, skips: whether the step has a second affine map, and a weight of its own on the bypass.
        logs: out, (depth + 1, seeds, points).
    """
    depth = table.shape[1]
    unit = 0.18 * roundoff * roundoff
    for s in range(first, last):
        for p in range(len(x)):
            # State and error are in units of 2^exponent, so that no square of them leaves the range.
            h, exponent = x[p], 0
            variance = unit * h * h
            for layer in range(depth + 1):
                h, variance, exponent = _in_middle(h, variance, exponent)
                log = 0.5 * math.log(variance) + exponent * _LOG_2 if variance > 0.0 else -np.inf
                logs[layer, s, p] = log
                if layer == depth:
                    break
                skip, weight, bias, outer_weight, outer_bias, slope = table[s, layer]
                floor = least
                if exponent != 0:
                    # In larger units, if the state is nothing beside a bias.
                    largest = max(abs(bias), abs(outer_bias))
                    rise = math.frexp(largest)[1] - exponent
                    if rise > _BITS and largest > 0.0:
                        h, variance, exponent = math.ldexp(h, -rise), math.ldexp(variance, -2 * rise), exponent + rise
                    bias, outer_bias = math.ldexp(bias, -exponent), math.ldexp(outer_bias, -exponent)
                    floor = math.ldexp(least, -exponent)
                floor *= floor / 3.0
                product = weight * h
                z = product + bias
                # Parameters, products and sums are each rounded once.
                rounding = unit * (2.0 * product * product + bias * bias) + _of_sum(product, bias, unit) + floor
                side = 1.0 if z > 0.0 else slope
                value = side * z
                rounding *= side * side
                if not z > 0.0 and slope != 0.0:
                    rounding += 2.0 * unit * value * value + floor
                if outer:
                    value *= outer_weight
                    rounding = rounding * outer_weight * outer_weight + 2.0 * unit * value * value + floor
                if skips:
                    rounding += 2.0 * unit * (skip * h) * (skip * h) + floor
                following = skip * h + value
                rounding += _of_sum(skip * h, value, unit)
                if outer:
                    rounding += unit * outer_bias * outer_bias + _of_sum(following, outer_bias, unit)
                following += outer_bias
                gain = skip + outer_weight * weight * side
                variance = gain * gain * variance + rounding
                h = following
