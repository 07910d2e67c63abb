"""Compiled loops: the product of a width-1 chain's derivatives, in logarithms, whatever their range.

A number is carried as (mantissa, exponent), value mantissa * 2^exponent. As long as it stays inside
2^-400 .. 2^400 its exponent is 0 and a step is plain float64; outside, a step aligns exponents by hand.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.networks.kernels.steps import after_activation, phi, pre_activation, row_of
from stability.networks.kernels.wide_steps import wide_step

#: Inside these bounds a step of a row whose numbers are inside the second pair cannot leave float64's range.
SMALL, LARGE = 2.0**-400, 2.0**400
ROW_SMALL, ROW_LARGE = 2.0**-200, 2.0**200
#: Points that a thread takes together: what it keeps of them stays in the cache.
BLOCK = 2048
#: Layers that are followed before their logs are written: one long run of writes waits less for memory than many.
LAYERS = 32


# The loops over points are parted so that each runs in vector lanes: no branch, no call, one width of number but where
# it cannot be helped.


@njit(inline="never")
def _plain_layer(h, new, numbers, branch):
    """One step of all points in plain float64; return whether all are still in the range in which that is safe."""
    row = row_of(numbers)
    for p in range(len(h)):
        old = h[p]
        z = pre_activation(row, old)
        new[p] = after_activation(row, old, phi(row, z))
        branch[p] = z > 0.0
    return _in_range(new)


@njit(inline="never", fastmath={"reassoc", "nsz"})
def _in_range(h):
    """Return whether all points are 0 or well inside float64's range: by sums, which cost less than flags."""
    total = tiny = 0.0
    for p in range(len(h)):
        size = abs(h[p])
        total += size
        tiny += size if size <= SMALL else 0.0
    return (total < LARGE) & (tiny == 0.0)


@njit(inline="never")
def _wide_layer(h, exponent, numbers, safe, branch):
    """One step of all points, with exponents where they are needed; return whether any point is out of range."""
    row = row_of(numbers)
    wide = False
    for p in range(len(h)):
        old = h[p]
        plain = exponent[p] == 0 and safe and (old == 0.0 or SMALL < abs(old) < LARGE)
        positive = False
        if plain:
            z = pre_activation(row, old)
            positive = z > 0.0
            new = after_activation(row, old, phi(row, z))
            plain = new == 0.0 or SMALL < abs(new) < LARGE
            if plain:
                h[p] = new
        if not plain:
            (h[p], exponent[p]), positive = wide_step(numbers, (old, exponent[p]))
        branch[p] = positive
        wide = wide or exponent[p] != 0 or not (h[p] == 0.0 or SMALL < abs(h[p]) < LARGE)
    return wide


@njit
def _quantum(log_factors):
    """Return a power of 2 of which sums of as many multiples as there are layers are exact, (depth, 2) given."""
    bound = 1.0
    for layer in range(len(log_factors)):
        for log in log_factors[layer]:
            if log > -np.inf:
                bound += abs(log)
    return math.ldexp(1.0, int(math.frexp(bound)[1] - 51))


@njit(inline="always")
def _split(log, quantum):
    """Write a log as a multiple of the quantum, and a rest."""
    if log == -np.inf:
        return log, 0.0
    whole = round(log / quantum) * quantum
    return whole, log - whole


@njit(inline="never")
def _add_logs(whole, rest, below, above, branch, log_values):
    """Add the log of each point's factor, in two parts: wholes add up without rounding, and rests are tiny."""
    below_whole, below_rest = below
    above_whole, above_rest = above
    for p in range(len(whole)):
        positive = branch[p] != 0
        whole[p] += above_whole if positive else below_whole
        rest[p] += above_rest if positive else below_rest
        log_values[p] = whole[p] + rest[p]


@njit(inline="never")
def _multiply_signs(sign, below, above, branch, signs):
    for p in range(len(sign)):
        sign[p] *= above if branch[p] else below
        signs[p] = sign[p]


@njit(cache=True, nogil=True)
def log_derivatives(first, last, table, safe, log_factors, factor_signs, x, log_values, signs, branches):
    """Fill log |dh_l/dx| and its sign for every prefix l, seed and point.

    Args:
        first, last: which parts: part s blocks + b is seed s and the b-th block of BLOCK points.
        table: (seeds, depth, 6), the steps.
        safe: (seeds, depth), whether every number of the row is 0 or within ROW_SMALL .. ROW_LARGE.
        log_factors: (seeds, depth, 2), log of the modulus of a step's derivative for z <= 0 and for z > 0.
        factor_signs: the same shape, its sign, 0 where it is exactly 0.
        x: (points,).
        log_values: out, (depth, seeds, points).
        signs: out, the same shape, int8.
        branches: out, the same shape, int8, 1 where z > 0; or of depth LAYERS, and then scratch.
    """
    depth, kept = table.shape[1], len(branches)
    blocks = (len(x) + BLOCK - 1) // BLOCK
    for task in range(first, last):
        s, start = task // blocks, (task % blocks) * BLOCK
        stop = min(start + BLOCK, len(x))
        points = stop - start
        h, new, exponent = x[start:stop].copy(), np.empty(points), np.zeros(points, np.int64)
        whole, rest, sign = np.zeros(points), np.zeros(points), np.ones(points, np.int8)
        quantum = _quantum(log_factors[s])
        wide = not _in_range(h)
        for top in range(0, depth, LAYERS):
            layers = range(top, min(top + LAYERS, depth))
            for layer in layers:
                branch = branches[layer % kept, s, start:stop]
                if safe[s, layer] and not wide and _plain_layer(h, new, table[s, layer], branch):
                    h, new = new, h
                else:
                    wide = _wide_layer(h, exponent, table[s, layer], safe[s, layer], branch)
            for layer in layers:
                branch = branches[layer % kept, s, start:stop]
                below, above = (_split(log_factors[s, layer, 0], quantum), _split(log_factors[s, layer, 1], quantum))
                _add_logs(whole, rest, below, above, branch, log_values[layer, s, start:stop])
            for layer in layers:
                branch = branches[layer % kept, s, start:stop]
                below_sign, above_sign = factor_signs[s, layer]
                _multiply_signs(sign, below_sign, above_sign, branch, signs[layer, s, start:stop])
