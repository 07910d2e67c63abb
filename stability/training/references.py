"""What a fit can be set against: the best that a constant, a monotone function, a function above the identity and
a spline can do on the same points.

With them a failure of training is told from a limit of the architecture. All are mean-squared errors over the
points of the task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, least_squares

from stability.checks import check_integer
from stability.training.task import Task

__all__ = ["best_above_identity", "best_monotone", "best_spline", "constant"]

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
        if task.x.ndim != 1:
            raise ValueError(f"the task has points of shape {tuple(task.x.shape)}: references need one variable")
        x, where, counts = np.unique(task.x.numpy(), return_inverse=True, return_counts=True)
        means = np.bincount(where, weights=task.y.numpy()) / counts
        return cls(x, means, counts.astype(float), float(np.mean((task.y.numpy() - means[where]) ** 2)))

    def error(self, fit: Array | float) -> float:
        """The mean-squared error of a fit on the points: its own, and the noise that no function escapes."""
        return float(np.average((fit - self.y) ** 2, weights=self.weights)) + self.noise


def constant(task: Task) -> float:
    """Return the error of the best constant, the variance of the target: what a dead chain can reach.

    >>> import torch, stability as st
    >>> f"{st.references.constant(st.Task(torch.sin, (-3, 3), points=100_001)):.4f}"
    '0.5233'
    """
    samples = _Samples.of(task)
    return samples.error(float(np.average(samples.y, weights=samples.weights)))


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


def best_above_identity(task: Task) -> float:
    """Return the error of the best function f with f(x) >= x everywhere: max(x, target).

    A residual ReLU chain of one map can only grow.

    >>> import torch, stability as st
    >>> f"{st.references.best_above_identity(st.Task(torch.sin, (-3, 3), points=100_001)):.4f}"
    '0.7246'
    """
    samples = _Samples.of(task)
    return samples.error(np.maximum(samples.x, samples.y))


def best_spline(task: Task, folds: int) -> float:
    """Return the error of a least-squares continuous piecewise-linear fit with `folds` free knots.

    The knots start where |y''|^(2/5) is spread evenly, which is optimal for many knots, and evenly on the
    interval; each start is improved by Gauss-Newton with the coefficients projected out (Golub and Pereyra 1973,
    with Kaufman's Jacobian). The better result is a local minimum: an upper bound on the best error, close for a smooth
    target with a bend for every knot, and at times well above it, even above that of fewer knots, for an oscillating
    or a noisy one. It is a reference and not a limit: a chain's folds multiply and can be more than its steps.

    >>> import torch, stability as st
    >>> f"{st.references.best_spline(st.Task(torch.sin, (-3, 3)), folds=2):.1e}"
    '4.7e-03'
    """
    folds = check_integer("folds", folds, 0)
    samples = _Samples.of(task)
    x, y, weights = samples.x, samples.y, samples.weights
    if folds + 2 >= len(x):
        return samples.noise
    # On unit scales, so that neither the size of x nor that of y matters.
    size = np.abs(y).max() or 1.0
    x, y = (x - x[0]) / (x[-1] - x[0]), y / size
    root_weights = np.sqrt(weights / weights.sum())

    def fit(logits: Array) -> tuple[Array, Array]:
        """Return the weighted residual and its derivative with respect to the logits of the gaps."""
        gaps = np.exp(logits - logits.max())
        gaps /= gaps.sum()
        knots = np.cumsum(gaps)[:-1]
        nodes = np.concatenate([[0.0], knots, [1.0]])
        hats = np.stack([np.interp(x, nodes, row) for row in np.eye(len(nodes))], axis=1)
        basis = hats * root_weights[:, None]
        # A knot gap may hold no point: the pseudo-inverse leaves such a hat out.
        left, singular, right = np.linalg.svd(basis, full_matrices=False)
        kept = singular > singular[0] * 1e-12
        left = left[:, kept]
        target = y * root_weights
        values = right[kept].T @ (left.T @ target / singular[kept])
        slopes = np.diff(values) / np.maximum(np.diff(nodes), 1e-300)
        moved = -np.diff(slopes) * (x[:, None] > knots) * root_weights[:, None]
        moved -= left @ (left.T @ moved)
        # d knot_j / d logit_i = gap_i [i <= j] - gap_i sum_{k <= j} gap_k
        reached = np.tri(len(gaps) - 1, len(gaps))
        knots_by_logits = gaps * (reached - (reached @ gaps)[:, None])
        return basis @ values - target, moved @ knots_by_logits

    if folds == 0:
        return size**2 * float(np.sum(fit(np.zeros(1))[0] ** 2)) + samples.noise
    bend = np.abs(np.gradient(np.gradient(y, x), x)) ** 0.4
    density = np.cumsum(bend + 1e-3 * bend.max() + 1e-300)
    spread = np.interp(np.linspace(0, 1, folds + 2), (density - density[0]) / (density[-1] - density[0]), x)
    starts = [np.log(np.maximum(np.diff(spread), 1e-9)), np.zeros(folds + 1)]
    errors = []
    for start in starts:
        solution = least_squares(lambda u: fit(u)[0], start, lambda u: fit(u)[1], max_nfev=60)
        errors.append(2 * float(solution.cost))
    return size**2 * min(errors) + samples.noise
