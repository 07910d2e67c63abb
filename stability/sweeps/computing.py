"""What a worker does with a batch of cells: compute each, look at what it gives, and write it."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xarray

from stability.sweeps.cells import Cell, cell_name, words_of
from stability.sweeps.shapes import common_text, difference, shape_of
from stability.sweeps.store import Store, StoreError

Function = Callable[..., xarray.Dataset]


#: What makes the libraries of a worker use one thread; read when they are loaded.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}


@dataclass(frozen=True)
class Outcome:
    """How a batch ended.

    Attributes:
        done, failed: how many cells were computed and written, or were there, and how many have failed.
        seconds: how long it took.
        error: why the store cannot be written to, "" where it can.
    """

    done: int
    failed: int
    seconds: float
    error: str = ""


def compute(function: Function, cells: Sequence[Cell], store: Store, one_thread: bool = True) -> Outcome:
    """Compute cells and write each as soon as it is there."""
    if one_thread:
        _one_thread()
    # In a worker KeyboardInterrupt is the cell's own; SystemExit would close the worker, and other cells with it.
    caught = BaseException if one_thread else Exception
    began, done, failed = time.monotonic(), 0, 0
    if not (store.folder / "sweep.json").exists():
        words = f"there is no {store.folder} on {platform.node()}: give a folder that all workers see"
        return Outcome(0, 0, 0.0, words)
    for cell in cells:
        name = cell_name(store.function, store.version, cell)
        try:
            if not store.cell(name).exists():  # another sweep may have come first
                data = _checked(function(**cell), cell)
                content = store.packed(cell, data)  # first, so that the others need not fit what is not kept
                _fit(data, cell, store)
                store.write(name, content)
            done += 1
        except StoreError as error:
            return Outcome(done, failed, time.monotonic() - began, str(error))
        except caught as error:
            record: dict[str, object] = {
                "cell": cell,
                "error": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
            try:
                store.write_failure(name, record)
            except StoreError as full:
                return Outcome(done, failed, time.monotonic() - began, str(full))
            failed += 1
    return Outcome(done, failed, time.monotonic() - began)


def _checked(data: object, cell: Cell) -> xarray.Dataset:
    """Return what a cell gives, if it is a dataset that can stand beside the values of the grid."""
    if not isinstance(data, xarray.Dataset):
        raise TypeError(f"the cell {words_of(cell)} gives a {type(data).__name__}: expected an xarray Dataset")
    if not data.data_vars:
        raise ValueError(f"the cell {words_of(cell)} gives a Dataset without variables")
    taken = (set(data.variables) | set(data.sizes)) & set(cell)
    if taken:
        raise ValueError(f"the cell {words_of(cell)} gives the name {sorted(map(str, taken))[0]!r}, which the grid has")
    return data


def _fit(data: xarray.Dataset, cell: Cell, store: Store) -> None:
    """Raise ValueError where a dataset does not fit those of the other cells, and keep its shape."""
    own = common_text(data)
    first = store.common(own)
    if own != first:
        one, other = difference(own, first)
        raise ValueError(f"the cell {words_of(cell)} does not fit the first one: it has {one}, the first one {other}")
    store.add_shape(shape_of(data).to_text())


def _one_thread() -> None:
    """Let a worker use one thread: there are as many workers as there are cores."""
    # What is not loaded yet reads this when it is.
    os.environ.update(ONE_THREAD)
    for name in {"torch", "numba"} & set(sys.modules):
        sys.modules[name].set_num_threads(1)
    # Of numba only then: it reads this whenever it compiles, and refuses another number than it has.
    if "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = "1"
