"""What is wrong with a network of your own, and what helps? Five networks of 40 blocks, as a pattern to copy.

Question. A deep network does not train: which layer is it, and what would help? And how far do the singular values of
its Jacobian part, a product of as many matrices as there are blocks? Asked of a ResNet, a pre-norm transformer and deep
MLPs, all with a state of 96 numbers.

Method. Any torch module will do: put yours into `build`, what it takes into `points_of`, and your loss into `loss`.
`st.examine` runs it forward and backward in float32, names what is wrong, and tries remedies on copies; `st.spectrum`
takes all singular values of every prefix of the blocks in the log domain, and checks them. Here: a pre-activation
ResNet (batch normalisation with the statistics of one pass over random images) and a pre-norm transformer with causal
attention, both initialised as torch does, and MLPs without biases, weights N(0, g^2 / n) with g = 1 for tanh and sqrt 2
for ReLU; for ReLU also with g^2 = 1/3, torch's own variance. There is one network of each kind; what varies are the
points. A value of `st.naive_spectrum`, the product formed in float64 and decomposed, is right if its log is off by less
than 1e-9. Theory is the largest singular value of a ReLU product for infinite width.

Reading. All singular values against depth, medians over points, paler for smaller ones, with bands from 5 to 95 %
around the first and the last; the grey strip in c and d is all that a and b show. A line ends where its value becomes
exactly 0, as ReLU makes it. Markers: what the naive product makes of the smallest value for tanh, and of the first
exact zero for ReLU, at one point. In each panel, what `st.examine` found; the pages beside the figure tell more.
"""

from __future__ import annotations

import math
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import stability as st
import study

LABELS = {
    "resnet": "ResNet",
    "transformer": "pre-norm transformer",
    "mlp_tanh": "deep MLP, tanh",
    "mlp_relu": "deep MLP, ReLU",
    "mlp_torch": "deep MLP, ReLU, with torch's variance",
}
#: The last one is examined, and not drawn.
DRAWN = tuple(LABELS)[:4]
RESIDUAL, PLAIN = DRAWN[:2], DRAWN[2:]
COLOURS = dict(zip(DRAWN, ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True))
CHANNELS, SIDE = 6, 4
TOKENS, EMBEDDING, VOCABULARY = 6, 16, 64
DECADE = math.log(10)
WIDTH = 96  # of every state: 6 channels of 4 x 4, 6 tokens of 16 numbers, 96 units


@dataclass(frozen=True)
class Settings(study.Settings):
    depth: int = 40  # Blocks of every network.
    points: int = 6  # Points at which the spectrum is taken.
    examined: int = 32  # Points with which the networks are examined.


class ConvolutionBlock(nn.Module):
    """h + conv(relu(norm(conv(relu(norm(h)))))), He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):  # momentum=None: the statistics are plain averages of what is seen in train mode
            layers += [nn.BatchNorm2d(channels, momentum=None), nn.ReLU()]
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
        self.branch = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class ResNet(nn.Sequential):
    """A stem, blocks of 6 channels of 4 x 4 numbers, and a head."""

    def __init__(self, depth: int) -> None:
        stem = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        blocks = nn.Sequential(*[ConvolutionBlock(CHANNELS) for _ in range(depth)])
        super().__init__(OrderedDict(stem=stem, blocks=blocks, flatten=nn.Flatten(), head=nn.Linear(WIDTH, 10)))


class Transformer(nn.Module):
    """Tokens and their places embedded in 16 numbers each, pre-norm blocks in which a token sees those before it."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, EMBEDDING), nn.Embedding(TOKENS, EMBEDDING)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        blocks = [nn.TransformerEncoderLayer(EMBEDDING, 2, 4 * EMBEDDING, **options) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(nn.LayerNorm(EMBEDDING), nn.Linear(EMBEDDING, VOCABULARY))
        self.register_buffer("mask", torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.token(tokens) + self.place.weight
        for block in self.blocks:
            h = block(h, src_mask=self.mask)
        return self.head(h)


class MLP(nn.Sequential):
    """Layers of 96 units without biases, weights N(0, gain^2 / 96), and a head."""

    def __init__(self, depth: int, activation: type[nn.Module], gain: float) -> None:
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), activation()) for _ in range(depth)]
        for layer in layers:
            nn.init.normal_(layer[0].weight, std=gain / math.sqrt(WIDTH))
        super().__init__(OrderedDict(blocks=nn.Sequential(*layers), head=nn.Linear(WIDTH, 1)))


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
        else:
            gain = {"mlp_tanh": 1.0, "mlp_relu": math.sqrt(2), "mlp_torch": math.sqrt(1 / 3)}[name]
            model = MLP(depth, nn.Tanh if name == "mlp_tanh" else nn.ReLU, gain)
    return model.double().eval()


