"""Compiled loops: how well independent straight lines can fit ordered points, bounded from below."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.formats import ROUNDOFF

#: Gaps and sums of squares below, of data of size 1, could underflow: no bound is taken from them.
TINY_GAP, TINY_SQUARE = 1e-140, 1e-280


@njit(cache=True, nogil=True)
def segment_costs(x, y, ends):
    """Return for every run of distinct points a lower bound on the sum of squares that the best line leaves.

    A run is extended to the left a point at a time, by Givens rotations of the rows (1, x, y), taken from its right
    end, where x and y are smallest. So nothing cancels: the sum of squares only grows. Rotations are backward stable:
    what is found is exact for columns that differ by `slack` of their norms, so its root is off by no more than slack
    (|y| + |a| |1| + |b| |x|) for the true line a + b x, whose two parts are at most |y| / sin(1, x) each.

    Args:
        x, y: (samples,), x in order, of size about 1.
        ends: (P + 1,), the samples of distinct point p are ends[p] to ends[p + 1].

    Returns:
        (P (P + 1) / 2,), the run from i to j at j (j + 1) / 2 + i. It falls with i and rises with j.
    """
    points = len(ends) - 1
    costs = np.zeros(points * (points + 1) // 2)
    for j in range(points):
        column = costs[j * (j + 1) // 2 :]
        before = costs[(j - 1) * j // 2 :]
        last = ends[j + 1]
        x_end, y_end = x[last - 1], y[last - 1]
        r11 = r12 = r22 = q1 = q2 = rest = size = 0.0
        for i in range(j, -1, -1):
            for p in range(ends[i + 1] - 1, ends[i] - 1, -1):
                u, v = x[p] - x_end, y[p] - y_end
                size += v * v
                r = math.sqrt(r11 * r11 + 1.0)
                c, s = r11 / r, 1.0 / r
                r11, r12, u = r, c * r12 + s * u, c * u - s * r12
                q1, v = c * q1 + s * v, c * v - s * q1
                r = math.sqrt(r22 * r22 + u * u)
                if r > TINY_GAP:
                    c, s = r22 / r, u / r
                    r22 = r
                    q2, v = c * q2 + s * v, c * v - s * q2
                rest += v * v
            # Two rotations a sample, each to sqrt(2) 6 units, and the roundings of the row and of the sums.
            slack = 20 * (last - ends[i] + 2) * ROUNDOFF
            bound = 0.0
            sine = r22 / math.sqrt(r12 * r12 + r22 * r22) - slack if r22 > 1e20 * TINY_GAP else 0.0
            if size > TINY_SQUARE and (i == j or sine > 2 * slack):
                parts = 1.0 if i == j else 1 + 2 / sine
                root = math.sqrt(rest) * (1 - slack) - slack * parts * math.sqrt(size) * (1 + slack)
                bound = root * root * (1 - 4 * ROUNDOFF) if root > 0 else 0.0
            # What a part of the run cannot do the run cannot do.
            if i < j:
                bound = max(bound, column[i + 1], before[i])
            column[i] = bound
    return costs


@njit(cache=True, nogil=True)
def one_more_segment(costs, fewer, first):
    """Return the least sum of costs of the first points by one segment more, and where the last one starts.

    Args:
        costs: of `segment_costs`.
        fewer: (P,), the least sums up to each point with one segment fewer, rising.
        first: out, (P,), the first point of the last segment; p + 1 at point p if the last segment is empty.

    Returns:
        (P,), the least sums. Only what cannot be the least is passed over: as a segment grows so does its cost.
    """
    points = len(fewer)
    sums = np.zeros(points)
    sums[0], first[0] = fewer[0], 1
    for j in range(1, points):
        column = costs[j * (j + 1) // 2 :]
        # Where the neighbour's last segment starts is a good guess, so that the search can stop early.
        guess = max(first[j - 1], 1)
        best, best_start = fewer[guess - 1] + column[guess], guess
        if fewer[j] <= best:
            best, best_start = fewer[j], j + 1
        for i in range(j, 0, -1):
            if column[i] >= best:
                break
            total = fewer[i - 1] + column[i]
            if total < best:
                best, best_start = total, i
        sums[j], first[j] = best, best_start
    return sums


@njit(cache=True, nogil=True, error_model="numpy")
def one_more_knot(x, sums, costs, fewer, before):
    """Return for every point a good fit up to it whose pieces meet on the points, with one piece more.

    A fit up to a point is known by its sum of squares as a function of its value v there, a v^2 + b v + c. Of all
    with so many pieces only the one with the least sum is kept, so that what comes out is good and not always the best.

    Args:
        x: (P,), the distinct points, in order.
        sums: (6, P + 1), the sums of 1, x, x^2, y, x y, y^2 over the samples on the first points.
        costs: of `segment_costs` for the same y, by which most pairs are passed over.
        fewer: (P, 4), the fits with one piece fewer: a, b, c and the least sum, infinity where there is none.
        before: out, (P,), the point on which the last piece starts.

    Returns:
        (P, 4), as `fewer`.
    """
    points = len(x)
    more = np.full((points, 4), np.inf)
    for i in range(1, points):
        column = costs[i * (i + 1) // 2 :]
        best = np.inf
        for h in range(i - 1, -1, -1):
            if column[h + 1] >= best:
                break
            if fewer[h, 3] + column[h + 1] >= best:
                continue
            n, s1, s2 = (
                sums[0, i + 1] - sums[0, h + 1],
                sums[1, i + 1] - sums[1, h + 1],
                sums[2, i + 1] - sums[2, h + 1],
            )
            t, t1, t2 = (
                sums[3, i + 1] - sums[3, h + 1],
                sums[4, i + 1] - sums[4, h + 1],
                sums[5, i + 1] - sums[5, h + 1],
            )
            # The hats of the two ends, u at h and v at i, over the samples behind h.
            gap = x[i] - x[h]
            hat_v = (s1 - x[h] * n) / gap
            vv = (s2 - 2 * x[h] * s1 + x[h] * x[h] * n) / (gap * gap)
            uv, uu = hat_v - vv, n - 2 * hat_v + vv
            yv = (t1 - x[h] * t) / gap
            # The best u for each v.
            a_u, b_u = fewer[h, 0] + uu, fewer[h, 1] - 2 * (t - yv)
            a = vv - uv * uv / a_u
            b = -2 * yv - uv * b_u / a_u
            c = fewer[h, 2] + t2 - b_u * b_u / (4 * a_u)
            if a > 0 and a_u > 0:
                least = max(c - b * b / (4 * a), 0.0)
                if least < best:
                    best = least
                    more[i, 0], more[i, 1], more[i, 2], more[i, 3] = a, b, c, least
                    before[i] = h
    return more
