"""Where the recursions of mean-field theory end: fixed points, phases, depth scales and the edge of chaos.

Arguments and sources as in `mean_field`: numbers or arrays, weight_scale^2 / width and bias_scale^2 the variances.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stability.foundation.arguments import door
from stability.theory.wide import gaussian_kernels as kernels
from stability.theory.wide.mean_field import mean_square, plain, slope_of, slope_square, square_slope, within

Array = NDArray[np.float64]


@door
def fixed_variance(
    weight_scale: ArrayLike,
    bias_scale: ArrayLike = 0.0,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    start: ArrayLike = 1.0,
) -> float | Array:
    """Return the variance q* that the layers tend to from `start`; inf where it grows without end.

    q' = f(q) rises with q, so the limit is the first fixed point on the way. Piecewise linear, with growth
    g = weight_scale^2 (1 + slope^2) / 2: bias_scale^2 / (1 - g) for g < 1; at g = 1 without bias every variance is
    fixed, and `start` comes back. Tanh has one attracting fixed point, 0 for weight_scale <= 1 without bias. GELU has
    two others for some scales, so that `start` matters: they are searched on a grid of ratio 1.26.

    >>> import stability as st
    >>> st.theory.fixed_variance([1.0, 2**0.5, 2.0], 0.5, "relu").round(12).tolist()
    [0.5, inf, inf]
    >>> [round(st.theory.fixed_variance(w), 12) for w in (0.9, 1.5)]
    [0.0, 0.793354042607]
    """
    a = slope_of(activation, slope)
    w, b, q0 = np.broadcast_arrays(
        within("weight_scale", weight_scale, 0), within("bias_scale", bias_scale, 0), within("start", start, 0)
    )
    if a is None:
        return plain(_smooth_fixed_variance(w, b, q0, activation))
    growth = w**2 * (1 + a**2) / 2
    growth = np.where(abs(growth - 1) < 4e-16, 1.0, growth)  # sqrt(2)^2 / 2 is not 1 in float64
    fixed = b**2 / np.where(growth < 1, 1 - growth, 1.0)
    still = (b == 0) & ((growth == 1) | (q0 == 0))
    return plain(np.where(still, q0, np.where(growth < 1, fixed, np.inf)))


def _smooth_fixed_variance(w: Array, b: Array, start: Array, activation: str) -> Array:
    if activation == "tanh":
        # f is concave, and f(q) >= weight_scale^2 (q - 2 q^2) + bias_scale^2.
        alive = (w > 1) & (start > 0) | (b > 0)
        safe = np.where(w > 1, w, 1.0)
        low = np.where(alive, np.maximum(b**2, (safe**2 - 1) / (2 * safe**2)), 1.0)
        high = np.where(alive, w**2 + b**2, 1.0)
        return np.where(alive, _solve(w, b, low, high, activation), 0.0)
    place = np.maximum(start, b**2)
    dead = place == 0
    place = np.where(dead, 1.0, place)
    up = w**2 * mean_square(place, activation, None) + b**2 > place
    factors = 1.26 ** np.arange(121.0)
    grid = np.where(
        up[..., None], place[..., None] * factors, np.maximum(place[..., None] / factors, b[..., None] ** 2)
    )
    rises = w[..., None] ** 2 * mean_square(grid, activation, None) + b[..., None] ** 2 > grid
    turned = rises != up[..., None]
    last = np.where(turned.any(axis=-1), turned.argmax(axis=-1), 1)
    before, after = (np.take_along_axis(grid, at[..., None], axis=-1)[..., 0] for at in (last - 1, last))
    found = _solve(w, b, np.minimum(before, after), np.maximum(before, after), activation)
    # Nothing turns: up without end, or down to 0 or the square of a bias below the grid.
    found = np.where(turned.any(axis=-1), found, np.where(up, np.inf, b**2))
    return np.where(dead, 0.0, found)


def _solve(w: Array, b: Array, low: Array, high: Array, activation: str) -> Array:
    """Return the q in [low, high] with f(q) = q: Newton's method, and halves of the bracket in log q where they leave.

    Which end is below is told by f(low) > low, as is so for a fixed point that attracts.
    """
    q = high
    rising = w**2 * mean_square(low, activation, None) + b**2 >= low
    for _ in range(100):
        difference = w**2 * mean_square(q, activation, None) + b**2 - q
        below = (difference > 0) == rising
        low, high = np.where(below, q, low), np.where(below, high, q)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = q - difference / (w**2 * square_slope(q, activation, None) - 1)
        inside = (newton > low) & (newton < high)
        following = np.where(difference == 0, q, np.where(inside, newton, np.sqrt(low * high)))
        done = (abs(following - q) <= 1e-15 * q).all()
        q = following
        if done:
            break
    return q


@door
def chi_1(
    weight_scale: ArrayLike,
    bias_scale: ArrayLike = 0.0,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    variance: ArrayLike | None = None,
) -> float | Array:
    """Return chi_1 = weight_scale^2 E phi'(z)^2, the mean squared singular value of a layer's Jacobian.

    Gradients and the distance of close inputs grow by its square root a layer; above 1 is the chaotic phase, below the
    ordered one (Poole et al. 2016, eq. 6; Schoenholz et al. 2017, section 3).

    Args:
        variance: of the pre-activations; without, the fixed one. Where that is infinite, the limit.

    >>> import stability as st
    >>> [round(st.theory.chi_1(w, b), 6) for w, b in ((1.0, 0.0), (1.0, 0.5), (2.0, 0.5))]
    [1.0, 0.579884, 1.27223]
    """
    w, q, a = _at(weight_scale, bias_scale, activation, slope, variance)
    return plain(w**2 * _at_fixed_variance(slope_square, q, activation, a))


@door
def chi_q(
    weight_scale: ArrayLike,
    bias_scale: ArrayLike = 0.0,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    variance: ArrayLike | None = None,
) -> float | Array:
    """Return chi_q = dq'/dq = weight_scale^2 (E phi'^2 + E phi phi''): what a layer makes of an error of the variance.

    (Schoenholz et al. 2017, section 3.) Arguments as for `chi_1`.

    >>> import stability as st
    >>> st.theory.chi_q(1.0, 0.5, "relu")
    0.5
    """
    w, q, a = _at(weight_scale, bias_scale, activation, slope, variance)
    return plain(w**2 * _at_fixed_variance(square_slope, q, activation, a))


def _at(
    weight_scale: ArrayLike, bias_scale: ArrayLike, activation: str, slope: ArrayLike, variance: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Return the checked weight scale, the variance given or the fixed one, and the slope."""
    w, a = within("weight_scale", weight_scale, 0), slope_of(activation, slope)
    if variance is None:
        return w, np.asarray(fixed_variance(w, bias_scale, activation, slope)), a
    within("bias_scale", bias_scale, 0)  # of no matter here, but none that there cannot be
    return w, within("variance", variance, 0), a


