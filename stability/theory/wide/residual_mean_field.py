"""Mean-field theory of residual networks, and how alike the gradients of two inputs remain, for infinite width.

A layer is h -> h + V phi(W h + b) + a, with independent entries of variances outer_scale^2 / width, weight_scale^2 /
width, bias_scale^2 and outer_bias_scale^2. Numbers or arrays, as in `mean_field`.

Sources: Yang and Schoenholz 2017, "Mean field residual networks: on the edge of chaos"; Balduzzi et al. 2017, "The
shattered gradients problem: if resnets are the answer, then what is the question?".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from stability.foundation.arguments import check_numbers, door
from stability.foundation.checks import check_integer, check_name
from stability.theory.wide.mean_field import kernel, mean_square, plain, slope_of, slope_square, within

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ResidualSignals:
    """What travels through a residual network, layer by layer.

    Attributes:
        mean_squares: (depth + 1, ...), |h|^2 / width.
        correlations: the same shape, the cosine between the states of two inputs.
        log_gradients: the same shape, the log of how many times larger the mean square of the gradient with respect to
            the state is there than after the last layer, where it is 0.
    """

    mean_squares: Array
    correlations: Array
    log_gradients: Array


@door
def residual_signals(
    depth: int,
    weight_scale: ArrayLike,
    outer_scale: ArrayLike,
    bias_scale: ArrayLike = 0.0,
    outer_bias_scale: ArrayLike = 0.0,
    activation: str = "tanh",
    slope: ArrayLike = 0.25,
    start: ArrayLike = 1.0,
    correlation: ArrayLike = 0.0,
) -> ResidualSignals:
    """Return how states, their correlation and gradients grow through a residual network.

    With q = weight_scale^2 p + bias_scale^2 the variance of pre-activations, the mean square p grows a layer by
    outer_scale^2 E phi(z)^2 + outer_bias_scale^2, the covariance of two states by the same of E phi(u) phi(v), and
    towards the input the squared gradient by 1 + outer_scale^2 weight_scale^2 E phi'(z)^2 (Yang and Schoenholz 2017,
    section 4, of the full residual network). Without biases the mean square is exact for ReLU at every width.

    Args:
        depth: how many layers.
        start: the mean square of both inputs, above 0.
        correlation: of the two inputs.

    >>> import stability as st
    >>> st.theory.residual_signals(3, 1.0, 1.0, activation="relu").mean_squares.tolist()
    [1.0, 1.5, 2.25, 3.375]
    """
    depth = check_integer("depth", depth, 1)
    w2, v2, b2, a2 = (
        within(name, value, 0) ** 2
        for name, value in (
            ("weight_scale", weight_scale),
            ("outer_scale", outer_scale),
            ("bias_scale", bias_scale),
            ("outer_bias_scale", outer_bias_scale),
        )
    )
    p, c = within("start", start, 0), within("correlation", correlation, -1, 1)
    if (p == 0).any():
        raise ValueError("start is 0: expected a mean square above 0, of an input with a direction")
    a = slope_of(activation, slope)
    p, c, *_ = np.broadcast_arrays(p, c, w2, v2, b2, a2, *([] if a is None else [a]))
    sizes, covariances, growth = [p], [p * c], []
    for _ in range(depth):
        q = w2 * p + b2
        alike = np.clip((w2 * covariances[-1] + b2) / np.where(q > 0, q, 1), -1, 1)
        growth.append(np.broadcast_to(np.log1p(v2 * w2 * slope_square(q, activation, a)), p.shape))
        covariances.append(covariances[-1] + v2 * kernel(alike, q, q, activation, a) + a2)
        p = p + v2 * mean_square(q, activation, a) + a2
        sizes.append(p)
    mean_squares = np.stack(sizes)
    behind = np.cumsum(np.stack([np.zeros(p.shape), *growth[::-1]]), axis=0)[::-1]
    return ResidualSignals(mean_squares, np.clip(np.stack(covariances) / mean_squares, -1, 1), behind)


@door
def residual_growth_factor(weight_scale: ArrayLike, outer_scale: ArrayLike, slope: ArrayLike = 0.0) -> float | Array:
    """Return by how much the mean square of a ReLU (slope 0) or PReLU residual network is multiplied a layer.

    1 + outer_scale^2 weight_scale^2 (1 + slope^2) / 2, the rate of the exponential growth of states and of gradients
    (Yang and Schoenholz 2017, section 5.2). Over all layers it stays finite
    where weight_scale outer_scale falls as depth^(-1/2).

    >>> import stability as st
    >>> st.theory.residual_growth_factor(1.0, 1.0)
    1.5
    """
    w, v = within("weight_scale", weight_scale, 0), within("outer_scale", outer_scale, 0)
    a = slope_of("prelu", slope)
    assert a is not None
    return plain(1 + (w * v) ** 2 * (1 + a**2) / 2)


@door
def residual_tanh_laws(
    weight_scale: ArrayLike, outer_scale: ArrayLike, outer_bias_scale: ArrayLike = 0.0
) -> tuple[float | Array, float | Array]:
    """Return the rates at large depth of a tanh residual network: of p along depth, of log gradients along its root.

    States grow linearly, by outer_scale^2 + outer_bias_scale^2 a layer, for tanh^2 tends to 1. E sech^4 falls as 4 / (3
    sqrt(2 pi q)), so that the log of the squared gradient grows as k sqrt(depth), k = (8 / 3) outer_scale^2
    weight_scale / sqrt(2 pi (outer_scale^2 + outer_bias_scale^2)): slower than any exponential (Yang and Schoenholz
    2017, section 5.1).

    >>> import stability as st
    >>> [round(value, 6) for value in st.theory.residual_tanh_laws(1.0, 1.0)]
    [1.0, 1.063846]
    """
    w, v = within("weight_scale", weight_scale, 0), within("outer_scale", outer_scale, 0)
    rate = v**2 + within("outer_bias_scale", outer_bias_scale, 0) ** 2
    root = np.sqrt(2 * np.pi * np.where(rate > 0, rate, 1))
    return plain(rate), plain(8 / 3 * v**2 * w / root)


@door
def shattered_correlation(
    depth: ArrayLike, kind: str = "plain", co_active: ArrayLike = 0.25, strength: ArrayLike = 2.0
) -> float | Array:
    """Return the correlation between the gradients at two inputs after `depth` ReLU layers (Balduzzi et al. 2017).

    Assumes that half of the units are active for each input, a share `co_active` for both, and that layers are
    independent; 1/4 is that of unlike inputs. The squared gradient is multiplied a layer by 1 + s / 2 and the product
    of two gradients by 1 + s co_active, s = outer_scale^2 weight_scale^2, without the 1 in a plain network:

    - "plain": (2 co_active)^depth, 2^-depth (theorem 1).
    - "residual": ((1 + s co_active) / (1 + s / 2))^depth, (3/4)^depth for s = `strength` = 2 (theorem 2).
    - "normalised": a residual network whose branches see states of size 1, so that s = 2 / layer: about
      depth^-(1 - 2 co_active), the root for 1/4 (theorem 3).

    In a network, inputs become more alike from layer to layer: co_active is then 1/2 - arccos(c) / (2 pi) for the
    correlation c of the pre-activations, E phi'(u) phi'(v) of `derivative_kernel`.

    >>> import stability as st
    >>> [st.theory.shattered_correlation(2, kind) for kind in ("plain", "residual")]
    [0.25, 0.5625]
    """
    check_name("kind", kind, ("plain", "residual", "normalised"))
    check_numbers("depth", depth)
    layers = within("depth", depth, 0)
    if (layers % 1 != 0).any():
        raise ValueError(f"depth is {depth!r}: expected whole numbers")
    share, s = within("co_active", co_active, 0, 0.5), within("strength", strength, 0)
    if kind == "plain":
        return plain((2 * share) ** layers)
    if kind == "residual":
        return plain(((1 + s * share) / (1 + s / 2)) ** layers)
    # The product of (l + 2 co_active) / (l + 1) over l = 1 ... depth.
    logs = gammaln(layers + 1 + 2 * share) - gammaln(1 + 2 * share) - gammaln(layers + 2)
    return plain(np.exp(logs))
