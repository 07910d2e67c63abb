"""Rules of joins: several functions, and constants among them, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from stability.folds.numbers import Array
from stability.folds.pieces import Doubts, align
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.torch_rules.dimensions import data_dimensions
from stability.folds.torch_rules.registry import rule


@rule("cat", "concat", "concatenate")
def _(tensors: Sequence[PiecewiseLinear | Tensor], dim: int = 0) -> PiecewiseLinear:
    fs = _on_one_line(tensors)
    return _joined(fs, np.concatenate([f._data for f in fs], axis=data_dimensions(fs[0], dim)[0]))


@rule("stack")
def _(tensors: Sequence[PiecewiseLinear | Tensor], dim: int = 0) -> PiecewiseLinear:
    fs = _on_one_line(tensors)
    return _joined(fs, np.stack([f._data for f in fs], axis=dim % (len(fs[0].shape) + 1) + 1))


def _on_one_line(tensors: Sequence[PiecewiseLinear | Tensor]) -> list[PiecewiseLinear]:
    """All on the same knots; constants become constant functions."""
    base = next(f for f in tensors if isinstance(f, PiecewiseLinear))
    scalar = base._like(base._data.reshape(len(base._data), -1)[:, 0] * 0, base._errors * 0)
    fs = [f if isinstance(f, PiecewiseLinear) else scalar + f for f in tensors]
    for _ in range(2):  # the first pass gathers the knots, the second hands them out
        for i in range(1, len(fs)):
            joint = align(_plain(fs[0]), _plain(fs[i]))[0]
            fs[0], fs[i] = (align(f, joint * 0)[0] for f in (fs[0], fs[i]))
            fs[0] = fs[0]._make(fs[0]._places, fs[0]._data, fs[0]._errors, joint._undecided, fs[0]._limit)
    return fs


def _plain(f: PiecewiseLinear) -> PiecewiseLinear:
    """A scalar on the same knots."""
    return f._like(f._data.reshape(len(f._data), -1)[:, 0])


def _joined(fs: Sequence[PiecewiseLinear], data: Array) -> PiecewiseLinear:
    undecided: Doubts = {}
    for f in fs:
        undecided |= f._undecided
    errors = np.maximum.reduce([f._errors for f in fs])
    return fs[0]._make(fs[0]._places, data, errors, undecided, fs[0]._limit)
