"""Compiled loops of exact counting: labels with values and error bounds, pairs of labels with multiplicities."""

from __future__ import annotations

import math

from numba import njit

from stability.folds.kernels.balls import affine, sign, wide_affine
from stability.folds.kernels.counting_state import (
    ACTIVE,
    AT_INFINITY,
    LABELS,
    LIMBS,
    LIVE,
    NODES,
    PIECES,
    STRETCHES,
    Labels,
    Nodes,
    Pairs,
    Room,
)
from stability.folds.kernels.gains import StepGains
from stability.folds.kernels.pairs import rename, split
from stability.foundation.formats import ROUNDOFF
from stability.foundation.kernels.double_double import two_product

#: A node within these, through a row that is safe, does not leave float64's range.
SMALL, LARGE = 2.0**-400, 2.0**400
#: What a call ended with.
DONE, UNDECIDED, FULL = 0, 1, 2


@njit(cache=True, nogil=True)
def advance(ended, steps, state, nodes, labels, pieces, stretches, room):
    """Take the states of tables through their layers, as far as float64 can decide.

    Args:
        ended: (tables, 3), of each what the last call ended with, the layer, and how many nodes are in
            `room.undecided`; takes what this one ends with.
        steps: `StepGains`. state: the counters. nodes: `Nodes`. labels: `Labels`.
        pieces, stretches: `Pairs`, of affine pieces and of monotone stretches; no flat ones.
        room: `Room`. All of these have a dimension in front, for the tables.
    """
    table, safe, gain, gain_error, gain_sign, shift, shift_error, exponents = steps
    active, m, r, e, birth, decided, z_sign = nodes
    live, label_layer, node_of, below, above, counts = labels
    for s in range(len(table)):
        ended[s, 0], ended[s, 1], ended[s, 2] = _advance_one(
            ended[s, 1],
            StepGains(table[s], safe[s], gain[s], gain_error[s], gain_sign[s], shift[s], shift_error[s], exponents[s]),
            state[s],
            Nodes(active[s], m[s], r[s], e[s], birth[s], decided[s], z_sign[s]),
            Labels(live[s], label_layer[s], node_of[s], below[s], above[s], counts[s]),
            Pairs(pieces.ends[s], pieces.counts[s]),
            Pairs(stretches.ends[s], stretches.counts[s]),
            Room(room.slot[s], room.undecided[s], room.table[s]),
        )


@njit
def _advance_one(first, steps, state, nodes, labels, pieces, stretches, room):
    """Take the state of one table through the layers from `first` on; return what it ended with."""
    # Parts of tuples are counted references, which to take anew at every layer would cost more than its arithmetic.
    table, safe, gain, gain_error, gain_sign, shift, shift_error, exponents = steps
    active, m, r, e, birth, decided, z_sign = nodes
    live, label_layer, node_of, below, above, counts = labels
    piece_ends, piece_counts = pieces
    stretch_ends, stretch_counts = stretches
    slot, undecided, _ = room
    for k in range(first, len(table)):
        if 2 * max(state[PIECES], state[STRETCHES]) > len(piece_ends):
            return FULL, k, 0
        if state[PIECES] == 0:
            return DONE, k, 0
        weight, bias = table[k, 1], table[k, 2]
        orientation = sign(weight)

        missing = 0
        for position in range(state[ACTIVE]):
            n = active[position]
            if decided[n] == k:
                continue
            if orientation == 0:
                z_sign[n] = sign(bias)
            elif e[n] == AT_INFINITY:
                z_sign[n] = orientation * sign(m[n])
            else:
                if not r[n] < LARGE:
                    undecided[missing] = n
                    missing += 1
                    continue
                if safe[k] and e[n] == 0:
                    z, error = affine(weight, 0.0, bias, 0.0, m[n], r[n])
                else:
                    z, error, _ = wide_affine(weight, 0.0, 0, bias, 0.0, 0, m[n], r[n], e[n])
                if abs(z) > error:
                    z_sign[n] = sign(z)
                else:
                    undecided[missing] = n
                    missing += 1
        if missing:
            return UNDECIDED, k, missing

        dead = (gain_sign[k, 0] == 0, gain_sign[k, 1] == 0)
        new, label = state[NODES], state[LABELS]
        if orientation != 0:
            counts[label, : state[LIMBS]] = 0
            state[PIECES] = split(
                piece_ends, piece_counts, state[PIECES], z_sign, dead, new, counts, label, state, slot
            )
            if dead[0] or dead[1] or gain_sign[k, 0] != gain_sign[k, 1]:
                state[STRETCHES] = split(
                    stretch_ends, stretch_counts, state[STRETCHES], z_sign, dead, new, counts, label + 1, state, slot
                )
                counts[label + 1] = 0
        elif dead[0]:
            state[PIECES] = state[STRETCHES] = 0

        for position in range(state[ACTIVE]):
            n = active[position]
            branch = 1 if z_sign[n] > 0 else 0
            if e[n] == AT_INFINITY:
                m[n] *= gain_sign[k, branch]
                continue
            if not r[n] < LARGE:
                r[n] = math.inf  # void until the value is next known exactly: 0 times it would be no bound
                continue
            g, g_error, c, c_error = gain[k, branch], gain_error[k, branch], shift[k, branch], shift_error[k, branch]
            wide = e[n] != 0 or not safe[k]
            if not wide:
                value, error = affine(g, g_error, c, c_error, m[n], r[n])
                wide = not (value == 0.0 or SMALL < abs(value) < LARGE)
                if not wide:
                    m[n], r[n] = value, error
            if wide:
                i, j = exponents[k, branch, 0], exponents[k, branch, 1]
                m[n], r[n], e[n] = wide_affine(g, g_error, i, c, c_error, j, m[n], r[n], e[n])
        for i in range(state[LIVE]):
            n = node_of[live[i]]
            if z_sign[n] != 0 or orientation == 0:
                branch = 1 if z_sign[n] > 0 else 0
                below[live[i]] *= gain_sign[k, branch]
                above[live[i]] *= gain_sign[k, branch]

        born = False
        for i in range(state[LIMBS]):
            born = born or counts[label, i] != 0
        used = born
        if not used and orientation != 0:
            for p in range(state[STRETCHES]):
                used = used or stretch_ends[p, 0] == new or stretch_ends[p, 1] == new
        if used:
            # At its kink a step has the value skip h + outer_bias. The first bound is void: it is set below.
            birth[new], decided[new], e[new] = k, -1, 0
            h = -bias / weight
            p, p_error = two_product(h, weight)
            exact = safe[k] and p == -bias and p_error == 0.0
            m[new], r[new] = h, 0.0 if exact else abs(h) * 2 * ROUNDOFF
            if safe[k]:
                m[new], r[new] = affine(table[k, 0], 0.0, table[k, 4], 0.0, m[new], r[new])
            if not safe[k] or not (m[new] == 0.0 or SMALL < abs(m[new]) < LARGE):
                m[new], r[new] = 0.0, math.inf
            active[state[ACTIVE]] = new
            state[ACTIVE] += 1
            state[NODES] += 1
        if born:
            low, high = gain_sign[k, 0], gain_sign[k, 1]
            label_layer[label], node_of[label] = k, new
            below[label], above[label] = (low, high) if orientation > 0 else (high, low)
            state[LABELS] += 1
            if not (dead[0] and dead[1]):  # else it bounds a region, and nothing more
                live[state[LIVE]] = label
                state[LIVE] += 1
        if dead[0] or dead[1]:
            _prune(state, nodes, labels, pieces, stretches, slot)
        if _exact_ones(state, active, r, e) > 1:
            _merge_equal(state, nodes, labels, pieces, stretches, room)
    return DONE, len(table), 0


