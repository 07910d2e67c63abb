"""A piecewise-linear function in the place of a tensor: what torch, numpy and Python may do to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from inspect import signature
from typing import Any, ClassVar, NoReturn, Self, cast

import numpy as np
import torch

from stability.folds.arithmetic import Arithmetic
from stability.folds.conditions import Condition
from stability.folds.numbers import Array
from stability.folds.refuse import refuse


class AsTensor(Arithmetic):
    """A function that torch takes for a tensor of the shape of its values, and of which it refuses what has no rule."""

    #: What torch functions do to a function: name -> rule(f, *args, **kwargs), filled by `torch_rules`.
    rules: ClassVar[dict[str, Callable[..., object]]] = {}

    dtype = torch.float64
    device = torch.device("cpu")
    requires_grad = False
    is_cuda = is_nested = is_quantized = is_sparse = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = getattr(func, "__name__", str(func))
        rule = cls.rules.get(name)
        if rule is None:
            refuse(f"torch's {name}", "it is not a rule for piecewise-linear functions")
        return _call(rule, f"torch's {name}", *args, **(kwargs or {}))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **kwargs: object) -> object:
        name = ufunc.__name__
        if method != "__call__" or kwargs or name not in self.rules:
            refuse(f"numpy's {name}", "it is not a rule for piecewise-linear functions")
        return _call(self.rules[name], f"numpy's {name}", *inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("T", "mT", "mH"):
            return self.rules[name](self)
        if name in type(self).rules:
            return partial(_call, type(self).rules[name], f"Tensor.{name}", self)
        if hasattr(torch.Tensor, name):
            refuse(f"Tensor.{name}", "it is not a rule for piecewise-linear functions")
        raise AttributeError(f"a PiecewiseLinear has no {name!r}")

    def __getitem__(self, index: object) -> Self:
        return cast(Self, self.rules["__getitem__"](self, index))

    def __setitem__(self, index: object, value: object) -> None:
        refuse("an assignment to entries", "build the tensor with cat or stack")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar function has no length")
        return self.shape[0]

    def _refuse_decision(self, *_: object) -> NoReturn:
        refuse("a comparison or a branch on values", "it is not one value here; use maximum, minimum or abs")

    __eq__ = __ne__ = __bool__ = __float__ = __int__ = __index__ = _refuse_decision

    __hash__ = object.__hash__

    def __lt__(self, other: object) -> object:
        return self.rules["lt"](self, other)

    def __le__(self, other: object) -> object:
        return self.rules["le"](self, other)

    def __gt__(self, other: object) -> object:
        return self.rules["gt"](self, other)

    def __ge__(self, other: object) -> object:
        return self.rules["ge"](self, other)

    def __mul__(self, other: object) -> Self:
        return cast(Self, self.rules["where"](other, self, 0.0)) if isinstance(other, Condition) else self._times(other)

    __rmul__ = __mul__

    def _refuse_jump(self, *_: object) -> NoReturn:
        refuse("a remainder, or rounding to integers,", "it jumps; use relu, abs, clamp, maximum or where")

    __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __divmod__ = __rdivmod__ = _refuse_jump
    __round__ = __floor__ = __ceil__ = __trunc__ = _refuse_jump

    def __pow__(self, _: object) -> Self:
        return refuse("a power", "it is not piecewise linear; f.norm(p) integrates |f|^p")

    __rpow__ = __pow__

    def __array__(self, *_: object, **__: object) -> Array:
        return refuse("numpy", "use f.knots, f.values and f.slopes, or f(t)")

    def __matmul__(self, other: object) -> Self:
        return cast(Self, self.rules["matmul"](self, other))

    def __rmatmul__(self, other: object) -> Self:
        return cast(Self, self.rules["matmul"](other, self))


_signature = cache(signature)


def _call(rule: Callable[..., object], name: str, /, *args: object, **kwargs: object) -> object:
    # Torch takes some arguments by either of two names.
    named = {"dim" if key == "axis" else key: value for key, value in kwargs.items()}
    args = (*args, *(named.pop(key) for key in ("input", "other") if key in named))
    try:
        _signature(rule).bind(*args, **named)
    except TypeError as error:
        refuse(f"{name} with these arguments", str(error))
    return rule(*args, **named)
