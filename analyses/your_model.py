"""What do the Jacobians of your own network look like? A ResNet, a transformer and two deep MLPs, as a pattern to copy.

Question. The Jacobian of the first l blocks of a network is a product of l matrices. How far do its singular values
part in a ResNet, in a pre-norm transformer and in deep MLPs, all with a state of 96 numbers, and how far is each block
from the identity?

Method. Any torch module will do: `st.spectrum(model, x)` finds the blocks, takes the Jacobian of each at every point
and all singular values of every prefix in the log domain, and checks them. Put your model into `build`, and what it
takes into `points_of`. Here: a pre-activation ResNet (batch normalisation with the statistics of one pass over random
images) and a pre-norm transformer with causal attention, both initialised as torch does, and MLPs without biases,
weights N(0, g^2 / n) with g = 1 for tanh and sqrt 2 for ReLU. One network of each kind, float64, in eval mode; what
varies are the points. The naive product is formed in float64 and decomposed, as one would; a value of it is right if
its log is off by less than 1e-9. Theory is the largest singular value of a ReLU product for infinite width; no formula
is given for tanh, nor for blocks with norms.

Reading. Top: all singular values against depth, medians over points, paler for smaller ones, with bands from 5 to 95 %
around the first and the last. Mind the scales: the grey strip in the panels of the MLPs is all that those of the
ResNet and the transformer show. Values that are exactly 0, which ReLU makes, are not drawn: the lines that end are
values that become 0. Markers: what the naive product makes of the smallest value for tanh, and of the zeros for
ReLU, at one point; in the residual networks it is right. Black dotted: theory. Bottom: the distance of each block from
the identity, the spectral norm of J_l - I, median and 5 to 95 % over points; below 1 (grey line) a block loses no rank.
"""

from __future__ import annotations

import math
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
from torch import Tensor, nn

import stability as st

LABELS = {
    "resnet": "ResNet",
    "transformer": "pre-norm transformer",
    "mlp_tanh": "deep MLP, tanh",
    "mlp_relu": "deep MLP, ReLU",
}
COLOURS = dict(zip(LABELS, ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True))
CHANNELS, SIDE = 6, 4
TOKENS, EMBEDDING, VOCABULARY = 6, 16, 64
WIDTH = 96  # of every state: 6 channels of 4 x 4, 6 tokens of 16 numbers, 96 units


@dataclass(frozen=True)
class Settings:
    """The spectrum of a ResNet, a transformer and two MLPs, defined here as you would define yours."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer blocks and points: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


class ConvolutionBlock(nn.Module):
    """h + conv(relu(norm(conv(relu(norm(h)))))), He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # momentum=None: the statistics are plain averages of what is seen in train mode.
        self.branch = nn.Sequential(
            nn.BatchNorm2d(channels, momentum=None),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, momentum=None),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class ResNet(nn.Module):
    """A stem, blocks of 6 channels of 4 x 4 numbers, and a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*[ConvolutionBlock(CHANNELS) for _ in range(depth)])
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).flatten(1))


class AttentionBlock(nn.Module):
    """h + attention(norm(h)), then h + mlp(norm(h)); a token sees those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        x = self.norms[0](h)
        h = h + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        return h + self.mlp(self.norms[1](h))


