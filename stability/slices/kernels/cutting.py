"""Compiled cuts: every face is parted where an entry of a function changes sign inside it.

A vertex is the place a + t (b - a) on the edge from a to b, with the t that is stored. The values there are those of
the function at this place, to their rounding. The place where the entry is 0 in truth may be elsewhere by a little,
which is asked of the other entries before their signs there are believed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.formats import ROUNDOFF
from stability.foundation.kernels.copying import copy
from stability.slices.kernels.half_edges import (
    EDGES,
    FACE,
    FACES,
    ORIGIN,
    UNDECIDED,
    VERTICES,
    corners_of,
    find_chord,
    signs_in_face,
    split_edge,
    split_face,
)

_fast = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_fast
def _farthest(mesh, loop, count, start, along, across):
    """Return the corner farthest from a line through a vertex, and its distance."""
    best, far = loop[0], -1.0
    for i in range(count):
        v = mesh.half[loop[i], ORIGIN]
        du, dv = mesh.at[v, 0] - mesh.at[start, 0], mesh.at[v, 1] - mesh.at[start, 1]
        distance = abs(along * dv - across * du)
        if distance > far:
            best, far = v, distance
    return best, far


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _between(before, after, beyond, t, shift, share, slip, made, bound):
    """Write the values on an edge and their signs; return the largest at its ends, and how many may be 0."""
    row, signs = made
    largest, close = 0.0, 0
    for k in range(len(row)):
        rise = after[k] - before[k]
        value = before[k] + t * rise
        across = beyond[k] - before[k] - shift * rise
        close += abs(value) <= bound + abs(rise) * slip + abs(across) * share
        largest = max(largest, max(abs(before[k]), abs(after[k])))
        row[k] = value
        signs[k] = np.uint8(1) if value > 0.0 else np.uint8(2)
    return largest, close


@_fast
def _plant(mesh, z, errors, sign, side, entry, loop, count, bound):
    """Put a vertex where an entry is 0 on an edge of a face."""
    half = mesh.half
    edge, vertex = side >> 1, mesh.counts[VERTICES]
    a, b = half[side & ~1, ORIGIN], half[side | 1, ORIGIN]
    if abs(z[a, entry]) > abs(z[b, entry]):
        a, b = b, a  # from the nearer end, t <= 1 / 2
    height = abs(z[a, entry]) + abs(z[b, entry])
    t = abs(z[a, entry]) / height
    du, dv = mesh.at[b, 0] - mesh.at[a, 0], mesh.at[b, 1] - mesh.at[a, 1]
    length = np.sqrt(du * du + dv * dv)
    # How steep the entries are across the edge, from the farthest corner: the edge itself may lie elsewhere.
    share = shift = steep = 0.0
    c = a
    if length > 0.0:
        c, far = _farthest(mesh, loop, count, a, du / length, dv / length)
        if far > 0.0:
            eu, ev = mesh.at[c, 0] - mesh.at[a, 0], mesh.at[c, 1] - mesh.at[a, 1]
            shift = (eu * du + ev * dv) / (length * length)
            share = mesh.slack[edge] / far
            steep = abs(z[c, entry] - z[a, entry] - shift * (z[b, entry] - z[a, entry])) / far
    slip = (2.0 * bound + steep * mesh.slack[edge]) / height + 4.0 * ROUNDOFF
    mesh.parents[vertex, 0], mesh.parents[vertex, 1] = a, b
    mesh.share[vertex] = t
    mesh.at[vertex, 0], mesh.at[vertex, 1] = mesh.at[a, 0] + t * du, mesh.at[a, 1] + t * dv
    slope = height / length if length > 0.0 else 0.0
    oblique = np.sqrt(slope * slope + steep * steep) / slope if slope > 0.0 else 1.0
    mesh.reach[vertex] = 2.0 * oblique * (slip * length + mesh.slack[edge])
    before, after, beyond = z[a], z[b], z[c]
    row, signs = z[vertex], sign[vertex]
    largest, close = _between(before, after, beyond, t, shift, share, slip, (row, signs), bound)
    moved = 0.0
    if close > 1:  # others than this one
        for k in range(z.shape[1]):
            rise = after[k] - before[k]
            across = beyond[k] - before[k] - shift * rise
            if k != entry and abs(row[k]) <= bound + abs(rise) * slip + abs(across) * share:
                if before[k] != 0.0 or after[k] != 0.0:  # else this edge is on its kink all along
                    mesh.counts[UNDECIDED] += 1
                    moved = max(moved, abs(row[k]))
                row[k], signs[k] = 0.0, 0
    row[entry], signs[entry] = 0.0, 0
    errors[vertex] = errors[a] + t * (errors[b] - errors[a]) + 4.0 * ROUNDOFF * largest + moved
    mesh.edge_parent[mesh.counts[EDGES]] = edge
    mesh.slack[mesh.counts[EDGES]] = mesh.slack[edge]
    copy(mesh.direction[edge], mesh.direction[mesh.counts[EDGES]])
    return split_edge(half, mesh.counts, side)


@_fast
def _agree(mesh, z, sign, entry, loop, count):
    """Set to 0 what rounding has given the wrong sign, so that an entry changes sign twice round a face."""
    largest = np.zeros(3)
    for i in range(count):
        v = mesh.half[loop[i], ORIGIN]
        largest[sign[v, entry]] = max(largest[sign[v, entry]], abs(z[v, entry]))
    weak = 1 if largest[1] < largest[2] else 2
    kept = 0
    for i in range(count):
        v = mesh.half[loop[i], ORIGIN]
        if sign[v, entry] == weak and abs(z[v, entry]) == largest[weak]:
            kept = i
    # The stretch of the weaker sign round its largest value stays.
    keep = np.zeros(count, np.bool_)
    for way in (1, -1):
        i = kept
        while sign[mesh.half[loop[i], ORIGIN], entry] != 3 - weak:
            keep[i] = True
            i = (i + way) % count
    for i in range(count):
        v = mesh.half[loop[i], ORIGIN]
        if not keep[i] and sign[v, entry] == weak:
            z[v, entry], sign[v, entry] = 0.0, 0
            mesh.counts[UNDECIDED] += 1


@_fast
def _cut(mesh, z, errors, sign, face, entry, loop, chord):
    """Part a face where an entry changes sign inside it; return whether `loop` was long enough."""
    half, counts = mesh.half, mesh.counts
    count = corners_of(half, mesh.first, face, loop)
    if count < 0:
        return False
    met, bound = 0, 0.0
    for i in range(count):
        v = half[loop[i], ORIGIN]
        met |= sign[v, entry]
        bound = max(bound, errors[v])
    if met != 3:
        return True
    if find_chord(half, sign, entry, loop, count, chord) > 2:
        _agree(mesh, z, sign, entry, loop, count)
        find_chord(half, sign, entry, loop, count, chord)
    for i in range(2):
        if chord[i, 1]:
            chord[i, 0] = _plant(mesh, z, errors, sign, chord[i, 0], entry, loop, count, bound)
    start, end = chord[0, 0], chord[1, 0]
    p, q = half[start, ORIGIN], half[end, ORIGIN]
    du, dv = mesh.at[q, 0] - mesh.at[p, 0], mesh.at[q, 1] - mesh.at[p, 1]
    edge, length = counts[EDGES], np.sqrt(du * du + dv * dv)
    mesh.edge_parent[edge], mesh.unit[edge] = -1, entry
    mesh.direction[edge, 0], mesh.direction[edge, 1] = du, dv
    highest, away = 0.0, 0.0
    for i in range(count):
        v = half[loop[i], ORIGIN]
        if abs(z[v, entry]) > highest:
            highest = abs(z[v, entry])
            away = abs(du * (mesh.at[v, 1] - mesh.at[p, 1]) - dv * (mesh.at[v, 0] - mesh.at[p, 0]))
    mesh.slack[edge] = 2.0 * bound * (away / length if length > 0.0 else 0.0) / highest
    split_face(half, mesh.first, counts, start, end)
    return True


@_fast
def cut_faces(mesh, z, errors, sign, begin, start, loop):
    """Part the faces from `start` on where entries change sign.

    Args:
        z: (room, entries), the values at the vertices. errors: bounds of their errors. sign: 1, 2 or 0 for each.
        begin: for each face, the first entry that may still change sign in it.
        loop: room for the half-edges of a face.

    Returns:
        The face at which room ran out, -1 if all are done.
    """
    counts = mesh.counts
    met, chord = np.empty(z.shape[1], np.uint8), np.empty((2, 2), np.int64)
    face = start
    while face < counts[FACES]:
        signs_in_face(mesh.half, mesh.first, sign, face, met)
        for entry in range(begin[face], z.shape[1]):
            if met[entry] != 3:
                continue
            begin[face] = entry
            room = min(len(z) - counts[VERTICES] - 2, len(mesh.slack) - counts[EDGES] - 3)
            if min(room, len(mesh.first) - counts[FACES] - 1) < 0:
                return face
            new = counts[FACES]
            if not _cut(mesh, z, errors, sign, face, entry, loop, chord):
                return face
            if counts[FACES] > new:
                begin[new] = entry + 1
        begin[face] = z.shape[1]
        face += 1
    return -1


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _clear(row, signs, bound):
    """Write the signs of numbers, and return whether all are beyond doubt."""
    close = 0
    for k in range(len(row)):
        close += abs(row[k]) <= bound
        signs[k] = np.uint8(1) if row[k] > 0.0 else np.uint8(2)
    return close == 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _rise(before, after):
    """Return how much two rows differ at most."""
    rise = 0.0
    for k in range(len(before)):
        rise = max(rise, abs(after[k] - before[k]))
    return rise


@_fast
def settle_signs(mesh, z, errors, sign, count):
    """Write the signs at the vertices, 1, 2 or 0; what may be 0 within its error becomes 0, and is counted."""
    edges, entries = mesh.counts[EDGES], z.shape[1]
    slope = np.zeros(count)
    for edge in range(edges):
        a, b = mesh.half[2 * edge, ORIGIN], mesh.half[2 * edge + 1, ORIGIN]
        if mesh.half[2 * edge, FACE] < 0 and mesh.half[2 * edge + 1, FACE] < 0:
            continue
        if mesh.reach[a] == 0.0 and mesh.reach[b] == 0.0:
            continue
        du, dv = mesh.at[b, 0] - mesh.at[a, 0], mesh.at[b, 1] - mesh.at[a, 1]
        length, rise = np.sqrt(du * du + dv * dv), _rise(z[a], z[b])
        if length > 0.0:
            slope[a], slope[b] = max(slope[a], rise / length), max(slope[b], rise / length)
    for v in range(count):
        bound = errors[v] + mesh.reach[v] * slope[v]
        row, signs, moved = z[v], sign[v], 0.0
        if _clear(row, signs, bound):
            continue
        for k in range(entries):
            if abs(row[k]) <= bound:
                if row[k] != 0.0:
                    mesh.counts[UNDECIDED] += 1
                    moved = max(moved, abs(row[k]))
                row[k], signs[k] = 0.0, 0
        errors[v] += moved


@_fast
def extend_rows(parents, share, rows, errors, start, stop):
    """Fill in rows of a function at the vertices from `start` to `stop`, each on an edge between two earlier ones."""
    for v in range(start, stop):
        a, b, t = parents[v, 0], parents[v, 1], share[v]
        before, after, row = rows[a], rows[b], rows[v]
        largest = 0.0
        for k in range(rows.shape[1]):
            row[k] = before[k] + t * (after[k] - before[k])
            largest = max(largest, abs(before[k]), abs(after[k]))
        errors[v] = errors[a] + t * (errors[b] - errors[a]) + 4.0 * ROUNDOFF * largest


@_fast
def nearest_of(edge_parent, chosen):
    """Return of every edge the first chosen one among itself, the edge that it is a part of, and so on; -1 for none."""
    found = np.empty(len(chosen), np.int64)
    for edge in range(len(chosen)):
        parent = edge_parent[edge]
        found[edge] = edge if chosen[edge] else found[parent] if parent >= 0 else -1
    return found


@_fast
def parts_of_edges(edge_parent, start, stop):
    """Return the edge of those before `start` that each edge is a part of, -1 for those drawn through a face."""
    whole = np.empty(stop - start, np.int64)
    for edge in range(start, stop):
        parent = edge_parent[edge]
        whole[edge - start] = whole[parent - start] if parent >= start else parent
    return whole
