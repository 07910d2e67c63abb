"""Compiled loops: a step of a width-1 chain on all points."""

from __future__ import annotations

from numba import njit

#: Sums over points may be reordered and fused, so that they run in vector lanes; NaN and infinity keep their meaning.
FAST = {"reassoc", "nsz", "contract"}


@njit(inline="always")
def take_step(row, h, h_next):
    """Fill h_next with what a row of the table makes of the states h, (points,) both."""
    skip, weight, bias, outer_weight, outer_bias, slope = row
    for p in range(h.shape[0]):
        z = weight * h[p] + bias
        h_next[p] = skip * h[p] + outer_weight * (z if z > 0 else slope * z) + outer_bias


@njit(cache=True, nogil=True, fastmath=FAST)
def run_forward(table, states):
    """Fill states[1:], (rows + 1, points), from states[0] by the rows of one member, (rows, 6)."""
    for r in range(table.shape[0]):
        take_step(table[r], states[r], states[r + 1])
