"""Which numbers of a tensor are not finite, and in which way; where a tensor lies in its storage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: The kinds of numbers.
FINITE, PLUS, MINUS, NAN = 0, 1, 2, 3


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor has floating numbers that can be looked at."""
    return bool(
        (tensor.is_floating_point() or tensor.is_complex())
        and tensor.layout == torch.strided
        and tensor.numel()
        and not tensor.is_meta
        and not tensor._is_zerotensor()  # nothing but zeros, without memory, as forward differentiation makes them
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def held_values(tensor: Tensor) -> Tensor:
    """Return a tensor of the numbers that a sparse tensor holds, a dense one as it is."""
    if tensor.layout == torch.sparse_coo:
        return tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        return tensor.values()
    return tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; so is what holds none."""
    tensor = held_values(tensor)
    if not has_numbers(tensor):
        return True
    values = tensor.detach()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    elif values.dtype.itemsize == 1:  # for which little is implemented
        values = values.float()
    least, most = values.aminmax()  # one pass, and NaN goes through
    return math.isfinite(least) and math.isfinite(most)


def kinds_of(tensor: Tensor) -> Tensor:
    """Return the kind of every number, uint8; where all are NaN it takes one byte."""
    values = tensor.detach()
    if values.dtype.itemsize == 1:
        values = values.float()
    nan = values.isnan()
    if bool(nan.all()):
        return torch.tensor(NAN, dtype=torch.uint8, device=tensor.device).expand(tensor.shape)
    if values.is_complex():
        return torch.where(nan, NAN, values.isinf().to(torch.uint8) * PLUS).to(torch.uint8)
    kinds = nan.to(torch.uint8) * NAN
    kinds += values.isposinf().to(torch.uint8) * PLUS
    kinds += values.isneginf().to(torch.uint8) * MINUS
    return kinds


def largest_finite(tensor: Tensor) -> float:
    """Return the largest finite magnitude, 0 where there is none."""
    if not has_numbers(tensor):
        values = tensor.detach().double().abs() if tensor.numel() and tensor.layout == torch.strided else None
        return 0.0 if values is None else float(values.max())
    values = tensor.detach()
    values = values.abs() if values.is_complex() else values
    return float(values.float().nan_to_num(0.0, 0.0, 0.0).abs().max() if values.dtype.itemsize < 4 else _max(values))


def _max(values: Tensor) -> float:
    return float(values.nan_to_num(0.0, 0.0, 0.0).abs().max())


@dataclass(frozen=True)
class Slot:
    """Where numbers of which some are not finite lie.

    Attributes:
        storage: of the tensor, by its address.
        length: how many numbers the storage holds.
        size, stride, offset: of the tensor in it.
        itemsize: of one number, in bytes.
        kinds: of its numbers, of its shape.
    """

    storage: int
    length: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    itemsize: int
    kinds: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Slot:
        """Return that of a tensor now."""
        storage, itemsize = tensor.untyped_storage(), tensor.element_size()
        return cls(
            storage._cdata,
            storage.nbytes() // itemsize,
            tuple(tensor.shape),
            tensor.stride(),
            int(tensor.storage_offset()),
            itemsize,
            kinds_of(tensor),
        )

    @property
    def bad(self) -> Tensor:
        """Which numbers are not finite."""
        return self.kinds > FINITE

    @property
    def has_nan(self) -> bool:
        """Whether there is a NaN."""
        return bool((self.kinds == NAN).any())

    def places(self) -> Tensor:
        """Return where each number lies in the storage."""
        every = torch.arange(self.length, device=self.kinds.device)
        return every.as_strided(self.size, self.stride, self.offset)
