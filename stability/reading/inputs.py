"""What a network is given: positional and keyword inputs, of which one dimension tells the points apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stability.foundation.checks import check_finite, check_integer
from stability.reading.trees import map_tensors, tensors_in

EXPECTED = (
    "a tensor whose first dimension is the batch of points, a tuple of positional inputs, or a dictionary of keyword "
    "inputs"
)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a network.

    Attributes:
        args, options: positional and by keyword.
        batch_dim: which dimension of inputs and states tells the points apart; None where all of x is one point.
    """

    args: tuple[object, ...]
    options: dict[str, object]
    batch_dim: int | None

    @classmethod
    def of(cls, x: object, batch_dim: int | None, finite: bool = True) -> Inputs:
        """Return the inputs that `x` stands for, once they are checked, and `finite` with that they are finite.

        Raises:
            TypeError, ValueError: for anything but tensors, tuples and dictionaries with a tensor in them, a batch
                without points, and numbers that are not finite.
        """
        if batch_dim is not None:
            check_integer("batch_dim", batch_dim, 0)
        if isinstance(x, Tensor):
            found = cls((x,), {}, batch_dim)
        elif isinstance(x, Mapping):
            found = cls((), {str(name): value for name, value in x.items()}, batch_dim)
        elif isinstance(x, tuple):
            found = cls(x, {}, batch_dim)
        else:
            raise TypeError(
                f"x is a {type(x).__name__}: expected {EXPECTED}. What the network takes as one argument that is no "
                "tensor goes into a tuple, (x,)"
            )
        tensors = list(found.tensors())
        if not tensors:
            raise TypeError(f"x is {x!r} and holds no tensor: expected {EXPECTED}")
        if batch_dim is not None and not any(tensor.ndim > batch_dim for _, tensor in tensors):
            name, tensor = tensors[0]
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: expected the batch of points "
                f"{'first' if batch_dim == 0 else f'in dimension {batch_dim}'}, and at least one point; batch_dim= "
                "names another dimension, None takes all of x for one point"
            )
        if not found.points:
            name, tensor = found.carrier
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: expected the batch of points "
                f"{'first' if batch_dim == 0 else f'in dimension {batch_dim}'}, and at least one point"
            )
        name, tensor = found.carrier
        if tensor.numel() == 0:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: it holds no numbers, expected some for every point"
            )
        for name, tensor in tensors:
            if finite and (tensor.is_floating_point() or tensor.is_complex()):
                # A mask may hold -inf; what the states are followed from may not, which is looked at once it is known.
                alone = len(tensors) == 1
                check_finite(name, tensor if alone else tensor.nan_to_num(nan=torch.nan, posinf=0, neginf=0))
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors among the inputs, each with words for its place."""
        alone = len(self.args) + len(self.options) == 1 and bool(self.args)
        for number, value in enumerate(self.args):
            for tensor in tensors_in(value):
                yield ("x" if alone else f"x[{number}]"), tensor
        for name, value in self.options.items():
            for tensor in tensors_in(value):
                yield f"x[{name!r}]", tensor

    @property
    def carrier(self) -> tuple[str, Tensor]:
        """The tensor that says how many points there are, and words for its place: the first that has a batch."""
        least = -1 if self.batch_dim is None else self.batch_dim
        return next((name, tensor) for name, tensor in self.tensors() if tensor.ndim > least)

    @property
    def points(self) -> int:
        """How many points there are."""
        return 1 if self.batch_dim is None else int(self.carrier[1].shape[self.batch_dim])

    def mapped(self, function: Callable[[Tensor], object]) -> Inputs:
        """Return the inputs with function(tensor) in the place of every tensor."""
        return replace(self, args=map_tensors(self.args, function), options=map_tensors(self.options, function))

    def cut(self, start: int, stop: int) -> Inputs:
        """Return the inputs of some of the points: whatever has the batch's length is cut."""
        dim, points = self.batch_dim, self.points
        if dim is None:
            return self
        return self.mapped(
            lambda t: t.narrow(dim, start, stop - start) if t.ndim > dim and t.shape[dim] == points else t
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} of shape {tuple(tensor.shape)} and {tensor.dtype}" for name, tensor in self.tensors())
