"""Arrays of float64 or of rational numbers, row by row."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch import bool as bool_dtype

from stability.foundation.checks import check_finite

#: float64, or objects that are all rational numbers of one type.
Array = NDArray[Any]
#: More than underflow takes from a product and from the bound of its error.
FLOOR = 2.0**-1060
# Rows of so many numbers are short.
_FEW = 32


def numbers(name: str, given: object) -> Array:
    if isinstance(given, Tensor):
        if given.is_complex() or given.dtype == bool_dtype or given.is_meta:
            raise TypeError(f"{name} holds {given.dtype} on {given.device}: expected real numbers")
        given = given.detach().cpu().double().numpy()
    array = np.asarray(given)
    if array.dtype == object and array.size and all(isinstance(v, Fraction | int) for v in array.ravel()):
        return rationals(array)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} holds {array.dtype}: expected real numbers")
    array = array.astype(np.float64)
    check_finite(name, array)
    return array


def rationals(array: Array, kind: type = Fraction) -> Array:
    """The entries as rational numbers of one type, `Fraction` or the faster fmpq of python-flint."""
    flat = np.empty(array.size, dtype=object)
    flat[:] = [v if type(v) is kind else kind(*_ratio(v)) for v in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _ratio(value: Any) -> tuple[int, int]:
    return (int(value.p), int(value.q)) if hasattr(value, "p") else value.as_integer_ratio()


def flatten_rows(rows: Array) -> Array:
    flat: Array = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    return flat


def row_size(rows: Array) -> Array:
    """The largest modulus in each row."""
    flat = flatten_rows(rows)
    if not len(flat):
        return np.zeros(0)
    size: Array
    if flat.shape[1] == 1:
        size = np.abs(flat[:, 0])
    elif flat.shape[1] <= _FEW and flat.dtype != object:
        size = np.abs(flat.T, order="C").max(axis=0)  # numpy takes the largest of short rows one by one
    else:
        size = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    return size.astype(np.float64) if size.dtype != object else np.array([_float(v) for v in size.tolist()])


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def lift_zeros(values: Array, errors: Array, false: Array) -> None:
    """Replace zeros that only rounding makes, given by a mask, by numbers well within their errors.

    So a 0 among the values and the bends of a function is exact, as that of a dead neuron is, and needs no doubt: what
    rounds to 0 is held as a number whose sign its error leaves open. Rows that are exact keep their zeros.
    """
    if not false.any():
        return
    # Of a bound that is infinite, or not a number, any number is within the error.
    tiny = np.where(errors != 0, np.fmin(np.fmax(errors * 2.0**-40, 5e-324), 1.0), 0.0)
    np.copyto(values, tiny.reshape(-1, *[1] * (values.ndim - 1)), where=false)
    errors += errors * 2.0**-39


def signs_of(values: Array) -> NDArray[np.int8]:
    return (values > 0).astype(np.int8) - (values < 0).astype(np.int8)
