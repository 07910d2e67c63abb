"""How often does a one-neuron chain fold the line, and does depth buy folds?

Question. A fold is a point where the slope of the output changes, a turn one where it changes sign, a region an
activation pattern that is met. A chain of L steps has at most 2^L - 1 folds. How many have Peng's five chains on (-3,
3), freshly initialised and trained on sin(x)? What does PReLU buy, why can a plain chain not fold back, and does
trained depth use its folds?

Method. All counts are exact integers for the stored parameters, over many seeds. Fresh: torch's initialisation, depths
1 to 300, on (-3, 3) and on the whole line, where theory gives their mean for four of the chains. Trained: Adam on the
mean-squared error, counted at iterations spread evenly on a logarithmic scale, and at the end (each seed at its best
parameters) at depths 3 to 100.

Reading. Medians with bands from 25 to 75 % and from 5 to 95 % over seeds; the scale is linear below 1, so that 0 has a
place, and so has iteration 0, drawn at one half. Top: fresh, against depth; black dotted is the theoretical maximum 2^L
- 1, grey dashed L folds, which theory expects on the whole line; crosses are the means measured there. Bottom: along
training at depth 30, and folds at the end against depth.
"""

from __future__ import annotations

import textwrap
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

KINDS = ("folds", "turns", "regions")
INTERVAL = (-3, 3)
MIDDLE = 30  # the depth that is watched along training


