"""What the datasets of cells must share, and where they may differ: a deeper network has more layers than another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray

from stability.sweeps.cells import Value

#: Kinds of coordinates that are joined by their values.
_JOINED = "biufU"
#: What coordinates that are joined are, where they are no numbers: those of two kinds have no common order.
_KINDS = {"U": "text", "b": "truth"}


@dataclass(frozen=True)
class Shape:
    """The sizes, the types and the coordinates of one dataset, or of several put together.

    Attributes:
        sizes: by dimension.
        types: of the variables.
        coordinates: the values along a dimension, of those that have any.
        uneven: the dimensions along which not all have the same.
    """

    sizes: dict[str, int]
    types: dict[str, str]
    coordinates: dict[str, list[Value]]
    uneven: tuple[str, ...] = ()

    def to_text(self) -> str:
        return json.dumps([self.sizes, self.types, self.coordinates], sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Shape:
        return cls(*json.loads(text))

    def filled(self, values: xarray.DataArray) -> xarray.DataArray:
        """Return the values of one cell along these dimensions, NaN where it has none."""
        for dim in self.uneven:
            if dim in values.dims:
                if dim in self.coordinates:
                    values = values.reindex({dim: self.coordinates[dim]})
                else:
                    values = values.pad({dim: (0, self.sizes[dim] - values.sizes[dim])})
        return values


def shape_of(data: xarray.Dataset) -> Shape:
    """Return the shape of a dataset."""
    sizes = {str(name): size for name, size in data.sizes.items()}
    types = {str(name): values.dtype.str for name, values in data.data_vars.items()}
    return Shape(sizes, types, {name: values.tolist() for name, values in _joined(data)})


def common_text(data: xarray.Dataset) -> str:
    """Return what must be the same in all cells, as a text in order: the variables, with dimensions and kinds.

    Coordinates that cannot be joined are among it.
    """
    variables = {str(name): [list(map(str, v.dims)), v.dtype.kind] for name, v in data.data_vars.items()}
    joined = {name: _KINDS.get(values.dtype.kind, "number") for name, values in _joined(data)}
    others = {str(name): [list(map(str, v.dims)), v.values.tolist()] for name, v in data.coords.items()}
    same = {name: found for name, found in others.items() if name not in joined}
    return json.dumps([sorted(variables.items()), sorted(joined.items()), sorted(same.items())], default=str)


def difference(own: str, first: str) -> tuple[str, str]:
    """Return in words what two such texts do not share."""
    found = []
    for text in (own, first):
        variables, joined, same = json.loads(text)
        words = [f"the variable {name} of kind {kind!r} along ({', '.join(dims)})" for name, (dims, kind) in variables]
        words += [f"{kind} coordinates {name}" for name, kind in joined]
        found.append(words + [f"the coordinate {name} = {values} along ({', '.join(d)})" for name, (d, values) in same])
    one, other = ([word for word in words if word not in found[1 - k]] for k, words in enumerate(found))
    return " and ".join(one) or "none beside those", " and ".join(other) or "none beside those"


def put_together(shapes: Iterable[Shape]) -> Shape:
    """Return the shape that has room for all, whatever their order.

    >>> a, b = Shape({"x": 2, "by": 1}, {}, {"by": ["Adam"]}), Shape({"x": 3, "by": 1}, {}, {"by": ["growth"]})
    >>> put_together([a, b])
    Shape(sizes={'x': 3, 'by': 2}, types={}, coordinates={'by': ['growth', 'Adam']}, uneven=('x', 'by'))
    """
    every = sorted(shapes, key=lambda one: (-sum(one.sizes.values()), one.to_text()))
    first = every[0]
    sizes = {dim: max(one.sizes[dim] for one in every) for dim in first.sizes}
    types = {
        name: np.result_type(*(np.dtype(one.types[name]) for one in every)).str if kind[1] not in "OT" else kind
        for name, kind in first.types.items()
    }
    uneven = [
        dim for dim in sizes if any((one.sizes[dim], one.coordinates.get(dim)) != _along(first, dim) for one in every)
    ]
    coordinates = dict(first.coordinates)
    for dim in set(uneven) & set(coordinates):
        coordinates[dim] = _joined_values([one.coordinates[dim] for one in every])
        sizes[dim] = len(coordinates[dim])
    return Shape(sizes, types, coordinates, tuple(uneven))


def _along(shape: Shape, dim: str) -> tuple[int, list[Value] | None]:
    return shape.sizes[dim], shape.coordinates.get(dim)


def _joined_values(lists: Sequence[list[Value]]) -> list[Value]:
    """Return the values of all: numbers by size, texts in the order in which they come."""
    found = list(dict.fromkeys(value for values in lists for value in values))
    return found if isinstance(found[0], str) else sorted(found, key=lambda value: (value != value, value))  # NaN last


def _joined(data: xarray.Dataset) -> list[tuple[str, np.ndarray]]:
    found = []
    for name, values in data.coords.items():
        one = values.values
        if one.dtype.kind == "O" and all(isinstance(text, str) for text in one.flat):
            one = one.astype(str)
        if values.dims == (name,) and one.dtype.kind in _JOINED and len(set(one.tolist())) == len(one):
            found.append((str(name), one))
    return found
