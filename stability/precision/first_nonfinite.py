"""The first number of a forward and a backward pass that is not finite: which operation made it, and why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_float64
from stability.networks import Chain
from stability.reading.inputs import Inputs
from stability.reading.nonfinite_result import FirstNonfinite, first_of
from stability.reading.nonfinite_search import Question
from stability.reading.read import AnyNetwork, as_module


@door
def first_nonfinite(
    net: AnyNetwork,
    x: object,
    loss: Callable[..., Tensor] | None = None,
    *,
    batch_dim: int | None = 0,
) -> FirstNonfinite | None:
    """Return where the first number that is not finite is made; None where output, loss and gradients are finite.

    The first is the earliest operation of the run that gives a number that is not finite from finite ones, and from
    whose number a number of a result descends: of the output, if that is not finite, else of the loss, else of the
    gradients of the parameters (and of x, where it requires one). So what no result descends from is no finding: -inf
    in a mask, an infinity in the branch that torch.where does not take. An operation of the forward pass that only a
    gradient descends from is a finding, with direction "forward": exp in a branch that is not taken overflows, and its
    gradient is 0 times inf.

    Infinities that the code writes itself (masked_fill, full, a buffer, an input that is a mask) are no faults. If
    nothing else explains a NaN, the finding is the operation that made it of them, such as a softmax over a row of
    nothing but -inf; if the loss or a gradient is infinite by them alone, it is where they were written. An output that
    holds them is as it was meant.

    The network is run as it is, in its format and mode, also inside torch.autocast and with checkpoints, and without a
    loss also inside torch.no_grad and torch.inference_mode, where fused kernels of attention may run. Only where a
    result is not finite is it run once more, operation by operation. Nothing of it is changed: parameters, gradients,
    buffers, random numbers and hooks are as they were, and so are modules that a loss holds. The operation is then
    repeated in float64, which tells a number that is too large for the format from one that does not exist, and how
    large it is.

    Args:
        net: any module, or callables that follow one another.
        x: what the network takes: a tensor, a tuple of positional inputs, a dictionary of keyword ones. It may hold
            numbers that are not finite.
        loss: maps the output to a scalar, with the factor of a GradScaler where there is one. Without it only the
            forward pass is run.
        batch_dim: the dimension of x that tells points apart; None where all of x is one point.

    Raises:
        ValueError, TypeError: for a network that does not take x, a loss that is no scalar, and a network that is not
            the same when it runs once more, as one that counts its calls.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)).half()
    >>> for parameter in net.parameters():
    ...     _ = torch.nn.init.constant_(parameter, 100.0)
    >>> found = first_nonfinite(net, torch.full((2, 4), 10.0, dtype=torch.float16))
    >>> found.operation, found.module, found.direction, found.cause
    ('addmm', '1', 'forward', 'overflow')
    >>> f"10^{found.log10_magnitude:.2f}"
    '10^6.21'
    """
    module = Chain.from_table(net) if isinstance(net, np.ndarray | Tensor) else as_module(net)
    inputs = Inputs.of(x, batch_dim, finite=False)
    check_float64(module, *(tensor for _, tensor in inputs.tensors()))
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}: expected a function of the output, or None")
    return first_of(Question(module, inputs, loss))
