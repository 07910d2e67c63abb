"""A network of the user's own, read from the cuts of its graph: its layers, their states and their parameters."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stability.reading.cuts import Cut, Path, below
from stability.reading.inputs import Inputs
from stability.reading.naming import Choice, Run, check_names, name_runs, spans_of
from stability.reading.recording import Edge, Node, Recording, edge_of, recorded
from stability.reading.states import State, check_state
from stability.reading.trees import tensors_in
from stability.reading.undisturbed import (
    generators,
    hooks_may_matter,
    run,
    same_states,
    same_values,
    title,
    undisturbed,
)


@dataclass(frozen=True)
class Network:
    """Any network: how to run it, and what its layers are to be. It holds no graph.

    Attributes:
        module, inputs: what is run, and on what.
        choice: what `layers=` said.
        source: from what the states are followed: the number or name of an input, the name of a call, or None.
    """

    module: nn.Module
    inputs: Inputs
    choice: Choice = None
    source: str | int | None = None
    expected: tuple[str, ...] | None = None

    members = (0,)

    @property
    def x(self) -> Tensor:
        """The points."""
        tensors = [t for _, t in self.inputs.tensors()]
        found = next((t for t in tensors if t.is_floating_point()), self.inputs.carrier[1])
        if self.source is not None:
            found = next(iter(self._named(self.inputs) or [found]))
        return found.detach().to("cpu", copy=True)

    def _named(self, inputs: Inputs) -> list[Tensor]:
        """Return the tensors of the input that source= names, none where it names a call."""
        args, options = inputs.args, inputs.options
        if isinstance(self.source, int) and not isinstance(self.source, bool):
            if not 0 <= self.source < len(args):
                raise ValueError(f"source is {self.source}: there are {len(args)} positional inputs, numbered from 0")
            return list(tensors_in(args[self.source]))
        if isinstance(self.source, str) and self.source in options:
            return list(tensors_in(options[self.source]))
        if isinstance(self.source, str) and self.source.partition("#")[0] in dict(self.module.named_modules()):
            return []
        names = ", ".join(map(repr, options)) or f"0 to {len(args) - 1}"
        raise ValueError(
            f"source is {self.source!r}: expected the number or the name of an input, {names}, or the name of a module "
            "whose call is the first state"
        )

    @contextmanager
    def forward(self, math_attention: bool = False) -> Iterator[Pass]:
        """Run the network once; inside, the pass and its graph may be used, and afterwards the network is as it was.

        Args:
            math_attention: whether attention is calculated by its plain formula, which can be differentiated twice.

        Raises:
            ValueError: where the network does not take x, cannot be followed, or has other layers than before.
        """
        check_names(dict(self.module.named_modules()), self.choice)
        source = self._float_source()
        with undisturbed(self.module), torch.inference_mode(False), torch.enable_grad():
            plain = None
            if hooks_may_matter(self.module):
                with undisturbed(self.module):
                    plain = run(self.module, self._prepared(source)[0])
            before = generators()
            given, edges = self._prepared(source)
            with recorded(self.module) as recording:
                if math_attention:
                    with sdpa_kernel(SDPBackend.MATH):
                        recording.output = run(self.module, given)
                else:
                    recording.output = run(self.module, given)
            if plain is not None and not same_values(plain, recording.output):
                raise ValueError(
                    f"{title(self.module)} gives other values when it is followed: it has compiled parts, or hooks of "
                    "its own, that behave otherwise when its modules are watched; take them out"
                )
            random = not same_states(before, generators())
            yield self._read(recording, given, edges, random)

    def copied(self) -> Inputs:
        """Return copies of the inputs, which the network may change in place."""
        return self.inputs.mapped(lambda tensor: tensor.detach().clone())

    def part(self, start: int, stop: int) -> Network:
        """Return the same network on some of the points."""
        return replace(self, inputs=self.inputs.cut(start, stop))

    def _float_source(self) -> Tensor | None:
        """Return the floating input from which the states are followed, None where it is what embeddings make."""
        if self.source is not None:
            named = self._named(self.inputs)
            return next((t for t in named if t.is_floating_point() or t.is_complex()), None)
        return next((t for _, t in self.inputs.tensors() if t.is_floating_point() or t.is_complex()), None)

    def _prepared(self, source: Tensor | None) -> tuple[Inputs, list[Edge]]:
        """Return copies of the inputs, that of the source in a graph, and the edge of that one."""
        edges: list[Edge] = []

        def copy(tensor: Tensor) -> Tensor:
            if tensor is not source:
                return tensor.detach().clone()
            twin = tensor.detach().clone().requires_grad_().clone()
            edge = edge_of(twin)
            assert edge is not None
            edges.append(edge)
            return twin

        return self.inputs.mapped(copy), edges[:1]

    def _read(self, recording: Recording, given: Inputs, source: list[Edge], random: bool) -> Pass:
        outputs = [t for t in tensors_in(recording.output) if t.requires_grad and edge_of(t) in recording.seen]
        outputs.sort(key=lambda t: t.ndim == 0)  # where there is more than a number, that is the state at the end
        _refuse_reentrance(self.module, [t.grad_fn for t in outputs])
        groups = [call.gave for call in recording.calls if len(call.gave) > 1]
        best: tuple[list[Run], Path, int] | None = None
        for sources in self._candidates(recording, given, source):
            for number, output in enumerate(outputs):
                edge = edge_of(output)
                assert edge is not None
                path = Path([edge], sources, groups, recording.seen)
                if not path.order:
                    continue
                runs = name_runs(self.module, path, recording.calls, self.choice) if path.cuts else []
                if best is None or len(runs) > len(best[0]):
                    best = runs, path, number
                break
        runs, path, _ = best if best is not None else ([], Path([], source, ()), 0)
        found = Pass(self, recording, path, runs, outputs, bool(source) and path.sources == set(source), random)
        if self.expected is not None and found.layers != self.expected:
            raise ValueError(
                f"layers= names {len(self.expected)} layers, {self.expected[0]} to {self.expected[-1]}, and on this x "
                f"the network has {len(found.layers)}, {found.layers[0]} to {found.layers[-1]}: read it again with "
                "st.layers(net, x)"
            )
        return found

    def _candidates(self, recording: Recording, given: Inputs, source: list[Edge]) -> list[list[Edge]]:
        """Return the sets of tensors that may be the source, the one to be preferred first."""
        if source:
            return [source]
        if isinstance(self.source, str) and self.source not in self.inputs.options:
            call = next((call for call in recording.calls if call.name == self.source), None)
            if call is None or not call.gave:
                raise ValueError(
                    f"source is {self.source!r}: the module is not called on x, or returns nothing with a gradient"
                )
            return [call.gave]
        made = recording.embeddings
        if self.source is not None:
            places = {tensor.untyped_storage().data_ptr() for tensor in self._named(given)}
            made = [(edge, place) for edge, place in made if place in places]
            if not made:
                raise ValueError(
                    f"source is {self.source!r}, which holds whole numbers, and no embedding takes them as they are: "
                    "name the module whose call makes states of them"
                )
        every = [edge for edge, _ in made]
        return [every, *([edge] for edge in every)] if every else []


class Pass:
    """One forward pass of a network with its graph: the states between its layers.

    Attributes:
        layers: their names.
        before, after: the state before and after each; without a graph where no cut separates them.
        is_cut: whether cuts separate the layers; if not the whole network is one.
        output: what the network returned.
        random: whether random numbers were drawn.
    """

    def __init__(
        self,
        reading: Network,
        recording: Recording,
        path: Path,
        runs: list[Run],
        outputs: Sequence[Tensor],
        takes_input: bool,
        random: bool,
    ) -> None:
        self.reading, self.recording, self.path, self.outputs = reading, recording, path, outputs
        self.output, self.random, self.takes_input = recording.output, random, takes_input
        self.is_cut = bool(runs)
        whole = type(reading.module).__name__
        self.runs = runs or [Run(whole, whole, 0, 0)]
        self.layers = tuple(run.name for run in self.runs)
        self.batch = (reading.inputs.points,)
        if self.is_cut:
            states = [self._state(cut) for cut in path.cuts]
            last = self.runs[-1]
            while last.last > last.first and not states[last.last].has_points:
                last.last -= 1  # what follows takes the points together, as a loss does
            self.before = [states[max(run.first - 1, 0)] for run in self.runs]
            self.after = [states[run.last] for run in self.runs]
        else:
            end = next((t for t in tensors_in(self.output) if t.is_floating_point() or t.is_complex()), None)
            if end is None:
                raise ValueError(
                    f"{title(reading.module)} returns a {type(self.output).__name__}: expected a floating tensor in it"
                )
            self.after = [self._alone(end)]
            self.before = [self._alone(reading.x) if reading.x.is_floating_point() else self.after[0]]

    def _state(self, cut: Cut) -> State:
        seen = [self.recording.seen[edge] for edge in cut.edges]
        values = tuple(one.values if one.intact else None for one in seen)
        return State(cut.edges, values, tuple(one.shape for one in seen), self.reading.inputs.batch_dim, self.batch)

    def _alone(self, tensor: Tensor) -> State:
        return State((), (tensor.detach(),), (tuple(tensor.shape),), self.reading.inputs.batch_dim, self.batch)

    def check_states(self) -> None:
        """Raise where a state has left the range of its dtype."""
        for name, state in zip(self.layers, self.after, strict=True):
            check_state(name, state)

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
            raise ValueError(f"{what} cannot be followed through {title(self.reading.module)}: {self._why_no_cut()}")
        for own, following in itertools.pairwise(self.runs):
            if own.between:
                raise ValueError(
                    f"the layers do not follow one another: between {own.name} and {following.name} the network calls "
                    f"{', '.join(own.between[:5])}{', ...' if len(own.between) > 5 else ''}; name these in layers= too"
                )
        for name, state in zip(("the source", *self.layers), self.all_states, strict=True):
            if not state.has_points:
                raise ValueError(
                    f"after layer {name} the state has shape {state.shape}: its dimension {state.batch_dim} must be "
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
        """The names of the parameters of each layer, frozen ones too; all of them together are all there are.

        A parameter is of a layer where nodes of the layer lead to it, so that a tied one is of several. One that no
        node of a layer leads to is where its module is called, else beside the one registered before it. Where layers
        were named, what no node of theirs leads to is of none.
        """
        values = dict(self.reading.module.named_parameters())
        held: list[dict[str, None]] = [{} for _ in self.runs]
        if self.is_cut:
            masks = stretch_masks(self.path, [t.grad_fn for t in self.outputs])
            layer_of: list[int | None] = [None] * (len(self.path.cuts) + 1)
            for number, own in enumerate(self.runs):
                layer_of[own.first : own.last + 1] = [number] * (own.last + 1 - own.first)
            if self.reading.choice is None:  # what is made after the last state, such as an output beside the first
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
        if self.reading.choice is None or not self.is_cut:
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


def _refuse_reentrance(net: nn.Module, roots: Sequence[Node]) -> None:
    """Raise for a checkpoint that hides its parameters from the graph."""
    for node in below(roots):
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                f"{title(net)} checkpoints a part of itself with use_reentrant=True, which hides what is inside and "
                "its parameters: call torch.utils.checkpoint.checkpoint with use_reentrant=False"
            )


def with_layers(reading: Network, choice: Choice, source: str | int | None, names: tuple[str, ...]) -> Network:
    """Return a reading whose layers must be those that were found before."""
    return replace(reading, choice=choice, source=source, expected=names)
