"""Rules of what a tensor says of itself, of its kinds of numbers, and of constants of its shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stability.folds.pieces import view
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.registry import Rule, rule

_WITHOUT_FRACTIONS = ("Long", "Int", "Short", "Byte", "Char", "Bool")


def check_kind(name: str, *given: object) -> None:
    """Refuse a cast to numbers that have no fractions."""
    for value in given:
        # A dtype, a tensor of it, or its name as that of a class of tensors.
        kind = value.dtype if isinstance(value, Tensor) else value
        if isinstance(kind, torch.dtype) and not kind.is_floating_point:
            refuse(f"torch's {name} to {kind}", "it jumps")
        if isinstance(kind, type | str) and any(
            word in str(kind) for word in ("Long", "Int", "Short", "Byte", "Char", "Bool")
        ):
            refuse(f"torch's {name} to {kind}", "it jumps")


@rule("contiguous", "detach", "to", "double", "float", "half", "bfloat16", "type_as", "type", "cpu", "requires_grad_")
def _(f: PiecewiseLinear, *args: object, **kwargs: object) -> PiecewiseLinear:
    check_kind("cast", *args, *kwargs.values())
    return view(f, f._again())


rule("positive")(lambda f: view(f, f._again()))


@rule("size")
def _(f: PiecewiseLinear, dim: int | None = None) -> torch.Size | int:
    return f.shape if dim is None else f.shape[dim]


rule("dim", "ndimension")(lambda f: len(f.shape))
rule("numel", "nelement")(lambda f: f.shape.numel())
rule("is_floating_point")(lambda f: True)  # noqa: ARG005
rule("is_complex")(lambda f: False)  # noqa: ARG005


def _constant(number: float) -> tuple[Rule, Rule]:
    def like(f: PiecewiseLinear, **kwargs: object) -> Tensor:
        return _full(f, f.shape, number, **kwargs)

    def new(f: PiecewiseLinear, *sizes: int | Sequence[int], **kwargs: object) -> Tensor:
        size = kwargs.pop("size", sizes[0] if len(sizes) == 1 else sizes)
        return _full(f, size, number, **kwargs)

    return like, new


def _full(f: PiecewiseLinear, size: object, number: object, **kwargs: object) -> Tensor:
    given = {"dtype": f.dtype, "device": f.device} | {key: v for key, v in kwargs.items() if v is not None}
    return torch.full(torch.Size((size,) if isinstance(size, int) else size), number, **given)  # type: ignore[arg-type, call-overload, no-any-return]


for _name, _number in (("zeros", 0.0), ("ones", 1.0)):
    _like, _new = _constant(_number)
    rule(f"{_name}_like")(_like)
    rule(f"new_{_name}")(_new)
rule("new_full")(_full)


@rule("full_like")
def _(f: PiecewiseLinear, fill_value: float, **kwargs: object) -> Tensor:
    return _full(f, f.shape, fill_value, **kwargs)


@rule("new_tensor")
def _(f: PiecewiseLinear, data: object, **kwargs: object) -> Tensor:
    return torch.tensor(data, **({"dtype": f.dtype} | kwargs))  # type: ignore[arg-type]
