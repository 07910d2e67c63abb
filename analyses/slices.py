"""How does a network cut a plane of its inputs, layer by layer, and how does depth fold it?

Question. A ReLU network is affine on polygons of its input space. Which layer cuts a trained network's plane, where are
its folds between three inputs, and what of them does a deep chain keep?

Method. A perceptron is trained to tell ten drawn figures of 8 x 8 pixels from one another, each shifted by up to one
pixel and with noise. A triangle between a training image of each of three classes is followed through its layers,
exactly: no grid, every region is found. The same is done before training, for several seeds. Then chains of width 2,
plain (h <- relu(W h + b)) and residual (h <- h + V relu(W h + b)), He's init, are followed over the square [-1, 1]^2,
layer by layer.

Reading. a: regions of the trained network by the slope of the logit margin of the first two classes (grey), its folds
by the layer that bends there (from 0), and where the network passes from one of the two to the other (orange). b:
regions up to each layer, trained (solid) and before (dotted), medians over seeds with the range of the middle 90 %. c:
edges that bend against depth in chains, medians, range of the middle 90 %. d: the residual chain of the most folds at
full depth, drawn as a.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional

import stability as st
import study

FIGURES = (
    "0111 1001 1001 1001 1110", "0010 0110 0010 0010 0111", "1110 0001 0110 1000 1111", "1110 0001 0110 0001 1110",
    "1001 1001 1111 0001 0001", "1111 1000 1110 0001 1110", "0110 1000 1110 1001 0110", "1111 0001 0010 0100 0100",
    "0110 1001 0110 1001 0110", "0110 1001 0111 0001 0110",
)  # fmt: skip
KINDS = ("plain", "residual")
SHADES = {"trained": "#0072B2", "before": "#777777", "plain": "#D55E00", "residual": "#0072B2"}
#: The three classes whose images span the triangle.
CORNERS = (3, 5, 8)


@dataclass(frozen=True)
class Settings(study.Settings):
    """How does a network cut a plane of its inputs, layer by layer, and how does depth fold it?"""

    widths: tuple[int, ...] = (32, 32, 32)  # Of the perceptron's layers.
    seeds: int = 8  # Perceptrons.
    iterations: int = 400  # Of Adam.
    depths: tuple[int, ...] = (1, 2, 4, 8, 16, 24)  # Of the chains of width 2.
    chains: int = 16  # Of each kind.


def images(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return figures in 8 x 8 pixels, shifted and noisy, (count, 64), and which they are."""
    drawn = torch.tensor([[[int(pixel) for pixel in row] for row in one.split()] for one in FIGURES])
    kind = torch.randint(len(FIGURES), (count,), generator=generator)
    down, right = torch.randint(1, 4, (count,), generator=generator), torch.randint(1, 4, (count,), generator=generator)
    whole = torch.zeros(count, 8, 8, dtype=torch.float64)
    for number, (one, i, j) in enumerate(zip(kind.tolist(), down.tolist(), right.tolist(), strict=True)):
        whole[number, i : i + 5, j : j + 4] = drawn[one].double()
    noise = torch.randn(count, 8, 8, dtype=torch.float64, generator=generator)
    return (whole + 0.1 * noise).flatten(1), kind


def perceptron(seed: int, settings: Settings) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        linear = [nn.Linear(i, o).double() for i, o in itertools.pairwise((64, *settings.widths, len(FIGURES)))]
    return nn.Sequential(linear[0], *(module for one in linear[1:] for module in (nn.ReLU(), one)))


def trained(seed: int, settings: Settings) -> tuple[nn.Sequential, torch.Tensor, float]:
    """Return a trained network, three images that it has seen, and its share of errors on others."""
    generator = torch.Generator().manual_seed(settings.seed)
    x, kind = images(1000, generator)
    other, wanted = images(1000, generator)
    model = perceptron(seed, settings)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(settings.iterations):
        adam.zero_grad()
        functional.cross_entropy(model(x), kind).backward()
        adam.step()
    corners = torch.stack([x[kind == one][0] for one in CORNERS])
    return model, corners, float((model(other).argmax(1) != wanted).double().mean())


def margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[..., CORNERS[0]] - logits[..., CORNERS[1]]


