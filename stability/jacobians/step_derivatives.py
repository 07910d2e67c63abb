"""The derivative of a width-1 step: one of two numbers, known before any point is."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from stability.foundation.threads import side_by_side
from stability.jacobians.kernels.derivatives_by_side import fill_factors
from stability.networks.step_formula import EXACT


def factors(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return g = skip + outer_weight weight phi', for z <= 0 and for z > 0, as mantissa and exponent of 2.

    Correct for the stored numbers to a relative error of about 1e-13, at any magnitude: where the float64
    product leaves its range, or the sum cancels, that factor is taken in rational arithmetic. So a mantissa is 0
    exactly where g is 0. An exponent is 0 wherever float64 holds g.

    Args:
        table: (seeds, rows, 6).

    Returns:
        Two arrays (seeds, rows, 2), the branch z <= 0 first.
    """
    seeds, rows, _ = table.shape
    value, clear = np.empty((seeds, rows, 2)), np.empty((seeds, rows, 2), dtype=bool)
    side_by_side(lambda first, last: fill_factors(first, last, table, value, clear), seeds, 4 * seeds * rows)
    exponents = np.zeros(value.shape, dtype=np.int64)
    for place in [] if clear.all() else np.argwhere(~clear):
        seed, row, branch = place
        exact = EXACT.row_of(table[seed, row])
        gain = EXACT.gain(exact, 1 if branch else exact.slope)
        value[tuple(place)], exponents[tuple(place)] = scaled(gain)
    return value, exponents


def log_factors(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return log |g| and the sign of the `factors`, (seeds, rows, 2) each: -inf and 0 exactly where g is 0."""
    mantissas, exponents = factors(table)
    with np.errstate(divide="ignore"):
        return np.log(abs(mantissas)) + exponents * math.log(2), np.sign(mantissas).astype(np.int8)


def scaled(g: Fraction) -> tuple[float, int]:
    """Return a rational number of any size as mantissa and exponent, the exponent 0 where float64 holds it."""
    if g == 0:
        return 0.0, 0
    shift = g.numerator.bit_length() - g.denominator.bit_length()
    if abs(shift) < 1000:
        return float(g), 0
    return float(g / Fraction(2) ** shift), shift
