"""The table of speeds: what is wanted, what this machine gives, and what bounds it.

Most rows are ratios of two times in this run: `against X` is the time of X over ours, where more is better, and
`over X` is ours over that of X, where less is better. The unit of any other row is in its name. Times are of calls in
turns after one that warms up: of processor time where one thread works, so that a busy machine slows both alike, and of
the time that passes where two do. Networks are torch's own, seed 0. Two peers are compared with in this process, as far
as they are installed: regioncam (pip install -c constraints.txt '.[bench]'), and SyReNN (pip install pysyrenn), whose
package talks to a server that is started by itself. One that is not there is said, not left out.

What misses its target is reported, with what bounds it, and is no failure. Times and shares of a bound were measured
once, on one of two cores of an AMD EPYC, in turns with other calls. The single scripts beside this one say more.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported
os.environ["NUMBA_NUM_THREADS"] = str(min(2, os.cpu_count() or 1))

import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numba
import numpy as np
import torch
from folds import affine_and_max, regioncam, their_chain, their_pieces
from gradients import TRAINED, best_times, one_watch_cost, ways_to_the_norms
from numpy.typing import NDArray
from spectra import naive, write_result
from spectra_reference import layers
from torch import nn
from training import OPERATIONS, peak

import slices
import stability as st
from stability.training.objective import TableObjective

# The scripts beside this one have been imported, each of which has its own number of threads.
os.environ["NUMBA_NUM_THREADS"] = str(numba.config.NUMBA_NUM_THREADS)

Call = Callable[[], object]
INTERVAL = (-3.0, 3.0)
NOT_THERE = "not installed: pip install -c constraints.txt '.[bench]'"


@dataclass(frozen=True)
class Row:
    """A line of the table; a measurement that is a text says why there is none."""

    work: str
    wanted: str
    measured: float | str
    bound: str

    @property
    def verdict(self) -> str:
        if isinstance(self.measured, str):
            return "NOT MEASURED"
        sign, number = self.wanted.split()[:2]
        held = self.measured >= float(number) if sign == ">=" else self.measured <= float(number)
        return "holds" if held else "DOES NOT HOLD"

    def __str__(self) -> str:
        measured = self.measured if isinstance(self.measured, str) else f"{self.measured:.3g}"
        bound = "" if isinstance(self.measured, str) else f"\n    bound by {self.bound}"
        return f"{self.work}\n    wanted {self.wanted}, measured {measured}: {self.verdict}{bound}"


class Clock:
    """Least times of calls in turns."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def least(self, *calls: Call, clock: Callable[[], float] = time.process_time, turns: int = 3) -> list[float]:
        """Return the least time of each, of at least so many turns after one that warms up."""
        for call in calls:
            call()
        best, end, done = [math.inf] * len(calls), time.perf_counter() + self.seconds, 0
        while done < turns or time.perf_counter() < end:
            for number, call in enumerate(calls):
                start = clock()
                call()
                best[number] = min(best[number], clock() - start)
            done += 1
        return best

    def ratio(self, first: Call, second: Call, turns: int = 3) -> float:
        one, other = self.least(first, second, turns=turns)
        return one / other


def in_syrenn(model: nn.Sequential, line: NDArray[np.float32]) -> Call | str:
    """Return SyReNN's transformation of a network along a line, or why there is none."""
    try:
        from pysyrenn import FullyConnectedLayer, Network, ReluLayer
    except ImportError as error:
        return f"SyReNN: not installed: pip install pysyrenn, and start its server ({error})"
    except Exception as error:  # of protocol buffers of another age
        return f"SyReNN: its package does not load here ({type(error).__name__})"
    parts = []
    for module in model:
        if isinstance(module, nn.Linear):
            parts.append(FullyConnectedLayer(module.weight.numpy(force=True).T, module.bias.numpy(force=True)))
        else:
            parts.append(ReluLayer())
    network = Network(parts)
    try:
        network.exactline(*line)
    except Exception as error:
        return f"SyReNN: no server answers ({type(error).__name__})"
    return lambda: network.exactline(*line)


