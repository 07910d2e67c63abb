"""Piecewise-linear functions of a line in rational arithmetic, sharing no code with the package.

A function is a list of pieces (left, right, lines), adjacent and from left to right, with one line (slope, intercept)
an entry. A piece ends where a decision changes, whether the function bends there or not.
"""

from fractions import Fraction
from itertools import pairwise


def identity(low, high):
    return [(Fraction(low), Fraction(high), [(Fraction(1), Fraction(0))])]


def linear(pieces, weight, bias):
    """The map of numbers as they are stored: weight (outputs, inputs), bias (outputs,)."""
    return [
        (
            left,
            right,
            [
                (
                    sum(Fraction(w) * a for w, (a, _) in zip(row, lines, strict=True)),
                    sum(Fraction(w) * b for w, (_, b) in zip(row, lines, strict=True)) + Fraction(shift),
                )
                for row, shift in zip(weight, bias, strict=True)
            ],
        )
        for left, right, lines in pieces
    ]


def _split(left, right, cuts):
    return pairwise([left, *sorted({c for c in cuts if left < c < right}), right])


def _root(line):
    return -line[1] / line[0] if line[0] else None


def leaky(pieces, slope):
    out = []
    for left, right, lines in pieces:
        for start, end in _split(left, right, [c for c in map(_root, lines) if c is not None]):
            middle = (start + end) / 2
            factors = [1 if a * middle + b > 0 else Fraction(slope) for a, b in lines]
            out.append((start, end, [(f * a, f * b) for f, (a, b) in zip(factors, lines, strict=True)]))
    return out


def joined(*branches):
    """All entries of all branches."""
    cuts = sorted({end for pieces in branches for left, right, _ in pieces for end in (left, right)})
    return [
        (
            start,
            end,
            [line for pieces in branches for left, right, lines in pieces if left <= start < right for line in lines],
        )
        for start, end in pairwise(cuts)
    ]


def largest(pieces, windows):
    """The largest entry of every window; a piece ends where it is another one."""
    out = []
    for left, right, lines in pieces:
        cuts = []
        for window in windows:
            for i in window:
                for j in window:
                    root = _root((lines[i][0] - lines[j][0], lines[i][1] - lines[j][1]))
                    if root is not None and all(_at(lines[k], root) <= _at(lines[i], root) for k in window):
                        cuts.append(root)
        for start, end in _split(left, right, cuts):
            middle = (start + end) / 2
            out.append((start, end, [max((lines[k] for k in w), key=lambda one: _at(one, middle)) for w in windows]))
    return out


def composed(outer, inner):
    """outer(inner(t)) of scalars."""
    out = []
    for left, right, [(a, b)] in inner:
        cuts = [(level - b) / a for low, high, _ in outer for level in (low, high)] if a else []
        for start, end in _split(left, right, cuts):
            value = a * (start + end) / 2 + b
            (c, d) = next(lines[0] for low, high, lines in outer if low <= value <= high)
            out.append((start, end, [(c * a, c * b + d)]))
    return out


def through(knots, values):
    """The function through points, of the stored numbers."""
    points = [(Fraction(t), Fraction(v)) for t, v in zip(knots, values, strict=True)]
    slopes = [(v - u) / (t - s) for (s, u), (t, v) in pairwise(points)]
    return [(s, t, [(a, u - a * s)]) for ((s, u), (t, _)), a in zip(pairwise(points), slopes, strict=True)]


def _at(line, t):
    return line[0] * t + line[1]


def count(pieces):
    """Folds, turns (None for vectors) and regions."""
    slopes = [tuple(a for a, _ in lines) for _, _, lines in pieces]
    folds = sum(a != b for a, b in pairwise(slopes))
    signs = [s[0] > 0 for s in slopes if s[0]]
    turns = sum(a != b for a, b in pairwise(signs)) if len(slopes[0]) == 1 else None
    return folds, turns, len(slopes)
