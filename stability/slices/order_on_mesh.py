"""The order of several entries on a mesh: cuts where two are equal, of which those stay that some rank needs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from stability.folds.entries import take
from stability.folds.kinks_met import next_layer
from stability.folds.numbers import flatten_rows
from stability.folds.torch_rules.order import COMPARED_AT_MOST
from stability.slices.choices_on_mesh import chosen_entries, remove_needless
from stability.slices.edge_origins import note_changes
from stability.slices.equal_entries import difference_of, make_equal, tagged
from stability.slices.kernels.half_edges import all_corners
from stability.slices.on_mesh import OnMesh

Index = NDArray[np.intp]


def by_rank(f: OnMesh, entries: Index, ranks: Sequence[int]) -> OnMesh:
    """Return the entries of these ranks, 0 for the largest, in every window, of shape (ranks, windows).

    Args:
        entries: (places, windows), numbers of entries of `f`, flattened.
    """
    f = f._shaped((f.shape.numel(),)).updated()
    if len(entries) == 1:
        return take(f, entries[list(ranks)])
    next_layer()
    f, tags = tagged(f)
    mesh, old_vertices, old_edges = f.mesh, f.mesh.vertices, f.mesh.edges
    _check_size(f, entries)
    pairs = {pair for window in entries.T.tolist() for pair in combinations(sorted(set(window)), 2)}
    for one, other in sorted(pairs):
        _check_size(f, entries)
        before = mesh.vertices
        _, sign, _ = difference_of(f, one, other, tags).cut()
        f = f.updated()
        make_equal(f, np.unique(entries), before + np.flatnonzero(sign[before:, 0] == 0), one, other, tags)
    # Where the same entries are above one of a rank asked for, the regions are one, and convex.
    chosen, above = _ranked(f, entries, ranks)
    if remove_needless(mesh, above, old_vertices, old_edges):
        f = f.updated()
        chosen, _ = _ranked(f, entries, ranks)
    note_changes(mesh, np.moveaxis(chosen, 1, 2))
    return chosen_entries(f, flatten_rows(chosen))._shaped(chosen.shape[1:])


def _check_size(f: OnMesh, entries: Index) -> None:
    if len(entries) ** 2 * entries.shape[1] * len(f._data) > COMPARED_AT_MOST:
        raise ValueError(
            f"the order of {len(entries)} entries in {entries.shape[1]} places on {f.mesh.faces} regions is too much "
            "to hold: give a smaller plane"
        )


def _ranked(f: OnMesh, entries: Index, ranks: Sequence[int]) -> tuple[Index, Index]:
    """Return the entries of these ranks on every face, (faces, ranks, windows), and with each which are above it."""
    mesh = f.mesh
    corners, offsets = all_corners(mesh.tables.half, mesh.tables.first, mesh.faces)
    rows = flatten_rows(f._data)[: mesh.vertices]
    ahead = np.zeros((mesh.faces, len(entries), *entries.shape), dtype=bool)
    for first, second in combinations(range(len(entries)), 2):
        apart = (rows[:, entries[first]] - rows[:, entries[second]])[corners]
        # Of one sign at all corners but for rounding. Equal ones keep their order.
        most, least = (way.reduceat(apart, offsets[:-1], axis=0) for way in (np.maximum, np.minimum))
        behind = (most + least < 0).astype(bool)
        ahead[:, first, second], ahead[:, second, first] = ~behind, behind
    place = np.argsort(ahead.sum(axis=1), axis=1, kind="stable")[:, list(ranks)]
    chosen = entries[place, np.arange(entries.shape[1])]
    above = np.take_along_axis(ahead, place[:, None], axis=2)
    return chosen, np.concatenate([chosen, above.reshape(len(above), -1, entries.shape[1]).astype(np.intp)], axis=1)


OnMesh.own_ways["by_rank"] = by_rank
