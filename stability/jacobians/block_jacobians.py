"""The Jacobian of one block at every point of a batch, by automatic differentiation that checks itself."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from stability.jacobians.blocks import Block, check_output
from stability.jacobians.products import Array

#: How many numbers of a state a batch may hold at once: what a block keeps for its backward pass is a multiple of it.
CHUNK = 2**22


def block_jacobian(name: str, block: Block, state: Tensor, batch_dims: int = 1) -> Array:
    """Return the Jacobian of `block` at every point, float64 (*batch, m, n), states flattened.

    All points go through the block together, once for every entry of its output, or of its input where that is
    smaller. Nothing is vectorised over by torch.vmap, under which some modules are silently wrong (nn.PReLU where
    the batch has as many points as the state channels): the points are repeated instead. Two random probes of the
    points as they came, one in each mode of differentiation, are held against the matrix.

    Raises:
        TypeError, ValueError: for a block whose output is no tensor or has another batch, that is random, that lets
            one point depend on another, that cuts the gradient, or whose Jacobian is not finite.
    """
    batch, shape = state.shape[:batch_dims], state.shape[batch_dims:]
    with torch.enable_grad():
        leaf = state.detach().clone().requires_grad_()
        raw = block(leaf.clone())
        output = check_output(name, state, raw, batch_dims)
        out_shape = output.shape[batch_dims:]
        if not raw.requires_grad:
            raise ValueError(
                f"block {name} cuts the gradient (detach, no_grad, or an output that does not depend on the state): "
                "its Jacobian cannot be taken"
            )
        generator = torch.Generator().manual_seed(0)
        left = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        right = torch.randn(state.shape, generator=generator, dtype=torch.float64).to(state)
        (pulled,) = torch.autograd.grad(raw, leaf, left)
    m, n = math.prod(out_shape), math.prod(shape)
    forward = n < m
    unit = torch.eye(min(m, n), dtype=state.dtype, device=state.device).expand(*batch, -1, -1)
    got = derivatives(name, block, state, unit, forward, batch_dims, output)
    jacobian = got.mT if forward else got
    if not jacobian.isfinite().all():
        bad = (~jacobian.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the Jacobian of block {name} is not finite at point {tuple(bad[:batch_dims])}, entry "
            f"{tuple(bad[batch_dims:])}: look at what the block does there (a root of 0, a division by 0, an overflow)"
        )
    probes = [(jacobian.mT, left, pulled, "the points as they came, in reverse mode")]
    try:
        pushed, _ = _pushed(block, state, right)
        probes.append((jacobian, right, pushed, "forward mode"))
    except (NotImplementedError, RuntimeError):
        pass  # not every operation has a forward mode: the other probe remains
    for matrix, direction, expected, mode in probes:
        _compare_probe(name, matrix, direction.double().cpu(), expected.double().cpu(), mode, batch_dims, state.dtype)
    return np.ascontiguousarray(jacobian.numpy())


def derivatives(
    name: str,
    block: Block,
    state: Tensor,
    directions: Tensor,
    forward: bool,
    batch_dims: int = 1,
    output: Tensor | None = None,
) -> Tensor:
    """Return J v for every direction v (forward), or J^T v, at every point, without forming J.

    Args:
        name, block, state, batch_dims: as for `block_jacobian`.
        directions: (*batch, q, n), or (*batch, q, m) in reverse.
        forward: which mode.
        output: what the block gives, to be held against what it gives for repeated points.

    Returns:
        float64 on the CPU, (*batch, q, m), or (*batch, q, n) in reverse.
    """
    *lead, points = state.shape[:batch_dims]
    q = directions.shape[-2]
    copies = max(1, CHUNK // max(1, math.prod(lead) * points * directions.shape[-1]))
    parts = []
    for start in range(0, q, copies):
        some = directions[..., start : start + copies, :].to(state)
        count = some.shape[-2]
        # (*lead, points, count, n) -> (*lead, count * points, n): all points, once for every direction.
        along = some.movedim(-2, -3).reshape(*lead, count * points, -1)
        repeated = _repeat(state, count, batch_dims)
        try:
            got, value = (_pushed if forward else _pulled)(block, repeated, along)
        except RuntimeError as error:
            if isinstance(error, NotImplementedError):
                raise
            raise ValueError(f"block {name} fails on its points repeated {count} times: {error}") from error
        if output is not None:
            _compare_values(name, value, _repeat(output, count, batch_dims))
        got = got.reshape(*lead, count, points, -1).movedim(-3, -2)
        parts.append(got.detach().to("cpu", torch.float64))
    return torch.cat(parts, dim=-2)


def _repeat(state: Tensor, count: int, batch_dims: int) -> Tensor:
    """Return the points `count` times over, one copy of all after another."""
    lead, rest = state.shape[: batch_dims - 1], state.shape[batch_dims - 1 :]
    wide = state.detach().unsqueeze(batch_dims - 1).expand(*lead, count, *rest)
    return wide.reshape(*lead, count * rest[0], *rest[1:])


def _pulled(block: Block, state: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = state.detach().clone().requires_grad_()
        output = block(leaf.clone())  # a block may work in place, which a leaf does not allow
        (gradient,) = torch.autograd.grad(output, leaf, cotangent.reshape(output.shape))
    return gradient, output.detach()


def _pushed(block: Block, state: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    # Of attention only the plain formula has a forward mode on every device.
    with torch.enable_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        dual = forward_ad.make_dual(state.detach().clone(), tangent.reshape(state.shape))  # type: ignore[no-untyped-call]
        output = block(dual.clone())
        value, derivative = forward_ad.unpack_dual(output)  # type: ignore[no-untyped-call]
    if derivative is None:
        derivative = torch.zeros_like(value)
    return derivative.detach(), value.detach()


def _compare_values(name: str, value: Tensor, expected: Tensor) -> None:
    if value.shape != expected.shape:
        raise ValueError(
            f"block {name} gives {tuple(value.shape)} for a repeated batch: expected {tuple(expected.shape)}"
        )
    scale = float(expected.abs().max())
    error = float((value - expected).abs().max())
    if error > 1e3 * torch.finfo(value.dtype).eps * math.sqrt(expected[0].numel()) * scale:
        raise ValueError(
            f"block {name} gives other values for the same points in a larger batch (by {error:.1e}): it is random, "
            "or lets one point depend on another. Call model.eval(), or take out what does"
        )


def _compare_probe(
    name: str, matrix: Tensor, direction: Tensor, expected: Tensor, mode: str, batch_dims: int, dtype: torch.dtype
) -> None:
    v = direction.reshape(*direction.shape[:batch_dims], -1, 1)
    got = (matrix @ v)[..., 0]
    size = (matrix.abs() @ v.abs())[..., 0].amax(dim=-1, keepdim=True)
    error = (got - expected.reshape(got.shape)).abs()
    allowed = 1e3 * torch.finfo(dtype).eps * math.sqrt(matrix.shape[-1]) * size
    if (error > allowed).any():
        bad = (error > allowed).nonzero()[0].tolist()
        raise ValueError(
            f"the Jacobian of block {name} at point {tuple(bad[:batch_dims])} disagrees with a random probe by {mode} "
            f"({float(error.max()):.1e}): the block lets points depend on each other, or has a wrong derivative in one "
            "mode"
        )
