"""Do the closed forms of the library agree with simulation, and do they fail where their assumptions do?

Question. `st.theory` says how log|J| of a chain grows and spreads, with which probability it is dead, how many folds it
is expected to have, which scale is critical, how vectors are stretched at width n. Is all of it what chains do? And
where an assumption does not hold, is that seen?

Method. Every form is held against a sample of its own: members of `st.Chain` that no other form sees, at five roots, so
that all z = (measured - predicted) / standard error are independent. If the forms are right they are normal of mean 0
and variance 1, and the sum of their squares at a root follows the chi-square law. Exponents are means of log|J| / depth
over members, variances and moments are over steps. A moment is averaged only if its relative variance is below 1: else
a few members carry it, and an average misses them; then it is the logarithm whose mean is held against theory.
Exponents of both signs and zero are among the cases. Then each of some assumptions is broken on purpose.

Reading. Top left: z of every form, five roots each, in the colour of the architecture (green: width n); grey band:
|z| < 3. Top right: all of them, and the normal density. Bottom: z where an assumption is broken, on a logarithmic scale
beyond 3: crosses outside the band, as they should be.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from tqdm.auto import tqdm

import stability as st

Array = NDArray[np.float64]
theory = st.theory
ROOTS, DEPTH, MEMBERS = 5, 250, 800
BAND = 3.0
ZERO = st.Distribution("constant", 0.0)
TANH = st.Architecture("tanh", activation="tanh")
NORMAL = st.Init(
    "normal", "", weight=st.Distribution("normal", 1.5, width_power=-0.5), bias=st.Distribution("normal", 0.3)
)


@dataclass(frozen=True)
class Settings:
    """Do closed forms agree with simulation, and fail where their assumptions do?"""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A quarter of the members: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The first of the five roots."""


@dataclass(frozen=True)
class Case:
    """A number that theory predicts, and how it is sampled.

    Attributes:
        kind: the group that it is drawn in.
        name: what is predicted, as one would call it.
        architecture: which colour it has.
        predicted: the number.
        draw: maps members and a root to a sample whose mean is predicted.
        members: how many are drawn.
        form: the closed form that is held against the sample, None for a plain function.
        stated: the closed form that it stands for, if that is another one.
        numbers: what the form is asked for.
        function: the plain function.
        broken: the assumption that does not hold, if one does not.
    """

    kind: str
    name: str
    architecture: str
    predicted: float
    draw: Callable[[range, int], Array]
    members: int = MEMBERS
    form: theory.ClosedForm | None = None
    stated: theory.ClosedForm | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    function: Any = None
    broken: str = ""


def scaled(architecture: str, init: str | st.Init, depth: int, members: range, root: int, scale: float = 1.0) -> Array:
    """Return the steps (seeds, depth, 6) of a step table, with a factor on the outer or the only weights."""
    table = st.Chain(architecture, depth, seeds=members, init=init, root=root).table()[:, :depth]
    table[..., 3 if st.ARCHITECTURES[architecture].maps == 2 else 1] *= scale
    return table


def derivatives(table: Array, x: float, follow: bool = True) -> Array:
    """Return the derivative of every step, (depth, seeds), along the states from x; or of every step at x."""
    h, found = np.full(len(table), x), []
    for skip, weight, bias, outer_weight, outer_bias, slope in table.transpose(1, 2, 0):
        z = weight * h + bias
        side = np.where(z > 0, 1.0, slope)
        found.append(skip + outer_weight * weight * side)
        if follow:
            h = skip * h + outer_weight * side * z + outer_bias
    return np.array(found)


def logs(g: Array) -> Array:
    """log|J| a step, (seeds,)."""
    return np.asarray(np.log(np.abs(g)).mean(axis=0))


def start(sign: int | None) -> float:
    """A state far from the kinks where its sign decides."""
    return 1.0 if sign is None else sign * 1e9


def call(function: Callable[..., Any], *arguments: object, **named: object) -> str:
    """Write a call as one would type it."""
    shown = [*(f'"{a}"' if isinstance(a, str) else str(a) for a in arguments)]
    shown += [f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in named.items() if v is not None]
    return f"{function.__name__}({', '.join(shown)})"


