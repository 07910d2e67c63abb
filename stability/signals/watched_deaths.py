"""The members of a chain that die while it trains: seen exactly, at every iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_finite, check_points
from stability.networks import Chain
from stability.signals.death_record import DeathRecord


@door
def watch_deaths(chain: Chain, x: Tensor) -> DeathRecord:
    """Look which members of a chain are dead, and give the record to `st.train` to look at every iteration.

    A member is dead while its derivative is exactly 0 at every point of x. No gradient reaches the layers up to the one
    that it died of, so hardly any member comes back. A derivative that is small, of 10^-1000 say, is not 0.

    A look at members that are surely alive costs little: all those without a step of slope 0, and those with a point
    whose way through the layers meets none, by more than rounding can change. Only the others are decided by the
    `st.spectrum` of all points.

    Args:
        chain: of width 1 and piecewise linear, on the CPU.
        x: (points,), of the chain's dtype.

    Returns:
        A `DeathRecord`, which is called as record(iteration, losses) and holds what was seen at any time.

    Raises:
        ValueError, TypeError: for a chain that is wider or smooth, and points that are not finite or do not fit it.

    >>> import torch, stability as st
    >>> chain, task = st.Chain("plain_relu", depth=5, seeds=100), st.Task(torch.sin, (-3, 3))
    >>> record = st.watch_deaths(chain, task.x)
    >>> history = st.train(chain, task, iterations=100, on_iteration=record, progress=False)
    >>> record
    DeathRecord(101 iterations, 100 seeds: 93 born dead, 3 died in training, 0 were alive again, 96 are dead)
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"chain is a {type(chain).__name__}: expected a stability.Chain")
    if not chain.holds_rows:
        raise ValueError(
            f"the chain is {chain.architecture.name!r} of width {chain.width}: only piecewise-linear chains of width 1 "
            "whose parameters are rows of a step table have derivatives of exactly 0 that can be told; "
            "st.gradient_norms(...).dead tells of others"
        )
    if chain.device != torch.device("cpu"):
        raise ValueError(f"the chain is on {chain.device}: expected one on the CPU")
    check_finite("x", check_points(x, 1, chain.dtype, chain.device))
    return DeathRecord(chain, x.detach())
