"""Compiled loops: states and gradients of a width-1 chain that cannot leave the range.

The numbers of a layer, one a point, share an exponent: value = mantissa * 2^exponent, moved when a mantissa nears
the ends of the range. So a layer is plain float64 in vector lanes, with the biases scaled. Only where the points of a
layer lie further apart than the range, or a bias does not fit the exponent, each point has an exponent of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.jacobians.kernels.wide import (
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

# Sums over points may be reordered, so that they run in vector lanes; products are not fused, so that a
# pre-activation has the sign that it has elsewhere.
_SUMS = {"reassoc", "nsz"}


@njit(inline="always")
def _fits(number, low):
    size = abs(number)
    return (size == 0.0) | ((low < size) & (size < _ROW_HIGH))


@njit(inline="always")
def _scale_biases(table, s, r, exponent):
    """Return both biases of a row in units of 2^exponent, and whether the row is in the safe range with them."""
    bias, outer_bias = table[s, r, 2], table[s, r, 4]
    if exponent != 0 and not (bias == 0.0 and outer_bias == 0.0):
        if abs(exponent) > 900:
            return bias, outer_bias, False
        bias, outer_bias = math.ldexp(bias, -exponent), math.ldexp(outer_bias, -exponent)
        if (bias == 0.0) != (table[s, r, 2] == 0.0) or (outer_bias == 0.0) != (table[s, r, 4] == 0.0):
            return bias, outer_bias, False
    fits = _fits(table[s, r, 0], _ROW_LOW) & _fits(table[s, r, 1], _ROW_LOW) & _fits(table[s, r, 3], _ROW_LOW)
    fits &= _fits(table[s, r, 5], _ROW_LOW) & _fits(bias, _BIAS_LOW) & _fits(outer_bias, _BIAS_LOW)
    return bias, outer_bias, fits


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


@njit(inline="always")
def _mild(number):
    size = abs(number)
    return (size == 0.0) | ((size > _MILD_LOW) & (size < _MILD_HIGH))


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
    for p in range(len(mantissas)):
        mantissas[p] = math.ldexp(mantissas[p], max(exponents[p] - top, -2000))
        exponents[p] = 0
    return top, bottom - top - 1, True


@njit
def _run(s, table, x, states, common, apart, exponents):
    """Fill the states of seed s before each row and after the last.

    Args:
        s: which seed.
        table: (seeds, rows, 6).
        x: (points,).
        states: out, (rows + 1, points).
        common: out, (rows + 1,), the exponent of a row's points.
        apart: out, (rows + 1,), whether each point has an exponent of its own instead.
        exponents: out, (rows + 1, points), those; untouched where they are not apart.
    """
    points = len(x)
    scratch = np.zeros(points, np.int64)
    states[0] = x
    common[0], _, together = _gather(states[0], scratch, STATE - 100, True)
    apart[0] = not together
    if not together:
        exponents[0] = 0
    for r in range(table.shape[1]):
        if not apart[r]:
            bias, outer_bias, fits = _scale_biases(table, s, r, common[r])
            if fits:
                skip, weight, outer_weight, slope = table[s, r, 0], table[s, r, 1], table[s, r, 3], table[s, r, 5]
                mild = _mild(skip) & _mild(weight) & _mild(bias) & _mild(outer_weight) & _mild(outer_bias)
                if mild & _mild(slope) & (r % 4 != 3):
                    _plain_step_unchecked(states, r, skip, weight, bias, outer_weight, outer_bias, slope)
                    common[r + 1], apart[r + 1] = common[r], False
                    continue
                if _plain_step(states, r, skip, weight, bias, outer_weight, outer_bias, slope):
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
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    for s in range(first, last):
        _run(s, table, x, states, common, apart, exponents)
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
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    for s in range(first, last):
        _run(s, table, x, states, common, apart, exponents)
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
def _plain_row(states, r, back, weight, bias, below, above):
    """Take what comes back through step r, whose derivative is `below` for z <= 0 and `above` for z > 0.

    Returns:
        With d what came back, the sums over points of d, d h and d z, each for z <= 0 and for z > 0, and of d^2.
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
    return one_below, one_above, h_below, h_above, z_below, z_above, squares


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
def _wide_row(h, h_exponents, back, back_exponents, row, factor, factor_exponents, sums, sum_exponents):
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
        sums[k], sum_exponents[k] = _sum(terms[k], term_exponents[k])


@njit
def _wide_parameters(row, sums, sum_exponents, values, exponents):
    """Fill the gradient with respect to the six numbers of a row from the sums of `_wide_row`."""
    outer_weight, slope = row[3], row[5]
    for column, of in ((0, 2), (4, 0)):
        values[column], exponents[column] = add(sums[of], sum_exponents[of], sums[of + 1], sum_exponents[of + 1])
    for column, of in ((1, 2), (2, 0), (3, 4)):
        m, e = multiply(sums[of], sum_exponents[of], slope, 0)
        m, e = add(m, e, sums[of + 1], sum_exponents[of + 1])
        if column != 3:
            m, e = multiply(m, e, outer_weight, 0)
        values[column], exponents[column] = m, e
    values[5], exponents[5] = multiply(sums[4], sum_exponents[4], outer_weight, 0)


@njit(inline="always")
def _in_middle(square):
    return (square > 2.0**-900) & (square < 2.0**900)


