"""Tensors with one exponent of 2 each, and their sums and norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stability.foundation.formats import Format
from stability.foundation.log_norms import log_norm

#: The tensor times 2 to the exponent.
Part = tuple[Tensor, int]


def largest_of(tensor: Tensor) -> float:
    """Return the modulus of the largest entry, inf or NaN where one is not finite, 0 where there are none."""
    return float(torch.linalg.vector_norm(tensor.detach(), ord=math.inf)) if tensor.numel() else 0.0


def log2_size(part: Part) -> int | None:
    """Return the exponent of 2 just above the largest entry, None where all are zero or one is not finite."""
    size = largest_of(part[0])
    return math.frexp(size)[1] + part[1] if 0 < size < math.inf else None


def times_power_of_2(tensor: Tensor, exponent: int, unit: int) -> Tensor:
    """Return tensor * 2^exponent in units of 2^unit, by exact products as long as the result is in the range."""
    power, most = exponent - unit, Format(tensor.dtype).largest_power
    if power == 0:
        return tensor
    power = max(-4000, min(4000, power))
    while power:
        part = max(-most, min(most, power))
        tensor = tensor * 2.0**part
        power -= part
    return tensor


def scaled_sum(parts: Sequence[Part]) -> Part:
    """Return the sum as one part: in the dtype of the parts if there is one of them, else in float64."""
    if len(parts) == 1:
        return parts[0]
    sizes = [size for size in map(log2_size, parts) if size is not None]
    top = max(sizes, default=0)
    wide = torch.complex128 if any(tensor.is_complex() for tensor, _ in parts) else torch.float64
    total = None
    for tensor, exponent in parts:
        shifted = times_power_of_2(tensor.to(wide), exponent, top)
        total = shifted if total is None else total + shifted
    assert total is not None
    return total, top


def log_norm_of(parts: Sequence[Part]) -> float:
    """Return the log of the L2 norm of all the parts together, -inf for zeros, inf where a number is not finite."""
    logs = [log_norm_of_one(part) for part in parts]
    if len(logs) == 1:
        return logs[0]
    top = max(logs, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(sum(math.exp(2 * (one - top)) for one in logs)) / 2


def log_norm_of_one(part: Part) -> float:
    """Return the log of the L2 norm of a part."""
    tensor, exponent = part
    # Entries of a coarser format, and moderate ones, have squares that float64 holds.
    wide = torch.float64 if not tensor.is_complex() else torch.complex128
    norm = float(torch.linalg.vector_norm(tensor.detach(), dtype=wide)) if tensor.numel() else 0.0
    if 1e-140 < norm < 1e150:
        return math.log(norm) + exponent * math.log(2)
    return float(log_norm(tensor)) + exponent * math.log(2)
