"""Write spectra_reference.npz: singular values of products of 256 x 256 matrices to far more digits than float64 has.

The products are formed exactly, in integers, and decomposed in 300 digits; it takes about 10 minutes. What is stored
are the logs of all 256 values of three of the 64 prefixes.
"""

from __future__ import annotations

from pathlib import Path

import flint
import mpmath
import numpy as np
from numpy.typing import NDArray

PREFIXES = (4, 16, 64)
PATH = Path(__file__).with_name("spectra_reference.npz")


def layers(depth: int = 64, width: int = 256) -> NDArray[np.float64]:
    """Return the matrices, entries N(0, 1 / width)."""
    return np.random.default_rng(0).standard_normal((depth, width, width)) / np.sqrt(width)


def main() -> None:
    product, exponent, found = None, 0, {}
    for depth, layer in enumerate(layers(), start=1):
        entries = [[value.as_integer_ratio() for value in row] for row in layer.tolist()]
        power = max(denominator.bit_length() - 1 for row in entries for _, denominator in row)
        integers = flint.fmpz_mat([[n * (2**power // d) for n, d in row] for row in entries])
        product = integers if product is None else integers * product
        exponent -= power
        if depth in PREFIXES:
            with mpmath.workdps(300):
                matrix = mpmath.matrix([[mpmath.mpf(int(entry)) for entry in row] for row in product.tolist()])
                values = mpmath.svd_r(matrix, compute_uv=False)
                found[str(depth)] = [float(mpmath.log(v) + exponent * mpmath.log(2)) for v in values]
            print(
                f"prefix {depth}: log values from {found[str(depth)][0]:.3f} to {found[str(depth)][-1]:.3f}", flush=True
            )
    np.savez_compressed(PATH, **found)
    print(f"Written: {PATH}")


if __name__ == "__main__":
    main()
