"""How much faster are gradient norms in the log domain than what a user would write, and what does watching cost?

Gradient norms of residual PReLU chains of depth 300 at 64 points, 1000 seeds: by `st.gradient_norms`, by automatic
differentiation of the same stacked arrays with norms by layer, and by a loop over the members' own modules (timed on a
few members and scaled up), in one run: the best time of several turns, all on one thread, and all on as many as there
are.

Gradient norms of tanh networks of width 16 at depths 50 and 800, and of a network of convolutions, against a plain
forward and backward pass of the same module, in one thread: the multiple must not grow with the depth.

Fifty blocks relu(W h + b) of width 256 are trained on batches of 128 in float32, in one thread, and a transformer of
four layers of width 256 on 8 sequences of 128: a layer of the first takes 0.8 ms of a step, of the second 60. Steps
that are watched, watched at every hundredth pass, and not watched are taken in turns, and the medians of processor time
are compared.

What misses the ratio that is wanted is reported, and is no failure.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numba
import numpy as np
import torch
from torch import nn

import stability as st

SEEDS, LAYERS, POINTS, LOOPED, TURNS = 1000, 300, 64, 3, 4
DEPTH, WIDTH, BATCH, ROUNDS = 50, 256, 128, 24
TRAINED = ("gradients in range", "gradients vanishing", "a transformer")


class Residual(nn.Module):
    """One residual step as a user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 1, dtype=torch.float64), nn.Linear(1, 1, dtype=torch.float64)
        self.activation = nn.PReLU(dtype=torch.float64)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.outer(self.activation(self.inner(h)))


