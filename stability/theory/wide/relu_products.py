"""How a ReLU network stretches a vector at finite width: the law of |J v|^2 for unit vectors v (Hanin and Nica 2019).

Gaussian weights of variance 2 / inputs (1 / inputs for a linear network), any biases with a symmetric law. A layer of n
units takes v to D W v. A sign of w and its bias turns the derivative of its unit on or off and leaves (w v)^2 alone, so
that exactly half of the units pass on average, independently of their size and of the input, and the next weights are
isotropic. So |J v|^2, times inputs / outputs of the network, is a product of independent numbers chi^2_K / (p n), K of
n units being active with probability p = 1/2 (1 for linear). `widths` are the n of all layers but the input.

Source: Hanin and Nica 2019, "Products of many large random matrices and gradients in deep neural networks", theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, polygamma
from scipy.stats import binom

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_name, check_positive

Array = NDArray[np.float64]

#: Of the units of a layer, the share that lets a signal pass.
_ACTIVE = {"linear": 1.0, "relu": 0.5}


def _check(widths: Sequence[int], activation: str) -> tuple[list[int], float]:
    if not isinstance(widths, Sequence | np.ndarray) or isinstance(widths, str | bytes):
        raise TypeError(f"widths is {widths!r}: expected the width of every layer, [20] * 10 for ten of width 20")
    checked = [check_integer("a width", int(n) if isinstance(n, np.integer) else n, 1) for n in widths]
    if not checked:
        raise ValueError("there are no widths: expected that of at least one layer")
    return checked, _ACTIVE[check_name("activation", activation, _ACTIVE)]


def _active(n: int, p: float) -> tuple[Array, Array]:
    """Return the numbers of active units above 0, and the log of their probabilities."""
    counts = np.arange(1, n + 1) if p < 1 else np.array([n])
    return counts.astype(float), np.asarray(binom.logpmf(counts, n, p))


@door
def survival_probability(widths: Sequence[int], activation: str = "relu") -> float:
    """Return the probability that J is not 0: the product of 1 - 2^-n, for that all units of a layer may be off.

    >>> import stability as st
    >>> st.theory.survival_probability([1, 2])
    0.375
    """
    checked, p = _check(widths, activation)
    return math.exp(sum(math.log1p(-((1 - p) ** n)) for n in checked))


@door
def squared_norm_moment(order: float, widths: Sequence[int], activation: str = "relu") -> float:
    """Return E |J v|^(2 order), in units of outputs / inputs of the network. Exact at every width.

    The product over the layers of E (chi^2_K / (p n))^order, E chi^2_k^m = 2^m Gamma(k / 2 + m) / Gamma(k / 2). The
    first moment is 1, the second the product of 1 + (3 / p - 1) / n: 1 + 5 / n for ReLU, 1 + 2 / n for linear layers.

    >>> import stability as st
    >>> round(st.theory.squared_norm_moment(2, [20] * 20), 1)
    86.7
    """
    m = check_positive("order", order)
    checked, p = _check(widths, activation)
    total = 0.0
    for n in checked:
        k, log_probability = _active(n, p)
        logs = log_probability + gammaln(k / 2 + m) - gammaln(k / 2)
        total += float(np.logaddexp.reduce(logs)) + m * math.log(2 / (p * n))
    return math.exp(total) if total < 709 else math.inf


@door
def log_squared_norm(widths: Sequence[int], activation: str = "relu") -> tuple[float, float]:
    """Return the mean and the variance of log |J v|^2, given that J is not 0; with 0, the mean would be -inf.

    In units of outputs / inputs as above. Exact at every width: sums over the layers of those of log(chi^2_K / (p n)),
    where log chi^2_k has mean log 2 + digamma(k / 2) and variance trigamma(k / 2).

    >>> import stability as st
    >>> [round(value, 4) for value in st.theory.log_squared_norm([20] * 20)]
    [-2.7437, 6.2352]
    """
    checked, p = _check(widths, activation)
    mean = variance = 0.0
    for n in checked:
        k, log_probability = _active(n, p)
        probability = np.exp(log_probability)
        probability = probability / probability.sum()
        means = math.log(2 / (p * n)) + digamma(k / 2)
        center = float(probability @ means)
        mean += center
        variance += float(probability @ (polygamma(1, k / 2) + (means - center) ** 2))
    return mean, variance


@door
def log_squared_norm_limit(widths: Sequence[int], activation: str = "relu") -> tuple[float, float]:
    """Return the mean and variance of the normal law of log |J v|^2 for wide layers: -beta / 2 and beta.

    beta = (3 / p - 1) times the sum of 1 / n, 5 sum 1 / n for ReLU (Hanin and Nica 2019, theorem 1, for Gaussian
    weights). Up to sums of 1 / n^2.

    >>> import stability as st
    >>> st.theory.log_squared_norm_limit([20] * 20)
    (-2.5, 5.0)
    """
    checked, p = _check(widths, activation)
    beta = (3 / p - 1) * math.fsum(1 / n for n in checked)
    return -beta / 2, beta
