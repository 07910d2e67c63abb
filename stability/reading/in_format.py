"""A network in another floating-point format."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from stability.networks import Chain
from stability.reading.chain_reading import Steps
from stability.reading.network import Network

AnyReading = TypeVar("AnyReading", bound=Steps | Network)


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
