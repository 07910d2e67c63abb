"""What does "infinitely deep" mean for the thinnest network: can one neuron a layer fold if every step is small?

Question. Peng's article makes chains of one neuron deeper and deeper. In theories of infinite depth the branch of a
step is multiplied by 1 / L or 1 / sqrt(L), so that every step tends to the identity. What can such a chain become?

Method. A step of width 1 whose slopes are all positive is increasing, and so is any number of them. A step with slopes
of both signs at most doubles the number of monotone pieces, so that T turns take ceil(log2(T + 1)) steps with a
negative slope somewhere. Random tables are counted exactly against both statements. Then residual ReLU chains of width
1 and 2 with a read-out are trained on sin(x), free and under both factors, by Adam with one budget, and free ones of
width 1 by growth as well. Width 2 is given (x, 0). Errors are mean squares of the first output on 10,000 other points,
beside that of the best monotone function. A step turns the line where its factor times wa wb is below -1, so that
weights within B cannot turn it from depth B^2 (1 / L) or B^4 (1 / sqrt(L)) on; how large wa wb becomes is recorded.

Reading. a: lines through chains of 30 steps, none of which or 1 to 3 have a negative slope, in units of their range.
b: turns against the steps with a negative slope; grey, random tables; dashed, what theory allows, and tents reach; in
colour trained chains of width 1. c, d: error against depth, medians over seeds and their range; black, the best
monotone function.
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

#: Width, power of the factor, and method of every chain.
CASES = {
    "grown": (1, 0.0, "growth"),
    "width 1, free": (1, 0.0, "adam"),
    "width 1, 1/sqrt(L)": (1, -0.5, "adam"),
    "width 1, 1/L": (1, -1.0, "adam"),
    "width 2, free": (2, 0.0, "adam"),
    "width 2, 1/sqrt(L)": (2, -0.5, "adam"),
    "width 2, 1/L": (2, -1.0, "adam"),
}
FACTORS = {0.0: "free", -0.5: "$1/\\sqrt{L}$", -1.0: "$1/L$"}
SHADES = {0.0: "#0072B2", -0.5: "#E69F00", -1.0: "#CC79A7"}
GROWN = "#009E73"


@dataclass(frozen=True)
class Settings(study.Settings):
    """What the thinnest network becomes as its depth grows and its steps shrink."""

    depths: tuple[int, ...] = (3, 10, 30, 100, 300)  # Of the trained chains.
    deepest: tuple[int, int] = (300, 100)  # The deepest of width 1 and of width 2.
    seeds: int = 16  # Chains of each.
    iterations: int = 300  # Of Adam, and of growth.
    rate: float = 0.03  # Of Adam.
    tables: int = 3000  # Random tables of each kind.


def random_table(random: np.random.Generator, negative: int, depth: int) -> np.ndarray:
    """Return steps of positive slopes, between 0.3 and 3, but for so many in which one of the two is negative."""
    slopes = np.exp(random.uniform(-1.2, 1.1, (depth, 2)))
    turned = random.choice(depth, negative, replace=False)
    slopes[turned, random.integers(0, 2, negative)] *= -1
    table = np.zeros((depth, 6))
    table[:, 0], table[:, 1], table[:, 3] = 1, 1, slopes[:, 0] - 1
    # h + outer (h - kink) above the kink, and slope times that below it: skip + outer and skip + outer slope.
    table[:, 5] = (slopes[:, 1] - 1) / table[:, 3]
    table[:, 2] = random.normal(size=depth)
    table[:, 4] = 0.3 * random.normal(size=depth)
    return table


def negative_steps(table: np.ndarray) -> np.ndarray:
    """Return how many steps of tables (..., step, 6) have a negative slope on one side."""
    skip, weight, _, outer, _, slope = np.moveaxis(table, -1, 0)
    steep = skip + outer * weight * np.stack([np.ones_like(slope), slope])
    return np.asarray((steep < 0).any(axis=0).sum(axis=-1))


def turns(table: np.ndarray, interval: tuple[float, float] = (-math.inf, math.inf)) -> int:
    return int(st.count(table, interval).turns)


def counted(settings: Settings) -> xarray.Dataset:
    """Return the turns of random tables, by how many of their steps have a negative slope."""
    random = np.random.default_rng(settings.seed)
    increasing = [turns(random_table(random, 0, int(random.integers(1, 60)))) for _ in range(settings.tables)]
    negative = random.integers(1, 7, settings.tables)
    others = [turns(random_table(random, int(k), int(k + random.integers(0, 20)))) for k in negative]
    return xarray.Dataset(
        {
            "increasing_turns": ("table", increasing),
            "random_negative": ("table", negative),
            "random_turns": ("table", others),
            "tent_turns": ("steps", [turns(st.tent(k), (0, 1)) for k in range(1, 7)]),
        },
        {"steps": range(1, 7)},
    )


def pictured(settings: Settings) -> xarray.Dataset:
    """Return lines through chains of 30 steps, of which 0 to 3 have a negative slope: the most winding of 100 each."""
    random, x, lines = np.random.default_rng(settings.seed), np.linspace(-3, 3, 300), []
    for negative in range(4):
        found = [st.restrict(random_table(random, negative, 30), (-3, 3))(x) for _ in range(100)]
        lines.append(max(found, key=lambda y: float(abs(np.diff(y)).sum() / np.ptp(y))))
    return xarray.Dataset(
        {"line": (("negative_of_line", "x"), np.stack(lines))}, {"negative_of_line": range(4), "x": x}
    )


def fresh_shares(settings: Settings) -> xarray.Dataset:
    """Return how many fresh chains with normal weights have increasing steps alone, and the share in theory."""
    normal = st.Distribution("normal")
    init, depths, powers = st.Init("normal", "", normal, normal, normal, normal), (10, 100, 300), (0.0, -0.5, -1.0)
    count, share = np.zeros((3, 3)), np.zeros((3, 3))
    for i, power in enumerate(powers):
        for j, depth in enumerate(depths):
            chain = st.Chain(architecture(power, readout=False), depth, settings.tables, init=init, root=settings.seed)
            count[i, j] = (negative_steps(chain.table()) == 0).sum()
            share[i, j] = st.theory.monotone_share().value(depth=depth, power=power)
    both = {"fresh_increasing": (("power", "fresh_depth"), count), "fresh_theory": (("power", "fresh_depth"), share)}
    return xarray.Dataset(both, {"power": list(powers), "fresh_depth": list(depths)})


def architecture(power: float, readout: bool = True) -> st.Architecture:
    return st.Architecture("residual2_relu", skip=1, maps=2, branch_power=power, readout=readout)


def sine(points: int, width: int) -> st.Task:
    """Return the sine on (-3, 3), at width 2 from (x, 0) to (sin x, 0)."""
    task = st.Task(torch.sin, (-3, 3), points)
    nothing = torch.zeros(points, dtype=torch.float64)
    wide = [torch.stack([one, nothing], 1) for one in (task.x, task.y)]
    return task if width == 1 else st.Task.from_samples(*wide)


def fitted(case: str, depth: int, settings: Settings) -> xarray.Dataset:
    """Train chains and return their errors, and what their steps are."""
    width, power, method = CASES[case]
    names = ("error", "negative", "turns", "product", "distance")
    if depth > settings.deepest[width - 1]:
        return xarray.Dataset({name: ("seed", np.full(settings.seeds, np.nan)) for name in names})
    torch.set_num_threads(1)  # as fast as two for tensors this small
    chain = st.Chain(architecture(power), depth, settings.seeds, width, root=settings.seed)
    rate = {"rate": settings.rate} if method == "adam" else {}
    st.train(chain, sine(128, width), method, settings.iterations, progress=False, **rate)
    fresh, coarse = sine(10_000, width), sine(25, width).x
    off = st.evaluate(chain, fresh.x) - fresh.y
    errors = off.square().mean(1) if width == 1 else off[..., 0].square().mean(1)
    distance = st.spectrum(chain, coarse, progress=False).distance_from_identity[:depth].amax(dim=(0, 2))
    found = {name: np.full(settings.seeds, np.nan) for name in names}
    found |= {"error": errors.numpy(), "distance": distance.numpy()}
    if width == 1:
        table = chain.table()
        steps = table[:, :depth]
        found["negative"] = negative_steps(steps).astype(float)
        found["turns"] = np.array([turns(one, (-3, 3)) for one in table], dtype=float)
        found["product"] = abs(steps[..., 1] * steps[..., 3]).max(axis=1) / depth**power
    return xarray.Dataset({name: ("seed", found[name]) for name in names})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    data = parts.cells(fitted, settings, case=list(CASES), depth=settings.depths)
    others = [parts.part(one.__name__, one, settings) for one in (counted, pictured, fresh_shares)]
    best = st.references.best_monotone(sine(10_000, 1))
    return xarray.merge([data, *others]).assign(best_monotone=best)


def below(data: xarray.Dataset, case: str, depth: int) -> tuple[int, int]:
    """Return how many chains are below the best monotone function, and of how many."""
    errors = data.error.sel(case=case, depth=depth)
    return int((errors < float(data.best_monotone)).sum()), int(errors.notnull().sum())


def depths_of(data: xarray.Dataset, case: str) -> list[int]:
    return [int(depth) for depth in data.depth.values if below(data, case, depth)[1]]


def at_depths(data: xarray.Dataset, case: str) -> str:
    """Say how many are below the best monotone function at every depth, and the errors at the last."""
    depths = depths_of(data, case)
    shares = ", ".join("{} of {} at L = {}".format(*below(data, case, depth), depth) for depth in depths)
    errors = data.error.sel(case=case, depth=depths[-1]).dropna("seed")
    return f"{shares}, there {study.spread(errors)}"


def over_bound(data: xarray.Dataset) -> tuple[int, int]:
    """Return how many chains, random and trained, have more turns than their steps allow, and of how many."""
    trained = data[["negative", "turns"]].stack(chain=("case", "depth", "seed")).dropna("chain")
    negative = np.concatenate([data.random_negative, trained.negative])
    turned = np.concatenate([data.random_turns, trained.turns])
    return int((st.theory.least_turning_steps().value(turns=turned) > negative).sum()), turned.size


def claims(data: xarray.Dataset) -> list[study.Claim]:
    best, count = float(data.best_monotone), data.sizes["table"]
    over, of = over_bound(data)
    tents = bool((data.tent_turns == 2.0**data.steps - 1).all())
    scaled = [case for case in CASES if case.startswith("width 1, 1/")]
    wide = [case for case in CASES if case.startswith("width 2")]
    passed = {case: [below(data, case, depth)[0] for depth in depths_of(data, case)] for case in CASES}
    ends = {case: passed[case][-1] for case in CASES}
    shallow = any(sum(passed[case]) for case in scaled)
    adam, grown = below(data, "width 1, free", int(data.depth[-1])), below(data, "grown", int(data.depth[-1]))
    products = [float(data["product"].sel(case=scaled[0], depth=d).max()) for d in depths_of(data, scaled[0])]
    enough = [depth for depth in depths_of(data, wide[0]) if all(below(data, case, depth)[0] for case in wide)]
    n, fresh = count, data.fresh_increasing / count
    error = np.sqrt((data.fresh_theory * (1 - data.fresh_theory)).clip(1 / n) / n)
    worst = float((abs(fresh - data.fresh_theory) / error).max())

    def shares(power: float) -> str:
        return ", ".join(f"{100 * share:.3g}" for share in fresh.sel(power=power).to_numpy())

    rows = (
        (
            "A step with positive slopes increases, and so does any number of them", "theory",
            f"{study.percent((data.increasing_turns > 0).sum(), count)} of random chains of 1 to 59 such steps turn",
            "refuted" if data.increasing_turns.any() else "held",
        ),
        (
            "T turns take at least ceil(log2(T + 1)) steps with a negative slope", "theory",
            f"{study.percent(over, of)} of random and trained chains need fewer; tents of 1 to 6 steps "
            f"{'reach' if tents else 'miss'} the bound",
            "held" if over == 0 and tents else "refuted",
        ),
        (
            f"Width 1 ends at the best monotone function, {best:.7f}, under 1/sqrt(L) and 1/L", "theory",
            "below it are " + "; ".join(f"under {case[9:]} {at_depths(data, case)}" for case in scaled)
            + f"; under 1/sqrt(L) the largest |wa wb| is {', '.join(f'{p:.3g}' for p in products)}: weights outgrow "
            "the factor where the depth is small",
            "refuted" if any(ends[case] for case in scaled) else "refined" if shallow else "held",
        ),
        (
            "Width 1 passes the best monotone function free", "theory",
            f"below it are by growth {at_depths(data, 'grown')}; by Adam {at_depths(data, 'width 1, free')}",
            "held" if adam[0] == adam[1] else "refined" if grown[0] else "refuted",
        ),
        (
            "Width 2 passes it free, under 1/sqrt(L) and under 1/L", "theory",
            "below it are " + "; ".join(f"{case[9:]} {at_depths(data, case)}" for case in wide),
            "held" if all(ends[case] for case in wide) else "refined" if enough else "refuted",
        ),
        (
            "Fresh chains with normal weights increase under both factors from some depth on, and free ones do not",
            "theory",
            "; ".join(f"L^{p:g}: {shares(p)} %" for p in fresh.power.values)
            + f" of {n} at L = {', '.join(map(str, fresh.fresh_depth.values))}; theory is at most {worst:.1f} standard "
            "errors away",
            "held" if worst < 4 else "refuted",
        ),
    )  # fmt: skip
    return [study.Claim(*row) for row in rows]


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    draw_lines(data, axes["a"])
    draw_turns(data, axes["b"])
    for width, ax in ((1, axes["c"]), (2, axes["d"])):
        draw_errors(data, width, ax)
    last = [int(d) for d in data.depth.values][-1]
    scaled = [below(data, case, last)[0] for case in CASES if case.startswith("width 1, 1/")]
    deepest = depths_of(data, "width 2, 1/L")[-1]
    passed, of = below(data, "width 2, 1/L", deepest)
    ends = "no chain of one neuron" if not any(scaled) else f"{sum(scaled)} chains of one neuron"
    st.plots.headline(
        figure,
        f"Small steps do not fold: under $1/\\sqrt{{L}}$ and $1/L$ {ends} a layer passes the best monotone function, "
        f"{float(data.best_monotone):.3f}, at depth {last}; at width 2, {passed} of {of} pass it under $1/L$ at depth "
        f"{deepest}.",
    )
    return figure


def draw_lines(data: xarray.Dataset, ax: Axes) -> None:
    """Draw each line in units of its range, one above the other."""
    ends = {}
    for negative, line in zip(data.negative_of_line.values, data.line.to_numpy(), strict=True):
        y = (line - line.min()) / np.ptp(line) + 1.25 * (3 - negative)
        ax.plot(data.x, y, color="black")
        ends[f"{negative} negative" if negative else "30 steps, no\nnegative slope"] = float(y[-1])
    ax.set(xlim=(-3, 3), ylim=(-0.1, 4.9), xlabel="x", ylabel="h(x), in units of its range", yticks=[])
    st.plots.end_labels(ax, ends)


def draw_turns(data: xarray.Dataset, ax: Axes) -> None:
    random = np.random.default_rng(0)
    x = data.random_negative + random.uniform(-0.25, 0.25, data.sizes["table"])
    ax.plot(x, data.random_turns + 1, ".", color="#BBBBBB", markersize=2, label="random tables")
    for case, (width, power, method) in CASES.items():
        if width == 1:
            one = data[["negative", "turns"]].sel(case=case).stack(chain=("depth", "seed")).dropna("chain")
            beside = one.negative + random.uniform(-0.25, 0.25, one.negative.size)
            name = f"{FACTORS[power]}, grown" if method == "growth" else FACTORS[power]
            shade = GROWN if method == "growth" else SHADES[power]
            ax.plot(beside, one.turns + 1, ".", color=shade, markersize=4, label=name)
    steps = np.arange(int(max(data.steps.max(), 6)) + 1)
    ax.plot(steps, 2.0**steps, color="black", linestyle=(0, (4, 2)))
    ax.plot(data.steps, data.tent_turns + 1, "x", color="black", markersize=5, label="tents")
    most = max(float(data.negative.max()), 6) + 0.7
    ax.set(yscale="log", xlim=(-0.6, min(most, 14)), xlabel="steps with a negative slope", ylabel="turns + 1")
    st.plots.ticks(ax, y=[1, 2, 4, 8, 16, 32, 64])
    ax.legend(loc="upper right" if most > 8 else "upper left", markerscale=1.5, handletextpad=0.2)


def draw_errors(data: xarray.Dataset, width: int, ax: Axes) -> None:
    ends, shades = {}, {}
    for case, (of, power, method) in CASES.items():
        if of == width:
            errors = data.error.sel(case=case, depth=depths_of(data, case))
            name = f"{FACTORS[power]}, grown" if method == "growth" else FACTORS[power]
            shades[name] = GROWN if method == "growth" else SHADES[power]
            levels = errors.quantile([0, 0.5, 1], "seed").to_numpy()
            st.plots.band(ax, errors.depth.to_numpy(), levels, shades[name], marks=3, alpha=0.15)
            ends[name] = float(errors.median("seed")[-1])
    ax.axhline(float(data.best_monotone), color="black", linewidth=0.9)
    ends["best monotone"] = float(data.best_monotone)
    depths = depths_of(data, f"width {width}, free")
    ax.set(xscale="log", yscale="log", xlabel="depth L", ylabel="mean squared error", title=f"width {width}")
    st.plots.ticks(ax, x=depths)
    st.plots.end_labels(ax, ends, shades)


if __name__ == "__main__":
    quick = Settings(depths=(3, 6), deepest=(6, 3), seeds=4, iterations=40, tables=100)
    study.main(Settings(), quick, measure, draw, claims)
