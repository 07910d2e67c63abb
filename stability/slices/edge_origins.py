"""Whose kinks the edges of a mesh are: each is noted in the layer that draws it, and its parts are of the same unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stability.folds.kinks_met import Kinks, kinks_met
from stability.folds.origins import Origins, known_origins
from stability.slices.kernels.cutting import nearest_of, parts_of_edges
from stability.slices.meshes import Mesh


def note_signs(mesh: Mesh, old: int, met: NDArray[np.uint8]) -> None:
    """Take down the edges at which the sign of an entry changes, each with the first such entry.

    Args:
        old: how many edges there were before the cut. met: the signs that were met in the faces, (faces, entries).
    """
    if (kinks := kinks_met.get()) is not None:
        born = _born(mesh)
        # Where rounding has taken a sign away, an edge is still that of the entry along which it was drawn.
        drawn = old + np.flatnonzero(mesh.tables.edge_parent[old : mesh.edges] < 0)
        fresh = drawn[born[drawn, 0] < 0]
        _note(mesh, kinks.layer, met & 1)
        lost = fresh[born[fresh, 0] < 0]
        born[lost] = np.stack([np.full(len(lost), kinks.layer), mesh.tables.unit[lost]], axis=1)


def note_changes(mesh: Mesh, chosen: NDArray[np.intp]) -> None:
    """Take down the edges beyond which another entry is chosen, each with the first window that takes another.

    Args:
        chosen: the entries on the faces (faces, windows), or several of each window.
    """
    if (kinks := kinks_met.get()) is not None:
        _born(mesh)
        _note(mesh, kinks.layer, chosen)


def _note(mesh: Mesh, layer: int, states: NDArray[np.generic]) -> None:
    """Take down where states change, (faces, units), or several of each: at edges of this layer, or of none so far."""
    born, beside = mesh.born, mesh.beside()
    edges = np.flatnonzero((beside >= 0).all(axis=1) & ((born[:, 0] < 0) | (born[:, 0] == layer)))
    changed = states[beside[edges, 0]] != states[beside[edges, 1]]
    changed = changed.any(axis=tuple(range(2, changed.ndim)))
    edges, changed = edges[changed.any(axis=1)], changed[changed.any(axis=1)]
    unit = np.argmax(changed, axis=1)
    unit = np.where(born[edges, 0] == layer, np.minimum(unit, born[edges, 1]), unit)
    born[edges] = np.stack([np.full(len(edges), layer), unit], axis=1)


def _born(mesh: Mesh) -> NDArray[np.int64]:
    """Return the layer and the unit of every edge as far as they are known, a part having those of the whole one."""
    known = len(mesh.born)
    if known < mesh.edges:
        whole = parts_of_edges(mesh.tables.edge_parent, known, mesh.edges)
        mesh.born = np.concatenate([mesh.born, np.where(whole[:, None] >= 0, mesh.born[whole], -1)])
    return mesh.born


def origins_of_edges(mesh: Mesh, kinks: Kinks, edges: NDArray[np.intp]) -> Origins:
    """Return those of some of the edges."""
    return known_origins(kinks.sources(), _born(mesh)[edges])


def layers_and_units(mesh: Mesh, begun: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return in which layer every edge was drawn, and the entry that is 0 there; -1 for those of the rim.

    Args:
        begun: how many edges there were before each layer, and after the last.
    """
    drawn = mesh.tables.edge_parent[: mesh.edges] < 0
    drawn[: begun[0]] = False
    whole = nearest_of(mesh.tables.edge_parent, drawn)
    layer = np.where(whole >= 0, np.searchsorted(begun, whole, "right") - 1, -1)
    return layer, np.where(whole >= 0, mesh.tables.unit[whole], -1)
