"""The paths of a piecewise-linear chain of width 1: numbers, seed by seed and point by point."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from stability.foundation.threads import side_by_side
from stability.jacobians.exact_paths import BUDGET, branch_of, exact_paths, work_of
from stability.jacobians.kernels.path_trees import path_numbers
from stability.jacobians.of_step_tables import branches_of
from stability.jacobians.path_lengths import Paths
from stability.jacobians.products import Array
from stability.jacobians.step_derivatives import factors, scaled
from stability.reading.chain_reading import StepTable

#: A relative bound beyond which a coefficient is taken in rational arithmetic.
CLEAR = 1e-6
_ROUNDOFF = 2.0**-53


def table_paths(reading: StepTable, highest: int) -> Paths:
    """Return the sums of all products of k of the numbers a_l = dh_l/dh_(l-1) - 1, for k up to `highest`."""
    table, positive = reading.steps, branches_of(reading)
    values, exponents, relative_errors = _branches(table)
    depth, seeds, points = positive.shape
    shape = (highest + 1, seeds, points)
    log_norms, log_errors, signs = np.empty(shape), np.empty(shape), np.empty(shape, np.int8)
    arrays = (values, exponents, relative_errors, positive, log_norms, signs, log_errors)
    operations = 2.0 * seeds * points * depth * highest
    side_by_side(lambda first, last: path_numbers(first, last, *arrays), seeds, operations)
    _settle(table, positive, log_norms, signs, log_errors)
    with np.errstate(divide="ignore"):
        sizes = np.log(abs(values)) + exponents * math.log(2)
    log_branches = np.take_along_axis(sizes.transpose(1, 0, 2), positive.astype(np.intp), axis=2)
    return Paths(
        log_norms=torch.from_numpy(log_norms),
        log_errors=torch.from_numpy(log_errors),
        log_branches=torch.from_numpy(log_branches),
        signs=torch.from_numpy(signs),
        width=1,
        x=torch.from_numpy(reading.points),
        members=reading.members,
        layers=reading.layers,
    )


def _branches(table: Array) -> tuple[Array, NDArray[np.int64], Array]:
    """Return skip - 1 + outer_weight weight phi' for both phi', z <= 0 first: a mantissa, its exponent, relative error.

    All are (seeds, rows, 2).
    """
    shifted = table.copy()
    shifted[..., 0] -= 1
    values, exponents = factors(shifted)
    skip, weight, _, outer_weight, _, slope = np.moveaxis(shifted, -1, 0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        through = abs(outer_weight * weight)[..., None] * np.stack([abs(slope), np.ones_like(slope)], axis=-1)
        lost = (abs(skip)[..., None] + through) / abs(values)
    errors = 4 * _ROUNDOFF * np.fmin(np.nan_to_num(lost, nan=1e3), 1e3).clip(1.0)
    # A skip that loses digits when 1 is taken from it.
    for place in np.argwhere((shifted[..., 0] + 1 != table[..., 0]) | (table[..., 0] - shifted[..., 0] != 1)):
        for side in (0, 1):
            at = (*place, side)
            values[at], exponents[at] = scaled(branch_of(table[tuple(place)], bool(side)))
            errors[at] = 2 * _ROUNDOFF
    return values, exponents, errors


def _settle(
    table: Array, positive: NDArray[np.int8], log_norms: Array, signs: NDArray[np.int8], log_errors: Array
) -> None:
    """Put exact coefficients in place of those that float64 cannot vouch for, as long as that takes some seconds."""
    unclear = (log_errors > log_norms + math.log(CLEAR)).any(axis=0)
    highest, left = len(log_norms) - 1, BUDGET
    known: dict[tuple[int, bytes], tuple[Array, NDArray[np.int8]]] = {}
    for seed, point in np.argwhere(unclear):
        sides = positive[:, seed, point]
        key = int(seed), sides.tobytes()
        if key not in known:
            left -= work_of(table[seed], sides, highest)
            if left < 0:
                break
            known[key] = exact_paths(table[seed], sides, highest)
        logs, own = known[key]
        log_norms[:, seed, point], signs[:, seed, point] = logs, own
        log_errors[:, seed, point] = np.where(logs == -np.inf, -np.inf, logs + math.log(2.0**-50))
