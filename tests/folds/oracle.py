"""Chains of width 1 enumerated along the line in rational arithmetic, sharing no code with the package.

A piece is x -> (slope x + intercept) / denominator with integers, one denominator for all pieces of a layer; a break is
(p, q) for x = p / q with q >= 0, infinity being (1, 0). No fraction is reduced and nothing is rounded.
"""

import math
from fractions import Fraction
from itertools import pairwise


def _sign(value):
    return (value > 0) - (value < 0)


def _break(x):
    if math.isinf(x):
        return (1 if x > 0 else -1), 0
    return Fraction(x).as_integer_ratio()


def enumerate_pieces(table, interval, limit=1500):
    """Return (rows, breaks, slopes): how many rows were run before more than `limit` pieces came, and the pieces."""
    breaks, pieces, denominator = [_break(float(end)) for end in interval], [(1, 0)], 1
    for row, numbers in enumerate(table):
        exact = [Fraction(float(v)) for v in numbers]
        d = max(v.denominator for v in exact)
        skip, weight, bias, outer_weight, outer_bias, slope = (int(v * d) for v in exact)
        new_breaks, new_pieces = breaks[:1], []
        for (p, q), (p1, q1), (a, b) in zip(breaks, breaks[1:], pieces, strict=False):
            za, zb = weight * a, weight * b + bias * denominator
            # At infinity the sign of a constant is that of its intercept.
            left = _sign(za * p + zb * q) if za or q else _sign(zb)
            right = _sign(za * p1 + zb * q1) if za or q1 else _sign(zb)
            if left * right < 0:
                new_breaks.append((-zb, za) if za > 0 else (zb, -za))
                sides = (left, right)
            else:
                sides = (left or right,)
            for side in sides:
                factor = outer_weight * (d if side > 0 else slope)
                new_pieces.append(
                    (skip * a * d * d + factor * za, (skip * b + outer_bias * denominator) * d * d + factor * zb)
                )
            new_breaks.append((p1, q1))
        if len(new_pieces) > limit:
            return row, breaks, [a for a, _ in pieces]
        breaks, pieces, denominator = new_breaks, new_pieces, denominator * d**3
        # What all have in common would only make the integers longer.
        common = denominator
        for a, b in pieces:
            common = min(common, a & -a or common, b & -b or common)
        shift = common.bit_length() - 1
        pieces, denominator = [(a >> shift, b >> shift) for a, b in pieces], denominator >> shift
    return len(table), breaks, [a for a, _ in pieces]


def count_pieces(slopes):
    """Return folds, turns and regions of the slopes of adjacent pieces."""
    signs = [_sign(a) for a in slopes if a]
    folds = sum(a != b for a, b in pairwise(slopes))
    turns = sum(a != b for a, b in pairwise(signs))
    return folds, turns, len(slopes)


def count(table, interval):
    """Return folds, turns and regions inside an open interval, ends at infinity allowed."""
    rows, _, slopes = enumerate_pieces(table, interval, limit=10**5)
    assert rows == len(table)
    return count_pieces(slopes)