def of_form(kind: str, architecture: str, form: theory.ClosedForm, name: str, draw: Any, **more: Any) -> Case:
    """Return the case of a closed form; `more` are its numbers, the members, what is broken and what is stated."""
    options = {k: more.pop(k) for k in ("members", "broken", "stated") if k in more}
    shown = ", ".join(f"{k} {v:.4g}" for k, v in more.items() if v != 1 or k != "scale")
    predicted = float(form.value(**more))
    return Case(
        kind,
        name + (f" at {shown}" if shown else ""),
        architecture,
        predicted,
        draw,
        form=form,
        numbers=more,
        **options,
    )


def mean_logs(architecture: str, init: str | st.Init, x: float, scale: float, members: range, root: int) -> Array:
    """log|J| / depth of members."""
    return logs(derivatives(scaled(architecture, init, DEPTH, members, root, scale), x))


def deviations(architecture: str, init: str, x: float, scale: float, mean: float, members: range, root: int) -> Array:
    """Squared deviations of log|g| from its mean, over steps."""
    g = derivatives(scaled(architecture, init, DEPTH, members, root, scale), x)
    return np.asarray((np.log(np.abs(g)) - mean) ** 2)


def powers(architecture: str, init: str, x: float, order: int, members: range, root: int) -> Array:
    """g^order, over steps."""
    return derivatives(scaled(architecture, init, DEPTH, members, root), x) ** order


def alive(members: range, root: int) -> Array:
    """log|g| of the plain ReLU steps that pass the signal."""
    g = derivatives(scaled("plain_relu", "he", DEPTH, members, root), 1.0, follow=False)
    return np.asarray(np.log(np.abs(g[g != 0])))


def dead_at(x: float, init: str, depth: int, members: range, root: int) -> Array:
    """Whether members are constants at a point, 0 or 1."""
    return np.asarray((derivatives(scaled("plain_relu", init, depth, members, root), x) == 0).any(axis=0), float)


def dead_on(low: float, high: float, init: str | st.Init, depth: int, members: range, root: int) -> Array:
    """Whether members are constants on an interval, whose image is followed end by end."""
    ends = np.tile([[low], [high]], len(members))
    for weight, bias in scaled("plain_relu", init, depth, members, root)[:, :, 1:3].transpose(1, 2, 0):
        ends = np.sort(np.maximum(weight * ends + bias, 0), axis=0)
    return np.asarray(ends[1] == ends[0], float)


def counted(
    architecture: str,
    init: str,
    kind: str,
    scale: float,
    ends: tuple[float, float],
    depth: int,
    members: range,
    root: int,
) -> Array:
    """Folds, turns or regions of members."""
    count = st.count(scaled(architecture, init, depth, members, root, scale), ends)
    return np.asarray(getattr(count, kind), float)


def rates(architecture: str, init: str, members: range, root: int) -> Array:
    """The rate a layer of the log gradient norms of members."""
    chain, x = st.Chain(architecture, 200, seeds=members, init=init, root=root), torch.ones(1, dtype=torch.float64)
    found = st.gradient_norms(chain, x, lambda output: output.square().mean(dim=1))["input"].numpy()
    return np.asarray((found[0] - found[-1]) / (len(found) - 1))


def scaled_down(architecture: str, init: str, scale: float, members: range, root: int) -> Array:
    """log|J| of members whose weights are divided by the root of the depth."""
    deep = 2 * DEPTH
    return deep * logs(derivatives(scaled(architecture, init, deep, members, root, scale / math.sqrt(deep)), 1.0))


