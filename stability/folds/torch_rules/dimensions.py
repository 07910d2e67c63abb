"""Dimensions of values, and whether a layer takes these values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stability.folds.following import module_in_use
from stability.folds.piecewise import PiecewiseLinear

Dims = int | Sequence[int] | None


def dimensions(f: PiecewiseLinear, dim: Dims) -> list[int]:
    """Return dimensions of a value counted from the first; all for None or, as in torch, for no dimensions."""
    n = len(f.shape)
    given = (dim,) if isinstance(dim, int) else dim or range(n)
    for d in given:
        if not -max(n, 1) <= d < max(n, 1):
            raise IndexError(f"dimension {d} of values of shape {tuple(f.shape)}: expected one within [{-n}, {n - 1}]")
    return sorted({d % n for d in given}) if n else []


def windows(f: PiecewiseLinear, dims: Sequence[int]) -> NDArray[np.intp]:
    """Return the numbers of the entries along some dimensions, (places, windows)."""
    rest = [d for d in range(len(f.shape)) if d not in dims]
    entries = np.arange(f.shape.numel()).reshape(f.shape).transpose(*dims, *rest)
    size = int(np.prod([f.shape[d] for d in dims]))
    return entries.reshape(size, f.shape.numel() // size)


def check_channels(f: PiecewiseLinear, dim: int, expected: int) -> None:
    """Raise where dimension `dim` of the values is not as long as a layer has channels."""
    if not -len(f.shape) <= dim < len(f.shape) or f.shape[dim] != expected:
        raise ValueError(
            f"there are values of shape {tuple(f.shape)} here{module_in_use()}: the layer takes {expected} channels "
            f"in dimension {dim}"
        )


def check_spatial(f: PiecewiseLinear, dims: int) -> None:
    """Raise where the values are not channels, or a batch of channels, with so many spatial dimensions."""
    if len(f.shape) not in (dims + 1, dims + 2):
        raise ValueError(
            f"there are values of shape {tuple(f.shape)} here{module_in_use()}: the layer takes (channels, ...) or "
            f"(batch, channels, ...) with {dims} spatial dimensions"
        )
