"""What a fit can be set against: the best that a constant, a monotone function, a function above the identity and
a spline can do on the same points.

With them a failure of training is told from a limit of the architecture. All are mean-squared errors over the
points of the task; the spline comes with its knots and a bound from below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from stability.foundation.arguments import door
from stability.training.splines import Spline, best_spline
from stability.training.task import Task, check_task

__all__ = ["Spline", "best_above_identity", "best_monotone", "best_spline", "constant"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Samples:
    """A task's distinct points in order, the mean target on each, how often each occurs, and the spread around them."""

    x: Array
    y: Array
    weights: Array
    noise: float

    @classmethod
    def of(cls, task: Task) -> _Samples:
        check_task(task)
        if task.x.ndim != 1:
            raise ValueError(f"the task has points of shape {tuple(task.x.shape)}: references need one variable")
        x, where, counts = np.unique(task.x.numpy(), return_inverse=True, return_counts=True)
        means = np.bincount(where, weights=task.y.numpy()) / counts
        return cls(x, means, counts.astype(float), float(np.mean((task.y.numpy() - means[where]) ** 2)))

    def error(self, fit: Array | float) -> float:
        """The mean-squared error of a fit on the points: its own, and the noise that no function escapes."""
        return float(np.average((fit - self.y) ** 2, weights=self.weights)) + self.noise


@door
def constant(task: Task) -> float:
    """Return the error of the best constant, the variance of the target: what a dead chain can reach.

    >>> import torch, stability as st
    >>> f"{st.references.constant(st.Task(torch.sin, (-3, 3), points=100_001)):.4f}"
    '0.5233'
    """
    samples = _Samples.of(task)
    return samples.error(float(np.average(samples.y, weights=samples.weights)))


@door
def best_monotone(task: Task) -> float:
    """Return the error of the best monotone function, rising or falling: isotonic regression.

    A plain chain whose slopes are not negative is monotone.

    >>> import torch, stability as st
    >>> f"{st.references.best_monotone(st.Task(torch.sin, (-3, 3), points=100_001)):.4f}"
    '0.0422'
    """
    samples = _Samples.of(task)
    fits = (isotonic_regression(samples.y, weights=samples.weights, increasing=rising).x for rising in (True, False))
    return min(map(samples.error, fits))


@door
def best_above_identity(task: Task) -> float:
    """Return the error of the best function f with f(x) >= x everywhere: max(x, target).

    A residual ReLU chain of one map can only grow.

    >>> import torch, stability as st
    >>> f"{st.references.best_above_identity(st.Task(torch.sin, (-3, 3), points=100_001)):.4f}"
    '0.7246'
    """
    samples = _Samples.of(task)
    return samples.error(np.maximum(samples.x, samples.y))
