"""How do gradient norms grow or decay, by layer and against depth, and does training heal it?

Question. A loss at the end of a chain reaches the layers before through the derivatives of the layers between. What is
left of it at the first layer, for Peng's five one-neuron chains and every named initialisation? What separates the
plain PReLU chain from the residual one? And does training on sin(x) heal the decay, or deepen it?

Method. |dLoss/dh_l|, the norm of the gradient with respect to the state before layer l, is taken in logarithms, so
that nothing over- or underflows; the loss is the mean-squared error to sin. A law is fitted to the logs of all seeds,
along the layers of one depth (counted from the output, as the gradient travels) and along the total depth. Theory: at
one point x the derivatives g of successive steps are independent and equally distributed where the sign of a
pre-activation is a fair coin whatever the state, so log|dLoss/dh| is a random walk with E log|g| a layer,
`st.theory.lyapunov_exponent`. Over the whole of (-3, 3) the norm is led by the points with the largest gradient, and
without biases, where x and -x part for good, it decays more slowly than at one point. The error at the output is a
part of the gradient: in a residual1_relu chain it grows with the output, so against depth the gradient grows by both.

Reading. Top left: by layer, as torch initialises; median and 5-95 % over seeds, dashed the fitted law, dotted the
predicted rate, thin the plain chain from other initialisations; grey, below what a format rounds to 0. The inset is
the residual chain alone. Top right: at the first layer against depth, for the members alive, on a scale on which an
exponential law is straight far from 1; below it the share of members whose gradient is exactly 0, crosses at the one
point x = 1. Bottom left: fitted rates a layer at x = 1 (dots) and x = -1 (triangles) with 95 % intervals, most of them
narrower than their mark; ticks are theory; what has no rate stands hollow at the left, with the law it has instead.
Bottom right: along training, the first layer solid and the last dashed, and their ratio with 5-95 %. Step 0 is drawn
at one half.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray

import stability as st

INTERVAL = (-3, 3)
PAIR = ("plain_prelu", "residual2_prelu")
LABELS = {
    "plain_relu": "plain ReLU",
    "residual1_relu": "residual ReLU, one map",
    "residual2_relu": "residual ReLU",
    "residual2_prelu": "residual PReLU",
    "plain_prelu": "plain PReLU",
}
STARTS = {
    "plain PReLU": ("plain_prelu", "pytorch"),
    "plain PReLU from the identity": ("plain_prelu", "identity"),
    "residual PReLU": ("residual2_prelu", "pytorch"),
}
SHADES = {name: st.plots.colour(architecture) for name, (architecture, _) in STARTS.items()}
SHADES["plain PReLU from the identity"] = "#CC79A7"
#: What is smaller rounds to 0: half of the smallest number of the format.
VANISHING = {"float32": -150 * math.log10(2), "float64": -1075 * math.log10(2)}
LEVELS = [0.05, 0.5, 0.95]
DECADE = math.log(10)


@dataclass(frozen=True)
class Settings:
    """Gradient norms of the five chains: by layer, against depth, along training."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, iterations and layers: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def error_to_sine(x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the loss of each seed: the mean-squared error to sin over the points x."""
    return lambda output: (output - x.sin()).square().mean(dim=1)


def norms(chain: st.Chain, x: torch.Tensor) -> st.GradientNorms:
    """Return the gradient norms of the mean-squared error over the points x."""
    return st.gradient_norms(chain, x, error_to_sine(x))


def predict(architecture: str, init: str, x: float, depth: int) -> float | None:
    """Return E log|g| a layer at the point x, -inf where g may be 0, None where nothing is derived."""
    kind, law = st.ARCHITECTURES[architecture], st.INITS[init]
    if kind.skip == 1 and kind.maps == 1 and (law.bias.scale != 0 or law.kinks is not None):
        return None  # what is derived holds far from the kinks
    try:
        exponent = st.theory.lyapunov_exponent(architecture, init, sign=1 if x > 0 else -1)
        known = {"depth": depth}
        return float(exponent.value(**{s.name: known[s.name] for s in exponent.symbols if s.name in known}))
    except ValueError:  # a weight may take the state across 0
        return None


