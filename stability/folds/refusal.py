"""What is said where a network is not piecewise linear, or not in a way that can be followed."""

from __future__ import annotations

import sys
from types import FrameType
from typing import NoReturn

from torch import nn

SUPPORTED = (
    "Linear, Conv1d, Conv2d, BatchNorm in eval mode, ReLU, LeakyReLU, PReLU, Hardtanh, ReLU6, abs, clamp, maximum, "
    "minimum, MaxPool, AvgPool, AdaptiveAvgPool, Flatten, reshape, cat, stack, sums, products with constants, "
    "dropout in eval mode"
)


def refuse(what: str, why: str) -> NoReturn:
    """Raise a TypeError that names what is refused, the module in which it happened, and what still works."""
    raise TypeError(f"{what}{module_in_use()} cannot be followed along a line: {why}. What works: {SUPPORTED}")


def module_in_use() -> str:
    """Say what the innermost module of the call is, by its name in the outermost one; nothing outside of modules."""
    frame: FrameType | None = sys._getframe(1)
    modules: list[nn.Module] = []
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and (not modules or modules[-1] is not owner):
            modules.append(owner)
        frame = frame.f_back
    if not modules:
        return ""
    name = next((name for name, module in modules[-1].named_modules() if module is modules[0]), "")
    kind = type(modules[0]).__name__
    return f" in module {name!r} ({kind})" if name else f" in the module ({kind})"
