"""Compiled loops: the gradients of a width-1 chain that cannot leave the range, from the last row to the first.

What comes back to a layer has, like its states, one exponent for all points or one for each: see `forward_states`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.foundation.kernels.copying import copy
from stability.foundation.kernels.logs import fill_logs
from stability.foundation.kernels.wide_numbers import normalise, square, times
from stability.networks.kernels import wide_steps
from stability.networks.kernels.steps import pre_activation
from stability.signals.kernels.easy_rows import BACK, row_in_units
from stability.signals.kernels.forward_states import allocate, fill_exponents, fill_states
from stability.signals.kernels.row_gradients import (
    OUTSIDE,
    Gradient,
    Sums,
    fill_plain_parameters,
    fill_wide_norms,
    fill_wide_parameters,
)
from stability.signals.kernels.shared_exponents import gather
from stability.signals.kernels.wide_sums import SUMS, in_middle, log_norm, square_sum, sum_of


class Inputs(NamedTuple):
    """What the gradients are of.

    Attributes:
        table: (seeds, rows, 6).
        factors, factor_exponents: (seeds, rows, 2), a step's derivative for z <= 0 and for z > 0.
        x: (points,).
        cotangents: (seeds, points), the gradient with respect to the output.
        trained: (6,), 1 for the columns that are parameters, else 0.
        places: (6,), where the logs of each column go, below 0 for nowhere.
        depth: how many rows count in `Logs.whole`.
    """

    table: NDArray[np.float64]
    factors: NDArray[np.float64]
    factor_exponents: NDArray[np.integer]
    x: NDArray[np.float64]
    cotangents: NDArray[np.float64]
    trained: NDArray[np.float64]
    places: NDArray[np.integer]
    depth: int


class Logs(NamedTuple):
    """The logs of the gradients.

    Attributes:
        columns: (columns, seeds, rows), of the sizes of the gradient with respect to the table.
        norms: (3, seeds, rows + 1), of the roots of `Gradient.squares`.
        whole: (columns, seeds), of the norm of a column's gradient over all rows that count.
    """

    columns: NDArray[np.float64]
    norms: NDArray[np.float64]
    whole: NDArray[np.float64]


@njit(inline="never", fastmath=SUMS)
def _plain_row(states, r, back, row, factor, sums):
    """Take what comes back through step r, whose derivative is factor[0] for z <= 0 and factor[1] for z > 0."""
    below, above = factor
    one_below = one_above = h_below = h_above = z_below = z_above = squares = 0.0
    for p in range(states.shape[1]):
        h, d = states[r, p], back[p]
        z = pre_activation(row, h)
        # Of the side after the product: what is 0 on the other side takes two products more.
        dh, dz = d * h, d * z
        one_below += 0.0 if z > 0.0 else d
        one_above += d if z > 0.0 else 0.0
        h_below += 0.0 if z > 0.0 else dh
        h_above += dh if z > 0.0 else 0.0
        z_below += 0.0 if z > 0.0 else dz
        z_above += dz if z > 0.0 else 0.0
        squares += d * d
        back[p] = d * (above if z > 0.0 else below)
    sums[0, r], sums[1, r], sums[2, r], sums[3, r] = one_below, one_above, h_below, h_above
    sums[4, r], sums[5, r], sums[6, r] = z_below, z_above, squares


@njit
def _wide_row(r, numbers, factor, factor_exponents, h, h_exponents, back, back_exponents, sums):
    """The same where each point has exponents of its own."""
    row = wide_steps.row_of(numbers)
    points = len(h)
    terms, term_exponents = np.zeros((7, points)), np.zeros((7, points), np.int64)
    for p in range(points):
        state, d = (h[p], h_exponents[p]), normalise((back[p], back_exponents[p]))
        z = wide_steps.pre_activation(row, state)
        side = 1 if z[0] > 0.0 else 0
        terms[side, p], term_exponents[side, p] = d
        terms[2 + side, p], term_exponents[2 + side, p] = times(d, state)
        terms[4 + side, p], term_exponents[4 + side, p] = times(d, z)
        terms[6, p], term_exponents[6, p] = square(d)
        back[p], back_exponents[p] = times(d, (factor[side], factor_exponents[side]))
    for k in range(7):
        sums.values[k, r], sums.exponents[k, r] = sum_of(terms[k], term_exponents[k])


@njit(inline="never")
def _fill_reach(factors, drops, rises):
    """Fill by how many binades a row's factors can at most lower and raise an exponent, 1 too many."""
    bits = factors.view(np.int64)
    for r in range(len(drops)):
        # The sign is shifted out; an exponent of 0 is that of 0, as factors of rows in the safe range are not so small.
        below, above = ((bits[r, 0] << 1) >> 53) & 0x7FF, ((bits[r, 1] << 1) >> 53) & 0x7FF
        most = max(below, above)
        least = most if below == 0 or above == 0 else min(below, above)
        drops[r], rises[r] = least - 1023, most - 1022


