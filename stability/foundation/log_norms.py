"""Logs of L2 norms that neither overflow nor underflow, however small or large the entries are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Where a norm taken by squares can be trusted: the dtype it is taken in, and the norms between which entries whose
# squares underflow change it by less than rounding does. Half precision is squared in float32. Last the power of two
# that lifts a smaller tensor, exactly, to where no square underflows or overflows; float16 has none so small but zero.
_SAFE = {
    torch.float64: (torch.float64, 1e-140, 1e150, 600),
    torch.float32: (torch.float32, 1e-12, 1e15, 100),
    torch.bfloat16: (torch.float32, 1e-12, 1e15, 100),
    torch.float16: (torch.float32, 1e-12, 1e15, 0),
}
# Torch adds squares up in the dtype of the norm: 1e-6 is lost in float32 at this length, 1e-3 at 2^24.
_LONGEST = 2**18
_vector_norm = torch.linalg.vector_norm


def log_norm(tensor: Tensor, dims_kept: int = 0) -> Tensor:
    """Return the log of the L2 norm over all but the first `dims_kept` dimensions, float64, on the tensor's device.

    ln sqrt(sum_i |t_i|^2), taken in float64; float64 entries are divided by the largest of them first. -inf where all
    entries are exactly zero or there are none, +inf where one is NaN or infinite. Nothing waits for the device.

    >>> log_norm(torch.tensor([3e-30, 4e-30])).exp()
    tensor(5.0000e-30, dtype=torch.float64)
    >>> log_norm(torch.zeros(2, 3), dims_kept=1)
    tensor([-inf, -inf], dtype=torch.float64)
    """
    values = tensor.detach()
    if values.layout != torch.strided:
        # A sparse gradient may hold one entry in several parts, which only their sum tells the norm of.
        values = values.coalesce().values() if dims_kept == 0 and values.is_sparse else values.to_dense()
    if values.is_complex():
        values = torch.view_as_real(values)
    values = values.flatten(dims_kept) if values.ndim > dims_kept else values.unsqueeze(-1)
    if values.shape[-1] == 0:
        return values.new_full(values.shape[:-1], -math.inf, dtype=torch.float64)
    if values.dtype != torch.float64:
        logs = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64).log()
    else:
        largest = values.abs().amax(dim=-1, keepdim=True)
        scaled = values / torch.where(largest == 0, 1.0, largest)
        logs = torch.linalg.vector_norm(scaled, dim=-1).log() + largest.squeeze(-1).log()
    finite: Tensor = logs.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return finite


def quick_log_norm(tensor: Tensor, near: float | Tensor = 0.0) -> float | Tensor:
    """Return `log_norm(tensor)`, as a float where the tensor is on the CPU, and on other devices a tensor.

    On the CPU a norm in the tensor's own precision, part by part, is a fifth of the cost and right unless it is near
    the ends of the range, to 1e-6 relative in float32 and less; only there is it taken again, a small one of the lifted
    tensor.

    Args:
        tensor: of any kind.
        near: a guess of the result, by which a small tensor is lifted at once.

    >>> round(quick_log_norm(torch.tensor([3.0, 4.0])), 6)
    1.609438
    """
    safe = _SAFE.get(tensor.dtype)
    if not tensor.is_cpu:
        return log_norm(tensor)
    if safe is None or tensor.layout is not torch.strided:
        return log_norm(tensor).item()
    if tensor.requires_grad:
        tensor = tensor.detach()
    dtype, low, high, lift = safe
    if near < math.log(low) and (norm := _norm(tensor * 2.0**lift, dtype)) and norm < high:
        return math.log(norm) - lift * math.log(2)
    norm = _norm(tensor, dtype)
    if low < norm < high:
        return math.log(norm)
    if math.isnan(norm):  # finite entries give no NaN, if their squares overflow they give infinity
        return math.inf
    if norm > low:
        return log_norm(tensor).item()
    norm = _norm(tensor * 2.0**lift, dtype)
    return math.log(norm) - lift * math.log(2) if norm > 0 else -math.inf


def _norm(values: Tensor, dtype: torch.dtype) -> float:
    """Return the norm of a tensor on the CPU by squares in a dtype, whose range they may leave."""
    if values.numel() > _LONGEST and dtype is torch.float32:
        if values.dtype is dtype and values.is_contiguous():
            parts = values.view(-1).tensor_split(-(-values.numel() // _LONGEST))
            return math.hypot(*[_vector_norm(part).item() for part in parts])
        dtype = torch.float64
    norm: float = (_vector_norm(values) if values.dtype is dtype else _vector_norm(values, dtype=dtype)).item()
    return norm


def combine(logs: Tensor, dim: int) -> Tensor:
    """Return the log of the root of the sum of squares, ln sqrt(sum_i exp(2 a_i)), along one dimension.

    So the norms of parts become that of the whole. -inf counts as zero, and +inf gives +inf.

    >>> combine(torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64).log(), dim=0).exp()
    tensor(5.0000, dtype=torch.float64)
    """
    # Faster than torch.logsumexp by a factor of three.
    largest = logs.amax(dim=dim, keepdim=True)
    shift = torch.where(largest.isinf(), 0.0, largest)
    return (2 * (logs - shift)).exp().sum(dim=dim).log() / 2 + shift.squeeze(dim)
