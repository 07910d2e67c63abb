"""Compiled: which rows of a step table cannot take a layer's mantissas out of float64's range, and which hardly can."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.networks.kernels.steps import row_of
from stability.networks.step_formula import Row

#: Mantissas of states stay within 2^-STATE .. 2^STATE, and likewise what comes back and the numbers of a row, so that
#: no product of them below leaves the range. A row of mild numbers moves a state so little that it is enough to look at
#: every fourth one's range: by 2^-73 at the least, where its terms cancel. So the smallest product, of what comes back,
#: a state three such rows on and two numbers of a row, is above 2^-(BACK + 1 + STATE + 219 + 2 ROW) = 2^-1020.
STATE, BACK, ROW = 300, 300, 100
_ROW_LOW, _ROW_HIGH, _BIAS_LOW = 2.0**-ROW, 2.0**ROW, 2.0**-600

_MILD_LOW, _MILD_HIGH = 2.0**-20, 2.0**20


class Rows(NamedTuple):
    """The rows of a seed for loops over them in vector lanes.

    Attributes:
        columns: (6, rows).
        eases: int8 (rows,), how easy the rows are, see `_ease`, with biases in units of 1.
    """

    columns: NDArray[np.float64]
    eases: NDArray[np.integer]


@njit(inline="always")
def _fits(number, low):
    size = abs(number)
    return (size == 0.0) | ((low < size) & (size < _ROW_HIGH))


@njit(inline="always")
def _mild(number):
    size = abs(number)
    return (size == 0.0) | ((size > _MILD_LOW) & (size < _MILD_HIGH))


@njit(inline="always")
def _ease(row):
    """Return 2 for a row of mild numbers, 1 for another one in the safe range, 0 for the others."""
    fits = _fits(row.skip, _ROW_LOW) & _fits(row.weight, _ROW_LOW) & _fits(row.bias, _BIAS_LOW)
    fits &= _fits(row.outer_weight, _ROW_LOW) & _fits(row.outer_bias, _BIAS_LOW) & _fits(row.slope, _ROW_LOW)
    mild = _mild(row.skip) & _mild(row.weight) & _mild(row.bias)
    mild &= _mild(row.outer_weight) & _mild(row.outer_bias) & _mild(row.slope)
    return (1 if fits else 0) + (1 if mild else 0)


@njit(inline="always")
def _row_at(columns, r):
    return Row(columns[0, r], columns[1, r], columns[2, r], columns[3, r], columns[4, r], columns[5, r])


@njit(inline="never")
def fill_rows(table, rows):
    """Fill the `Rows` of a seed, (rows, 6) given."""
    for r in range(len(table)):
        for k in range(6):
            rows.columns[k, r] = table[r, k]
    _fill_eases(rows.columns, rows.eases)


@njit(inline="never")
def _fill_eases(columns, eases):
    for r in range(len(eases)):
        eases[r] = _ease(_row_at(columns, r))


@njit(inline="always")
def row_in_units(rows, r, table, exponent):
    """Return row r with its biases in units of 2^exponent, and how easy it is then."""
    if exponent == 0:
        return _row_at(rows.columns, r), int(rows.eases[r])
    return scale_biases(table[r], exponent)


@njit
def scale_biases(numbers, exponent):
    """Return a row with its biases in units of 2^exponent, and how easy it is with them: 0 where they do not fit."""
    given = row_of(numbers)
    bias, outer_bias = given.bias, given.outer_bias
    fit = True
    if not (bias == 0.0 and outer_bias == 0.0):
        fit = abs(exponent) <= 900
        if fit:
            bias, outer_bias = math.ldexp(bias, int(-exponent)), math.ldexp(outer_bias, int(-exponent))
            fit = (bias == 0.0) == (given.bias == 0.0) and (outer_bias == 0.0) == (given.outer_bias == 0.0)
    row = Row(given.skip, given.weight, bias, given.outer_weight, outer_bias, given.slope)
    return row, _ease(row) if fit else 0