@dataclass(frozen=True)
class Settings:
    """Folds, turns and regions of the five chains, fresh and trained."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, iterations and depths: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def numbers(chain: st.Chain) -> np.ndarray:
    """Return folds, turns and regions of every seed, (3, seeds)."""
    count = st.count(chain, INTERVAL)
    return np.array([getattr(count, kind) for kind in KINDS], dtype=np.float64)


def fresh(depths: list[int], seeds: int, root: int) -> xarray.DataArray:
    """Count the chains as they are initialised."""
    counted = [
        [numbers(chain.prefix(depth)) for depth in depths]
        for chain in (st.Chain(name, max(depths), seeds=seeds, root=root) for name in st.ARCHITECTURES)
    ]
    coords = {"architecture": list(st.ARCHITECTURES), "depth": depths, "kind": list(KINDS)}
    return xarray.DataArray(np.array(counted), coords, ("architecture", "depth", "kind", "seed"))


def whole_line(depths: list[int], seeds: int, root: int) -> xarray.Dataset:
    """Count folds and turns of fresh chains on the whole line, beside the mean that theory expects."""
    kinds, known = KINDS[:2], [name for name in st.ARCHITECTURES if name != "plain_relu"]
    found, expected = np.empty((2, len(known), len(depths), 2)), np.empty((len(known), len(depths), 2))
    for a, name in enumerate(known):
        theory, deepest = st.theory.expected_counts(name), st.Chain(name, max(depths), seeds=seeds, root=root)
        for d, depth in enumerate(depths):
            count = st.count(deepest.prefix(depth), (-np.inf, np.inf))
            for k, kind in enumerate(kinds):
                values = np.array(getattr(count, kind), dtype=np.float64)
                found[:, a, d, k] = values.mean(), values.std(ddof=1) / np.sqrt(seeds)
                expected[a, d, k] = getattr(theory, kind).value(depth=depth)
    dims = ("architecture_whole", "depth", "kind_whole")
    return xarray.Dataset(
        {
            "whole_line": (dims, found[0], {"long_name": "mean count on the whole line"}),
            "whole_line_error": (dims, found[1], {"long_name": "its standard error"}),
            "whole_line_expected": (dims, expected),
        },
        {"architecture_whole": known, "depth": depths, "kind_whole": list(kinds)},
    )


def trained(depths: list[int], seeds: int, iterations: int, root: int) -> xarray.Dataset:
    """Count the chains along training at depth MIDDLE, and all at the end."""
    task = st.Task(torch.sin, INTERVAL)
    watched = sorted({0, *np.unique(np.geomspace(1, iterations, 25).astype(int)).tolist()})
    shape = (len(st.ARCHITECTURES), len(depths))
    end, loss = np.empty((*shape, 3, seeds)), np.empty((*shape, seeds))
    negative, along = np.zeros((*shape, seeds)), np.empty((shape[0], len(watched), 3, seeds))
    for a, name in enumerate(st.ARCHITECTURES):
        for d, depth in enumerate(depths):
            chain = st.Chain(name, depth, seeds=seeds, root=root)

            def watch(iteration: int, _: torch.Tensor, chain: st.Chain = chain, a: int = a) -> None:
                if iteration in watched:
                    along[a, watched.index(iteration)] = numbers(chain)

            history = st.train(chain, task, iterations=iterations, on_iteration=watch if depth == MIDDLE else None)
            end[a, d], loss[a, d] = numbers(chain), history.best_loss.numpy()
            if "slope" in chain.architecture.kinds:
                negative[a, d] = (chain.slope < 0).any(1).numpy()
    names = {"architecture": list(st.ARCHITECTURES), "kind": list(KINDS)}
    return xarray.Dataset(
        {
            "trained": (("architecture", "depth_trained", "kind", "seed"), end),
            "loss": (("architecture", "depth_trained", "seed"), loss, {"long_name": "mean-squared error"}),
            "slope_below_0": (("architecture", "depth_trained", "seed"), negative),
            "along": (("architecture", "iteration", "kind", "seed"), along),
        },
        names | {"depth_trained": depths, "iteration": watched},
    )


def findings(data: xarray.Dataset) -> list[str]:
    """Say in words and numbers what was found."""
    deepest, longest = int(data.depth[-1]), int(data.depth_trained[-1])

    def median(name: str, kind: str, depth: int, of: str = "trained") -> float:
        at = {"depth" if of == "fresh" else "depth_trained": depth}
        return float(data[of].sel(architecture=name, kind=kind, **at).median())

    plain = data.fresh.sel(architecture=["plain_relu", "plain_prelu"])
    kept = data.slope_below_0.sel(architecture="plain_prelu") == 0
    turns = data.trained.sel(architecture="plain_prelu", kind="turns")
    bent_back = turns.where(~kept).stack(all=("depth_trained", "seed")).dropna("all")
    folds_relu, folds_prelu = (median(f"residual2_{act}", "folds", longest) for act in ("relu", "prelu"))
    used = data.trained.sel(architecture="residual2_prelu", kind="folds").median("seed")
    best = data.loss.sel(architecture="residual2_prelu").median("seed")
    most = data.trained.sel(kind="folds").max()
    at_most_one_a_step = float((data.trained.sel(kind="folds") <= data.depth_trained).mean())
    listed = ", ".join(
        f"{int(f)} of up to {2.0 ** int(d) - 1:.2g} at depth {int(d)} (error {float(e):.1e})"
        for d, f, e in zip(data.depth_trained, used, best, strict=True)
    )
    off = np.abs(data.whole_line - data.whole_line_expected)
    exact = off == 0
    largest_z = float((off / data.whole_line_error.where(~exact)).max()) if bool((~exact).any()) else 0.0
    agrees = largest_z < 4
    gone = 100 * float((data.trained.sel(architecture="plain_relu", kind="folds", depth_trained=longest) == 0).mean())
    return [
        f"Fresh, folds are few. Medians at depth {deepest}, of up to 2^{deepest} - 1: "
        + ", ".join(f"{name} {median(name, 'folds', deepest, 'fresh'):.0f}" for name in st.ARCHITECTURES)
        + ". Most kinks of a fresh chain lie outside the values that the line still has. The most turns of any fresh "
        f"chain: {int(data.fresh.sel(kind='turns').max())}.",
        f"On the whole line theory expects as many folds as steps, and no turn, and the means over seeds "
        f"{'agree' if agrees else 'DO NOT AGREE'}: {100 * float(exact.mean()):.0f} % of them exactly, the others "
        f"within {largest_z:.1f} standard errors. So the folds that a fresh chain lacks on {INTERVAL} lie outside.",
        "A plain chain cannot fold back, for with slopes >= 0 each of its steps is monotone. The most turns of a fresh "
        f"plain chain: {int(plain.sel(kind='turns').max())}; of a trained plain PReLU chain with no slope below 0: "
        f"{int(turns.where(kept).max()) if bool(kept.any()) else 0}. Where training takes a slope below 0 it folds "
        f"back: the most turns among those are {int(bent_back.max()) if bent_back.size else 0}.",
        f"What PReLU buys. At depth {longest} a trained residual2_relu chain has {folds_relu:.0f} folds and a "
        f"residual2_prelu chain {folds_prelu:.0f} (medians), so with a bypass it is not the number of folds. Without "
        f"one it is whether there is any: {gone:.0f} % of the plain ReLU chains have none left, and a fold that is "
        "flattened away does not come back; a PReLU piece is never flat unless a slope is 0.",
        f"Does trained depth use its folds? residual2_prelu has {listed}: far from the maximum. "
        f"{100 * at_most_one_a_step:.0f} % of all trained chains have at most one fold a step, the most is "
        f"{int(most)}. "
        f"Of all these only the turns that the target asks for are kept: sin(x) has 2 on {INTERVAL}, and the median at "
        f"depth {MIDDLE} is {median('residual2_prelu', 'turns', MIDDLE):.0f}.",
    ]


def by_depth(depths: xarray.DataArray, part: xarray.DataArray) -> dict[float, np.ndarray]:
    return dict(zip(depths.values.tolist(), part.values, strict=True))


def draw(data: xarray.Dataset) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    with mpl.rc_context(st.plots.STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2))
        for name in st.ARCHITECTURES:
            shade = st.plots.colour(name)
            for ax, kind in zip(axes[0], KINDS, strict=True):
                part = data.fresh.sel(architecture=name, kind=kind)
                label = name if kind == "folds" else None
                st.plots.counts(by_depth(data.depth, part), ax, label=label, colour=shade)
            for ax, kind in zip(axes[1], ("folds", "turns"), strict=False):
                part = data.along.sel(architecture=name, kind=kind)
                st.plots.counts(by_depth(np.maximum(data.iteration, 0.5), part), ax, colour=shade)
            part = data.trained.sel(architecture=name, kind="folds")
            st.plots.counts(by_depth(data.depth_trained, part), axes[1, 2], colour=shade)
        axes[1, 1].set_yticks([0, 1, 2, 5], ["0", "1", "2", "5"])  # powers of ten alone would not let a 2 be read
        axes[1, 1].minorticks_off()
        depths = np.geomspace(1, float(data.depth[-1]), 200)
        for ax, kind in zip(axes[0], KINDS, strict=True):
            ax.plot(depths, 2.0 ** np.minimum(depths, 60) - (kind != "regions"), ":", color="black", linewidth=1)
            ax.plot(depths, depths, "--", color="#777777", linewidth=1)
            ax.set(xscale="log", ylim=(0, 2e3), title=f"{kind}, fresh", ylabel=kind)
            if kind == "folds":
                for name in data.architecture_whole.values:
                    mean = data.whole_line.sel(architecture_whole=name, kind_whole=kind)
                    ax.plot(data.depth, mean, "x", color=st.plots.colour(name), markersize=5)
            if float(data.fresh.sel(kind=kind).max()) == 0:
                ax.text(0.97, 0.03, "all 0, every chain and depth", transform=ax.transAxes, ha="right", va="bottom")
        axes[1, 2].plot(depths, depths, "--", color="#777777", linewidth=1)
        axes[1, 2].set(xscale="log", xlim=(float(data.depth_trained[0]), float(data.depth_trained[-1])))
        axes[1, 2].set(title="folds, trained", ylabel="folds")
        for ax, kind in zip(axes[1], ("folds", "turns"), strict=False):
            ax.set(xscale="log", xlabel="iteration", title=f"{kind} along training, depth {MIDDLE}", ylabel=kind)
        extra = [
            plt.Line2D([], [], color="black", linestyle=":", label="maximum, $2^L - 1$"),
            plt.Line2D([], [], color="#777777", linestyle="--", label="one a step, $L$"),
            plt.Line2D([], [], color="#777777", linestyle="", marker="x", label="mean on the whole line"),
        ]
        handles, _ = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].get_legend().remove()
        figure.legend(handles=[*handles, *extra], loc="outside lower center", ncols=8)
    return figure


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    if settings.quick:
        depths, depths_trained, seeds, iterations = [1, 3, 10, 30, 100], [3, MIDDLE], 32, 200
    else:
        depths, seeds, iterations, depths_trained = (
            [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300],
            200,
            1000,
            [3, 10, 30, 100],
        )
    data = trained(depths_trained, min(seeds, 64), iterations, settings.seed)
    data["fresh"] = fresh(depths, seeds, settings.seed).rename(seed="seed_fresh")
    data = data.merge(whole_line(depths, seeds, settings.seed))

    print(f"Medians over {seeds} fresh and {min(seeds, 64)} trained seeds on {INTERVAL}: folds / turns / regions\n")
    columns = [("fresh", d) for d in depths if d in (10, 100, 300)] + [("trained", d) for d in depths_trained]
    print(f"{'architecture':<18}" + "".join(f"{of + ' ' + str(d):>16}" for of, d in columns))
    for name in st.ARCHITECTURES:
        cells = []
        for of, depth in columns:
            at = {"depth" if of == "fresh" else "depth_trained": depth}
            seed = "seed_fresh" if of == "fresh" else "seed"
            middle = data[of].sel(architecture=name, **at).median(seed)
            cells.append(" / ".join(f"{float(middle.sel(kind=kind)):.0f}" for kind in KINDS))
        print(f"{name:<18}" + "".join(f"{cell:>16}" for cell in cells))
    print()
    for line in findings(data):
        print(textwrap.fill(line, 100, subsequent_indent="    "))
    paths = st.plots.save(draw(data), data, settings.out, "fold_counts")
    print("\nWritten: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
