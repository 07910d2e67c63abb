"""Exact counts of a chain of width 1: every fold born at a layer has one value there, and ever after.

A fold born at layer k lies where the pre-activation is 0, so its value is the kink -bias / weight, whatever its place
on the line. A piece is known by the values at its two ends, and equal pieces are counted together: thousands of
layers keep about as many values and pieces, however many folds there are.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from stability.folds.kernels.counting_state import (
    ACTIVE,
    AT_INFINITY,
    LABELS,
    LIMBS,
    LIVE,
    NODES,
    PIECES,
    STRETCHES,
    Integers,
    Labels,
    Nodes,
    Pairs,
    Room,
)
from stability.folds.kernels.gains import StepGains, fill_gains
from stability.folds.kernels.value_space import DONE, FULL, LARGE, SMALL, UNDECIDED, advance
from stability.folds.rational import ExactRow, Orbit, dyadic, sign
from stability.foundation.formats import ROUNDOFF
from stability.networks.step_formula import EXACT

Array = NDArray[np.float64]
Group = TypeVar("Group", StepGains, Nodes, Labels, Pairs, Room)


class Coefficients:
    """gain and shift of every row for z <= 0 and z > 0, with bounds of their errors and exact signs."""

    def __init__(self, table: Array) -> None:
        rows = len(table)
        gain, gain_error, shift, shift_error = np.empty((4, rows, 2))
        safe, gain_sign = np.empty(rows, dtype=bool), np.empty((rows, 2), dtype=np.int8)
        exponents = np.zeros((rows, 2, 2), dtype=np.int64)
        self.steps = steps = StepGains(table, safe, gain, gain_error, gain_sign, shift, shift_error, exponents)
        self.certain = not fill_gains(steps)
        if self.certain:
            return
        for k in np.flatnonzero(~safe | (gain_sign == 2).any(axis=1)):
            row = ExactRow(table[k])
            for branch in range(2):
                gain_sign[k, branch] = sign(row.gain[branch][0])
                if not safe[k]:
                    g, c = (Orbit(value[branch], 1, 0).ball() for value in (row.gain, row.shift))
                    gain[k, branch], gain_error[k, branch], exponents[k, branch, 0] = g
                    shift[k, branch], shift_error[k, branch], exponents[k, branch, 1] = c

    def plain(self) -> tuple[Array, Array, Array, Array]:
        """gain, its error, shift and its error without exponents of their own, for what stays in float64's range.

        A gain that cancels to less than its error is taken in rational arithmetic, so that its sign is right.
        """
        table, safe, gain, gain_error, _, shift, shift_error, exponents = self.steps
        if self.certain:
            return gain, gain_error, shift, shift_error
        if not safe.all():
            powers = exponents[..., 0], exponents[..., 1]
            with np.errstate(over="ignore", under="ignore"):
                gain, gain_error = np.ldexp(gain, powers[0]), np.ldexp(gain_error, powers[0])
                shift, shift_error = np.ldexp(shift, powers[1]), np.ldexp(shift_error, powers[1])
        cancelled = safe[:, None] & (abs(gain) <= gain_error) & (gain_error > 0)
        if cancelled.any():
            gain, gain_error = gain.copy(), gain_error.copy()
            for k, branch in np.argwhere(cancelled):
                exact = EXACT.row_of(table[k])
                gain[k, branch] = float(EXACT.gain(exact, 1 if branch else exact.slope))
                gain_error[k, branch] = abs(gain[k, branch]) * ROUNDOFF
        return gain, gain_error, shift, shift_error


class Counted(NamedTuple):
    """What is counted of one table; births, of every row, only where they are asked for."""

    folds: int
    turns: int
    regions: int
    births: tuple[int, ...] | None = None


def count_table(table: Array, interval: tuple[float, float], births: bool = False) -> Counted:
    """Return folds, turns and regions of a step table (rows, 6) on an open interval, ends at infinity allowed."""
    return count_tables(table[None], interval, births)[0]


def count_tables(tables: Array, interval: tuple[float, float], births: bool = False) -> list[Counted]:
    """Return folds, turns and regions of step tables (seeds, rows, 6) on an open interval, ends at infinity allowed.

    All kinks that are born at a layer share a label: with `births` the folds are counted label by label too.
    """
    tables = np.ascontiguousarray(tables)
    seeds, rows, columns = tables.shape
    flat = Coefficients(tables.reshape(-1, columns)).steps
    steps = StepGains._make(numbers.reshape(seeds, rows, *numbers.shape[1:]) for numbers in flat)
    state, nodes, labels, pieces, stretches, room = _beginning(seeds, rows, interval)
    ended = np.zeros((seeds, 3), dtype=np.int64)
    advance(ended, steps, state, nodes, labels, pieces, stretches, room)
    found = _counted(tables, state, labels, stretches, births, {})
    for seed in np.flatnonzero(ended[:, 0] != DONE).tolist():
        one = slice(seed, seed + 1)
        own = _part(labels, one)
        bent, own_stretches = _settled(
            ended[one],
            _part(steps, one),
            state[one],
            _part(nodes, one),
            own,
            _part(pieces, one),
            _part(stretches, one),
            _part(room, one),
            interval,
        )
        (found[seed],) = _counted(tables[one], state[one], own, own_stretches, births, bent)
    return found


def _part(group: Group, tables: slice | int) -> Group:
    """Return what a group of columns holds of some tables, or of one, without their dimension."""
    return type(group)._make(column[tables] for column in group)


def _settled(
    ended: Integers,
    steps: StepGains,
    state: Integers,
    nodes: Nodes,
    labels: Labels,
    pieces: Pairs,
    stretches: Pairs,
    room: Room,
    interval: tuple[float, float],
) -> tuple[dict[int, bool], Pairs]:
    """Take one table through the layers that are left, its signs settled in integers where float64 leaves them open.

    Returns whether the function bends at labels that kinks met on the way, and the stretches.
    """
    orbits: dict[int, Orbit] = {}
    passages: dict[int, Counter[tuple[int, int]]] = {}
    node, label_of, gains = _part(nodes, 0), _part(labels, 0), _part(steps, 0)
    exact = cache(lambda layer: ExactRow(gains.table[layer]))
    while ended[0, 0] != DONE:
        status, layer, missing = ended[0].tolist()
        if status == FULL:
            pieces, stretches = _with_more_room(pieces), _with_more_room(stretches)
        for n in room.undecided[0, : missing if status == UNDECIDED else 0].tolist():
            if n not in orbits:
                start = int(node.birth[n])
                orbits[n] = Orbit(dyadic(interval[n]), 1, 0) if start < 0 else Orbit.of_kink(exact(start), start)
            orbit = orbits[n]
            while orbit.layer < layer:
                orbit.step(exact(orbit.layer))
            node.m[n], node.r[n], node.e[n] = orbit.ball()
            node.decided[n], node.z_sign[n] = layer, orbit.z_sign(exact(layer))
            if node.z_sign[n] == 0:
                for label in map(int, label_of.live[: state[0, LIVE]]):
                    if label_of.node[label] == n:
                        _pass_kink(label, layer, gains, label_of, passages)
        advance(ended, steps, state, nodes, labels, pieces, stretches, room)
    bent = {}
    for label, met in passages.items():
        if label_of.below[label] == label_of.above[label] != 0:
            born = int(label_of.layer[label])
            ratio = exact(born).gain_ratio(*((1, 0) if gains.table[born, 1] > 0 else (0, 1)))
            for (k, above_branch), times in met.items():
                ratio *= exact(k).gain_ratio(above_branch, 1 - above_branch) ** times
            bent[label] = ratio != 1
    return bent, stretches


def _counted(
    tables: Array, state: Integers, labels: Labels, stretches: Pairs, births: bool, bent: dict[int, bool]
) -> list[Counted]:
    """Return what the states after the last layer say; `bent` of labels of the first table that kinks have met."""
    made, standing, used = state[:, [LABELS, STRETCHES, LIMBS]].max(axis=0).tolist()
    layer, low, high = (column[:, :made] for column in (labels.layer, labels.below, labels.above))
    kinked = (tables[..., 3] != 0) & (tables[..., 5] != 1)
    known = np.arange(made) < state[:, LABELS, None]
    # Where both sides go the same way, they differ as they did at birth, or as the kinks met since have left them.
    bends = known & ((low != high) | ((low != 0) & np.take_along_axis(kinked, layer, axis=1)))
    bends[0, list(bent)] = list(bent.values())
    folds, regions = (_totals(labels.counts[:, :made, :used], mask) for mask in (bends, known))
    turns = _totals(stretches.counts[:, :standing, :used], np.arange(standing) < state[:, STRETCHES, None])
    by_row: list[tuple[int, ...] | None] = [None] * len(tables)
    for seed in range(len(tables)) if births else ():
        of_rows = [0] * tables.shape[1]
        for label in np.flatnonzero(bends[seed]).tolist():
            count = labels.counts[seed, label, :used].astype("<u8").tobytes()
            of_rows[labels.layer[seed, label]] = int.from_bytes(count, "little")
        by_row[seed] = tuple(of_rows)
    return [Counted(f, max(t - 1, 0), 1 + r, rows) for f, t, r, rows in zip(folds, turns, regions, by_row, strict=True)]


def _beginning(
    tables: int, rows: int, interval: tuple[float, float]
) -> tuple[Integers, Nodes, Labels, Pairs, Pairs, Room]:
    """Return the states before the first layer: one piece, which is one stretch, between the ends of the interval."""
    capacity, limbs, room = rows + 2, rows // 64 + 2, min(2 * rows + 4, 256)
    active, e, birth, decided, live, layer, node = np.zeros((7, tables, capacity), dtype=np.int64)
    m, r = np.zeros((2, tables, capacity))
    z_sign, below, above = np.zeros((3, tables, capacity), dtype=np.int8)
    birth[:], decided[:] = -1, -1
    for n, end in enumerate(interval):
        m[:, n] = end
        if math.isinf(end):
            m[:, n], e[:, n] = math.copysign(1.0, end), AT_INFINITY
        elif not (end == 0 or SMALL < abs(end) < LARGE):
            m[:, n], r[:, n], e[:, n] = Orbit(dyadic(end), 1, 0).ball()
    active[:, 1] = 1
    state = np.zeros((tables, 7), dtype=np.int64)
    state[:, [NODES, ACTIVE, PIECES, STRETCHES, LIMBS]] = 2, 2, 1, 1, 1
    pieces, stretches = (
        Pairs(np.zeros((tables, room, 2), dtype=np.int64), np.zeros((tables, room, limbs), dtype=np.uint64))
        for _ in range(2)
    )
    for pairs in (pieces, stretches):
        pairs.ends[:, 0], pairs.counts[:, 0, 0] = (0, 1), 1
    undecided, hashes = np.empty((tables, capacity), dtype=np.int64), np.empty((tables, 4 * capacity), dtype=np.int64)
    return (
        state,
        Nodes(active, m, r, e, birth, decided, z_sign),
        Labels(live, layer, node, below, above, np.zeros((tables, capacity, limbs), dtype=np.uint64)),
        pieces,
        stretches,
        Room(np.full((tables, capacity), -1), undecided, hashes),
    )


def _with_more_room(pairs: Pairs) -> Pairs:
    return Pairs(*(np.concatenate([column, np.zeros_like(column)], axis=1) for column in pairs))


def _totals(multiplicities: NDArray[np.uint64], counted: NDArray[np.bool_]) -> list[int]:
    """The sums of the counted ones of integers given by 64-bit limbs, (tables, n, limbs), table by table."""
    # Halves of limbs, of which 2^32 have a sum that 64 bits hold.
    halves = np.ascontiguousarray(multiplicities, "<u8").view("<u4").astype(np.uint64)
    sums = counted.astype(np.uint64)[:, None] @ halves
    return [sum(half << 32 * i for i, half in enumerate(row)) for row in sums[:, 0].tolist()]


def _pass_kink(
    label: int, layer: int, steps: StepGains, labels: Labels, passages: dict[int, Counter[tuple[int, int]]]
) -> None:
    """Take a label through a layer whose kink it meets: each side goes where its own derivative leads."""
    below, above, gain_sign = labels.below, labels.above, steps.gain_sign[layer]
    orientation = 1 if steps.table[layer, 1] > 0 else -1
    branch_below = 1 if -orientation * below[label] > 0 else 0
    branch_above = 1 if orientation * above[label] > 0 else 0
    if below[label] and above[label] and branch_below != branch_above:
        passages.setdefault(label, Counter())[layer, branch_above] += 1
    below[label] *= gain_sign[branch_below]
    above[label] *= gain_sign[branch_above]
