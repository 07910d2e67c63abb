"""Compiled loops: how well independent straight lines can fit ordered points, bounded from below."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

#: Half the spacing of float64 at 1.
UNIT = 2.0**-53


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
                if r > 0:
                    c, s = r22 / r, u / r
                    r22 = r
                    q2, v = c * q2 + s * v, c * v - s * q2
                rest += v * v
            # Two rotations a sample, each to sqrt(2) 6 units, and the roundings of the row and of the sums.
            slack = 20 * (last - ends[i] + 2) * UNIT
            bound = 0.0
            sine = r22 / math.sqrt(r12 * r12 + r22 * r22) - slack if r22 > 0 else 0.0
            if i == j or sine > 2 * slack:
                parts = 1.0 if i == j else 1 + 2 / sine
                root = math.sqrt(rest) * (1 - slack) - slack * parts * math.sqrt(size) * (1 + slack)
                bound = root * root * (1 - 4 * UNIT) if root > 0 else 0.0
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
