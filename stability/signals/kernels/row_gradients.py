"""Compiled: the gradient with respect to the six numbers of a row, from sums over the points.

They are the derivatives of a step's formula by its numbers, each summed over the points of one side of the kink at a
time: `table_gradient` takes the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.foundation.kernels.wide_numbers import normalise, plus, square, times, wide
from stability.signals.kernels.wide_sums import sum_of

#: Marks a row whose sums have exponents of their own.
OUTSIDE = 2**62


class Sums(NamedTuple):
    """What the points of a seed add up to at each row.

    Attributes:
        values: (7, rows); with d what came back, the sums of d, d h and d z, each for z <= 0 and for z > 0, and of d^2.
        exponents: (7, rows), of those that have their own.
        shifts: (rows,), the exponent of what came back to a row; OUTSIDE if its sums have their own.
    """

    values: NDArray[np.float64]
    exponents: NDArray[np.integer]
    shifts: NDArray[np.integer]


class Gradient(NamedTuple):
    """The gradient of a seed, or with a first dimension more of several, as mantissas and exponents of 2.

    Attributes:
        values, exponents: (6, rows), with respect to the table.
        squares, square_exponents: (3, rows + 1), the squared norms of the gradient with respect to the state before
            each row and after the last; to the parameters of a row; and of weights times gradients.
    """

    values: NDArray[np.float64]
    exponents: NDArray[np.integer]
    squares: NDArray[np.float64]
    square_exponents: NDArray[np.integer]


@njit(inline="never")
def fill_plain_parameters(columns, common, trained, sums, gradient):
    """Fill the gradient of all rows, and its squared norms, as if no sum had an exponent of its own.

    Args:
        columns: (6, rows), the rows; common: (rows + 1,), the exponents of the states before them.
        trained: six numbers, 1 for the columns that are parameters, else 0.
        sums: `Sums`.
        gradient: out, `Gradient`, all of it but the first squares.
    """
    t0, t1, t2, t3, t4, t5 = trained
    of, _, shifts = sums
    values, exponents, squares, square_exponents = gradient
    for r in range(len(shifts)):
        weight, outer_weight, slope = columns[1, r], columns[3, r], columns[5, r]
        skip = of[2, r] + of[3, r]
        weight_gradient = outer_weight * (slope * of[2, r] + of[3, r])
        bias_gradient = outer_weight * (slope * of[0, r] + of[1, r])
        outer_gradient = slope * of[4, r] + of[5, r]
        outer_bias_gradient = of[0, r] + of[1, r]
        slope_gradient = outer_weight * of[4, r]
        values[0, r], values[1, r], values[2, r] = skip, weight_gradient, bias_gradient
        values[3, r], values[4, r], values[5, r] = outer_gradient, outer_bias_gradient, slope_gradient
        total = t0 * skip**2 + t1 * weight_gradient**2 + t2 * bias_gradient**2 + t3 * outer_gradient**2
        squares[1, r] = total + t4 * outer_bias_gradient**2 + t5 * slope_gradient**2
        # Squared after the product: a square may underflow that a large weight brings back.
        squares[2, r] = t1 * (weight_gradient * weight) ** 2 + t3 * (outer_gradient * outer_weight) ** 2
    for r in range(len(shifts)):
        of_states = shifts[r] + common[r]
        exponents[0, r] = exponents[1, r] = exponents[3, r] = exponents[5, r] = of_states
        exponents[2, r] = exponents[4, r] = shifts[r]
        square_exponents[1, r] = square_exponents[2, r] = 2 * shifts[r]


@njit
def fill_wide_parameters(r, numbers, sums, gradient):
    """Fill the gradient with respect to the six numbers of row r from sums with exponents of their own."""
    of, of_exponents, _ = sums
    values, exponents, _, _ = gradient
    outer_weight, slope = wide(numbers[3]), wide(numbers[5])
    for column, k in ((0, 2), (4, 0)):
        total = plus((of[k, r], of_exponents[k, r]), (of[k + 1, r], of_exponents[k + 1, r]))
        values[column, r], exponents[column, r] = total
    for column, k in ((1, 2), (2, 0), (3, 4)):
        total = plus(times((of[k, r], of_exponents[k, r]), slope), (of[k + 1, r], of_exponents[k + 1, r]))
        if column != 3:
            total = times(total, outer_weight)
        values[column, r], exponents[column, r] = total
    values[5, r], exponents[5, r] = times((of[4, r], of_exponents[4, r]), outer_weight)


@njit(inline="never")
def fill_wide_norms(r, numbers, trained, gradient):
    """Fill the squared norms of the gradient of a row's parameters, and of its weights times their gradients."""
    values, exponents, squares, square_exponents = gradient
    terms, term_exponents = np.zeros((2, 6)), np.zeros((2, 6), np.int64)
    for k in range(6):
        if trained[k]:
            one = normalise((values[k, r], exponents[k, r]))
            terms[0, k], term_exponents[0, k] = square(one)
            if k == 1 or k == 3:
                terms[1, k], term_exponents[1, k] = square(times(one, wide(numbers[k])))
    for which in range(2):
        squares[1 + which, r], square_exponents[1 + which, r] = sum_of(terms[which], term_exponents[which])
