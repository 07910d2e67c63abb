"""Dimensions of values and of the data that hold them, and whether a layer takes these values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from stability.folds.following import module_in_use
from stability.folds.piecewise import PiecewiseLinear

Dims = int | Sequence[int] | None


def data_dimensions(f: PiecewiseLinear, dim: Dims) -> list[int]:
    """Return dimensions of a value, all for None, as dimensions of the data."""
    n = len(f.shape)
    given = range(n) if dim is None else (dim,) if isinstance(dim, int) else dim
    for d in given:
        if not -n <= d < n:
            raise IndexError(f"dimension {d} of values of shape {tuple(f.shape)}: expected one within [{-n}, {n - 1}]")
    return [d % n + 1 for d in given]


def check_channels(f: PiecewiseLinear, dim: int, expected: int) -> None:
    """Raise where dimension `dim` of the values is not as long as a layer has channels."""
    if not -len(f.shape) <= dim < len(f.shape) or f.shape[dim] != expected:
        raise ValueError(
            f"the line has values of shape {tuple(f.shape)} here{module_in_use()}: the layer takes {expected} channels "
            f"in dimension {dim}"
        )


def check_spatial(f: PiecewiseLinear, dims: int) -> None:
    """Raise where the values are not channels, or a batch of channels, with so many spatial dimensions."""
    if len(f.shape) not in (dims + 1, dims + 2):
        raise ValueError(
            f"the line has values of shape {tuple(f.shape)}: the layer takes (channels, ...) or (batch, channels, ...) "
            f"with {dims} spatial dimensions"
        )


def on_batches(f: PiecewiseLinear, dims: int, layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a layer that takes one batch dimension as one that takes the data of `f`, whose rows are a batch too."""
    check_spatial(f, dims)
    if len(f.shape) == dims + 1:
        return layer

    def on_rows(x: Tensor) -> Tensor:
        out = layer(x.flatten(0, 1))
        return out.reshape(*x.shape[:2], *out.shape[1:])

    return on_rows
