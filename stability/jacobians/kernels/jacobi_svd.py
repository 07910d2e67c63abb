"""Compiled loops: singular values of rows of very different size, by one-sided Jacobi rotations in the log domain."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.formats import SPACING
from stability.jacobians.kernels.vectors import dot, norm, reflect, subtract

_LOG2 = math.log(2.0)
#: A handful is enough where the rows are sorted and the scales far apart; equal scales take up to about ten.
_SWEEPS = 60


@njit(fastmath={"reassoc", "contract", "nsz"}, inline="never")
def _rotate(a, b, a_from_b, b_from_a, cosine):
    for i in range(len(a)):
        x, y = a[i], b[i]
        a[i] = cosine * (x + a_from_b * y)
        b[i] = cosine * (y + b_from_a * x)


@njit(error_model="numpy")
def _divide(a, number):
    """a /= number, which makes NaN of 0 / 0."""
    for i in range(len(a)):
        a[i] /= number


@njit
def triangle(logs, exponents, mixing):
    """Return an upper triangle that has, its rows scaled, the singular values of diag(scales) mixing.

    With mixing^T = Q R and s the scales, diag(s) mixing = [diag(s) R^T diag(1/s)] diag(s) Q^T, and the bracket is
    nearly diagonal wherever the scales, sorted downwards, are far apart. Its transpose comes back.
    """
    k = len(logs)
    rows, upper = mixing.copy(), np.zeros((k, k))
    for s in range(k):
        upper[s, s] = rows[s, s]
        if s + 1 < rows.shape[1] and np.max(np.abs(rows[s, s + 1 :])) > 0.0:
            v = rows[s, s:]
            upper[s, s], factor = reflect(v)
            for j in range(s + 1, k):
                subtract(rows[j, s:], factor * dot(v, rows[j, s:]), v)
        for j in range(s + 1, k):
            gap = (exponents[j] - exponents[s]) * _LOG2 + (logs[j] - logs[s])
            upper[s, j] = rows[j, s] * math.exp(gap)
    return upper


@njit
def jacobi(logs, exponents, rows):
    """Return the logs of the singular values of diag(exp(logs) 2^exponents) rows, descending; all are overwritten.

    Rows are made orthogonal two at a time. A row is kept at length 1 and its scale apart, so that a rotation meets
    only the ratio of two scales, at most 1, and nothing leaves the range.
    """
    k = len(logs)
    tolerance = SPACING * math.sqrt(k)
    for i in range(k):
        length = norm(rows[i])
        logs[i] += math.log(length)
        _divide(rows[i], length)
    for _ in range(_SWEEPS):
        order = np.argsort(-(logs + exponents * _LOG2))
        sorted_rows, sorted_logs, sorted_exponents = rows[order], logs[order], exponents[order]
        for i in range(k):
            logs[i], exponents[i] = sorted_logs[i], sorted_exponents[i]
            for j in range(rows.shape[1]):
                rows[i, j] = sorted_rows[i, j]
        rotated = False
        for i in range(k - 1):
            for j in range(i + 1, k):
                cosine = dot(rows[i], rows[j])
                if abs(cosine) <= tolerance:
                    continue
                rotated = True
                gap = (exponents[j] - exponents[i]) * _LOG2 + (logs[j] - logs[i])
                large, small = (i, j) if gap <= 0.0 else (j, i)
                ratio = math.exp(-abs(gap))
                # The tangent of the angle over the ratio, which is finite however small the ratio is.
                cotangent = -math.expm1(-2.0 * abs(gap)) / (2.0 * cosine)
                tangent = math.copysign(1.0, cotangent) / (abs(cotangent) + math.hypot(ratio, cotangent))
                turn = 1.0 / math.sqrt(1.0 + (tangent * ratio) ** 2)
                _rotate(rows[large], rows[small], tangent * ratio * ratio, -tangent, turn)
                for one in (large, small):
                    square = dot(rows[one], rows[one])
                    if abs(square - 1.0) > 1e-14:
                        length = math.sqrt(square)
                        _divide(rows[one], length)
                        logs[one] += math.log(length)
        if not rotated:
            break
    values = logs + exponents * _LOG2
    return values[np.argsort(-values)]


@njit(cache=True, nogil=True)
def log_singular_values(mantissas, exponents, mixing, ranks, chosen, log_values):
    """Fill the log singular values of diag(mantissas 2^exponents) mixing, descending, for the chosen of a batch.

    Args:
        mantissas, exponents: (batch, r), of which the first `ranks` count.
        mixing: (batch, r, n0).
        ranks: (batch,).
        chosen: (batch,), bool.
        log_values: out, (batch, k) with k >= ranks; beyond the rank it is -inf.
    """
    for b in range(len(ranks)):
        if not chosen[b]:
            continue
        rank = ranks[b]
        log_values[b] = -math.inf
        if rank == 0:
            continue
        logs, powers = np.log(mantissas[b, :rank]), exponents[b, :rank]
        order = np.argsort(-(logs + powers * _LOG2))
        logs, powers = logs[order], powers[order]
        values = jacobi(logs, powers, triangle(logs, powers, mixing[b, :rank][order]))
        for i in range(rank):
            log_values[b, i] = values[i]


@njit(cache=True, nogil=True)
def right_vectors(mantissas, exponents, mixing, ranks, vectors):
    """Fill the right singular vectors of diag(mantissas 2^exponents) mixing, as rows, by falling singular value.

    Args:
        mantissas, exponents, mixing, ranks: as above.
        vectors: out, (batch, r, n0); rows beyond the rank are 0.
    """
    for b in range(len(ranks)):
        rank = ranks[b]
        vectors[b] = 0.0
        if rank == 0:
            continue
        logs, powers = np.log(mantissas[b, :rank]), exponents[b, :rank].copy()
        rows = mixing[b, :rank].copy()
        jacobi(logs, powers, rows)  # rows that have been made orthogonal, and are sorted but for the last sweep
        order = np.argsort(-(logs + powers * _LOG2))
        for i in range(rank):
            for j in range(rows.shape[1]):
                vectors[b, i, j] = rows[order[i], j]
