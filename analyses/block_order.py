"""In which order should a residual block take its maps, activations, normalisations and the addition?

Question. He et al. (2016, arXiv 1603.05027) printed errors of ResNet-110 on CIFAR-10: 6.61 % with ReLU after the addition
(original), 6.37 % with batch normalisation and ReLU before each map (full pre-activation), 7.84 % with ReLU before the
addition. Which order wins in chains, at the start and after training, and why?

Method. Five orders of a ReLU block of two maps: "between", the article's, with one ReLU between the maps; the three of above;
and ReLU before each map with the normalisation behind it. All orders of a width draw the same weights. Width 1: torch's start,
no normalisation. Width 32: He's start, 54 blocks, as many as ResNet-110 has; without normalisation, and with
layer normalisation wherever the order has a place for it. Without it both pre-activations are one order. Measured of fresh
networks: norms of states and of gradients layer by layer, with a rate per layer (one slope a seed, 95 % interval over the
seeds); the share of members without a gradient; the share of units of the last block that are zero at every point; folds;
singular values of the Jacobian. Then Adam trains them: width 1 on sin(x), width 32 on 32 sines of the place on a line in its
input, the better of two rates. Errors are mean squares on points between those of the training, over the variance of the
target, so that 1 is a constant.

Reading. a, b: states and gradients of width 32 against the layer, medians; solid with normalisation, dashed without. c: the
errors after training, a dot a seed, the bar their median. d: shares of dead members (width 1) and of dead units (width 32, no
normalisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

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
    groups = {
        "fresh": parts.cells(fresh, settings, block=list(BLOCKS)),
        "trained": parts.cells(trained, settings, block=list(BLOCKS), rate=settings.rates),
    }
    data = xarray.DataTree.from_dict(groups)
    data.attrs = {"depth": settings.depth, "thin_depth": settings.thin_depth}
    return data


def claims(data: xarray.DataTree) -> list[study.Claim]:
    return []


def draw(data: xarray.DataTree) -> Figure:
    return st.plots.panels("a", height=2)[0]


if __name__ == "__main__":
    quick = Settings(
        depth=16, thin_depth=10, seeds=4, thin_seeds=50, counted_seeds=4, trained_seeds=2, thin_trained_seeds=4,
        iterations=15, thin_iterations=40,
    )  # fmt: skip
    study.main(Settings(), quick, measure, draw, claims)
