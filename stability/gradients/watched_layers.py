"""What the layers of a model are when it is watched: modules, and the parameters that each holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from stability.gradients.layers import modules_of, refuse_blocks, title
from stability.jacobians.blocks import is_chain, step_names

OUTSIDE = "outside the blocks"


@dataclass(frozen=True)
class Layers:
    """The layers of a model and its parameters that train, each parameter in one layer or, in a chain, in many.

    Attributes:
        names: how each layer is called.
        modules: the module of each layer; None for what stands outside the blocks, and in a chain.
        parameters: those that require a gradient, once each.
        spans: for each parameter, which layers it lies in.
        dims_kept: for each parameter, how many of its first dimensions tell seeds and layers apart: 0 in a module, in
            a chain 2 for (seeds, depth, ...) and 1 for a read-out's (seeds, ...).
        members: the member numbers of a chain, else None.
    """

    names: tuple[str, ...]
    modules: tuple[nn.Module | None, ...]
    parameters: tuple[nn.Parameter, ...]
    spans: tuple[range, ...]
    dims_kept: tuple[int, ...]
    members: tuple[int, ...] | None = None


def watched_layers(model: nn.Module, blocks: str | Sequence[str] | None) -> Layers:
    """Return the layers of a chain or any nn.Module; see `watch`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: expected a stability.Chain or another nn.Module")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"the parameter {name!r} has no shape yet: run the model on one batch first")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no parameter that requires a gradient: expected one that trains; call "
            "model.requires_grad_() first"
        )
    if is_chain(model):
        refuse_blocks(blocks)
        return _of_chain(model)
    modules, whole = modules_of(model, blocks)
    owner: dict[nn.Parameter, int] = {}
    for index, module in enumerate(modules.values()):
        for parameter in module.parameters(recurse=whole):
            owner.setdefault(parameter, index)
    names = [title(name, module) for name, module in modules.items()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    outside = any(parameter not in owner for parameter in parameters)
    spans = [owner.get(parameter, len(names)) for parameter in parameters]
    return Layers(
        (*names, OUTSIDE) if outside else tuple(names),
        (*modules.values(), None) if outside else tuple(modules.values()),
        tuple(parameters),
        tuple(range(index, index + 1) for index in spans),
        (0,) * len(parameters),
    )


def _of_chain(chain: nn.Module) -> Layers:
    depth, members = chain.depth, chain.members
    assert isinstance(depth, int)
    assert isinstance(members, tuple)
    names = [*step_names(depth)]
    trained = [(name, parameter) for name, parameter in chain.named_parameters() if parameter.requires_grad]
    readout = [name.startswith("readout") for name, _ in trained]
    if any(readout):
        names.append("read-out")
    spans = tuple(range(depth, depth + 1) if last else range(depth) for last in readout)
    dims_kept = tuple(1 if last else 2 for last in readout)
    return Layers(tuple(names), (None,) * len(names), tuple(p for _, p in trained), spans, dims_kept, members)
