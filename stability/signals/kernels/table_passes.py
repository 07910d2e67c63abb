"""Compiled loops: states and gradients of a width-1 chain that cannot leave the range.

The numbers of a layer, one a point, share an exponent: value = mantissa * 2^exponent, moved when a mantissa nears
the ends of the range. So a layer is plain float64 in vector lanes, with the biases scaled. Only where the points of a
layer lie further apart than the range, or a bias does not fit the exponent, each point has an exponent of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.foundation.kernels.logs import fill_logs
from stability.foundation.kernels.wide_numbers import (
    add,
    after_activation,
    log_size,
    multiply,
    normalise,
    pre_activation,
    wide_step,
)

#: Mantissas of states stay within 2^-STATE .. 2^STATE, and likewise what comes back and the numbers of a row, so that
#: no product of them below leaves the range. A row of mild numbers moves a state so little that it is enough to look at
#: every fourth one's range: by 2^-73 at the least, where its terms cancel. So the smallest product, of what comes back,
#: a state three such rows on and two numbers of a row, is above 2^-(BACK + 1 + STATE + 219 + 2 ROW) = 2^-1020.
STATE, BACK, ROW = 300, 300, 100
_STATE_LOW, _STATE_HIGH, _ROW_LOW, _ROW_HIGH, _BIAS_LOW = 2.0**-STATE, 2.0**STATE, 2.0**-ROW, 2.0**ROW, 2.0**-600

_MILD_LOW, _MILD_HIGH = 2.0**-20, 2.0**20

#: The bits of infinity, those that are not the sign's, and those of the least normal number.
_INFINITY, _SIZE, _LEAST = 0x7FF0000000000000, 0x7FFFFFFFFFFFFFFF, 0x0010000000000000
#: Marks a row whose sums have exponents of their own.
OUTSIDE = 2**62

# Sums over points may be reordered, so that they run in vector lanes; products are not fused, so that a
# pre-activation has the sign that it has elsewhere.
_SUMS = {"reassoc", "nsz"}


@njit(inline="always")
def _fits(number, low):
    size = abs(number)
    return (size == 0.0) | ((low < size) & (size < _ROW_HIGH))


@njit(inline="always")
def _mild(number):
    size = abs(number)
    return (size == 0.0) | ((size > _MILD_LOW) & (size < _MILD_HIGH))


@njit(inline="always")
def _ease(skip, weight, bias, outer_weight, outer_bias, slope):
    """Return 2 for a row of mild numbers, 1 for another one in the safe range, 0 for the others."""
    fits = _fits(skip, _ROW_LOW) & _fits(weight, _ROW_LOW) & _fits(bias, _BIAS_LOW)
    fits &= _fits(outer_weight, _ROW_LOW) & _fits(outer_bias, _BIAS_LOW) & _fits(slope, _ROW_LOW)
    mild = _mild(skip) & _mild(weight) & _mild(bias) & _mild(outer_weight) & _mild(outer_bias) & _mild(slope)
    return (1 if fits else 0) + (1 if mild else 0)


@njit(inline="never")
def _fill_columns(table, columns):
    """Write a seed's rows as six columns, along which loops over rows run in vector lanes."""
    for r in range(len(table)):
        for k in range(6):
            columns[k, r] = table[r, k]


@njit(inline="never")
def _fill_eases(columns, eases):
    """Fill how easy the rows are, taken with biases in units of 1."""
    for r in range(len(eases)):
        eases[r] = _ease(columns[0, r], columns[1, r], columns[2, r], columns[3, r], columns[4, r], columns[5, r])


@njit
def _scale_biases(row, exponent):
    """Return both biases of a row in units of 2^exponent, and how easy the row is with them."""
    bias, outer_bias = row[2], row[4]
    if not (bias == 0.0 and outer_bias == 0.0):
        if abs(exponent) > 900:
            return bias, outer_bias, 0
        bias, outer_bias = math.ldexp(bias, -exponent), math.ldexp(outer_bias, -exponent)
        if (bias == 0.0) != (row[2] == 0.0) or (outer_bias == 0.0) != (row[4] == 0.0):
            return bias, outer_bias, 0
    return bias, outer_bias, _ease(row[0], row[1], bias, row[3], outer_bias, row[5])


