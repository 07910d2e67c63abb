"""A state of a network: the numbers that everything after a layer is computed from, point by point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from stability.foundation.formats import Format, finest
from stability.reading.forward_recording import Edge


@dataclass(frozen=True)
class State:
    """One tensor, or several that separate a network together.

    Attributes:
        edges: the tensors in the graph.
        values: their numbers; None where something changed them before they could be copied.
        shapes, dtypes: of each.
        batch_dim: which dimension tells the points apart; None where all is one point.
        batch: the shape of the batch, (points,), or (seeds, points) where the first two dimensions tell seeds and
            points apart.
    """

    edges: tuple[Edge, ...]
    values: tuple[Tensor | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    batch_dim: int | None
    batch: tuple[int, ...]

    @property
    def shape(self) -> Any:
        """The shape, of several tensors a tuple of their shapes."""
        return self.shapes[0] if len(self.shapes) == 1 else self.shapes

    @property
    def has_points(self) -> bool:
        """Whether every tensor has a dimension that may be the points."""
        if self.batch_dim is None or len(self.batch) > 1:
            return True
        # One point may be in any dimension, but what has none is a sum over points, as a loss is.
        return all(len(s) > 0 if self.size == 1 else self._points_in(s) is not None for s in self.shapes)

    def _points_in(self, shape: tuple[int, ...]) -> int | None:
        """Return the dimension of the points: that of the inputs, else the only one of their number, None for none.

        That it is the points and nothing else as long is for who needs it to check.
        """
        if self.batch_dim is None or len(self.batch) > 1 or self.size == 1:
            return None
        if len(shape) > self.batch_dim and shape[self.batch_dim] == self.size:
            return self.batch_dim
        found = [dim for dim, length in enumerate(shape) if length == self.size]
        return found[0] if len(found) == 1 else None

    @property
    def size(self) -> int:
        """How many points there are, times the seeds."""
        return math.prod(self.batch)

    @property
    def width(self) -> int:
        """How many real numbers the state of a point has; a complex one counts as two."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return sum(math.prod(shape) * (2 if dtype.is_complex else 1) for shape, dtype in pairs) // self.size

    @property
    def like(self) -> Tensor:
        """A tensor without numbers, on the device and in the widest real dtype of the state."""
        known = next((value for value in self.values if value is not None), None)
        dtypes = [dtype.to_real() if dtype.is_complex else dtype for dtype in self.dtypes]
        return torch.empty(0, dtype=finest(dtypes), device=None if known is None else known.device)

    def zeros(self) -> list[Tensor]:
        """Return tensors of 0, as those of the state."""
        device = self.like.device
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return [torch.zeros(shape, dtype=dtype, device=device) for shape, dtype in pairs]

    def flat(self, tensors: Sequence[Tensor | None], lead: int = 0) -> Tensor:
        """Return tensors of these shapes, behind `lead` more dimensions, as (*lead, size, width); None counts as 0."""
        parts = []
        for tensor, shape, dtype in zip(tensors, self.shapes, self.dtypes, strict=True):
            if tensor is None:
                like = next(t for t in tensors if t is not None)
                tensor = like.new_zeros((*like.shape[:lead], *shape), dtype=dtype)
            if (points := self._points_in(shape)) is not None:
                tensor = tensor.movedim(lead + points, lead)
            if tensor.is_complex():
                tensor = torch.view_as_real(tensor.resolve_conj())
            parts.append(tensor.reshape(*tensor.shape[:lead], self.size, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def shaped(self, flat: Tensor) -> list[Tensor]:
        """Return (*lead, size, width) as tensors of these shapes, the inverse of `flat`."""
        lead, tensors, start = flat.shape[:-2], [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            width = math.prod(shape) // self.size
            if dtype.is_complex:
                part = flat[..., start : start + 2 * width].reshape(*lead, self.size, width, 2)
                start += 2 * width
                part = torch.view_as_complex(part.to(dtype.to_real()).contiguous())
            else:
                part = flat[..., start : start + width].to(dtype)
                start += width
            if (points := self._points_in(shape)) is not None:
                rest = [length for dim, length in enumerate(shape) if dim != points]
                part = part.reshape(*lead, self.size, *rest).movedim(len(lead), len(lead) + points)
            tensors.append(part.reshape(*lead, *shape))
        return tensors

    def numbers(self, after: str) -> Tensor:
        """Return the numbers, (*batch, width).

        Raises:
            ValueError: where they were changed before they could be copied.
        """
        return self.flat(self.known(after)).reshape(*self.batch, self.width)

    def whole(self, after: str) -> Tensor:
        """Return all the numbers, in one dimension; raises as `numbers` does."""
        parts = (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v for v in self.known(after))
        return torch.cat([part.flatten() for part in parts])

    def known(self, after: str) -> list[Tensor]:
        """Return the tensors that make up the state; raises as `numbers` does."""
        known = [value for value in self.values if value is not None]
        if len(known) < len(self.values):
            raise ValueError(
                f"the state after layer {after} is changed in place where it cannot be followed: take the change out, "
                "or name other layers="
            )
        return known

    @property
    def tensor(self) -> Tensor:
        """The numbers of a state of one tensor."""
        (value,) = self.values
        assert value is not None
        return value

    @property
    def gradient_edges(self) -> list[GradientEdge]:
        return [GradientEdge(node, number) for node, number in self.edges]


def check_state(name: str, state: State, why_not_finite: Callable[[], str]) -> None:
    """Raise where a state has left the range, and the branches taken there are no longer those of the network.

    Args:
        why_not_finite: gives the words for where the first number that is not finite comes from.
    """
    for value, shape in zip(state.values, state.shapes, strict=True):
        if value is None:
            continue
        if value.numel() == 0:
            raise ValueError(f"the state after layer {name} has shape {tuple(shape)}: it holds no numbers")
        finite = value.isfinite()
        if not finite.all():
            place = tuple((~finite).nonzero()[0].tolist())
            raise ValueError(
                f"the state after layer {name} has {int((~finite).sum())} values that are not finite, the first "
                f"{value[place].item()} at {place}: {why_not_finite()}"
            )
        one = State(state.edges[:1], (value,), (shape,), (value.dtype,), state.batch_dim, state.batch)
        size = one.flat([value]).abs().amax(dim=-1) if one.has_points else value.abs().amax().reshape(1)
        lost = (size > 0) & (size < Format(value.dtype).smallest)
        if lost.any():
            raise ValueError(
                f"the state after layer {name} is below the smallest normal number of {value.dtype} at point "
                f"{int(lost.nonzero()[0])}: it underflows, and a ReLU or PReLU after it would take the wrong branch; "
                "scale the weights or the points, or take a wider dtype"
            )
