"""Sums, and products with constants, of piecewise-linear functions."""

from __future__ import annotations

from typing import Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from stability.folds.numbers import FLOOR, Array, lift_zeros, numbers, rationals, row_size
from stability.folds.pieces import Pieces, align
from stability.folds.refuse import refuse
from stability.foundation.formats import ROUNDOFF

A = TypeVar("A", bound="Arithmetic")


class Arithmetic(Pieces):
    """Pieces with the operators of Python, whose other operand may be a number, an array or a tensor."""

    def _with(self, other: object, sign: int) -> Self:
        if isinstance(other, Pieces):
            f, g = align(self, cast(Self, other))
            data = f._data + g._data if sign > 0 else f._data - g._data
            rounding = 0.0 if f.exact else ROUNDOFF * row_size(data)
            undecided = f._undecided | g._undecided
            errors = f._errors + g._errors + rounding * (_touched(f) & _touched(g))
            _lift(data, errors, f)
            return f._make(f._places, data, errors, undecided, f._limit)
        constant = self._constant(other)
        shape = np.broadcast_shapes(self.shape, constant.shape)
        data = np.broadcast_to(self._spread(len(shape)), (len(self._data), *shape)).copy()
        count, errors = self._points, self._errors.copy()
        data[:count] += constant if sign > 0 else -constant
        if not self.exact:
            errors[:count] += ROUNDOFF * row_size(data[:count])
            _lift(data, errors, self)
        return self._like(data, errors)

    def _constant(self, other: object) -> Array:
        if isinstance(other, Tensor) and other.dtype == torch.bool:
            other = other.double()  # a mask
        constant = other if isinstance(other, np.ndarray) and other.dtype == object else numbers("the operand", other)
        if constant.size == 0:
            raise ValueError("the operand is empty: expected at least one number")
        return rationals(constant, type(self._data.flat[0])) if self.exact else constant

    def __add__(self, other: object) -> Self:
        return self._with(other, 1)

    def __sub__(self, other: object) -> Self:
        return self._with(other, -1)

    def __neg__(self) -> Self:
        return self._multiple(self._like(-self._data))

    def _multiple(self, times: Self) -> Self:
        """Return this times a number other than 0, whose kinks at 0 are the same ones."""
        times._neurons = self._neurons
        return times

    def __radd__(self, other: object) -> Self:
        return self._with(other, 1)

    def __rsub__(self, other: object) -> Self:
        return (-self)._with(other, 1)

    def _times(self, other: object) -> Self:
        if isinstance(other, Pieces):
            refuse(
                "the product of two functions",
                "it is not piecewise linear; of functions along a line f.inner(g) is its integral",
            )
        factor = self._constant(other)
        data = self._spread(max(factor.ndim, len(self.shape))) * factor
        size = float(np.max(abs(factor)))
        with np.errstate(invalid="ignore"):  # a bound may be infinite, and is then a doubt
            errors = self._errors * size + self._rounding(data) * (size > 0)
        if size > 0:
            _lift(data, errors, self, factor != 0)
        product = self._like(data, errors)
        return self._multiple(product) if factor.size == 1 and size > 0 and data.shape == self._data.shape else product

    def __mul__(self, other: object) -> Self:
        return self._times(other)

    __rmul__ = __mul__

    def __rtruediv__(self, other: object) -> Self:
        return refuse("a quotient by a function", "it is not piecewise linear")

    def __truediv__(self, other: object) -> Self:
        if isinstance(other, Pieces):
            refuse("a quotient by a function", "it is not piecewise linear")
        divisor = self._constant(other)
        if np.any(divisor == 0):
            raise ZeroDivisionError("the function is divided by 0: expected numbers other than 0")
        data = self._spread(max(divisor.ndim, len(self.shape))) / divisor
        errors = self._errors / float(np.min(abs(divisor))) + self._rounding(data)
        _lift(data, errors, self)
        return self._like(data, errors)

    def _rounding(self, products: Array) -> Array | float:
        """What rounding takes from products of the rows with numbers, at most; nothing from rows that are just 0."""
        if self.exact:
            return 0.0
        return ROUNDOFF * row_size(products) + FLOOR * (_touched(self) | (self._errors > 0))

    def __iadd__(self, other: object) -> Self:
        return self._become(self + other)

    def __isub__(self, other: object) -> Self:
        return self._become(self - other)

    def __imul__(self, other: object) -> Self:
        return self._become(self * other)

    def __itruediv__(self, other: object) -> Self:
        return self._become(self / other)


def _lift(data: Array, errors: Array, f: Pieces, counts: Array | bool = True) -> None:
    """Mark what is 0 in a sum with `f` because it cancels, or in a product because it underflows."""
    if f.exact:
        return
    own = f._spread(data.ndim - 1)
    for rows in f._held:
        if not data[rows].all():
            lift_zeros(data[rows], errors[rows], (data[rows] == 0) & (own[rows] != 0) & counts)


def _touched(f: Pieces) -> Array:
    """Which rows are not 0 all along: a sum with a row of zeros does not round."""
    return row_size(f._data) > 0
