"""How deep do signals, gradients and training reach in a tanh network, and does mean-field theory say so?

Question. Two numbers start a plain tanh network h -> tanh(W h + b): the scale of its weights, sigma_w / sqrt(n), and of
its biases, sigma_b. Theory for infinite width divides their plane into an ordered phase, where all inputs become one
and gradients vanish, and a chaotic one, where close inputs part and gradients explode. On the edge between them both
reach through any depth. How deep do they get at finite width, and how deep can a network be and still be trained?

Method. Theory: fixed points and slopes of the recursions of variance and correlation, by quadrature. Signals: an input
has a like partner (correlation 0.9) and an unlike one (0), all at the fixed variance. The difference of the two
correlations, mean over networks and inputs, is held against the recursion; signals reach where it is above 0.05.
Gradients: the norm of dLoss/dh_l over that at the output, median over networks, is held against chi_1^(1/2) a layer;
they reach where it is within a factor of 10. Training: Adam fits four clusters of inputs, two of each class, from 16
points; it reaches where the error on new points is below half the variance of the labels.

Reading. a: the depth scale of signals over the plane, theory; black, the edge of chaos; white dashed, the networks of
the other panels. b to d: what is measured against sigma_w and depth. White line: how deep it reaches. Black dashed:
theory, for training six times the scale xi_c (Schoenholz et al. 2017). Left of the edge, green, is order, right of it
chaos.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

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

BIAS = 0.3
DIFFERENCE, FACTOR, ERROR = 0.05, 10.0, 0.5
LIKE = 0.9
GREEN = "#009E73"
LIGHT = [mpl.patheffects.withStroke(linewidth=2.8, foreground="#BBBBBB")]
OUTLINE = [mpl.patheffects.withStroke(linewidth=2.6, foreground="#444444")]


@dataclass(frozen=True)
class Settings(study.Settings):
    plane: int = 80  # Scales of the weights in the map of theory; half as many of the biases.
    scales: int = 24  # Scales of the weights at which signals and gradients are measured.
    depth: int = 120  # Layers of these networks.
    width: int = 128  # Their width.
    seeds: int = 6  # Networks of each scale.
    trained_scales: int = 16  # Scales of the weights from which networks are trained.
    trained_depths: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96)  # Their depths.
    trained_width: int = 16  # Their width.
    trained_seeds: int = 3  # Networks of each scale and depth.
    iterations: int = 120  # Of Adam.


def networks(scale: float, depth: int, width: int, seeds: int, root: int, readout=False, **options: Any) -> st.Chain:
    init = dataclasses.replace(
        st.INITS["pytorch"],
        name="mean field",
        weight=st.Distribution("normal", scale, width_power=-0.5),
        bias=st.Distribution("normal", BIAS),
        readout_weight=st.Distribution("normal", width_power=-0.5),
        readout_bias=st.Distribution("constant", 0.0),
    )
    architecture = st.Architecture("plain_tanh", activation="tanh", readout=readout)
    return st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=root, **options)


def theory(settings: Settings) -> xarray.Dataset:
    weights, biases = np.linspace(0.5, 3, settings.plane), np.linspace(0.02, 1, settings.plane // 2)
    found = {
        "correlation_scale": st.theory.correlation_depth_scale(weights[:, None], biases),
        "gradient_scale": st.theory.gradient_depth_scale(weights[:, None], biases),
        "fixed_correlation": st.theory.fixed_correlation(weights[:, None], biases),
    }
    axes = {"weight_scale": weights, "bias_scale": biases}
    data = xarray.Dataset({name: (tuple(axes), values) for name, values in found.items()}, axes)
    return data.assign(edge=("bias_scale", st.theory.edge_of_chaos(biases)))


def state_size(scale: Any) -> Any:
    """Return the mean square of a state at the fixed variance."""
    return (st.theory.fixed_variance(scale, BIAS) - BIAS**2) / scale**2


def triples(points: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return random inputs of mean square 1, (3 points, width): each with a partner like it and one unlike it."""
    frames = torch.linalg.qr(torch.randn(points, width, 3, dtype=torch.float64, generator=generator))[0]
    one, other, third = frames.unbind(2)
    like = LIKE * one + math.sqrt(1 - LIKE**2) * other
    return torch.cat([one, like, third]) * math.sqrt(width)


