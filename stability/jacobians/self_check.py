"""Whether claimed singular values of a product can be those of its factors: two tests and their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stability.foundation.formats import SPACING, Format
from stability.jacobians.products import Array, PrefixProducts

#: A change of the layers that is far above rounding, and far below what bends the answer.
_NUDGE = 2.0**-30


@dataclass(frozen=True, repr=False)
class SelfCheck:
    """Two tests of the log singular values of prefix products, and the bounds that they are held against.

    The sum of the logs must be log |det|, which noise in place of a small value would miss; but sums of log |R_ii|
    pass it, whatever they are. The reversed product, J_1^T ... J_L^T, has the same singular values and takes another
    path to them, which those sums do not survive.

    Attributes:
        determinant: (depth, *batch), |sum of the logs - sum of log |det J_l||, 0 where both are -inf; None where a
            layer is not square.
        reversed: (*batch), the largest difference between the logs of the last prefix and those of the reversed
            product; inf where the ranks differ.
        bound: (depth, *batch), n eps times the sum of the layers' condition numbers, plus eps times the largest log:
            how far the mean of a prefix's log values may be off. The condition number of a layer is estimated, after
            scaling its rows and columns.
        sensitivity: (*batch), the largest change of a log value of the last prefix for a relative change of the
            layers' entries by a small random amount, over that amount. It is mostly below the sum of the condition
            numbers, and above it where a singular direction leaves some layer nearly at a right angle to the one that
            the layers after it take up: such a value is that uncertain in the layers themselves.
        values: n, how many singular values a product has.
        dtype: what the layers came in.
    """

    determinant: Tensor | None
    reversed: Tensor
    bound: Tensor
    sensitivity: Tensor
    values: int
    dtype: torch.dtype

    @property
    def value_bound(self) -> Tensor:
        """(*batch), of the error of a single log value of the last prefix: bound + n eps sensitivity."""
        return self.bound[-1] + self.values * SPACING * self.sensitivity

    @property
    def input_bound(self) -> Tensor:
        """(*batch), what rounding the layers to the dtype that they came in may have changed before: about
        eps(dtype) / eps times `value_bound`, as float64 for integers."""
        return self.value_bound * (max(SPACING, Format(self.dtype).spacing) / SPACING)

    @property
    def passed(self) -> Tensor:
        """Bool (*batch): both tests lie within their bounds, for every prefix."""
        passed = self.reversed <= 2 * self.value_bound
        if self.determinant is not None:
            # The determinant is a sum over n values, and comes by an elimination with the same condition numbers.
            passed = passed & (self.determinant <= 2 * self.values * self.bound).all(dim=0)
        return passed

    def __repr__(self) -> str:
        determinant = "None" if self.determinant is None else f"{float(self.determinant.max()):.1e}"
        passed = "passed" if bool(self.passed.all()) else f"FAILED in {int((~self.passed).sum())}"
        return (
            f"SelfCheck({passed}: reversed {float(self.reversed.max()):.1e}, determinant {determinant}, "
            f"a value is within {float(self.value_bound.max()):.1e})"
        )


def self_check(
    layers: Sequence[Array], log_values: Array, conditions: Array, dtype: torch.dtype, batch: tuple[int, ...]
) -> SelfCheck:
    """Return the two tests for log_values (depth, batch, k) of layers [(batch, m, n), ...].

    Args:
        layers: the factors, the first applied first.
        log_values: what is claimed of every prefix.
        conditions: (depth, batch), the summed condition numbers of every prefix.
        dtype: what the factors came in.
        batch: the shape that the results get.
    """
    depth, _, k = log_values.shape
    # One draw for all of a batch, so that a product is judged alike alone and among others.
    random = np.random.default_rng(0)
    transposed = [layer.transpose(0, 2, 1) for layer in reversed(layers)]
    other = _log_values(transposed)
    nudged = _log_values([a * (1 + _NUDGE * random.standard_normal(a.shape[1:])) for a in transposed])
    shared = min(k, other.shape[1])
    differences = _difference(log_values[-1][:, :shared], other[:, :shared]).max(axis=1)
    extra = np.concatenate([log_values[-1][:, shared:], other[:, shared:]], axis=1)
    differences[(extra > -math.inf).any(axis=1)] = math.inf
    # A direction that only rounding has taken for zero is none after a nudge.
    moved = np.where(other > -math.inf, _difference(nudged, other), 0.0)
    sensitivity = np.where(np.isfinite(moved), moved, 0.0).max(axis=1) / _NUDGE

    determinant = None
    if all(layer.shape[1] == layer.shape[2] == k for layer in layers):
        logs = np.stack([_log_determinant(layer) for layer in layers])
        determinant = torch.from_numpy(_difference(log_values.sum(axis=2), logs.cumsum(axis=0)))
        determinant = determinant.reshape(depth, *batch)
    largest = abs(np.where(np.isfinite(log_values), log_values, 0.0)).max(axis=2, initial=0.0)
    return SelfCheck(
        determinant=determinant,
        reversed=torch.from_numpy(differences).reshape(batch),
        bound=torch.from_numpy(SPACING * (k * conditions + largest)).reshape(depth, *batch),
        sensitivity=torch.from_numpy(sensitivity).reshape(batch),
        values=k,
        dtype=dtype,
    )


def _log_values(layers: Sequence[Array]) -> Array:
    products = PrefixProducts(len(layers[0]), layers[0].shape[2])
    for layer in layers:
        products.multiply(layer)
    return products.log_values()


def _difference(a: Array, b: Array) -> Array:
    """|a - b|, 0 where both are -inf."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, abs(a - b))


def _log_determinant(layers: Array) -> Array:
    """Return log |det|, with the rows scaled first, so that no product leaves the range."""
    size = abs(layers).max(axis=2)
    zero = (size == 0).any(axis=1)
    size[size == 0] = 1.0
    with np.errstate(divide="ignore"):
        logs = np.linalg.slogdet(layers / size[..., None])[1] + np.log(size).sum(axis=1)
    logs[zero] = -math.inf
    return np.asarray(logs)
