"""How the derivative of a chain of width 1 grows or decays a step: mean and variance of log|g|, and moments of g.

The derivative of a step is g = skip + p side, p = weight or weight outer_weight, and side 1 or the slope of the
activation, by the sign of z = weight h + bias. Under (weight, bias) -> -(weight, bias) z changes its sign and |weight|
stays. So where their laws are symmetric both sides are equally likely, whatever the state and whatever |p|, and a
chain's log|J| is a sum of independent numbers. With kinks t, z = weight (h - t), the sign of the weight alone is such
a coin. A bypass with one map is the exception: the sign of its weight is that of p; and so is a weight that is
constant. There the sign of the state is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sympy
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer
from stability.networks import Architecture, Init
from stability.networks.architecture import find_architecture
from stability.theory.closed_form import ClosedForm, x_log_squared_x, x_log_x
from stability.theory.width_one.growth_terms import Term, mean, mean_of_terms, product_terms
from stability.theory.width_one.init_laws import DEPTH, SCALE, SLOPE, laws_of

Array = NDArray[np.float64]

_DOMAIN = {SCALE: sympy.Interval.open(0, sympy.oo), DEPTH: sympy.Interval(1, sympy.oo)}
_COIN = (
    "weight and bias symmetric about 0, so that both sides of the kink are equally likely whatever the state, if it "
    "is not at a kink"
)


class Step:
    """The law of a step's derivative: without a bypass a factor, with one a mixture of `terms`.

    Raises:
        ValueError: where the derivative depends on the state by more than the sign that is given.
    """

    def __init__(self, architecture: str | Architecture, init: str | Init, sign: int | None) -> None:
        self.architecture = find_architecture(architecture)
        self.laws = laws_of(self.architecture, init)
        self.init = init if isinstance(init, str) else init.name
        self.domain: dict[sympy.Symbol, sympy.Set] = {s: _DOMAIN[s] for s in self.laws.defaults if s in _DOMAIN}
        self.terms: list[Term] = []
        self.sides: tuple[sympy.Expr, ...] = (sympy.Integer(1), self.laws.slope)
        self.assumptions = _COIN
        self.place = ""
        laws, bypass = self.laws, self.architecture.skip == 1
        still = bypass and laws.weight.size * laws.outer_weight.size == 0
        fair = laws.weight.symmetric and laws.weight.size != 0 and (laws.kinked or laws.bias.symmetric)
        one_map = self.architecture.maps == 1
        if still:
            self.terms, self.assumptions = (
                [Term("constant", sympy.Integer(0))],
                "every step is the identity, or a shift",
            )
        elif fair and not (bypass and (one_map or not laws.outer_weight.symmetric)):
            self.terms = product_terms(laws) if bypass else []
        elif one_map:
            self._follow(sign, fair)
        else:
            raise ValueError(
                f"{self._whose} draws weights or biases that are not symmetric about 0: the side of the kink depends "
                "on the state, and no form is known"
            )

    @property
    def _whose(self) -> str:
        return f"init {self.init!r} for {self.architecture.name!r}"

    def _follow(self, sign: int | None, fair: bool) -> None:
        """Take one map whose side of the kink depends on the sign of the state, which no step changes."""
        laws, bypass = self.laws, self.architecture.skip == 1
        if sign not in (-1, 1):
            raise ValueError(
                f"{self._whose} grows otherwise above 0 than below: sign is {sign!r}, expected 1 or -1, that of the "
                "state"
            )
        self.place = ", above 0" if sign == 1 else ", below 0"
        self.assumptions = f"the state is {'above' if sign == 1 else 'below'} 0, where it stays"
        far = fair and bypass and sign == 1 and laws.slope == 0
        if not laws.unbiased and not far:
            raise ValueError(
                f"{self._whose} has biases, which take the state across 0: no form is known for sign={sign}"
                + (", and in the end it is above 0: take sign=1" if fair and laws.slope == 0 and bypass else "")
            )
        if not laws.unbiased:
            self.assumptions += ", so far that the biases do not matter: growth takes it there"
        if not fair:
            self._follow_constant(sign)
            return
        law = laws.weight
        # z has the sign of weight times that of the state.
        factors = (1, -laws.slope) if sign == 1 else (laws.slope, -1)
        kind = {"sign": "constant"}.get(law.family, f"{law.family} above")
        self.terms = [Term(kind if factor != 0 else "constant", factor * law.size) for factor in factors]
        if far:
            return
        if law.family == "normal":
            raise ValueError(
                f"{self._whose}: a normal weight may take the state across 0, and no form is known for sign={sign}"
                + (": in the end it is above 0, take sign=1" if laws.slope == 0 else "")
            )
        # Every factor 1 - |weight| is above 0, and so is 1 - slope |weight|.
        largest = SCALE / law.size
        if DEPTH in law.size.free_symbols or not largest.is_number:
            raise ValueError(f"{self._whose}: whether a weight takes the state across 0 depends on more than the scale")
        self.domain[SCALE] = sympy.Interval(0, largest, left_open=True, right_open=law.family == "sign")
        if SLOPE in laws.defaults:
            self.domain[SLOPE] = sympy.Interval(-1, 1)
        self.assumptions += f": scale at most {largest}, beyond which a weight may take it across"

    def _follow_constant(self, sign: int) -> None:
        """Take a constant weight above 0: the side of the kink is that of the state."""
        laws, bypass = self.laws, self.architecture.skip == 1
        if laws.weight.size.subs(laws.defaults) < 0:
            raise ValueError(f"{self._whose} has a constant weight below 0: no form is known")
        side = sympy.Integer(1) if sign == 1 else laws.slope
        self.sides = (side,)
        if bypass:
            self.terms = [Term("constant", side * laws.weight.size)]
        if SLOPE in laws.defaults and sign == -1:
            self.domain[SLOPE] = sympy.Interval.open(0, sympy.oo)

    def odd_moment(self, order: int, sign: int | None) -> ClosedForm:
        """Return E g^order of a step without a bypass: the side is that of the sign of the weight."""
        laws = self.laws
        if sign not in (-1, 1) or not laws.unbiased:
            raise ValueError(
                f"E g^{order} of {self.architecture.name!r}: the side of the kink goes with the sign of the weight, so "
                f"that odd moments depend on the state, and a form is known for its sign, and without biases; got "
                f"sign={sign!r}, init {self.init!r}"
            )
        size = laws.weight.size * laws.outer_weight.size
        over_weight = Term(f"{laws.weight.family} above", size).moment(order) * size**order
        held = f"the state before the step is {'above' if sign == 1 else 'below'} 0"
        derivation = "z has the sign of w times that of the state: there g is +-|w|, on the other side -+slope |w|"
        expression = sympy.factor_terms(sign * over_weight * (1 - laws.slope**order) / 2)
        return self.form(f"E g^{order}", expression, derivation, assumptions=held)

    def form(
        self,
        quantity: str,
        expression: sympy.Expr,
        derivation: str,
        numeric: Callable[..., Array] | None = None,
        assumptions: str | None = None,
    ) -> ClosedForm:
        """Return a quantity of the step as a `ClosedForm`."""
        expression = sympy.sympify(expression)
        domain = dict(self.domain)
        singular = expression.has(x_log_x, x_log_squared_x, sympy.polylog) and SLOPE in expression.free_symbols
        if singular:  # 0 / 0 at slope 0; a ReLU has a form of its own
            domain[SLOPE] = domain.get(SLOPE, sympy.S.Reals) - sympy.FiniteSet(0)
        name = f"{quantity} of {self.architecture.name}, {self.init}{self.place}"
        held = self.assumptions if assumptions is None else assumptions
        closed = not expression.has(sympy.Integral)
        return ClosedForm(name, expression, self.laws.defaults, held, derivation, domain, numeric, closed)

    def means(self) -> tuple[Callable[..., Array], Callable[..., Array]]:
        """Return the means over the terms of the log and of its square, as functions of the symbols' arrays."""

        def closed(expression: sympy.Expr) -> Callable[..., Array]:
            return ClosedForm("", expression, self.laws.defaults, "", "").evaluate

        return mean_of_terms(self.terms, list(self.laws.defaults), closed)


