"""The members of a chain of width 1 that six numbers a step do not hold, each as a module to be followed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stability.folds.kinks_met import as_one_layer
from stability.networks import Chain


class _Part(NamedTuple):
    """A part of a step in plain numbers, those that it has no use for 0."""

    part: str
    weight: float
    bias: float
    slope: float
    adds_last: bool


class Member(nn.Module):
    """A member of a piecewise-linear chain of width 1, in numbers that float64 holds: maps (points, 1) to the same."""

    def __init__(self, chain: Chain, seed: int) -> None:
        super().__init__()
        architecture = chain.architecture
        assert architecture.skip is not None
        self.skip, self.factor = float(architecture.skip), chain.factor

        def number(value: Tensor | None, default: float | None) -> float:
            return default or 0.0 if value is None else float(value[seed])

        with torch.no_grad():
            self.steps = [
                [
                    _Part(
                        one.part,
                        number(one.weight, None),
                        number(one.bias, None),
                        number(one.slope, architecture.phi.slope),
                        one.adds_last,
                    )
                    for one in step.operations()
                ]
                for step in chain.steps
            ]
            last = dict(chain.named_parameters())
            ends = ("readout_weight", "readout_bias") if architecture.readout else ()
            self.readout = [float(last[kind][seed]) for kind in ends]

    def forward(self, h: Tensor) -> Tensor:
        for step in self.steps:
            h = self._step(h, step)
        if self.readout:
            weight, bias = self.readout
            h = h * weight + bias
        return h

    @as_one_layer
    def _step(self, state: Tensor, step: list[_Part]) -> Tensor:
        h, late = state, 0.0
        for one in step:
            if one.part == "map":
                h = h * one.weight
                if one.adds_last:
                    late = one.bias
                else:
                    h = h + one.bias
            elif one.part == "activation":
                h = _activate(h, one.slope)
            elif one.part == "scale":
                h = h * self.factor
            else:
                h = (h if self.skip == 0 else state * self.skip + h) + late
                late = 0.0
        return h


def _activate(h: Tensor, slope: float) -> Tensor:
    if slope == 1:
        return h
    return functional.leaky_relu(h, slope) if slope else functional.relu(h)


def members_of(net: object) -> list[Member] | None:
    """Return the members of a chain of width 1 that has no step table and is piecewise linear; None for others."""
    if not isinstance(net, Chain) or net.width != 1 or net.has_table or not net.architecture.phi.piecewise_linear:
        return None
    return [Member(net, seed) for seed in range(net.seeds)]
