"""The scale of the weights at which the exponent is zero, and what |J| tends to if the scale falls with the depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy
from scipy.optimize import brentq

from stability.foundation.arguments import door
from stability.foundation.checks import check_positive
from stability.networks import Architecture, Init
from stability.theory.closed_form import ClosedForm
from stability.theory.width_one.growth_terms import mean
from stability.theory.width_one.init_laws import DEPTH, SCALE
from stability.theory.width_one.lyapunov_exponents import Step, lyapunov_exponent


@dataclass(frozen=True)
class CriticalScale:
    """The factors on the weights of an initialisation at which log|J| neither grows nor decays.

    Attributes:
        scales: ascending; above 0.
        residuals: the exponent at each, 0 but for rounding.
        form: the scale as a closed form, None where it is solved for.
        trivial: whether 0 is one as well: with a bypass every step is then the identity.
        reason: why there is none, or why every scale is one, or why there must be one.
    """

    scales: tuple[float, ...]
    residuals: tuple[float, ...]
    form: ClosedForm | None
    trivial: bool
    reason: str

    @property
    def scale(self) -> float:
        """The smallest of `scales`.

        Raises:
            ValueError: where there is none, with the reason.
        """
        if not self.scales:
            raise ValueError(f"there is no single critical scale: {self.reason}")
        return self.scales[0]


@door
def critical_scale(
    architecture: str | Architecture,
    init: str | Init = "pytorch",
    sign: int | None = None,
    alive: bool = False,
    **numbers: float,
) -> CriticalScale:
    """Return the scales at which `lyapunov_exponent` is zero. Its arguments, and numbers for its other symbols.

    Without a bypass the scale is exp(-E log|g|) at scale 1. With one it is solved for: all sign changes of the exponent
    between 10^-2 and 10^3, by bisection (Brent 1973).

    >>> import stability as st
    >>> found = st.theory.critical_scale("plain_prelu")
    >>> found.form.expression, round(found.scale, 4)
    (E/sqrt(Abs(slope)), 5.4366)
    >>> st.theory.critical_scale("residual2_relu", "orthogonal").scales
    (1.0,)
    >>> st.theory.critical_scale("residual1_relu", sign=1).reason
    'log|g| is 0 or log(1 + |w|), which is above 0: the exponent is above 0 at every scale'
    """
    step = Step(architecture, init, sign)
    exponent = lyapunov_exponent(architecture, init, sign, alive)
    if "scale" in numbers:
        raise ValueError("scale is what is asked for: give numbers for the other symbols alone")
    exponent.value(**numbers, scale=0.1)  # names and domains
    bypass = step.architecture.skip == 1
    if exponent.expression == -sympy.oo:
        return CriticalScale((), (), None, False, "a step kills the signal with probability 1/2 at every scale")
    if not bypass:
        at_one = exponent.expression.subs(SCALE, 1)
        defaults = {symbol: v for symbol, v in exponent.defaults.items() if symbol != SCALE}
        domain = {symbol: allowed for symbol, allowed in exponent.domain.items() if symbol != SCALE}
        form = ClosedForm(
            f"critical scale: {exponent.name} is 0",
            sympy.exp(-at_one),
            defaults,
            exponent.assumptions,
            "the exponent is log(scale) and its value at scale 1",
            domain,
        )
        scale = form.value(**numbers)
        return CriticalScale((scale,), (exponent.value(scale=scale, **numbers),), form, False, form.derivation)
    if exponent.expression == 0:
        return CriticalScale((), (), None, True, "every step is the identity, or a shift: the exponent is 0 throughout")
    if step.architecture.maps == 1 and step.laws.slope == 0 and step.laws.weight.symmetric:
        if sign == 1:
            why = "log|g| is 0 or log(1 + |w|), which is above 0: the exponent is above 0 at every scale"
        else:
            why = "log|g| is 0 or log(1 - |w|), which is below 0 as long as no weight takes the state across 0"
        return CriticalScale((), (), None, True, why)
    scales = _roots(exponent, numbers)
    if scales:
        why = (
            "the exponent is below 0 for small weights, by Jensen's inequality, and grows as log(scale) for large ones"
        )
        if step.place:
            why = "the exponent changes its sign there"
    else:
        why = "the exponent does not change its sign between scales of 0.01 and 1000, or the end of its domain"
    residuals = tuple(float(exponent.value(scale=scale, **numbers)) for scale in scales)
    return CriticalScale(scales, residuals, None, True, why)


def _roots(exponent: ClosedForm, numbers: dict[str, float]) -> tuple[float, ...]:
    """Return where the exponent changes its sign or is 0, over scales of 10^-2 to 10^3 or the end of the domain."""
    top = min(1000.0, float(exponent.domain[SCALE].sup))
    grid = np.geomspace(0.01, top * (1 - 1e-9), 1501)
    values = exponent.value(scale=grid, **numbers)
    found = []
    for at in np.flatnonzero(values[:-1] * values[1:] < 0):
        ends = float(grid[at]), float(grid[at + 1])
        found.append(float(brentq(lambda s: exponent.value(scale=s, **numbers), *ends, xtol=1e-14, rtol=1e-14)))
    return tuple(found)


@dataclass(frozen=True)
class ScaledLimit:
    """What |J| tends to where the outer weights, or those of the one map, are divided by a power of the depth.

    Attributes:
        kind: "number", where log|J| has no spread, "log-normal", where it is normal, or "divergence" to 0 or infinity.
        mean: of log|J| in the limit; oo or -oo for a divergence.
        variance: of log|J| in the limit.
    """

    kind: str
    mean: ClosedForm
    variance: ClosedForm


@door
def scaled_limit(
    architecture: str | Architecture, init: str | Init = "pytorch", power: float = 0.5, sign: int | None = None
) -> ScaledLimit:
    """Return what |J| tends to as the depth L grows, with the scale divided by L^power.

    With g = 1 + q / L^power and m1, m2 the first two moments of q, log|J| has the mean
    L^(1 - power) m1 - L^(1 - 2 power) m2 / 2 and the variance L^(1 - 2 power) (m2 - m1^2) to leading order. With two
    maps m1 is 0: 1/L gives 1, 1/sqrt(L) a log-normal of mean -m2/2 and variance m2, for which E|J| is 1. With one
    map, by the sign of the state, 1/L gives exp(m1) and 1/sqrt(L) a divergence. Without a bypass |J| tends to 0.

    Args:
        architecture, init, sign: as of `lyapunov_exponent`.
        power: above 0.

    >>> import stability as st
    >>> limit = st.theory.scaled_limit("residual2_relu", "pytorch")
    >>> limit.kind, limit.mean.expression, limit.variance.expression
    ('log-normal', -scale**2/36, scale**2/18)
    >>> st.theory.scaled_limit("residual1_relu", "uniform", power=1, sign=1).mean.expression
    scale/4
    """
    step = Step(architecture, init, sign)
    rate = sympy.nsimplify(check_positive("power", power))
    if DEPTH in step.laws.defaults:
        raise ValueError(f"init {step.init!r} depends on the depth already: take one that does not, such as 'pytorch'")
    half = sympy.Rational(1, 2)
    average: object
    variance: object
    if step.architecture.skip == 0:
        average, variance = -sympy.oo, sympy.oo
        why = "log|J| has the mean -power L log L to leading order"
    else:
        first = sympy.factor(mean([term.size * term.moment(1) for term in step.terms]))
        second = sympy.factor(mean([term.size**2 * term.moment(2) for term in step.terms]))
        if first == 0:
            average = -sympy.oo if rate < half else -second / 2 if rate == half else sympy.Integer(0)
        else:
            size = first.subs(step.laws.defaults)
            average = (sympy.oo if size > 0 else -sympy.oo) if rate < 1 else first if rate == 1 else sympy.Integer(0)
        spread = sympy.factor(second - first**2)
        variance = sympy.oo if rate < half else spread if rate == half else sympy.Integer(0)
        if second == 0:  # every step is the identity
            average = variance = sympy.Integer(0)
        why = "the logarithm to second order, and the central limit theorem for the sum over the steps"
    step.domain[SCALE] = sympy.Interval.open(0, sympy.oo)
    kind = "divergence" if average in (sympy.oo, -sympy.oo) else "number" if variance == 0 else "log-normal"
    forms = [
        step.form(f"limit of the {name} of log|J| with weights / depth^{rate}", expression, why)
        for name, expression in (("mean", average), ("variance", variance))
    ]
    return ScaledLimit(kind, *forms)
