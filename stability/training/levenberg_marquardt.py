"""Levenberg-Marquardt for many members at once, each with a damping of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from stability.training.adam import adam
from stability.training.kernels.marquardt import FIRST_DAMPING
from stability.training.least_squares import BETWEEN_LOOKS, LeastSquares
from stability.training.objective import TableObjective
from stability.training.options import Options
from stability.training.status import MOVING, STOPPED


def warm_up(objective: TableObjective, options: Options, state: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Run the iterations of Adam that come before another method, yielding before each."""
    if options.adam_iterations and "iteration" not in state:
        for progress in adam(objective, replace(options, iterations=options.adam_iterations, homotopy=0.0), state):
            if int(state["adam_iteration"]) == options.adam_iterations:
                break
            yield progress


def begin(seeds: int, state: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the iteration, the dampings and what has become of the members, from the state or as new."""
    status = state.get("status", torch.full((seeds,), MOVING))
    return (
        state.setdefault("iteration", torch.zeros((), dtype=torch.int64)),
        state.setdefault("damping", torch.full((seeds,), FIRST_DAMPING, dtype=torch.float64)),
        state.setdefault("status", status),
    )


def has_arrived(iteration: int, options: Options, status: Tensor) -> bool:
    """Whether no member moves any more, after a look at the kinks that it may have to spare."""
    looked = iteration > 0 and iteration % BETWEEN_LOOKS == 0
    return looked and options.share(iteration) == 1.0 and not bool((status == MOVING).any())


def levenberg_marquardt(
    objective: TableObjective, options: Options, state: dict[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run Levenberg-Marquardt (Marquardt 1963), yielding before each iteration and after the last.

    An iteration solves (J J^T + damping D) update = -J r for the numbers of a member, J (numbers, points) the
    derivatives of its residuals r and D the diagonal of J J^T, no entry under a hundredth of their mean; or, where the
    numbers are more than the points, the same update from J^T D^-1 J. The damping is raised until the update lowers the
    error. A member has converged where none does, or where a lightly damped one lowers it by less than 1e-10 of it.
    Every tenth iteration kinks that bend nothing are moved to where the error is.

    Args, yields: as in `adam`.
    """
    yield from warm_up(objective, options, state)
    iteration, damping, status = begin(len(objective.table), state)
    members = LeastSquares(objective, damping, status)
    while True:
        now = int(iteration)
        losses = members.losses()
        status[~losses.isfinite()] = STOPPED
        yield losses, status
        if now == options.iterations or has_arrived(now, options, status):
            return
        members.advance(now, options.share(now), options.share(now - 1))
        iteration += 1
