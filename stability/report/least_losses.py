"""The least losses that outputs can have: one that is the same for all points, and any."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stability.reading.traces import undisturbed
from stability.reading.trees import map_tensors, tensors_in
from stability.signals.losses import Loss

#: Iterations of LBFGS, and how many pairs of steps and gradients it keeps.
_CONSTANT, _ANY, _PAIRS = 200, 100, 10


class TooLong(Exception):
    """There is no time for it."""


def least_losses(
    loss: Loss, output: object, dim: int, points: int, until: float, memory: float
) -> tuple[float, float] | None:
    """Return the least loss of any output, and of one that is the same for all points; None where there is none.

    The second is what the last bias learns alone, whatever happens before it. The first is 0 for most losses, and above
    for labels that are smoothed or soft, for noise that enters as a width, and for a penalty on something else.

    Args:
        loss: a function of the output.
        output: where the search begins. Tensors that depend on no parameter, as targets that are passed on, stay.
        dim: along which it holds the points.
        points: how many.
        until: the time at which it is to be over.
        memory: GiB that it may take.

    Raises:
        TooLong: where it is not over by then.
    """
    free = [t.detach().double() for t in tensors_in(output) if _is_free(t)]
    if not free or any(t.ndim <= dim or t.shape[dim] % points for t in free):
        return None
    if sum(t.numel() for t in free) * 8 * (2 * _PAIRS + 5) > memory * 2**30:
        return None
    # From large ones the way is long: of an order of 1 they may begin nearer.
    starts = [free, [t / max(1.0, float(t.square().mean().sqrt())) for t in free]]
    try:
        constant = _least(loss, output, [[t.mean(dim, keepdim=True) for t in one] for one in starts], _CONSTANT, until)
        least = min(constant, _least(loss, output, starts, _ANY, until))
    except TooLong:
        raise
    except Exception:  # of a loss that wants its output to hang together
        return None
    return least, constant


def _is_free(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.requires_grad


def _least(loss: Loss, output: object, starts: list[list[Tensor]], iterations: int, until: float) -> float:
    """Return the least loss that LBFGS finds from the best of some starts."""

    def value(tensors: list[Tensor]) -> Tensor:
        left = iter(tensors)

        def put(tensor: Tensor) -> Tensor:
            return next(left).to(tensor.dtype).expand_as(tensor) if _is_free(tensor) else tensor.detach()

        return loss(map_tensors(output, put))

    def closure() -> float:
        if time.monotonic() > until:
            raise TooLong
        optimizer.zero_grad()
        now = value(best)
        torch.autograd.backward(now)
        return float(now.detach())

    with undisturbed(nn.Module(), loss), torch.enable_grad():
        own = [[t.clone().requires_grad_() for t in start] for start in starts]
        best = min(own, key=lambda one: float(value(one).detach()))
        optimizer = torch.optim.LBFGS(
            best,
            max_iter=iterations,
            history_size=_PAIRS,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        find: Callable[..., object] = optimizer.step
        find(closure)
        return float(value(best).detach())
