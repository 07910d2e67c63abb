"""To which depth do signals, gradients and training reach in a tanh network, and does mean-field theory say so?

Question. Two numbers start a plain tanh network h -> tanh(W h + b): the scale of its weights, sigma_w / sqrt(n), and of
its biases, sigma_b. Theory for infinite width divides their plane into an ordered phase, where all inputs become one
and gradients vanish, and a chaotic one, where close inputs part and gradients explode. Along the edge both reach
through any depth. How deep do signals and gradients of a network of finite width get, and how deep may it be to be
trained?

Method. Theory: fixed points and slopes of the recursions of variance and correlation, by quadrature
(`st.theory.correlation_depth_scale`, `gradient_depth_scale`, `edge_of_chaos`). Signals: an input with a like partner
(correlation 0.9) and an unlike one (0), all at the fixed variance; what is left of the difference of the two
correlations, mean over networks and inputs, against the recursion. They reach where it is above 0.05. Gradients: the
norm of dLoss/dh_l against that at the output, median over networks; they reach where it is within a factor of 10. The
theory for it is chi_1^(1/2) a layer. Training: four clusters of inputs, two of each class, are fitted by Adam from
16 points; it reaches where the error on new points is below half the variance of the labels.

Reading. Top: the depth scales over the plane, theory; black: the edge of chaos; white dashed: where the networks below
are. Bottom: what is measured against sigma_w and depth, white line: how deep it reaches; black dashed: theory, for
training six times the scale xi_c (Schoenholz et al. 2017). Left of the edge, green, is order, right of it chaos.
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

BIAS = 0.3
DIFFERENCE, FACTOR, ERROR = 0.05, 10.0, 0.5
LIKE = 0.9
GREEN = "#009E73"
LIGHT = [mpl.patheffects.withStroke(linewidth=2.8, foreground="#BBBBBB")]
OUTLINE = [mpl.patheffects.withStroke(linewidth=3.2, foreground="#444444")]


@dataclass(frozen=True)
class Settings:
    """To which depth do signals, gradients and training reach in a tanh network?"""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer scales, layers and networks: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def networks(depth: int, width: int, seeds: int, root: int, readout: bool = False, **options: torch.dtype) -> st.Chain:
    """Return tanh networks with weight scale 1 and bias scale BIAS; other weight scales are multiples."""
    one = st.Distribution("normal", 1.0, width_power=-0.5)
    init = dataclasses.replace(
        st.INITS["pytorch"],
        name="mean field",
        weight=one,
        bias=st.Distribution("normal", BIAS),
        readout_weight=one,
        readout_bias=st.Distribution("constant", 0.0),
    )
    architecture = st.Architecture("plain_tanh", activation="tanh", readout=readout)
    return st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=root, **options)


def theory_map(count: int) -> xarray.Dataset:
    """Return the depth scales of theory over both scales, and the edge of chaos."""
    weights, biases = np.linspace(0.5, 3, count), np.linspace(0.02, 1, count // 2)
    grid = {"weight_scale": weights[:, None], "bias_scale": biases}
    over = ("weight_scale", "bias_scale")
    return xarray.Dataset(
        {
            "correlation_scale": (over, st.theory.correlation_depth_scale(**grid)),
            "gradient_scale": (over, st.theory.gradient_depth_scale(**grid)),
            "fixed_correlation": (over, st.theory.fixed_correlation(**grid)),
            "edge": ("bias_scale", st.theory.edge_of_chaos(biases)),
        },
        {"weight_scale": weights, "bias_scale": biases},
    )


def triples(points: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return random inputs of mean square 1, (3 points, width): each with a partner like it and one unlike it."""
    frames = torch.linalg.qr(torch.randn(points, width, 3, dtype=torch.float64, generator=generator))[0]
    one, other, third = frames.unbind(2)
    like = LIKE * one + math.sqrt(1 - LIKE**2) * other
    return torch.cat([one, like, third]) * math.sqrt(width)


