"""The verb that computes a grid, cell by cell, on dask.distributed."""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray
from tqdm.auto import tqdm

from stability.foundation.arguments import door
from stability.foundation.files import write_atomically
from stability.sweeps.cells import Axes, Cell, Grid, axes_of, cell_name, cells_of, count_cells, named_cells
from stability.sweeps.clients import Dask, connected
from stability.sweeps.computing import Outcome, compute
from stability.sweeps.functions import check_call, code_digest, function_name
from stability.sweeps.opened import Sweep
from stability.sweeps.store import Store, create_store

#: A batch takes about so many seconds: of small cells dask takes a fraction of a millisecond each, and a large one is a
#: batch of its own.
BATCH = 1.0
#: Cells in a batch, batches in flight for each worker, and deaths of its worker after which a cell has failed.
MOST, AHEAD, DEATHS = 200, 3, 3


@door
def sweep(
    function: Callable[..., xarray.Dataset],
    grid: Grid,
    store: str | Path,
    client: object = None,
    *,
    workers: int | None = None,
    version: str = "",
    retry_failed: bool = False,
    replace_damaged: bool = False,
    progress: bool = True,
) -> Sweep:
    """Compute a function on the cells of a grid, each once, keep each in a file of its own, and return the sweep.

    A cell is called by the names of the grid, function(**cell), in a process of a worker, which writes what it gives.
    What is in the store is not computed again: an interrupted sweep goes on with the same call, and a grid may grow,
    shrink and be put in another order. Nor is it when the function has changed, of which a warning tells; it does not
    see changes of what the function calls.

    A cell that raises is kept as failed, with its traceback, and so is one whose worker dies three times; the others go
    on. Two sweeps may fill one store.

    Args:
        function: importable, or one of the script that runs, below whose definition the script's own work stands
            behind `if __name__ == "__main__"`. A partial one has a store of its own for what it is given; a method, or
            an object, needs a version that tells its values.
        grid: a mapping of names to values, all combinations of which are cells; or a list of cells.
        store: the folder, which is made.
        client: where it runs: None for processes on this machine, the address of a scheduler of dask, or a
            `distributed.Client`.
        workers: how many processes on this machine, one thread each; as many as cores by default, and with 0 this one,
            where cells may change what the process has, such as the seeds and the working directory. None with client=.
        version: a text that tells this version of the function from others: a store holds one.
        retry_failed: compute again what has failed.
        replace_damaged: look into all files, and compute again those that are cut short.
        progress: show a bar.

    Raises:
        ValueError, TypeError: for a grid with a value that no file can be named by, a function that does not take the
            names or cannot be pickled, and a store of another function.
        OSError: for a store that cannot be written to. What was computed is kept.

    >>> import tempfile, xarray, stability as st
    >>> def cube(depth):
    ...     return xarray.Dataset({"y": depth**3})
    >>> st.sweep(cube, {"depth": [1, 2, 3]}, tempfile.mkdtemp(), workers=0).dataset.y.values.tolist()
    [1, 8, 27]
    """
    axes = axes_of(grid)
    check_call(function, next(cells_of(axes)))
    if client is not None and workers is not None:
        raise ValueError(f"workers={workers} was given with client=, whose workers are its own: give one of the two")
    code = code_digest(function)
    held = create_store(store, function_name(function, version), version, code)
    if code and held.code and held.code != code:
        warnings.warn(
            f"the code of {held.function} is not that with which the store {held.folder} was begun: cells that are "
            "there are kept as they are; to compute all again give another version= and folder",
            stacklevel=3,
        )
    write_atomically(held.folder / "grid.json", lambda path: path.write_text(json.dumps(axes), encoding="utf-8"))
    held.clear_temporary()
    if replace_damaged:
        _drop_damaged(held, axes)
    todo = _Todo(held, axes, retry_failed)
    try:
        if todo.count and workers == 0 and client is None:
            _here(function, todo, progress)
        elif todo.count:
            with connected(client, workers) as dask:
                dask.check(function)
                _spread(function, todo, dask, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{todo.done} more cells are kept; the same call goes on") from None
    finally:
        held.clear_temporary()  # of workers that were killed
    return Sweep(held.folder, axes)


def _drop_damaged(held: Store, axes: Axes) -> None:
    for name, cell in named_cells(axes, held.function, held.version):
        if held.cell(name).exists():
            try:
                held.read(name, cell)
            except ValueError:
                held.cell(name).unlink()


class _Todo:
    """The cells that are to be computed, one at a time, and how many are done."""

    def __init__(self, held: Store, axes: Axes, retry_failed: bool) -> None:
        self.held, self._axes = held, axes
        self._settled = held.done() | (set() if retry_failed else held.failed())
        self.total = count_cells(axes)
        self.count = sum(1 for _ in self)
        self.done = self.failed = 0

    def __iter__(self) -> Iterator[Cell]:
        for name, cell in named_cells(self._axes, self.held.function, self.held.version):
            if name not in self._settled:
                yield cell

    def take(self, outcome: Outcome, bar: tqdm) -> None:
        """Count what a batch has given."""
        self.done, self.failed = self.done + outcome.done, self.failed + outcome.failed
        bar.update(outcome.done + outcome.failed)
        bar.set_postfix_str(f"{self.failed} failed")
        if outcome.error:
            raise OSError(outcome.error)

    @contextmanager
    def bar(self, progress: bool) -> Iterator[tqdm]:
        with tqdm(total=self.total, initial=self.total - self.count, unit="cell", disable=not progress or None) as bar:
            yield bar


def _here(function: Callable[..., xarray.Dataset], todo: _Todo, progress: bool) -> None:
    with todo.bar(progress) as bar:
        for cell in todo:
            todo.take(compute(function, [cell], todo.held, one_thread=False), bar)


def _spread(function: Callable[..., xarray.Dataset], todo: _Todo, dask: Dask, progress: bool) -> None:
    """Keep the workers busy, a few batches ahead, so that neither dask nor this process ever holds the grid."""
    cells, again, deaths = iter(todo), deque[Cell](), dict[str, int]()
    size, flying = 1, 0
    if progress:
        print(f"dask's dashboard: {dask.dashboard}", file=sys.stderr)

    def batch() -> list[Cell]:
        if again:
            return [again.popleft()]  # alone, so that it is known which one kills its worker
        return list(itertools.islice(cells, size))

    with todo.bar(progress) as bar:
        while True:
            while flying < AHEAD * dask.workers() and (next_ones := batch()):
                dask.submit(next_ones, compute, function, next_ones, todo.held)
                flying += 1
            if not flying:
                return
            given, outcome = dask.next()
            flying -= 1
            if isinstance(outcome, Outcome):
                todo.take(outcome, bar)
                a_cell = outcome.seconds / max(1, outcome.done + outcome.failed)
                size = max(1, min(MOST, 2 * size, int(BATCH / max(a_cell, 1e-6))))
            elif len(given) > 1:
                again.extend(given)
            else:
                (cell,) = given
                name = cell_name(todo.held.function, todo.held.version, cell)
                deaths[name] = deaths.get(name, 0) + 1
                if deaths[name] < DEATHS:
                    again.append(cell)
                    continue
                words = f"the worker died {DEATHS} times at it"
                todo.held.write_failure(name, {"cell": cell, "error": words, "traceback": words})
                todo.take(Outcome(0, 1, 0.0), bar)
