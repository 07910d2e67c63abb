"""Compiled loops: the loss of every member of a width-1 chain and its gradient, in one pass over the step table."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.kernels.copying import copy
from stability.networks.kernels.steps import FAST, pre_activation, run_forward
from stability.networks.step_formula import Row

#: So many bytes of states stay in a core's own cache.
_CACHE = 2**19

#: The additions and multiplications of a step's formula and of its six derivatives at a point: 7 forward, 18 backward.
#: The loops do with 8 backward: the derivatives are made of sums over the points of either side of the kink.
OPERATIONS = 25


@njit(cache=True, nogil=True, fastmath=FAST)
def losses_and_gradients(first, last, table, x, y, trained, losses, gradients):
    """Fill the mean-squared error of the seeds first to last and its gradient with respect to the table.

    The states of all layers stay in cache: where they are too many, those of a stretch of layers are taken again from
    the state before it, so that the time is linear in the depth.

    With g what comes back to a point, z = weight h + bias, and N, P the points with z <= 0 and z > 0, the gradient is

        d_skip  = sum g h                               d_outer_bias   = sum g
        d_bias  = outer_weight (slope sum_N g + sum_P g)
        d_weight, likewise of g h                       d_outer_weight = slope sum_N g z + sum_P g z
        d_slope = outer_weight sum_N g z                with sum g z = weight sum g h + bias sum g

    so that two sums a side are enough.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6), float32 or float64; the other arrays have its dtype.
        x, y: (points,).
        trained: bool (rows * 6,), whether an entry of a member's table has a gradient; it is 0 elsewhere.
        losses: out, (seeds,).
        gradients: out, (seeds, rows, 6).
    """
    rows = table.shape[1]
    points = x.shape[0]
    stretch = min(rows, max(16, _CACHE // (points * x.itemsize)))
    stretches = (rows + stretch - 1) // stretch
    before = np.empty((stretches, points), table.dtype)
    states = np.empty((stretch + 1, points), table.dtype)
    back = np.empty(points, table.dtype)
    zero = table.dtype.type(0)
    for s in range(first, last):
        copy(x, before[0])
        for k in range(stretches):
            start, stop = k * stretch, min(rows, (k + 1) * stretch)
            copy(before[k], states[0])
            run_forward(table[s, start:stop], states)
            if k + 1 < stretches:
                copy(states[stop - start], before[k + 1])
        output = states[rows - (stretches - 1) * stretch]

        total = zero
        scale = table.dtype.type(2) / table.dtype.type(points)
        for p in range(points):
            error = output[p] - y[p]
            total += error * error
            back[p] = scale * error
        losses[s] = total / table.dtype.type(points)

        for k in range(stretches - 1, -1, -1):
            start, stop = k * stretch, min(rows, (k + 1) * stretch)
            if k + 1 < stretches:
                copy(before[k], states[0])
                run_forward(table[s, start:stop], states)
            for r in range(stop - 1, start - 1, -1):
                # Not `row_of`, which would cost the loop over the points its vector lanes.
                skip, weight, bias, outer_weight, outer_bias, slope = table[s, r]
                row = Row(skip, weight, bias, outer_weight, outer_bias, slope)
                h = states[r - start]
                # Not `gain`, whose 1 has not the table's dtype.
                inner = outer_weight * weight
                gain_above, gain_below = skip + inner, skip + slope * inner
                g_below = g_above = gh_below = gh_above = zero
                for p in range(points):
                    z = pre_activation(row, h[p])
                    g = back[p]
                    gh = g * h[p]
                    g_above += g if z > 0 else zero
                    g_below += zero if z > 0 else g
                    gh_above += gh if z > 0 else zero
                    gh_below += zero if z > 0 else gh
                    back[p] = g * (gain_above if z > 0 else gain_below)
                gz_below = weight * gh_below + bias * g_below
                gradients[s, r, 0] = gh_below + gh_above
                gradients[s, r, 1] = outer_weight * (slope * gh_below + gh_above)
                gradients[s, r, 2] = outer_weight * (slope * g_below + g_above)
                gradients[s, r, 3] = slope * gz_below + (weight * gh_above + bias * g_above)
                gradients[s, r, 4] = g_below + g_above
                gradients[s, r, 5] = outer_weight * gz_below
        own = gradients[s].reshape(-1)
        for entry in range(own.shape[0]):
            own[entry] = own[entry] if trained[entry] else zero
