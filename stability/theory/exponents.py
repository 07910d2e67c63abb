"""How the derivative of a chain of width 1 grows or decays a step: mean and variance of log|g|, and moments of g.

The derivative of a step is g = skip + p side, p = weight or weight outer_weight, and side 1 or the slope of the
activation, by the sign of z = weight h + bias. Under (weight, bias) -> -(weight, bias) z changes its sign and |weight|
stays. So where their laws are symmetric both sides are equally likely, whatever the state and whatever |p|, and a
chain's log|J| is a sum of independent numbers. A bypass with one map is the exception: the sign of its weight is that
of p.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from stability.checks import check_integer
from stability.networks import Architecture, Init
from stability.networks.architecture import find_architecture
from stability.theory import quadrature
from stability.theory.closed_form import ClosedForm, x_log_x
from stability.theory.laws import DEPTH, SCALE, SLOPE, Law, Laws, laws_of

Array = NDArray[np.float64]

_DOMAIN = {SCALE: sympy.Interval.open(0, sympy.oo), DEPTH: sympy.Interval(1, sympy.oo)}
_NOT_0 = sympy.Union(sympy.Interval.open(-sympy.oo, 0), sympy.Interval.open(0, sympy.oo))
_COIN = "weight and bias symmetric about 0, so that both sides of the kink are equally likely whatever the state"
_Q = sympy.Symbol("q", positive=True)


def _factor(laws: Laws) -> tuple[str, sympy.Expr]:
    """Return the kind of the law of p at size 1, and its size."""
    size = laws.weight.size * laws.outer_weight.size
    families = {laws.weight.family, laws.outer_weight.family} - {"constant"}
    if size == 0:
        return "constant", sympy.Integer(0)
    if families == {"uniform"}:
        both = laws.weight.family == laws.outer_weight.family
        return ("uniform product" if both else "uniform"), size
    if families == {"normal"}:
        return ("product" if laws.weight.family == laws.outer_weight.family else "normal"), size
    if families <= {"sign"}:
        return ("sign" if families else "constant"), size
    if families == {"uniform", "sign"}:
        return "uniform", size
    if families == {"normal", "sign"}:
        return "normal", size
    raise ValueError(f"no form is known for a product of {laws.weight.family} and {laws.outer_weight.family} weights")


def _mean_log(kind: str, size: sympy.Expr) -> sympy.Expr:
    """Return E log|1 + size p| for a p of that kind, symmetric unless it is constant."""
    c = sympy.Abs(size) if size.is_nonnegative is None else size
    if size == 0:
        return sympy.Integer(0)
    if kind == "sign":
        return sympy.log(sympy.Abs(1 - c**2)) / 2
    if kind == "constant":
        return sympy.log(sympy.Abs(1 + size))
    if kind == "uniform":
        # The mean of log|t| over (1 - c, 1 + c).
        return (x_log_x(1 + c) - x_log_x(1 - c)) / (2 * c) - 1
    if kind == "uniform product":
        # The density of |p| is -log q on (0, 1), and int log q log(1 - a q) = 2 + (1 - a) log(1 - a) / a - Li2(a) / a.
        inner = x_log_x(1 - c) - x_log_x(1 + c)
        return -2 - (inner - sympy.polylog(2, c) + sympy.polylog(2, -c)) / (2 * c)
    return sympy.Integral(_density(kind) * sympy.log(sympy.Abs(1 - c**2 * _Q**2)) / 2, (_Q, 0, sympy.oo))


def _density(kind: str) -> sympy.Expr:
    """Return the density of |p|."""
    if kind == "product":
        return 2 / sympy.pi * sympy.besselk(0, _Q)
    if kind == "normal":
        return sympy.sqrt(2 / sympy.pi) * sympy.exp(-(_Q**2) / 2)
    return -sympy.log(_Q) if kind == "uniform product" else sympy.Integer(1)


def _mean_square_log(kind: str, size: sympy.Expr) -> sympy.Expr:
    """Return E log^2|1 + size p|."""
    if size == 0:
        return sympy.Integer(0)
    if kind == "constant":
        return sympy.log(sympy.Abs(1 + size)) ** 2
    pair = (sympy.log(sympy.Abs(1 + size)) ** 2 + sympy.log(sympy.Abs(1 - size)) ** 2) / 2
    if kind == "sign":
        return pair
    over = (sympy.log(sympy.Abs(1 + size * _Q)) ** 2 + sympy.log(sympy.Abs(1 - size * _Q)) ** 2) / 2
    return sympy.Integral(_density(kind) * over, (_Q, 0, 1 if kind.startswith("uniform") else sympy.oo))


def _numeric(
    kind: str, sizes: list[sympy.Expr], symbols: list[sympy.Symbol], square: bool
) -> Callable[..., Array] | None:
    """Return the mean of the quadratures over the sizes as a function of the symbols' arrays, None for closed forms."""
    known = ("product", "normal", "uniform product", "uniform") if square else ("product", "normal")
    if kind not in known or all(size == 0 for size in sizes):
        return None
    rule = partial(quadrature.mean_square_log if square else quadrature.mean_log, kind=kind)
    functions = [sympy.lambdify(symbols, size, modules="numpy") for size in sizes]

    def evaluate(*arrays: Array) -> Array:
        shape = np.broadcast_shapes(*(np.shape(array) for array in arrays))
        parts = [rule(np.broadcast_to(np.asarray(f(*arrays), float), shape)) for f in functions]
        return np.asarray(sum(parts) / len(parts))

    return evaluate


