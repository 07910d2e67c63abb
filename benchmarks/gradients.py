"""What does it cost to watch a training?

Fifty blocks relu(W h + b) of width 256 are trained on batches of 128 in float32, in one thread. Steps that are watched,
watched at every hundredth pass, and not watched are taken in turns, and the medians of processor time are compared.

A cost above what was wanted is reported, and is no failure.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn

from stability.gradients.watch import watch

DEPTH, WIDTH, BATCH, ROUNDS = 50, 256, 128, 100


def watch_cost() -> None:
    """Print how much longer a watched step of training takes, in percent."""
    print(f"watch: a training step of {DEPTH} blocks of width {WIDTH}, batch {BATCH}, float32, one thread")
    for gradients in ("in range", "vanishing"):
        for optimizer in (torch.optim.SGD, torch.optim.Adam):
            _watch_cost(gradients, optimizer)


def _watch_cost(gradients: str, optimizer_of: type[torch.optim.Optimizer]) -> None:
    blocks = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH))
    model = nn.Sequential(*blocks)
    if gradients == "in range":  # with torch's own weights they vanish, and small norms are taken twice
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.kaiming_normal_(parameter)
    x, y = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
    optimizer = optimizer_of(model.parameters(), lr=1e-5)  # type: ignore[call-arg]
    ways: tuple[dict[str, Any] | None, ...] = (None, {}, {"parameters": True}, {"every": 100})
    seconds: list[list[float]] = [[] for _ in ways]
    for round_ in range(ROUNDS):
        for turn in range(len(ways)):  # each is first, and last, equally often
            way = (round_ + turn) % len(ways)
            options = ways[way]
            with ExitStack() as stack:
                record = None if options is None else stack.enter_context(watch(model, **options))
                model(x[:1]).sum().backward()  # pass 0, which every=100 records; the one that is timed it does not
                start = time.process_time()
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
                seconds[way].append(time.process_time() - start)
                assert record is None or len(record) == (1 if record.every == 100 else 2)
    plain, *others = (float(np.median(times)) for times in seconds)
    cost, with_parameters, between = (100 * (other / plain - 1) for other in others)
    print(
        f"  {optimizer_of.__name__}, gradients {gradients}: {1e3 * plain:.1f} ms, watched {cost:+.1f} % (wanted "
        f"<= 10 %: {'holds' if cost <= 10 else 'DOES NOT HOLD'}), parameters too {with_parameters:+.1f} %, "
        f"between two rows {between:+.1f} %"
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    watch_cost()


if __name__ == "__main__":
    main()
