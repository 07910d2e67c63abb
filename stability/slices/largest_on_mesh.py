"""The largest of several entries on a mesh: cuts where two are the largest, and none where a third one is larger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stability.folds.kinks_met import next_layer
from stability.folds.numbers import Array, flatten_rows, row_size
from stability.foundation.formats import ROUNDOFF
from stability.slices.choices_on_mesh import chosen_entries, remove_needless
from stability.slices.edge_origins import note_changes
from stability.slices.equal_entries import difference_of, make_equal, tagged
from stability.slices.kernels.half_edges import UNDECIDED
from stability.slices.on_mesh import OnMesh

Index = NDArray[np.intp]


def largest(f: OnMesh, entries: Index, shape: Sequence[int]) -> OnMesh:
    """Return the largest entry of every window, of values of that shape.

    Args:
        entries: (places, windows), numbers of entries of `f`, flattened; a window may see one twice.
    """
    next_layer()
    f, tags = tagged(f._shaped((f.shape.numel(),)).updated())
    mesh, old_vertices, old_edges = f.mesh, f.mesh.vertices, f.mesh.edges
    for window in entries.T:
        f = _cut_window(f, window, tags)
    if not mesh.exact:
        mesh.tables.counts[UNDECIDED] += sum(_ties(f, window, tags, old_vertices) for window in entries.T)
    winners = np.stack([_winners(f, window)[0] for window in entries.T], axis=1)
    if remove_needless(mesh, winners, old_vertices, old_edges):
        winners = np.stack([_winners(f, window)[0] for window in entries.T], axis=1)
    note_changes(mesh, winners)
    g = chosen_entries(f, winners)
    return g._shaped(tuple(shape))


def _cut_window(f: OnMesh, window: Index, tags: int) -> OnMesh:
    while True:
        winner, pairs = _winners(f, window)
        open_faces = np.flatnonzero(winner < 0)
        if not len(open_faces):
            return f
        for one, other in {tuple(pair) for pair in pairs[open_faces].tolist()}:
            faces = (pairs == (one, other)).all(axis=1) & (winner < 0)
            before = f.mesh.faces
            difference = difference_of(f, one, other, tags)
            more = np.zeros(f.mesh.faces, dtype=bool)
            more[: len(faces)] = faces
            old = f.mesh.vertices
            _, sign, _ = difference.cut(more)
            if f.mesh.faces == before:
                raise ArithmeticError("the largest entry is not told apart by rounding: use exact=True")
            f = f.updated()
            make_equal(f, window, old + np.flatnonzero(sign[old:, 0] == 0), one, other, tags)


def _winners(f: OnMesh, window: Index) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the largest entry on every face, -1 where it changes, and two there, each the largest at some corner."""
    mesh = f.mesh
    columns = np.unique(window)
    values = flatten_rows(f._data)[: mesh.vertices][:, columns]
    best = values.max(axis=1)
    below = best[:, None] - values
    top = (below == 0).astype(bool) if mesh.exact else below <= _blur(f, values)[:, None]
    half = mesh.tables.half[: 2 * mesh.edges]
    inside = np.flatnonzero(half[:, 2] >= 0)
    face, corner = half[inside, 2], half[inside, 1]
    always = np.ones((mesh.faces, len(columns)), dtype=bool)
    np.logical_and.at(always, face, top[corner])
    winner = np.where(always.any(axis=1), columns[np.argmax(always, axis=1)], -1)
    pairs = np.full((mesh.faces, 2), -1)
    for number in np.flatnonzero(winner < 0):
        pairs[number] = columns[list(_rivals(top[corner[face == number]], below[corner[face == number]]))]
    return winner, pairs


def _ties(f: OnMesh, window: Index, tags: int, old: int) -> int:
    """Return at how many vertices rounding leaves open which entry is the largest.

    Dead neurons, which are all 0, may part without any doubt, and at new vertices, from `old` on, entries are equal.
    """
    columns = np.unique(window)
    rows = flatten_rows(f._data)[: f.mesh.vertices]
    values, tag = rows[:, columns], rows[:, tags + columns]
    best, first = values.max(axis=1), np.argmax(values, axis=1)
    below, blur = best[:, None] - values, _blur(f, values)
    near = below <= blur[:, None]
    dead = (best == 0) & ~(near & (values != 0)).any(axis=1)
    tied = (near.sum(axis=1) > 1) & (blur > 0) & ~dead
    tied[old:] &= (near & (tag != np.take_along_axis(tag, first[:, None], axis=1))).any(axis=1)[old:]
    return int(tied.sum())


def _rivals(top: NDArray[np.bool_], below: Array) -> tuple[int, int]:
    """Return two entries, each of which is larger than the other at a corner where it is the largest."""
    widest, rivals = None, (0, 0)
    for a in range(len(top)):
        for b in range(a):
            i, k = int(np.argmin(below[a])), int(np.argmin(below[b]))
            if not top[b, i] and not top[a, k]:
                gap = min(below[b, i], below[a, k])
                if widest is None or gap > widest:
                    widest, rivals = gap, (max(i, k), min(i, k))
    return rivals


def _blur(f: OnMesh, values: Array) -> NDArray[np.float64]:
    """Return by how much two entries must differ at the vertices to be told apart."""
    mesh = f.mesh
    errors, reach = f._errors[: mesh.vertices], mesh.tables.reach[: mesh.vertices]
    blur: NDArray[np.float64] = 2 * errors + 2 * reach * mesh.steepest(values)
    blur += 2 * ROUNDOFF * row_size(values)
    return blur


OnMesh.own_ways["largest"] = largest
