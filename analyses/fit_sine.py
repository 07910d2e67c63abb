"""What stops a one-neuron chain from fitting sin(x): what it can express, the optimisation, or the numerics?

Question. Peng (2017) fits five chains of one neuron a layer to sin(x) on (-3, 3) and reports what each can do; of the
plain PReLU chain he says that it does not work, a matter of numerical stability. At each depth from 3 to 1000, how much
of a failure is the architecture's, how much the training's, and how much the arithmetic's?

Method. Every chain is trained on 256 points by Adam from torch's start, by Levenberg-Marquardt (LM) from torch's and
from spread kinks ("knots"), and by growth where there is one; the plain PReLU chain also with its slopes held at 0
or above, and by Adam from weights and slopes of -1 and 1 ("signs"), through which no signal fades. Errors are mean
squares on 10,000 other points, where the references are computed too: the best constant, monotone function, function
above x. A spline with as many free knots as the chain has steps is fitted on 2000 points, and so is, for each fit, one
with as many knots as the fit itself has folds, for folds multiply from step to step. Expressible is the best error
that any method reached; optimisation is what Adam's is above that. For the numerics the same run of Adam is repeated in
arithmetic of 24, 53, 64 bits and 50 decimal digits, with Adam's epsilon of 1e-8 and without.

Reading. Top: error against depth; median and range over seeds. Dashed, dotted, dash-dotted: the best constant,
monotone function, function above x; thin black: the best spline with as many folds as steps. Middle: the fits at two
depths, grey by Adam, in colour by growth, or by LM where a chain cannot grow, median errors above; the target dashed.
Bottom, from the left: error against the fit's own folds, and the spline with as many; some members of the plain PReLU
chain in ever more digits, epsilon 1e-8 (filled) and 0 (open); how many get below the monotone limit by epsilon and
start.
"""

from __future__ import annotations

import dataclasses
import decimal
import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray
from tqdm.auto import tqdm

import stability as st

HELD = "plain_prelu, slopes >= 0"
CASES = {name: name for name in st.ARCHITECTURES} | {HELD: "plain_prelu"}
#: Weights and slopes of -1 and 1: every step is x, -x, |x| or -|x| about its kink, and no signal fades.
SIGNS = dataclasses.replace(
    st.INITS["pytorch"], name="signs", weight=st.Distribution("sign"), slope=st.Distribution("sign"),
    readout_weight=st.Distribution("uniform"),
)  # fmt: skip
METHODS: dict[str, tuple[str, str | st.Init]] = {
    "Adam": ("adam", "pytorch"),
    "Adam, signs": ("adam", SIGNS),
    "LM": ("levenberg_marquardt", "pytorch"),
    "LM, knots": ("levenberg_marquardt", "knots"),
    "growth": ("growth", "pytorch"),
}
LOOKS: dict[str, dict[str, Any]] = {
    "Adam": {"marker": "o", "markersize": 3.5, "linewidth": 1.0, "markerfacecolor": "white"},
    "Adam, signs": {"marker": "D", "markersize": 3.5, "linewidth": 1.0, "markerfacecolor": "white", "linestyle": "--"},
    "LM": {"marker": "^", "markersize": 4, "linewidth": 1.0, "markerfacecolor": "white", "linestyle": "--"},
    "LM, knots": {"marker": "s", "markersize": 3.5, "linewidth": 1.0},
    "growth": {"marker": "o", "markersize": 4.5, "linewidth": 1.8},
}
#: By depth: seeds, and iterations of Adam, Levenberg-Marquardt and growth.
PLAN = {
    3: (32, 2000, 200, 300),
    10: (32, 2000, 200, 500),
    30: (16, 2000, 200, 1000),
    100: (4, 1500, 200, 500),
    300: (2, 600, 120, 300),
    1000: (2, 200, 60, 200),
}
QUICK = {10: (6, 150, 50, 200), 30: (4, 150, 50, 200), 100: (2, 40, 30, 120), 1000: (1, 5, 10, 60)}
#: Splines with more folds than these are not looked for on 2000 points.
MOST_FOLDS = 300
#: The rates and starts of Adam of which the best is set against Levenberg-Marquardt.
TRIED = (("pytorch", 0.01), ("scaled", 0.01), ("knots", 0.01), ("identity", 0.01), ("pytorch", 0.003), ("scaled", 0.03))
#: By depth: seeds and iterations of Levenberg-Marquardt.
RACES = {30: (12, 200), 100: (6, 150)}
PRECISIONS: dict[str, Any] = {
    "24 bits": np.float32,
    "53 bits": np.float64,
    "64 bits": np.longdouble,
    "50 digits": Decimal,
}


