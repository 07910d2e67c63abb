"""Mean-field theory of plain networks: how the variance of pre-activations and their correlation travel, for width oo.

A layer is z = W phi(z') + b with independent entries of variance weight_scale^2 / width and bias_scale^2. All functions
take numbers or arrays, broadcast them, and return a float or an array. Activations: "tanh", "relu", "prelu", "gelu" and
"linear"; `slope` is that of PReLU, and counts for no other. ReLU, PReLU and linear are closed forms, tanh and GELU
quadratures, to 1e-13 for variances of any size, for correlations to 1e-12 up to variance 1000 and 1e-6 up to 20,000.

Sources: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz et
al. 2017, "Deep information propagation"; Cho and Saul 2009, "Kernel methods for deep learning".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_finite, check_name
from stability.theory.wide import gaussian_kernels as kernels

Array = NDArray[np.float64]

_ACTIVATIONS = ("tanh", "relu", "prelu", "gelu", "linear")


def slope_of(activation: str, slope: ArrayLike) -> Array | None:
    """Return the slope for z < 0 of a piecewise-linear activation, None for a smooth one."""
    check_name("activation", activation, _ACTIVATIONS)
    values = np.asarray(slope, dtype=np.float64)
    check_finite("slope", values)
    if activation in kernels.SMOOTH:
        return None
    return values if activation == "prelu" else np.asarray({"relu": 0.0, "linear": 1.0}[activation])


def within(name: str, value: ArrayLike, low: float, high: float = np.inf) -> Array:
    """Return an array of finite numbers in [low, high]."""
    values = np.asarray(value, dtype=np.float64)
    check_finite(name, values)
    good = (values >= low) & (values <= high)
    if not good.all():
        bad = float(values[~good].flat[0]) if values.ndim else float(values)
        domain = f"from {low:g} to {high:g}" if np.isfinite(high) else f"of {low:g} or more"
        raise ValueError(f"{name} is {bad:g}: expected numbers {domain}")
    return values


def plain(values: Array) -> float | Array:
    return float(values) if np.ndim(values) == 0 else values


def mean_square(variance: Array, activation: str, slope: Array | None) -> Array:
    """E phi(z)^2."""
    if slope is not None:
        return np.asarray((1 + slope**2) / 2 * variance)
    phi = kernels.SMOOTH[activation].function
    return kernels.mean(lambda z: phi(z) ** 2, variance)


def slope_square(variance: Array, activation: str, slope: Array | None) -> Array:
    """E phi'(z)^2."""
    if slope is not None:
        return np.broadcast_to((1 + slope**2) / 2, np.broadcast_shapes(np.shape(variance), slope.shape))
    derivative = kernels.SMOOTH[activation].derivative
    return kernels.mean(lambda z: derivative(z) ** 2, variance)


def square_slope(variance: Array, activation: str, slope: Array | None) -> Array:
    """d E phi(z)^2 / d variance = E phi'^2 + E phi phi''."""
    if slope is not None:  # phi'' is at 0, where phi is 0
        return slope_square(variance, activation, slope)
    phi = kernels.SMOOTH[activation]
    return kernels.mean(lambda z: phi.derivative(z) ** 2 + phi.function(z) * phi.curvature(z), variance)


@door
def variance_map(
    variance: ArrayLike,
    weight_scale: ArrayLike,
    bias_scale: ArrayLike = 0.0,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
) -> float | Array:
    """Return the variance of the next layer's pre-activations.

    weight_scale^2 E phi(z)^2 + bias_scale^2 with z ~ N(0, variance) (Poole et al. 2016, eq. 3).

    Raises:
        ValueError: for a negative scale or variance, an unknown activation.

    >>> import stability as st
    >>> st.theory.variance_map([1.0, 4.0], 2**0.5, 0.5, "relu").round(12).tolist()
    [1.25, 4.25]
    >>> round(st.theory.variance_map(1.0, 1.0), 12)
    0.394294490398
    """
    q, w, b = (
        within("variance", variance, 0),
        within("weight_scale", weight_scale, 0),
        within("bias_scale", bias_scale, 0),
    )
    return plain(w**2 * mean_square(q, activation, slope_of(activation, slope)) + b**2)


