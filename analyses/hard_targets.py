"""Which functions can a chain of one neuron a layer be trained to, and why do those that fail fail?

Question. sin(x) is the one function that the article fits. What happens on others: with a corner, a jump, many turns,
noise, and on one that no such chain can follow? Where a fit fails, is it the chain or the training that cannot?

Method. Residual PReLU chains of depth 30, 64 members, on 256 points of (-3, 3), by four methods. Adam: 2000 iterations
from torch's initialisation. Levenberg-Marquardt: 200 iterations from kinks spread evenly. Growth: half of the members
from one step, half from ten drawn as He et al. do. With homotopy: from five steps, while the target moves from x to
what is wanted. Two targets get a path of their own beside these. The sawtooth with jumps is led to from the fits of the
triangle wave, whose peaks are moved to one side in stages. For x + 1.5 sin 3x chains are built that follow its turns
and have the spikes that they need, and grown from there. All errors are mean squares on 10,000 other points; those of
the noisy sample are against the sine without noise. A member has failed where more than 1 % of the target's variance is
left. What is then asked: does it stand still, so that 100 more iterations of Levenberg-Marquardt lower the error of the
training points by less than 1 %? How many turns has it, and how many has the target? Does a re-start with homotopy heal
it? And can a chain follow the target's turns at all: a chain is monotone on some stretch on which it takes its whole
range, and the share of the range that the target takes on its best monotone stretch is found on the grid.

Reading. Panels: target dashed grey on top, in blue the best fit of the best of the four methods (bold), its median fit
(dashed light blue) and the other members (thin); in orange the best fit by a path of its own. Below: the errors by
target and method, a point a member, a bar the median; what is below the axis is at its foot. Lines over a target: the
best constant (dashed), the best monotone function (dotted), the best spline of as many folds as steps (solid).
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
from torch import Tensor
from tqdm import tqdm

import stability as st

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
METHODS = ("Adam", "Levenberg-Marquardt", "growth", "growth, homotopy", "own path")
#: What is drawn of a fit.
SHOWN = torch.linspace(*INTERVAL, 601, dtype=torch.float64)


@dataclass(frozen=True)
class Settings:
    """What a chain of one neuron a layer can be trained to."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer members, iterations and depth: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


@dataclass(frozen=True)
class Size:
    """How large the runs are."""

    depth: int
    seeds: int
    adam: int
    growth: int
    root: int
    points: int = 256
    fresh: int = 10_000

    @property
    def early(self) -> int:
        """The steps that growth begins with, where it begins with many."""
        return self.depth // 3

    def grid(self) -> Tensor:
        """Points between those of the training: the middles of equal cells."""
        low, high = INTERVAL
        return low + (high - low) * (torch.arange(self.fresh, dtype=torch.float64) + 0.5) / self.fresh


def task_of(name: str, size: Size) -> st.Task:
    """Return what is trained on."""
    task = st.Task(TARGETS[name], INTERVAL, size.points)
    if not name.startswith("noisy"):
        return task
    noise = torch.randn(size.points, dtype=torch.float64, generator=torch.Generator().manual_seed(2017))
    return st.Task.from_samples(task.x, task.y + 0.1 * noise)


def train(chain: st.Chain, task: st.Task, method: str, iterations: int, **options: float) -> st.Chain:
    """Train a chain and return it."""
    st.train(chain, task, method, iterations, progress=False, **options)
    return chain


def grown(task: st.Task, size: Size, members: list[int], homotopy: float = 0.0) -> np.ndarray:
    """Return tables grown from the members' starts: the first half from one step, the others from more."""
    half = size.seeds // 2
    tables = [np.empty((0, size.depth, 6))]
    for init, start, chosen in (
        ("uniform", 1, [m for m in members if m < half]),
        ("he", size.early, [m for m in members if m >= half]),
    ):
        if chosen:
            chain = st.Chain(ARCHITECTURE, size.depth, seeds=chosen, init=init, root=size.root)
            tables.append(train(chain, task, "growth", size.growth, start=start, homotopy=homotopy).table())
    return np.concatenate(tables)


def by_method(method: str, task: st.Task, size: Size) -> np.ndarray:
    """Return the tables (seeds, depth, 6) of one of the four methods."""
    if method == "growth":
        return grown(task, size, list(range(size.seeds)))
    init = {"Adam": "pytorch"}.get(method, "knots")
    chain = st.Chain(ARCHITECTURE, size.depth, seeds=size.seeds, init=init, root=size.root)
    if method == "Adam":
        train(chain, task, "adam", size.adam)
    elif method == "Levenberg-Marquardt":
        train(chain, task, "levenberg_marquardt", 200)
    else:
        train(chain, task, "growth", size.growth, start=5, homotopy=0.3)
    return chain.table()


