"""The gradients of a chain of any width and activation, step by step, all seeds at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from stability.foundation.log_norms import combine
from stability.foundation.scaled_tensors import Scaled
from stability.networks import Chain
from stability.reading.chain_reading import Steps
from stability.signals.gradient_norms import GradientNorms
from stability.signals.losses import Loss, loss_of_members


def step_gradients(reading: Steps, loss: Loss, memory: float = 4.0) -> GradientNorms:
    """Return the gradient norms of a chain by automatic differentiation of one step after the other.

    What goes back from step to step is brought to order 1 for each seed, by a power of 2, so that it cannot leave the
    range; the state is that of the chain's own dtype. Points are taken in portions that fit into `memory` GiB.
    """
    reading.check()
    net, x = reading.chain, reading.x
    one = reading.part(0, 1).states(graph=False)
    with torch.no_grad():
        output = net(x)
    values, cotangents = loss_of_members(loss, output)
    seeds, kinds = len(net.members), tuple(k for k, v in net.named_parameters() if v.requires_grad)
    inner = tuple(kind for kind in kinds if not kind.startswith("readout"))
    numbers = sum(math.prod(state.shape) for state in one) * x.element_size()
    portion = max(1, int(memory * 2**30 / numbers))
    gradients: list[dict[str, Scaled]] = [{} for _ in range(net.depth)]
    outside: dict[str, Scaled] = {}
    squares = torch.full((net.depth + 1, seeds), -math.inf, dtype=torch.float64, device=x.device)
    for start in range(0, len(x), portion):
        part = slice(start, start + portion)
        states = [state.tensor for state in reading.part(start, start + portion).states(graph=False)]
        back = Scaled.of(cotangents[:, part], torch.zeros(seeds, dtype=torch.int64, device=x.device))
        squares[-1] = torch.logaddexp(squares[-1], 2 * back.log_norm())
        last = {kind: net.get_parameter(kind) for kind in kinds if kind.startswith("readout")}
        back = _through(net.readout, states[-1], last, back, outside)
        with torch.enable_grad():
            steps = net.steps
        for layer in range(net.depth - 1, -1, -1):
            # `squares` holds what reaches the state before a layer; after the read-out that is the last state.
            step = steps[layer]
            values_of = {kind: step.values[kind] for kind in inner}
            back = _through(step, states[layer], values_of, back, gradients[layer])
            squares[layer] = torch.logaddexp(squares[layer], 2 * back.log_norm())
    log_kinds = {kind: torch.stack([g[kind].log_norm() for g in gradients]).cpu() for kind in inner}
    weights = {
        kind: torch.stack(
            [g[kind].times(s.values[kind].detach()).log_norm() for g, s in zip(gradients, net.steps, strict=True)]
        )
        for kind in inner
        if kind.endswith("weight")
    }
    named = {kind: _whole(net, kind, gradients, log_kinds[kind]) for kind in inner}
    return GradientNorms.of_chain(
        net,
        log_kinds,
        (squares[:-1] / 2).cpu(),
        combine(torch.stack(list(log_kinds.values())), 0) if log_kinds else None,
        combine(torch.stack(list(weights.values())), 0).cpu() if weights else None,
        named=named | {kind: value.log_norm().cpu() for kind, value in outside.items()},
        output=(squares[-1] / 2).cpu(),
        loss=values.double().cpu(),
        path="autograd",
    )


def _whole(net: Chain, kind: str, gradients: list[dict[str, Scaled]], logs: Tensor) -> Tensor:
    """Return the log of the norm of the gradient of a parameter as a whole, which is a sum where all steps share it."""
    if not net.architecture.shared:
        return combine(logs, 0)
    return reduce(operator.add, [g[kind] for g in gradients]).log_norm().cpu()


def _through(
    function: Callable[[Tensor], Tensor],
    state: Tensor,
    values: Mapping[str, Tensor],
    back: Scaled,
    total: dict[str, Scaled],
) -> Scaled:
    """Take a gradient back through a function of the state, and add that of its parameters to `total`."""
    with torch.enable_grad():
        leaf = state.detach().clone().requires_grad_()
        output = function(leaf)
        if output is leaf:
            return back
        found = torch.autograd.grad(output, [leaf, *values.values()], back.mantissa, allow_unused=True)
    for (kind, value), gradient in zip(values.items(), found[1:], strict=True):
        gradient = torch.zeros_like(value) if gradient is None else gradient
        scaled = Scaled.of(gradient, back.exponent)
        total[kind] = total[kind] + scaled if kind in total else scaled
    return Scaled.of(found[0], back.exponent)
