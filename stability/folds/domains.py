"""What a network may be followed over besides a line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor


class Domain(ABC):
    """A part of the input space that knows how networks are followed over it."""

    @abstractmethod
    def restricted(self, net: Callable[..., Tensor], exact: bool, memory: float) -> object:
        """Return what a network does on this part."""