@dataclass(frozen=True)
class Settings:
    """The article's pictures: five chains fitted to sin(x), and why the fits that fail do."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, iterations and depths: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def sine(points: int) -> st.Task:
    return st.Task(torch.sin, (-3, 3), points=points)


TRAINED, FRESH = sine(256), sine(10_000)
#: Splines are fitted to every fifth of the fresh points.
COARSE = st.Task.from_samples(FRESH.x[::5], FRESH.y[::5])


def outputs(chain: st.Chain, x: torch.Tensor) -> torch.Tensor:
    """Return the members' values in float64, (seeds, points)."""
    # Pieces that stay in the cache; fresh memory for every step of the whole took up to 300 times as long.
    pieces = x.to(chain.dtype).split(8192 // chain.seeds)
    with torch.no_grad():
        return torch.cat([chain(piece) for piece in pieces], dim=1).double()


def mean_squares(chain: st.Chain) -> np.ndarray:
    """Return the errors of the members on the fresh points."""
    return np.asarray((outputs(chain, FRESH.x) - FRESH.y).square().mean(1))


def spline_law(folds: Any) -> Any:
    """Return what the error of the best spline of sin on (-3, 3) tends to, (integral of |f''|^0.4)^5 / (4320 pieces^4).

    Each of its pieces, of length h, leaves f''^2 h^4 / 720, and the best knots make all pieces' shares alike.
    """
    x = np.linspace(-3, 3, 100_001)
    return (6 * np.mean(np.abs(np.sin(x)) ** 0.4)) ** 5 / (4320 * (folds + 1.0) ** 4)


def applies(case: str, method: str) -> bool:
    if method == "Adam, signs":
        return case == "plain_prelu"
    return method != "growth" or CASES[case] in ("residual2_relu", "residual2_prelu", "plain_prelu")


def trained(
    case: str, method: str, depth: int, seeds: int, iterations: int, root: int, dtype=torch.float64
) -> st.Chain:
    """Return the chain after its training. With slopes held Adam starts at the identity, where no signal fades."""
    name, init = METHODS[method]
    least_slope = 0.0 if case == HELD else None
    start = "identity" if (case, method) == (HELD, "Adam") else init
    chain = st.Chain(CASES[case], depth, seeds=seeds, init=start, root=root, dtype=dtype)
    st.train(chain, TRAINED, name, iterations, least_slope=least_slope, progress=False)
    return chain


def measure(chain: st.Chain) -> dict[str, np.ndarray]:
    """Return what is told of every member, (seeds,), and its values on the training points, (seeds, x)."""
    output = outputs(chain, torch.cat([TRAINED.x, FRESH.x]))
    squares = (output - torch.cat([TRAINED.y, FRESH.y])).square()
    counts = st.count(chain, (-3, 3))
    folds, turns = (np.array([float(min(k, 10**300)) for k in column]) for column in (counts.folds, counts.turns))
    coarse = squares[:, len(TRAINED.x) :: 5].mean(1).numpy()
    splines = [st.references.best_spline(COARSE, int(k)) if k <= MOST_FOLDS else None for k in folds]
    fit, fresh = output[:, : len(TRAINED.x)], output[:, len(TRAINED.x) :]
    return {
        "error": squares[:, len(TRAINED.x) :].mean(1).numpy(),
        "train_error": squares[:, : len(TRAINED.x)].mean(1).numpy(),
        "folds": folds,
        # Exact: a function without a turn is monotone.
        "turns": turns,
        "least_rise": (fresh - FRESH.x).amin(1).numpy(),
        "dead": (st.spectrum(chain, TRAINED.x[::8]).signs[-1] == 0).all(1).double().numpy(),
        "flat": (fit.amax(1) - fit.amin(1) < 0.02).double().numpy(),
        "own_ratio": np.array([np.nan if s is None else e / s.error for e, s in zip(coarse, splines, strict=True)]),
        "own_bound": np.array(
            [np.nan if s is None else e / s.lower_bound for e, s in zip(coarse, splines, strict=True)]
        ),
        "fit": fit.numpy().clip(-1e6, 1e6).astype(np.float32),
    }


def fits(plan: dict[int, tuple[int, ...]], root: int) -> xarray.Dataset:
    """Train every case by every method at every depth."""
    jobs = [(c, m, d) for d in plan for c in CASES for m in METHODS if applies(c, m)]
    shape = (len(CASES), len(METHODS), len(plan), max(seeds for seeds, *_ in plan.values()))
    dims = ("case", "by", "depth", "seed")
    arrays: dict[str, np.ndarray] = {}
    single = np.full(shape, np.nan)
    iterations = {"adam": 1, "levenberg_marquardt": 2, "growth": 3}
    for case, method, depth in tqdm(jobs, desc="fits", disable=None):
        seeds, number = plan[depth][0], plan[depth][iterations[METHODS[method][0]]]
        place = (list(CASES).index(case), list(METHODS).index(method), list(plan).index(depth), slice(seeds))
        for name, values in measure(trained(case, method, depth, seeds, number, root)).items():
            arrays.setdefault(name, np.full(shape + values.shape[1:], np.nan, values.dtype))[place] = values
        if method == "Adam" and depth <= 30:
            single[place] = mean_squares(trained(case, method, depth, seeds, number, root, torch.float32))
    data = xarray.Dataset(
        {name: (dims + ("x",) * (array.ndim - 4), array) for name, array in arrays.items()},
        {"case": list(CASES), "by": list(METHODS), "depth": list(plan), "x": TRAINED.x.numpy()},
    )
    data["float32_error"] = (dims, single)
    data["target"] = ("x", TRAINED.y.numpy())
    # Pictures of two depths are enough to store.
    return data.assign(fit=data.fit.sel(depth=shown(list(plan))).rename(depth="shown"))


def shown(depths: list[int]) -> list[int]:
    return [30, depths[-1]]


def race(depth: int, seeds: int, iterations: int, root: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the seconds LM takes on residual PReLU, its errors, and Adam's by start and rate in the same time each."""

    def timed(init: str, method: str, number: int, **options: float) -> tuple[float, np.ndarray]:
        chain = st.Chain("residual2_prelu", depth, seeds=seeds, init=init, root=root)
        began = time.perf_counter()
        st.train(chain, TRAINED, method, number, progress=False, **options)
        return time.perf_counter() - began, mean_squares(chain)

    seconds, errors = timed("knots", "levenberg_marquardt", iterations)
    # The fastest of some short runs, so that Adam has rather too much time than too little.
    number = max(10, int(30 * seconds / min(timed("pytorch", "adam", 30)[0] for _ in range(4))))
    return seconds, errors, np.array([timed(init, "adam", number, rate=rate)[1] for init, rate in TRIED])


def adam(
    chain: st.Chain, task: st.Task, kind: Any, iterations: int, epsilon: float, least_slope: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Train a plain PReLU chain by `st.train`'s Adam in any arithmetic that numpy can hold.

    Returns the best errors (seeds,), and how large the gradient of the first weight is at the start (seeds,).
    """
    decimal.getcontext().prec = 50
    number: Callable[[float], Any] = Decimal if kind is Decimal else kind

    def take(value: torch.Tensor) -> np.ndarray:
        array = value.detach().numpy()
        return np.frompyfunc(Decimal, 1, 1)(array) if kind is Decimal else array.astype(kind)

    depth, zero, one = chain.depth, number(0.0), number(1.0)
    x, y = take(task.x), take(task.y)
    parts = (chain.weight, chain.bias, chain.slope, chain.readout_weight[:, None], chain.readout_bias[:, None])
    p = np.concatenate([take(value) for value in parts], axis=1)
    weight, bias, slope = (slice(k * depth, (k + 1) * depth) for k in range(3))
    count, beta1, beta2 = number(float(len(x))), number(0.9), number(0.999)
    mean = square = p * zero
    best, first = np.full(len(p), np.inf), np.zeros(len(p))
    for iteration in range(iterations + 1):
        if least_slope is not None:
            p[:, slope] = np.where(p[:, slope] < number(least_slope), number(least_slope), p[:, slope])
        h, states, inner = np.broadcast_to(x, (len(p), len(x))), [], []
        for w, b, a in zip(p[:, weight].T, p[:, bias].T, p[:, slope].T, strict=True):
            z = w[:, None] * h + b[:, None]
            states.append(h)
            inner.append(z)
            h = np.where(z > zero, z, a[:, None] * z)
        residual = p[:, -2:-1] * h + p[:, -1:] - y
        best = np.minimum(best, ((residual * residual).sum(1) / count).astype(float))
        if iteration == iterations:
            break
        g = np.empty_like(p)
        back = residual * (number(2.0) / count)
        g[:, -2], g[:, -1] = (back * h).sum(1), back.sum(1)
        back = back * p[:, -2:-1]
        for k in reversed(range(depth)):
            below = ~(inner[k] > zero)
            g[:, 2 * depth + k] = (np.where(below, inner[k], zero) * back).sum(1)
            back = np.where(below, p[:, 2 * depth + k, None] * back, back)
            g[:, depth + k] = back.sum(1)
            g[:, k] = (back * states[k]).sum(1)
            back = back * p[:, k, None]
        first = np.abs(g[:, 0].astype(float)) if iteration == 0 else first
        size = np.sqrt((g * g).sum(1, keepdims=True))
        g = g / np.where(size > one, size, one)
        mean = beta1 * mean + (one - beta1) * g
        square = beta2 * square + (one - beta2) * g * g
        rate = number(0.01 * (0.01 + 0.99 * (1 + math.cos(math.pi * iteration / iterations)) / 2))
        under = np.sqrt(square / (one - beta2 ** (iteration + 1))) + number(epsilon)
        # Without an epsilon, 0 / 0 is for parameters that never had a gradient.
        p = p - rate * (mean / (one - beta1 ** (iteration + 1))) / np.where(under > zero, under, one)
    return best, first


def numerics(quick: bool, root: int) -> xarray.Dataset:
    """Train plain PReLU chains in ever more digits; and more of them by epsilon and start."""
    members, iterations, points, depths = (2, 40, 8, (10, 30)) if quick else (4, 300, 16, (10, 30))
    several, longer = (8, 200) if quick else (32, 2000)
    runs = {"free": (1e-8, None), "free, epsilon 0": (0.0, None), "held": (1e-8, 0.0), "held, epsilon 0": (0.0, 0.0)}
    if quick:
        del runs["held, epsilon 0"]
    errors = np.empty((len(depths), len(runs), len(PRECISIONS), members))
    gradients = np.empty((len(depths), members))
    for i, depth in enumerate(tqdm(depths, desc="numerics", disable=None)):
        chain = st.Chain("plain_prelu", depth, seeds=members, root=root)
        for j, (epsilon, least) in enumerate(runs.values()):
            for k, kind in enumerate(PRECISIONS.values()):
                errors[i, j, k], gradients[i] = adam(chain, sine(points), kind, iterations, epsilon, least)
    chances = {}
    task = sine(32)
    for name, init, kind, epsilon in (
        ("epsilon 1e-8", "pytorch", np.float64, 1e-8),
        ("epsilon 0, 24 bits", "pytorch", np.float32, 0.0),
        ("epsilon 0", "pytorch", np.float64, 0.0),
        ("signs", SIGNS, np.float64, 1e-8),
    ):
        chain = st.Chain("plain_prelu", 30, seeds=several, init=init, root=root)
        chances[name] = adam(chain, task, kind, longer, epsilon)[0]
    data = xarray.Dataset(
        {
            "precise_error": (("precise_depth", "run", "precision", "member"), errors),
            "first_gradient": (("precise_depth", "member"), gradients),
            "chance_error": (("start", "chain"), np.array(list(chances.values()))),
        },
        {"precise_depth": list(depths), "run": list(runs), "precision": list(PRECISIONS), "start": list(chances)},
    )
    return data.assign_attrs(
        bits_of_longdouble=int(np.finfo(np.longdouble).nmant) + 1, chance_monotone=st.references.best_monotone(task)
    )


def limits() -> dict[str, float]:
    """Return what no constant, no monotone function and no function above x goes below on the fresh points."""
    return {
        "constant": st.references.constant(FRESH),
        "monotone": st.references.best_monotone(FRESH),
        "above x": st.references.best_above_identity(FRESH),
    }


def checks(data: xarray.Dataset) -> list[tuple[str, bool]]:
    """Return what must hold, in words with its numbers, and whether it does."""
    error = data.error
    grown = error.sel(case="residual2_prelu", by="growth")
    below = int(((data.turns == 0) & (error < data.attrs["best_monotone"] * (1 - 1e-9))).sum())
    risen = int((data.least_rise.sel(case="residual1_relu") < 0).sum())
    compared = int(data.own_bound.notnull().sum())
    broken = int((data.own_bound < 1 - 1e-9).sum())
    ratios = {d: float(grown.sel(depth=d).median() / data.spline.sel(depth=d)) for d in (10, 30, 100)}
    gains = {int(d): float(g) for d, g in zip(data.race_depth, race_gain(data), strict=True)}
    worst, deep = float(grown.sel(depth=30).max()), grown.sel(depth=1000)
    return [
        (f"members that are monotone and yet below the best monotone function: {below} (must be 0)", below == 0),
        (f"members of residual1_relu anywhere below x: {risen} (must be 0)", risen == 0),
        (
            f"fits below the lower bound for as many folds as they have: {broken} of {compared} with at most "
            f"{MOST_FOLDS} folds (must be 0)",
            broken == 0,
        ),
        (
            "growth of residual2_prelu, median as a multiple of the spline of as many folds as steps, at depths "
            f"10/30/100: {'/'.join(f'{r:.2f}' for r in ratios.values())} (at most 0.5/1/10)",
            ratios[10] <= 0.5 and ratios[30] <= 1 and ratios[100] <= 10,
        ),
        (f"its worst member at depth 30: {worst:.1e} (at most 1e-5)", worst <= 1e-5),
        (
            f"at depth 1000: median {float(deep.median()):.1e}, worst {float(deep.max()):.1e} (below 1e-6, 1e-4)",
            float(deep.median()) < 1e-6 and float(deep.max()) < 1e-4,
        ),
        (
            f"Adam's median over that of LM from knots in the same time, the best of {len(TRIED)} starts and rates of "
            f"Adam, at depths {'/'.join(map(str, gains))}: {'/'.join(f'{g:.0f}' for g in gains.values())} "
            "(at least 10)",
            min(gains.values()) >= 10,
        ),
    ]


def share(values: xarray.DataArray, holds: Callable[[xarray.DataArray], xarray.DataArray]) -> float:
    """Return for how many of the members, in percent."""
    return 100 * float(holds(values.dropna("seed")).mean())


def race_gain(data: xarray.Dataset) -> xarray.DataArray:
    return data.race_adam.median("race_seed").min("tried") / data.race_lm.median("race_seed")


def verdicts(data: xarray.Dataset) -> list[tuple[str, str, str, str]]:
    """Return for each architecture the article's claim, held, refuted or refined, and what was measured."""
    depths = [int(d) for d in data.depth]
    deep, middle = depths[-1], 30
    every = "/".join(map(str, depths))
    bound = data.attrs

    def of(name: str, case: str, method: str, depth: int | None = None) -> xarray.DataArray:
        one = data[name].sel(case=case, by=method)
        return one if depth is None else one.sel(depth=depth)

    def median(case: str, method: str, depth: int) -> float:
        return float(of("error", case, method, depth).median())

    def medians(case: str, method: str) -> str:
        return "/".join(f"{median(case, method, depth):.1e}" for depth in depths)

    def percent(name: str, case: str, method: str, depth: int) -> float:
        return 100 * float(of(name, case, method, depth).mean())

    def percents(name: str, case: str, method: str = "Adam") -> str:
        return "/".join(f"{percent(name, case, method, depth):.0f}" for depth in depths)

    rows = []
    flat = percent("flat", "plain_relu", "Adam", middle)
    everywhere = float(data.flat.sel(case="plain_relu", depth=middle).mean())
    rows.append(
        (
            "plain_relu",
            "dies: with more layers everything is 0",
            "held" if flat >= 95 else "refuted",
            f"{flat:.0f} % flat at depth {middle} by Adam, {100 * everywhere:.0f} % by all methods; exactly dead at "
            f"depths {every}: {percents('dead', 'plain_relu')} %. It could do {bound['best_monotone']:.4f}, the best "
            "monotone function: what is lost above that is lost at the start, where no gradient is left",
        )
    )

    grown = data.sel(case="residual1_relu")
    rise, best = float(grown.least_rise.min()), float(grown.error.min())
    rows.append(
        (
            "residual1_relu",
            "can only grow, so f(x) >= x",
            "held" if rise >= 0 else "refuted",
            f"least f(x) - x over all members and points {rise:.2g}; best error {best:.4f}, and that of the best "
            f"function above x {bound['best_above_x']:.4f}. Here the architecture fails; very deep the start as well: "
            f"LM ends at {medians('residual1_relu', 'LM')} at depths {every}",
        )
    )

    for case, claim in (
        ("residual2_relu", "keeps folding, fits any function; very deep it can still die"),
        ("residual2_prelu", "solves the dying"),
    ):
        error = median(case, "growth", middle)
        stuck = share(of("error", case, "Adam", deep), lambda error: error > 0.9 * bound["best_constant"])
        dies = any(percent("dead", case, "Adam", depth) > 0 for depth in depths)
        as_claimed = dies if case == "residual2_relu" else not dies and stuck == 0
        trapped = median(case, "LM, knots", deep)
        at_limit = abs(trapped / bound["best_monotone"] - 1) < 0.1
        straight = share(of("turns", case, "LM, knots", deep), lambda turns: turns == 0)
        rows.append(
            (
                case,
                claim,
                ("held" if as_claimed else "refined") if error < 0.1 * bound["best_monotone"] else "refuted",
                f"on sin(x), the one function tried here, median errors at depths {every}: Adam "
                f"{medians(case, 'Adam')}, growth {medians(case, 'growth')}. Exactly dead by Adam: "
                f"{percents('dead', case)} %; at depth {deep} {stuck:.0f} % of Adam's end no better than a constant. "
                f"LM from knots has {trapped:.4f} there"
                + (
                    f": it stops at the best monotone function, {straight:.0f} % without a turn, and only growth passes"
                    if at_limit
                    else ""
                ),
            )
        )
    rows.append(("plain_prelu", 'does not work either, "a matter of numerical stability"', *plain_prelu(data)))
    return rows


def plain_prelu(data: xarray.Dataset) -> tuple[str, str]:
    """Return the verdict on the plain PReLU chain, and what was measured."""
    case, middle = "plain_prelu", 30
    free, held = (data.sel(case=c, depth=middle) for c in (case, HELD))
    best, lowest = float(free.error.sel(by="growth").min()), float(held.error.min())
    adam_error, monotone = float(free.error.sel(by="Adam").median()), data.attrs["best_monotone"]
    deepest = data.sel(case=case, by="growth", depth=int(data.depth[-1]))
    by_growth = free.sel(by="growth")
    once = share(by_growth.turns, lambda turns: turns == 1)
    digits = digits_change(data)
    gradient = float(np.log10(data.first_gradient.sel(precise_depth=middle).max()))
    chances = {s: chance(data, s) for s in data.start.values.tolist()}
    middle_signs = float(np.median(data.chance_error.sel(start="signs")))
    arithmetic = digits > 0.5 or chances["epsilon 0"] >= 0.5
    fails = adam_error > 0.9 * data.attrs["best_constant"]
    verdict = ("held" if arithmetic else "refined" if best < 0.1 * monotone else "held") if fails else "refuted"
    return verdict, (
        f"Adam from torch's start ends at {adam_error:.2f} at depth {middle}. Expressible: growth gives "
        f"{best:.1e} at depth {middle} and {float(deepest.error.min()):.1e} at {int(deepest.depth)}, the best of its "
        f"members; {once:.0f} % of those at depth {middle} turn once only, a local minimum near 0.02. In float32 "
        f"the same best fit has {data.attrs['rounded_error']:.1e}. With slopes held at 0 or above the best of all is "
        f"{lowest:.4f}, and no monotone function has less than {monotone:.4f}: there it is the architecture. "
        f"Arithmetic: the same run in 24 bits to 50 digits ends within {digits:.1e} of itself, relatively, with "
        f"epsilon 1e-8. What fails is the start: the first gradient is at most 10^{gradient:.0f}, far under that "
        f"epsilon, and {100 * chances['epsilon 1e-8']:.0f} % get below the monotone limit; with epsilon 0 "
        f"{100 * chances['epsilon 0']:.0f} % ({100 * chances['epsilon 0, 24 bits']:.0f} % in 24 bits); from weights "
        f"and slopes of -1 and 1, through which no signal fades, {100 * chances['signs']:.0f} %, "
        f"median {middle_signs:.1e}"
    )


def digits_change(data: xarray.Dataset) -> float:
    """Return the largest relative change of a final error by more digits, epsilon 1e-8."""
    errors = data.precise_error.sel(run=["free", "held"])
    return float(abs(errors / errors.sel(precision="50 digits") - 1).max())


def chance(data: xarray.Dataset, start: str) -> float:
    errors = data.chance_error.sel(start=start)
    return float((errors < 0.98 * data.attrs["chance_monotone"]).mean())


def rounded(data: xarray.Dataset, plan: dict[int, tuple[int, ...]], root: int) -> float:
    """Return the error of the best grown plain PReLU chain of 30 steps, its numbers and its arithmetic in float32."""
    chain = trained("plain_prelu", "growth", 30, plan[30][0], plan[30][3], root)
    best = int(np.nanargmin(data.error.sel(case="plain_prelu", by="growth", depth=30).values))
    table = chain.table()[best : best + 1]
    return float(mean_squares(st.Chain.from_table(table, "plain_prelu", dtype=torch.float32))[0])


def report(data: xarray.Dataset) -> None:
    """Print the errors, what they are made of, the numerics, the checks and the verdicts."""
    print("Mean-squared error on sin(x), (-3, 3), at 10,000 points; trained on 256. Median (best) over seeds:\n")
    print(f"{'':<26}{'depth':>6}" + "".join(f"{m:>20}" for m in METHODS) + f"{'spline':>10}")
    for case in CASES:
        for depth in data.depth.values:
            one = data.error.sel(case=case, depth=depth)
            cells = [
                f"{float(one.sel(by=m).median()):.1e} ({float(one.sel(by=m).min()):.1e})"
                if one.sel(by=m).notnull().any()
                else ""
                for m in METHODS
            ]
            print(
                f"{case:<26}{depth:>6}"
                + "".join(f"{c:>20}" for c in cells)
                + f"{float(data.spline.sel(depth=depth)):>10.1e}"
            )
    print(
        "\nspline: with as many folds as steps; at depth 1000 by its law (integral of |f''|^0.4)^5 / (4320 pieces^4)."
    )
    print(
        "On these points: "
        + ", ".join(f"best {k.removeprefix('best_').replace('_', ' ')} {v:.4f}" for k, v in references(data).items())
        + f"; straight lines through the 256 points {data.attrs['interpolation']:.1e}.\n"
    )
    print(
        "What Adam's median error is made of: expressible (the best error of all methods at this depth or less, for a"
    )
    print("step can be the identity), optimisation (the rest), numerics (how it changes in float32, up to depth 30):\n")
    print(f"{'':<26}{'depth':>6}{'Adam':>10}{'expressible':>13}{'optimisation':>14}{'numerics':>11}   by")
    for case in CASES:
        for depth in data.depth.values:
            one = data.sel(case=case, depth=depth)
            middle = float(one.error.sel(by="Adam").median())
            best = data.error.sel(case=case, depth=slice(None, depth)).min(("seed", "depth"))
            single = float(one.float32_error.sel(by="Adam").median()) / middle - 1
            print(
                f"{case:<26}{depth:>6}{middle:>10.1e}{float(best.min()):>13.1e}{1 - float(best.min()) / middle:>14.2%}"
                f"{'' if np.isnan(single) else f'{single:+.1%}':>11}   {best.by.values[np.nanargmin(best.values)]}"
            )
    print("\nFits of at most", MOST_FOLDS, "folds against the best spline of their own number of folds, median ratio:")
    for case in CASES:
        ratios = data.own_ratio.sel(case=case)
        middle = ratios.median(("depth", "seed"))
        print(
            f"    {case:<26}" + ", ".join(f"{m} {v:.3g}" for m, v in zip(METHODS, middle.values, strict=True) if v > 0)
        )
    print(
        "\nPlain PReLU by Adam, the same members in ever more digits, median final error (64 bits: numpy's longdouble,"
    )
    print(f"here of {data.attrs['bits_of_longdouble']}):\n")
    print(f"{'':<18}{'depth':>6}" + "".join(f"{p:>12}" for p in data.precision.values))
    for run in data.run.values:
        for depth in data.precise_depth.values:
            values = data.precise_error.sel(run=run, precise_depth=depth).median("member").values
            print(f"{'slopes ' + run:<25}{depth:>3}" + "".join(f"{v:>12.6f}" for v in values))
    print("\nChecks:")
    for text, good in checks(data):
        print(textwrap.fill(("held: " if good else "FAILED: ") + text, 110, subsequent_indent="    "))
    print()
    for name, claim, verdict, measured in verdicts(data):
        print(textwrap.fill(f"{name}: {claim}. {verdict.upper()}: {measured}.", 110, subsequent_indent="    "))


def references(data: xarray.Dataset) -> dict[str, float]:
    return {k: v for k, v in data.attrs.items() if k.startswith("best_")}


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    torch.set_num_threads(1)  # many small operations: waking a second thread costs more than it does
    plan = QUICK if settings.quick else PLAN
    data = fits(plan, settings.seed)
    data["spline"] = (
        "depth",
        [st.references.best_spline(COARSE, d).error if d <= MOST_FOLDS else float(spline_law(d)) for d in plan],
    )
    data = data.assign_attrs({f"best_{name.replace(' ', '_')}": value for name, value in limits().items()})
    through = np.interp(FRESH.x.numpy(), TRAINED.x.numpy(), TRAINED.y.numpy())
    data = data.assign_attrs(
        interpolation=float(np.mean((through - FRESH.y.numpy()) ** 2)), rounded_error=rounded(data, plan, settings.seed)
    )
    raced = {
        d: race(d, *n, settings.seed) for d, n in ({30: (4, 50), 100: (2, 30)} if settings.quick else RACES).items()
    }
    pad = max(len(errors) for _, errors, _ in raced.values())
    data["race_seconds"] = ("race_depth", [seconds for seconds, _, _ in raced.values()])
    data["race_lm"] = (("race_depth", "race_seed"), [padded(errors, pad) for _, errors, _ in raced.values()])
    data["race_adam"] = (("race_depth", "tried", "race_seed"), [padded(errors, pad) for *_, errors in raced.values()])
    data = data.assign_coords(race_depth=list(raced), tried=[f"{init}, rate {rate}" for init, rate in TRIED])
    data = data.merge(numerics(settings.quick, settings.seed), combine_attrs="no_conflicts")
    report(data)
    paths = st.plots.save(draw(data), data, settings.out, "fit_sine")
    print("\nWritten: " + ", ".join(str(path) for path in paths))


def padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, length - values.shape[-1])], constant_values=np.nan)


