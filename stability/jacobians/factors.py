"""The derivative of a width-1 step: one of two numbers, known before any point is."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# Where |skip + product| falls below this part of |skip| + |product| the sum is taken in rational numbers.
_CANCELLATION = 1e-3


def log_factors(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return log |g| and the sign of g = skip + outer_weight weight phi', for z <= 0 and for z > 0.

    Correct for the stored numbers to a relative error of about 1e-13 in g, at any magnitude: where the float64
    product leaves its range, or the sum cancels, that factor is taken in rational arithmetic. So the sign is 0,
    and the log -inf, exactly where g is 0.

    Args:
        table: (seeds, rows, 6).

    Returns:
        Two arrays (seeds, rows, 2), the branch z <= 0 first.
    """
    skip, weight, outer_weight, slope = (table[..., column, None] for column in (0, 1, 3, 5))
    slopes = np.concatenate([slope, np.ones_like(slope)], axis=-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        inner = outer_weight * weight
        vanishes = (outer_weight == 0) | (weight == 0) | (slopes == 0)
        product = np.where(vanishes, 0.0, inner * slopes)
        value = skip + product
        size = abs(product)
        in_range = vanishes | ((size > 1e-290) & (size < 1e290) & (abs(inner) > 1e-290) & (abs(inner) < 1e290))
        clear = in_range & (abs(value) >= _CANCELLATION * (abs(skip) + size))
        logs = np.log(abs(value))
    signs = np.sign(np.where(clear, value, 0.0)).astype(np.int8)
    for place in np.argwhere(~clear):
        seed, row, branch = place
        s, w, _, o, _, a = map(Fraction, table[seed, row, [0, 1, 2, 3, 4, 5]])
        g = s + w * o * (a if branch == 0 else 1)
        logs[tuple(place)], signs[tuple(place)] = _log(g), (g > 0) - (g < 0)
    return logs, signs


def _log(g: Fraction) -> float:
    """Return log |g| of a rational number of any size."""
    if g == 0:
        return -math.inf
    shift = g.numerator.bit_length() - g.denominator.bit_length()
    return math.log(abs(g) / Fraction(2) ** shift) + shift * math.log(2)