@njit
def _back(table, factors, factor_exponents, easy, states, back, sums, gradient):
    """Take what comes back through all rows of a seed.

    Args:
        table: (rows, 6).
        factors, factor_exponents: (rows, 2).
        easy, states: from `fill_states`.
        back: in and out, (points,), the gradient with respect to the output, and then scratch.
        sums: out, `Sums`.
        gradient: out, `Gradient`, of which the first squares are filled.
    """
    rows, points = len(table), len(back)
    _, _, squares, square_exponents = gradient
    mantissas, common, apart, _ = states
    sum_values, sum_exponents, shifts = sums
    own, h_own = np.zeros(points, np.int64), np.empty(points, np.int64)
    drops, rises = np.empty(rows, np.int64), np.empty(rows, np.int64)
    _fill_reach(factors, drops, rises)
    # What comes back is back * 2^shift; low and high bound the exponents of `back`, from what multiplied it.
    shift, low, together = gather(back, own, BACK - 100, False)
    high = 0
    for r in range(rows - 1, -1, -1):
        if together and (low < -BACK or high > BACK):
            gathered, low, together = gather(back, own, BACK - 100, False)
            high = 0
            if together:
                shift += gathered
            else:
                own[:] = shift
        row, ease = row_in_units(easy, r, table, common[r])
        if together and not apart[r] and ease > 0:
            # A factor beyond float64's range belongs to a row that is not safe.
            _plain_row(mantissas, r, back, row, (factors[r, 0], factors[r, 1]), sum_values)
            shifts[r] = shift
            squares[0, r + 1], square_exponents[0, r + 1] = sum_values[6, r], 2 * shift
            low += drops[r]
            high += rises[r]
        else:
            if together:
                own[:] = shift
            fill_exponents(states, r, h_own)
            shifts[r] = OUTSIDE
            _wide_row(r, table[r], factors[r], factor_exponents[r], mantissas[r], h_own, back, own, sums)
            squares[0, r + 1], square_exponents[0, r + 1] = sum_values[6, r], sum_exponents[6, r]
            shift, low, together = gather(back, own, BACK - 100, False)
            high = 0
    if together:
        own[:] = shift
    total = square_sum(back)
    if together and in_middle(total):
        squares[0, 0], square_exponents[0, 0] = total, 2 * shift
        return
    for p in range(points):
        back[p], own[p] = square((back[p], own[p]))
    squares[0, 0], square_exponents[0, 0] = sum_of(back, own)


@njit(cache=True, nogil=True)
def gradients(first, last, inputs, out, logs):
    """Fill the loss gradient of the seeds first to last, as mantissa and exponent, and its logs.

    Args:
        first, last: which seeds.
        inputs: `Inputs`.
        out: out, `Gradient` with the seeds first; or of one seed, and then scratch.
        logs: out, `Logs`.
    """
    table, trained, places = inputs.table, inputs.trained, inputs.places
    rows, points = table.shape[1], len(inputs.x)
    easy, states = allocate(rows, points)
    back, bits = np.empty(points), np.empty((2, rows + 1), np.int64)
    sums = Sums(np.empty((7, rows)), np.empty((7, rows), np.int64), np.empty(rows, np.int64))
    kinds = (trained[0], trained[1], trained[2], trained[3], trained[4], trained[5])
    for s in range(first, last):
        at = min(s, len(out.values) - 1)
        gradient = Gradient(out.values[at], out.exponents[at], out.squares[at], out.square_exponents[at])
        value, exponent, squares, square_exponents = gradient
        squares[1, rows] = squares[2, rows] = square_exponents[1, rows] = square_exponents[2, rows] = 0
        fill_states(table[s], inputs.x, easy, states)
        copy(inputs.cotangents[s], back)
        _back(table[s], inputs.factors[s], inputs.factor_exponents[s], easy, states, back, sums, gradient)
        fill_plain_parameters(easy.columns, states.common, kinds, sums, gradient)
        for r in range(rows):
            if sums.shifts[r] == OUTSIDE:
                fill_wide_parameters(r, table[s, r], sums, gradient)
            elif states.common[r] == 0 and in_middle(squares[1, r]) and in_middle(squares[2, r]):
                continue
            # Squares that leave the range, or of numbers with exponents of their own, are added with care.
            fill_wide_norms(r, table[s, r], trained, gradient)
        for k in range(6):
            if places[k] >= 0:
                fill_logs(value[k], exponent[k], 1.0, bits, logs.columns[places[k], s])
                logs.whole[places[k], s] = log_norm(value[k, : inputs.depth], exponent[k, : inputs.depth])
        for k in range(3):
            fill_logs(squares[k], square_exponents[k], 0.5, bits, logs.norms[k, s])
