"""The states of a network, layer by layer, as it runs in its own dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stability.gradients.layers import modules_of, run_on, title, undisturbed
from stability.jacobians.blocks import hooked, is_chain, step_names


def states_of(net: Any, x: Tensor, blocks: str | Sequence[str] | None = None) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return the names of the layers, and the state before the first one and after each, (seeds, points, ...).

    A module counts as one seed. Its states are what the layers return.
    """
    with torch.no_grad():
        if is_chain(net):
            states = [x.detach().expand(len(net.members), *x.shape)]
            for step in net.steps:
                states.append(step(states[-1]))
            return step_names(net.depth), states
        calls = calls_of(net, x, blocks)
    return tuple(call.name for call in calls), [calls[0].before[None], *(call.after[None] for call in calls)]


@dataclass(frozen=True)
class Call:
    """A call of a layer: its name, the state that it took and the one that it returned, (points, ...)."""

    name: str
    before: Tensor
    after: Tensor


def calls_of(net: nn.Module, x: Tensor, blocks: str | Sequence[str] | None) -> list[Call]:
    """Return the calls of a module's layers when it runs on x, in order.

    Those that take no floating state are left out. Of several tensors taken or returned the first is the state.
    """
    with undisturbed(net), torch.no_grad():
        return record_calls(net, x, blocks, keep_graph=False)[0]


def record_calls(
    net: nn.Module, x: Tensor, blocks: str | Sequence[str] | None, keep_graph: bool
) -> tuple[list[Call], Any]:
    """Return the calls and the output of a module; with `keep_graph` the states taken are those of its graph."""
    calls: list[Call] = []
    running: dict[str, list[_Taken | None]] = {}
    layers, _ = modules_of(net, blocks)

    def before(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        state = _state_in((*args, *options.values()))
        running.setdefault(name, []).append(None)
        if state is None:
            return args, options
        # The layer gets a copy, as it may change in place what it takes.
        taken = state.clone() if keep_graph and state.requires_grad else state.detach().clone()
        given = (taken.requires_grad_() if keep_graph else taken).clone()
        running[name][-1] = _Taken(state, taken, given)
        return tuple(given if v is state else v for v in args), {
            key: given if v is state else v for key, v in options.items()
        }

    def after(name: str, output: Any) -> None:
        taken, returned = running[name].pop(), _state_in(output if isinstance(output, tuple | list) else (output,))
        if taken is None:
            return
        if taken.given._version > 0:  # changed in place, which what passes the layer by is to see
            taken.state.copy_(taken.given)
        if returned is not None:
            calls.append(Call(title(name, layers[name]), taken.copy, returned.detach().clone()))

    with hooked(layers, before, after):
        output = run_on(net, x)
    if not calls:
        raise ValueError(
            f"none of the layers {list(layers)[:5]} takes and returns floating tensors when the model runs"
        )
    return calls, output


@dataclass(frozen=True)
class _Taken:
    """A state that a layer takes: itself, a copy that nothing changes, and the copy of that one that the layer gets."""

    state: Tensor
    copy: Tensor
    given: Tensor


def _state_in(values: Sequence[Any]) -> Tensor | None:
    return next((v for v in values if isinstance(v, Tensor) and v.is_floating_point()), None)