def by_layer(seed: int, settings: Settings) -> xarray.Dataset:
    """Return regions and folds up to each layer, after and before training."""
    model, corners, errors = trained(seed, settings)
    found = np.zeros((2, 2, len(settings.widths)), dtype=int)
    open_ones = 0
    for row, net in enumerate((model, perceptron(seed, settings))):
        for layer in range(len(settings.widths)):
            # Up to the affine map that follows, which cuts nothing.
            count = st.restrict(net[: 2 * layer + 3], st.plane(*corners)).count()
            found[row, :, layer] = count.regions, count.folds
            open_ones += count.undecided
    where = {"net": ["trained", "before"], "what": ["regions", "folds"], "layer": np.arange(1, found.shape[2] + 1)}
    return xarray.Dataset({"cut": (tuple(where), found), "errors": errors, "open": open_ones}, where)


class Narrow(nn.Module):
    """A chain of width 2."""

    def __init__(self, kind: str, depth: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(10_000 * KINDS.index(kind) + seed)
        self.kind = kind
        numbers = [torch.randn(5, 2, dtype=torch.float64, generator=generator) for _ in range(depth)]
        self.steps = [(one[:2], 0.3 * one[2], one[3:] / depth**0.5) for one in numbers]

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for weight, bias, outer in self.steps:
            z = functional.linear(h, weight, bias).relu()
            h = z if self.kind == "plain" else h + functional.linear(z, outer)
        return h


def square() -> st.Plane:
    return st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True)


def by_depth(kind: str, depth: int, settings: Settings) -> xarray.Dataset:
    """Return folds and regions of chains, and which share of the square is not flat."""
    rows = []
    for seed in range(settings.chains):
        f = st.restrict(Narrow(kind, depth, seed), square())
        count = f.count()
        moving = np.abs(f.gradients).reshape(len(f.faces), -1).max(axis=1) > 0
        rows.append((count.folds, count.regions, f.areas[moving].sum(), count.undecided))
    columns = dict(zip(("folds", "pieces", "alive", "unsettled"), np.array(rows).T, strict=True))
    return xarray.Dataset({name: ("chain", one) for name, one in columns.items()})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    layers = parts.cells(by_layer, settings, seed=range(settings.seeds))
    chains = parts.cells(by_depth, settings, kind=KINDS, depth=settings.depths)
    model, corners, _ = trained(0, settings)
    deepest = chains.folds.sel(kind="residual", depth=settings.depths[-1])
    numbers = {"weights": torch.cat([v.detach().flatten() for v in model.parameters()]).numpy()}
    found = xarray.Dataset(
        {"weights": ("number", numbers["weights"]), "corners": (("corner", "pixel"), corners.numpy())},
        attrs={"widths": settings.widths, "chosen": int(np.argmax(deepest.to_numpy())), "deepest": settings.depths[-1]},
    )
    return xarray.merge([layers, chains, found], combine_attrs="drop_conflicts")


def stored(data: xarray.Dataset) -> st.PiecewiseLinearSlice:
    """Return the margin of the network that is drawn over its triangle."""
    model = perceptron(0, Settings(widths=tuple(int(n) for n in np.atleast_1d(data.attrs["widths"]))))
    nn.utils.vector_to_parameters(torch.from_numpy(data.weights.to_numpy().copy()), model.parameters())
    return st.restrict(lambda x: margin(model(x)), st.plane(*data.corners.to_numpy()))


def middle(values: xarray.DataArray, dim: str) -> str:
    low, half, high = (float(values.quantile(q, dim)) for q in (0.05, 0.5, 0.95))
    return f"{half:g} ({low:g} to {high:g})"


def listed(values: xarray.DataArray) -> str:
    return ", ".join(f"{float(v):g}" for v in values)


