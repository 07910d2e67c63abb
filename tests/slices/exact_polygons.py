"""Piecewise-linear functions of a plane by clipping polygons in rational numbers, sharing no code with the package.

A function is a list of regions (polygon, maps): the corners counterclockwise, and one map (a, b, c), a u + b v + c, an
entry. A region ends where a decision changes, whether the function bends there or not.
"""

from fractions import Fraction
from itertools import combinations, pairwise, permutations

ONE, NONE = Fraction(1), Fraction(0)


def whole(rectangle):
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)] if rectangle else [(0, 0), (1, 0), (0, 1)]
    return [([(Fraction(u), Fraction(v)) for u, v in corners], [(ONE, NONE, NONE), (NONE, ONE, NONE)])]


def linear(regions, weight, bias):
    out = []
    for polygon, maps in regions:
        rows = []
        for row, shift in zip(weight, bias, strict=True):
            a, b, c = (sum(Fraction(w) * m[i] for w, m in zip(row, maps, strict=True)) for i in range(3))
            rows.append((a, b, c + Fraction(shift)))
        out.append((polygon, rows))
    return out


def at(one, point):
    return one[0] * point[0] + one[1] * point[1] + one[2]


def clipped(polygon, one):
    """The part of a polygon where a map is not negative; None without an area."""
    out = []
    for p, q in pairwise([*polygon, polygon[0]]):
        here, there = at(one, p), at(one, q)
        if here >= 0:
            out.append(p)
        if here * there < 0:
            t = here / (here - there)
            out.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    out = [p for i, p in enumerate(out) if p != out[i - 1]]
    return out if len(out) > 2 and area(out) > 0 else None


def area(polygon):
    return sum(p[0] * q[1] - p[1] * q[0] for p, q in pairwise([*polygon, polygon[0]])) / 2


def _minus(one, other):
    return tuple(x - y for x, y in zip(one, other, strict=True))


def leaky(regions, slope):
    for entry in range(len(regions[0][1])):
        parted = []
        for polygon, maps in regions:
            one = maps[entry]
            for side, factor in ((one, ONE), (_minus((0, 0, 0), one), Fraction(slope))):
                part = polygon if not any(one) else clipped(polygon, side)
                if part and not (not any(one) and factor == 1):
                    bent = tuple(factor * x for x in one)
                    parted.append((part, [*maps[:entry], bent, *maps[entry + 1 :]]))
        regions = parted
    return regions


def largest(regions):
    """The largest entry; a region ends where it is another one."""
    out = []
    for polygon, maps in regions:
        for i, one in enumerate(maps):
            part = None if one in maps[:i] else polygon
            for other in maps:
                part = part and (part if other == one else clipped(part, _minus(one, other)))
            if part:
                out.append((part, [one]))
    return out


def ordered(regions):
    """The entries from the smallest to the largest; a region ends where two change places."""
    out = []
    for polygon, maps in regions:
        for order in permutations(range(len(maps))):
            part = polygon
            for i, k in pairwise(order):
                if maps[i] == maps[k]:  # these keep their order
                    part = part if i < k else None
                part = part and clipped(part, _minus(maps[k], maps[i]))
            if part:
                out.append((part, [maps[i] for i in order]))
    return out


def folds(regions):
    """How many pairs of regions have a border on which their maps differ."""
    return sum(
        maps != others and _border(polygon, other) for (polygon, maps), (other, others) in combinations(regions, 2)
    )


def _border(polygon, other):
    for p, q in pairwise([*polygon, polygon[0]]):
        for r, s in pairwise([*other, other[0]]):
            side = (q[0] - p[0], q[1] - p[1])
            if any(side[0] * (x[1] - p[1]) != side[1] * (x[0] - p[0]) for x in (r, s)):
                continue
            along = [side[0] * (x[0] - p[0]) + side[1] * (x[1] - p[1]) for x in (p, q, r, s)]
            if min(max(along[:2]), max(along[2:])) > max(min(along[:2]), min(along[2:])):
                return True
    return False