def signals(scale: float, settings: Settings) -> xarray.Dataset:
    """Return, by depth, what is left of the difference of correlations and of the gradient's norm."""
    points = 12
    net = networks(scale, settings.depth, settings.width, settings.seeds, settings.seed)
    x = triples(points, settings.width, torch.Generator().manual_seed(settings.seed)) * math.sqrt(state_size(scale))
    pairs = [(k, k + shift) for shift in (points, 2 * points) for k in range(points)]
    like, unlike = st.propagation(net, x, pairs=pairs).log_decorrelations.exp().split(points, dim=2)
    g = st.gradient_norms(net, x[:1], lambda y: y[:, 0, 0])["input"]
    # From the output back: the last layer is left out, for it starts with one unit and not with all.
    gradient = (g - g[-1]).median(dim=1).values.flip(0) / math.log(10)
    difference = (unlike - like).mean(dim=(1, 2))
    return xarray.Dataset({"difference": ("depth", difference.numpy()), "log10_gradient": ("layer", gradient.numpy())})


def recursion(scales: np.ndarray, depth: int) -> xarray.Dataset:
    q, size = np.asarray(st.theory.fixed_variance(scales, BIAS)), np.asarray(state_size(scales))
    # The correlations of the pre-activations of the first layer, of a like pair and an unlike one.
    c = np.stack([(scales**2 * size * start + BIAS**2) / q for start in (LIKE, 0.0)])
    differences = [np.full(len(scales), LIKE)]
    for _ in range(depth):
        # Of the states, from that of the pre-activations that follow.
        c = st.theory.correlation_map(c, q, scales, BIAS)
        states = (c * q - BIAS**2) / (scales**2 * size)
        differences.append(states[0] - states[1])
    gradient = np.log10(st.theory.chi_1(scales, BIAS))[:, None] / 2 * np.arange(depth)
    return xarray.Dataset(
        {
            "difference": (("weight_scale", "depth"), np.transpose(differences)),
            "log10_gradient": (("weight_scale", "layer"), gradient),
            "correlation_scale": ("weight_scale", st.theory.correlation_depth_scale(scales, BIAS)),
            "edge": st.theory.edge_of_chaos(BIAS),
        },
        {"weight_scale": scales, "depth": range(depth + 1), "layer": range(depth)},
    )


