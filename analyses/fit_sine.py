"""What stops a one-neuron chain from fitting sin(x): what it can express, the optimisation, or the numerics?

Question. Peng (2017) fits five chains of one neuron a layer to sin(x) on (-3, 3) and says what each can do. The plain
PReLU chain does not work: a matter of numerical stability, he says. At each depth from 3 to 1000, how much of a failure
is due to the architecture, how much to the training, how much to the arithmetic?

Method. Every chain is trained on 256 points by Adam from torch's start, by Levenberg-Marquardt (LM) from torch's and
from spread kinks ("knots"), and by growth where it can grow. The plain PReLU chain is also trained with slopes held at
0 or above, and by Adam from weights and slopes of -1 and 1 ("signs"), through which no signal fades. Errors are mean
squares on 10,000 other points, as are the references: the best constant, monotone function and function above x. A
spline is fitted on 2000 points with as many free knots as the chain has steps, and one with as many as each fit has
folds, for folds multiply from step to step. Expressible is the best error that any method reached; the optimisation
loses what Adam's is above that; the numerics is what changes in float32 (more in digits.py). LM races against Adam
from several starts and rates, in the seconds that LM took.

Reading. Lines are medians over seeds, bands their range. a, by Adam; b, by growth, and by LM where a chain cannot grow;
dashed are the references. c, d: the fits of two depths, grey by Adam, in colour as in b; the target is dashed. Second
figure: every fit against its own number of pieces, filled if grown, and the best spline of as many.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

HELD = "plain_prelu, slopes >= 0"
CASES = {name: name for name in st.ARCHITECTURES} | {HELD: "plain_prelu"}
SHADES = {case: "#CC79A7" if case == HELD else st.plots.colour(case) for case in CASES}
METHODS: dict[str, tuple[str, str | st.Init]] = {
    "Adam": ("adam", "pytorch"),
    "Adam, signs": ("adam", study.SIGNS),
    "LM": ("levenberg_marquardt", "pytorch"),
    "LM, knots": ("levenberg_marquardt", "knots"),
    "growth": ("growth", "pytorch"),
}
#: The depth at which failures are taken apart, and up to which Adam is run in float32 as well.
MIDDLE = 30
#: Splines of more folds than these are not looked for on 2000 points.
MOST_FOLDS = 300
#: The starts and rates of Adam of which the best is set against Levenberg-Marquardt.
TRIED = (("pytorch", 0.01), ("scaled", 0.01), ("knots", 0.01), ("identity", 0.01), ("pytorch", 0.003), ("scaled", 0.03))


@dataclass(frozen=True)
class Settings(study.Settings):
    depths: tuple[int, ...] = (3, 10, 30, 100, 300, 1000)  # Depths of the chains.
    seeds: tuple[int, ...] = (32, 32, 16, 4, 2, 2)  # Chains of each depth.
    adam: tuple[int, ...] = (2000, 2000, 2000, 1500, 600, 200)  # Iterations of Adam at each depth.
    squares: tuple[int, ...] = (200, 200, 200, 200, 120, 60)  # Iterations of Levenberg-Marquardt at each depth.
    growth: tuple[int, ...] = (300, 500, 1000, 500, 300, 200)  # Iterations of growth at each depth.
    race: tuple[int, int] = (8, 150)  # Chains that LM and Adam race with, and iterations of LM.


TRAINED, FRESH = (st.Task(torch.sin, (-3, 3), points=points) for points in (256, 10_000))
#: Splines are fitted to every fifth of the fresh points.
COARSE = st.Task.from_samples(FRESH.x[::5], FRESH.y[::5])


@cache
def spline(folds: int) -> Any:
    return st.references.best_spline(COARSE, folds)


def mean_squares(chain: st.Chain) -> np.ndarray:
    return np.asarray((st.evaluate(chain, FRESH.x) - FRESH.y).square().mean(1))


def methods_of(case: str) -> list[str]:
    left_out = {"growth"} if CASES[case] in ("plain_relu", "residual1_relu") else set()
    left_out |= {"Adam, signs"} if case != "plain_prelu" else set()
    return [method for method in METHODS if method not in left_out]


def best_method(case: str) -> str:
    """Return the method that is drawn in colour."""
    return "growth" if "growth" in methods_of(case) else "LM"


def fitted(case: str, depth: int, settings: Settings) -> xarray.Dataset:
    place = settings.depths.index(depth)
    iterations = {"adam": settings.adam, "levenberg_marquardt": settings.squares, "growth": settings.growth}

    def trained(method: str, dtype: torch.dtype = torch.float64) -> st.Chain:
        algorithm, init = METHODS[method]
        # With slopes held Adam starts at the identity, where no signal fades.
        start = "identity" if (case, method) == (HELD, "Adam") else init
        seeds, root = settings.seeds[place], settings.seed
        chain = st.Chain(CASES[case], depth, seeds, init=start, root=root, dtype=dtype)
        least_slope = 0.0 if case == HELD else None
        st.train(chain, TRAINED, algorithm, iterations[algorithm][place], least_slope=least_slope, progress=False)
        return chain

    chains = {method: trained(method) for method in methods_of(case)}
    by = xarray.IndexVariable("by", list(chains))
    data = xarray.concat([described(chain) for chain in chains.values()], by).reindex(by=list(METHODS))
    untold = np.full(settings.seeds[place], np.nan)
    single = mean_squares(trained("Adam", torch.float32)) if depth <= MIDDLE else untold
    if "growth" in chains:
        rounded = mean_squares(st.Chain.from_table(chains["growth"].table(), CASES[case], dtype=torch.float32))
    else:
        rounded = untold
    return data.assign(float32_error=("seed", single), rounded_error=("seed", rounded))


def described(chain: st.Chain) -> xarray.Dataset:
    fit, fresh = st.evaluate(chain, TRAINED.x), st.evaluate(chain, FRESH.x)
    squares = (fresh - FRESH.y).square()
    counts = st.count(chain, (-3, 3))
    folds, turns = ([float(min(k, 10**300)) for k in column] for column in (counts.folds, counts.turns))
    coarse = squares[:, ::5].mean(1).tolist()
    own = [spline(int(k)) if k <= MOST_FOLDS else None for k in folds]
    measured = {
        "error": squares.mean(1),
        "train_error": (fit - TRAINED.y).square().mean(1),
        "folds": folds,
        "turns": turns,  # exact: a function without a turn is monotone
        "least_rise": (fresh - FRESH.x).amin(1),
        "dead": (st.spectrum(chain, TRAINED.x[::8], progress=False).signs[-1] == 0).all(1).double(),
        "flat": (fit.amax(1) - fit.amin(1) < 0.02).double(),
        "own_ratio": [np.nan if s is None else e / s.error for e, s in zip(coarse, own, strict=True)],
        "own_bound": [np.nan if s is None else e / s.lower_bound for e, s in zip(coarse, own, strict=True)],
    }
    data = xarray.Dataset({name: ("seed", np.asarray(values)) for name, values in measured.items()})
    # Float32 is enough for a figure.
    return data.assign(fit=(("seed", "x"), fit.numpy().clip(-1e6, 1e6).astype(np.float32)), x=TRAINED.x.numpy())


def raced(depth: int, settings: Settings) -> xarray.Dataset:
    """Return the seconds LM takes on residual PReLU, its errors, and Adam's by start and rate in the same time each."""
    seeds, iterations = settings.race

    def timed(init: str, method: str, number: int, **options: float) -> tuple[float, np.ndarray]:
        chain = st.Chain("residual2_prelu", depth, seeds=seeds, init=init, root=settings.seed)
        began = time.perf_counter()
        st.train(chain, TRAINED, method, number, progress=False, **options)
        return time.perf_counter() - began, mean_squares(chain)

    seconds, errors = timed("knots", "levenberg_marquardt", iterations)
    # The fastest of some short runs, so that Adam has rather too much time than too little.
    number = max(10, int(30 * seconds / min(timed("pytorch", "adam", 30)[0] for _ in range(4))))
    adams = [timed(init, "adam", number, rate=rate)[1] for init, rate in TRIED]
    found = {"race_lm": ("racer", errors), "race_adam": (("tried", "racer"), adams), "race_seconds": seconds}
    return xarray.Dataset(found, {"tried": [f"{init}, rate {rate}" for init, rate in TRIED]})