def _pair(correlation: ArrayLike, variance: ArrayLike, other_variance: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Return the checked correlation and variances of two inputs, the second as the first where it is not given."""
    q = within("variance", variance, 0)
    other = q if other_variance is None else within("other_variance", other_variance, 0)
    return within("correlation", correlation, -1, 1), q, other


@door
def activation_kernel(
    correlation: ArrayLike,
    variance: ArrayLike,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    other_variance: ArrayLike | None = None,
) -> float | Array:
    """Return E phi(u) phi(v), u and v normal with that correlation: the covariance of two states after the activation.

    Args:
        correlation: from -1 to 1.
        variance: of u.
        other_variance: of v; without, that of u.

    >>> import math, stability as st
    >>> math.isclose(st.theory.activation_kernel(0.0, 1.0, "relu"), 1 / (2 * math.pi))
    True
    """
    c, q, other = _pair(correlation, variance, other_variance)
    return plain(kernel(c, q, other, activation, slope_of(activation, slope)))


def kernel(c: Array, q: Array, other: Array, activation: str, slope: Array | None) -> Array:
    if slope is not None:
        return np.asarray(np.sqrt(q) * np.sqrt(other) * kernels.piecewise_kernel(c, slope))
    return kernels.value_of(kernels.series(kernels.SMOOTH[activation].function, q, other), c)


@door
def derivative_kernel(
    correlation: ArrayLike,
    variance: ArrayLike,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    other_variance: ArrayLike | None = None,
) -> float | Array:
    """Return E phi'(u) phi'(v): by how much a layer multiplies the product of the gradients at two inputs.

    Times weight_scale^2 (Poole et al. 2016; Schoenholz et al. 2017, section 3). Arguments as for `activation_kernel`.

    >>> import stability as st
    >>> st.theory.derivative_kernel([0.0, 1.0], 1.0, "relu").tolist()  # unlike inputs share a quarter of the units
    [0.25, 0.5]
    """
    c, q, other = _pair(correlation, variance, other_variance)
    a = slope_of(activation, slope)
    if a is not None:
        shape = np.broadcast_shapes(c.shape, q.shape, other.shape, a.shape)
        return plain(np.broadcast_to(kernels.piecewise_derivative_kernel(c, a), shape).copy())
    return plain(kernels.value_of(kernels.series(kernels.SMOOTH[activation].derivative, q, other), c))


@door
def correlation_map(
    correlation: ArrayLike,
    variance: ArrayLike,
    weight_scale: ArrayLike,
    bias_scale: ArrayLike = 0.0,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    other_variance: ArrayLike | None = None,
) -> float | Array:
    """Return the correlation of the next layer's pre-activations of two inputs.

    (weight_scale^2 E phi(u) phi(v) + bias_scale^2) / sqrt(q' r'), q' and r' the next variances (Poole et al. 2016,
    eq. 5). Where one of them is zero there is no correlation, and 0 comes back, as from `st.propagation`.

    Raises:
        ValueError: for a correlation beyond -1 or 1, a negative scale or variance.

    >>> import stability as st
    >>> round(st.theory.correlation_map(0.0, 1.0, 2**0.5, activation="relu"), 12)  # 1 / pi
    0.318309886184
    """
    c, q, other = _pair(correlation, variance, other_variance)
    w, b, a = within("weight_scale", weight_scale, 0), within("bias_scale", bias_scale, 0), slope_of(activation, slope)
    covariance = w**2 * kernel(c, q, other, activation, a) + b**2
    first, second = (w**2 * mean_square(v, activation, a) + b**2 for v in (q, other))
    size = np.sqrt(first) * np.sqrt(second)
    return plain(np.where(size > 0, np.clip(covariance / np.where(size > 0, size, 1), -1, 1), 0.0))