@njit(inline="never")
def _plain_step(states, r, skip, weight, bias, outer_weight, outer_bias, slope):
    """Step r of all points in float64; return whether all are still in the range in which that is safe."""
    outside = 0
    for p in range(states.shape[1]):
        old = states[r, p]
        z = weight * old + bias
        value = skip * old + outer_weight * (z if z > 0.0 else slope * z) + outer_bias
        states[r + 1, p] = value
        size = abs(value)
        outside += 0 if (((size > _STATE_LOW) & (size < _STATE_HIGH)) | (size == 0.0)) else 1
    return outside == 0


@njit(inline="never")
def _plain_step_unchecked(states, r, skip, weight, bias, outer_weight, outer_bias, slope):
    """The same without a look at the range."""
    for p in range(states.shape[1]):
        old = states[r, p]
        z = weight * old + bias
        states[r + 1, p] = skip * old + outer_weight * (z if z > 0.0 else slope * z) + outer_bias


@njit(inline="never")
def _all_alike(exponents):
    """Whether all are the same."""
    others = 0
    for exponent in exponents:
        others += 0 if exponent == exponents[0] else 1
    return others == 0


@njit(inline="never")
def _ends(numbers):
    """Return the exponents of the least modulus that is not 0 and of the largest, and whether both can be read off."""
    bits = numbers.view(np.int64)
    least, most = np.int64(_INFINITY), np.int64(0)
    for p in range(len(bits)):  # integers, which are in the order of the numbers, and have no NaN to look out for
        size = bits[p] & _SIZE
        least, most = min(least, size if size != 0 else np.int64(_INFINITY)), max(most, size)
    return (least >> 52) - 1022, (most >> 52) - 1022, least >= _LEAST and most >= _LEAST


@njit
def _gather(mantissas, exponents, bits, near_zero):
    """Give all points one exponent if their mantissas then lie in 2^-bits .. 1; leave all as it is if not.

    Args:
        mantissas, exponents: in and out, (points,).
        bits: how far apart they may be.
        near_zero: whether to take the exponent 0 where that leaves all within 2^-bits .. 2^bits.

    Returns:
        The exponent, the exponent of the least mantissa that is not zero, whether it could be done.
    """
    bottom, top, shared = _ends(mantissas)
    shared &= _all_alike(exponents)
    if shared:
        top, bottom = exponents[0] + top, exponents[0] + bottom
    else:
        top, bottom = -(2**62), 2**62
        for p in range(len(mantissas)):
            m, e = normalise(mantissas[p], exponents[p])
            if m != 0.0:
                top, bottom = max(top, e), min(bottom, e)
    if top < bottom:  # all are zero
        top = bottom = 0
    if near_zero and -bits < bottom and top < bits:
        top = bottom = 0
    if top - bottom >= bits:
        return 0, 0, False
    if shared and abs(exponents[0] - top) < 1000:
        mantissas *= math.ldexp(1.0, exponents[0] - top)
        exponents[:] = 0
        return top, bottom - top - 1, True
    for p in range(len(mantissas)):
        mantissas[p] = math.ldexp(mantissas[p], max(exponents[p] - top, -2000))
        exponents[p] = 0
    return top, bottom - top - 1, True


