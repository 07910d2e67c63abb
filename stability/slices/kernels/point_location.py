"""Compiled search for the faces that points lie in, and what is asked of every face."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.formats import ROUNDOFF

_fast = njit(cache=True, nogil=True, error_model="numpy")


@_fast
def wide_triangles(at, corners, offsets):
    """Return three corners of every face that span a large triangle, counterclockwise, (faces, 3)."""
    out = np.empty((len(offsets) - 1, 3), np.int64)
    for face in range(len(out)):
        a = corners[offsets[face]]
        b = a
        most = at[a, 0] * 0
        for i in range(offsets[face], offsets[face + 1]):
            du, dv = at[corners[i], 0] - at[a, 0], at[corners[i], 1] - at[a, 1]
            if du * du + dv * dv > most:
                b, most = corners[i], du * du + dv * dv
        du, dv = at[b, 0] - at[a, 0], at[b, 1] - at[a, 1]
        c, best = b, at[a, 0] * 0
        for i in range(offsets[face], offsets[face + 1]):
            away = du * (at[corners[i], 1] - at[a, 1]) - dv * (at[corners[i], 0] - at[a, 0])
            if abs(away) > abs(best):
                c, best = corners[i], away
        out[face, 0] = a
        out[face, 1], out[face, 2] = (b, c) if best > 0 else (c, b)
    return out


@_fast
def fan_areas(at, corners, offsets, weight, areas, integrals):
    """Add the area of every face, and the integral over it of a function with these values at the vertices."""
    for face in range(len(areas)):
        a = corners[offsets[face]]
        for i in range(offsets[face] + 1, offsets[face + 1] - 1):
            b, c = corners[i], corners[i + 1]
            twice = (at[b, 0] - at[a, 0]) * (at[c, 1] - at[a, 1]) - (at[b, 1] - at[a, 1]) * (at[c, 0] - at[a, 0])
            areas[face] += twice / 2
            for k in range(weight.shape[1]):
                integrals[face, k] += twice * (weight[a, k] + weight[b, k] + weight[c, k]) / 6


@_fast
def _is_narrow(at, corners, start, stop):
    """Whether a face is so narrow that its corners, which are rounded, may as well be on one line."""
    area = around = 0.0
    a = corners[start]
    for i in range(start, stop):
        b, c = corners[i], corners[i + 1 if i + 1 < stop else start]
        bu, bv = at[b, 0] - at[a, 0], at[b, 1] - at[a, 1]
        du, dv = at[c, 0] - at[b, 0], at[c, 1] - at[b, 1]
        area += (bu * dv - bv * du) / 2
        around += np.sqrt(du * du + dv * dv)
    return area <= 2 * ROUNDOFF * around


@_fast
def _depth(at, corners, start, stop, u, v):
    """Return how far a point inside of a face is from its rim, negative outside.

    By the distances from the sides, not from the lines that they are on: a short one has no direction but for rounding.
    """
    least, inside = np.inf, False
    for i in range(start, stop):
        a, b = corners[i], corners[i + 1 if i + 1 < stop else start]
        du, dv = at[b, 0] - at[a, 0], at[b, 1] - at[a, 1]
        pu, pv = u - at[a, 0], v - at[a, 1]
        square = du * du + dv * dv
        share = min(max((pu * du + pv * dv) / square, 0.0), 1.0) if square > 0.0 else 0.0
        away_u, away_v = pu - share * du, pv - share * dv
        least = min(least, away_u * away_u + away_v * away_v)
        if (at[a, 1] > v) != (at[b, 1] > v) and (pu * dv - pv * du < 0.0) == (dv > 0.0):
            inside = not inside
    return np.sqrt(least) if inside else -np.sqrt(least)


@_fast
def locate(at, corners, offsets, points, cells):
    """Return for every point of the unit square the face in which it lies deepest, none of those that are too narrow.

    The points are sorted into cells x cells boxes. A face asks those in the boxes that it meets, row by row.
    """
    count = len(points)
    start = np.zeros(cells * cells + 1, np.int64)
    box = np.empty(count, np.int64)
    for i in range(count):
        column = min(max(int(points[i, 0] * cells), 0), cells - 1)
        box[i] = min(max(int(points[i, 1] * cells), 0), cells - 1) * cells + column
        start[box[i] + 1] += 1
    for i in range(cells * cells):
        start[i + 1] += start[i]
    order, filled = np.empty(count, np.int64), start[:-1].copy()
    for i in range(count):
        order[filled[box[i]]] = i
        filled[box[i]] += 1
    found, depth = np.full(count, -1), np.full(count, -np.inf)
    slop = 1e-9
    for face in range(len(offsets) - 1):
        first, stop = offsets[face], offsets[face + 1]
        if _is_narrow(at, corners, first, stop):
            continue
        low = high = at[corners[first], 1]
        for i in range(first, stop):
            low, high = min(low, at[corners[i], 1]), max(high, at[corners[i], 1])
        for row in range(max(int((low - slop) * cells), 0), min(int((high + slop) * cells), cells - 1) + 1):
            bottom, top = row / cells - slop, (row + 1) / cells + slop
            left, right = np.inf, -np.inf
            for i in range(first, stop):
                a, b = corners[i], corners[i + 1 if i + 1 < stop else first]
                u0, v0, u1, v1 = at[a, 0], at[a, 1], at[b, 0], at[b, 1]
                if bottom <= v0 <= top:
                    left, right = min(left, u0), max(right, u0)
                for level in (bottom, top):
                    if (v0 - level) * (v1 - level) < 0.0:
                        u = u0 + (level - v0) / (v1 - v0) * (u1 - u0)
                        left, right = min(left, u), max(right, u)
            if left > right:
                continue
            begin = min(max(int((left - slop) * cells), 0), cells - 1)
            end = min(max(int((right + slop) * cells), 0), cells - 1)
            for place in range(start[row * cells + begin], start[row * cells + end + 1]):
                i = order[place]
                deep = _depth(at, corners, first, stop, points[i, 0], points[i, 1])
                if deep > depth[i]:
                    found[i], depth[i] = face, deep
    return found, depth


@_fast
def _weights(at, a, b, c, u, v):
    """Return the three weights of the corners at a point, of which it is a mean, and how far beside them it is.

    The place along the longest side, from a to b, comes first, without a look at the third corner: the weight of that
    is ill conditioned in a narrow triangle, and there it moves the mean across the triangle only.
    """
    pu, pv = at[b, 0] - at[a, 0], at[b, 1] - at[a, 1]
    qu, qv = at[c, 0] - at[a, 0], at[c, 1] - at[a, 1]
    twice = pu * qv - pv * qu
    if twice <= 0.0:
        return 0.0, 0.0, 0.0, np.inf
    square = pu * pu + pv * pv
    du, dv = u - at[a, 0], v - at[a, 1]
    third = (pu * dv - pv * du) / twice
    along, foot = (pu * du + pv * dv) / square, (pu * qu + pv * qv) / square
    place = min(max(along, 0.0), 1.0)
    most = 1.0  # that the third one may have there
    if place < foot:
        most = place / foot
    elif foot < 1.0:
        most = (1.0 - place) / (1.0 - foot)
    held = min(max(third, 0.0), most)
    length = np.sqrt(square)
    beside = abs(along - place) * length + abs(third - held) * twice / length
    second = min(max(place - held * foot, 0.0), 1.0 - held)
    return 1.0 - held - second, second, held, beside


@_fast
def interpolate(at, corners, offsets, values, points, faces):
    """Return the values at points of these faces, from the triangle of a fan that each lies in."""
    out = np.empty((len(points), values.shape[1]))
    for i in range(len(points)):
        first, stop = offsets[faces[i]], offsets[faces[i] + 1]
        best, weights = np.inf, (1.0, 0.0, 0.0)
        ends = (corners[first], corners[first], corners[first])
        for j in range(first + 1, stop - 1):
            a, b, c = corners[first], corners[j], corners[j + 1]
            ab = (at[b, 0] - at[a, 0]) ** 2 + (at[b, 1] - at[a, 1]) ** 2
            bc = (at[c, 0] - at[b, 0]) ** 2 + (at[c, 1] - at[b, 1]) ** 2
            ca = (at[a, 0] - at[c, 0]) ** 2 + (at[a, 1] - at[c, 1]) ** 2
            if bc > max(ab, ca):
                a, b, c = b, c, a
            elif ca > ab:
                a, b, c = c, a, b
            of_a, of_b, of_c, beside = _weights(at, a, b, c, points[i, 0], points[i, 1])
            if beside < best:
                best, weights, ends = beside, (of_a, of_b, of_c), (a, b, c)
        for k in range(values.shape[1]):
            mean = 0.0
            for j in range(3):
                mean += weights[j] * values[ends[j], k]
            out[i, k] = mean
    return out
