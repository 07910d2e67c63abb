"""In which order should a residual block take its maps, activations, normalisations and the addition?

Question. He et al. (2016, arXiv 1603.05027) printed errors of ResNet-110 on CIFAR-10: 6.61 % with ReLU after the
addition (original), 6.37 % with batch normalisation and ReLU before each map (full pre-activation), 7.84 % with ReLU
before the addition. Which order wins in chains, at the start and after training, and why?

Method. Five orders of a ReLU block of two maps: "between", the article's, with one ReLU between the maps; the three of
above; and ReLU before each map with the normalisation behind it. All orders of a width draw the same weights. Width 1:
torch's start, 30 blocks, no normalisation. Width 32: He's start, 54 blocks, as many as ResNet-110 has; without
normalisation, and with layer normalisation wherever the order has a place for it. Without it both pre-activations are
one order. Measured of fresh networks: norms of states and gradients layer by layer; members without a gradient; units
of the last block that are zero at every point; folds; singular values of the Jacobian. Then Adam trains them: width 1
on sin(x), width 32 on 32 sines of the place on a line in its input, the better of two rates. Errors are mean squares on
points between those of the training, over the variance of the target: 1 is a constant.

Reading. a, b: states and gradients of width 32 against the block, medians; solid with normalisation, dashed without. c:
errors after training, a dot a seed, the bar their median. d: the share of units of the last block that are dead (width
32) and of members without a gradient (width 1), at the start.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure

import intervals
import stability as st
import study

#: The orders, with their colours and what the figure calls them.
ORDERS = {
    "between": ("#0072B2", "between the maps"),
    "original": ("#000000", "after the addition"),
    "before_addition": ("#D55E00", "before the addition"),
    "pre_activation": ("#E69F00", "before the maps"),
    "full_pre_activation": ("#009E73", "full pre-activation"),
}
#: Width and normalisation.
CASES = {"width 1": (1, None), "width 32": (32, None), "width 32, normalised": (32, "layer")}
#: Without a normalisation the last order is the one before.
BLOCKS = {
    f"{case}: {order}": (case, order)
    for case in CASES
    for order in ORDERS
    if order != "full_pre_activation" or CASES[case][1] is not None
}
#: What He et al. printed, in percent.
PRINTED = {"original": 6.61, "full_pre_activation": 6.37, "before_addition": 7.84}
INTERVAL = (-3, 3)


@dataclass(frozen=True)
class Settings(study.Settings):
    """In which order should a residual block take its parts?"""

    depth: int = 54  # Blocks of the networks of width 32.
    thin_depth: int = 30  # Of those of width 1.
    seeds: int = 10  # Networks of width 32 at the start.
    thin_seeds: int = 200  # Of width 1.
    counted_seeds: int = 8  # Of these, chains whose folds are counted; 4 networks of width 32 give spectra and units.
    trained_seeds: int = 3  # Networks of width 32 that are trained.
    thin_trained_seeds: int = 16  # Of width 1.
    iterations: int = 100  # Of Adam at width 32.
    thin_iterations: int = 400  # At width 1.
    rates: tuple[float, ...] = (0.003, 0.01)  # Of Adam.


def networks(block: str, seeds: int, settings: Settings, readout: bool = False) -> st.Chain:
    """Return networks of a block; those of one width have the same weights in every order."""
    case, order = BLOCKS[block]
    width, norm = CASES[case]
    architecture = st.Architecture("block", skip=1, maps=2, order=order, norm=norm, readout=readout)
    depth = settings.thin_depth if width == 1 else settings.depth
    init = "pytorch" if width == 1 else "he"
    return st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=settings.seed)


def sines(width: int, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points on a line in so many dimensions, and sines of the place on it."""
    place = torch.linspace(*INTERVAL, points, dtype=torch.float64)
    if width == 1:
        return place, place.sin()
    along, foot = torch.randn(2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return place[:, None] * along + foot, torch.sin(place[:, None] * torch.linspace(0.5, 2, width).double())


def fresh(block: str, settings: Settings) -> xarray.Dataset:
    """Return log10 norms by layer, deaths, folds and singular values of networks at the start."""
    width = CASES[BLOCKS[block][0]][0]
    net = networks(block, settings.thin_seeds if width == 1 else settings.seeds, settings)
    x, y = sines(width, 32)
    states = st.propagation(net, x).log_norms.median(dim=2).values
    gradients = st.gradient_norms(net, x, lambda out: (out - y).square().flatten(1).mean(dim=1))
    back = torch.cat([gradients["input"], gradients.output[None]]) - gradients.output
    found = {
        "state": (("layer", "seed"), (states - states[0]).numpy() / np.log(10)),
        "back": (("layer", "seed"), back.numpy() / np.log(10)),
        "dead": ("seed", gradients.dead.double().numpy()),
    }
    few = networks(block, settings.counted_seeds if width == 1 else 4, settings)
    folds = st.count(few, INTERVAL).folds.astype(float) if width == 1 else np.full(few.seeds, np.nan)
    values = st.spectrum(few, x[::8]).log_values[-1]
    found["folds"] = ("few", folds)
    found["dead_units"] = ("few", st.units(few, x).share("dead")[-1].numpy())
    found["singular"] = (("few", "point", "index"), values.numpy() / np.log(10))
    return xarray.Dataset(found)


def trained(block: str, rate: float, settings: Settings) -> xarray.Dataset:
    """Return the errors of trained networks over the variance of the target, and what has died."""
    width = CASES[BLOCKS[block][0]][0]
    thin = width == 1
    net = networks(block, settings.thin_trained_seeds if thin else settings.trained_seeds, settings, readout=True)
    net = net if thin else net.float()
    task = st.Task.from_samples(*sines(width, 64 if thin else 32))
    iterations = settings.thin_iterations if thin else settings.iterations
    st.train(net, task, iterations=iterations, rate=rate, progress=False)
    x, y = sines(width, 501)
    net = net.double()
    with torch.no_grad():
        error = (net(x) - y).square().flatten(1).mean(dim=1) / (y - y.mean(dim=0)).square().mean()
    gradients = st.gradient_norms(net, x, lambda out: (out - y).square().flatten(1).mean(dim=1))
    folds = st.count(net, INTERVAL).folds.astype(float) if thin else np.full(net.seeds, np.nan)
    found = {"error": error.numpy(), "dead_after": gradients.dead.double().numpy(), "folds_after": folds}
    return xarray.Dataset({name: ("seed", values) for name, values in found.items()})


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    torch.set_num_threads(1)  # matrices this small are multiplied faster by one
    start = parts.cells(fresh, settings, block=list(BLOCKS))
    for name in ("state", "back"):  # of the many members of width 1 as many as of the others
        start[name] = start[name].isel(seed=slice(settings.seeds)).rename(seed="member")
    groups = {
        "fresh": start,
        "trained": parts.cells(trained, settings, block=list(BLOCKS), rate=settings.rates),
    }
    data = xarray.DataTree.from_dict(groups)
    data.attrs = {"depth": settings.depth, "thin_depth": settings.thin_depth}
    return data


def slope(values: xarray.DataArray) -> tuple[float, float]:
    """Return the growth a block, in powers of ten, and half of its 95 % interval over the seeds."""
    values = values.dropna("layer", how="all").transpose("layer", "member")
    return intervals.slope(np.arange(values.sizes["layer"]), values)


def best_errors(data: xarray.DataTree) -> xarray.DataArray:
    """Return the errors of every seed at the rate with the better median."""
    errors = data["trained"].error
    return errors.sel(rate=errors.median("seed").idxmin("rate")).drop_vars("rate")


def of_case(values: xarray.DataArray, case: str) -> dict[str, xarray.DataArray]:
    """Return the values of a case by order."""
    return {order: values.sel(block=name) for name, (one, order) in BLOCKS.items() if one == case}


def ranking(errors: dict[str, xarray.DataArray]) -> tuple[list[str], str]:
    """Return the orders from the best to the worst, and their errors in words."""
    ranked = sorted(errors, key=lambda order: float(errors[order].median()))
    return ranked, ", ".join(f"{order} {study.spread(errors[order].dropna('seed'), 2)}" for order in ranked)


def claims(data: xarray.DataTree) -> list[study.Claim]:
    fresh, errors = data["fresh"].to_dataset(), best_errors(data)
    thin, bare, wide = CASES
    ranks = {case: ranking(of_case(errors, case)) for case in CASES}
    printed = sorted(PRINTED, key=PRINTED.get)
    same = [order for order in ranks[wide][0] if order in PRINTED]
    order_of = of_case(errors, wide)
    apart = all(float(order_of[a].max()) < float(order_of[b].min()) for a, b in itertools.pairwise(same))
    bare_same = [order for order in ranks[bare][0] if order in {*PRINTED, "pre_activation"}]
    as_printed = bare_same == ["pre_activation", *printed[1:]]
    rates = {order: slope(one) for order, one in of_case(fresh.state, wide).items()}
    fastest = max(rates, key=lambda order: rates[order][0])
    lost = {order: float((one == -np.inf).any("index").mean()) for order, one in of_case(fresh.singular, bare).items()}
    units = {order: 100 * float(one.mean()) for order, one in of_case(fresh.dead_units, bare).items()}
    dead = {order: int(one.sum()) for order, one in of_case(fresh.dead, thin).items()}
    count = int(fresh.dead.sel(block=f"{thin}: original").notnull().sum())
    folds = {order: float(one.median()) for order, one in of_case(fresh.folds, thin).items()}
    after = {order: float(one.median()) for order, one in of_case(data["trained"].folds_after, thin).items()}
    alone = lost["original"] > 0 and sum(lost.values()) == lost["original"] and sum(dead.values()) == dead["original"]
    rows = (
        (
            "Full pre-activation (6.37 %) beats the original order (6.61 %), and that beats ReLU before the addition "
            "(7.84 %)",
            "1603.05027",
            f"{wide}, errors: {ranks[wide][1]}. There batch normalisation, images and a long training; here layer "
            f"normalisation, sines and a short one",
            ("held" if apart else "refined") if same == printed else "refuted",
        ),
        (
            "The orders rank alike without normalisation", "common practice",
            f"{bare}: {ranks[bare][1]}",
            ("held" if as_printed else "refined") if bare_same[0] == "pre_activation" else "refuted",
        ),
        (
            "The same order wins at width 1", "common practice",
            f"{ranks[thin][1]}", "held" if ranks[thin][0][0] == "pre_activation" else "refuted",
        ),
        (
            "ReLU before the addition lets states only grow", "1603.05027",
            f"{wide}, powers of ten a block: "
            + ", ".join(f"{order} {middle:.4f} +- {half:.4f}" for order, (middle, half) in rates.items()),
            "held" if fastest == "before_addition" else "refuted",
        ),
        (
            "ReLU after the addition blocks the bypass, and no other order does", "1603.05027",
            f"{bare}: Jacobians that lose a direction: "
            + ", ".join(f"{order} {100 * share:.0f} %" for order, share in lost.items())
            + "; dead units of the last block: " + ", ".join(f"{order} {share:.0f} %" for order, share in units.items())
            + f"; members of {count} of width 1 without a gradient: "
            + ", ".join(f"{order} {number}" for order, number in dead.items()),
            "held" if alone else "refined" if lost["original"] or dead["original"] else "refuted",
        ),
        (
            "A ReLU more folds more", "common practice",
            "width 1, median folds before and after: "
            + ", ".join(f"{order} {folds[order]:.3g} and {after[order]:.3g}" for order in folds),
            "held" if min(folds, key=folds.get) == "between" else "refuted",
        ),
    )  # fmt: skip
    return [study.Claim(*row) for row in rows]


def draw(data: xarray.DataTree) -> Figure:
    fresh, errors = data["fresh"].to_dataset(), best_errors(data)
    thin, bare, wide = CASES
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    for letter, name, what in (("a", "state", "states"), ("b", "back", "gradients")):
        ends = {}
        for case, style in ((bare, "--"), (wide, "-")):
            for order, one in of_case(fresh[name], case).items():
                middle = one.median("member").dropna("layer")
                axes[letter].plot(middle.layer, middle, style, color=ORDERS[order][0])
                ends[order] = float(middle[-1 if name == "state" else 0])
        top = max(ends.values())
        axes[letter].set(xlabel="block", ylabel=rf"$\log_{{10}}$ of the growth of {what}", ylim=(-0.3, 2.2 * top))
        if letter == "b":
            colours = {ORDERS[order][1]: ORDERS[order][0] for order in ORDERS}
            st.plots.end_labels(axes["b"], {w: top * k / 2 for k, w in enumerate(colours)}, colours)
    places = {}
    for case in (wide, bare, thin):
        start = max(places.values(), default=-2) + 2
        for place, (order, one) in enumerate(of_case(errors, case).items()):
            x, shade, values = start + place, ORDERS[order][0], one.dropna("seed")
            axes["c"].plot(x + np.linspace(-0.2, 0.2, values.size), np.sort(values), ".", color=shade, markersize=3)
            axes["c"].plot([x - 0.4, x + 0.4], [float(values.median())] * 2, color=shade, linewidth=2)
            places[f"{case}: {order}"] = x
            share = fresh.dead if case == thin else fresh.dead_units
            axes["d"].bar(x, 100 * float(share.sel(block=f"{case}: {order}").mean()), color=shade)
    middles = [np.mean([x for name, x in places.items() if BLOCKS[name][0] == case]) for case in (wide, bare, thin)]
    for letter in "cd":
        axes[letter].set_xticks(middles, ["32, normalised", "32", "1"])
        axes[letter].set_xlabel("width")
    axes["c"].set(yscale="log", ylabel="error over the variance")
    axes["c"].minorticks_off()
    axes["d"].set(ylabel="dead at the start, %")
    winners = {case: ORDERS[ranking(of_case(errors, case))[0][0]][1] for case in CASES}
    ranked = [order for order in ranking(of_case(errors, wide))[0] if order in PRINTED]
    as_printed = ("as" if ranked == sorted(PRINTED, key=PRINTED.get) else "unlike what is") + " printed for ResNet-110"
    depth, losers = data.attrs["depth"], ORDERS[ranking(of_case(errors, wide))[0][-1]][1]
    st.plots.headline(
        figure,
        f"In medians, of {depth} normalised blocks of width 32 {winners[wide]} ends best and ReLU {losers} worst, "
        f"{as_printed}; without normalisation the best has ReLU {winners[bare]}, at width 1 {winners[thin]}.",
    )
    return figure


if __name__ == "__main__":
    quick = Settings(
        depth=6, thin_depth=6, seeds=3, thin_seeds=20, counted_seeds=3, trained_seeds=2, thin_trained_seeds=4,
        iterations=5, thin_iterations=20, rates=(0.01,),
    )  # fmt: skip
    study.main(Settings(), quick, measure, draw, claims)
