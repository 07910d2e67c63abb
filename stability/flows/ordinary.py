"""Chains whose factor falls as 1 / L, and the ordinary differential equation whose Euler steps they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from stability.flows.depth_weights import Weights
from stability.networks import Architecture, Step

#: The solver's tolerances, relative and over the size of the state: the second solution tells how far to trust the
#: first. A kink costs it many short steps.
SMOOTH, KINKED = (1e-12, 1e-10), (1e-10, 1e-9)


@dataclass(frozen=True)
class Equation:
    """dh/dt = strength branch(h, theta(t)) from h(0) = x to t = 1, and h_(l+1) = h_l + strength / L branch(h_l, t_l).

    Attributes:
        architecture: whose branch it is.
        weights: theta, of all seeds.
        strength: the factor on the branch times the depth.
        x: (points,) or (points, n).
        seeds: how many.
    """

    architecture: Architecture
    weights: Weights
    strength: float
    x: Tensor
    seeds: int

    def end_of_chain(self, depth: int) -> Tensor:
        """Return the state after the last step of the chain of that depth, (seeds, points, ...)."""
        h = self.x.expand(self.seeds, *self.x.shape)
        with torch.no_grad():
            for layer in range(depth):
                h = Step(self.architecture, self.weights.at(layer / depth), self.strength / depth)(h)
        return h

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return h(1), (seeds, points, ...), and the error of the solver, (seeds,).

        Raises:
            ValueError: where the solution leaves the range before t = 1, or the solver cannot go on.
        """
        phi = self.architecture.phi
        kinked = phi.piecewise_linear and phi.slope != 1 and "activation" in self.architecture.parts
        places = [0.0, *self.weights.breaks, 1.0]
        ends = []
        for tolerance in KINKED if kinked else SMOOTH:
            h = [self.x.numpy().ravel()] * self.seeds
            for start, end in itertools.pairwise(places):
                h = [self._through(seed, one, (start, end), tolerance) for seed, one in enumerate(h)]
            ends.append(torch.from_numpy(np.stack(h)))
        best, rough = ends
        return best.reshape(self.seeds, *self.x.shape), (best - rough).square().mean(dim=1).sqrt()

    def _through(
        self,
        seed: int,
        start: NDArray[np.float64],
        interval: Sequence[float],
        tolerance: float,
    ) -> NDArray[np.float64]:
        branch, weights = replace(self.architecture, skip=0.0), self.weights.of(seed)

        def field(t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
            with torch.no_grad():
                h = torch.from_numpy(y).reshape(1, *self.x.shape)
                moved: NDArray[np.float64] = (
                    Step(branch, weights.at(t), self.strength)(h).expand(h.shape).numpy().ravel()
                )
                return moved

        absolute = tolerance * max(1.0, float(np.abs(start).max()))
        with np.errstate(all="ignore"):  # what leaves the range is refused below
            found = solve_ivp(field, interval, start, "DOP853", rtol=tolerance, atol=absolute)
        if not found.success or not np.isfinite(found.y[:, -1]).all():
            raise ValueError(
                f"the flow of seed {seed} does not reach t = 1: {found.message} It stops at t = {found.t[-1]:.4g}; "
                "take a smaller branch"
            )
        end: NDArray[np.float64] = found.y[:, -1]
        return end
