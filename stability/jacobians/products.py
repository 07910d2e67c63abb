"""Prefix products of a sequence of matrices, a batch at a time, kept so that no singular value is lost."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stability.foundation.formats import SPACING
from stability.foundation.threads import side_by_side
from stability.jacobians.kernels import graded, jacobi_svd

Array = NDArray[np.float64]

#: A spread of scales, in natural logs, up to which LAPACK is asked first: its squares stay in float64's range.
LAPACK_SPREAD = 300.0
#: How far the logs that LAPACK finds may be, a value, from the logarithm of the determinant.
LAPACK_TOLERANCE = 1e-13
#: From this size on the largest singular value alone is found faster than all of them.
LANCZOS_FROM = 256


class PrefixProducts:
    """The products J_l ... J_1 of a batch of matrix sequences, as U diag(s) T with logarithmic scales s.

    U has orthonormal columns and T moderate entries, so every singular value of the product is a singular value of
    diag(s) T to a relative accuracy of about eps times the sum of the layers' condition numbers.

    Args:
        batch: how many sequences.
        columns: the columns of the first matrix.
    """

    def __init__(self, batch: int, columns: int) -> None:
        self._basis = np.broadcast_to(np.eye(columns), (batch, columns, columns)).copy()
        self._mixing = self._basis.copy()
        self._mantissas = np.full((batch, columns), 0.5)
        self._exponents = np.ones((batch, columns), np.int64)
        self.ranks = np.full(batch, columns)
        #: How many singular values so far count as zero because of rounding alone.
        self.lost = np.zeros(batch, np.int64)
        #: The sum of the layers' condition numbers: estimates, with rows and columns scaled alike.
        self.conditions = np.zeros(batch)

    def multiply(self, layers: Array, spacing: float = SPACING) -> None:
        """Multiply by one layer (batch, m, n) from the left.

        Args:
            layers: its matrices.
            spacing: of the format that they were calculated in. A direction that is within it of the size of a row is
                not told from zero, and counts as lost.
        """
        batch, rows, _ = layers.shape
        new_basis = np.zeros((batch, self._basis.shape[1], rows))
        conditions, lost = np.empty(batch), np.empty(batch, np.int64)
        layers = np.ascontiguousarray(layers)
        arrays = (self._basis, self._mantissas, self._exponents, self._mixing, self.ranks, new_basis, conditions, lost)

        def run(first: int, last: int) -> None:
            graded.multiply(layers[first:last], spacing, *(array[first:last] for array in arrays))

        side_by_side(run, batch, 4.0 * layers.size * self._basis.shape[1])
        self._basis = new_basis
        self.conditions += conditions
        self.lost += lost

    def multiply_applied(self, columns: Array, spacing: float) -> None:
        """Multiply by a layer of which only its product with `basis` is known, columns = J basis^T, (batch, m, r)."""
        r = columns.shape[2]
        self._basis = np.broadcast_to(np.eye(r), (len(columns), r, r)).copy()
        # The basis is of length 1: what is small in every row is noise of the layer, and not small by its own scale.
        noise = np.linalg.norm(columns, axis=2, keepdims=True) * (r * spacing)
        told = (abs(columns) > noise).any(axis=1, keepdims=True)
        self.lost += (~told & (columns != 0).any(axis=1, keepdims=True)).sum(axis=(1, 2))
        self.multiply(np.where(told, columns, 0.0), spacing)

    @property
    def basis(self) -> Array:
        """The left factor, orthonormal as rows, (batch, r, n); rows beyond the rank are 0."""
        return self._basis

    @property
    def parts(self) -> tuple[Array, Array]:
        """The logs of the scales (batch, r), -inf beyond the rank, and the right factor (batch, r, columns)."""
        return self._logs(), self._mixing

    def right_vectors(self) -> Array:
        """Return the right singular vectors as rows, (batch, r, columns), by falling value; 0 beyond the rank."""
        vectors = np.empty_like(self._mixing)
        self._by_rotations(jacobi_svd.right_vectors, vectors)
        return vectors

    def _by_rotations(self, kernel: Callable[..., None], *arrays: NDArray[np.generic]) -> None:
        parts = (self._mantissas, self._exponents, self._mixing, self.ranks, *arrays)

        def run(first: int, last: int) -> None:
            kernel(*(part[first:last] for part in parts))

        side_by_side(run, len(self.ranks), 20.0 * self._mixing.size * self._mixing.shape[1])

    def log_scales(self) -> Array:
        """Return the logs of the scales, (batch, columns), descending: sums of log |R_ii|, no singular values."""
        return np.asarray(-np.sort(-self._logs(), axis=1))

    def _logs(self) -> Array:
        logs: Array = np.log(self._mantissas) + self._exponents * math.log(2)
        logs[~self._live()] = -math.inf
        return logs

    def log_values(self) -> Array:
        """Return the logs of the singular values, (batch, columns), descending, -inf beyond the rank."""
        batch, columns = self._mantissas.shape
        log_values = np.empty((batch, columns))
        rest = np.ones(batch, dtype=bool)
        if columns >= graded.LAPACK_FROM:
            rest = ~self._by_lapack(log_values)
        if rest.any():
            self._by_rotations(jacobi_svd.log_singular_values, rest, log_values)
        return log_values

    def _by_lapack(self, log_values: Array) -> NDArray[np.bool_]:
        """Fill what LAPACK gets right, and return where that is.

        It reduces a matrix with rows of falling size without mixing them, as a rule and not by a theorem. But the logs
        of the values have a known sum, which noise in place of a small value would miss: |det T| is 1 while no rank is
        lost, and of fewer rows T = L Q has the values of L, whose determinant is the product of its diagonal.
        """
        logs = np.log(self._mantissas) + self._exponents * math.log(2)
        done = np.zeros(len(logs), dtype=bool)
        for rank in np.unique(self.ranks):
            spread = np.ptp(logs[:, :rank], axis=1) if rank else np.zeros(len(logs))
            tried = np.flatnonzero((self.ranks == rank) & (spread < LAPACK_SPREAD))
            if rank >= graded.LAPACK_FROM and len(tried):
                values, clear = self._decomposed(tried, int(rank), logs[tried, :rank])
                done[tried] = clear
                log_values[tried[clear]] = -math.inf
                log_values[tried[clear], :rank] = values[clear]
        return done

    def _decomposed(self, chosen: NDArray[np.int64], rank: int, logs: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Return the logs of the singular values of products of one rank, and where their sum is what it must be."""
        order, place = np.argsort(-logs, axis=1), chosen[:, None]
        mixing, mantissas, exponents = (part[place, order] for part in (self._mixing, self._mantissas, self._exponents))
        expected = logs.sum(axis=1)
        if rank < mixing.shape[2]:
            triangle: Array = np.linalg.qr(mixing.transpose(0, 2, 1), mode="r")  # type: ignore[assignment]
            mixing = triangle.transpose(0, 2, 1)
            with np.errstate(divide="ignore"):
                expected = expected + np.log(abs(np.diagonal(mixing, axis1=1, axis2=2))).sum(axis=1)
        top = exponents.max(axis=1, keepdims=True)
        mixing *= np.ldexp(mantissas, exponents - top)[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log(np.linalg.svd(mixing, compute_uv=False)) + top * math.log(2)
            clear = abs(values.sum(axis=1) - expected) <= self._mantissas.shape[1] * LAPACK_TOLERANCE
        return values, clear

    def log_distance_from_identity(self) -> Array:
        """Return the log of the spectral norm of product - identity, (batch,), for square products."""
        top = np.maximum(0, np.where(self._live(), self._exponents, 0).max(axis=1))[:, None]
        scales = np.where(self._live(), np.ldexp(self._mantissas, np.maximum(self._exponents - top, -2000)), 0.0)
        product = self._basis.transpose(0, 2, 1) @ (scales[..., None] * self._mixing)
        identity = np.ldexp(np.ones(len(top)), -np.minimum(top[:, 0], 2000))
        product -= identity[:, None, None] * np.eye(product.shape[1])
        return np.asarray(log_spectral_norm(product) + top[:, 0] * math.log(2))

    def _live(self) -> NDArray[np.bool_]:
        return np.arange(self._mantissas.shape[1]) < self.ranks[:, None]


def log_spectral_norm(matrices: Array) -> Array:
    """Return the log of the largest singular value of matrices (..., m, n) of any size."""
    size = abs(matrices).max(axis=(-2, -1))
    size[size == 0] = 1.0
    scaled = matrices / size[..., None, None]
    if min(matrices.shape[-2:]) < LANCZOS_FROM:
        largest = np.linalg.svd(scaled, compute_uv=False)[..., 0]
    else:
        largest = np.array([_largest_value(one) for one in scaled.reshape(-1, *scaled.shape[-2:])])
        largest = largest.reshape(size.shape)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(largest) + np.log(size))


def _largest_value(matrix: Array) -> float:
    """Return the largest singular value of one matrix, by Lanczos iteration to machine precision."""
    from scipy.sparse.linalg import ArpackError, svds

    if not matrix.any():
        return 0.0
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    try:
        return float(svds(matrix, k=1, v0=start, return_singular_vectors=False)[0])
    except ArpackError:
        return float(np.linalg.svd(matrix, compute_uv=False)[0])
