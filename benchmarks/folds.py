"""How long do counting and listing folds take, next to regioncam, to the machine and to themselves?

Everything runs in one thread (but for the line on two), after a call that warms up. What is compared is called in
turns, ours, theirs, ours, theirs, and medians are divided, so that a busy machine slows both.

- regioncam 0.5 lists the pieces of a ReLU network on a line in compiled float32, without a bound of its rounding. It
  is given the same chains (layers of one neuron) and the same multilayer perceptron, and is timed with the building
  of its diagram, not with that of its network. Beside the times stand the pieces that each finds, and where they
  differ, whom rational arithmetic confirms. Without it (pip install -c constraints.txt '.[bench]') these lines are
  left out.
- The machine: one pass over an array as long as the final list of knots, h = max(gain h + shift, floor) in place,
  compiled, once a layer. Enumeration has fewer knots in the early layers, and much more to do at each.
- Itself: deeper, of more members, on two threads, and of more folds.

A ratio that does not hold is reported, and is no failure.
"""

from __future__ import annotations

import argparse
import itertools
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported
os.environ["NUMBA_NUM_THREADS"] = str(min(2, os.cpu_count() or 1))  # of which one is used, but for one line

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import stability as st

try:
    import regioncam
except ImportError:
    regioncam = None

Table = NDArray[np.float64]
Call = Callable[[], object]
INSTALL = "regioncam is not installed: pip install -c constraints.txt '.[bench]'"
LINE = (-3, 3)


