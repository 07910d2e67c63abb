"""How likely a plain ReLU chain of width 1 is dead, a constant, at a point or on an interval, before it is trained.

A step h -> relu(w h + b) is flat on a state interval (low, high) if w h + b <= 0 on all of it: for w > 0 at high, for
w < 0 at low. A chain is dead on an interval if one of its steps is flat on the image that the steps before leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import sympy
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_interval, check_number
from stability.networks import Init
from stability.networks.architecture import find_architecture
from stability.theory.closed_form import ClosedForm
from stability.theory.width_one.init_laws import DEPTH, SCALE, Laws, laws_of

Array = NDArray[np.float64]

#: A state interval (middle - radius, middle + radius).
MIDDLE = sympy.Symbol("middle", real=True)
RADIUS = sympy.Symbol("radius", nonnegative=True)
_ABOVE_0 = sympy.Interval.open(0, sympy.oo)


@dataclass(frozen=True)
class Estimate:
    """A probability by sampling.

    Attributes:
        value: the estimate.
        standard_error: of it, over the samples.
    """

    value: float
    standard_error: float


def _laws(init: str | Init) -> tuple[str, Laws]:
    laws, name = laws_of(find_architecture("plain_relu"), init), init if isinstance(init, str) else init.name
    if not laws.weight.symmetric or laws.weight.size == 0 or not laws.bias.symmetric:
        raise ValueError(f"init {name!r} draws weights or biases that are not symmetric about 0: no form is known")
    return name, laws


@door
def born_dead(interval: float | Sequence[float], init: str | Init = "pytorch") -> ClosedForm:
    """Return the probability that a plain ReLU chain is dead, as a form of its depth.

    1 - 2^-depth at one point, whatever the biases: a step kills the signal with probability 1/2. Without biases
    1 - 2^-(depth - 1) on an interval with 0 inside, where the first step always passes one side on (Lu, Shin, Su and
    Karniadakis 2019, "Dying ReLU and initialization", at width 1), and 1 - 2^-depth on an interval on one side.

    Args:
        interval: a point, or (low, high).
        init: a name or an `Init`.

    Raises:
        ValueError: for an interval with biases, see `born_dead_by_sampling`.

    >>> import stability as st
    >>> st.theory.born_dead((-1, 1), "he").expression
    1 - 2**(1 - depth)
    >>> st.theory.born_dead(1.0).value(depth=[1, 10]).round(4).tolist()
    [0.5, 0.999]
    """
    name, laws = _laws(init)
    sure = sympy.Integer(1)
    held = "weight and bias symmetric about 0: both sides of the kink are equally likely whatever the state"
    if not isinstance(interval, Sequence) and np.ndim(interval) == 0:
        point = check_number("interval", interval)
        where, alive = f"{point:g}", 2**-DEPTH
        derivation = "every step passes the signal with probability 1/2, whatever the state"
        held += ", if it is not at a kink"
        if point == 0 and laws.unbiased:
            return _of_depth(f"at 0, {name}", sure, "no biases", "the state is 0 and stays at the kink")
    else:
        low, high = check_interval(interval)  # type: ignore[arg-type]
        if not laws.unbiased:
            raise ValueError(
                f"init {name!r} has biases: on an interval no closed form is known beyond one step, born_dead_step; "
                "born_dead_by_sampling gives the probability with its standard error"
            )
        where, held = f"on ({low:g}, {high:g})", "weights symmetric about 0 and never 0, no biases"
        if low < 0 < high:
            alive = 2 ** (1 - DEPTH)
            derivation = "the first step passes one side on, (0, |w| high) or (0, |w| low); each later one with 1/2"
        else:
            alive, derivation = 2**-DEPTH, "all states have one sign, and each step passes them with probability 1/2"
    return _of_depth(f"{where}, {name}", sure - alive, held, derivation)


def _of_depth(where: str, expression: sympy.Expr, held: str, derivation: str) -> ClosedForm:
    domain = {DEPTH: sympy.Interval(1, sympy.oo)}
    name = f"probability that plain_relu is dead {where}"
    return ClosedForm(name, expression, {DEPTH: 100.0}, held, derivation, domain)


@door
def born_dead_step(init: str | Init = "pytorch") -> ClosedForm:
    """Return the probability that one plain ReLU step is flat on the states from middle - radius to middle + radius.

    (G(high) + G(-low)) / 2 with G(u) = P(b <= -|w| u), a form of middle, radius and scale. With k = scale u / bias for
    uniform numbers, |w| < scale and |b| < bias, G is 1/2 - k/4 for |k| <= 1, 1/(4 k) beyond 1, and 1 - 1/(4 |k|)
    below -1; for normal ones 1/2 - arctan(k) / pi; without biases 1 for u <= 0, else 0.

    >>> import stability as st
    >>> st.theory.born_dead_step().value(middle=0.0, radius=[0.0, 1.0, 3.0]).round(4).tolist()
    [0.5, 0.25, 0.0833]
    """
    name, laws = _laws(init)
    low, high = MIDDLE - RADIUS, MIDDLE + RADIUS
    expression = (_below(laws, high, name) + _below(laws, -low, name)) / 2
    return ClosedForm(
        f"probability that a plain_relu step is flat on an interval, {name}",
        expression,
        {MIDDLE: 0.0, RADIUS: 1.0, SCALE: 1.0},
        "weight and bias symmetric about 0 and independent",
        "flat if w > 0 and w high + b <= 0, or w < 0 and w low + b <= 0",
        {RADIUS: sympy.Interval(0, sympy.oo), SCALE: _ABOVE_0},
    )


def _below(laws: Laws, end: sympy.Expr, name: str) -> sympy.Expr:
    """Return G(u) = P(b <= -|w| u)."""
    families = (laws.weight.family, laws.bias.family)
    if laws.unbiased:
        return sympy.Piecewise((1, end <= 0), (0, True))
    if laws.kinked or families not in (("uniform", "uniform"), ("normal", "normal")):
        raise ValueError(
            f"init {name!r} draws weights from {families[0]!r} and "
            + ("kinks for biases" if laws.kinked else f"biases from {families[1]!r}")
            + ": a form is known for both uniform, both normal, and no biases"
        )
    k = end * laws.weight.size / laws.bias.size
    if families[0] == "normal":
        return sympy.Rational(1, 2) - sympy.atan(k) / sympy.pi
    far = 1 / (4 * sympy.Max(sympy.Abs(k), 1))
    return sympy.Piecewise((far, k > 1), (1 - far, k < -1), (sympy.Rational(1, 2) - k / 4, True))


@door
def born_dead_by_sampling(
    depth: int, interval: Sequence[float], init: str | Init = "pytorch", samples: int = 10_000, root: int = 0
) -> Estimate:
    """Return the probability that a plain ReLU chain with biases is dead on an interval, numerically.

    No closed form is known: the image after a step is a random interval. Images are sampled given that all steps so
    far passed them on, and the probability that the next step does is not sampled but `born_dead_step`, so that an
    estimate of 2^-depth needs no more samples than one of 1/2: the mean over the samples of the products of
    1 - born_dead_step. It is at most 1 - 2^-depth, that of one point.

    Args:
        depth: the number of steps.
        interval: (low, high).
        init: a name or an `Init` whose weights and biases are both uniform or both normal.
        samples: how many images.
        root: of the random numbers.

    >>> import stability as st
    >>> found = st.theory.born_dead_by_sampling(2, (-3, 3))
    >>> round(found.value, 2), found.standard_error < 0.003
    (0.41, True)
    """
    depth, samples = check_integer("depth", depth, 1), check_integer("samples", samples, 2)
    low, high = check_interval(interval)
    _, laws = _laws(init)
    flat = born_dead_step(init).evaluate
    if laws.unbiased:
        raise ValueError("without biases the probability has a closed form: take born_dead")
    random = np.random.default_rng([check_integer("root", root, 0), 3])
    sizes = [float(law.size.subs(SCALE, 1)) for law in (laws.weight, laws.bias)]
    uniform = laws.weight.family == "uniform"

    def draw(count: int) -> Array:
        numbers = random.uniform(-1, 1, (2, count)) if uniform else random.standard_normal((2, count))
        return np.asarray(numbers * np.array(sizes)[:, None])

    ends, log_alive = np.tile([[low], [high]], samples).astype(float), np.zeros(samples)
    for step in range(depth):
        passes = 1 - np.asarray(flat(ends.mean(axis=0), (ends[1] - ends[0]) / 2, 1.0), float)
        log_alive += np.log(passes)
        if step < depth - 1:
            ends = _image(ends, draw)
    alive = np.exp(log_alive)
    return Estimate(float(1 - alive.mean()), float(alive.std(ddof=1) / math.sqrt(samples)))


def _image(ends: Array, draw: Callable[[int], Array]) -> Array:
    """Return the images of intervals (2, samples) under steps that pass them on, by rejection."""
    image, left = np.empty_like(ends), np.arange(ends.shape[1])
    while len(left):
        weight, bias = draw(len(left))
        found = np.sort(weight * ends[:, left] + bias, axis=0)
        passed = found[1] > 0
        image[:, left[passed]] = np.maximum(found[:, passed], 0)
        left = left[~passed]
    return image
