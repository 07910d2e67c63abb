"""A network of the user's own: how it is run and followed, and from what its layers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stability.foundation.checks import check_finite
from stability.reading.cuts import Path, below
from stability.reading.forward_recording import Edge, Node, Recording, edge_of, recorded
from stability.reading.inputs import Inputs
from stability.reading.layer_rule import Choice, LayerRun, check_names, name_runs
from stability.reading.passes import Pass
from stability.reading.running import eagerly, hooks_may_matter, run, same_values, title
from stability.reading.traces import generators, same_states, undisturbed
from stability.reading.trees import tensors_in


@dataclass(frozen=True)
class Network:
    """Any network: how to run it, and what its layers are to be. It holds no graph.

    Attributes:
        module, inputs: what is run, and on what.
        choice: what `layers=` said.
        source: from what the states are followed: the number or name of an input, the name of a call, or None.
        expected: the names that the layers must have, as they had them before; None for any.
    """

    module: nn.Module
    inputs: Inputs
    choice: Choice = None
    source: str | int | None = None
    expected: tuple[str, ...] | None = None

    @property
    def members(self) -> tuple[int, ...]:
        """A module counts as one seed."""
        return (0,)

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
        with undisturbed(self.module), torch.inference_mode(False), torch.enable_grad(), eagerly(self.module):
            plain = None
            if hooks_may_matter(self.module):
                with undisturbed(self.module):
                    plain = run(self.module, self.copied())
            before, known = generators(self.module), dict(self.module.named_parameters()).keys()
            given, edges = self._prepared(source)
            with recorded(self.module, given, self.source) as recording:
                if math_attention:
                    with sdpa_kernel(SDPBackend.MATH):
                        recording.output = run(self.module, given)
                else:
                    recording.output = run(self.module, given)
            made = [name for name, _ in self.module.named_parameters() if name not in known]
            if made:
                raise ValueError(
                    f"{title(self.module)} makes parameters as it runs, {', '.join(made[:5])}: run it on one batch "
                    "first"
                )
            if plain is not None and not same_values(plain, recording.output):
                raise ValueError(
                    f"{title(self.module)} gives other values when it is followed: it has compiled parts, or hooks of "
                    "its own, that behave otherwise when its modules are watched; take them out"
                )
            random = not same_states(before, generators(self.module))
            yield self._read(recording, given, edges, random)

    def rerun(self, on_seen: Callable[[int, Tensor], object]) -> object:
        """Return what the network makes of its inputs when it is followed as in `forward`, its layers not read.

        Args:
            on_seen: called with every tensor of the graph and its number, the same from run to run, before anything
                is made of it.
        """
        with undisturbed(self.module), torch.inference_mode(False), torch.enable_grad(), eagerly(self.module):
            given, _ = self._prepared(self._float_source())
            with recorded(self.module, given, self.source, on_seen) as recording:
                recording.output = run(self.module, given)
            return recording.output

    def copied(self) -> Inputs:
        """Return copies of the inputs, which the network may change in place."""
        return self.inputs.mapped(lambda tensor: tensor.detach().clone())

    def part(self, start: int, stop: int) -> Network:
        """Return the same network on some of the points."""
        return replace(self, inputs=self.inputs.cut(start, stop))

    def _float_source(self) -> Tensor | None:
        """Return the floating input that gets a graph: the one that source= names, else the first."""
        named = self._named(self.inputs) if self.source is not None else []
        tensors = named or [tensor for _, tensor in self.inputs.tensors()]
        return next((t for t in tensors if t.is_floating_point() or t.is_complex()), None)

    def held_inputs(self, found: Pass) -> tuple[str, ...]:
        """Return words for the floating inputs of points that are held fixed, as the states follow another input."""
        if not found.takes_input:
            return ()
        source, dim, points = self._float_source(), self.inputs.batch_dim, self.inputs.points
        return tuple(
            name
            for name, tensor in self.inputs.tensors()
            if tensor is not source
            and tensor.is_floating_point()
            and (dim is None or (tensor.ndim > dim and tensor.shape[dim] == points))
        )

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
        # The source and the end are those that give most layers by the rule, whichever layers are asked for.
        runs: list[LayerRun] = []
        best = Path([], source)
        for sources in self._candidates(recording, given, source):
            for edge in _ends(outputs):
                path = Path([edge], sources, groups, recording.seen)
                named = name_runs(self.module, path, recording.calls, None) if path.cuts else []
                if len(named) > len(runs):
                    runs, best = named, path
        if runs and self.choice is not None:
            runs = name_runs(self.module, best, recording.calls, self.choice)
        takes_input = bool(source) and best.sources == set(source)
        if takes_input:
            check_finite("x", recording.seen[source[0]].values)
        found = Pass(self.module, self.inputs, self.choice, recording, best, runs, outputs, takes_input, random)
        if self.expected is not None and found.layers != self.expected:
            raise ValueError(
                f"layers= names {len(self.expected)} layers, {self.expected[0]} to {self.expected[-1]}, and on this x "
                f"the network has {len(found.layers)}, {found.layers[0]} to {found.layers[-1]}: read it again with "
                "st.layers(net, x)"
            )
        return found

    def _candidates(self, recording: Recording, given: Inputs, source: list[Edge]) -> list[list[Edge]]:
        """Return the sets of tensors that may be the source, the one to be preferred first."""
        if isinstance(self.source, str) and self.source not in self.inputs.options:
            call = next((call for call in recording.calls if call.name == self.source), None)
            if call is None or not call.gave:
                raise ValueError(
                    f"source is {self.source!r}: the module is not called on x, or returns nothing with a gradient"
                )
            return [call.gave]
        if source and self.source is not None:
            return [source]
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
        # A floating input beside whole numbers may be but a mask: then what embeddings make has more layers.
        return [*([source] if source else []), *([every] if every else []), *([edge] for edge in every)]


def _ends(outputs: Sequence[Tensor]) -> list[Edge]:
    """Return the outputs to which the layers may lead: the first, and of many those that were computed last."""
    edges = [edge for edge in dict.fromkeys(map(edge_of, outputs)) if edge is not None]
    late = sorted(edges[1:], key=lambda edge: -edge[0]._sequence_nr())[:3]
    return [edge for edge in edges if edge in (edges[0], *late)]


def _refuse_reentrance(net: nn.Module, roots: Sequence[Node]) -> None:
    """Raise for a checkpoint that hides its parameters from the graph."""
    for node in below(roots):
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                f"{title(net)} checkpoints a part of itself with use_reentrant=True, which hides what is inside and "
                "its parameters: call torch.utils.checkpoint.checkpoint with use_reentrant=False"
            )
