"""Compiled loop: the two derivatives that each width-1 step can have, where float64 is good enough for them."""

from __future__ import annotations

from numba import njit

from stability.networks.kernels.steps import row_of, through

#: Where |skip + product| falls below this part of |skip| + |product|, float64 is not.
CANCELLATION = 1e-3


@njit(inline="always")
def _in_range(size):
    return (size > 1e-290) & (size < 1e290)


@njit(inline="always")
def _is_clear(skip, product, total):
    return abs(total) >= CANCELLATION * (abs(skip) + abs(product))


@njit(cache=True, nogil=True)
def fill_factors(first, last, table, values, clear):
    """Fill skip + outer_weight weight phi', for z <= 0 and for z > 0, and whether rounding leaves it right.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6).
        values, clear: out, (seeds, rows, 2), the second bool.
    """
    for s in range(first, last):
        rows, value, right = table[s], values[s], clear[s]
        for r in range(len(rows)):
            row = row_of(rows[r])
            inner = through(row, 1.0)
            # A product that is exactly 0 is told from one that underflows.
            zero = (row.outer_weight == 0.0) | (row.weight == 0.0)
            below_zero = zero | (row.slope == 0.0)
            above = 0.0 if zero else inner
            below = 0.0 if below_zero else through(row, row.slope)
            held = _in_range(abs(inner))
            # The gain, of parts whose zeros are certain.
            value[r, 0], value[r, 1] = row.skip + below, row.skip + above
            right[r, 0] = (below_zero | (held & _in_range(abs(below)))) & _is_clear(row.skip, below, value[r, 0])
            right[r, 1] = (zero | held) & _is_clear(row.skip, above, value[r, 1])
