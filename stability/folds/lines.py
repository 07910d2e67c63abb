"""Lines through the input space, as the functions that they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from stability.folds.numbers import numbers
from stability.folds.piecewise import PiecewiseLinear
from stability.foundation.checks import check_interval


def interval(low: float | Sequence[float], high: float | None = None) -> PiecewiseLinear:
    """Return the line from `low` to `high`, two numbers or one pair: the function x on [low, high].

    >>> import stability as st
    >>> st.restrict(st.tent(3), st.interval(0, 1)).count().folds
    7
    """
    low, high = check_interval(low if high is None else (low, high))  # type: ignore[arg-type]
    return PiecewiseLinear([low, high], [low, high])


def segment(start: ArrayLike | Tensor, end: ArrayLike | Tensor) -> PiecewiseLinear:
    """Return the line from one input to another: start + t (end - start) for t in [0, 1].

    Both are of the shape that the network takes, a batch dimension of 1 among it where it wants one.

    >>> import torch, stability as st
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> f = model(st.segment([0.0, 0.0], [1.0, 2.0]))
    >>> f.shape, bool(torch.allclose(f(torch.tensor(1.0)).float(), model(torch.tensor([1.0, 2.0]))))
    (torch.Size([3]), True)
    """
    p, q = numbers("start", start), numbers("end", end)
    if p.shape != q.shape:
        raise ValueError(f"the segment goes from shape {p.shape} to shape {q.shape}: expected the same shape twice")
    if p.size == 0:
        raise ValueError(f"the ends of the segment have shape {p.shape}: expected at least one entry")
    if (p == q).all():
        raise ValueError("the segment is from a point to itself: expected two different points")
    return PiecewiseLinear(np.array([0.0, 1.0]), np.stack([p, q]))
