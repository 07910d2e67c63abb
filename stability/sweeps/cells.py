"""The cells of a grid: what each is called, and where it is in the whole."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

import numpy as np

#: What a name of a grid may have as a value: what JSON can hold and a file can be found by.
Value = str | int | float | bool
Cell = dict[str, Value]
#: A grid with plain values: by name, or a list of cells.
Axes = dict[str, list[Value]] | list[Cell]
Grid = Mapping[str, Sequence[object]] | Sequence[Mapping[str, object]]


def axes_of(grid: Grid) -> Axes:
    """Return a grid with plain values: by name, or a list of cells.

    Raises:
        TypeError, ValueError: for what is no grid, an empty one, a value that no file can be named by, one that stands
            there twice, and cells with different names.
    """
    if isinstance(grid, Mapping):
        axes = {_name(name): _values(name, values) for name, values in grid.items()}
        if not axes:
            raise ValueError("the grid is empty: expected names with their values, such as {'depth': [10, 100]}")
        return axes
    if isinstance(grid, str) or not isinstance(grid, Sequence):
        raise TypeError(f"grid is a {type(grid).__name__}: expected a mapping of names to values, or a list of cells")
    cells: list[Cell] = []
    for cell in grid:
        if not isinstance(cell, Mapping):
            raise TypeError(f"a cell of the grid is a {type(cell).__name__}: expected a mapping of names to values")
        cells.append({_name(name): _value(name, value) for name, value in cell.items()})
    if not cells or not cells[0]:
        raise ValueError("the grid is empty: expected a list of cells, such as [{'depth': 10}, {'depth': 100}]")
    for cell in cells:
        if set(cell) != set(cells[0]):
            raise ValueError(f"the cells have different names: {sorted(cells[0])} and {sorted(cell)}")
    if len({cell_name("", "", cell) for cell in cells}) < len(cells):
        raise ValueError("a cell stands in the grid twice")
    return cells


def cells_of(axes: Axes) -> Iterator[Cell]:
    """Yield the cells, the last name changing fastest."""
    if isinstance(axes, list):
        yield from axes
        return
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def count_cells(axes: Axes) -> int:
    """Return how many cells there are."""
    return len(axes) if isinstance(axes, list) else math.prod(map(len, axes.values()))


def cell_name(function: str, version: str, cell: Cell) -> str:
    """Return what the file of a cell is called: a digest of the function's name, the version, and the values.

    The order of the names does not matter, so that a grid may grow, shrink and be put in another order.

    >>> cell_name("f", "", {"a": 1, "b": 2.0}) == cell_name("f", "", {"b": 2.0, "a": 1})
    True
    >>> cell_name("f", "", {"a": 1}) == cell_name("f", "", {"a": 1.0})
    False
    """
    return _digest(_beginning(function, version), (json.dumps(part) for part in sorted(cell.items())))


def named_cells(axes: Axes, function: str, version: str) -> Iterator[tuple[str, Cell]]:
    """Yield the cells with what the file of each is called.

    Each value of a grid is written as text once, and not once a cell: a grid may have 10^6.
    """
    if isinstance(axes, list):
        yield from ((cell_name(function, version, cell), cell) for cell in axes)
        return
    beginning, order = _beginning(function, version), sorted(axes)
    places = [list(axes).index(name) for name in order]
    texts = [[json.dumps((name, value)) for value in values] for name, values in axes.items()]
    for cell, parts in zip(cells_of(axes), itertools.product(*texts), strict=True):
        yield _digest(beginning, (parts[place] for place in places)), cell


def plain_cell(axes: Axes, values: Mapping[str, object]) -> Cell:
    """Return the cell of a grid that has these values, as plain ones.

    Raises:
        KeyError: where the grid has none.
    """
    try:
        cell = {name: _value(name, value) for name, value in values.items()}
    except TypeError:
        raise KeyError(f"the grid has no cell {words_of(values)}") from None
    if isinstance(axes, list):
        found = cell_name("", "", cell) in {cell_name("", "", one) for one in axes}
    else:
        found = set(cell) == set(axes) and all(
            json.dumps(value) in map(json.dumps, axes[name]) for name, value in cell.items()
        )
    if not found:
        raise KeyError(f"the grid has no cell {words_of(cell)}")
    return cell


def array_of(values: Sequence[Value]) -> np.ndarray:
    """Return values along a dimension: objects where an array of one type would change one of them.

    >>> array_of([1, 0.5]).dtype, array_of(["none", 1]).tolist(), array_of([True, 2]).tolist()
    (dtype('float64'), ['none', 1], [True, 2])
    """
    found = np.array(values)
    kinds = {bool if isinstance(value, bool) else str if isinstance(value, str) else float for value in values}
    if len(kinds) > 1 or found.tolist() != list(values):
        found = np.empty(len(values), dtype=object)
        found[:] = values
    return found


def _beginning(function: str, version: str) -> str:
    return f"[{json.dumps(function)}, {json.dumps(version)}, ["


def _digest(beginning: str, parts: Iterable[str]) -> str:
    return blake2b(f"{beginning}{', '.join(parts)}]]".encode(), digest_size=16).hexdigest()


def words_of(cell: Mapping[str, object]) -> str:
    """Return a cell as messages show it."""
    return ", ".join(f"{name}={value!r}" for name, value in cell.items())


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"the grid has the name {name!r}: expected one that an argument can have")
    return name


def _values(name: str, values: object) -> list[Value]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"the grid has {name} = {values!r}: expected a sequence of values")
    found = [_value(name, value) for value in values]
    if not found:
        raise ValueError(f"the grid has no values of {name}: expected at least one")
    if len({json.dumps(value) for value in found}) < len(found):
        raise ValueError(f"the grid has a value of {name} twice")
    return found


def _value(name: str, value: object) -> Value:
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0):
        value = value.item()
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"the grid has {name} = {value!r}: expected a text, a finite number, True or False")
    return value