def clusters(points: int, width: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points of four clusters, and their labels -1 and 1 in every output."""
    which = torch.arange(points) % 4
    noise = torch.randn(points, width, dtype=torch.float64, generator=generator) / math.sqrt(width)
    x = LIKE * torch.eye(width, dtype=torch.float64)[which] + math.sqrt(1 - LIKE**2) * noise
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(width)
    return x, (1.0 - 2.0 * (which % 2))[:, None].double().expand(points, width).clone()


def trained(depth: int, scales: np.ndarray, settings: Settings) -> xarray.Dataset:
    width, seeds = settings.trained_width, settings.trained_seeds
    generator = torch.Generator().manual_seed(settings.seed)
    seen, new = clusters(16, width, generator), clusters(64, width, generator)
    net = networks(1.0, depth, width, len(scales) * seeds, settings.seed, readout=True, dtype=torch.float32)
    with torch.no_grad():
        net.weight *= torch.from_numpy(np.repeat(scales, seeds)).float()[:, None, None, None]
    st.train(net, st.Task.from_samples(*seen), iterations=settings.iterations, rate=0.002, progress=False)
    with torch.no_grad():
        error = (net(new[0].float()) - new[1]).square().mean(dim=(1, 2)).reshape(len(scales), seeds)
    return xarray.Dataset({"error": (("weight_scale", "seed"), error.numpy())}, {"weight_scale": scales})


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    # Matrices this small are multiplied by one thread faster than by two: training takes a fifth of the time.
    torch.set_num_threads(1)
    scales = np.linspace(0.7, 3, settings.scales)
    from_scales = np.linspace(0.7, 3, settings.trained_scales)
    errors = parts.cells(trained, from_scales, settings, depth=settings.trained_depths)
    errors["six_scales"] = ("weight_scale", 6 * np.asarray(st.theory.correlation_depth_scale(from_scales, BIAS)))
    groups = {
        "theory": parts.part("theory", theory, settings),
        "measured": parts.cells(signals, settings, weight_scale=scales.tolist()),
        "predicted": parts.part("recursion", recursion, scales, settings.depth),
        "trained": errors.transpose("weight_scale", "depth", "seed"),
    }
    data = xarray.DataTree.from_dict(groups)
    data.attrs = {"width": settings.width, "trained_width": settings.trained_width}
    return data


def reach(values: xarray.DataArray) -> xarray.DataArray:
    """Return by scale the first depth at which the value falls below 0, interpolated; inf where it does not."""
    depths, found = values[values.dims[1]].to_numpy(), []
    for row in values.to_numpy():
        at = int(np.argmax(row < 0))
        inside = np.interp(0.0, row[[at, at - 1]], depths[[at, at - 1]]) if at else np.inf
        found.append(depths[0] if row[0] < 0 else inside)
    return xarray.DataArray(found, {"weight_scale": values.weight_scale})


def reaches(data: xarray.DataTree) -> dict[str, xarray.Dataset]:
    """Return by scale to which depths signals, gradients and training reach, measured and by theory."""
    both, trained = {"measured": data["measured"], "theory": data["predicted"]}, data["trained"]
    signals = {key: reach(np.log(one.difference.clip(1e-300) / DIFFERENCE)) for key, one in both.items()}
    gradients = {key: reach(math.log10(FACTOR) - abs(one.log10_gradient)) for key, one in both.items()}
    training = {"measured": reach(np.log(ERROR / trained.error.median("seed"))), "theory": trained.six_scales}
    names = ("signals", "gradients", "training")
    return {name: xarray.Dataset(one) for name, one in zip(names, (signals, gradients, training), strict=True)}


def quantiles(one: xarray.Dataset, shares: list[float], factor: bool = False) -> list[float]:
    """Return quantiles over the scales of measured over theory, where both end; or of the factor between the two."""
    ratio = np.log(one.measured / one.theory)
    ratio = np.exp(abs(ratio) if factor else ratio)
    return ratio.where(np.isfinite(ratio) & (ratio > 0)).quantile(shares).to_numpy().tolist()


def sides(one: xarray.Dataset, edge: float, shares: list[float]) -> list[list[float]]:
    """Return quantiles of measured over theory in order and in chaos."""
    return [quantiles(one.sel(weight_scale=side), shares) for side in (slice(edge), slice(edge, None))]


def graded(value: float, held: float, refined: float) -> str:
    """Return the verdict on a value that should be small."""
    return "held" if value < held else "refined" if value < refined else "refuted"


def claims(data: xarray.DataTree) -> list[study.Row]:
    edge, found, rows = float(data["predicted"].edge), reaches(data), []
    for what in ("signals", "gradients"):
        one, wide = found[what], f"width {data.attrs['width']}"
        scales = one.weight_scale.to_numpy()
        low, high = scales[np.flatnonzero(one.measured == one.measured.max())[[0, -1]]]
        steps = max(low - edge, edge - high, 0.0) / (scales[1] - scales[0])
        at = f"{wide}: deepest at sigma_w = {low:.2f} to {high:.2f}, {steps:.1f} steps from the edge, {edge:.3f}"
        middle, most = quantiles(one, [0.5, 0.95], factor=True)
        apart = f"{wide}: median factor {middle:.2f} between the two, 95 % of the scales within {most:.2f}"
        as_said = "held" if most < 1.3 else graded(middle, 0, 1.3)
        rows += [
            (f"At the edge of chaos {what} reach deepest", "Schoenholz 2017", at, graded(steps, 1, 2)),
            (f"At finite width {what} reach as deep as at infinite width", "theory", apart, as_said),
        ]
    one = found["training"]
    within, deepest = 100 * float((one.measured <= one.theory).mean()), float(one.measured.idxmax())
    both = sides(one, edge, [0.5, 0.05, 0.95])
    order, chaos = ("{:.2f} (5 to 95 % of scales: {:.2f} to {:.2f})".format(*side) for side in both)
    told = (
        f"width {data.attrs['trained_width']}: deepest at sigma_w = {deepest:.2f}; {within:.0f} % of "
        f"{one.measured.size} scales are within six depth scales; reached over six depth scales in order {order}, in "
        f"chaos {chaos}"
    )
    said = "Networks can be trained down to six depth scales of signals, and no deeper"
    return [*rows, (said, "Schoenholz 2017", told, all(0.8 < middle < 1.25 for middle, *_ in both))]


def draw(data: xarray.DataTree) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.6)
    draw_plane(data["theory"].to_dataset(), axes["a"])
    measured, error, found = data["measured"], data["trained"].error.median("seed"), reaches(data)
    edge, tones = float(data["predicted"].edge), mpl.colors
    rows = (
        ("signals", "width", "depth", "difference left", measured.difference.clip(1e-9), tones.LogNorm(1e-2, 1)),
        ("gradients", "width", "layers from the output", r"$\log_{10}$ of the growth", measured.log10_gradient, None),
        ("training", "trained_width", "depth of the network", "error / variance", error, tones.Normalize(0, 1)),
    )
    maps = ("magma", "PuOr_r", "magma_r")
    for ax, cmap, (what, width, depth, label, values, norm) in zip(list(axes.values())[1:], maps, rows, strict=True):
        image = draw_measured(ax, values, found[what], edge, norm=norm or tones.Normalize(-4, 4), cmap=cmap)
        figure.colorbar(image, ax=ax, label=label, extend="both", pad=0.01)
        ax.set(title=f"{what}, width {data.attrs[width]}", ylabel=depth)
    axes["b"].set_xlabel("")
    for x, y, words in ((0.53, 0.48, "measured"), (0.7, 0.74, r"theory: $6\,\xi_c$")):
        axes["d"].text(x, y, words, transform=axes["d"].transAxes, color="white", fontsize=7, path_effects=OUTLINE)
    factors = [quantiles(found[what], [0.5], factor=True)[0] for what in ("signals", "gradients")]
    (order,), (chaos,) = sides(found["training"], edge, [0.5])
    return st.plots.headline(
        figure,
        f"Signals and gradients of tanh networks reach as deep as theory says, to median factors of {factors[0]:.2f} "
        f"and {factors[1]:.2f}; training reaches {order:.1f} times six depth scales in order, {chaos:.1f} in chaos.",
    )


def draw_plane(plane: xarray.Dataset, ax: Axes) -> None:
    look = {"norm": mpl.colors.LogNorm(1, 100), "cmap": "viridis", "rasterized": True, "shading": "gouraud"}
    image = ax.pcolormesh(plane.weight_scale, plane.bias_scale, np.minimum(plane.correlation_scale.T, 1e6), **look)
    ax.plot(plane.edge, plane.bias_scale, color="black", linewidth=1.6)
    ax.axhline(BIAS, color="white", linestyle="--", linewidth=1)
    for x, y, words in ((0.06, 0.85, "order"), (0.8, 0.06, "chaos"), (0.58, 0.85, "edge of chaos")):
        ax.text(x, y, words, transform=ax.transAxes, color="white", fontsize=8, path_effects=OUTLINE)
    ax.set(xlim=(0.5, 3), xlabel=r"scale of the weights $\sigma_w$", ylabel=r"scale of the biases $\sigma_b$")
    ax.set_title(r"theory: depth scale $\xi_c$")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="layers", extend="both", pad=0.01)


def draw_measured(ax: Axes, values: xarray.DataArray, lines: xarray.Dataset, edge: float, **look: Any) -> QuadMesh:
    scales, depths = values.weight_scale, values[values.dims[1]]
    image = ax.pcolormesh(scales, depths, values.T, rasterized=True, shading="nearest", **look)
    ax.axvline(edge, color=GREEN, linestyle=":", linewidth=1.6)
    lines = lines.where(np.isfinite(lines), 1e4)
    ax.plot(scales, lines.measured, color="white", linewidth=1.8, path_effects=OUTLINE)
    ax.plot(scales, lines.theory, color="black", linestyle="--", linewidth=1.3, path_effects=LIGHT)
    ticks = [4, 8, 16, 32, 64] if depths[0] > 2 else [3, 10, 30, 100]
    ax.set(xlim=(scales[0], scales[-1]), ylim=(max(2, depths[0]), depths[-1]), yscale="log")
    st.plots.ticks(ax, y=ticks)
    ax.set_xlabel(rf"scale of the weights $\sigma_w$, at $\sigma_b = {BIAS}$")
    ax.grid(False)
    return image


if __name__ == "__main__":
    quick = Settings(
        plane=16, scales=9, depth=50, width=48, seeds=4, trained_scales=7, trained_depths=(4, 12, 30), trained_seeds=2
    )
    study.main(Settings(), quick, measure, draw, claims)
