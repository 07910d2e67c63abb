"""Means of an activation of one normal number, and of products over two correlated ones: what wide layers average.

ReLU, PReLU and the identity are max(z, 0) + slope min(z, 0), with closed forms. Tanh and GELU are integrated with nodes
evenly spaced in log |z|: no singularity of theirs is within 45 degrees of the real axis, whatever the variance, so that
the trapezoidal rule errs by exp(-2 pi (pi / 4) / spacing), 1e-17. Gauss-Hermite nodes lie at fixed places instead, and
at variance 100 two hundred of them leave an error of 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.special import ndtr

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_STEP = 0.125
#: Terms of the Chebyshev series of a kernel up to variance 25, to 1e-13; the number grows with the root of it, to the
#: most, which leave errors of 1e-12 at variance 1000, 4e-11 at 2500, 1e-8 at 6400 and 1e-6 at 20,000.
_TERMS, _MOST_TERMS = 256, 1024
#: The largest variance of a kernel of two inputs of a smooth activation.
LARGEST_VARIANCE = 20_000.0
#: How many numbers are held at once.
_HELD = 2**22


@dataclass(frozen=True)
class Smooth:
    """A smooth activation with its first two derivatives, and the first at 0."""

    function: Function
    derivative: Function
    curvature: Function
    derivative_at_zero: float


def _density(z: Array) -> Array:
    return np.asarray(np.exp(-z * z / 2) / np.sqrt(2 * np.pi))


def _tanh_derivative(z: Array) -> Array:
    return np.asarray(1 - np.tanh(z) ** 2)


SMOOTH = {
    "tanh": Smooth(np.tanh, _tanh_derivative, lambda z: -2 * np.tanh(z) * _tanh_derivative(z), 1.0),
    "gelu": Smooth(
        lambda z: z * ndtr(z),
        lambda z: ndtr(z) + z * _density(z),
        lambda z: (2 - z * z) * _density(z),
        0.5,
    ),
}


@cache
def _line_nodes(below: int) -> tuple[Array, Array]:
    """Return positive nodes, and weights that sum up f(z) + f(-z) of a standard normal z.

    They begin at exp(-40 - below), so that what is left out is below rounding where f changes at exp(-below).
    """
    z = np.exp(np.arange(-40.0 - below, 2.25, _STEP))
    return z, z * _density(z) * _STEP


@cache
def _radius_nodes() -> tuple[Array, Array]:
    """Return nodes and weights for the distance from 0 of two independent standard normal numbers."""
    r = np.exp(np.arange(-19.0, 2.25, _STEP))
    return r, r * r * np.exp(-r * r / 2) * _STEP


def _in_parts(function: Callable[..., Array], per_number: int, *arrays: Array) -> Array:
    """Apply a function of flat arrays to as many numbers at a time as fit."""
    arrays = tuple(np.broadcast_arrays(*arrays))
    flat = [array.reshape(-1) for array in arrays]
    parts = max(1, -(-flat[0].size * per_number // _HELD))
    done = [function(*pieces) for pieces in zip(*(np.array_split(one, parts) for one in flat), strict=True)]
    joined = np.concatenate(done)
    return np.asarray(joined.reshape((*arrays[0].shape, *joined.shape[1:])))


def mean(function: Function, variance: Array) -> Array:
    """Return E f(z) for z ~ N(0, variance)."""
    nodes, weights = _line_nodes(math.ceil(math.log(max(1.0, math.sqrt(np.max(variance, initial=0.0))))))

    def evaluate(variances: Array) -> Array:
        z = np.sqrt(variances)[:, None] * nodes
        return np.asarray((function(z) + function(-z)) @ weights)

    return _in_parts(evaluate, len(nodes), variance)


def series(function: Function, variance: Array, other_variance: Array) -> Array:
    """Return the Chebyshev coefficients, (..., terms), of c -> E f(u) f(v), u and v normal with correlation c.

    With u = a r cos t and v = b r cos(t - arccos c), r and t the polar coordinates of two independent normal numbers,
    f(a r cos t) is a cosine series in t, and E f(u) f(v) the series of the products of the coefficients in cos(m
    arccos c), which is the Chebyshev polynomial T_m(c).
    """
    largest = float(max(np.max(variance, initial=0.0), np.max(other_variance, initial=0.0)))
    if largest > LARGEST_VARIANCE:
        raise ValueError(
            f"a variance is {largest:g}: what a smooth activation makes of two inputs is known up to "
            f"{LARGEST_VARIANCE:g}; of one that large it is all but a sign, or ReLU for GELU"
        )
    terms = min(_MOST_TERMS, _TERMS * 2 ** math.ceil(math.log2(max(1.0, math.sqrt(largest / 25)))))
    radii, weights = _radius_nodes()
    angles = (np.arange(terms) + 0.5) * np.pi / terms

    def cosines(variances: Array) -> Array:
        points = np.sqrt(variances)[:, None, None] * radii[:, None] * np.cos(angles)
        found = dct(function(points), axis=2) / terms
        found[..., 0] /= np.sqrt(2)
        return np.asarray(found / np.sqrt(2))

    def evaluate(variances: Array, others: Array) -> Array:
        first = cosines(variances)
        second = first if np.array_equal(variances, others) else cosines(others)
        return np.asarray(np.einsum("pkm,pkm,k->pm", first, second, weights))

    return _in_parts(evaluate, len(radii) * terms, variance, other_variance)


def value_of(coefficients: Array, correlation: Array) -> Array:
    """Return the value of each Chebyshev series at its own correlation."""
    return np.asarray(chebyshev.chebval(correlation, np.moveaxis(coefficients, -1, 0), tensor=False))


def piecewise_kernel(correlation: Array, slope: Array) -> Array:
    """Return E phi(u) phi(v) of standard normal numbers, phi(z) = (1 + slope) / 2 z + (1 - slope) / 2 |z|.

    E |u| |v| = 2 / pi (sqrt(1 - c^2) + c arcsin c) (Cho and Saul 2009, arc-cosine kernel of degree 1).
    """
    c = correlation
    both = 2 / np.pi * (np.sqrt((1 - c) * (1 + c)) + c * np.arcsin(c))
    return np.asarray(((1 + slope) / 2) ** 2 * c + ((1 - slope) / 2) ** 2 * both)


def piecewise_derivative_kernel(correlation: Array, slope: Array) -> Array:
    """Return E phi'(u) phi'(v) for the same phi (Cho and Saul 2009, arc-cosine kernel of degree 0)."""
    return np.asarray(((1 + slope) / 2) ** 2 + ((1 - slope) / 2) ** 2 * 2 / np.pi * np.arcsin(correlation))
