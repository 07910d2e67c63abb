"""What a network may be followed over besides a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Domain(Protocol):
    """A part of the input space that knows how networks are followed over it."""

    def restricted(self, net: Callable[..., Tensor], exact: bool, memory: float) -> object:
        """Return what a network does on this part."""
        ...
