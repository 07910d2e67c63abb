"""How far from the identity may a layer be?

Question. Peng (2017) ends with a remark: unless each layer is close to the identity, the eigenvalues of the product
diverge or vanish. How close must it be in plain and residual PReLU chains of L layers and width 1 to 64? Where do
trained chains end up?

Method. A strength e moves every layer away from the identity: a residual step is h + e Wb prelu(Wa h + ba) + e bb, a
plain one prelu((I + e W) h + e b) with slope 1 - 3 e / 4, 1/4 at least, all W and b as torch initialises them. Its
distance from the identity is the spectral norm of J - I, median over layers and seeds. All singular values of every
prefix are taken in the log domain; mapped is how many decades the farthest of them is from 1, median over seeds. Above
7 decades float32 has no digit left of the sum of a direction that grew or died and one that stayed.

Prediction. Let J - I have entries of mean square delta^2 / n and mean 0. For wide layers the edges of the spectrum are
those of a product with strength c = L delta^2 in all (`st.theory.residual_log_edges`); at width 1, log |J| has the mean
-c / 2. So the distance may fall as 1 / sqrt(L). In a plain chain the slopes also pull all one way, by log(slope) a
layer in which a unit's pre-activation is negative; how often it is for the unit where it is most often, is measured.
Where that counts most, the distance must fall as 1 / L. The prediction is drawn at the measured distance that goes with
a delta, up to delta = 1/2.

Reading. Colour: decades from 1, against depth and distance. White: where 7 decades are reached; dotted, a condition
number of 10^7, which width 1 has none of. Black dashed: the prediction for the white line. At width 1, chains trained
on sin(x), medians: circles started as torch does, diamonds at the identity. The second figure has two more widths.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.patheffects
import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import stability as st
import study

LABELS = {"plain_prelu": "plain PReLU", "residual2_prelu": "residual PReLU"}
DECADES = 7.0
#: The delta up to which a layer is near the identity, for the prediction.
SMALL = 0.5
#: Seeds and points by width.
SIZES = {1: (40, 8), 4: (8, 2), 16: (3, 2), 64: (1, 1)}
EDGE = [mpl.patheffects.withStroke(linewidth=2.6, foreground="#555555")]
STRENGTHS = {"plain_prelu": (0.01, 4.0), "residual2_prelu": (0.05, 30.0)}


@dataclass(frozen=True)
class Settings(study.Settings):
    depth: int = 300  # Layers of the deepest chain; ten times as many at width 1.
    strengths: int = 14  # How many distances; twice as many at width 1.
    iterations: int = 1500  # Of Adam, for the trained chains.


def near_identity(name: str, strength: float, depth: int, width: int, root: int) -> st.Chain:
    """Return a chain whose layers are at `strength` times what torch draws from the identity."""
    sizes = {"depth": depth, "seeds": SIZES[width][0], "width": width, "root": root}
    if name == "residual2_prelu":
        outer = st.Distribution("uniform", scale=strength, width_power=-0.5)
        init = dataclasses.replace(st.INITS["pytorch"], name="near", outer_weight=outer, outer_bias=outer)
        return st.Chain(name, init=init, **sizes)
    chain, noise = st.Chain(name, init="identity", **sizes), st.Chain(name, **sizes)
    with torch.no_grad():
        chain.weight += strength * noise.weight
        chain.bias += strength * noise.bias
        chain.slope.fill_(slope_of(name, strength))
    return chain


def slope_of(name: str, strength: float) -> float:
    return 0.25 if name == "residual2_prelu" else max(0.25, 1 - 0.75 * strength)


def share_below(chain: st.Chain, x: torch.Tensor) -> float:
    """Return how often the unit of a plain chain that is negative most often is: it makes the smallest value."""
    h, shares = x, []
    for step in chain.steps:
        h = step(h)  # of the sign of its pre-activation
        shares.append((h < 0).double())
    return float(torch.stack(shares).mean(dim=0).reshape(*h.shape[:2], -1).amax(dim=2).mean())


def mapped(family: str, settings: Settings) -> xarray.Dataset:
    """Return decades from 1 and log10 of the condition number at every depth, and the distance, by strength."""
    name, width = family.rpartition("_")[0], int(family.rpartition("_")[2])
    more = (10, 2) if width == 1 else (1, 1)  # width 1 is so fast that it may go deeper
    depths = np.unique(np.geomspace(3, settings.depth * more[0], 30).astype(int))
    strengths = np.geomspace(*STRENGTHS[name], settings.strengths * more[1])
    shape = (SIZES[width][1],) if width == 1 else (SIZES[width][1], width)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(settings.seed))
    found = []
    for strength in strengths.tolist():
        chain = near_identity(name, strength, int(depths[-1]), width, settings.seed)
        s = st.spectrum(chain, x, check=False, progress=False)
        logs = s.log_values[depths - 1].flatten(1, 2) / math.log(10)
        one = {
            "decades": ("depth", logs.abs().amax(2).quantile(0.5, 1).numpy()),
            "log10_condition": ("depth", (logs[..., 0] - logs[..., -1]).quantile(0.5, 1).numpy()),
            "distance": float(s.distance_from_identity.median()),
            "negative": share_below(chain, x) if name == "plain_prelu" else 0.5,
        }
        found.append(xarray.Dataset(one, {"depth": depths}))
    return xarray.concat(found, xarray.IndexVariable("strength", strengths))


def trained(name: str, start: str, depth: int, settings: Settings) -> xarray.Dataset:
    chain = st.Chain(name, depth, seeds=16, init=start, root=settings.seed)
    task = st.Task(torch.sin, (-3, 3), points=128)
    history = st.train(chain, task, iterations=settings.iterations, progress=False)
    s = st.spectrum(chain, torch.linspace(-3, 3, 9, dtype=torch.float64), progress=False)
    far = s.log_values[-1, ..., 0].abs().median(1).values / math.log(10)
    distance = s.distance_from_identity.transpose(0, 1).flatten(1).median(1).values
    values = {"distance": distance, "decades": far, "loss": history.best_loss}
    return xarray.Dataset({key: ("seed", value.numpy()) for key, value in values.items()})


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    groups = parts.each(mapped, [f"{name}_{width}" for width in SIZES for name in LABELS], settings)
    axes = {"architecture": list(LABELS), "start": ["pytorch", "identity"], "depth": [10, 30, 100]}
    return xarray.DataTree.from_dict(groups | {"trained": parts.cells(trained, settings, **axes)})


def predict(name: str, data: xarray.Dataset, depth: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return delta, and the decades from 1 that the farthest singular value is predicted to have, by strength."""
    strengths, negative = data.strength.to_numpy(), data.negative.to_numpy()
    slopes = np.array([slope_of(name, e) for e in strengths])
    # Entries of torch's matrices have variance 1 / (3 n); a PReLU's derivative has the mean square that follows.
    square = strengths**2 * (1 - negative + negative * slopes**2) / (9 if name == "residual2_prelu" else 3)
    drift = np.zeros_like(square)
    if name == "plain_prelu":
        drift = -negative * np.log(slopes)
        square = square + negative * (1 - negative) * (1 - slopes) ** 2  # the derivatives about their mean
    spread = np.array([c / 2 if width == 1 else st.theory.residual_log_edges(c)[1] for c in depth * square])
    return np.sqrt(square), (depth * drift + spread) / math.log(10)


