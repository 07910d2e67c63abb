"""What a step of a width-1 chain does, written once for every kind of number.

With z = weight h + bias, and phi(z) = z where z > 0 and slope z elsewhere, a step is

    h -> skip h + outer_weight phi(z) + outer_bias = gain h + shift,

gain = skip + outer_weight weight phi' and shift = outer_weight bias phi' + outer_bias by the side phi' of the kink that
z is on, 1 or slope; a z of exactly 0 counts as not positive, as in torch. The operations come in the same order in
every arithmetic, so that all readings of a chain in float64 agree to the bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

#: In any arithmetic: a float, a Fraction, an expression, a pair of mantissa and exponent.
Number = Any
Formula = Callable[..., Number]


class Row(NamedTuple):
    """The numbers of a step, in the order of the columns of a step table and in any arithmetic."""

    skip: Number
    weight: Number
    bias: Number
    outer_weight: Number
    outer_bias: Number
    slope: Number


class Formulas(NamedTuple):
    """The formulas of a step in one arithmetic, of a row and numbers of it.

    Attributes:
        row_of: of six plain numbers, the `Row` of them.
        pre_activation: of a row and h, z.
        phi: of a row and z.
        side: of a row and z, phi'.
        after_activation: of a row, h and phi(z), the next state.
        step: of a row and h, the next state.
        through: of a row and phi', the part of the gain that goes through the activation.
        gain, shift: of a row and phi'.
    """

    row_of: Formula
    pre_activation: Formula
    phi: Formula
    side: Formula
    after_activation: Formula
    step: Formula
    through: Formula
    gain: Formula
    shift: Formula


def step_formulas(
    times: Formula = operator.mul,
    plus: Formula = operator.add,
    is_positive: Formula = lambda z: z > 0,
    number: Formula = lambda value: value,
    compiled: Formula = lambda function: function,
) -> Formulas:
    """Return the formulas of a step in an arithmetic, without one in that of Python's operators.

    Args:
        times, plus: the product and the sum of two numbers.
        is_positive: whether a number is.
        number: what a plain number is in this arithmetic.
        compiled: what to make of the functions: numba's `njit`, inlined, where all of the above are so compiled too.

    >>> row = EXACT.row_of([1.0, 2.0, -1.0, 0.5, 0.0, 0.25])
    >>> EXACT.step(row, Fraction(1, 3)), EXACT.gain(row, row.slope) / 3 + EXACT.shift(row, row.slope)
    (Fraction(7, 24), Fraction(7, 24))
    """

    @compiled
    def row_of(numbers: Number) -> Number:
        skip, weight, bias, outer_weight, outer_bias, slope = numbers
        return Row(number(skip), number(weight), number(bias), number(outer_weight), number(outer_bias), number(slope))

    @compiled
    def pre_activation(row: Number, h: Number) -> Number:
        return plus(times(row.weight, h), row.bias)

    @compiled
    def phi(row: Number, z: Number) -> Number:
        return z if is_positive(z) else times(row.slope, z)

    @compiled
    def side(row: Number, z: Number) -> Number:
        return number(1) if is_positive(z) else row.slope

    @compiled
    def after_activation(row: Number, h: Number, activated: Number) -> Number:
        return plus(plus(times(row.skip, h), times(row.outer_weight, activated)), row.outer_bias)

    @compiled
    def step(row: Number, h: Number) -> Number:
        return after_activation(row, h, phi(row, pre_activation(row, h)))

    @compiled
    def through(row: Number, side: Number) -> Number:
        return times(times(row.outer_weight, row.weight), side)

    @compiled
    def gain(row: Number, side: Number) -> Number:
        return plus(row.skip, through(row, side))

    @compiled
    def shift(row: Number, side: Number) -> Number:
        return plus(times(times(row.outer_weight, row.bias), side), row.outer_bias)

    return Formulas(row_of, pre_activation, phi, side, after_activation, step, through, gain, shift)


#: The formulas in rational arithmetic.
EXACT = step_formulas(number=Fraction)
