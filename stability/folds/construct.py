"""Chains made to measure: the step table of a given piecewise-linear function, where there is one.

A step h -> h + outer_weight relu(weight h + bias) + outer_bias has one kink. On an interval, two of them make any map
of one kink, so the functions of such chains are the finite compositions of one-kink maps.

Theorem. Such a function, and every uniform limit of them, is monotone on some stretch on which it takes its whole
range. For a one-kink map is monotone or V-shaped; of a V keep the side with the larger image: it has the range of
both. So the stretch of the steps before has a part on which the range is kept, and a limit of stretches is a stretch.
It follows that x + 1.5 sin 3x is out of reach however deep the chain is.

The construction undoes the last fold first. A step that is not one-to-one on its range folds or flattens at the
highest or the lowest value that comes out; what is in between two places where the function is highest is either side
of the fold. Reflecting some of it upwards gives the function before the fold, which has fewer turns. What is strictly
monotone in the end takes one step a knot.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stability.folds.exact_count import count_table
from stability.folds.piecewise import PiecewiseLinear
from stability.foundation.arguments import door
from stability.foundation.checks import check_integer

Points = list[tuple[Fraction, Fraction]]
#: A step h + scale relu(side (h - kink)) + shift.
Step = tuple[Fraction, int, Fraction, Fraction]

_BUDGET = 20_000


@door
def tent(depth: int) -> NDArray[np.float64]:
    """Return the table (depth, 6) that folds (0, 1) into 2^depth monotone pieces, 2^depth - 1 folds and turns.

    Every step is h -> 1 - 2 |h - 1/2|, which float64 holds exactly.

    >>> import stability as st
    >>> c = st.count(st.tent(100), (0, 1))
    >>> c.folds == c.turns == 2**100 - 1
    True
    """
    return np.tile([0.0, 1.0, -0.5, -2.0, 1.0, -1.0], (check_integer("depth", depth, 1), 1))


@door
def construct(function: PiecewiseLinear | ArrayLike, values: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the step table (rows, 6) of a `residual2_relu` chain that equals a piecewise-linear function.

    It is found in exact arithmetic, and the table is its rounding to float64: the chain has the turns of the function,
    and its values to a few roundings a step, times the largest slope. It has its folds too, but where extrema have
    equal heights a fold may come apart into two that are a rounding apart.

    Args:
        function: a scalar `PiecewiseLinear`, or knots (K,), increasing.
        values: (K,), with knots.

    Raises:
        ValueError: where no chain of one neuron equals the function, with the reason. It must be monotone on some
            stretch on which it takes its whole range, and so must be what is left when folds are undone (Peng's "it
            can fit any function" ends here); it must not be flat inside a stretch on which it is monotone.

    >>> import stability as st
    >>> table = st.construct([0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 1.5])
    >>> st.restrict(table, (0, 3)).simplify().values.tolist()
    [0.0, 2.0, 1.0, 1.5]
    >>> st.construct([0.0, 1.0, 2.0, 3.0], [0.0, 0.6, 0.4, 1.0])
    Traceback (most recent call last):
    ValueError: no chain of one neuron equals this function: its range is [0, 1], and the monotone stretch ...
    """
    f = function if isinstance(function, PiecewiseLinear) else PiecewiseLinear(function, _given(values))
    f = f._scalar("chains of one neuron").to_exact()
    points = _simplified(list(zip(f.knots.tolist(), f.values.tolist(), strict=True)))
    if (reason := _impossible(points)) is not None:
        raise ValueError(f"no chain of one neuron equals this function: {reason}")
    steps = _Search().unfold(points)
    if steps is None:
        raise ValueError(
            "no chain of one neuron equals this function: it takes its whole range on a monotone stretch, but "
            "whichever of its folds are undone, what is left does not"
        )
    return _rounded(steps, f.simplify())


