"""Log singular values of matrix products by exact integer products and an SVD in as many digits as are asked for."""

import flint
import mpmath
import numpy as np


def exact_product(layers):
    """The product J_L ... J_1 of float64 matrices, exactly: integers and an exponent of 2."""
    product, exponent = None, 0
    for layer in layers:
        entries = [[(value.as_integer_ratio()) for value in row] for row in np.asarray(layer).tolist()]
        power = max(denominator.bit_length() - 1 for row in entries for _, denominator in row)
        integers = flint.fmpz_mat([[n * (2**power // d) for n, d in row] for row in entries])
        product = integers if product is None else integers * product
        exponent -= power
    return product, exponent


def log_singular_values(layers, digits):
    """Descending, -inf beyond the exact rank; with twice the digits until these change nothing."""
    product, exponent = exact_product(layers)
    rank = product.rank()
    before = None
    while True:
        logs = _logs(product, exponent, rank, digits)
        if before is not None and np.isfinite(logs).all() and np.allclose(logs, before, rtol=1e-15, atol=1e-14):
            return np.append(logs, [-np.inf] * (min(product.nrows(), product.ncols()) - rank))
        before, digits = logs, 2 * digits


def _logs(product, exponent, rank, digits):
    m, n = product.nrows(), product.ncols()
    with mpmath.workdps(digits):
        matrix = mpmath.matrix([[mpmath.mpf(int(product[i, j])) for j in range(n)] for i in range(m)])
        values = mpmath.svd_r(matrix if m >= n else matrix.T, compute_uv=False)
        return np.array(
            [float(mpmath.log(abs(v)) + exponent * mpmath.log(2)) if v else -np.inf for v in list(values)[:rank]]
        )
