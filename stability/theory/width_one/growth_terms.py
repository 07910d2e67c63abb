"""The derivative of a step with a bypass as a mixture of terms 1 + size p, and the means of their logs and powers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import sympy
from numpy.typing import NDArray

from stability.theory.closed_form import x_log_squared_x, x_log_x
from stability.theory.width_one import quadrature
from stability.theory.width_one.init_laws import Laws

Array = NDArray[np.float64]

_Q = sympy.Symbol("q", positive=True)

#: Below this size the power series is taken, of so many terms: what follows is below 1e-16 of the leading one.
SMALL = 1 / 16
ORDERS = 17


@dataclass(frozen=True)
class Term:
    """1 + size p.

    Attributes:
        kind: of p. Symmetric: "sign", "uniform" on (-1, 1), "normal", "uniform product" of two, "product" of two
            normal numbers. Else: "constant", 1; "uniform above" and "normal above", the sizes of such numbers.
        size: the factor.
    """

    kind: str
    size: sympy.Expr

    @property
    def density(self) -> sympy.Expr:
        """The density of |p| at q."""
        if self.kind == "product":
            return 2 / sympy.pi * sympy.besselk(0, _Q)
        if self.kind in ("normal", "normal above"):
            return sympy.sqrt(2 / sympy.pi) * sympy.exp(-(_Q**2) / 2)
        return -sympy.log(_Q)

    def moment(self, order: int) -> sympy.Expr:
        """E p^order."""
        if order % 2 and self.kind != "constant" and not self.kind.endswith(" above"):
            return sympy.Integer(0)
        k = sympy.Integer(order)
        uniform = 1 / (k + 1)
        normal = sympy.simplify(2 ** (k / 2) * sympy.gamma((k + 1) / 2) / sympy.sqrt(sympy.pi))
        means = {"uniform": uniform, "uniform product": uniform**2, "normal": normal, "product": normal**2}
        return means.get(self.kind.removesuffix(" above"), sympy.Integer(1))

    @property
    def mean_log(self) -> sympy.Expr:
        """E log|1 + size p|."""
        size = self.size
        c = sympy.Abs(size) if size.is_nonnegative is None else size
        if size == 0:
            return sympy.Integer(0)
        if self.kind == "sign":
            return sympy.log(sympy.Abs(1 - c**2)) / 2
        if self.kind == "constant":
            return sympy.log(sympy.Abs(1 + size))
        if self.kind == "uniform":
            # The mean of log|t| over (1 - c, 1 + c).
            return (x_log_x(1 + c) - x_log_x(1 - c)) / (2 * c) - 1
        if self.kind == "uniform above":
            return x_log_x(1 + size) / size - 1
        if self.kind == "uniform product":
            # The density of |p| is -log q on (0, 1), and
            # int log q log(1 - a q) = 2 + (1 - a) log(1 - a) / a - Li2(a) / a.
            inner = x_log_x(1 - c) - x_log_x(1 + c)
            return -2 - (inner - sympy.polylog(2, c) + sympy.polylog(2, -c)) / (2 * c)
        value = sympy.log(1 + c * _Q) if self.kind == "normal above" else sympy.log(sympy.Abs(1 - c**2 * _Q**2)) / 2
        return sympy.Integral(self.density * value, (_Q, 0, sympy.oo))

    @property
    def mean_square_log(self) -> sympy.Expr:
        """E log^2|1 + size p|."""
        size = self.size

        def square(p: sympy.Expr) -> sympy.Expr:
            return sympy.log(sympy.Abs(1 + size * p)) ** 2

        def integral(t: sympy.Expr) -> sympy.Expr:
            """int log^2|t|."""
            return x_log_squared_x(t) - 2 * x_log_x(t) + 2 * t

        one = sympy.Integer(1)
        if size == 0:
            return sympy.Integer(0)
        if self.kind == "constant":
            return square(one)
        if self.kind == "sign":
            return (square(one) + square(-one)) / 2
        if self.kind == "uniform":
            return (integral(1 + size) - integral(1 - size)) / (2 * size)
        if self.kind == "uniform above":
            return (integral(1 + size) - 2) / size
        value = square(_Q) if self.kind == "normal above" else (square(_Q) + square(-_Q)) / 2
        return sympy.Integral(self.density * value, (_Q, 0, 1 if self.kind == "uniform product" else sympy.oo))

    @property
    def bounded(self) -> bool:
        """Whether |p| is at most 1, so that the logarithm has a power series in the size."""
        return "normal" not in self.kind and self.kind != "product"

    def series(self, square: bool) -> Callable[[Array], Array]:
        """Return the power series of the mean in the size: log(1 + x) = sum (-1)^(k + 1) x^k / k, and its square.

        With H the harmonic numbers, log^2(1 + x) = 2 sum (-1)^k H_(k - 1) x^k / k.
        """
        harmonic, coefficients = 0.0, [0.0]
        for k in range(1, ORDERS + 1):
            factor = (-1) ** k * 2 * harmonic if square else -((-1) ** k)
            coefficients.append(factor / k * float(self.moment(k)))
            harmonic += 1 / k
        return np.polynomial.Polynomial(coefficients)

    def rule(self, square: bool) -> Callable[[Array], Array] | None:
        """Return the quadrature by which a mean is taken, a function of the size, None for a closed form."""
        if self.size == 0:
            return None
        if self.kind == "normal above":
            return partial(quadrature.mean_log_above, square=square)
        if square and self.kind in ("product", "normal", "uniform product"):
            return partial(quadrature.mean_square_log, kind=self.kind)
        return partial(quadrature.mean_log, kind=self.kind) if self.kind in ("product", "normal") else None


def product_terms(laws: Laws) -> list[Term]:
    """Return both sides of a step with two maps: 1 + p and 1 + slope p, p the product of the weights."""
    size = laws.weight.size * laws.outer_weight.size
    pair = (laws.weight.family, laws.outer_weight.family)
    families = set(pair) - {"constant", "sign"}
    if size == 0:
        kind = "constant"
    elif len(families) == 2:
        raise ValueError(f"no form is known for the product of a {pair[0]} and a {pair[1]} weight")
    elif not families:
        kind = "sign"
    else:
        (family,) = families
        kind = {"uniform": "uniform product", "normal": "product"}[family] if pair == (family, family) else family
    return [Term(kind, size), Term(kind, size * laws.slope)]


def mean(values: Sequence[sympy.Expr]) -> sympy.Expr:
    """Return the mean of equally likely values."""
    return sum(values, sympy.Integer(0)) / len(values)


def mean_of_terms(
    terms: Sequence[Term], symbols: Sequence[sympy.Symbol], closed: Callable[[sympy.Expr], Callable[..., Array]]
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Return the mean over terms of the log, and of its square, as functions of the symbols' arrays.

    Args:
        closed: maps an expression in closed form to such a function.
    """

    def mean_of(square: bool) -> Callable[..., Array]:
        parts = [_numeric(term, symbols, closed, square) for term in terms]

        def evaluate(*arrays: Array) -> Array:
            shape = np.broadcast_shapes(*(np.shape(array) for array in arrays))
            return np.asarray(sum(np.broadcast_to(part(*arrays), shape) for part in parts) / len(parts))

        return evaluate

    return mean_of(square=False), mean_of(square=True)


def _numeric(
    term: Term, symbols: Sequence[sympy.Symbol], closed: Callable[[sympy.Expr], Callable[..., Array]], square: bool
) -> Callable[..., Array]:
    """Return the mean of one term: by quadrature, or in closed form but for small sizes, where that cancels."""
    size_of, rule = sympy.lambdify(symbols, term.size, modules="numpy"), term.rule(square)
    if rule is not None and not term.bounded:
        return lambda *arrays: rule(np.asarray(size_of(*arrays), float))
    whole = closed(term.mean_square_log if square else term.mean_log) if rule is None else None
    series = term.series(square)

    def evaluate(*arrays: Array) -> Array:
        size = np.asarray(size_of(*arrays), float)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = whole(*arrays) if whole is not None else rule(size)  # type: ignore[misc]
        small = np.abs(size) < SMALL
        return np.where(small, series(np.where(small, size, 0.0)), found)

    return evaluate
