"""Where rounding leaves decisions open the network is followed again, in rational numbers, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import Array, row_size
from stability.folds.origins import gathered
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places
from stability.foundation.formats import ROUNDOFF

#: How many products of rational numbers one call may take to settle what is open: some seconds.
BUDGET = 2e7 if find_spec("flint") else 4e5

_left: ContextVar[list[float] | None] = ContextVar("what is left of the budget", default=None)


#: What it takes to write down all linear maps of a network, which is followed in float64, in these products.
writing: ContextVar[list[float] | None] = ContextVar("what it takes to write the maps down", default=None)


class TooExpensive(Exception):
    """A part of a line takes more products of rational numbers than there are left."""


def spend(products: float) -> None:
    """Take products of rational numbers from the budget, if there is one."""
    left = _left.get()
    if left is not None:
        if products > left[0]:
            raise TooExpensive
        left[0] -= products


@contextmanager
def budget(left: list[float]) -> Iterator[None]:
    """Let what is done until the end of the block take no more products than these, of which it takes its own."""
    token = _left.set(left)
    try:
        yield
    finally:
        _left.reset(token)


def price(inputs: int, outputs: int) -> float:
    """Return what it takes to write a linear map down, a tenth of what its products do."""
    return inputs * outputs / 10


def settle(f: PiecewiseLinear, exactly: Callable[[float, float], PiecewiseLinear], least: float) -> PiecewiseLinear:
    """Return a function of which the stretches in doubt are replaced by what exact arithmetic finds there.

    Args:
        f: in float64.
        exactly: returns the function on part of the line, from one float to another, in rational numbers, or in float64
            with smaller doubts.
        least: how many products any part takes at least.
    """
    stretches = in_doubt(f)
    if not len(stretches) or least > BUDGET:
        return f
    left, parts, open_ones = _left.get() or [BUDGET], [], []
    start = f.knots[0]
    for low, high in _windows(f, stretches):
        try:
            with budget(left):
                spend(1)
                part = exactly(low, high)
                part = _rounded(part) if part.exact else part
        except (TooExpensive, TypeError) as error:
            if isinstance(error, TypeError):  # a network with numbers that are not rational, such as roots
                left[0] = 0.0
            open_ones.append(stretches[(stretches[:, 1] >= low) & (stretches[:, 0] <= high)])
            continue
        if start < low:
            parts.append(f.restrict(start, low))
        parts.append(part)
        open_ones.extend(part._undecided.values())
        start = high
    if not parts:
        return f
    if start < f.knots[-1]:
        parts.append(f.restrict(start, f.knots[-1]))
    undecided = np.concatenate(open_ones) if open_ones else np.empty((0, 2))
    return _joined(parts, undecided, f)


def in_doubt(f: PiecewiseLinear) -> NDArray[np.float64]:
    """Return the stretches of the line in doubt, (n, 2)."""
    found = list(f._undecided.values())
    lost, count = f._lost(), len(f.knots)
    slopes = np.flatnonzero(lost[: len(lost) - (count - 2)])
    bends = np.flatnonzero(lost[len(lost) - (count - 2) :]) + 1
    found.append(np.stack([f.knots[slopes], f.knots[slopes + 1]], axis=1))
    found.append(np.stack([f.knots[bends], f.knots[bends]], axis=1))
    return np.concatenate(found)


def _windows(f: PiecewiseLinear, stretches: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return parts of the line around stretches, which begin and end where no knot can be."""
    first, last = f.interval
    knots = f._places[1:-1]
    low = np.concatenate([stretches[:, 0], knots.at - knots.error])
    high = np.concatenate([stretches[:, 1], knots.at + knots.error])
    doubtful = np.arange(len(low)) < len(stretches)
    order = np.argsort(low, kind="stable")
    low, high, doubtful = low[order], high[order], doubtful[order]
    reach = np.maximum.accumulate(high)
    # What overlaps, or leaves no float between, is one.
    begins = np.concatenate([[True], low[1:] > np.nextafter(reach[:-1], np.inf)])
    group = np.cumsum(begins) - 1
    begin, end = low[begins], reach[np.concatenate([begins[1:], [True]])]
    in_doubt = np.bincount(group, weights=doubtful) > 0
    edges = np.concatenate([[first], (end[:-1] + begin[1:]) / 2, [last]])
    edges[:-1][begin <= first] = first
    windows: list[tuple[float, float]] = []
    for number in np.flatnonzero(in_doubt):
        window = (float(max(edges[number], first)), float(min(edges[number + 1], last)))
        if windows and windows[-1][1] == window[0]:
            window = (windows.pop()[0], window[1])
        windows.append(window)
    return windows


def _rounded(f: PiecewiseLinear) -> PiecewiseLinear:
    """Return an exact function in float64; what is not 0 does not become 0."""

    def floats(numbers: Array) -> NDArray[np.float64]:
        found = np.array([_float(v) for v in numbers.ravel().tolist()]).reshape(numbers.shape)
        signs = np.array([(v > 0) - (v < 0) for v in numbers.ravel().tolist()]).reshape(numbers.shape)
        return np.where((found == 0) & (signs != 0), signs * 5e-324, found)

    knots, data = floats(f.knots), floats(f._data)
    errors = ROUNDOFF * row_size(data)
    errors[errors < 1e-300] = 0.0  # a bend of the least size keeps its sign
    places = Places(knots, ROUNDOFF * np.abs(knots), ends=f._places.ends, origins=f._places.origins)
    return PiecewiseLinear._make(places, data, errors, {})


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("the network's values leave float64's range along the line: expected finite numbers") from None


def _joined(parts: list[PiecewiseLinear], undecided: NDArray[np.float64], whole: PiecewiseLinear) -> PiecewiseLinear:
    """Return adjacent functions as one, without knots where they meet, inside of pieces."""
    knots, error, values, slopes, bends, origins = [], [], [], [], [], []
    count = 0
    bounds: list[list[Array]] = [[], [], []]
    for number, part in enumerate(parts):
        k = len(part.knots)
        inside = slice(int(number > 0), k - int(number < len(parts) - 1))
        # The piece in which two parts meet is that of the first.
        pieces = slice(int(number > 0), None)
        knots.append(part.knots[inside])
        origins.append((part._places.origins, slice(count, count + len(knots[-1])), inside))
        count += len(knots[-1])
        error.append(part._places.error[inside])
        values.append(part.values[inside])
        slopes.append(part.slopes[pieces])
        bends.append(part.bends)
        bounds[0].append(part._errors[:k][inside])
        bounds[1].append(part._errors[k : 2 * k - 1][pieces])
        bounds[2].append(part._errors[2 * k - 1 :])
    ends = parts[0]._places.ends[0], parts[-1]._places.ends[1]
    places = Places(np.concatenate(knots), np.concatenate(error), ends=ends, origins=gathered(count, *origins))
    errors = np.concatenate([np.concatenate(rows) for rows in bounds])
    data = np.concatenate([np.concatenate(rows) for rows in (values, slopes, bends)])
    doubts = {-1: undecided} if len(undecided) else {}
    return PiecewiseLinear._make(places, data, errors, doubts, whole._limit)
