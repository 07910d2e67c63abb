"""What the states, the products and the gradients of a network are when it runs in a format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stability.foundation.log_norms import log_norm
from stability.reading.chain_reading import Steps
from stability.reading.derivatives import closed
from stability.reading.network import Network
from stability.reading.refusals import refuse_chance
from stability.reading.states import State
from stability.reading.traces import unchanged
from stability.reading.trees import named_tensors
from stability.reading.widened import widened
from stability.signals.losses import Loss, evaluate


@dataclass(frozen=True)
class FormatRun:
    """A run of a network, forward and, with a loss, backward.

    Attributes:
        layers, members: the names of the layers and the numbers of the seeds.
        states: before the first layer and after each, (seeds, ...); of a module there is one seed.
        gradients: (layers, seeds), from the output on: the log root mean square of the gradient with respect to the
            state before each layer, inf where one of its numbers is not finite; None without a loss.
        narrow: of an exact run the names of modules that work in a narrower format in the network itself.
        inside: of a module int64 (layers, 1), how many of the tensors that a layer makes hold a NaN or +inf; None where
            that was not asked for.
        outputs: of a module the floating tensors that it returns, by name.
    """

    layers: tuple[str, ...]
    members: tuple[int, ...]
    states: list[Tensor]
    gradients: Tensor | None = None
    narrow: tuple[str, ...] = ()
    inside: Tensor | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def activations(self) -> Tensor:
        """(layers, seeds), the log root mean square of the states after the layers, inf where one is not finite."""
        return torch.stack([size_of(state) for state in self.states[1:]])


def run_in(
    reading: Steps | Network,
    loss: Loss | None = None,
    before: Sequence[bool] = (),
    exact: bool = False,
    only_look: bool = False,
    inside: bool = False,
) -> FormatRun:
    """Run a network once.

    Args:
        reading: the network, in its format.
        loss: whose gradients are wanted too.
        before: of a module, before which layers the gradient of the state is wanted.
        exact: whether states must stay in the range of the format, and all of a module work in float64.
        inside: whether to look at all that the layers of a module make, and not at their states alone.
        only_look: of an exact run, whether parts that work in a narrower format are but named.
    """
    if isinstance(reading, Steps):
        if exact:
            reading.check()
        states = [state.tensor for state in reading.states(graph=False, check=exact)]
        gradients = None if loss is None else _backward_of_chain(reading, loss)
        return FormatRun(reading.layers, reading.members, states, gradients)
    with ExitStack() as stack:
        stack.enter_context(unchanged(loss))
        narrow = stack.enter_context(widened(reading.module, only_look)) if exact else {}
        found = stack.enter_context(reading.forward())
        refuse_chance(reading, found, "runs in two formats would be of two networks")
        if exact:
            found.check_states()
        names = (found.layers[0], *found.layers)
        states = [one.whole(name)[None] for one, name in zip(found.all_states, names, strict=True)]
        wanted = [state for state, there in zip(found.before, before, strict=True) if there] if loss else []
        gradients = None if loss is None else _backward_of_module(wanted, evaluate(loss, found.output))
        infinite = torch.tensor(found.infinite_inside)[:, None] if inside else None
        outputs = {
            name: tensor.detach().clone()
            for name, tensor in named_tensors(found.output)
            if tensor.is_floating_point() or tensor.is_complex()
        }
        return FormatRun(found.layers, reading.members, states, gradients, tuple(narrow), infinite, outputs)


def size_of(numbers: Tensor, kept: int = 1) -> Tensor:
    """Return the log root mean square of each seed, inf where a number is not finite."""
    return log_norm(numbers, kept).cpu() - math.log(numbers[0].numel()) / 2


def products_in(reading: Steps) -> Tensor:
    """Return the sizes of what a tangent becomes step by step, the unit at width 1, a random direction else."""
    x, tangents = reading.x, []
    shape = (len(reading.members), *x.shape)
    direction = torch.ones_like(x)
    if x.ndim > 1:
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction = (drawn / drawn.norm(dim=-1, keepdim=True)).to(x)
    state, tangent = x.expand(shape).contiguous(), direction.expand(shape).contiguous()
    with torch.enable_grad():
        for step in reading.chain.steps:
            # What comes back is linear in what is sent back, and so gives what is sent forward: the same products as
            # forward differentiation, of which torch takes most in Python.
            before = state.detach().requires_grad_()
            state = step(before)
            sent = torch.zeros_like(state, requires_grad=True)
            (back,) = torch.autograd.grad(state, before, sent, create_graph=True)
            (tangent,) = torch.autograd.grad(back, sent, tangent)
            tangents.append(size_of(tangent))
    return torch.stack(tangents)


def _backward_of_chain(reading: Steps, loss: Loss) -> Tensor:
    net = reading.chain
    with unchanged(loss), torch.enable_grad():
        states = [reading.x.expand(len(reading.members), *reading.x.shape).detach().clone().requires_grad_()]
        for step in net.steps:
            states.append(step(states[-1]))
        values = evaluate(loss, net.readout(states[-1]))
        # Not the sum of the losses, which may overflow where none of them does.
        found = torch.autograd.grad(values, states[:-1], torch.ones_like(values), allow_unused=True)
    zero = torch.zeros_like(states[0])
    sizes = torch.stack([size_of(zero if gradient is None else gradient) for gradient in reversed(found)])
    return torch.where(values.isfinite().cpu(), sizes, math.inf)


def _backward_of_module(states: list[State], value: Tensor) -> Tensor:
    """Return the sizes of the gradients of states, the last state's first, as the format itself has them."""
    edges = [edge for state in states for edge in state.gradient_edges]
    together = [state for state in states if len({node for node, _ in state.edges}) > 1]
    found = torch.autograd.grad(value, edges, retain_graph=bool(together), allow_unused=True) if edges else ()
    left, sizes = iter(found), []
    for state in states:
        own: tuple[Tensor | None, ...] = tuple(next(left) for _ in state.edges)
        if state in together:  # each of several tensors counts as given
            with closed(state.edges):
                own = torch.autograd.grad(value, state.gradient_edges, retain_graph=True, allow_unused=True)
        known = [gradient.flatten() for gradient in own if gradient is not None]
        numbers = torch.cat(known) if known else value.new_zeros(1)
        count = sum(math.prod(shape) for shape in state.shapes)
        sizes.append(log_norm(numbers[None], 1).cpu() - math.log(count) / 2)
    stacked = torch.stack(sizes[::-1]) if sizes else torch.empty(0, 1, dtype=torch.float64)
    return torch.where(value.isfinite().cpu(), stacked, math.inf)
