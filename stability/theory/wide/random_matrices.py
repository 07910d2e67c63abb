"""Random-matrix theory of products of layers: exact at finite width where it says so, else for infinite width.

Weights are Gaussian with variance 1 / width, or uniformly orthogonal, times the gain that keeps the mean squared
singular value at 1: sqrt(2) for ReLU.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_name, check_positive

Array = NDArray[np.float64]

#: Of the units of a ReLU layer, the share that lets a signal pass.
_ACTIVE = {"linear": 1.0, "relu": 0.5}


@door
def gaussian_exponents(width: int, scale: float = 1.0) -> Array:
    """Return the Lyapunov exponents of products of Gaussian matrices, (width,), descending. Exact at every width.

    log(scale) + (log 2 + digamma((n - i + 1) / 2)) / 2 for i = 1 ... n and entries N(0, scale^2) (Newman 1986, "The
    distribution of Lyapunov exponents: exact results for random matrices").

    >>> import stability as st
    >>> st.theory.gaussian_exponents(2, scale=2**-0.5).round(4)
    array([-0.2886, -0.9818])
    """
    n = check_integer("width", width, 1)
    i = np.arange(1, n + 1)
    return np.asarray(math.log(check_positive("scale", scale)) + (math.log(2) + digamma((n - i + 1) / 2)) / 2)


@door
def marchenko_pastur_density(squares: ArrayLike, ratio: float = 1.0) -> Array:
    """Return the density of the squared singular values of one Gaussian layer.

    sqrt((b - s) (s - a)) / (2 pi ratio s) on (a, b) = ((1 - sqrt ratio)^2, (1 + sqrt ratio)^2), 0 elsewhere, for a
    layer of m inputs and n outputs with entries N(0, 1/n) and ratio = m / n <= 1 (Marchenko and Pastur 1967).

    >>> import stability as st
    >>> st.theory.marchenko_pastur_density([1.0, 5.0]).round(4)
    array([0.2757, 0.    ])
    """
    ratio = check_positive("ratio", ratio)
    if ratio > 1:
        raise ValueError(f"ratio is {ratio}: expected at most 1; the other values of a wide layer are exactly 0")
    s = np.asarray(squares, dtype=np.float64)
    if not (s >= 0).all():
        raise ValueError(f"squares are {squares!r}: expected squared singular values, of 0 or more")
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    inside = (s > low) & (s < high)
    safe = np.where(inside, s, 1.0)
    return np.asarray(
        np.where(inside, np.sqrt(np.where(inside, (high - s) * (s - low), 0)), 0) / (2 * np.pi * ratio * safe)
    )


@door
def fuss_catalan_moment(order: int, depth: int) -> int:
    """Return the mean of the squared singular values to the power `order` of a product of `depth` Gaussian layers.

    binom((L + 1) k, k) / (L k + 1), for infinite width (Penson and Zyczkowski 2011). The first, 1, is exact
    at every width.

    >>> import stability as st
    >>> [st.theory.fuss_catalan_moment(2, depth) for depth in (1, 2, 10)]
    [2, 3, 11]
    """
    k, depth = check_integer("order", order, 0), check_integer("depth", depth, 1)
    return math.comb((depth + 1) * k, k) // (depth * k + 1)


@door
def fuss_catalan_density(depth: int, points: int = 2001) -> tuple[Array, Array]:
    """Return squared singular values of a product of Gaussian layers and their density there, for infinite width.

    Along phi in (0, pi / (L + 1)), s = sin((L+1) phi)^(L+1) / (sin phi sin(L phi)^L) has the density
    sin(phi)^2 sin(L phi)^(L-1) / (pi sin((L+1) phi)^L) (Forrester and Liu 2015).

    Returns:
        Two arrays (points,), by rising value. The density is unbounded at 0.

    >>> import stability as st
    >>> s, density = st.theory.fuss_catalan_density(1)
    >>> bool(abs(density - st.theory.marchenko_pastur_density(s)).max() < 1e-6 * density.max())
    True
    """
    depth, points = check_integer("depth", depth, 1), check_integer("points", points, 2)
    # From the end of the range, where the value is 0, to the largest.
    phi = (np.pi / (depth + 1)) * (1 - (np.arange(points) + 0.5) / points)
    a, b, c = np.log(np.sin(phi)), np.log(np.sin(depth * phi)), np.log(np.sin((depth + 1) * phi))
    return np.exp((depth + 1) * c - a - depth * b), np.exp(2 * a + (depth - 1) * b - math.log(np.pi) - depth * c)


@door
def fuss_catalan_quantiles(depth: int, shares: ArrayLike) -> Array:
    """Return the log of the singular values below which the given shares lie, for a product of Gaussian layers.

    By quadrature over the angle of `fuss_catalan_density`, in which all is smooth, for any share: the relative error of
    a value is about 1e-12.

    >>> import stability as st
    >>> st.theory.fuss_catalan_quantiles(2, [0.5, 1.0]).round(3)
    array([-0.571,  0.955])
    """
    depth, q = check_integer("depth", depth, 1), np.asarray(shares, dtype=np.float64)
    if not ((q > 0) & (q <= 1)).all():
        raise ValueError(f"shares are {shares!r}: expected numbers in (0, 1]")
    end = np.pi / (depth + 1)
    node, weight = np.polynomial.legendre.leggauss(200)

    def below(angle: Array) -> Array:
        """The mass from the end of the range, where the value is 0, to an angle before it."""
        at = angle[..., None] * (1 + node) / 2
        return np.asarray((_mass(depth, at) * weight).sum(axis=-1) * angle / 2)

    total = below(np.asarray(end))
    low, high = np.full(q.shape, -745.0), np.full(q.shape, math.log(end))
    for _ in range(80):  # halves of the logarithm, so that the smallest share is as right as any
        middle = (low + high) / 2
        short = below(np.exp(middle)) < q * total
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    largest = (depth + 1) * math.log(depth + 1) - depth * math.log(depth)
    angle = np.minimum(np.exp(high), end * (1 - 1e-6))  # closer to the largest value than to rounding
    return np.where(q < 1, np.minimum(_log_value(depth, angle), largest), largest) / 2


def _log_value(depth: int, angle: Array) -> Array:
    """The log of the squared value at an angle before the end of the range, where it is 0."""
    phi = np.pi / (depth + 1) - angle
    sines = np.sin((depth + 1) * angle), np.sin(phi), np.sin(depth * phi)
    return np.asarray((depth + 1) * np.log(sines[0]) - np.log(sines[1]) - depth * np.log(sines[2]))


def _mass(depth: int, angle: Array) -> Array:
    """The density in the angle, up to a constant: value times density, and the slope of the log of the value."""
    phi, up = np.pi / (depth + 1) - angle, (depth + 1) * angle
    size = np.sin(phi) / np.sin(depth * phi)
    cosines = (depth + 1) ** 2 * np.cos(up) + np.sin(up) * (1 / np.tan(phi) + depth**2 / np.tan(depth * phi))
    return np.asarray(size * abs(cosines))


@door
def largest_squared_singular_value(depth: int, activation: str = "linear", weights: str = "gaussian") -> float:
    """Return the largest squared singular value of a product of layers, for infinite width.

    The S-transform of J J^T is the product over the layers of p / (z + p) for Gaussian weights, and of
    p (z + 1) / (z + p) for orthogonal ones, with p the share of active units, 1 or 1/2 for ReLU (Pennington,
    Schoenholz and Ganguli 2018); the edge is the minimum over z > 0 of (1 + z) / (z S(z)). For linear Gaussian layers
    it is (L + 1)^(L + 1) / L^L.

    Args:
        depth: how many layers.
        activation: "linear" or "relu".
        weights: "gaussian" or "orthogonal".

    >>> import stability as st
    >>> st.theory.largest_squared_singular_value(2)
    6.75
    >>> round(st.theory.largest_squared_singular_value(10, "relu", "orthogonal"), 3)
    25.812
    """
    depth = check_integer("depth", depth, 1)
    p = _ACTIVE[check_name("activation", activation, _ACTIVE)]
    if check_name("weights", weights, ("gaussian", "orthogonal")) == "gaussian":
        z = (1 - depth + math.sqrt((depth - 1) ** 2 + 4 * depth * p)) / (2 * depth)
        return (1 + z) / z * ((z + p) / p) ** depth
    if depth * (1 - p) <= 1:  # the edge is where z is infinite
        return p**-depth
    z = p / (depth * (1 - p) - 1)
    return (1 + z) / z * ((z + p) / (p * (1 + z))) ** depth


@door
def squared_singular_value_variance(depth: int, activation: str = "linear", weights: str = "gaussian") -> float:
    """Return the variance over the squared singular values of a product of layers, for infinite width.

    L (1/p - 1 + g), g = 1 for Gaussian weights and 0 for orthogonal ones, p the share of active units (Pennington,
    Schoenholz and Ganguli 2017). Around the mean, 1.

    >>> import stability as st
    >>> st.theory.squared_singular_value_variance(10, "relu"), st.theory.squared_singular_value_variance(10)
    (20.0, 10.0)
    """
    depth = check_integer("depth", depth, 1)
    p = _ACTIVE[check_name("activation", activation, _ACTIVE)]
    gaussian = check_name("weights", weights, ("gaussian", "orthogonal")) == "gaussian"
    return depth * (1 / p - 1 + gaussian)


@door
def residual_log_edges(strength: float) -> tuple[float, float]:
    """Return the logs of the smallest and the largest singular value of a deep residual product, for infinite width.

    For h -> h + f_l(h) with J_l = I + A_l, where A_l has independent entries of variance strength / (depth width):
    the 1 / sqrt(depth) scaling. With depth and width infinite the S-transform of J J^T is exp(-strength (1 + 2 z)),
    whatever the activation (Tarnowski et al. 2019), and the edges of its spectrum are (1 + z) / (z S(z)) at
    z = (-1 +- sqrt(1 + 2 / strength)) / 2. The inverse of such a product is one as well, so the logs are -e and e.

    >>> import stability as st
    >>> [round(edge, 3) for edge in st.theory.residual_log_edges(1.0)]
    [-1.525, 1.525]
    """
    c = check_positive("strength", strength)
    root = math.sqrt(1 + 2 / c)
    # log of (1 + z) / z = (root + 1) / (root - 1) = (root + 1)^2 c / 2, without the difference.
    edge = (2 * math.log1p(root) + math.log(c / 2) + c * root) / 2
    return -edge, edge