def draw(data: xarray.Dataset) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(15, 12.2))
        grid = figure.add_gridspec(4, 1, height_ratios=(1.5, 1, 1, 1.5))
        top, first, second = (
            grid[row].subgridspec(1, len(CASES)).subplots(sharey=True, sharex=True) for row in range(3)
        )
        for ax, case in zip(top, CASES, strict=True):
            draw_errors(ax, data, case)
        top[0].set_ylabel("mean-squared error,\n10,000 fresh points")
        handles = [plt.Line2D([], [], color="#444444", label=m, **LOOKS[m]) for m in METHODS]
        top[0].legend(handles=handles, loc="lower left", fontsize=7)
        lines = (
            ("best constant", "--"),
            ("best monotone", ":"),
            ("best above x", "-."),
            ("best spline of\nas many folds", "-"),
        )
        top[1].legend(
            handles=[plt.Line2D([], [], color="#222222", linestyle=s, linewidth=0.9, label=n) for n, s in lines],
            loc="lower left",
            fontsize=7,
        )
        for row, depth in ((first, data.shown.values[0]), (second, data.shown.values[-1])):
            for ax, case in zip(row, CASES, strict=True):
                draw_fits(ax, data, case, int(depth))
            row[0].set_ylabel(f"depth {depth}\nf(x)")
        for ax in second:
            ax.set_xlabel("x")
        bottom = grid[3].subgridspec(1, 3, width_ratios=(1.25, 1.25, 1)).subplots()
        draw_folds(bottom[0], data)
        draw_digits(bottom[1], data)
        draw_chances(bottom[2], data)
    return figure


