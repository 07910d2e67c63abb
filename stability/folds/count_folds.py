"""The public door of counting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from numbers import Rational

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stability.folds.domains import Domain
from stability.folds.exact_count import count_tables
from stability.folds.lines import line_of
from stability.folds.members import members_of
from stability.folds.numbers import signs_of
from stability.folds.pieces import NO_LIMIT
from stability.folds.piecewise import Count, PiecewiseLinear
from stability.folds.restrict import Followable, LineTooLong, restrict, tables_of, windows
from stability.foundation.arguments import door
from stability.foundation.checks import check_interval
from stability.foundation.threads import side_by_side
from stability.networks import Chain

#: GiB that a network may take along a line before it is counted part by part.
_MEMORY = 4.0
# About how many operations a row of a table takes.
_A_ROW = 2000
# Tables of so many rows are counted in one call: what is known of them stays in the cache.
_ROWS_TOGETHER = 4096


@door
def count(
    net: Followable | PiecewiseLinear | Iterable[PiecewiseLinear],
    interval: Sequence[float] | PiecewiseLinear | Domain | None = None,
    *,
    births: bool = False,
) -> Count:
    """Return how many folds, turns and regions a network has inside an interval.

    Folds are points where the slope of the output changes, turns are points where it changes sign (flat stretches
    passed over), regions are activation patterns met. Always turns <= folds <= regions - 1.

    For a chain of width 1 the counts are exact for the stored float64 parameters read as rational numbers: no
    rounding, however narrow the pieces are and however many. Every fold born at a layer has one value there, the
    kink -bias / weight, and the same value as all its equals ever after; so labels and pairs of labels are counted,
    not folds. A sign that float64 leaves open is settled in integers.

    Args:
        net: a `Chain`; step tables (seeds, rows, 6); one table (rows, 6); a `PiecewiseLinear`; the iterator that
            `st.restrict(..., window=...)` returns; or a piecewise-linear `nn.Module`.
        interval: (low, high), open, also (-inf, inf) for a chain or a table; a pair, a line (`st.segment(p, q)`) or a
            plane (`st.plane(p, q, r)`), which has no turns, for a module; nothing for a function or windows, which have
            their own.
        births: whether to count layer by layer too, where the folds were born: for a chain and for tables the steps,
            exactly at any depth; for a module the operations that bend (activations, maxima, poolings, sortings), in
            order. A fold where kinks of several layers are in one place is of the first of them.

    Returns:
        A `Count`: for a `Chain` and for tables object arrays (seeds,) of integers, else three integers. For a vector
        function `turns` is None. The counts of a module are those of `st.restrict`, and `undecided` tells how many
        decisions rounding left open. With `births` it has `births`, a tuple of integers, one a layer; of several seeds
        an object array (seeds,) of such. They add up to the folds, but for those of a line that is itself bent.

    Raises:
        ValueError, TypeError: for an interval that is empty, reversed or NaN, and for a network that is not
            piecewise linear.

    >>> import math, stability as st
    >>> st.count(st.tent(1000), (0, 1)).folds == 2**1000 - 1
    True
    >>> st.count(st.tent(100), (0, 1), births=True).births == tuple(2**layer for layer in range(100))
    True
    >>> c = st.count(st.Chain("residual2_prelu", depth=300, seeds=4), (-math.inf, math.inf))
    >>> c.folds.shape, bool((c.turns <= c.folds).all())
    ((4,), True)
    """
    if isinstance(interval, Domain) and isinstance(net, PiecewiseLinear):
        raise TypeError("net is a function along a line, which has no values over a plane: give the network itself")
    if isinstance(interval, Domain):
        return restrict(net, interval, memory=_MEMORY).count(births)  # type: ignore[arg-type, no-any-return]
    if isinstance(net, PiecewiseLinear):
        return (net if interval is None else net.restrict(*_pair(interval))).count(births)
    members = members_of(net)
    if members is not None:
        return _columns([count(member, interval, births=births) for member in members])
    found = tables_of(net) if not _are_windows(net) else None
    if found is not None:
        tables, several = found
        if _is_rational(interval):
            # No float64 is these ends; a count between floats knows nothing of what lies between them.
            exact_ends = list(map(Fraction, interval))  # type: ignore[arg-type]
            line = PiecewiseLinear(exact_ends, exact_ends)  # type: ignore[arg-type]
            counts = [restrict(table, line, exact=True).count(births) for table in tables]
        else:
            ends = _ends(_along(interval) if isinstance(interval, PiecewiseLinear) else interval)
            counts = _count_all(tables, ends, births)
        if births and isinstance(net, Chain):  # a read-out is no step, and bends nothing
            counts = [replace(one, births=one.births and one.births[: net.depth]) for one in counts]
        return _columns(counts) if several else counts[0]
    if isinstance(net, Iterable) and not callable(net) and not isinstance(net, str | bytes | dict):
        if interval is not None:
            raise TypeError(f"the interval is {interval!r}, and the windows have intervals of their own: give none")
        return _count_windows(net, births)
    if not callable(net):
        raise TypeError(
            f"net is a {type(net).__name__}: expected a Chain, a step table or a piecewise-linear torch module"
        )
    if interval is None:
        raise TypeError(
            "there is no interval: expected st.count(net, (low, high)) or st.count(model, st.segment(p, q))"
        )
    try:
        return restrict(net, interval, memory=_MEMORY).count(births)  # type: ignore[no-any-return]
    except LineTooLong:
        return _count_windows(windows(net, line_of(interval), False, NO_LIMIT, _MEMORY), births)


def _columns(counts: list[Count]) -> Count:
    """Return the counts of several seeds, arrays of integers of any size."""
    columns = np.empty((4, len(counts)), dtype=object)
    for column, name in zip(columns, ("folds", "turns", "regions", "births"), strict=True):
        for seed, one in enumerate(counts):  # one by one: an array would be made of tuples
            column[seed] = getattr(one, name)
    births = columns[3] if counts and counts[0].births is not None else None
    folds, turns, regions = columns[:3]
    return Count(folds, turns, regions, sum(one.undecided for one in counts), births)


def _count_all(tables: NDArray[np.float64], ends: tuple[float, float], births: bool) -> list[Count]:
    counts: list[Count] = [None] * len(tables)  # type: ignore[list-item]
    together = max(1, _ROWS_TOGETHER // tables.shape[1])

    def run(first: int, last: int) -> None:
        for start in range(first, last, together):
            part = slice(start, min(start + together, last))
            counts[part] = [
                Count(folds, turns, regions, births=by_row)
                for folds, turns, regions, by_row in count_tables(tables[part], ends, births)
            ]

    # The compiled loops let go of the interpreter, so threads count side by side.
    side_by_side(run, len(tables), _A_ROW * tables.shape[1] * len(tables))
    return counts


def _along(line: PiecewiseLinear) -> tuple[float, float]:
    """Return the interval that a straight line runs through: a chain folds it as often as the interval itself."""
    low, high = (float(end) for end in (line.values.min(), line.values.max()))
    if line.shape or len(line.knots) != 2 or low == high:
        raise ValueError(
            f"the line has values of shape {tuple(line.shape)} and {len(line.knots)} knots: a chain is counted on an "
            "interval (low, high), or along a straight line from one number to another; else take "
            "st.restrict(chain, line).count()"
        )
    return low, high


def _is_rational(interval: object) -> bool:
    """Whether the ends of an interval are whole or rational numbers of which one at least is no float64."""
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return False
    if not all(isinstance(end, Rational) and not isinstance(end, bool) for end in interval):
        return False
    try:
        rounded = [Fraction(float(end)) for end in interval]
    except OverflowError:
        return False
    return bool(interval[0] < interval[1] and rounded != list(map(Fraction, interval)))


def _are_windows(net: object) -> bool:
    return isinstance(net, list | tuple) and len(net) > 0 and isinstance(net[0], PiecewiseLinear)


def _pair(interval: Sequence[float] | PiecewiseLinear) -> tuple[float, float]:
    return check_interval(interval.interval if isinstance(interval, PiecewiseLinear) else interval)


def _ends(interval: Sequence[float] | None) -> tuple[float, float]:
    """The ends of an interval of a chain, infinite ones allowed."""
    if interval is None:
        raise TypeError("there is no interval: expected st.count(net, (low, high)); (-inf, inf) is allowed")
    try:
        if not isinstance(interval, Sequence | np.ndarray | Tensor) or any(isinstance(end, str) for end in interval):
            raise TypeError
        low, high = map(float, interval)
    except OverflowError:
        raise ValueError(f"the interval is {interval!r}: expected ends in float64's range, or -inf and inf") from None
    except (TypeError, ValueError):
        raise TypeError(f"the interval is {interval!r}: expected two numbers (low, high)") from None
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"the interval is ({low}, {high}): expected numbers, or -inf and inf")
    if not low < high:
        raise ValueError(f"the interval ({low}, {high}) is empty or reversed: expected low < high")
    return low, high


def _count_windows(windows: Iterable[object], births: bool) -> Count:
    """Add up adjacent functions, with the knots between them where the slope changes."""
    by_layer: list[int] = []
    folds, turns, regions, undecided, last_sign = 0, 0, 0, 0, 0
    last: PiecewiseLinear | None = None
    vector = False
    for f in windows:
        if not isinstance(f, PiecewiseLinear):
            raise TypeError(
                f"among the windows is a {type(f).__name__}: expected what st.restrict(..., window=...) gives"
            )
        if last is not None and last.interval[1] != f.interval[0]:
            raise ValueError(
                f"a window ends at {last.interval[1]} and the next begins at {f.interval[0]}: not adjacent"
            )
        one = f.count(births)
        by_layer = [a + b for a, b in itertools.zip_longest(by_layer, one.births or (), fillvalue=0)]
        folds, regions, undecided = folds + one.folds, regions + one.regions, undecided + one.undecided
        if last is not None:
            k, n = len(last.knots), len(f.knots)
            error = last._errors[2 * k - 2] + f._errors[n]
            bent = bool(np.any(abs(f.slopes[0] - last.slopes[-1]) > error))
            folds, regions = folds + bent, regions - (not bent)
            if births and bent:
                raise ValueError(
                    f"a fold is just where two windows meet, at {f.interval[0]}, and of neither is it known where it "
                    "was born: give another window or memory, or the whole line to st.restrict"
                )
            # Where a kink is at the very end of a window, whether the two sides differ is for their slopes to tell.
            undecided += (last._places.ends[1] or f._places.ends[0]) and not bent
        if one.turns is None:
            vector = True
        else:
            signs = signs_of(f.slopes.reshape(-1))
            signs = signs[signs != 0]
            if len(signs):
                turns += one.turns + (last_sign * int(signs[0]) < 0)
                last_sign = int(signs[-1])
        last = f
    if last is None:
        raise ValueError("there are no windows: expected at least one function")
    return Count(folds, None if vector else turns, regions, undecided, tuple(by_layer) if births else None)
