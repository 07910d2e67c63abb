"""Whose kinks the knots of a function are: the layer, the module and the unit of each, found when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp] | slice | int


@dataclass(frozen=True, repr=False)
class Births:
    """Where the folds of a function were born: at each, the first unit of a network, layer after layer, that has its
    kink there.

    Attributes:
        at: (folds,), the places, increasing; of a slice the ends of the edges, (folds, 2, 2).
        layers: (folds,) integers: the step of a chain, the row of a table, and of a module the number of the operation
            that bends (an activation, a maximum, a pooling, a sorting), in order, from 0. -1 for a fold that is no
            unit's, but that of the line itself, or of what was done to the function afterwards.
        modules: (folds,) texts, the name of the module at work, as in `named_modules`; "" for the network itself, for a
            chain, a table or a function, and where the layer is -1.
        units: (folds,) integers, the entry of what the operation bends, flattened, without regard to the batch of one;
            of pooling and sorting the window. -1 where the layer is.

    Several units may have their kinks in one place, or along one edge. The first of them is named: that of the first
    layer, and in a layer that of the smallest number.
    """

    at: NDArray[np.generic]
    layers: NDArray[np.int64]
    modules: tuple[str, ...]
    units: NDArray[np.int64]

    def __repr__(self) -> str:
        where = ", ".join(repr(name) for name in dict.fromkeys(self.modules))
        return f"Births(folds={len(self.layers)}, modules=({where}))"


class Origins:
    """The rows (source, unit) of knots, (K, 2), -1 for those that are no unit's.

    Args:
        sources: the layers of a network, in order, and the module of each.
        find: returns the rows.
    """

    def __init__(self, sources: Sequence[tuple[int, str]], find: Callable[[], NDArray[np.int64]]) -> None:
        self.sources, self._find = tuple(sources), find

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        return self._find()

    def __reduce__(self) -> tuple[Callable[..., Origins], tuple[object, ...]]:
        return known_origins, (self.sources, self.rows)

    def taken(self, rows: Rows) -> Origins:
        """Return those of some of the knots."""
        return Origins(self.sources, lambda: self.rows[rows])

    @property
    def layers(self) -> int:
        """How many layers the network has that bend, whether or not they do on the line."""
        return 1 + max((layer for layer, _ in self.sources), default=-1)

    def births(self, at: NDArray[np.generic], knots: NDArray[np.intp]) -> Births:
        """Return those of folds, at these places, which are the knots of these numbers."""
        source, unit = self.rows[knots].T
        layers = np.array([layer for layer, _ in self.sources] + [-1], dtype=np.int64)[source]
        names = [name for _, name in self.sources] + [""]
        return Births(at, layers, tuple(names[one] for one in source.tolist()), unit)

    def by_layer(self, births: Births) -> tuple[int, ...]:
        """Return how many folds were born at each layer."""
        layers = births.layers
        return tuple(np.bincount(layers[layers >= 0], minlength=self.layers).tolist())


def known_origins(sources: Sequence[tuple[int, str]], rows: NDArray[np.int64]) -> Origins:
    """Return those of which the rows are known already."""
    return Origins(sources, lambda: rows)


def gathered(count: int, *parts: tuple[Origins | None, Rows, Rows]) -> Origins | None:
    """Return the origins of so many knots, made of parts: origins, their rows in the whole, and which ones of theirs.

    Where two have something to say the first is right. None where no part knows anything.
    """
    known = [(origins, into, taken) for origins, into, taken in parts if origins is not None]
    if not known:
        return None
    sources: list[tuple[int, str]] = []
    first = []
    for origins, _, _ in known:
        if origins.sources not in (tuple(sources), ()):
            first.append(len(sources))
            sources += origins.sources
        else:
            first.append(0)

    def find() -> NDArray[np.int64]:
        rows = np.full((count, 2), -1, dtype=np.int64)
        for (origins, into, taken), start in zip(known, first, strict=True):
            new, old = origins.rows[taken].copy(), rows[into]
            new[:, 0] += np.where(new[:, 0] >= 0, start, 0)
            rows[into] = np.where(old[:, :1] >= 0, old, new)
        return rows

    return Origins(sources, find)