def splines(settings: Settings) -> xarray.Dataset:
    some = np.geomspace(1, MOST_FOLDS, 40).astype(int).tolist()
    folds = sorted({*some, *(depth for depth in settings.depths if depth <= MOST_FOLDS)})
    return xarray.Dataset({"spline": ("spline_folds", [spline(k).error for k in folds])}, {"spline_folds": folds})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    torch.set_num_threads(1)  # many small operations: waking a second thread costs more than it does
    data = parts.cells(fitted, settings, case=list(CASES), depth=settings.depths)
    shown = [min(settings.depths, key=lambda depth: abs(depth - MIDDLE)), max(settings.depths)]
    data["fit"] = data.fit.sel(depth=shown).rename(depth="shown")
    races = parts.cells(raced, settings, race_depth=(30, 100))
    through = np.interp(FRESH.x.numpy(), TRAINED.x.numpy(), TRAINED.y.numpy())
    limits = {
        "best_constant": st.references.constant(FRESH),
        "best_monotone": st.references.best_monotone(FRESH),
        "best_above_x": st.references.best_above_identity(FRESH),
        "interpolation": float(np.mean((through - FRESH.y.numpy()) ** 2)),
    }
    target = xarray.Dataset({"target": ("x", TRAINED.y.numpy())})
    return xarray.merge([data, parts.part("splines", splines, settings), races, target]).assign(limits)


