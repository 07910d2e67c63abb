"""The verb that shows how a network is read."""

from __future__ import annotations

from collections.abc import Sequence

from stability.foundation.arguments import door
from stability.reading.chain_reading import Steps
from stability.reading.layers import Layer, Layers
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, read


@door
def layers(
    net: AnyNetwork,
    x: object,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
) -> Layers:
    """Return the layers of a network, as all verbs see them and name them in their results.

    The network is run once on x, as it is. A place in its graph is a *cut* if everything that leads from the source to
    the output passes it; between two cuts lies a stretch, and a layer is a run of stretches:

    - The elements of a Sequential, ModuleList or ModuleDict are layers. A stage that holds two or more of one class in
      stretches of their own is opened, so that its blocks are the layers, and so is a container among elements of
      other classes.
    - Elsewhere the outermost module called is a layer; what has no module belongs to the layer before it.
    - Calls that share a stretch are one layer ("inception3a", or "d.1 ... u.2").
    - A module that is called again is "cell#2". Without any module a layer is called as its operation.

    The layers of a `Chain` are its steps.

    Args:
        net: any nn.Module, a `Chain`, a list of callables that follow one another, or a step table (seeds, rows, 6).
        x: what it takes: a tensor, a tuple of positional inputs, or a dictionary of keyword inputs.
        layers: other layers than those of the rule: the name of a container for what it holds, a list of modules'
            names, or "every" for all modules that hold no other one.
        source: from what the states are followed, all else held fixed: the number or name of an input, or the name of
            a module whose call gives the first state, such as "cell" for a recurrent network. By default the first
            floating input, and for whole numbers what the embeddings make of them.
        batch_dim: the dimension of inputs and states that tells points apart; None where all of x is one point.

    Returns:
        A `Layers`, a sequence of `Layer` that prints as a table and may be passed to any verb as `layers=`.

    Raises:
        ValueError, TypeError: where the network does not take x, hides a part of itself from the graph (a checkpoint
            with use_reentrant=True), or is changed by being followed, and for names that are not in it.

    >>> import torch, stability as st
    >>> blocks = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()) for _ in range(2)]
    >>> net = torch.nn.Sequential(*blocks, torch.nn.Linear(8, 3))
    >>> st.layers(net, torch.zeros(5, 8))
    layer  kind        state after it  parameters  share
    0      Sequential  (5, 8)                  72  42.1%
    1      Sequential  (5, 8)                  72  42.1%
    2      Linear      (5, 3)                  27  15.8%
    """
    reading = read(net, x, layers, source, batch_dim)
    return _of_chain(reading) if isinstance(reading, Steps) else layers_of(reading)


def layers_of(reading: Network) -> Layers:
    """Return the layers of a network that is no chain."""
    sizes = {name: value.numel() for name, value in reading.module.named_parameters()}
    with reading.forward() as found:
        held = reading.held_inputs(found)
        listed = tuple(
            Layer(
                name,
                run.kind,
                state.shape,
                parameters,
                modules,
                found.is_cut,
                sum(sizes[one] for one in parameters),
            )
            for name, run, state, parameters, modules in zip(
                found.layers, found.runs, found.after, found.parameters, found.modules, strict=True
            )
        )
    return Layers(listed, sum(sizes.values()), reading.choice, reading.source, reading.inputs.batch_dim, held=held)


def _of_chain(reading: Steps) -> Layers:
    reading.check()
    chain = reading.chain
    kinds = {name: value for name, value in chain.named_parameters() if not name.startswith("readout")}
    readout = {name: value for name, value in chain.named_parameters() if name.startswith("readout")}
    shape, listed = (*reading.batch, *reading.x.shape[1:]), []
    for number, name in enumerate(reading.layers):
        own = {**kinds, **(readout if number == chain.depth - 1 else {})}
        count = sum(value[:, 0].numel() if one in kinds else value.numel() for one, value in own.items())
        listed.append(Layer(name, "Step", shape, tuple(own), (), True, count))
    total = sum(value.numel() for value in chain.parameters())
    return Layers(tuple(listed), total, members=chain.members)
