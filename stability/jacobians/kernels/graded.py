"""Compiled loops: one more layer for prefix products kept as basis^T diag(mantissas 2^exponents) mixing.

A product P of rank r, (n, n0), is kept as three parts: `basis` (r, n), whose rows are orthonormal, r positive scales,
each a mantissa and an exponent of 2, and `mixing` (r, n0), whose entries stay moderate. For a layer J the columns of
J basis^T are factored by QR with column pivoting on their length times their scale, so that no number is ever added
to one of very different size, and no row of the new mixing holds a large one (Stewart 1997, on graded QR; Cox and
Higham 1998, on rows sorted by size).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.formats import SPACING
from stability.jacobians.kernels.vectors import dot, norm, reflect, subtract

#: From this rank on LAPACK factors faster than the loops here.
LAPACK_FROM = 40
#: A pivot that is a smaller part of its column than this sends a layer from LAPACK to the pivoted loops.
CLEAR_PIVOT = 1e-6
#: Columns whose norms differ by more than this are scaled in a step of their own.
COLUMN_RANGE = 1e3
#: Rows that are further apart, in powers of 2, are scaled in steps of their own: their ratio must stay a number.
ROW_RANGE = 800
#: The power of 2 of what is exactly zero.
NOTHING = -(2**20)
#: What rounding may change of a value, relative to it, from which on the value is given up.
VAGUE = 0.5
#: In how many times the noise a direction is looked for whose loss no pivot shows, each time in four times as much.
MOST = 4.0**4
#: So many rows of a triangle are multiplied at once.
ROWS = 64
#: Powers of 2, by which numbers are scaled faster than by ldexp.
_REACH = 1000
_POWERS = 2.0 ** np.arange(-_REACH, _REACH + 1)


@njit
def _exchange(a, i, j):
    for k in range(a.shape[1]):
        a[i, k], a[j, k] = a[j, k], a[i, k]


@njit
def _pivoted_qr(columns, noise, mantissas, exponents):
    """Factor `columns` (r, m), a column a row, pivoting on the length of a column times its scale.

    Nothing of a column that is within `noise` (m,) is told from zero. There may be fewer pivots than columns.

    Returns:
        order (r,) of the columns, basis (k, m), triangle (k, r), how many pivots rounding alone has taken.
    """
    r, m = columns.shape
    by_size = np.argsort(-noise)  # rows by size: then each is wrong by eps of its own size
    columns, noise = columns[:, by_size], noise[by_size]
    order = np.arange(r)
    limit = min(r, int(np.sum(noise > 0.0)))
    triangle, factors = np.zeros((limit, r)), np.zeros(limit)
    k = 0
    while k < limit:
        best, size = -1, -math.inf
        for j in range(k, r):
            told = False
            for i in range(k, m):
                if abs(columns[j, i]) > noise[i]:
                    told = True
                    break
            if told:
                scale = math.log2(mantissas[order[j]]) + exponents[order[j]]
                length = math.log2(norm(columns[j, k:])) + scale
                if length > size:
                    best, size = j, length
        if best < 0:
            break
        if best != k:
            _exchange(columns, best, k)
            order[best], order[k] = order[k], order[best]
            for i in range(k):
                triangle[i, best], triangle[i, k] = triangle[i, k], triangle[i, best]
        triangle[k, k] = columns[k, k]
        # Without anything to reflect a diagonal layer stays exact.
        if k + 1 < m and np.max(np.abs(columns[k, k + 1 :])) > 0.0:
            triangle[k, k], factors[k] = reflect(columns[k, k:])
        for j in range(k + 1, r):
            if factors[k] != 0.0:
                subtract(columns[j, k:], factors[k] * dot(columns[k, k:], columns[j, k:]), columns[k, k:])
            triangle[k, j] = columns[j, k]
        k += 1
    sorted_basis, basis = np.zeros((k, m)), np.empty((k, m))
    for s in range(k - 1, -1, -1):
        sorted_basis[s, s] = 1.0
        if factors[s] != 0.0:
            for i in range(s, k):
                row = sorted_basis[i, s:]
                subtract(row, factors[s] * dot(columns[s, s:], row), columns[s, s:])
    for i in range(k):
        for j in range(m):
            basis[i, by_size[j]] = sorted_basis[i, j]
    return order, basis, triangle[:k], limit - k


@njit
def _lapack_qr(columns, mantissas, exponents):
    """The same by LAPACK, for columns sorted once; the basis is empty where a pivot is not clear."""
    r, m = columns.shape
    lengths, sizes = np.empty(r), np.full(r, -math.inf)
    for j in range(r):
        lengths[j] = norm(columns[j])
        if lengths[j] > 0.0:
            sizes[j] = math.log2(lengths[j] * mantissas[j]) + exponents[j]
    order = np.argsort(-sizes)
    q, triangle = np.linalg.qr(columns[order].T)
    for j in range(r):
        if not abs(triangle[j, j]) > CLEAR_PIVOT * lengths[order[j]]:
            return order, np.zeros((0, m)), np.zeros((0, r))
    return order, np.ascontiguousarray(q.T), np.ascontiguousarray(triangle)


@njit
def _condition(basis, triangle, sizes):
    """Estimate how much a relative rounding of the rows of C = basis^T triangle is amplified, by inverse iteration.

    That is the norm of C^-1 diag(sizes): the condition number of a layer whose rows are scaled to the same length.
    """
    k = len(triangle)
    if k == 0:
        return 1.0
    left = np.ascontiguousarray(triangle[:, :k])
    x, amplified = np.ones(k) / math.sqrt(k), 1.0
    for _ in range(4):
        for i in range(k):  # triangle^T y = x
            x[i] /= left[i, i]
            subtract(x[i + 1 :], x[i], left[i, i + 1 :])
        y = sizes * np.dot(x, basis)
        y /= norm(y)
        x = np.dot(basis, sizes * y)
        for i in range(k - 1, -1, -1):  # triangle z = x
            x[i] = (x[i] - dot(left[i, i + 1 :], x[i + 1 :])) / left[i, i]
        amplified = norm(x)
        x /= amplified
    return max(1.0, amplified)


@njit
def _absorb(layer, basis, mantissas, exponents, mixing, spacing):
    """Multiply a product by a layer (m, n). Returns its new parts, a condition number, pivots that rounding took."""
    m, r = len(layer), len(basis)
    columns = np.dot(basis, layer.T)
    sizes = np.empty(m)
    for i in range(m):
        sizes[i] = norm(layer[i])
    noise = sizes * (r * spacing)
    order, new_basis, triangle, lost = np.arange(r), np.zeros((0, m)), np.zeros((0, r)), 0
    if LAPACK_FROM <= r <= m and np.min(noise) > 0.0:
        order, new_basis, triangle = _lapack_qr(columns, mantissas, exponents)
    # A direction may be lost without a pivot that is within the noise. Where it takes little more to find one, it is
    # given up; else nothing is told from what the rest is made of, and the condition number says so.
    first, more = (order, new_basis, triangle, lost, 1.0), 1.0
    while True:
        if more > 1.0 or len(new_basis) == 0:
            order, new_basis, triangle, lost = _pivoted_qr(columns, noise, mantissas, exponents)
        condition = _condition(new_basis, triangle, sizes)
        unknown = more == 1.0 and condition != condition  # by what leaves the range, which more noise does not mend
        if condition * (r * SPACING) < VAGUE or unknown:
            condition *= more  # what was given up is so much more than rounding
            break
        if more == 1.0:
            first = (order, new_basis, triangle, lost, condition)
        if more == MOST:
            order, new_basis, triangle, lost, condition = first
            break
        noise *= 4.0
        more *= 4.0
    k = len(triangle)
    mantissas, exponents = mantissas[order], exponents[order]
    new_mantissas, new_exponents = np.empty(k), np.empty(k, np.int64)
    for i in range(k):
        new_mantissas[i], power = math.frexp(abs(triangle[i, i]) * mantissas[i])
        new_exponents[i] = exponents[i] + power
    mixing, new_mixing = mixing[order], np.empty((k, mixing.shape[1]))
    for top in range(0, k, ROWS):  # what is left of the diagonal is zero, and is left out
        rows = min(ROWS, k - top)
        weights = np.zeros((rows, r - top))
        for i in range(top, top + rows):
            for j in range(i, r):
                weight, shift = triangle[i, j] * mantissas[j] / new_mantissas[i], exponents[j] - new_exponents[i]
                if -_REACH <= shift <= _REACH:
                    weights[i - top, j - top] = weight * _POWERS[shift + _REACH]
                else:
                    weights[i - top, j - top] = math.ldexp(weight, int(max(-2000, min(2000, shift))))
        np.dot(weights, mixing[top:], new_mixing[top : top + rows])
    return new_basis, new_mantissas, new_exponents, new_mixing, condition, lost


@njit
def _split(layer):
    """Write a layer as diag(2^rows) part diag(2^columns), with a part whose columns, and rows, are of like size.

    Returns part, columns and rows. `columns` is empty where the layer's columns are of like size already, and `rows` is
    the same number for all where its rows are not so far apart that a reflection would leave the range.
    """
    m, n = layer.shape
    sizes, heights = np.zeros(n), np.full(m, NOTHING)
    for i in range(m):
        for j in range(n):
            size = abs(layer[i, j])
            sizes[j] = size if size > sizes[j] else sizes[j]
    smallest, largest = sizes[0], 0.0
    for size in sizes:
        smallest, largest = min(smallest, size), max(largest, size)
    if largest == 0.0:
        return layer.copy(), np.zeros(0, np.int64), np.zeros(m, np.int64)
    top = math.frexp(largest)[1]
    columns = np.zeros(0, np.int64)
    if smallest * COLUMN_RANGE < largest:
        columns = np.full(n, NOTHING)
        for j in range(n):
            if sizes[j] > 0.0:
                columns[j] = math.frexp(sizes[j])[1] - top
    low = top
    for i in range(m):
        if len(columns) == 0:
            size = 0.0
            for j in range(n):
                size = max(size, abs(layer[i, j]))
            heights[i] = math.frexp(size)[1] if size > 0.0 else NOTHING
        else:
            for j in range(n):
                if layer[i, j] != 0.0:
                    heights[i] = max(heights[i], math.frexp(layer[i, j])[1] - columns[j])
        if heights[i] == NOTHING:
            heights[i] = top
        low = min(low, heights[i])
    if top - low <= ROW_RANGE:
        heights[:] = top
        if len(columns) == 0 and abs(top) <= _REACH:
            return layer * _POWERS[_REACH - top], columns, heights
    part = np.empty((m, n))
    for i in range(m):
        for j in range(n):
            power = heights[i] + (columns[j] if len(columns) else 0)
            part[i, j] = math.ldexp(layer[i, j], int(-power)) if layer[i, j] != 0.0 else 0.0
    return part, columns, heights


@njit
def _take_step(powers):
    """Take from the powers of diag(2^powers) so much as a reflection bears, and return it; 2^NOTHING is 0."""
    diagonal = np.zeros((len(powers), len(powers)))
    for i in range(len(powers)):
        if powers[i] == NOTHING:
            powers[i] = 0
            continue
        step = max(-ROW_RANGE // 2, min(ROW_RANGE // 2, powers[i]))
        diagonal[i, i] = math.ldexp(1.0, int(step))
        powers[i] -= step
    return diagonal


@njit(cache=True, nogil=True)
def multiply(layers, spacing, basis, mantissas, exponents, mixing, ranks, new_basis, conditions, lost):
    """Multiply every product of a batch by its layer, from the left.

    Args:
        layers: (batch, m, n).
        spacing: of the format that the layers were calculated in; what is within it of a row's size is not told from 0.
        basis: (batch, r, n), of which the first `ranks` rows count, as in all that follows.
        mantissas, exponents: (batch, r), in and out.
        mixing: (batch, r, n0), in and out.
        ranks: (batch,), in and out.
        new_basis: out, (batch, r, m).
        conditions: out, (batch,), how much a rounding of the layer may be amplified.
        lost: out, (batch,), pivots that rounding alone has taken.
    """
    for b in range(len(layers)):
        rank = ranks[b]
        part, columns, rows = _split(layers[b])
        state, mixed = basis[b, :rank], mixing[b, :rank]
        scales, powers = mantissas[b, :rank], exponents[b, :rank]
        exponent = np.max(rows)
        rows -= exponent
        conditions[b], lost[b] = 1.0, 0
        taken = False
        while True:
            noise = SPACING
            if np.any(columns != 0):
                # diag(2^columns) is a layer of its own: its rows are far apart in size, where the columns of J were.
                factor = _take_step(columns)
            elif not taken:
                factor, noise, taken = part, spacing, True
            elif np.any(rows != 0):
                factor = _take_step(rows)
            else:
                break
            state, scales, powers, mixed, condition, given_up = _absorb(factor, state, scales, powers, mixed, noise)
            conditions[b] = max(conditions[b], condition)
            lost[b] += given_up
        rank = len(scales)
        for i in range(rank):
            mantissas[b, i], exponents[b, i] = scales[i], powers[i] + exponent
            for j in range(state.shape[1]):
                new_basis[b, i, j] = state[i, j]
            for j in range(mixed.shape[1]):
                mixing[b, i, j] = mixed[i, j]
        ranks[b] = rank
