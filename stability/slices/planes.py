"""Planes through the input space: a triangle, or a parallelogram, between three inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stability.folds.domains import Domain
from stability.folds.lines import check_one_tensor
from stability.folds.numbers import Array, numbers, rationals
from stability.foundation.arguments import door
from stability.foundation.checks import check_finite
from stability.foundation.formats import ROUNDOFF


@dataclass(frozen=True, eq=False)
class Plane(Domain):
    """The points p + u (q - p) + v (r - p) with u, v >= 0 and u + v <= 1, or u, v <= 1 in a rectangle."""

    p: NDArray[np.float64]
    q: NDArray[np.float64]
    r: NDArray[np.float64]
    rectangle: bool

    def __repr__(self) -> str:
        return f"plane(shape={self.p.shape}, rectangle={self.rectangle})"

    @property
    def parameters(self) -> NDArray[np.float64]:
        """The corners in parameters u and v, counterclockwise."""
        corners = [[0, 0], [1, 0], [1, 1], [0, 1]] if self.rectangle else [[0, 0], [1, 0], [0, 1]]
        return np.array(corners, dtype=np.float64)

    def inputs(self, points: Array) -> Array:
        """Return the inputs at points (n, 2) in parameters, (n, *shape)."""
        p, q, r = (rationals(v) if points.dtype == object else v for v in (self.p, self.q, self.r))
        u, v = (points[:, i].reshape(-1, *[1] * p.ndim) for i in (0, 1))
        # Both forms are exact at the corners of a triangle.
        inputs: Array = (1 - u - v) * p + u * q + v * r
        return inputs

    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the inputs at the corners and bounds of their errors."""
        rows = self.inputs(self.parameters)
        errors = np.zeros(len(rows))
        if self.rectangle:
            errors[2] = 4 * ROUNDOFF * max(float(np.abs(v).max()) for v in (self.p, self.q, self.r))
        return rows, errors

    def restricted(self, net: Callable[..., Tensor], exact: bool, memory: float) -> object:
        """Return what a network does on this plane."""
        from stability.slices.follow import follow  # which needs the class of planes

        return follow(net, self, exact, memory)


@door
def plane(p: ArrayLike | Tensor, q: ArrayLike | Tensor, r: ArrayLike | Tensor, rectangle: bool = False) -> Plane:
    """Return the triangle between three inputs, or the parallelogram that they span.

    It is p + u (q - p) + v (r - p) with u, v >= 0 and u + v <= 1; with `rectangle` both u and v go from 0 to 1. All
    three are of the shape that the network takes, a batch dimension of 1 among it where it wants one.

    >>> import torch, stability as st
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double()
    >>> f = st.restrict(model, st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True))
    >>> float(f.areas.sum())
    1.0
    """
    for name, corner in (("p", p), ("q", q), ("r", r)):
        check_one_tensor(name, corner, "plane")
    inputs = {"p": numbers("p", p), "q": numbers("q", q), "r": numbers("r", r)}
    shapes = {name: value.shape for name, value in inputs.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"the corners p, q and r have shapes {', '.join(map(str, shapes.values()))}: expected one shape three times"
        )
    arrays = [np.asarray(value, dtype=np.float64) for value in inputs.values()]
    for name, value in zip(inputs, arrays, strict=True):
        check_finite(name, value)
    if arrays[0].size < 2:
        raise ValueError(
            f"the corners of the plane have shape {arrays[0].shape}: expected at least two entries; for an interval "
            "see st.restrict(net, (low, high))"
        )
    if _on_one_line(*(value.ravel() for value in arrays)):
        raise ValueError("the corners p, q and r lie on one line: expected a triangle; for a line see st.segment")
    return Plane(arrays[0], arrays[1], arrays[2], bool(rectangle))


def _on_one_line(p: Array, q: Array, r: Array) -> bool:
    a, b = q - p, r - p
    i = int(np.argmax(np.abs(a)))
    # A determinant in float64 settles it but for what rounding may have made.
    first, second = a[i] * b, b[i] * a
    if (np.abs(first - second) > 8 * ROUNDOFF * (np.abs(first) + np.abs(second) + np.abs(p * b[i]))).any():
        corners = [[Fraction(v) for v in (x[i], x[np.argmax(np.abs(first - second))])] for x in (p, q, r)]
        (a0, a1), (b0, b1) = ([v - w for v, w in zip(x, corners[0], strict=True)] for x in corners[1:])
        if a0 * b1 != b0 * a1:
            return False
    rows = [[Fraction(v) for v in x.tolist()] for x in (p, q, r)]
    u, v = ([y - x for x, y in zip(rows[0], row, strict=True)] for row in rows[1:])
    pivot = next((k for k, value in enumerate(u) if value), None)
    return pivot is None or all(u[pivot] * y == v[pivot] * x for x, y in zip(u, v, strict=True))
