"""By how much a random residual step stretches a vector on average: the drift of log |J v|, at every width."""

from __future__ import annotations

import math

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy.special import roots_genlaguerre
from scipy.stats import binom

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer
from stability.theory.closed_form import ClosedForm

Array = NDArray[np.float64]

STRENGTH = sympy.Symbol("strength", real=True)
#: The trapezoidal rule over log z, whose integrand is analytic and falls off exponentially on both sides.
_LOGS = np.arange(-45.0, 90.0, 0.1)
_NODES = 40


@door
def residual_drift(width: int) -> ClosedForm:
    """Return E log(|J v| / |v|) of a residual ReLU step h + V relu(W h + b) + a of Gaussian weights, by its strength.

    strength^2 = E |V D W v|^2 / |v|^2 = n^2 Var V Var W / 2. To second order that is strength^2 (1/2 - 1/n): below 0 at
    width 1 and above 0 from width 3 on. Width 2 is the border: log|x| is harmonic in the plane, so that the drift is
    that of moves longer than v itself, above 0 and smaller than any power of the strength. From width 3 on log|x| is
    subharmonic, and the drift is above 0 at every strength. At width 1 it is above 0 for strong branches.

    Args:
        width: n.

    >>> import stability as st
    >>> [f"{st.theory.residual_drift(n).value(strength=0.3):+.4f}" for n in (1, 2, 3, 4)]
    ['-0.0428', '+0.0021', '+0.0158', '+0.0225']
    """
    n = check_integer("width", width, 1)
    z, y = sympy.symbols("z y", positive=True)
    k = sympy.Symbol("k", integer=True, positive=True)
    spread = 4 * STRENGTH**2 * y / n**2
    shrunk = 1 + 2 * z * spread
    laplace = shrunk ** -sympy.Rational(n, 2) * sympy.exp(-z / shrunk)
    inner = sympy.Integral((sympy.exp(-z) - laplace) / z, (z, 0, sympy.oo)) / 2
    density = y ** (k / 2 - 1) * sympy.exp(-y) / sympy.gamma(k / 2)
    active = sympy.binomial(n, k) / sympy.Integer(2) ** n
    return ClosedForm(
        f"drift of log|J v| of a residual ReLU step, width {n}",
        sympy.Sum(active * sympy.Integral(density * inner, (y, 0, sympy.oo)), (k, 1, n)),
        {STRENGTH: 0.5},
        "Gaussian V and W, biases with symmetric laws, all independent; one step, or any number of them",
        "a sign of w and its bias turns a unit on or off and leaves (w v)^2 alone: K of n units pass, K binomial with "
        "1/2, and |D W v|^2 is Var W chi^2_K. Given that, V D W v is normal in all directions alike, r g with r^2 = "
        "Var V Var W chi^2_K, and |v + r g|^2 is a noncentral chi^2 of Laplace transform M(u) = (1 + 2 u r^2)^(-n/2) "
        "exp(-u / (1 + 2 u r^2)). E log X is the integral of (exp(-u) - M(u)) / u (Frullani). With y = chi^2_K / 2",
        {STRENGTH: sympy.Interval(0, sympy.oo)},
        lambda strength: np.vectorize(lambda s: _drift(n, float(s)))(strength),
        closed=False,
    )


def _drift(n: int, strength: float) -> float:
    if strength == 0:
        return 0.0
    total, u = 0.0, np.exp(_LOGS)
    for count in range(1, n + 1):
        y, weights = roots_genlaguerre(_NODES, count / 2 - 1)
        spread = (4 * strength**2 / n**2 * y)[:, None]
        shrunk = 1 + 2 * u * spread
        integrand = np.exp(-u) - np.exp(-n / 2 * np.log(shrunk) - u / shrunk)
        inner = integrand.sum(axis=1) * (_LOGS[1] - _LOGS[0]) / 2
        total += float(binom.pmf(count, n, 0.5)) * float(weights @ inner) / math.gamma(count / 2)
    return total
