"""What is wrong with a network of your own, and what helps? Four networks of 40 blocks, as a pattern to copy.

Question. A deep network does not train: which layer is it, and what would help? And how far do the singular values of
its Jacobian part, which is a product of as many matrices as there are blocks? Asked of a ResNet, a pre-norm
transformer and deep MLPs, all with a state of 96 numbers.

Method. Any torch module will do: put yours into `build`, what it takes into `points_of`, and your loss into `loss`.
`st.examine` runs it forward and backward, names what is wrong, and tries remedies on copies; `st.spectrum` takes all
singular values of every prefix of the blocks in the log domain, and checks them. Here: a pre-activation ResNet (batch
normalisation with the statistics of one pass over random images) and a pre-norm transformer with causal attention, both
initialised as torch does, and MLPs without biases, weights N(0, g^2 / n) with g = 1 for tanh and sqrt 2 for ReLU; for
ReLU also with g^2 = 1/3, the variance of torch's own initialisation. One network of each kind in eval mode, examined in
float32 with Adam, its spectrum in float64; what varies are the points. `st.naive_spectrum` is the product formed in
float64 and decomposed; a value of it is right if its log is off by less than 1e-9. Theory is the largest singular value
of a ReLU product for infinite width.

Reading. All singular values against depth, medians over points, paler for smaller ones, with bands from 5 to 95 %
around the first and the last. Mind the scales: the grey strip in c and d is all that a and b show. Values that are
exactly 0, which ReLU makes, are not drawn: the lines that end are values that become 0. Markers: what the naive product
makes of the smallest value for tanh, and of the zeros for ReLU, at one point. In each panel, what `st.examine` found;
the pages beside the figure tell more.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
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
COLOURS = dict(zip(DRAWN, ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True))
CHANNELS, SIDE = 6, 4
TOKENS, EMBEDDING, VOCABULARY = 6, 16, 64
WIDTH = 96  # of every state: 6 channels of 4 x 4, 6 tokens of 16 numbers, 96 units
BEHIND = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}


@dataclass(frozen=True)
class Settings(study.Settings):
    """A ResNet, a transformer and two MLPs, defined here as you would define yours."""

    depth: int = 40
    """Blocks of every network."""
    points: int = 12
    """Points at which the spectrum is taken."""
    examined: int = 32
    """Points with which the networks are examined."""


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
            model = MLP(depth, nn.ReLU, gain=math.sqrt(2 if name == "mlp_relu" else 1 / 3))
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


def examined(name: str, settings: Settings) -> st.Report:
    """Return what is wrong with a model in float32, as it would be trained: this is all."""
    model = build(name, settings.depth, settings.seed).float()
    x = points_of(name, settings.examined, settings.seed)
    x = x.float() if x.is_floating_point() else x
    return st.examine(model, x, loss, optimizer=torch.optim.Adam(model.parameters()), budget=120.0)


def measured(name: str, settings: Settings) -> xarray.Dataset:
    """Return the report and the spectrum of a model, with what the figure needs besides."""
    model, x = build(name, settings.depth, settings.seed), points_of(name, settings.points, settings.seed)
    s = st.spectrum(model, x, layers="blocks", progress=False)  # and this
    assert s.self_check is not None
    naive, true = st.naive_spectrum(model, x[:1], layers="blocks")[:, 0, 0], s.log_values[:, 0, 0]
    right = ((naive == true) | ((naive - true).abs() < 1e-9)).sum(1)
    edges = np.full(s.depth, np.nan)
    if name.startswith("mlp_relu"):
        edges[:] = [st.theory.largest_squared_singular_value(depth, "relu") for depth in range(1, s.depth + 1)]
    data = s.to_dataset().isel(seed=0, drop=True)
    # Seven digits are enough for a figure and halve the file.
    data["log_values"] = data.log_values.astype(np.float32)
    data["rank"] = (("depth", "x"), s.ranks[:, 0], {"long_name": "singular values that are not exactly 0"})
    data["naive"] = (("depth", "index"), naive.float(), {"long_name": "product formed in float64, first point"})
    data["right"] = ("depth", right, {"long_name": "values of that product within 1e-9 in the log"})
    data["theory"] = ("depth", np.log(edges) / 2, {"long_name": "log of the largest value at infinite width"})
    data["passed"] = ("x", s.self_check.passed[0], {"long_name": "self-check passed"})
    with tempfile.TemporaryDirectory() as folder:
        data["report"] = examined(name, settings).to_json(Path(folder) / "report.json").read_text()
    return data


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    return parts.cells(measured, settings, network=list(LABELS))


def report_of(one: xarray.Dataset) -> st.Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        path.write_text(one.report.item())
        return st.Report.from_json(path)


def write_pages(data: xarray.Dataset, folder: Path) -> list[Path]:
    """Print the reports, and write a page of each."""
    reports = {name: report_of(data.sel(network=name)) for name in data.network.values}
    for name, report in reports.items():
        print(f"{LABELS[name]}: {report}\n")
    return [report.to_html(folder / f"your_model_{name}.html") for name, report in reports.items()]


def spans(one: xarray.Dataset) -> np.ndarray:
    """Return log10 of the largest over the smallest value that is not 0 after the last block: least, middle, most."""
    last = one.log_values[-1].where(np.isfinite(one.log_values[-1]))
    return (last.max("index") - last.min("index")).quantile([0, 0.5, 1]).to_numpy() / math.log(10)


def verdict_of(report: st.Report) -> str:
    """Say in a few words what is worst."""
    if report.healthy:
        return "nothing broken or harmful"
    worst = report.findings[0]
    return f"{worst.severity}: {worst.code}" + (f" in {worst.layer}" if worst.layer else "")


def claims(data: xarray.Dataset) -> list[study.Claim]:
    each = {name: data.sel(network=name) for name in DRAWN}
    residual, plain = DRAWN[:2], DRAWN[2:]
    apart = max(spans(each[name])[2] for name in residual) < min(spans(each[name])[0] for name in plain)
    near = {name: float(one.distance_from_identity[-1].median()) for name, one in each.items()}
    relu = each["mlp_relu"]
    ends, expected = relu.log_values[-1, :, 0].quantile([0.05, 0.95]).to_numpy(), float(relu.theory[-1])
    right = {name: int(one.right[-1]) for name, one in each.items()}
    stated = [
        study.Claim(
            "Unless each layer is close to the identity the values diverge or vanish",
            "Peng 2017",
            "; ".join(
                "{0} {2:.1f} decades ({1:.1f} to {3:.1f} over {4} points), last block {5:.1f} from the identity".format(
                    LABELS[name], *spans(one), one.x.size, near[name]
                )
                for name, one in each.items()
            ),
            "held" if apart and max(near[n] for n in residual) < 1 < min(near[n] for n in plain) else "refuted",
        ),
        study.Claim(
            "A product formed in float64 and decomposed gives its singular values",
            "common practice",
            f"of {WIDTH} values are right " + ", ".join(f"{right[name]} ({LABELS[name]})" for name in DRAWN),
            "held" if min(right.values()) == WIDTH else "refuted",
        ),
        study.Claim(
            "The largest value of a ReLU product is that of infinite width",
            "theory",
            f"10^{ends[0] / math.log(10):.2f} to 10^{ends[1] / math.log(10):.2f} (5 to 95 % of points) after "
            f"{data.depth.size} blocks, 10^{expected / math.log(10):.2f} at infinite width",
            "held" if ends[0] <= expected <= ends[1] else "refined",
        ),
    ]
    for name in LABELS:
        report = report_of(data.sel(network=name))
        helps = [
            f"; helps: {one.tried.remedy} ({one.tried.quantity}: {one.tried.before:.2g}, then {one.tried.after:.2g})"
            for one in report.findings
            if one.tried
        ]
        statement = f"{LABELS[name]}, {data.depth.size} blocks: signal and gradient get through in float32"
        said = "".join([verdict_of(report), *helps[:1]])
        stated.append(study.Claim(statement, "common practice", said, "held" if report.healthy else "refuted"))
    return stated


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.6, sharex=True)
    each = {name: data.sel(network=name) for name in DRAWN}
    for ax, (name, one) in zip(axes.values(), each.items(), strict=True):
        st.plots.spectrum(one, ax, colour=COLOURS[name])
        for line in ax.lines[1:]:
            line.set_linewidth(0.4)
        ax.set_title(LABELS[name])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        words = f"{spans(one)[1]:.1f} decades, {int(one['rank'][-1].median())} of {WIDTH} values not 0"
        words += f"\nst.examine: {verdict_of(report_of(one))}"
        ax.text(0.02, 0.02, words, transform=ax.transAxes, fontsize=7, va="bottom", zorder=6)
    draw_naive(each["mlp_tanh"], each["mlp_relu"], axes["c"], axes["d"])
    theory = each["mlp_relu"].theory / math.log(10)
    axes["d"].plot(theory.depth, theory, ":", color="black", zorder=5)
    note(axes["d"], theory, "largest value, theory", 3)
    for pair in (("a", "b"), ("c", "d")):
        low, high = (f(axes[letter].get_ylim()[i] for letter in pair) for i, f in enumerate((min, max)))
        for letter in pair:
            axes[letter].set_ylim(low - 0.12 * (high - low), high + 0.05 * (high - low))  # room for words
    for letters, clear in (("bd", "ylabel"), ("ab", "xlabel")):
        for letter in letters:
            axes[letter].set(**{clear: ""})
    for ax in (axes["c"], axes["d"]):
        ax.axhspan(*axes["a"].get_ylim(), zorder=0, color="#BBBBBB", alpha=0.45, linewidth=0)
    residual = sorted(spans(each[name])[1] for name in DRAWN[:2])
    st.plots.headline(
        figure,
        f"After {data.depth.size} blocks the singular values of residual networks span {residual[0]:.0f} to "
        f"{residual[1]:.0f} decades, those of a tanh MLP {spans(each['mlp_tanh'])[1]:.0f}, of which a product formed "
        f"in float64 has {int(each['mlp_tanh'].right[-1])} of {WIDTH} right.",
    )
    return figure


def draw_naive(tanh: xarray.Dataset, relu: xarray.Dataset, left: Axes, right: Axes) -> None:
    """Mark the smallest value of a naive product, and the largest that it has where the value is exactly 0."""
    first_zero = relu["rank"].isel(x=0).astype(int).clip(max=WIDTH - 1)  # counted from 0
    shown = (
        (tanh.naive.isel(index=-1), left, "x", "smallest value, product in float64"),
        (relu.naive.isel(index=first_zero), right, "+", "an exact 0, product in float64"),
    )
    for values, ax, marker, label in shown:
        some = values[:: max(1, values.size // 20)].astype(float) / math.log(10)
        some = some[np.isfinite(some)]
        look = {"color": "#333333", "markeredgewidth": 0.9, "markersize": 3.5 if marker == "x" else 5}
        ax.plot(some.depth, some, linestyle="", marker=marker, zorder=4, **look)
        if some.size:
            note(ax, some, label, -5)


def note(ax: Axes, values: xarray.DataArray, words: str, above: float) -> None:
    """Write words so many points above the end of a line, or below."""
    place = {"xy": (float(values.depth[-1]), float(values[-1])), "xytext": (0, above), "textcoords": "offset points"}
    ax.annotate(words, **place, ha="right", va="bottom" if above > 0 else "top", fontsize=7, bbox=BEHIND)


if __name__ == "__main__":
    study.main(Settings(), Settings(depth=16, points=4), measure, draw, claims, write_pages)
