"""How often does a one-neuron chain fold the line, and does depth buy folds?

Question. A fold is a point where the slope of the output changes, a turn one where it changes sign, a region an
activation pattern that is met. A chain of L steps has at most 2^L - 1 folds. How many do Peng's five chains have on
(-3, 3), fresh and trained on sin(x)? What does PReLU buy, why can a plain chain not fold back, and does a trained chain
use its depth?

Method. Counts are exact integers for the stored parameters, over many seeds. Fresh chains have torch's initialisation
and are counted on (-3, 3) and on the whole line, where theory gives the mean for four of the five. Trained chains
minimise the mean-squared error by Adam; they are counted at iterations evenly spread on a logarithmic scale, and at the
end, at the best parameters of each seed.

Reading. Medians with bands from 25 to 75 % and from 5 to 95 % over seeds. The scale is linear below 1, so that 0 has a
place; iteration 0 is drawn at one half. a: fresh chains against depth; crosses are the means on the whole line, where
theory expects L folds (grey dashes); black dots are the maximum 2^L - 1. b: trained chains against depth. c, d: folds
and turns along training at one depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import stability as st
import study

KINDS = ("folds", "turns", "regions")
INTERVAL, LINE = (-3, 3), (-np.inf, np.inf)
DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300)
TRAINED_DEPTHS = (3, 10, 30, 100)
#: The depth that is drawn along training.
MIDDLE = 30
PLAIN = ["plain_relu", "plain_prelu"]


@dataclass(frozen=True)
class Settings(study.Settings):
    seeds: int = 200  # Of fresh chains.
    trained_seeds: int = 64  # Of trained chains.
    iterations: int = 1000  # Of Adam.


def numbers(chain: st.Chain, interval: tuple[float, float]) -> np.ndarray:
    """Return folds, turns and regions of every seed, (3, seeds)."""
    count = st.count(chain, interval)
    return np.array([getattr(count, kind) for kind in KINDS], dtype=np.int32)


def fresh(architecture: str, settings: Settings) -> xarray.Dataset:
    chain = st.Chain(architecture, DEPTHS[-1], seeds=settings.seeds, root=settings.seed)
    expected = np.full((len(DEPTHS), len(KINDS)), np.nan)
    if architecture != "plain_relu":  # of which nothing is derived
        theory = st.theory.expected_counts(architecture)
        expected[:] = [[float(getattr(theory, kind).value(depth=depth)) for kind in KINDS] for depth in DEPTHS]
    inside, line = ([numbers(chain.prefix(depth), where) for depth in DEPTHS] for where in (INTERVAL, LINE))
    over = ("depth", "kind", "seed_fresh")
    data = {
        "fresh": (over, np.stack(inside), {"long_name": "counts on (-3, 3)"}),
        "line": (over, np.stack(line), {"long_name": "counts on the whole line"}),
        "expected": (over[:2], expected, {"long_name": "mean count on the whole line in theory"}),
    }
    return xarray.Dataset(data, {"depth": list(DEPTHS), "kind": list(KINDS)})


def trained(architecture: str, depth: int, settings: Settings) -> xarray.Dataset:
    chain = st.Chain(architecture, depth, seeds=settings.trained_seeds, root=settings.seed)
    watched = [0, *np.unique(np.geomspace(1, settings.iterations, 25).astype(int)).tolist()]
    along = []

    def watch(iteration: int, _: torch.Tensor) -> None:
        if iteration in watched:
            along.append(numbers(chain, INTERVAL))

    task = st.Task(torch.sin, INTERVAL)
    history = st.train(chain, task, iterations=settings.iterations, on_iteration=watch, progress=False)
    slopes = chain.slope if "slope" in chain.architecture.kinds else torch.zeros(settings.trained_seeds, 1)
    data = {
        "along": (("iteration", "kind", "seed"), np.stack(along), {"long_name": "counts along training"}),
        "trained": (("kind", "seed"), numbers(chain, INTERVAL), {"long_name": "counts at the best parameters"}),
        "loss": ("seed", history.best_loss.numpy(), {"long_name": "mean-squared error"}),
        "slope_below_0": ("seed", (slopes < 0).any(1).numpy(), {"long_name": "whether a slope is below 0"}),
    }
    return xarray.Dataset(data, {"iteration": watched, "kind": list(KINDS)})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    counted = parts.cells(fresh, settings, architecture=list(study.CHAINS))
    watched = parts.cells(trained, settings, architecture=list(study.CHAINS), depth_trained=TRAINED_DEPTHS)
    return xarray.merge([counted, watched])


def claims(data: xarray.Dataset) -> list[study.Row]:
    folds, turns = data.trained.sel(kind="folds"), data.trained.sel(kind="turns")
    fresh, last = data.fresh.sel(kind="folds")[:, -1], folds[:, -1]
    depth_buys = f"fresh, depth {DEPTHS[-1]}, folds on {INTERVAL}: {by_chain(fresh, study.spread)}"
    bought = bool(fresh.median("seed_fresh").max() > DEPTHS[-1])
    error = data.line.std("seed_fresh", ddof=1) / np.sqrt(data.sizes["seed_fresh"])
    off = abs(data.line.mean("seed_fresh") - data.expected)
    z = float((off / error).where(off > 1e-9, 0).where(off.notnull()).max())
    means = f"{int((off < 1e-9).sum())} of {int(off.notnull().sum())} means over {data.sizes['seed_fresh']} seeds are "
    means += f"exactly so, the others within {z:.1f} standard errors"
    fresh_turns, plain = data.fresh.sel(kind="turns", architecture=PLAIN), turns.sel(architecture=PLAIN).to_numpy()
    below = data.slope_below_0.sel(architecture=PLAIN).to_numpy() > 0
    kept, bent = plain[~below], plain[below]
    back = f"at most {int(fresh_turns.max())} turns in {fresh_turns.size} fresh chains and {kept.max(initial=0)} in "
    back += f"{kept.size} trained ones with no slope below 0; with one {study.share(bent > 0)} of {bent.size} turn, up "
    back += f"to {bent.max(initial=0)} times"
    folded = "refuted" if fresh_turns.any() or kept.any() else "refined" if bent.any() else "held"
    relu, prelu = (folds.sel(architecture=name) for name in ("residual2_relu", "residual2_prelu"))
    keeps = "trained, folds: " + ", ".join(f"{study.spread(one)} at depth {int(one.depth_trained)}" for one in relu)
    grows = bool((relu.median("seed").diff("depth_trained") > 0).all())
    gone = (last == 0).mean("seed").to_series()
    loses = f"without a fold at depth {TRAINED_DEPTHS[-1]}, trained: {by_chain(last == 0, study.share)}; with a bypass "
    loses += f"PReLU has {float(prelu[-1].median() / relu[-1].median()):.2f} times the folds of ReLU"
    # With a bypass there may be nothing to keep.
    lost = "refuted" if gone.plain_prelu >= gone.plain_relu else "held" if gone.residual2_relu > 0 else "refined"
    errors = data.loss.sel(architecture="residual2_prelu").median("seed")
    uses = "residual 2 PReLU: " + ", ".join(
        f"{study.spread(one)} of {2.0 ** int(one.depth_trained) - 1:.2g} (error {float(loss):.1e})"
        for one, loss in zip(prelu, errors, strict=True)
    )
    uses += f"; {study.share(folds <= folds.depth_trained)} of all trained chains have at most one fold a step"
    used = bool(prelu[-1].median() > 0.5 * 2.0 ** TRAINED_DEPTHS[-1])
    two = turns.sel(architecture="residual2_prelu", depth_trained=MIDDLE) == 2
    sine = f"{study.share(two)} of {two.size} residual 2 PReLU chains of depth {MIDDLE}"
    only = "held" if two.mean() > 0.95 else "refined" if two.mean() > 0.5 else "refuted"
    mean = "On the whole line a fresh chain has L folds, L + 1 regions and no turn in the mean"
    return [
        ("Depth buys folds, up to 2^L - 1 of them", "Montufar 2014", depth_buys, bought),
        (mean, "theory", means, z < 4),
        ("A plain chain cannot fold back: its steps are monotone", "theory", back, folded),
        ("A residual ReLU chain keeps folding with depth", "Peng 2017", keeps, grows),
        ("PReLU keeps the folds that ReLU loses", "Peng 2017", loses, lost),
        ("A trained chain uses the folds that its depth allows", "common practice", uses, used),
        ("A trained residual chain has the two turns of the sine and no other", "theory", sine, only),
    ]


def by_chain(values: xarray.DataArray, say: Callable[[xarray.DataArray], str]) -> str:
    return ", ".join(f"{label} {say(values.sel(architecture=name))}" for name, label in study.CHAINS.items())


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    along = data.along.sel(depth_trained=MIDDLE).assign_coords(iteration=np.maximum(data.iteration, 0.5))
    axes["a"].plot(data.depth, 2.0**data.depth - 1, ":", color="black", linewidth=1)
    axes["a"].text(11, 350, "$2^L - 1$", fontsize=7)
    for name in study.CHAINS:
        means = data.line.sel(architecture=name, kind="folds").mean("seed_fresh")
        axes["a"].plot(data.depth, means, "x", color=st.plots.colour(name), markersize=4, clip_on=False)
    for letter, counts, title in (
        ("a", data.fresh.sel(kind="folds"), "folds, fresh"),
        ("b", data.trained.sel(kind="folds"), "folds, trained"),
        ("c", along.sel(kind="folds"), f"folds along training, depth {MIDDLE}"),
        ("d", along.sel(kind="turns"), f"turns along training, depth {MIDDLE}"),
    ):
        ax, x = axes[letter], counts[counts.dims[1]].values
        for name, rows in zip(study.CHAINS, counts, strict=True):
            st.plots.counts(dict(zip(x.tolist(), rows.values, strict=True)), ax, colour=st.plots.colour(name))
        ax.set(xscale="log", title=title, ylabel=title[:5], xlim=(x[0], x[-1]))
        ax.set_xlabel("depth $L$" if letter in "ab" else "iteration")
        if letter in "ab":
            ax.plot(x, x, "--", color="#777777", linewidth=1)
            ax.set_ylim(0, 2 * x[-1])
        if letter == "d":
            ax.set_yticks([0, 1, 2, 5], ["0", "1", "2", "5"])  # powers of ten alone would not let a 2 be read
            ax.yaxis.set_minor_locator(NullLocator())
        ends = {study.CHAINS[name]: float(rows[-1].median()) for name, rows in zip(study.CHAINS, counts, strict=True)}
        st.plots.end_labels(ax, ends, study.SHADES)
    most = float(data.fresh.sel(kind="folds", depth=DEPTHS[-1]).median("seed_fresh").max())
    used = float(data.trained.sel(kind="folds", architecture="residual2_prelu")[-1].median())
    return st.plots.headline(
        figure,
        f"Fresh chains of {DEPTHS[-1]} steps fold (-3, 3) at most {most:.0f} times in the median; trained on a sine, a "
        f"residual PReLU chain of {TRAINED_DEPTHS[-1]} steps has {used:.0f} folds of up to $2^{{{TRAINED_DEPTHS[-1]}}}"
        " - 1$.",
    )


if __name__ == "__main__":
    study.main(Settings(), Settings(seeds=32, trained_seeds=16, iterations=60), measure, draw, claims)
