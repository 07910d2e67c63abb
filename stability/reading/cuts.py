"""The autograd graph of a forward pass, and its cuts: what everything that leads from the source to the output crosses.

Between two cuts lies a stretch. A cut is one tensor, several of one operation, or the tensors that one call of a module
returns together, such as the two states of an LSTM cell.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from stability.reading.forward_recording import Edge, Node


@dataclass(frozen=True)
class Cut:
    """A place that everything on a path crosses.

    Attributes:
        edges: its tensors, in the order in which a call returned them.
        lead: the one of them that was computed last.
        position: the number of its node on the path.
    """

    edges: tuple[Edge, ...]
    lead: Edge
    position: int


class Path:
    """The nodes on the ways from sources to roots, in the order in which they were computed, and the cuts among them.

    Args:
        roots: what was computed in the end.
        sources: from what; what these were computed from is left out.
        groups: sets of tensors that may be a cut together.
        seen: the tensors that a cut may have; None for any.
    """

    def __init__(
        self,
        roots: Sequence[Edge],
        sources: Collection[Edge],
        groups: Iterable[Sequence[Edge]] = (),
        seen: Collection[Edge] | None = None,
    ) -> None:
        self.roots, self.sources = list(roots), set(sources)
        self._begin = {node for node, _ in sources}
        self.order = _in_order(below([node for node, _ in roots], self._begin), self._begin)
        self.position = {node: number for number, node in enumerate(self.order)}
        self.cuts = self._find(groups, seen) if self.order else []

    def __contains__(self, edge: Edge) -> bool:
        return edge[0] in self.position

    def _find(self, groups: Iterable[Sequence[Edge]], seen: Collection[Edge] | None) -> list[Cut]:
        never = len(self.order)
        last: dict[Edge, int] = {}  # where each tensor is used for the last time
        for number, node in enumerate(self.order):
            for edge in () if node in self._begin else node.next_functions:
                if edge[0] in self.position:
                    last[edge] = number
        last.update({edge: never for edge in self.roots if edge in self})
        together: dict[int, list[Sequence[Edge]]] = {}
        for group in groups:
            inside = [edge for edge in group if edge in last]
            if inside:
                together.setdefault(max(self.position[node] for node, _ in inside), []).append(inside)
        made: dict[int, list[Edge]] = {}
        over: dict[int, list[Edge]] = {}
        for edge, use in last.items():
            made.setdefault(self.position[edge[0]], []).append(edge)
            over.setdefault(use, []).append(edge)
        entered = max(self.position[node] for node in self._begin if node in self.position)
        alive: set[Edge] = set()
        cuts = []
        for number in range(never):
            alive.difference_update(over.get(number, ()))
            own = made.get(number, [])
            alive.update(own)
            if number < entered or not alive:
                continue
            edges = sorted(own, key=lambda edge: edge[1]) if len(alive) == len(own) else None
            for group in together.get(number, ()):
                inside = [edge for edge in dict.fromkeys(group) if edge in alive]
                edges = inside if edges is None and len(inside) == len(alive) else edges
            if edges is not None and (seen is None or all(edge in seen for edge in edges)):
                cuts.append(Cut(tuple(edges), max(edges, key=lambda edge: self.position[edge[0]]), number))
        return cuts

    @cached_property
    def _ends(self) -> list[int]:
        return [cut.position for cut in self.cuts]

    def stretch(self, node: Node) -> int:
        """Return the number of the stretch that a node of the path lies in, which ends at the cut of that number."""
        return bisect_left(self._ends, self.position[node])

    def after(self, edges: Iterable[Edge], end: int) -> int | None:
        """Return the first stretch of what takes these tensors and ends in a stretch; None if none is on the path.

        What takes a tensor of a cut begins after it.
        """
        starts = []
        for edge in edges:
            if edge in self:
                inside = [k for k in self._cuts_of.get(edge, ()) if k < end]
                starts.append(inside[-1] + 1 if inside else min(self.stretch(edge[0]), end))
        return min(starts) if starts else None

    @cached_property
    def _cuts_of(self) -> dict[Edge, list[int]]:
        found: dict[Edge, list[int]] = {}
        for number, cut in enumerate(self.cuts):
            for edge in cut.edges:
                found.setdefault(edge, []).append(number)
        return found


def below(roots: Iterable[Node], ends: Set[Node] = frozenset()) -> list[Node]:
    """Return all nodes that roots depend on and the roots, each after those it depends on, none beyond `ends`."""
    order: list[Node] = []
    done: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in roots]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            if node not in ends:
                stack += [(child, False) for child, _ in node.next_functions if child is not None and child not in done]
    return order


def _in_order(nodes: list[Node], ends: Set[Node]) -> list[Node]:
    """Return the nodes that lead to `ends`, in the order in which the forward pass made them.

    The numbers that torch gives to nodes tell that order, but those of views that were taken anew may be too late: so
    a node also waits for those it depends on.
    """
    leads: set[Node] = set()
    waits: dict[Node, int] = {}
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        needs = set() if node in ends else {child for child, _ in node.next_functions if child in leads}
        if node in ends or needs:
            leads.add(node)
            waits[node] = len(needs)
            for child in needs:
                users.setdefault(child, []).append(node)
    ready = [(node._sequence_nr(), number, node) for number, node in enumerate(waits) if waits[node] == 0]
    heapq.heapify(ready)
    order, count = [], len(waits)
    while ready:
        _, _, node = heapq.heappop(ready)
        order.append(node)
        for user in users.get(node, ()):
            waits[user] -= 1
            if waits[user] == 0:
                count += 1
                heapq.heappush(ready, (user._sequence_nr(), count, user))
    return order
