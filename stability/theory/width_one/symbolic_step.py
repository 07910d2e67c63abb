"""The step of a chain of width 1 as a formula, read from the row of the step table that its architecture fixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import COLUMNS, check_finite, check_name
from stability.networks import Architecture, step_table
from stability.networks.architecture import find_architecture
from stability.networks.step_formula import Row, step_formulas

_FORMULAS = step_formulas()
#: The state that a step is a function of.
STATE = sympy.Symbol("h", real=True)
#: What the numbers of a step are called in print, with one affine map and with two.
_ONE_MAP = {"weight": "w", "bias": "b", "slope": "a", "skip": "s"}
_TWO_MAPS = {"weight": "w_a", "bias": "b_a", "outer_weight": "w_b", "outer_bias": "b_b", "slope": "a", "skip": "s"}
_READOUT = {"readout_weight": "w", "readout_bias": "b"}


@dataclass(frozen=True, eq=False, repr=False)
class StepFormula:
    """A step h -> skip h + outer_weight phi(weight h + bias) + outer_bias as formulas of h and its free numbers.

    Attributes:
        architecture: whose step it is.
        expression: the next state.
        derivative: of it by h; at the kink that of z <= 0, as everywhere in the library.
        sides: the two values of the derivative, for weight h + bias above 0 and not.
        kink: the state at which the step may fold, -bias / weight.
        jump: of the derivative there, from below to above: the step folds where it is not 0, and turns where the two
            `sides` have opposite signs.
        readout: what follows the last step, None for nothing.

    >>> import stability as st
    >>> formula = st.theory.step_formula("residual2_prelu")
    >>> formula.kink, formula.jump
    (-bias/weight, outer_weight*(1 - slope)*Abs(weight))
    >>> formula.sides
    (outer_weight*weight + 1, outer_weight*slope*weight + 1)
    >>> formula.value([-1.0, 2.0], weight=1, bias=0, outer_weight=3, outer_bias=0.5, slope=0.25).tolist()
    [-1.25, 8.5]
    """

    architecture: Architecture
    expression: sympy.Expr
    derivative: sympy.Expr
    sides: tuple[sympy.Expr, sympy.Expr]
    kink: sympy.Expr
    jump: sympy.Expr
    readout: sympy.Expr | None

    @property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """The free numbers of a step, named as the columns of the step table and in their order."""
        return tuple(_symbol(kind) for kind in COLUMNS if kind in self.architecture.parameters)

    @cached_property
    def _functions(self) -> dict[str, Callable[..., NDArray[np.float64]]]:
        formulas = {"expression": self.expression, "derivative": self.derivative, "kink": self.kink, "jump": self.jump}
        return {
            name: sympy.lambdify([STATE, *self.symbols], formula, modules="numpy") for name, formula in formulas.items()
        }

    def value(self, h: ArrayLike, of: str = "expression", **numbers: ArrayLike) -> NDArray[np.float64]:
        """Return a formula at states and numbers, an array of their common shape.

        Args:
            h: the states.
            of: "expression", "derivative", "kink" or "jump".
            numbers: one for each of `symbols`.

        Raises:
            ValueError, TypeError: for a name that is no symbol, one that is missing, and numbers that are not finite.
        """
        check_name("formula", of, self._functions)
        known = [symbol.name for symbol in self.symbols]
        for name in numbers:
            check_name(f"number of a step of {self.architecture.name!r}", name, known)
        missing = [name for name in known if name not in numbers]
        if missing:
            raise ValueError(f"a step of {self.architecture.name!r} needs {', '.join(known)}: got no {missing[0]}")
        arrays = [np.asarray(value, dtype=np.float64) for value in (h, *(numbers[name] for name in known))]
        for name, array in zip(("h", *known), arrays, strict=True):
            check_finite(name, array)
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        return np.broadcast_to(np.asarray(self._functions[of](*arrays), dtype=np.float64), shape).copy()

    def latex(self) -> str:
        """Return the step in LaTeX, in the notation of `Architecture.formula`."""
        two = self.architecture.maps == 2
        names = {_symbol(kind): name for kind, name in ((_TWO_MAPS if two else _ONE_MAP) | _READOUT).items()}
        text = rf"h \mapsto {sympy.latex(self.expression, symbol_names=names)}"
        if self.readout is not None:
            text += rf",\quad \text{{then }} {sympy.latex(self.readout, symbol_names=names)}"
        return text

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def __repr__(self) -> str:
        return f"StepFormula({self.architecture.name!r}, {self.expression})"


@door
def step_formula(architecture: str | Architecture) -> StepFormula:
    """Return the step of an architecture with its derivative and its fold, in sympy.

    The entries of a row that the architecture fixes are those with which chains fill their step tables; the others are
    symbols. For a chain from a step table of its own take `chain.architecture`.

    Raises:
        ValueError: for a smooth activation, which six numbers cannot hold.

    >>> import stability as st
    >>> st.theory.step_formula("residual1_relu").expression
    h + Piecewise((bias + h*weight, bias + h*weight > 0), (0, True))
    >>> st.theory.step_formula("plain_prelu").readout
    h*readout_weight + readout_bias
    """
    found = find_architecture(architecture)
    if not found.phi.piecewise_linear:
        raise ValueError(
            f"{found.name!r} has activation {found.activation!r}: six numbers hold a step only where the activation "
            "is piecewise linear"
        )
    if not found.six_numbers or found.scaled:
        raise ValueError(
            f"{found.name!r} has another order or a factor on the branch: expected a step of 1 or 2 maps in the order "
            "'between'"
        )
    row = _row({kind: kind for kind in found.kinds} | {"skip": "skip"}, step_table.fixed_entries(found))
    expression = _image(row)
    sides = tuple(_FORMULAS.gain(row, side) for side in (sympy.Integer(1), row.slope))
    readout = None
    if found.readout:
        names = {column: kind for kind, column in step_table.READOUT.items()}
        readout = _image(_row(names, step_table.READOUT_FIXED))
    return StepFormula(
        found,
        expression,
        sympy.diff(expression, STATE),
        sides,
        -row.bias / row.weight,
        row.outer_weight * (1 - row.slope) * sympy.Abs(row.weight),
        readout,
    )


def _symbol(kind: str) -> sympy.Symbol:
    return sympy.Symbol(kind, real=True)


def _row(names: Mapping[str, str], fixed: Mapping[str, float]) -> Row:
    """Return what stands in each column of a row: a number where it is fixed, else the symbol of that name."""
    return Row(*(_number(fixed[column]) if column in fixed else _symbol(names[column]) for column in COLUMNS))


def _number(value: float) -> sympy.Expr:
    """Return a float exactly, and a whole one as an integer, which sympy simplifies with."""
    return sympy.Integer(int(value)) if value == int(value) else sympy.Float(value)


def _image(row: Row) -> sympy.Expr:
    """Return what a row of the step table maps the state to."""
    z = _FORMULAS.pre_activation(row, STATE)
    # A symbol has no sign: both branches of phi stay.
    phi = sympy.Piecewise((z, z > 0), (row.slope * z, True))
    return _FORMULAS.after_activation(row, STATE, phi)
