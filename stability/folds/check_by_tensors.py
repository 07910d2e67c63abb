"""Whether a network does to tensors what it does to a function along a line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stability.folds.following import following
from stability.folds.numbers import Array, rationals
from stability.folds.pieces import NO_LIMIT, measured
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places
from stability.foundation.formats import ROUNDOFF

# Multiples of it, less what is whole in them, are spread evenly, and no round number is among them.
SPREAD = 0.6180339887498949


def check_by_tensors(net: Callable[..., Tensor], line: PiecewiseLinear, f: PiecewiseLinear, points: int) -> None:
    """Raise where the network does something else to a tensor: it is random, or it looks at what it is given.

    The two may differ by what rounding explains: by the bound of one calculation at that point, and by no more than a
    small part of the largest number in it, which is far below the bound in deep networks.
    """
    values = itertools.chain(net.parameters(), net.buffers()) if isinstance(net, nn.Module) else ()
    like = next((v for v in values if v.is_floating_point()), torch.empty(0, dtype=torch.float64))
    if like.dtype not in (torch.float32, torch.float64):
        return
    low, high = line.interval
    # Places that no round number is at.
    shares = np.arange(1, points + 1) * SPREAD % 1
    at = low + (high - low) * (rationals(shares, type(low)) if line.exact else shares)
    inputs = line._at(at).astype(np.float64)
    part, units = (1e-2, 2.0**30) if like.dtype == torch.float32 else (1e-6, 2.0)
    rounding: tuple[float, float] | None = None
    for t, row in zip(at, inputs, strict=True):
        x = torch.tensor(row, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            wanted = net(x if line.shape else x.reshape(1, 1)).to("cpu", torch.float64).numpy().ravel()
        got = f._at(np.array(t, dtype=f.knots.dtype)).astype(np.float64).ravel()
        apart = np.abs(wanted - got).max(initial=0) if wanted.size == got.size else math.inf
        few = 64 * units * ROUNDOFF
        if apart <= few * np.abs(wanted).max(initial=0):
            continue
        if rounding is None:
            rounding = _rounding_at(net, inputs[np.abs(inputs).reshape(points, -1).max(axis=1).argmax()])
        bound, size = rounding
        # The bound is that of one of the points; another one may round somewhat more.
        if not apart <= np.fmin(units * (bound + _error_at(f, t)), part * size) + few * size:
            raise TypeError(
                f"at t = {float(t):g} the network makes "
                f"{wanted[:3]} of a tensor, and {got[:3]} along the line: it is random, or asks what kind of object it "
                "is given; expected one calculation for both"
            )


def _rounding_at(net: Callable[..., Tensor], x: NDArray[np.float64]) -> tuple[float, float]:
    """Return a bound of the error of a calculation of the network at a point, and the largest number in it."""
    rows = x if x.ndim else x.reshape(1, 1)
    data = np.stack([rows, rows, np.zeros_like(rows)])
    errors = ROUNDOFF * np.abs(data).reshape(3, -1).max(axis=1)
    still = PiecewiseLinear._make(Places(np.array([0.0, 1.0])), data, errors, {}, NO_LIMIT)
    token = measured.set(sizes := [float(np.abs(x).max(initial=0))])
    try:
        with following():
            out = net(still)
    finally:
        measured.reset(token)
    return float(out._errors[:2].max()), max(sizes)  # type: ignore[attr-defined]


def _error_at(f: PiecewiseLinear, t: Array) -> float:
    """Return a bound of the error of a function at a place."""
    if f.exact:
        return 0.0
    k = len(f.knots)
    piece = min(max(int(np.searchsorted(f.knots, t, "right")) - 1, 0), k - 2)
    width = f.knots[piece + 1] - f.knots[piece]
    return float(f._errors[piece : piece + 2].max() + f._errors[k + piece] * width)
