"""The coefficients of z^k in (I + z A_L) ... (I + z A_1): a product tree of matrix polynomials with running bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stability.foundation.formats import SPACING
from stability.jacobians.products import Array

#: The exponent of a coefficient that is zero; far below any other, and two of them still fit an integer.
NOTHING = -(2**40)
#: Parts that are smaller by more powers of 2 than this are left out of a sum.
DROPPED = 1000
#: How many numbers of coefficients are taken at once.
TOGETHER = 2**22


@dataclass(frozen=True)
class Polynomials:
    """Matrix polynomials with one exponent of 2 for each coefficient: the coefficient of z^k is mantissa 2^exponent.

    Attributes:
        mantissas: (nodes, batch, K + 1, n, n), the largest entry of each coefficient in [1/2, 1), or all of them 0.
        exponents: int64 (nodes, batch, K + 1), NOTHING for a coefficient of 0.
        errors: (nodes, batch, K + 1), in units of 2^exponent a bound of the Frobenius norm of what rounding has done.
    """

    mantissas: Array
    exponents: NDArray[np.int64]
    errors: Array

    @property
    def log_norms(self) -> Array:
        """The log of the Frobenius norm of every coefficient, (nodes, batch, K + 1), -inf for 0."""
        return _log(np.linalg.norm(self.mantissas, axis=(3, 4)), self.exponents)

    @property
    def log_errors(self) -> Array:
        """The log of the bound of the error of that, as the norm of a difference."""
        return _log(self.errors, np.where(self.exponents == NOTHING, 0, self.exponents))


def _log(mantissas: Array, exponents: NDArray[np.int64]) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mantissas) + np.where(mantissas == 0, 0, exponents) * math.log(2))


def path_polynomial(branches: Sequence[Array], highest: int) -> Polynomials:
    """Return the coefficients of the product of I + z A_l up to z^highest, the first layer applied first.

    The factors are multiplied in pairs, then the products in pairs, and so on. The bound of the error follows every
    product, |Q P| by |Q| |P|: with log2(depth) products above each other it stays far below the coefficients, where
    the sums of a factor after the other would have it grow as the product of all |A_l|.

    Args:
        branches: (batch, n, n) for each layer, taken as they are.
        highest: up to the depth.

    Returns:
        Polynomials of one node.
    """
    found = _factors(branches)
    depth, nodes = len(branches), found.mantissas.shape[0]
    while nodes > 1:
        nodes //= 2
        # Every node of a level holds as many layers as the others, or one less.
        found = _multiplied(found, min(highest, -(-depth // nodes)))
    return found


def _factors(branches: Sequence[Array]) -> Polynomials:
    """Return the factors, between them some that are 1, so that their number is a power of 2."""
    batch, n, _ = branches[0].shape
    depth = len(branches)
    nodes = 1 << (depth - 1).bit_length()
    values = np.zeros((nodes, batch, 2, n, n))
    values[:, :, 0] = np.eye(n)
    for number, branch in enumerate(branches):
        values[-(-number * nodes // depth), :, 1] = branch
    return _normalised(values, np.zeros((nodes, batch, 2), np.int64), np.zeros((nodes, batch, 2)))


def _normalised(values: Array, exponents: NDArray[np.int64], errors: Array) -> Polynomials:
    largest = abs(values).max(axis=(3, 4))
    shift = np.frexp(largest)[1].astype(np.int64)
    mantissas = np.ldexp(values, -shift[..., None, None])
    errors = np.ldexp(errors, -shift)
    zero = largest == 0
    # The error of a coefficient that came out as 0 stays in the units that it is in.
    kept = np.where(errors > 0, exponents, NOTHING)
    return Polynomials(mantissas, np.where(zero, kept, exponents + shift), errors)


def _multiplied(factors: Polynomials, highest: int) -> Polynomials:
    """Return the products of neighbours, the second one of each pair applied after the first, up to z^highest."""
    first, second = _every_second(factors, 0), _every_second(factors, 1)
    nodes, batch, size, n, _ = first.mantissas.shape
    values = np.zeros((nodes, batch, highest + 1, n, n))
    exponents = np.zeros((nodes, batch, highest + 1), np.int64)
    errors = np.zeros((nodes, batch, highest + 1))
    norms = [np.linalg.norm(one.mantissas, axis=(3, 4)) for one in (first, second)]
    rows = np.ascontiguousarray(second.mantissas.transpose(0, 1, 3, 2, 4)[:, :, :, ::-1])  # (.., n, K, n), falling
    for k in range(highest + 1):
        low, high = max(0, k - size + 1), min(k, size - 1) + 1
        taken = slice(size - 1 - k + low, size - 1 - k + high)  # second k - low ... k - high + 1
        place = slice(k - high + 1, k - low + 1)
        sums = first.exponents[:, :, low:high] + second.exponents[:, :, place][:, :, ::-1]
        top = sums.max(axis=2)
        lower = np.maximum(sums - top[..., None], -2 * DROPPED)
        scale = np.where(lower >= -DROPPED, np.ldexp(1.0, lower), 0.0)
        given = rows[:, :, :, taken] * scale[:, :, None, :, None]
        length = (high - low) * n
        values[:, :, k] = given.reshape(nodes, batch, n, length) @ first.mantissas[:, :, low:high].reshape(
            nodes, batch, length, n
        )
        one, other = norms[0][:, :, low:high], norms[1][:, :, place][:, :, ::-1]
        own, others = first.errors[:, :, low:high], second.errors[:, :, place][:, :, ::-1]
        passed = (scale * (other * own + others * one + others * own)).sum(axis=2)
        rounded = (length + 2) * SPACING * (scale * one * other).sum(axis=2)
        dropped = ((scale == 0) & ((one + own) * (other + others) > 0)).any(axis=2) & (top > NOTHING // 2)
        errors[:, :, k] = (1 + 1e-9) * (passed + rounded) + dropped * 2.0**-900
        exponents[:, :, k] = np.where(top > NOTHING // 2, top, 0)
    return _normalised(values, exponents, errors)


def _every_second(one: Polynomials, start: int) -> Polynomials:
    return Polynomials(one.mantissas[start::2], one.exponents[start::2], one.errors[start::2])
