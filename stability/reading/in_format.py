"""The floating-point formats by name, and a network in one of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from stability.foundation.checks import check_name
from stability.networks import Chain
from stability.reading.chains import Steps
from stability.reading.network import Network

AnyReading = TypeVar("AnyReading", bound=Steps | Network)

#: The formats, from the coarsest.
FORMATS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    Attributes:
        name: "float16", "bfloat16", "float32" or "float64".
        dtype: the same in torch.
        roundoff: the largest relative error of an operation in the normal range, half the spacing above 1.
        log2_least: of the largest absolute error below it, half the smallest subnormal number, which rounds to zero.
            The logarithm, as float64 holds half of its own no more.
        smallest: the smallest normal number.
        largest: the largest number.
    """

    name: str
    dtype: torch.dtype

    @property
    def roundoff(self) -> float:
        return torch.finfo(self.dtype).eps / 2

    @property
    def log2_least(self) -> int:
        limits = torch.finfo(self.dtype)
        return round(math.log2(limits.tiny) + math.log2(limits.eps)) - 1

    @property
    def smallest(self) -> float:
        return torch.finfo(self.dtype).tiny

    @property
    def largest(self) -> float:
        return torch.finfo(self.dtype).max


def format_name(dtype: str | torch.dtype) -> str:
    """Return the name of a format, of a torch dtype as well."""
    return str(dtype).removeprefix("torch.") if isinstance(dtype, str | torch.dtype) else repr(dtype)


def check_formats(formats: Sequence[str | torch.dtype]) -> list[Format]:
    """Return the formats of these names, or torch dtypes."""
    if isinstance(formats, str | torch.dtype):
        formats = (formats,)
    if not isinstance(formats, Sequence):
        raise TypeError(f"formats is {formats!r}: expected a list of some of {', '.join(FORMATS)}, or of torch dtypes")
    names = [format_name(dtype) for dtype in formats]
    if not names:
        raise ValueError(f"formats is empty: expected some of {', '.join(FORMATS)}")
    found = [check_name("floating-point format", name, FORMATS) for name in names]
    if len(set(found)) < len(found):
        raise ValueError(f"formats repeats a format: {', '.join(found)}")
    return [Format(name, FORMATS[name]) for name in found]


def in_format(reading: AnyReading, dtype: torch.dtype) -> AnyReading:
    """Return a copy of a network with its parameters and floating inputs rounded to a format.

    Raises:
        TypeError: for complex parameters, of which torch would drop the imaginary part.
    """

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor

    net = reading.chain if isinstance(reading, Steps) else reading.module
    for name, parameter in net.named_parameters():
        if parameter.is_complex():
            raise TypeError(f"the parameter {name} is {parameter.dtype}: expected real ones")
    twin = copy.deepcopy(net).to(dtype)
    if isinstance(reading, Steps):
        return replace(reading, chain=cast(Chain, twin), x=rounded(reading.x))
    return replace(reading, module=twin, inputs=reading.inputs.mapped(rounded))