def listed(values: xarray.DataArray, form: str = ".0e") -> str:
    return "/".join(f"{one:{form}}" for one in values.to_numpy())


def named(values: xarray.DataArray, form: str) -> str:
    return ", ".join(f"{case} {float(values.sel(case=case)):{form}}" for case in CASES)


def claims(data: xarray.Dataset) -> list[study.Row]:
    middle, deep = map(int, data.shown)
    monotone, constant = float(data.best_monotone), float(data.best_constant)
    at, error, medians = f"at depths {listed(data.depth, 'd')}", data.error, data.error.median("seed")
    adam, grown, knots = (medians.sel(by=by) for by in ("Adam", "growth", "LM, knots"))
    hits = {"flat": data.flat, "dead": data.dead, "once": data.turns == 1, "turnless": data.turns == 0}
    shares = 100 * xarray.Dataset(hits | {"stuck": error > 0.9 * constant}).where(error.notnull())
    by_adam, above, plain = shares.sel(by="Adam"), data.sel(case="residual1_relu"), data.sel(case="plain_prelu")
    flat, rise = float(by_adam.flat.sel(case="plain_relu", depth=middle).mean()), float(above.least_rise.min())
    once = float(shares.once.sel(case="plain_prelu", by="growth", depth=middle).mean())
    turnless = float(shares.turnless.sel(case="residual2_prelu", by="LM, knots", depth=deep).mean())
    straight = ((data.turns == 0) | (data.case == HELD)) & error.notnull()
    wrong = int((straight & (error < monotone * (1 - 1e-9))).sum()), int((data.own_bound < 1 - 1e-9).sum())
    compared = int(straight.sum()), int(data.own_bound.notnull().sum())
    fails = float(adam.sel(case="plain_prelu", depth=middle)) > 0.9 * constant
    best = error.sel(by="growth", case="plain_prelu").min("seed")
    ratios = grown.sel(case="residual2_prelu") / data.spline.sel(spline_folds=data.depth[data.depth <= MOST_FOLDS])
    gains = data.race_adam.median("racer").min("tried") / data.race_lm.median("racer")
    lost = adam.sel(depth=middle) / error.sel(depth=slice(None, middle)).min(("seed", "depth", "by"))
    single = 100 * abs(data.float32_error.median("seed").sel(depth=middle) / adam.sel(depth=middle) - 1)
    trapped = knots.sel(case="residual2_prelu")
    rows = [
        (
            "plain_relu dies: with more layers everything is 0", "Peng 2017",
            f"at depth {middle} {flat:.0f} % are flat by Adam; exactly dead {at}: "
            f"{listed(by_adam.dead.sel(case='plain_relu').mean('seed'), '.0f')} %; it could do {monotone:.3f}",
            flat >= 95,
        ),
        (
            "residual1_relu can only grow, so f(x) >= x", "Peng 2017",
            f"least f(x) - x over all members and points {rise:.2g}; best error {float(above.error.min()):.4f}, best "
            f"function above x {float(data.best_above_x):.4f}", "held" if rise >= 0 else "refuted",
        ),
        (
            "plain_prelu does not work either", "Peng 2017",
            f"{at}: Adam {listed(adam.sel(case='plain_prelu'))} (medians), growth {listed(best)} (best; rounded "
            f"to float32 {float(plain.rounded_error.sel(depth=middle).min()):.0e} at depth {middle}); of those "
            f"grown to {middle} steps {once:.0f} % turn once only",
            "refuted" if not fails else "refined" if float(best.min()) < 0.1 * monotone else "held",
        ),
        (
            "No monotone fit is below the best monotone function, none below the best spline of its folds", "theory",
            f"{wrong[0]} of {compared[0]} and {wrong[1]} of {compared[1]} fits are (must be 0); with slopes held at 0 "
            f"or above the best has {float(error.sel(case=HELD).min()):.4f}, the best monotone function {monotone:.4f}",
            "refuted" if any(wrong) else "held",
        ),
        (
            "A chain of L steps fits no better than a spline with L knots", "common belief",
            f"residual2_prelu by growth over that spline, depths {listed(ratios.depth, 'd')}: {listed(ratios, '.2g')}",
            "refuted" if float(ratios.min()) < 1 else "held",
        ),
        (
            "Adam fits as well as second-order methods in the same time", "common practice",
            f"residual2_prelu, depths {listed(data.race_depth, 'd')}: the best of Adam's {data.sizes['tried']} starts "
            f"and rates has {listed(gains, '.0f')} times the error of LM from knots (medians of {data.sizes['racer']})",
            "refuted" if float(gains.min()) > 2 else "held",
        ),
        (
            "More steps fit better", "common practice",
            f"residual2_prelu {at}: Adam {listed(adam.sel(case='residual2_prelu'))}, LM from knots {listed(trapped)} "
            f"({turnless:.0f} % without a turn at depth {deep}), growth {listed(grown.sel(case='residual2_prelu'))}",
            "refuted" if float(trapped[-1]) > 2 * float(trapped.min()) else "held",
        ),
        (
            f"Adam's error at depth {middle} is what a chain cannot express", "common practice",
            f"over the best of all methods: {named(lost, '.2g')}; float32 changes it by {named(single, '.1g')} %",
            "refuted" if float(lost.max()) > 2 else "held",
        ),
    ]  # fmt: skip
    sayings = {"residual2_relu": "keeps folding; very deep it can die", "residual2_prelu": "solves the dying"}
    for case, said in sayings.items():
        one = by_adam.sel(case=case)
        died, stuck = float(one.dead.mean()), float(one.stuck.sel(depth=deep).mean())
        as_said = died > 0 if case == "residual2_relu" else died == stuck == 0
        told = (
            f"{at}: Adam {listed(adam.sel(case=case))}, growth {listed(grown.sel(case=case))} (medians); exactly dead "
            f"by Adam {died:.0f} %; at depth {deep} {stuck:.0f} % of Adam's end no better than a constant"
        )
        fits = float(grown.sel(case=case, depth=middle)) < 0.1 * monotone
        rows.append((f"{case} {said}", "Peng 2017", told, ("held" if as_said else "refined") if fits else "refuted"))
    return rows


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    deep = int(data.depth[-1])
    last = data.error.sel(depth=deep).median("seed")
    stuck = int((last.sel(by="Adam") > 0.9 * data.best_constant).sum())
    folding = [case for case in CASES if case != HELD and best_method(case) == "growth"]
    first, axes = st.plots.panels("ab;cd", height=6.6)
    draw_errors(data, axes["a"], dict.fromkeys(CASES, "Adam"), "Adam")
    draw_errors(data, axes["b"], {case: best_method(case) for case in CASES}, "growth, or LM")
    for letter, depth in zip("cd", map(int, data.shown), strict=True):
        draw_fits(data, depth, axes[letter])
    st.plots.end_labels(axes["a"], {case: float(last.sel(case=case, by="Adam").clip(max=20)) for case in CASES}, SHADES)
    limits = {name: float(data[name.replace(" ", "_")]) for name in ("best constant", "best monotone", "best above x")}
    st.plots.end_labels(axes["b"], limits | {"spline of\nL knots": 3e-10})
    finding = (
        f"With {deep} steps Adam leaves {stuck} of {len(CASES)} chains at a constant or worse; growth brings the "
        f"{len(folding)} that fold to errors of {float(last.sel(by='growth', case=folding).max()):.0e} or less."
    )
    second, axes = st.plots.panels("a", height=3.4)
    draw_folds(data, axes["a"])
    ratio = float(data.own_ratio.sel(case="residual2_prelu", by="growth").median())
    text = f"Grown residual PReLU chains have {ratio:.2g} times the error of the best spline of as many folds (median)."
    return {"": st.plots.headline(first, finding), "folds": st.plots.headline(second, text)}