def exponents() -> Iterator[Case]:
    """E log|g| of all architectures: below 0, above 0 and 0; and at the critical scale."""
    listed: list[tuple[str, str, int | None, float]] = [
        ("plain_prelu", "pytorch", None, 1.0),
        ("plain_prelu", "uniform", None, 3.5),
        ("plain_prelu", "he", None, 1.0),
        ("plain_prelu", "orthogonal", None, 1.0),
        ("residual1_relu", "pytorch", 1, 1.0),
        ("residual1_relu", "uniform", -1, 1.0),
        ("residual1_relu", "he", 1, 1.0),
        ("residual1_relu", "orthogonal", -1, 0.6),
        ("residual2_relu", "pytorch", None, 1.0),
        ("residual2_relu", "uniform", None, 3.5),
        ("residual2_relu", "uniform", None, 8.0),
        ("residual2_relu", "he", None, 1.0),
        ("residual2_relu", "orthogonal", None, 1.0),
        ("residual2_prelu", "pytorch", None, 1.0),
        ("residual2_prelu", "uniform", None, 8.0),
        ("residual2_prelu", "he", None, 1.0),
        ("residual2_prelu", "scaled", None, 10.0),
        ("plain_prelu", "uniform", None, 8.0),
    ]
    for architecture, init, sign, scale in listed:
        form, depth = (
            theory.lyapunov_exponent(architecture, init, sign=sign),
            {"depth": DEPTH} if init == "scaled" else {},
        )
        sample = partial(mean_logs, architecture, init, start(sign), scale)
        name = call(theory.lyapunov_exponent, architecture, init, sign=sign)
        yield of_form("exponent", architecture, form, name, sample, scale=scale, **depth)
    form = theory.lyapunov_exponent("plain_relu", "he", alive=True)
    yield of_form("exponent", "plain_relu", form, call(theory.lyapunov_exponent, "plain_relu", "he", alive=True), alive)
    for architecture, init in (
        ("plain_prelu", "pytorch"),
        ("plain_prelu", "he"),
        ("residual2_relu", "pytorch"),
        ("residual2_prelu", "he"),
    ):
        found = theory.critical_scale(architecture, init)
        scale = found.scale
        sample = partial(mean_logs, architecture, init, 1.0, scale)
        form, name = theory.lyapunov_exponent(architecture, init), call(theory.critical_scale, architecture, init)
        yield of_form("critical scale", architecture, form, name, sample, scale=scale, stated=found.form)


def spreads() -> Iterator[Case]:
    """Var log|g|."""
    listed: list[tuple[str, str, int | None, float]] = [
        ("plain_prelu", "pytorch", None, 1.0),
        ("plain_prelu", "he", None, 1.0),
        ("residual1_relu", "uniform", 1, 1.0),
        ("residual1_relu", "he", 1, 1.0),
        ("residual2_relu", "pytorch", None, 1.0),
        ("residual2_relu", "he", None, 1.0),
        ("residual2_prelu", "pytorch", None, 3.5),
        ("residual2_prelu", "uniform", None, 1.0),
    ]
    for architecture, init, sign, scale in listed:
        form = theory.log_variance(architecture, init, sign=sign)
        mean = theory.lyapunov_exponent(architecture, init, sign=sign).value(scale=scale)
        sample = partial(deviations, architecture, init, start(sign), scale, mean)
        name = call(theory.log_variance, architecture, init, sign=sign)
        yield of_form("spread", architecture, form, name, sample, scale=scale)


def moments() -> Iterator[Case]:
    """E g^k by averages where the relative variance is below 1, else E log|g|."""
    listed: list[tuple[str, str, int | None, int]] = [
        ("plain_prelu", "uniform", None, 2),
        ("plain_prelu", "orthogonal", None, 2),
        ("plain_prelu", "he", None, 4),
        ("residual1_relu", "uniform", 1, 1),
        ("residual1_relu", "uniform", -1, 2),
        ("residual1_relu", "pytorch", 1, 4),
        ("residual2_relu", "pytorch", None, 1),
        ("residual2_relu", "orthogonal", None, 2),
        ("residual2_relu", "he", None, 2),
        ("residual2_prelu", "pytorch", None, 2),
        ("residual2_prelu", "uniform", None, 4),
        ("residual2_prelu", "he", None, 4),
    ]
    for architecture, init, sign, order in listed:
        form = theory.moment(architecture, init, order, sign=sign)
        relative = theory.moment(architecture, init, 2 * order, sign=sign).value() / form.value() ** 2 - 1
        name = call(theory.moment, architecture, init, order, sign=sign)
        if relative < 1:
            sample = partial(powers, architecture, init, start(sign), order)
            yield of_form("moment", architecture, form, name, sample)
        else:
            exponent = theory.lyapunov_exponent(architecture, init, sign=sign)
            sample = partial(mean_logs, architecture, init, start(sign), 1.0)
            yield of_form("moment by logs", architecture, exponent, f"{name}, by E log|g|", sample, stated=form)


