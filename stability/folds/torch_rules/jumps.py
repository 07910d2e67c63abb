"""What jumps along the line, or is otherwise known not to be piecewise linear: refused in words of its own."""

from __future__ import annotations

from typing import NoReturn

from stability.folds.refuse import refuse
from stability.folds.torch_rules.registry import rule

NAMES = (
    *("round", "floor", "ceil", "trunc", "fix", "frac", "sign", "sgn", "signbit", "heaviside", "hardshrink"),
    *("remainder", "fmod", "__mod__", "__rmod__", "floor_divide", "__floordiv__", "__rfloordiv__", "__divmod__"),
    *("long", "int", "short", "bool", "byte", "char", "argmax", "argmin", "argsort", "searchsorted", "bucketize"),
    *("eq", "ne", "equal", "__eq__", "__ne__", "isclose", "allclose", "nonzero", "count_nonzero", "argwhere"),
    *("any", "all", "logical_and", "logical_or", "logical_xor", "histc", "unique", "isnan", "isinf", "isfinite"),
)


def _refusal(name: str) -> None:
    @rule(name, *([] if name.startswith("_") else [f"{name}_"]))
    def refused(*_: object, **__: object) -> NoReturn:
        refuse(f"torch's {name.strip('_')}", "it jumps, or is a decision; use relu, abs, clamp, maximum or where")


for _name in NAMES:
    _refusal(_name)
