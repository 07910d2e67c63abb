"""Adam for many members at once, each on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from stability.training.objective import Objective


def clip_by_member(gradients: Tensor, limit: float) -> Tensor:
    """Return the gradients (seeds, count), each member's scaled down to an L2 norm of at most `limit`."""
    # Scaled by the largest entry first: the squares of large or small gradients leave the range.
    largest = gradients.abs().amax(dim=1, keepdim=True)
    unit = gradients / largest.where(largest > 0, 1)
    unit_limit = limit / unit.square().sum(dim=1, keepdim=True).sqrt().where(largest > 0, 1)
    return gradients.where(largest <= unit_limit, unit * unit_limit)


def adam(
    objective: Objective, steps: int, rate: float, clip: float, betas: tuple[float, float] = (0.9, 0.999)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run `steps` steps of Adam (Kingma and Ba 2015, algorithm 1), yielding before each and after the last.

    The rate falls from `rate` to a hundredth of it along half a cosine. A member whose loss or gradient is not
    finite stops moving.

    Yields:
        The losses (seeds,) at `objective.parameters`, and which members are still moving (seeds,).
    """
    parameters = objective.parameters
    mean, square = torch.zeros_like(parameters), torch.zeros_like(parameters)
    moving = torch.ones(len(parameters), dtype=torch.bool, device=parameters.device)
    for step in range(steps + 1):
        losses, gradients = objective.losses_and_gradients()
        moving = moving & losses.isfinite() & gradients.isfinite().all(dim=1)
        yield losses, moving
        if step == steps or not moving.any():
            return
        gradients = clip_by_member(gradients.where(moving[:, None], 0), clip)
        mean.lerp_(gradients, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(gradients, gradients, value=1 - betas[1])
        denominator = (square / (1 - betas[1] ** (step + 1))).sqrt_().add_(1e-8)
        now = rate * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        update = (mean / denominator).mul_(-now / (1 - betas[0] ** (step + 1)))
        parameters += update * moving[:, None]