def by_layer(depth: int, seeds: int, x: torch.Tensor, root: int) -> xarray.Dataset:
    """Return quantiles of the norms by layer as torch initialises, with the fitted law, and the plain medians."""
    quantiles, fitted, predicted = [], [], []
    from_output = np.arange(depth, 0, -1)
    for name in PAIR:
        found = norms(st.Chain(name, depth, seeds=seeds, root=root), x)
        fit, rate = st.fit_growth(found), predict(name, "pytorch", 1.0, depth)
        assert rate is not None
        lost = [
            f"{100 * found.underflows(dtype, 'input')[0].double().mean():.0f} % of them 0 in {name_of_format}"
            for name_of_format, dtype in (("float32", torch.float32), ("float64", torch.float64))
        ]
        print(f"  {LABELS[name]}: {fit.verdict}; at the first layer {', '.join(lost)}")
        quantiles.append(found.quantiles("input", LEVELS).numpy())
        fitted.append(fit.predict(from_output))
        # The line of theory starts where the measured one does, at the last layer.
        predicted.append(quantiles[-1][1, -1] + rate * (from_output - 1))
    others = ("he", "orthogonal", "identity")
    medians = [
        norms(st.Chain("plain_prelu", depth, seeds=seeds, init=init, root=root), x).quantiles("input", [0.5])[0].numpy()
        for init in others
    ]
    return xarray.Dataset(
        {
            "log10_norm": (("architecture", "quantile", "layer"), np.stack(quantiles) / DECADE),
            "fitted": (("architecture", "layer"), np.stack(fitted) / DECADE),
            "predicted": (("architecture", "layer"), np.stack(predicted) / DECADE),
            "plain_median": (("init", "layer"), np.stack(medians) / DECADE),
        },
        {"architecture": list(PAIR), "quantile": LEVELS, "layer": np.arange(1, depth + 1), "init": list(others)},
    )


def against_depth(depths: list[int], seeds: int, x: torch.Tensor, root: int) -> xarray.Dataset:
    """Return what is left at the first layer of chains of several depths, as torch initialises."""
    shape = (len(st.ARCHITECTURES), len(depths))
    quantiles, dead = np.full((*shape, len(LEVELS)), -math.inf), np.empty((2, *shape))
    one_point = torch.ones(1, dtype=torch.float64)
    for a, name in enumerate(st.ARCHITECTURES):
        deepest = st.Chain(name, max(depths), seeds=seeds, root=root)
        found = [norms(deepest.prefix(depth), x) for depth in depths]
        print(f"  {LABELS[name]}: {st.fit_growth(found, along='depth').verdict}")
        for d, one in enumerate(found):
            dead[0, a, d] = one.dead.double().mean()
            dead[1, a, d] = norms(deepest.prefix(depths[d]), one_point).dead.double().mean()
            if not one.dead.all():  # with none alive, all are exactly 0, and their logs -inf
                quantiles[a, d] = one.quantiles("input", LEVELS, alive=True)[:, 0].numpy() / DECADE
    return xarray.Dataset(
        {
            "log10_norm": (("architecture", "depth", "quantile"), quantiles),
            "dead": (("architecture", "depth"), dead[0]),
            "dead_at_one_point": (("architecture", "depth"), dead[1]),
            # A plain ReLU step passes a gradient on if its pre-activation is above 0: a fair coin each.
            "predicted_dead": (("depth",), 1 - 0.5 ** np.array(depths)),
        },
        {"architecture": list(st.ARCHITECTURES), "depth": depths, "quantile": LEVELS},
        {"seeds": seeds},
    )


