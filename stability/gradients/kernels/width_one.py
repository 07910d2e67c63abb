"""Compiled loops: states and gradients of a width-1 chain that cannot leave the range.

The numbers of a layer, one a point, share an exponent: value = mantissa * 2^exponent, moved when a mantissa nears
the ends of the range. So a layer is plain float64 in vector lanes, with the biases scaled. Only where the points of a
layer lie further apart than the range, or a bias does not fit the exponent, each point has an exponent of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stability.jacobians.kernels.wide import add, multiply, normalise, wide_step

#: Mantissas of states stay within 2^-STATE .. 2^STATE, and likewise what comes back and the numbers of a row, so that
#: no product of them below leaves the range.
STATE, BACK, ROW = 300, 400, 100
_STATE_LOW, _STATE_HIGH, _ROW_HIGH, _BIAS_LOW = 2.0**-STATE, 2.0**STATE, 2.0**ROW, 2.0**-600

# Sums over points may be reordered, so that they run in vector lanes; products are not fused, so that a
# pre-activation has the sign that it has elsewhere.
_SUMS = {"reassoc", "nsz"}


@njit(inline="always")
def _fits(number):
    return number == 0.0 or _BIAS_LOW < abs(number) < _ROW_HIGH


@njit(inline="always")
def _scale_biases(bias, outer_bias, exponent, safe):
    """Return both biases in units of 2^exponent, and whether the row is in the safe range with them."""
    if exponent == 0 or (bias == 0.0 and outer_bias == 0.0):
        return bias, outer_bias, safe
    if abs(exponent) > 900:
        return bias, outer_bias, False
    bias, outer_bias = math.ldexp(bias, -exponent), math.ldexp(outer_bias, -exponent)
    return bias, outer_bias, safe and _fits(bias) and _fits(outer_bias)


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
def _run(s, table, safe, x, states, common, apart, exponents):
    """Fill the states of seed s before each row and after the last.

    Args:
        s: which seed.
        table: (seeds, rows, 6).
        safe: (seeds, rows), whether all numbers of a row are 0 or within 2^-ROW .. 2^ROW.
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
            bias, outer_bias, fits = _scale_biases(table[s, r, 2], table[s, r, 4], common[r], safe[s, r])
            if fits and _plain_step(
                states, r, table[s, r, 0], table[s, r, 1], bias, table[s, r, 3], outer_bias, table[s, r, 5]
            ):
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
def run(first, last, table, safe, x, outputs, output_exponents):
    """Fill what the seeds first to last make of the points, as mantissa and exponent, (seeds, points) each."""
    rows, points = table.shape[1], len(x)
    states, exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    for s in range(first, last):
        _run(s, table, safe, x, states, common, apart, exponents)
        outputs[s] = states[rows]
        if apart[rows]:
            output_exponents[s] = exponents[rows]
        else:
            output_exponents[s] = common[rows]


@njit(cache=True, nogil=True)
def log_states(first, last, table, safe, x, log_sizes, signs, log_updates):
    """Fill log |h|, its sign and log |h_l - h_(l-1)| for the seeds first to last.

    Args:
        first, last: which seeds.
        table, safe, x: as for `_run`.
        log_sizes, signs: out, (rows + 1, seeds, points), the second int8.
        log_updates: out, (rows, seeds, points).
    """
    rows, points = table.shape[1], len(x)
    states, exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    log_2 = math.log(2.0)
    for s in range(first, last):
        _run(s, table, safe, x, states, common, apart, exponents)
        for r in range(rows + 1):
            for p in range(points):
                h, e = states[r, p], exponents[r, p] if apart[r] else common[r]
                log_sizes[r, s, p] = math.log(abs(h)) + e * log_2 if h != 0.0 else -np.inf
                signs[r, s, p] = np.sign(h)
                if r < rows:
                    row = table[s, r]
                    # The update itself, not the difference of two states that may be alike.
                    z, z_exponent = multiply(h, e, row[1], 0)
                    z, z_exponent = add(z, z_exponent, row[2], 0)
                    if not z > 0.0:
                        z, z_exponent = multiply(z, z_exponent, row[5], 0)
                    z, z_exponent = multiply(z, z_exponent, row[3], 0)
                    rest, rest_exponent = multiply(h, e, row[0] - 1.0, 0)
                    z, z_exponent = add(rest, rest_exponent, z, z_exponent)
                    z, z_exponent = add(z, z_exponent, row[4], 0)
                    log_updates[r, s, p] = math.log(abs(z)) + z_exponent * log_2 if z != 0.0 else -np.inf


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
        z, z_exponent = multiply(h[p], h_exponents[p], row[1], 0)
        z, z_exponent = add(z, z_exponent, row[2], 0)
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


@njit(cache=True, nogil=True)
def gradients(
    first, last, table, safe, factors, factor_exponents, x, cotangents, values, exponents, squares, square_exponents
):
    """Fill the loss gradient of the seeds first to last, as mantissa and exponent.

    Args:
        first, last: which seeds.
        table, safe, x: as for `_run`.
        factors, factor_exponents: (seeds, rows, 2), a step's derivative for z <= 0 and for z > 0.
        cotangents: (seeds, points), the gradient with respect to the output.
        values, exponents: out, (seeds, rows, 6), the gradient with respect to the table.
        squares, square_exponents: out, (seeds, rows + 1), the sum over points of the square of the gradient with
            respect to the state before each row and after the last.
    """
    rows, points = table.shape[1], len(x)
    states, state_exponents = np.empty((rows + 1, points)), np.empty((rows + 1, points), np.int64)
    common, apart = np.empty(rows + 1, np.int64), np.empty(rows + 1, np.bool_)
    back, own, h_own = np.empty(points), np.empty(points, np.int64), np.empty(points, np.int64)
    sums, sum_exponents = np.empty(7), np.zeros(7, np.int64)
    for s in range(first, last):
        _run(s, table, safe, x, states, common, apart, state_exponents)
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
            fits = False
            if together and not apart[r]:
                bias, _, fits = _scale_biases(table[s, r, 2], table[s, r, 4], common[r], safe[s, r])
            if fits:
                # A factor beyond float64's range belongs to a row that is not safe.
                weight, outer_weight, slope = table[s, r, 1], table[s, r, 3], table[s, r, 5]
                below, above = factors[s, r, 0], factors[s, r, 1]
                one_below, one_above, h_below, h_above, z_below, z_above, square = _plain_row(
                    states, r, back, weight, bias, below, above
                )
                values[s, r, 0] = h_below + h_above
                values[s, r, 1] = outer_weight * (slope * h_below + h_above)
                values[s, r, 2] = outer_weight * (slope * one_below + one_above)
                values[s, r, 3] = slope * z_below + z_above
                values[s, r, 4] = one_below + one_above
                values[s, r, 5] = outer_weight * z_below
                for k in range(6):
                    exponents[s, r, k] = shift if k == 2 or k == 4 else shift + common[r]
                squares[s, r + 1], square_exponents[s, r + 1] = square, 2 * shift
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
                _wide_parameters(table[s, r], sums, sum_exponents, values[s, r], exponents[s, r])
                squares[s, r + 1], square_exponents[s, r + 1] = sums[6], sum_exponents[6]
                shift, low, together = _gather(back, own, BACK - 100, False)
                high = 0
        if together:
            own[:] = shift
        for p in range(points):
            m, own[p] = normalise(back[p], own[p])
            back[p], own[p] = m * m, 2 * own[p]
        squares[s, 0], square_exponents[s, 0] = _sum(back, own)