def shade(case: str) -> str:
    return "#CC79A7" if case == HELD else st.plots.colour(case)


def draw_errors(ax: plt.Axes, data: xarray.Dataset, case: str) -> None:
    for method in METHODS:
        if applies(case, method):
            low, middle, high = data.error.sel(case=case, by=method).quantile([0, 0.5, 1], "seed")
            ours = method == "growth" or (method == "LM" and not applies(case, "growth"))
            colour = shade(case) if ours else "#777777" if method.startswith("Adam") else "#444444"
            ax.plot(data.depth, middle, color=colour, **LOOKS[method], zorder=4 if ours else 3)
            ax.fill_between(data.depth, low, high, color=colour, alpha=0.25 if ours else 0.1, linewidth=0)
    ax.axhline(data.attrs["best_constant"], color="#222222", linestyle="--", linewidth=0.9)
    ax.axhline(data.attrs["best_monotone"], color="#222222", linestyle=":", linewidth=1.1)
    if case == "residual1_relu":
        ax.axhline(data.attrs["best_above_x"], color="#222222", linestyle="-.", linewidth=0.9)
    ax.plot(data.depth, data.spline, color="#222222", linewidth=0.9)
    ax.set(xscale="log", yscale="log", ylim=(2e-10, 30), xlabel="depth", title=case)
    ax.set_xticks([3, 10, 30, 100, 300, 1000], ["3", "10", "30", "100", "300", "1000"])
    ax.minorticks_off()