def rates(depth: int, seeds: int, whole: torch.Tensor, root: int) -> xarray.Dataset:
    """Return the fitted rate of every pair that exists, at single points and over the interval, beside theory."""
    cases: list[tuple[str, str, str]] = []
    fits: list[st.GrowthFit] = []
    predicted: list[float | None] = []
    refused: dict[str, list[str]] = {}
    for name in st.ARCHITECTURES:
        for init in st.INITS:
            try:
                chain = st.Chain(name, depth, seeds=seeds, init=init, root=root)
            except ValueError:  # not every scheme exists for every architecture
                refused.setdefault(init, []).append(LABELS[name])
                continue
            for x in (1.0, -1.0) if name == "residual1_relu" else (1.0,):
                fits.append(st.fit_growth(norms(chain, torch.tensor([x], dtype=torch.float64))))
                predicted.append(predict(name, init, x, depth))
                cases.append((name, init, f"x = {x:g}"))
            fits.append(st.fit_growth(norms(chain, whole)))
            predicted.append(None)
            cases.append((name, init, "interval"))
    rated = [i for i, fit in enumerate(fits) if fit.rate is not None]
    known = [i for i, value in enumerate(predicted) if value is not None]
    intervals = [fits[i].interval or (0.0, 0.0) for i in rated]
    architectures, inits, places = zip(*cases, strict=True)
    return xarray.Dataset(
        {
            "dead": ("case", [fit.dead for fit in fits]),
            "rate": ("rated", [fits[i].rate for i in rated]),
            "low": ("rated", [low for low, _ in intervals]),
            "high": ("rated", [high for _, high in intervals]),
            "standard_error": ("rated", [fits[i].standard_error for i in rated]),
            "predicted": ("known", [predicted[i] for i in known]),
        },
        {
            "architecture": ("case", list(architectures)),
            "init": ("case", list(inits)),
            "place": ("case", list(places)),
            "verdict": ("case", [fit.verdict for fit in fits]),
            "law": ("case", ["dead" if fit.best is None else fit.best.shape for fit in fits]),
            "rated": rated,
            "known": known,
        },
        {"depth": depth, "refused": "; ".join(f"{init} for {', '.join(names)}" for init, names in refused.items())},
    )


def deviation(data: xarray.Dataset, case: int) -> float | None:
    """Return (measured - predicted) / standard error of one case; None where one of them is not known."""
    if case not in data.rated or case not in data.known:
        return None
    measured, theory = data.sel(rated=case), float(data.predicted.sel(known=case))
    if not float(measured.standard_error) > 1e-12:  # all members alike: right to the last digits, or wrong
        return 0.0 if math.isclose(float(measured.rate), theory, abs_tol=1e-12) else math.inf
    return (float(measured.rate) - theory) / float(measured.standard_error)


def training(depth: int, seeds: int, iterations: int, root: int) -> xarray.Dataset:
    """Return the norms at the first and the last layer and the loss along training on sin."""
    task = st.Task(torch.sin, INTERVAL, points=128)
    watched = sorted({0, *np.unique(np.geomspace(1, iterations, 24).astype(int)).tolist()})
    ends, ratio = np.empty((len(STARTS), len(watched), 2, seeds)), np.empty((len(STARTS), len(watched), seeds))
    loss = np.empty(ratio.shape)
    for s, (name, init) in enumerate(STARTS.values()):
        chain = st.Chain(name, depth, seeds=seeds, init=init, root=root)

        def watch(iteration: int, losses: torch.Tensor, chain: st.Chain = chain, s: int = s) -> None:
            if iteration in watched:
                at, found = watched.index(iteration), norms(chain, task.x)["input"].numpy() / DECADE
                ends[s, at], ratio[s, at], loss[s, at] = found[[0, -1]], found[0] - found[-1], losses.numpy()

        st.train(chain, task, iterations=iterations, on_iteration=watch)
    return xarray.Dataset(
        {
            "log10_norm": (("start", "iteration", "end", "seed"), ends),
            "log10_ratio": (("start", "iteration", "seed"), ratio),
            "loss": (("start", "iteration", "seed"), loss, {"long_name": "mean-squared error"}),
        },
        {"start": list(STARTS), "iteration": watched, "end": ["first layer", "last layer"]},
        {"depth": depth},
    )


