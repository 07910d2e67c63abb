"""Growth: chains that begin with few steps and get the others one by one, each where it promises most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.threads import side_by_side
from stability.networks import Chain
from stability.networks.seeding import uniforms
from stability.training.kernels import kinks as places
from stability.training.kernels.marquardt import FIRST_DAMPING, OUTER_BIAS, Fit
from stability.training.least_squares import LeastSquares, by_kinks, fixed_slope, numbers
from stability.training.levenberg_marquardt import begin, has_arrived, warm_up
from stability.training.objective import TableObjective, aim
from stability.training.options import Options
from stability.training.status import MOVING, STOPPED

#: At least so many iterations follow an insertion.
_BETWEEN = 8


def sizes(start: int, depth: int, iterations: int) -> list[int]:
    """Return how many steps a chain has from stage to stage, so that two thirds of the iterations serve growing.

    One more a stage where there are iterations for it, else about the same ratio from stage to stage, and never less
    than one more.
    """
    stages = min(depth - start, max(1, (2 * iterations // 3) // _BETWEEN))
    if stages == 0:
        return [start]
    ratio = (depth / start) ** (1 / stages)
    grown = [max(start + k, int(start * ratio**k)) for k in range(stages)]
    return [*grown, depth]


def can_grow(chain: Chain, trained: NDArray[np.bool_]) -> bool:
    """Whether a step of the chain can be the identity and bend at once wherever it is asked to."""
    architecture = chain.architecture
    bypassed = architecture.maps == 2 and architecture.skip in (1, None) and by_kinks(architecture, trained)
    plain = architecture.maps == 1 and architecture.skip == 0 and architecture.phi.trains_slope and architecture.readout
    # A kink at the end of a plain chain shifts the bias of the read-out.
    shifts = [trained[0, [1, 2, 5]].all(), trained[-1, OUTER_BIAS]]
    # The identity has no factor on its branch.
    return bypassed or (plain and all(shifts) and chain.factor == 1)


class _Growing:
    """The rows in use of an objective, and the others."""

    def __init__(self, objective: TableObjective, used: int) -> None:
        self.whole = objective
        self.depth = len(objective.trained) - objective.chain.architecture.readout
        self.part = objective.part(self._rows(used))

    def _rows(self, used: int) -> NDArray[np.int64]:
        """The rows of a chain of so many steps, its read-out among them."""
        return np.append(np.arange(used), np.arange(self.depth, len(self.whole.trained)))

    @property
    def used(self) -> int:
        return len(self.part.table[0]) - self.whole.chain.architecture.readout

    def spread(self) -> None:
        """Put the rows in use into the whole table, and the identity into the other steps."""
        architecture, table = self.whole.chain.architecture, self.whole.table
        table[:, self._rows(self.used)] = self.part.table
        slope = fixed_slope(architecture)
        if architecture.maps == 2:
            table[:, self.used : self.depth] = [1, 1, 0, 0, 0, 0.25 if np.isnan(slope) else slope]
        else:
            table[:, self.used : self.depth] = [0, 1, 0, 1, 0, 1]
        self.whole.hold_slopes()

    def grow(self, more: int, share: float, turn: int) -> None:
        """Insert so many steps into every member."""
        chain, used = self.whole.chain, len(self.part.table[0])
        rows, kinds = numbers(chain.architecture, self.part.trained, self.part.least_slope)
        positions = self.used + 1
        now = min(more, positions)
        uniform = uniforms(
            chain.root, chain.architecture.name, chain.members, "kinks", positions, places.CANDIDATES, 2 * turn
        )
        table = np.concatenate([self.part.table, np.zeros((chain.seeds, now, 6))], axis=1)
        fit = Fit(self.part.x, aim(self.part.x, self.part.y, share), rows, kinds)
        bypassed, slope = chain.architecture.maps == 2, fixed_slope(chain.architecture)
        side_by_side(
            lambda first, last: places.grow(first, last, table, used, now, fit, uniform, bypassed, slope),
            chain.seeds,
            self.part.operations * places.CANDIDATES * 10,
        )
        self.part = self.whole.part(self._rows(self.used + now))
        self.part.table[:] = table
        if more > now:
            self.grow(more - now, share, turn)


def growth(objective: TableObjective, options: Options, state: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Grow chains from their first steps to their depth, with Levenberg-Marquardt between insertions.

    A step is inserted as the identity, at the position, kink and side that promise the largest fall of the error among
    16 kinks at every position: (c.r)^2 / (c.c), r the residuals and c the derivative of the output by the bend, both
    less what the numbers there are can make.

    Args, yields: as in `adam`.
    """
    plan = sizes(min(options.start, objective.chain.depth), objective.chain.depth, options.iterations)
    between = max(1, (2 * options.iterations // 3) // max(1, len(plan) - 1))

    def stage(iteration: int) -> int:
        return min(iteration // between, len(plan) - 1)

    growing = _Growing(objective, plan[stage(int(state.get("iteration", torch.zeros(()))))])
    growing.spread()
    for progress in warm_up(growing.part, options, state):
        growing.spread()
        yield progress
    iteration, damping, status = begin(len(objective.table), state)
    members = LeastSquares(growing.part, damping, status)
    while True:
        now = int(iteration)
        losses = members.losses()
        status[~losses.isfinite()] = STOPPED
        growing.spread()
        yield losses, status
        grown = plan[stage(now)] == plan[-1]
        if now == options.iterations or (grown and has_arrived(now, options, status)):
            return
        members.advance(now, options.share(now), options.share(now - 1))
        iteration += 1
        more = plan[stage(now + 1)] - growing.used
        if more > 0:
            growing.grow(more, options.share(now), now)
            damping.fill_(FIRST_DAMPING)
            status[status != STOPPED] = MOVING
            members = LeastSquares(growing.part, damping, status)