def boundary(name: str, data: xarray.Dataset, depth: float, width: int) -> float:
    """Return the distance at which DECADES are predicted; infinity beyond the map or where delta is not small."""
    delta, decades = predict(name, data, depth, width)
    kept = delta <= SMALL
    if not decades[0] < DECADES < decades[kept].max(initial=0.0):
        return math.inf
    return float(np.exp(np.interp(math.log(DECADES), np.log(decades[kept]), np.log(data.distance[kept]))))


@dataclass(frozen=True)
class Fall:
    """How the distance at which DECADES are reached falls with the depth, of one architecture and width."""

    power: float
    error: float
    factor: float  # the largest between measured and predicted
    words: str


def falls(data: xarray.DataTree, name: str) -> dict[int, Fall]:
    """Return the law of every width, where DECADES are reached and predicted at three depths or more."""
    found = {}
    for width in SIZES:
        one, points = data[f"{name}_{width}"].to_dataset(), []
        for depth in one.depth.values.tolist():
            column = np.maximum.accumulate(one.decades.sel(depth=depth).to_numpy()) + 1e-300
            predicted = boundary(name, one, depth, width)
            if column[0] < DECADES < column[-1] and math.isfinite(predicted):
                measured = np.interp(math.log(DECADES), np.log(column), np.log(one.distance))
                points.append((math.log(depth), measured, abs(measured - math.log(predicted))))
        if len(points) >= 3:
            depths, distances, errors = np.array(points).T
            (power, _), covariance = np.polyfit(depths, distances, 1, cov=True)
            error, ends = math.sqrt(covariance[0, 0]), np.exp(distances[[0, -1]])
            words = f"width {width}: {ends[0]:.2g} at {np.exp(depths[0]):.0f} layers, {ends[1]:.2g} at "
            words += f"{np.exp(depths[-1]):.0f}, L^{power:.2f} +- {2 * error:.2f}"
            found[width] = Fall(power, error, math.exp(errors.max()), words)
    return found