def outcome(before: float, after: float) -> str:
    """Say what training did to the decades that are lost between the last layer and the first, before and after."""
    before, after = max(before, 0.0), max(after, 0.0)  # one that grows on its way back loses nothing
    if after > max(2 * before, before + 0.1):
        return "deepens"
    return "heals" if after < before / 2 else "leaves"


def signed(value: float) -> str:
    """Return four digits with a sign, rounding errors of 0 as 0."""
    return f"{round(value, 9) + 0.0:+.4g}"


def describe_rates(data: xarray.Dataset) -> list[tuple[float, str]]:
    """Print one line a case, the interval's rate beside; return |z| and name of every comparison with theory."""
    compared = []
    cases = list(zip(*(data[key].values.tolist() for key in ("architecture", "init", "place")), strict=True))
    for case, (name, init, place) in enumerate(cases):
        if place == "interval":
            continue
        line = f"  {LABELS[name]}, {init}, {place}: {str(data.verdict.values[case]).split(';')[0]}"
        if case in data.rated:
            one = data.sel(rated=case)
            line += f"; rate {signed(float(one.rate))} +- {float(one.standard_error):.1g}"
            if (z := deviation(data, case)) is not None:
                line += f", theory {signed(float(data.predicted.sel(known=case)))} (z = {z:+.1f})"
                compared.append((abs(z), f"{LABELS[name]}, {init}, {place}"))
        if 0 < float(data.dead[case]) < 1:
            line += f"; {100 * float(data.dead[case]):.0f} % exactly dead"
        whole = cases.index((name, init, "interval"))
        if place == "x = 1" and whole in data.rated:
            line += f"; over the interval {signed(float(data.rate.sel(rated=whole)))}"
        print(line)
    return compared