@njit
def _exact_ones(state, active, r, e):
    exact = 0
    for position in range(state[ACTIVE]):
        n = active[position]
        if r[n] == 0.0 and e[n] == 0:
            exact += 1
    return exact


@njit
def _prune(state, nodes, labels, pieces, stretches, slot):
    """Forget the nodes that end nothing and the labels with no live side."""
    active, live = nodes.active, labels.live
    for p in range(state[PIECES]):
        slot[pieces.ends[p, 0]] = slot[pieces.ends[p, 1]] = 0
    for p in range(state[STRETCHES]):
        slot[stretches.ends[p, 0]] = slot[stretches.ends[p, 1]] = 0
    kept = 0
    for position in range(state[ACTIVE]):
        n = active[position]
        if slot[n] >= 0:
            slot[n] = -1
            active[kept] = n
            kept += 1
    state[ACTIVE] = kept
    kept = 0
    for i in range(state[LIVE]):
        if labels.below[live[i]] != 0 or labels.above[live[i]] != 0:
            live[kept] = live[i]
            kept += 1
    state[LIVE] = kept


@njit
def _merge_equal(state, nodes, labels, pieces, stretches, room):
    """Make one node of all that are known exactly and are equal: from here on they share their fate."""
    active, m, r, e, _, _, _ = nodes
    slot, _, table = room
    exact = _exact_ones(state, active, r, e)
    size = 1
    while size < 2 * exact:
        size *= 2
    table[:size] = -1
    kept = 0
    for position in range(state[ACTIVE]):
        n = active[position]
        if r[n] == 0.0 and e[n] == 0:
            _, exponent = math.frexp(m[n])
            key = int(math.ldexp(m[n], int(52 - exponent))) * 31 + exponent
            place = (key ^ (key >> 21)) & (size - 1)
            while table[place] >= 0 and m[table[place]] != m[n]:
                place = (place + 1) & (size - 1)
            first = table[place]
            if first >= 0:
                state[PIECES] = rename(pieces.ends, pieces.counts, state[PIECES], n, first, state, slot)
                state[STRETCHES] = rename(stretches.ends, stretches.counts, state[STRETCHES], n, first, state, slot)
                for i in range(state[LIVE]):
                    if labels.node[labels.live[i]] == n:
                        labels.node[labels.live[i]] = first
                continue
            table[place] = n
        active[kept] = n
        kept += 1
    state[ACTIVE] = kept
