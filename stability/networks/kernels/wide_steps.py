"""Compiled: a step of a width-1 chain in numbers with exponents of their own, and its formulas for them."""

from __future__ import annotations

import math

from numba import njit

from stability.foundation.kernels.wide_numbers import is_positive, plus, times, wide
from stability.networks.step_formula import step_formulas

row_of, pre_activation, phi, side, after_activation, step, through, gain, shift = step_formulas(
    times, plus, is_positive, wide, njit(inline="always")
)


@njit
def wide_step(numbers, h):
    """Return the state after a step by a row of the table, its exponent 0 well inside the range, and whether z > 0."""
    row = row_of(numbers)
    z = pre_activation(row, h)
    mantissa, exponent = after_activation(row, h, phi(row, z))
    if -400 < exponent < 400:
        mantissa, exponent = math.ldexp(mantissa, int(exponent)), 0
    return (mantissa, exponent), is_positive(z)
