"""How does a residual chain fold a line into sin(x), layer by layer, and what can it not fold a line into?

Question. A step h <- h + wb phi(wa h + ba) + bb bends the picture at one height: all above (or below) the kink is
stretched, flattened or folded over. What does a trained chain do with its steps? And can such a chain "fit any
function", as the article says?

Method. Many seeds are trained on sin(x). The best is drawn after each step, exactly: its knots are found, not sampled.
Then chains are trained on other functions. A chain of one neuron takes its whole range on some stretch where it is
monotone (each step is monotone or V-shaped; of a V keep the larger side), and so does every uniform limit of chains. A
function that goes down by D on every stretch from near its minimum to near its maximum is therefore D/2 or more from
every chain somewhere, whatever the depth. This bound is computed on a fine grid, less what the function can change
between two points of it.

Reading. a: the line after each step, from the top down; dots are the folds that the step adds, dashed grey is sin(x).
b, c: targets dashed, the fit with the least maximal error in colour. d: the largest error of every seed, a dot each;
the black bar is the bound, where there is one. The GIF shows the steps in motion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import stability as st
import study

INTERVAL = (-3, 3)
ARCHITECTURE = "residual2_prelu"
TARGETS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sin x": torch.sin,
    "|x|": torch.abs,
    "exp(-x^2) cos 5x": lambda x: torch.exp(-(x**2)) * torch.cos(5 * x),
    "x + 1.5 sin 3x": lambda x: x + 1.5 * torch.sin(3 * x),
}
FORMULAS = dict(zip(TARGETS, ("$\\sin x$", "$|x|$", "$e^{-x^2}\\cos 5x$", "$x + 1.5\\,\\sin 3x$"), strict=True))
HARDEST = "x + 1.5 sin 3x"
DASHED = {"color": "#777777", "linestyle": (0, (4, 2)), "linewidth": 1}
#: Errors below are drawn here.
LEAST_ERROR = 1e-4


@dataclass(frozen=True)
class Settings(study.Settings):
    steps: int = 7  # Depth of the chain that is drawn step by step.
    depth: int = 30  # Depth of the chains that are trained on every target.
    seeds: int = 128  # Chains of each.
    iterations: int = 3000  # Of Adam.


def train(name: str, depth: int, settings: Settings) -> xarray.Dataset:
    chain = st.Chain(ARCHITECTURE, depth, seeds=settings.seeds, root=settings.seed)
    st.train(chain, st.Task(TARGETS[name], INTERVAL), iterations=settings.iterations, progress=False)
    x = torch.linspace(*INTERVAL, 4001, dtype=torch.float64)
    errors = (chain(x) - TARGETS[name](x)).abs().amax(1).detach().numpy()
    return xarray.Dataset({"table": (("seed", "step", "column"), chain.table()), "reached": ("seed", errors)})


def best(run: xarray.Dataset) -> np.ndarray:
    return run.table.isel(seed=int(np.argmin(run.reached.to_numpy()))).to_numpy()


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    drawn = parts.part("step by step", train, "sin x", settings.steps, settings)
    runs = [parts.part(name, train, name, settings.depth, settings) for name in TARGETS]
    x = np.linspace(*INTERVAL, 600)
    bounds = [st.references.nearest_chain(st.Task(target, INTERVAL, points=2001)) for target in TARGETS.values()]
    found = {
        "table": (("step", "column"), best(drawn), {"long_name": "the chain that is drawn step by step"}),
        "fit": (("target", "x"), np.stack([st.restrict(best(run), INTERVAL)(x) for run in runs])),
        "wanted": (("target", "x"), np.stack([f(torch.from_numpy(x)).numpy() for f in TARGETS.values()])),
        "reached": (("target", "seed"), np.stack([run.reached for run in runs]), {"long_name": "largest error"}),
        "bound": ("target", bounds, {"long_name": "no chain is nearer than this"}),
        "reached_by_steps": ("seed", drawn.reached.to_numpy(), {"long_name": "the same at the depth drawn"}),
    }
    axes = {"target": list(TARGETS), "x": x}
    return xarray.Dataset(found, axes, {"depth": settings.depth, "architecture": ARCHITECTURE})


def spread(values: xarray.DataArray) -> str:
    low, middle, high = values.quantile([0.05, 0.5, 0.95]).to_numpy()
    return f"median {middle:.2g} (5 to 95 % of {values.size} seeds: {low:.2g} to {high:.2g})"


def claims(data: xarray.Dataset) -> list[study.Row]:
    count, hardest = st.count(data.table.to_numpy(), INTERVAL), data.sel(target=HARDEST)
    below, limit = int((data.reached < data.bound).sum()), float(hardest.bound)
    free = data.sel(target=data.bound == 0)
    found = ", ".join(f"{one.target.item()}: best {float(one.min()):.2g}, {spread(one)}" for one in free.reached)
    missed = int((free.reached.median("seed") > 0.1).sum())
    return [
        (
            "A residual chain folds a line into sin(x), one fold after the other", "Peng 2017",
            f"{len(data.table)} steps make {count.folds} folds and {count.turns} turns; largest error "
            f"{float(data.reached_by_steps.min()):.2g} for the best, {spread(data.reached_by_steps)}",
            count.turns == 2,
        ),
        (
            "Such a chain can fit any function, if it is deep enough", "Peng 2017",
            f"{HARDEST}: no chain of any depth is nearer than {limit:.2f}; the best of {data.sizes['seed']} of depth "
            f"{data.depth} is at {float(hardest.reached.min()):.2f}, {spread(hardest.reached)}",
            limit == 0,
        ),
        (
            "No chain is nearer to a target than the bound of its monotone stretch", "theory",
            f"{below} of {data.reached.size} fits are below it (must be 0)", below == 0,
        ),
        (
            "Where nothing forbids a fit, training finds it", "common practice",
            f"{found}; the median is above 0.1 on {missed} of {free.sizes['target']} targets",
            "refined" if missed else "held",
        ),
    ]  # fmt: skip


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;ac;ad", height=6, width_ratios=(1, 1))
    table, limit = data.table.to_numpy(), float(data.bound.sel(target=HARDEST))
    # Beside the target that no chain can follow the one that is hardest to train.
    trained = data.reached.min("seed").drop_sel(target=HARDEST)
    draw_steps(table, axes["a"])
    draw_fit(data.sel(target=HARDEST), axes["b"])
    draw_fit(data.sel(target=trained.idxmax("target")), axes["c"])
    draw_errors(data, axes["d"])
    axes["c"].set_xlabel("x")
    forbidden = f"but no chain comes closer to {FORMULAS[HARDEST]} than {limit:.2f}" if limit > 0 else "and into any"
    folds = number(st.count(table, INTERVAL).folds, "fold")
    text = f"{len(table)} steps fold a line into {FORMULAS['sin x']} with {folds}, {forbidden}."
    return st.plots.headline(figure, text)


def number(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def draw_steps(table: np.ndarray, ax: Axes) -> None:
    shade, x = st.plots.colour(ARCHITECTURE), np.linspace(*INTERVAL, 601)
    floor, ends, before = np.zeros(x.size), {}, np.array([])
    for k in range(len(table) + 1):
        f = st.PiecewiseLinear(INTERVAL, INTERVAL) if k == 0 else st.restrict(table[:k], INTERVAL)
        zero = float((floor - f(x)).min()) - 0.7  # so low that it does not touch the one above
        floor, folds, count = zero + f(x), f.folds().astype(float), f.count()
        new, before = np.setdiff1d(folds, before), np.union1d(folds, before)
        ax.plot(x, floor, color=shade)
        ax.plot(new, zero + f(new) if new.size else [], "o", color="#D55E00", markersize=3.5)
        words = f"step {k}: {number(count.folds, 'fold')}, {number(count.turns, 'turn')}" if k else "the line"
        ends[words] = float(floor[-1])
    ax.plot(x, zero + np.sin(x), **DASHED)
    ax.set(xlim=INTERVAL, xlabel="x", ylabel="h(x) after each step, one below the other", yticks=[])
    ax.set_ylim(floor.min() - 0.4, 0)
    st.plots.end_labels(ax, ends)


def draw_fit(one: xarray.Dataset, ax: Axes) -> None:
    ax.plot(one.x, one.fit, color=st.plots.colour(ARCHITECTURE))
    ax.plot(one.x, one.wanted, **DASHED)
    limit = f"no chain is nearer than {float(one.bound):.2f}\n" if float(one.bound) > 0 else ""
    words = f"{limit}best of {one.sizes['seed']}: {float(one.reached.min()):.3g}"
    ax.text(0.03, 0.95, words, transform=ax.transAxes, va="top", fontsize=7)
    low, high = ax.get_ylim()
    ax.set(title=FORMULAS[one.target.item()], xlim=INTERVAL, ylim=(low, high + 0.15 * (high - low)), ylabel="f(x)")


def draw_errors(data: xarray.Dataset, ax: Axes) -> None:
    for place, name in enumerate(data.target.values):
        one = data.sel(target=name)
        errors = np.sort(one.reached.to_numpy())
        beside = place + np.linspace(-0.3, 0.3, errors.size)  # the seeds from the best to the worst
        ax.plot(beside, errors.clip(LEAST_ERROR), ".", color=st.plots.colour(ARCHITECTURE), markersize=2.5)
        if float(one.bound) > 0:
            ax.plot([place - 0.4, place + 0.4], [float(one.bound)] * 2, color="black", linewidth=1.5)
            ax.text(place, 0.75 * float(one.bound), "bound", ha="center", va="top", fontsize=7)
    ax.set(yscale="log", ylabel="largest error", title="every seed, from best to worst")
    ax.set_xticks(range(data.sizes["target"]), [FORMULAS[name] for name in data.target.values])
    ticks = [LEAST_ERROR * 10**k for k in range(6)]
    ax.set_yticks(ticks, [r"$\leq 10^{-4}$", *(rf"$10^{{{k}}}$" for k in range(-3, 2))])
    ax.set_ylim(LEAST_ERROR / 2, max(10.0, 1.5 * float(data.reached.max())))


def animate(data: xarray.Dataset, folder: Path) -> list[Path]:
    """Write the folding as a GIF, of full runs."""
    if data.attrs["quick"]:
        return []
    table, between, moments = data.table.to_numpy(), 8, [(0, st.restrict([[1.0, 0, 0, 0, 0, 1]], INTERVAL))]
    for k in range(len(table)):
        for part in np.linspace(0, 1, between + 1)[1:]:  # each step grows from the identity
            partial = table[: k + 1].copy()
            partial[k, 3:5] *= part
            moments.append((k + 1, st.restrict(partial, INTERVAL)))
    heights, x = np.concatenate([f.values.ravel() for _, f in moments]).astype(float), np.linspace(*INTERVAL, 400)
    limits = {"xlim": INTERVAL, "ylim": (heights.min() - 0.1, heights.max() + 0.1)}
    with mpl.rc_context(st.plots.STYLE):
        figure = Figure(figsize=(4.2, 3.2), dpi=90)
        canvas, ax, frames = FigureCanvasAgg(figure), figure.subplots(), []
        for step, f in moments:
            ax.clear()
            ax.plot(x, np.sin(x), **DASHED)
            st.plots.function(f, ax, colour=st.plots.colour(ARCHITECTURE))
            ax.set(**limits, ylabel="h(x)", xlabel="x", title=f"step {step}")
            canvas.draw()
            figure.set_layout_engine("none")  # as the first frame is laid out
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    palette = frames[-1].quantize(64, Image.Quantize.MAXCOVERAGE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    times = [80] * len(others) + [1000]  # milliseconds
    path = folder / "folding.gif"
    first.save(path, save_all=True, append_images=others, duration=times, loop=0)
    return [path]


if __name__ == "__main__":
    study.main(Settings(), Settings(depth=20, seeds=32, iterations=400), measure, draw, claims, animate)