def draw_fits(ax: plt.Axes, data: xarray.Dataset, case: str, depth: int) -> None:
    one = data.fit.sel(case=case, shown=depth)
    best = "growth" if applies(case, "growth") else "LM"
    for method, colour, width in (("Adam", "#777777", 0.7), (best, shade(case), 1.1)):
        values = one.sel(by=method).dropna("seed", how="all")
        ax.plot(data.x, values.T, color=colour, linewidth=width, alpha=0.8)
    ax.plot(data.x, data.target, color="black", linestyle=(0, (4, 2)), linewidth=0.9)
    error = data.error.sel(case=case, depth=depth)
    ax.set_title(
        f"Adam {float(error.sel(by='Adam').median()):.0e}, {best} {float(error.sel(by=best).median()):.0e}", fontsize=8
    )
    ax.set(ylim=(-1.7, 1.7), xlim=(-3, 3))
    if not (abs(one.sel(by=["Adam", best])) < 1.7).any():
        ax.text(0, 1.4, "all fits are beyond the frame", ha="center", fontsize=8, color="#777777")


def draw_folds(ax: plt.Axes, data: xarray.Dataset) -> None:
    """Every fit's error against its own folds."""
    for case in CASES:
        for method in METHODS:
            if applies(case, method):
                one = data.sel(case=case, by=method)
                few = one.folds <= 1e4
                ax.plot(
                    one.folds.where(few).values.ravel() + 1,
                    one.error.values.ravel(),
                    marker=LOOKS[method]["marker"],
                    linestyle="",
                    markersize=3.5,
                    color=shade(case),
                    markerfacecolor=shade(case) if method == "growth" else "none",
                    markeredgewidth=0.7,
                    alpha=0.7,
                    zorder=3 if method == "growth" else 2,
                )
    folds = np.unique(np.geomspace(1, MOST_FOLDS, 40).astype(int))
    curve = [st.references.best_spline(COARSE, int(k)).error for k in folds]
    ax.plot(folds + 1, curve, color="#222222", linewidth=1.2, zorder=4)
    more = np.geomspace(MOST_FOLDS, 4000)
    ax.plot(more + 1, spline_law(more), color="#222222", linewidth=1.2, linestyle=(0, (3, 2)), zorder=4)
    ax.annotate("best spline of\nas many folds", (60, 3e-9), fontsize=8, ha="right")
    ax.axhline(data.attrs["interpolation"], color="#999999", linewidth=0.9)
    ax.annotate("lines through the 256 points", (1.1, data.attrs["interpolation"]), fontsize=7, va="bottom")
    ax.set(xscale="log", yscale="log", ylim=(1e-10, 10), xlim=(0.9, 4000))
    ax.set(xlabel="pieces of the fit (its own folds + 1)", ylabel="mean-squared error")
    ax.set_title("error against the fit's own folds")
    handles = [
        plt.Line2D([], [], color=shade(case), marker="o", linestyle="", markersize=4, label=case) for case in CASES
    ]
    ax.legend(handles=handles, fontsize=7, loc="center right", bbox_to_anchor=(1.02, 0.56))


