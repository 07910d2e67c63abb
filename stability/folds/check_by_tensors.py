"""Whether a network does to tensors what it does to a function along a line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

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
# By which part of the largest number the two may differ, and the unit in that of float64.
_ALLOWED = {torch.float32: (1e-2, 2.0**30), torch.float64: (1e-6, 2.0)}


def check_by_tensors(net: Callable[..., Tensor], line: PiecewiseLinear, f: PiecewiseLinear, points: int) -> None:
    """Raise where the network does something else to a tensor: it is random, or it looks at what it is given."""
    low, high = line.interval
    # Places that no round number is at.
    shares = np.arange(1, points + 1) * SPREAD % 1
    at = low + (high - low) * (rationals(shares, type(low)) if line.exact else shares)
    inputs = line._at(at).astype(np.float64)
    found = [f._at(np.array(t, dtype=f.knots.dtype)).astype(np.float64) for t in at]
    errors = [_error_at(f, t) for t in at]
    check_at_places(net, inputs, found, errors, [f"t = {float(t):g}" for t in at], "along the line")


def check_at_places(
    net: Callable[..., Tensor],
    inputs: Array,
    found: Sequence[Array],
    errors: Sequence[float],
    places: Sequence[str],
    where: str,
    largest: float = 0.0,
) -> None:
    """Raise where the network does something else to one of the inputs, as a tensor, than what was found.

    The two may differ by what rounding explains: by the bound of one calculation at that point, and by no more than a
    small part of the largest number in it, which is far below the bound in deep networks.

    Args:
        errors: bounds of what was found.
        places: what a message calls them. where: what was followed.
        largest: a number that came up when it was.
    """
    values = itertools.chain(net.parameters(), net.buffers()) if isinstance(net, nn.Module) else ()
    like = next((v for v in values if v.is_floating_point()), torch.empty(0, dtype=torch.float64))
    rounding: tuple[float, float] | None = None
    for row, value, error, place in zip(inputs, found, errors, places, strict=True):
        answer = _answer(net, row, like)
        if answer is None:
            return
        wanted, part, units = answer
        got = value.ravel()
        apart = np.abs(wanted - got).max(initial=0) if wanted.size == got.size else math.inf
        few = 64 * units * ROUNDOFF
        if apart <= few * np.abs(wanted).max(initial=0):
            continue
        if rounding is None:
            rounding = _rounding_at(net, inputs[np.abs(inputs).reshape(len(inputs), -1).max(axis=1).argmax()])
        bound, size = rounding[0], max(rounding[1], largest)
        # The bound is that of one of the points; another one may round somewhat more.
        if not apart <= np.fmin(units * (bound + error), part * size) + few * size:
            raise TypeError(
                f"at {place} the network makes {wanted[:3]} of a tensor, and {got[:3]} {where}: it is random, or asks "
                "what kind of object it is given; expected one calculation for both"
            )


def _answer(net: Callable[..., Tensor], row: Array, like: Tensor) -> tuple[NDArray[np.float64], float, float] | None:
    """Return what a network makes of an input, by which part it may be off, and its unit in that of float64.

    None where that is in a format of so few digits that it tells nothing. What the parameters of a module say may hold
    for no function, which is asked in one format after the other.
    """
    formats = (like.dtype,) if isinstance(net, nn.Module) else (torch.float64, torch.float32)
    for dtype in formats:
        if dtype not in _ALLOWED:
            return None
        x = torch.tensor(row, dtype=dtype, device=like.device)
        try:
            with torch.no_grad():
                out = net(x if x.ndim else x.reshape(1, 1))
        except RuntimeError as error:
            if isinstance(net, nn.Module) or "type" not in str(error):
                raise
            continue  # a layer inside of it has parameters of another format
        return (out.to("cpu", torch.float64).numpy().ravel(), *_ALLOWED[dtype])
    return None


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
