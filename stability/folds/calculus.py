"""What takes more than one function: composition, and the distance to a smooth target."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.folds.numbers import FLOOR, row_size
from stability.folds.pieces import P, Pieces, insert
from stability.folds.places import Places
from stability.foundation.checks import check_finite
from stability.foundation.formats import ROUNDOFF


def compose(outer: P, inner: P) -> P:
    """Return outer(inner(t)), with knots where inner has them and where it meets a knot of outer."""
    if outer.exact != inner.exact:
        outer, inner = outer.to_exact(), inner.to_exact()
    inner = inner._scalar("inner functions")
    low, high = inner.values.min(), inner.values.max()
    if low < outer.knots[0] or high > outer.knots[-1]:
        raise ValueError(
            f"the inner function goes from {low} to {high}: the outer one is known on "
            f"[{outer.knots[0]}, {outer.knots[-1]}]"
        )
    v = inner.values
    first = np.searchsorted(outer.knots, np.minimum(v[:-1], v[1:]), "right")
    last = np.searchsorted(outer.knots, np.maximum(v[:-1], v[1:]), "left")
    met = np.maximum(last - first, 0)
    piece = np.repeat(np.arange(len(met)), met)
    rank = np.arange(len(piece)) - np.repeat(np.cumsum(met) - met, met)
    level = np.where(v[piece + 1] > v[piece], first[piece] + rank, last[piece] - 1 - rank)
    kink = outer.knots[level]
    part = abs(kink - v[piece]) / (abs(kink - v[piece]) + abs(v[piece + 1] - kink))
    width = inner.knots[piece + 1] - inner.knots[piece]
    t = inner.knots[piece] + part * width
    doubtful, error = np.empty((0, 2)), np.zeros(len(t))
    if not inner.exact:
        doubtful = _on_a_kink(outer, inner)
        blur = np.maximum(inner._errors[piece], inner._errors[piece + 1]) + outer._places.error[level]
        height = np.abs(kink - v[piece]) + np.abs(v[piece + 1] - kink)
        error = np.minimum(2 * blur / height * width + 4 * ROUNDOFF * (np.abs(t) + width), width)
    origins = outer._places.origins and outer._places.origins.taken(level)
    inner = insert(inner, piece, Places(t, error, origins=origins), planted=True)
    new = piece + 1 + np.arange(len(piece))
    inner._data[new] = kink

    v, k = inner.values, len(inner.knots)
    lower, upper = np.minimum(v[:-1], v[1:]), np.maximum(v[:-1], v[1:])
    # A flat piece may lie on a knot of the outer function, whose slope is then of no account.
    on = np.clip(np.searchsorted(outer.knots, lower, "right") - 1, 0, len(outer.knots) - 2)
    wide = (-1, *[1] * len(outer.shape))
    data = np.empty((3 * k - 3, *outer.shape), dtype=inner._data.dtype)
    near = on + (lower + upper > outer.knots[on] + outer.knots[on + 1])
    piece_of = np.minimum(np.arange(k), k - 2)
    data[:k] = outer.values[near[piece_of]] + outer.slopes[on[piece_of]] * (v - outer.knots[near[piece_of]]).reshape(
        wide
    )
    data[k : 2 * k - 1] = outer.slopes[on] * inner.slopes.reshape(wide)
    steady = on[1:] == on[:-1]
    data[2 * k - 1 :] = np.where(
        steady.reshape(wide),
        outer.slopes[on[1:]] * inner.bends.reshape(wide),
        data[k + 1 : 2 * k - 1] - data[k : 2 * k - 2],
    )
    errors = np.zeros(len(data))
    if not inner.exact:
        steep = row_size(outer.slopes)
        rounding = 3 * ROUNDOFF * row_size(data)
        far = np.abs(v - outer.knots[near[piece_of]])
        outer_slope = outer._errors[len(outer.knots) : 2 * len(outer.knots) - 1]
        errors[:k] = outer._errors[near[piece_of]] + steep.max() * inner._errors[:k] + outer_slope[on[piece_of]] * far
        slope_errors = steep[on] * inner._errors[k : 2 * k - 1] + outer_slope[on] * np.abs(inner.slopes)
        errors[k : 2 * k - 1] = slope_errors
        errors[2 * k - 1 :] = np.where(
            steady,
            steep[on[1:]] * inner._errors[2 * k - 1 :] + outer_slope[on[1:]] * np.abs(inner.bends),
            slope_errors[1:] + slope_errors[:-1] + rounding[k + 1 : 2 * k - 1] + rounding[k : 2 * k - 2],
        )
        errors += rounding
        errors[:k] += FLOOR * (steep[on[piece_of]] * far > 0)
        errors[k:] += FLOOR * (row_size(inner._data[k:]) > 0)
    places = inner._places.with_ends(*(_ends_on_a_kink(outer, v[end], v[inside]) for end, inside in ((0, 1), (-1, -2))))
    composed = inner._make(places, data, errors, outer._undecided | inner._undecided, inner._limit)
    composed._doubt(doubtful)
    return composed


def _ends_on_a_kink(outer: Pieces, end: object, inside: object) -> bool:
    kinks, (first, last) = outer.knots, outer._places.ends
    at_end = (first and end == kinks[0]) or (last and end == kinks[-1])
    return bool((at_end or (kinks[1:-1] == end).any()) and end != inside)


def _on_a_kink(outer: Pieces, inner: Pieces) -> NDArray[np.float64]:
    """Return where a value of inner at a knot and a knot of outer may be in the other order, (n, 2)."""
    kinks, values, blur = outer._places[1:-1], inner.values, inner._errors[: len(inner.knots)]
    if not (kinks.rounded or blur.any()):
        return np.empty((0, 2))
    far = blur + kinks.error.max(initial=0)
    first, last = np.searchsorted(kinks.at, values - far, "left"), np.searchsorted(kinks.at, values + far, "right")
    several = last - first
    knot = np.repeat(np.arange(len(values)), several)
    kink = np.arange(len(knot)) - np.repeat(np.cumsum(several) - several - first, several)
    allowed = blur[knot] + kinks.error[kink]
    return inner._around(knot[(np.abs(values[knot] - kinks.at[kink]) <= allowed) & (allowed > 0)])


def distance(f: Pieces, target: Callable[[Tensor], Tensor]) -> float:
    """Return the L2 distance of a scalar f to a smooth target, by quadrature on the pieces."""
    if not callable(target):
        raise TypeError(f"the target is {target!r}: expected a function such as torch.sin")
    f = f._scalar("distances to a target")
    t, weights = np.polynomial.legendre.leggauss(10)

    def integrals(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        middle, half = (low + high)[:, None] / 2, (high - low)[:, None] / 2
        points = np.clip(middle + half * t, low[:, None], high[:, None])
        aim = target(torch.from_numpy(points.ravel()))
        if not isinstance(aim, Tensor) or aim.shape != (points.size,):
            raise TypeError("the target maps (points,) to something else: expected a tensor of the same shape")
        if aim.is_complex():
            raise TypeError(f"the target returns {aim.dtype}: expected real numbers")
        check_finite("the target on the interval (point)", aim)
        return np.asarray((half * weights * (f._at(points) - aim.numpy().reshape(points.shape)) ** 2).sum(axis=1))

    # Panels enough from the start that what is not very narrow is seen.
    panels = -(-64 // (len(f.knots) - 1))
    knots = f.knots.astype(np.float64)
    knots = np.interp(np.arange(panels * (len(knots) - 1) + 1) / panels, np.arange(len(knots)), knots)
    low, high = knots[:-1], knots[1:]
    total, coarse = 0.0, integrals(low, high)
    for _ in range(40):
        middle = (low + high) / 2
        left, right = integrals(low, middle), integrals(middle, high)
        fine = left + right
        scale = total + fine.sum()
        rough = np.abs(fine - coarse) > 1e-10 * np.maximum(fine, scale / len(knots))
        total += fine[~rough].sum()
        if not rough.any():
            return math.sqrt(total)
        low, high = np.concatenate([low[rough], middle[rough]]), np.concatenate([middle[rough], high[rough]])
        coarse = np.concatenate([left[rough], right[rough]])
    raise ValueError(
        f"the quadrature does not settle near t = {low[0]}: the target must be smooth between the knots of f; "
        "split the interval where it is not"
    )