@njit
def _run(s, table, x, columns, eases, states, common, apart, exponents):
    """Fill the states of seed s before each row and after the last.

    Args:
        s: which seed.
        table: (seeds, rows, 6).
        x: (points,).
        columns, eases: out, (6, rows), and int8 (rows,), see `_ease`.
        states: out, (rows + 1, points).
        common: out, (rows + 1,), the exponent of a row's points.
        apart: out, (rows + 1,), whether each point has an exponent of its own instead.
        exponents: out, (rows + 1, points), those; untouched where they are not apart.
    """
    points = len(x)
    scratch = np.zeros(points, np.int64)
    _fill_columns(table[s], columns)
    _fill_eases(columns, eases)
    states[0] = x
    common[0], _, together = _gather(states[0], scratch, STATE - 100, True)
    apart[0] = not together
    if not together:
        exponents[0] = 0
    for r in range(table.shape[1]):
        if not apart[r]:
            bias, outer_bias, ease = columns[2, r], columns[4, r], eases[r]
            if common[r] != 0:
                bias, outer_bias, ease = _scale_biases(table[s, r], common[r])
            skip, weight, outer_weight, slope = columns[0, r], columns[1, r], columns[3, r], columns[5, r]
            if ease == 2 and r % 4 != 3:
                _plain_step_unchecked(states, r, skip, weight, bias, outer_weight, outer_bias, slope)
                common[r + 1], apart[r + 1] = common[r], False
                continue
            if ease > 0 and _plain_step(states, r, skip, weight, bias, outer_weight, outer_bias, slope):
                common[r + 1], apart[r + 1] = common[r], False
                continue
        for p in range(points):
            exponent = exponents[r, p] if apart[r] else common[r]
            states[r + 1, p], scratch[p], _ = wide_step(states[r, p], exponent, table[s, r])
        common[r + 1], _, together = _gather(states[r + 1], scratch, STATE - 100, True)
        apart[r + 1] = not together
        if not together:
            exponents[r + 1] = scratch


@njit(cache=True, nogil=True)
def run(first, last, table, x, outputs, output_exponents):
    """Fill what the seeds first to last make of the points, as mantissa and exponent, (seeds, points) each."""
    rows, points = table.shape[1], len(x)
    states, exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    columns, eases = np.empty((6, rows)), np.empty(rows, np.int8)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    for s in range(first, last):
        _run(s, table, x, columns, eases, states, common, apart, exponents)
        outputs[s] = states[rows]
        if apart[rows]:
            output_exponents[s] = exponents[rows]
        else:
            output_exponents[s] = common[rows]


@njit(cache=True, nogil=True)
def log_states(first, last, table, x, log_sizes, signs, log_updates):
    """Fill log |h|, its sign and log |h_l - h_(l-1)| for the seeds first to last.

    Args:
        first, last: which seeds.
        table, x: as for `_run`.
        log_sizes, signs: out, (rows + 1, seeds, points), the second int8.
        log_updates: out, (rows, seeds, points).
    """
    rows, points = table.shape[1], len(x)
    states, exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    columns, eases = np.empty((6, rows)), np.empty(rows, np.int8)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    for s in range(first, last):
        _run(s, table, x, columns, eases, states, common, apart, exponents)
        for r in range(rows + 1):
            for p in range(points):
                h, e = states[r, p], exponents[r, p] if apart[r] else common[r]
                log_sizes[r, s, p] = log_size(h, e)
                signs[r, s, p] = np.sign(h)
                if r < rows:
                    row = table[s, r]
                    # The update itself, not the difference of two states that may be alike.
                    z, z_exponent = pre_activation(h, e, row)
                    update, update_exponent = after_activation(h, e, z, z_exponent, row[0] - 1.0, row)
                    log_updates[r, s, p] = log_size(update, update_exponent)


@njit(inline="never", fastmath=_SUMS)
def _plain_row(states, r, back, weight, bias, below, above, sums):
    """Take what comes back through step r, whose derivative is `below` for z <= 0 and `above` for z > 0.

    With d what came back, sums (7, rows) takes those over points of d, d h and d z, each for z <= 0 and for z > 0, and
    of d^2.
    """
    one_below = one_above = h_below = h_above = z_below = z_above = squares = 0.0
    for p in range(states.shape[1]):
        h, d = states[r, p], back[p]
        z = weight * h + bias
        positive = z > 0.0
        d_above = d if positive else 0.0
        d_below = 0.0 if positive else d
        one_below += d_below
        one_above += d_above
        h_below += d_below * h
        h_above += d_above * h
        z_below += d_below * z
        z_above += d_above * z
        squares += d * d
        back[p] = d * (above if positive else below)
    sums[0, r], sums[1, r], sums[2, r], sums[3, r] = one_below, one_above, h_below, h_above
    sums[4, r], sums[5, r], sums[6, r] = z_below, z_above, squares


