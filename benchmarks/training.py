"""How much faster is the compiled training step than what a user would otherwise write?

One loss with all gradients of residual PReLU chains, 256 seeds x 256 points x 100 layers, in one run and on one
thread: the compiled loops over the step table, the same arrays in batched eager torch, and a loop over the members'
own modules (timed on a few members and scaled up). Prints nanoseconds per seed x point x layer and the ratios.
"""

from __future__ import annotations

import os

os.environ["NUMBA_NUM_THREADS"] = "1"  # before numba is imported

import time
from collections.abc import Callable

import torch
from torch import nn

import stability as st
from stability.training.objective import ModuleObjective, TableObjective

SEEDS, POINTS, DEPTH, LOOPED = 256, 256, 100, 2


class Residual(nn.Module):
    """One residual step as a user writes it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 1, dtype=dtype), nn.Linear(1, 1, dtype=dtype)
        self.activation = nn.PReLU(dtype=dtype)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.outer(self.activation(self.inner(h)))


def best_time(call: Callable[[], object], repeats: int) -> float:
    """Return the least time of a few calls after one that warms up, in seconds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'dtype':<10}{'path':<28}{'ns / seed point layer':>24}{'times the kernel':>20}")
    for dtype in (torch.float32, torch.float64):
        task = st.Task(torch.sin, (-3, 3), points=POINTS)
        chain = st.Chain("residual2_prelu", DEPTH, seeds=SEEDS, dtype=dtype)
        x, y = task.x.to(dtype)[:, None], task.y.to(dtype)[:, None]
        modules = [nn.Sequential(*(Residual(dtype) for _ in range(DEPTH))) for _ in range(LOOPED)]

        def loop(modules: list[nn.Sequential] = modules, x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            for module in modules:
                module.zero_grad()
                (module(x) - y).square().mean().backward()

        seconds = {
            "compiled, one thread": best_time(TableObjective(chain, task).losses_and_gradients, 9),
            "batched eager torch": best_time(ModuleObjective(chain, task).losses_and_gradients, 3),
            "loop over modules": best_time(loop, 3) * SEEDS / LOOPED,
        }
        kernel = seconds["compiled, one thread"]
        for name, value in seconds.items():
            nanoseconds = value / (SEEDS * POINTS * DEPTH) * 1e9
            print(f"{str(dtype).removeprefix('torch.'):<10}{name:<28}{nanoseconds:>24.3f}{value / kernel:>20.1f}")


if __name__ == "__main__":
    main()
