"""The gradient of a width-1 chain in arithmetic of hundreds of bits, one number at a time."""

import mpmath


def gradient(table, x, target, bits=400):
    """Return the mean-squared-error gradient of one step table, and the condition of every sum over the points.

    Args:
        table: rows of six floats.
        x, target: floats.

    Returns:
        rows of six mpf, rows of six conditions sum |terms| / |sum|, and for every state the L2 norm of its gradient.
        The terms of z = weight h + bias count apart.
    """
    with mpmath.workprec(bits):
        rows = [[mpmath.mpf(v) for v in row] for row in table]
        sums = [[mpmath.mpf(0)] * 6 for _ in rows]
        sizes = [[mpmath.mpf(0)] * 6 for _ in rows]
        squares = [mpmath.mpf(0)] * (len(rows) + 1)
        for point, aim in zip(x, target, strict=True):
            states = [mpmath.mpf(point)]
            for skip, weight, bias, outer_weight, outer_bias, slope in rows:
                z = weight * states[-1] + bias
                states.append(skip * states[-1] + outer_weight * (z if z > 0 else slope * z) + outer_bias)
            # The library's loss takes the output in float64.
            back = 2 * (states[-1] - mpmath.mpf(aim)) / len(x)
            for r in range(len(rows) - 1, -1, -1):
                squares[r + 1] += back**2
                skip, weight, bias, outer_weight, _, slope = rows[r]
                h = states[r]
                z = weight * h + bias
                size = abs(weight * h) + abs(bias)
                side = mpmath.mpf(1) if z > 0 else slope
                terms = [
                    (back * h, abs(back * h)),
                    (back * outer_weight * side * h,) * 2,
                    (back * outer_weight * side,) * 2,
                    (back * side * z, back * side * size),
                    (back, back),
                    (mpmath.mpf(0),) * 2 if z > 0 else (back * outer_weight * z, back * outer_weight * size),
                ]
                for k, (term, bound) in enumerate(terms):
                    sums[r][k] += term
                    sizes[r][k] += abs(bound)
                back = back * (skip + outer_weight * side * weight)
            squares[0] += back**2
        conditions = [
            [s / abs(t) if t else mpmath.mpf(1) for s, t in zip(a, b, strict=True)]
            for a, b in zip(sizes, sums, strict=True)
        ]
        return sums, conditions, [mpmath.sqrt(s) for s in squares]


def log(value):
    """Return the natural log of |value| as a float, -inf for zero."""
    return float(mpmath.log(abs(value))) if value else -mpmath.inf