@njit
def _sum(mantissas, exponents):
    """Return the sum of numbers with exponents of their own."""
    top = -(2**62)
    for p in range(len(mantissas)):
        if mantissas[p] != 0.0:
            top = max(top, exponents[p])
    total = 0.0
    for p in range(len(mantissas)):
        if mantissas[p] != 0.0 and exponents[p] - top > -1100:
            total += math.ldexp(mantissas[p], exponents[p] - top)
    return (total, top) if total != 0.0 else (0.0, 0)


@njit
def _wide_row(h, h_exponents, back, back_exponents, row, factor, factor_exponents, r, sums, sum_exponents):
    """The same where each point has exponents of its own."""
    points = len(h)
    terms, term_exponents = np.zeros((7, points)), np.zeros((7, points), np.int64)
    for p in range(points):
        z, z_exponent = pre_activation(h[p], h_exponents[p], row)
        d, d_exponent = normalise(back[p], back_exponents[p])
        side = 1 if z > 0.0 else 0
        terms[side, p], term_exponents[side, p] = d, d_exponent
        terms[2 + side, p], term_exponents[2 + side, p] = multiply(d, d_exponent, h[p], h_exponents[p])
        terms[4 + side, p], term_exponents[4 + side, p] = multiply(d, d_exponent, z, z_exponent)
        terms[6, p], term_exponents[6, p] = d * d, 2 * d_exponent
        back[p], back_exponents[p] = multiply(d, d_exponent, factor[side], factor_exponents[side])
    for k in range(7):
        sums[k, r], sum_exponents[k, r] = _sum(terms[k], term_exponents[k])


@njit
def _wide_parameters(row, r, sums, sum_exponents, values, exponents):
    """Fill the gradient with respect to the six numbers of row r from the sums of `_wide_row`."""
    outer_weight, slope = row[3], row[5]
    for column, of in ((0, 2), (4, 0)):
        m, e = add(sums[of, r], sum_exponents[of, r], sums[of + 1, r], sum_exponents[of + 1, r])
        values[column, r], exponents[column, r] = m, e
    for column, of in ((1, 2), (2, 0), (3, 4)):
        m, e = multiply(sums[of, r], sum_exponents[of, r], slope, 0)
        m, e = add(m, e, sums[of + 1, r], sum_exponents[of + 1, r])
        if column != 3:
            m, e = multiply(m, e, outer_weight, 0)
        values[column, r], exponents[column, r] = m, e
    values[5, r], exponents[5, r] = multiply(sums[4, r], sum_exponents[4, r], outer_weight, 0)


@njit(inline="always")
def _in_middle(square):
    return (square > 2.0**-900) & (square < 2.0**900)


@njit(inline="never")
def _wide_norms(r, row, trained, values, exponents, squares, square_exponents):
    """Fill the squared norms of the gradient of a row's parameters, and of its weights times their gradients."""
    terms, term_exponents = np.zeros((2, 6)), np.zeros((2, 6), np.int64)
    for k in range(6):
        if trained[k]:
            m, e = normalise(values[k, r], exponents[k, r])
            terms[0, k], term_exponents[0, k] = m * m, 2 * e
            if k == 1 or k == 3:
                m, e = multiply(m, e, row[k], 0)
                terms[1, k], term_exponents[1, k] = m * m, 2 * e
    for which in range(2):
        squares[1 + which, r], square_exponents[1 + which, r] = _sum(terms[which], term_exponents[which])


@njit(inline="never", fastmath=_SUMS)
def _square_sum(values):
    total = 0.0
    for value in values:
        total += value * value
    return total


@njit(inline="never")
def _log_norm(values, exponents):
    """Return the log of the norm of numbers with exponents of their own."""
    if _all_alike(exponents):
        square = _square_sum(values)
        if _in_middle(square):
            return 0.5 * log_size(square, 2 * exponents[0])
    total, total_exponent = 0.0, 0
    for r in range(len(values)):
        m, e = normalise(values[r], exponents[r])
        total, total_exponent = add(total, total_exponent, m * m, 2 * e)
    return 0.5 * log_size(total, total_exponent)


