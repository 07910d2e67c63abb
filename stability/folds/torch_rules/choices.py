"""Rules of comparisons and of what chooses by them, which must not jump; and of choices that are constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stability.folds.bends import select
from stability.folds.conditions import Condition
from stability.folds.numbers import Array, flatten_rows, row_size
from stability.folds.own_ways import own_way
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.arrangement import arranged
from stability.folds.torch_rules.joins import joined_entries, on_one_line
from stability.folds.torch_rules.registry import Operand, R, rule
from stability.folds.torch_rules.tensor_facts import check_kind
from stability.foundation.formats import ROUNDOFF

#: A jump that rounding could hide is counted as undecided where it may be larger than this part of the function.
_HIDDEN = 1e-9


def _comparison(names: Sequence[str], turned: bool, negated: bool) -> None:
    @rule(*names)
    def compare(a: Operand, b: Operand) -> Condition:
        if not isinstance(a, PiecewiseLinear):
            # Constant on the left: the other way round.
            f, less = cast(PiecewiseLinear, b) - a, not turned
        else:
            f, less = a if isinstance(b, int | float) and b == 0 else a - b, turned
        return Condition(-f if less else f, negated)


_comparison(("gt", "greater", "__gt__"), False, False)
_comparison(("lt", "less", "__lt__"), True, False)
_comparison(("le", "less_equal", "__le__"), False, True)
_comparison(("ge", "greater_equal", "__ge__"), True, True)


def _for_conditions(*names: str) -> Callable[[R], R]:
    def register(function: R) -> R:
        Condition.rules.update(dict.fromkeys(names, function))
        return function

    return register


@_for_conditions("logical_not", "bitwise_not", "__invert__")
def _(condition: Condition) -> Condition:
    return ~condition


@_for_conditions("float", "double", "half", "bfloat16", "to", "type_as", "type", "detach", "clone", "contiguous")
def _(condition: Condition, *args: object, **kwargs: object) -> Condition:
    check_kind("cast", *args, *kwargs.values())
    return condition


@_for_conditions("size")
def _(condition: Condition, dim: int | None = None) -> object:
    return condition.shape if dim is None else condition.shape[dim]


@_for_conditions("mul", "multiply", "__mul__", "__rmul__")
def _masked(a: object, b: object) -> PiecewiseLinear:
    condition, other = (a, b) if isinstance(a, Condition) else (cast(Condition, b), a)
    if not isinstance(other, PiecewiseLinear):
        refuse("a comparison times a constant", "it jumps")
    return _choice(condition, other, 0.0)


@_for_conditions("where")
@rule("where")
def _choice(condition: object, a: Operand, b: Operand) -> PiecewiseLinear:
    if isinstance(condition, PiecewiseLinear):
        # Tensor.where begins with what is chosen.
        return _choice(a, condition, b)
    if isinstance(condition, Condition):
        return _chosen(condition, a, b)
    mask = torch.as_tensor(condition)
    return joined_entries([a, b], lambda x, y: torch.where(mask, x, y))


@_for_conditions("masked_fill")
@rule("masked_fill")
def _(f: PiecewiseLinear, mask: object, value: Operand) -> PiecewiseLinear:
    return _choice(mask, value, f)


@rule("scatter")
def _(f: PiecewiseLinear, dim: int, index: Tensor, src: Operand) -> PiecewiseLinear:
    if isinstance(src, int | float):
        src = torch.full(index.shape, float(src), dtype=torch.float64)
    return joined_entries([f, src], lambda x, y: x.scatter(dim, index, y))


def _chosen(condition: Condition, a: Operand, b: Operand) -> PiecewiseLinear:
    if condition.negated:
        a, b = b, a
    f = cast(PiecewiseLinear, condition.function)
    fs = on_one_line([f, a, b])
    shape = torch.Size(np.broadcast_shapes(*(g.shape for g in fs)))
    f, positive, other = (_broadcast(g, shape) for g in fs)
    g = select(f, positive, other)
    refuse_jumps(g)
    return g


def _broadcast(f: PiecewiseLinear, shape: torch.Size) -> PiecewiseLinear:
    return f if f.shape == shape else cast(PiecewiseLinear, arranged("expand", f, lambda x: x.expand(shape)))


@own_way
def refuse_jumps(g: PiecewiseLinear) -> None:
    """Refuse a choice that is not continuous: then a slope does not lead from one value to the next."""
    values, slopes = flatten_rows(g.values), flatten_rows(g.slopes)
    rise, width = values[1:] - values[:-1], np.diff(g.knots)
    gap = row_size(rise - slopes * width[:, None])
    allowed: Array = np.zeros(len(gap))
    if not g.exact:
        k = len(g.knots)
        size, steep, moved = row_size(values), row_size(slopes), g._places.error
        allowed = g._errors[: k - 1] + g._errors[1:k] + (g._errors[k : 2 * k - 1] + 4 * ROUNDOFF * steep) * width
        allowed += 4 * ROUNDOFF * (size[1:] + size[:-1]) + steep * (moved[1:] + moved[:-1])
        hidden = np.flatnonzero(~(allowed <= _HIDDEN * size.max()))
        g._doubt(np.stack([g.knots[hidden], g.knots[hidden + 1]], axis=1))
    jumps = np.flatnonzero(gap > allowed)
    if len(jumps):
        at = float(g.knots[jumps[0]])
        refuse("a choice by a comparison", f"it jumps near t = {at:g}; both sides must be equal where it changes")
