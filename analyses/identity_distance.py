"""How far from the identity may a layer be?

Question. Peng (2017) ends with a remark: unless each layer is close to the identity, the eigenvalues of the product
diverge or vanish. How close, for L layers? For plain and residual PReLU chains of width 1 to 64, and where do trained
chains end up?

Method. A strength e moves every layer away from the identity: a residual step is h + e Wb prelu(Wa h + ba) + e bb, a
plain one prelu((I + e W) h + e b) with slope 1 - 3 e / 4, 1/4 at least, all W and b as torch initialises them. Its
distance from the identity is the spectral norm of J - I, median over layers and seeds. All singular values of every
prefix are taken in the log domain; what is mapped is how many decades the farthest of them is from 1, median over
seeds. Where that is above 7, float32 has no digit left of the sum of a direction that grew or died and one that stayed.

Prediction. Let J - I have entries of mean square delta^2 / n and mean 0. For wide layers the edges of the spectrum are
those of a product with strength c = L delta^2 in all (`st.theory.residual_log_edges`); at width 1, log |J| has the mean
-c / 2. So the distance may fall as 1 / sqrt(L). In a plain chain the slopes also pull all one way, by log(slope) a
layer in which a unit's pre-activation is negative; how often it is for the unit that it is most often, is measured.
Where that counts most, the distance must fall as 1 / L. The prediction is drawn at the measured distance that goes with
a delta, up to delta = 1/2.

Reading. Colour: decades from 1, against depth and distance. White: where 7 decades are reached; dotted, a condition
number of 10^7, which width 1 has none of. Black dashed: the prediction for the white line. At width 1, chains trained
on sin(x): circles started as torch does, diamonds at the identity.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray
from tqdm.auto import tqdm

import stability as st

LABELS = {"plain_prelu": "plain PReLU", "residual2_prelu": "residual PReLU"}
DECADES = 7.0
SMALL = 0.5  # the delta up to which a layer is near the identity, for the prediction
SEEDS, POINTS = {1: 40, 4: 8, 16: 3, 64: 1}, {1: 8, 4: 2, 16: 2, 64: 1}
STRENGTHS = {"plain_prelu": (0.01, 4.0), "residual2_prelu": (0.05, 30.0)}


@dataclass(frozen=True)
class Settings:
    """How far from the identity may each of L layers be?"""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer widths, strengths and layers: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def near_identity(name: str, strength: float, depth: int, width: int, root: int) -> st.Chain:
    """Return a chain whose layers are at `strength` times what torch draws from the identity."""
    sizes = {"depth": depth, "seeds": SEEDS[width], "width": width, "root": root}
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


def measure(name: str, strengths: np.ndarray, depths: np.ndarray, width: int, root: int) -> xarray.Dataset:
    """Return decades from 1 and log10 of the condition number at every depth, and the distance, by strength."""
    rows = []
    generator = torch.Generator().manual_seed(root)
    shape = (POINTS[width],) if width == 1 else (POINTS[width], width)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    for strength in strengths:
        chain = near_identity(name, float(strength), int(depths[-1]), width, root)
        s = st.spectrum(chain, x, check=False, progress=False)
        logs = s.log_values[depths - 1].flatten(1, 2).numpy() / math.log(10)
        assert s.distance_from_identity is not None
        negative = 0.5
        if name == "plain_prelu":  # whose state after a step has the sign of its pre-activation
            h, shares = x, []
            for step in chain.steps:
                h = step(h)
                shares.append((h < 0).double())
            # (seeds, points, units): the unit that is pulled down most makes the smallest singular value.
            units = torch.stack(shares).mean(dim=0).reshape(h.shape[0], h.shape[1], width)
            negative = float(units.amax(dim=2).mean())
        rows.append(
            (
                np.median(abs(logs).max(axis=2), axis=1),
                np.median(logs[..., 0] - logs[..., -1], axis=1),
                float(s.distance_from_identity.median()),
                negative,
            )
        )
    decades, condition, distance, negative = (np.array(column) for column in zip(*rows, strict=True))
    over = ("strength", "depth")
    return xarray.Dataset(
        {
            "decades": (over, decades),
            "log10_condition": (over, condition),
            "distance": ("strength", distance),
            "negative": ("strength", negative),
        },
        {"strength": strengths, "depth": depths},
    )


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


def crossings(data: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the depths at which DECADES are reached within the map, and the distances, interpolated in logs."""
    depths, distances = [], []
    for depth in data.depth.values:
        column = np.maximum.accumulate(data.decades.sel(depth=depth).to_numpy())
        if column[0] < DECADES < column[-1]:
            depths.append(depth)
            distances.append(np.exp(np.interp(np.log(DECADES), np.log(column + 1e-300), np.log(data.distance))))
    return np.array(depths, dtype=float), np.array(distances)


