"""A theorem with its check: an expression, the numbers it may be asked for, and samples it is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from scipy.special import spence, xlogy

from stability.foundation.arguments import check_numbers
from stability.foundation.checks import check_finite, check_name

Array = NDArray[np.float64]


class x_log_x(sympy.Function):  # type: ignore[misc]
    """x log|x|, 0 at 0."""

    @classmethod
    def eval(cls, x: sympy.Expr) -> sympy.Expr | None:
        """Return the value where x is a number."""
        if x.is_zero:
            return sympy.Integer(0)
        return x * sympy.log(sympy.Abs(x)) if x.is_number else None

    def _latex(self, printer: Any) -> str:
        (x,) = self.args
        return str(printer._print(x * sympy.log(sympy.Abs(x))))


class x_log_squared_x(sympy.Function):  # type: ignore[misc]
    """x log^2|x|, 0 at 0."""

    @classmethod
    def eval(cls, x: sympy.Expr) -> sympy.Expr | None:
        """Return the value where x is a number."""
        if x.is_zero:
            return sympy.Integer(0)
        return x * sympy.log(sympy.Abs(x)) ** 2 if x.is_number else None

    def _latex(self, printer: Any) -> str:
        (x,) = self.args
        return str(printer._print(x * sympy.log(sympy.Abs(x)) ** 2))


def _x_log_squared_x(x: Array) -> Array:
    size = np.abs(x)
    return np.asarray(x * np.log(np.where(size > 0, size, 1.0)) ** 2)


def _dilogarithm(order: int, z: Array) -> Array:
    """Return the real part of Li_2, for real z of any size."""
    if order != 2:
        raise NotImplementedError(f"polylog({order}, z): only the dilogarithm is evaluated in float64")
    return np.asarray(spence(1 - np.asarray(z, complex)).real)


@dataclass(frozen=True)
class Agreement:
    """What a sample says of a closed form.

    Attributes:
        predicted: the value of the form.
        measured: the mean of the sample.
        standard_error: of that mean.
        z: (measured - predicted) / standard_error; 0 where both agree exactly.
    """

    predicted: float
    measured: float
    standard_error: float

    @property
    def z(self) -> float:
        difference = self.measured - self.predicted
        return 0.0 if difference == 0 else difference / self.standard_error if self.standard_error else math.inf


@dataclass(frozen=True, eq=False, repr=False)
class ClosedForm:
    """A quantity in closed form.

    Attributes:
        name: what it is.
        expression: in sympy; an unevaluated integral where sympy has no closed form.
        defaults: the symbols in it, with the numbers that they have where nothing else is said.
        assumptions: under which it holds, in words.
        derivation: in a few lines, or the source.
        domain: for each symbol the set of numbers that it may be, a sympy set; the reals for one not named.
        numeric: the function of the symbols' arrays, in the order of `defaults`, by which the expression is evaluated
            in float64 where it is an integral, or a sum whose terms may cancel; None where it is taken as it stands.
        closed: whether the expression is in closed form, without an integral.

    >>> import stability as st
    >>> form = st.theory.lyapunov_exponent("plain_prelu", init="pytorch")
    >>> form.expression
    log(scale) + log(Abs(slope))/2 - 1
    >>> round(form.value(), 5)
    -1.69315
    >>> form.value(slope=[0.25, 1.0]).round(5).tolist()
    [-1.69315, -1.0]
    """

    name: str
    expression: sympy.Expr
    defaults: Mapping[sympy.Symbol, float | sympy.Expr]
    assumptions: str
    derivation: str
    domain: Mapping[sympy.Symbol, sympy.Set] = field(default_factory=dict)
    numeric: Callable[..., Array] | None = None
    closed: bool = True

    @property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """The symbols of the expression that numbers may be given for."""
        return tuple(self.defaults)

    @property
    def how(self) -> str:
        """How `value` comes about: "closed form" or "quadrature"."""
        return "closed form" if self.closed else "quadrature"

    @cached_property
    def evaluate(self) -> Callable[..., Any]:
        """The value as a function of arrays for all symbols, in their order, with nothing checked."""
        if self.numeric is not None:
            return self.numeric
        special = {
            "polylog": _dilogarithm,
            "x_log_x": lambda x: xlogy(x, np.abs(x)),
            "x_log_squared_x": _x_log_squared_x,
        }
        return sympy.lambdify(self.symbols, self.expression, modules=[special, "scipy", "numpy"])  # type: ignore[no-any-return]

    def value(self, **numbers: ArrayLike) -> Any:
        """Return the value at the numbers given, a float or, for arrays, an array of their common shape.

        Raises:
            ValueError, TypeError: for a name that is no symbol, and for a number outside its domain.
        """
        known = {symbol.name: symbol for symbol in self.defaults}
        for name in numbers:
            check_name(f"symbol of {self.name!r}", name, known)
        arrays = []
        for name, symbol in known.items():
            given = numbers.get(name, float(self.defaults[symbol]))
            check_numbers(name, given)
            array = np.asarray(given, dtype=np.float64)
            self._check(symbol, array)
            arrays.append(array)
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        with np.errstate(divide="ignore"):  # the log of an exact zero is -inf
            found = np.broadcast_to(np.asarray(self.evaluate(*arrays), dtype=np.float64), shape)
        return float(found) if shape == () else found.copy()

    def _check(self, symbol: sympy.Symbol, array: Array) -> None:
        check_finite(symbol.name, array)
        allowed = self.domain.get(symbol, sympy.S.Reals)
        if allowed is sympy.S.Reals:
            return
        # A sympy set as a function of an array; of a symbol that is known to be positive it would not ask that.
        any_number = sympy.Dummy(real=True)
        inside = sympy.lambdify(any_number, allowed.as_relational(any_number), modules="numpy")
        good = np.broadcast_to(np.asarray(inside(array), dtype=bool), array.shape)
        if not good.all():
            bad = float(array[~good].flat[0]) if array.ndim else float(array)
            raise ValueError(f"{symbol.name} is {bad:g}: {self.name!r} holds for {symbol.name} in {allowed}")

    def check(self, sample: ArrayLike, **numbers: ArrayLike) -> Agreement:
        """Hold the value at the numbers given against independent numbers whose mean it should be.

        Args:
            sample: at least two numbers.
        """
        values = np.asarray(sample, dtype=np.float64).reshape(-1)
        if len(values) < 2:
            raise ValueError(f"the sample has {len(values)} numbers: expected at least two, for a standard error")
        check_finite("the sample", values)
        error = float(values.std(ddof=1) / math.sqrt(len(values)))
        return Agreement(float(self.value(**numbers)), float(values.mean()), error)

    def latex(self) -> str:
        """Return the expression in LaTeX, its symbols upright, for they are words."""
        names = {symbol: rf"\mathrm{{{symbol.name}}}" for symbol in self.symbols}
        return str(sympy.latex(self.expression, symbol_names=names))

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def __repr__(self) -> str:
        return f"ClosedForm({self.name!r}, {self.expression}, {self.how})"
