"""Compiled loops: states of a width-1 chain that cannot leave the range.

The numbers of a layer, one a point, share an exponent: value = mantissa * 2^exponent, moved when a mantissa nears
the ends of the range. So a layer is plain float64 in vector lanes, with the biases scaled. Only where the points of a
layer lie further apart than the range, or a bias does not fit the exponent, each point has an exponent of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.foundation.kernels.copying import copy
from stability.foundation.kernels.wide_numbers import log_size
from stability.networks.kernels import steps
from stability.networks.kernels.wide_steps import row_of, step, wide_step
from stability.signals.kernels.easy_rows import STATE, Rows, fill_rows, row_in_units
from stability.signals.kernels.shared_exponents import gather

_LOW, _HIGH = 2.0**-STATE, 2.0**STATE


class States(NamedTuple):
    """The states of a seed before each row and after the last.

    Attributes:
        mantissas: (rows + 1, points).
        common: (rows + 1,), the exponent of a row's points.
        apart: (rows + 1,), whether each point has an exponent of its own instead.
        exponents: (rows + 1, points), those; untouched where they are not apart.
    """

    mantissas: NDArray[np.float64]
    common: NDArray[np.integer]
    apart: NDArray[np.bool_]
    exponents: NDArray[np.integer]


@njit(inline="always")
def allocate(rows, points):
    """Return memory for the rows of a seed and its states."""
    easy = Rows(np.empty((6, rows)), np.empty(rows, np.int8))
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    return easy, States(np.empty((rows + 1, points)), common, apart, np.empty((rows + 1, points), np.int64))


@njit
def fill_exponents(states, r, exponents):
    """Fill the exponents of the states before row r, (points,)."""
    exponents[:] = states.common[r]
    if states.apart[r]:
        copy(states.exponents[r], exponents)


@njit(inline="never")
def _plain_step(states, r, row):
    """Step r of all points in float64; return whether all are still in the range in which that is safe."""
    outside = 0
    for p in range(states.shape[1]):
        value = steps.step(row, states[r, p])
        states[r + 1, p] = value
        size = abs(value)
        outside += 0 if (((size > _LOW) & (size < _HIGH)) | (size == 0.0)) else 1
    return outside == 0


@njit(inline="never")
def _plain_step_unchecked(states, r, row):
    """The same without a look at the range."""
    for p in range(states.shape[1]):
        states[r + 1, p] = steps.step(row, states[r, p])


@njit
def _gather_row(states, r, exponents):
    """Give the states before row r, whose exponents are given and overwritten, one exponent if they can have it."""
    states.common[r], _, together = gather(states.mantissas[r], exponents, STATE - 100, True)
    states.apart[r] = not together
    if not together:
        copy(exponents, states.exponents[r])


@njit
def fill_states(table, x, easy, states):
    """Fill the states of a seed, and its rows made ready.

    Args:
        table: (rows, 6).
        x: (points,).
        easy: out, `Rows`.
        states: out, `States`.
    """
    points = len(x)
    scratch = np.zeros(points, np.int64)
    fill_rows(table, easy)
    mantissas, common, apart, exponents = states
    copy(x, mantissas[0])
    _gather_row(states, 0, scratch)
    for r in range(len(table)):
        if not apart[r]:
            row, ease = row_in_units(easy, r, table, common[r])
            if ease == 2 and r % 4 != 3:
                _plain_step_unchecked(mantissas, r, row)
                common[r + 1], apart[r + 1] = common[r], False
                continue
            if ease > 0 and _plain_step(mantissas, r, row):
                common[r + 1], apart[r + 1] = common[r], False
                continue
        for p in range(points):
            exponent = exponents[r, p] if apart[r] else common[r]
            (mantissas[r + 1, p], scratch[p]), _ = wide_step(table[r], (mantissas[r, p], exponent))
        _gather_row(states, r + 1, scratch)


@njit(cache=True, nogil=True)
def run(first, last, table, x, outputs, output_exponents):
    """Fill what the seeds first to last make of the points, as mantissa and exponent, (seeds, points) each."""
    rows, points = table.shape[1], len(x)
    easy, states = allocate(rows, points)
    for s in range(first, last):
        fill_states(table[s], x, easy, states)
        copy(states.mantissas[rows], outputs[s])
        fill_exponents(states, rows, output_exponents[s])


@njit(cache=True, nogil=True)
def log_states(first, last, table, x, log_sizes, signs, log_updates):
    """Fill log |h|, its sign and log |h_l - h_(l-1)| for the seeds first to last.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6).
        x: (points,).
        log_sizes, signs: out, (rows + 1, seeds, points), the second int8.
        log_updates: out, (rows, seeds, points).
    """
    rows, points = table.shape[1], len(x)
    easy, states = allocate(rows, points)
    scratch = np.empty(points, np.int64)
    for s in range(first, last):
        fill_states(table[s], x, easy, states)
        for r in range(rows + 1):
            fill_exponents(states, r, scratch)
            for p in range(points):
                log_sizes[r, s, p] = log_size((states.mantissas[r, p], scratch[p]))
                signs[r, s, p] = np.sign(states.mantissas[r, p])
            if r < rows:
                # The update itself, not the difference of two states that may be alike.
                numbers = table[s, r].copy()
                numbers[0] -= 1.0
                row = row_of(numbers)
                for p in range(points):
                    log_updates[r, s, p] = log_size(step(row, (states.mantissas[r, p], scratch[p])))
