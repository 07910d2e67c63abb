"""The coefficients of z^k in a product of 1 + z a_l of numbers in rational arithmetic, rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from stability.jacobians.products import Array
from stability.networks.step_formula import EXACT

#: Work that may be spent in one call, in products of digits of 30 bits: some seconds.
BUDGET = 4e9


def branch_of(row: Array, positive: bool) -> Fraction:
    """Return skip - 1 + outer_weight weight phi' of a row of a step table, without rounding."""
    exact = EXACT.row_of(row)
    gain: Fraction = EXACT.gain(exact, 1 if positive else exact.slope)
    return gain - 1


def exact_paths(table: Array, positive: NDArray[np.integer], highest: int) -> tuple[Array, NDArray[np.int8]]:
    """Return log |c_k| and the sign of c_k, (highest + 1,) each, for the rows (depth, 6) of one seed at one point."""
    numbers, power = _integers([branch_of(*pair) for pair in zip(table, positive, strict=True)])
    coefficients = [1]
    for number in numbers:
        raised = [number * c for c in coefficients]
        coefficients = [a + b for a, b in zip([*coefficients, 0], [0, *raised], strict=True)][: highest + 1]
    logs = np.array([_log(c) - k * power * math.log(2) for k, c in enumerate(coefficients)])
    return logs, np.array([(c > 0) - (c < 0) for c in coefficients], np.int8)


def work_of(table: Array, positive: NDArray[np.integer], highest: int) -> float:
    """Return about how much that takes, see BUDGET."""
    numbers, _ = _integers([branch_of(*pair) for pair in zip(table, positive, strict=True)])
    digits = max(number.bit_length() for number in numbers) / 30 + 1
    depth = len(numbers)
    return depth * highest * (highest + 1) / 2 * digits**2


def _integers(branches: Sequence[Fraction]) -> tuple[list[int], int]:
    """Return the branches times one power of 2, and that power."""
    power = max(branch.denominator.bit_length() - 1 for branch in branches)
    return [int(branch * 2**power) for branch in branches], power


def _log(number: int) -> float:
    """Return log |c| of an integer of any size."""
    if number == 0:
        return -math.inf
    shift = max(0, abs(number).bit_length() - 64)
    return math.log(abs(number) >> shift) + shift * math.log(2)