class Transformer(nn.Module):
    """Tokens and their places embedded in 16 numbers each, pre-norm blocks, and a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, EMBEDDING), nn.Embedding(TOKENS, EMBEDDING)
        self.blocks = nn.ModuleList([AttentionBlock(EMBEDDING, heads=2) for _ in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(EMBEDDING), nn.Linear(EMBEDDING, VOCABULARY))
        self.register_buffer("mask", torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.token(tokens) + self.place.weight
        for block in self.blocks:
            h = block(h, self.mask)
        return self.head(h)


class MLP(nn.Module):
    """Layers of 96 units without biases, weights N(0, gain^2 / 96), and a head."""

    def __init__(self, depth: int, activation: type[nn.Module], gain: float) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), activation()) for _ in range(depth)]
        for layer in layers:
            nn.init.normal_(layer[0].weight, std=gain / math.sqrt(WIDTH))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def build(name: str, depth: int, seed: int) -> nn.Module:
    """Return a model in float64 and eval mode, the same for the same seed, leaving torch's own generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "resnet":
            model: nn.Module = ResNet(depth).double()
            with torch.no_grad():  # one pass in train mode gives batch normalisation its statistics
                model.train()(torch.randn(256, 3, 2 * SIDE, 2 * SIDE, dtype=torch.float64))
        elif name == "transformer":
            model = Transformer(depth)
        elif name == "mlp_tanh":
            model = MLP(depth, nn.Tanh, gain=1.0)
        else:
            model = MLP(depth, nn.ReLU, gain=math.sqrt(2))
    return model.double().eval()


