"""One forward pass of a network with its graph: its layers, the states between them, and the parameters of each."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from stability.reading.cuts import Cut, Path, below
from stability.reading.forward_recording import Node, Recording
from stability.reading.inputs import Inputs
from stability.reading.layer_rule import Choice, LayerRun, spans_of
from stability.reading.not_finite import why_not_finite
from stability.reading.running import title
from stability.reading.states import State, check_state
from stability.reading.trees import tensors_in


class Pass:
    """One forward pass of a network with its graph: the states between its layers.

    Attributes:
        module, inputs, choice: what was run on what, and what `layers=` said.
        layers: their names.
        before, after: the state before and after each; without a graph where no cut separates them.
        is_cut: whether cuts separate the layers; if not the whole network is one.
        output: what the network returned.
        random: whether random numbers were drawn.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Inputs,
        choice: Choice,
        recording: Recording,
        path: Path,
        runs: list[LayerRun],
        outputs: Sequence[Tensor],
        takes_input: bool,
        random: bool,
    ) -> None:
        self.module, self.inputs, self.choice, self.outputs = module, inputs, choice, outputs
        self.recording, self.path = recording, path
        self.output, self.random, self.takes_input = recording.output, random, takes_input
        self.is_cut = bool(runs)
        whole = type(module).__name__
        self.runs = list(runs) or [LayerRun(whole, whole, 0, 0)]
        self.layers = tuple(run.name for run in self.runs)
        self.batch = (inputs.points,)
        if self.is_cut:
            states = [self._state(cut) for cut in path.cuts]
            last = self.runs[-1].last
            while last > self.runs[-1].first and not states[last].has_points:
                last -= 1  # what follows takes the points together, as a loss does
            self.runs[-1] = replace(self.runs[-1], last=last)
            self.before = [states[max(run.first - 1, 0)] for run in self.runs]
            self.after = [states[run.last] for run in self.runs]
        else:
            end = next((t for t in tensors_in(self.output) if t.is_floating_point() or t.is_complex()), None)
            if end is None:
                raise ValueError(
                    f"{title(module)} returns a {type(self.output).__name__}: expected a floating tensor in it"
                )
            self.after = [self._alone(end)]
            taken = next((t for _, t in inputs.tensors() if t.is_floating_point() or t.is_complex()), None)
            self.before = [self.after[0] if taken is None else self._alone(taken)]

    def _state(self, cut: Cut) -> State:
        seen = [self.recording.seen[edge] for edge in cut.edges]
        values = tuple(one.values if one.intact else None for one in seen)
        shapes, dtypes = tuple(one.shape for one in seen), tuple(one.values.dtype for one in seen)
        return State(cut.edges, values, shapes, dtypes, self.inputs.batch_dim, self.batch)

    def _alone(self, tensor: Tensor) -> State:
        shape = (tuple(tensor.shape),)
        return State((), (tensor.detach(),), shape, (tensor.dtype,), self.inputs.batch_dim, self.batch)

    def check_states(self) -> None:
        """Raise where a state has left the range of its dtype."""
        for name, state in zip(self.layers, self.after, strict=True):
            check_state(name, state, lambda: why_not_finite(self.recording))

    @property
    def infinite_inside(self) -> list[int]:
        """How many of the tensors that each layer makes hold a NaN or +inf.

        Masks hold -inf, which is left out; and what is made outside the graph, as under no_grad, is not seen. What is
        made after the last state, such as an output beside the first, counts as the last layer's.
        """
        order = {edge: number for number, edge in enumerate(self.recording.seen)}
        ends = [max((order[edge] for edge in state.edges), default=len(order)) for state in self.after]
        counts = [0] * len(ends)
        for number, seen in enumerate(self.recording.seen.values()):
            layer = min(bisect_left(ends, number), len(ends) - 1)
            values = seen.values.float() if seen.values.element_size() == 1 else seen.values
            real = values.is_floating_point() and values.numel() > 0
            if real and seen.intact and not values.amax() < math.inf:
                counts[layer] += 1
        return counts

    @property
    def takes_state(self) -> list[bool]:
        """For each layer whether a state comes before it: none before one that makes the source, as an embedding."""
        return [
            bool(state.edges) and (own.first > 0 or self.takes_input)
            for own, state in zip(self.runs, self.before, strict=True)
        ]

    @property
    def all_states(self) -> list[State]:
        """The states before the first layer and after each."""
        return [self.before[0], *self.after]

    def states(self, what: str) -> list[State]:
        """Return the states before the first layer and after each, of layers that follow one another, point by point.

        Raises:
            ValueError: where no cut separates them, or the layers do not follow one another, or the points are lost.
        """
        if not self.is_cut:
            raise ValueError(f"{what} cannot be followed through {title(self.module)}: {self._why_no_cut()}")
        for own, following in itertools.pairwise(self.runs):
            if own.between:
                raise ValueError(
                    f"the layers do not follow one another: between {own.name} and {following.name} the network calls "
                    f"{', '.join(own.between[:5])}{', ...' if len(own.between) > 5 else ''}; name these in layers= too"
                )
        places = (f"before layer {self.layers[0]}", *(f"after layer {name}" for name in self.layers))
        for place, state in zip(places, self.all_states, strict=True):
            if not state.has_points:
                raise ValueError(
                    f"{place} the state has shape {state.shape}: its dimension {state.batch_dim} must be "
                    f"the batch of {self.batch[0]} points; name layers= with a batch, another batch_dim=, or None "
                    "where all of x is one point"
                )
        return self.all_states

    def _why_no_cut(self) -> str:
        if not self.path.order:
            return (
                "its output does not depend on its input by a graph (it detaches what it takes, runs under no_grad, or "
                "takes whole numbers that no embedding turns into states); source= names an input, or the call whose "
                "result is the first state"
            )
        return (
            "nothing separates it, as everything between source and output is bypassed; source= names another input, "
            "or the call whose result is the first state"
        )

    @cached_property
    def parameters(self) -> tuple[tuple[str, ...], ...]:
        """The names of the parameters of each layer, frozen ones too. By the rule of layers, every parameter is of one.

        A parameter is of a layer where nodes of the layer lead to it, so that a tied one is of several. One that no
        node of a layer leads to is where its module is called, else beside the one registered before it. Where layers
        were named, what no node of theirs leads to is of none.
        """
        values = dict(self.module.named_parameters())
        held: list[dict[str, None]] = [{} for _ in self.runs]
        if self.is_cut:
            masks = stretch_masks(self.path, [t.grad_fn for t in self.outputs])
            layer_of: list[int | None] = [None] * (len(self.path.cuts) + 1)
            for number, own in enumerate(self.runs):
                layer_of[own.first : own.last + 1] = [number] * (own.last + 1 - own.first)
            if self.choice is None:  # what is made after the last state, such as an output beside the first
                after = self.runs[-1].last + 1
                layer_of[after:] = [len(self.runs) - 1] * (len(layer_of) - after)
            for name, value in values.items():
                mask = masks.get(_leaf_node(value), 0) if value.requires_grad else 0
                while mask:
                    stretch = mask.bit_length() - 1
                    mask ^= 1 << stretch
                    layer = layer_of[stretch]
                    if layer is not None:
                        held[layer][name] = None
        if self.choice is None or not self.is_cut:
            self._place_rest(list(values), held)
        order = {name: number for number, name in enumerate(values)}
        return tuple(tuple(sorted(own, key=order.__getitem__)) for own in held)

    def _place_rest(self, names: list[str], held: list[dict[str, None]]) -> None:
        place = {name: number for number, own in enumerate(held) for name in own}
        modules = [[name.partition("#")[0] for name in own] for own in self.modules]
        last = next((place[name] for name in names if name in place), 0)
        for name in names:
            if name not in place:
                owner = name.rpartition(".")[0]
                while owner and name not in place:
                    found = [k for k, own in enumerate(modules) if owner in own]
                    if found:
                        place[name] = found[0]
                    owner = owner.rpartition(".")[0]
                held[place.setdefault(name, last)][name] = None
            last = place[name]

    @cached_property
    def modules(self) -> tuple[tuple[str, ...], ...]:
        """The names of the calls inside each layer."""
        if not self.is_cut:
            return (tuple(call.name for call in self.recording.calls),)
        held: list[dict[str, None]] = [{} for _ in self.runs]
        starts = [run.first for run in self.runs]
        for span in spans_of(self.path, self.recording.calls):
            number = bisect_right(starts, span.first) - 1
            if number >= 0 and span.last <= self.runs[number].last:
                held[number][span.call.name] = None
        return tuple(map(tuple, held))


def stretch_masks(path: Path, roots: Sequence[Node]) -> dict[Node, int]:
    """Return for every node in which stretches it is used, bit k for stretch k; after the last cut that is one more.

    A node on the path lies in one. One beside it is used wherever something takes what it made.
    """
    masks: dict[Node, int] = {}
    for node in reversed(below(roots)):
        if node in path.position:
            masks[node] = 1 << path.stretch(node)
        mask = masks.setdefault(node, 1 << len(path.cuts))
        for child, _ in node.next_functions:
            if child is not None and child not in path.position:
                masks[child] = masks.get(child, 0) | mask
    return masks


def _leaf_node(parameter: Tensor) -> Node:
    return torch.autograd.graph.get_gradient_edge(parameter).node