def deaths() -> Iterator[Case]:
    """The probability that a plain ReLU chain is dead, at a point and on intervals."""
    for x, init, depth in ((1.0, "pytorch", 2), (-0.4, "he", 3)):
        form, name, sample = (
            theory.born_dead(x, init),
            call(theory.born_dead, x, init),
            partial(dead_at, x, init, depth),
        )
        yield of_form("death", "plain_relu", form, name, sample, depth=depth, members=2000)
    for ends, init, depth in (((-1.0, 2.0), "he", 3), ((1.0, 2.0), "uniform", 2), ((-3.0, 3.0), "orthogonal", 4)):
        form, name = theory.born_dead(ends, init), call(theory.born_dead, ends, init)
        sample = partial(dead_on, *ends, init, depth)
        yield of_form("death", "plain_relu", form, name, sample, depth=depth, members=2000)
    both = st.Init("both_normal", "", weight=st.Distribution("normal", 0.8), bias=st.Distribution("normal", 0.5))
    for law, middle, radius in ((st.INITS["pytorch"], 0.0, 1.0), (both, 0.5, 0.4)):
        form, name = theory.born_dead_step(law), call(theory.born_dead_step, law.name)
        sample = partial(dead_on, middle - radius, middle + radius, law, 1)
        yield of_form("death", "plain_relu", form, name, sample, middle=middle, radius=radius, members=2000)


def counts() -> Iterator[Case]:
    """Expected folds, turns and regions, where they vary."""
    whole = (-math.inf, math.inf)
    listed: list[tuple[str, str, str, float, tuple[float, float], int]] = [
        ("plain_prelu", "uniform", "folds", 1.0, (-3.0, 3.0), 4),
        ("plain_relu", "he", "folds", 1.0, (-3.0, 3.0), 3),
        ("residual1_relu", "uniform", "turns", 1.6, (-3.0, 3.0), 4),
        ("residual1_relu", "he", "turns", 1.0, (-3.0, 3.0), 3),
        ("residual2_relu", "pytorch", "folds", 3.0, whole, 6),
        ("residual2_prelu", "pytorch", "folds", 8.0, whole, 6),
        ("residual2_prelu", "pytorch", "turns", 3.0, whole, 6),
        ("residual2_prelu", "pytorch", "regions", 5.0, whole, 6),
    ]
    for architecture, init, kind, scale, ends, depth in listed:
        form = getattr(theory.expected_counts(architecture, init, ends), kind)
        sample = partial(counted, architecture, init, kind, scale, ends, depth)
        name = call(theory.expected_counts, architecture, init) + f".{kind}"
        yield of_form("count", architecture, form, name, sample, depth=depth, scale=scale, members=1200)


def by_depth() -> Iterator[Case]:
    """Rates of gradient norms, and what |J| tends to under a scale that falls with the depth."""
    listed: list[tuple[str, str, int | None]] = [
        ("plain_prelu", "pytorch", None),
        ("residual1_relu", "uniform", 1),
        ("residual2_prelu", "pytorch", None),
    ]
    for architecture, init, sign in listed:
        form, name = (
            theory.gradient_rate(architecture, init, sign=sign),
            call(theory.gradient_rate, architecture, init, sign=sign),
        )
        yield of_form("gradient rate", architecture, form, name, partial(rates, architecture, init))
    # Weights of light tails: the next order, E q^4 / (4 depth), is then far below the standard error.
    for architecture, init, what in (
        ("residual2_relu", "pytorch", "mean"),
        ("residual2_prelu", "orthogonal", "mean"),
        ("residual2_prelu", "pytorch", "variance"),
        ("residual2_relu", "orthogonal", "variance"),
    ):
        limit = theory.scaled_limit(architecture, init, 0.5)
        mean = limit.mean.value(scale=1.5)
        total = partial(scaled_down, architecture, init, 1.5)
        sample = total if what == "mean" else lambda m, r, total=total, mean=mean: (total(m, r) - mean) ** 2
        name = call(theory.scaled_limit, architecture, init, power=0.5) + f".{what}"
        yield of_form("limit", architecture, getattr(limit, what), name, sample, scale=1.5)