def train(depths: list[int], iterations: int, root: int) -> xarray.Dataset:
    """Return the median distance and decades of chains of width 1 trained on sin(x), from two starts."""
    task = st.Task(torch.sin, (-3, 3), points=128)
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    rows = []
    for name in LABELS:
        for start in ("pytorch", "identity"):
            for depth in depths:
                chain = st.Chain(name, depth, seeds=16, init=start, root=root)
                history = st.train(chain, task, iterations=iterations)
                s = st.spectrum(chain, x)
                assert s.distance_from_identity is not None
                far = float(abs(s.log_values[-1]).median()) / math.log(10)
                rows.append(
                    (name, start, depth, float(s.distance_from_identity.median()), far, history.best_loss.median())
                )
    names, starts, sizes, distances, decades, losses = zip(*rows, strict=True)
    values = {"depth": sizes, "distance": distances, "decades": decades, "loss": [float(v) for v in losses]}
    return xarray.Dataset(
        {key: ("chain", list(value)) for key, value in values.items()},
        {"architecture": ("chain", list(names)), "start": ("chain", list(starts))},
    )


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)
    widths = (1, 4, 16) if settings.quick else (1, 4, 16, 64)
    deepest, count = (80, 6) if settings.quick else (300, 14)
    maps = {}
    for width in tqdm(widths, desc="widths", disable=None):
        for name in LABELS:
            # Width 1 is so fast that it may go deeper.
            depths = np.unique(np.geomspace(3, deepest * (10 if width == 1 else 1), 30).astype(int))
            strengths = np.geomspace(*STRENGTHS[name], count * (2 if width == 1 else 1))
            maps[f"{name}_{width}"] = measure(name, strengths, depths, width, settings.seed)
    trained = train([10, 30, 100], 100 if settings.quick else 1500, settings.seed)

    print(f"Where the farthest singular value is {DECADES:.0f} decades from 1:")
    found: dict[str, list[float]] = {name: [] for name in LABELS}
    errors = []
    for key, data in maps.items():
        name, width = key.rsplit("_", 1)
        at, measured = crossings(data)
        predicted = np.array([boundary(name, data, depth, int(width)) for depth in at])
        near = np.isfinite(predicted)
        if near.sum() < 3:
            print(f"  {LABELS[name]}, width {width}: in too few depths of this map with small distances to fit a law")
            continue
        at, measured, predicted = at[near], measured[near], predicted[near]
        power = np.polyfit(np.log(at), np.log(measured), 1)[0]
        found[name].append(power)
        errors.append(abs(np.log(measured / predicted)).max())
        print(
            f"  {LABELS[name]}, width {width}: at distance {measured[0]:.2g} for {at[0]:.0f} layers and "
            f"{measured[-1]:.2g} for {at[-1]:.0f}: it falls as L^{power:.2f}; the prediction is within a factor of "
            f"{math.exp(errors[-1]):.2f}"
        )
    print("Trained on sin(x), width 1 (medians):")
    for one in range(trained.chain.size):
        row = trained.isel(chain=one)
        print(
            f"  {LABELS[str(row.architecture.values)]} from {row.start.values}, {int(row.depth)} layers: distance "
            f"{float(row.distance):.2g}, {float(row.decades):.1f} decades, error {float(row.loss):.1e}"
        )
    groups = {**maps, "trained": trained}
    paths = st.plots.save(draw(groups), xarray.DataTree.from_dict(groups), settings.out, "identity_distance")
    finding = "Found: "
    for name in found:
        if found[name]:
            low, high = min(found[name]), max(found[name])
            powers = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
            finding += f"in a {LABELS[name]} chain the distance that L layers may have falls as L^{powers}; "
    finding += (
        f"the predicted boundary is within a factor of {math.exp(max(errors, default=0.0)):.1f} of the measured one "
        "wherever delta is at most 1/2. So near is not one number: what counts is the sum over the layers, of squares "
        "where updates point every way, and of the pull itself where all slopes pull one way."
    )
    print("\n" + textwrap.fill(finding, 100))
    print("Written: " + ", ".join(str(path) for path in paths))


