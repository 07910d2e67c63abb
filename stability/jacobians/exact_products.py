"""Log singular values of prefix products without rounding: integers, a characteristic polynomial and its roots."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from stability.jacobians.products import Array

if TYPE_CHECKING:
    from flint import acb, fmpz_mat

#: Work that may be spent on the products of one call, n^4 times bits: a few seconds.
BUDGET = 3e9
#: Bits to which roots and logarithms are calculated.
_BITS = 128
_PRECISION = threading.Lock()


def exact_log_values(layers: Sequence[Array], chosen: Sequence[int]) -> dict[int, Array]:
    """Return the log singular values of the prefix products of `chosen` members of a batch, rounded once.

    The entries are read as rational numbers. A product P of integers has the singular values whose squares are the
    roots of the characteristic polynomial of P P^T or P^T P, which python-flint isolates with their multiplicities.

    Args:
        layers: [(batch, m, n), ...], the first applied first.
        chosen: the members, in the order in which they are taken.

    Returns:
        (depth, n) for each member, descending, -inf for exact zeros and beyond the smallest dimension so far. Members
        beyond BUDGET are missing, and all of them where python-flint is not installed.
    """
    found: dict[int, Array] = {}
    try:
        from flint import ctx
    except ImportError:
        return found
    left = BUDGET
    for member in chosen:
        own = [layer[member] for layer in layers]
        work = _work(own)
        if work > left:
            continue
        left -= work
        with _PRECISION:  # it is one for the whole process
            before, ctx.prec = ctx.prec, _BITS
            try:
                found[member] = _log_values_of_prefixes(own)
            finally:
                ctx.prec = before
    return found


def _log_values_of_prefixes(layers: Sequence[Array]) -> Array:
    values = np.full((len(layers), min(layers[0].shape)), -math.inf)
    for prefix, (product, exponent) in enumerate(_prefixes(layers)):
        logs = _log_values(product, exponent)
        values[prefix, : len(logs)] = logs
    return values


def _prefixes(layers: Sequence[Array]) -> Iterator[tuple[fmpz_mat, int]]:
    """Yield every prefix product as integers and a power of 2."""
    from flint import fmpz_mat

    product, total = None, 0
    for layer in layers:
        mantissas, exponents = np.frexp(layer)
        power = int(exponents[layer != 0].min(initial=2**20))
        shifts = np.where(layer != 0, exponents - power, 0)
        digits = np.ldexp(mantissas, 53).astype(np.int64)
        rows = zip(digits.tolist(), shifts.tolist(), strict=True)
        integers = fmpz_mat([[a << s for a, s in zip(*row, strict=True)] for row in rows])
        product = integers if product is None else integers * product
        total += power - 53
        yield product, total


def _work(layers: Sequence[Array]) -> float:
    """Return about what all prefixes take: the bits of P P^T times n^4, and times what multiplying takes, at most."""
    work, bits, columns = 0.0, 0.0, layers[0].shape[1]
    for layer in layers:
        rows, inner = layer.shape
        exponents = np.frexp(layer[layer != 0])[1]
        bits += (53 + np.ptp(exponents) if len(exponents) else 0) + math.log2(inner)
        n = min(rows, columns)
        work += 2 * bits * (n**4 + n * max(rows, columns) * (inner + n))
    return work


def _log_values(product: fmpz_mat, exponent: int) -> list[float]:
    """Return the finite logs of the singular values of product 2^exponent, descending."""
    from flint import arb, fmpz_poly

    turned = product.transpose()
    square = product * turned if product.nrows() <= product.ncols() else turned * product
    shift = arb(2).log() * exponent
    coefficients = square.charpoly().coeffs()
    zeros = next(i for i, coefficient in enumerate(coefficients) if coefficient != 0)  # as many as the rank falls short
    logs = []
    roots = cast("list[tuple[acb, int]]", fmpz_poly(coefficients[zeros:]).complex_roots())
    for root, multiplicity in roots:
        ball = root.real.log() / 2 + shift
        if not ball.rad() < 2.0**-64 * (1 + abs(ball)):
            raise ArithmeticError("the precision of python-flint was changed elsewhere during a calculation: repeat it")
        logs += [float(ball.mid())] * multiplicity
    return sorted(logs, reverse=True)
