"""Compiled loop: the two derivatives that each width-1 step can have, where float64 is good enough for them."""

from __future__ import annotations

from numba import njit

#: Where |skip + product| falls below this part of |skip| + |product|, float64 is not.
CANCELLATION = 1e-3
_LOW, _HIGH = 1e-290, 1e290


@njit(cache=True, nogil=True)
def fill_factors(first, last, table, values, clear):
    """Fill skip + outer_weight weight phi', for z <= 0 and for z > 0, and whether rounding leaves it right.

    Args:
        first, last: which seeds.
        table: (seeds, rows, 6).
        values, clear: out, (seeds, rows, 2), the second bool.
    """
    for s in range(first, last):
        for r in range(table.shape[1]):
            skip, outer_weight, weight, slope = table[s, r, 0], table[s, r, 3], table[s, r, 1], table[s, r, 5]
            inner = outer_weight * weight
            size = abs(inner)
            none, inner_in_range = (outer_weight == 0.0) | (weight == 0.0), (size > _LOW) & (size < _HIGH)
            for branch in range(2):
                vanishes = none | ((branch == 0) & (slope == 0.0))
                product = 0.0 if vanishes else (inner * slope if branch == 0 else inner)
                size, total = abs(product), skip + product
                in_range = vanishes | (inner_in_range & (size > _LOW) & (size < _HIGH))
                values[s, r, branch] = total
                clear[s, r, branch] = in_range & (abs(total) >= CANCELLATION * (abs(skip) + size))
