"""Which functions can a chain of one neuron a layer be trained to, and why do those that fail fail?

Question. The article fits sin(x) alone. What happens on other functions: with a corner, a jump, many turns or noise,
and on one that no such chain can follow? Where a fit fails, is it the chain or the training that cannot?

Method. Residual PReLU chains are trained on 256 points of (-3, 3) by four methods. Adam starts as torch does.
Levenberg-Marquardt starts from kinks that are spread evenly. Growth starts half of the members from one step, and half
from a third of the depth, drawn as He et al. do. With homotopy growth starts from five steps, while the target moves
from x to what is wanted. Two targets get a path of their own beside these. For the sawtooth with jumps the peaks of
fitted triangle waves move to one side in stages. For x + 1.5 sin 3x chains are built that follow its turns and have the
spikes that they need, and are grown from there. All errors are mean squares at 10,000 other points; those of the noisy
sample are against the sine without noise. A member has failed if it leaves more than 1 % of the target's variance. Four
questions are asked of the members of growth that failed. Do they stand still, so that 100 more iterations of
Levenberg-Marquardt lower the training error by less than 1 %? Are they within 10 % of the error of the best monotone
function? How many turns do they have? Does a new start with homotopy heal them? And can a chain follow the target's
turns at all? A chain is monotone on some stretch on which it takes its whole range; the share of its range that the
target takes on its best monotone stretch is found on the grid.

Reading. a: errors by target and method, a dot a member, a bar the median; errors under the axis are drawn at its foot.
Other panels show fits by the best of the four methods: its best member (bold), its median member (dashed) and all
others (thin). The target is dashed grey, and the best fit by a path of its own is wine red. The figure of failures
counts the turns of failed members, and says what becomes of them, with 95 % intervals (Wilson).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray
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
SPIKED = "x + 1.5 sin 3x"
METHODS, OWN = ("Adam", "Levenberg-Marquardt", "growth", "growth, homotopy"), "own path"
SHADES = dict(zip((*METHODS, OWN), ("#999999", "#009E73", "#0072B2", "#CC79A7", "#882255"), strict=True))
#: Points between those of the training, the middles of equal cells, and those at which fits are drawn.
GRID = INTERVAL[0] + (INTERVAL[1] - INTERVAL[0]) * (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
SHOWN = torch.linspace(*INTERVAL, 601, dtype=torch.float64)
#: A member has failed where more than this share of the variance is left.
FAILED = 0.01


@dataclass(frozen=True)
class Settings(study.Settings):
    """What a chain of one neuron a layer can be trained to."""

    depth: int = 30
    """Steps of every chain."""
    seeds: int = 32
    """Members."""
    points: int = 256
    """Points of the training."""
    adam: int = 2000
    """Iterations of Adam."""
    growth: int = 300
    """Iterations of growth."""
    spikes: int = 8
    """Chains that are built with spikes of several widths."""


def task_of(name: str, settings: Settings) -> st.Task:
    """Return what is trained on."""
    task = st.Task(TARGETS[name], INTERVAL, settings.points)
    if not name.startswith("noisy"):
        return task
    noise = torch.randn(settings.points, dtype=torch.float64, generator=torch.Generator().manual_seed(2017))
    return st.Task.from_samples(task.x, task.y + 0.1 * noise)


def fitted(chain: st.Chain, task: st.Task, method: str, iterations: int, **options: float) -> np.ndarray:
    """Train a chain and return its table (seeds, depth, 6)."""
    st.train(chain, task, method, iterations, progress=False, **options)
    return chain.table()


def start(init: str, members: Sequence[int], settings: Settings) -> st.Chain:
    return st.Chain(ARCHITECTURE, settings.depth, seeds=members, init=init, root=settings.seed)


def grown(task: st.Task, settings: Settings, members: Sequence[int], homotopy: float = 0.0) -> np.ndarray:
    """Return tables grown from the members' starts: the first half from one step, the others from more."""
    few = [member for member in members if member < settings.seeds // 2]
    many = [member for member in members if member >= settings.seeds // 2]
    ways = (("uniform", 1, few), ("he", settings.depth // 3, many))
    tables = [
        fitted(start(init, chosen, settings), task, "growth", settings.growth, start=steps, homotopy=homotopy)
        for init, steps, chosen in ways
        if chosen
    ]
    return np.concatenate(tables)


def trained(name: str, method: str, settings: Settings) -> xarray.Dataset:
    """Return the tables by one of the four methods."""
    task, everyone = task_of(name, settings), range(settings.seeds)
    if method == "Adam":
        table = fitted(start("pytorch", everyone, settings), task, "adam", settings.adam)
    elif method == "Levenberg-Marquardt":
        table = fitted(start("knots", everyone, settings), task, "levenberg_marquardt", 200)
    elif method == "growth":
        table = grown(task, settings, everyone)
    else:
        table = fitted(start("knots", everyone, settings), task, "growth", settings.growth, start=5, homotopy=0.3)
    return xarray.Dataset({"table": (("seed", "step", "column"), table)})


def from_triangles(tables: np.ndarray, settings: Settings) -> xarray.Dataset:
    """Return fits of the sawtooth: the peaks of fitted triangle waves move to one side in stages."""
    chain = st.Chain.from_table(tables, ARCHITECTURE)
    for peak in (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.88, 0.91, 0.94, 0.96):
        fitted(chain, st.Task(teeth(peak), INTERVAL, settings.points), "levenberg_marquardt", 20)
    table = fitted(chain, task_of("sawtooth", settings), "levenberg_marquardt", 60)
    return xarray.Dataset({"table": (("seed", "step", "column"), table)})


def with_spikes(settings: Settings) -> xarray.Dataset:
    """Return chains that follow the turns of x + 1.5 sin 3x, grown from built ones.

    Between its two middle turns the target rises by half of its range. A spike at both ends of this rise takes the rise
    to the whole range, and then there is a chain.
    """
    f = TARGETS[SPIKED]
    turn = math.acos(-2 / 9) / 3
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
    table = fitted(chain, task, "growth", settings.growth, start=len(table))
    return xarray.Dataset({"table": (("seed", "step", "column"), table)})


def values(tables: np.ndarray, x: Tensor) -> np.ndarray:
    """Return the fits (seeds, points)."""
    chain = st.Chain.from_table(tables, ARCHITECTURE)
    with torch.no_grad():
        # In parts that stay in the cache: 2 to 3 times as fast.
        return torch.cat([chain(part) for part in x.split(8192 // len(tables) + 1)], dim=1).numpy()


def mean_squares(tables: np.ndarray, task: st.Task) -> np.ndarray:
    return ((values(tables, task.x) - task.y.numpy()) ** 2).mean(axis=1)


def heights_of_turns(y: np.ndarray) -> np.ndarray:
    """Return the values of a function on a grid at its ends and where it changes between rising and falling."""
    y = y[np.append(True, np.diff(y) != 0)]
    turns = np.flatnonzero(np.diff(np.sign(np.diff(y)))) + 1
    return y[[0, *turns, -1]]


def monotone_share(y: np.ndarray) -> float:
    """Return the share of its range that a function takes on its best monotone stretch."""
    return float(np.abs(np.diff(heights_of_turns(y))).max() / np.ptp(y))


def failures(name: str, tables: np.ndarray, settings: Settings) -> dict[str, float]:
    """Return how many members of growth failed, what becomes of them, and the turns of these and of the others."""
    fine, task = st.Task.from_samples(GRID, TARGETS[name](GRID)), task_of(name, settings)
    errors, limit = mean_squares(tables, fine), FAILED * st.references.constant(fine)
    failed = errors > limit
    count = st.count(tables, INTERVAL)
    found = {"failed": float(failed.sum()), "still": 0.0, "healed": 0.0, "as_monotone": 0.0}
    for label, chosen in (("failed", failed), ("good", ~failed)):
        for kind in ("turns", "folds"):
            numbers = np.array(getattr(count, kind), float)[chosen]
            found[f"{kind}_{label}"] = float(np.median(numbers)) if numbers.size else math.nan
    if failed.any():
        monotone = st.references.best_monotone(fine)
        before = mean_squares(tables[failed], task)
        more = fitted(st.Chain.from_table(tables[failed], ARCHITECTURE), task, "levenberg_marquardt", 100)
        again = mean_squares(grown(task, settings, np.flatnonzero(failed).tolist(), 0.3), fine)
        found["as_monotone"] = float((abs(errors[failed] - monotone) < 0.1 * monotone).sum())
        found["still"] = float((mean_squares(more, task) > 0.99 * before).sum())
        found["healed"] = float((again <= limit).sum())
    return found


def studied(name: str, found: dict[str, np.ndarray], settings: Settings) -> xarray.Dataset:
    """Return all that is measured on one target, from the tables by method."""
    task, fine, ways = task_of(name, settings), st.Task.from_samples(GRID, TARGETS[name](GRID)), list(SHADES)
    each = {kind: np.full((len(ways), settings.seeds), np.nan) for kind in ("error", "loss", "turns", "steepest")}
    for method, tables in found.items():
        place = ways.index(method), slice(len(tables))
        slopes = np.abs(np.diff(values(tables, GRID))) / float(GRID[1] - GRID[0])
        each["error"][place], each["loss"][place] = mean_squares(tables, fine), mean_squares(tables, task)
        each["turns"][place], each["steepest"][place] = st.count(tables, INTERVAL).turns, slopes.max(axis=1)
    method = ways[int(np.argmin(np.nanmin(each["error"][:-1], axis=1)))]
    order = np.argsort(each["error"][ways.index(method)])
    best = found[method][order[0]]
    count = st.count(best, INTERVAL)
    coarse = st.Task(TARGETS[name], INTERVAL, 2000)
    spline, as_many = (st.references.best_spline(coarse, folds) for folds in (settings.depth, count.folds))
    fits = values(found[method], SHOWN)
    own = np.full(len(SHOWN), np.nan)
    if OWN in found:
        own = values(found[OWN], SHOWN)[np.nanargmin(each["error"][-1])]
    data = xarray.Dataset({kind: (("way", "seed"), numbers) for kind, numbers in each.items()}, {"way": ways})
    data["best_method"] = method
    # Members that are only thin lines need three digits.
    data["fits"] = (("seed", "x"), fits.round(3).astype(np.float32))
    lines = {"best_fit": fits[order[0]], "median_fit": fits[order[len(order) // 2]], "own_fit": own}
    lines["wanted"] = TARGETS[name](SHOWN).numpy()
    references = {"constant": st.references.constant(fine), "monotone": st.references.best_monotone(fine)}
    references |= {"spline": spline.error, "spline_bound": spline.lower_bound, "spline_of_its_folds": as_many.error}
    numbers = {"folds_of_best": count.folds, "turns_of_best": count.turns}
    numbers["turns_of_target"] = len(heights_of_turns(fine.y.numpy())) - 2
    numbers["share_of_target"] = monotone_share(fine.y.numpy())
    numbers["share_of_best"] = monotone_share(values(best[None], GRID)[0])
    data = data.assign({kind: ("x", line) for kind, line in lines.items()})
    return data.assign(references | numbers | failures(name, found["growth"], settings)).assign_coords(x=SHOWN.numpy())


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    tables = parts.cells(trained, settings, target=list(TARGETS), way=list(METHODS)).table
    found = {name: {way: tables.sel(target=name, way=way).to_numpy() for way in METHODS} for name in TARGETS}
    parts.plan(2)
    triangles = found["triangle wave"]["growth"]
    found["sawtooth"][OWN] = parts.part("sawtooth from triangles", from_triangles, triangles, settings).table.to_numpy()
    found[SPIKED][OWN] = parts.part("chains with spikes", with_spikes, settings).table.to_numpy()
    parts.plan(len(TARGETS))
    studies = [parts.part(f"study of {name}", studied, name, found[name], settings) for name in TARGETS]
    data = xarray.concat(studies, xarray.IndexVariable("target", list(TARGETS)))
    return data.assign_attrs(architecture=ARCHITECTURE, depth=settings.depth, points=settings.points)


def claims(data: xarray.Dataset) -> list[study.Claim]:
    return []


def draw(data: xarray.Dataset) -> Figure:
    return st.plots.panels("a", height=2)[0]


if __name__ == "__main__":
    study.main(Settings(), Settings(depth=15, seeds=8, adam=400, growth=100, spikes=4), measure, draw, claims)
