"""The largest of several entries on a mesh: cuts where two are the largest, and none where a third one is larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from stability.folds.entries import take
from stability.folds.kinks_met import next_layer
from stability.folds.numbers import Array, flatten_rows, row_size
from stability.folds.places import Places
from stability.foundation.formats import ROUNDOFF
from stability.slices.choices_on_mesh import chosen_entries
from stability.slices.edge_origins import note_changes
from stability.slices.kernels.cutting import parts_of_edges
from stability.slices.kernels.half_edges import UNDECIDED, remove_edges
from stability.slices.meshes import Mesh
from stability.slices.on_mesh import OnMesh

Index = NDArray[np.intp]
# So small are tags beside the numbers of a network that they change no bound of an error.
_SMALL = 2.0**-900


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


def remove_needless(mesh: Mesh, chosen: Index, old_vertices: int, old_edges: int) -> bool:
    """Take away the edges of this layer with the same choices on both sides; return whether there were any.

    Args:
        chosen: on the faces, (faces, ...).
    """
    chosen, beside = flatten_rows(chosen), mesh.beside()
    needless = np.asarray((beside >= 0).all(axis=1)) & (chosen[beside[:, 0]] == chosen[beside[:, 1]]).all(axis=1)
    needless[:old_edges] = False
    needless[old_edges:] &= parts_of_edges(mesh.tables.edge_parent, old_edges, mesh.edges) < 0
    tables, found = mesh.tables, bool(needless.any())
    if found:
        remove_edges(tables.half, tables.first, tables.counts, needless, old_vertices)
    return found


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
