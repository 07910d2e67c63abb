"""How do gradient norms grow or decay, by layer and against depth, and does training heal the decay?

Question. A loss at the end of a chain reaches the first layer through the derivatives of all layers. What is left of it
there, for Peng's five one-neuron chains and every named initialisation? Does training on sin(x) heal the decay?

Method. |dLoss/dh_l|, the gradient with respect to the state before layer l, is taken in logarithms, so that nothing
over- or underflows; the loss is the mean-squared error to sin. A law is fitted to the logs of all seeds, along the
layers of one depth (counted from the output) and along the total depth. Theory: at one point, where the sign of a
pre-activation is a fair coin whatever the state, log|dLoss/dh| is a random walk with E log|g| a layer,
`st.theory.lyapunov_exponent`. Over (-3, 3) the points with the largest gradient lead the norm; without biases, where x
and -x part for good, it decays more slowly. The error at the output is a factor of the gradient: in a residual 1 ReLU
chain both grow with depth.

Reading. Medians over seeds with bands from 5 to 95 %. a: by layer; for torch's initialisation with the fitted law
(dashed) and the rate of theory (dotted). What lies below a grey line rounds to 0 in that format. b: at the first layer
against depth, torch's initialisation, members alive. c: fitted rates a layer at x = 1 (dots) and x = -1 (triangles)
with intervals of 95 %, most narrower than their mark; ticks are theory; hollow marks at the left have no rate. d: the
gradient at the first layer over that at the last, along training; iteration 0 is drawn at one half. The second figure
has the residual chain of a by itself, and the share of members whose gradient is exactly 0 (crosses: at x = 1).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

INTERVAL = (-3, 3)
POINTS = torch.linspace(*INTERVAL, 32, dtype=torch.float64)
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
    depth: int = 500  # Of the chains that are followed by layer.
    seeds: int = 240  # Members of every fresh chain.
    trained_depth: int = 100  # Of the trained chains.
    trained_seeds: int = 40  # Members of every trained chain.
    iterations: int = 1000  # Of Adam.


def norms(chain: st.Chain, x: torch.Tensor) -> st.GradientNorms:
    return st.gradient_norms(chain, x, lambda output: (output - x.sin()).square().mean(dim=1))


def predict(architecture: str, init: str, x: float, depth: int) -> float:
    """Return E log|g| a layer at the point x, -inf where g may be 0, NaN where nothing is derived."""
    kind, law = st.ARCHITECTURES[architecture], st.INITS[init]
    if kind.skip == 1 and kind.maps == 1 and (law.bias.scale != 0 or law.kinks is not None):
        return math.nan  # what is derived holds far from the kinks
    with suppress(ValueError):  # a weight may take the state across 0
        exponent = st.theory.lyapunov_exponent(architecture, init, sign=1 if x > 0 else -1)
        return float(exponent.value(**{s.name: depth for s in exponent.symbols if s.name == "depth"}))
    return math.nan


def by_layer(case: str, settings: Settings) -> xarray.Dataset:
    architecture, init = CASES[case]
    chain = st.Chain(architecture, settings.depth, seeds=settings.seeds, init=init, root=settings.seed)
    found = norms(chain, POINTS)
    fit, quantiles = st.fit_growth(found), found.quantiles("input", LEVELS).numpy()
    from_output = np.arange(settings.depth, 0, -1)
    # The line of theory starts where the measured one does, at the last layer.
    theory = quantiles[1, -1] + predict(architecture, init, 1.0, settings.depth) * (from_output - 1)
    lost = found["input"][-1] - found["input"][0]
    zero = [found.underflows(getattr(torch, name), "input")[0].numpy() for name in VANISHING]
    data = {
        "log10_norm": (("quantile", "layer"), quantiles / DECADE),
        "fitted": ("layer", fit.predict(from_output) / DECADE),
        "theory": ("layer", theory / DECADE),
        "lost": ("member", lost.numpy() / DECADE, {"long_name": "decades, last over first"}),
        "zero": (("format", "member"), np.stack(zero), {"long_name": "the first layer's rounds to 0"}),
    }
    return xarray.Dataset(data, {"quantile": LEVELS, "layer": from_output[::-1], "format": list(VANISHING)})


def against_depth(architecture: str, settings: Settings) -> xarray.Dataset:
    deepest = st.Chain(architecture, DEPTHS[-1], seeds=settings.seeds, root=settings.seed)
    found = [norms(deepest.prefix(depth), POINTS) for depth in DEPTHS]
    at_1 = [norms(deepest.prefix(depth), torch.ones(1, dtype=torch.float64)) for depth in DEPTHS]
    dead, dead_at_1 = (torch.stack([one.dead for one in some]).numpy() for some in (found, at_1))
    left = np.full((len(DEPTHS), len(LEVELS)), -math.inf)  # with none alive, all are exactly 0
    for row, one in zip(left, found, strict=True):
        if not one.dead.all():
            row[:] = one.quantiles("input", LEVELS, alive=True)[:, 0].numpy() / DECADE
    data = {
        "left": (("depth", "quantile"), left, {"long_name": "log10 norm at the first layer, alive"}),
        "dead": (("depth", "member"), dead),
        "dead_at_1": (("depth", "member"), dead_at_1),
        "law": ((), st.fit_growth(found, along="depth").verdict, {"long_name": "along the depth"}),
    }
    return xarray.Dataset(data, {"depth": list(DEPTHS), "quantile": LEVELS})


def rates(architecture: str, settings: Settings) -> xarray.Dataset:
    """Return the fitted rates at single points and over the interval, beside theory; NaN for what does not exist."""
    places = {place: torch.tensor([x], dtype=torch.float64) for place, x in PLACES.items()} | {"interval": POINTS}
    over, size = ("init", "place"), (len(st.INITS), len(places))
    numbers, shapes = np.full((6, *size), np.nan), np.full(size, "does not exist", dtype="U20")
    for i, init in enumerate(st.INITS):
        try:
            chain = st.Chain(architecture, settings.depth, seeds=settings.seeds, init=init, root=settings.seed)
        except ValueError:  # not every scheme exists for every architecture
            continue
        for p, (place, x) in enumerate(places.items()):
            fit = st.fit_growth(norms(chain, x))
            theory = predict(architecture, init, PLACES[place], settings.depth) if place in PLACES else math.nan
            numbers[4:, i, p], shapes[i, p] = (theory, fit.dead), "all dead" if fit.best is None else fit.best.shape
            if fit.rate is not None:
                numbers[:4, i, p] = fit.rate, *fit.interval, fit.standard_error
    names = ("rate", "low", "high", "standard_error", "predicted", "dead_share")
    data = {name: (over, table) for name, table in zip(names, numbers, strict=True)}
    return xarray.Dataset(data | {"shape": (over, shapes)}, {"init": list(st.INITS), "place": list(places)})


def training(start: str, settings: Settings) -> xarray.Dataset:
    architecture, init = CASES[start]
    watched = [0, *np.unique(np.geomspace(1, settings.iterations, 24).astype(int)).tolist()]
    chain = st.Chain(architecture, settings.trained_depth, seeds=settings.trained_seeds, init=init, root=settings.seed)
    task, rows = st.Task(torch.sin, INTERVAL, points=128), []

    def watch(iteration: int, losses: torch.Tensor) -> None:
        if iteration in watched:
            rows.append(torch.stack([*norms(chain, task.x)["input"][[0, -1]] / DECADE, losses]).numpy())

    st.train(chain, task, iterations=settings.iterations, on_iteration=watch, progress=False)
    first, last, loss = np.stack(rows, axis=1)
    over = ("iteration", "seed")
    return xarray.Dataset({"first": (over, first), "last": (over, last), "loss": (over, loss)}, {"iteration": watched})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    found = [
        parts.cells(by_layer, settings, case=list(CASES)),
        parts.cells(against_depth, settings, architecture=list(study.CHAINS)),
        parts.cells(rates, settings, architecture=list(study.CHAINS)),
        parts.cells(training, settings, start=[RESIDUAL, PLAIN, IDENTITY]),
    ]
    return xarray.merge(found)


def interval(one: xarray.Dataset) -> str:
    rate, low, high = (round(float(value), 9) + 0.0 for value in (one.rate, one.low, one.high))
    return f"{rate:.3g} ({low:.3g} to {high:.3g})"


def outcome(lost: xarray.DataArray) -> str:
    """Say what training did to the decades that are lost between the last layer and the first, in the median."""
    before, after = lost.quantile(0.5, "seed", method="inverted_cdf")[[0, -1]].clip(min=0).values  # growth loses none
    return "deepened" if after > max(2 * before, before + 0.1) else "healed" if after < before / 2 else "left as it is"


def claims(data: xarray.Dataset) -> list[study.Row]:
    at_1, end = data.sel(place="x = 1"), f"at depth {DEPTHS[-1]}"
    plain, residual = (at_1.sel(architecture=name) for name in ("plain_prelu", "residual2_prelu"))
    fast, slow = plain.sel(init="pytorch"), residual.sel(init="pytorch")
    plain = plain.dropna("init", subset=["rate"])
    slower = data.rate.sel(place="interval", architecture="plain_prelu", init=plain.init) - plain.rate
    relu, grown = (data.sel(architecture=name) for name in ("plain_relu", "residual1_relu"))
    alive = 0.5**data.depth  # a plain ReLU step passes a gradient on if a fair coin says so
    error = np.sqrt(alive * (1 - alive) / data.sizes["member"]) + 1e-9
    off = float((abs(1 - relu.dead_at_1.mean("member") - alive) / error).max())
    lost = (data["last"] - data["first"]).round(9) + 0.0
    outcomes = [outcome(one) for one in lost]

    vanishes = f"decades lost over {data.sizes['layer']} layers, and the rate a layer: "
    vanishes += "; ".join(
        f"{case} {study.spread(data.lost.sel(case=case))}, {interval(one)}, "
        + ", ".join(f"in {form} 0 for {study.share(data.zero.sel(case=case, format=form))}" for form in VANISHING)
        for case, one in ((PLAIN, fast), (RESIDUAL, slow))
    )
    vanished = "refuted" if fast.rate > 5 * slow.rate else "held" if slow.high >= 0 else "refined"
    gap = abs(data.rate - data.predicted)
    alike = xarray.where(gap < 1e-12, 0.0, np.inf)  # all members alike: right to the last digits, or wrong
    z = (gap / data.standard_error).where(data.standard_error > 1e-12, alike).where(gap.notnull()).to_series().dropna()
    theory = f"{len(z)} rates are within {z.max():.1f} standard errors; most off: {', '.join(z.idxmax())}"
    point = f"plain PReLU decays more slowly by at most {float(slower.max()):.3f} a layer ({slower.idxmax().item()})"
    as_point = "held" if slower.max() < 0.01 else "refined"
    inits = f"plain PReLU, rate a layer: {', '.join(f'{i} {interval(plain.sel(init=i))}' for i in plain.init.values)}"
    keeps = plain.rate >= -0.1
    kept = "held" if keeps.all() else "refined" if keeps.any() else "refuted"
    dies = f"exactly 0 for {study.share(relu.dead[-1])} {end}; at the point x = 1, depth 3, for "
    dies += f"{study.share(relu.dead_at_1.sel(depth=3))}; 1 - 2^-L is at most {off:.1f} standard errors off"
    dead = bool(relu.dead[-1].mean() > 0.95 and off < 4)
    grows = "log10 at the first layer {1:.0f} ({0:.0f} to {2:.0f})".format(*grown.left[-1].to_numpy())
    grows += f" {end}; it {grown.law.item().split(';')[0]}; without biases the rate is "
    grows += " and ".join(f"{interval(grown.sel(init='uniform', place=place))} at {place}" for place in PLACES)
    grew = "held" if grown.low.sel(init="uniform", place="x = -1") > 0 else "refined"
    heals = "decades lost before and after: " + "; ".join(
        f"{one.start.item()} {study.spread(one[0])} and {study.spread(one[-1])}, {done}"
        for one, done in zip(lost, outcomes, strict=True)
    )
    heals += f"; final error {', '.join(f'{float(one):.2g}' for one in data.loss[:, -1].median('seed'))}"
    healed = "held" if set(outcomes) == {"healed"} else "refined" if "healed" in outcomes else "refuted"
    practice = "common practice"
    return [
        ("A gradient vanishes in a plain chain, and a bypass keeps it", "He et al. 2016", vanishes, vanished),
        ("The log of the gradient at a point has the rate E log|g| a layer", "theory", theory, z.max() < 4),
        ("Over (-3, 3) the gradient decays at the rate of one point", practice, point, as_point),
        ("A better initialisation keeps the gradient of a plain chain", practice, inits, kept),
        ("A plain ReLU chain dies: no gradient reaches its first layer", "Peng 2017", dies, dead),
        ("A residual 1 ReLU chain can only grow, and so does its gradient", "Peng 2017", grows, grew),
        ("Training heals the decay", practice, heals, healed),
    ]


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    (figure, axes), (more, others) = st.plots.panels("ab;cd", height=6.2), st.plots.panels("ab", height=2.6)
    draw_layers(data, axes["a"], list(CASES))
    draw_layers(data, others["a"], [RESIDUAL])
    draw_depth(data, axes["b"], others["b"])
    draw_rates(data.sel(place=list(PLACES)), axes["c"])
    ratio, ends = data["first"] - data["last"], {}
    ax, x = axes["d"], np.maximum(data.iteration, 0.5)
    for start in data.start.values:
        levels = study.levels(ratio.sel(start=start), axis=1)
        st.plots.band(ax, x, levels, SHADES[start])
        ends[start] = float(levels[1, -1])
    ax.set_yscale("symlog", linthresh=1)
    ax.set(xscale="log", xlabel="iteration", xlim=(0.5, float(x[-1])), title="first / last layer in training")
    powers(ax)
    st.plots.end_labels(ax, ends, {start: SHADES[start] for start in ends})
    lost = [float(data.lost.sel(case=case).median()) for case in (PLAIN, RESIDUAL)]
    left = [-float(ratio.sel(start=case)[-1].median()) for case in (PLAIN, RESIDUAL)]
    finding = (
        f"Over {data.sizes['layer']} layers the gradient of a plain PReLU chain shrinks by $10^{{{lost[0]:.0f}}}$, "
        f"that of a residual one by $10^{{{lost[1]:.0f}}}$, both at the rate of theory; chains trained on a "
        f"sine lose {left[0]:.0f} and {left[1]:.1f} decades in the end."
    )
    dead = [100 * float(data.dead.sel(architecture=name)[-1].mean()) for name in ("plain_relu", "plain_prelu")]
    other = f"At depth {DEPTHS[-1]} the first layer's gradient is exactly 0 in {dead[0]:.0f} % of plain ReLU and "
    other += f"{dead[1]:.0f} % of plain PReLU chains."
    return {"": st.plots.headline(figure, finding), "details": st.plots.headline(more, other)}


def powers(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(lambda v, _: "1" if v == 0 else f"$10^{{{v:.0f}}}$")


def draw_layers(data: xarray.Dataset, ax: Axes, cases: list[str]) -> None:
    """Draw the norms by layer, the laws fitted to them, and theory, of all cases or of one by itself."""
    size, single = data.sizes["layer"], len(cases) == 1
    for case in cases:
        one, shade = data.sel(case=case), SHADES[case]
        if CASES[case][1] == "pytorch":
            st.plots.band(ax, data.layer, one.log10_norm, shade)
            ax.plot(data.layer, one.fitted, "--", color="#444444", linewidth=0.8)
            ax.plot(data.layer, one.theory, ":", color="black", linewidth=1.4)
        else:
            ax.plot(data.layer, one.log10_norm.sel(quantile=0.5), color=shade, linewidth=0.8)
        if not single:  # the lines rise to the right, so there is room below them
            at, up = int((0.35 if case == PLAIN else 0.04) * size), case == IDENTITY
            place = {"xytext": (0, 2 if up else -4), "textcoords": "offset points", "va": "bottom" if up else "top"}
            ax.annotate(case, (at, one.log10_norm[0 if case == PLAIN else 1, at]), **place, color=shade, fontsize=7)
    for name, level in VANISHING.items():
        if not single and level > float(data.log10_norm.min()):
            ax.axhline(level, color="#888888", linewidth=0.8)
            ax.text(0.45 * size, level, f"0 in {name}", color="#666666", fontsize=7, va="top")
    if single:
        ax.text(0.98, 0.04, "dashed: fit, dotted: theory", fontsize=7, ha="right", transform=ax.transAxes)
    title = cases[0] if single else f"by layer, depth {size}"
    ax.set(xlabel="layer $l$", ylabel=r"$|\partial$Loss$/\partial h_l|$", xlim=(1, size), title=title)
    powers(ax)


def draw_depth(data: xarray.Dataset, ax: Axes, dead: Axes) -> None:
    ends = {}
    for name, label in study.CHAINS.items():
        one, shade = data.sel(architecture=name), study.SHADES[label]
        st.plots.band(ax, data.depth, one.left.T, shade, marks=3)
        left = one.left.sel(quantile=0.5)
        left = left[np.isfinite(left.values)]
        if left.size == len(DEPTHS):
            ends[label] = float(left[-1])
        else:
            ax.text(1.1, -100, f"{label}, all dead\nbeyond depth {int(left.depth[-1])}", fontsize=7, va="center")
        dead.plot(data.depth, 100 * one.dead.mean("member"), "o-", color=shade, markersize=3)
        dead.plot(data.depth, 100 * one.dead_at_1.mean("member"), "x", color=shade, markersize=4)
    ax.set_yscale("symlog", linthresh=1)
    ax.set(xscale="log", xlabel="total depth $L$", xlim=(1, DEPTHS[-1]), title="at the first layer")
    powers(ax)
    st.plots.end_labels(ax, ends, {label: study.SHADES[label] for label in ends})
    dead.plot(data.depth, 100 * (1 - 0.5**data.depth), ":", color="black")
    dead.set(xscale="log", xlabel="total depth $L$", title="exactly dead, %")
    for y, words in ((80, "plain ReLU\n(dotted: $1 - 2^{-L}$)"), (7, "all others")):
        dead.text(DEPTHS[-1], y, words, fontsize=7, ha="right", va="center")


def draw_rates(data: xarray.Dataset, ax: Axes) -> None:
    inits, names, words = data.init.values.tolist(), list(study.CHAINS), -9
    for row, column, p in np.ndindex(len(inits), len(names), len(PLACES)):
        one, y = data.isel(init=row, place=p).sel(architecture=names[column]), 0.16 * (2 - column) - row
        shade, shape = st.plots.colour(names[column]), one["shape"].item()
        if shape == "does not exist" or (p and names[column] != "residual1_relu"):
            continue  # the others are the same at x = 1 and x = -1
        if np.isfinite(one.rate):
            ax.plot([one.low, one.high], [y, y], color=shade, linewidth=2, solid_capstyle="butt")
        else:
            ax.text(0.8 * words, y, shape, fontsize=7, va="center", color=shade)
        fill = "full" if np.isfinite(one.rate) else "none"
        ax.plot(one.rate.fillna(words), y, "o<"[p], color=shade, markersize=3.5, fillstyle=fill)
        if np.isfinite(one.predicted):
            ax.plot(one.predicted, y, "|", color="black", markersize=7, zorder=5)
    ax.grid(visible=False, axis="y")
    ax.hlines(0.5 - np.arange(1, len(inits)), -13, 1, color="#E4E4E4", linewidth=0.6)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_xticks(ticks := (-1, -0.1, 0, 0.1, 1), [f"{tick:g}" for tick in ticks])
    ax.set_yticks([-i for i in range(len(inits))], inits)
    ax.set(xlim=(-13, 1), ylim=(0.5 - len(inits), 0.5), xlabel="log norm a layer, at one point", title="fitted rates")


if __name__ == "__main__":
    quick = Settings(depth=100, seeds=60, trained_depth=30, trained_seeds=8, iterations=200)
    study.main(Settings(), quick, measure, draw, claims)