def _rounded(steps: Sequence[Step], f: PiecewiseLinear) -> NDArray[np.float64]:
    """Return the table of the steps in float64, with the folds and turns of `f`.

    Where an end of the interval is as high as a fold, rounding may carry it past the fold. Then kinks are moved by
    some roundings, outwards or inwards, until the counts are right.
    """
    rows = [
        (1.0, float(side), float(-side * kink), float(scale), float(shift), 0.0) for kink, side, scale, shift in steps
    ]
    table = np.array(rows or [(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)])
    low, high = map(float, f.interval)
    wanted = f.count()
    folding = [i for i, (_, side, scale, _) in enumerate(steps) if side * scale <= -1][-6:]
    size = max(float(abs(f.values).max()), abs(low), abs(high))
    nearest: NDArray[np.float64] | None = None
    for moves in sorted(itertools.product((0, 1, -1), repeat=len(folding)), key=lambda m: sum(map(abs, m))):
        moved = table.copy()
        moved[folding, 2] += np.array(moves) * 2.0**-44 * size
        folds, turns, *_ = count_table(moved, (low, high))
        if (folds, turns) == (wanted.folds, wanted.turns):
            return moved
        if turns == wanted.turns and nearest is None:
            nearest = moved
    if nearest is None:
        raise ValueError(
            "the chain that equals this function does not keep its turns when it is rounded to float64: move the "
            "values a little, so that no two of its extrema are nearly equal"
        )
    return nearest


def _given(values: ArrayLike | None) -> ArrayLike:
    if values is None:
        raise TypeError("there are no values: expected st.construct(function) or st.construct(knots, values)")
    return values


def _simplified(points: Points) -> Points:
    """Drop the points at which nothing bends."""
    kept: Points = []
    for point in points:
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) == _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    return (b[1] - a[1]) / (b[0] - a[0])


def _impossible(points: Points) -> str | None:
    """Why no chain can equal the function, as far as one look tells; None where it may."""
    values = [v for _, v in points]
    low, high = min(values), max(values)
    if low == high:
        return None
    rises = [(b > a) - (b < a) for a, b in itertools.pairwise(values)]
    for i in range(1, len(rises) - 1):
        if rises[i] == 0 and rises[i - 1] == rises[i + 1]:
            return (
                f"it is flat from {float(points[i][0]):g} to {float(points[i + 1][0]):g} inside a stretch on which it "
                "is monotone, and a chain can only flatten what is highest or lowest"
            )
    best, start = (Fraction(0), 0, 0), 0
    for i in range(1, len(values)):
        # A stretch goes on while no two rises in it have opposite signs.
        if rises[i - 1] and any(r == -rises[i - 1] for r in rises[start : i - 1]):
            start = i - 1
            while start > 0 and rises[start - 1] == 0:
                start -= 1
        best = max(best, (abs(values[i] - values[start]), start, i), key=lambda b: b[0])
    if best[0] == high - low:
        return None
    return (
        f"its range is [{float(low):g}, {float(high):g}], and the monotone stretch with the largest share of it, "
        f"from {float(points[best[1]][0]):g} to {float(points[best[2]][0]):g}, has only "
        f"{float(best[0] / (high - low)):.0%}; every step of a chain keeps its whole range on such a stretch"
    )


class _Search:
    """Undo folds until the function is monotone; where there are several ways, try them all."""

    def __init__(self) -> None:
        self.failed: set[tuple[int, ...]] = set()
        self.tried = 0

    def unfold(self, points: Points) -> list[Step] | None:
        """Return the steps of the function, first to last, or None if no way leads there."""
        if _impossible(points) is not None:
            return None
        if (steps := _monotone(points)) is not None:
            return steps
        ranks = sorted({v for _, v in points})
        shape = tuple(ranks.index(v) for _, v in points)
        if shape in self.failed:
            return None
        self.tried += 1
        if self.tried > _BUDGET:
            raise ValueError(
                f"the function has {len(points)} knots, and {_BUDGET} ways of undoing its folds did not decide "
                "whether a chain of one neuron equals it: expected a simpler function"
            )
        for side in (1, -1):
            for before, step in _before_last(points, side):
                if (steps := self.unfold(_simplified(before))) is not None:
                    return [*steps, step]
        self.failed.add(shape)
        return None


