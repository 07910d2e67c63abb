"""The spectrum of a piecewise-linear chain of width 1: a sum of logarithms, seed by seed and point by point."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from stability.foundation.threads import side_by_side
from stability.jacobians.kernels import log_derivatives as kernel
from stability.jacobians.spectrum import Spectrum
from stability.jacobians.step_derivatives import log_factors
from stability.reading.chain_reading import StepTable


def width_one_spectrum(reading: StepTable, distances: bool) -> Spectrum:
    """Return log |dh_l/dx| and its sign for every prefix l: log_values (depth, seeds, points, 1).

    With h_0 = x and h_l the state after step l, dh_l/dx = g_1 ... g_l, where
    g = skip + outer_weight weight (1 if z > 0 else slope) and z = weight h + bias, so a z of exactly 0 counts as
    not positive, as in torch.

    The logs are summed, with compensation, from the two logs that each step can contribute; a factor that is
    exactly zero gives -inf and sign 0 (a factor that cancels to under a thousandth is settled in rational
    arithmetic, at some microseconds each). The state is carried with an exponent of its own and cannot underflow or
    overflow, so the branches taken stay right at any depth; otherwise it is float64 and rounds as float64 does.
    """
    depth = reading.chain.depth
    logs, factor_signs = log_factors(reading.steps)
    log_values, signs, branches = _followed(reading, logs, factor_signs, keep_branches=distances)
    layer_distances = log_product_distance = None
    if distances:
        with np.errstate(over="ignore"):
            each = abs(factor_signs * np.exp(logs) - 1).transpose(1, 0, 2)
        layer_distances = torch.from_numpy(np.take_along_axis(each, branches.astype(np.intp), axis=2))
        log_product_distance = torch.from_numpy(_log_distance_from_one(log_values, signs))
    return Spectrum(
        log_values=torch.from_numpy(log_values)[..., None],
        sizes=(1,) * depth,
        undecided=torch.zeros((), dtype=torch.int64).expand(log_values.shape),
        signs=torch.from_numpy(signs),
        distance_from_identity=layer_distances,
        log_product_distance=log_product_distance,
        x=torch.from_numpy(reading.points),
        members=reading.members,
        layers=reading.layers,
    )


def branches_of(reading: StepTable) -> NDArray[np.int8]:
    """Return on which side of its kink every step is, (depth, seeds, points), 1 where z > 0 and 0 elsewhere."""
    return _followed(reading, *log_factors(reading.steps), keep_branches=True)[2]


def _followed(
    reading: StepTable, logs: NDArray[np.float64], factor_signs: NDArray[np.int8], keep_branches: bool
) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.int8]]:
    """Return log |dh_l/dx|, its sign, and the sides of the kinks, of all layers if they are to be kept."""
    table, points = reading.steps, reading.points
    size = abs(table)
    safe = ((size == 0) | ((size > kernel.ROW_SMALL) & (size < kernel.ROW_LARGE))).all(axis=2)
    shape = (table.shape[1], len(table), len(points))
    log_values, signs = np.empty(shape), np.empty(shape, dtype=np.int8)
    branches = np.empty((shape[0] if keep_branches else kernel.LAYERS, *shape[1:]), dtype=np.int8)
    arrays = (table, safe, logs, factor_signs, points, log_values, signs, branches)
    side_by_side(
        lambda first, last: kernel.log_derivatives(first, last, *arrays),
        len(table) * math.ceil(len(points) / kernel.BLOCK),
        log_values.size,
    )
    return log_values, signs, branches


def _log_distance_from_one(logs: NDArray[np.float64], signs: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return log |sign exp(log) - 1|, which stays right near 1 and beyond float64's range."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        above = np.where(logs > 1, logs + np.log(-np.expm1(-logs)), np.log(abs(np.expm1(np.minimum(logs, 1.0)))))
        return np.where(signs > 0, above, np.logaddexp(np.where(signs < 0, logs, -np.inf), 0.0))
