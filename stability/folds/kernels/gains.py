"""Compiled: the two affine maps of every step, one on either side of its kink, with bounds of their errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.folds.kernels.balls import UP, sign
from stability.foundation.kernels.double_double import two_product, two_sum

#: A row whose numbers are 0 or of a size within these does not leave float64's range.
ROW_SMALL, ROW_LARGE = 2.0**-100, 2.0**100

Array = NDArray[np.float64]


class StepGains(NamedTuple):
    """Rows of a step table, and gain and shift of h -> gain h + shift for z <= 0 and z > 0."""

    table: Array  # (rows, 6)
    safe: NDArray[np.bool_]  # (rows,), whether the row's numbers are 0 or within ROW_SMALL .. ROW_LARGE
    gain: Array  # (rows, 2), as are its error bound and its sign, which is 2 if it is not certain
    gain_error: Array
    gain_sign: NDArray[np.int8]
    shift: Array  # (rows, 2), as is its error bound
    shift_error: Array
    exponents: NDArray[np.int64]  # (rows, 2, 2), of gain and of shift


@njit(cache=True, nogil=True)
def fill_gains(steps):
    """Fill all but the exponents; return whether there is a row that is not safe, left alone, or a sign left open."""
    table, safe, gain, gain_error, gain_sign, shift, shift_error, _ = steps
    open_ends = False
    for k in range(len(table)):
        safe[k] = True
        for column in range(6):
            size = abs(table[k, column])
            safe[k] = safe[k] and (size == 0.0 or ROW_SMALL < size < ROW_LARGE)
        if not safe[k]:
            open_ends = True
            continue
        skip, weight, bias, outer_weight, outer_bias, slope = table[k]
        for branch in range(2):
            phi = 1.0 if branch else slope
            p, p_error = two_product(outer_weight, weight)
            q, q_error = two_product(p, phi)
            g, g_error = two_sum(skip, q)
            gain[k, branch] = g
            gain_error[k, branch] = (abs(g_error + q_error) + abs(p_error * phi)) * UP
            p, p_error = two_product(outer_weight, bias)
            q, q_error = two_product(p, phi)
            c, c_error = two_sum(q, outer_bias)
            shift[k, branch] = c
            shift_error[k, branch] = (abs(c_error + q_error) + abs(p_error * phi)) * UP
            certain = abs(g) > gain_error[k, branch] or gain_error[k, branch] == 0.0
            gain_sign[k, branch] = sign(g) if certain else 2
            open_ends = open_ends or not certain
    return open_ends
