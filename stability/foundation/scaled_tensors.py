"""Tensors with a power of 2 of their own, so that gradients can be carried through any depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stability.foundation.formats import Format
from stability.foundation.log_norms import log_norm


@dataclass(frozen=True)
class Scaled:
    """The tensor mantissa * 2^exponent, one exponent for each of the leading dimensions' entries.

    Attributes:
        mantissa: (*lead, ...), the largest entry of each lead in [1/2, 1), or all of them 0.
        exponent: int64 (*lead).
    """

    mantissa: Tensor
    exponent: Tensor

    @classmethod
    def of(cls, tensor: Tensor, exponent: Tensor) -> Scaled:
        """Return tensor * 2^exponent with a mantissa of order 1; exact, as only powers of 2 are moved."""
        flat = tensor.detach().abs().reshape((*exponent.shape, -1))
        largest = flat.amax(dim=-1) if flat.shape[-1] else torch.zeros_like(exponent, dtype=flat.dtype)
        shift = torch.frexp(largest.double()).exponent.to(torch.int64)
        mantissa = times_power(tensor.detach(), -shift)
        return cls(mantissa, torch.where(largest == 0, 0, exponent + shift))

    def __add__(self, other: Scaled) -> Scaled:
        zero, other_zero = self._is_zero(), other._is_zero()
        top = torch.where(
            zero, other.exponent, torch.where(other_zero, self.exponent, torch.maximum(self.exponent, other.exponent))
        )
        total = times_power(self.mantissa, self.exponent - top) + times_power(other.mantissa, other.exponent - top)
        return Scaled.of(total, top)

    def _is_zero(self) -> Tensor:
        return (self.mantissa == 0).reshape((*self.exponent.shape, -1)).all(dim=-1)

    def log_norm(self) -> Tensor:
        """Return the log of the L2 norm, (*lead), -inf for zeros."""
        return log_norm(self.mantissa, self.exponent.ndim) + self.exponent.double() * math.log(2)

    def log_largest(self) -> Tensor:
        """Return the log of the largest entry, (*lead), -inf for zeros."""
        largest = self.mantissa.abs().reshape((*self.exponent.shape, -1)).amax(dim=-1).double()
        return largest.log() + self.exponent.double() * math.log(2)

    def times(self, factor: Tensor) -> Scaled:
        """Return the product with a tensor, entry by entry."""
        wide = torch.complex128 if self.mantissa.is_complex() else torch.float64
        size = Scaled.of(factor.to(wide), torch.zeros_like(self.exponent))
        return Scaled.of(self.mantissa.to(wide) * size.mantissa, self.exponent + size.exponent)


def times_power(tensor: Tensor, exponent: Tensor) -> Tensor:
    """Return tensor * 2^exponent, an exponent for each of the leading entries, down to zero and never past infinity."""
    power = exponent.clamp(-4000, 4000).reshape((*exponent.shape, *[1] * (tensor.ndim - exponent.ndim)))
    # In parts, as torch.ldexp multiplies by 2^exponent, which must itself be in the range of the dtype.
    limit = Format(tensor.dtype).largest_power
    while bool((power != 0).any()):
        part = power.clamp(-limit, limit)
        tensor = tensor * torch.pow(2.0, part.to(torch.float64)).to(tensor.dtype)
        power = power - part
    return tensor
