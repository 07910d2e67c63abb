"""The best continuous piecewise-linear fit of a task with a given number of folds, and how much better one could be.

Two searches on the same points. Independent straight lines on consecutive runs of points, as many as the spline has
pieces, need not meet, so their best error is below that of every spline: a limit, found exactly by dynamic programming
over where the runs start. A spline is found from there: its knots are first set between those runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer
from stability.foundation.formats import ROUNDOFF
from stability.training.kernels.knots import improve, insertions
from stability.training.kernels.segments import one_more_knot, one_more_segment, segment_costs
from stability.training.task import Task, check_task

Array = NDArray[np.float64]

#: All pairs of points are looked at: 5000 take 100 MB.
MOST_POINTS = 5000
#: Mean squares, of a target of size 1, that are rounding and no longer an error.
ROUNDING = 1e-30
#: Steps of Levenberg-Marquardt from each start: 200 lowered the errors of noisy samples by less than 1e-4.
ROUNDS = 60
#: A spline whose error is that many times the bound is looked for no further.
CLOSE = 1 + 1e-6


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
        return np.asarray(np.interp(np.asarray(x, float), self.knots, self.values))


@door
def best_spline(task: Task, folds: int) -> Spline:
    """Return the least-squares continuous piecewise-linear fit with at most `folds` free knots.

    The lower bound is the least error of folds + 1 straight pieces that need not meet: it is exact but for rounding,
    which is subtracted. The fit is the best of three local minima, by Levenberg-Marquardt from three starts: knots
    between those pieces; a good spline with its knots on points, by a second dynamic programme; and the fit with one
    fold fewer, with a knot more where it gains the most. Where none is better than that fit it is kept, so that the
    error never rises with the folds. For a smooth target with a bend for every knot error and bound agree to some
    digits; for an oscillating target with few knots, or a noisy one, they may be apart: the best is between the two.

    No network of one input with as many folds is below the bound. A chain's folds multiply and can be more than its
    steps: to set a fit against its own limit, count its folds with `st.count`.

    What is computed for a task is kept: other numbers of folds on the same points then cost little.

    Args:
        task: of one variable, with at most 5000 distinct points.
        folds: how many knots inside the interval at most, >= 0.

    Raises:
        ValueError, TypeError: for points of more than one variable, more than 5000, and folds below 0.

    >>> import torch, stability as st
    >>> spline = st.references.best_spline(st.Task(torch.sin, (-3, 3)), folds=2)
    >>> f"{spline.error:.4e} {spline.lower_bound:.4e}", spline.knots.round(2).tolist()
    ('4.7160e-03 4.7160e-03', [-3.0, -1.44, 1.44, 3.0])
    """
    folds = check_integer("folds", folds, 0)
    check_task(task)
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
        self.exponent = int(np.frexp(np.abs(self.y).max())[1])
        self.scaled_y = np.ldexp(self.y, -self.exponent)
        scaled_x = np.ldexp(self.x, -int(np.frexp(np.abs(self.x).max())[1]) - 1)
        self.costs = segment_costs(scaled_x, self.scaled_y, self.ends)
        places = np.arange(points)
        self.sums = [self.costs[places * (places + 1) // 2].copy()]
        self.firsts: list[NDArray[np.int32]] = []
        # The splines are looked for on unit scales, where neither the size of x nor that of y matters.
        half = self.x[-1] / 2 - self.x[0] / 2
        self.unit_x = (self.x / 2 - self.x[0] / 2) / (half or 1.0)
        self.middle = float(np.mean(self.scaled_y))
        self.spread = float(np.abs(self.scaled_y - self.middle).max()) or 1.0
        self.unit_y = (self.scaled_y - self.middle) / self.spread
        self.unit_costs = self.costs / self.spread**2
        self.sums_below = np.zeros((6, points + 1))
        of_samples = np.stack([np.ones(len(x)), self.unit_x, self.unit_x**2])
        of_samples = np.concatenate([of_samples, of_samples[:2] * self.unit_y, self.unit_y[None] ** 2])
        self.sums_below[:, 1:] = np.cumsum(of_samples, axis=1)[:, self.ends[1:] - 1]
        self.met = np.full((points, 4), np.inf)
        self.met[0, :3] = self.sums_below[0, 1], -2 * self.sums_below[3, 1], self.sums_below[5, 1]
        self.met[0, 3] = 0.0
        self.befores: list[NDArray[np.int32]] = []
        #: The last spline, on unit scales.
        self.found = np.empty(0), np.empty(0)
        self.splines: list[Spline] = []
        self.done = False

    def best(self, folds: int) -> Spline:
        points = len(self.ends) - 1
        folds = min(folds, max(points - 2, 0))
        while len(self.splines) <= folds and not self.done:
            self._add()
        if folds < len(self.splines):
            return self.splines[folds]
        # The last has no error but rounding, and its bound is one for fewer folds.
        return replace(self.splines[-1], lower_bound=0.0)

    def _add(self) -> None:
        """Find the spline with one fold more."""
        folds, points = len(self.splines), len(self.ends) - 1
        if folds:
            first = np.zeros(points, np.int32)
            self.sums.append(one_more_segment(self.costs, self.sums[-1], first))
            self.firsts.append(first)
        if folds + 2 >= points:
            # Through the mean of the samples on every point.
            means = np.add.reduceat(self.scaled_y, self.ends[:-1]) / np.diff(self.ends)
            spline = self._spline(self.x[self.ends[:-1]], means)
        else:
            total, knots, values = self._improved(self._from_lines(folds))
            if folds and total > CLOSE * self.sums[-1][-1] / self.spread**2:
                starts = [self._from_points(folds), self._with_a_knot_more()]
                total, knots, values = min([(total, knots, values), *map(self._improved, starts)], key=lambda c: c[0])
            self.done = bool(total <= ROUNDING * len(self.x))
            spline = self._spline(self.x[0] * (1 - knots) + self.x[-1] * knots, values * self.spread + self.middle)
            if folds == 0 or spline.error < self.splines[-1].error:
                self.found = knots, values
        if folds and not spline.error < self.splines[-1].error:
            before = self.splines[-1]
            spline = replace(before, lower_bound=min(self._limit(), before.error))
        self.splines.append(spline)

    def _improved(self, start: tuple[Array, Array]) -> tuple[float, Array, Array]:
        """The sum of squares, knots and values of the local minimum from a start."""
        # Points closer than the rounding of the whole interval give the same knot.
        knots, where = np.unique(start[0], return_index=True)
        values = start[1][where]
        return improve(self.unit_x, self.unit_y, knots, values, ROUNDS), knots, values

    def _from_lines(self, folds: int) -> tuple[Array, Array]:
        """Knots in the middle of the gaps between the runs of the best independent lines."""
        starts, last = [], len(self.ends) - 2
        for first in reversed(self.firsts[:folds]):
            # An empty run starts behind the last point.
            if 0 < first[last] <= last:
                starts.append(self.ends[first[last]])
            last = int(first[last]) - 1
        gaps = np.array(starts[::-1], int)
        knots = np.concatenate([[0.0], (self.unit_x[gaps - 1] + self.unit_x[gaps]) / 2, [1.0]])
        return knots, np.interp(knots, self.unit_x, self.unit_y)

    def _from_points(self, folds: int) -> tuple[Array, Array]:
        """The knots of a good spline that has them on points."""
        while len(self.befores) <= folds:
            before = np.zeros(len(self.ends) - 1, np.int32)
            self.met = one_more_knot(self.unit_x[self.ends[:-1]], self.sums_below, self.unit_costs, self.met, before)
            self.befores.append(before)
        points = [len(self.ends) - 2]
        for before in reversed(self.befores):
            points.append(int(before[points[-1]]))
        knots = self.unit_x[self.ends[np.unique(points)]]
        return knots, np.interp(knots, self.unit_x, self.unit_y)

    def _with_a_knot_more(self) -> tuple[Array, Array]:
        """The last spline with a knot more, where it gains the most."""
        knots, values = self.found
        gains, places = np.empty(len(knots) - 1), np.empty(len(knots) - 1)
        insertions(self.unit_x, self.unit_y, knots, values, gains, places)
        j = int(np.argmax(gains))
        more = np.insert(knots, j + 1, places[j])
        return more, np.interp(more, knots, values)

    def _limit(self) -> float:
        """The lower bound for as many folds as there are rows of sums."""
        # A sum of that many terms, none below 0, and the mean.
        rounding = 2 * (len(self.sums) + 4) * ROUNDOFF
        return self._in_units_of_y(float(self.sums[-1][-1]) * (1 - rounding) / len(self.x))

    def _in_units_of_y(self, error: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.ldexp(error, 2 * self.exponent))

    def _spline(self, knots: Array, values: Array) -> Spline:
        """The spline with such knots and scaled values."""
        knots, where = np.unique(knots, return_index=True)
        values = values[where]
        error = self._in_units_of_y(float(np.mean((np.interp(self.x, knots, values) - self.scaled_y) ** 2)))
        values = np.ldexp(values, self.exponent)
        for array in (knots, values):
            array.flags.writeable = False
        return Spline(error, min(self._limit(), error), knots, values)
