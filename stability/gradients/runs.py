"""What the states, the products and the gradients of a network are when it runs in a format."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stability.gradients.formats import Format, in_format
from stability.gradients.layers import undisturbed
from stability.gradients.log_norms import log_norm
from stability.gradients.losses import Loss, evaluate
from stability.gradients.states import record_calls


def run_in(net: Any, x: Tensor, one: Format, loss: Loss, blocks: Any, members: bool) -> dict[str, Tensor]:
    """Run a network in a format; return the log root mean squares of what is met, (layers, seeds)."""
    copy, points = in_format(net, x, one.dtype)
    if not members:
        activations, backward = _run_module(copy, points, loss, blocks)
        return {"activations": activations, "gradients": backward}
    copy.requires_grad_(False)  # the gradients of states are enough
    activations, products = _forward_of_chain(copy, points)
    return {"activations": activations, "products": products, "gradients": _backward_of_chain(copy, points, loss)}


def _size(numbers: Tensor, kept: int = 1) -> Tensor:
    """Return the log root mean square of each seed, inf where a number is not finite."""
    return log_norm(numbers, kept).cpu() - math.log(numbers[0].numel()) / 2


def _forward_of_chain(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sizes of the states and of what a tangent becomes, the unit at width 1, a random direction else."""
    states, tangents = [], []
    shape = (len(net.members), *x.shape)
    direction = torch.ones_like(x)
    if x.ndim > 1:
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction = (drawn / drawn.norm(dim=-1, keepdim=True)).to(x)
    state, tangent = x.expand(shape).contiguous(), direction.expand(shape).contiguous()
    with torch.enable_grad():
        for step in net.steps:
            # What comes back is linear in what is sent back, and so gives what is sent forward: the same products as
            # forward differentiation, of which torch takes most in Python.
            before = state.detach().requires_grad_()
            state = step(before)
            sent = torch.zeros_like(state, requires_grad=True)
            (back,) = torch.autograd.grad(state, before, sent, create_graph=True)
            (tangent,) = torch.autograd.grad(back, sent, tangent)
            states.append(_size(state))
            tangents.append(_size(tangent))
    return torch.stack(states), torch.stack(tangents)


def _backward_of_chain(net: Any, x: Tensor, loss: Loss) -> Tensor:
    with torch.enable_grad():
        states = [x.expand(len(net.members), *x.shape).detach().clone().requires_grad_()]
        for step in net.steps:
            states.append(step(states[-1]))
        values = evaluate(loss, net.readout(states[-1]))
        # Not the sum of the losses, which may overflow where none of them does.
        found = torch.autograd.grad(values, states[:-1], torch.ones_like(values), allow_unused=True)
    zero = torch.zeros_like(states[0])
    sizes = torch.stack([_size(zero if gradient is None else gradient) for gradient in reversed(found)])
    return torch.where(values.isfinite().cpu(), sizes, math.inf)


def _run_module(net: nn.Module, x: Tensor, loss: Loss, blocks: Any) -> tuple[Tensor, Tensor]:
    with undisturbed(net), torch.enable_grad():
        calls, output = record_calls(net, x, blocks, keep_graph=True)
        value = evaluate(loss, output)
        states = [call.before for call in calls]
        wanted = [state for state in states if state.requires_grad]
        found = dict(zip(wanted, torch.autograd.grad(value, wanted, allow_unused=True), strict=True))
    activations = torch.stack([_size(call.after[None]) for call in calls])
    finite = value.isfinite().cpu()
    backward = [found.get(state) for state in reversed(states)]
    sizes = [
        _size((torch.zeros_like(state) if gradient is None else gradient)[None])
        for gradient, state in zip(backward, reversed(states), strict=True)
    ]
    return activations, torch.where(finite, torch.stack(sizes), math.inf)