@door
def lyapunov_exponent(
    architecture: str | Architecture, init: str | Init = "pytorch", sign: int | None = None, alive: bool = False
) -> ClosedForm:
    """Return E log|g|, the growth of log|J| a step, as a `ClosedForm` of scale, slope and depth, if the init has it.

    Args:
        architecture, init: names, or an `Architecture` and an `Init`, at width 1.
        sign: of the state, for a bypass with one map and for constant weights, where it matters.
        alive: for a ReLU chain without a bypass, the exponent given that the step passes the signal; else it is -oo.

    Raises:
        ValueError: for a smooth activation, a bypass other than 0 or 1, weights for which no form is known, and where
            the state does not keep the sign.

    >>> import stability as st
    >>> round(st.theory.lyapunov_exponent("residual2_prelu").value(), 5)
    -0.03833
    >>> st.theory.lyapunov_exponent("residual1_relu", "uniform", sign=-1).value()
    -0.5
    >>> st.theory.lyapunov_exponent("plain_relu").expression
    -oo
    """
    step = Step(architecture, init, sign)
    if step.terms:
        derivation = "the mean of log|1 + p| and log|1 + slope p|, p = wa wb symmetric"
        if step.place:
            derivation = "z has the sign of w times that of the state: g is 1 + |w| or 1 - |w|, with the slope at z < 0"
        expression = mean([term.mean_log for term in step.terms])
        return step.form("E log|g|", expression, derivation, step.means()[0])
    laws = step.laws
    size = laws.weight.mean_log + (laws.outer_weight.mean_log if step.architecture.maps == 2 else 0)
    if 0 not in step.sides:
        expression = size + mean([sympy.log(sympy.Abs(side)) for side in step.sides])
        return step.form("E log|g|", expression, "g is w or slope w: E log|w| and the mean of the logs of both sides")
    if alive:
        held = step.assumptions + "; given that the step passes the signal, with probability 1/2"
        return step.form("E log|g|", size, "g is w, whose size does not depend on the side", assumptions=held)
    return step.form("E log|g|", -sympy.oo, "g is 0 with probability 1/2")