def _at_fixed_variance(mean: Callable[..., Array], q: Array, activation: str, slope: Array | None) -> Array:
    """Return the mean of squares of the derivative at a variance that may be infinite, where GELU is ReLU."""
    if slope is not None:
        return np.asarray(mean(q, activation, slope))
    finite = np.isfinite(q)
    return np.where(finite, mean(np.where(finite, q, 1.0), activation, None), 0.5)


@door
def fixed_correlation(
    weight_scale: ArrayLike, bias_scale: ArrayLike = 0.0, activation: str = "tanh", slope: ArrayLike = 0.25
) -> float | Array:
    """Return the correlation c* that two inputs tend to, from orthogonal ones, at the fixed variance.

    1 where chi_1 <= 1, the ordered phase. Above it, the one fixed point below 1: c' = f(c) has a power series with
    coefficients >= 0, so that it is convex (Poole et al. 2016, section 2.2). At variance 0 all activations that are
    smooth are linear and keep a correlation, as "linear" does without a bias: 0 comes back. ReLU and PReLU (and GELU
    where its variance grows without end) tend to 1 for all scales.

    >>> import stability as st
    >>> [round(st.theory.fixed_correlation(w, b), 6) for w, b in ((1.5, 0.0), (2.0, 0.3), (1.0, 0.3))]
    [0.0, 0.263895, 1.0]
    """
    w, q, a = _at(weight_scale, bias_scale, activation, slope, None)
    return plain(_fixed_correlation(w, within("bias_scale", bias_scale, 0), q, activation, a)[0])


def _fixed_correlation(w: Array, b: Array, q: Array, activation: str, slope: Array | None) -> tuple[Array, Array]:
    """Return c*, and the derivative of the correlation map there."""
    if slope is not None:
        w, b, q, slope = np.broadcast_arrays(w, b, q, slope)
        flat = ((q == 0) | np.isinf(q)) | (b == 0)  # the map is that of phi alone, which has derivative 1 at c = 1
        rate = np.where(flat, 1.0, w**2 * (1 + slope**2) / 2)
        # A linear layer without bias keeps every correlation.
        return np.where(flat & (abs(slope) == 1) & (b == 0), np.where(slope == 1, 0.0, 1.0), 1.0), rate
    w, b, q = np.broadcast_arrays(w, b, q)
    settled = (q > 0) & np.isfinite(q)
    safe = np.where(settled, q, 1.0)
    chi = w**2 * slope_square(safe, activation, None)
    c, rate = np.where(q == 0, 0.0, 1.0), np.where(settled, chi, 1.0)
    chaotic = settled & (chi > 1)
    if not chaotic.any():
        return c, rate
    w2, b2, q2 = w[chaotic] ** 2, b[chaotic] ** 2, q[chaotic]
    phi = kernels.SMOOTH[activation]
    value, derivative = (kernels.series(f, q2, q2) for f in (phi.function, phi.derivative))
    at = np.zeros(q2.shape)
    for _ in range(60):  # Newton's method rises to the fixed point of a convex map from below
        slope_there = w2 * kernels.value_of(derivative, at)
        move = ((w2 * kernels.value_of(value, at) + b2) / q2 - at) / np.maximum(1 - slope_there, 1e-15)
        following = np.clip(at + move, 0.0, 1.0)
        done = (abs(following - at) <= 1e-15).all()
        at = following
        if done:
            break
    c, rate = c.copy(), rate.copy()
    c[chaotic], rate[chaotic] = at, w2 * kernels.value_of(derivative, at)
    return c, rate


