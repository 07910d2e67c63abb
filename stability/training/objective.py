"""A chain's loss on a task as a function of one flat vector of parameters a member, read in two ways."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from stability.foundation.checks import COLUMNS
from stability.foundation.threads import side_by_side
from stability.networks import Chain
from stability.networks.step_table import entries
from stability.training.kernels import training_kernel as kernel
from stability.training.task import Task

Values = TypeVar("Values", Tensor, NDArray[np.floating])


class Objective(ABC):
    """The losses of all members and their gradients, 0 for parameters that do not require one.

    Attributes:
        parameters: (seeds, count), a copy of the chain's, to be changed in place.
        path: which reading this is.
        least_slope: under which no trained slope goes.
    """

    parameters: Tensor
    path: Literal["kernel", "torch"]
    least_slope: float
    _slopes: Tensor

    @abstractmethod
    def losses_and_gradients(self, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return the losses (seeds,) at `parameters` and their gradients (seeds, count).

        They are those of the target (1 - share) x + share y; the losses of the task have a share of 1.
        """

    @abstractmethod
    def write(self, parameters: Tensor) -> None:
        """Put `parameters` into the chain."""

    def hold_slopes(self) -> None:
        """Lift the trained slopes that are under the least one."""
        if self.least_slope > -math.inf:
            lifted = self.parameters.clamp(min=self.least_slope)
            self.parameters.copy_(torch.where(self._slopes, lifted, self.parameters))


class TableObjective(Objective):
    """By compiled loops over the step table: width 1, piecewise linear, on the CPU.

    Attributes:
        table: the parameters, (seeds, rows, 6), the same memory.
        trained: (rows, 6), which entries are trained.
        x, y: the points and the target there, (points,), in the chain's dtype.
    """

    path = "kernel"

    def __init__(self, chain: Chain, task: Task, least_slope: float = -math.inf) -> None:
        trained = [kind for kind, value in chain.named_parameters() if value.requires_grad]
        self._hold(
            chain,
            torch.from_numpy(chain.table()).to(chain.dtype).numpy(),
            entries(chain.architecture, chain.depth, trained),
            task.x.to(chain.dtype).numpy(),
            task.y.to(chain.dtype).numpy(),
            least_slope,
        )

    def _hold(
        self,
        chain: Chain,
        table: NDArray[np.floating],
        trained: NDArray[np.bool_],
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        least_slope: float,
    ) -> None:
        self.chain, self.table, self.trained, self.x, self.y = chain, table, trained, x, y
        self.least_slope = least_slope
        self.parameters = torch.from_numpy(table).flatten(1)
        self._trained = torch.from_numpy(trained).flatten()
        self._slopes = self._trained & torch.tensor([kind == "slope" for kind in COLUMNS]).repeat(len(trained))

    def part(self, rows: NDArray[np.integer]) -> TableObjective:
        """Return the objective of some rows alone, with parameters of its own."""
        part = TableObjective.__new__(TableObjective)
        part._hold(
            self.chain, np.ascontiguousarray(self.table[:, rows]), self.trained[rows], self.x, self.y, self.least_slope
        )
        return part

    def losses_and_gradients(self, share: float = 1.0) -> tuple[Tensor, Tensor]:
        losses = np.empty(len(self.table), self.table.dtype)
        gradients = np.empty_like(self.table)
        arrays = (self.table, self.x, aim(self.x, self.y, share), self.trained.ravel(), losses, gradients)
        side_by_side(
            lambda first, last: kernel.losses_and_gradients(first, last, *arrays), len(losses), self.operations
        )
        return torch.from_numpy(losses), torch.from_numpy(gradients).flatten(1)

    @property
    def operations(self) -> int:
        """About how many operations a pass through all members takes."""
        return int(self.table.shape[0] * self.table.shape[1] * len(self.x))

    def write(self, parameters: Tensor) -> None:
        self.chain.set_table(parameters.reshape(self.table.shape).to(torch.float64))


class ModuleObjective(Objective):
    """By automatic differentiation of the module: every width, activation, dtype and device."""

    path = "torch"

    def __init__(self, chain: Chain, task: Task, least_slope: float = -math.inf) -> None:
        self.chain, self.least_slope = chain, least_slope
        with torch.no_grad():
            self.parameters = torch.cat([value.reshape(chain.seeds, -1) for value in chain.parameters()], dim=1)
        self._trained = self._mark({kind for kind, value in chain.named_parameters() if value.requires_grad})
        self._slopes = self._trained & self._mark(set(chain.architecture.slope_names))
        self._x, self._y = (v.to(chain.device, chain.dtype) for v in (task.x, task.y))

    def _mark(self, kinds: set[str]) -> Tensor:
        return torch.cat(
            [torch.full_like(v[0], k in kinds, dtype=torch.bool).flatten() for k, v in self.chain.named_parameters()]
        )

    def _split(self, parameters: Tensor) -> dict[str, Tensor]:
        shapes = {kind: value.shape for kind, value in self.chain.named_parameters()}
        parts = torch.split_with_sizes(parameters, [shape[1:].numel() for shape in shapes.values()], dim=1)
        return {k: part.reshape(shape) for (k, shape), part in zip(shapes.items(), parts, strict=True)}

    def losses_and_gradients(self, share: float = 1.0) -> tuple[Tensor, Tensor]:
        flat = self.parameters.detach().requires_grad_()
        with torch.enable_grad():
            output = functional_call(self.chain, self._split(flat), (self._x,))
            losses = (output - aim(self._x, self._y, share)).square().flatten(1).mean(dim=1)
            (gradients,) = torch.autograd.grad(losses.sum(), flat)
        return losses.detach(), gradients.where(self._trained, 0)

    def write(self, parameters: Tensor) -> None:
        with torch.no_grad():
            for kind, value in self._split(parameters).items():
                self.chain.get_parameter(kind).copy_(value)


def aim(x: Values, y: Values, share: float) -> Values:
    """Return the target (1 - share) x + share y of a stage on the way from the identity to y."""
    return y if share == 1.0 else (1 - share) * x + share * y


def runs_compiled(chain: Chain) -> bool:
    """Whether there are compiled loops for the chain."""
    compiled = chain.dtype in (torch.float32, torch.float64) and chain.device.type == "cpu"
    return compiled and chain.holds_rows


def make_objective(chain: Chain, task: Task, least_slope: float = -math.inf) -> Objective:
    """Return the compiled reading where there is one, else the differentiated module."""
    return (TableObjective if runs_compiled(chain) else ModuleObjective)(chain, task, least_slope)