def draw(groups: dict[str, xarray.Dataset]) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    widths = sorted({int(key.rsplit("_", 1)[1]) for key in groups if key != "trained"})
    scale = mpl.colors.LogNorm(0.1, 300)
    with mpl.rc_context(st.plots.STYLE):
        figure, axes = plt.subplots(
            2, len(widths), figsize=(2.75 * len(widths) + 1.2, 5.8), sharex="col", sharey="row", squeeze=False
        )
        for row, name in zip(axes, LABELS, strict=True):
            for ax, width in zip(row, widths, strict=True):
                data = groups[f"{name}_{width}"]
                image = draw_map(data, name, width, ax, scale)
                ax.set_title(f"{LABELS[name]}, width {width}", loc="left")
                if width == 1:
                    draw_trained(groups["trained"], name, ax, scale)
            row[0].set_ylabel("distance of a layer from the identity")
        for ax in axes[-1]:
            ax.set_xlabel("depth")
        figure.colorbar(image, ax=axes, label="decades of the farthest singular value from 1", extend="both", pad=0.01)
        edge = [mpl.patheffects.withStroke(linewidth=3, foreground="#555555")]
        line, mark = {"color": "white", "linewidth": 2, "path_effects": edge}, {"color": "white", "linestyle": ""}
        keys = [
            plt.Line2D([], [], label="7 decades", **line),
            plt.Line2D([], [], linestyle=":", label=r"condition $10^7$", **line),
            plt.Line2D([], [], color="black", linestyle="--", label="7 decades, predicted"),
            plt.Line2D([], [], marker="o", markeredgecolor="black", label="trained from torch's start", **mark),
            plt.Line2D([], [], marker="D", markeredgecolor="black", label="from the identity", **mark),
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=5)
    return figure


def draw_map(
    data: xarray.Dataset, name: str, width: int, ax: plt.Axes, scale: mpl.colors.Normalize
) -> mpl.collections.QuadMesh:
    """Draw the decades of one family of chains with their boundaries, measured and predicted."""
    # Over the strengths, so that rows that hardly differ in distance stay in order.
    distances = np.maximum.accumulate(data.distance.to_numpy())
    image = ax.pcolormesh(
        data.depth, distances, np.maximum(data.decades, 1e-6), norm=scale, cmap="viridis", rasterized=True
    )
    ax.contour(data.depth, distances, data.decades, [DECADES], colors="white", linewidths=2)
    if width > 1:
        ax.contour(
            data.depth, distances, data.log10_condition, [DECADES], colors="white", linewidths=1.5, linestyles=":"
        )
    depths = np.geomspace(float(data.depth[0]), float(data.depth[-1]), 60)
    line = np.array([boundary(name, data, depth, width) for depth in depths])
    inside = np.isfinite(line)
    ax.plot(depths[inside], line[inside], "--", color="black", linewidth=1.4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(False)
    return image


def draw_trained(data: xarray.Dataset, name: str, ax: plt.Axes, scale: mpl.colors.Normalize) -> None:
    """Draw where trained chains end up, filled with their own decades."""
    for start, marker in (("pytorch", "o"), ("identity", "D")):
        kept = (data.architecture == name) & (data.start == start)
        one = data.isel(chain=np.flatnonzero(kept))
        ax.scatter(
            one.depth,
            one.distance,
            c=np.maximum(one.decades, 1e-6),
            norm=scale,
            marker=marker,
            s=34,
            cmap="viridis",
            edgecolors="white",
            linewidths=1.3,
            zorder=5,
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