def quantiles(values: xarray.DataArray) -> str:
    return "{1:.2g} ({0:.2g} to {2:.2g})".format(*values.quantile([0.05, 0.5, 0.95]).to_numpy())


def claims(data: xarray.DataTree) -> list[study.Row]:
    laws = {name: falls(data, name) for name in LABELS}
    every = [law for found in laws.values() for law in found.values()]
    falling = all(law.power + 2 * law.error < 0 for law in every)
    worst, count = max((law.factor for law in every), default=math.inf), len(every)
    told = f"no one distance is close: {DECADES:.0f} decades are reached at one that falls with the depth in {count} "
    told += f"of {count} families"
    rows: list[study.Row] = [
        (
            "Unless each layer is close to the identity the eigenvalues of the product diverge or vanish", "Peng 2017",
            told if falling else "the distance does not fall with the depth", "refined" if falling else "held",
        ),
        (
            "The boundary is where random matrices predict it, for delta of at most 1/2", "theory",
            f"within a factor of {worst:.2f} in {count} families of chains", worst < 1.5,
        ),
    ]  # fmt: skip
    for name, power in (("residual2_prelu", -0.5), ("plain_prelu", -1.0)):
        said = f"The distance that L layers of a {LABELS[name]} chain may have falls as L^{power:g}"
        words = "; ".join(law.words for law in laws[name].values()) or "too few depths"
        near = bool(laws[name]) and all(abs(law.power - power) < 0.1 for law in laws[name].values())
        rows.append((said, "theory", words, "held" if near else "refined"))
    for name in LABELS:
        trained = data["trained"].to_dataset().sel(architecture=name)
        ends = [
            f"{depth} layers from {start}: distance {quantiles(one.distance)}, decades {quantiles(one.decades)}"
            for start in trained.start.values
            for depth in trained.depth.values[[0, -1]]
            for one in [trained.sel(start=start, depth=depth)]
        ]
        kept = float(trained.decades.median("seed").max()) < DECADES
        said = f"A trained {LABELS[name]} chain has layers close to the identity"
        rows.append((said, "common practice", "; ".join(ends), kept))
    return rows