@door
def log_variance(
    architecture: str | Architecture, init: str | Init = "pytorch", sign: int | None = None, alive: bool = False
) -> ClosedForm:
    """Return the variance of log|g|: that of log|J| is `depth` times as large. Arguments as of `lyapunov_exponent`.

    >>> import stability as st
    >>> st.theory.log_variance("plain_prelu").expression
    log(Abs(slope))**2/4 + 1
    """
    step = Step(architecture, init, sign)
    laws = step.laws
    if step.terms:
        average = mean([term.mean_log for term in step.terms])
        square = mean([term.mean_square_log for term in step.terms])
        first, second = step.means()

        def numeric(*arrays: Array) -> Array:
            return np.asarray(second(*arrays) - first(*arrays) ** 2)

        return step.form("Var log|g|", square - average**2, "E log^2|g| - (E log|g|)^2 over both sides", numeric)
    expression = laws.weight.log_variance + (laws.outer_weight.log_variance if step.architecture.maps == 2 else 0)
    if 0 in step.sides:
        if not alive:
            raise ValueError(
                f"log|g| of {step.architecture.name!r} is -oo with probability 1/2: it has no variance; alive=True "
                "gives it for a step that passes the signal"
            )
        held = step.assumptions + "; given that the step passes the signal"
        return step.form("Var log|g|", expression, "g is w, whose size does not depend on the side", assumptions=held)
    if len(step.sides) == 2:
        expression += sympy.log(sympy.Abs(laws.slope)) ** 2 / 4
    return step.form("Var log|g|", expression, "log|w| and the side are independent: Var log|w| + log^2|slope| / 4")


@door
def moment(
    architecture: str | Architecture, init: str | Init = "pytorch", order: int = 2, sign: int | None = None
) -> ClosedForm:
    """Return E g^order. Where E g^2 > 1 and E log|g| < 0, the mean square grows while almost every member vanishes.

    Args:
        architecture, init: names, or an `Architecture` and an `Init`, at width 1.
        order: 1 or more.
        sign: of the state, as of `lyapunov_exponent`, and for odd orders without a bypass: there it is the sign of the
            state before the one step.

    Raises:
        ValueError: as `lyapunov_exponent`, and for odd orders without a bypass and with biases.

    >>> import stability as st
    >>> st.theory.moment("residual2_prelu", order=2).expression
    scale**2*(slope**2 + 1)/18 + 1
    >>> st.theory.moment("residual1_relu", "uniform", order=1, sign=1).expression
    scale/4 + 1
    """
    order = check_integer("order", order, 1)
    step = Step(architecture, init, sign)
    laws = step.laws
    if step.terms:
        parts = [
            sympy.factor(mean([sympy.binomial(order, k) * term.size**k * term.moment(k) for term in step.terms]))
            for k in range(order + 1)
        ]
        expression = sum(parts, sympy.Integer(0))
    elif order % 2 and len(step.sides) == 2 and not (step.architecture.maps == 2 and laws.outer_weight.symmetric):
        return step.odd_moment(order, sign)
    else:
        product = laws.weight.moment(order) * laws.outer_weight.moment(order)
        expression = sympy.factor_terms(product * mean([side**order for side in step.sides]))
    return step.form(f"E g^{order}", expression, "moments of a product of independent numbers, over both sides")