@njit(inline="never")
def _wide_norms(s, r, table, trained, values, exponents, squares, square_exponents):
    """Fill the squared norms of the gradient of a row's parameters, and of its weights times their gradients."""
    terms, term_exponents = np.zeros((2, 6)), np.zeros((2, 6), np.int64)
    for k in range(6):
        if trained[k]:
            m, e = normalise(values[k, s, r], exponents[k, s, r])
            terms[0, k], term_exponents[0, k] = m * m, 2 * e
            if k == 1 or k == 3:
                m, e = multiply(m, e, table[s, r, k], 0)
                terms[1, k], term_exponents[1, k] = m * m, 2 * e
    for which in range(2):
        squares[1 + which, s, r], square_exponents[1 + which, s, r] = _sum(terms[which], term_exponents[which])


@njit(cache=True, nogil=True)
def gradients(
    first, last, table, factors, factor_exponents, x, cotangents, trained, values, exponents, squares, square_exponents
):
    """Fill the loss gradient of the seeds first to last, as mantissa and exponent.

    Args:
        first, last: which seeds.
        table, x: as for `_run`.
        factors, factor_exponents: (seeds, rows, 2), a step's derivative for z <= 0 and for z > 0.
        cotangents: (seeds, points), the gradient with respect to the output.
        trained: bool (6,), the columns that are parameters.
        values, exponents: out, (6, seeds, rows), the gradient with respect to the table.
        squares, square_exponents: out, (3, seeds, rows + 1), the squared norms of the gradient with respect to the
            state before each row and after the last; to the parameters of a row; and of weights times gradients.
    """
    rows, points = table.shape[1], len(x)
    states, state_exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    back, own, h_own = np.empty(points), np.empty(points, np.int64), np.empty(points, np.int64)
    sums, sum_exponents = np.empty(7), np.zeros(7, np.int64)
    t0, t1, t2, t3, t4, t5 = trained[0], trained[1], trained[2], trained[3], trained[4], trained[5]
    for s in range(first, last):
        _run(s, table, x, states, common, apart, state_exponents)
        back[:] = cotangents[s]
        own[:] = 0
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
            fits = plain = False
            if together and not apart[r]:
                bias, _, fits = _scale_biases(table, s, r, common[r])
            if fits:
                # A factor beyond float64's range belongs to a row that is not safe.
                weight, outer_weight, slope = table[s, r, 1], table[s, r, 3], table[s, r, 5]
                below, above = factors[s, r, 0], factors[s, r, 1]
                one_below, one_above, h_below, h_above, z_below, z_above, square = _plain_row(
                    states, r, back, weight, bias, below, above
                )
                skip = h_below + h_above
                weight_gradient = outer_weight * (slope * h_below + h_above)
                bias_gradient = outer_weight * (slope * one_below + one_above)
                outer_gradient = slope * z_below + z_above
                outer_bias_gradient = one_below + one_above
                slope_gradient = outer_weight * z_below
                values[0, s, r], values[1, s, r], values[2, s, r] = skip, weight_gradient, bias_gradient
                values[3, s, r], values[4, s, r], values[5, s, r] = outer_gradient, outer_bias_gradient, slope_gradient
                for k in range(6):
                    exponents[k, s, r] = shift if k == 2 or k == 4 else shift + common[r]
                total = t0 * skip**2 + t1 * weight_gradient**2 + t2 * bias_gradient**2 + t3 * outer_gradient**2
                total += t4 * outer_bias_gradient**2 + t5 * slope_gradient**2
                # Squared after the product: a square may underflow that a large weight brings back.
                relative = t1 * (weight_gradient * weight) ** 2 + t3 * (outer_gradient * outer_weight) ** 2
                squares[1, s, r], squares[2, s, r] = total, relative
                square_exponents[1, s, r] = square_exponents[2, s, r] = 2 * shift
                plain = common[r] == 0 and _in_middle(total) and _in_middle(relative)
                squares[0, s, r + 1], square_exponents[0, s, r + 1] = square, 2 * shift
                least, most = min(abs(below), abs(above)), max(abs(below), abs(above))
                least = most if least == 0.0 else least
                low, high = low + math.frexp(least)[1] - 1, high + math.frexp(most)[1]
            else:
                if together:
                    own[:] = shift
                h_own[:] = common[r]
                if apart[r]:
                    h_own[:] = state_exponents[r]
                _wide_row(
                    states[r], h_own, back, own, table[s, r], factors[s, r], factor_exponents[s, r], sums, sum_exponents
                )
                _wide_parameters(table[s, r], sums, sum_exponents, values[:, s, r], exponents[:, s, r])
                squares[0, s, r + 1], square_exponents[0, s, r + 1] = sums[6], sum_exponents[6]
                shift, low, together = _gather(back, own, BACK - 100, False)
                high = 0
            # Squares that leave the range, or of numbers with exponents of their own, are added with care.
            if not plain:
                _wide_norms(s, r, table, trained, values, exponents, squares, square_exponents)
        if together:
            own[:] = shift
        for p in range(points):
            m, own[p] = normalise(back[p], own[p])
            back[p], own[p] = m * m, 2 * own[p]
        squares[0, s, 0], square_exponents[0, s, 0] = _sum(back, own)
