"""Compiled loops: Levenberg-Marquardt for members of a width-1 chain, each on its own, from the step table.

A member is trained in some of its numbers. Each is a row of the table and a kind: a column of it, or one of the two
sides of the step, `BELOW` and `ABOVE`: the slopes of h -> outer_weight phi(weight h + bias) under and over the kink.
In the sides a step that bends nothing has full derivatives, and it never matters which way its activation looks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stability.foundation.kernels.copying import copy, copy_rows
from stability.networks.kernels.steps import FAST, gain, pre_activation, row_of, run_forward, side, take_step, through
from stability.training.status import CONVERGED, MOVING, STOPPED

WEIGHT, BIAS, OUTER_WEIGHT, OUTER_BIAS, SLOPE = 1, 2, 3, 4, 5
BELOW, ABOVE = 6, 7

#: The damping at the start of a member, and where no update of any use is left.
FIRST_DAMPING, LAST_DAMPING = 1e-2, 1e10
_LEAST_DAMPING = 1e-14
#: The damping of a number is taken in its own units, yet not in smaller ones than this share of the mean.
_FLOOR = 1e-2
#: Under light damping, a relative fall of the error that ends a member.
_NO_GAIN = 1e-10


class Fit(NamedTuple):
    """What the members are fitted to, and by which numbers.

    Attributes:
        x, y: (points,).
        rows, kinds: (count,), the numbers trained, the rows ascending.
    """

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    rows: NDArray[np.integer]
    kinds: NDArray[np.integer]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def mean_square(table, x, y, h, h_next):
    """Return the mean-squared error of one member; h and h_next are (points,), to work in."""
    copy(x, h)
    for r in range(table.shape[0]):
        take_step(table[r], h, h_next)
        h, h_next = h_next, h
    total = 0.0
    for p in range(x.shape[0]):
        total += (h[p] - y[p]) ** 2
    return total / x.shape[0]


@njit(cache=True, nogil=True, error_model="numpy")
def losses(first, last, tables, x, y, out):
    """Fill the mean-squared errors of the members first to last."""
    h, h_next = np.empty_like(x), np.empty_like(x)
    for s in range(first, last):
        out[s] = mean_square(tables[s], x, y, h, h_next)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def pull_back(numbers, h, back):
    """Multiply the derivatives of the output by the states after a row, (points,), by those of the row."""
    row = row_of(numbers)
    for p in range(h.shape[0]):
        back[p] *= gain(row, side(row, pre_activation(row, h[p])))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def residuals_and_jacobian(table, states, y, rows, kinds, residuals, jacobian):
    """Fill f(x) - y of one member and its derivatives with respect to the numbers trained.

    Args:
        table: (rows, 6); states: from `run_forward`.
        rows, kinds: (count,), the numbers trained, the rows ascending.
        residuals: out, (points,).
        jacobian: out, (count, points).
    """
    depth, points = table.shape[0], y.shape[0]
    for p in range(points):
        residuals[p] = states[depth, p] - y[p]
    back = np.ones(points)
    k = rows.shape[0] - 1
    for r in range(depth - 1, -1, -1):
        row = row_of(table[r])
        h = states[r]
        while k >= 0 and rows[k] == r:
            kind, out = kinds[k], jacobian[k]
            if kind >= BELOW:
                kink = -row.bias / row.weight
                for p in range(points):
                    distance = h[p] - kink
                    out[p] = back[p] * distance if (distance > 0) == (kind == ABOVE) else 0.0
            elif kind == OUTER_BIAS:
                copy(back, out)
            else:
                for p in range(points):
                    z = pre_activation(row, h[p])
                    on = side(row, z)
                    if kind == WEIGHT:
                        out[p] = back[p] * row.outer_weight * on * h[p]
                    elif kind == BIAS:
                        out[p] = back[p] * row.outer_weight * on
                    elif kind == OUTER_WEIGHT:
                        out[p] = back[p] * on * z
                    elif kind == SLOPE:
                        out[p] = 0.0 if z > 0 else back[p] * row.outer_weight * z
                    else:
                        out[p] = back[p] * h[p]
            k -= 1
        pull_back(table[r], h, back)


@njit(inline="always")
def linearise(table, fit):
    """Return the states of one member, its residuals and its Jacobian, as `residuals_and_jacobian` fills them."""
    count, points = fit.rows.shape[0], fit.x.shape[0]
    states = np.empty((table.shape[0] + 1, points))
    residuals, jacobian = np.empty(points), np.empty((count, points))
    copy(fit.x, states[0])
    run_forward(table, states)
    residuals_and_jacobian(table, states, fit.y, fit.rows, fit.kinds, residuals, jacobian)
    return states, residuals, jacobian


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def gram(rows, out):
    """Fill the lower half of rows rows^T, two by two, for rows (count, points)."""
    count, points = rows.shape
    for i in range(0, count, 2):
        i1 = min(i + 1, count - 1)
        for j in range(0, i + 2, 2):
            j1 = min(j + 1, count - 1)
            a = b = c = d = 0.0
            for p in range(points):
                a += rows[i, p] * rows[j, p]
                b += rows[i, p] * rows[j1, p]
                c += rows[i1, p] * rows[j, p]
                d += rows[i1, p] * rows[j1, p]
            out[i, j], out[i, j1], out[i1, j], out[i1, j1] = a, b, c, d


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def factorise(matrix):
    """Put the Cholesky factor in the place of the lower half of a matrix; False if it is not positive definite."""
    for i in range(matrix.shape[0]):
        for j in range(i):
            known = 0.0
            for k in range(j):
                known += matrix[i, k] * matrix[j, k]
            matrix[i, j] = (matrix[i, j] - known) / matrix[j, j]
        known = 0.0
        for k in range(i):
            known += matrix[i, k] * matrix[i, k]
        rest = matrix[i, i] - known
        if not rest > 0.0:
            return False
        matrix[i, i] = np.sqrt(rest)
    return True


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def solve_lower(factor, values):
    """Put factor^-1 values in the place of values."""
    for i in range(values.shape[0]):
        known = 0.0
        for k in range(i):
            known += factor[i, k] * values[k]
        values[i] = (values[i] - known) / factor[i, i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def solve_upper(factor, values):
    """Put factor^-T values in the place of values."""
    for i in range(values.shape[0] - 1, -1, -1):
        values[i] /= factor[i, i]
        for k in range(i):
            values[k] -= factor[i, k] * values[i]


@njit(cache=True, nogil=True, error_model="numpy")
def sides(numbers):
    """Return the slopes of a row's h -> outer_weight phi(weight h + bias) under and over its kink."""
    row = row_of(numbers)
    steep, other = through(row, 1.0), through(row, row.slope)
    return (other, steep) if row.weight > 0 else (steep, other)