def chains(clock: Clock) -> Iterator[Row]:
    table = st.Chain("residual2_prelu", depth=1000, seeds=1).table()[0]
    work, bound = (
        "enumerate the folds of a residual chain, depth 1000",
        "Python that the other has driven out of the cache: of 109 us (72 alone) 44 are the loops, gains and knots",
    )
    pieces = st.count(table, INTERVAL).regions
    if regioncam is None:
        yield Row(f"{work}, against regioncam", ">= 20", f"regioncam: {NOT_THERE}", bound)
    else:
        net = their_chain(table)
        ratio = clock.ratio(lambda: their_pieces(net, 6), lambda: st.restrict(table, INTERVAL))
        yield Row(f"{work}, against regioncam", ">= 20", ratio, bound)
    h = np.linspace(0, 1, pieces + 1)
    ratio = clock.ratio(lambda: st.restrict(table, INTERVAL), lambda: affine_and_max(h, 1000))
    bound = "of 70 us 19 are gains with the bounds of their errors, 16 the knots, 35 Python; the bare passes take 5"
    yield Row(f"{work}, over bare passes over its {pieces} pieces", "<= 3", ratio, bound)


PERCEPTRONS = {
    (1, 64, 64, 64, 1): "Python, 0.12 of 0.19 ms, of which 0.02 read the module; 0.02 of the loops' 0.07 is a product",
    (784, 256, 256, 10): "of 0.33 ms 0.15 in the loops, 0.04 of them the first layer; 0.04 make weights float64",
    (1, 1024, 1024, 1024, 1): "the one product that is left, 39 of 69 ms in float64; it would be 20 in float32",
}


def perceptrons(clock: Clock) -> Iterator[Row]:
    for widths, bound in PERCEPTRONS.items():
        model = slices.perceptron(widths)
        name = "-".join(map(str, widths))
        if widths[0] == 1:
            line: st.PiecewiseLinear | tuple[float, float] = INTERVAL
            ends = np.array([[INTERVAL[0]], [INTERVAL[1]]], np.float32)
        else:
            ends = np.random.default_rng(0).random((2, widths[0])).astype(np.float32)
            line = st.segment(*ends)
        ours = lambda model=model, line=line: st.restrict(model, line)  # noqa: E731
        if regioncam is None:
            yield Row(f"{name} on a line, against regioncam", ">= 3", f"regioncam: {NOT_THERE}", bound)
        elif widths[0] == 1:
            theirs = lambda model=model: their_pieces(model, 6, arrays=True)  # noqa: E731
            yield Row(f"{name} on a line, against regioncam", ">= 3", clock.ratio(theirs, ours), bound)
        else:
            first = nn.Linear(1, widths[1])
            with torch.no_grad():  # its lines are of one number: the segment is part of the first layer
                p, q = (torch.from_numpy(end) for end in ends)
                first.weight[:, 0] = model[0].weight @ (q - p)
                first.bias[:] = model[0](p) + first.weight[:, 0] / 2
            net = nn.Sequential(first, *list(model)[1:])
            theirs = lambda net=net: their_pieces(net, 1, arrays=True)  # noqa: E731
            yield Row(f"{name} on a line, against regioncam", ">= 3", clock.ratio(theirs, ours), bound)
        call = in_syrenn(model, ends)
        yield Row(
            f"{name} on a line, against SyReNN",
            ">= 3",
            call if isinstance(call, str) else clock.ratio(call, ours),
            bound,
        )
        if widths[1] >= 1024:
            left = np.random.default_rng(0).random((1024, 1024))
            took, gemm = clock.least(ours, lambda left=left: left @ left)
            knots = len(st.restrict(model[:3], line).knots) - 2  # those that bend in many entries at the last matrix
            share = 100 * (2 * knots * 1024**2 / took) / (2 * 1024**3 / gemm)
            bound = f"the product of {knots} bends and a matrix; other bends have one entry, and take a column"
            yield Row(f"{name}: that product over the whole, in % of numpy's rate", ">= 60", share, bound)


