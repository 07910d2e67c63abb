"""What a chain makes of many points."""

from __future__ import annotations

import torch
from torch import Tensor

from stability.foundation.arguments import check_numbers, door
from stability.networks.chain import Chain

#: States of so many numbers stay in the cache from step to step.
CACHED = 8192


@door
def evaluate(chain: Chain, x: Tensor) -> Tensor:
    """Return a chain's values at many points in float64, without gradients, (seeds, points) or (seeds, points, width).

    The points pass in pieces that stay in the cache: thousands of points take less time than in `chain(x)`, and much
    less where every step would ask the system for fresh memory.

    Args:
        chain: what is evaluated, in its own precision.
        x: the points, (points,) at width 1, or (points, width); converted to the chain's precision and device.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=30, seeds=16)
    >>> st.evaluate(chain, torch.linspace(-3, 3, 10_000)).shape
    torch.Size([16, 10000])
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"chain is a {type(chain).__name__}: expected a stability.Chain")
    if isinstance(x, Tensor):
        check_numbers("x", x)
        x = x.to(chain.device, chain.dtype)
    size = max(1, CACHED // (chain.seeds * chain.width))
    pieces = torch.split(x, size) if isinstance(x, Tensor) and x.ndim else [x]
    with torch.no_grad():
        return torch.cat([chain(piece).cpu().double() for piece in pieces], dim=1)
