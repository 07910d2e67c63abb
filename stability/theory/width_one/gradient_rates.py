"""The rate of gradient norms, and the depth at which a floating-point format loses them, from exponent and variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy
from scipy.stats import norm

from stability.foundation.arguments import door
from stability.foundation.checks import check_name, check_number
from stability.networks import Architecture, Init
from stability.theory.closed_form import ClosedForm
from stability.theory.width_one.lyapunov_exponents import log_variance, lyapunov_exponent

#: The powers of 2 that round to 0 and, but for a rounding error, those that are infinite.
RANGES = {"float16": (-25, 16), "bfloat16": (-134, 128), "float32": (-150, 128), "float64": (-1075, 1024)}


@door
def gradient_rate(
    architecture: str | Architecture, init: str | Init = "pytorch", along: str = "layer", sign: int | None = None
) -> ClosedForm:
    """Return the rate a layer at which log|dLoss/dh| grows at one point: by layer, or at the first layer by depth.

    dLoss/dh_l is the error at the output times the derivatives of the steps after layer l, each of which adds
    E log|g|: counted from the output, that is the rate by layer. By depth the error at the output adds its own: none
    where the output stays bounded, and as much again for a squared error where it grows as |J|, above 0 in a chain of
    one map with a bypass.

    Args:
        architecture, init, sign: as of `lyapunov_exponent`.
        along: "layer" or "depth".

    >>> import stability as st
    >>> round(st.theory.gradient_rate("plain_prelu").value(), 4)
    -1.6931
    >>> round(st.theory.gradient_rate("residual1_relu", "uniform", along="depth", sign=1).value(), 4)
    0.3863
    """
    check_name("direction", along, ("layer", "depth"))
    exponent = lyapunov_exponent(architecture, init, sign)
    grows = along == "depth" and sign == 1 and exponent.value() > 0
    assumptions = exponent.assumptions + ("; a squared error, whose derivative grows as the output" if grows else "")
    if along == "depth" and not grows:
        assumptions += "; the derivative of the loss at the output stays bounded"
    factor = 2 if grows else 1
    numeric = exponent.numeric
    return ClosedForm(
        f"rate of log|dLoss/dh| by {along}: {exponent.name}",
        factor * exponent.expression,
        exponent.defaults,
        assumptions,
        "the chain rule: one E log|g| a step" + (", and one for the output" if grows else ""),
        exponent.domain,
        None if numeric is None else (lambda *arrays: factor * numeric(*arrays)),
        exponent.closed,
    )


@dataclass(frozen=True)
class FailureDepth:
    """The depth at which a format fails for a share of the chains.

    Attributes:
        depth: the number of steps, not rounded; inf where it never comes to that.
        reason: "underflow", "overflow", "exactly 0" or "never".
    """

    depth: float
    reason: str


@door
def failure_depth(
    architecture: str | Architecture,
    init: str | Init = "pytorch",
    dtype: str = "float32",
    share: float = 0.5,
    sign: int | None = None,
    **numbers: float,
) -> FailureDepth:
    """Return the depth at which |J| at one point is 0, or infinite, in a format for a share of all chains.

    log|J| is a sum of independent numbers, normal for large depths, of mean L m and variance L v: the share q lies
    below L m + z_q sqrt(L v), and below the smallest number from the L on at which that meets its logarithm; for half
    of the chains that is log(smallest) / m, whatever the spread. Likewise beyond the largest number.

    Args:
        architecture, init, sign: as of `lyapunov_exponent`.
        dtype: "float16", "bfloat16", "float32" or "float64". What counts is the value of |J|, rounded once.
        share: of the chains, in (0, 1).
        numbers: for the symbols of the exponent.

    >>> import stability as st
    >>> [round(st.theory.failure_depth("plain_prelu", dtype=d).depth, 1) for d in ("float16", "float32", "float64")]
    [10.2, 61.4, 440.1]
    >>> st.theory.failure_depth("residual1_relu", "uniform", "float32", sign=1).reason
    'overflow'
    """
    low, high = (power * math.log(2) for power in RANGES[check_name("format", dtype, RANGES)])
    share = check_number("share", share)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: expected a number between 0 and 1, not an end")
    exponent = lyapunov_exponent(architecture, init, sign)
    if exponent.expression == -sympy.oo:
        # Dead with probability 1 - 2^-L.
        return FailureDepth(-math.log2(1 - share), "exactly 0")
    mean = float(exponent.value(**numbers))
    spread = math.sqrt(max(0.0, float(log_variance(architecture, init, sign).value(**numbers))))
    below, above = _meets(-mean, spread, -low, share), _meets(mean, spread, high, share)
    if below == above == math.inf:
        return FailureDepth(math.inf, "never")
    return FailureDepth(below, "underflow") if below < above else FailureDepth(above, "overflow")


def _meets(drift: float, spread: float, level: float, share: float) -> float:
    """Return the time at which a share of random walks is above a level: L drift + z sqrt(L) spread = level."""
    pull = float(norm.ppf(share)) * spread  # the quantile 1 - share lies at L drift - pull sqrt(L)
    if drift > 0:
        root = (pull + math.sqrt(pull * pull + 4 * drift * level)) / (2 * drift)
    elif pull < 0 and drift == 0:
        root = level / -pull
    elif pull < 0 and pull * pull + 4 * drift * level >= 0:
        # More than the mean says, and only for a while: the earlier of the two meetings.
        root = 2 * level / (-pull + math.sqrt(pull * pull + 4 * drift * level))
    else:
        return math.inf
    return root * root
