"""Rules of the larger and the smaller of two, of the largest and smallest along dimensions, and of norms of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stability.folds.largest import largest
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.dimensions import Dims, dimensions, windows
from stability.folds.torch_rules.registry import Operand, Rule, function_first, rule


@rule("maximum", "fmax")
def larger(a: Operand, b: Operand) -> PiecewiseLinear:
    f, other = function_first(a, b)
    return f.maximum(other)


@rule("minimum", "fmin")
def smaller(a: Operand, b: Operand) -> PiecewiseLinear:
    f, other = function_first(a, b)
    return f.minimum(other)


@rule("amax")
def highest(f: PiecewiseLinear, dim: Dims = None, keepdim: bool = False) -> PiecewiseLinear:
    dims = dimensions(f, dim)
    shape = tuple(1 if d in dims else n for d, n in enumerate(f.shape) if keepdim or d not in dims)
    return largest(f, windows(f, dims), shape)


@rule("amin")
def lowest(f: PiecewiseLinear, dim: Dims = None, keepdim: bool = False) -> PiecewiseLinear:
    return -highest(-f, dim, keepdim)


def _extreme(
    name: str, of_two: Callable[[Operand, Operand], PiecewiseLinear], along: Callable[..., PiecewiseLinear]
) -> Rule:
    def extreme(f: Operand, dim: Dims | PiecewiseLinear | Tensor = None, keepdim: bool = False) -> object:
        if isinstance(dim, PiecewiseLinear | Tensor):
            return of_two(f, dim)
        best = along(f, dim, keepdim)
        # As torch, (values, indices), but the indices change along the line.
        return best if dim is None else getattr(torch.return_types, name)((best, None))

    return extreme


rule("max")(_extreme("max", larger, highest))
rule("min")(_extreme("min", smaller, lowest))


@rule("aminmax")
def _(f: PiecewiseLinear, *, dim: int | None = None, keepdim: bool = False) -> object:
    return torch.return_types.aminmax((lowest(f, dim, keepdim), highest(f, dim, keepdim)))  # type: ignore[arg-type]


def _highest_so_far(f: PiecewiseLinear, dim: int) -> PiecewiseLinear:
    (axis,) = dimensions(f, dim) or [0]
    if not f.shape:
        return f._again()
    along = np.moveaxis(np.arange(f.shape.numel()).reshape(f.shape), axis, 0)
    # A place after the last repeats it, which changes no maximum.
    until = np.minimum(np.arange(len(along))[:, None], np.arange(len(along)))
    entries = np.moveaxis(along[until], 1, axis + 1)
    return largest(f, entries.reshape(len(along), -1), f.shape)


@rule("cummax")
def _(f: PiecewiseLinear, dim: int) -> object:
    return torch.return_types.cummax((_highest_so_far(f, dim), None))  # type: ignore[arg-type]


@rule("cummin")
def _(f: PiecewiseLinear, dim: int) -> object:
    return torch.return_types.cummin((-_highest_so_far(-f, dim), None))  # type: ignore[arg-type]


@rule("norm", "linalg_vector_norm")
def _norm(
    f: PiecewiseLinear, p: object = 2, dim: Dims = None, keepdim: bool = False, **more: object
) -> PiecewiseLinear:
    p = more.pop("ord", p)
    if any(value is not None for value in more.values()):
        refuse(f"torch's norm with {', '.join(more)}", "there is no rule for it")
    if not isinstance(p, int | float) or p not in (1, math.inf, -math.inf):
        refuse(f"torch's norm with p = {p}", "it is not piecewise linear; with p = 1 and infinity it is")
    size = abs(f)
    if p == 1:
        return cast(PiecewiseLinear, PiecewiseLinear.rules["sum"](size, dim, keepdim))
    return highest(size, dim, keepdim) if p > 0 else lowest(size, dim, keepdim)


@rule("linalg_norm")
def _(f: PiecewiseLinear, ord: object = None, dim: Dims = None, keepdim: bool = False) -> PiecewiseLinear:
    of_matrix = len(f.shape) == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    if ord is not None and of_matrix:
        refuse("torch's norm of a matrix", "there is no rule for it; give one dimension")
    return _norm(f, 2 if ord is None else ord, dim, keepdim)


@rule("l1_loss")
def _(f: Operand, target: Operand, *, reduction: str = "mean", **more: object) -> object:
    if any(value is not None for value in more.values()):
        refuse(f"torch's l1_loss with {', '.join(more)}", "there is no rule for it")
    size = abs(f - target)
    return size if reduction == "none" else PiecewiseLinear.rules[reduction](size)
