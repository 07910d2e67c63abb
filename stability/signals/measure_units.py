"""Which units of a network are active, dead, dormant or saturated, and how many directions a layer uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_number
from stability.reading import Layers
from stability.reading.chain_reading import Steps
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, read
from stability.reading.refusals import refuse_chance
from stability.signals.unit_activity import Units

#: Modules whose output has ends, at which it does not answer to what comes in any more.
_ENDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
}


@door
def units(
    net: AnyNetwork,
    x: object,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    unit_dim: int | None = None,
    threshold: float = 0.025,
) -> Units:
    """Return how active each unit of every layer is: dead, dormant and saturated ones, and the layer's effective rank.

    A unit is a number of the state after a layer: a neuron, or, of images and sequences, a channel, over all places.

    Args:
        net: a chain, any module in eval mode, or callables that follow one another.
        x: points as for `propagation`, or an iterable of such batches, as a list or a DataLoader; a tuple is one batch,
            of several positional inputs.
        layers, source, batch_dim: how a module is read, see `st.layers`.
        unit_dim: the dimension of a state that tells units apart; without, the second of states with four dimensions
            or more (channels first) and the last of others.
        threshold: below this share of the mean activity of its layer a unit counts as dormant.

    Returns:
        A `Units`.

    Raises:
        ValueError, TypeError: for a network that draws random numbers, states that are not finite, batches of other
            layers, no batch, and as `propagation`.

    >>> import torch, stability as st
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.fill_(1.0), net[0].bias.copy_(torch.tensor([0.0, -9.0, 1.0, 2.0]))
    >>> found = st.units(net, torch.rand(100, 2))
    >>> found.layers[1], found.dead[1].tolist()
    ('1', [[False, True, False, False]])
    """
    threshold = check_number("threshold", threshold, 0.0, 1.0)
    if unit_dim is not None:
        check_integer("unit_dim", unit_dim, -16, 16)
    alone = isinstance(x, Tensor | tuple | Mapping) or not isinstance(x, Iterable)
    batches = [x] if alone else cast("Iterable[object]", x)
    sums: list[_Layer] = []
    names: tuple[str, ...] = ()
    members: tuple[int, ...] = ()
    for number, batch in enumerate(batches):
        reading = read(net, batch, layers, source, batch_dim)
        found, states, ends = _states(reading, unit_dim)
        if not sums:
            names, members, sums = found, reading.members, [_Layer(one) for one in ends]
        if found != names:
            raise ValueError(f"batch {number} goes through {len(found)} layers, the first one through {len(names)}")
        for layer, state in zip(sums, states, strict=True):
            layer.add(state)
    if not sums:
        raise ValueError("x has no batches: expected at least one")
    return Units(
        [one.active / one.count for one in sums],
        [one.activity / one.count for one in sums],
        [one.at_ends / one.count if one.ends else torch.full_like(one.active, math.nan) for one in sums],
        torch.stack([one.effective_rank() for one in sums]),
        threshold,
        sums[0].points,
        names,
        members,
    )


def _states(
    reading: Steps | Network, unit_dim: int | None
) -> tuple[tuple[str, ...], list[tuple[Tensor, int]], list[tuple[float, float] | None]]:
    """Return the names of the layers, the states after them as (seeds, places, units), and the ends of their ranges."""
    if isinstance(reading, Steps):
        reading.check()
        states = [state.tensor for state in reading.states(graph=False)[1:]]
        numbers = [s[..., None] if s.ndim == 2 else s for s in states]
        return reading.layers, [(s, s.shape[1]) for s in numbers], [None] * len(states)
    with reading.forward() as found:
        refuse_chance(reading, found, "what a unit does would not be its own doing")
        found.check_states()
        by_name = dict(reading.module.named_modules())
        ends = []
        for calls in found.modules:
            last = by_name.get(calls[-1].partition("#")[0]) if calls else None
            ends.append(next((e for kind, e in _ENDS.items() if isinstance(last, kind)), None))
        taken = []
        for name, state in zip(found.layers, found.after, strict=True):
            if len(state.shapes) != 1:
                raise ValueError(f"the state after layer {name} has several tensors: name layers= that end in one")
            (value,) = state.known(name)
            taken.append((_as_units(value, unit_dim, name), reading.inputs.points))
        return found.layers, taken, ends


def _as_units(state: Tensor, unit_dim: int | None, name: str) -> Tensor:
    """Return a state as (1, places, units)."""
    if unit_dim is None:
        unit_dim = 1 if state.ndim >= 4 else -1
    if not -state.ndim <= unit_dim < state.ndim or state.ndim < 2:
        raise ValueError(f"the state after layer {name} has shape {tuple(state.shape)}: it has no dimension {unit_dim}")
    moved = state.detach().movedim(unit_dim, -1)
    return moved.reshape(1, -1, moved.shape[-1])


class _Layer:
    """The sums over the batches of one layer, in float64 on the CPU."""

    def __init__(self, ends: tuple[float, float] | None) -> None:
        self.ends, self.count, self.points = ends, 0, 0
        self.active = self.activity = self.at_ends = self.squares = torch.zeros(())

    def add(self, state: tuple[Tensor, int]) -> None:
        numbers, points = state
        values = numbers.detach().to("cpu", torch.float64)
        self.count, self.points = self.count + values.shape[1], self.points + points
        self.active = self.active + (values != 0).double().sum(dim=1)
        self.activity = self.activity + values.abs().sum(dim=1)
        self.squares = self.squares + values.mT @ values
        if self.ends is not None:
            low, high = self.ends
            near = 0.01 * (high - low) / 2
            self.at_ends = self.at_ends + ((values <= low + near) | (values >= high - near)).double().sum(dim=1)

    def effective_rank(self) -> Tensor:
        """Return exp of the entropy of the shares of the singular values, (seeds,), 0 of zeros."""
        size = self.squares.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[:, None, None]
        values = torch.linalg.eigvalsh(self.squares / torch.where(size > 0, size, 1.0)).clamp(min=0).sqrt()
        shares = values / values.sum(dim=-1, keepdim=True).clamp(min=1e-300)
        rank = torch.special.entr(shares).sum(dim=-1).exp()
        return torch.where(size[:, 0, 0] > 0, rank, 0.0)
