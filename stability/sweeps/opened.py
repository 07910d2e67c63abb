"""A sweep as a value: one lazy dataset over its grid, and what is missing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray

from stability.foundation.arguments import door
from stability.foundation.shown import Shown
from stability.sweeps.cells import (
    Axes,
    Cell,
    Grid,
    Value,
    array_of,
    axes_of,
    cell_name,
    count_cells,
    named_cells,
    plain_cell,
    words_of,
)
from stability.sweeps.shapes import Shape, put_together
from stability.sweeps.store import Store, existing_store

#: Whole numbers up to this one are exact in float64.
EXACT = 2**53


@dataclass(frozen=True)
class Failure:
    """A cell that has failed.

    Attributes:
        cell: its values.
        error: the exception in one line.
        traceback: all of it.
    """

    cell: Mapping[str, Value]
    error: str
    traceback: str


class Progress(NamedTuple):
    """How far a sweep is."""

    function: str
    cells: int
    there: int
    failed: int


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """The cells of a grid, as far as a store holds them.

    Attributes:
        store: the folder.
        grid: values by name, or a list of cells.
    """

    store: Path
    grid: Axes

    @cached_property
    def _held(self) -> Store:
        return existing_store(self.store)

    def _named(self) -> Iterator[tuple[str, Cell]]:
        return named_cells(self.grid, self._held.function, self._held.version)

    @property
    def missing(self) -> list[Cell]:
        """The cells that are not there, those that have failed among them."""
        done = self._held.done()
        return [cell for name, cell in self._named() if name not in done]

    @property
    def failed(self) -> list[Failure]:
        """The cells that have failed, with their errors."""
        return list(self._failures())

    def _failures(self) -> Iterator[Failure]:
        failed = self._held.failed() - self._held.done()
        for name, cell in self._named() if failed else ():
            if name in failed:
                try:
                    record = self._held.read_failure(name)
                except FileNotFoundError:  # another sweep has computed it just now
                    continue
                except ValueError:
                    record = {
                        "error": f"the file {self._held.failure(name)} that tells why is damaged",
                        "traceback": "",
                    }
                yield Failure(cell, str(record["error"]), str(record["traceback"]))

    def cell(self, **values: Value) -> xarray.Dataset:
        """Return what one cell has given, as it was.

        Raises:
            KeyError: for a cell that is not in the grid or not there.
            ValueError: for a file that is cut short.
        """
        held, cell = self._held, plain_cell(self.grid, values)
        try:
            return held.read(cell_name(held.function, held.version, cell), cell)
        except FileNotFoundError:
            raise KeyError(f"the cell {words_of(cell)} is not there: run the sweep") from None

    @property
    def dataset(self) -> xarray.Dataset:
        """All cells in one dataset that reads a cell when it is asked for, NaN where one is missing or is shorter.

        The first dimensions are those of the grid; of a list of cells there is one, "cell", with their values beside
        it. Along the others cells may differ, as networks of several depths do in their layers: they are joined by
        their coordinates, or by their numbers where there are none. Whole numbers become float64 where NaN may be,
        and texts objects. Attributes are those of the first cell.

        Raises:
            ValueError: where no cell is there, and where the cells of a list have a name "cell" of their own; when it
                is computed, for a file that is cut short, and a whole number that float64 does not hold.
        """
        held, named = self._held, list(self._named())
        done = held.done()
        there = [name in done for name, _ in named]
        if not any(there):
            raise ValueError(f"no cell of the grid is in {self.store}: run the sweep")
        first = held.read(*named[there.index(True)])
        shape = put_together(map(Shape.from_text, held.shapes()))
        if isinstance(self.grid, list):
            if "cell" in {*first.variables, *first.dims}:
                raise ValueError('the cells have the name "cell", which their list has: rename it, or give a mapping')
            sizes = {"cell": len(named)}
            coordinates = {key: ("cell", array_of([cell[key] for cell in self.grid])) for key in self.grid[0]}
        else:
            sizes = {key: len(values) for key, values in self.grid.items()}
            coordinates = {key: (key, array_of(values)) for key, values in self.grid.items()}
        found = {}
        for name, variable in first.data_vars.items():
            found[name] = ((*sizes, *variable.dims), _lazy(held, named, there, tuple(sizes.values()), variable, shape))
        own = {name: values for name, values in first.coords.items() if name not in shape.coordinates}
        data = xarray.Dataset(found, {**own, **shape.coordinates, **coordinates}, first.attrs)
        for name, variable in first.data_vars.items():
            data[name].attrs |= variable.attrs
        return data

    def progress(self) -> Progress:
        """How many cells there are, are there, and have failed."""
        done, failed = self._held.done(), self._held.failed()
        failed -= done
        there = lost = 0
        for name, _ in self._named():
            there, lost = there + (name in done), lost + (name in failed)
        return Progress(self._held.function, count_cells(self.grid), there, lost)

    def __repr__(self) -> str:
        function, cells, there, failed = self.progress()
        lines = [f"Sweep of {function}: {there} of {cells} cells are there, {failed} have failed"]
        lines += [f"    {one.error} at {words_of(dict(one.cell))}" for one in itertools.islice(self._failures(), 3)]
        if there < cells:
            words = "; those that have failed run again with retry_failed=True" if failed else ""
            lines.append(f"the same call goes on where it ended{words}")
        return "\n".join(lines)


@door
def open_sweep(store: str | Path, grid: Grid | None = None) -> Sweep:
    """Return the sweep that a folder holds.

    Args:
        store: the folder.
        grid: the grid that is looked at; without one, that of the last call of `sweep`.

    Raises:
        ValueError: for a folder that is no store, or that no sweep has run in.

    >>> import tempfile, xarray, stability as st
    >>> folder = tempfile.mkdtemp()
    >>> grid = {"depth": [10, 100], "seed": [0, 1]}
    >>> def square(depth, seed):
    ...     return xarray.Dataset({"y": float(depth**2 + seed)})
    >>> _ = st.sweep(square, grid, folder, workers=0)
    >>> st.open_sweep(folder).dataset.y.sel(depth=100).values.tolist()
    [10000.0, 10001.0]
    """
    path = existing_store(store).folder
    if grid is None:
        try:
            axes = axes_of(json.loads((path / "grid.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no sweep has written its grid into {path}: give grid=, or run the sweep: {error}"
            ) from None
    else:
        axes = axes_of(grid)
    return Sweep(path, axes)


def _lazy(
    held: Store,
    named: list[tuple[str, Cell]],
    there: list[bool],
    sizes: tuple[int, ...],
    variable: xarray.DataArray,
    shape: Shape,
) -> object:
    """Return a dask array of one variable, a chunk a cell."""
    import dask.array
    from dask.base import tokenize

    name, own = str(variable.name), tuple(shape.sizes[str(dim)] for dim in variable.dims)
    kind = np.dtype(shape.types[name])
    if kind.kind in "biu" and not (all(there) and set(shape.uneven).isdisjoint(map(str, variable.dims))):
        kind = np.dtype(np.float64)
    elif kind.kind in "UST":
        kind = np.dtype(object)
    key = f"cells-{name}-{tokenize(str(held.folder), held.function, len(named), sum(there), shape.to_text())}"
    zeros, whole = (0,) * len(own), (*(1 for _ in sizes), *own)
    graph = {
        (key, *place, *zeros): (_block, held, one if known else None, name, shape, whole, kind)
        for place, one, known in zip(np.ndindex(*sizes), named, there, strict=True)
    }
    chunks = tuple(itertools.chain(((1,) * size for size in sizes), ((size,) for size in own)))
    return dask.array.Array(graph, key, chunks, dtype=kind)


def _block(
    held: Store,
    one: tuple[str, Cell] | None,
    variable: str,
    shape: Shape,
    whole: tuple[int, ...],
    kind: np.dtype[np.generic],
) -> np.ndarray:
    if one is None:
        return np.full(whole, np.datetime64("NaT") if kind.kind in "mM" else np.nan, dtype=kind)
    found = held.read(*one)[variable]
    if found.dtype.kind in "iu" and kind.kind == "f":
        large = found.values[(found.values > EXACT) | (found.values < -EXACT)].tolist()
        lost = [number for number in large if int(float(number)) != number]
        if lost:
            raise ValueError(
                f"{variable} of the cell {words_of(one[1])} is {lost[0]}, which float64 does not hold, and NaN may be "
                "beside it: read it by .cell(), or give a text"
            )
    return np.asarray(shape.filled(found).values, dtype=kind).reshape(whole)