def _scale_of(rate: Array) -> Array:
    """Return -1 / log rate, inf at 1 and 0 at 0."""
    with np.errstate(divide="ignore"):
        size = -np.log(rate)
        return np.where(size == 0, np.inf, 1 / np.where(size == 0, 1.0, size))


@door
def variance_depth_scale(
    weight_scale: ArrayLike, bias_scale: ArrayLike = 0.0, activation: str = "tanh", slope: ArrayLike = 0.25
) -> float | Array:
    """Return xi_q = -1 / log chi_q: the variance is within exp(-l / xi_q) of its fixed point after l layers.

    (Schoenholz et al. 2017, section 3.) inf where it gets there slower, or there is no finite fixed point.

    >>> import math, stability as st
    >>> math.isclose(st.theory.variance_depth_scale(1.0, 0.5, "relu"), 1 / math.log(2))
    True
    """
    w, q, a = _at(weight_scale, bias_scale, activation, slope, None)
    rate = w**2 * _at_fixed_variance(square_slope, q, activation, a)
    return plain(np.where(np.isfinite(q), _scale_of(np.minimum(abs(rate), 1.0)), np.inf))


@door
def correlation_depth_scale(
    weight_scale: ArrayLike, bias_scale: ArrayLike = 0.0, activation: str = "tanh", slope: ArrayLike = 0.25
) -> float | Array:
    """Return xi_c = -1 / log(weight_scale^2 E phi'(u) phi'(v)) at the fixed correlation.

    The correlation of two inputs is within exp(-l / xi_c) of c* after l layers (Schoenholz et al. 2017, section 3).
    inf where it gets there slower: at the edge of chaos, and where signals die out or grow without end, so that biases
    do not count.

    >>> import stability as st
    >>> [round(st.theory.correlation_depth_scale(w, 0.3), 3) for w in (1.0, 2.0)]
    [2.807, 6.648]
    """
    w, q, a = _at(weight_scale, bias_scale, activation, slope, None)
    rate = _fixed_correlation(w, within("bias_scale", bias_scale, 0), q, activation, a)[1]
    return plain(_scale_of(np.minimum(rate, 1.0)))


@door
def gradient_depth_scale(
    weight_scale: ArrayLike, bias_scale: ArrayLike = 0.0, activation: str = "tanh", slope: ArrayLike = 0.25
) -> float | Array:
    """Return -1 / log chi_1: the squared gradient changes as exp(-l / scale) over l layers towards the input.

    (Schoenholz et al. 2017, section 4.) Positive where gradients vanish, negative where they explode, inf between.

    >>> import math, stability as st
    >>> math.isclose(st.theory.gradient_depth_scale(2.0, 0.5, "relu"), -1 / math.log(2))
    True
    """
    return plain(_scale_of(np.asarray(chi_1(weight_scale, bias_scale, activation, slope))))


@door
def edge_of_chaos(bias_scale: ArrayLike = 0.0, activation: str = "tanh", slope: ArrayLike = 0.25) -> float | Array:
    """Return the weight_scale at which chi_1 is 1 at a fixed variance.

    Along the edge, weight_scale^2 = 1 / E phi'(z)^2 and bias_scale^2 = q - E phi(z)^2 / E phi'(z)^2 with the variance q
    of z as the parameter, along which the bias rises: from 1 for tanh, 2 for GELU. Piecewise linear, chi_1 is 1 at
    sqrt(2 / (1 + slope^2)) for every bias, but only without one there is a finite variance: the edge is a point, He's
    initialisation. GELU's variance is repelled by that fixed point (chi_q > 1) for bias scales below 0.41.

    >>> import stability as st
    >>> st.theory.edge_of_chaos([0.0, 0.05, 0.3]).round(6).tolist()
    [1.0, 1.122539, 1.395584]
    >>> st.theory.edge_of_chaos(0.0, "relu") == 2**0.5
    True
    """
    b, a = within("bias_scale", bias_scale, 0), slope_of(activation, slope)
    if a is not None:
        return plain(np.broadcast_to(np.sqrt(2 / (1 + a**2)), np.broadcast_shapes(b.shape, a.shape)).copy())

    def bias_square(q: Array) -> Array:
        return q - mean_square(q, activation, None) / slope_square(q, activation, None)

    positive = b > 0
    target = np.where(positive, b, 1.0) ** 2
    low, high = target, 4 * target
    while (short := bias_square(high) < target).any():
        high = np.where(short, 4 * high, high)
    for _ in range(60):
        middle = np.sqrt(low * high)
        below = bias_square(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    weight = 1 / np.sqrt(slope_square(low, activation, None))
    return plain(np.where(positive, weight, 1 / kernels.SMOOTH[activation].derivative_at_zero))