def wide(members: range, root: int, width: int, depth: int) -> tuple[Array, Array]:
    """Return |J v|^2 of ReLU networks as He et al. draw them, (seeds,), and their weights (seeds, depth, n, n)."""
    weights = st.Chain("plain_relu", depth, seeds=members, width=width, init="he", root=root).weight.detach().numpy()
    h, v = np.tile(np.linspace(-1, 1, width), (len(weights), 1)), np.tile(np.eye(width)[0], (len(weights), 1))
    for layer in weights.transpose(1, 0, 2, 3):
        z, v = (np.einsum("sij,sj->si", layer, vector) for vector in (h, v))
        h, v = np.maximum(z, 0), v * (z > 0)
    return (v**2).sum(axis=1), weights


def tanh_layer(members: range, root: int, width: int = 16, depth: int = 1) -> Array:
    """Return the pre-activations, (seeds, 2, n), of two inputs of mean square 1 and correlation 0.6."""
    chain = st.Chain(TANH, depth, seeds=members, width=width, init=NORMAL, root=root)
    x = np.ones((2, width))
    x[1, : width // 5] = -1
    h = np.tile(x, (chain.seeds, 1, 1))
    for layer in range(depth):
        weight, bias = chain.weight[:, layer].detach().numpy(), chain.bias[:, layer].detach().numpy()
        z = h @ weight.transpose(0, 2, 1) + bias[:, None]
        h = np.tanh(z)
    return z


def width_n() -> Iterator[Case]:
    """What holds exactly at every width."""

    def case(function: Any, shown: str, predicted: float, draw: Callable[[range, int], Array], members: int) -> Case:
        return Case("width n", shown, "width n", float(predicted), draw, members, function=function)

    widths = [12] * 8
    mean, variance = theory.log_squared_norm(widths)

    def stretch(members: range, root: int) -> Array:
        found = wide(members, root, 12, 8)[0]
        return np.log(found[found > 0])

    name = "log_squared_norm([12] * 8)"
    yield case(theory.log_squared_norm, f"{name}, mean", mean, stretch, 1000)
    yield case(theory.log_squared_norm, f"{name}, variance", variance, lambda m, r: (stretch(m, r) - mean) ** 2, 1000)
    yield case(
        theory.squared_norm_moment,
        "squared_norm_moment(1, [20] * 3)",
        theory.squared_norm_moment(1, [20] * 3),
        lambda m, r: wide(m, r, 20, 3)[0],
        1000,
    )
    yield case(
        theory.survival_probability,
        "survival_probability([2] * 3)",
        theory.survival_probability([2] * 3),
        lambda m, r: np.asarray(wide(m, r, 2, 3)[0] > 0, dtype=np.float64),
        2000,
    )
    yield case(
        theory.gaussian_exponents,
        "gaussian_exponents(8, scale=0.5), their sum",
        theory.gaussian_exponents(8, scale=0.5).sum(),  # of variance 2 / 8
        lambda m, r: np.linalg.slogdet(wide(m, r, 8, 10)[1])[1],
        400,
    )
    q, c = 1.5**2 + 0.3**2, (1.5**2 * (16 - 6) / 16 + 0.3**2) / (1.5**2 + 0.3**2)
    yield case(
        theory.variance_map,
        "variance_map(2.34, 1.5, 0.3), tanh",
        theory.variance_map(q, 1.5, 0.3, "tanh"),
        lambda m, r: 1.5**2 * np.tanh(tanh_layer(m, r)[:, 0]) ** 2 + 0.3**2,
        1000,
    )
    yield case(
        theory.activation_kernel,
        f"activation_kernel({c:.4g}, 2.34), tanh",
        theory.activation_kernel(c, q, activation="tanh"),
        lambda m, r: np.tanh(tanh_layer(m, r)).prod(axis=1),
        1000,
    )
    yield case(
        theory.derivative_kernel,
        f"derivative_kernel({c:.4g}, 2.34), tanh",
        theory.derivative_kernel(c, q, activation="tanh"),
        lambda m, r: (np.cosh(tanh_layer(m, r)) ** -2.0).prod(axis=1),
        1000,
    )

    def residual(members: range, root: int) -> Array:
        chain, x = (
            st.Chain("residual2_relu", 2, seeds=members, width=16, init="he", root=root),
            torch.ones(1, 16, dtype=torch.float64),
        )
        with torch.no_grad():
            return np.asarray(chain(x).square().mean(dim=(1, 2)).numpy())

    growth = theory.residual_growth_factor(math.sqrt(2), 1.0)
    shown = "residual_growth_factor(sqrt(2), 1)^2"
    yield case(theory.residual_growth_factor, shown, growth**2, residual, 1000)


def near(members: range, root: int) -> Array:
    """log|J| / 20 of 20 steps from a state that has not yet grown away from the kinks."""
    return logs(derivatives(scaled("residual1_relu", "pytorch", 20, members, root), -1.0))


def shared(mean: float, members: range, root: int) -> Array:
    """Squared deviations of log|J|, a step, of chains of which ten steps each have the same weights."""
    table = np.repeat(scaled("residual2_prelu", "pytorch", DEPTH // 10, members, root), 10, axis=1)
    return DEPTH * (logs(derivatives(table, 1.0)) - mean) ** 2


def averaged(members: range, root: int) -> Array:
    """J^2 of 40 steps."""
    return np.asarray(derivatives(scaled("residual2_relu", "he", 40, members, root), 1.0).prod(axis=0) ** 2)


def narrow(members: range, root: int) -> Array:
    """The mean square of the pre-activations of the fifth layer of tanh networks of width 2."""
    return np.asarray((tanh_layer(members, root, width=2, depth=5)[:, 0] ** 2).mean(axis=1))


def broken() -> Iterator[Case]:
    """Forms held against samples that break an assumption of theirs."""
    kind = "broken on purpose"

    def case(architecture: str, form: theory.ClosedForm, why: str, draw: Any, **more: Any) -> Case:
        return of_form(kind, architecture, form, form.name, draw, broken=why, **more)

    lopsided = dataclasses.replace(st.INITS["pytorch"], name="lopsided", bias=st.Distribution("constant", 0.5))
    pushed = partial(mean_logs, "plain_prelu", lopsided, 1.0, 1.5)
    exponent = theory.lyapunov_exponent("plain_prelu")
    yield case("plain_prelu", exponent, "exponent: biases not symmetric, all 0.5", pushed, scale=1.5)
    exponent = theory.lyapunov_exponent("residual1_relu", sign=1)
    yield case("residual1_relu", exponent, "exponent: the state is not far from the kink", near)
    sample = partial(dead_on, -3.0, 3.0, "pytorch", 2)
    why = "death at a point: an interval instead"
    yield case("plain_relu", theory.born_dead(1.0), why, sample, depth=2, members=2000)
    sample = partial(dead_on, -0.2, 0.2, "pytorch", 2)
    why = "death on an interval: biases where the form has none"
    yield case("plain_relu", theory.born_dead((-0.2, 0.2), "uniform"), why, sample, depth=2, members=2000)
    sample = partial(shared, theory.lyapunov_exponent("residual2_prelu").value())
    why = "spread of log|J|: ten steps share their weights"
    yield case("residual2_prelu", theory.log_variance("residual2_prelu"), why, sample)
    square = theory.moment("residual2_relu", "he").value() ** 40
    why = "moment of 40 steps: an average of heavy tails"
    yield Case(kind, "E g^2 to the power 40", "residual2_relu", square, averaged, broken=why)
    variance = 1.5**2 + 0.3**2
    for _ in range(4):
        variance = float(theory.variance_map(variance, 1.5, 0.3, "tanh"))
    why = "variance after five tanh layers: width 2, not infinite"
    yield Case(kind, "variance_map, five layers", "width n", variance, narrow, 8000, broken=why)


def all_cases() -> list[Case]:
    """Return every case, the broken ones last."""
    groups = (exponents, spreads, moments, deaths, counts, by_depth, width_n, broken)
    cases = [case for group in groups for case in group()]
    kinds = list(dict.fromkeys(case.kind for case in cases))
    return sorted(cases, key=lambda case: kinds.index(case.kind))


def agreement(case: Case, sample: Array) -> theory.Agreement:
    """Hold a case against its sample."""
    if case.form is not None:
        return case.form.check(sample, **case.numbers)
    flat = sample.reshape(-1)
    return theory.Agreement(case.predicted, float(flat.mean()), float(flat.std(ddof=1) / math.sqrt(flat.size)))


def simulate(cases: list[Case], roots: list[int], quick: bool) -> xarray.Dataset:
    """Draw every case at every root, from members that no other case has."""
    found = {k: np.empty((len(cases), len(roots))) for k in ("measured", "standard_error", "z")}
    first = 0
    for place, case in enumerate(tqdm(cases, desc="cases", leave=False)):
        count = case.members // (4 if quick else 1)
        for column, root in enumerate(roots):
            one = agreement(case, case.draw(range(first, first + count), root))
            found["measured"][place, column] = one.measured
            found["standard_error"][place, column] = one.standard_error
            found["z"][place, column] = one.z
        first += count
    of_case = {
        "kind": [case.kind for case in cases],
        "architecture": [case.architecture for case in cases],
        "broken": [case.broken for case in cases],
        "predicted": [case.predicted for case in cases],
    }
    return xarray.Dataset(
        {k: (("case", "root"), v) for k, v in found.items()} | {k: ("case", v) for k, v in of_case.items()},
        {"case": [case.name for case in cases], "root": roots},
    )


def fits(data: xarray.Dataset) -> xarray.Dataset:
    """Return the sum of squares of z at each root over the cases that should agree, and over all roots, with p."""
    z = data.z.where(data.broken == "", drop=True)
    squares = np.append((z**2).sum("case").values, float((z**2).sum()))
    freedom = np.append(np.full(z.root.size, z.case.size), z.size)
    names = [*(f"root {root}" for root in data.root.values), "all"]
    values = {"chi_square": squares, "freedom": freedom, "p": chi2.sf(squares, freedom)}
    return xarray.Dataset({k: ("over", v) for k, v in values.items()}, {"over": names})


def draw(data: xarray.Dataset) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    good, bad = (data.isel(case=np.flatnonzero(keep)) for keep in (data.broken == "", data.broken != ""))
    over = fits(data)
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(11, 7))
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.75, 1))
        ax, side = upper.subplots(1, 2, width_ratios=(4.6, 1))
        low = lower.subplots()
        kinds, place, ticks = list(dict.fromkeys(good.kind.values)), 0.0, []
        for number, kind in enumerate(kinds):
            part = good.isel(case=np.flatnonzero(good.kind == kind))
            for at in range(part.case.size):
                colour = st.plots.colour(str(part.architecture.values[at]))
                ax.plot(np.full(part.root.size, place + at), part.z[at], ".", color=colour, markersize=5, alpha=0.8)
            if number:
                ax.axvline(place - 1.5, color="#CCCCCC", linewidth=0.8)
            ticks.append(place + (part.case.size - 1) / 2)
            place += part.case.size + 2
        limit = max(4.4, 1.1 * float(abs(good.z).max()))
        ax.set_xticks(ticks, [kind.replace(" ", "\n", 1) for kind in kinds])
        ax.tick_params(axis="x", length=0)
        ax.grid(visible=False, axis="x")
        ax.set(xlim=(-1.5, place - 1.5), ylim=(-limit, limit), ylabel="z = (measured - predicted) / standard error")
        beyond = int((abs(good.z) > BAND).sum())
        ax.set_title(
            f"{good.case.size} forms at {good.root.size} roots: {beyond} of {good.z.size} beyond |z| = {BAND:g}, "
            f"expected {2 * norm.sf(BAND) * good.z.size:.1f}",
            loc="left",
        )
        edges = np.arange(-limit, limit + 0.4, 0.4)
        side.hist(good.z.values.ravel(), edges, density=True, orientation="horizontal", color="#9AA5B1")
        line = np.linspace(-limit, limit, 300)
        side.plot(norm.pdf(line), line, color="black", linewidth=1.2, label="normal")
        side.set(ylim=(-limit, limit), xlabel="density", xlim=(0, 0.56), yticklabels=[])
        side.set_title(
            f"$\\chi^2$ = {float(over.chi_square[-1]):.0f} of {int(over.freedom[-1])}, p = {float(over.p[-1]):.2f}"
        )
        side.legend(loc="upper right", handlelength=1.2)
        for at in range(bad.case.size):
            colour = st.plots.colour(str(bad.architecture.values[at]))
            low.plot(bad.z[at], np.full(bad.root.size, -at), "x", color=colour, markersize=6)
        low.set_yticks(-np.arange(bad.case.size), [str(why) for why in bad.broken.values])
        low.set_xscale("symlog", linthresh=BAND, linscale=0.5)
        left, right = (1.6 * max(float(one.max()), 3 * BAND) for one in (-bad.z, bad.z))
        sizes = (3, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)
        words = [str(size) if size < 1000 else f"$10^{len(str(size)) - 1}$" for size in sizes]
        low.set_xticks([*(-size for size in sizes), 0, *sizes], [*(f"-{word}" for word in words), "0", *words])
        low.minorticks_off()
        low.set(xlim=(-left, right), ylim=(-bad.case.size + 0.4, 0.6), xlabel="z, logarithmic beyond the band")
        low.set_title("An assumption broken on purpose: theory and simulation must part", loc="left")
        for one, band in ((ax, "axhspan"), (side, "axhspan"), (low, "axvspan")):
            getattr(one, band)(-BAND, BAND, color="#EEF1F4", zorder=-2)
        names = [*st.ARCHITECTURES, "width n"]
        handles = [
            plt.Line2D([], [], color=st.plots.colour(name), marker=".", linestyle="", label=name) for name in names
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names))
    return figure


