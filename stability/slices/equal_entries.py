"""Which entries a layer has found to be equal at a vertex, as other ones may have one value by rounding alone."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from stability.folds.entries import take
from stability.folds.numbers import flatten_rows
from stability.folds.places import Places
from stability.slices.on_mesh import OnMesh

Index = NDArray[np.intp]
# So small are tags beside the numbers of a network that they change no bound of an error.
_SMALL = 2.0**-900


def tagged(f: OnMesh) -> tuple[OnMesh, int]:
    """Return values (entries,) with a second number, a tag, for each, and where the tags begin.

    Entries that a cut finds to be equal get one tag, and stay equal where an edge is cut later. Others may have one
    value by rounding alone, but no two have one tag. Without rounding the values are their own tags.
    """
    if f.mesh.exact:
        return f, 0
    rows = flatten_rows(f._data)
    entries = rows.shape[1]
    tags = np.zeros_like(rows)
    tags[: f.mesh.vertices] = np.random.default_rng(0).random(entries) * _SMALL
    both = np.concatenate([rows, tags], axis=1)
    return f._make(cast(Places, f._places), both, f._errors, {}, f._limit), entries


def difference_of(f: OnMesh, one: int, other: int, tags: int) -> OnMesh:
    """Return the difference of two entries, 0 beyond doubt where they have been found to be equal."""
    difference = take(f, np.array([one])) - take(f, np.array([other]))
    rows = flatten_rows(f._data)[: f.mesh.vertices]
    difference._data[: f.mesh.vertices][rows[:, tags + one] == rows[:, tags + other]] = f.mesh.zero
    return difference


def make_equal(f: OnMesh, window: Index, vertices: Index, one: int, other: int, tags: int) -> None:
    """Make two entries one number where they were found to be equal, and with them others that are so already."""
    rows = flatten_rows(f._data)
    for v in vertices:
        tied = window[rows[v, tags + window] == rows[v, tags + other]]
        rows[v, tied], rows[v, tags + tied] = rows[v, one], rows[v, tags + one]
