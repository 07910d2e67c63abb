"""Where functions on a mesh bend and choose: the ways of their own of what `folds.bends` does on a line."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from stability.folds.kinks_met import next_layer
from stability.folds.numbers import Array, flatten_rows, lift_zeros, row_size
from stability.folds.places import Places
from stability.folds.refuse import refuse
from stability.foundation.formats import ROUNDOFF
from stability.slices.edge_origins import note_signs
from stability.slices.kernels.choosing import choose_bends
from stability.slices.kernels.cutting import parts_of_edges
from stability.slices.kernels.half_edges import remove_edges
from stability.slices.meshes import Mesh, loop_for
from stability.slices.on_mesh import OnMesh


def hinge(f: OnMesh, at: object, below: object, above: object) -> OnMesh:
    """Return at + below (f - at) where f <= at and at + above (f - at) where f > at."""
    at, below, above = (f._constant(v) for v in (at, below, above))
    next_layer()
    old = f.mesh.edges
    condition, sign, met = (f - at if at.any() else f).cut()
    note_signs(f.mesh, old, met)
    if at.any():
        f = f.updated()
        zero = sign == 0
        rows = flatten_rows(f._data)
        rows[: len(sign)][zero] = np.broadcast_to(at, f.shape).reshape(1, -1).repeat(len(sign), 0)[zero]
    else:
        if f.shape == condition.shape and f._views is None:
            f._become(condition)  # the same function, which is 0 at its kinks
        f = condition

    def side(slope: Array) -> OnMesh:
        if np.all(slope == 1):
            return f
        return (f - at) * slope + at if at.any() else f * slope

    return _choose(met, sign, condition * np.asarray(above - below), side(above), side(below))


def select(condition: OnMesh, positive: OnMesh, other: OnMesh) -> OnMesh:
    """Return `positive` where condition > 0 and `other` elsewhere, which must be equal where it is 0."""
    next_layer()
    old = condition.mesh.edges
    _, sign, met = condition.cut()
    note_signs(condition.mesh, old, met)
    positive, other = positive.updated(), other.updated()
    difference = positive - other
    _refuse_jumps(difference, sign, met)
    return _choose(met, sign, difference, positive, other)


def _choose(
    met: NDArray[np.uint8], sign: NDArray[np.uint8], difference: OnMesh, positive: OnMesh, other: OnMesh
) -> OnMesh:
    """Return `positive` on faces and at vertices where a condition is positive."""
    mesh, count = difference.mesh, len(sign)
    plus, at = met & 1 == 1, sign == 1
    upper, lower, gap = (flatten_rows(g._data) for g in (positive, other, difference))
    run = loop_for(choose_bends, mesh.exact)
    tables = mesh.tables
    bends, fresh, taken = run(
        tables, plus, gap[:count], difference._errors[:count], upper[count:], lower[count:], mesh.exact
    )
    data = np.concatenate([np.where(at, upper[:count], lower[:count]), bends])
    errors = np.zeros(len(data))
    if not mesh.exact:
        taken = np.concatenate([np.stack([at.any(axis=1), ~at.all(axis=1)], axis=1), taken])
        errors = np.maximum(positive._errors * taken[:, 0], other._errors * taken[:, 1])
        errors[count:] += fresh
        left, right = (plus[side] for side in mesh.beside().T)
        lift_zeros(bends, errors[count:], (left != right) & (bends == 0))
        data[count:] = bends
    return positive._make(
        cast(Places, positive._places), data.reshape(-1, *positive.shape), errors, {}, positive._limit
    )


def _refuse_jumps(difference: OnMesh, sign: NDArray[np.uint8], met: NDArray[np.uint8]) -> None:
    """Refuse a choice that is not continuous: where both sides meet, the two must be equal."""
    mesh, count = difference.mesh, len(sign)
    beside, ends = mesh.beside(), mesh.ends()
    inside = np.flatnonzero((beside >= 0).all(axis=1))
    plus = met & 1
    parted = np.not_equal(plus[beside[inside, 0]], plus[beside[inside, 1]])
    gap = flatten_rows(difference._data)[:count]
    for end in ends[inside].T:
        wrong = abs(gap[end]) * parted
        allowed = 0.0 if mesh.exact else _allowed(difference, end)
        jumps = np.flatnonzero(row_size(wrong) > allowed)
        if len(jumps):
            u, v = (float(x) for x in mesh.tables.at[end[jumps[0]]])
            refuse(
                "a choice by a comparison",
                f"it jumps near u = {u:g}, v = {v:g}; both sides must be equal where it changes",
            )


def _allowed(difference: OnMesh, vertices: NDArray[np.int64]) -> NDArray[np.float64]:
    mesh = difference.mesh
    gap = flatten_rows(difference._data)[: mesh.vertices]
    size = row_size(gap).max(initial=0)
    moved = 4 * mesh.tables.reach[vertices] * mesh.steepest(gap)[vertices]
    allowed: NDArray[np.float64] = 2 * difference._errors[vertices] + moved + 8 * ROUNDOFF * size
    return allowed


def chosen_entries(f: OnMesh, entry: NDArray[np.intp]) -> OnMesh:
    """Return the function that is these entries of `f` on its faces (faces, windows), equal where they change."""
    mesh, count = f.mesh, f.mesh.vertices
    rows, beside = flatten_rows(f._data), mesh.beside()
    half = mesh.tables.half[: 2 * mesh.edges]
    inside = np.flatnonzero(half[:, 2] >= 0)
    at = np.zeros((count, entry.shape[1]), dtype=np.intp)
    at[half[inside, 1]] = entry[half[inside, 2]]
    values = np.take_along_axis(rows[:count], at, 1)
    inner = np.all(beside >= 0, axis=1).reshape(-1, 1)
    left, right = (np.where(inner, entry[side], 0) for side in beside.T)
    lower = np.take_along_axis(rows[count:], right, 1)
    bends, fresh = lower.copy(), np.zeros(len(beside))
    run = loop_for(choose_bends, mesh.exact)
    for window in np.flatnonzero((left != right).any(axis=0)):
        for one, other in {(a, b) for a, b in zip(left[:, window], right[:, window], strict=True) if a != b}:
            # Here the one is chosen on the left, and the other on the right.
            gap = (rows[:count, one] - rows[:count, other])[:, None]
            plus = np.equal(entry[:, [window]], one)
            found, more, _ = run(
                mesh.tables, plus, gap, 2 * f._errors[:count], rows[count:, [one]], rows[count:, [other]], mesh.exact
            )
            here = np.equal(left[:, window], one) & np.equal(right[:, window], other)
            bends[here, window] = found[here, 0]
            fresh[here] = np.maximum(fresh[here], more[here])
    errors = f._errors.copy()
    errors[count:] += fresh
    if not mesh.exact:
        lift_zeros(bends, errors[count:], (left != right) & (bends == 0))
    # Where only others bend, the row has none of their errors.
    errors[count:][~bends.astype(bool).any(axis=1)] = 0.0
    return f._like(np.concatenate([values, bends]), errors)


def remove_needless(mesh: Mesh, chosen: NDArray[np.intp], old_vertices: int, old_edges: int) -> bool:
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


def align(f: OnMesh, g: object) -> tuple[OnMesh, OnMesh]:
    """Return both on the mesh as it is now, and with values of one shape."""
    if not isinstance(g, OnMesh):
        raise TypeError(f"the operand is a {type(g).__name__}: expected a function on the same plane")
    if g.mesh is not f.mesh:
        raise ValueError("the functions are on two planes: expected one")
    shape = np.broadcast_shapes(f.shape, g.shape)
    pair = []
    for h in (f.updated(), g.updated()):
        if h.shape != shape:
            h = h._like(np.broadcast_to(h._spread(len(shape)), (len(h._data), *shape)).copy())
        pair.append(h)
    return pair[0], pair[1]


OnMesh.own_ways.update(
    hinge=hinge,
    select=select,
    align=align,
    refuse_jumps=lambda g: None,  # noqa: ARG005
)