def on_two_threads() -> Iterator[Row]:
    many = st.Chain("residual2_prelu", 300, seeds=1000)
    for what, call, bound in (
        (
            "counting",
            lambda: st.count(many, INTERVAL),
            "what is outside of the loops, a fifth or less, which Python does a thread at a time",
        ),
        ("enumerating", lambda: st.restrict(many, INTERVAL), "46 of 100 ms outside of the loops, on one thread"),
    ):
        times = []
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            call()
            best = math.inf
            for _ in range(3):
                start = time.perf_counter()
                call()
                best = min(best, time.perf_counter() - start)
            times.append(best)
        numba.set_num_threads(1)
        yield Row(f"{what} 1000 seeds of depth 300 on two threads", ">= 1.8", times[0] / times[1], bound)


def spectra(clock: Clock) -> Iterator[Row]:
    chain, x = st.Chain("residual2_prelu", 1000), torch.linspace(-3, 3, 1024, dtype=torch.float64)
    ratio = clock.ratio(lambda: st.spectrum(chain, x, distances=False), lambda: write_result(1000, 1, 1024))
    bound = "the steps: of 0.9 ms they are 0.3, the sums of logs and writing them 0.4, signs 0.06; writing alone 0.17"
    yield Row("prefixes at width 1, depth 1000, 1024 points, over writing the result", "<= 2", ratio, bound)
    matrices = layers()
    calls = (
        lambda: st.spectrum(matrices, check=False, distances=False),
        lambda: st.spectrum(matrices, distances=False),
        lambda: naive(matrices),
    )
    plain, checked, theirs = clock.least(*calls, turns=1)
    what = "64 matrices of width 256, all prefixes, over the naive product"
    bound = "LAPACK: of 9.2 ms a prefix its values are 4.7, QR 2.6 and two products 1.3; naive 4.9 and 0.7"
    yield Row(what, "<= 1.5", plain / theirs, bound)
    bound = "products: of 30 ms a prefix 9 are the values, 5 the product reversed, 9 and 5 two that are nudged, 1.3 det"
    yield Row(f"{what}, with both self-checks", "<= 3", checked / theirs, bound)


def training(clock: Clock) -> Iterator[Row]:
    task = st.Task(torch.sin, INTERVAL, points=256)
    for dtype in (torch.float32, torch.float64):
        name, allowed = str(dtype).removeprefix("torch."), OPERATIONS / peak(dtype)
        for seeds in (256, 8, 4096):
            chain = st.Chain("residual2_prelu", 100, seeds=seeds, dtype=dtype)
            (took,) = clock.least(TableObjective(chain, task).losses_and_gradients, turns=1 if seeds > 256 else 5)
            share = 100 * allowed * seeds * 256 * 100 / took
            bound = (
                "comparisons, selections and sums of lanes beside the 15 operations that are left of 25; "
                "Python is 7 us of a call"
            )
            yield Row(f"a training step, {seeds} x 256 x 100, {name}, in % of the peak", ">= 80", share, bound)


def gradients() -> Iterator[Row]:
    best = best_times(ways_to_the_norms(), time.process_time)
    ratio = best["loop over modules"] / best["in the log domain"]
    bound = (
        "loops of 64 points: of 50 ms, 20 are states, forward twice, 16 what comes back, 6 logarithms, 5 the table and "
        "derivatives of steps"
    )
    yield Row("gradient norms of 1000 seeds, depth 300, against a loop over modules", ">= 1500", ratio, bound)
    bounds = {
        TRAINED[0]: "torch's norms, 22 us of the 800 that a layer takes, and 17 of Python, put out of cache",
        TRAINED[1]: "the same, and the norms of gradients that are lifted into float32's range, 24 us a layer",
        TRAINED[2]: "torch's norms and Python, 2.7 ms of a step of 270",
    }
    for trained, optimizer in itertools.product(TRAINED, (torch.optim.SGD, torch.optim.Adam)):
        share = one_watch_cost(trained, optimizer)[0]
        what = f"st.watch, % of a training step with {optimizer.__name__}, {trained}"
        yield Row(what, "<= 3", share, bounds[trained])


FIRST = {
    "count": "st.count(st.Chain('residual2_prelu', 30), (-3, 3))",
    "matrices": "st.spectrum(np.random.default_rng(0).standard_normal((4, 8, 8)), progress=False)",
    "train": "st.train(st.Chain('residual2_prelu', 3), st.Task(torch.sin, (-3, 3)), iterations=2, progress=False)",
}


