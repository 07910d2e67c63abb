"""The layers that a deeper model has more of: where they begin and end, and whether they pass on what they take."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stability.reading.forward_recording import Edge
from stability.reading.inputs import Inputs
from stability.reading.network import Network
from stability.reading.passes import Pass

#: No more states, and no more layers, than these are looked at, evenly spaced over the depth.
MOST_PLACES = 8
#: Operations that a sum of the state and a branch may pass through unchanged.
_PASSES = ("Add", "Sub", "View", "UnsafeView", "ReshapeAlias", "Clone", "Alias", "Transpose", "Permute", "ToCopy")


@dataclass(frozen=True)
class Outline:
    """The layers of one model.

    Attributes:
        signatures: the kind of each, the shape of the state after it, and how many numbers its parameters hold.
        trained: the names of the parameters of each that are trained.
        skips: whether what each takes is also added to what it gives.
    """

    signatures: tuple[tuple[str, str, int], ...]
    trained: tuple[tuple[str, ...], ...]
    skips: tuple[bool, ...]


@dataclass(frozen=True)
class Stack:
    """The layers that grow in number with the depth, as they are found in a model of any depth.

    Attributes:
        lead, tail: how many layers come before and after them.
        kind: of the last of them. The states are looked at after those of this kind.
        states, layers: at how many places states and layers are looked at.
        skips: whether all layers of this kind add what they take to what they give.
        tied: whether a parameter is of several of them, so that no layer has a share of its own.
    """

    lead: int
    tail: int
    kind: str
    states: int
    layers: int
    skips: bool
    tied: bool

    @property
    def state_places(self) -> np.ndarray:
        """The relative depths of the states, up to 1, the last one."""
        return np.arange(1, self.states + 1) / self.states

    @property
    def layer_places(self) -> np.ndarray:
        """The relative depths of the layers, from 0, the first one, to 1, the last one."""
        return np.linspace(0, 1, self.layers) if self.layers > 1 else np.ones(1)

    def inside(self, kinds: Sequence[str]) -> list[int]:
        """Return the numbers of the layers after which the states are looked at."""
        end = len(kinds) - self.tail
        return [k for k in range(self.lead, end) if kinds[k] == self.kind]

    def trained(self, parameters: Sequence[Sequence[str]]) -> list[int]:
        """Return the numbers of the layers that have parameters to train, chosen evenly over the depth."""
        end = len(parameters) - self.tail
        own = [k for k in range(self.lead, end) if parameters[k]]
        return [own[round(place * (len(own) - 1))] for place in self.layer_places]


def outline(model: nn.Module, inputs: Inputs) -> Outline:
    """Return the layers of a model.

    Raises:
        ValueError: where it does not take the inputs, or no cut separates its layers.
    """
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    trains = {name for name, value in model.named_parameters() if value.requires_grad}
    with Network(model, inputs).forward() as found:
        if not found.is_cut:
            found.states("the depth")  # says why there is no cut
        shapes = [str(state.shape) for state in found.after]
        return Outline(
            tuple(
                (run.kind, shape, sum(sizes[name] for name in own))
                for run, shape, own in zip(found.runs, shapes, found.parameters, strict=True)
            ),
            tuple(tuple(name for name in own if name in trains) for own in found.parameters),
            tuple(_skips(found, k) for k in range(len(found.runs))),
        )


def find_stack(outlines: dict[int, Outline]) -> tuple[Stack, tuple[int, ...]]:
    """Return the layers that grow in number, and how many there are at each depth.

    They reach from the first to the last layer of a kind, shape and size that the deepest model has more of than the
    shallowest one.

    Raises:
        ValueError: where their number does not grow from depth to depth, or none of them is trained.
    """
    depths = list(outlines)
    shallow, deep = (outlines[depths[end]].signatures for end in (0, -1))
    fewer = Counter(shallow)
    more = {signature for signature, count in Counter(deep).items() if count > fewer[signature]}
    places = [k for k, signature in enumerate(deep) if signature in more]
    totals = ", ".join(f"{len(one.signatures)} at depth {depth}" for depth, one in outlines.items())
    if not places:
        raise ValueError(
            f"the models have no more layers when they are deeper: {totals}; expected make(depth) to grow; "
            "st.layers shows what counts as a layer"
        )
    lead, tail, kind = places[0], len(deep) - 1 - places[-1], deep[places[-1]][0]
    bare = Stack(lead, tail, kind, 1, 1, False, False)
    inside = {depth: bare.inside([s[0] for s in one.signatures]) for depth, one in outlines.items()}
    counts = tuple(map(len, inside.values()))
    if not all(0 < one < other for one, other in itertools.pairwise(counts)):
        words = ", ".join(f"{count} at depth {depth}" for depth, count in zip(depths, counts, strict=True))
        raise ValueError(
            f"the number of layers does not grow with the depth: of {kind} there are {words}; expected make(depth) to "
            "give a deeper model for every larger depth, of the same widths; of blocks there must be two or more, as a "
            "single one is taken apart"
        )
    sizes = {depth: {one.signatures[k] for k in inside[depth]} for depth, one in outlines.items()}
    for depth in depths[1:]:
        if sizes[depth] != sizes[depths[0]]:
            raise ValueError(
                f"the layers of {kind} have other sizes at depth {depth} than at depth {depths[0]}: expected "
                "make(depth) to change their number, and not their widths"
            )
    trained = {d: [own for own in one.trained[lead : len(one.trained) - tail] if own] for d, one in outlines.items()}
    fewest = min(map(len, trained.values()))
    if not fewest:
        raise ValueError("no parameter of the layers requires a gradient: they are frozen; call requires_grad_()")
    names = [name for own in trained[depths[-1]] for name in own]
    skips = all(outlines[depths[-1]].skips[k] for k in inside[depths[-1]])
    stack = Stack(
        lead, tail, kind, min(MOST_PLACES, counts[0]), min(MOST_PLACES, fewest), skips, len(set(names)) < len(names)
    )
    return stack, counts


def _skips(found: Pass, layer: int) -> bool:
    """Whether the state before a layer is added to what it makes, and nothing is done to it on the way."""
    before, after = found.before[layer], found.after[layer]
    if len(before.edges) != 1 or len(after.edges) != 1 or before.shape != after.shape:
        return False
    left: list[Edge] = [after.edges[0]]
    seen: set[Edge] = set()
    sums = 0
    while left:
        edge = left.pop()
        if edge == before.edges[0]:
            return sums > 0
        node = edge[0]
        if node is None or edge in seen:
            continue
        seen.add(edge)
        name = node.name().rpartition("::")[2].partition("Backward")[0]
        if name in _PASSES:
            sums += name in ("Add", "Sub")
            left += node.next_functions
    return False


def interpolated(values: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """Return values that are known after each of n layers, along the last dimension, at relative depths up to 1."""
    known = np.arange(1, values.shape[-1] + 1) / values.shape[-1]
    at = np.clip(np.searchsorted(known, places - 1e-9), 0, len(known) - 1)
    below = np.maximum(at - 1, 0)
    gap = np.where(at > below, known[at] - known[below], 1.0)
    weight = torch.as_tensor(np.where(at > below, (known[at] - places) / gap, 0.0)).clamp(0, 1)
    mixed = weight * values[..., below] + (1 - weight) * values[..., at]
    return torch.where(weight < 1e-9, values[..., at], mixed)  # an exact zero, -inf in the log, is no neighbour's