def measure(weights: np.ndarray, depth: int, width: int, seeds: int, root: int) -> xarray.Dataset:
    """Return, by weight scale and depth, what is left of the difference of correlations and of the gradient's norm."""
    points = 12
    net = networks(depth, width, seeds, root)
    unit = net.weight.detach().clone()
    inputs = triples(points, width, torch.Generator().manual_seed(root))
    like = [(k, points + k) for k in range(points)]
    unlike = [(k, 2 * points + k) for k in range(points)]
    differences, gradients = [], []
    for weight in tqdm(weights, desc="signals and gradients", disable=None):
        with torch.no_grad():
            net.weight.copy_(unit * weight)
        # The mean square of a state at the fixed variance.
        size = (st.theory.fixed_variance(float(weight), BIAS) - BIAS**2) / weight**2
        x = inputs * math.sqrt(size)
        apart = st.propagation(net, x, pairs=like + unlike).log_decorrelations.exp()
        difference = (apart[:, :, points:] - apart[:, :, :points]).mean(dim=(1, 2)).numpy()
        differences.append(difference)
        g = st.gradient_norms(net, x[:1], lambda y: y[:, 0, 0])["input"]
        # From the output back: the last layer is left out, for it starts with one unit and not with all.
        gradients.append((g - g[-1]).median(dim=1).values.flip(0).numpy() / math.log(10))
    over = ("weight_scale", "layer")
    return xarray.Dataset(
        {
            "difference": (("weight_scale", "depth"), np.array(differences)),
            "log10_gradient": (over, np.array(gradients)),
        },
        {"weight_scale": weights, "depth": np.arange(depth + 1), "layer": np.arange(depth)},
        {"width": width, "seeds": seeds, "bias_scale": BIAS},
    )


def predict(weights: np.ndarray, depth: int) -> xarray.Dataset:
    """Return what the recursions say of both for infinite width."""
    q = np.asarray(st.theory.fixed_variance(weights, BIAS))
    size = (q - BIAS**2) / weights**2
    # The correlations of the pre-activations of the first layer, of a like pair and an unlike one.
    c = np.stack([(weights**2 * size * start + BIAS**2) / q for start in (LIKE, 0.0)])
    differences = [np.full(len(weights), LIKE)]
    for _ in tqdm(range(depth), desc="recursion", disable=None):
        # Of the states, from that of the pre-activations that follow.
        c = st.theory.correlation_map(c, q, weights, BIAS)
        states = (c * q - BIAS**2) / (weights**2 * size)
        differences.append(states[0] - states[1])
    log_chi = np.log10(st.theory.chi_1(weights, BIAS))
    return xarray.Dataset(
        {
            "difference": (("weight_scale", "depth"), np.array(differences).T),
            "log10_gradient": (("weight_scale", "layer"), log_chi[:, None] / 2 * np.arange(depth)),
            "correlation_scale": ("weight_scale", st.theory.correlation_depth_scale(weights, BIAS)),
        },
        {"weight_scale": weights, "depth": np.arange(depth + 1), "layer": np.arange(depth)},
    )


