"""Compiled steps that change what neighbours what in a mesh: integers only, so that exact arithmetic takes them too.

Every edge e has two half-edges, 2e and 2e + 1, one in each of the faces beside it, which lies on its left. The face
outside is -1. A row of `half` is the next half-edge of its face, where it begins, its face, and the one before.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NEXT, ORIGIN, FACE, BEFORE = 0, 1, 2, 3
VERTICES, EDGES, FACES, UNDECIDED = 0, 1, 2, 3

_fast = njit(cache=True, nogil=True, error_model="numpy")


@_fast
def corners_of(half, first, face, loop):
    """Write the half-edges of a face into `loop`, in order; return how many there are, -1 if `loop` is too short."""
    begin = first[face]
    at, count = begin, 0
    while True:
        if count == len(loop):
            return -1
        loop[count] = at
        count += 1
        at = half[at, NEXT]
        if at == begin:
            return count


@_fast
def split_edge(half, counts, side):
    """Put the vertex of the next number into the edge of a half-edge; return the half-edge of this face after it.

    The new edge is the part of the old one that ends where it ended, and runs the same way.
    """
    vertex, edge = counts[VERTICES], counts[EDGES]
    counts[VERTICES] += 1
    counts[EDGES] += 1
    there, back = side & ~1, side | 1
    onward, homeward = 2 * edge, 2 * edge + 1
    after, before = half[there, NEXT], half[back, BEFORE]
    half[onward, NEXT], half[onward, ORIGIN] = after, vertex
    half[onward, FACE], half[onward, BEFORE] = half[there, FACE], there
    half[after, BEFORE] = onward
    half[there, NEXT] = onward
    half[homeward, NEXT], half[homeward, ORIGIN] = back, half[back, ORIGIN]
    half[homeward, FACE], half[homeward, BEFORE] = half[back, FACE], before
    half[before, NEXT] = homeward
    half[back, BEFORE], half[back, ORIGIN] = homeward, vertex
    return onward if side == there else back


@_fast
def split_face(half, first, counts, start, end):
    """Draw an edge between the origins of two half-edges of one face; return the new face, on the edge's left."""
    edge, new, old = counts[EDGES], counts[FACES], half[start, FACE]
    counts[EDGES] += 1
    counts[FACES] += 1
    there, back = 2 * edge, 2 * edge + 1
    before_start, before_end = half[start, BEFORE], half[end, BEFORE]
    # The new face runs from the end round to the start, and back along the edge.
    half[there, NEXT], half[there, ORIGIN], half[there, BEFORE] = end, half[start, ORIGIN], before_start
    half[back, NEXT], half[back, ORIGIN], half[back, BEFORE] = start, half[end, ORIGIN], before_end
    half[end, BEFORE], half[before_start, NEXT] = there, there
    half[start, BEFORE], half[before_end, NEXT] = back, back
    half[back, FACE], first[old], first[new] = old, back, there
    at = there
    while True:
        half[at, FACE] = new
        at = half[at, NEXT]
        if at == there:
            return new


@_fast
def signs_in_face(half, first, sign, face, met):
    """Write into `met` which signs each entry has at the corners of a face: 1 where positive, 2 negative, 3 both."""
    begin = first[face]
    met[:] = sign[half[begin, ORIGIN]]
    at = half[begin, NEXT]
    while at != begin:
        row = sign[half[at, ORIGIN]]
        for k in range(len(met)):
            met[k] |= row[k]
        at = half[at, NEXT]


@_fast
def signs_in_faces(half, first, sign, count):
    """Return the same for all faces, (faces, entries)."""
    met = np.empty((count, sign.shape[1]), np.uint8)
    for face in range(count):
        signs_in_face(half, first, sign, face, met[face])
    return met


@_fast
def find_chord(half, sign, entry, loop, count, chord):
    """Find where an entry changes sign round a face; write the two half-edges and whether it does so inside of them.

    A change at a corner is given by the half-edge that begins there, one inside an edge by that edge's half-edge.

    Returns:
        How often it changes: 2 in a convex face, unless rounding has given a corner the wrong sign.
    """
    start = 0
    while sign[half[loop[start], ORIGIN], entry] == 0:
        start += 1
    last, zero, changes = sign[half[loop[start], ORIGIN], entry], -1, 0
    for step in range(1, count + 1):
        i = (start + step) % count
        now = sign[half[loop[i], ORIGIN], entry]
        if now == 0:
            if zero < 0:
                zero = i
            continue
        if now != last:
            if changes < 2:
                inside = zero < 0
                chord[changes, 0] = loop[(i - 1) % count] if inside else loop[zero]
                chord[changes, 1] = inside
            changes += 1
        last, zero = now, -1
    return changes


@_fast
def _rename(half, begin, face):
    half[begin, FACE] = face
    at = half[begin, NEXT]
    while at != begin:
        half[at, FACE] = face
        at = half[at, NEXT]


@_fast
def remove_edges(half, first, counts, drop, oldest):
    """Take away edges inside, and the vertices from `oldest` on at which then only two edges meet.

    Faces are numbered anew; an edge that is gone has no face beside it, and is dropped no more.
    """
    gone = True
    while gone:
        gone = False
        for edge in range(len(drop)):
            if not drop[edge]:
                continue
            there, back = 2 * edge, 2 * edge + 1
            left, right = half[there, FACE], half[back, FACE]
            before, after = half[there, BEFORE], half[there, NEXT]
            before_back, after_back = half[back, BEFORE], half[back, NEXT]
            if left == right and after != back and after_back != there:
                continue  # what hangs on this one alone goes first: the rim of a face is in one piece
            drop[edge], gone = False, True
            if after != back:
                half[before_back, NEXT], half[after, BEFORE] = after, before_back
            if after_back != there:
                half[before, NEXT], half[after_back, BEFORE] = after_back, before
            first[left] = after if after != back else after_back
            half[there, FACE] = half[back, FACE] = -1
            if left == right:
                continue
            _rename(half, first[left], left)
            last = counts[FACES] - 1
            counts[FACES] = last
            if right != last:
                first[right] = first[last]
                _rename(half, first[right], right)
    for side in range(2 * counts[EDGES]):
        # Where another edge follows on both sides, and no third one begins.
        if half[side, FACE] < 0 and half[side ^ 1, FACE] < 0:
            continue
        onward = half[side, NEXT]
        vertex = half[onward, ORIGIN]
        if vertex < oldest or half[side ^ 1, BEFORE] != onward ^ 1 or onward == side ^ 1:
            continue
        back, homeward = side ^ 1, onward ^ 1
        after, before = half[onward, NEXT], half[homeward, BEFORE]
        half[side, NEXT], half[after, BEFORE] = after, side
        half[back, ORIGIN], half[back, BEFORE], half[before, NEXT] = half[homeward, ORIGIN], before, back
        for one, gone in ((side, onward), (back, homeward)):
            if half[one, FACE] >= 0:
                first[half[one, FACE]] = one
            half[gone, FACE] = -1


@_fast
def all_corners(half, first, faces):
    """Return the corners of all faces, one after the other, and where those of each begin, (faces + 1,)."""
    corners, offsets, count = np.empty(len(half), np.int64), np.zeros(faces + 1, np.int64), 0
    for face in range(faces):
        at = first[face]
        while True:
            corners[count] = half[at, ORIGIN]
            count += 1
            at = half[at, NEXT]
            if at == first[face]:
                break
        offsets[face + 1] = count
    return corners[:count].copy(), offsets