def points_of(name: str, count: int, seed: int) -> Tensor:
    """Return random images, sequences of tokens or vectors, whichever the model takes."""
    generator = torch.Generator().manual_seed(seed + 1)
    if name == "transformer":
        return torch.randint(VOCABULARY, (count, TOKENS), generator=generator)
    shape = (3, 2 * SIDE, 2 * SIDE) if name == "resnet" else (WIDTH,)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def loss(output: Tensor) -> Tensor:
    """Return what is minimised: any function of what the model returns. Here all targets are 0."""
    return output.square().mean()


def examined(name: str, settings: Settings) -> str:
    """Return what is wrong with a model in float32, as it would be trained, in JSON."""
    model, x = build(name, settings.depth, settings.seed).float(), points_of(name, settings.examined, settings.seed)
    x = x.float() if x.is_floating_point() else x
    report = st.examine(model, x, loss, optimizer=torch.optim.Adam(model.parameters()), budget=60.0)  # this is all
    with tempfile.TemporaryDirectory() as folder:
        return report.to_json(Path(folder) / "report.json").read_text()


def measured(name: str, settings: Settings) -> xarray.Dataset:
    model, x = build(name, settings.depth, settings.seed), points_of(name, settings.points, settings.seed)
    s = st.spectrum(model, x, layers="blocks", progress=False)  # and this
    naive, true = st.naive_spectrum(model, x[:1], layers="blocks")[:, 0, 0], s.log_values[:, 0, 0]
    right = ((naive == true) | ((naive - true).abs() < 1e-9)).sum(1)
    edges = [st.theory.largest_squared_singular_value(depth, "relu") for depth in range(1, s.depth + 1)]
    data = s.to_dataset().isel(seed=0, drop=True)
    # Seven digits are enough for a figure and halve the file.
    data["log_values"] = data.log_values.astype(np.float32)
    data["rank"] = (("depth", "x"), s.ranks[:, 0], {"long_name": "singular values that are not exactly 0"})
    data["naive"] = (("depth", "index"), naive.float(), {"long_name": "product formed in float64, first point"})
    data["right"] = ("depth", right, {"long_name": "values of that product within 1e-9 in the log"})
    data["theory"] = ("depth", np.log(edges) / 2, {"long_name": "log of the largest value, ReLU at infinite width"})
    data["passed"] = ("x", s.self_check.passed[0], {"long_name": "self-check passed"})
    return data.assign(report=examined(name, settings))


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    return parts.cells(measured, settings, network=list(LABELS))


def report_of(one: xarray.Dataset) -> st.Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        path.write_text(one.report.item())
        return st.Report.from_json(path)


def write_pages(data: xarray.Dataset, folder: Path) -> list[Path]:
    reports = {name: report_of(data.sel(network=name)) for name in data.network.values}
    for name, report in reports.items():
        print(f"{LABELS[name]}: {report}\n")
    return [report.to_html(folder / f"your_model_{name}.html") for name, report in reports.items()]


def spans(one: xarray.Dataset) -> np.ndarray:
    """Return log10 of the largest over the smallest value that is not 0 after the last block: least, middle, most."""
    last = one.log_values[-1].where(np.isfinite(one.log_values[-1]))
    return (last.max("index") - last.min("index")).quantile([0, 0.5, 1]).to_numpy() / DECADE


def verdict_of(report: st.Report) -> str:
    worst = "" if report.healthy else report.findings[0]
    where = f" in {worst.layer}" if worst and worst.layer else ""
    return f"{worst.severity}: {worst.code}{where}" if worst else "nothing broken or harmful"


