"""A function on a mesh in the place of a tensor: the rules of torch's functions are those of a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import Array, flatten_rows
from stability.folds.pieces import Doubts, TooMuchMemory, measured, most_bytes
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Neurons, Places
from stability.slices.exact_cuts import exact_cut, exact_rows
from stability.slices.kernels.cutting import cut_faces, extend_rows, parts_of_edges, settle_signs
from stability.slices.kernels.half_edges import signs_in_faces
from stability.slices.meshes import Mesh, with_room


class Stage(NamedTuple):
    """A mesh as it was when a function on it was made: so many vertices and edges."""

    mesh: Mesh
    vertices: int
    edges: int


class OnMesh(PiecewiseLinear):
    """Rows of numbers: values at the vertices, and bends at the edges, each with a bound of its rounding errors.

    A linear map acts on both alike. A bend is how much the slope across an edge changes there, times the edge's length.
    """

    own_ways: ClassVar[dict[str, Callable[..., object]]] = {}
    _places: Stage  # type: ignore[assignment]

    def _hold(  # type: ignore[override]
        self, places: Stage, data: Array, errors: Array | Callable[[], Array], undecided: Doubts, limit: int | None
    ) -> None:
        if (most := most_bytes.get()) is not None and data.nbytes > most:
            raise TooMuchMemory
        self._places, self._data, self._bounds = places, data, errors
        self._undecided, self._limit, self._views = undecided, limit, None
        self._neurons = Neurons()
        if (sizes := measured.get()) is not None:
            sizes.append(float(np.abs(data[: places.vertices]).max(initial=0)))

    @property
    def mesh(self) -> Mesh:
        return self._places.mesh

    @property
    def _points(self) -> int:
        return self._places.vertices

    @property
    def _held(self) -> list[slice]:
        return [slice(None)]

    @property
    def knots(self) -> Array:
        raise AttributeError("a function on a plane has no knots")

    def updated(self) -> Self:
        """Return the function on the mesh as it is now."""
        mesh, (_, vertices, edges) = self.mesh, self._places
        if (vertices, edges) == (mesh.vertices, mesh.edges):
            return self
        old = flatten_rows(self._data)
        data = np.empty((mesh.vertices + mesh.edges, old.shape[1]), dtype=old.dtype)
        errors = np.zeros(len(data))
        data[:vertices], errors[:vertices] = old[:vertices], self._errors[:vertices]
        if self.exact:
            exact_rows(mesh, data, vertices)
        else:
            extend_rows(mesh.tables.parents, mesh.tables.share, data, errors, vertices, mesh.vertices)
        self._extend_bends(data, errors)
        return self._at_present(data, errors)

    def _extend_bends(self, data: Array, errors: NDArray[np.float64]) -> None:
        """Fill in the rows of the edges of the mesh as it is now; nothing bends at new ones inside of faces."""
        mesh, (_, vertices, edges) = self.mesh, self._places
        whole = parts_of_edges(mesh.tables.edge_parent, edges, mesh.edges)
        bends, bounds = flatten_rows(self._data)[vertices:], self._errors[vertices:]
        inherited, count = whole >= 0, mesh.vertices
        data[count : count + edges], errors[count : count + edges] = bends, bounds
        data[count + edges :] = np.where(inherited[:, None], bends[whole], mesh.zero)
        errors[count + edges :] = np.where(inherited, bounds[whole], 0.0)

    def _at_present(self, data: Array, errors: NDArray[np.float64]) -> Self:
        mesh = self.mesh
        f = self._make(
            cast(Places, Stage(mesh, mesh.vertices, mesh.edges)), data.reshape(-1, *self.shape), errors, {}, self._limit
        )
        f._neurons = self._neurons
        return f

    # Cuts -----------------------------------------------------------------------------------------------------------

    def cut(self, faces: NDArray[np.bool_] | None = None) -> tuple[Self, NDArray[np.uint8], NDArray[np.uint8]]:
        """Part all faces, or those of a mask, where an entry changes sign.

        Returns:
            The function, 0 where it was found to be; the signs of the entries at the vertices (vertices, entries), 1
            where positive, 2 where negative; and those met in a face (faces, entries), none with both.
        """
        f = self.updated()
        mesh, rows = f.mesh, flatten_rows(f._data)
        entries, old = rows.shape[1], mesh.vertices
        begin = np.zeros(mesh.faces, dtype=np.int64)
        if faces is not None:
            begin[~faces] = entries
        values, errors = rows[:old].copy(), f._errors[:old].copy()
        f._repeat_zeros(values)
        if mesh.exact:
            values, sign = exact_cut(mesh, values, begin)
        else:
            values, errors, sign = cut_in_floats(mesh, values, errors, begin)
        sign = sign[: mesh.vertices]
        f._keep_zeros(old, sign[old:])
        data = np.empty((mesh.vertices + mesh.edges, entries), dtype=rows.dtype)
        bounds = np.zeros(len(data))
        data[: mesh.vertices] = values[: mesh.vertices]
        if not mesh.exact:
            bounds[: mesh.vertices] = errors[: mesh.vertices]
        f._extend_bends(data, bounds)
        met = signs_in_faces(mesh.tables.half, mesh.tables.first, sign, mesh.faces)
        return f._at_present(data, bounds), sign, met

    def _keep_zeros(self, old: int, signs: NDArray[np.uint8]) -> None:
        """Note at which new vertices entries are 0, for other functions of the same kinks."""
        if len(signs):
            kept = self.mesh.zeros.setdefault(self._neurons._block, [])
            kept.append((self._neurons._number, old, signs))

    def _repeat_zeros(self, values: Array) -> None:
        """Make entries 0 where earlier functions of the same kinks are."""
        here = self._neurons._number
        here = np.arange(values.shape[1]) if here is None else here
        for number, old, signs in self.mesh.zeros.get(self._neurons._block, ()):
            number = np.arange(signs.shape[1]) if number is None else number
            common, columns, kept = np.intersect1d(here, number, return_indices=True)
            if len(common):
                part = values[old : old + len(signs)]
                zero = signs[:, kept] == 0
                row, entry = np.nonzero(zero)
                part[row, columns[entry]] = self.mesh.zero


def cut_in_floats(
    mesh: Mesh, values: Array, errors: NDArray[np.float64], begin: NDArray[np.int64]
) -> tuple[Array, NDArray[np.float64], NDArray[np.uint8]]:
    """Part all faces where entries change sign; return values, bounds of their errors, and signs, all with room."""
    old, entries = mesh.vertices, values.shape[1]
    sign = np.empty((old, entries), dtype=np.uint8)
    settle_signs(mesh.tables, values, errors, sign, old)
    # Room for the kinks of all entries in one face, if these are not too many.
    vertices = max(2 * old + min(entries * entries // 3, 4096), len(mesh.tables.share), 64)
    face = 0
    while face >= 0:
        if (most := most_bytes.get()) is not None and 8 * mesh.vertices * entries > most:
            raise TooMuchMemory
        mesh.make_room(vertices, 2 * vertices, 2 * vertices)
        values, errors, sign = (with_room(array, vertices, mesh.vertices) for array in (values, errors, sign))
        begin = with_room(begin, len(mesh.tables.first), mesh.faces)
        room = len(mesh.loop)
        face = cut_faces(mesh.tables, values, errors, sign, begin, face, mesh.loop)
        if face >= 0 and room < mesh.vertices:
            mesh.loop = np.empty(2 * room, dtype=np.int64)
        vertices = 3 * mesh.vertices
    return values, errors, sign
