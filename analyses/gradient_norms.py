"""How do gradient norms grow or decay, by layer and against depth, and does training heal it?

Question. A loss at the end of a chain reaches the layers before through the derivatives of the layers between. What is
left of it at the first layer, for Peng's five one-neuron chains and every named initialisation? What separates the
plain PReLU chain from the residual one? And does training on sin(x) heal the decay, or deepen it?

Method. |dLoss/dh_l|, the norm of the gradient with respect to the state before layer l, is taken in logarithms, so
that nothing over- or underflows; the loss is the mean-squared error to sin. A law is fitted to the logs of all seeds,
along the layers of one depth (counted from the output, as the gradient travels) and along the total depth. Theory: at
one point x the derivatives g of successive steps are independent and equally distributed where the sign of a
pre-activation is a fair coin whatever the state, so log|dLoss/dh| is a random walk with E log|g| a layer,
`st.theory.lyapunov_exponent`. Over the whole of (-3, 3) the points with the largest gradient lead the norm, and without
biases, where x and -x part for good, it decays more slowly than at one point. The error at the output is a part of the
gradient: in a residual 1 ReLU chain it grows with the output, so against depth the gradient grows by both.

Reading. a: by layer, medians over seeds; bands from 5 to 95 %, the fitted law (dashed) and the rate of theory (dotted)
for torch's initialisation; what lies below a grey line rounds to 0 in that format. b: at the first layer against depth,
torch's initialisation, members that are alive. c: fitted rates a layer at x = 1 (dots) and x = -1 (triangles) with
intervals of 95 %, most of them narrower than their mark; ticks are theory; a chain that has no rate, being dead or
following another law, stands hollow at the left. d: the gradient at the first layer over that at the last, along
training; step 0 is drawn at one half. Scales in b and d are linear between 10^-1 and 10.
The second figure has the residual chain of a by itself, the share of members whose gradient is exactly 0 (crosses at
the one point x = 1), and both ends of d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

INTERVAL = (-3, 3)
DEPTHS = (1, 2, 3, 5, 10, 30, 100, 300, 1000)
CASES = {
    "residual 2 PReLU": ("residual2_prelu", "pytorch"),
    "plain PReLU": ("plain_prelu", "pytorch"),
    "plain, he": ("plain_prelu", "he"),
    "plain, orthogonal": ("plain_prelu", "orthogonal"),
    "plain, identity": ("plain_prelu", "identity"),
}
RESIDUAL, PLAIN, _, _, IDENTITY = CASES
SHADES = {case: st.plots.colour(architecture) for case, (architecture, _) in CASES.items()} | {IDENTITY: "#CC79A7"}
#: What is smaller rounds to 0: half of the smallest number of the format.
VANISHING = {"float32": -150 * math.log10(2), "float64": -1075 * math.log10(2)}
PLACES = {"x = 1": 1.0, "x = -1": -1.0}
LEVELS = [0.05, 0.5, 0.95]
DECADE = math.log(10)


@dataclass(frozen=True)
class Settings(study.Settings):
    """Gradient norms of the five chains: by layer, against depth, along training."""

    depth: int = 500
    """Of the chains that are followed by layer."""
    seeds: int = 240
    """Members of every fresh chain."""
    trained_depth: int = 100
    """Of the trained chains."""
    trained_seeds: int = 40
    """Members of every trained chain."""
    iterations: int = 1000
    """Of Adam."""


def points() -> torch.Tensor:
    return torch.linspace(*INTERVAL, 32, dtype=torch.float64)


def norms(chain: st.Chain, x: torch.Tensor) -> st.GradientNorms:
    """Return the gradient norms of the mean-squared error to sin over the points x."""
    return st.gradient_norms(chain, x, lambda output: (output - x.sin()).square().mean(dim=1))


def predict(architecture: str, init: str, x: float, depth: int) -> float:
    """Return E log|g| a layer at the point x, -inf where g may be 0, NaN where nothing is derived."""
    kind, law = st.ARCHITECTURES[architecture], st.INITS[init]
    if kind.skip == 1 and kind.maps == 1 and (law.bias.scale != 0 or law.kinks is not None):
        return math.nan  # what is derived holds far from the kinks
    try:
        exponent = st.theory.lyapunov_exponent(architecture, init, sign=1 if x > 0 else -1)
        known = {"depth": depth}
        return float(exponent.value(**{s.name: known[s.name] for s in exponent.symbols if s.name in known}))
    except ValueError:  # a weight may take the state across 0
        return math.nan


def exists(architecture: str, init: str) -> bool:
    """Return whether a scheme exists for an architecture."""
    try:
        st.Chain(architecture, 1, init=init)
    except ValueError:
        return False
    return True


def by_layer(case: str, settings: Settings) -> xarray.Dataset:
    """Return the norms by layer, with the law fitted to them and theory."""
    architecture, init = CASES[case]
    chain = st.Chain(architecture, settings.depth, seeds=settings.seeds, init=init, root=settings.seed)
    found = norms(chain, points())
    fit, quantiles = st.fit_growth(found), found.quantiles("input", LEVELS).numpy()
    from_output = np.arange(settings.depth, 0, -1)
    # The line of theory starts where the measured one does, at the last layer.
    theory = quantiles[1, -1] + predict(architecture, init, 1.0, settings.depth) * (from_output - 1)
    states, zero = found["input"], [found.underflows(getattr(torch, name), "input")[0].numpy() for name in VANISHING]
    return xarray.Dataset(
        {
            "log10_norm": (("quantile", "layer"), quantiles / DECADE),
            "fitted": ("layer", fit.predict(from_output) / DECADE),
            "theory": ("layer", theory / DECADE),
            "lost": ("member", (states[-1] - states[0]).numpy() / DECADE, {"long_name": "decades, last over first"}),
            "zero": (("format", "member"), np.stack(zero), {"long_name": "the first layer's rounds to 0"}),
        },
        {"quantile": LEVELS, "layer": np.arange(1, settings.depth + 1), "format": list(VANISHING)},
    )


def against_depth(architecture: str, settings: Settings) -> xarray.Dataset:
    """Return what is left at the first layer of chains of several depths, as torch initialises."""
    deepest = st.Chain(architecture, DEPTHS[-1], seeds=settings.seeds, root=settings.seed)
    found = [norms(deepest.prefix(depth), points()) for depth in DEPTHS]
    at_1 = [norms(deepest.prefix(depth), torch.ones(1, dtype=torch.float64)) for depth in DEPTHS]
    left = np.full((len(DEPTHS), len(LEVELS)), -math.inf)  # with none alive, all are exactly 0
    for row, one in zip(left, found, strict=True):
        if not one.dead.all():
            row[:] = one.quantiles("input", LEVELS, alive=True)[:, 0].numpy() / DECADE
    return xarray.Dataset(
        {
            "left": (("depth", "quantile"), left, {"long_name": "log10 norm at the first layer, alive"}),
            "dead": (("depth", "member"), torch.stack([one.dead for one in found]).numpy()),
            "dead_at_1": (("depth", "member"), torch.stack([one.dead for one in at_1]).numpy()),
            "law": ((), st.fit_growth(found, along="depth").verdict, {"long_name": "along the depth"}),
        },
        {"depth": list(DEPTHS), "quantile": LEVELS},
    )


def rates(architecture: str, init: str, settings: Settings) -> xarray.Dataset:
    """Return the fitted rate at single points and over the interval, beside theory; NaN for what does not exist."""
    places = {place: torch.tensor([x], dtype=torch.float64) for place, x in PLACES.items()} | {"interval": points()}
    numbers, shapes = np.full((6, len(places)), np.nan), ["does not exist"] * len(places)
    if exists(architecture, init):
        chain = st.Chain(architecture, settings.depth, seeds=settings.seeds, init=init, root=settings.seed)
        for p, (place, x) in enumerate(places.items()):
            fit = st.fit_growth(norms(chain, x))
            theory = predict(architecture, init, PLACES[place], settings.depth) if place in PLACES else math.nan
            numbers[4:, p], shapes[p] = (theory, fit.dead), "dead" if fit.best is None else fit.best.shape
            if fit.rate is not None and fit.interval is not None:
                numbers[:4, p] = fit.rate, *fit.interval, fit.standard_error
    names = ("rate", "low", "high", "standard_error", "predicted", "dead_share")
    data = {name: ("place", row) for name, row in zip(names, numbers, strict=True)}
    return xarray.Dataset(data | {"shape": ("place", shapes)}, {"place": list(places)})


def training(start: str, settings: Settings) -> xarray.Dataset:
    """Return the norms at the first and the last layer, and the loss, along training on sin."""
    architecture, init = CASES[start]
    watched = [0, *np.unique(np.geomspace(1, settings.iterations, 24).astype(int)).tolist()]
    chain = st.Chain(
        architecture, settings.trained_depth, seeds=settings.trained_seeds, init=init, root=settings.seed
    )
    task, rows = st.Task(torch.sin, INTERVAL, points=128), []

    def watch(iteration: int, losses: torch.Tensor) -> None:
        if iteration in watched:
            rows.append(torch.stack([*norms(chain, task.x)["input"][[0, -1]] / DECADE, losses]).numpy())

    st.train(chain, task, iterations=settings.iterations, on_iteration=watch, progress=False)
    first, last, loss = np.stack(rows, axis=1)
    over = ("iteration", "seed")
    return xarray.Dataset({"first": (over, first), "last": (over, last), "loss": (over, loss)}, {"iteration": watched})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    return xarray.merge(
        [
            parts.cells(by_layer, settings, case=list(CASES)),
            parts.cells(against_depth, settings, architecture=list(study.CHAINS)),
            parts.cells(rates, settings, architecture=list(study.CHAINS), init=list(st.INITS)),
            parts.cells(training, settings, start=[RESIDUAL, PLAIN, IDENTITY]),
        ]
    )


def draw(data):
    raise SystemExit("no figure yet")


def claims(data):
    return []


if __name__ == "__main__":
    quick = Settings(depth=100, seeds=60, trained_depth=30, trained_seeds=8, iterations=200)
    study.main(Settings(), quick, measure, draw, claims)