@njit(cache=True, nogil=True, error_model="numpy")
def set_sides(row, kink, below, above):
    """Give a row that kink and those sides; the activation looks to the steeper one, so its slope is at most 1."""
    if abs(above) >= abs(below):
        row[WEIGHT], row[BIAS], row[OUTER_WEIGHT] = 1.0, -kink, above
        if above != 0.0:
            row[SLOPE] = below / above
    else:
        row[WEIGHT], row[BIAS], row[OUTER_WEIGHT], row[SLOPE] = -1.0, kink, -below, above / below


@njit(cache=True, nogil=True, error_model="numpy")
def move(table, rows, kinds, update, least_slope, moved):
    """Fill `moved` with the table after an update (count,) in the numbers trained, no trained slope under the least."""
    copy_rows(table, moved)
    count = rows.shape[0]
    k = 0
    while k < count:
        r = rows[k]
        below, above = sides(table[r])
        by_sides = False
        while k < count and rows[k] == r:
            if kinds[k] == BELOW:
                below += update[k]
                by_sides = True
            elif kinds[k] == ABOVE:
                above += update[k]
                by_sides = True
            else:
                moved[r, kinds[k]] += update[k]
                if kinds[k] == SLOPE:
                    moved[r, SLOPE] = max(moved[r, SLOPE], least_slope)
            k += 1
        if by_sides:
            set_sides(moved[r], -moved[r, BIAS] / table[r, WEIGHT], below, above)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _try_dampings(table, fit, least_slope, damping, loss):
    """Move one member by one update that lowers its loss; return its damping, its loss and what has become of it."""
    count, points = fit.rows.shape[0], fit.x.shape[0]
    _, residuals, jacobian = linearise(table, fit)
    scale, gradient, update = np.empty(count), np.empty(count), np.empty(count)
    mean = 0.0
    for i in range(count):
        square = product = 0.0
        for p in range(points):
            square += jacobian[i, p] * jacobian[i, p]
            product += jacobian[i, p] * residuals[p]
        scale[i], gradient[i] = square, product
        mean += square / count
    if not mean < np.inf:  # not np.isfinite, which takes mean - mean for 0 where sums may be reordered
        return damping, loss, STOPPED
    for i in range(count):
        scale[i] = max(scale[i], _FLOOR * mean)
    # The same update from the smaller of two systems: J J^T in the numbers, or J^T D^-1 J in the points.
    by_points = count > points
    size = points if by_points else count
    system, factor, unknown = np.empty((size, size)), np.empty((size, size)), np.empty(size)
    if by_points:
        scaled = np.empty((points, count))
        for i in range(count):
            root = 1.0 / np.sqrt(scale[i]) if scale[i] > 0.0 else 0.0
            for p in range(points):
                scaled[p, i] = jacobian[i, p] * root
        gram(scaled, system)
    else:
        gram(jacobian, system)
    moved, h, h_next = np.empty_like(table), np.empty(points), np.empty(points)
    growth = 2.0
    while damping < LAST_DAMPING and mean > 0.0 and loss > 0.0:
        copy_rows(system, factor)
        for i in range(size):
            factor[i, i] += damping if by_points else damping * scale[i]
            unknown[i] = residuals[i] if by_points else gradient[i]
        if factorise(factor):
            solve_lower(factor, unknown)
            solve_upper(factor, unknown)
            promise = 0.0
            for i in range(count):
                if by_points:
                    product = 0.0
                    for p in range(points):
                        product += jacobian[i, p] * unknown[p]
                    update[i] = -product / scale[i] if scale[i] > 0.0 else 0.0
                else:
                    update[i] = -unknown[i]
                promise += update[i] * (damping * scale[i] * update[i] - gradient[i])
            move(table, fit.rows, fit.kinds, update, least_slope, moved)
            reached = mean_square(moved, fit.x, fit.y, h, h_next)
            if reached < loss:
                kept = (loss - reached) * points / max(promise, 1e-300)
                idle = loss - reached <= _NO_GAIN * loss and damping <= FIRST_DAMPING
                damping *= 0.2 if kept > 0.75 else (0.6 if kept > 0.25 else 2.0)
                copy_rows(moved, table)
                return max(damping, _LEAST_DAMPING), reached, CONVERGED if idle else MOVING
        damping *= growth
        growth *= 2.0
    return damping, loss, CONVERGED


@njit(cache=True, nogil=True, error_model="numpy")
def iterate(first, last, tables, fit, least_slope, damping, status):
    """Do one iteration of Levenberg-Marquardt with the members first to last that are moving.

    Args:
        first, last: which members.
        tables: (seeds, rows, 6), float64, changed in place.
        fit: a `Fit`.
        least_slope: under which no trained slope goes.
        damping: (seeds,), changed in place: raised until a update lowers the loss, lowered after a good one.
        status: (seeds,), changed in place: `MOVING`, `CONVERGED` or `STOPPED`.
    """
    h, h_next = np.empty_like(fit.x), np.empty_like(fit.x)
    for s in range(first, last):
        if status[s] == MOVING:
            loss = mean_square(tables[s], fit.x, fit.y, h, h_next)
            if np.isfinite(loss):
                damping[s], _, status[s] = _try_dampings(tables[s], fit, least_slope, damping[s], loss)
            else:
                status[s] = STOPPED
