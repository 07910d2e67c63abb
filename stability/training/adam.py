"""Adam for many members at once, each on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stability.training.objective import Objective
from stability.training.options import Options
from stability.training.status import MOVING, STOPPED


def clip_by_member(gradients: Tensor, limit: float) -> Tensor:
    """Return the gradients (seeds, count), each member's scaled down to an L2 norm of at most `limit`."""
    # Scaled by the largest entry first: the squares of large or small gradients leave the range.
    largest = gradients.abs().amax(dim=1, keepdim=True)
    unit = gradients / largest.where(largest > 0, 1)
    unit_limit = limit / root(sum_by_member(unit.square())).where(largest > 0, 1)
    return gradients.where(largest <= unit_limit, unit * unit_limit)


def sum_by_member(values: Tensor) -> Tensor:
    """Return the sums (seeds, 1) of values (seeds, count), the same in any batch and with any number of threads."""
    if values.device.type == "cpu":
        # torch's own splits a single long row among its threads.
        return torch.from_numpy(values.numpy().sum(axis=1, keepdims=True))
    return values.sum(dim=1, keepdim=True)


def root(values: Tensor) -> Tensor:
    """Return the square roots, correctly rounded on the CPU, in place."""
    if values.device.type == "cpu":
        # torch's own rounds one in 500 to the other side.
        np.sqrt(values.numpy(), out=values.numpy())
        return values
    return values.sqrt_()


def adam(
    objective: Objective, options: Options, state: dict[str, Tensor], betas: tuple[float, float] = (0.9, 0.999)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run Adam (Kingma and Ba 2015, algorithm 1), yielding before each iteration and after the last.

    The rate falls from `rate` to a hundredth of it along half a cosine. A member whose loss or gradient is not
    finite stops moving.

    Args:
        objective: its parameters are changed in place.
        options: iterations, rate, clip, homotopy.
        state: all that the run needs to go on from where it is, beside the parameters; empty at the start.

    Yields:
        The losses (seeds,) at `objective.parameters`, and what has become of the members (seeds,).
    """
    parameters = objective.parameters
    mean = state.setdefault("mean", torch.zeros_like(parameters))
    square = state.setdefault("square", torch.zeros_like(parameters))
    status = state.setdefault("status", torch.full_like(parameters[:, 0], MOVING, dtype=torch.int64))
    iteration = state.setdefault("adam_iteration", torch.zeros((), dtype=torch.int64))
    objective.hold_slopes()
    while True:
        now = int(iteration)
        share = options.share(now)
        losses, gradients = objective.losses_and_gradients(share)
        status[~(losses.isfinite() & gradients.isfinite().all(dim=1))] = STOPPED
        moving = (status == MOVING)[:, None]
        yield (losses if share == 1.0 else objective.losses_and_gradients()[0]), status
        if now == options.iterations or not moving.any():
            return
        gradients = clip_by_member(gradients.where(moving, 0), options.clip)
        mean.lerp_(gradients, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(gradients, gradients, value=1 - betas[1])
        denominator = root(square / (1 - betas[1] ** (now + 1))).add_(1e-8)
        rate = options.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * now / options.iterations)) / 2)
        update = (mean / denominator).mul_(-rate / (1 - betas[0] ** (now + 1)))
        parameters += update * moving
        objective.hold_slopes()
        iteration += 1
