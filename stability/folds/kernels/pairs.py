"""Compiled loops over pairs of nodes: pieces are cut at kinks, fall flat, and become equal."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.folds.kernels.counting_state import LIMBS
from stability.foundation.kernels.copying import copy


@njit(inline="always")
def _grow_by(target, target_row, source, source_row, state):
    """Add one multiplicity to another, which may take one limb more into use."""
    carry = np.uint64(0)
    limbs = state[LIMBS]
    for i in range(limbs):
        a = target[target_row, i]
        b = a + source[source_row, i]
        c = b + carry
        carry = np.uint64(1) if b < a or c < b else np.uint64(0)
        target[target_row, i] = c
    if carry:
        target[target_row, limbs] = carry
        state[LIMBS] = limbs + 1


@njit
def split(ends, counts, size, z_sign, dead, new, births, births_row, state, slot):
    """Cut every pair whose pre-activations have opposite signs at the node `new`, drop what is flat from now on.

    The multiplicities of the cut pairs are added to `births[births_row]`. Returns the new number of pairs.
    """
    old = size
    removed = False
    for p in range(old):
        i, j = ends[p, 0], ends[p, 1]
        a, b = z_sign[i], z_sign[j]
        if a * b >= 0:
            if dead[1 if a + b > 0 else 0]:
                ends[p, 0] = -1
                removed = True
            continue
        low, high = (i, j) if a < 0 else (j, i)
        _grow_by(births, births_row, counts, p, state)
        free = True
        for end, gone in ((high, dead[1]), (low, dead[0])):
            if gone:
                continue
            if slot[end] >= 0:
                _grow_by(counts, slot[end], counts, p, state)
                continue
            # The high part goes to the end, the low part takes the place of the whole.
            if end == high and not dead[0]:
                target = size
                size += 1
                copy(counts[p], counts[target, : state[LIMBS]])
            else:
                target = p
                free = False
            ends[target, 0], ends[target, 1] = end, new
            slot[end] = target
        if free:
            ends[p, 0] = -1
            removed = True
    for p in range(size):
        if ends[p, 0] >= 0:
            slot[ends[p, 0]] = slot[ends[p, 1]] = -1
    if removed:
        kept = 0
        for p in range(size):
            if ends[p, 0] >= 0:
                if kept < p:
                    copy(ends[p], ends[kept])
                    copy(counts[p], counts[kept, : state[LIMBS]])
                kept += 1
        size = kept
    return size


@njit
def rename(ends, counts, size, old, new, state, slot):
    """Let the pairs of node `old` be pairs of node `new`; return the new number of pairs."""
    for p in range(size):
        if ends[p, 0] == new:
            slot[ends[p, 1]] = p
        elif ends[p, 1] == new:
            slot[ends[p, 0]] = p
    kept = 0
    for p in range(size):
        i, j = ends[p, 0], ends[p, 1]
        if i == old or j == old:
            other = j if i == old else i
            if slot[other] >= 0:
                _grow_by(counts, slot[other], counts, p, state)
                continue
            i, j = new, other
            slot[other] = kept
        elif i == new or j == new:
            slot[j if i == new else i] = kept
        ends[kept, 0], ends[kept, 1] = i, j
        if kept < p:
            copy(counts[p], counts[kept, : state[LIMBS]])
        kept += 1
    for p in range(kept):
        slot[ends[p, 0]] = slot[ends[p, 1]] = -1
    return kept
