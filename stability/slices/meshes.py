"""A part of the plane in convex faces, which cuts make finer; whatever lives on it can be brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import Array, row_size
from stability.slices.kernels.half_edges import EDGES, FACES, VERTICES

Integers = NDArray[np.int64]


class Tables(NamedTuple):
    """The arrays of a mesh, with room for more, as compiled loops take them.

    Attributes:
        half: see `kernels.half_edges`. first: a half-edge of every face.
        parents: the two vertices between which each vertex was put. share: at which part of the way.
        at: where the vertices are. reach: how far from there their true places may be.
        edge_parent: of which edge each is a part, -1 for those drawn through a face.
        direction: of the edges, that of a part being the whole one's. slack: how far beside it the true edge may be.
        unit: which entry is 0 there, of an edge drawn through a face.
        counts: of vertices, edges and faces, and of decisions that rounding leaves open.
    """

    half: Integers
    first: Integers
    parents: Integers
    share: Array
    at: Array
    reach: NDArray[np.float64]
    edge_parent: Integers
    direction: Array
    slack: NDArray[np.float64]
    unit: Integers
    counts: Integers


class Mesh:
    """The faces in which all functions are affine that a network has made so far on its way.

    Vertices and edges keep their numbers. A new vertex lies between two earlier ones in a face where all earlier
    functions are affine, so its parents and its share say what their values are there.

    Args:
        corners: (corners, 2), of the first face, counterclockwise; rational numbers for exact arithmetic.
        room: for so many vertices to begin with.
    """

    def __init__(self, corners: Array, room: int = 16) -> None:
        count = len(corners)
        self.exact = corners.dtype == object
        self.zero = corners[0, 0] * 0
        kind, edges = corners.dtype, 2 * room
        half = np.empty((2 * edges, 4), dtype=np.int64)
        half[: 2 * count] = _rim(count)
        directions = np.empty((edges, 2), dtype=kind)
        directions[:count] = np.concatenate([corners[1:], corners[:1]]) - corners
        at, share = np.empty((room, 2), dtype=kind), np.empty(room, dtype=kind)
        at[:count], share[:count] = corners, self.zero
        parents, whole, unit = np.empty((room, 2), np.int64), np.empty(edges, np.int64), np.empty(edges, np.int64)
        parents[:count] = whole[:count] = unit[:count] = -1
        first = np.zeros(edges, dtype=np.int64)
        reach, slack, counts = np.zeros(room), np.zeros(edges), np.array([count, count, 1, 0])
        self.tables = Tables(half, first, parents, share, at, reach, whole, directions, slack, unit, counts)
        #: Which entries of which functions were made 0 where: (their numbers, first new vertex, signs of new ones).
        self.zeros: dict[int, list[tuple[NDArray[np.intp] | None, int, NDArray[np.uint8]]]] = {}
        self.loop = np.empty(64, dtype=np.int64)
        #: In which layer edges had their kink first, and of which unit, (edges, 2), -1 as long as they have none.
        self.born = np.full((count, 2), -1)

    @property
    def vertices(self) -> int:
        return int(self.tables.counts[VERTICES])

    @property
    def edges(self) -> int:
        return int(self.tables.counts[EDGES])

    @property
    def faces(self) -> int:
        return int(self.tables.counts[FACES])

    def make_room(self, vertices: int, edges: int, faces: int) -> None:
        """Let there be room for so many of each."""
        if min(len(self.tables.share) - vertices, len(self.tables.slack) - edges, len(self.tables.first) - faces) >= 0:
            return
        sizes = {"half": (2 * edges, 2 * self.edges), "first": (faces, self.faces)}
        sizes |= dict.fromkeys(("parents", "share", "at", "reach"), (vertices, self.vertices))
        sizes |= dict.fromkeys(("edge_parent", "direction", "slack", "unit"), (edges, self.edges))
        self.tables = self.tables._replace(
            **{name: with_room(getattr(self.tables, name), *size) for name, size in sizes.items()}
        )

    def ends(self) -> Integers:
        """Return where the edges begin and end, (edges, 2)."""
        return self.tables.half[: 2 * self.edges, 1].reshape(-1, 2)

    def beside(self) -> Integers:
        """Return the faces on the left and on the right of the edges, (edges, 2)."""
        return self.tables.half[: 2 * self.edges, 2].reshape(-1, 2)

    def steepest(self, values: Array) -> NDArray[np.float64]:
        """Return the largest slope of a function along the edges of each vertex, (vertices,), of values there."""
        ends = self.ends()
        length = np.linalg.norm(self.tables.at[ends[:, 0]] - self.tables.at[ends[:, 1]], axis=1)
        rise = row_size(values[ends[:, 0]] - values[ends[:, 1]]) / np.maximum(length, 1e-300)
        slope = np.zeros(self.vertices)
        for end in ends.T:
            np.maximum.at(slope, end, rise)
        return slope


@cache
def _rim(count: int) -> Integers:
    """Return the half-edges of one face with so many corners, and of what is outside."""
    number = np.arange(count)
    inner, outer = 2 * number, 2 * number + 1
    half = np.empty((2 * count, 4), dtype=np.int64)
    half[inner] = np.stack([np.roll(inner, -1), number, number * 0, np.roll(inner, 1)], axis=1)
    half[outer] = np.stack([np.roll(outer, 1), np.roll(number, -1), number * 0 - 1, np.roll(outer, -1)], axis=1)
    return half


def with_room(array: Array, size: int, used: int | None = None) -> Array:
    """Return an array with room for so many rows, of which the first are those `used` of it, or all."""
    if len(array) >= size:
        return array
    larger = np.empty((size, *array.shape[1:]), dtype=array.dtype)
    count = len(array) if used is None else used
    larger[:count] = array[:count]
    return larger


def loop_for(kernel: Callable[..., object], exact: bool) -> Callable[..., tuple[Array, ...]]:
    """Return a compiled loop, or for exact arithmetic what it was compiled from."""
    return cast(Callable[..., tuple[Array, ...]], getattr(kernel, "py_func") if exact else kernel)  # noqa: B009


def fraction(value: object) -> Fraction:
    """Return a rational number of any kind as a Fraction."""
    return value if isinstance(value, Fraction) else Fraction(int(value.p), int(value.q))  # type: ignore[attr-defined]
