"""Chains of independent weights whose factor falls as 1 / sqrt(L), and the stochastic equation that they tend to.

A branch f(h, theta) of mean 0 over theta moves the state by sum f / sqrt(L), a sum of L uncorrelated steps: in the
limit dh = S(h) dW with S S^T = E f f^T, taken over all points at once. An Euler-Maruyama step of length dt is
sqrt(dt) g f(h, theta), with theta drawn anew and g a standard normal number: given theta it is normal, and its
covariance is dt E f f^T, exactly. No chain has such a g.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from stability.flows.depth_weights import without_depth
from stability.networks import Architecture, Chain, Init, Step
from stability.networks.initialisation import law_of, parameters_at
from stability.networks.kernels.steps import run_forward

#: About how many numbers are drawn at a time.
_NUMBERS = 2**22
#: How many samples share a stream of random numbers.
_TOGETHER = 5000
#: Activations phi with phi(-z) = -phi(z).
_ODD = ("tanh", "linear")
_SYMMETRIC = ("uniform", "normal", "sign", "orthogonal")


@dataclass(frozen=True)
class Diffusion:
    """What chains of independent weights tend to.

    Attributes:
        architecture: with branch_power -0.5.
        x: (points,) or (points, n).
        width, init, root: as of a chain.
    """

    architecture: Architecture
    x: Tensor
    width: int
    init: str | Init
    root: int

    def check(self) -> None:
        """Raise where the mean of the branch is not known to be 0, or the initialisation depends on the depth."""
        one, init = self.architecture, without_depth(self.init, self.architecture, self.width)
        names = [f"{one.map_names[-1]}{part}" for part in ("weight", "bias")]
        laws = [law_of(init, name) for name in names]
        symmetric = all(law.family in _SYMMETRIC or law.scale == 0 for law in laws)
        behind = one.parts[len(one.parts) - 1 - one.parts[::-1].index("map") :]
        odd = "activation" not in behind or one.activation in _ODD
        if one.shared or not symmetric or not odd:
            why = (
                "all steps share their parameters"
                if one.shared
                else f"init {init.name!r} draws its last map from laws that are not symmetric about 0"
                if not symmetric
                else f"{one.activation!r} stands behind its last map"
            )
            raise ValueError(
                f"{one.name!r} has no limit under 1 / sqrt(L): {why}, so that the mean of the branch is not 0 and the "
                "state moves by sqrt(L) times that; take branch_power=-1, or an order with a map before the addition"
            )

    def ends_of_chains(self, depth: int, members: Sequence[int]) -> Tensor:
        """Return the states after the last step of chains of that depth, and the sums of their squared moves.

        Both in one tensor, (2, seeds, points, ...).
        """
        per_member = depth * sum(math.prod(s[2:]) for s in self.architecture.shapes(1, 1, self.width).values())
        together, ends = max(1, _NUMBERS // per_member), []
        for start in range(0, len(members), together):
            chain = Chain(self.architecture, depth, members[start : start + together], self.width, self.init, self.root)
            ends.append((_table_ends if chain.has_table else _ends)(chain, self.x))
        return torch.cat(ends, dim=1)

    def sample(self, count: int, steps: int) -> Tensor:
        """Return ends of the stochastic equation at t = 1 by so many Euler-Maruyama steps, and squared moves as above.

        (2, count, points, ...), the squares without the normal numbers, whose mean square is 1.
        """
        sizes = [min(_TOGETHER, count - start) for start in range(0, count, _TOGETHER)]
        return torch.cat([self._paths(size, steps, stream) for stream, size in enumerate(sizes)], dim=1)

    def _paths(self, count: int, steps: int, stream: int) -> Tensor:
        one = replace(self.architecture, skip=0.0)
        init = without_depth(self.init, self.architecture, self.width)
        per_step = sum(math.prod(shape[2:]) for shape in one.shapes(1, 1, self.width).values())
        block = max(1, _NUMBERS // (count * (per_step + 1)))
        # A stream of its own beside those of members, whose keys are longer.
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.root, spawn_key=(stream,))))
        h = self.x.expand(count, *self.x.shape).clone()
        squares = torch.zeros_like(h)
        for start in range(0, steps, block):
            length = min(block, steps - start)
            u = np.maximum(random.random((length, count, per_step + 1)), 2.0**-54)
            kicks = torch.from_numpy(np.asarray(ndtri(u[..., -1]))).reshape(length, count, *[1] * self.x.ndim)
            values = {k: torch.from_numpy(v) for k, v in parameters_at(u[..., :-1], init, one, self.width).items()}
            for place in range(length):
                moved = Step(one, {kind: value[place] for kind, value in values.items()}, one.branch)(h)
                h = h + kicks[place] * moved / math.sqrt(steps)
                squares += moved.square() / steps
        return torch.stack([h, squares])


def _table_ends(chain: Chain, x: Tensor) -> Tensor:
    table, points = np.ascontiguousarray(chain.table()), x.numpy()
    states: NDArray[np.float64] = np.empty((table.shape[1] + 1, len(points)))
    ends = np.empty((2, len(table), len(points)))
    for seed, rows in enumerate(table):
        states[0] = points
        run_forward(rows, states)
        ends[0, seed] = states[-1]
        ends[1, seed] = (np.diff(states, axis=0) ** 2).sum(axis=0)
    return torch.from_numpy(ends)


def _ends(chain: Chain, x: Tensor) -> Tensor:
    h = x.expand(chain.seeds, *x.shape)
    squares = torch.zeros_like(h)
    with torch.no_grad():
        for step in chain.steps:
            after = step(h)
            squares += (after - h).square()
            h = after
    return torch.stack([h, squares])