def _before_last(points: Points, side: int) -> Iterator[tuple[Points, Step]]:
    """The functions that one step at the highest value (side 1) or the lowest (side -1) makes into this one."""
    level = side * max(side * v for _, v in points)
    reach = max(v for _, v in points) - min(v for _, v in points)
    runs = [list(run) for at, run in itertools.groupby(range(len(points)), lambda i: points[i][1] == level) if at]
    flat = [run for run in runs if len(run) > 1]
    # Flattened last: each flat stretch was a peak; its sides go on as they come, or the peaks are higher and lower.
    if flat:
        yield _raised(points, flat, None), (level, side, Fraction(-side), Fraction(0))
        choices = itertools.product(range(1, min(len(flat), 3) + 1), repeat=len(flat))
        for heights in itertools.islice(choices, 27):
            tops = [level + side * h * reach for h in heights]
            yield _raised(points, flat, tops), (level, side, Fraction(-side), Fraction(0))
    # Folded last: what lies between two highest places was on one side of the fold or on the other.
    inner = [run for run in runs if run[0] > 0 and run[-1] < len(points) - 1]
    for change in sorted(itertools.product((1, 0), repeat=min(len(inner), 12)), key=sum, reverse=True):
        changes = list(change) + [1] * (len(inner) - len(change))
        if not any(changes) or any(c and len(run) > 1 for c, run in zip(changes, inner, strict=True)):
            continue
        # The fold is as steep as to leave nothing to bend at its first place.
        i = inner[changes.index(1)][0]
        steepness = abs(_slope(points[i], points[i + 1]) / _slope(points[i - 1], points[i]))
        before, reflected, passed = [], False, 0
        for i, (t, v) in enumerate(points):
            if passed < len(inner) and i > inner[passed][-1]:
                reflected ^= bool(changes[passed])
                passed += 1
            before.append((t, level + (level - v) / steepness if reflected else v))
        yield before, (level, side, -side * (1 + steepness), Fraction(0))


def _raised(points: Points, flat: Sequence[Sequence[int]], tops: Sequence[Fraction] | None) -> Points:
    """Return the function with peaks of these heights in the place of its flat stretches."""
    before: Points = []
    done = 0
    for number, run in enumerate(flat):
        i, j = run[0], run[-1]
        (left, level), (right, _) = points[i], points[j]
        before += points[done:i]
        rise = _slope(points[i - 1], points[i]) if i > 0 else None
        fall = _slope(points[j], points[j + 1]) if j < len(points) - 1 else None
        if tops is None:
            if rise is None or fall is None:
                middle = left if rise is None else right
            else:
                middle = (rise * left - fall * right) / (rise - fall)
            top = level + (fall * (middle - right) if rise is None else rise * (middle - left))  # type: ignore[operator]
        else:
            middle = left if rise is None else right if fall is None else (left + right) / 2
            top = tops[number]
        before += [(left, level)] * (rise is not None) + [(middle, top)] + [(right, level)] * (fall is not None)
        done = j + 1
    return before + points[done:]


def _monotone(points: Points) -> list[Step] | None:
    """The steps of a constant or strictly monotone function, None for others."""
    start = points[0][0]
    if all(v == points[0][1] for _, v in points):
        return [(start, 1, Fraction(-1), points[0][1] - start)]
    slopes = [_slope(a, b) for a, b in itertools.pairwise(points)]
    if not all(s > 0 for s in slopes) and not all(s < 0 for s in slopes):
        return None
    # The first piece first, by a kink at the left end; then the others, each from its own value on, in the order of
    # the values that the line has passed by then.
    steps = [(start, 1, slopes[0] - 1, points[0][1] - start)]
    side = 1 if slopes[0] > 0 else -1
    for (_, kink), old, new in zip(points[1:-1], slopes[:-1], slopes[1:], strict=True):
        steps.append((kink, side, side * (new / old - 1), Fraction(0)))
    return [step for step in steps if step[2] != 0 or step[3] != 0]
