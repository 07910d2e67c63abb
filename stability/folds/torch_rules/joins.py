"""Rules of joins: several functions, and constants among them, as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stability.folds.entries import take
from stability.folds.numbers import flatten_rows
from stability.folds.pieces import Doubts, align
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.torch_rules.arrangement import numbered, places
from stability.folds.torch_rules.registry import Operand, rule

_NAMES = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "row_stack", "dstack", "column_stack")


def joined_entries(tensors: Sequence[Operand], join: Callable[..., Tensor]) -> PiecewiseLinear:
    """Return what torch makes of several tensors by moving entries, as `arranged` does of one."""
    fs = on_one_line(tensors)
    first = np.cumsum([1, *(f.shape.numel() for f in fs)])
    index = join(*(numbered(f, int(n)) for f, n in zip(fs, first, strict=False)))
    undecided: Doubts = {}
    for f in fs:
        undecided |= f._undecided
    errors = np.maximum.reduce([f._errors for f in fs])
    data = np.concatenate([flatten_rows(f._data) for f in fs], axis=1)
    return take(fs[0]._make(fs[0]._places, data, errors, undecided, fs[0]._limit), places(index))


def _join(name: str) -> None:
    function = getattr(torch, name)

    @rule(name)
    def joined(tensors: Sequence[PiecewiseLinear | Tensor], *args: object, **kwargs: object) -> PiecewiseLinear:
        return joined_entries(tensors, lambda *numbers: function(numbers, *args, **kwargs))


for _name in _NAMES:
    _join(_name)


def on_one_line(tensors: Sequence[Operand]) -> list[PiecewiseLinear]:
    """All on the same knots; constants become constant functions."""
    base = next(f for f in tensors if isinstance(f, PiecewiseLinear))
    scalar = base._like(base._data.reshape(len(base._data), -1)[:, 0] * 0, base._errors * 0)
    fs = [f if isinstance(f, PiecewiseLinear) else scalar + f for f in tensors]
    for _ in range(2):  # the first pass gathers the knots, the second hands them out
        for i in range(1, len(fs)):
            joint = align(_plain(fs[0]), _plain(fs[i]))[0]
            fs[0], fs[i] = (align(f, joint * 0)[0] for f in (fs[0], fs[i]))
            undecided = joint._undecided
            fs[0] = fs[0]._again()
            fs[0]._undecided = undecided
    return fs


def _plain(f: PiecewiseLinear) -> PiecewiseLinear:
    """A scalar on the same knots."""
    return f._like(f._data.reshape(len(f._data), -1)[:, 0])


def _broadcasts(*tensors: object) -> list[PiecewiseLinear | Tensor]:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    fs = cast(Sequence[PiecewiseLinear | Tensor], given)
    shape = torch.Size(np.broadcast_shapes(*(f.shape for f in fs)))
    return [cast(PiecewiseLinear | Tensor, f.expand(shape)) for f in fs]


rule("broadcast_tensors")(_broadcasts)
