"""Compiled loops: the coefficients of z^k in a product of 1 + z a_l of numbers, with a bound of what rounding has done.

A coefficient is mantissa 2^exponent with a mantissa in [1/2, 1), or 0. Factors are multiplied in pairs, then the
products in pairs, and so on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.foundation.kernels.copying import copy

#: The exponent of a coefficient that is zero; two of them still fit an integer.
NOTHING = -(2**40)
#: Terms that are smaller by more powers of 2 than there are here are left out of a sum.
_POWERS = np.ldexp(1.0, -np.arange(1001))
#: A relative error of an operation, and of what is left out of a sum.
_ROUNDED, _LEFT_OUT = 2.0**-52, 2.0**-900


class Coefficients(NamedTuple):
    """The coefficients of polynomials, one behind the other: mantissas, exponents, and errors in the same units."""

    mantissas: NDArray[np.float64]
    exponents: NDArray[np.integer]
    errors: NDArray[np.float64]


@njit(inline="always")
def _allocate(size):
    return Coefficients(np.zeros(size), np.zeros(size, np.int64), np.zeros(size))


@njit(inline="always")
def _put(into, place, value, exponent, error):
    """Keep a coefficient with its mantissa brought to order 1."""
    if value == 0.0:
        into.mantissas[place], into.errors[place] = 0.0, error
        into.exponents[place] = NOTHING if error == 0.0 else exponent
        return
    mantissa, shift = math.frexp(value)
    into.mantissas[place], into.exponents[place] = mantissa, exponent + shift
    into.errors[place] = math.ldexp(error, -shift)


@njit
def _multiply(given, first, first_degree, second, second_degree, highest, into):
    """Put the product of the polynomials that begin at `first` and `second` at `first` of another array."""
    for k in range(highest + 1):
        low, high = max(0, k - second_degree), min(k, first_degree)
        top = 2 * NOTHING
        for j in range(low, high + 1):
            top = max(top, given.exponents[first + j] + given.exponents[second + k - j])
        if top < NOTHING // 2:
            _put(into, first + k, 0.0, 0, 0.0)
            continue
        total, size, passed, left_out = 0.0, 0.0, 0.0, 0.0
        for j in range(low, high + 1):
            p, q = first + j, second + k - j
            below = top - (given.exponents[p] + given.exponents[q])
            if below > 1000:
                left_out = _LEFT_OUT if below < -NOTHING // 2 else left_out
                continue
            one, other = given.mantissas[p], given.mantissas[q]
            power = _POWERS[below]
            term = one * other * power
            total += term
            size += abs(term)
            passed += power * (
                abs(one) * given.errors[q] + abs(other) * given.errors[p] + given.errors[p] * given.errors[q]
            )
        error = (passed + (high - low + 2) * _ROUNDED * size) * (1 + 1e-9) + left_out
        _put(into, first + k, total, top, error)


@njit
def _product(given, other, depth, highest):
    """Multiply the factors that stand two numbers each in `given`; return the array that holds the product."""
    starts, degrees = 2 * np.arange(depth), np.ones(depth, np.int64)
    nodes = depth
    while nodes > 1:
        for node in range(0, nodes - 1, 2):
            degree = min(highest, degrees[node] + degrees[node + 1])
            _multiply(given, starts[node], degrees[node], starts[node + 1], degrees[node + 1], degree, other)
            starts[node // 2], degrees[node // 2] = starts[node], degree
        if nodes % 2:
            start, degree = starts[nodes - 1], degrees[nodes - 1]
            for k in range(start, start + degree + 1):
                other.mantissas[k], other.exponents[k] = given.mantissas[k], given.exponents[k]
                other.errors[k] = given.errors[k]
            starts[nodes // 2], degrees[nodes // 2] = start, degree
        nodes = (nodes + 1) // 2
        given, other = other, given
    return given


@njit(cache=True, nogil=True)
def path_numbers(first, last, values, exponents, relative_errors, branches, log_sizes, signs, log_errors):
    """Fill log |c_k|, the sign of c_k and the log of a bound of its error for the seeds first to last.

    Args:
        first, last: which seeds.
        values, exponents: (seeds, depth, 2), a_l = value 2^exponent for z <= 0 and for z > 0.
        relative_errors: the same shape, of that.
        branches: int8 (depth, seeds, points), 1 where z > 0.
        log_sizes, signs, log_errors: out, (highest + 1, seeds, points), the second int8.
    """
    depth, highest, points = values.shape[1], len(log_sizes) - 1, branches.shape[2]
    one, other = _allocate(2 * depth), _allocate(2 * depth)
    for s in range(first, last):
        for p in range(points):
            same = p > 0
            for layer in range(depth):
                same = same and branches[layer, s, p] == branches[layer, s, p - 1]
            if same:
                copy(log_sizes[:, s, p - 1], log_sizes[:, s, p])
                copy(signs[:, s, p - 1], signs[:, s, p])
                copy(log_errors[:, s, p - 1], log_errors[:, s, p])
                continue
            for layer in range(depth):
                side = branches[layer, s, p]
                value = values[s, layer, side]
                _put(one, 2 * layer, 1.0, 0, 0.0)
                error = abs(value) * relative_errors[s, layer, side]
                _put(one, 2 * layer + 1, value, exponents[s, layer, side], error)
            found = _product(one, other, depth, highest)
            for k in range(highest + 1):
                mantissa, error, exponent = found.mantissas[k], found.errors[k], found.exponents[k] * math.log(2.0)
                log_sizes[k, s, p] = math.log(abs(mantissa)) + exponent if mantissa != 0.0 else -np.inf
                log_errors[k, s, p] = math.log(error) + exponent if error != 0.0 else -np.inf
                signs[k, s, p] = np.sign(mantissa)
