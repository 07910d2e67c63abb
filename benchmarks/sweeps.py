"""What does a sweep cost beside a plain loop that writes the same files, and do two processes share the work?

Small cells (a Dataset of a few numbers): a loop in this process that computes each, writes it as netCDF, flushes it to
the disk and renames it, against `st.sweep` with one worker that is there already: the difference, a cell. The memory of
this process, in which the scheduler lives, is read after every tenth of the grid. Heavy cells (a second of arithmetic):
two workers against one, both there already.

What misses the figure that is wanted is reported, and is no failure.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed
import numpy as np
import xarray

import stability as st

SMALL, HEAVY, ROUNDS = 10_000, 16, 40


def small(number: int) -> xarray.Dataset:
    """Return a few numbers."""
    return xarray.Dataset({"y": ("x", np.full(10, number))})


def heavy(number: int) -> xarray.Dataset:
    """Return what takes about a second of one core."""
    total, values = 0.0, np.random.default_rng(number).normal(size=200_000)
    for _ in range(ROUNDS):
        total += float(np.sort(values * (1 + total * 0)).sum())
    return xarray.Dataset({"y": total})


def loop(folder: Path) -> float:
    """Return how long a plain loop takes for the small cells."""
    began = time.perf_counter()
    for number in range(SMALL):
        temporary, path = folder / "temporary", folder / f"{number}.nc"
        small(number).to_netcdf(temporary, engine="h5netcdf")
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
    return time.perf_counter() - began


def memory() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def workers(count: int, folder: str) -> Iterator[distributed.Client]:
    """Yield a client of so many processes, each of which has worked once."""
    with (
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        timed(heavy, 4 * count, f"{folder}/warm{count}", client)
        yield client


def timed(function: Callable[[int], xarray.Dataset], cells: int, folder: str, client: distributed.Client) -> float:
    """Return how long a sweep takes."""
    began = time.perf_counter()
    swept = st.sweep(function, {"number": list(range(cells))}, folder, client, progress=False)
    took = time.perf_counter() - began
    assert not swept.missing
    return took


def watched(folder: str, client: distributed.Client) -> tuple[float, list[float]]:
    """Return how long a sweep of the small cells takes, and the memory after every tenth of it."""
    found: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            there = sum(1 for _ in Path(folder).glob("cells/*/*.nc"))
            if there >= (len(found) + 1) * SMALL / 10:
                found.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    took = timed(small, SMALL, folder, client)
    ended.set()
    watcher.join()
    return took, found


def verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"


def main() -> None:
    with tempfile.TemporaryDirectory() as held:
        plain = loop(Path(tempfile.mkdtemp(dir=held)))
        with workers(1, held) as client:
            took, sizes = watched(f"{held}/small", client)
            one = timed(heavy, HEAVY, f"{held}/heavy1", client)
        with workers(2, held) as client:
            two = timed(heavy, HEAVY, f"{held}/heavy2", client)
    over, growth = 1e3 * (took - plain) / SMALL, 1e3 * (sizes[-1] - sizes[0]) / SMALL
    print(f"{SMALL} small cells: a loop takes {1e3 * plain / SMALL:.1f} ms a cell, a sweep {1e3 * took / SMALL:.1f};")
    print(f"    {over:.1f} ms a cell more (wanted < 5: {verdict(over < 5)})")
    print(
        f"memory of the scheduler's process: {sizes[0]:.0f} MB after a tenth of the cells, {sizes[-1]:.0f} after all;"
    )
    print(f"    {growth:.2f} kB a cell (wanted < 1: {verdict(growth < 1)})")
    print(f"{HEAVY} heavy cells: {one:.1f} s with one worker, {two:.1f} s with two;")
    print(f"    {two / one:.2f} of the time (wanted <= 0.6: {verdict(two / one <= 0.6)})")


if __name__ == "__main__":
    main()
