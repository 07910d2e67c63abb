"""Chains of width 1 listed knot by knot: in float64, all steps in one compiled loop."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stability.folds.exact_count import Coefficients
from stability.folds.kernels.enumeration import enumerate_chain
from stability.folds.origins import Origins
from stability.folds.pieces import NO_LIMIT, TooManyKnots
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places
from stability.foundation.threads import interruptible

_KEPT_AT_MOST = 2**21
_kept = threading.local()
_NO_LAYERS = np.empty(0, dtype=np.int64)


def enumerate_table(table: NDArray[np.float64], low: float, high: float, limit: int | None) -> PiecewiseLinear:
    """Return what a step table (rows, 6) makes of the line from `low` to `high`."""
    # Fresh memory costs several times the arithmetic, so what a thread has worked in is kept for the next time.
    if not hasattr(_kept, "work"):
        _kept.work, _kept.where = np.empty((6, 1024)), np.empty(1024, dtype=np.int64)
    kept = NO_LIMIT if limit is None else limit
    plain = Coefficients(table).plain()
    with interruptible():
        n, slope_error, bend_error, place_error, ends, undecided, finite, (work, where, _) = enumerate_chain(
            table, *plain, low, high, kept, (_kept.work, _kept.where, _NO_LAYERS)
        )
    if len(where) <= _KEPT_AT_MOST:
        _kept.work, _kept.where = work, where
    if not n:
        raise TooManyKnots
    if not finite:
        raise ValueError("the chain's values leave float64's range: its knots cannot be listed; st.count counts them")
    # One block, for which numpy asks for large pages.
    block = np.empty(5 * n - 3)
    knots, data, value_errors = block[:n], block[n : 4 * n - 3], block[4 * n - 3 :]
    knots[:], value_errors[:] = work[0, :n], work[2, :n]
    data[:n], data[n : 2 * n - 1], data[2 * n - 1 :] = work[1, :n], work[3, : n - 1], work[4, : n - 2]

    def errors() -> NDArray[np.float64]:
        slope_errors, bend_errors = slope_error * np.abs(data[n : 2 * n - 1]), bend_error * np.abs(data[2 * n - 1 :])
        return np.concatenate([value_errors, slope_errors, bend_errors])

    places = Places(knots, place_error, ends=ends, origins=_of_chain(table, low, high, n))
    doubts = {-1: np.broadcast_to([low, high], (undecided, 2))} if undecided else {}
    return PiecewiseLinear._make(places, data, errors, doubts)


def _of_chain(table: NDArray[np.float64], low: float, high: float, knots: int) -> Origins:
    """Return whose kinks the knots of a chain are, which are listed once more where it is asked for."""

    def find() -> NDArray[np.int64]:
        plain, room = Coefficients(table).plain(), max(knots, 3)
        work, where, born = np.empty((6, room)), np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        with interruptible():
            *_, (_, _, born) = enumerate_chain(table, *plain, low, high, NO_LIMIT, (work, where, born))
        layers = born[:knots]
        return np.stack([layers, np.where(layers < 0, -1, 0)], axis=1)

    return Origins(_rows(len(table)), find)


@lru_cache(maxsize=16)
def _rows(count: int) -> tuple[tuple[int, str], ...]:
    return tuple((layer, "") for layer in range(count))
