"""Cuts in rational arithmetic, for small networks: without a bound of anything, and slowly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import Array
from stability.folds.replay import spend
from stability.slices.kernels.half_edges import EDGES, ORIGIN, VERTICES, corners_of, find_chord, split_edge, split_face
from stability.slices.meshes import Mesh, with_room


def sign_rows(values: Array) -> NDArray[np.uint8]:
    """Return 1 where numbers are positive, 2 where they are negative, and 0."""
    signs: NDArray[np.uint8] = (values > 0).astype(np.uint8) + 2 * (values < 0).astype(np.uint8)
    return signs


def exact_cut(mesh: Mesh, values: Array, begin: NDArray[np.int64]) -> tuple[Array, NDArray[np.uint8]]:
    """Part all faces where entries change sign; return values and signs at the vertices.

    Args:
        begin: the first entry for each face to be cut by.
    """
    sign = sign_rows(values)
    chord, starts = np.empty((2, 2), dtype=np.int64), begin.tolist()
    face = 0
    while face < mesh.faces:
        for entry in range(starts[face], values.shape[1]):
            room = min(len(mesh.tables.first) - mesh.faces - 2, len(values) - mesh.vertices - 2)
            if min(room, len(mesh.tables.slack) - mesh.edges - 3) < 0:
                mesh.make_room(2 * mesh.vertices + 16, 2 * mesh.edges + 32, 2 * mesh.faces + 16)
                values, sign = with_room(values, len(mesh.tables.share)), with_room(sign, len(mesh.tables.share))
            half, counts = mesh.tables.half, mesh.tables.counts
            while (count := corners_of(half, mesh.tables.first, face, mesh.loop)) < 0:
                mesh.loop = np.empty(2 * len(mesh.loop), dtype=np.int64)
            met = sign[half[mesh.loop[:count], ORIGIN], entry]
            if not ((met == 1).any() and (met == 2).any()):
                continue
            find_chord(half, sign, entry, mesh.loop, count, chord)
            for i in range(2):
                if chord[i, 1]:
                    chord[i, 0] = _plant(mesh, values, sign, int(chord[i, 0]), entry)
            edge = counts[EDGES]
            mesh.tables.edge_parent[edge], mesh.tables.unit[edge] = -1, entry
            ends = half[chord[:, 0], ORIGIN]
            mesh.tables.direction[edge] = mesh.tables.at[ends[1]] - mesh.tables.at[ends[0]]
            split_face(half, mesh.tables.first, counts, chord[0, 0], chord[1, 0])
            starts.append(entry + 1)
        face += 1
    return values, sign


def _plant(mesh: Mesh, values: Array, sign: NDArray[np.uint8], side: int, entry: int) -> int:
    spend(values.shape[1])
    tables = mesh.tables
    edge, vertex, new = side >> 1, tables.counts[VERTICES], tables.counts[EDGES]
    a, b = tables.half[side & ~1, ORIGIN], tables.half[side | 1, ORIGIN]
    t = values[a, entry] / (values[a, entry] - values[b, entry])
    tables.parents[vertex], tables.share[vertex] = (a, b), t
    tables.at[vertex] = tables.at[a] + t * (tables.at[b] - tables.at[a])
    values[vertex] = values[a] + t * (values[b] - values[a])
    sign[vertex] = sign_rows(values[vertex])
    tables.edge_parent[new], tables.direction[new] = edge, tables.direction[edge]
    return int(split_edge(tables.half, tables.counts, side))


def exact_rows(mesh: Mesh, rows: Array, start: int) -> None:
    """Fill in rows of a function at the vertices from `start` on."""
    for v in range(start, mesh.vertices):
        a, b = mesh.tables.parents[v]
        rows[v] = rows[a] + mesh.tables.share[v] * (rows[b] - rows[a])
