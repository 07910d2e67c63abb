"""How much faster is the compiled training iteration than what a user would otherwise write?

One loss with all gradients of residual PReLU chains, 256 seeds x 256 points x 100 layers, in one run and on one
thread: the compiled loops over the step table, the same arrays in batched eager torch, and a loop over the members'
own modules (timed on a few members and scaled up). Prints nanoseconds per seed x point x layer and the ratios, beside
what the processor's peak of multiplications and additions would allow, and the cost a layer against the depth. Then
Levenberg-Marquardt against Adam in the same wall time.
"""

from __future__ import annotations

import os

os.environ["NUMBA_NUM_THREADS"] = "1"  # before numba is imported

import time
from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import nn

import stability as st
from stability.training.kernels.training_kernel import OPERATIONS
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


@njit(fastmath=True)
def products(left: np.ndarray, right: np.ndarray, rounds: int, out: np.ndarray) -> None:
    """Add up the 12 products of 3 rows with 4 rows, 4 times a round: for every 7 numbers read, 24 operations."""
    zero = left.dtype.type(0)
    for _ in range(rounds):
        for j in range(4):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = zero
            for p in range(left.shape[1]):
                a, b, c = left[0, p], left[1, p], left[2, p]
                r0, r1, r2, r3 = right[j, p], right[j + 1, p], right[j + 2, p], right[j + 3, p]
                a0 += a * r0
                a1 += a * r1
                a2 += a * r2
                a3 += a * r3
                b0 += b * r0
                b1 += b * r1
                b2 += b * r2
                b3 += b * r3
                c0 += c * r0
                c1 += c * r1
                c2 += c * r2
                c3 += c * r3
            out[j] += a0 + a1 + a2 + a3 + b0 + b1 + b2 + b3 + c0 + c1 + c2 + c3


def peak(dtype: torch.dtype) -> float:
    """Return the multiplications and additions a second of a loop that does little else, in cache."""
    number = torch.empty(0, dtype=dtype).numpy().dtype
    left, right, out, rounds = np.ones((3, 512), number), np.ones((8, 512), number), np.zeros(4, number), 2000
    return 24 * 4 * 512 * rounds / best_time(lambda: products(left, right, rounds, out), 9)


def against_depth() -> None:
    """Print the cost of a layer for chains up to 10,000 deep."""
    print("\ncompiled, ns / seed point layer, by depth:")
    task = st.Task(torch.sin, (-3, 3), points=POINTS)
    for dtype in (torch.float32, torch.float64):
        costs = []
        for depth in (100, 1000, 10_000):
            seeds = 20_000 // depth
            objective = TableObjective(
                st.Chain("residual2_prelu", depth, seeds=seeds, init="scaled", dtype=dtype), task
            )
            costs.append(best_time(objective.losses_and_gradients, 9) / (seeds * POINTS * depth) * 1e9)
        shown = ", ".join(f"{depth}: {cost:.3f}" for depth, cost in zip((100, 1000, 10_000), costs, strict=True))
        name = str(dtype).removeprefix("torch.")
        print(f"{name:<10}{shown}; a layer of 10,000 costs {costs[-1] / costs[0]:.2f} times one of 100")


def against_adam() -> None:
    """Print the errors of Levenberg-Marquardt and of Adam, at its best of six starts and rates, in the same time."""
    task, fresh = st.Task(torch.sin, (-3, 3)), torch.linspace(-3, 3, 10_000, dtype=torch.float64)

    def median_error(chain: st.Chain) -> float:
        return (chain(fresh) - fresh.sin()).square().mean(1).median().item()

    print("\nmedian error of 8 members on 10,000 fresh points, residual2_prelu on sin(x):")
    for depth in (30, 100):
        chain = st.Chain("residual2_prelu", depth, seeds=8, init="knots")
        start = time.perf_counter()
        st.train(chain, task, "levenberg_marquardt", progress=False)
        seconds = time.perf_counter() - start
        trial = st.Chain("residual2_prelu", depth, seeds=8)
        steps = int(300 * seconds / best_time(lambda c=trial: st.train(c, task, iterations=300, progress=False), 2))
        errors = []
        for init in ("pytorch", "knots"):
            for rate in (0.003, 0.01, 0.03):
                other = st.Chain("residual2_prelu", depth, seeds=8, init=init)
                st.train(other, task, iterations=max(1, steps), rate=rate, progress=False)
                errors.append(median_error(other))
        reached = median_error(chain)
        print(
            f"depth {depth:>3}: Levenberg-Marquardt from knots {reached:.1e} in {seconds:.2f} s; Adam "
            f"{min(errors):.1e} in {steps} steps, {min(errors) / reached:.0f} times as much"
        )


def main() -> None:
    torch.set_num_threads(1)
    st.train(st.Chain("residual2_prelu", 3), st.Task(torch.sin, (-3, 3)), "levenberg_marquardt", 30, progress=False)
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
        allowed = OPERATIONS / peak(dtype) * 1e9
        print(
            f"{'':<10}the formulas' {OPERATIONS} operations at this core's measured peak would take {allowed:.3f}: the "
            f"loops run at {100 * allowed / (kernel / (SEEDS * POINTS * DEPTH) * 1e9):.0f} % of it"
        )
    against_depth()
    against_adam()


if __name__ == "__main__":
    main()
