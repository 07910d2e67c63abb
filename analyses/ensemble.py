"""Is a deep network an ensemble of shallow ones, or does it fold, each layer upon what those before have made?

Question. A product of layers I + A_l is a sum over paths, each through some layers and past the others. In residual
networks most of the energy goes through few layers, and one layer can be left out with little harm; Veit et al. (2016)
read this as an ensemble of shallow networks. The article's chains of one neuron fold a line layer by layer, where every
fold rests on those before. Do short paths mean that layers can be spared?

Method. The article's five chains fit sin(x), a ResNet tells gratings apart, a pre-norm transformer copies a token of
which the present one says where it stands; all have 12 layers. `st.paths` gives the energy by path length before and
after training, and what the same branches would have with random signs. `st.leave_out` takes layers out, one at a time
and many; if the branches' signs were random, leaving out a set S would change the output by the share 1 - prod 1 / (1 +
s_l^2) over S of its energy, with s_l^2 the energy of a branch over that of the state before it (`st.propagation`). In
chains the folds are traced to the steps that made them. The optional case is SpliceAI (Jaganathan et al. 2019), five
trained networks of 16 residual blocks: where their package is installed (pip install --no-deps spliceai) the energies
of their paths are estimated along random directions, at random sequences.

Reading. a: energy by path length after training, means over networks and points; dashed, random signs. b: mean path
length before (open) and after training (full), medians; the bar, random signs for the latter. c: change of the output
by layers left out, medians; dashed, random signs. d: a trained chain, and the same without one of its steps: full dots
are folds that stay where they were, crosses the places of those that do not. Second figure: a, what of the fall
of the error by training is lost by layers left out, medians; b, the same by which one; c, what becomes of the folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import ensemble_networks as networks
import stability as st
import study
import your_model
from ensemble_cells import INTERVAL, STATES, Settings, is_near, made_by, of_chain, of_module, without_steps

RESIDUAL = ("residual2_relu", "residual2_prelu")
MODULES = ("resnet", "transformer")
LABELS = {**study.CHAINS, "resnet": "ResNet", "transformer": "transformer", "spliceai": "SpliceAI"}
OTHERS = {"resnet": "#CC79A7", "transformer": "#009E73", "spliceai": "#777777"}
DRAWN = "residual2_prelu"
#: A chain that has learned to turn: the best monotone function is at 0.042.
FITTED = 0.02
#: A loss of less is drawn here.
LEAST = 0.005


def colour(name: str) -> str:
    return OTHERS.get(name) or st.plots.colour(name)


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    torch.set_num_threads(1)  # matrices this small are multiplied by one thread faster than by two
    chains = parts.cells(of_chain, settings, network=list(study.CHAINS))
    modules = parts.cells(of_module, settings, network=list(MODULES))
    splice = parts.part("SpliceAI", networks.splice_paths, settings.shipped, settings.sequence, settings.seed)
    if not splice.data_vars:
        print("SpliceAI is left out: its package is not installed (pip install --no-deps spliceai)")
    drawn = chains.sel(network=DRAWN)
    best = drawn.isel(seed=int(drawn.error.sel(left_out=0).argmin("seed")))
    groups = {"chains": chains.drop_vars("table"), "modules": modules, "splice": splice}
    for name, one in groups.items():
        # Of shares the means over networks; seven digits are enough for a figure, and halve the file.
        means = {key: one[key].mean("seed") for key in ("share", "random") if key in one}
        one = one.assign(means)
        groups[name] = one.assign({key: v.astype(np.float32) for key, v in one.items() if v.dtype == np.float64})
    groups["drawn"] = xarray.Dataset({"table": best.table[: settings.depth]})
    data = xarray.DataTree.from_dict({name: one.reset_coords(drop=True) for name, one in groups.items()})
    data.attrs = {"depth": settings.depth}
    return data


def everything(data: xarray.DataTree) -> dict[str, xarray.Dataset]:
    """Return what is known of every network by name, of chains trained on sin(x) the members that fit it."""
    found = {}
    for group in ("chains", "modules"):
        for name in data[group].network.values:
            one = data[group].to_dataset().sel(network=name).dropna("seed", how="all")
            fits = one.error.sel(left_out=0) < FITTED
            found[str(name)] = one.isel(seed=np.flatnonzero(fits)) if name in RESIDUAL and fits.any() else one
    if data["splice"].data_vars:
        found["spliceai"] = data["splice"].to_dataset().expand_dims(state=["trained"])
    return found


def lost(name: str, errors: xarray.DataArray, whole: xarray.DataArray) -> xarray.DataArray:
    """Return which part of what a network has learned is lost: 0 for its own error, 1 for that of a guess."""
    guess = {"resnet": 0.9, "transformer": 1 - 1 / your_model.VOCABULARY}.get(name, 1.0)
    return (errors - whole) / (guess - whole)


def losses(each: dict[str, xarray.Dataset]) -> dict[str, xarray.Dataset]:
    """Return what trained residual networks lose by layers left out and by layer."""
    found = {}
    for name in (*RESIDUAL, *MODULES):
        one, whole = each[name], each[name].error.sel(left_out=0)
        found[name] = xarray.Dataset({"many": lost(name, one.error, whole), "single": lost(name, one.single, whole)})
    return found


def claims(data: xarray.DataTree) -> list[study.Claim]:
    each, depth = everything(data), data.attrs["depth"]
    found, shown = losses(each), [name for name in (*RESIDUAL, *MODULES, "spliceai") if name in each]
    ratios = {s: {n: each[n]["mean"] / each[n].random_mean for n in shown if s in each[n].state} for s in STATES}
    told = {
        state: "; ".join(f"{LABELS[name]} {study.spread(one.sel(state=state))}" for name, one in ratios[state].items())
        for state in STATES
    }
    off = {
        state: max(abs(math.log(float(r.sel(state=state).median()))) for r in ratios[state].values())
        for state in STATES
    }
    part = {name: each[name]["mean"].sel(state="trained") / (each[name].sizes["length"] - 1) for name in shown}
    parts = "; ".join(f"{LABELS[name]} {study.spread(one)}" for name, one in part.items())
    short = max(float(one.median()) for one in part.values())
    one_out = {name: one.many.sel(left_out=1) for name, one in found.items()}
    harm = "; ".join(f"{LABELS[name]} {study.spread(100 * one)} %" for name, one in one_out.items())
    spared = [float(one_out[name].median()) < 0.1 for name in found]
    many = {name: one.many.median("seed") for name, one in found.items()}
    steepest = {name: float((one.diff("left_out") / one.left_out.diff("left_out")).max()) for name, one in many.items()}
    slopes = "; ".join(f"{LABELS[name]} {100 * one:.0f} %" for name, one in steepest.items())
    smooth = [one < 3 / depth for one in steepest.values()]
    apart = {name: factors(each[name], depth) for name in (*RESIDUAL, *MODULES)}
    moved = "; ".join(f"{LABELS[name]} {start:.2f} and {end:.2f}" for name, (start, end) in apart.items())
    starts, ends = (max(abs(math.log(pair[k])) for pair in apart.values()) for k in (0, 1))
    before, own, after, new = folds_of(each)
    exact = before == 1 and own == after == 0
    rows = (
        (
            "Path lengths of one fresh network are those of random signs", "theory, Veit 2016",
            f"mean path length over that of random signs (median, 5 to 95 % of networks): {told['start']}",
            graded(off["start"], 0.1, 0.3),
        ),
        (
            "Path lengths of a trained network are those of random signs", "theory",
            f"the same ratio: {told['trained']}", graded(off["trained"], 0.1, 0.3),
        ),
        (
            "The energy goes through paths that are short against the depth", "Veit 2016",
            f"mean path length over the depth after training: {parts}", graded(short, 0.4, 0.6),
        ),
        (
            "One layer can be left out with little harm", "Veit 2016",
            f"part of what was learned that is lost with the middle layer of {depth}: {harm}", some(spared),
        ),
        (
            "Without more and more layers the error rises smoothly", "Veit 2016",
            f"steepest loss for one layer more (an even rise is {100 / depth:.0f} %): {slopes}", some(smooth),
        ),
        (
            "Layers left out change the output as with random signs", "theory",
            f"energy of the change over that, 1 to {depth // 2} layers left out, at the start and trained: {moved}",
            graded(max(starts, ends), math.log(1.25), math.log(1.25) if starts > math.log(1.5) else 10.0),
        ),
        (
            "Leaving out a step of a folding chain undoes its fold and all after it", "design",
            f"residual chains that fit sin(x): {100 * before:.3g} % of the folds of the steps before stay where they "
            f"were, {100 * own:.3g} % of its own, {100 * after:.3g} % of those after it; for each of these gone "
            f"{new:.2f} are made elsewhere", "refined" if exact and new > 0.1 else "held" if exact else "refuted",
        ),
    )  # fmt: skip
    return [study.Claim(*row) for row in rows]


def graded(value: float, held: float, refined: float) -> str:
    """Return the verdict on a value that should be small."""
    return "held" if value < held else "refined" if value < refined else "refuted"


def some(hits: Sequence[bool]) -> str:
    """Return the verdict on what should be true of every network."""
    return "held" if all(hits) else "refined" if any(hits) else "refuted"


def factors(one: xarray.Dataset, depth: int) -> list[float]:
    """Return the median factor between the change of the output and that with random signs, for every state."""
    some_out = one.sel(left_out=slice(1, depth // 2))
    ratio = (some_out.change / some_out.expected_change).median("seed")
    return [float(ratio.sel(state=state).median()) for state in STATES]


def folds_of(each: dict[str, xarray.Dataset]) -> tuple[float, float, float, float]:
    """Return the shares of the folds made before, by and after a step left out that stay, and the new ones of these."""
    folds = sum(each[name].folds.sum("seed") for name in RESIDUAL)
    every, kept = (folds.sel(what=what) for what in ("all", "kept"))
    before, own, after = (float(kept.sel(where=where) / every.sel(where=where)) for where in folds["where"].values)
    gone = float((every - kept).sel(where="after"))
    return before, own, after, float(folds.sel(what="new", where="after")) / gone


def draw(data: xarray.DataTree) -> dict[str, Figure]:
    each = everything(data)
    found = losses(each)
    figure, axes = st.plots.panels("ab;cd", height=5.8)
    shown = [name for name in (DRAWN, *MODULES, "spliceai") if name in each]
    for name in shown:
        one = each[name].sel(state="trained")
        axes["a"].plot(one.length, one.share, color=colour(name), label=LABELS[name])
        axes["a"].plot(one.length, one.random, "--", color=colour(name), linewidth=0.9)
    axes["a"].set(xlabel="path length, in layers", ylabel="share of the energy", xlim=(0, 12), ylim=(0, None))
    axes["a"].legend(title="trained; dashed: random signs", title_fontsize=7)
    draw_lengths(each, axes["b"])
    for name in (DRAWN, *MODULES):
        one = each[name].sel(state="trained").median("seed").sel(left_out=slice(1, None))
        axes["c"].plot(one.left_out, one.change, "o-", markersize=3, color=colour(name))
        axes["c"].plot(one.left_out, one.expected_change, "--", color=colour(name), linewidth=0.9)
    axes["c"].set(xlabel="layers left out", ylabel="energy of the change / of the output", yscale="log")
    st.plots.ticks(axes["c"], x=range(2, data.attrs["depth"] + 1, 2), y=[0.1, 0.2, 0.5, 1, 2, 4])
    draw_folds(data["drawn"].table.to_numpy(), axes["d"])
    one_out = {name: 100 * float(found[name].many.sel(left_out=1).median()) for name in (DRAWN, *MODULES)}
    lengths = {name: float(each[name]["mean"].sel(state="trained").median()) for name in (DRAWN, *MODULES)}
    st.plots.headline(
        figure,
        f"Short paths do not make an ensemble: {lengths[DRAWN]:.1f} of {data.attrs['depth']} layers in a trained chain "
        f"of one neuron, which loses {one_out[DRAWN]:.0f} % of what it has learned with one step; "
        f"{lengths['resnet']:.1f} in a ResNet and {lengths['transformer']:.1f} in a transformer, which lose "
        f"{one_out['resnet']:.0f} and {one_out['transformer']:.0f} %.",
    )
    return {"": figure, "errors": draw_errors(each, found)}


def draw_lengths(each: dict[str, xarray.Dataset], ax: Axes) -> None:
    """Draw mean path lengths at the start and after training, a row for each network."""
    names = [name for name in LABELS if name in each][::-1]
    for row, name in enumerate(names):
        mean, random, shade = each[name]["mean"].median("seed"), each[name].random_mean.median("seed"), colour(name)
        ends = [float(mean.sel(state=state)) for state in mean.state.values]
        ax.plot(ends, [row] * len(ends), color=shade, linewidth=1)
        ax.plot(ends[:-1], [row] * (len(ends) - 1), "o", color=shade, markerfacecolor="white", markersize=5)
        ax.plot(ends[-1], row, "o", color=shade, markersize=5)
        ax.plot(float(random.sel(state="trained")), row, "|", color="black", markersize=11, markeredgewidth=1.3)
    words = [f"{LABELS[name]}, 16 blocks" if name == "spliceai" else LABELS[name] for name in names]
    ax.set_yticks(range(len(names)), words)
    ax.set(xlabel="mean path length, in layers", xlim=(-0.2, None))


def draw_folds(table: np.ndarray, ax: Axes) -> None:
    """Draw a chain, and below it the same without one of its steps."""
    folds, maker = made_by(table, len(table))
    makers = np.unique(maker)
    x, ends, floor = np.linspace(*INTERVAL, 601), {}, 0.0
    for step in (None, makers[0], makers[len(makers) // 2], makers[-1]):
        f = st.restrict(table if step is None else without_steps(table, [step]), INTERVAL)
        values = f(x)
        floor -= 0.6 + float(values.max())
        ax.plot(x, floor + values, color=st.plots.colour(DRAWN))
        kept = is_near(folds, f.folds().astype(float))
        ax.plot(folds[kept], floor + f(folds[kept]) if kept.any() else [], "o", color="black", markersize=3)
        ax.plot(folds[~kept], floor + f(folds[~kept]) if (~kept).any() else [], "x", color="#D55E00", markersize=5)
        words = "all steps" if step is None else f"without\nstep {step + 1}"
        ends[f"{words}"] = floor + float(values[-1])
        floor += float(values.min())
    ax.set(xlim=INTERVAL, xlabel="x", ylabel="f(x), one below the other", yticks=[])
    st.plots.end_labels(ax, ends)


def draw_errors(each: dict[str, xarray.Dataset], found: dict[str, xarray.Dataset]) -> Figure:
    """Draw what is lost by layers left out and by layer, and what becomes of the folds."""
    figure, axes = st.plots.panels("abc", height=3)
    for name, one in found.items():
        for letter, values in (("a", one.many.sel(left_out=slice(1, None))), ("b", one.single)):
            levels = np.maximum(values.quantile([0.25, 0.5, 0.75], "seed").to_numpy(), LEAST)
            count = levels.shape[1]
            place = values.left_out.to_numpy() if letter == "a" else np.arange(1, count + 1)
            st.plots.band(axes[letter], place, levels, colour(name), marks=2.5, alpha=0.15, label=LABELS[name])
    for letter, words in (("a", "layers left out"), ("b", "the layer left out")):
        axes[letter].set(xlabel=words, yscale="log", ylim=(LEAST, 8))
        st.plots.ticks(axes[letter], x=range(2, count + 1, 2), y=[0.01, 0.1, 1])
    axes["a"].set_ylabel("part of what was learned that is lost")
    axes["a"].legend(loc="lower right")
    before, own, after, new = folds_of(each)
    middle = {name: one.many.median("seed") for name, one in found.items()}
    most = min(float(middle[name].sel(left_out=1)) for name in RESIDUAL)
    spared = (middle["resnet"] < most) & (middle["transformer"] < most)
    many = int(spared.left_out.where(spared, 0).max())
    shares = {"before": before, "its own": own, "after": after}
    axes["c"].bar(list(shares), [100 * one for one in shares.values()], color="black", width=0.6)
    axes["c"].bar(["after"], [100 * new], bottom=100 * after, color="#D55E00", alpha=0.6, width=0.6)
    axes["c"].text(2, 50 * new, "in new\nplaces", ha="center", va="center", fontsize=7)
    axes["c"].text(0, 50, "stay", ha="center", fontsize=7, color="white")
    axes["c"].set(ylabel="% of the folds", xlabel="folds of the steps ...", ylim=(0, 100 * max(1.1, 1.1 * new)))
    st.plots.headline(
        figure,
        f"Without one of its steps a folding chain keeps {100 * before:.3g} % of the folds made before it and "
        f"{100 * after:.3g} % of those made after it"
        + (f", and loses more than a ResNet or a transformer without {many}." if many else "."),
    )
    return figure


if __name__ == "__main__":
    few = {"points": 1, "draws": 2, "sequence": 60, "shipped": 1}
    quick = Settings(depth=4, seeds=8, networks=1, iterations=300, steps=10, **few)
    study.main(Settings(), quick, measure, draw, claims)