def draw_digits(ax: plt.Axes, data: xarray.Dataset) -> None:
    """The same members in ever more digits."""
    colours = {"free": "#D55E00", "held": "#CC79A7"}
    styles = {int(d): s for d, s in zip(data.precise_depth, ("o", "s"), strict=True)}
    for run in data.run.values:
        kind, open_mark = str(run).split(",")[0], "epsilon 0" in str(run)
        for depth, marker in styles.items():
            values = data.precise_error.sel(run=run, precise_depth=depth)
            shift = 0.06 * ((kind == "held") * 2 + open_mark - 1.5)
            ax.plot(
                np.arange(values.precision.size) + shift,
                values.transpose("precision", ...).values,
                color=colours[kind],
                marker=marker,
                markersize=4,
                linewidth=0.6,
                linestyle="--" if open_mark else "-",
                markerfacecolor="white" if open_mark else colours[kind],
                alpha=0.8,
            )
    ax.set_xticks(range(data.precision.size), data.precision.values)
    ax.set(yscale="log", ylim=(0.05, 1), xlabel="arithmetic", ylabel="final error of a member")
    ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    ax.minorticks_off()
    ax.set_title("plain PReLU by Adam, in ever more digits")
    handles = [
        plt.Line2D([], [], color=c, marker=m, markersize=4, label=f"slopes {k}, depth {d}")
        for k, c in colours.items()
        for d, m in styles.items()
    ]
    handles.append(
        plt.Line2D([], [], color="#444444", marker="o", markerfacecolor="white", linestyle="--", label="epsilon 0")
    )
    ax.legend(handles=handles, fontsize=7)


def draw_chances(ax: plt.Axes, data: xarray.Dataset) -> None:
    """Every member of 30 steps by epsilon and start."""
    names = data.start.values.tolist()
    for row, name in enumerate(names):
        errors = np.sort(data.chance_error.sel(start=name).values)
        offsets = np.linspace(-0.25, 0.25, len(errors))
        ax.plot(errors, row + offsets, "o", markersize=3.5, color="#D55E00", alpha=0.7)
        ax.annotate(f"{100 * chance(data, name):.0f} % below", (1.0, row), fontsize=8, va="center")
    ax.axvline(data.attrs["chance_monotone"], color="#222222", linestyle=":", linewidth=1.1)
    ax.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    ax.set(xscale="log", xlim=(5e-5, 12), ylim=(len(names) - 0.5, -0.5), xlabel="final error")
    ax.set_title("plain PReLU by Adam, depth 30: epsilon and start")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
