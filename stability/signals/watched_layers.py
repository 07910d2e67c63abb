"""What the layers of a model are when it is watched: which calls end them, and the parameters that each holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from stability.foundation.checks import check_float64
from stability.networks import Chain
from stability.reading import Layers
from stability.reading.chain_reading import step_names
from stability.reading.inputs import Inputs
from stability.reading.layer_rule import Choice, check_choice, check_names
from stability.reading.list_layers import layers_of
from stability.reading.network import Network
from stability.reading.read import is_chain, refuse_conflict, refuse_options
from stability.reading.running import is_compiled
from stability.signals.watched_steps import check_steps


@dataclass(frozen=True)
class WatchedLayers:
    """The layers of a model.

    Attributes:
        names: how each layer is called.
        ends: for each module whose calls end layers its name, and for its first call and the later ones which layer;
            None for a call that ends none.
        spans: for each parameter that trains, which layers it lies in; none for one that no layer holds.
    """

    names: tuple[str, ...]
    ends: dict[str, list[int | None]]
    spans: tuple[range, ...]


@dataclass(frozen=True)
class Watched:
    """A model to be watched.

    Attributes:
        model: it.
        parameters: those that require a gradient, by name, once each; with an optimiser those of them that it holds.
        dims_kept: for each parameter, how many of its first dimensions tell seeds and layers apart: 0 in a module, in
            a chain 2 for (seeds, depth, ...) and 1 for a read-out's (seeds, ...).
        members: the member numbers of a chain, else None.
        layers: of a chain, and where they were given; else they are read from the first forward pass.
        choice, source: how they are to be read.
        optimizer, scaler: the optimiser whose steps are the rows, and what scales its gradients.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    dims_kept: tuple[int, ...]
    members: tuple[int, ...] | None
    layers: WatchedLayers | None
    choice: Choice = None
    source: str | int | None = None
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler | None = None

    @property
    def whole(self) -> WatchedLayers:
        """The whole model as one layer."""
        return WatchedLayers((type(self.model).__name__,), {}, (range(1),) * len(self.parameters))

    def read(self, args: tuple[object, ...], options: dict[str, object]) -> WatchedLayers:
        """Return the layers that the model has when it is called so; it is run once more, and left as it was."""
        reading = Network(self.model, Inputs(args, options, None), self.choice, self.source)
        return _of_layers(layers_of(reading), self.parameters)


def watched(
    model: nn.Module,
    layers: str | Sequence[str] | Layers | None,
    source: str | int | None,
    optimizer: torch.optim.Optimizer | None,
    scaler: torch.amp.GradScaler | None,
) -> Watched:
    """Return what is to be watched of a chain or any nn.Module; see `watch`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: expected a stability.Chain or another nn.Module")
    check_float64(model)
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"the parameter {name!r} has no shape yet: run the model on one batch first")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError(
            f"{type(model).__name__} has no parameter that requires a gradient: expected one that trains; call "
            "model.requires_grad_() first"
        )
    if is_compiled(model):
        raise ValueError(
            f"{type(model).__name__} is compiled: it does not call its modules one by one, so that nothing can be seen "
            "of them while it trains; watch the model without torch.compile, as long as it takes"
        )
    trained = check_steps(optimizer, scaler, trained)
    if is_chain(model):
        refuse_options(layers, source, 0, model.depth)
        return dataclasses.replace(_of_chain(model, trained), optimizer=optimizer, scaler=scaler)
    of = Watched(model, trained, (0,) * len(trained), None, None, None, source, optimizer, scaler)
    if isinstance(layers, Layers):
        refuse_conflict(layers, source)
        _check_names(layers, model)
        return dataclasses.replace(of, layers=_of_layers(layers, trained))
    choice = check_choice(layers)
    check_names(dict(model.named_modules()), choice)
    return dataclasses.replace(of, choice=choice)


def _check_names(layers: Layers, model: nn.Module) -> None:
    """Raise for layers that were read of another model."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for layer in layers:
        unknown = [name for name in layer.modules if name.partition("#")[0] not in modules]
        unknown += [name for name in layer.parameters if name not in parameters]
        if unknown:
            raise ValueError(
                f"layers= was read of another model: {type(model).__name__} has no {unknown[0]}, of layer {layer.name}"
            )


def _of_layers(layers: Layers, parameters: dict[str, nn.Parameter]) -> WatchedLayers:
    owner: dict[str, int] = {}
    ends: dict[str, dict[int, int]] = {}
    for index, layer in enumerate(layers):
        for name in layer.parameters:
            owner.setdefault(name, index)
        if layer.modules:
            base, _, number = layer.modules[-1].partition("#")
            ends.setdefault(base, {})[int(number or 1)] = index
    spans = tuple(range(owner[name], owner[name] + 1) if name in owner else range(0) for name in parameters)
    calls = {base: [found.get(k) for k in range(1, max(found) + 1)] for base, found in ends.items()}
    return WatchedLayers(layers.names, calls, spans)


def _of_chain(chain: Chain, trained: dict[str, nn.Parameter]) -> Watched:
    readout = [name.startswith("readout") for name in trained]
    depth = chain.depth
    names = (*step_names(depth), "read-out") if any(readout) else step_names(depth)
    spans = tuple(range(depth, depth + 1) if last else range(depth) for last in readout)
    dims_kept = tuple(1 if last else 2 for last in readout)
    return Watched(chain, trained, dims_kept, chain.members, WatchedLayers(names, {}, spans))