@dataclass(frozen=True)
class Row:
    """One line: a ratio of two medians, what is wanted of it (None: nothing), and cells that explain."""

    what: str
    ratio: float
    at_least: float | None
    at_most: float | None
    cells: tuple[str, ...]

    @property
    def held(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    @property
    def wanted(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "-" if self.at_most is None else f"<= {self.at_most:g}"


class Clock:
    """Medians of calls in turns, for about `seconds` a pair."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def medians(self, ours: Call, theirs: Call, least: int = 3) -> tuple[float, float]:
        ours(), theirs()
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + self.seconds
        while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < 1001):
            for call, one in zip((ours, theirs), times, strict=True):
                start = time.perf_counter()
                call()
                one.append(time.perf_counter() - start)
        return float(np.median(times[0])), float(np.median(times[1]))


def duration(seconds: float) -> str:
    unit, scale = ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("us", 1e-6)
    return f"{seconds / scale:.3g} {unit}"


def number(n: int) -> str:
    return str(n) if n < 10**7 else f"2^{n.bit_length() - 1}" if n & (n - 1) == 0 else f"about 2^{n.bit_length()}"


def show(title: str, columns: tuple[str, ...], rows: list[Row]) -> None:
    """Print a table: what, the cells before the ratio, the ratio and what is wanted, the rest of the cells."""
    lines = [("", *columns)]
    for row in rows:
        held = {True: "holds", False: "DOES NOT HOLD", None: ""}[row.held]
        lines.append((row.what, *row.cells[:2], f"{row.ratio:.3g}", row.wanted, held, *row.cells[2:]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    print(f"\n{title}")
    for line in lines:
        first, *rest = line
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *cells)).rstrip())


# Their networks -----------------------------------------------------------------------------------------------------


def their_chain(table: Table) -> object:
    """Return regioncam's network of a step table."""
    layers = regioncam.nn

    def linear(weight: float, bias: float) -> object:
        return layers.Linear(np.array([[weight]], np.float32), np.array([bias], np.float32))

    steps = []
    for skip, weight, bias, outer_weight, outer_bias, slope in table.tolist():
        inner = layers.Sequential(linear(weight, bias), layers.LeakyReLU(slope), linear(outer_weight, outer_bias))
        steps.append(layers.Residual(inner) if skip else inner)
    return layers.Sequential(*steps)


def their_pieces(net: object, size: float, arrays: bool = False) -> int:
    """Return how many pieces regioncam finds on [-size / 2, size / 2]."""
    diagram = regioncam.Regioncam1D(size)
    diagram.add(net)
    if arrays:
        _ = diagram.inputs, diagram.outputs
    return int(diagram.num_edges)


def perceptron() -> tuple[nn.Sequential, object]:
    """Return a float32 network of torch, and the same of regioncam's own layers (None without it)."""
    widths = (1, 64, 64, 64, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
    model = nn.Sequential(linear[0], *(m for one in linear[1:] for m in (nn.ReLU(), one)))
    if regioncam is None:
        return model, None
    own = [regioncam.nn.Linear(one.weight.numpy(force=True).T.copy(), one.bias.numpy(force=True)) for one in linear]
    return model, regioncam.nn.Sequential(own[0], *(m for one in own[1:] for m in (regioncam.nn.ReLU(), one)))


def contracting_chain(depth: int = 1000) -> Table:
    """A plain PReLU chain that takes away a third of the line at every step, each kink inside what is left of it."""
    random = np.random.default_rng(0)
    table = np.tile([0.0, 0.75, 0.0, 1.0, 0.0, 0.8], (depth, 1))
    low, high = -3.0, 3.0
    for row in table:
        kink = random.uniform(0.8 * low + 0.2 * high, 0.2 * low + 0.8 * high)
        row[2] = -0.75 * kink
        low, high = 0.6 * (low - kink), 0.75 * (high - kink)
    return table


def expanding_chain(depth: int = 300) -> Table:
    """A chain that folds a few hundredths of its range over at every step, and stretches the rest to fill it again."""
    random = np.random.default_rng(1)
    table = np.tile([0.0, 1.0, 0.0, 1.0, 0.0, -1.0], (depth, 1))
    low, high = -3.0, 3.0
    for row in table:
        folded = random.uniform(0.005, 0.02)
        row[2] = -(low + folded * (high - low)) if random.random() < 0.5 else folded * (high - low) - high
        row[3] = 1 / (1 - folded)
        low, high = 0.0, 6.0
    return table


# The tables ---------------------------------------------------------------------------------------------------------


def confirmed(ours: int, theirs: int, exact: Callable[[], int]) -> str:
    if ours == theirs:
        return "both alike"
    true = exact()
    return {ours: "ours", theirs: "theirs"}.get(true, f"neither ({true})")


def against_regioncam(clock: Clock) -> list[Row]:
    rows = []

    def add(
        what: str, wanted: float | None, ours: Call, theirs: Callable[[], int], pieces: int, exact: Callable[[], int]
    ) -> None:
        mine, others = clock.medians(ours, theirs)
        found = theirs()
        cells = (duration(mine), duration(others), number(pieces), number(found), confirmed(pieces, found, exact))
        rows.append(Row(what, others / mine, wanted, None, cells))

    def enumerate_chain(what: str, wanted: float, table: Table, low: float, high: float) -> None:
        net, line = their_chain(table), (low, high)
        pieces = st.restrict(table, line).count().regions
        add(
            what,
            wanted,
            lambda: st.restrict(table, line),
            lambda: their_pieces(net, high - low),
            pieces,
            lambda: st.count(table, (low, high)).regions,
        )

    for init in ("pytorch", "identity", "scaled"):
        table = st.Chain("residual2_prelu", depth=1000, seeds=1, init=init).table()[0]
        enumerate_chain(f"enumerate residual2_prelu, depth 1000, init {init}", 15, table, -3, 3)
    enumerate_chain("enumerate 17 tents, 2^17 pieces", 100, st.tent(17), -1, 1)

    table = st.Chain("residual2_prelu", depth=1000, seeds=1).table()[0]
    net = their_chain(table)
    add(
        "count residual2_prelu exactly, depth 1000, init pytorch",
        0.5,
        lambda: st.count(table, (-3, 3)),
        lambda: their_pieces(net, 6),
        st.count(table, (-3, 3)).regions,
        lambda: st.restrict(table, LINE, exact=True).count().regions,
    )
    model, own = perceptron()
    found = st.restrict(model, LINE).count().regions

    def in_rationals() -> int:
        return int(st.restrict(model, LINE, exact=True).count().regions)

    for what, wanted, theirs in (
        ("enumerate a float32 torch perceptron 1-64-64-64-1, ReLU", 2, model),
        ("the same, given to regioncam as layers of its own", None, own),
    ):
        call = partial(their_pieces, theirs, 6, arrays=True)
        add(what, wanted, lambda: st.restrict(model, LINE), call, found, in_rationals)
    return rows


def miscounts() -> None:
    """Print the pieces that each finds where float32 loses them."""
    print("\npieces where rounding loses them")
    for what, table in (
        ("contracting PReLU chain, depth 1000", contracting_chain()),
        ("expanding chain, depth 300", expanding_chain()),
    ):
        exact, f = st.count(table, (-3, 3)).regions, st.restrict(table, LINE)
        theirs = their_pieces(their_chain(table), 6)
        verdict = "right" if theirs == exact else "wrong"
        print(
            f"  {what}: st.count {exact} (exact), regioncam {theirs} ({verdict}), "
            f"st.restrict in float64 {f.count().regions} with {f.undecided} signs that it says it could not tell"
        )


@numba.njit(nogil=True)
def affine_and_max(h: Table, passes: int) -> None:
    for _ in range(passes):
        for i in range(len(h)):
            h[i] = max(0.999 * h[i] + 0.001, -5.0)


def against_the_machine(clock: Clock) -> list[Row]:
    depth = 20
    table, line = st.tent(depth), (0, 1)
    h = np.linspace(0, 1, 2**depth + 1)
    ours, bare = clock.medians(lambda: st.restrict(table, line), lambda: affine_and_max(h, depth))
    what = f"restrict tent({depth}): {2**depth - 1} folds; {depth} bare passes over float64 ({len(h)},)"
    return [Row(what, ours / bare, None, 20, (duration(ours), duration(bare)))]


def peak(call: Call) -> int:
    call()
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def against_itself(clock: Clock, seeds: int) -> list[Row]:
    rows = []

    def add(what: str, at_most: float, large: Call, small: Call) -> None:
        one, other = clock.medians(large, small)
        rows.append(Row(what, one / other, None, at_most, (duration(one), duration(other))))

    deep, less = st.tent(1000), st.tent(300)
    add("time of count: tent(1000) / tent(300)", 10, lambda: st.count(deep, (0, 1)), lambda: st.count(less, (0, 1)))
    many, single = (st.Chain("residual2_prelu", 300, seeds=n) for n in (seeds, 1))
    all_of_them = lambda: st.count(many, (-3, 3))  # noqa: E731
    add(f"time of count: {seeds} seeds of depth 300 / one", seeds, all_of_them, lambda: st.count(single, (-3, 3)))

    def on_two() -> None:
        numba.set_num_threads(2)
        all_of_them()
        numba.set_num_threads(1)

    if numba.config.NUMBA_NUM_THREADS > 1:
        add(f"time of count: {seeds} seeds on two threads / on one", 1, on_two, all_of_them)
    chain = st.Chain("residual2_prelu", 1000, seeds=1).table()[0]
    few = st.count(chain, (-3, 3)).folds
    folded, flat, shallow = (peak(lambda t=t: st.count(t, (0, 1))) for t in (deep, chain, less))  # type: ignore[misc]
    for what, at_most, large, small in (
        (f"memory of count: 2^1000 - 1 folds / {few} folds, depth 1000", 10, folded, flat),
        ("memory of count: tent(1000) / tent(300), 2^700 times the folds", None, folded, shallow),
    ):
        rows.append(Row(what, large / small, None, at_most, (f"{large / 1e6:.2f} MB", f"{small / 1e6:.2f} MB")))
    return rows


def against_a_grid(clock: Clock, points: int = 10_000) -> None:
    """Print the folds that a grid shows: stretches on which the slope between neighbours changes."""
    model = perceptron()[0].double()
    x = torch.linspace(-3, 3, points, dtype=torch.float64)[:, None]

    def on_grid() -> NDArray[np.float64]:
        with torch.no_grad():
            return model(x)[:, 0].numpy()

    ours, grid = clock.medians(lambda: st.restrict(model, LINE), on_grid)
    bent = np.flatnonzero(np.abs(np.diff(on_grid(), 2)) > 1e-13)
    # A fold between two points shows at both, and two neighbours can be told from one only by what is between.
    runs = np.split(bent, np.flatnonzero(np.diff(bent) > 1) + 1)
    seen = sum((len(run) + 1) // 2 for run in runs)
    folds = st.restrict(model, LINE).count().folds
    print(
        f"\nthe perceptron, unmodified: st.restrict finds its {folds} folds in {duration(ours)}; evaluating it at "
        f"{points} points takes {duration(grid)} and shows {seen}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, under 10 seconds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    clock = Clock(0.05 if quick else 3.0)
    rows: list[Row] = []
    if regioncam is None:
        print(INSTALL)
    else:
        rows += against_regioncam(clock)
        columns = ("ours", "theirs", "ratio", "wanted", "", "our pieces", "their pieces", "confirmed by exact counting")
        show("against regioncam: ratio = theirs / ours", columns, rows)
        miscounts()
    for title, found, columns in (
        ("against the machine: ratio = ours / bare", against_the_machine(clock), ("ours", "bare")),
        ("against itself", against_itself(clock, 100 if quick else 1000), ("first", "second")),
    ):
        show(title, (*columns, "ratio", "wanted", ""), found)
        rows += found
    against_a_grid(clock)
    judged = [row.held for row in rows if row.held is not None]
    print(f"\n{sum(judged)} of the {len(judged)} wanted ratios held in this run.")


if __name__ == "__main__":
    main()
