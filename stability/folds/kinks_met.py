"""The kinks that a network met while it was followed along a line or over a plane: which module and unit each is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from stability.folds.following import modules_at_work
from stability.folds.origins import Origins

S = ParamSpec("S")
R = TypeVar("R")


class Kinks:
    """What has been met, layer by layer."""

    def __init__(self) -> None:
        self._modules: list[tuple[nn.Module, ...]] = []
        self._met: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
        self._twins: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._held = False

    def next_layer(self) -> None:
        """Begin the layer of an operation that bends, unless it is part of one."""
        if not self._held:
            self._modules.append(modules_at_work())

    @contextmanager
    def one_layer(self) -> Iterator[None]:
        """Let all that bends until the end of the block be of one layer."""
        if self._held:
            yield
            return
        self.next_layer()
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def note(self, births: NDArray[np.int64], units: NDArray[np.intp]) -> None:
        """Take down knots by their numbers for life, and the units whose kinks they are."""
        if len(births):
            self._met.append((self.layer, births, np.asarray(units, dtype=np.int64)))

    def note_twins(self, kept: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Take down knots that are in one place with others, and are kept for both."""
        if len(kept):
            self._twins.append((kept, other))

    @property
    def layer(self) -> int:
        """The number of the present layer."""
        return len(self._modules) - 1

    def sources(self) -> list[tuple[int, str]]:
        """Return the layers, and the name of the module of each."""
        names: dict[int, str] = {}
        outermost = None
        sources = []
        for layer, modules in enumerate(self._modules):
            if modules and modules[0] is not outermost:
                outermost = modules[0]
                names = {id(module): name for name, module in outermost.named_modules()}
            # A module that the network does not know by name is part of one that it does.
            known = (names[id(module)] for module in reversed(modules) if id(module) in names)
            sources.append((layer, next(known, "")))
        return sources

    def origins(self, births: Callable[[], NDArray[np.int64]]) -> Origins:
        """Return those of knots of these numbers."""
        met = self._met

        def find() -> NDArray[np.int64]:
            asked = births()
            rows = np.full((len(asked), 2), -1, dtype=np.int64)
            if not met:
                return rows
            number = np.concatenate([numbers for _, numbers, _ in met])
            layer = np.repeat([layer for layer, _, _ in met], [len(numbers) for _, numbers, _ in met])
            unit = np.concatenate([units for _, _, units in met])
            if self._twins:
                number, layer, unit = self._with_twins(number, layer, unit)
            order = np.lexsort((unit, layer))
            number, layer, unit = number[order], layer[order], unit[order]
            known, first = np.unique(number, return_index=True)
            place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
            found = known[place] == asked
            rows[found] = np.stack([layer, unit], axis=1)[first[place[found]]]
            return rows

        return Origins(self.sources(), find)

    def _with_twins(self, *met: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return what was met, (number, layer, unit), with what is of the twins of knots besides."""
        involved = np.unique(np.concatenate([numbers for pair in self._twins for numbers in pair]))
        table = np.stack(met, axis=1)
        first: dict[int, tuple[int, int]] = {}
        for number, *unit in table[np.isin(met[0], involved)].tolist():
            first[number] = min(first.get(number, tuple(unit)), tuple(unit))
        for pair in self._twins:
            for kept, other in zip(*(numbers.tolist() for numbers in pair), strict=True):
                units = [first[number] for number in (kept, other) if number in first]
                if units:
                    first[kept] = min(units)
        more = np.array([(number, *unit) for number, unit in first.items()], dtype=np.int64).reshape(-1, 3)
        return tuple(np.concatenate([table, more]).T)


#: Those of the network that is followed; None where none is, or where nobody keeps them.
kinks_met: ContextVar[Kinks | None] = ContextVar("kinks met", default=None)


@contextmanager
def recorded() -> Iterator[Kinks]:
    """Keep the kinks that are met until the end of the block."""
    kinks = Kinks()
    token = kinks_met.set(kinks)
    try:
        yield kinks
    finally:
        kinks_met.reset(token)


def next_layer() -> None:
    """Begin the layer of an operation that bends."""
    if (kinks := kinks_met.get()) is not None:
        kinks.next_layer()


def as_one_layer(function: Callable[S, R]) -> Callable[S, R]:
    """Let all that a function bends be of one layer."""

    @wraps(function)
    def one_layer(*args: S.args, **kwargs: S.kwargs) -> R:
        kinks = kinks_met.get()
        if kinks is None:
            return function(*args, **kwargs)
        with kinks.one_layer():
            return function(*args, **kwargs)

    return one_layer


class IdleKnot:
    """A knot that was put in beforehand, and whether an activation changes there."""

    def __init__(self, birth: int) -> None:
        self.birth, self.idle = birth, True

    def note(self, births: NDArray[np.int64], changes: NDArray[np.bool_]) -> None:
        """Take down whether something changes at it, of units that change or not at the knots of these births."""
        units = np.flatnonzero((changes & (births == self.birth)[:, None]).any(axis=0))
        if self.idle and len(units) and (kinks := kinks_met.get()) is not None:
            kinks.note(np.array([self.birth]), units[:1])
        self.idle &= not len(units)


#: The one of the line that is followed, if it has one.
idle_knot: ContextVar[IdleKnot | None] = ContextVar("a knot put in beforehand", default=None)
