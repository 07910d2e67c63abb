"""Rules of arrangement: the same entries in another shape, a part of them, and what a tensor says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stability.folds.pieces import view
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.torch_rules.dimensions import data_dimensions
from stability.folds.torch_rules.registry import rule

Sizes = int | Sequence[int]


def _as_one(sizes: Sequence[Sizes]) -> tuple[int, ...]:
    """Sizes that are given one by one or as one sequence."""
    given = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    return tuple(cast(Sequence[int], given))


def _reshaped(f: PiecewiseLinear, reshape: Callable[[Tensor], Tensor]) -> PiecewiseLinear:
    """Return `f` in the shape that torch gives to a tensor of its shape."""
    return view(f, f._data.reshape(len(f._data), *reshape(torch.empty(f.shape, device="meta")).shape))


@rule("view", "reshape")
def _(f: PiecewiseLinear, *sizes: Sizes, shape: Sizes | None = None) -> PiecewiseLinear:
    wanted = _as_one(sizes if shape is None else (shape,))
    try:
        return _reshaped(f, lambda x: x.reshape(wanted))
    except RuntimeError as error:
        raise ValueError(f"values of shape {tuple(f.shape)} do not fit the shape {wanted}") from error


@rule("flatten")
def _(f: PiecewiseLinear, start_dim: int = 0, end_dim: int = -1) -> PiecewiseLinear:
    return _reshaped(f, lambda x: x.flatten(start_dim, end_dim))


@rule("unflatten")
def _(f: PiecewiseLinear, dim: int, sizes: Sequence[int]) -> PiecewiseLinear:
    return _reshaped(f, lambda x: torch.unflatten(x, dim, sizes))


@rule("squeeze")
def _(f: PiecewiseLinear, dim: int | tuple[int, ...] | None = None) -> PiecewiseLinear:
    return _reshaped(f, lambda x: x.squeeze() if dim is None else x.squeeze(dim))


@rule("unsqueeze")
def _(f: PiecewiseLinear, dim: int) -> PiecewiseLinear:
    return _reshaped(f, lambda x: x.unsqueeze(dim))


@rule("permute")
def _(f: PiecewiseLinear, *dims: Sizes) -> PiecewiseLinear:
    return view(f, f._data.transpose(0, *data_dimensions(f, _as_one(dims))))


@rule("transpose", "swapaxes")
def _(f: PiecewiseLinear, dim0: int, dim1: int) -> PiecewiseLinear:
    return view(f, f._data.swapaxes(*data_dimensions(f, (dim0, dim1))))


@rule("chunk")
def _(f: PiecewiseLinear, chunks: int, dim: int = 0) -> tuple[PiecewiseLinear, ...]:
    axis = data_dimensions(f, dim)[0]
    index = torch.arange(f._data.shape[axis]).chunk(chunks)
    return tuple(view(f, np.take(f._data, part.numpy(), axis)) for part in index)


@rule("clone")
def _(f: PiecewiseLinear, **__: object) -> PiecewiseLinear:
    return f._like(f._data)


@rule("contiguous", "detach", "to", "double", "float", "type_as", "cpu", "requires_grad_", "positive")
def _(f: PiecewiseLinear, *_: object, **__: object) -> PiecewiseLinear:
    return view(f, f._data)


@rule("size")
def _(f: PiecewiseLinear, dim: int | None = None) -> torch.Size | int:
    return f.shape if dim is None else f.shape[dim]


@rule("dim", "ndimension")
def _(f: PiecewiseLinear) -> int:
    return len(f.shape)


@rule("numel")
def _(f: PiecewiseLinear) -> int:
    return f.shape.numel()


@rule("is_floating_point")
def _(f: PiecewiseLinear) -> bool:  # noqa: ARG001
    return True