def from_triangles(tables: np.ndarray, size: Size) -> np.ndarray:
    """Return fits of the sawtooth, led there from fits of the triangle wave by moving its peaks in stages."""
    chain = st.Chain.from_table(tables, ARCHITECTURE)
    for peak in (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.88, 0.91, 0.94, 0.96):
        train(chain, st.Task(teeth(peak), INTERVAL, size.points), "levenberg_marquardt", 20)
    return train(chain, task_of("sawtooth", size), "levenberg_marquardt", 60).table()


def with_spikes(widths: np.ndarray, size: Size) -> np.ndarray:
    """Return chains that follow the turns of x + 1.5 sin 3x, grown from built ones.

    Between its two middle turns the target rises by half of its range. A spike of that width at both ends of the rise
    takes it to the whole range, and then there is a chain.
    """
    f = TARGETS["x + 1.5 sin 3x"]
    turn = math.acos(-2 / 9) / 3
    right = torch.tensor([turn, turn, turn, 2 * math.pi / 3 - turn, 2 * math.pi / 3 + turn, 3], dtype=torch.float64)
    heights = f(right).numpy()
    heights[1] = heights[4]
    tables = []
    for width in widths:
        knots = right.numpy() + np.array([-width, 0, width, 0, 0, 0])
        table = st.construct(np.append(-knots[::-1], knots), np.append(-heights[::-1], heights))
        rest = np.tile([1.0, 1, 0, 0, 0, 0.25], (size.depth - len(table), 1))
        tables.append(np.concatenate([table, rest]))
    chain = st.Chain.from_table(np.stack(tables), ARCHITECTURE)
    # On more points, so that a spike does not fall between them.
    task = st.Task(f, INTERVAL, 4 * size.points)
    return train(chain, task, "growth", size.growth, start=len(table)).table()


