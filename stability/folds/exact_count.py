"""Exact counts of a chain of width 1: every fold born at a layer has one value there, and ever after.

A fold born at layer k lies where the pre-activation is 0, so its value is the kink -bias / weight, whatever its place
on the line. A piece is known by the values at its two ends, and equal pieces are counted together: thousands of
layers keep about as many values and pieces, however many folds there are.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

from stability.folds.kernels import value_space as kernel
from stability.folds.numbers import UNIT
from stability.folds.rational import ExactRow, Orbit, dyadic, sign

Array = NDArray[np.float64]


class Coefficients:
    """gain and shift of every row for z <= 0 and z > 0, with bounds of their errors and exact signs."""

    def __init__(self, table: Array) -> None:
        self.table = table
        rows = len(table)
        self.safe = np.empty(rows, dtype=bool)
        self.gain, self.gain_error, self.shift, self.shift_error = np.empty((4, rows, 2))
        self.gain_sign = np.empty((rows, 2), dtype=np.int8)
        self.exponents = np.zeros((rows, 2, 2), dtype=np.int64)
        if not kernel.coefficients(
            table, self.safe, self.gain, self.gain_error, self.shift, self.shift_error, self.gain_sign
        ):
            self.certain = True
            return
        self.certain = False
        uncertain = ~self.safe | (self.gain_sign == 2).any(axis=1)
        for k in np.flatnonzero(uncertain):
            row = ExactRow(table[k])
            for branch in range(2):
                self.gain_sign[k, branch] = sign(row.gain[branch][0])
                if not self.safe[k]:
                    g, c = (Orbit(value[branch], 1, 0).ball() for value in (row.gain, row.shift))
                    self.gain[k, branch], self.gain_error[k, branch], self.exponents[k, branch, 0] = g
                    self.shift[k, branch], self.shift_error[k, branch], self.exponents[k, branch, 1] = c

    def plain(self) -> tuple[Array, Array, Array, Array]:
        """gain, its error, shift and its error without exponents of their own, for what stays in float64's range.

        A gain that cancels to less than its error is taken in rational arithmetic, so that its sign is right.
        """
        gain, gain_error, shift, shift_error = self.gain, self.gain_error, self.shift, self.shift_error
        if self.certain:
            return gain, gain_error, shift, shift_error
        if not self.safe.all():
            powers = self.exponents[..., 0], self.exponents[..., 1]
            with np.errstate(over="ignore", under="ignore"):
                gain, gain_error = np.ldexp(gain, powers[0]), np.ldexp(gain_error, powers[0])
                shift, shift_error = np.ldexp(shift, powers[1]), np.ldexp(shift_error, powers[1])
        cancelled = self.safe[:, None] & (abs(gain) <= gain_error) & (gain_error > 0)
        if cancelled.any():
            gain, gain_error = gain.copy(), gain_error.copy()
            for k, branch in np.argwhere(cancelled):
                skip, weight, _, outer_weight, _, slope = map(Fraction, self.table[k].tolist())
                gain[k, branch] = float(skip + outer_weight * weight * (1 if branch else slope))
                gain_error[k, branch] = abs(gain[k, branch]) * UNIT
        return gain, gain_error, shift, shift_error


def count_table(table: Array, interval: tuple[float, float]) -> tuple[int, int, int]:
    """Return folds, turns and regions of a step table (rows, 6) on an open interval, ends at infinity allowed."""
    rows = len(table)
    table = np.ascontiguousarray(table)
    coefficients = Coefficients(table)
    capacity, limbs, room = rows + 2, rows // 64 + 2, min(2 * rows + 4, 256)
    state = np.zeros(7, dtype=np.int64)
    nodes, birth, decided, live, label_layer, node_of = np.zeros((6, capacity), dtype=np.int64)
    e = np.zeros(capacity, dtype=np.int64)
    birth[:], decided[:] = -1, -1
    m, r = np.zeros((2, capacity))
    z_sign, below, above = np.zeros((3, capacity), dtype=np.int8)
    slot = np.full(capacity, -1, dtype=np.int64)
    undecided = np.empty(capacity, dtype=np.int64)
    hash_table = np.empty(4 * capacity, dtype=np.int64)
    counts = np.zeros((capacity, limbs), dtype=np.uint64)
    pairs = [np.zeros((room, 2), dtype=np.int64) for _ in range(2)]
    pair_counts = [np.zeros((room, limbs), dtype=np.uint64) for _ in range(2)]

    for n, end in enumerate(interval):
        m[n] = end
        if math.isinf(end):
            m[n], e[n] = math.copysign(1.0, end), kernel.AT_INFINITY
        elif not (end == 0 or kernel.SMALL < abs(end) < kernel.LARGE):
            m[n], r[n], e[n] = Orbit(dyadic(end), 1, 0).ball()
    nodes[1] = 1
    state[[kernel.NODES, kernel.ACTIVE, kernel.PIECES, kernel.STRETCHES, kernel.LIMBS]] = 2, 2, 1, 1, 1
    for pair, pair_count in zip(pairs, pair_counts, strict=True):
        pair[0], pair_count[0, 0] = (0, 1), 1

    orbits: dict[int, Orbit] = {}
    passages: dict[int, Counter[tuple[int, int]]] = {}
    exact = cache(lambda layer: ExactRow(table[layer]))

    layer = 0
    while True:
        status, layer, missing = kernel.advance(
            layer,
            table,
            coefficients.safe,
            coefficients.gain,
            coefficients.gain_error,
            coefficients.gain_sign,
            coefficients.shift,
            coefficients.shift_error,
            coefficients.exponents,
            state,
            nodes,
            m,
            r,
            e,
            birth,
            decided,
            z_sign,
            live,
            label_layer,
            node_of,
            below,
            above,
            counts,
            pairs[0],
            pair_counts[0],
            pairs[1],
            pair_counts[1],
            slot,
            undecided,
            hash_table,
        )
        if status == kernel.DONE:
            break
        if status == kernel.FULL:
            pairs, pair_counts = ([np.concatenate([v, np.zeros_like(v)]) for v in vs] for vs in (pairs, pair_counts))
            continue
        for n in map(int, undecided[:missing]):
            if n not in orbits:
                start = int(birth[n])
                orbits[n] = Orbit(dyadic(interval[n]), 1, 0) if start < 0 else Orbit.of_kink(exact(start), start)
            orbit = orbits[n]
            while orbit.layer < layer:
                orbit.step(exact(orbit.layer))
            m[n], r[n], e[n] = orbit.ball()
            decided[n], z_sign[n] = layer, orbit.z_sign(exact(layer))
            if z_sign[n] == 0:
                for label in map(int, live[: state[kernel.LIVE]]):
                    if node_of[label] == n:
                        _pass_kink(label, layer, table, coefficients.gain_sign[layer], below, above, passages)

    labels = live[: state[kernel.LIVE]]
    low, high, births = below[labels], above[labels], table[label_layer[labels]]
    # Where both sides go the same way, they differ as they did at birth, or as the kinks met since have left them.
    bends = (low != high) | ((low != 0) & (births[:, 3] != 0) & (births[:, 5] != 1))
    for i in np.flatnonzero((low == high) & (low != 0)) if passages else ():
        label = int(labels[i])
        if label in passages:
            ratio = exact(int(label_layer[label])).gain_ratio(*((1, 0) if births[i, 1] > 0 else (0, 1)))
            for (k, above_branch), times in passages[label].items():
                ratio *= exact(k).gain_ratio(above_branch, 1 - above_branch) ** times
            bends[i] = ratio != 1

    used = int(state[kernel.LIMBS])
    folds = _total(counts[labels[bends], :used])
    turns = _total(pair_counts[1][: state[kernel.STRETCHES], :used]) - 1
    return folds, max(turns, 0), 1 + _total(counts[: state[kernel.LABELS], :used])


def _total(multiplicities: NDArray[np.uint64]) -> int:
    """The sum of integers given by 64-bit limbs, (n, limbs)."""
    return sum(sum(column) << 64 * i for i, column in enumerate(multiplicities.T.tolist()))


def _pass_kink(
    label: int,
    layer: int,
    table: Array,
    gain_sign: NDArray[np.int8],
    below: NDArray[np.int8],
    above: NDArray[np.int8],
    passages: dict[int, Counter[tuple[int, int]]],
) -> None:
    """Take a label through a layer whose kink it meets: each side goes where its own derivative leads."""
    orientation = 1 if table[layer, 1] > 0 else -1
    branch_below = 1 if -orientation * below[label] > 0 else 0
    branch_above = 1 if orientation * above[label] > 0 else 0
    if below[label] and above[label] and branch_below != branch_above:
        passages.setdefault(label, Counter())[layer, branch_above] += 1
    below[label] *= gain_sign[branch_below]
    above[label] *= gain_sign[branch_above]
