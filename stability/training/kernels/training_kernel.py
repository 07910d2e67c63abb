"""Compiled loops: the loss of every member of a width-1 chain and its gradient, in one pass over the step table."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.kernels.copying import copy
from stability.networks.kernels.steps import FAST, pre_activation, run_forward
from stability.networks.step_formula import Row

#: So many bytes of states stay in a core's own cache.
_CACHE = 2**19

#: The additions and multiplications that a point takes in a layer: 7 forward, 18 backward.
OPERATIONS = 25


@njit(cache=True, nogil=True, fastmath=FAST)
def losses_and_gradients(first, last, table, x, y, losses, gradients):
    """Fill the mean-squared error of the seeds first to last and its gradient with respect to the table.

    The states of all layers stay in cache: where they are too many, those of a stretch of layers are taken again from
    the state before it, so that the time is linear in the depth.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6), float32 or float64; the other arrays have its dtype.
        x, y: (points,).
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
                d_skip = d_weight = d_bias = d_outer_weight = d_outer_bias = d_slope = zero
                for p in range(points):
                    z = pre_activation(row, h[p])
                    g = back[p]
                    # Not `side` and `gain`: the 1 has the table's dtype, and the parts are what the gradients need.
                    phi_slope = table.dtype.type(1) if z > 0 else row.slope
                    g_a = g * row.outer_weight
                    g_z = g_a * phi_slope
                    d_skip += g * h[p]
                    d_weight += g_z * h[p]
                    d_bias += g_z
                    d_outer_weight += g * (z * phi_slope)
                    d_outer_bias += g
                    d_slope += zero if z > 0 else g_a * z
                    back[p] = g * row.skip + g_z * row.weight
                gradients[s, r, 0] = d_skip
                gradients[s, r, 1] = d_weight
                gradients[s, r, 2] = d_bias
                gradients[s, r, 3] = d_outer_weight
                gradients[s, r, 4] = d_outer_bias
                gradients[s, r, 5] = d_slope