def _sizes(laws: Laws) -> tuple[str, list[sympy.Expr]]:
    """Return the kind of p, and its sizes on both sides of the kink."""
    kind, size = _factor(laws)
    return kind, [size, size * laws.slope]


def _laws(architecture: str | Architecture, init: str | Init) -> tuple[Architecture, Laws]:
    found = find_architecture(architecture)
    if not found.phi.piecewise_linear:
        raise ValueError(
            f"{found.name!r} has activation {found.activation!r}: the derivative of a step takes two values only where "
            "the activation is piecewise linear"
        )
    if found.skip not in (0, 1):
        raise ValueError(f"{found.name!r} has a bypass of weight {found.skip}: forms are known for 0 and 1")
    return found, laws_of(found, init)


def _one_sided(found: Architecture, laws: Laws, sign: int) -> list[tuple[sympy.Expr, Law]]:
    """Return g - 1 as a factor of |weight| for both signs of the weight, for a bypass with one map."""
    if sign not in (-1, 1):
        raise ValueError(
            f"{found.name!r} grows otherwise above 0 than below: sign is {sign!r}, expected 1 or -1, that of the state"
        )
    # z has the sign of weight times that of the state: the state is far from the kink, or there is no bias.
    above, below = (sympy.Integer(1), laws.slope) if sign > 0 else (laws.slope, sympy.Integer(1))
    return [(above, laws.weight), (-below, laws.weight)]


def lyapunov_exponent(
    architecture: str | Architecture, init: str | Init = "pytorch", sign: int | None = None, alive: bool = False
) -> ClosedForm:
    """Return E log|g|, the growth of log|J| a step, as a `ClosedForm` of scale, slope and depth, if the init has it.

    Args:
        architecture, init: names, or an `Architecture` and an `Init`, at width 1.
        sign: of the state, for a bypass with one map, where it matters.
        alive: for a ReLU chain without a bypass, the exponent given that the step passes the signal; else it is -oo.

    Raises:
        ValueError: for a smooth activation, a bypass other than 0 or 1, weights for which no form is known.

    >>> import stability as st
    >>> round(st.theory.lyapunov_exponent("residual2_prelu").value(), 5)
    -0.03833
    >>> st.theory.lyapunov_exponent("residual1_relu", "uniform", sign=-1).value()
    -0.5
    >>> st.theory.lyapunov_exponent("plain_relu").expression
    -oo
    """
    found, laws = _laws(architecture, init)
    symbols = list(laws.defaults)
    name = f"E log|g| of {found.name}, {init if isinstance(init, str) else init.name}"
    if found.skip == 0:
        mean = laws.weight.mean_log + (laws.outer_weight.mean_log if found.maps == 2 else 0)
        expression = mean + sympy.log(sympy.Abs(laws.slope)) / 2 if laws.slope != 0 else -sympy.oo
        assumptions, derivation = _COIN, "g is w or slope w with probability 1/2 each: E log|w| + log|slope| / 2"
        if laws.slope == 0 and alive:
            expression, assumptions = mean, _COIN + "; given that the step passes the signal, with probability 1/2"
            derivation = "g is w, whose size does not depend on the side"
        elif laws.slope == 0:
            derivation = "g is 0 with probability 1/2"
        return _form(name, expression, laws, assumptions, derivation)
    if found.maps == 2:
        kind, sizes = _sizes(laws)
        expression = sum((_mean_log(kind, size) for size in sizes), sympy.Integer(0)) / 2
        derivation = "g is 1 + p or 1 + slope p with probability 1/2 each, p = wa wb symmetric"
        return _form(name, expression, laws, _COIN, derivation, _numeric(kind, sizes, symbols, square=False))
    parts = _one_sided(found, laws, 0 if sign is None else sign)
    expression = sum((_mean_log_one_sided(law, factor) for factor, law in parts), sympy.Integer(0)) / 2
    side = "above" if sign == 1 else "below"
    return _form(
        f"{name}, {side} 0",
        expression,
        laws,
        f"the state stays {side} 0, without biases or far from them",
        "z has the sign of w times that of the state, so g is 1 + |w| or 1 - |w|, the slope on the side where z < 0",
    )