def draw_errors(data: xarray.Dataset, ax: Axes, by: dict[str, str], title: str) -> None:
    """Draw the error of every chain against depth, one method each, and what no chain of a kind goes below."""
    for case, method in by.items():
        levels = data.error.sel(case=case, by=method).quantile([0, 0.5, 1], "seed")
        st.plots.band(ax, data.depth, levels, SHADES[case], marks=2.5, alpha=0.15)
    for limit in (data.best_constant, data.best_monotone, data.best_above_x):
        ax.axhline(float(limit), color="#444444", linestyle="--", linewidth=0.8)
    ax.plot(data.spline_folds, data.spline, ":", color="black")
    ax.set(xscale="log", xlabel="depth L", xlim=(data.depth[0] / 1.2, 1.2 * data.depth[-1]), title=title)
    ax.set(yscale="log", ylabel="mean-squared error", ylim=(2e-10, 30))
    st.plots.ticks(ax, x=data.depth.values)


def draw_fits(data: xarray.Dataset, depth: int, ax: Axes) -> None:
    ends, shades = {}, {}
    for row, case in enumerate(CASES):
        best, zero = best_method(case), -2.8 * row
        for method, colour, width in (("Adam", "#888888", 0.6), (best, SHADES[case], 0.9)):
            fits = data.fit.sel(case=case, shown=depth, by=method).dropna("seed", how="all")
            ax.plot(data.x, fits.where(abs(fits) < 1.5).T + zero, color=colour, linewidth=width)
        ax.plot(data.x, data.target + zero, color="black", linestyle=(0, (4, 2)), linewidth=0.8)
        middle = data.error.sel(case=case, depth=depth).median("seed")
        end = f"{case}\nAdam {float(middle.sel(by='Adam')):.0e}, {best} {float(middle.sel(by=best)):.0e}"
        ends[end], shades[end] = zero, SHADES[case]
    ax.set(xlim=(-3, 3), ylim=(-2.8 * row - 1.6, 1.6), xlabel="x", ylabel="f(x)", yticks=[], title=f"{depth} steps")
    st.plots.end_labels(ax, ends, shades)