def draw(data: xarray.DataTree) -> dict[str, Figure]:
    laws = {name: falls(data, name) for name in LABELS}
    powers = [[law.power for law in found.values()] for found in laws.values()]
    plain, residual = (
        " to ".join(dict.fromkeys(f"{end:.2f}" for end in (max(p), min(p)))) if p else "?" for p in powers
    )
    first = f"The distance that L layers may have from the identity falls as L to the power of {residual} in residual "
    first += f"chains and of {plain} in plain ones: no one distance is close."
    inner = [law.factor for found in laws.values() for width, law in found.items() if width in (4, 16)]
    second = f"At widths 4 and 16, random matrices predict the distance for {DECADES:.0f} decades within a factor of "
    second += f"{max(inner, default=math.nan):.2f}."
    return {"": draw_maps(data, (1, 64), first), "widths": draw_maps(data, (4, 16), second)}


def draw_maps(data: xarray.DataTree, widths: tuple[int, int], text: str) -> Figure:
    """Draw the maps of two widths, a row an architecture."""
    figure, axes = st.plots.panels("ab;cd", height=5.8)
    scale = mpl.colors.LogNorm(0.1, 300)
    cells = [(name, width) for name in LABELS for width in widths]
    for ax, (name, width) in zip(axes.values(), cells, strict=True):
        image = draw_map(data[f"{name}_{width}"].to_dataset(), name, width, ax, scale)
        ax.set_title(f"{LABELS[name]}, width {width}")
        if width == 1:
            look = {"norm": scale, "s": 26, "cmap": "viridis", "edgecolors": "white", "linewidths": 1.1, "zorder": 5}
            for start, marker in (("pytorch", "o"), ("identity", "D")):  # filled with their own decades
                one = data["trained"].to_dataset().sel(architecture=name, start=start).median("seed")
                ax.scatter(one.depth, one.distance, c=one.decades.clip(1e-6), marker=marker, **look)
    for letter in "ac":
        axes[letter].set_ylabel("distance of a layer from the identity")
    for letter in "cd":
        axes[letter].set_xlabel("depth")
    label = "decades of the farthest value from 1"
    figure.colorbar(image, ax=list(axes.values()), label=label, extend="both", pad=0.01)
    white, light = {"color": "white", "path_effects": EDGE}, {"color": "white", "markeredgecolor": "black"}
    keys = [
        mpl.lines.Line2D([], [], linewidth=1.6, label="7 decades", **white),
        mpl.lines.Line2D([], [], linestyle=":", label=r"condition $10^7$", **white),
        mpl.lines.Line2D([], [], color="black", linestyle="--", label="7 decades, predicted"),
        mpl.lines.Line2D([], [], marker="o", linestyle="", label="trained from torch's start", **light),
        mpl.lines.Line2D([], [], marker="D", linestyle="", label="from the identity", **light),
    ]
    figure.legend(handles=keys if 1 in widths else keys[:3], loc="outside lower center", ncols=5, fontsize=7)
    return st.plots.headline(figure, text)


def draw_map(data: xarray.Dataset, name: str, width: int, ax: Axes, scale: mpl.colors.Normalize) -> QuadMesh:
    # Over the strengths, so that rows that hardly differ in distance stay in order.
    grid = data.depth, np.maximum.accumulate(data.distance.to_numpy())
    image = ax.pcolormesh(*grid, data.decades.clip(1e-6), norm=scale, cmap="viridis", rasterized=True)
    ax.contour(*grid, data.decades, [DECADES], colors="white", linewidths=1.6)
    if width > 1:
        ax.contour(*grid, data.log10_condition, [DECADES], colors="white", linewidths=1.2, linestyles=":")
    depths = np.geomspace(float(data.depth[0]), float(data.depth[-1]), 60)
    line = np.array([boundary(name, data, depth, width) for depth in depths])
    ax.plot(depths, np.where(np.isfinite(line), line, np.nan), "--", color="black")
    ax.set(xscale="log", yscale="log")
    st.plots.ticks(ax, x=[depth for depth in (3, 10, 30, 100, 300, 1000, 3000) if depth <= depths[-1]])
    ax.grid(False)
    return image


if __name__ == "__main__":
    study.main(Settings(), Settings(depth=80, strengths=6, iterations=100), measure, draw, claims)
