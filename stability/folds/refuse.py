"""What is said where a network is not piecewise linear, or not in a way that can be followed."""

from __future__ import annotations

import itertools
from typing import NoReturn

from torch import nn

from stability.folds.following import module_in_use
from stability.foundation.checks import check_finite

SUPPORTED = (
    "Linear, Conv1d to 3d, ConvTranspose, BatchNorm, RReLU and dropout in eval mode, ReLU, LeakyReLU, PReLU, Hardtanh, "
    "ReLU6, Hardsigmoid, Softshrink, abs, clamp, MaxPool, AvgPool, adaptive pooling, linear and nearest interpolation; "
    "what moves or copies entries (reshape, permute, index, cat, pad, roll, gather, unfold, ...); sums, and products "
    "with constants (matmul, einsum, cumsum, lerp, ...); maximum, minimum, sort, topk, median, norms of p = 1 and "
    "infinity; and where by a comparison, if it does not jump"
)


def refuse(what: str, why: str) -> NoReturn:
    """Raise a TypeError that names what is refused, the module in which it happened, and what still works."""
    raise TypeError(f"{what}{module_in_use()} cannot be followed along a line: {why}. What works: {SUPPORTED}")


def name_what_is_not_finite(net: object) -> None:
    """Raise with the parameter or buffer of a module that is not finite, if there is one."""
    if isinstance(net, nn.Module):
        for name, value in itertools.chain(net.named_parameters(), net.named_buffers()):
            if value.is_floating_point():
                check_finite(f"the module's {name}", value)