def describe_training(data: xarray.Dataset) -> list[str]:
    """Print one line a start, and return what training did to each, in words."""
    words = []
    for start in data.start.values:
        one = data.sel(start=start)
        lost = -np.quantile(one.log10_ratio, 0.5, axis=1, method="inverted_cdf")
        first = one.log10_norm.sel(end="first layer").median("seed")
        done = outcome(lost[0], lost[-1])
        print(
            f"  {start}: the first layer's gradient is 10^{-lost[0]:.1f} of the last one's at the start and "
            f"10^{-lost[-1]:.1f} at the end: training {done} it. By itself it goes from 10^{float(first[0]):.1f} to "
            f"10^{float(first[-1]):.1f}, and the error from {float(one.loss[0].median()):.2g} to "
            f"{float(one.loss[-1].median()):.2g} (medians)"
        )
        unchanged = " as it is" if done == "leaves" else ""
        words.append(f"{done} the decay{unchanged} in {start} (10^{-lost[0]:.1f} to 10^{-lost[-1]:.1f})")
    return words


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    if settings.quick:
        depth, seeds, depths, trained_depth, trained_seeds, iterations = 100, 60, [1, 2, 3, 5, 10, 30, 100], 30, 8, 200
    else:
        depth, seeds, trained_depth, trained_seeds, iterations = 500, 240, 100, 40, 1000
        depths = [1, 2, 3, 5, 10, 30, 100, 300, 1000]
    x = torch.linspace(*INTERVAL, 32, dtype=torch.float64)

    print(f"By layer, as torch initialises, depth {depth}, {seeds} seeds, error to sin on {INTERVAL}:")
    layers = by_layer(depth, seeds, x, settings.seed)
    print(f"Against depth, at the first layer, depths {', '.join(map(str, depths))}:")
    deep = against_depth(depths, seeds, x, settings.seed)
    for name in deep.architecture.values:
        one = deep.sel(architecture=name)
        if not float(one.dead_at_one_point.max()):
            continue
        for d in range(deep.depth.size):
            if float(deep.predicted_dead[d]) > 0.9999:
                break
            shares = [100 * float(v[d]) for v in (one.dead, one.dead_at_one_point, deep.predicted_dead)]
            print(
                f"    exactly dead at depth {int(deep.depth[d])}, {LABELS[name]}: {shares[0]:.1f} % over the interval, "
                f"{shares[1]:.1f} % at x = 1 (theory {shares[2]:.1f} %)"
            )
    print(f"Along the layers, by initialisation, depth {depth}; at one point, and over the interval:")
    table = rates(depth, seeds, x, settings.seed)
    compared = describe_rates(table)
    print(f"  Do not exist: {table.refused}.")
    print(f"Trained on sin(x), depth {trained_depth}, {iterations} iterations of Adam, {trained_seeds} seeds:")
    along = training(trained_depth, trained_seeds, iterations, settings.seed)
    words = describe_training(along)

    groups = {"by_layer": layers, "against_depth": deep, "rates": table, "training": along}
    # Seven digits are enough for a figure, and halve the file.
    groups = {
        key: part.assign({k: v.astype(np.float32) for k, v in part.data_vars.items()}) for key, part in groups.items()
    }
    paths = st.plots.save(draw(groups), xarray.DataTree.from_dict(groups), settings.out, "gradient_norms")

    middle = layers.log10_norm.sel(quantile=0.5)
    left = {name: float(middle.sel(architecture=name)[0] - middle.sel(architecture=name)[-1]) for name in PAIR}
    every = {
        str(init): float(table.rate.sel(rated=case))
        for case, (name, init, place) in enumerate(
            zip(table.architecture.values, table.init.values, table.place.values, strict=True)
        )
        if name == "plain_prelu" and place == "x = 1" and case in table.rated
    }
    fading = {init: rate for init, rate in every.items() if rate < -0.1}
    mildest = max(fading, key=lambda init: fading[init])
    kept = ", ".join(init for init in every if init not in fading) or "none"
    worst, where = max(compared)
    dead = float(deep.dead.sel(architecture="plain_relu")[-1])
    finding = (
        f"Found: on its way back through {depth} layers the gradient of a plain PReLU chain is multiplied by "
        f"10^{left['plain_prelu']:.0f}, that of a residual one by 10^{left['residual2_prelu']:.1f} (medians). Of the "
        f"{len(every)} initialisations that the plain chain has, {len(fading)} let the gradient decay by a factor "
        f"{math.exp(fading[mildest]):.2g} a layer ({mildest}) or faster; not so: {kept}. A plain ReLU chain of depth "
        f"{int(deep.depth[-1])} is dead in {100 * dead:.0f} % of the seeds. Theory and measurement differ by at most "
        f"{worst:.1f} standard errors in {len(compared)} comparisons ({where}). Training " + "; ".join(words) + "."
    )
    print("\n" + textwrap.fill(finding, 100))
    print("Written: " + ", ".join(str(path) for path in paths))


def draw(groups: dict[str, xarray.Dataset]) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(11, 8.2))
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.05, 1))
        axes = top.subplot_mosaic([["layer", "depth"], ["layer", "dead"]], width_ratios=(1.55, 1), height_ratios=(3, 1))
        draw_layers(groups["by_layer"], axes["layer"])
        draw_depth(groups["against_depth"], axes["depth"], axes["dead"])
        left, middle, right = bottom.subplots(1, 3, width_ratios=(1.55, 1, 1))
        draw_rates(groups["rates"], left)
        draw_training(groups["training"], middle, right)
        keys = [plt.Line2D([], [], color=st.plots.colour(k), linewidth=2, label=v) for k, v in LABELS.items()]
        near = "plain PReLU from the identity"
        keys.append(plt.Line2D([], [], color=SHADES[near], linewidth=2, label=near))
        top.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


def powers(ax: plt.Axes) -> None:
    """Label an axis of decades as powers of ten."""
    ax.yaxis.set_major_formatter(lambda v, _: "1" if v == 0 else f"$10^{{{v:.0f}}}$")