def table(data: xarray.Dataset) -> None:
    """Print every case: predicted, measured and its error over all roots, z root by root."""
    print(f"{'':<18}{'':<74}{'predicted':>11}{'measured':>11}   z root by root")
    for at in range(data.case.size):
        one = data.isel(case=at)
        name = str(one.broken.values or one.case.values)
        zs = " ".join(f"{z:6.2f}" if abs(z) < 100 else f"{z:6.0f}" for z in one.z.values)
        both = f"{float(one.predicted):11.5g}{float(one.measured.mean()):11.5g}"
        print(f"{one.kind.values!s:<18}{name:<74}{both}   {zs}")


def findings(data: xarray.Dataset) -> list[str]:
    """Say in words and numbers what was found."""
    over = fits(data)
    good = data.isel(case=np.flatnonzero(data.broken == ""))
    bad = data.isel(case=np.flatnonzero(data.broken != ""))
    worst = good.isel(case=int(abs(good.z).max("root").values.argmax()))
    exponent = good.predicted[(good.kind == "exponent").values]
    critical = good.predicted[(good.kind == "critical scale").values]
    zero = int((abs(exponent) < 1e-12).sum() + (abs(critical) < 1e-12).sum())
    outside = abs(bad.z) > BAND
    unseen = [str(why) for why, seen in zip(bad.broken.values, outside.all("root").values, strict=True) if not seen]
    listed = "; ".join(
        f"{name}: {float(c):.1f} of {int(f)}, p = {float(p):.3f}"
        for name, c, f, p in zip(over.over.values, over.chi_square, over.freedom, over.p, strict=True)
    )
    # How likely chance alone makes the largest |z| of all as large as it is.
    chance = -math.expm1(good.z.size * math.log1p(-2 * norm.sf(float(abs(good.z).max()))))
    agree = min(float(over.p[-1]), chance) > 1e-3
    return [
        f"{good.case.size} closed forms at {good.root.size} roots {'agree' if agree else 'do NOT agree'} with "
        f"simulation: chi-square {listed}.",
        f"The largest |z| of {good.z.size} is {float(abs(worst.z).max()):.2f}, at {worst.case.values!s}: as much in "
        f"{100 * chance:.2g} % of such checks by chance. {int((abs(good.z) > BAND).sum())} are beyond {BAND:g}, and "
        f"{2 * norm.sf(BAND) * good.z.size:.1f} were to be expected.",
        f"Of the exponents {int((exponent < -1e-12).sum())} are below 0, {int((exponent > 1e-12).sum())} above it and "
        f"{zero} zero, the critical ones among those. "
        f"{int((good.kind == 'moment by logs').sum())} moments have a relative variance of 1 or more and are held by "
        "their logarithms.",
        f"Of {bad.case.size} broken assumptions {bad.case.size - len(unseen)} are seen at every root"
        + (f"; not so: {'; '.join(unseen)}" if unseen else "")
        + f". The least |z| among them is {float(abs(bad.z).min()):.1f}.",
    ]


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    data = simulate(all_cases(), [settings.seed + root for root in range(ROOTS)], settings.quick)
    table(data)
    print()
    for paragraph in findings(data):
        print(textwrap.fill(f"Found: {paragraph}", 120))
    stored = xarray.DataTree.from_dict({"cases": data, "fits": fits(data)})
    stored.attrs = {"depth": DEPTH, "members": MEMBERS}
    for path in st.plots.save(draw(data), stored, settings.out, "theory_check"):
        print(path)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
