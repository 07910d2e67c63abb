"""Compiled loops of exact counting: labels with values and error bounds, pairs of labels with multiplicities.

A node is a value that ends of pieces share: (m, r, e) says that it lies within (m - r, m + r) 2^e, and r = 0 that it
is exactly m 2^e. As long as a node is inside 2^-400 .. 2^400 its exponent is 0 and a step is plain float64 with the
rounding errors of every operation taken exactly; outside, exponents are aligned by hand. Multiplicities are integers
of many 64-bit limbs, least first.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

#: Inside these bounds, with a row inside the second pair, no operation of a step leaves float64's range.
SMALL, LARGE = 2.0**-400, 2.0**400
ROW_SMALL, ROW_LARGE = 2.0**-100, 2.0**100
#: The exponent of a node at infinity, on the side of its m.
AT_INFINITY = 1 << 60

#: Where the counters stand in the state.
NODES, ACTIVE, LABELS, LIVE, PIECES, STRETCHES, LIMBS = range(7)
#: What a call ended with.
DONE, UNDECIDED, FULL = 0, 1, 2

_UP = 1.0 + 2.0**-48  # more than the rounding of the few operations of any one bound
_UNIT = 2.0**-53
_FLOOR = 2.0**-1000  # an error bound above 0 stays above 0


@njit(inline="always")
def _two_sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit(inline="always")
def _two_product(a, b):
    p = a * b
    c = 134217729.0 * a
    a1 = c - (c - a)
    a2 = a - a1
    c = 134217729.0 * b
    b1 = c - (c - b)
    b2 = b - b1
    return p, a2 * b2 - (((p - a1 * b1) - a2 * b1) - a1 * b2)


@njit(inline="always")
def _sign(x):
    return 1 if x > 0 else (-1 if x < 0 else 0)


@njit(inline="always")
def _affine(weight, weight_error, bias, bias_error, m, r):
    """Return weight m + bias with a bound of its error, 0 where it is exact."""
    p, p_error = _two_product(weight, m)
    s, s_error = _two_sum(p, bias)
    error = abs(p_error + s_error) + abs(weight) * r + weight_error * (abs(m) + r) + bias_error
    return s, max(error * _UP, _FLOOR) if error > 0.0 or r > 0.0 else error


@njit(cache=True)
def coefficients(table, safe, gain, gain_error, shift, shift_error, gain_sign):
    """Fill gain and shift of h -> gain h + shift for z <= 0 and z > 0, (rows, 2), their errors and the gain's sign.

    A row is safe if its numbers are 0 or within ROW_SMALL .. ROW_LARGE; the others are left alone. A sign that is not
    certain is 2. Returns whether there is any such row or sign.
    """
    open_ends = False
    for k in range(len(table)):
        safe[k] = True
        for column in range(6):
            size = abs(table[k, column])
            safe[k] = safe[k] and (size == 0.0 or ROW_SMALL < size < ROW_LARGE)
        if not safe[k]:
            open_ends = True
            continue
        skip, weight, bias, outer_weight, outer_bias, slope = table[k]
        for branch in range(2):
            phi = 1.0 if branch else slope
            p, p_error = _two_product(outer_weight, weight)
            q, q_error = _two_product(p, phi)
            g, g_error = _two_sum(skip, q)
            gain[k, branch] = g
            gain_error[k, branch] = (abs(g_error + q_error) + abs(p_error * phi)) * _UP
            p, p_error = _two_product(outer_weight, bias)
            q, q_error = _two_product(p, phi)
            c, c_error = _two_sum(q, outer_bias)
            shift[k, branch] = c
            shift_error[k, branch] = (abs(c_error + q_error) + abs(p_error * phi)) * _UP
            certain = abs(g) > gain_error[k, branch] or gain_error[k, branch] == 0.0
            gain_sign[k, branch] = _sign(g) if certain else 2
            open_ends = open_ends or not certain
    return open_ends


@njit
def _scaled(r, exponent):
    """Return a bound of r 2^exponent for r >= 0."""
    if r == 0.0:
        return 0.0
    if exponent > 1000:
        return math.inf
    return max(math.ldexp(r, max(exponent, -1000)), _FLOOR)


@njit
def _wide_product(m, r, e, weight, weight_error, weight_exponent):
    a, i = math.frexp(m)
    b, j = math.frexp(weight)
    r, weight_error = _scaled(r, -i), _scaled(weight_error, -j)
    error = abs(a) * weight_error + abs(b) * r + r * weight_error + 2 * _UNIT * abs(a * b)
    exact = error == 0.0 and (r == 0.0 or weight_error == 0.0)
    return a * b, 0.0 if exact else max(error * _UP, _FLOOR), e + i + weight_exponent + j


@njit
def _wide_sum(m1, r1, e1, m2, r2, e2):
    if m1 == 0.0 and r1 == 0.0:
        return m2, r2, e2
    if m2 == 0.0 and r2 == 0.0:
        return m1, r1, e1
    if e1 < e2:
        m1, r1, e1, m2, r2, e2 = m2, r2, e2, m1, r1, e1
    s = m1 + math.ldexp(m2, max(e2 - e1, -1000))
    return s, (r1 + _scaled(r2, e2 - e1) + 2 * _UNIT * abs(s) + _FLOOR) * _UP, e1


@njit
def _wide_affine(weight, weight_error, weight_exponent, bias, bias_error, bias_exponent, m, r, e):
    """`_affine` for numbers with exponents of their own."""
    m, r, e = _wide_product(m, r, e, weight, weight_error, weight_exponent)
    a, i = math.frexp(bias)
    m, r, e = _wide_sum(m, r, e, a, _scaled(bias_error, -i), bias_exponent + i)
    if m == 0.0:
        return m, r, e if r > 0.0 else 0
    a, i = math.frexp(m)
    if -400 < e + i < 400:
        return math.ldexp(a, e + i), _scaled(r, e), 0
    return a, _scaled(r, -i), e + i


@njit(inline="always")
def _grow_by(target, target_row, source, source_row, used):
    """Add one multiplicity to another; return the number of limbs now in use."""
    carry = np.uint64(0)
    limbs = used[LIMBS]
    for i in range(limbs):
        a = target[target_row, i]
        b = a + source[source_row, i]
        c = b + carry
        carry = np.uint64(1) if b < a or c < b else np.uint64(0)
        target[target_row, i] = c
    if carry:
        target[target_row, limbs] = carry
        used[LIMBS] = limbs + 1


@njit
def _split(pairs, counts, size, z_sign, dead, new, births, births_row, used, slot):
    """Cut every pair whose pre-activations have opposite signs at the node `new`, drop what is flat from now on.

    The multiplicities of the cut pairs are added to `births[births_row]`. Returns the new number of pairs.
    """
    old = size
    removed = False
    for p in range(old):
        i, j = pairs[p, 0], pairs[p, 1]
        a, b = z_sign[i], z_sign[j]
        if a * b >= 0:
            if dead[1 if a + b > 0 else 0]:
                pairs[p, 0] = -1
                removed = True
            continue
        low, high = (i, j) if a < 0 else (j, i)
        _grow_by(births, births_row, counts, p, used)
        free = True
        for end, gone in ((high, dead[1]), (low, dead[0])):
            if gone:
                continue
            if slot[end] >= 0:
                _grow_by(counts, slot[end], counts, p, used)
                continue
            # The high part goes to the end, the low part takes the place of the whole.
            if end == high and not dead[0]:
                target = size
                size += 1
                counts[target, : used[LIMBS]] = counts[p, : used[LIMBS]]
            else:
                target = p
                free = False
            pairs[target, 0], pairs[target, 1] = end, new
            slot[end] = target
        if free:
            pairs[p, 0] = -1
            removed = True
    for p in range(size):
        if pairs[p, 0] >= 0:
            slot[pairs[p, 0]] = slot[pairs[p, 1]] = -1
    if removed:
        kept = 0
        for p in range(size):
            if pairs[p, 0] >= 0:
                if kept < p:
                    pairs[kept] = pairs[p]
                    counts[kept, : used[LIMBS]] = counts[p, : used[LIMBS]]
                kept += 1
        size = kept
    return size


@njit
def _rename(pairs, counts, size, old, new, used, slot):
    """Let the pairs of node `old` be pairs of node `new`; return the new number of pairs."""
    for p in range(size):
        if pairs[p, 0] == new:
            slot[pairs[p, 1]] = p
        elif pairs[p, 1] == new:
            slot[pairs[p, 0]] = p
    kept = 0
    for p in range(size):
        i, j = pairs[p, 0], pairs[p, 1]
        if i == old or j == old:
            other = j if i == old else i
            if slot[other] >= 0:
                _grow_by(counts, slot[other], counts, p, used)
                continue
            i, j = new, other
            slot[other] = kept
        elif i == new or j == new:
            slot[j if i == new else i] = kept
        pairs[kept, 0], pairs[kept, 1] = i, j
        if kept < p:
            counts[kept, : used[LIMBS]] = counts[p, : used[LIMBS]]
        kept += 1
    for p in range(kept):
        slot[pairs[p, 0]] = slot[pairs[p, 1]] = -1
    return kept


@njit
def _merge_equal(state, nodes, m, r, e, node_of, live, pieces, piece_counts, stretches, stretch_counts, slot, table):
    """Make one node of all that are known exactly and are equal: from here on they share their fate."""
    exact = 0
    for position in range(state[ACTIVE]):
        n = nodes[position]
        if r[n] == 0.0 and e[n] == 0:
            exact += 1
    if exact < 2:
        return
    size = 1
    while size < 2 * exact:
        size *= 2
    table[:size] = -1
    kept = 0
    for position in range(state[ACTIVE]):
        n = nodes[position]
        if r[n] == 0.0 and e[n] == 0:
            _, exponent = math.frexp(m[n])
            key = int(math.ldexp(m[n], 52 - exponent)) * 31 + exponent
            place = (key ^ (key >> 21)) & (size - 1)
            while table[place] >= 0 and m[table[place]] != m[n]:
                place = (place + 1) & (size - 1)
            first = table[place]
            if first >= 0:
                state[PIECES] = _rename(pieces, piece_counts, state[PIECES], n, first, state, slot)
                state[STRETCHES] = _rename(stretches, stretch_counts, state[STRETCHES], n, first, state, slot)
                for i in range(state[LIVE]):
                    if node_of[live[i]] == n:
                        node_of[live[i]] = first
                continue
            table[place] = n
        nodes[kept] = n
        kept += 1
    state[ACTIVE] = kept


@njit
def _prune(state, nodes, live, pieces, stretches, below, above, slot):
    """Forget the nodes that end nothing and the labels with no live side."""
    for p in range(state[PIECES]):
        slot[pieces[p, 0]] = slot[pieces[p, 1]] = 0
    for p in range(state[STRETCHES]):
        slot[stretches[p, 0]] = slot[stretches[p, 1]] = 0
    kept = 0
    for position in range(state[ACTIVE]):
        n = nodes[position]
        if slot[n] >= 0:
            slot[n] = -1
            nodes[kept] = n
            kept += 1
    state[ACTIVE] = kept
    kept = 0
    for i in range(state[LIVE]):
        if below[live[i]] != 0 or above[live[i]] != 0:
            live[kept] = live[i]
            kept += 1
    state[LIVE] = kept


@njit(cache=True, nogil=True)
def advance(
    first,
    table,
    safe,
    gain,
    gain_error,
    gain_sign,
    shift,
    shift_error,
    exponents,
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
    pieces,
    piece_counts,
    stretches,
    stretch_counts,
    slot,
    undecided,
    hash_table,
):
    """Take the state through the layers from `first` on, as far as float64 can decide.

    Args:
        table: (rows, 6). safe: (rows,), whether the row's numbers are 0 or within ROW_SMALL .. ROW_LARGE.
        gain, gain_error, gain_sign, shift, shift_error: (rows, 2), see `coefficients`; exponents (rows, 2, 2), of both.
        state: the counters. nodes: the active ones. m, r, e, birth: of a node; birth is the layer of its kink.
        decided: of a node, the layer at which z_sign is known from outside.
        live: the labels with a live side; label_layer, node_of, below, above: of a label, the layer of its birth, its
            node, and the signs of its one-sided derivatives, below and above the kink; counts: its multiplicity.
        pieces, stretches: (n, 2), the nodes at the ends of affine pieces and of monotone stretches, with
            multiplicities; no flat ones.
        slot: (nodes,), all -1. undecided: out. hash_table: room for `_merge_equal`.

    Returns:
        What it ended with, the layer, and how many nodes are in `undecided`.
    """
    for k in range(first, len(table)):
        if 2 * max(state[PIECES], state[STRETCHES]) > len(pieces):
            return FULL, k, 0
        if state[PIECES] == 0:
            return DONE, k, 0
        weight, bias = table[k, 1], table[k, 2]
        orientation = _sign(weight)

        missing = 0
        for position in range(state[ACTIVE]):
            n = nodes[position]
            if decided[n] == k:
                continue
            if orientation == 0:
                z_sign[n] = _sign(bias)
            elif e[n] == AT_INFINITY:
                z_sign[n] = orientation * _sign(m[n])
            else:
                if not r[n] < LARGE:
                    undecided[missing] = n
                    missing += 1
                    continue
                if safe[k] and e[n] == 0:
                    z, error = _affine(weight, 0.0, bias, 0.0, m[n], r[n])
                else:
                    z, error, _ = _wide_affine(weight, 0.0, 0, bias, 0.0, 0, m[n], r[n], e[n])
                if abs(z) > error:
                    z_sign[n] = _sign(z)
                else:
                    undecided[missing] = n
                    missing += 1
        if missing:
            return UNDECIDED, k, missing

        dead = (gain_sign[k, 0] == 0, gain_sign[k, 1] == 0)
        new, label = state[NODES], state[LABELS]
        if orientation != 0:
            counts[label, : state[LIMBS]] = 0
            state[PIECES] = _split(pieces, piece_counts, state[PIECES], z_sign, dead, new, counts, label, state, slot)
            if dead[0] or dead[1] or gain_sign[k, 0] != gain_sign[k, 1]:
                state[STRETCHES] = _split(
                    stretches, stretch_counts, state[STRETCHES], z_sign, dead, new, counts, label + 1, state, slot
                )
                counts[label + 1] = 0
        elif dead[0]:
            state[PIECES] = state[STRETCHES] = 0

        for position in range(state[ACTIVE]):
            n = nodes[position]
            branch = 1 if z_sign[n] > 0 else 0
            if e[n] == AT_INFINITY:
                m[n] *= gain_sign[k, branch]
                continue
            if not r[n] < LARGE:
                r[n] = math.inf  # void until the value is next known exactly: 0 times it would be no bound
                continue
            wide = e[n] != 0 or not safe[k]
            if not wide:
                value, error = _affine(
                    gain[k, branch], gain_error[k, branch], shift[k, branch], shift_error[k, branch], m[n], r[n]
                )
                wide = not (value == 0.0 or SMALL < abs(value) < LARGE)
                if not wide:
                    m[n], r[n] = value, error
            if wide:
                m[n], r[n], e[n] = _wide_affine(
                    gain[k, branch],
                    gain_error[k, branch],
                    exponents[k, branch, 0],
                    shift[k, branch],
                    shift_error[k, branch],
                    exponents[k, branch, 1],
                    m[n],
                    r[n],
                    e[n],
                )
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
                used = used or stretches[p, 0] == new or stretches[p, 1] == new
        if used:
            # At its kink a step has the value skip h + outer_bias. The first bound is void: it is set below.
            birth[new], decided[new], e[new] = k, -1, 0
            h = -bias / weight
            p, p_error = _two_product(h, weight)
            exact = safe[k] and p == -bias and p_error == 0.0
            m[new], r[new] = h, 0.0 if exact else abs(h) * 2 * _UNIT
            if safe[k]:
                m[new], r[new] = _affine(table[k, 0], 0.0, table[k, 4], 0.0, m[new], r[new])
            if not safe[k] or not (m[new] == 0.0 or SMALL < abs(m[new]) < LARGE):
                m[new], r[new] = 0.0, math.inf
            nodes[state[ACTIVE]] = new
            state[ACTIVE] += 1
            state[NODES] += 1
        if born:
            low, high = gain_sign[k, 0], gain_sign[k, 1]
            label_layer[label], node_of[label] = k, new
            below[label], above[label] = (low, high) if orientation > 0 else (high, low)
            if dead[0] and dead[1]:
                state[LABELS] += 1  # it bounds a region, and nothing more
            else:
                live[state[LIVE]] = label
                state[LIVE] += 1
                state[LABELS] += 1
        if dead[0] or dead[1]:
            _prune(state, nodes, live, pieces, stretches, below, above, slot)
        _merge_equal(
            state, nodes, m, r, e, node_of, live, pieces, piece_counts, stretches, stretch_counts, slot, hash_table
        )
    return DONE, len(table), 0
