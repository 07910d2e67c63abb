"""What a fit can be set against: the best that a constant, a monotone function, a function above the identity and
a spline can do on the same points, and how near no chain comes.

With them a failure of training is told from a limit of the architecture. All are mean-squared errors over the
points of the task, but for the last, which is a largest error; the spline comes with its knots and a bound from below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.training.any_arithmetic import adam_in
from stability.training.splines import Spline, best_spline
from stability.training.task import Task, check_task

__all__ = ["Spline", "adam_in", "best_above_identity", "best_monotone", "best_spline", "constant", "nearest_chain"]

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
    from scipy.optimize import isotonic_regression

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


@door
def nearest_chain(task: Task) -> float:
    """Return what the largest error of every chain of one neuron a layer exceeds, whatever its depth; 0 for no bound.

    A step is monotone or V-shaped, and of a V the larger side can be kept. So a chain takes its whole range on some
    stretch where it is monotone. If a chain is within e of f, then f(s) <= min f + 2e and f(t) >= max f - 2e at the
    ends of that stretch, and inside it f falls by at most 2e (or all of this from the right to the left). Between
    neighbouring points f is taken to change by no more than it does from one point to the next anywhere.

    >>> import torch, stability as st
    >>> f"{st.references.nearest_chain(st.Task(lambda x: x + 1.5 * torch.sin(3 * x), (-3, 3), points=2001)):.2f}"
    '1.00'
    """
    values, smallest = _Samples.of(task).y, np.inf
    between = float(np.abs(np.diff(values)).max(initial=0.0))
    for y in (values, values[::-1]):
        for s in range(len(y)):
            fall = np.maximum.accumulate(np.maximum.accumulate(y[s:]) - y[s:])
            smallest = min(smallest, float(np.maximum(np.maximum(fall, y[s] - y.min()), y.max() - y[s:]).min()))
    return max(smallest - 2 * between, 0.0) / 2