@njit(inline="never")
def _fill_reach(factors, drops, rises):
    """Fill by how many binades a row's factors can at most lower and raise an exponent, 1 too many."""
    bits = factors.view(np.int64)
    for r in range(len(drops)):
        # The sign is shifted out; an exponent of 0 is that of 0, as factors of rows in the safe range are not so small.
        below, above = ((bits[r, 0] << 1) >> 53) & 0x7FF, ((bits[r, 1] << 1) >> 53) & 0x7FF
        most = max(below, above)
        least = most if below == 0 or above == 0 else min(below, above)
        drops[r], rises[r] = least - 1023, most - 1022


@njit
def _back(
    table, factors, factor_exponents, columns, eases, states, common, apart, state_exponents,
    back, shifts, sums, sum_exponents, squares, square_exponents,
):  # fmt: skip
    """Take what comes back through all rows of a seed.

    Args:
        table: (rows, 6).
        factors, factor_exponents: (rows, 2).
        columns, eases, states, common, apart, state_exponents: from `_run`.
        back: in and out, (points,), the gradient with respect to the output, and then scratch.
        shifts: out, (rows,), the exponent of what came back to a row; OUTSIDE if a row's sums have their own.
        sums: out, (7, rows), see `_plain_row`.
        sum_exponents: out, (7, rows), of those that have their own.
        squares, square_exponents: out, (3, rows + 1), the first of which is filled.
    """
    rows, points = len(table), len(back)
    own, h_own = np.zeros(points, np.int64), np.empty(points, np.int64)
    drops, rises = np.empty(rows, np.int64), np.empty(rows, np.int64)
    _fill_reach(factors, drops, rises)
    # What comes back is back * 2^shift; low and high bound the exponents of `back`, from what multiplied it.
    shift, low, together = _gather(back, own, BACK - 100, False)
    high = 0
    for r in range(rows - 1, -1, -1):
        if together and (low < -BACK or high > BACK):
            gathered, low, together = _gather(back, own, BACK - 100, False)
            high = 0
            if together:
                shift += gathered
            else:
                own[:] = shift
        ease, bias = 0, columns[2, r]
        if together and not apart[r]:
            ease = eases[r]
            if common[r] != 0:
                bias, _, ease = _scale_biases(table[r], common[r])
        if ease > 0:
            # A factor beyond float64's range belongs to a row that is not safe.
            _plain_row(states, r, back, columns[1, r], bias, factors[r, 0], factors[r, 1], sums)
            shifts[r] = shift
            squares[0, r + 1], square_exponents[0, r + 1] = sums[6, r], 2 * shift
            low += drops[r]
            high += rises[r]
        else:
            if together:
                own[:] = shift
            h_own[:] = common[r]
            if apart[r]:
                h_own[:] = state_exponents[r]
            shifts[r] = OUTSIDE
            _wide_row(states[r], h_own, back, own, table[r], factors[r], factor_exponents[r], r, sums, sum_exponents)
            squares[0, r + 1], square_exponents[0, r + 1] = sums[6, r], sum_exponents[6, r]
            shift, low, together = _gather(back, own, BACK - 100, False)
            high = 0
    if together:
        own[:] = shift
    square = _square_sum(back)
    if together and _in_middle(square):
        squares[0, 0], square_exponents[0, 0] = square, 2 * shift
        return
    for p in range(points):
        m, own[p] = normalise(back[p], own[p])
        back[p], own[p] = m * m, 2 * own[p]
    squares[0, 0], square_exponents[0, 0] = _sum(back, own)


@njit(inline="never")
def _plain_parameters(columns, common, shifts, trained, sums, values, exponents, squares, square_exponents):
    """Fill the gradient of all rows, and its squared norms, as if no sum had an exponent of its own."""
    t0, t1, t2, t3, t4, t5 = trained
    for r in range(len(shifts)):
        weight, outer_weight, slope = columns[1, r], columns[3, r], columns[5, r]
        skip = sums[2, r] + sums[3, r]
        weight_gradient = outer_weight * (slope * sums[2, r] + sums[3, r])
        bias_gradient = outer_weight * (slope * sums[0, r] + sums[1, r])
        outer_gradient = slope * sums[4, r] + sums[5, r]
        outer_bias_gradient = sums[0, r] + sums[1, r]
        slope_gradient = outer_weight * sums[4, r]
        values[0, r], values[1, r], values[2, r] = skip, weight_gradient, bias_gradient
        values[3, r], values[4, r], values[5, r] = outer_gradient, outer_bias_gradient, slope_gradient
        total = t0 * skip**2 + t1 * weight_gradient**2 + t2 * bias_gradient**2 + t3 * outer_gradient**2
        squares[1, r] = total + t4 * outer_bias_gradient**2 + t5 * slope_gradient**2
        # Squared after the product: a square may underflow that a large weight brings back.
        squares[2, r] = t1 * (weight_gradient * weight) ** 2 + t3 * (outer_gradient * outer_weight) ** 2
    for r in range(len(shifts)):
        of_states = shifts[r] + common[r]
        exponents[0, r] = exponents[1, r] = exponents[3, r] = exponents[5, r] = of_states
        exponents[2, r] = exponents[4, r] = shifts[r]
        square_exponents[1, r] = square_exponents[2, r] = 2 * shifts[r]


