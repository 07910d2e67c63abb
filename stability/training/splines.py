"""The best continuous piecewise-linear fit of a task with a given number of folds, and how much better one could be.

Two searches on the same points. Independent straight lines on consecutive runs of points, as many as the spline has
pieces, need not meet, so their best error is below that of every spline: a limit, found exactly by dynamic programming
over where the runs start. A spline is found from there: its knots start where those lines meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stability.checks import check_integer
from stability.training.knots import fit_values, improve, insertions, joined_lines
from stability.training.segments import UNIT, one_more_segment, segment_costs
from stability.training.task import Task

Array = NDArray[np.float64]

#: All pairs of points are looked at: 5000 take 100 MB.
MOST_POINTS = 5000
#: Mean squares, of a target of size 1, that are rounding and no longer an error.
ROUNDING = 1e-30
#: Steps of Levenberg-Marquardt from each start, and from how many pieces a knot is inserted.
ROUNDS, INSERTED = 200, 3


@dataclass(frozen=True, eq=False)
class Spline:
    """A continuous piecewise-linear fit, and what no other with as many folds can go below.

    Attributes:
        error: its mean-squared error over the points of the task.
        lower_bound: what the mean-squared error of every continuous piecewise-linear function with as many folds, or
            fewer, is at least, rounding included. Where the two agree the spline is the best one.
        knots: (K + 2,) increasing, the ends of the interval among them; K is at most the number of folds asked for.
        values: (K + 2,), at the knots. `st.PiecewiseLinear(spline.knots, spline.values)` is the same function.
    """

    error: float
    lower_bound: float
    knots: Array
    values: Array

    def __call__(self, x: ArrayLike) -> Array:
        """Return the spline's values on x, of the shape of x; beyond the ends the value at the end."""
        return np.asarray(np.interp(x, self.knots, self.values))


def best_spline(task: Task, folds: int) -> Spline:
    """Return the least-squares continuous piecewise-linear fit with at most `folds` free knots.

    The lower bound is the least error of folds + 1 straight pieces that need not meet: it is exact but for rounding,
    which is subtracted. The fit is the best of some local minima: from where those pieces meet, and from the fit with
    one fold fewer and a knot more where it gains the most, each improved by Levenberg-Marquardt. So it is never worse
    than with fewer folds. For a smooth target with a bend for every knot error and bound agree to some digits; for an
    oscillating target with few knots, or a noisy one, they may be apart, and the best spline is between the two.

    A network with as many folds can be no better than the bound. A chain's folds multiply and can be more than its
    steps, so to set a fit against its limit, count its folds with `st.count`.

    What is computed for a task is kept: other numbers of folds on the same points then cost little.

    Args:
        task: of one variable, with at most 5000 distinct points.
        folds: how many knots inside the interval at most, >= 0.

    Raises:
        ValueError, TypeError: for points of more than one variable, more than 5000, and folds below 0.

    >>> import torch, stability as st
    >>> spline = st.references.best_spline(st.Task(torch.sin, (-3, 3)), folds=2)
    >>> f"{spline.error:.4e} {spline.lower_bound:.4e}", spline.knots.round(2).tolist()
    ('4.7160e-03 4.7160e-03', [-3.0, -1.36, 1.36, 3.0])
    """
    folds = check_integer("folds", folds, 0)
    if task.x.ndim != 1:
        raise ValueError(f"the task has points of shape {tuple(task.x.shape)}: references need one variable")
    return _search(task.x.numpy().tobytes(), task.y.numpy().tobytes()).best(folds)


@lru_cache(maxsize=4)
def _search(x: bytes, y: bytes) -> _Search:
    return _Search(np.frombuffer(x), np.frombuffer(y))