def _mean_log_one_sided(law: Law, factor: sympy.Expr) -> sympy.Expr:
    """Return E log|1 + factor |w||."""
    c = factor * law.size
    if c == 0:
        return sympy.Integer(0)
    if law.family in ("sign", "constant"):
        return sympy.log(sympy.Abs(1 + c))
    if law.family == "uniform":
        return x_log_x(1 + c) / c - 1
    raise ValueError(f"no form is known for {law.family} weights of a bypass with one map: they cross 0")


def log_variance(architecture: str | Architecture, init: str | Init = "pytorch") -> ClosedForm:
    """Return the variance of log|g|: that of log|J| is `depth` times as large.

    >>> import stability as st
    >>> st.theory.log_variance("plain_prelu").expression
    log(Abs(slope))**2/4 + 1
    """
    found, laws = _laws(architecture, init)
    symbols = list(laws.defaults)
    name = f"Var log|g| of {found.name}, {init if isinstance(init, str) else init.name}"
    if found.skip == 0:
        if laws.slope == 0:
            raise ValueError(f"log|g| of {found.name!r} is -oo with probability 1/2: it has no variance")
        expression = laws.weight.log_variance + sympy.log(sympy.Abs(laws.slope)) ** 2 / 4
        if found.maps == 2:
            expression += laws.outer_weight.log_variance
        return _form(
            name, expression, laws, _COIN, "log|w| and the side are independent: Var log|w| + log^2|slope| / 4"
        )
    if found.maps == 1:
        raise ValueError(f"{found.name!r} has a bypass and one map: its variance is not derived here")
    kind, sizes = _sizes(laws)
    mean = sum((_mean_log(kind, size) for size in sizes), sympy.Integer(0)) / 2
    square = sum((_mean_square_log(kind, size) for size in sizes), sympy.Integer(0)) / 2
    numeric_square = _numeric(kind, sizes, symbols, square=True)
    numeric = None
    if numeric_square is not None:
        numeric_mean = (
            _numeric(kind, sizes, symbols, square=False) or ClosedForm("", mean, laws.defaults, "", "").evaluate
        )

        def numeric(*arrays: Array) -> Array:
            return np.asarray(numeric_square(*arrays) - numeric_mean(*arrays) ** 2)

    return _form(name, square - mean**2, laws, _COIN, "E log^2|g| - (E log|g|)^2 over both sides", numeric)


def moment(architecture: str | Architecture, init: str | Init = "pytorch", order: int = 2) -> ClosedForm:
    """Return E g^order. Where E g^2 > 1 and E log|g| < 0, the mean square grows while almost every member vanishes.

    >>> import stability as st
    >>> st.theory.moment("residual2_prelu", order=2).expression
    scale**2*(slope**2 + 1)/18 + 1
    """
    found, laws = _laws(architecture, init)
    order = check_integer("order", order, 1)
    if found.skip == 1 and found.maps == 1:
        raise ValueError(f"{found.name!r} has a bypass and one map: the side depends on the weight, see sign")

    def product(k: int) -> sympy.Expr:
        return laws.weight.moment(k) * laws.outer_weight.moment(k) * (1 + laws.slope**k) / 2

    bypass = int(found.skip or 0)
    terms = [
        sympy.binomial(order, k) * (product(k) if k else sympy.Integer(1)) * sympy.Integer(bypass) ** (order - k)
        for k in range(order + 1)
    ]
    expression = sympy.factor_terms(sum(terms, sympy.Integer(0)))
    name = f"E g^{order} of {found.name}, {init if isinstance(init, str) else init.name}"
    return _form(
        name, expression, laws, _COIN, "moments of a product of independent numbers, both sides equally likely"
    )


def _form(
    name: str,
    expression: Any,
    laws: Laws,
    assumptions: str,
    derivation: str,
    numeric: Callable[..., Array] | None = None,
) -> ClosedForm:
    expression = sympy.sympify(expression)
    domain = {symbol: _DOMAIN[symbol] for symbol in laws.defaults if symbol in _DOMAIN}
    if SLOPE in laws.defaults:
        # At 0 the form of a bypass is 0 / 0; a ReLU has its own.
        domain[SLOPE] = _NOT_0 if expression.has(x_log_x, sympy.polylog) else sympy.S.Reals
    return ClosedForm(name, expression, laws.defaults, assumptions, derivation, domain, numeric)
