"""A chain's loss on a task as a function of one flat vector of parameters a member, read in two ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from stability.jacobians.threads import side_by_side
from stability.networks import Chain
from stability.networks.step_table import entries
from stability.training import kernels
from stability.training.task import Task


class Objective(ABC):
    """The losses of all members and their gradients, 0 for parameters that do not require one.

    Attributes:
        parameters: (seeds, count), a copy of the chain's, to be changed in place.
        path: which reading this is.
    """

    parameters: Tensor
    path: Literal["kernel", "torch"]

    @abstractmethod
    def losses_and_gradients(self) -> tuple[Tensor, Tensor]:
        """Return the losses (seeds,) at `parameters` and their gradients (seeds, count)."""

    @abstractmethod
    def write(self, parameters: Tensor) -> None:
        """Put `parameters` into the chain."""


class TableObjective(Objective):
    """By compiled loops over the step table: width 1, piecewise linear, on the CPU."""

    path = "kernel"

    def __init__(self, chain: Chain, task: Task) -> None:
        self.chain = chain
        table = torch.from_numpy(chain.table()).to(chain.dtype)
        self.parameters = table.flatten(1)
        self._table = table.numpy()
        trained = [kind for kind, value in chain.named_parameters() if value.requires_grad]
        self._trained = torch.from_numpy(entries(chain.architecture, chain.depth, trained)).flatten()
        self._x, self._y = (v.to(chain.dtype).numpy() for v in (task.x, task.y))

    def losses_and_gradients(self) -> tuple[Tensor, Tensor]:
        losses = np.empty(len(self._table), self._table.dtype)
        gradients = np.empty_like(self._table)
        arrays = (self._table, self._x, self._y, losses, gradients)
        side_by_side(
            lambda first, last: kernels.losses_and_gradients(first, last, *arrays),
            len(losses),
            self._table.shape[0] * self._table.shape[1] * len(self._x),
        )
        zero = torch.zeros((), dtype=self.parameters.dtype)
        return torch.from_numpy(losses), torch.where(self._trained, torch.from_numpy(gradients).flatten(1), zero)

    def write(self, parameters: Tensor) -> None:
        self.chain.set_table(parameters.reshape(self._table.shape).to(torch.float64))


class ModuleObjective(Objective):
    """By automatic differentiation of the module: every width, activation, dtype and device."""

    path = "torch"

    def __init__(self, chain: Chain, task: Task) -> None:
        self.chain = chain
        with torch.no_grad():
            self.parameters = torch.cat([value.reshape(chain.seeds, -1) for value in chain.parameters()], dim=1)
        trained = [torch.full_like(value[0], value.requires_grad).flatten() for value in chain.parameters()]
        self._trained = torch.cat(trained) != 0
        self._x, self._y = (v.to(chain.device, chain.dtype) for v in (task.x, task.y))

    def _split(self, parameters: Tensor) -> dict[str, Tensor]:
        shapes = {kind: value.shape for kind, value in self.chain.named_parameters()}
        parts = torch.split_with_sizes(parameters, [shape[1:].numel() for shape in shapes.values()], dim=1)
        return {k: part.reshape(shape) for (k, shape), part in zip(shapes.items(), parts, strict=True)}

    def losses_and_gradients(self) -> tuple[Tensor, Tensor]:
        flat = self.parameters.detach().requires_grad_()
        with torch.enable_grad():
            output = functional_call(self.chain, self._split(flat), (self._x,))
            losses = (output - self._y).square().flatten(1).mean(dim=1)
            (gradients,) = torch.autograd.grad(losses.sum(), flat)
        return losses.detach(), gradients.where(self._trained, 0)

    def write(self, parameters: Tensor) -> None:
        with torch.no_grad():
            for kind, value in self._split(parameters).items():
                self.chain.get_parameter(kind).copy_(value)


def make_objective(chain: Chain, task: Task) -> Objective:
    """Return the compiled reading where there is one, else the differentiated module."""
    compiled = chain.dtype in (torch.float32, torch.float64) and chain.device.type == "cpu"
    if compiled and chain.width == 1 and chain.architecture.phi.piecewise_linear:
        return TableObjective(chain, task)
    return ModuleObjective(chain, task)