def claims(data: xarray.Dataset) -> list[study.Row]:
    each = {name: data.sel(network=name) for name in DRAWN}
    near = {name: float(one.distance_from_identity[-1].median()) for name, one in each.items()}
    span = {name: spans(one) for name, one in each.items()}
    apart = max(span[name][2] for name in RESIDUAL) < min(span[name][0] for name in PLAIN)
    closer = max(near[name] for name in RESIDUAL) < 1 < min(near[name] for name in PLAIN)
    shown = "{} {:.1f} decades ({:.1f} to {:.1f} over points), last block {:.1f} from the identity"
    words = "; ".join(shown.format(LABELS[name], *span[name][[1, 0, 2]], near[name]) for name in DRAWN)
    largest, expected = each["mlp_relu"].log_values[-1, :, 0], float(each["mlp_relu"].theory[-1]) / DECADE
    low, high = largest.quantile([0.05, 0.95]).to_numpy() / DECADE
    edge = f"10^{low:.2f} to 10^{high:.2f} (5 to 95 % of points) after {data.depth.size} blocks, 10^{expected:.2f} at "
    edge += "infinite width"
    right = {LABELS[name]: int(one.right[-1]) for name, one in each.items()}
    formed = f"of {WIDTH} values are right " + ", ".join(f"{count} ({name})" for name, count in right.items())
    exact, practice = min(right.values()) == WIDTH, "common practice"
    limit = "held" if low <= expected <= high else "refined"
    rows: list[study.Row] = [
        ("Unless each layer is close to the identity the values diverge or vanish", "Peng 2017", words, apart & closer),
        ("A product formed in float64 and decomposed gives its singular values", practice, formed, exact),
        ("The largest value of a ReLU product is that of infinite width", "theory", edge, limit),
    ]
    for name, label in LABELS.items():
        report = report_of(data.sel(network=name))
        said = verdict_of(report)
        for one in [finding.tried for finding in report.findings if finding.tried][:1]:
            said += f"; helps: {one.remedy} ({one.quantity}: {one.before:.2g}, then {one.after:.2g})"
        statement = f"{label}, {data.depth.size} blocks: signal and gradient get through in float32"
        rows.append((statement, practice, said, report.healthy))
    return rows


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.6, sharex=True)
    each = {name: data.sel(network=name) for name in DRAWN}
    for ax, (name, one) in zip(axes.values(), each.items(), strict=True):
        st.plots.spectrum(one, ax, colour=COLOURS[name])
        for line in ax.lines[1:]:
            line.set_linewidth(0.4)
        words = f"{spans(one)[1]:.1f} decades, {int(one['rank'][-1].median())} of {WIDTH} values not 0"
        words += f"\nst.examine: {verdict_of(report_of(one))}"
        ax.text(0.02, 0.02, words, transform=ax.transAxes, fontsize=7, va="bottom", zorder=6)
        ax.set(title=LABELS[name])
        ax.label_outer()
    for pair in ("ab", "cd"):
        low, high = (f(axes[letter].get_ylim()[i] for letter in pair) for i, f in enumerate((min, max)))
        for letter in pair:
            axes[letter].set_ylim(low - 0.12 * (high - low), high + 0.08 * (high - low))  # room for words
    tanh, relu = each["mlp_tanh"], each["mlp_relu"]
    first_zero = relu["rank"].isel(x=0).astype(int).clip(max=WIDTH - 1)  # counted from 0
    mark(axes["c"], tanh.naive.isel(index=-1), "x", "smallest value, product in float64")
    mark(axes["d"], relu.naive.isel(index=first_zero), "+", "an exact 0, product in float64")
    axes["d"].plot(data.depth, relu.theory / DECADE, ":", color="black", zorder=5)
    axes["d"].text(data.depth[-1], 3, "largest value, theory", ha="right", va="bottom", fontsize=7)
    for letter in "cd":
        axes[letter].axhspan(*axes["a"].get_ylim(), zorder=0, color="#BBBBBB", alpha=0.45, linewidth=0)
    low, high = sorted(spans(each[name])[1] for name in RESIDUAL)
    words = f"After {data.depth.size} blocks the singular values of residual networks span {low:.0f} to {high:.0f} "
    words += f"decades, those of a tanh MLP {spans(tanh)[1]:.0f}. A product formed in float64 has "
    return st.plots.headline(figure, f"{words}{int(tanh.right[-1])} of these {WIDTH} right.")


def mark(ax: Axes, values: xarray.DataArray, marker: str, words: str) -> None:
    some = values[:: max(1, values.size // 20)].astype(float) / DECADE
    some = some[np.isfinite(some)]
    ax.plot(some.depth, some, marker, color="#333333", markersize=4, markeredgewidth=0.9, zorder=4)
    box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    for last in some[-1:]:
        below = {"xytext": (0, -5), "textcoords": "offset points"}
        ax.annotate(words, (last.depth, last), **below, ha="right", va="top", fontsize=7, bbox=box)


if __name__ == "__main__":
    study.main(Settings(), Settings(depth=16, points=4, examined=8), measure, draw, claims, write_pages)
