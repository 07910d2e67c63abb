"""The states of a chain of any width, with exponents of their own, so that they cannot leave the range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stability.foundation.scaled_tensors import Scaled, times_power
from stability.networks.chain import Step
from stability.reading.chain_reading import Steps


@dataclass(frozen=True)
class PassedLayer:
    """What a layer does to a state: its name, the state before and after it, and the difference where there is one."""

    name: str
    before: Scaled
    after: Scaled
    update: Scaled | None


def states_of_chain(reading: Steps) -> Iterator[PassedLayer]:
    """Yield what each step of a chain makes of the state, float64 with an exponent for each seed and point."""
    net, x = reading.chain, reading.x
    with torch.no_grad():
        points = x.detach().double().expand(len(net.members), *x.shape)
        state = Scaled.of(points, torch.zeros(points.shape[:2], dtype=torch.int64, device=x.device))
        for name, step in zip(reading.layers, net.steps, strict=True):
            after, update = _scaled_step(step, state)
            yield PassedLayer(name, state, after, update)
            state = after


def _scaled_step(step: Step, state: Scaled) -> tuple[Scaled, Scaled]:
    """Return the state after a step, and the update, of a state m 2^e.

    The formula of `step_formula`, with matrices: in units of 2^e a step is m -> skip m + outer_weight phi_e(weight m +
    bias 2^-e) + outer_bias 2^-e, where phi_e(z) = phi(z 2^e) 2^-e. A piecewise-linear phi is its own phi_e; tanh and
    GELU are linear below 2^-500 and homogeneous, up to nothing that float64 can tell, above 2^500. The bypass keeps the
    exponent of the state. But in a step with a bias the numbers that go through the activation count as zero below
    2^-1900 or so, those of neurons without a bias too.
    """
    biases = [b.double()[:, None] for b in (step.bias, step.outer_bias) if b is not None]
    exponent = state.exponent
    biased = torch.stack([(b != 0).flatten(1).any(dim=1) for b in biases]).any(dim=0)[:, None]
    # Beside a bias of the same seed what is smaller is nothing.
    exponent = torch.where(biased, exponent.clamp(min=-900), exponent)
    m = times_power(state.mantissa, state.exponent - exponent)

    def affine(h: Tensor, weight: Tensor) -> Tensor:
        weight = weight.double()
        return weight[:, None] * h if weight.ndim == 1 else h @ weight.mT

    def scaled(bias: Tensor) -> Tensor:
        full = bias.double()[:, None].expand(m.shape).contiguous()
        return times_power(full, -exponent)

    z = affine(m, step.weight) + scaled(step.bias)
    slope = None if step.slope is None else step.slope.double()[:, None]
    moved = exponent.clamp(-500, 500)
    update = times_power(step.activation.function(times_power(z, moved), slope), -moved)
    if step.outer_weight is not None:
        update = affine(update, step.outer_weight)
    if step.outer_bias is not None:
        update = update + scaled(step.outer_bias)
    skip = step.skip.double() if isinstance(step.skip, Tensor) else torch.full_like(step.bias.double(), step.skip)
    skip = skip.reshape(len(skip), *[1] * (m.ndim - 1)) if skip.ndim == 1 else skip[:, None]
    moves = Scaled.of(update, exponent)
    kept, lost = (Scaled.of(factor * state.mantissa, state.exponent) for factor in (skip, skip - 1))
    return kept + moves, lost + moves
