"""Means of log|1 + p| and of its square where sympy has no closed form, in float64 for arrays of any size."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import kv, ndtr

Array = NDArray[np.float64]

#: Points on a ray from 0 into the upper half plane, where log(1 - p) is smooth: at 45 degrees K_0 still decays, at
#: 22.5 the normal density does.
_RAY = {"product": np.exp(0.25j * np.pi), "normal": np.exp(0.125j * np.pi)}


def mean_log_above(size: Array, square: bool = False) -> Array:
    """Return E log(1 + size |p|) for a standard normal p and size >= 0, or the mean of its square.

    Nothing is singular here, and the trapezoidal rule in log |p| is exact to rounding.
    """
    size = np.asarray(size, dtype=np.float64)
    total = np.zeros(size.shape)
    for x in np.exp(np.arange(-40.0, 3.8, 0.1)):
        density = np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)
        total += density * x * 0.1 * np.log1p(size * x) ** (2 if square else 1)
    return total


@cache
def _unit_nodes() -> tuple[Array, Array, Array]:
    """Return nodes of (0, 1), their distances from 1, and weights: the tanh-sinh rule (Takahasi and Mori 1974)."""
    t = np.linspace(-3.9, 3.9, 196)
    turn = np.pi / 2 * np.sinh(t)
    node, rest = 1 / (1 + np.exp(-2 * turn)), 1 / (1 + np.exp(2 * turn))
    weight = np.pi * np.cosh(t) * node * rest * (t[1] - t[0])
    return node, rest, weight


@cache
def _ray_nodes(kind: str) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return points on the ray and weights with the density of |p| in them: p a product of two normals, or one."""
    # The trapezoidal rule in log x, where nothing is singular within the angle of the ray, whatever the size: its error
    # is exp(-2 pi angle / step), 1e-15.
    step = 0.13 if kind == "product" else 0.065
    logs = np.arange(-40.0, 4.6, step)
    x = np.exp(logs)
    point = x * _RAY[kind]
    density = 2 / np.pi * kv(0, point) if kind == "product" else np.sqrt(2 / np.pi) * np.exp(-(point**2) / 2)
    weight = density * _RAY[kind] * x * step
    kept = weight != 0
    return point[kept], weight[kept]


def _log1p(z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """log(1 + z), which keeps the digits of a small z."""
    x, y = z.real, z.imag
    return np.asarray(0.5 * np.log1p(x * (2 + x) + y * y) + 1j * np.arctan2(y, 1 + x))


def mean_log(size: Array, kind: str) -> Array:
    """Return E log|1 + size p| for symmetric p: a "product" of two standard normal numbers, or a "normal" one.

    The mean over both signs of p is that of log|1 - size^2 p^2| / 2 over |p|, the real part of an integral along a ray
    in the upper half plane, in which neither the logarithm nor the density has a singularity.
    """
    size = np.asarray(size, dtype=np.float64)
    total = np.zeros(size.shape)
    for point, weight in zip(*_ray_nodes(kind), strict=True):
        total += (weight * _log1p(-((size * point) ** 2))).real / 2
    return total


def mean_square_log(size: Array, kind: str) -> Array:
    """Return E log^2|1 + size p| for symmetric p: a "product" of normal numbers, a "normal" one, or "uniform product".

    On the real axis the imaginary part of log(1 - x) is -pi beyond x = 1, so log^2|1 - x| is the real part of the
    square and pi^2.
    """
    size = np.abs(np.asarray(size, dtype=np.float64))
    if kind == "uniform product":
        return _mean_square_log_of_uniform_product(size)
    total = np.zeros(size.shape)
    for point, weight in zip(*_ray_nodes(kind), strict=True):
        total += (weight * (_log1p(size * point) ** 2 + _log1p(-size * point) ** 2)).real / 2
    with np.errstate(divide="ignore", over="ignore"):
        end = 1 / size
        beyond = _product_beyond(end) if kind == "product" else 2 * ndtr(-end)
    return total + np.pi**2 / 2 * beyond


def _product_beyond(end: Array) -> Array:
    """Return the probability that a product of two normal numbers is beyond +-end, 2 / pi int K_0 from there on.

    It is the integral of 2 / pi exp(-end cosh t) / cosh t over t > 0, for which the trapezoidal rule is all but exact.
    """
    t = np.linspace(0, 40, 801)
    total = np.zeros(end.shape)
    for k, cosh in enumerate(np.cosh(t)):
        total += (0.5 if k == 0 else 1.0) * np.exp(-end * cosh) / cosh
    return np.asarray(2 / np.pi * t[1] * total)


def _mean_square_log_of_uniform_product(size: Array) -> Array:
    """The density of |p| is -log p on (0, 1); at p = 1 / size the logarithm is singular, so that is an end."""
    node, rest, weight = _unit_nodes()
    end = np.minimum(1.0, 1 / np.maximum(size, 1e-300))
    total = np.zeros(size.shape)
    for x, y, w in zip(node, rest, weight, strict=True):
        # From 0 to the end, then from the end to 1, with the distance from the end kept.
        p, left = end * x, (1 - size * end) + size * end * y
        total += -w * end * np.log(p) * (np.log1p(size * p) ** 2 + np.log(np.abs(left)) ** 2) / 2
        p, left = end + (1 - end) * x, (1 - size * end) - size * (1 - end) * x
        with np.errstate(divide="ignore", invalid="ignore"):
            value = -w * (1 - end) * np.log(p) * (np.log1p(size * p) ** 2 + np.log(np.abs(left)) ** 2) / 2
        total += np.where(end < 1, value, 0.0)
    return total
