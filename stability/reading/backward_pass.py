"""Gradients that cannot leave the range, from one backward pass through the graph as it is.

At every cut what goes back is brought to order 1 and its exponent kept. What a stretch hands to a parameter is caught
there, with the exponent of the stretch. What it hands to something that other stretches use as well (the cast of a tied
weight, a derived weight, a conditioning) is caught too and goes no further; the sum goes on from there at the end. Of a
cut of several tensors the last one computed sets the exponent, which what reaches the others waits for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from stability.foundation.formats import Format
from stability.foundation.scaled_sums import Part, largest_of, log2_size, log_norm_of, scaled_sum, times_power_of_2
from stability.reading.cuts import Path, below
from stability.reading.forward_recording import Edge, Node, edge_of, floating_dtypes
from stability.reading.passes import Pass, stretch_masks
from stability.reading.states import State

Gradients = tuple[Tensor | None, ...]


@dataclass
class _Held:
    """A tensor of a cut that waits for its exponent: what later stretches handed to it, and from which."""

    parts: list[tuple[Part, int]] = field(default_factory=list)
    released: bool = False


class BackwardPass:
    """One backward pass with its hooks."""

    def __init__(self, found: Pass, value: Tensor, states: Sequence[State | None], lifted: int = 0) -> None:
        self.found, self.value, self.lifted = found, value, lifted
        root = edge_of(value)
        assert root is not None
        self.root = root[0]
        groups = [call.gave for call in found.recording.calls if len(call.gave) > 1]
        self.path = Path([root], found.path.sources, groups)
        self.stretches = len(self.path.cuts) + 1
        #: Of 2, in units of which gradients travel in each stretch; that of the loss is the last.
        self.exponents: list[int | None] = [None] * (self.stretches - 1) + [-lifted]
        self.masks = stretch_masks(self.path, [self.root])
        self.measured: list[float | None] = [None] * len(states)
        self.trouble: tuple[int, tuple[int, ...]] | None = None
        self.late = self.faint = False
        # What is handed to a parameter is a sum over a batch, for which the range of float16 needs room above 1.
        self.room = 5 if torch.float16 in self.dtypes else 0
        self._plan_states(states)

    def _plan_states(self, states: Sequence[State | None]) -> None:
        self.at_node: dict[Node, list[tuple[int, list[int]]]] = defaultdict(list)
        self.at_cut: dict[int, list[int]] = defaultdict(list)
        cuts = {frozenset(cut.edges): number for number, cut in enumerate(self.path.cuts)}
        for place, state in enumerate(states):
            if state is None:
                continue
            nodes = {node for node, _ in state.edges}
            if len(nodes) == 1:
                self.at_node[nodes.pop()].append((place, [number for _, number in state.edges]))
            elif frozenset(state.edges) in cuts:
                self.at_cut[cuts[frozenset(state.edges)]].append(place)
        self.leads = {cut.lead[0]: number for number, cut in enumerate(self.path.cuts)}
        self.held = {edge: _Held() for cut in self.path.cuts for edge in cut.edges if edge[0] is not cut.lead[0]}
        self.held_of: dict[Node, list[Edge]] = defaultdict(list)
        for edge in self.held:
            self.held_of[edge[0]].append(edge)

    def run(self, named: Mapping[nn.Parameter, str]) -> dict[str, Part]:
        """Do the pass, and return the gradients of the parameters by name."""
        nodes = below([self.root])
        leaves = {torch.autograd.graph.get_gradient_edge(p).node: n for p, n in named.items()}
        self.caught: dict[Edge, list[Part]] = defaultdict(list)
        self.parts: dict[str, list[tuple[Part, int]]] = defaultdict(list)
        wanted = [node.variable for node in nodes if hasattr(node, "variable")]  # so that every node is visited
        handles = []
        for node in nodes:
            if node in self.leads or node in self.held_of or node in self.at_node:
                handles.append(node.register_prehook(self._arrives(node)))
            if node not in leaves and not self._is_shared(node) and (hook := self._hands(node, leaves)):
                handles.append(node.register_hook(hook))
        try:
            if wanted:
                start = torch.full_like(self.value, 2.0**self.lifted)
                torch.autograd.grad(self.value, wanted, start, retain_graph=True, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        if self.late:
            raise ValueError(
                "the graph of the network is not run back in the order in which it was made: it has no norms"
            )
        self._share(leaves)
        for parts in self.parts.values():
            for (gradient, _), stretch in parts:
                if not math.isfinite(largest_of(gradient)):
                    self._note(stretch, gradient.shape)
        if not self.lifted:  # what is raised may well overflow
            self._refuse_trouble()
        return {name: scaled_sum([part for part, _ in parts]) for name, parts in self.parts.items()}

    def _is_shared(self, node: Node) -> bool:
        return node not in self.path.position and self.masks[node].bit_count() > 1

    def _stretch(self, node: Node) -> int:
        return self.masks[node].bit_length() - 1

    def _unit(self, stretch: int) -> int:
        exponent = self.exponents[stretch]
        if exponent is None:
            # No gradient came through the cut after it.
            return next(e for e in self.exponents[stretch:] if e is not None)
        return exponent

    def _arrives(self, node: Node) -> Callable[[Gradients], Gradients]:
        stretch = self._stretch(node)
        cut = self.leads.get(node)

        def hook(gradients: Gradients) -> Gradients:
            unit = self._unit(stretch if cut is None else cut + 1)
            parts: list[list[Part]] = [[] if g is None else [(g, unit)] for g in gradients]
            for edge in self.held_of.get(node, ()):
                held = self.held[edge]
                held.released = True
                parts[edge[1]] += [part for part, _ in held.parts]
            for place, outputs in self.at_node.get(node, ()):
                self.measured[place] = log_norm_of([scaled_sum(parts[k]) for k in outputs if parts[k]])
            if cut is not None:
                others = [e for e in self.path.cuts[cut].edges if e[0] is not node]
                outside = [[p for p, s in self.held[e].parts if s > cut] for e in others]
                sizes = []
                for arrived, exponent in (part for some in (*parts, *outside) for part in some):
                    size = largest_of(arrived)
                    if not math.isfinite(size):
                        self._note(cut + 1, arrived.shape)
                    elif size:
                        self.faint |= size < Format(arrived.dtype).faint
                        sizes.append(math.frexp(size)[1] + exponent)
                self.exponents[cut] = max(sizes) - self.lifted + self.room if sizes else unit
                for place in self.at_cut.get(cut, ()):
                    own = [parts[k] for _, k in (e for e in self.path.cuts[cut].edges if e[0] is node)]
                    self.measured[place] = log_norm_of([scaled_sum(some) for some in (*own, *outside) if some])
            goes = self._unit(stretch)
            result: list[Tensor | None] = []
            for gradient, some in zip(gradients, parts, strict=True):
                if not some:
                    result.append(gradient)
                    continue
                total = times_power_of_2(*some[0], goes)
                for part in some[1:]:
                    total = total + times_power_of_2(*part, goes)
                result.append(total)
            return tuple(result)

        return hook

    def _hands(self, node: Node, leaves: dict[Node, str]) -> Callable[[Gradients, object], Gradients | None] | None:
        """Return what is to be done with the gradients that a node hands on; None if nothing."""
        own = self._stretch(node)
        at: list[tuple[int, Edge, str]] = []
        for place, edge in enumerate(node.next_functions):
            child = edge[0]
            if child is None:
                continue
            if child in leaves:
                at.append((place, edge, "parameter"))
            elif self._is_shared(child):
                at.append((place, edge, "shared"))
            elif edge in self.held and own > self._stretch(child) and not self._flows(edge, own):
                at.append((place, edge, "held"))
        if not at:
            return None

        def hook(gave: Gradients, _: object) -> Gradients | None:
            unit, changed = self._unit(own), None
            for place, edge, what in at:
                gradient = gave[place]
                if gradient is None:
                    continue
                if what == "parameter":
                    self.parts[leaves[edge[0]]].append(((gradient.to_dense(), unit), own))
                    continue
                if what == "shared":
                    self.caught[edge].append((gradient, unit))
                else:
                    held = self.held[edge]
                    self.late |= held.released
                    held.parts.append(((gradient, unit), own))
                changed = list(gave) if changed is None else changed
                changed[place] = torch.zeros_like(gradient)
            return None if changed is None else tuple(changed)

        return hook

    def _flows(self, edge: Edge, stretch: int) -> bool:
        """Whether what a stretch hands to a tensor arrives in the unit that its node expects."""
        cut = self.leads.get(edge[0])
        return cut is not None and stretch == cut + 1

    def _share(self, leaves: dict[Node, str]) -> None:
        """Take the sums of what was handed to shared nodes on to the parameters behind them."""
        for (node, number), parts in self.caught.items():
            stretch = self._stretch(node)
            inside = [leaf for leaf in below([node]) if leaf in leaves]
            if not inside:
                continue
            total, exponent = scaled_sum(parts)
            size = log2_size((total, 0)) or 0
            total, exponent = times_power_of_2(total, 0, size), exponent + size
            found = torch.autograd.grad(
                [GradientEdge(node, number)],
                [GradientEdge(leaf, 0) for leaf in inside],
                [times_power_of_2(total, self.lifted, 0).to(parts[0][0].dtype)],
                retain_graph=True,
                allow_unused=True,
            )
            for leaf, gradient in zip(inside, found, strict=True):
                if gradient is not None:
                    self.parts[leaves[leaf]].append(((gradient.to_dense(), exponent - self.lifted), stretch))

    def _note(self, stretch: int, shape: Sequence[int]) -> None:
        """Note the first stretch, on the way back, in which a gradient is not finite."""
        if self.trouble is None or stretch > self.trouble[0]:
            self.trouble = stretch, tuple(shape)

    def _refuse_trouble(self) -> None:
        if self.trouble is not None:
            stretch, shape = self.trouble
            raise ValueError(
                f"a gradient of shape {shape} is not finite in {self._where(stretch)}: the network, or the loss, is "
                "not differentiable at this point, or overflows within one layer"
            )

    @property
    def lift(self) -> int:
        """An exponent of 2 by which numbers of order 1 may be raised in every format of the graph."""
        return int(math.log2(min(Format(dtype).largest for dtype in self.dtypes))) // 2

    @cached_property
    def dtypes(self) -> set[torch.dtype]:
        """The floating formats of the tensors in the graph."""
        return {self.value.dtype, *floating_dtypes(below([self.root]))}

    def may_have_lost(self, parameters: Mapping[str, Part]) -> bool:
        """Whether something is zero, or so small, that it may have left the range within a stretch."""
        if self.faint or any(state == -math.inf for state in self.measured if state is not None):
            return True
        return any(largest_of(gradient) < Format(gradient.dtype).faint for gradient, _ in parameters.values())

    def _where(self, stretch: int) -> str:
        """Return words for the layer that holds a stretch of the way back."""
        if stretch >= len(self.path.cuts):
            return "the loss, or what it takes"
        node = self.path.cuts[stretch].lead[0]
        if node not in self.found.path.position:
            return "the loss, or what it takes"
        own = self.found.path.stretch(node)
        for run in self.found.runs:
            if run.first <= own <= run.last:
                return f"layer {run.name}"
        return "the network"