def clusters(points: int, width: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points of four clusters, and their labels -1 and 1 in every output."""
    which = torch.arange(points) % 4
    noise = torch.randn(points, width, dtype=torch.float64, generator=generator) / math.sqrt(width)
    x = LIKE * torch.eye(width, dtype=torch.float64)[which] + math.sqrt(1 - LIKE**2) * noise
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(width)
    return x, (1.0 - 2.0 * (which % 2))[:, None].double().expand(points, width).clone()


def train(weights: np.ndarray, depths: list[int], seeds: int, iterations: int, root: int) -> xarray.Dataset:
    """Return the error on new points after training, by weight scale, depth and seed."""
    width = 16
    generator = torch.Generator().manual_seed(root)
    seen, new = clusters(16, width, generator), clusters(64, width, generator)
    scales = torch.from_numpy(np.repeat(weights, seeds)).float()[:, None, None, None]
    errors = np.empty((len(weights), len(depths), seeds))
    for d, depth in enumerate(tqdm(depths, desc="training", disable=None)):
        net = networks(depth, width, len(weights) * seeds, root, readout=True, dtype=torch.float32)
        with torch.no_grad():
            net.weight *= scales
        st.train(net, st.Task.from_samples(*seen), iterations=iterations, rate=0.002)
        with torch.no_grad():
            error = (net(new[0].float()) - new[1]).square().mean(dim=(1, 2))
        errors[:, d] = error.reshape(len(weights), seeds).numpy()
    coords = {"weight_scale": weights, "depth": depths}
    return xarray.Dataset({"error": (("weight_scale", "depth", "seed"), errors)}, coords, {"width": width})


def reach(values: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Return by row the first depth at which the value falls below 0, interpolated; inf where it does not."""
    found = np.full(len(values), np.inf)
    for row, value in enumerate(values):
        below = np.flatnonzero(value < 0)
        if below.size:
            at = below[0]
            found[row] = depths[0]
            if at > 0:
                share = value[at - 1] / (value[at - 1] - value[at])
                found[row] = depths[at - 1] + share * (depths[at] - depths[at - 1])
    return found


def reaches(data: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return to which depths signals and gradients reach."""
    with np.errstate(divide="ignore", invalid="ignore"):
        signals = np.log(np.maximum(data.difference.to_numpy(), 1e-300) / DIFFERENCE)
    gradients = math.log10(FACTOR) - abs(data.log10_gradient.to_numpy())
    return reach(signals, data.depth.to_numpy()), reach(gradients, data.layer.to_numpy())


def reach_of_training(data: xarray.Dataset) -> np.ndarray:
    return reach(np.log(ERROR / data.error.median("seed").to_numpy()), data.depth.to_numpy())


def compare(what: str, weights: np.ndarray, measured: np.ndarray, predicted: np.ndarray, edge: float) -> float:
    """Print one kind of reach, measured and predicted; return the median of the factors between them."""
    both = np.isfinite(measured) & np.isfinite(predicted)
    factors = np.maximum(measured[both] / predicted[both], predicted[both] / measured[both])
    middle = float(np.median(factors)) if both.any() else math.nan
    shown = [0, int(np.argmin(abs(weights - edge))), len(weights) - 1]
    rows = "; ".join(f"sigma_w {weights[k]:.2f}: {layers(measured[k])} ({layers(predicted[k])})" for k in shown)
    print(f"  {what}: {rows}; median factor {middle:.2f}")
    return middle


def layers(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else "beyond"


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)
    # Matrices this small are multiplied by one thread faster than by two: training takes a fifth of the time.
    torch.set_num_threads(1)
    quick = settings.quick
    depth, width, seeds = (50, 48, 4) if quick else (120, 128, 6)
    weights = np.linspace(0.7, 3, 9 if quick else 24)
    plane = theory_map(16 if quick else 80)
    measured = measure(weights, depth, width, seeds, settings.seed)
    predicted = predict(weights, depth)
    trained = train(
        np.linspace(0.7, 3, 7 if quick else 16),
        [4, 12, 30] if quick else [4, 6, 8, 12, 16, 24, 32, 48, 64, 96],
        2 if quick else 3,
        120,
        settings.seed,
    )

    edge = float(st.theory.edge_of_chaos(BIAS))
    print(f"sigma_b = {BIAS}, edge of chaos at sigma_w = {edge:.4f}. Layers reached, measured (theory):")
    found, expected = reaches(measured), reaches(predicted)
    factors = [compare(what, weights, found[k], expected[k], edge) for k, what in enumerate(("signals", "gradients"))]
    learnt = reach_of_training(trained)
    scales = trained.weight_scale.to_numpy()
    six = 6 * np.asarray(st.theory.correlation_depth_scale(scales, BIAS))
    compare("training", scales, learnt, six, edge)
    groups = {"theory": plane, "measured": measured, "predicted": predicted, "trained": trained}
    paths = st.plots.save(draw(groups), xarray.DataTree.from_dict(groups), settings.out, "phase_diagram")
    best = scales[int(np.argmax(np.where(np.isfinite(learnt), learnt, np.inf)))]
    deepest = [float(weights[int(np.argmax(reached))]) for reached in found]
    finding = (
        f"Found: with sigma_b = {BIAS} signals reach deepest near sigma_w = {deepest[0]:.2f} and gradients near "
        f"{deepest[1]:.2f}, where theory has the edge of chaos at {edge:.2f}; away from it the depths are those of the "
        f"theory for infinite width to a factor of {factors[0]:.2f} for signals and {factors[1]:.2f} for gradients "
        f"(median, width {width}). Training on new points of four clusters reaches deepest near sigma_w = {best:.2f}, "
        f"and {'is' if (learnt <= six).mean() >= 0.9 else 'is not'} held within six times xi_c: "
        f"{100 * (learnt <= six).mean():.0f} % of the scales."
    )
    print("\n" + textwrap.fill(finding, 100))
    print("Written: " + ", ".join(str(path) for path in paths))


def draw(groups: dict[str, xarray.Dataset]) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    plane, measured, predicted, trained = (groups[key] for key in ("theory", "measured", "predicted", "trained"))
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(10.8, 6.6))
        figure.get_layout_engine().set(w_pad=0.09)
        grid = figure.add_gridspec(2, 6)
        top = [figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])]
        bottom = [figure.add_subplot(grid[1, 2 * k : 2 * k + 2]) for k in range(3)]
        titles = (r"(a) theory: depth scale $\xi_c$ of signals", r"(b) theory: depth scale $|\xi_\nabla|$ of gradients")
        for ax, name, title in zip(top, ("correlation_scale", "gradient_scale"), titles, strict=True):
            image = draw_plane(plane, name, ax)
            ax.set_title(title, loc="left")
            figure.colorbar(image, ax=ax, label="layers", extend="both", pad=0.01)
        draw_measured(figure, bottom, measured, predicted, trained)
    return figure


def draw_plane(plane: xarray.Dataset, name: str, ax: plt.Axes) -> mpl.collections.QuadMesh:
    """Draw a depth scale of theory over both scales."""
    image = ax.pcolormesh(
        plane.weight_scale,
        plane.bias_scale,
        np.minimum(abs(plane[name].T), 1e6),
        norm=mpl.colors.LogNorm(1, 100),
        cmap="viridis",
        rasterized=True,
        shading="gouraud",
    )
    ax.plot(plane.edge, plane.bias_scale, color="black", linewidth=2)
    ax.axhline(BIAS, color="white", linestyle="--", linewidth=1.2)
    for x, y, word in ((0.06, 0.9, "order"), (0.86, 0.06, "chaos")):
        ax.text(x, y, word, transform=ax.transAxes, color="white", fontsize=11, path_effects=OUTLINE)
    ax.set(xlim=(0.5, 3), xlabel=r"scale of the weights $\sigma_w$", ylabel=r"scale of the biases $\sigma_b$")
    ax.grid(False)
    return image


def draw_measured(
    figure: plt.Figure,
    axes: list[plt.Axes],
    measured: xarray.Dataset,
    predicted: xarray.Dataset,
    trained: xarray.Dataset,
) -> None:
    """Draw what is left of signals and gradients, and the errors after training, with the depths reached."""
    weights = measured.weight_scale.to_numpy()
    norms = (
        mpl.colors.LogNorm(1e-2, 1),
        mpl.colors.Normalize(-4, 4),
        mpl.colors.Normalize(0, 1),
    )
    kinds = (
        (measured.depth, np.maximum(measured.difference.T, 1e-9), "magma", "difference left", "min"),
        (measured.layer, measured.log10_gradient.T, "PuOr_r", r"$\log_{10}$ of the gradient's growth", "both"),
        (trained.depth, trained.error.median("seed").T, "magma_r", "error / variance", "max"),
    )
    titles = (
        f"(c) signals, width {measured.attrs['width']}",
        f"(d) gradients, width {measured.attrs['width']}",
        f"(e) training, width {trained.attrs['width']}",
    )
    found = (*reaches(measured), reach_of_training(trained))
    expected = (*reaches(predicted), 6 * predicted.correlation_scale.to_numpy())
    edge = float(st.theory.edge_of_chaos(BIAS))
    for k, ax in enumerate(axes):
        depth, values, cmap, label, extend = kinds[k]
        scales = (trained if k == 2 else measured).weight_scale.to_numpy()
        image = ax.pcolormesh(scales, depth, values, norm=norms[k], cmap=cmap, rasterized=True, shading="nearest")
        ax.axvline(edge, color=GREEN, linestyle=":", linewidth=1.8)
        line = np.where(np.isfinite(found[k]), found[k], 1e4)
        ax.plot(scales, line, color="white", linewidth=2.2, path_effects=OUTLINE)
        line = np.where(np.isfinite(expected[k]), expected[k], 1e4)
        ax.plot(weights, line, color="black", linestyle="--", linewidth=1.6, path_effects=LIGHT)
        ax.set(
            xlim=(weights[0], weights[-1]),
            ylim=(2, depth[-1]) if k < 2 else depth[[0, -1]],
            xlabel=r"scale of the weights $\sigma_w$",
        )
        ax.set_yscale("log")
        ax.set_yticks([4, 8, 16, 32, 64] if k == 2 else [3, 10, 30, 100], minor=False)
        ax.yaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
        ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        ax.set_title(titles[k], loc="left")
        ax.grid(False)
        figure.colorbar(image, ax=ax, label=label, extend=extend, pad=0.01)
    axes[0].set_ylabel(rf"depth, at $\sigma_b = {BIAS}$")
    axes[1].set_ylabel("layers from the output")
    axes[2].set_ylabel("depth of the network")
    keys = [
        plt.Line2D([], [], color="black", linewidth=2, label="edge of chaos"),
        plt.Line2D([], [], color=GREEN, linestyle=":", linewidth=1.8, label=rf"edge at $\sigma_b = {BIAS}$"),
        plt.Line2D([], [], color="white", linewidth=2.2, path_effects=OUTLINE, label="depth reached, measured"),
        plt.Line2D([], [], color="black", linestyle="--", path_effects=LIGHT, label=r"theory; in (e) $6\,\xi_c$"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
