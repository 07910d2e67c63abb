"""Why does a residual block pass two layers by, and not one or three?

Question. A block is h <- h + branch(h), and its branch has one affine map, two or three. Is two special: at the start,
for signals and gradients, for updates, for folds, or for the error after training?

Method. Hessian: linear chains of one neuron are fitted to 1.7 x from two starts at which every block is the identity:
all maps zero, or the last map of each branch alone. All eigenvalues are taken. Signals: fresh ReLU chains of width 32,
initialised as He et al., with branches times L^0, L^-1/2 or L^-1; growth of the state on its way forward and of the
gradient on its way back. The branch of one map ends in its ReLU; beside it stands one whose ReLU comes first. Updates:
tanh chains of width 16 take one sign step (Adam's first) that changes the output by about 30 %. Beside it every layer
is made linear in its update; what this changes is the share of second and higher order within layers. Training: PReLU
chains of one neuron fit sin(x) on (-3, 3): by Adam from two starts for all bypasses, by Levenberg-Marquardt (LM) for
one and two maps, which the method takes, and by growth for two, the only ones that it takes. ReLU chains of one and two
maps are those of the article. Folds are counted exactly for one and two maps, and followed in float64 for three.

Reading. a: condition number of the Hessian at zero (solid) and with the last map alone zero (dashed, median). b: growth
of signals (lines) and gradients (crosses) against depth, medians; the style of a line is the power of L; green is one
map behind its ReLU. c: share of higher order within layers, median; the style is the power of L. d: mean square error
after training against depth, medians: Adam (solid, the better of two starts), LM (dashed), growth (dotted); grey, the
best monotone function. Figure bypass_folds: a, folds before (dotted) and after (solid) Adam from torch's start; b, the
norm of the gradient at the starts of a.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import intervals
import stability as st
import study
from bypass_cells import (
    FIRST,
    INTERVAL,
    MAPS,
    RUNS,
    STARTS,
    Settings,
    at_start,
    growth,
    second_order,
    trained,
)

SHADES = {"1": "#E69F00", "2": "#0072B2", "3": "#CC79A7", FIRST: "#009E73"}
POWERS = {0.0: "-", -0.5: "--", -0.75: "-.", -1.0: ":"}
#: How far growth is drawn, in powers of ten.
MOST_GROWTH = 5.0


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    torch.set_num_threads(1)  # matrices this small are multiplied faster by one
    blocks, depths = [*map(str, MAPS), FIRST], list(settings.depths)
    groups = {
        "start": parts.cells(at_start, settings, start=STARTS, maps=MAPS, depth=settings.hessian_depths),
        "growth": parts.cells(growth, settings, block=blocks, power=[0.0, -0.5, -1.0], depth=depths),
        "update": parts.cells(
            second_order, settings, maps=MAPS, power=[-0.5, -0.75, -1.0], depth=settings.updated_depths
        ),
        "trained": parts.cells(trained, settings, run=list(RUNS), depth=depths),
    }
    return xarray.DataTree.from_dict(groups)


def adam(trained: xarray.Dataset) -> dict[str, xarray.DataArray]:
    """Return by bypass the median errors of PReLU chains by Adam from the better start."""
    medians = trained.error.median("seed")
    return {str(m): medians.sel(run=[f"{m} Adam", f"{m} Adam, identity"]).min("run") for m in MAPS}


def claims(data: xarray.DataTree) -> list[study.Claim]:
    start, grown, update, trained = (data[name].to_dataset() for name in ("start", "growth", "update", "trained"))
    zero, last = (start.sel(start=name).isel(depth=-1) for name in STARTS)
    condition, deepest = start.condition.median("seed"), int(start.depth[-1])
    alone = bool((abs(condition.sel(start=STARTS[0], maps=2) - 1) < 1e-6).all())
    freed = [study.spread(last.condition.sel(maps=m).fillna(np.inf)) for m in (2, 3)]
    stuck = float(condition.sel(start=STARTS[1], maps=2)[-1] / condition.sel(start=STARTS[1], maps=2)[0]) > 2
    leaves = [study.spread(last.gradient.sel(maps=m)) for m in MAPS]
    others = bool((last.gradient.sel(maps=[1, 3]) > 0).all())
    middle = grown.isel(depth=-1).sel(power=-0.5).signal
    high = {name: float(middle.sel(block=name).median()) > 0.5 for name in middle.block.values}
    said = ", ".join(f"{name}: {study.spread(middle.sel(block=name))}" for name in middle.block.values)
    logs, shares = np.log(update.depth), np.log(update.share.transpose("depth", "seed", ...))
    powers = {(p, m): intervals.slope(logs, shares.sel(power=p, maps=m)) for p in update.power.values for m in MAPS}
    told = "; ".join(
        f"1 / L^{-p:g}: " + ", ".join("{:.2f} +- {:.2f}".format(*powers[p, m]) for m in MAPS)
        for p in update.power.values
    )
    as_said = all(abs(middle - (-p - 1)) < half + 0.1 for (p, _), (middle, half) in powers.items())
    steeper = all(-2.5 * (1 + p) - 0.4 < middle < -(1 + p) + 0.1 for (p, _), (middle, _) in powers.items())
    best, medians = adam(trained), trained.error.median("seed")
    wins = (best["2"] < best["1"]) & (best["2"] < best["3"])
    shown = ", ".join(
        f"{int(d)}: " + " / ".join(f"{float(best[b].sel(depth=d)):.1e}" for b in best) for d in wins.depth
    )
    relu, thin = float(trained.error.sel(run="1 Adam, ReLU").min()), float(medians.sel(run="1 LM").min())
    few = trained[["before", "after"]].isel(depth=-1).median("counted")
    folds = {m: [float(few[when].sel(run=f"{m} Adam")) for when in ("before", "after")] for m in MAPS}
    more = [folds[m][k] < folds[m + 1][k] for m in (1, 2) for k in (0, 1)]
    rows = (
        (
            "The condition number of the Hessian at the start does not grow with depth for a bypass of two alone",
            "1611.01186",
            f"depth {deepest}, all maps zero: {float(zero.condition.sel(maps=1)[0]):.4g} (one), "
            f"{float(zero.condition.sel(maps=2)[0]):.4g} (two, {100 * float(zero.negative.sel(maps=2)[0]):.0f} % of "
            f"the eigenvalues negative: a saddle), a Hessian of 0 (three); "
            f"last map zero: {freed[0]} (two), {freed[1]} (three)",
            ("refined" if stuck else "held") if alone else "refuted",
        ),
        (
            "A bypass of two with its outer maps at zero has identity steps and a gradient to leave them", "design",
            f"depth {deepest}, norm of the gradient for one, two and three maps: {'; '.join(leaves)}; with all maps "
            "zero " + "; ".join(f"{float(zero.gradient.sel(maps=m)[0]):.3g}" for m in MAPS),
            ("refined" if others else "held") if bool((last.gradient.sel(maps=2) > 0).all()) else "refuted",
        ),
        (
            "The bypass decides between 1 / L and 1 / sqrt(L)", "2206.06929",
            f"log10 of the growth of signals at depth {int(grown.depth[-1])} under 1 / sqrt(L), {said}",
            ("refined" if not high[FIRST] else "held") if high["1"] and not high["2"] else "refuted",
        ),
        (
            "Under 1 / L^a the share of higher order within layers falls as L^(a - 1)", "2206.06929, 2105.12245",
            f"tanh, powers of L for one, two and three maps, {told}",
            "held" if as_said else "refined" if steeper else "refuted",
        ),
        (
            "A bypass of two fits better than one of one or three", "Peng 2017",
            f"Adam on sin(x), medians by number of blocks for one / two / three maps, {shown}",
            "held" if wins.all() else "refined" if wins.any() else "refuted",
        ),
        (
            "A bypass of one can only grow", "Peng 2017",
            f"with ReLU the best error is {relu:.2g}; with PReLU, whose slopes may be negative, LM comes to {thin:.2g}",
            "held" if thin > 0.5 else "refined" if relu > 0.5 else "refuted",
        ),
        (
            "Chains of more maps fold more often", "common practice",
            f"depth {int(trained.depth[-1])}, median folds before and after Adam: "
            + ", ".join(f"{m}: {b:.3g} and {a:.3g}" for m, (b, a) in folds.items()),
            "held" if all(more) else "refined" if any(more) else "refuted",
        ),
    )  # fmt: skip
    return [study.Claim(*row) for row in rows]


def draw(data: xarray.DataTree) -> dict[str, Figure]:
    start, grown, update, trained = (data[name].to_dataset() for name in ("start", "growth", "update", "trained"))
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    draw_starts(axes["a"], start.condition, "condition number of the Hessian")
    corner = {"transform": axes["a"].transAxes, "fontsize": 7}
    axes["a"].text(0.03, 0.05, "3: the Hessian is 0, or singular", color=SHADES["3"], **corner)
    for power, style in POWERS.items():
        for block, shade in SHADES.items():
            if power in grown.power:
                one = grown.sel(block=block, power=power).median("seed")
                axes["b"].plot(one.depth, one.signal, linestyle=style, color=shade)
                axes["b"].plot(one.depth, one.back, "x", color=shade, markersize=4)
            if power in update.power and block != FIRST:
                share = update.share.sel(maps=int(block), power=power).median("seed")
                axes["c"].plot(share.depth, share, linestyle=style, color=shade)
    axes["b"].set(ylim=(-0.3, MOST_GROWTH), ylabel=r"$\log_{10}$ of the growth")
    axes["c"].set(yscale="log", ylabel="share of higher order")
    middle = grown.sel(power=-0.5).isel(depth=-1).signal.median("seed")
    words = {"1 map": "1", "2, 3 maps": "2", "1 map,\nReLU first": FIRST}
    st.plots.end_labels(
        axes["b"], {w: float(middle.sel(block=b)) for w, b in words.items()}, {w: SHADES[b] for w, b in words.items()}
    )
    axes["b"].set_title("solid 1, dashed $L^{-1/2}$, dotted $L^{-1}$")
    axes["c"].set_title("dashed $L^{-1/2}$, dotted $L^{-1}$, between: $L^{-3/4}$", fontsize=7, loc="right")
    medians, ends = trained.error.median("seed"), {}
    lines = [(f"{b}, Adam", b, "-", one) for b, one in adam(trained).items()]
    lines += [(f"{b}, LM", b, "--", medians.sel(run=f"{b} LM")) for b in ("1", "2")]
    for name, block, style, one in [*lines, ("2, growth", "2", ":", medians.sel(run="2 growth"))]:
        axes["d"].plot(one.depth, one, style, color=SHADES[block], marker=".", markersize=4)
        ends[name] = float(one[-1])
    task = st.Task(torch.sin, INTERVAL)
    axes["d"].axhline(st.references.best_monotone(task), color="#999999", linewidth=0.8)
    axes["d"].set(yscale="log", ylabel="mean square error")
    for name in "abcd":
        scale_depths(axes[name], {"a": start, "c": update}.get(name, trained).depth.values)
    st.plots.end_labels(axes["d"], ends, {name: SHADES[name[0]] for name in ends})
    best, depth = adam(trained), int(trained.depth[-1])
    st.plots.headline(figure, headline_of(data, best, depth))
    return {"": figure, "folds": draw_folds(start, trained)}


def headline_of(data: xarray.DataTree, best: dict[str, xarray.DataArray], depth: int) -> str:
    zero = data["start"].condition.sel(start=STARTS[0]).isel(depth=-1, seed=0)
    at, errors = int(zero.depth), ", ".join(f"{float(best[b][-1]):.2g}" for b in best)
    middle = data["growth"].signal.sel(power=-0.5).isel(depth=-1).median("seed")
    one, other = (10 ** float(middle.sel(block=b)) for b in ("1", FIRST))
    count = sum(all(best["3"][k] < best[b][k] for b in ("1", "2")) for k in range(best["3"].size))
    saddle, thin = (float(zero.sel(maps=m)) for m in (2, 1))
    return (
        f"Two maps are special at zero alone, a saddle (condition {saddle:.3g}; {thin:.0f} with one at depth {at}); "
        f"under $L^{{-1/2}}$ one map grows signals by {one:.0f}, behind its ReLU by {other:.1f}; by Adam, three maps "
        f"fit best at {count} of {best['3'].size} depths ({errors} with 1, 2 and 3 maps at {depth})."
    )


def scale_depths(ax: Axes, depths: np.ndarray) -> None:
    ax.set(xscale="log", xlabel="depth L")
    st.plots.ticks(ax, x=depths)


def draw_starts(ax: Axes, values: xarray.DataArray, label: str) -> None:
    """Draw a quantity of both starts against depth."""
    for start, style in zip(STARTS, ("-", "--"), strict=True):
        for maps in MAPS[: 3 if start == STARTS[1] else 2]:
            one = values.sel(start=start, maps=maps).median("seed")
            one = one.where(np.isfinite(one) & (one > 0))
            ax.plot(one.depth, one, style, color=SHADES[str(maps)], marker=".", markersize=4)
    ax.set(yscale="log", ylabel=label, title="solid: all maps zero, dashed: last")
    if values.name == "condition":
        ax.set_ylim(0.15, None)


def draw_folds(start: xarray.Dataset, trained: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab", height=2.9)
    ends = {}
    for maps in MAPS:
        for name, style in (("before", ":"), ("after", "-")):
            one = trained[name].sel(run=f"{maps} Adam").median("counted")
            axes["a"].plot(one.depth, one, style, color=SHADES[str(maps)], marker=".", markersize=4)
            ends[f"{maps}, {name}"] = float(one[-1])
    axes["a"].set(yscale="log", ylabel="folds on (-3, 3)")
    draw_starts(axes["b"], start.gradient, "norm of the gradient")
    for name, depths in (("a", trained.depth), ("b", start.depth)):
        scale_depths(axes[name], depths.values)
    shown = start.gradient.median("seed").where(lambda one: one > 0)
    least, most = float(shown.min()) / 1.5, float(shown.max()) * 1.5
    axes["b"].set_ylim(least, most)
    st.plots.ticks(axes["b"], y=[y for y in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if least < y < most])
    st.plots.end_labels(axes["a"], ends, {name: SHADES[name[0]] for name in ends})
    moves = (start.gradient.isel(depth=-1) > 0).all("seed")
    leave = [", ".join(str(m) for m in MAPS if moves.sel(start=name, maps=m)) or "none" for name in STARTS]
    st.plots.headline(
        figure,
        f"At depth {int(trained.depth[-1])} Adam leaves {ends['1, after']:g}, {ends['2, after']:g} and "
        f"{ends['3, after']:g} folds with 1, 2 and 3 maps. There is a gradient at the start for {leave[0]} "
        f"with all maps at zero, and for {leave[1]} with the last alone at zero.",
    )
    return figure


if __name__ == "__main__":
    quick = Settings(
        hessian_depths=(2, 8), depths=(3, 10), updated_depths=(3, 6), seeds=3, trained_seeds=3, counted_seeds=2,
        iterations=10,
    )  # fmt: skip
    study.main(Settings(), quick, measure, draw, claims)
