"""What a residual chain tends to as its depth grows, and how fast."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

import torch
from torch import Tensor

from stability.flows.depth_weights import Given, OfFunction, Weights, chain_weights, smooth_weights
from stability.flows.diffusion import Diffusion
from stability.flows.flow_result import Flow
from stability.flows.ordinary import Equation
from stability.foundation.arguments import door
from stability.foundation.checks import (
    check_finite,
    check_float64,
    check_integer,
    check_members,
    check_number,
    check_points,
)
from stability.networks import Architecture, Chain, Init
from stability.networks.architecture import find_architecture

#: The depths that are looked at where nothing is said.
_ORDINARY = (10, 30, 100, 300, 1000, 3000, 10_000)
_STOCHASTIC = (10, 30, 100, 300, 1000)
#: How many seeds, where nothing is said, and the least for groups of them.
_SEEDS, _SAMPLES, _LEAST = 16, 1000, 40
#: An Euler-Maruyama grid is this much finer than the deepest chain.
_FINER = 16


@door
def flow(
    net: str | Architecture | Chain,
    x: Tensor,
    depths: Sequence[int] | None = None,
    seeds: int | Sequence[int] | None = None,
    *,
    width: int = 1,
    init: str | Init = "pytorch",
    root: int = 0,
    weights: Given | None = None,
    grid: int | None = None,
    level: float = 0.95,
) -> Flow:
    """Return how far residual chains of growing depth are from the differential equation that they tend to.

    - branch_power=-1, weights that vary smoothly along the depth: h_(l+1) = h_l + b / L f(h_l, theta(l / L)) are the
      Euler steps of dh/dt = b f(h, theta(t)), which scipy solves to about 1e-12 (E, Haber and Ruthotto; Chen et al.
      2018). theta(t) is drawn for each seed from three layers of the initialisation, (c_0 + sqrt(2) c_1 cos(pi t) +
      sqrt(2) c_2 cos(2 pi t)) / sqrt(3), constant where the architecture shares its parameters; or give `weights`.
    - branch_power=-0.5, independent weights whose branch has the mean 0: dh = b S(h) dW, with S S^T the covariance of
      the branch over all points (Cohen et al. 2021; Marion et al. 2022), by Euler-Maruyama on a finer grid. The seeds
      are samples of one law: compared are means, mean squares and quantiles, over points.
    - a chain as it is, trained or not: its parameters, joined by straight lines, are theta(t). Of that equation it is
      itself the chain of its own depth, and twice the depth halves its steps.

    What precedes the read-out is compared. All is float64, on the CPU.

    Args:
        net: an architecture, or its name, with skip=1, nothing behind the addition, and branch_power -1 or -0.5; or a
            chain, whose seeds, width, init and root are its own.
        x: points, (points,) or (points, n), float64.
        depths: of the chains, increasing; by default 10 to 10,000, to 1000 of a stochastic equation, and of a chain its
            own depth times 1, 2, 4, 8 and 16.
        seeds: how many, or member numbers; by default 16, and 1000 samples of a stochastic equation, at least 40.
        width, init, root: as of a `Chain`; the init says nothing of the depth.
        weights: t -> the parameters of a step by kind, arrays that broadcast to (seeds, ...), in place of drawn ones.
        grid: how many Euler-Maruyama steps; by default 16 times the largest depth.
        level: of the intervals.

    Raises:
        ValueError, TypeError: for an architecture without such a limit, an init that depends on the depth, depths that
            do not increase, a solution that leaves the range.

    >>> import torch, stability as st
    >>> tanh = st.Architecture("residual2_tanh", skip=1, maps=2, activation="tanh", branch_power=-1)
    >>> x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    >>> f = st.flow(tanh, x, depths=(10, 100, 1000), seeds=8)
    >>> print(f"{f.order.value:.2f}")
    1.00
    """
    level = _check_level(level)
    if isinstance(net, Chain):
        own = {"seeds": seeds, "width": width, "init": init, "root": root, "weights": weights, "grid": grid}
        standard = {"seeds": None, "width": 1, "init": "pytorch", "root": 0, "weights": None, "grid": None}
        for name, value in own.items():
            if value is not standard[name] and value != standard[name]:
                raise ValueError(f"{name} is {value!r}: a chain has its own {name}, leave it out")
        return _of_chain(net, x, depths, level)
    if isinstance(net, torch.nn.Module):
        raise TypeError(
            f"net is a {type(net).__name__}: a flow is of a chain or of an architecture; compare another network with "
            "one of twice as many blocks of half the size"
        )
    architecture = replace(find_architecture(net), readout=False)
    _check_residual(architecture)
    width, root = check_integer("width", width, 1), check_integer("root", root, 0, 2**64 - 1)
    points = _check_points(x, width)
    if architecture.norm is not None and width == 1:
        Chain(architecture, 1)  # which raises
    if architecture.branch_power == -0.5:
        if weights is not None:
            raise ValueError("weights vary smoothly, and under 1 / sqrt(L) they are independent: leave weights= out")
        members = check_members(_SAMPLES if seeds is None else seeds)
        wanted = _check_depths(depths, _STOCHASTIC)
        return _stochastic(Diffusion(architecture, points, width, init, root), wanted, members, grid, level)
    if architecture.branch_power != -1:
        raise ValueError(
            f"{architecture.name!r} has branch_power {architecture.branch_power:g}: a limit is known for -1, with "
            "weights that vary smoothly, and -0.5, with independent ones"
        )
    if grid is not None:
        raise ValueError("grid is of a stochastic equation, and this one is solved to its last digits: leave it out")
    members = check_members(_SEEDS if seeds is None else seeds)
    drawn: Weights
    if weights is None:
        drawn = smooth_weights(architecture, members, width, init, root)
    else:
        shapes = architecture.shapes(len(members), 1, width)
        drawn = OfFunction(weights, {kind: (shape[0], *shape[2:]) for kind, shape in shapes.items()})
        drawn.check()
    equation = Equation(architecture, drawn, architecture.branch, points, len(members))
    return _ordinary(equation, _check_depths(depths, _ORDINARY), members, level)


def _of_chain(chain: Chain, x: Tensor, depths: Sequence[int] | None, level: float) -> Flow:
    """Return how far a chain, and finer ones of the same parameters, are from their equation."""
    architecture = replace(chain.architecture, readout=False)
    _check_residual(architecture)
    check_float64(chain)
    for kind, value in chain.named_parameters():
        check_finite(f"the chain's {kind}", value)
    wanted = _check_depths(depths, [chain.depth * times for times in (1, 2, 4, 8, 16)])
    points = _check_points(x, chain.width)
    equation = Equation(architecture, chain_weights(chain), chain.factor * chain.depth, points, chain.seeds)
    return _ordinary(equation, wanted, chain.members, level)


def _ordinary(equation: Equation, depths: tuple[int, ...], members: tuple[int, ...], level: float) -> Flow:
    limit, error = equation.solve()
    ends = torch.stack([equation.end_of_chain(depth) for depth in depths])
    void = torch.zeros(0, dtype=torch.float64)
    if not ends.isfinite().all():
        raise ValueError("the states of a chain leave the range of float64: take a smaller branch")
    return _result("ordinary", equation, (ends, limit, void, void), error, depths, members, level)


def _stochastic(
    diffusion: Diffusion, depths: tuple[int, ...], members: tuple[int, ...], grid: int | None, level: float
) -> Flow:
    if len(members) < _LEAST:
        raise ValueError(f"seeds is {len(members)}: a stochastic equation takes at least {_LEAST} samples")
    steps = _FINER * depths[-1] if grid is None else check_integer("grid", grid, depths[-1])
    diffusion.check()
    ends = torch.stack([diffusion.ends_of_chains(depth, members) for depth in depths])
    ends, moves = ends[:, 0], ends[:, 1]
    limit, limit_moves = diffusion.sample(len(members), steps)
    if not (ends.isfinite().all() and limit.isfinite().all()):
        raise ValueError("the states leave the range of float64: take a smaller branch")
    error = torch.zeros(len(members), dtype=torch.float64)
    return _result("stochastic", diffusion, (ends, limit, moves, limit_moves), error, depths, members, level, steps)


def _result(
    kind: str,
    of: Equation | Diffusion,
    found: tuple[Tensor, Tensor, Tensor, Tensor],
    error: Tensor,
    depths: tuple[int, ...],
    members: tuple[int, ...],
    level: float,
    steps: int = 0,
) -> Flow:
    ends, limit, moves, limit_moves = (one if of.x.ndim == 2 else one[..., None] for one in found)
    x = of.x if of.x.ndim == 2 else of.x[:, None]
    return Flow(
        kind=kind,
        formula=of.architecture.formula,
        depths=depths,
        ends=ends,
        limit=limit,
        error=error,
        moves=moves,
        limit_moves=limit_moves,
        steps=steps,
        x=x,
        members=members,
        level=level,
    )


def _check_residual(architecture: Architecture) -> None:
    if architecture.skip != 1 or architecture.parts[-1] != "add":
        raise ValueError(
            f"{architecture.name!r} is {architecture.formula}: steps tend to the identity, and so to a flow, where "
            "skip is 1 and nothing stands behind the addition"
        )


def _check_depths(depths: Sequence[int] | None, standard: Sequence[int]) -> tuple[int, ...]:
    if depths is None:
        return tuple(standard)
    if isinstance(depths, str | bytes | Mapping | Set) or not isinstance(depths, Iterable):
        raise TypeError(f"depths is {depths!r}: expected a sequence of depths, such as (10, 100, 1000)")
    found = tuple(check_integer("a depth", depth, 1) for depth in depths)
    if len(found) < 2 or any(a >= b for a, b in itertools.pairwise(found)):
        raise ValueError(f"depths is {found}: expected at least two, each larger than the one before")
    return found


def _check_points(x: Tensor, width: int) -> Tensor:
    points = check_points(x, width, torch.float64, torch.device("cpu"))
    check_finite("x", points)
    return points.detach()


def _check_level(level: float) -> float:
    if not 0 < check_number("level", level) < 1:
        raise ValueError(f"level is {level}: expected a number between 0 and 1")
    return float(level)
