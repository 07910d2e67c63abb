"""Members whose numbers are fitted by Levenberg-Marquardt: which numbers those are, and one iteration of them all."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.checks import COLUMNS
from stability.foundation.threads import side_by_side
from stability.networks.architecture import Architecture
from stability.networks.seeding import uniforms
from stability.training.kernels import kinks, marquardt
from stability.training.objective import TableObjective, aim
from stability.training.status import CONVERGED, MOVING

#: So many iterations lie between two looks at the kinks that bend nothing.
BETWEEN_LOOKS = 10
#: A step's numbers that say where it bends and how much.
_BENDS = ("weight", "bias", "outer_weight")


def fixed_slope(architecture: Architecture) -> float:
    """Return the activation's slope for z <= 0, NaN where it is trained."""
    return math.nan if architecture.phi.slope is None else architecture.phi.slope


def by_kinks(architecture: Architecture, trained: NDArray[np.bool_]) -> bool:
    """Whether the steps are two maps whose weights, biases and slopes are all trained, and can be given by kinks."""
    needed = [*_BENDS, "outer_bias", *(["slope"] if architecture.phi.trains_slope else [])]
    return architecture.maps == 2 and bool(trained[0][[COLUMNS.index(kind) for kind in needed]].all())


def numbers(
    architecture: Architecture, trained: NDArray[np.bool_], least_slope: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and the kinds of the numbers that are fitted, those left out that do nothing of their own.

    A step of two maps is the same under (weight, bias) c and outer_weight / c, so weights stay -1 or 1; its
    outer_bias moves the kinks behind it and, at the end, the output, where one is enough. A PReLU step is then its
    kink and its two sides, unless a least slope is asked for.

    Args:
        trained: (rows, 6), which entries of the table are trained.
        least_slope: -inf for none.
    """
    depth = len(trained) - architecture.readout
    if not by_kinks(architecture, trained):
        rows, kinds = np.nonzero(trained)
        return rows, kinds
    sides = architecture.phi.trains_slope and least_slope == -math.inf
    step = [marquardt.BIAS, marquardt.BELOW, marquardt.ABOVE]
    if not sides:
        step = [marquardt.BIAS, marquardt.OUTER_WEIGHT]
        step += [marquardt.SLOPE] if architecture.phi.trains_slope else []
    last = np.nonzero(trained[depth:])[1].tolist() if architecture.readout else [marquardt.OUTER_BIAS]
    rows = np.repeat(np.arange(depth + 1), [len(step)] * depth + [len(last)])
    rows[rows == depth] -= not architecture.readout
    return rows, np.array(step * depth + last)


def with_unit_weights(table: NDArray[np.floating], depth: int) -> NDArray[np.floating]:
    """Return the same steps of two maps with weights -1 or 1, rounded.

    One of weight 0, or with a kink beyond all floats, becomes a shift with its kink at 0.
    """
    table = table.copy()
    _, weight, bias, outer_weight, outer_bias, slope = np.moveaxis(table[:, :depth], 2, 0)
    # What overflows here is not finite in the chain either, and the member is stopped for it.
    with np.errstate(all="ignore"):
        flat = ~np.isfinite(bias / weight)
        outer_bias[flat] += (outer_weight * np.where(bias > 0, bias, slope * bias))[flat]
        bias[flat], outer_weight[flat], weight[flat] = 0.0, 0.0, 1.0
        size = np.abs(weight)
        bias /= size
        outer_weight *= size
        weight /= size
    return table


class LeastSquares:
    """The members of a table on their way down.

    Attributes:
        table: (seeds, rows, 6), float64, changed in place.
        damping, status: (seeds,), changed in place.
    """

    def __init__(self, objective: TableObjective, damping: Tensor, status: Tensor) -> None:
        chain = objective.chain
        architecture = chain.architecture
        self._objective = objective
        self._depth = len(objective.trained) - architecture.readout
        self._bent = by_kinks(architecture, objective.trained)
        objective.hold_slopes()
        if self._bent:
            objective.table[:] = with_unit_weights(objective.table, self._depth)
        self.table, self.damping, self.status = objective.table, damping, status
        self.rows, self.kinds = numbers(architecture, objective.trained, objective.least_slope)

    def losses(self) -> Tensor:
        """Return the mean-squared errors on the task, (seeds,)."""
        out = np.empty(len(self.table))
        arrays = (self.table, self._objective.x, self._objective.y, out)
        side_by_side(lambda first, last: marquardt.losses(first, last, *arrays), len(out), self._objective.operations)
        return torch.from_numpy(out)

    def _fit(self, share: float) -> marquardt.Fit:
        """Return what is fitted, and by which numbers, at (1 - share) x + share y."""
        x, y = self._objective.x, self._objective.y
        return marquardt.Fit(x, aim(x, y, share), self.rows, self.kinds)

    def iterate(self, share: float) -> None:
        """Do one iteration towards (1 - share) x + share y."""
        objective = self._objective
        fit = self._fit(share)
        side_by_side(
            lambda first, last: marquardt.iterate(
                first, last, self.table, fit, objective.least_slope, self.damping.numpy(), self.status.numpy()
            ),
            len(self.table),
            objective.operations * 3 * min(len(self.kinds), len(objective.x)),
        )

    def use_idle_kinks(self, share: float, turn: int) -> None:
        """Move kinks that bend nothing; see `kernels.kinks.use_idle_kinks`."""
        if not self._bent:
            return
        objective, chain = self._objective, self._objective.chain
        # Even turns serve insertions.
        uniform = uniforms(
            chain.root, chain.architecture.name, chain.members, "kinks", self._depth, kinks.CANDIDATES, 2 * turn + 1
        )
        fit, slope = self._fit(share), fixed_slope(chain.architecture)
        side_by_side(
            lambda first, last: kinks.use_idle_kinks(
                first, last, self.table, fit, uniform, slope, self.damping.numpy(), self.status.numpy()
            ),
            len(self.table),
            objective.operations * 100,
        )

    def advance(self, iteration: int, share: float, before: float) -> None:
        """Do what follows the yield of an iteration: the iteration itself, and now and then a look at the idle kinks.

        Args:
            iteration: which.
            share: the target's there; before: the one before.
        """
        if share != before:  # the target has moved on, and so do members that had arrived
            arrived = self.status == CONVERGED
            self.damping[arrived] = self.damping[arrived].clamp(max=marquardt.FIRST_DAMPING)
            self.status[arrived] = MOVING
        if iteration % BETWEEN_LOOKS == BETWEEN_LOOKS - 1:
            self.use_idle_kinks(share, iteration // BETWEEN_LOOKS)
        self.iterate(share)
