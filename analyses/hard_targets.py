"""Which functions can a chain of one neuron a layer be trained to, and why do those that fail fail?

Question. The article fits sin(x) alone. What happens on other functions: with a corner, a jump, many turns or noise,
and on one that no such chain can follow? Where a fit fails, is it the chain or the training that cannot?

Method. Residual PReLU chains are trained on 256 points of (-3, 3) by four methods. Adam starts as torch does,
Levenberg-Marquardt from evenly spread kinks. Growth starts half of the members from one step, and half from a third of
the depth, drawn as He et al. do; with homotopy from five steps, while the target moves from x to what is wanted. Two
targets get a path of their own as well. For the sawtooth with jumps the peaks of fitted triangle waves move to one side
in stages. For x + 1.5 sin 3x chains are built with the turns and the spikes that they need, and are grown from there.
Errors are mean squares at 10,000 other points; those of the noisy sample are against the sine without noise. A member
has failed if it leaves more than 1 % of the target's variance. Of members of growth that failed we ask: do they stand
still, so that 100 more iterations of Levenberg-Marquardt lower the training error by less than 1 %? Are they within
10 % of the error of the best monotone function? How many turns have they? Does a new start with homotopy heal them? And
can a chain follow the target at all? A chain takes its whole range on some monotone stretch; which share of its range
the target takes on one is found on the grid.

Reading. a: errors by target and method, a dot a member, a bar the median; those under the axis are drawn at its foot.
Other panels show fits by the best of the four methods: its best member (bold), its median member (dotted), all others
(thin), the target (dashed grey) and the best fit by a path of its own (wine red). The figure of failures counts the
turns of failed members and says what becomes of them, with 95 % intervals (Wilson).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import stability as st
import study

INTERVAL = (-3, 3)
ARCHITECTURE = "residual2_prelu"
Function = Callable[[Tensor], Tensor]


def teeth(peak: float) -> Function:
    """Return five teeth from 0 up to 1 and back, each with its peak at that share of its width; at 1 they jump back."""

    def wave(x: Tensor) -> Tensor:
        u = ((x + 3) / 6 * 5) % 1
        return u / peak if peak == 1 else torch.where(u < peak, u / peak, (1 - u) / (1 - peak))

    return wave


TARGETS: dict[str, Function] = {
    "|x|": torch.abs,
    "exp(-x^2)": lambda x: torch.exp(-(x**2)),
    "step": lambda x: (x > 0).double(),
    "sin 2x": lambda x: torch.sin(2 * x),
    "exp(-x^2) cos 5x": lambda x: torch.exp(-(x**2)) * torch.cos(5 * x),
    "triangle wave": teeth(0.5),
    "sawtooth": teeth(1.0),
    "x + 1.5 sin 3x": lambda x: x + 1.5 * torch.sin(3 * x),
    "noisy sin x": torch.sin,
}
SPIKED, FOLDED = "x + 1.5 sin 3x", ("sin 2x", "exp(-x^2) cos 5x")
WRAPPED = {name: name.replace(" ", "\n", 1) for name in (FOLDED[1], "triangle wave", "noisy sin x")}
WRAPPED |= {SPIKED: "x +\n1.5 sin 3x"}
DIMS = ("seed", "step", "column")
METHODS, OWN = ("Adam", "Levenberg-Marquardt", "growth", "growth, homotopy"), "own path"
SHADES = dict(zip((*METHODS, OWN), ("#999999", "#009E73", "#0072B2", "#CC79A7", "#882255"), strict=True))
#: The fresh points, which are the middles of equal cells, and those at which fits are drawn.
GRID = INTERVAL[0] + (INTERVAL[1] - INTERVAL[0]) * (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
SHOWN = torch.linspace(*INTERVAL, 601, dtype=torch.float64)
FINE = {name: st.Task.from_samples(GRID, f(GRID)) for name, f in TARGETS.items()}
#: A member has failed where more than this share of the variance is left.
FAILED = 0.01


@dataclass(frozen=True)
class Settings(study.Settings):
    depth: int = 30  # Steps of every chain.
    seeds: int = 32  # Members.
    points: int = 256  # Points of the training.
    adam: int = 2000  # Iterations of Adam.
    growth: int = 300  # Iterations of growth.
    spikes: int = 8  # Chains that are built with spikes of several widths.


def task_of(name: str, settings: Settings) -> st.Task:
    task = st.Task(TARGETS[name], INTERVAL, settings.points)
    if not name.startswith("noisy"):
        return task
    noise = torch.randn(settings.points, dtype=torch.float64, generator=torch.Generator().manual_seed(2017))
    return st.Task.from_samples(task.x, task.y + 0.1 * noise)


def fitted(chain: st.Chain, task: st.Task, method: str, iterations: int, **options: float) -> np.ndarray:
    st.train(chain, task, method, iterations, progress=False, **options)
    return chain.table()


def grown(task: st.Task, settings: Settings, members: Sequence[int], homotopy: float = 0.0) -> np.ndarray:
    """Return tables grown from the members' starts: the first half from one step, the others from more."""
    half, tables = settings.seeds // 2, []
    for init, steps, late in (("uniform", 1, False), ("he", settings.depth // 3, True)):
        chosen = [member for member in members if (member >= half) == late]
        if chosen:
            chain = st.Chain(ARCHITECTURE, settings.depth, seeds=chosen, init=init, root=settings.seed)
            tables.append(fitted(chain, task, "growth", settings.growth, start=steps, homotopy=homotopy))
    return np.concatenate(tables)


def trained(name: str, method: str, settings: Settings) -> xarray.Dataset:
    task, init = task_of(name, settings), "pytorch" if method == "Adam" else "knots"
    chain = st.Chain(ARCHITECTURE, settings.depth, seeds=settings.seeds, init=init, root=settings.seed)
    if method == "growth":
        table = grown(task, settings, range(settings.seeds))
    elif method == "growth, homotopy":
        table = fitted(chain, task, "growth", settings.growth, start=5, homotopy=0.3)
    else:
        table = fitted(chain, task, *(("adam", settings.adam) if method == "Adam" else ("levenberg_marquardt", 200)))
    return xarray.Dataset({"table": (DIMS, table)})


def from_triangles(tables: np.ndarray, settings: Settings) -> xarray.Dataset:
    """Return fits of the sawtooth: the peaks of fitted triangle waves move to one side in stages."""
    chain = st.Chain.from_table(tables, ARCHITECTURE)
    for peak in (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.88, 0.91, 0.94, 0.96):
        fitted(chain, st.Task(teeth(peak), INTERVAL, settings.points), "levenberg_marquardt", 20)
    table = fitted(chain, task_of("sawtooth", settings), "levenberg_marquardt", 60)
    return xarray.Dataset({"table": (DIMS, table)})


def with_spikes(settings: Settings) -> xarray.Dataset:
    """Return chains that follow the turns of x + 1.5 sin 3x, grown from built ones.

    Its middle rise is half of its range. A spike at both ends takes the rise to the whole, and then there is a chain.
    """
    f, turn = TARGETS[SPIKED], math.acos(-2 / 9) / 3
    right = torch.tensor([turn, turn, turn, 2 * math.pi / 3 - turn, 2 * math.pi / 3 + turn, 3], dtype=torch.float64)
    heights = f(right).numpy()
    heights[1] = heights[4]
    tables = []
    for width in np.geomspace(0.2, 0.01, settings.spikes):
        knots = right.numpy() + np.array([-width, 0, width, 0, 0, 0])
        table = st.construct(np.append(-knots[::-1], knots), np.append(-heights[::-1], heights))
        rest = np.tile([1.0, 1, 0, 0, 0, 0.25], (settings.depth - len(table), 1))
        tables.append(np.concatenate([table, rest]))
    chain = st.Chain.from_table(np.stack(tables), ARCHITECTURE)
    task = st.Task(f, INTERVAL, 4 * settings.points)  # so many that a spike does not fall between them
    return xarray.Dataset({"table": (DIMS, fitted(chain, task, "growth", settings.growth, start=len(table)))})


def values(tables: np.ndarray, x: Tensor) -> np.ndarray:
    return st.evaluate(st.Chain.from_table(tables, ARCHITECTURE), x).numpy()


def mean_squares(tables: np.ndarray, task: st.Task) -> np.ndarray:
    return ((values(tables, task.x) - task.y.numpy()) ** 2).mean(axis=1)


def turns_and_share(y: np.ndarray) -> tuple[int, float]:
    """Return how often a function on a grid turns, and the share of its range on its best monotone stretch."""
    y = y[np.append(True, np.diff(y) != 0)]
    turns = np.flatnonzero(np.diff(np.sign(np.diff(y)))) + 1
    return len(turns), float(np.abs(np.diff(y[[0, *turns, -1]])).max() / np.ptp(y))


def failures(name: str, tables: np.ndarray, settings: Settings) -> dict[str, float]:
    """Return how many members of growth failed, what becomes of them, and the turns of these and of the others."""
    task, fine = task_of(name, settings), FINE[name]
    errors, limit = mean_squares(tables, fine), FAILED * st.references.constant(fine)
    failed, count = errors > limit, st.count(tables, INTERVAL)
    found = {"failed": float(failed.sum()), "still": 0.0, "healed": 0.0, "as_monotone": 0.0}
    for label, chosen in (("failed", failed), ("good", ~failed)):
        for kind in ("turns", "folds"):
            numbers = np.array(getattr(count, kind), float)[chosen]
            found[f"{kind}_{label}"] = float(np.median(numbers)) if numbers.size else math.nan
    if failed.any():
        monotone, before = st.references.best_monotone(fine), mean_squares(tables[failed], task)
        more = fitted(st.Chain.from_table(tables[failed], ARCHITECTURE), task, "levenberg_marquardt", 100)
        again = mean_squares(grown(task, settings, np.flatnonzero(failed).tolist(), 0.3), fine)
        found["as_monotone"] = float((abs(errors[failed] - monotone) < 0.1 * monotone).sum())
        found["still"] = float((mean_squares(more, task) > 0.99 * before).sum())
        found["healed"] = float((again <= limit).sum())
    return found


def studied(name: str, found: dict[str, np.ndarray], settings: Settings) -> xarray.Dataset:
    task, fine, ways = task_of(name, settings), FINE[name], list(SHADES)
    each = {kind: np.full((len(ways), settings.seeds), np.nan) for kind in ("error", "loss", "turns", "steepest")}
    for method, tables in found.items():
        place = ways.index(method), slice(len(tables))
        slopes = np.abs(np.diff(values(tables, GRID))) / float(GRID[1] - GRID[0])
        each["error"][place], each["loss"][place] = mean_squares(tables, fine), mean_squares(tables, task)
        each["turns"][place], each["steepest"][place] = st.count(tables, INTERVAL).turns, slopes.max(axis=1)
    method = METHODS[int(np.argmin(np.nanmin(each["error"][:-1], axis=1)))]
    order = np.argsort(each["error"][ways.index(method)])
    best, fits, own = found[method][order[0]], values(found[method], SHOWN), np.full(len(SHOWN), np.nan)
    if OWN in found:
        own = values(found[OWN], SHOWN)[np.nanargmin(each["error"][-1])]
    count, coarse = st.count(best, INTERVAL), st.Task(TARGETS[name], INTERVAL, 2000)
    spline, as_many = (st.references.best_spline(coarse, folds) for folds in (settings.depth, count.folds))
    lines = {"best_fit": fits[order[0]], "median_fit": fits[order[len(order) // 2]], "own_fit": own}
    lines["wanted"] = TARGETS[name](SHOWN).numpy()
    numbers = {"best_method": method, "folds_of_best": count.folds, "turns_of_best": count.turns}
    numbers |= {"constant": st.references.constant(fine), "monotone": st.references.best_monotone(fine)}
    numbers |= {"spline": spline.error, "spline_bound": spline.lower_bound, "spline_of_its_folds": as_many.error}
    numbers["turns_of_target"], numbers["share_of_target"] = turns_and_share(fine.y.numpy())
    numbers["share_of_best"] = turns_and_share(values(best[None], GRID)[0])[1]
    data = xarray.Dataset({kind: (("way", "seed"), found) for kind, found in each.items()}, {"way": ways})
    # Members that are only thin lines need three digits.
    data["fits"] = (("seed", "x"), fits.round(3).astype(np.float32))
    data = data.assign({kind: ("x", line) for kind, line in lines.items()}).assign_coords(x=SHOWN.numpy())
    return data.assign(numbers | failures(name, found["growth"], settings))


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    tables = parts.cells(trained, settings, target=list(TARGETS), way=list(METHODS)).table
    found = {name: {way: tables.sel(target=name, way=way).to_numpy() for way in METHODS} for name in TARGETS}
    triangles = found["triangle wave"]["growth"]
    found["sawtooth"][OWN] = parts.part("sawtooth from triangles", from_triangles, triangles, settings).table.to_numpy()
    found[SPIKED][OWN] = parts.part("chains with spikes", with_spikes, settings).table.to_numpy()
    studies = [parts.part(f"study of {name}", studied, name, found[name], settings) for name in TARGETS]
    data = xarray.concat(studies, xarray.IndexVariable("target", list(TARGETS)))
    return data.assign_attrs(architecture=ARCHITECTURE, depth=settings.depth, points=settings.points)


def spread(errors: xarray.DataArray) -> str:
    least, low, middle, high = errors.dropna("seed").quantile([0, 0.05, 0.5, 0.95]).to_numpy()
    return f"best {least:.1e}, median {middle:.1e} (5 to 95 %: {low:.1e} to {high:.1e})"


def best_of(one: xarray.Dataset) -> xarray.DataArray:
    return one.error.sel(way=one.best_method.item())


def missed(data: xarray.Dataset) -> list[str]:
    """Return on which targets the best member by the four methods leaves too much of the variance."""
    return data.target.values[data.error.sel(way=list(METHODS)).min(("way", "seed")) >= FAILED * data.constant].tolist()


def often_failed(data: xarray.Dataset) -> xarray.Dataset:
    """Return the targets on which more than a tenth of the members of growth fail."""
    return data.isel(target=np.flatnonzero(data.failed > 0.1 * data.sizes["seed"]))


def listed(data: xarray.Dataset, words: Callable[[xarray.Dataset], str]) -> str:
    return "; ".join(f"{name}: {words(data.sel(target=name))}" for name in data.target.values)


def claims(data: xarray.Dataset) -> list[study.Row]:
    failing, spiked, saw = often_failed(data), data.sel(target=SPIKED), data.sel(target="sawtooth")
    near, led, left = spiked.error.sel(way=OWN), saw.error.sel(way=OWN), missed(data)
    wide, steepest = float(data.share_of_best.min()), float(spiked.steepest.sel(way=OWN)[np.nanargmin(near)])
    reached = near.min() < 0.1 * best_of(spiked).min()
    most = "refuted" if failing.still.sum() > 0.5 * failing.failed.sum() else "refined"
    half = (2 * failing.healed > failing.failed).drop_sel(target=SPIKED, errors="ignore")
    heals = "held" if half.all() else "refined" if half.any() else "refuted"
    still, healed, alike = (
        listed(failing, lambda one, kind=kind: study.percent(one[kind], one.failed))
        for kind in ("still", "healed", "as_monotone")
    )
    few, good = (failing[name] < failing.turns_of_target for name in ("turns_failed", "turns_good"))
    counts = [failing[name].values for name in ("target", "turns_failed", "turns_of_target", "turns_good")]
    turns = "; ".join("{}: {:.0f} of {:.0f}, others {:.0f}".format(*row) for row in zip(*counts, strict=True))
    return [
        (
            "A chain can be trained to any function", "Peng 2017",
            f"{listed(data, lambda one: spread(best_of(one)))}. The best member leaves more than 1 % of the variance "
            f"on {', '.join(left) or 'none'}", "refined" if left else "held",
        ),
        (
            f"No chain comes near {SPIKED}", "theory",
            f"the target takes {float(spiked.share_of_target):.0%} of its range on one, the best fits at least "
            f"{wide:.1%}. Mean squares by the four methods: {spread(best_of(spiked))}; by chains built with spikes, of "
            f"slopes up to {steepest:.0f}: {spread(near)}",
            "refuted" if wide < 0.99 else "refined" if reached else "held",
        ),
        (
            "Only the start keeps training from the sawtooth", "common practice",
            f"four methods: {spread(best_of(saw))}; led there from triangle waves: {spread(led)}",
            "held" if led.min() < FAILED * saw.constant else "refined",
        ),
        ("Failed members need more iterations: few stand still", "common practice", still, most),
        (
            "Members that failed have found fewer turns than the target has, and others all", "common practice",
            f"{turns.replace('others nan', 'no others')} (medians). As good as the best monotone function: {alike}",
            "refuted" if not few.all() else "refined" if good.any() else "held",
        ),
        ("Homotopy heals failed members", "common practice", healed, heals),
    ]  # fmt: skip


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    easy, number = ("|x|", "exp(-x^2)", "step", "noisy sin x"), data.sizes["target"]
    spiked, sine = data.sel(target=SPIKED), data.sel(target="sin 2x")
    left = max(float(best_of(one).median() / one.constant) for one in (data.sel(target=name) for name in easy))
    failed, still, healed = (float(sine[kind]) for kind in ("failed", "still", "healed"))
    findings = {
        "": f"Training leaves less than 1 % of the variance on {number - len(missed(data))} of {number} targets. On "
        f"{SPIKED} it ends at a mean square of {float(best_of(spiked).min()):.2g}; only spikes help, and chains built "
        f"with them come to {float(spiked.error.sel(way=OWN).min()):.2g}.",
        "fits": f"On these {len(easy)} targets the median member leaves at most {100 * left:.1g} % of the variance.",
        "failures": f"{100 * failed / data.sizes['seed']:.0f} % of the members of growth fail on sin 2x, with "
        f"{float(sine.turns_failed):.0f} of its {int(sine.turns_of_target)} turns. {100 * still / failed:.0f} % of "
        f"these stand still; homotopy heals {100 * healed / failed:.0f} %.",
    }
    mosaics = {"": "aaa;bcd", "fits": "ab;cd", "failures": "ab;cc"}
    shown = {"": (None, "triangle wave", "sawtooth", SPIKED), "fits": easy, "failures": (*FOLDED, None)}
    figures = {}
    for key, mosaic in mosaics.items():
        figures[key], axes = st.plots.panels(mosaic, height=5.6)
        for ax, name in zip(axes.values(), shown[key], strict=True):
            if name:
                draw_fits(data.sel(target=name), ax)
            elif key:
                draw_failures(often_failed(data), ax)
            else:
                draw_errors(data, ax)
    return {key: st.plots.headline(figure, findings[key]) for key, figure in figures.items()}


def draw_fits(one: xarray.Dataset, ax: Axes) -> None:
    shade, errors = st.plots.colour(ARCHITECTURE), best_of(one)
    ax.plot(one.x, one.fits.T, color=shade, alpha=0.2, linewidth=0.5)
    ax.plot(one.x, one.best_fit, color=shade, linewidth=1.8)
    ax.plot(one.x, one.median_fit, color="black", linewidth=0.9, linestyle=(0, (1, 1)))
    ax.plot(one.x, one.own_fit, color=SHADES[OWN], linewidth=0.9)
    ax.plot(one.x, one.wanted, color="#BBBBBB", linewidth=1, linestyle=(0, (4, 3)))
    method = one.best_method.item().replace("Levenberg-Marquardt", "LM")
    words = f"{method}: best {float(errors.min()):.0e}\nmedian {float(errors.median()):.0e}"
    if one.own_fit.notnull().any():
        words += f", own path {float(one.error.sel(way=OWN).min()):.0e}"
    low, high = float(one.wanted.min()), float(one.wanted.max())
    ax.set(xlim=INTERVAL, ylim=(1.15 * low - 0.15 * high, 1.5 * high - 0.5 * low), xlabel="x")
    ax.set_title(one.target.item())
    ax.text(0.03, 0.98, words, transform=ax.transAxes, va="top", fontsize=7)


def draw_failures(data: xarray.Dataset, ax: Axes) -> None:
    kinds = {
        "failed": ("fail", xarray.full_like(data.failed, data.sizes["seed"]), "black"),
        "still": ("of these stand still", data.failed, SHADES["Adam"]),
        "healed": ("of these homotopy heals", data.failed, SHADES["growth, homotopy"]),
    }
    places = np.arange(data.sizes["target"])
    for offset, (kind, (words, of, shade)) in enumerate(kinds.items()):
        middle, low, high = np.array([study.wilson(*pair) for pair in zip(data[kind], of, strict=True)]).T
        errors = np.maximum(0, [middle - low, high - middle])
        ax.errorbar(places + 0.15 * (offset - 1), middle, errors, fmt="o", markersize=4, color=shade, label=words)
    turns = zip(data.target.values, data.turns_failed.values, data.turns_of_target.values, strict=True)
    ax.set_xticks(places, [f"{name}\n{failed:.0f} of {target} turns" for name, failed, target in turns])
    ax.set(ylim=(-4, 125), yticks=range(0, 101, 25), ylabel="members of growth, %")
    ax.legend(loc="upper center", ncols=3)


def draw_errors(data: xarray.Dataset, ax: Axes) -> None:
    foot, references = 1e-9, {"constant": "--", "monotone": ":", "spline": "-"}
    for i, name in enumerate(data.target.values):
        one = data.sel(target=name)
        for kind, style in references.items():
            ax.plot([i - 0.45, i + 0.45], [max(float(one[kind]), foot)] * 2, style, color="#333333", linewidth=1)
        for j, (method, shade) in enumerate(SHADES.items()):
            error, place = one.error.sel(way=method).dropna("seed").clip(foot), i + 0.17 * (j - 2)
            if error.size:
                across = place + np.linspace(-0.05, 0.05, error.size)
                ax.plot(across, error, ".", color=shade, markersize=2.5, alpha=0.6, clip_on=False)
                ax.plot([place - 0.07, place + 0.07], [error.median()] * 2, color=shade, linewidth=2.4)
    for place, (method, shade) in zip((0.01, 0.09, 0.32, 0.42, 0.62), SHADES.items(), strict=True):
        ax.text(place, 0.98, method, color=shade, transform=ax.transAxes, fontsize=7, va="top", fontweight="bold")
    ax.set(yscale="log", ylim=(foot, 100), xlim=(-0.5, data.sizes["target"] - 0.5), ylabel="mean-squared error")
    ax.set_xticks(range(data.sizes["target"]), [WRAPPED.get(name, name) for name in data.target.values])
    ax.grid(visible=False, axis="x")
    names = ("best constant", "best monotone\nfunction", f"best spline\nof {data.depth} folds")
    st.plots.end_labels(ax, {name: float(one[kind]) for name, kind in zip(names, references, strict=True)})


if __name__ == "__main__":
    study.main(Settings(), Settings(depth=15, seeds=8, adam=400, growth=100, spikes=4), measure, draw, claims)
