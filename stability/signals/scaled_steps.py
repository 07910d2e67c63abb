"""The states of a chain of any width, with exponents of their own, so that they cannot leave the range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stability.foundation.scaled_tensors import Scaled, times_power
from stability.networks.block_order import EPSILON, normalise
from stability.networks.chain_step import Operation, Step, times
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
    2^-1900 or so, those of neurons without a bias too. A normalisation gives states of order 1 their own exponent.
    """
    operations = list(step.operations())
    biases = [one.bias.double()[:, None] for one in operations if one.bias is not None]
    biased = torch.stack([(b != 0).flatten(1).any(dim=1) for b in biases]).any(dim=0)[:, None]
    h, lost = state, None
    for one in operations:
        if one.part == "add":
            skip = _skip(step, h.mantissa)
            kept, lost = (Scaled.of(factor * state.mantissa, state.exponent) for factor in (skip, skip - 1))
            h, lost = kept + h, lost + h
        else:
            h, lost = _scaled_operation(step, one, h, biased), None
    minus = Scaled(-state.mantissa, state.exponent)
    return h, h + minus if lost is None else lost


def _scaled_operation(step: Step, one: Operation, h: Scaled, biased: Tensor) -> Scaled:
    """Return what a part of a branch makes of m 2^e."""
    # Beside a bias of the same seed what is smaller is nothing.
    exponent = torch.where(biased, h.exponent.clamp(min=-900), h.exponent)
    m = times_power(h.mantissa, h.exponent - exponent)
    if one.part == "map":
        assert one.weight is not None
        assert one.bias is not None
        full = one.bias.double()[:, None].expand(m.shape).contiguous()
        m = times(one.weight.double(), m) + times_power(full, -exponent)
    elif one.part == "activation":
        slope = None if one.slope is None else one.slope.double()[:, None]
        moved = exponent.clamp(-500, 500)
        m = times_power(step.architecture.phi.function(times_power(m, moved), slope), -moved)
    elif one.part == "norm":
        assert step.architecture.norm is not None
        # c h / sqrt(c^2 h^2 + epsilon) with c = 2^e below 1; above, c = 1 and an epsilon of 4^-e.
        large = exponent.clamp(min=0)
        epsilon = times_power(torch.full_like(m[..., :1], EPSILON), -2 * large)
        scale = times_power(torch.ones_like(m[..., :1]), (exponent - large).clamp(min=-500))
        exponent = exponent - large - (exponent - large).clamp(min=-500)
        m = normalise(m, step.architecture.norm, epsilon, scale)
    else:
        m = step.factor * m
    return Scaled.of(m, exponent)


def _skip(step: Step, m: Tensor) -> Tensor:
    """Return the weight of the bypass, (seeds, 1, ...)."""
    skip = step.skip.double() if isinstance(step.skip, Tensor) else torch.full_like(m[:, 0, ...], step.skip)
    return skip.reshape(len(skip), *[1] * (m.ndim - 1)) if skip.ndim == 1 else skip[:, None]
