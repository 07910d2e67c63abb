"""Compiled choice between two functions, face by face: how much the chosen one bends at every edge."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.formats import ROUNDOFF
from stability.slices.kernels.half_edges import EDGES, FACE, NEXT, ORIGIN

_fast = njit(cache=True, nogil=True, error_model="numpy")


@_fast
def choose_bends(mesh, plus, difference, errors, positive, other, exact):
    """Return the bends of what is `positive` on some faces and `other` on the rest.

    A bend is how much larger the slope on the left of an edge is than that on its right, along the edge's normal.

    Args:
        plus: (faces, entries), where it is `positive`.
        difference: positive - other at the vertices, 0 where they meet. errors: bounds of its errors.
        positive, other: their bends, (edges, entries).

    Returns:
        bends, (edges, entries); bounds of the errors made here; which of the two any entry has taken, (edges, 2).
    """
    half = mesh.half
    out, fresh = np.empty_like(other), np.zeros(len(other))
    taken = np.zeros((len(other), 2), np.bool_)
    for edge in range(mesh.counts[EDGES]):
        left, right = half[2 * edge, FACE], half[2 * edge + 1, FACE]
        if left < 0 or right < 0:
            out[edge] = 0  # nothing lies beyond the rim
            continue
        known = -1
        for k in range(out.shape[1]):
            here, there = plus[left, k], plus[right, k]
            out[edge, k] = positive[edge, k] if here and there else other[edge, k]
            taken[edge, 0] |= here and there
            taken[edge, 1] |= not (here and there)
            if here == there:
                continue
            face = left if here else right
            if known != face:
                # The corner of this face that is farthest from the edge.
                known = face
                du, dv = mesh.direction[edge, 0], mesh.direction[edge, 1]
                p = half[2 * edge, ORIGIN]
                at = 2 * edge if here else 2 * edge + 1
                end, corner, height = at, p, du * 0
                at = half[at, NEXT]
                while at != end:
                    v = half[at, ORIGIN]
                    away = du * (mesh.at[v, 1] - mesh.at[p, 1]) - dv * (mesh.at[v, 0] - mesh.at[p, 0])
                    if abs(away) > abs(height):
                        corner, height = v, away
                    at = half[at, NEXT]
                square = du * du + dv * dv
            if height == 0:
                fresh[edge] = np.inf  # a face too thin for its corners to be told apart
                continue
            slope = difference[corner, k] * square / height
            out[edge, k] = other[edge, k] + slope if here else other[edge, k] - slope
            if not exact:
                length = np.sqrt(square)
                away = abs(height) / length
                blur = 2.0 * errors[corner] / away * length
                blur += 16.0 * ROUNDOFF * abs(slope) * (1.0 + 1.0 / away + 1.0 / length)
                fresh[edge] = max(fresh[edge], blur + ROUNDOFF * abs(out[edge, k]))
    return out, fresh, taken
