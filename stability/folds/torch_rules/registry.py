"""Rules by the names of torch's functions and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from stability.folds.following import module_in_use
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse

Rule = Callable[..., object]
#: What a rule takes where torch takes tensors or numbers.
Operand = PiecewiseLinear | Tensor | float
R = TypeVar("R", bound=Rule)
#: What a refusal of a shape advises.
BATCH_OF_ONE = "if the network takes batches, give points with a batch dimension of 1, such as x[None]"


def rule(*names: str) -> Callable[[R], R]:
    """Let a function be the rule of these names."""

    def register(function: R) -> R:
        PiecewiseLinear.rules.update(dict.fromkeys(names, function))
        return function

    return register


def torch_function(name: str) -> Callable[..., object]:
    """Return what torch itself does under the name of a method or function."""
    for place in (Tensor, functional, torch):
        if hasattr(place, name):
            return cast(Callable[..., object], getattr(place, name))
    raise AttributeError(f"torch has no {name}")


@contextmanager
def naming(name: str, *shapes: torch.Size) -> Iterator[None]:
    """Say in torch's errors what they are about: this function of values, and operands, of these shapes."""
    what = f"torch's {name} of values of shape {' and operands of shape '.join(str(tuple(s)) for s in shapes)}"
    try:
        yield
    except TypeError as error:
        refuse(f"torch's {name} with these arguments", str(error))
    except IndexError as error:
        raise IndexError(f"{what}{module_in_use()}: {error}; {BATCH_OF_ONE}") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error


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