def draw_layers(data: xarray.Dataset, ax: plt.Axes) -> None:
    """Draw the norms by layer, the laws fitted to them, and theory; the residual chain once more by itself."""
    inset = ax.inset_axes((0.63, 0.13, 0.36, 0.33))
    for name in data.architecture.values:
        one, shade = data.sel(architecture=name), st.plots.colour(name)
        low, middle, high = one.log10_norm.to_numpy()
        for where in (ax, inset) if name == "residual2_prelu" else (ax,):
            where.fill_between(one.layer, low, high, color=shade, alpha=0.22, linewidth=0)
            where.plot(one.layer, middle, color=shade, linewidth=1.8)
            where.plot(one.layer, one.fitted, "--", color="#444444", linewidth=1, zorder=4)
            where.plot(one.layer, one.predicted, ":", color="black", linewidth=1.6, zorder=5)
    size, plain = data.layer.size, st.plots.colour("plain_prelu")
    labels = [(data.log10_norm.sel(architecture="plain_prelu", quantile=0.05), "torch's init", 0.3)]
    for init in data.init.values:
        one = data.plain_median.sel(init=init)
        near = init == "identity"
        ax.plot(data.layer, one, color=SHADES["plain PReLU from the identity"] if near else plain, linewidth=0.9)
        if not near:
            labels.append((one, str(init), 0.04))
    # The lines rise to the right, so there is room below them.
    for one, text, share in labels:
        at = int(share * size)
        ax.text(at, float(one[at]) - 0.01 * size, f"plain, {text}", color=plain, fontsize=8, va="top")
    for name, level in VANISHING.items():
        if level > (lowest := float(data.log10_norm.min())):
            ax.axhline(level, xmax=1 if level > lowest / 2 else 0.57, color="#888888", linewidth=0.8)
            ax.text(0.42 * size, level - 0.005 * size, f"0 in {name}", color="#666666", fontsize=8, va="top")
    ax.set(xlabel="layer $l$ (the gradient travels from right to left)", ylabel=r"$|\partial$Loss$/\partial h_l|$")
    ax.set_title(f"gradient norm by layer at initialisation, depth {size}", loc="left")
    inset.set_title("residual PReLU, torch's init", fontsize=8, loc="left", pad=3)
    inset.tick_params(labelsize=7.5)
    inset.set_facecolor("white")
    for one in (ax, inset):
        one.set_xlim(1, size)
        powers(one)
    keys = [
        plt.Line2D([], [], color="#444444", linestyle="--", linewidth=1, label="fitted law"),
        plt.Line2D([], [], color="black", linestyle=":", linewidth=1.6, label="theory: E log|g| a layer"),
    ]
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0.25, 0))


def draw_depth(data: xarray.Dataset, ax: plt.Axes, below: plt.Axes) -> None:
    """Draw what is left at the first layer against depth, and the share of dead members."""
    for name in data.architecture.values:
        one, shade = data.sel(architecture=name), st.plots.colour(name)
        low, middle, high = one.log10_norm.transpose("quantile", "depth").to_numpy()
        shown = np.isfinite(low)
        ax.fill_between(one.depth[shown], low[shown], high[shown], color=shade, alpha=0.2, linewidth=0)
        ax.plot(one.depth[shown], middle[shown], "o-", color=shade, markersize=3.5, linewidth=1.2)
        below.plot(one.depth, 100 * one.dead, "o-", color=shade, markersize=3, linewidth=1.2)
        if float(one.dead_at_one_point.max()):
            below.plot(one.depth, 100 * one.dead_at_one_point, "x", color=shade, markersize=5)
    below.plot(data.depth, 100 * data.predicted_dead, ":", color="black", linewidth=1.4)
    below.text(
        float(data.depth[-1]), 50, "crosses: at one point; dotted: $1 - 2^{-L}$", ha="right", va="center", size=8
    )
    ax.set_yscale("symlog", linthresh=1)
    ax.set(xscale="log", ylabel=r"$|\partial$Loss$/\partial h_1|$")
    powers(ax)
    ax.set_title("at the first layer, against depth, torch's init", loc="left")
    ax.tick_params(labelbottom=False)
    below.set(xscale="log", xlabel="total depth $L$", ylabel="dead, %", ylim=(-8, 108))