def ways_to_the_norms() -> dict[str, Callable[[], object]]:
    """Return the calls that are compared, the last of which is of few members."""
    x = torch.linspace(-3, 3, POINTS, dtype=torch.float64)
    y = x.sin()
    chain = st.Chain("residual2_prelu", LAYERS, seeds=SEEDS)
    modules = [nn.Sequential(*(Residual() for _ in range(LAYERS))) for _ in range(LOOPED)]

    def loss(output: torch.Tensor) -> torch.Tensor:
        return (output - y).square().mean(dim=1)

    def stacked() -> list[torch.Tensor]:
        gradients = torch.autograd.grad(loss(chain(x)).sum(), list(chain.parameters()))
        return [gradient.abs().log() for gradient in gradients]

    def loop() -> list[torch.Tensor]:
        norms = []
        for module in modules:
            module.zero_grad()
            (module(x[:, None]) - y[:, None]).square().mean().backward()
            norms += [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
        return norms

    return {
        "in the log domain": lambda: st.gradient_norms(chain, x, loss),
        "stacked autograd": stacked,
        "loop over modules": loop,
    }


def best_times(calls: dict[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Return the best time of each call, that of the loop for all members."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(TURNS):  # in turns, so that a busy moment of the machine meets them all
        for name, call in calls.items():
            start = clock()
            call()
            best[name] = min(best[name], clock() - start)
    best["loop over modules"] *= SEEDS / LOOPED
    return best


def norms_of_many() -> None:
    """Print the time of the norms of all layers and seeds, and the ratios to the alternatives."""
    calls = ways_to_the_norms()
    for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
        # One thread's processor time is what it takes on an idle machine; of several the time that passes counts.
        _report(best_times(calls, time.process_time if threads == 1 else time.perf_counter), threads)
    torch.set_num_threads(1)


def _report(best: dict[str, float], threads: int) -> None:
    ours = best["in the log domain"]
    print(
        f"gradient norms: {SEEDS} seeds, depth {LAYERS}, {POINTS} points, float64, each on {threads} thread"
        f"{'s' if threads > 1 else ' (processor time)'}, the best of {TURNS} turns: {1e3 * ours:.1f} ms"
    )
    for name, wanted in (("stacked autograd", 5), ("loop over modules", 1000)):
        ratio = best[name] / ours
        verdict = "holds" if ratio >= wanted else "DOES NOT HOLD"
        print(f"  {name}: {1e3 * best[name]:.0f} ms, {ratio:.1f} times (wanted >= {wanted}: {verdict})")


def multiples_of_a_plain_pass() -> None:
    """Print how many plain passes the gradient norms of modules cost, at two depths."""
    multiples = {}
    for depth in (50, 800):
        net = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(depth)))
        multiples[depth] = _multiple(net, torch.randn(8, 16))
    ratio = multiples[800] / multiples[50]
    verdict = "holds" if ratio <= 1.5 else "DOES NOT HOLD"
    print(
        f"gradient norms of tanh networks of width 16: {multiples[50]:.1f} plain passes at depth 50, "
        f"{multiples[800]:.1f} at depth 800, {ratio:.2f} times as many (wanted <= 1.5: {verdict})"
    )
    channels = [3, 32, 32, 64, 64, 128, 128, 256]
    parts = (nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in itertools.pairwise(channels))
    multiple = _multiple(nn.Sequential(*parts), torch.randn(4, 3, 32, 32))
    verdict = "holds" if multiple <= 10 else "DOES NOT HOLD"
    print(f"gradient norms of seven convolutions: {multiple:.1f} plain passes (wanted <= 10: {verdict})")


def _multiple(net: nn.Module, x: torch.Tensor) -> float:
    def plain() -> None:
        net.zero_grad(set_to_none=True)
        net(x).square().mean().backward()

    def norms() -> None:
        net.zero_grad(set_to_none=True)
        st.gradient_norms(net, x, lambda y: y.square().mean())

    best = {plain: float("inf"), norms: float("inf")}
    for _ in range(2 * TURNS):  # in turns, so that a busy moment of the machine meets both
        for call in best:
            start = time.process_time()
            call()
            best[call] = min(best[call], time.process_time() - start)
    return best[norms] / best[plain]


def watch_cost() -> None:
    """Print how much longer a watched iteration of training takes, in percent."""
    print(f"watch: a training iteration of {DEPTH} blocks of width {WIDTH}, batch {BATCH}, float32, one thread")
    for trained in TRAINED:
        for optimizer in (torch.optim.SGD, torch.optim.Adam):
            cost, plain, with_parameters, between = one_watch_cost(trained, optimizer)
            print(
                f"  {optimizer.__name__}, {trained}: {1e3 * plain:.1f} ms, watched {cost:+.1f} % (wanted "
                f"<= 10 %: {'holds' if cost <= 10 else 'DOES NOT HOLD'}), parameters too {with_parameters:+.1f} %, "
                f"between two rows {between:+.1f} %"
            )


def trained_model(trained: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a model of `TRAINED`, which gives what it takes, and a batch for it."""
    if trained == "a transformer":
        layers = (nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(4))
        return nn.Sequential(*layers), torch.randn(8, 128, WIDTH)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)))
    if trained == "gradients in range":  # with torch's own weights they vanish, and small norms are taken otherwise
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.kaiming_normal_(parameter)
    return model, torch.randn(BATCH, WIDTH)


def one_watch_cost(trained: str, optimizer_of: type[torch.optim.Optimizer]) -> tuple[float, float, float, float]:
    """Return what watching costs in percent; the seconds of a step; the same with parameters, and between two rows."""
    model, x = trained_model(trained)
    y = torch.randn_like(x)
    optimizer = optimizer_of(model.parameters(), lr=1e-5)  # type: ignore[call-arg]
    ways: tuple[dict[str, Any] | None, ...] = (None, {}, {"parameters": True}, {"every": 100})
    seconds: list[list[float]] = [[] for _ in ways]
    for round_ in range(ROUNDS // 2 if trained == "a transformer" else ROUNDS):
        for turn in range(len(ways)):  # each is first, and last, equally often
            way = (round_ + turn) % len(ways)
            options = ways[way]
            with ExitStack() as stack:
                record = None if options is None else stack.enter_context(st.watch(model, **options))
                model(x[:1]).sum().backward()  # pass 0, which every=100 records; the one that is timed it does not
                start = time.process_time()
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
                seconds[way].append(time.process_time() - start)
                assert record is None or len(record) == (1 if record.every == 100 else 2)
    plain, *others = (float(np.median(times)) for times in seconds)
    cost, with_parameters, between = (100 * (other / plain - 1) for other in others)
    return cost, plain, with_parameters, between


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    norms_of_many()
    multiples_of_a_plain_pass()
    watch_cost()


if __name__ == "__main__":
    main()
