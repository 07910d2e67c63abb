"""Adam in any arithmetic that numpy can hold: what more digits, or fewer, would do to a training."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import numpy as np
import torch
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_number
from stability.networks import Chain
from stability.training.task import Task, check_task

Array = NDArray[np.float64]
KINDS = (np.float32, np.float64, np.longdouble, Decimal)


@door
def adam_in(
    kind: type[object],
    chain: Chain,
    task: Task,
    iterations: int,
    epsilon: float = 1e-8,
    least_slope: float | None = None,
) -> Array:
    """Return the best error of every member of a plain PReLU chain, by the Adam of `st.train` in an arithmetic.

    The chain stays as it is. Decimal has 50 digits, and takes a thousand times as long as float64. A gradient that is 0
    ever since the start moves nothing, whatever epsilon is.

    Args:
        kind: numpy.float32, numpy.float64, numpy.longdouble or decimal.Decimal.
        chain: a plain PReLU chain of width 1 with a read-out, in float64.
        task: what it is trained on.
        iterations: of Adam, at the rates of `st.train`.
        epsilon: what Adam adds to its denominators.
        least_slope: slopes are held at it or above; None leaves them free.

    >>> import decimal, torch, stability as st
    >>> chain, task = st.Chain("plain_prelu", 3, seeds=2), st.Task(torch.sin, (-3, 3), points=8)
    >>> exact, single = (st.references.adam_in(kind, chain, task, 5) for kind in (decimal.Decimal, np.float32))
    >>> bool((abs(single / exact - 1) < 1e-4).all())
    True
    """
    if kind not in KINDS:
        names = "numpy.float32, numpy.float64, numpy.longdouble or decimal.Decimal"
        raise ValueError(f"kind is {kind!r}: expected {names}")
    if not isinstance(chain, Chain):
        raise TypeError(f"chain is a {type(chain).__name__}: expected a Chain")
    if chain.architecture.name != "plain_prelu" or chain.width != 1 or chain.weight.dtype != torch.float64:
        raise ValueError(
            f"chain is {chain.architecture.name} of width {chain.width} in {chain.weight.dtype}: expected plain_prelu "
            "of width 1 in torch.float64"
        )
    check_task(task)
    check_integer("iterations", iterations, 0)
    check_number("epsilon", epsilon, 0.0)
    if least_slope is not None:
        check_number("least_slope", least_slope)
    with decimal.localcontext(prec=50):
        return _adam_in(kind, chain, task, iterations, epsilon, -math.inf if least_slope is None else least_slope)


def _adam_in(
    kind: type[object], chain: Chain, task: Task, iterations: int, epsilon: float, least_slope: float
) -> Array:
    take = np.vectorize(kind, otypes=[object if kind is Decimal else kind])
    depth, zero, one, beta1, beta2 = chain.depth, *(take(value) for value in (0.0, 1.0, 0.9, 0.999))
    x, y, twice = take(task.x.numpy()), take(task.y.numpy()), take(2.0 / len(task.x))
    given: dict[str, torch.Tensor] = dict(chain.named_parameters())
    columns = [given[name] for name in ("weight", "bias", "slope")]
    columns += [given[name][:, None] for name in ("readout_weight", "readout_bias")]
    p = take(torch.cat(columns, dim=1).detach().numpy())
    mean = square = p * zero
    best = np.full(len(p), np.inf)
    for iteration in range(iterations + 1):
        p[:, 2 * depth : -2] = np.maximum(p[:, 2 * depth : -2], take(least_slope))
        w, b, a = np.moveaxis(p[:, :-2].reshape(-1, 3, depth, 1), 0, 2)
        states, inner = [np.broadcast_to(x, (len(p), len(x)))], []
        for k in range(depth):
            inner.append(w[k] * states[k] + b[k])
            states.append(np.where(inner[k] > zero, inner[k], a[k] * inner[k]))
        residual = p[:, -2:-1] * states[-1] + p[:, -1:] - y
        best = np.minimum(best, (residual * residual).sum(1).astype(float) / len(x))
        back = residual * twice
        g = np.empty_like(p)
        g[:, -2], g[:, -1] = (back * states[-1]).sum(1), back.sum(1)
        back = back * p[:, -2:-1]
        for k in reversed(range(depth)):
            below = inner[k] <= zero
            g[:, 2 * depth + k] = (np.where(below, inner[k], zero) * back).sum(1)
            back = np.where(below, a[k] * back, back)
            g[:, depth + k], g[:, k] = back.sum(1), (back * states[k]).sum(1)
            back = back * w[k]
        size = np.sqrt((g * g).sum(1, keepdims=True))
        g = g / np.where(size > one, size, one)
        mean, square = beta1 * mean + (one - beta1) * g, beta2 * square + (one - beta2) * g * g
        rate = take(0.01 * (0.01 + 0.99 * (1 + math.cos(math.pi * iteration / max(1, iterations))) / 2))
        under = np.sqrt(square / (one - beta2 ** (iteration + 1))) + take(epsilon)
        # Without an epsilon, 0 / 0 is for parameters that never had a gradient.
        p = p - rate * (mean / (one - beta1 ** (iteration + 1))) / np.where(under > zero, under, one)
    return best
