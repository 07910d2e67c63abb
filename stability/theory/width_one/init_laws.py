"""The distributions of initialisations at width 1, as laws of random numbers with moments of their logarithms."""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from stability.networks import Architecture, Distribution, Init
from stability.networks.initialisation import find_init

#: The numbers that every form is asked for: a factor on the weights, the slope of the activation, the depth.
SCALE = sympy.Symbol("scale", positive=True)
SLOPE = sympy.Symbol("slope", real=True)
DEPTH = sympy.Symbol("depth", positive=True)


@dataclass(frozen=True)
class Law:
    """A number that is `size` times a number of a family: "uniform" on (-1, 1), "normal", "sign", "constant" (1)."""

    family: str
    size: sympy.Expr

    @property
    def symmetric(self) -> bool:
        """Whether a number and its negative are equally likely."""
        return self.family != "constant" or self.size == 0

    def moment(self, order: int) -> sympy.Expr:
        """E value^order."""
        if order % 2 and self.symmetric:
            return sympy.Integer(0)
        means = {
            "uniform": sympy.Rational(1, order + 1),
            "normal": sympy.factorial2(order - 1),
            "sign": sympy.Integer(1),
            "constant": sympy.Integer(1),
        }
        return self.size**order * means[self.family]

    @property
    def mean_log(self) -> sympy.Expr:
        """E log|value|."""
        means = {"uniform": sympy.Integer(-1), "normal": -(sympy.EulerGamma + sympy.log(2)) / 2}
        return sympy.log(self.size) + means.get(self.family, sympy.Integer(0))

    @property
    def log_variance(self) -> sympy.Expr:
        """The variance of log|value|."""
        variances = {"uniform": sympy.Integer(1), "normal": sympy.pi**2 / 8}
        return variances.get(self.family, sympy.Integer(0))


@dataclass(frozen=True)
class Laws:
    """The laws of a step's numbers: those that an initialisation draws for an architecture at width 1.

    Attributes:
        weight, bias, outer_weight, outer_bias: `outer_` ones are 1 and 0 where the architecture has one map.
        slope: of the activation: the symbol where it is trained, else the number.
        defaults: the numbers that the symbols have in the initialisation.
        kinked: whether the bias is -weight t with a kink t of its own in every step; then `bias` is not asked.
    """

    weight: Law
    bias: Law
    outer_weight: Law
    outer_bias: Law
    slope: sympy.Expr
    defaults: dict[sympy.Symbol, float | sympy.Expr]
    kinked: bool = False

    @property
    def unbiased(self) -> bool:
        """Whether every step keeps 0 where it is."""
        return not self.kinked and self.bias.size == 0 and self.outer_bias.size == 0


def laws_of(architecture: Architecture, init: str | Init) -> Laws:
    """Return the laws of the numbers of a step of an architecture, with a factor `scale` on its weights.

    With two maps the factor is on the outer weight, so that the product of the two has it once.

    Raises:
        ValueError: for a smooth activation, a bypass other than 0 or 1, slopes that are drawn.
    """
    if not architecture.phi.piecewise_linear:
        raise ValueError(
            f"{architecture.name!r} has activation {architecture.activation!r}: the derivative of a step takes two "
            "values only where the activation is piecewise linear"
        )
    if not architecture.holds_rows or architecture.scaled:
        raise ValueError(
            f"{architecture.name!r} has another order, shared parameters or a factor on the branch: forms are for "
            "steps of 1 or 2 maps in the order 'between', each with parameters of its own; put the factor into the init"
        )
    if architecture.skip not in (0, 1):
        raise ValueError(f"{architecture.name!r} has a bypass of weight {architecture.skip}: forms are known for 0, 1")
    found = find_init(init, architecture, 1)
    trained = architecture.phi.trains_slope
    if trained and found.slope.family != "constant":
        raise ValueError(f"init {found.name!r} draws slopes from {found.slope.family!r}: forms are for one slope")
    slope: sympy.Expr = SLOPE if trained else sympy.nsimplify(architecture.phi.slope)
    gain = sympy.sqrt(2 / (1 + slope**2))

    def law(distribution: Distribution) -> Law:
        family = {"orthogonal": "sign", "identity": "constant"}.get(distribution.family, distribution.family)
        size = sympy.nsimplify(distribution.scale) * DEPTH ** sympy.nsimplify(distribution.depth_power)
        return Law(family, size * gain if distribution.gain else size)

    one, zero = Law("constant", sympy.Integer(1)), Law("constant", sympy.Integer(0))
    two = architecture.maps == 2
    weight, outer_weight = law(found.weight), law(found.outer_weight) if two else one
    factored = outer_weight if two else weight
    factored = Law(factored.family, factored.size * SCALE)
    weight, outer_weight = (weight, factored) if two else (factored, one)
    bias = law(found.bias) if found.kinks is None else zero
    defaults: dict[sympy.Symbol, float | sympy.Expr] = {SCALE: 1.0}
    if trained:
        defaults[SLOPE] = sympy.nsimplify(found.slope.scale)
    if any(distribution.depth_power for distribution in (found.weight, found.outer_weight)):
        defaults[DEPTH] = 100.0
    outer_bias = law(found.outer_bias) if two else zero
    return Laws(weight, bias, outer_weight, outer_bias, slope, defaults, found.kinks is not None)
