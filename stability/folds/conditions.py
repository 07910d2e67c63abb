"""A comparison along the line: no value, but what `where` and products choose by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NoReturn

from torch import Size

from stability.folds.pieces import Pieces
from stability.folds.refuse import refuse


class Condition:
    """Where a function is larger than 0, or with `negated` where it is not."""

    #: What torch functions do with it: name -> rule, filled by `torch_rules`.
    rules: ClassVar[dict[str, Callable[..., object]]] = {}

    def __init__(self, function: Pieces, negated: bool = False) -> None:
        # As it is now: what is changed in place later becomes another function.
        self.function, self.negated = function._again(), negated

    @property
    def shape(self) -> Size:
        return self.function.shape

    def __invert__(self) -> Condition:
        return Condition(self.function, not self.negated)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        rule = cls.rules.get(getattr(func, "__name__", str(func)))
        return rule(*args, **(kwargs or {})) if rule else cls._refuse()

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self.rules:
            self._refuse()
        return lambda *args, **kwargs: self.rules[name](self, *args, **kwargs)

    @staticmethod
    def _refuse(*_: object, **__: object) -> NoReturn:
        refuse(
            "a comparison or a branch on values",
            "it is not one value here; use it in where or as a factor, or use maximum, minimum or abs",
        )

    def __mul__(self, other: object) -> object:
        return self.rules["mul"](self, other)

    __rmul__ = __mul__

    __bool__ = __float__ = __int__ = __index__ = __array__ = __len__ = __iter__ = __getitem__ = __contains__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __neg__ = __pow__ = __matmul__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse

    __hash__ = object.__hash__
