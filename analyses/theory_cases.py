"""What `theory_check.py` holds against simulation and `theory_page.py` writes out: closed forms with their samples."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import Tensor

import stability as st

Array = NDArray[np.float64]
Sample = Callable[["Draw"], Any]
theory = st.theory
DEPTH = 250
BROKEN = "broken on purpose"


@dataclass(frozen=True)
class Draw:
    """The chains that one form is held against at one root."""

    members: range
    root: int

    def chain(
        self, architecture: str | st.Architecture, init: str | st.Init, depth: int = DEPTH, scale: float = 1, width=1
    ) -> st.Chain:
        """Return them with a factor on the weights, on the outer ones where there are two maps."""
        made = st.Chain(architecture, depth, self.members, width, init, self.root).requires_grad_(False)
        (made.outer_weight if made.architecture.maps == 2 else made.weight).data *= scale
        return made

    def products(self, *chain: Any, x: float = 1.0, **options: Any) -> Array:
        """Return log|J| of every prefix at x, (depth, seeds)."""
        return log_products(self.chain(*chain, **options), x)

    def steps(self, *chain: Any, **options: Any) -> Array:
        """Return log|g| of every step, (depth, seeds)."""
        return np.diff(self.products(*chain, **options), axis=0, prepend=0)

    def growth(self, *chain: Any, **options: Any) -> Array:
        """Return log|J| / depth, (seeds,)."""
        products = self.products(*chain, **options)
        return products[-1] / len(products)


def log_products(chain: st.Chain, x: float = 1.0) -> Array:
    points = torch.tensor([x], dtype=torch.float64)
    return st.spectrum(chain, points, check=False, distances=False, progress=False).log_values[..., 0, 0].numpy()


def states(chain: st.Chain, x: Tensor) -> Tensor:
    """Return the states after the last step, without a read-out."""
    for step in chain.steps:
        x = step(x)
    return x


@dataclass(frozen=True)
class Case:
    """A number that theory predicts, and how it is sampled."""

    kind: str  # the group that it is drawn in
    architecture: str  # which sets its colour
    name: str  # the call that predicts it, or the assumption that is broken
    form: theory.ClosedForm
    sample: Sample  # maps chains to independent numbers whose mean is predicted
    numbers: dict[str, float] = field(default_factory=dict)  # that the form is asked for
    times: float = 1  # as many chains as by default
    stated: theory.ClosedForm | None = None  # what it stands for, if that is another form
    function: Any = None  # that predicts the number, where the form is but this number

    @property
    def label(self) -> str:
        """The name, with the numbers that are not as usual. No two cases have the same."""
        shown = ", ".join(f"{k} {v:.4g}" for k, v in self.numbers.items() if (k, v) != ("scale", 1))
        return self.name + (f" at {shown}" if shown and self.kind != BROKEN else "")


def ask(function: Callable[..., Any], *arguments: Any, part: str = "", **named: Any) -> tuple[str, Any]:
    """Return a call as one would type it, and what it returns, or a part of that."""

    def typed(value: Any) -> str:
        if isinstance(value, str):
            return f'"{value}"'
        return f"{value:.4g}" if isinstance(value, float) else getattr(value, "name", str(value))

    shown = [*map(typed, arguments), *(f"{k}={typed(v)}" for k, v in named.items() if v is not None)]
    text, found = f"{function.__name__}({', '.join(shown)})", function(*arguments, **named)
    return (f"{text}.{part}", getattr(found, part)) if part else (text, found)


def start(sign: int | None) -> float:
    """Return a state far from the kinks where its sign decides."""
    return 1.0 if sign is None else sign * 1e9


def exponent(name: str, init: str, scale: float = 1, sign: int | None = None) -> Case:
    asked, at = ask(theory.lyapunov_exponent, name, init, sign=sign), {"scale": scale, "x": start(sign)}
    numbers = {"scale": scale} | ({"depth": DEPTH} if init == "scaled" else {})
    return Case("exponent", name, *asked, lambda d: d.growth(name, init, **at), numbers)


def exponent_alive(name: str, init: str) -> Case:
    """Of the steps that pass the signal."""
    asked = ask(theory.lyapunov_exponent, name, init, alive=True)
    return Case("exponent", name, *asked, lambda d: (g := d.steps(name, init, 1))[np.isfinite(g)], times=50)


def critical(name: str, init: str) -> Case:
    words, found = ask(theory.critical_scale, name, init)
    case = exponent(name, init, found.scale)
    return dataclasses.replace(case, kind="critical scale", name=words, stated=found.form)


def spread(name: str, init: str, scale: float = 1, sign: int | None = None) -> Case:
    asked, at = ask(theory.log_variance, name, init, sign=sign), {"scale": scale, "x": start(sign)}
    mean = theory.lyapunov_exponent(name, init, sign=sign).value(scale=scale)
    return Case("spread", name, *asked, lambda d: (d.steps(name, init, **at) - mean) ** 2, {"scale": scale})


def moment(name: str, init: str, order: int, sign: int | None = None) -> Case:
    """By its average, or by the mean of the logarithm where a few chains carry that."""
    words, form = ask(theory.moment, name, init, order, sign=sign)
    if theory.moment(name, init, 2 * order, sign=sign).value() / form.value() ** 2 - 1 < 1:
        return Case("moment", name, words, form, lambda d: np.exp(order * d.steps(name, init, x=start(sign))))
    case = exponent(name, init, sign=sign)
    return dataclasses.replace(case, kind="moment by logs", name=f"{words}, by E log|g|", stated=form)


def dead(where: float | tuple[float, float], init: str | st.Init, depth: int) -> Sample:
    """Whether chains are constants about a point or on an interval. They are monotone, so its ends tell."""
    if isinstance(where, float):
        return lambda d: np.isinf(d.products("plain_relu", init, depth, x=where)[-1])
    x = torch.tensor(where, dtype=torch.float64)
    return lambda d: states(d.chain("plain_relu", init, depth), x).diff(dim=1) == 0


def death(name: str, init: str, where: float | tuple[float, float], depth: int) -> Case:
    asked = ask(theory.born_dead, where, init)
    return Case("death", name, *asked, dead(where, init, depth), {"depth": depth}, times=2.5)


def death_by_step(name: str, init: str | st.Init, middle: float, radius: float) -> Case:
    sample, numbers = dead((middle - radius, middle + radius), init, 1), {"middle": middle, "radius": radius}
    return Case("death", name, *ask(theory.born_dead_step, init), sample, numbers, times=2.5)


def count(name: str, init: str, part: str, scale: float, ends: tuple[float, float], depth: int) -> Case:
    asked, numbers = ask(theory.expected_counts, name, init, ends, part=part), {"depth": depth, "scale": scale}
    sample = lambda d: getattr(st.count(d.chain(name, init, depth, scale), ends), part)  # noqa: E731
    return Case("count", name, *asked, sample, numbers, times=1.5)


def gradient_rate(name: str, init: str, sign: int | None = None) -> Case:
    def sample(d: Draw) -> Tensor:
        chain, x = d.chain(name, init, 200).requires_grad_(), torch.ones(1, dtype=torch.float64)
        norms = st.gradient_norms(chain, x, lambda y: y.square().mean(dim=1))["input"]
        return (norms[0] - norms[-1]) / (len(norms) - 1)

    return Case("gradient rate", name, *ask(theory.gradient_rate, name, init, sign=sign), sample)


def limit(name: str, init: str, part: str) -> Case:
    """Of weights with light tails: the next order, E q^4 / (4 depth), is far below the standard error."""
    mean, depth = theory.scaled_limit(name, init, 0.5).mean.value(scale=1.5), 2 * DEPTH
    totals = lambda d: d.products(name, init, depth, 1.5 / math.sqrt(depth))[-1]  # noqa: E731
    sample = totals if part == "mean" else lambda d: (totals(d) - mean) ** 2
    return Case("limit", name, *ask(theory.scaled_limit, name, init, power=0.5, part=part), sample, {"scale": 1.5})


def wide(asked: tuple[str, Any], sample: Sample) -> Case:
    words, value = asked
    function = getattr(theory, words.partition("(")[0])
    return Case("width n", "width n", words, number(value), sample, times=1.25, function=function)


def number(value: float) -> theory.ClosedForm:
    return theory.ClosedForm("a number", sympy.Float(value, 17), {}, "", "")


def stretch(d: Draw, width: int, depth: int) -> Array:
    """Return |J v|^2 of ReLU networks as He et al. draw them, (seeds,)."""
    chain = d.chain("plain_relu", "he", depth, width=width)
    x, v = torch.linspace(-1, 1, width, dtype=torch.float64), torch.eye(width, dtype=torch.float64)[:1]
    return torch.func.jvp(lambda x: states(chain, x), (x[None],), (v,))[1].square().sum(dim=(1, 2)).numpy()


def log_stretch(d: Draw) -> Array:
    squares = stretch(d, 12, 8)
    return np.log(squares[squares > 0])


def tanh_states(d: Draw, width: int = 16, depth: int = 1) -> Array:
    """Return the states, (seeds, 2, n), of two inputs of mean square 1 and, at width 16, correlation 5 / 8."""
    x = torch.ones(2, width, dtype=torch.float64)
    x[1, : width // 5] = -1
    weight, bias = st.Distribution("normal", 1.5, width_power=-0.5), st.Distribution("normal", 0.3)
    init = st.Init("normal", "", weight=weight, bias=bias)
    return states(d.chain(st.Architecture("tanh", activation="tanh"), init, depth, width=width), x).numpy()


def of_width_n() -> list[Case]:
    q = 1.5**2 + 0.3**2
    c = (1.5**2 * 5 / 8 + 0.3**2) / q  # of the layer behind tanh_states
    mean, variance = theory.log_squared_norm([12] * 8)
    exponents = theory.gaussian_exponents(8, scale=0.5)  # of variance 2 / 8
    growth, ones = theory.residual_growth_factor(math.sqrt(2), 1.0), torch.ones(1, 16, dtype=torch.float64)
    return [
        wide(("log_squared_norm([12] * 8), mean", mean), log_stretch),
        wide(("log_squared_norm([12] * 8), variance", variance), lambda d: (log_stretch(d) - mean) ** 2),
        wide(ask(theory.squared_norm_moment, 1, [20] * 3), lambda d: stretch(d, 20, 3)),
        wide(ask(theory.survival_probability, [2] * 3), lambda d: stretch(d, 2, 3) > 0),
        wide(
            ("gaussian_exponents(8, scale=0.5), their sum", exponents.sum()),
            lambda d: torch.linalg.slogdet(d.chain("plain_relu", "he", 10, width=8).weight)[1],
        ),
        wide(ask(theory.variance_map, q, 1.5, 0.3, "tanh"), lambda d: 1.5**2 * tanh_states(d)[:, 0] ** 2 + 0.3**2),
        wide(ask(theory.activation_kernel, c, q, activation="tanh"), lambda d: tanh_states(d).prod(axis=1)),
        wide(ask(theory.derivative_kernel, c, q, activation="tanh"), lambda d: (1 - tanh_states(d) ** 2).prod(axis=1)),
        wide(
            ("residual_growth_factor(sqrt(2), 1)^2", growth**2),
            lambda d: states(d.chain("residual2_relu", "he", 2, width=16), ones).square().mean(dim=(1, 2)),
        ),
    ]


def of_residual_streams() -> list[Case]:
    normal, zero = st.Distribution("normal"), st.Distribution("constant", 0.0)
    init = st.Init("gaussian", "", normal, zero, normal, zero)
    half = st.Architecture("residual2_relu_half", skip=1, maps=2, branch_power=-0.5)
    plane = torch.eye(3, dtype=torch.float64)[:1]

    def drift(width: int, strength: float) -> Sample:
        scale = math.sqrt(2) * strength / width  # the product of both standard deviations
        unit, point = torch.eye(width, dtype=torch.float64)[0], torch.linspace(-1, 1, width, dtype=torch.float64)

        def sample(d: Draw) -> Array:
            chain = d.chain("residual2_relu", init, 1, scale=scale, width=width)
            inner, outer = (value.reshape(-1, width, width) for value in (chain.weight, chain.outer_weight))
            moved = unit + (outer @ ((inner @ unit) * (inner @ point > 0))[..., None])[..., 0]
            return moved.norm(dim=1).log().numpy()

        return sample

    def stream(d: Draw) -> Array:
        return states(d.chain(half, init, 8, scale=0.3, width=3), plane).square().sum(dim=(1, 2)).numpy()

    def increasing(d: Draw) -> Array:
        table = d.chain(half, init, 9).table()
        return (1 + table[..., 1] * table[..., 3] > 0).all(axis=1)

    def paths(d: Draw) -> Array:
        steps = 0.4 * d.chain("plain_relu", init, 6, width=4).weight
        found = [torch.eye(4, dtype=torch.float64)[0].expand(len(steps), 4)] + [torch.zeros(len(steps), 4).double()] * 6
        for a in steps.unbind(1):
            found = [found[0], *(f + (a @ g[..., None])[..., 0] for g, f in itertools.pairwise(found))]
        return (found[2].square().sum(dim=1) / (1 + 0.64) ** 6).numpy()

    kind, rms = "residual stream", theory.residual_rms()
    numbers = {"strength": 0.3 * 3 / math.sqrt(2), "depth": 8, "power": -0.5}
    of_path = {"strength": 0.8, "depth": 6, "length": 2}
    return [
        *(
            Case(kind, name, *ask(theory.residual_drift, n), drift(n, 0.8), {"strength": 0.8}, 5)
            for n, name in ((1, "residual2_relu"), (2, "width n"), (3, "width n"))
        ),
        Case(kind, "width n", "residual_rms(), its square", number(rms.value(**numbers) ** 2), stream, {}, 5, rms),
        Case(kind, "width n", *ask(theory.path_energy), paths, of_path, 5),
        Case(kind, "residual2_relu", *ask(theory.monotone_share), increasing, {"depth": 9, "power": -0.5}, 2),
    ]


def broken() -> list[Case]:
    shifted = dataclasses.replace(st.INITS["pytorch"], name="shifted", bias=st.Distribution("constant", 0.5))
    mean = theory.lyapunov_exponent("residual2_prelu").value()

    def shared(d: Draw) -> Array:
        table = np.repeat(d.chain("residual2_prelu", "pytorch", DEPTH // 10).table(), 10, axis=1)
        return DEPTH * (log_products(st.Chain.from_table(table))[-1] / DEPTH - mean) ** 2

    square, variance = theory.moment("residual2_relu", "he").value(), 1.5**2 + 0.3**2
    for _ in range(4):
        variance = float(theory.variance_map(variance, 1.5, 0.3, "tanh"))
    interval = (-0.2, 0.2)
    rows: list[tuple[str, str, theory.ClosedForm, Sample, dict[str, float], float]] = [
        (
            "exponent: biases not symmetric, all 0.5", "plain_prelu", theory.lyapunov_exponent("plain_prelu"),
            lambda d: d.growth("plain_prelu", shifted, scale=1.5), {"scale": 1.5}, 1,
        ),
        (
            "exponent: the state is not far from the kink", "residual1_relu",
            theory.lyapunov_exponent("residual1_relu", sign=1),
            lambda d: d.growth("residual1_relu", "pytorch", 20, x=-1.0), {}, 1,
        ),
        (
            "death at a point: an interval instead", "plain_relu", theory.born_dead(1.0),
            dead(NEAR, "pytorch", 2), {"depth": 2}, 2.5,
        ),
        (
            "death on an interval: biases where the form has none", "plain_relu", theory.born_dead(interval, "uniform"),
            dead(interval, "pytorch", 2), {"depth": 2}, 2.5,
        ),
        (
            "spread of log|J|: ten steps share their weights", "residual2_prelu",
            theory.log_variance("residual2_prelu"), shared, {}, 1,
        ),
        (
            "moment of 40 steps, (E g^2)^40: an average of heavy tails", "residual2_relu", number(square**40),
            lambda d: np.exp(2 * d.products("residual2_relu", "he", 40)[-1]), {}, 1,
        ),
        (
            "variance after five tanh layers: width 2, not infinite", "width n", number(variance),
            lambda d: (np.arctanh(tanh_states(d, width=2, depth=5)[:, 0]) ** 2).mean(axis=1), {}, 10,
        ),
    ]  # fmt: skip
    return [Case(BROKEN, name, why, *rest) for why, name, *rest in rows]


def all_cases() -> dict[str, Case]:
    """Return every case by its label, kind by kind."""
    cases = [make(name, *row) for make, rows in ROWS.items() for name, listed in rows.items() for row in listed]
    cases += [*of_width_n(), *broken(), *of_residual_streams()]
    kinds = list(dict.fromkeys(case.kind for case in cases))
    return {case.label: case for case in sorted(cases, key=lambda case: kinds.index(case.kind))}


NORMAL = st.Init("normal", "", weight=st.Distribution("normal", 0.8), bias=st.Distribution("normal", 0.5))
WHOLE, NEAR = (-math.inf, math.inf), (-3.0, 3.0)
#: Of every maker the arguments by architecture.
ROWS: dict[Callable[..., Case], dict[str, list[tuple[Any, ...]]]] = {
    exponent: {
        "plain_prelu": [("pytorch",), ("uniform", 3.5), ("uniform", 8.0), ("he",), ("orthogonal",)],
        "residual1_relu": [("pytorch", 1, 1), ("uniform", 1, -1), ("he", 1, 1), ("orthogonal", 0.6, -1)],
        "residual2_relu": [("pytorch",), ("uniform", 3.5), ("uniform", 8.0), ("he",), ("orthogonal",)],
        "residual2_prelu": [("pytorch",), ("uniform", 8.0), ("he",), ("scaled", 10.0)],
    },
    exponent_alive: {"plain_relu": [("he",)]},
    critical: {"plain_prelu": [("pytorch",), ("he",)], "residual2_relu": [("pytorch",)], "residual2_prelu": [("he",)]},
    spread: {
        "plain_prelu": [("pytorch",), ("he",)], "residual1_relu": [("uniform", 1, 1), ("he", 1, 1)],
        "residual2_relu": [("pytorch",), ("he",)], "residual2_prelu": [("pytorch", 3.5), ("uniform",)],
    },
    moment: {
        "plain_prelu": [("uniform", 2), ("orthogonal", 2), ("he", 4)],
        "residual1_relu": [("uniform", 1, 1), ("uniform", 2, -1), ("pytorch", 4, 1)],
        "residual2_relu": [("pytorch", 1), ("orthogonal", 2), ("he", 2)],
        "residual2_prelu": [("pytorch", 2), ("uniform", 4), ("he", 4)],
    },
    count: {
        "plain_prelu": [("uniform", "folds", 1.0, NEAR, 4)], "plain_relu": [("he", "folds", 1.0, NEAR, 3)],
        "residual1_relu": [("uniform", "turns", 1.6, NEAR, 4), ("he", "turns", 1.0, NEAR, 3)],
        "residual2_relu": [("pytorch", "folds", 3.0, WHOLE, 6)],
        "residual2_prelu": [
            ("pytorch", "folds", 8.0, WHOLE, 6), ("pytorch", "turns", 3.0, WHOLE, 6),
            ("pytorch", "regions", 5.0, WHOLE, 6),
        ],
    },
    gradient_rate: {
        "plain_prelu": [("pytorch",)], "residual1_relu": [("uniform", 1)], "residual2_prelu": [("pytorch",)],
    },
    limit: {
        "residual2_relu": [("pytorch", "mean"), ("orthogonal", "variance")],
        "residual2_prelu": [("orthogonal", "mean"), ("pytorch", "variance")],
    },
    death: {
        "plain_relu": [
            ("pytorch", 1.0, 2), ("he", -0.4, 3),
            ("he", (-1.0, 2.0), 3), ("uniform", (1.0, 2.0), 2), ("orthogonal", NEAR, 4),
        ],
    },
    death_by_step: {"plain_relu": [("pytorch", 0.0, 1.0), (NORMAL, 0.5, 0.4)]},
}  # fmt: skip
