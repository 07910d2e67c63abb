"""How long does a network over a plane take, next to regioncam and SyReNN?

Everything runs in one thread, after a call that warms up. What is compared is called in turns, and medians are divided,
so that a busy machine slows both. The networks are ReLU perceptrons of torch's init, seed 0, on the square [-1, 1]^2.

- Ours is float64, with a bound of the rounding that every sign is held against, and counts folds as well.
- regioncam 0.5 lists the regions in compiled float32, without a bound. Its network is not timed, its diagram is.
- SyReNN (`pip install pysyrenn`) is a client in Python. What calculates is a server in C++ beside it, built with bazel,
  which no registry has: its line says what is missing.

A ratio that does not hold is reported, and is no failure.
"""

from __future__ import annotations

import argparse
import itertools
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported
os.environ["NUMBA_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"

import shutil
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import stability as st

try:
    import regioncam
except ImportError:
    regioncam = None

NETWORKS = ((2, 32, 32, 1), (2, 128, 128, 128, 1), (2, 512, 512, 1))
INSTALL = "regioncam is not installed: pip install -c constraints.txt '.[bench]'"


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Return a ReLU network with torch's own initialisation."""
    torch.manual_seed(0)
    linear = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
    return nn.Sequential(linear[0], *(m for one in linear[1:] for m in (nn.ReLU(), one)))


def ours(model: nn.Module) -> st.PiecewiseLinearSlice:
    return st.restrict(model, st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True), memory=16)


def theirs(model: nn.Sequential) -> int:
    """Return how many regions regioncam finds."""
    diagram = regioncam.Regioncam(size=1.0)
    for module in model:
        if isinstance(module, nn.Linear):
            diagram.linear(module.weight.detach().numpy().T.copy(), module.bias.detach().numpy())
        else:
            diagram.relu()
    return int(diagram.num_faces)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def syrenn() -> str:
    """Return why SyReNN is not measured."""
    if shutil.which("syrenn_server"):
        return "a syrenn_server is installed here, which this script does not speak to: its protocol is pysyrenn's"
    try:
        import pysyrenn  # noqa: F401
    except ImportError as error:
        return f"pysyrenn is not installed ({error}), and no registry has its server (C++, built with bazel)"
    except TypeError as error:
        return f"pysyrenn does not load with this protobuf ({str(error).splitlines()[0]}); nor is its server installed"
    return "pysyrenn is installed, but the server that calculates (C++, built with bazel) is in no registry"


def main(budget: float) -> None:
    torch.set_num_threads(1)
    print("| network | regions | folds | undecided | ours, ms | regioncam, ms | its regions | ratio | wanted | held |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for widths in NETWORKS:
        model = perceptron(widths)
        found, times, other = ours(model).count(), [], []
        regions = None if regioncam is None else theirs(model)
        end = time.perf_counter() + budget
        while not times or (time.perf_counter() < end and len(times) < 200):
            times.append(seconds(lambda model=model: ours(model)))
            if regioncam is not None:
                other.append(seconds(lambda model=model: theirs(model)))
        mine = statistics.median(times)
        cells = [f"{1e3 * mine:.2f}", "-", "-", "-", ">= 1", "not measured"]
        if other:
            ratio = statistics.median(other) / mine
            cells = [cells[0], f"{1e3 * statistics.median(other):.2f}", str(regions), f"{ratio:.2f}", ">= 1"]
            cells.append("yes" if ratio >= 1 else "no")
        name = "-".join(map(str, widths))
        print(f"| {name} | {found.regions} | {found.folds} | {found.undecided} | {' | '.join(cells)} |", flush=True)
    print(f"\nSyReNN: {syrenn()}.")
    if regioncam is None:
        print(INSTALL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for every network")
    main(parser.parse_args().seconds)
