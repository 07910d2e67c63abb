"""Rules of the larger and the smaller of two, and of the largest and the smallest along dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stability.folds.largest import largest
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.torch_rules.dimensions import Dims, data_dimensions
from stability.folds.torch_rules.registry import Operand, Rule, function_first, rule


@rule("maximum")
def _larger(a: Operand, b: Operand) -> PiecewiseLinear:
    f, other = function_first(a, b)
    return f.maximum(other)


@rule("minimum")
def _smaller(a: Operand, b: Operand) -> PiecewiseLinear:
    f, other = function_first(a, b)
    return f.minimum(other)


@rule("amax")
def _highest(f: PiecewiseLinear, dim: Dims = None, keepdim: bool = False) -> PiecewiseLinear:
    dims = [d - 1 for d in data_dimensions(f, dim)]
    rest = [d for d in range(len(f.shape)) if d not in dims]
    shape = tuple(1 if d in dims else n for d, n in enumerate(f.shape) if keepdim or d in rest)
    entries = np.arange(f.shape.numel()).reshape(f.shape).transpose(*dims, *rest)
    return largest(f, entries.reshape(-1, math.prod(f.shape[d] for d in rest)), shape)


@rule("amin")
def _lowest(f: PiecewiseLinear, dim: Dims = None, keepdim: bool = False) -> PiecewiseLinear:
    return -_highest(-f, dim, keepdim)


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


rule("max")(_extreme("max", _larger, _highest))
rule("min")(_extreme("min", _smaller, _lowest))
