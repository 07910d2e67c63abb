"""What a network is: the one place that tells a step table, steps and modules apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np
from torch import Tensor, nn

from stability.foundation.checks import check_finite, check_float64
from stability.networks import Chain
from stability.reading.chain_reading import Steps, StepTable, step_names
from stability.reading.inputs import Inputs
from stability.reading.layer_rule import check_choice
from stability.reading.layers import Layers
from stability.reading.network import Network

#: What every verb takes: a chain, a step table (seeds, rows, 6), a module, or callables that follow one another.
AnyNetwork = Chain | nn.Module | Sequence[Callable[[Tensor], Tensor]] | np.ndarray | Tensor


def read(
    net: object,
    x: object,
    layers: str | Sequence[str] | Layers | None = None,
    source: str | int | None = None,
    batch_dim: int | None = 0,
) -> Steps | Network:
    """Return how a network is to be read: a `StepTable`, `Steps`, or a `Network`.

    A chain is known by its type and a table by being an array; a class of one's own that happens to have the same
    attributes is a module like any other, and so is a chain with a forward of its own.

    Args:
        net: see `AnyNetwork`.
        x: points of a chain; else a tensor, a tuple of positional inputs, or a dictionary of keyword inputs.
        layers: which layers of a module: None for those of the rule of `st.layers`, the name of a container for what it
            holds, names of modules, "every" for all that hold no module, or what `st.layers` returned.
        source: from what the states of a module are followed: the number or name of an input, or the name of a module
            whose call gives the first state. None for the first floating input, else for what embeddings make.
        batch_dim: which dimension tells the points apart; None where all of x is one point.

    Raises:
        TypeError, ValueError: for anything else, and for parameters and points that are not finite.
    """
    if isinstance(net, np.ndarray | Tensor):
        net = Chain.from_table(net)
    if is_chain(net):
        refuse_options(layers, source, batch_dim, net.depth)
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}: expected a tensor of points, as a chain takes")
        check_float64(net, x)
        return (StepTable if net.holds_rows else Steps)(net, x)
    module, expected = as_module(net), None
    if isinstance(layers, Layers):
        refuse_conflict(layers, source, batch_dim)
        expected, source, batch_dim = layers.names, layers.source, layers.batch_dim
        choice = layers.choice
    else:
        choice = check_choice(layers)
    inputs = Inputs.of(x, batch_dim)
    check_float64(module, *(tensor for _, tensor in inputs.tensors()))
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"the parameter {name!r} has no shape yet: run the model on one batch first")
        check_finite(f"the parameter {name}", parameter)
    return Network(module, inputs, choice, source, expected)


def is_chain(net: object) -> TypeGuard[Chain]:
    """Whether a network is read step by step."""
    return isinstance(net, Chain) and type(net).forward is Chain.forward


def as_module(net: object) -> nn.Module:
    """Return a module, or callables that follow one another as one."""
    if isinstance(net, nn.ModuleList):
        net = list(net)
    if isinstance(net, Sequence) and not isinstance(net, str | nn.Module):
        for number, part in enumerate(net):
            if not callable(part):
                raise TypeError(f"layer {number} is a {type(part).__name__}: expected a callable from state to state")
        if not net:
            raise ValueError("the network has no layers: expected at least one")
        return nn.Sequential(*(part if isinstance(part, nn.Module) else Function(part) for part in net))
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"net is a {type(net).__name__}: expected a stability.Chain, an nn.Module, a list of callables that follow "
            "one another, or a step table (seeds, rows, 6)"
        )
    return net


class Function(nn.Module):
    """A function in the place of a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, state: Tensor) -> object:
        return self.function(state)


def refuse_conflict(layers: Layers, source: object, batch_dim: object = 0) -> None:
    """Raise where something else is said than what layers were read with."""
    for name, value, default, own in (
        ("source", source, None, layers.source),
        ("batch_dim", batch_dim, 0, layers.batch_dim),
    ):
        if value not in (default, own):
            raise ValueError(f"{name} is {value!r}, and layers= was read with {own!r}: leave out one")


def refuse_options(layers: object, source: object, batch_dim: object, depth: int) -> None:
    """Raise for what is said of the layers of a chain, but for what `st.layers` returned of it."""
    if isinstance(layers, Layers):
        if layers.names != step_names(depth):
            raise ValueError(
                f"layers= has {len(layers)} layers, {layers.names[0]} the first: this chain has {depth} steps"
            )
        layers = None
    for name, value, default in (("layers", layers, None), ("source", source, None), ("batch_dim", batch_dim, 0)):
        if value != default:
            raise ValueError(f"a chain's layers are its steps: leave out {name}=")
