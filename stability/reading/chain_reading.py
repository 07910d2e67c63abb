"""Chains, read step by step: all seeds at once, and at width 1 six numbers a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.checks import check_finite, check_points
from stability.networks import Chain
from stability.reading.forward_recording import edge_of
from stability.reading.not_finite import overflows
from stability.reading.states import State, check_state


@dataclass(frozen=True)
class Steps:
    """A chain of any width: its layers are its steps, and its seeds are a dimension of every state.

    Attributes:
        chain: the network.
        x: its points, (points,) or (points, n).
    """

    chain: Chain
    x: Tensor

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the steps."""
        return step_names(self.chain.depth)

    @property
    def members(self) -> tuple[int, ...]:
        """The member numbers."""
        return self.chain.members

    @property
    def batch(self) -> tuple[int, int]:
        """Seeds and points."""
        return len(self.chain.members), len(self.x)

    def check(self) -> None:
        """Raise for points that the chain does not take, and numbers that are not finite."""
        check_finite("x", check_points(self.x, self.chain.width, self.chain.dtype, self.chain.device))
        for kind, value in self.chain.named_parameters():
            check_finite(f"the chain's {kind}", value)

    def part(self, start: int, stop: int) -> Steps:
        """Return the same chain at some of the points."""
        return replace(self, x=self.x[start:stop])

    def states(self, graph: bool = True, check: bool = True) -> list[State]:
        """Return the states before the first step and after each, (seeds, points, ...), of a run of the chain.

        Args:
            graph: whether they have one.
            check: whether a state that leaves the range of the chain's dtype raises ValueError.
        """
        with torch.set_grad_enabled(graph):
            state = self.x.detach().expand(self.batch[0], *self.x.shape).clone().requires_grad_(graph).clone()
            states = [self._state(state)]
            for name, step in zip(self.layers, self.chain.steps, strict=True):
                state = step(state)
                states.append(self._state(state))
                if check:
                    check_state(name, states[-1], lambda: f"the step {overflows(self.chain.dtype)}")
            return states

    def _state(self, state: Tensor) -> State:
        edge = edge_of(state)
        edges = () if edge is None else (edge,)
        return State(edges, (state.detach(),), (tuple(state.shape),), (state.dtype,), 0, self.batch)


@dataclass(frozen=True)
class StepTable(Steps):
    """A piecewise-linear chain of width 1 whose parameters are rows of six numbers: no state can leave the range."""

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """The points as float64 on the CPU, once they are checked."""
        check_finite("x", check_points(self.x, 1, self.chain.dtype, self.chain.device))
        points: NDArray[np.float64] = self.x.detach().to("cpu", torch.float64, copy=True).numpy()
        return points

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """The step table, the read-out included, once it is checked."""
        table = np.ascontiguousarray(self.chain.table())
        check_finite("the chain's step table (seed, row, column)", table)
        return table

    @cached_property
    def steps(self) -> NDArray[np.float64]:
        """The rows of the steps alone."""
        return np.ascontiguousarray(self.table[:, : self.chain.depth])


@lru_cache(maxsize=8)  # of deep chains they are many megabytes
def step_names(depth: int) -> tuple[str, ...]:
    """Return how the steps of a chain are called."""
    return tuple(f"step {number}" for number in range(1, depth + 1))
