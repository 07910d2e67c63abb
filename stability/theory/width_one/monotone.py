"""How many steps it takes to turn, and how likely a fresh residual chain of width 1 cannot turn at all."""

from __future__ import annotations

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy.special import iti0k0

from stability.foundation.arguments import door
from stability.theory.closed_form import ClosedForm

Array = NDArray[np.float64]

DEPTH = sympy.Symbol("depth", positive=True)
POWER = sympy.Symbol("power", real=True)
SCALE = sympy.Symbol("scale", positive=True)
TURNS = sympy.Symbol("turns", nonnegative=True)


@door
def least_turning_steps() -> ClosedForm:
    """Return how many steps with a negative slope somewhere a chain of width 1 needs for so many turns.

    The ceiling of log2(turns + 1). So a chain whose steps tend to the identity, times 1 / L or 1 / sqrt(L) with bounded
    weights, has none from some depth on and is increasing: it can do no better than a monotone function. A tent of as
    many steps reaches the bound, 2^steps - 1 turns.

    >>> import stability as st
    >>> st.theory.least_turning_steps().value(turns=[0, 1, 2, 3, 7, 8]).tolist()
    [0.0, 1.0, 2.0, 2.0, 3.0, 4.0]
    """
    return ClosedForm(
        "least number of steps with a negative slope",
        sympy.ceiling(sympy.log(TURNS + 1) / sympy.log(2)),
        {TURNS: 3.0},
        "steps of width 1, each continuous with at most one kink",
        "between its turns a function has turns + 1 monotone pieces; a step without a kink, or with slopes of one "
        "sign, keeps their number, and one with slopes of both signs at most doubles it",
        {TURNS: sympy.Interval(0, sympy.oo)},
        # log2 of a power of 2 is exact.
        lambda turns: np.ceil(np.log2(np.asarray(turns) + 1)),
    )


@door
def monotone_share() -> ClosedForm:
    """Return the probability that no step of a fresh residual chain of width 1 has a negative slope, so that it turns.

    Of steps h + depth^power (wb relu(wa h + ba) + bb) with normal weights, scale the product of their two standard
    deviations: the slope 1 + depth^power wa wb is above 0 unless wa wb < -depth^-power. With power -1/2 the share tends
    to 1, for the tail of wa wb falls as exp(-sqrt(depth) / scale); with power 0 it falls exponentially. Weights within
    (-1, 1) never turn a step, at any power up to 0.

    >>> import stability as st
    >>> form = st.theory.monotone_share()
    >>> [round(form.value(depth=100, power=power), 4) for power in (0, -0.5, -1)]
    [0.0, 0.9995, 1.0]
    """
    x = sympy.Symbol("x", positive=True)
    edge = DEPTH**-POWER / SCALE
    tail = sympy.Integral(sympy.besselk(0, x), (x, edge, sympy.oo)) / sympy.pi

    def share(depth: Array, power: Array, scale: Array) -> Array:
        # The whole integral of K_0 is pi / 2.
        left = np.maximum(np.pi / 2 - iti0k0(depth**-power / scale)[1], 0.0)
        return np.asarray(np.exp(depth * np.log1p(-left / np.pi)))

    return ClosedForm(
        "share of fresh residual ReLU chains whose steps all increase",
        (1 - tail) ** DEPTH,
        {DEPTH: 100.0, POWER: -0.5, SCALE: 1.0},
        "independent normal weights, ReLU, skip 1, any biases",
        "the density of a product of two standard normal numbers is K_0(|x|) / pi; steps are independent",
        {DEPTH: sympy.Interval(1, sympy.oo), SCALE: sympy.Interval.open(0, sympy.oo)},
        share,
        closed=False,
    )
