"""A function on a mesh as a value of its own."""

from __future__ import annotations

import numpy as np

from stability.folds.kinks_met import Kinks
from stability.folds.numbers import Array, flatten_rows
from stability.slices.edge_origins import origins_of_edges
from stability.slices.entry_bends import CarriedBends
from stability.slices.kernels.half_edges import UNDECIDED, all_corners
from stability.slices.meshes import Mesh, fraction
from stability.slices.on_mesh import OnMesh
from stability.slices.planes import Plane
from stability.slices.slice_value import PiecewiseLinearSlice


def _alive_part(mesh: Mesh) -> tuple[Array, Array, Array, Array, Array]:
    """Return the edges in use, which vertices are, the corners of the faces and where each begin, and edges' faces."""
    beside = mesh.beside()
    alive = np.flatnonzero((beside >= 0).any(axis=1))
    corners, offsets = all_corners(mesh.tables.half, mesh.tables.first, mesh.faces)
    used = np.zeros(mesh.vertices, dtype=bool)
    used[corners] = True
    return alive, used, corners, offsets, beside[alive]


def from_mesh(plane: Plane, f: OnMesh, kinks: Kinks) -> PiecewiseLinearSlice:
    """Return a function on a mesh as a value: what the mesh has no use for any more is left out."""
    mesh, tables = f.mesh, f.mesh.tables
    alive, used, corners, offsets, beside = _alive_part(mesh)
    number = np.cumsum(used) - 1
    bends, bounds = flatten_rows(f._data)[mesh.vertices :][alive], f._errors[mesh.vertices :][alive]
    at, values = tables.at[: mesh.vertices][used], f._data[: mesh.vertices][used]
    if mesh.exact:
        at, values = (_fractions(v) for v in (at, values))
        bends, bounds = (bends != 0).astype(np.float64), np.zeros(len(bends))
    inside = np.asarray((beside >= 0).all(axis=1))
    carried = CarriedBends(bends, bounds, inside, 0 if mesh.exact else int(tables.counts[UNDECIDED]))
    bent, undecided = carried.decided()
    errors, ends = f._errors[: mesh.vertices][used], number[mesh.ends()[alive]]
    return PiecewiseLinearSlice(
        *(plane, at, values, errors, ends, beside, bent, undecided, number[corners], offsets),
        origins_of_edges(mesh, kinks, alive),
        carried,
    )


def _fractions(array: Array) -> Array:
    flat = np.empty(array.size, dtype=object)
    flat[:] = [fraction(v) for v in array.ravel()]
    return flat.reshape(array.shape)
