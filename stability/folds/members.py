"""The members of a chain of width 1 that six numbers a step do not hold, each as a module to be followed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stability.networks import Chain


class Member(nn.Module):
    """A member of a piecewise-linear chain of width 1, in numbers that float64 holds: maps (points, 1) to the same."""

    def __init__(self, chain: Chain, seed: int) -> None:
        super().__init__()
        self.skip, self.activation = chain.architecture.skip, chain.architecture.phi
        self.factor = chain.factor
        with torch.no_grad():
            self.steps = [
                [
                    (one.part, *(None if value is None else float(value[seed]) for value in one[1:4]), one.adds_last)
                    for one in step.operations()
                ]
                for step in chain.steps
            ]
        ends = (chain.readout_weight, chain.readout_bias) if chain.architecture.readout else ()
        self.readout = [float(value.detach()[seed]) for value in ends]

    def forward(self, h: Tensor) -> Tensor:
        for step in self.steps:
            h = self._step(h, step)
        if self.readout:
            weight, bias = self.readout
            h = h * weight + bias
        return h

    def _step(self, state: Tensor, step: list[tuple[str, float | None, float | None, float | None, bool]]) -> Tensor:
        h, late = state, None
        for part, weight, bias, slope, adds_last in step:
            if part == "map":
                h, late = h * weight, bias  # type: ignore[operator]
                if not adds_last:
                    h, late = h + bias, None  # type: ignore[operator]
            elif part == "activation":
                h = self._activate(h, slope)
            elif part == "scale":
                h = h * self.factor
            else:
                h = h if self.skip == 0 else state * self.skip + h  # type: ignore[operator]
                h, late = h if late is None else h + late, None
        return h

    def _activate(self, h: Tensor, slope: float | None) -> Tensor:
        slope = self.activation.slope if slope is None else slope
        assert slope is not None
        return h if slope == 1 else functional.leaky_relu(h, slope) if slope else functional.relu(h)


def members_of(net: object) -> list[Member] | None:
    """Return the members of a chain of width 1 that has no step table and is piecewise linear; None for others."""
    if not isinstance(net, Chain) or net.width != 1 or net.has_table or not net.architecture.phi.piecewise_linear:
        return None
    return [Member(net, seed) for seed in range(net.seeds)]
