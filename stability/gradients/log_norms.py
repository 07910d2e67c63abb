"""Logarithms of L2 norms that neither overflow nor underflow on the way."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_norm(tensor: Tensor, dims_kept: int = 0) -> Tensor:
    """Return the log of the L2 norm over all but the first `dims_kept` dimensions, float64: -inf for zeros.

    Entries that are not finite give inf.
    """
    flat = tensor.detach().double().reshape((*tensor.shape[:dims_kept], -1))
    if flat.shape[-1] == 0:
        return torch.full(flat.shape[:-1], -math.inf, dtype=torch.float64, device=flat.device)
    flat = torch.where(flat.isnan(), math.inf, flat.abs())
    largest = flat.amax(dim=-1)
    # A power of 2, so that nothing is rounded, and squares of what matters stay in the range.
    exponent = torch.frexp(largest).exponent
    scaled = torch.ldexp(torch.ldexp(flat, -(exponent // 2)[..., None]), -(exponent - exponent // 2)[..., None])
    logs = 0.5 * scaled.square().sum(dim=-1).log() + exponent.double() * math.log(2)
    return torch.where(largest == math.inf, math.inf, torch.where(largest == 0, -math.inf, logs))


def combine(logs: Tensor, dim: int) -> Tensor:
    """Return the log of the root of the sum of squares along `dim`, of logs."""
    largest = logs.amax(dim=dim, keepdim=True)
    shift = torch.where(largest.isinf(), 0.0, largest)
    return (2 * (logs - shift)).exp().sum(dim=dim).log() / 2 + shift.squeeze(dim)