@njit(cache=True, nogil=True)
def gradients(
    first, last, table, factors, factor_exponents, x, cotangents, trained, depth,
    values, exponents, squares, square_exponents, places, logs, norm_logs, whole_logs,
):  # fmt: skip
    """Fill the loss gradient of the seeds first to last, as mantissa and exponent, and its logs.

    Args:
        first, last: which seeds.
        table, x: as for `_run`.
        factors, factor_exponents: (seeds, rows, 2), a step's derivative for z <= 0 and for z > 0.
        cotangents: (seeds, points), the gradient with respect to the output.
        trained: (6,), 1 for the columns that are parameters, else 0.
        depth: how many rows count in `whole_logs`.
        values, exponents: out, (seeds, 6, rows), the gradient with respect to the table; or for one seed, and then
            scratch, as the two that follow.
        squares, square_exponents: out, (seeds, 3, rows + 1), the squared norms of the gradient with respect to the
            state before each row and after the last; to the parameters of a row; and of weights times gradients.
        places: (6,), where the logs of each column go, below 0 for nowhere.
        logs: out, (columns, seeds, rows), the log sizes of the gradient with respect to the table.
        norm_logs: out, (3, seeds, rows + 1), the logs of the roots of `squares`.
        whole_logs: out, (columns, seeds), the log of the norm of a column's gradient over all rows that count.
    """
    rows, points = table.shape[1], len(x)
    columns, eases = np.empty((6, rows)), np.empty(rows, np.int8)
    states, state_exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    back, shifts = np.empty(points), np.empty(rows, np.int64)
    sums, sum_exponents, bits = np.empty((7, rows)), np.empty((7, rows), np.int64), np.empty((2, rows + 1), np.int64)
    kinds = (trained[0], trained[1], trained[2], trained[3], trained[4], trained[5])
    for s in range(first, last):
        at = min(s, len(values) - 1)
        value, exponent, square, square_exponent = values[at], exponents[at], squares[at], square_exponents[at]
        square[1, rows] = square[2, rows] = square_exponent[1, rows] = square_exponent[2, rows] = 0
        _run(s, table, x, columns, eases, states, common, apart, state_exponents)
        back[:] = cotangents[s]
        _back(
            table[s], factors[s], factor_exponents[s], columns, eases, states, common, apart, state_exponents,
            back, shifts, sums, sum_exponents, square, square_exponent,
        )  # fmt: skip
        _plain_parameters(columns, common, shifts, kinds, sums, value, exponent, square, square_exponent)
        for r in range(rows):
            if shifts[r] == OUTSIDE:
                _wide_parameters(table[s, r], r, sums, sum_exponents, value, exponent)
            elif common[r] == 0 and _in_middle(square[1, r]) and _in_middle(square[2, r]):
                continue
            # Squares that leave the range, or of numbers with exponents of their own, are added with care.
            _wide_norms(r, table[s, r], trained, value, exponent, square, square_exponent)
        for k in range(6):
            if places[k] >= 0:
                fill_logs(value[k], exponent[k], 1.0, bits, logs[places[k], s])
                whole_logs[places[k], s] = _log_norm(value[k, :depth], exponent[k, :depth])
        for k in range(3):
            fill_logs(square[k], square_exponent[k], 0.5, bits, norm_logs[k, s])
