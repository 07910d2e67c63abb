"""How many folds, turns and regions a chain of width 1 is expected to have before it is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from stability.foundation.arguments import door
from stability.foundation.checks import check_interval
from stability.networks import Architecture, Init
from stability.networks.architecture import find_architecture
from stability.theory.closed_form import ClosedForm
from stability.theory.width_one.init_laws import DEPTH, SCALE, SLOPE, Laws, laws_of

_WHOLE = (-math.inf, math.inf)
_ONTO = "every step maps the line onto itself, so that the kink of each is met once"
_CONTINUOUS = ("uniform", "normal")


@dataclass(frozen=True)
class ExpectedCounts:
    """The expected counts of a chain, as forms of its depth, scale and slope.

    Attributes:
        folds, turns, regions: as `st.count` counts them; turns are None where they are not derived.
    """

    folds: ClosedForm
    turns: ClosedForm | None
    regions: ClosedForm


@door
def expected_counts(
    architecture: str | Architecture, init: str | Init = "pytorch", interval: Sequence[float] = _WHOLE
) -> ExpectedCounts:
    """Return how many folds, turns and regions a fresh chain has on an interval, in the mean over chains.

    With biases, on the whole line. A step without a bypass and with slopes above 0 maps the line onto itself, and so
    does one with a bypass and |p| < 1: every kink is met once, and there are exactly `depth` folds. A residual step
    with p beyond that is a V on the line, up or down with probability 1/2 each wherever its kink is: a value has two
    places before it or none, one in the mean, so that the expected number is `depth` at every scale; and a V turns at
    each of the places where its kink is met, so that depth P(V) turns are expected.

    Without biases every kink is at 0, and all depends on whether 0 is inside the interval. A plain PReLU chain has
    slopes w slope^k above 0 and w slope^(depth - k) below it, k the number of heads among `depth` coins: one fold
    unless k = depth / 2. A plain ReLU chain has one while it is alive. With a bypass there is one fold, and with one
    map and ReLU a turn if a weight below -1 takes the states below 0 across it.

    Args:
        architecture, init: names, or an `Architecture` and an `Init`, at width 1.
        interval: (low, high); the whole line where the init has biases.

    Raises:
        ValueError: where nothing is derived: a plain ReLU chain with biases, kinks spread evenly, constant weights,
            an interval with biases.

    >>> import stability as st
    >>> c = st.theory.expected_counts("residual2_prelu")
    >>> c.folds.expression, c.regions.expression, c.turns.value(depth=100), round(c.turns.value(depth=100, scale=3), 2)
    (depth, depth + 1, 0.0, 15.02)
    >>> st.theory.expected_counts("plain_relu", "he", (-3, 3)).folds.expression
    2**(1 - depth)
    """
    found = find_architecture(architecture)
    laws, name = laws_of(found, init), init if isinstance(init, str) else init.name
    whose = f"init {name!r} for {found.name!r}"
    if found.skip == 0 and found.maps == 2:
        raise ValueError(f"{found.name!r} has two maps and no bypass: counts are not derived")
    if not laws.weight.symmetric or laws.weight.size == 0 or laws.kinked:
        raise ValueError(f"{whose}: counts are derived for weights symmetric about 0 and independent of the biases")
    if found.maps == 2 and (not laws.outer_weight.symmetric or laws.outer_weight.size == 0):
        raise ValueError(f"{whose}: counts are derived for outer weights symmetric about 0, and not all 0")
    case = _Case(found, name, laws)
    low, high = _ends(interval)
    if laws.unbiased:
        return case.at_0() if low < 0 < high else case.counts(0, 0, 1, "no biases, 0 outside", "the only kink is at 0")
    if (low, high) != _WHOLE:
        raise ValueError(f"{whose} has biases: counts are derived on the whole line (-inf, inf), got {interval!r}")
    return case.on_the_line()


def _ends(interval: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an interval, which may be infinite."""
    low, high = interval
    if not (math.isinf(low) or math.isinf(high)):
        return check_interval(interval)
    if not low < high:
        raise ValueError(f"the interval is {interval!r}: expected low < high")
    return float(low), float(high)


