"""Whose kinks the edges of a mesh are: each is noted in the layer that draws it, and its parts are of the same unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stability.folds.kinks_met import Kinks, kinks_met
from stability.folds.origins import Origins, known_origins
from stability.slices.kernels.cutting import nearest_of, parts_of_edges
from stability.slices.meshes import Mesh


def note_drawn(mesh: Mesh, old: int) -> None:
    """Take down the edges from `old` on that were drawn through faces, each along the kink of its unit."""
    if (kinks := kinks_met.get()) is not None:
        drawn = old + np.flatnonzero(mesh.tables.edge_parent[old : mesh.edges] < 0)
        kinks.note(drawn, mesh.tables.unit[drawn])


def note_changes(mesh: Mesh, old: int, chosen: NDArray[np.intp]) -> None:
    """Take down the edges of this layer, each with the first window that takes another entry on its other side.

    Args:
        old: how many edges there were before the layer.
        chosen: the entries on the faces (faces, windows), or several of each window.
    """
    if (kinks := kinks_met.get()) is not None:
        beside = mesh.beside()
        fresh = np.asarray((beside >= 0).all(axis=1))
        fresh[:old] = False
        fresh[old:] &= parts_of_edges(mesh.tables.edge_parent, old, mesh.edges) < 0
        edges = np.flatnonzero(fresh)
        changed = chosen[beside[edges, 0]] != chosen[beside[edges, 1]]
        kinks.note(edges, np.argmax(changed.any(axis=tuple(range(2, changed.ndim))), axis=1))


def origins_of_edges(mesh: Mesh, kinks: Kinks, edges: NDArray[np.intp]) -> Origins:
    """Return those of some of the edges, of which each is noted itself or a part of one that is."""
    noted = np.zeros(mesh.edges, dtype=bool)
    noted[kinks.noted()] = True
    nearest = nearest_of(mesh.tables.edge_parent, noted)[edges]
    found = kinks.origins(lambda: nearest)
    return known_origins(found.sources, found.rows)


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
