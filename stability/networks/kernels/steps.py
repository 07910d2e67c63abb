"""Compiled loops: a step of a width-1 chain on all points, and its formulas in floats, for the loops of other rooms."""

from __future__ import annotations

import operator

from numba import njit

from stability.networks.step_formula import step_formulas

#: Sums over points may be reordered and fused, so that they run in vector lanes; NaN and infinity keep their meaning.
FAST = {"reassoc", "nsz", "contract"}

_inlined = njit(inline="always")


@_inlined
def _is_positive(z):
    return z > 0


@_inlined
def _number(value):
    return value


#: Inlined, so that they are under the flags of the loop that calls them and run in its vector lanes.
row_of, pre_activation, phi, side, after_activation, step, through, gain, shift = step_formulas(
    operator.mul, operator.add, _is_positive, _number, _inlined
)


@njit(inline="always")
def take_step(numbers, h, h_next):
    """Fill h_next with what a row of the table makes of the states h, (points,) both."""
    row = row_of(numbers)
    for p in range(h.shape[0]):
        h_next[p] = step(row, h[p])


@njit(cache=True, nogil=True, fastmath=FAST)
def run_forward(table, states):
    """Fill states[1:], (rows + 1, points), from states[0] by the rows of one member, (rows, 6)."""
    for r in range(table.shape[0]):
        take_step(table[r], states[r], states[r + 1])
