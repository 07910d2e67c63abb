"""What the layers of a network are: names, kinds, shapes and parameters, as a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from stability.foundation.shown import Shown
from stability.reading.layer_rule import Choice


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: how it is called in all results.
        kind: its class; of calls that share a layer "First ... Last".
        shape: of the state after it; of a state of several tensors a tuple of their shapes.
        parameters: the names of the parameters that it uses. A tied one is used by several layers.
        modules: the names of the module calls inside it.
        is_cut: whether everything that comes later is computed from the state after it. If not there is no Jacobian of
            it, and it is the whole network.
        count: how many numbers its parameters hold.
    """

    name: str
    kind: str
    shape: object
    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    is_cut: bool
    count: int


@dataclass(frozen=True, repr=False)
class Layers(Sequence[Layer], Shown):
    """The layers of a network in order, as every verb sees them. It may be passed as `layers=` and holds no graph.

    Attributes:
        layers: each.
        total: how many numbers all parameters of the network hold, each counted once.
        choice, source, batch_dim: how they were read.
        members: the member numbers of a chain, else None.
        held: the floating inputs that are held fixed, as the states are followed from another.
    """

    layers: tuple[Layer, ...]
    total: int
    choice: Choice = None
    source: str | int | None = None
    batch_dim: int | None = 0
    members: tuple[int, ...] | None = None
    held: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(layer.name for layer in self.layers)

    @overload
    def __getitem__(self, place: int) -> Layer: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Layer, ...]: ...
    def __getitem__(self, place: int | slice) -> Layer | tuple[Layer, ...]:
        return self.layers[place]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __repr__(self) -> str:
        rows = [("layer", "kind", "state after it", "parameters", "share")]
        for layer in self.layers:
            share = f"{layer.count / self.total:.1%}" if self.total else ""
            name = layer.name if layer.is_cut else f"{layer.name} (not separated)"
            rows.append((name, layer.kind, str(layer.shape), str(layer.count), share))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 3 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        uses = sum(layer.count for layer in self.layers)
        if self.choice is None and uses > self.total:
            lines.append(f"{uses - self.total} of the numbers are used by more than one layer.")
        if self.held:
            lines.append(f"Held fixed: {', '.join(self.held)}; source= follows another input.")
        return "\n".join(lines)
