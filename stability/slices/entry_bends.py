"""What says of every entry of a function on a mesh at which edges it bends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import row_size


class Bends(Protocol):
    """Of a function: at which edges it bends, and what bends of some of its entries."""

    def decided(self) -> tuple[NDArray[np.bool_], int]:
        """Return whether it bends at each edge, and how many decisions rounding leaves open."""
        ...

    def taken(self, entries: NDArray[np.intp]) -> Self:
        """Return the same of some of the entries, flattened."""
        ...


@dataclass(frozen=True)
class CarriedBends:
    """Bends that were carried through the network.

    Attributes:
        sizes: how much the slope changes, (edges, entries); in exact arithmetic whether it does.
        bounds: of their errors, (edges,); 0 in exact arithmetic.
        inside: which edges have a face on both sides.
        undecided: how many other decisions are open.
    """

    sizes: NDArray[np.generic]
    bounds: NDArray[np.float64]
    inside: NDArray[np.bool_]
    undecided: int

    def decided(self) -> tuple[NDArray[np.bool_], int]:
        """Return whether the function bends at each edge, and how many decisions rounding leaves open."""
        size = row_size(self.sizes)
        # A 0 is exact, as what rounding makes 0 is held as another number; a bound that is not a number is a doubt.
        lost = self.inside & (size != 0) & (self.bounds != 0) & ~(size > self.bounds)
        return self.inside & (size > 0), self.undecided + int(lost.sum())

    def taken(self, entries: NDArray[np.intp]) -> CarriedBends:
        """Return the same of some of the entries, flattened."""
        return CarriedBends(self.sizes[:, entries], self.bounds, self.inside, self.undecided)
