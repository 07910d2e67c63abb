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
    net = reading.chain if isinstance(reading, Steps) else reading.module
    for name, parameter in net.named_parameters():
        if parameter.is_complex():
            raise TypeError(f"the parameter {name} is {parameter.dtype}: expected real ones")
    twin = copy.deepcopy(net).to(dtype)
    if isinstance(reading, Steps):
        return _with_points_in(replace(reading, chain=cast(Chain, twin)), dtype)
    return _with_points_in(replace(reading, module=twin), dtype)


def format_of(reading: Steps | Network) -> torch.dtype:
    """Return the floating dtype of a network's parameters, or of its points where it has none."""
    net = reading.chain if isinstance(reading, Steps) else reading.module
    own = next((value.dtype for value in net.parameters() if value.is_floating_point()), None)
    return reading.x.dtype if own is None else own


def with_points_in_its_format(reading: AnyReading) -> AnyReading:
    """Return the same network on the same points, the floating ones rounded to the format of its parameters."""
    return _with_points_in(reading, format_of(reading))


def _with_points_in(reading: AnyReading, dtype: torch.dtype) -> AnyReading:
    def rounded(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor

    if isinstance(reading, Steps):
        return replace(reading, x=rounded(reading.x))
    return replace(reading, inputs=reading.inputs.mapped(rounded))
