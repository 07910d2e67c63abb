"""What does it cost to watch a training?

Fifty blocks relu(W h + b) of width 256 are trained on batches of 128 in float32, in one thread. Steps that are watched,
watched at every hundredth pass, and not watched are taken in turns, and the medians are compared.

A cost above what was wanted is reported, and is no failure.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import time
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn

from stability.gradients.watch import watch

DEPTH, WIDTH, BATCH, ROUNDS = 50, 256, 128, 150


def watch_cost() -> None:
    """Print how much longer a watched step of training takes, in percent."""
    print(f"watch: a training step of {DEPTH} blocks of width {WIDTH}, batch {BATCH}, float32, one thread")
    for name, optimizer_of in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
        blocks = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH))
        model = nn.Sequential(*blocks)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.kaiming_normal_(parameter)  # torch's own would let all gradients vanish
        x, y = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
        optimizer = optimizer_of(model.parameters(), lr=1e-5)
        seconds: dict[int | None, list[float]] = {None: [], 1: [], 100: []}
        for round_ in range(ROUNDS):
            for turn in range(3):  # each is first, second and last equally often
                every, times = list(seconds.items())[(round_ + turn) % 3]
                with ExitStack() as stack:
                    if every is not None:
                        record = stack.enter_context(watch(model, every=every))
                    if every == 100:
                        model(x[:1]).sum().backward()  # pass 0, which is recorded; the one that is timed is not
                    start = time.perf_counter()
                    optimizer.zero_grad()
                    (model(x) - y).square().mean().backward()
                    optimizer.step()
                    times.append(time.perf_counter() - start)
                    assert every is None or len(record) == 1
        plain, watched, between = (float(np.median(times)) for times in seconds.values())
        cost = 100 * (watched / plain - 1)
        print(
            f"  {name}: {1e3 * plain:.1f} ms, watched {1e3 * watched:.1f} ms: {cost:+.1f} % (wanted <= 10 %: "
            f"{'holds' if cost <= 10 else 'DOES NOT HOLD'}); between two rows {100 * (between / plain - 1):+.1f} %"
        )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    watch_cost()


if __name__ == "__main__":
    main()
