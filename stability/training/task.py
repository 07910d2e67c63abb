"""What a chain is fitted to: points, and the target's values on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stability.foundation.arguments import check_numbers
from stability.foundation.checks import check_finite, check_integer, check_interval


class Task:
    """A function to fit on an interval, by mean-squared error over evenly spaced points, both ends among them.

    Args:
        target: maps a float64 tensor (points,) to a tensor of the same shape.
        interval: (low, high).
        points: how many, at least 2.

    Attributes:
        x: the points, float64, (points,) or, from samples, (points, n).
        y: the target there, float64, of the same shape.
        interval: (low, high); from samples the least and the largest x.
        target: the function, None for samples.

    Raises:
        ValueError, TypeError: for an empty or reversed interval, and for a target that returns another shape or
            values that are not finite.

    >>> import torch, stability as st
    >>> task = st.Task(torch.sin, (-3, 3), points=256)
    >>> task.y.shape
    torch.Size([256])
    """

    def __init__(self, target: Callable[[Tensor], Tensor], interval: Sequence[float], points: int = 256) -> None:
        if not callable(target):
            raise TypeError(f"target is {target!r}: expected a function such as torch.sin; see Task.from_samples")
        low, high = check_interval(interval)
        x = torch.linspace(low, high, check_integer("points", points, 2), dtype=torch.float64)
        y = target(x.clone())
        if not isinstance(y, Tensor):
            raise TypeError(f"the target returns a {type(y).__name__}: expected a tensor, use functions of torch")
        if y.shape != x.shape:
            raise ValueError(f"the target maps shape {tuple(x.shape)} to {tuple(y.shape)}: expected the same shape")
        if y.is_complex():
            raise TypeError(f"the target returns {y.dtype}: expected real numbers")
        check_finite("the target on the interval (point)", y)
        self.target: Callable[[Tensor], Tensor] | None = target
        self.interval = (low, high)
        self.x, self.y = x, y.detach().to(torch.float64)

    @classmethod
    def from_samples(cls, x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> Task:
        """Return the task of fitting the samples (x, y), both (points,) or, for width n, (points, n).

        >>> import stability as st
        >>> st.Task.from_samples([0.0, 1.0, 3.0], [1.0, 0.0, 2.0]).interval
        (0.0, 3.0)
        """
        for name, given in (("x", x), ("y", y)):
            check_numbers(name, given)
        task = cls.__new__(cls)
        # A list would become float32 on its way.
        tensors = [v if isinstance(v, Tensor) else torch.from_numpy(np.asarray(v, float)) for v in (x, y)]
        task.x, task.y = (v.detach().to("cpu", torch.float64).clone() for v in tensors)
        if task.x.shape != task.y.shape or task.x.ndim not in (1, 2):
            raise ValueError(
                f"the samples have shapes {tuple(task.x.shape)} and {tuple(task.y.shape)}: expected the same shape "
                "twice, (points,) or (points, n)"
            )
        check_integer("the number of samples", len(task.x), 2)
        check_finite("the samples' x", task.x)
        check_finite("the samples' y", task.y)
        task.target = None
        task.interval = (task.x.min().item(), task.x.max().item())
        return task

    def __repr__(self) -> str:
        name = "samples" if self.target is None else getattr(self.target, "__name__", repr(self.target))
        return f"Task({name}, {self.interval}, points={len(self.x)})"


def check_task(task: object) -> None:
    """Raise for what is no task."""
    if not isinstance(task, Task):
        raise TypeError(f"task is a {type(task).__name__}: expected a stability.Task, or Task.from_samples(x, y)")
