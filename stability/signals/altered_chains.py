"""Chains whose steps are left out or taken in another order, many such chains at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.log_norms import log_norm
from stability.foundation.threads import side_by_side
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.not_finite import overflows
from stability.signals.kernels import forward_states

#: How many numbers of altered chains are held at once.
TOGETHER = 2**23
#: The place of a step that is left out.
LEFT_OUT = -1


def changes_of_chain(reading: Steps, orders: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return log |f'(x) - f(x)| of altered chains, (cases, seeds, points), and log |f(x)|, (seeds, points).

    Args:
        reading: the chain f.
        orders: (cases, depth), the number of the step that is taken at each place, or LEFT_OUT.
    """
    seeds, depth = len(reading.members), reading.chain.depth
    each = seeds * (depth * 6 if isinstance(reading, StepTable) else math.prod(reading.x.shape))
    portion = max(1, TOGETHER // each)
    run = _tables if isinstance(reading, StepTable) else _steps
    parts = [run(reading, orders[start : start + portion]) for start in range(0, len(orders), portion)]
    return torch.cat([changes for changes, _ in parts]), parts[0][1]


def _tables(reading: Steps, orders: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    assert isinstance(reading, StepTable)
    table, points = reading.table, reading.points
    seeds, rows, _ = table.shape
    depth = orders.shape[1]
    identity = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    steps = table[:, np.where(orders == LEFT_OUT, 0, orders)].swapaxes(0, 1)  # (cases, seeds, depth, 6)
    every = np.empty((len(orders) + 1, seeds, rows, 6))
    every[:] = table
    every[1:, :, :depth] = np.where((orders == LEFT_OUT)[:, None, :, None], identity, steps)
    altered = every.reshape(-1, rows, 6)
    shape = (len(altered), len(points))
    numbers, powers = np.empty(shape), np.empty(shape, np.int64)
    side_by_side(
        lambda first, last: forward_states.run(first, last, altered, points, numbers, powers),
        len(altered),
        10.0 * rows * numbers.size,
    )
    mantissas, shifts = np.frexp(numbers.reshape(-1, seeds, len(points)))
    exponents = np.where(mantissas == 0, -(2**40), powers.reshape(mantissas.shape) + shifts)
    top = np.maximum(exponents[:1], exponents[1:])
    plain, moved = (
        np.ldexp(mantissas[one], np.maximum(exponents[one] - top, -2000)) for one in (slice(1), slice(1, None))
    )
    return _logs(moved - plain, top), _logs(mantissas[0], exponents[0])


def _logs(mantissas: NDArray[np.float64], exponents: NDArray[np.int64]) -> Tensor:
    with np.errstate(divide="ignore"):
        logs = np.log(abs(mantissas)) + np.where(mantissas == 0, 0, exponents) * math.log(2)
    return torch.from_numpy(logs)


def _steps(reading: Steps, orders: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Take all altered chains a step at a time, those that take the same step together."""
    chain, x = reading.chain, reading.x
    seeds, cases = len(reading.members), len(orders)
    with torch.no_grad():
        steps = chain.steps
        states = x.detach().expand(cases + 1, seeds, *x.shape).clone()
        programs = np.concatenate([np.arange(chain.depth)[None], orders])
        for place in range(chain.depth):
            for number in np.unique(programs[:, place]):
                if number == LEFT_OUT:
                    continue
                chosen = torch.from_numpy(np.flatnonzero(programs[:, place] == number)).to(x.device)
                # (cases, seeds, points, ..) as (seeds, cases times points, ..), which is what a step takes.
                given = states[chosen].movedim(0, 1).flatten(1, 2)
                taken = steps[number](given)
                states[chosen] = taken.reshape(seeds, len(chosen), *x.shape).movedim(1, 0)
        flat = chain.readout(states.movedim(0, 1).flatten(1, 2))
        outputs = flat.reshape(seeds, cases + 1, *x.shape).movedim(1, 0)
    wrong = (~outputs.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if wrong:
        which = "as it is" if wrong[0] == 0 else f"altered as in case {wrong[0] - 1}"
        raise ValueError(f"the output of the chain {which} is not finite: it {overflows(chain.dtype)}")
    wide = outputs.double().reshape(cases + 1, seeds, len(x), -1)
    return log_norm(wide[1:] - wide[:1], 3).cpu(), log_norm(wide[0], 2).cpu()