class _Search:
    """The limits and the splines of some samples, for ever more folds."""

    def __init__(self, x: Array, y: Array) -> None:
        order = np.argsort(x, kind="stable")
        self.x, self.y = x[order], y[order]
        distinct, starts = np.unique(self.x, return_index=True)
        points = len(distinct)
        if points > MOST_POINTS:
            raise ValueError(
                f"the task has {points} distinct points: best_spline looks at all pairs and takes at most "
                f"{MOST_POINTS}; give a task with fewer"
            )
        self.ends = np.append(starts, len(x))
        # Scaled by powers of 2, which is exact.
        self.size = 2.0 ** np.frexp(np.abs(self.y).max())[1]
        self.costs = segment_costs(
            np.ldexp(self.x, -np.frexp(np.abs(self.x).max())[1] - 1), self.y / self.size, self.ends
        )
        places = np.arange(points)
        self.sums = [self.costs[places * (places + 1) // 2].copy()]
        self.firsts: list[NDArray[np.int32]] = []
        # The splines are looked for on unit scales, where neither the size of x nor that of y matters.
        half = self.x[-1] / 2 - self.x[0] / 2
        self.unit_x = (self.x / 2 - self.x[0] / 2) / (half or 1.0)
        self.middle = float(np.mean(self.y / self.size)) * self.size
        self.spread = float(np.abs(self.y - self.middle).max()) or 1.0
        self.unit_y = (self.y - self.middle) / self.spread
        self.found: list[tuple[Array, Array]] = []
        self.splines: list[Spline] = []
        self.done = False

    def best(self, folds: int) -> Spline:
        points = len(self.ends) - 1
        folds = min(folds, max(points - 2, 0))
        while len(self.splines) <= folds and not self.done:
            self._add()
        return self.splines[min(folds, len(self.splines) - 1)]

    def _add(self) -> None:
        """Find the spline with one fold more."""
        folds, points = len(self.splines), len(self.ends) - 1
        if folds:
            first = np.zeros(points, np.int32)
            self.sums.append(one_more_segment(self.costs, self.sums[-1], first))
            self.firsts.append(first)
        starts = [self._from_lines(folds)]
        if folds:
            starts += self._with_a_knot_more()
        if folds + 2 >= points:
            starts = [(self.unit_x[self.ends[:-1]], np.zeros(points))]
        candidates = []
        for knots, values in starts:
            if len(knots) > 2 and folds + 2 < points:
                total = improve(self.unit_x, self.unit_y, knots, values, ROUNDS)
            else:
                total = fit_values(self.unit_x, self.unit_y, knots, values, np.empty((len(knots) - 1, 5)))
            candidates.append((total, knots, values))
        total, knots, values = min(candidates, key=lambda c: c[0])
        spline = self._spline(knots, values)
        if folds and spline.error >= self.splines[-1].error:
            knots, values = self.found[-1]
            before = self.splines[-1]
            spline = Spline(before.error, min(self._limit(), before.error), before.knots, before.values)
        self.found.append((knots, values))
        self.splines.append(spline)
        # The bound of the last is at most the rounding too.
        self.done = bool(total <= ROUNDING * len(self.x))

    def _from_lines(self, folds: int) -> tuple[Array, Array]:
        """The knots where the best independent lines meet."""
        first_points, last = [0], len(self.ends) - 2
        for first in reversed(self.firsts[:folds]):
            # An empty run starts behind the last point.
            if 0 < first[last] <= last:
                first_points.append(int(first[last]))
            last = int(first[last]) - 1
        knots = joined_lines(self.unit_x, self.unit_y, self.ends[np.sort(first_points)])
        return knots, np.interp(knots, self.unit_x, self.unit_y)

    def _with_a_knot_more(self) -> list[tuple[Array, Array]]:
        """The last spline with a knot more, in the pieces where it gains the most."""
        knots, values = self.found[-1]
        gains, places = np.empty(len(knots) - 1), np.empty(len(knots) - 1)
        insertions(self.unit_x, self.unit_y, knots, values, gains, places)
        starts = []
        for j in np.argsort(-gains, kind="stable")[:INSERTED]:
            if gains[j] > 0:
                more = np.insert(knots, j + 1, places[j])
                starts.append((more, np.interp(more, knots, values)))
        return starts

    def _limit(self) -> float:
        """The lower bound for as many folds as there are rows of sums."""
        sums = self.sums[-1]
        # A sum of that many terms, none below 0, and the mean.
        rounding = 2 * (len(self.sums) + 4) * UNIT
        return float(sums[-1] * (1 - rounding) / len(self.x)) * self.size**2

    def _spline(self, knots: Array, values: Array) -> Spline:
        """On the scales of the task."""
        knots = self.x[0] * (1 - knots) + self.x[-1] * knots
        values = values * self.spread + self.middle
        residuals = (np.interp(self.x, knots, values) - self.y) / self.size
        error = float(np.mean(residuals**2)) * self.size**2
        for array in (knots, values):
            array.flags.writeable = False
        return Spline(error, min(self._limit(), error), knots, values)