def points_of(name: str, count: int, seed: int) -> Tensor:
    """Return random images, sequences of tokens or vectors, whichever the model takes."""
    generator = torch.Generator().manual_seed(seed + 1)
    if name == "transformer":
        return torch.randint(VOCABULARY, (count, TOKENS), generator=generator)
    shape = (3, 2 * SIDE, 2 * SIDE) if name == "resnet" else (WIDTH,)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def naive_product(model: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return log singular values, (depth, 96), of the product of the blocks' Jacobians at one point, as one would.

    And the root mean square of the state before each block, (depth,).
    """
    calls: list[tuple] = []
    hooks = [block.register_forward_pre_hook(lambda *call: calls.append(call[1])) for block in model.blocks]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    product, formed = torch.eye(WIDTH, dtype=torch.float64), []
    for block, (h, *rest) in zip(model.blocks, calls, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v, block=block, rest=rest: block(v, *rest), h)
        product = jacobian.reshape(WIDTH, WIDTH) @ product
        formed.append(torch.linalg.svdvals(product))
    sizes = np.array([float(h.square().mean().sqrt()) for h, *_ in calls])
    with np.errstate(divide="ignore"):
        return np.log(torch.stack(formed).numpy()), sizes


def measure(name: str, depth: int, points: int, seed: int) -> tuple[st.Spectrum, xarray.Dataset]:
    """Return the spectrum of a model, and its dataset with what the figure needs besides."""
    model, x = build(name, depth, seed), points_of(name, points, seed)
    s = st.spectrum(model, x, layers="blocks")  # this is all
    (naive, sizes), true = naive_product(model, x[:1]), s.log_values[:, 0, 0].numpy()
    with np.errstate(invalid="ignore"):
        right = (naive == true) | (abs(naive - true) < 1e-9)
    assert s.self_check is not None
    # The last value that is not 0.
    smallest = s.log_values.gather(-1, s.ranks[..., None] - 1)[:, 0, :, 0]
    about = {"units": "natural logarithm"}
    data = (
        s.to_dataset()
        .isel(seed=0, drop=True)
        .assign(
            log_condition=(
                ("depth", "x"),
                s.log_condition[:, 0].numpy(),
                {"long_name": "log condition number", **about},
            ),
            log_span=(
                ("depth", "x"),
                (s.log_values[:, 0, :, 0] - smallest).numpy(),
                {"long_name": "log of the largest over the smallest singular value that is not 0", **about},
            ),
            rank=(("depth", "x"), s.ranks[:, 0].numpy(), {"long_name": "singular values that are not exactly 0"}),
            passed=("x", s.self_check.passed[0].numpy(), {"long_name": "self-check passed"}),
            naive=(("depth", "index"), naive.astype(np.float32), {"long_name": "product formed in float64", **about}),
            state=("depth", sizes, {"long_name": "root mean square of the state before a block, at the first point"}),
            right=("depth", right.sum(1), {"long_name": "values of that product within 1e-9 in the log"}),
        )
    )
    # Seven digits are enough for a figure and halve the file.
    data["log_values"] = data.log_values.astype(np.float32)
    if name == "mlp_relu":
        edges = [st.theory.largest_squared_singular_value(depth, "relu") for depth in data.depth.values.tolist()]
        data["theory"] = ("depth", np.log(edges) / 2, {"long_name": "largest singular value, infinite width", **about})
    return s, data


def decades(data: xarray.Dataset, depth: int = -1) -> float:
    """Return log10 of the largest over the smallest value that is not 0, median over points, at the last depth."""
    return float(data.log_span[depth].median()) / math.log(10)


def growth(data: xarray.Dataset) -> tuple[float, float]:
    """Return by how many decades a block these values part, in either half of the network."""
    half = data.depth.size // 2
    return decades(data, half - 1) / half, (decades(data) - decades(data, half - 1)) / (data.depth.size - half)


def scale(data: xarray.Dataset) -> float:
    """Return by what factor the state before the last block is larger than the one before the first."""
    return float(data.state[-1] / data.state[0])


def describe(name: str, s: st.Spectrum, data: xarray.Dataset) -> str:
    """Return what was found of one model."""
    distance, rank = data.distance_from_identity.median("x"), data["rank"][-1]
    low, high = int(rank.min()), int(rank.max())
    if low == WIDTH:
        condition = f"rank {WIDTH}, condition number 10^{decades(data):.1f}"
    else:
        condition = f"rank {low if low == high else f'{low} to {high}'}, condition number infinite; the values that "
        condition += f"are not 0 span {decades(data):.1f} decades"
    first, second = growth(data)
    largest, kept = data.log_values[-1, :, 0].median(), int((data.naive[-1] > -np.inf).sum())
    theory = f", at infinite width 10^{float(data.theory[-1]) / math.log(10):.2f}" if "theory" in data else ""
    return "\n".join(
        [
            f"{LABELS[name]}: {s.depth} blocks, {s.layers[0]} to {s.layers[-1]}, a state of {WIDTH} numbers",
            f"  after the last: {condition} (over {data.x.size} points)",
            f"  the values part by {first:.3f} decades a block in the first half, {second:.3f} in the second; the "
            f"largest ends at 10^{float(largest) / math.log(10):.2f}{theory}",
            f"  distance of a block from the identity: {float(distance[0]):.2f} for the first, "
            f"{float(distance[-1]):.2f} for the last; the state becomes {scale(data):.2g} times as large",
            f"  {s.self_check}",
            f"  a product formed in float64 has {int(data.right[-1])} of {WIDTH} values right at one point, and "
            f"{kept} that are not 0, where there are {int(rank[0])}",
        ]
    )


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    depth, points = (16, 4) if settings.quick else (40, 12)
    groups = {}
    for name in LABELS:
        s, groups[name] = measure(name, depth, points, settings.seed)
        print(describe(name, s, groups[name]), flush=True)
    data = xarray.DataTree.from_dict(groups)
    data.attrs["seed"] = settings.seed
    paths = st.plots.save(draw(groups), data, settings.out, "your_model")

    resnet, transformer, tanh, relu = (groups[name] for name in LABELS)
    (near, nearer), (far, farther) = (
        [[float(data.distance_from_identity[i].median()) for i in (0, -1)] for data in pair]
        for pair in ((resnet, transformer), (tanh, relu))
    )
    finding = (
        f"Found: after {depth} blocks the singular values of the ResNet span {decades(resnet):.1f} decades, those of "
        f"the transformer {decades(transformer):.1f}, and those of the tanh MLP {decades(tanh):.1f}; of the ReLU MLP's "
        f"{float(relu['rank'][-1].median()):.0f} of {WIDTH} are left, over {decades(relu):.1f} decades, and the others "
        f"are exactly 0. From the first block to the last, the distance from the identity goes from {near[0]:.1f} to "
        f"{near[1]:.1f} in the ResNet and from {nearer[0]:.1f} to {nearer[1]:.1f} in the transformer, whose blocks add "
        f"to states that become {scale(resnet):.1f} and {scale(transformer):.1f} times as large; from {far[0]:.1f} to "
        f"{far[1]:.1f} and from {farther[0]:.1f} to {farther[1]:.1f} in the MLPs. Between the two halves, what a block "
        f"adds to the span goes from {growth(resnet)[0]:.2f} to {growth(resnet)[1]:.2f} decades in the ResNet, from "
        f"{growth(transformer)[0]:.2f} to {growth(transformer)[1]:.2f} in the transformer, and from "
        f"{growth(tanh)[0]:.2f} to {growth(tanh)[1]:.2f} in the tanh MLP. A "
        f"product formed in float64 has {int(resnet.right[-1])} and {int(transformer.right[-1])} values of {WIDTH} "
        f"right in the residual networks, and {int(tanh.right[-1])} and {int(relu.right[-1])} in the MLPs."
    )
    print("\n" + textwrap.fill(finding, 100))
    print("Written: " + ", ".join(str(path) for path in paths))


def draw(groups: dict[str, xarray.Dataset]) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    with mpl.rc_context(st.plots.STYLE):
        figure, axes = plt.subplots(2, 4, figsize=(11.5, 5.6), sharex=True, height_ratios=(1.6, 1))
        for column, (name, data) in enumerate(groups.items()):
            top, bottom = axes[:, column]
            st.plots.spectrum(data, top, colour=COLOURS[name])
            for line in top.lines[1:]:
                line.set_linewidth(0.5)
            top.set_title(LABELS[name], loc="left")
            top.set_xlabel("")
            draw_distance(data, bottom, COLOURS[name])
        draw_naive(groups["mlp_tanh"], groups["mlp_relu"], axes[0, 2], axes[0, 3])
        theory = groups["mlp_relu"].theory / math.log(10)
        axes[0, 3].plot(
            theory.depth, theory, ":", color="black", linewidth=1.3, zorder=5, label="largest value, theory"
        )
        for pair, room in ((axes[0, :2], 0), (axes[0, 2:], 0.15), (axes[1], 0)):  # room for a legend
            low, high = (f(ax.get_ylim()[i] for ax in pair) for i, f in enumerate((min, max)))
            for ax in pair:
                ax.set_ylim(low - room * (high - low), high)
            for ax in pair[1:]:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
        look = {"color": "#BBBBBB", "alpha": 0.45, "linewidth": 0}
        for ax, label in zip(axes[0, 2:], ("range of the panels on the left", None), strict=True):
            ax.axhspan(*axes[0, 0].get_ylim(), zorder=0, label=label, **look)
            ax.legend(loc="lower left")
    return figure


def draw_naive(tanh: xarray.Dataset, relu: xarray.Dataset, left: plt.Axes, right: plt.Axes) -> None:
    """Mark the smallest value of a naive product, and the largest that it has where the value is exactly 0."""
    first_zero = relu["rank"].isel(x=0).clip(max=WIDTH - 1)  # counted from 0
    shown = (
        (tanh.naive.isel(index=-1), left, "x", "smallest value, product in float64"),
        (relu.naive.isel(index=first_zero), right, "+", "an exact 0, product in float64"),
    )
    for values, ax, marker, label in shown:
        some = values[:: max(1, values.size // 20)].astype(float) / math.log(10)
        some = some[np.isfinite(some)]
        look = {"color": "#333333", "markeredgewidth": 0.9, "markersize": 3.5 if marker == "x" else 5}
        ax.plot(some.depth, some, linestyle="", marker=marker, zorder=4, label=label, **look)


def draw_distance(data: xarray.Dataset, ax: plt.Axes, colour: str) -> None:
    """Draw median and 5 to 95 % over points of the distance of every block from the identity."""
    low, middle, high = np.quantile(data.distance_from_identity, [0.05, 0.5, 0.95], axis=1)
    ax.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    ax.fill_between(data.depth, low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(data.depth, middle, color=colour, linewidth=1.5)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("depth")
    ax.set_ylabel("distance from identity")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
