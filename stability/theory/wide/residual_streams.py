"""How large a residual stream becomes, and through how many branches its energy went."""

from __future__ import annotations

import numpy as np
import sympy
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_name
from stability.theory.closed_form import ClosedForm

Array = NDArray[np.float64]

DEPTH = sympy.Symbol("depth", positive=True)
LENGTH = sympy.Symbol("length", nonnegative=True)
POWER = sympy.Symbol("power", real=True)
STRENGTH = sympy.Symbol("strength", real=True)

_COUNTS = sympy.Interval(0, sympy.oo)


@door
def residual_rms(kind: str = "homogeneous") -> ClosedForm:
    """Return the root of E |h_L|^2 over |x|, of branches times depth^power.

    strength^2 is the energy of a branch without that factor: over |h|^2 where it is "homogeneous", a linear or a ReLU
    branch without biases, and over |x|^2 where it is "normalised", fed with states of one size.

    - homogeneous: (1 + strength^2 depth^(2 power))^(depth / 2), which explodes for power 0, tends to exp(strength^2 /
      2) for -1/2 and to 1 for -1.
    - normalised: sqrt(1 + strength^2 depth^(1 + 2 power)), the root of the depth, a constant, and 1.

    Args:
        kind: "homogeneous" or "normalised".

    >>> import stability as st
    >>> form = st.theory.residual_rms()
    >>> [round(form.value(depth=100, power=power), 4) for power in (0, -0.5, -1)]
    [70064.9232, 1.133, 1.0013]
    >>> round(st.theory.residual_rms("normalised").value(depth=100, power=0), 4)
    5.099
    """
    check_name("kind", kind, ("homogeneous", "normalised"))
    if kind == "homogeneous":
        expression = (1 + STRENGTH**2 * DEPTH ** (2 * POWER)) ** (DEPTH / 2)
        derivation = "branches of mean 0 given the state add up without cross terms: E |h|^2 times 1 + energy a step"
    else:
        expression = sympy.sqrt(1 + STRENGTH**2 * DEPTH ** (1 + 2 * POWER))
        derivation = "branches of mean 0 given the state add up without cross terms: E |h|^2 plus the energy a step"
    return ClosedForm(
        f"root mean square of a residual stream, {kind} branches",
        expression,
        {STRENGTH: 0.5, DEPTH: 100.0, POWER: -0.5},
        "independent layers whose last map has a symmetric law; of its square it is the exact mean",
        derivation,
        {DEPTH: sympy.Interval(1, sympy.oo)},
        _homogeneous if kind == "homogeneous" else None,
    )


def _homogeneous(strength: Array, depth: Array, power: Array) -> Array:
    # By log1p: many weak branches.
    return np.asarray(np.exp(depth / 2 * np.log1p(strength**2 * depth ** (2 * power))))


@door
def path_energy() -> ClosedForm:
    """Return the share of the energy of a product of depth steps I + A that went through `length` of the A.

    The binomial law of depth trials of probability p = strength^2 / (1 + strength^2), of mean depth p. Here strength^2
    is E |A v|^2 / |v|^2, and the signs of the A are random: then paths are uncorrelated, and a path of length k has the
    energy strength^(2 k) (Veit, Wilber and Belongie 2016 for the picture of paths).

    >>> import stability as st
    >>> form = st.theory.path_energy()
    >>> form.value(depth=2, strength=1, length=[0, 1, 2]).tolist()
    [0.25, 0.5, 0.25]
    """
    p = STRENGTH**2 / (1 + STRENGTH**2)
    choose = sympy.exp(sympy.loggamma(DEPTH + 1) - sympy.loggamma(LENGTH + 1) - sympy.loggamma(DEPTH - LENGTH + 1))
    return ClosedForm(
        "share of energy by path length",
        choose * p**LENGTH * (1 - p) ** (DEPTH - LENGTH),
        {STRENGTH: 0.5, DEPTH: 100.0, LENGTH: 20.0},
        "independent layers, E A = 0 given what comes in, E |A v|^2 = strength^2 |v|^2 for every v",
        "products over two different sets of layers have a layer that only one has, whose mean is 0: E |prod (I + z A) "
        "v|^2 = (1 + z^2 strength^2)^depth for a real z, whose coefficients are binomial",
        {DEPTH: sympy.Interval(1, sympy.oo), LENGTH: _COUNTS},
    )