def values(tables: np.ndarray, x: Tensor) -> np.ndarray:
    """Return the fits (seeds, points)."""
    chain = st.Chain.from_table(tables, ARCHITECTURE)
    with torch.no_grad():
        # In parts that stay in the cache: 2 to 3 times as fast.
        return torch.cat([chain(part) for part in x.split(8192 // len(tables) + 1)], dim=1).numpy()


def mean_squares(tables: np.ndarray, x: Tensor, y: Tensor) -> np.ndarray:
    """Return the errors (seeds,)."""
    return ((values(tables, x) - y.numpy()) ** 2).mean(axis=1)


def monotone_share(y: np.ndarray) -> float:
    """Return which share of its range a function takes on the best of the stretches on which it is monotone."""
    turns = np.flatnonzero(np.diff(np.sign(np.diff(y)))) + 1
    heights = y[np.concatenate([[0], turns, [len(y) - 1]])]
    return float(np.abs(np.diff(heights)).max() / np.ptp(y))


def count_turns(y: np.ndarray) -> int:
    """Return how often a function on a grid changes between rising and falling."""
    signs = np.sign(np.diff(y))
    signs = signs[signs != 0]
    return int((signs[1:] != signs[:-1]).sum())


def ask(name: str, tables: np.ndarray, errors: np.ndarray, monotone: float, size: Size) -> dict[str, float]:
    """Return what became of the members of growth that failed, beside those that did not."""
    grid, task = size.grid(), task_of(name, size)
    limit = 0.01 * float(TARGETS[name](grid).var())
    failed = np.flatnonzero(errors > limit)
    turns, folds = (np.array(getattr(st.count(tables, INTERVAL), kind), float) for kind in ("turns", "folds"))
    out = {"failed": len(failed) / len(errors)}
    for label, chosen in (("failed", failed), ("good", np.flatnonzero(errors <= limit))):
        out |= {
            f"{kind}_{label}": float(np.median(counts[chosen])) if len(chosen) else math.nan
            for kind, counts in (("turns", turns), ("folds", folds))
        }
    if not len(failed):
        return out | dict.fromkeys(("monotone", "still", "healed"), math.nan)
    before = mean_squares(tables[failed], task.x, task.y)
    chain = train(st.Chain.from_table(tables[failed], ARCHITECTURE), task, "levenberg_marquardt", 100)
    after = mean_squares(chain.table(), task.x, task.y)
    again = mean_squares(grown(task, size, failed.tolist(), 0.3), grid, TARGETS[name](grid))
    return out | {
        "monotone": float((np.abs(errors[failed] - monotone) < 0.1 * monotone).mean()),
        "still": float((after > 0.99 * before).mean()),
        "healed": float((again <= limit).mean()),
    }


def limits(name: str, folds: int, size: Size) -> dict[str, float]:
    """Return the references on points that are not those of the training."""
    fine = st.Task.from_samples(size.grid(), TARGETS[name](size.grid()))
    coarse = st.Task(TARGETS[name], INTERVAL, 2000)
    spline, as_many = (st.references.best_spline(coarse, k) for k in (size.depth, folds))
    return {
        "constant": st.references.constant(fine),
        "monotone": st.references.best_monotone(fine),
        "spline": spline.error,
        "spline, lower bound": spline.lower_bound,
        "spline of its folds": as_many.error,
    }


def study(name: str, found: dict[str, np.ndarray], size: Size) -> xarray.Dataset:
    """Return all that is measured on one target, from the tables by method."""
    grid, task = size.grid(), task_of(name, size)
    y = TARGETS[name](grid)
    errors, losses, turns, steepest = (np.full((len(METHODS), size.seeds), np.nan) for _ in range(4))
    for i, method in enumerate(METHODS):
        if method in found:
            members = slice(len(found[method]))
            fits = values(found[method], grid)
            errors[i, members] = ((fits - y.numpy()) ** 2).mean(axis=1)
            steepest[i, members] = np.abs(np.diff(fits)).max(axis=1) / float(grid[1] - grid[0])
            losses[i, members] = mean_squares(found[method], task.x, task.y)
            turns[i, members] = np.array(st.count(found[method], INTERVAL).turns, float)
    best = int(np.argmin(np.nanmin(errors[:-1], axis=1)))
    tables = found[METHODS[best]]
    count = st.count(tables[np.argmin(errors[best])], INTERVAL)
    references = limits(name, count.folds, size)
    own = np.full(len(SHOWN), np.nan)
    if METHODS[-1] in found:
        own = values(found[METHODS[-1]], SHOWN)[np.nanargmin(errors[-1][: len(found[METHODS[-1]])])]
    asked = ask(name, found["growth"], errors[METHODS.index("growth")], references["monotone"], size)
    on_grid = values(tables[[np.argmin(errors[best])]], grid)[0]
    return xarray.Dataset(
        {
            "error": (("way", "seed"), errors, {"long_name": "mean-squared error on 10,000 fresh points"}),
            "loss": (("way", "seed"), losses, {"long_name": "mean-squared error on the training points"}),
            "turns": (("way", "seed"), turns),
            "steepest": (("way", "seed"), steepest, {"long_name": "largest slope between two of the fresh points"}),
            "best_method": METHODS[best],
            "fit": (("seed", "x"), values(tables, SHOWN).astype(np.float32)),
            "own_fit": ("x", own),
            "wanted": ("x", TARGETS[name](SHOWN).numpy()),
            "folds_of_best": count.folds,
            "turns_of_best": count.turns,
            "turns_of_target": count_turns(y.numpy()),
            "share_of_target": monotone_share(y.numpy()),
            "share_of_best": monotone_share(on_grid),
            "reference": ("kind", list(references.values())),
            "asked": ("answer", list(asked.values())),
        },
        {"way": list(METHODS), "seed": range(size.seeds), "x": SHOWN.numpy(), "kind": list(references)}
        | {"answer": list(asked)},
    )


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    # The compiled loops have threads of their own; torch's would only get in their way.
    torch.set_num_threads(1)
    size = Size(15, 8, 400, 100, settings.seed) if settings.quick else Size(30, 64, 2000, 300, settings.seed)
    widths = np.geomspace(0.2, 0.01, 4 if settings.quick else 8)
    studies, triangles = [], np.empty(0)
    for name in tqdm(TARGETS, desc="targets", disable=None):
        found = {method: by_method(method, task_of(name, size), size) for method in METHODS[:-1]}
        if name == "triangle wave":
            triangles = found["growth"]
        elif name == "sawtooth":
            found[METHODS[-1]] = from_triangles(triangles, size)
        elif name == "x + 1.5 sin 3x":
            found[METHODS[-1]] = with_spikes(widths, size)
        studies.append(study(name, found, size))
    data = xarray.concat(studies, xarray.IndexVariable("target", list(TARGETS)))
    data["spike_width"] = ("spike", widths)
    data = data.assign_attrs(architecture=ARCHITECTURE, depth=size.depth, points=size.points)
    report(data)
    paths = st.plots.save(draw(data), data, settings.out, "hard_targets")
    print("\nWritten: " + ", ".join(str(path) for path in paths))


def report(data: xarray.Dataset) -> None:
    """Print what was found."""
    seeds = data.sizes["seed"]
    print(f"{ARCHITECTURE}, depth {data.depth}, {seeds} members, {data.points} points; errors on 10,000 others.\n")
    print(f"{'target':<18}{'method':<21}{'best':>9}{'median':>9}{'worst':>9}{'training best':>15}{'median':>9}")
    for name in data.target.values:
        for method in METHODS:
            error, loss = (data[v].sel(target=name, way=method).dropna("seed") for v in ("error", "loss"))
            if error.size:
                numbers = [float(error.quantile(q)) for q in (0, 0.5, 1)]
                print(
                    f"{name:<18}{method:<21}"
                    + "".join(f"{v:>9.1e}" for v in numbers)
                    + f"{float(loss.min()):>15.1e}{float(loss.median()):>9.1e}"
                )
    print(f"\nReferences on points that are not those of the training (splines on 2000):\n\n{'target':<18}", end="")
    print("".join(f"{k:>21}" for k in data.kind.values) + f"{'folds of best fit':>20}")
    for name in data.target.values:
        one = data.sel(target=name)
        print(f"{name:<18}" + "".join(f"{v:>21.1e}" for v in one.reference.values) + f"{int(one.folds_of_best):>20}")
    print("\nGrowth, the members that failed (more than 1 % of the variance left) beside the others:\n")
    print(f"{'target':<18}{'failed':>7}{'stand still':>13}{'healed by homotopy':>20}{'turns: target':>15}", end="")
    print(f"{'failed':>8}{'good':>6}{'folds: failed':>15}{'good':>6}{'monotone share':>16}")
    for name in data.target.values:
        one = data.sel(target=name)
        a = {str(k): float(one.asked.sel(answer=k)) for k in data.answer.values}
        cells = [f"{a['failed']:.0%}", *("-" if math.isnan(a[k]) else f"{a[k]:.0%}" for k in ("still", "healed"))]
        counts = ["-" if math.isnan(v := a[k]) else f"{v:.0f}" for k in COUNTS]
        print(
            f"{name:<18}{cells[0]:>7}{cells[1]:>13}{cells[2]:>20}{int(one.turns_of_target):>15}"
            f"{counts[0]:>8}{counts[1]:>6}{counts[2]:>15}{counts[3]:>6}{float(one.share_of_target):>16.0%}"
        )
    print()
    for line in verdicts(data):
        print(textwrap.fill(line, 110, subsequent_indent="    "))


COUNTS = ("turns_failed", "turns_good", "folds_failed", "folds_good")


def slope(one: xarray.Dataset, method: str) -> float:
    """Return the largest slope of a method's best fit."""
    return float(one.steepest.sel(way=method)[np.nanargmin(one.error.sel(way=method))])


def verdicts(data: xarray.Dataset) -> list[str]:
    """Return a sentence a target."""
    lines = []
    for name in data.target.values:
        one = data.sel(target=name)
        method = str(one.best_method.values)
        error = one.error.sel(way=method)
        best, middle, variance = float(error.min()), float(error.median()), float(one.reference.sel(kind="constant"))
        asked = {str(k): float(one.asked.sel(answer=k)) for k in data.answer.values}
        words = "trained" if best < 0.01 * variance else "not trained"
        line = f"{name}: {words.upper()}. Best {best:.1e}, median {middle:.1e}, by {method}"
        own = one.error.sel(way=METHODS[-1]).dropna("seed")
        if own.size:
            line += f"; {float(own.min()):.1e} by a path of its own"
        share = float(one.share_of_target)
        if share < 0.99:
            line += (
                f". The target takes {share:.0%} of its range on its best monotone stretch, a chain takes all of it "
                f"(the best fit {float(one.share_of_best):.0%}): in the uniform norm it is out of reach, and in the "
                f"mean square reached by spikes only, with slopes up to {slope(one, METHODS[-1]):.0f} in the best fit "
                f"by a path of its own, {slope(one, method):.0f} in the best of the others, and "
                f"{float(np.abs(np.diff(one.wanted)).max() / np.diff(one.x).max()):.0f} in the target"
            )
        if asked["failed"] > 0:
            fewer = asked["turns_failed"] < float(one.turns_of_target)
            line += (
                f". {asked['failed']:.0%} of the members of growth fail, with a median of {asked['turns_failed']:.0f} "
                f"turns, {'fewer than' if fewer else 'and'} the target's {int(one.turns_of_target)}"
                f"; {asked['monotone']:.0%} of them end within 10 % of the error of the best monotone function, "
                f"{asked['still']:.0%} stand still, homotopy heals {asked['healed']:.0%}"
            )
        lines.append(line + ".")
    return lines


def draw(data: xarray.Dataset) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    shade, other, foot = st.plots.colour(ARCHITECTURE), "#D55E00", 1e-9
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(10, 10.4))
        grid = figure.add_gridspec(4, 3, height_ratios=[1, 1, 1, 1.55])
        for i, name in enumerate(data.target.values):
            one, ax = data.sel(target=name), figure.add_subplot(grid[i // 3, i % 3])
            error = one.error.sel(way=str(one.best_method.values))
            order = np.argsort(error.to_numpy())
            best, middle = order[0], order[len(order) // 2]
            ax.plot(data.x, one.fit.T, color=shade, alpha=0.18, linewidth=0.5)
            ax.plot(data.x, one.fit[middle], color="#56B4E9", linestyle=(0, (2, 1)), linewidth=1.2)
            ax.plot(data.x, one.fit[best], color=shade, linewidth=1.5)
            ax.plot(data.x, one.own_fit, color=other, linewidth=0.9)
            ax.plot(data.x, one.wanted, color="#BBBBBB", linestyle=(0, (4, 3)), linewidth=0.9)
            low, high = float(one.wanted.min()), float(one.wanted.max())
            ax.set(ylim=(low - 0.12 * (high - low), high + 0.5 * (high - low)))
            ax.set_title(name)
            note = f"{one.best_method.values}: best {float(error.min()):.1e}, median {float(error.median()):.1e}"
            own = one.error.sel(way=METHODS[-1]).dropna("seed")
            if own.size:
                note += f"\nown path (orange): {float(own.min()):.1e}"
            failed, turns = (float(one.asked.sel(answer=k)) for k in ("failed", "turns_failed"))
            if failed > 0.1:
                note += f"\ngrowth: {failed:.0%} fail, with {turns:.0f} turns of {int(one.turns_of_target)}"
            ax.text(0.02, 0.98, note, transform=ax.transAxes, va="top", fontsize=7, color="#333333")
            if i // 3 == 2:
                ax.set_xlabel("x")
            if i % 3 == 0:
                ax.set_ylabel("f(x)")
        strip = figure.add_subplot(grid[3, :])
        shades = ("#999999", "#009E73", shade, "#56B4E9", other)
        for i, name in enumerate(data.target.values):
            one = data.sel(target=name)
            for style, kind in (("--", "constant"), (":", "monotone"), ("-", "spline")):
                level = max(float(one.reference.sel(kind=kind)), foot)
                strip.plot([i - 0.45, i + 0.45], [level, level], color="#333333", linestyle=style, linewidth=1)
            for j, (method, colour) in enumerate(zip(METHODS, shades, strict=True)):
                error = one.error.sel(way=method).dropna("seed").to_numpy()
                if not error.size:
                    continue
                place = i + 0.17 * (j - 2)
                across = place + 0.1 * (np.arange(error.size) / error.size - 0.5)
                strip.plot(across, np.maximum(error, foot), ".", color=colour, markersize=2.5, alpha=0.6, clip_on=False)
                middle = max(float(np.median(error)), foot)
                strip.plot([place - 0.07, place + 0.07], [middle, middle], color=colour, linewidth=2.6)
        strip.set(yscale="log", ylim=(foot, 3), xlim=(-0.5, len(data.target) - 0.5), ylabel="mean-squared error")
        strip.set_xticks(range(len(data.target)), [str(n).replace(" cos", "\ncos") for n in data.target.values])
        strip.grid(visible=False, axis="x")
        handles = [
            plt.Line2D([], [], color=c, marker=".", linewidth=2, label=m) for m, c in zip(METHODS, shades, strict=True)
        ]
        handles += [
            plt.Line2D([], [], color="#333333", linestyle=style, linewidth=1, label=f"best {kind}")
            for style, kind in (("--", "constant"), (":", "monotone"), ("-", f"spline of {data.depth} folds"))
        ]
        strip.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=4)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
