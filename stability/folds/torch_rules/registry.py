"""Rules by the names of torch's functions and methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

from torch import Tensor

from stability.folds.piecewise import PiecewiseLinear

Rule = Callable[..., object]
#: What a rule takes where torch takes tensors or numbers.
Operand = PiecewiseLinear | Tensor | float
R = TypeVar("R", bound=Rule)


def rule(*names: str) -> Callable[[R], R]:
    """Let a function be the rule of these names."""

    def register(function: R) -> R:
        PiecewiseLinear.rules.update(dict.fromkeys(names, function))
        return function

    return register


def in_place(name: str) -> None:
    """Let name_ be the in-place form of the rule `name`."""
    function = cast(Callable[..., PiecewiseLinear], PiecewiseLinear.rules[name])

    @wraps(function)
    def replacing(f: PiecewiseLinear, *args: object, **kwargs: object) -> PiecewiseLinear:
        return f._become(function(f, *args, **kwargs))

    rule(name + "_")(replacing)


def function_first(a: Operand, b: Operand) -> tuple[PiecewiseLinear, Operand]:
    """Return two operands, one of which at least is a function, in an order in which it is the first."""
    return (a, b) if isinstance(a, PiecewiseLinear) else (cast(PiecewiseLinear, b), a)
