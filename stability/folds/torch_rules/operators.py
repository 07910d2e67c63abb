"""Rules of arithmetic with two operands, one of which may be a tensor or a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from stability.folds.piecewise import PiecewiseLinear
from stability.folds.torch_rules.registry import Operand, function_first, in_place, rule


def _binary(name: str, operate: Callable[[Operand, Operand], PiecewiseLinear], *aliases: str) -> None:
    @rule(name, f"__{name}__", *aliases)
    def operated(a: Operand, b: Operand, *, alpha: float = 1) -> PiecewiseLinear:
        return operate(a, b * alpha if alpha != 1 else b)

    in_place(name)


def _add(a: Operand, b: Operand) -> PiecewiseLinear:
    f, other = function_first(a, b)
    return f + other


def _subtract(a: Operand, b: Operand) -> PiecewiseLinear:
    return a - b if isinstance(a, PiecewiseLinear) else cast(PiecewiseLinear, b).__rsub__(a)


def _multiply(a: Operand, b: Operand) -> PiecewiseLinear:
    f, other = function_first(a, b)
    return f * other


def _divide(a: Operand, b: Operand) -> PiecewiseLinear:
    return a / b if isinstance(a, PiecewiseLinear) else cast(PiecewiseLinear, b).__rtruediv__(a)


_binary("add", _add, "__radd__")
_binary("sub", _subtract, "subtract")
_binary("mul", _multiply, "multiply", "__rmul__")
_binary("div", _divide, "divide", "true_divide", "__truediv__")
rule("rsub", "__rsub__")(lambda a, b: -(a - b))
rule("neg", "negative")(lambda f: -f)