def claims(data: xarray.Dataset) -> list[study.Row]:
    regions = data.cut.sel(what="regions")
    last = regions.isel(layer=-1)
    grows = (regions.diff("layer") > 0).all("layer").sel(net="trained")
    more = (last.sel(net="trained") > last.sel(net="before")).sum()
    deep = data.sel(depth=data.depth[-1])
    plain, residual = (deep.folds.sel(kind=kind) for kind in KINDS)
    flat = int((plain == 0).sum())
    risen = data.folds.sel(kind="residual").median("chain")
    open_ones = int(data.open.sum() + data.unsettled.sum())
    f = stored(data)
    euler = len(f.vertices) - len(f.edges) + len(f.faces)
    return [
        (
            "Every layer cuts the regions of those before it once more", "Montufar et al. 2014",
            f"regions after each layer, medians: {listed(regions.sel(net='trained').median('seed'))}; every layer adds "
            f"some in {int(grows.sum())} of {grows.size} trained networks", bool(grows.all()),
        ),
        (
            "Training makes a network more complex: more regions between its training images", "common expectation",
            f"{middle(last.sel(net='trained'), 'seed')} regions after training, "
            f"{middle(last.sel(net='before'), 'seed')} before; more in {int(more)} of {last.sizes['seed']} networks",
            "held" if more == last.sizes["seed"] else "refuted" if more == 0 else "refined",
        ),
        (
            "Depth folds a plane: a deeper chain has more folds", "Montufar et al. 2014",
            f"at depth {int(data.depth[-1])} a residual chain of width 2 has {middle(residual, 'chain')} folds, a "
            f"plain one {middle(plain, 'chain')}; {flat} of {plain.size} plain ones are flat all over",
            "refined" if float(plain.median()) < float(residual.median()) else "held",
        ),
        (
            "A residual chain goes on folding with depth", "Peng 2017",
            f"median folds {listed(risen)} at depths {listed(data.depth)}",
            bool((risen.diff("depth") > 0).all()),
        ),
        (
            "The regions are all there are: Euler's formula holds and no sign is open", "theory",
            f"V - E + F = {euler}, areas add up to 1/2 within {abs(float(f.areas.sum()) - 0.5):.1g}, "
            f"{open_ones} signs open",
            euler == 1 and open_ones == 0,
        ),
    ]  # fmt: skip


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=6.4, width_ratios=(1, 1))
    f = stored(data)
    st.plots.slice(f, axes["a"], by="slope", level=0.0, births=True)
    name_corners(axes["a"])
    regions = data.cut.sel(what="regions")
    for net, style in (("trained", "-"), ("before", ":")):
        curve(axes["b"], data.layer, regions.sel(net=net), "seed", SHADES[net], style)
    ends = {net: float(regions.sel(net=net).isel(layer=-1).median()) for net in ("trained", "before")}
    st.plots.end_labels(axes["b"], ends, {net: SHADES[net] for net in ends})
    axes["b"].set(xlabel="layers", ylabel="regions of the triangle")
    axes["b"].set_xticks(data.layer)
    axes["c"].set_yscale("symlog")
    for kind in KINDS:
        curve(axes["c"], data.depth, data.folds.sel(kind=kind), "chain", SHADES[kind], "-")
    ends = {kind: float(data.folds.sel(kind=kind).isel(depth=-1).median()) for kind in KINDS}
    st.plots.end_labels(axes["c"], ends, {kind: SHADES[kind] for kind in ends})
    axes["c"].set(xlabel="depth", ylabel="folds of the square")
    chosen = st.restrict(Narrow("residual", int(data.attrs["deepest"]), int(data.attrs["chosen"])), square())
    st.plots.slice(chosen, axes["d"], by="slope", births=True)
    for name in "ad":
        axes[name].grid(False)
    deep = data.folds.isel(depth=-1).median("chain")
    plain, residual = (f"{float(deep.sel(kind=kind)):g}" for kind in KINDS)
    after, before = (f"{float(regions.sel(net=net).isel(layer=-1).median()):g}" for net in ("trained", "before"))
    text = (
        f"{data.sizes['layer']} layers cut a triangle into {after} regions, and into {before} before training; at "
        f"depth {int(data.depth[-1])} a residual chain of width 2 has {residual} folds, a plain one {plain} (medians)."
    )
    return st.plots.headline(figure, text)


def name_corners(ax: Axes) -> None:
    for number, place in zip(CORNERS, ((0.0, -0.09), (1.0, -0.09), (0.06, 0.97)), strict=True):
        ax.annotate(f"a {number}", place, ha="left" if place[0] < 1 else "right", fontsize=8, annotation_clip=False)
    ax.set(xlabel="", ylabel="")
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)


def curve(ax: Axes, x: xarray.DataArray, values: xarray.DataArray, dim: str, shade: str, style: str) -> None:
    low, half, high = values.quantile([0.05, 0.5, 0.95], dim).to_numpy()
    ax.plot(x, half, style, color=shade, marker="o", markersize=3)
    ax.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)


QUICK = Settings(widths=(12, 12), seeds=2, iterations=60, depths=(1, 2, 4), chains=4)

if __name__ == "__main__":
    study.main(Settings(), QUICK, measure, draw, claims)