def draw_folds(data: xarray.Dataset, ax: Axes) -> None:
    for case, shade in SHADES.items():
        for method in methods_of(case):
            one, grown = data.sel(case=case, by=method), method == "growth"
            look = {"markerfacecolor": shade if grown else "none", "markeredgewidth": 0.5, "zorder": 3 if grown else 2}
            pieces = one.folds.where(one.folds < 1e4).to_numpy().ravel() + 1
            ax.plot(pieces, one.error.to_numpy().ravel(), "o", color=shade, markersize=2.5, **look)
    ax.plot(data.spline_folds + 1, data.spline, color="black", zorder=4)
    ax.axhline(float(data.interpolation), color="#888888", linewidth=0.8)
    ax.text(1.1, 1.3 * float(data.interpolation), "lines through the 256 points", fontsize=7)
    ax.text(9, 3e-8, "best spline of\nas many pieces", fontsize=7)
    ax.set(xscale="log", xlim=(0.9, 4000), xlabel="pieces of the fit")
    ax.set(yscale="log", ylim=(2e-10, 30), ylabel="mean-squared error")
    st.plots.end_labels(ax, {case: 10.0 ** (-row) for row, case in enumerate(CASES)}, SHADES)


QUICK = Settings(
    depths=(10, 30, 100, 1000), seeds=(6, 4, 2, 1), adam=(150, 150, 40, 5), squares=(50, 50, 30, 10),
    growth=(200, 200, 120, 60), race=(4, 25),
)  # fmt: skip

if __name__ == "__main__":
    study.main(Settings(), QUICK, measure, draw, claims)