class _Case:
    def __init__(self, architecture: Architecture, init: str, laws: Laws) -> None:
        self.architecture, self.init, self.laws = architecture, init, laws
        self.defaults: dict[sympy.Symbol, object] = {DEPTH: 100.0, **laws.defaults}
        self.domain: dict[sympy.Symbol, sympy.Set] = {
            DEPTH: sympy.Interval(1, sympy.oo),
            SCALE: sympy.Interval.open(0, sympy.oo),
        }
        if SLOPE in laws.defaults:
            self.domain[SLOPE] = sympy.Interval.open(0, 1)

    def counts(self, folds: sympy.Expr, turns: sympy.Expr, regions: sympy.Expr, held: str, why: str) -> ExpectedCounts:
        def form(what: str, expression: sympy.Expr) -> ClosedForm:
            name = f"expected {what} of {self.architecture.name}, {self.init}"
            domain = {symbol: allowed for symbol, allowed in self.domain.items() if symbol in self.defaults}
            return ClosedForm(name, sympy.sympify(expression), self.defaults, held, why, domain)

        return ExpectedCounts(
            form("folds", folds), None if turns is None else form("turns", turns), form("regions", regions)
        )

    def _keep_order(self, size: sympy.Expr) -> None:
        """Take scales at which no weight, of half-width `size`, makes a step turn."""
        self.domain[SCALE] = sympy.Interval.Lopen(0, sympy.solve(size - 1, SCALE)[0])

    def on_the_line(self) -> ExpectedCounts:
        """With biases, on the whole line."""
        laws, name = self.laws, self.architecture.name
        if laws.weight.family not in _CONTINUOUS or laws.bias.family not in _CONTINUOUS or laws.bias.size == 0:
            raise ValueError(f"init {self.init!r}: counts are derived for weights and biases that are continuous")
        held = "weights and biases symmetric about 0 and continuous, so that no two kinks coincide; slopes other than 1"
        if self.architecture.skip == 0:
            if laws.slope == 0:
                raise ValueError(
                    f"{name!r} with biases: how many kinks the image of the steps before meets is not derived"
                )
            return self.counts(
                DEPTH, 0, DEPTH + 1, held + "; slopes above 0, so that every step is increasing or falling", _ONTO
            )
        if self.architecture.maps == 1:
            if laws.weight.family != "uniform":
                raise ValueError(f"init {self.init!r} for {name!r}: counts are derived for steps that cannot turn")
            self._keep_order(laws.weight.size)
            return self.counts(DEPTH, 0, DEPTH + 1, held + "; |w| < 1, so that every step is increasing", _ONTO)
        turns = None
        if {laws.weight.family, laws.outer_weight.family} == {"uniform"}:
            size = laws.weight.size * laws.outer_weight.size
            turns = DEPTH * (_beyond(size) - (_beyond(size * laws.slope) if laws.slope != 0 else 0))
        why = (
            "a step maps the line onto itself or is a V, up or down with probability 1/2 each: a value has one place "
            "before it in the mean, and so has a kink; a step is a V, and each place of its kink a turn, with the "
            "probability P(p < -1) - P(slope p < -1)"
        )
        return self.counts(DEPTH, turns, DEPTH + 1, held, why)

    def at_0(self) -> ExpectedCounts:
        """Without biases, on an interval with 0 inside."""
        laws, name = self.laws, self.architecture.name
        held = "weights symmetric about 0, no biases: the only kink is at 0, inside the interval"
        if self.architecture.skip == 0:
            if laws.slope == 0:
                why = "the first step passes one side of 0 on, each later one passes it with probability 1/2"
                return self.counts(2 ** (1 - DEPTH), 0, 2, held, why)
            # binom(L, L/2) / 2^L, in logs.
            equal = sympy.exp(sympy.loggamma(DEPTH + 1) - 2 * sympy.loggamma(DEPTH / 2 + 1) - DEPTH * sympy.log(2))
            folds = sympy.Piecewise((1 - equal, sympy.Eq(sympy.Mod(DEPTH, 2), 0)), (1, True))
            why = (
                "the slopes above and below 0 are w slope^k and w slope^(depth - k), k the heads among depth coins: "
                "they agree if k = depth / 2"
            )
            return self.counts(folds, 0, 2, held + "; slopes above 0, other than 1", why)
        if self.architecture.maps == 1 and laws.slope == 0:
            size = laws.weight.size
            below = {
                "uniform": sympy.Max(0, (1 - 1 / size) / 2),
                "normal": sympy.erfc(1 / (sympy.sqrt(2) * size)) / 2,
                "sign": sympy.Piecewise((sympy.Rational(1, 2), size > 1), (0, True)),
            }
            why = "states above 0 stay there; a turn if one of the weights is below -1 and takes those below 0 across"
            return self.counts(1, 1 - (1 - below[laws.weight.family]) ** DEPTH, 2, held, why)
        if {laws.weight.family, laws.outer_weight.family} != {"uniform"}:
            raise ValueError(f"init {self.init!r} for {name!r}: weights may take the state across 0, not derived")
        self._keep_order(laws.weight.size * laws.outer_weight.size)
        why = "an increasing step keeps both sides of 0, and their slopes differ"
        return self.counts(1, 0, 2, held + "; |p| < 1, so that every step is increasing", why)


def _beyond(size: sympy.Expr) -> sympy.Expr:
    """Return P(p < -1) for p = size times a product of two uniform numbers."""
    end = sympy.Min(1, 1 / size)
    return (1 - end + end * sympy.log(end)) / 2
