"""What is said where a network is not piecewise linear, or not in a way that can be followed."""

from __future__ import annotations

from typing import NoReturn

from stability.folds.following import module_in_use

SUPPORTED = (
    "Linear, Conv1d, Conv2d, BatchNorm in eval mode, ReLU, LeakyReLU, PReLU, Hardtanh, ReLU6, abs, clamp, maximum, "
    "minimum, MaxPool, AvgPool, AdaptiveAvgPool, Flatten, reshape, cat, stack, sums, products with constants, "
    "dropout in eval mode"
)


def refuse(what: str, why: str) -> NoReturn:
    """Raise a TypeError that names what is refused, the module in which it happened, and what still works."""
    raise TypeError(f"{what}{module_in_use()} cannot be followed along a line: {why}. What works: {SUPPORTED}")