#: The least that a loop of numba takes: its import, and one addition from the cache.
TRIVIAL = """
from numba import njit
@njit(cache=True)
def plus(x):
    return x[0] + 1.0
plus(np.ones(1))
"""


def cold_and_warm(call: str) -> list[float]:
    """Return the processor seconds of a call in a process without compiled loops, and the least of three with them."""
    program = (
        "import time, numpy as np, torch, stability as st\nst.Chain('residual2_prelu', 1)\n"
        f"start = time.process_time()\n{call}\nprint(time.process_time() - start)"
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "first.py"
        script.write_text(program)
        run = partial(subprocess.run, [sys.executable, script], capture_output=True, check=True, text=True)
        times = [float(run(env={**os.environ, "NUMBA_CACHE_DIR": folder}).stdout) for _ in range(4)]
    return [times[0], min(times[1:])]


def first_calls() -> Iterator[Row]:
    _, least = cold_and_warm(TRIVIAL)
    for name, call in FIRST.items():
        cold, warm = cold_and_warm(call)
        bound = f"numba, which types, optimises and writes loops for all but {warm:.2f} s of it"
        yield Row(f"the first {name} in a fresh process, s", "<= 5", cold, bound)
        bound = f"numba, whose import and one addition from the cache take {least:.2f} s here"
        yield Row("the same with the loops in the cache, s", "<= 0.45", warm, bound)


class Block(nn.Module):
    """A block of two convolutions as in a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, outputs, 3, step, 1, bias=False) for channels, step in ((inputs, stride), (outputs, 1))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        inner = self.norms[1](self.second(self.norms[0](self.first(h)).relu()))
        return (inner + self.shortcut(h)).relu()


def residual_network() -> nn.Sequential:
    """Return a stem, three blocks and a read-out."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    blocks = (Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def planes(clock: Clock) -> Iterator[Row]:
    bound = {
        32: "cuts of faces, half of it, and Python",
        128: "cuts of faces, 55 % of it, and products, 19 %",
        512: "making room, 39 % of it, cuts of faces, 32 %, and products, 22 %",
    }
    for widths in slices.NETWORKS:
        model = slices.perceptron(widths)
        name = f"{'-'.join(map(str, widths))} on a square of {slices.ours(model).count().regions} regions"
        theirs, ours = partial(slices.theirs, model), partial(slices.ours, model)
        ratio = f"regioncam: {NOT_THERE}" if slices.regioncam is None else clock.ratio(theirs, ours)
        yield Row(f"{name}, against regioncam", ">= 1", ratio, bound[widths[1]])


def convolutions(clock: Clock) -> Iterator[Row]:
    net = residual_network()
    x, y = torch.rand(2, 1, 3, 32, 32)
    line = st.segment(x, x + 0.035 * (y - x))
    (seconds,) = clock.least(lambda: st.restrict(net, line), turns=1)
    regions = st.restrict(net, line).count().regions
    bound = "the convolutions of a value, a slope and a bend a knot in float64, and numpy's passes over them"
    yield Row(f"st.restrict on a residual network of convolutions, {regions} regions, s", "<= 2", seconds, bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the least of few turns")
    parser.add_argument("--only", help="rows whose function has this in its name")
    options = parser.parse_args()
    clock = Clock(0.05 if options.quick else 3.0)
    rows: list[Row] = []
    print("against X: the time of X over ours; over X: ours over that of X; bound by: what took the time once\n")
    began = time.perf_counter()
    groups: dict[str, Callable[[], Iterator[Row]]] = {
        **{f.__name__: (lambda f=f: f(clock)) for f in (chains, perceptrons, planes, convolutions, spectra, training)},
        **{f.__name__: f for f in (gradients, on_two_threads, first_calls)},
    }
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    for name, group in groups.items():
        if options.only and options.only not in name:
            continue
        for row in group():
            print(row, flush=True)
            rows.append(row)
    held, missing = ([row.verdict for row in rows].count(verdict) for verdict in ("holds", "NOT MEASURED"))
    took = (time.perf_counter() - began) / 60
    print(f"\n{held} of {len(rows)} targets held in this run, {missing} were not measured; it took {took:.1f} minutes")


if __name__ == "__main__":
    main()
