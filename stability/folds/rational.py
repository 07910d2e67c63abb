"""The stored numbers as rationals, and what follows from them exactly.

A float64 is an integer times a power of two. A kink -bias / weight is a quotient of two such numbers, and a step maps
numerator P 2^e over denominator Q to another one over the same Q: no fraction is ever reduced.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stability.foundation.formats import SPACING
from stability.networks.step_formula import step_formulas

Dyadic = tuple[int, int]  # an integer and the power of two that it is times


def dyadic(value: float) -> Dyadic:
    """Return the float as an integer times a power of two."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator, 1 - denominator.bit_length()


def _add(a: Dyadic, b: Dyadic) -> Dyadic:
    (x, i), (y, j) = a, b
    return (x + (y << (j - i)), i) if i < j else ((x << (i - j)) + y, j)


def _times(a: Dyadic, b: Dyadic) -> Dyadic:
    return a[0] * b[0], a[1] + b[1]


def sign(value: int | Fraction) -> int:
    """Return -1, 0 or 1."""
    return (value > 0) - (value < 0)


_FORMULAS = step_formulas(_times, _add, lambda z: z[0] > 0, dyadic)


class ExactRow:
    """One step as exact numbers: z = weight h + bias, then h -> gain h + shift by the sign of z."""

    def __init__(self, row: NDArray[np.float64]) -> None:
        self.skip, self.weight, self.bias, self.outer_weight, self.outer_bias, self.slope = map(dyadic, row)

    @cached_property
    def gain(self) -> tuple[Dyadic, Dyadic]:
        """skip + outer_weight weight phi', for z <= 0 and z > 0."""
        return _FORMULAS.gain(self, self.slope), _FORMULAS.gain(self, dyadic(1))

    @cached_property
    def shift(self) -> tuple[Dyadic, Dyadic]:
        """outer_weight bias phi' + outer_bias, for z <= 0 and z > 0."""
        return _FORMULAS.shift(self, self.slope), _FORMULAS.shift(self, dyadic(1))

    def gain_ratio(self, numerator: int, denominator: int) -> Fraction:
        """gain[numerator] / gain[denominator]."""
        (a, i), (b, j) = self.gain[numerator], self.gain[denominator]
        return Fraction(a, b) * Fraction(2) ** (i - j)


class Orbit:
    """The exact value of a point before a layer, (numerator) / denominator."""

    def __init__(self, numerator: Dyadic, denominator: int, layer: int) -> None:
        self.numerator, self.denominator, self.layer = numerator, denominator, layer

    @classmethod
    def of_kink(cls, row: ExactRow, layer: int) -> Orbit:
        """The point where the pre-activation of `row`, layer `layer`, is 0."""
        (b, i), (w, j) = row.bias, row.weight
        return cls((-b if w > 0 else b, i - j), abs(w), layer)

    def z_sign(self, row: ExactRow) -> int:
        """The sign of the pre-activation."""
        return sign(_add(_times(row.weight, self.numerator), _times(row.bias, (self.denominator, 0)))[0])

    def step(self, row: ExactRow) -> None:
        """Go through one layer."""
        branch = 1 if self.z_sign(row) > 0 else 0
        shift = _times(row.shift[branch], (self.denominator, 0))
        mantissa, exponent = _add(_times(row.gain[branch], self.numerator), shift)
        # Powers of two that all have in common would only make the integers longer.
        zeros = (mantissa & -mantissa).bit_length() - 1 if mantissa else 0
        self.numerator = (mantissa >> zeros, exponent + zeros if mantissa else 0)
        self.layer += 1

    def ball(self) -> tuple[float, float, int]:
        """Return (m, r, e) with the value within (m - r, m + r) 2^e; e is 0 well inside float64's range."""
        mantissa, exponent = self.numerator
        if mantissa == 0:
            return 0.0, 0.0, 0
        size = abs(mantissa).bit_length() - self.denominator.bit_length()
        shift = 64 - size
        scaled = mantissa << shift if shift >= 0 else mantissa >> -shift
        lost = shift < 0 and scaled << -shift != mantissa
        quotient, rest = divmod(scaled, self.denominator)
        m = math.ldexp(float(quotient), -65)
        exact = not lost and rest == 0 and int(float(quotient)) == quotient
        e = exponent - shift + 65
        r = 0.0 if exact else abs(m) * SPACING
        if -400 < e < 400:
            return math.ldexp(m, e), math.ldexp(r, e), 0
        return m, r, e


def fast_rational() -> type:
    try:
        from flint import fmpq
    except ImportError:
        return Fraction
    kind: type = fmpq
    return kind
