"""Lines through the input space, as the functions that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stability.folds.numbers import FLOOR, numbers
from stability.folds.pieces import NO_LIMIT
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places
from stability.foundation.checks import check_interval
from stability.foundation.formats import ROUNDOFF

#: What a network is followed along.
Line = PiecewiseLinear | Sequence[float] | NDArray[np.float64] | Tensor


def line_of(line: object) -> PiecewiseLinear:
    """Return the line that a user names: a function as it is, for a pair (low, high) the function x on [low, high]."""
    if isinstance(line, PiecewiseLinear):
        return line
    if isinstance(line, str | bytes) or not isinstance(line, Sequence | np.ndarray | Tensor):
        raise TypeError(f"the line is {line!r}: expected an interval (low, high), or st.segment(start, end)")
    low, high = check_interval(line)  # type: ignore[arg-type]
    # What PiecewiseLinear makes of the two ends, known at once: two values, and the slope 1 with the error of any.
    return PiecewiseLinear._make(Places(np.array([low, high])), np.array([low, high, 1.0]), _errors_of_x, {})


def _errors_of_x() -> NDArray[np.float64]:
    return np.array([0.0, 0.0, 3 * ROUNDOFF + FLOOR])


def segment(start: ArrayLike | Tensor, end: ArrayLike | Tensor) -> PiecewiseLinear:
    """Return the line from one input to another: start + t (end - start) for t in [0, 1].

    Both are of the shape that the network takes, a batch dimension of 1 among it where it wants one.

    >>> import torch, stability as st
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> f = model(st.segment([0.0, 0.0], [1.0, 2.0]))
    >>> f.shape, bool(torch.allclose(f(torch.tensor(1.0)).float(), model(torch.tensor([1.0, 2.0]))))
    (torch.Size([3]), True)
    """
    for name, end_of in (("start", start), ("end", end)):
        check_one_tensor(name, end_of, "line")
    p, q = numbers("start", start), numbers("end", end)
    if p.shape != q.shape:
        raise ValueError(f"the segment goes from shape {p.shape} to shape {q.shape}: expected the same shape twice")
    if p.size == 0:
        raise ValueError(f"the ends of the segment have shape {p.shape}: expected at least one entry")
    if (p == q).all():
        raise ValueError("the segment is from a point to itself: expected two different points")
    line = PiecewiseLinear(np.array([0.0, 1.0]), np.stack([p, q]))
    # In a network that is called with it directly a norm is that of a tensor, and must be refused.
    line._limit = NO_LIMIT
    return line


def check_one_tensor(name: str, value: object, domain: str) -> None:
    """Raise if an end of a line, or a corner of a plane, is several inputs at once."""
    if isinstance(value, Mapping) or (isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)):
        raise TypeError(
            f"{name} is a {type(value).__name__} of several inputs: a {domain} is of one tensor. Wrap the network in a "
            "module whose forward holds the other inputs fixed, or splits one tensor into them"
        )