def draw_rates(data: xarray.Dataset, ax: plt.Axes) -> None:
    """Draw the fitted rates at single points with their intervals, and theory as ticks."""
    inits, names, words = list(dict.fromkeys(data.init.values.tolist())), list(LABELS), -2.9
    for case in range(data.case.size):
        name, init, place = (str(data[key].values[case]) for key in ("architecture", "init", "place"))
        if place == "interval":
            continue
        y, shade = -inits.index(init) - 0.16 * (names.index(name) - 2), st.plots.colour(name)
        mark = "o" if place == "x = 1" else "<"
        if case in data.rated:
            one = data.sel(rated=case)
            ax.plot([float(one.low), float(one.high)], [y, y], color=shade, linewidth=2.2, solid_capstyle="butt")
            ax.plot(float(one.rate), y, mark, color=shade, markersize=4, markeredgewidth=0)
        else:
            ax.plot(words, y, mark, color=shade, markersize=4, fillstyle="none")
            law = str(data.law.values[case])
            ax.text(words * 0.85, y, "all dead" if law == "dead" else law, fontsize=7, va="center", color=shade)
        if case in data.known and np.isfinite(theory := float(data.predicted.sel(known=case))):
            ax.plot(theory, y, "|", color="black", markersize=8, markeredgewidth=1.1, zorder=5)
    for row in range(len(inits) - 1):
        ax.axhline(-row - 0.5, color="#E4E4E4", linewidth=0.6)
    ax.grid(visible=False, axis="y")
    ax.axvline(0, color="#999999", linewidth=0.8, zorder=0)
    ax.set_xscale("symlog", linthresh=0.1)
    ticks = (-1, -0.1, -0.05, 0, 0.05, 0.1, 1)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xlim(-4, 1)
    ax.set_yticks([-i for i in range(len(inits))], inits)
    ax.set_ylim(0.5 - len(inits), 0.5)
    ax.set_xlabel("rate of the log norm a layer, at one point")
    ax.set_title(f"fitted rates along the layers, depth {data.attrs['depth']}", loc="left")
    grey = {"color": "#555555", "linestyle": ""}
    keys = [
        plt.Line2D([], [], marker="o", markersize=4, label="x = 1", **grey),
        plt.Line2D([], [], marker="<", markersize=4, label="x = -1", **grey),
        plt.Line2D([], [], marker="|", markersize=8, label="theory", **(grey | {"color": "black"})),
    ]
    ax.legend(handles=keys, loc="lower left")


def draw_training(data: xarray.Dataset, ends: plt.Axes, ratio: plt.Axes) -> None:
    """Draw first and last layer, and their ratio, along training."""
    iteration = np.maximum(data.iteration, 0.5)
    for start in data.start.values:
        one, shade = data.sel(start=start), SHADES[start]
        for end, style in (("first layer", "-"), ("last layer", "--")):
            ends.plot(iteration, one.log10_norm.sel(end=end).median("seed"), style, color=shade, linewidth=1.3)
        low, middle, high = np.quantile(one.log10_ratio, LEVELS, axis=1, method="inverted_cdf")
        ratio.fill_between(iteration, low, high, color=shade, alpha=0.22, linewidth=0)
        ratio.plot(iteration, middle, color=shade, linewidth=1.5)
    ratio.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    for ax in (ends, ratio):
        ax.set_yscale("symlog", linthresh=1)
        ax.set(xscale="log", xlabel="iteration")
        powers(ax)
    keys = [plt.Line2D([], [], color="#555555", linestyle=v, label=k) for k, v in (("first", "-"), ("last", "--"))]
    ends.legend(handles=keys, title="layer", loc="lower left", bbox_to_anchor=(0, 0.15))
    ends.set_ylim(top=0.5)
    ends.set_title(f"gradient norm in training, depth {data.attrs['depth']}", loc="left")
    ratio.set_title("first layer over last layer", loc="left")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
