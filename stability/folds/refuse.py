"""What is said where a network is not piecewise linear, or not in a way that can be followed."""

from __future__ import annotations

from typing import NoReturn

from stability.folds.following import followed_where, module_in_use

SUPPORTED = (
    "Linear, Conv1d to 3d, ConvTranspose, BatchNorm, RReLU and dropout in eval mode, ReLU, LeakyReLU, PReLU, Hardtanh, "
    "ReLU6, Hardsigmoid, Softshrink, abs, clamp, MaxPool, AvgPool, adaptive pooling, linear and nearest interpolation; "
    "what moves or copies entries (reshape, permute, index, cat, pad, roll, gather, unfold, ...); sums, and products "
    "with constants (matmul, einsum, cumsum, lerp, ...); maximum, minimum, sort, topk, median, norms of p = 1 and "
    "infinity; and where by a comparison, if it does not jump"
)


def refuse(what: str, why: str) -> NoReturn:
    """Raise a TypeError that names what is refused, the module in which it happened, and what still works."""
    raise TypeError(f"{what}{module_in_use()} cannot be followed {followed_where()}: {why}. What works: {SUPPORTED}")
