"""Why does the plain PReLU chain fail where the residual one does not?

Question. Both chains fold with PReLU. A plain step is h <- prelu(W h + b), a residual one
h <- h + Wb prelu(Wa h + ba) + bb. What becomes of the singular values of dh_l/dx, the product of l layer Jacobians, at
width 1 (one number, |J|) and at width 16, freshly initialised by every named scheme, and trained on sin(x)?

Method. At width 1 |J| is summed in logarithms with a state that cannot leave the floating range; at width 16 all
singular values of every prefix are taken in the log domain, and checked. At width 1 with torch's initialisation the
derivatives of successive steps are independent and equally distributed (the sign of the pre-activation is a fair coin,
whatever the state), so log |J| is a random walk of mean l E log|g|. At width 16 with Gaussian or orthogonal weights and
no biases, the mean of all 16 exponents is E log|det W| / 16 + log(slope) / 2. The naive product is formed in float64
and decomposed.

Reading. First figure. a, b: width 1, fresh and trained: log10 |J| against depth, median, 25-75 % and 5-95 % over seeds
and points; dotted is theory. c: width 16, fresh: medians of all 16 singular values, paler for smaller ones. d: one
plain chain of width 16; lines are its singular values, crosses what the naive product makes of them. Second figure. a,
b: the growth a layer by initialisation, median and 5-95 % over seeds, at width 1 and for each of 16 values; black ticks
are theory, for the mean of the values. c: the share of products of the fresh chains that round to 0 in float32 (solid)
and in float64 (dashed). d: distributions of the growth a layer of the trained chains, bolder for deeper prefixes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

PLAIN, IDENTITY, RESIDUAL = "plain", "identity start", "residual"
CHAINS = {
    PLAIN: ("plain_prelu", "pytorch", st.plots.colour("plain_prelu")),
    IDENTITY: ("plain_prelu", "identity", "#CC79A7"),
    RESIDUAL: ("residual2_prelu", "pytorch", st.plots.colour("residual2_prelu")),
}
COLOURS = {name: shade for name, (_, _, shade) in CHAINS.items()}
PAIR = (PLAIN, RESIDUAL)
TASK = st.Task(torch.sin, (-3, 3), points=128)
POINTS = torch.linspace(-3, 3, 5, dtype=torch.float64)
WIDE = 16
ONES = torch.ones(1, WIDE, dtype=torch.float64)
SLOPE = 0.25  # of PReLU, as every scheme but the identity starts it
FORMATS = ("float32", "float64")
DECADE = math.log(10)
#: A z beyond this is no chance.
BAND = 4.0


@dataclass(frozen=True)
class Settings(study.Settings):
    depth: int = 1000  # Steps of the fresh chains of width 1.
    seeds: int = 200  # How many of these; half of them are trained.
    trained_depth: int = 100  # Steps of the trained chains.
    iterations: int = 2000  # Of Adam.
    wide_depth: int = 300  # Steps at width 16.
    wide_seeds: int = 20  # Chains of width 16.


def summary(s: st.Spectrum, kept: list[int]) -> xarray.Dataset:
    """Return the values at some depths, and at all of them the share of products that are 0 in a format."""
    shares = [(s.vanished | s.underflows(getattr(torch, name))).flatten(1).double().mean(1) for name in FORMATS]
    data = s.to_dataset()[["log_values"]].sel(depth=kept)
    data["lost"] = (("format", "step"), torch.stack(shares).numpy(), {"long_name": "share that is 0 in the format"})
    # Seven digits are enough for a figure and halve the file.
    return data.astype(np.float32).assign_coords(format=list(FORMATS), step=np.arange(1, s.depth + 1))


def chain_of(name: str, depth: int, seeds: int, settings: Settings, width: int = 1) -> st.Chain:
    architecture, init, _ = CHAINS[name]
    return st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=settings.seed)


def fresh(name: str, settings: Settings) -> xarray.Dataset:
    s = st.spectrum(chain_of(name, settings.depth, settings.seeds, settings), POINTS, progress=False)
    data = summary(s, [1, *np.linspace(0, settings.depth, 26).astype(int)[1:].tolist()])
    return data.assign(predicted=predict(*CHAINS[name][:2], 1, settings.depth))


def trained(name: str, settings: Settings) -> xarray.Dataset:
    chain = chain_of(name, settings.trained_depth, settings.seeds // 2, settings)
    history = st.train(chain, TASK, iterations=settings.iterations, progress=False)
    data = summary(st.spectrum(chain, POINTS, progress=False), [1, *range(5, chain.depth + 1, 5)])
    return data.assign(loss=("seed", history.best_loss.numpy()))


def wide(name: str, settings: Settings) -> xarray.Dataset:
    chain = chain_of(name, settings.wide_depth, settings.wide_seeds, settings, WIDE)
    s = st.spectrum(chain, ONES, progress=False)
    return summary(s, [1, *range(10, chain.depth + 1, 10)]).assign(checked=bool(s.self_check.passed.all()))


def growth(width: int, architecture: str, init: str, settings: Settings) -> xarray.Dataset:
    """Return the growth a layer of every singular value, NaN where a scheme does not exist for an architecture."""
    depth, seeds = (settings.depth, settings.seeds) if width == 1 else (settings.wide_depth, settings.wide_seeds)
    found, predicted = np.full((seeds, width), np.nan), np.nan
    try:
        chain = st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=settings.seed)
    except ValueError:
        pass
    else:
        s = st.spectrum(chain, ONES[0, :1] if width == 1 else ONES, check=False, distances=False, progress=False)
        found, predicted = s.finite_time_exponents[-1, :, 0].numpy(), predict(architecture, init, width, depth)
    return xarray.Dataset({"exponent": (("seed", "index"), found), "predicted": predicted})


def predict(architecture: str, init: str, width: int, depth: int) -> float:
    """Return E log|g| a layer (at width 16 the mean over all exponents), NaN where nothing is derived here."""
    if width == 1:
        exponent = st.theory.lyapunov_exponent(architecture, init, sign=1)  # the sign matters for the identity alone
        return float(exponent.value(**{s.name: depth for s in exponent.symbols if s.name == "depth"}))
    if init == "identity":
        return 0.0
    gain, fold = math.sqrt(2 / (1 + SLOPE**2)), math.log(SLOPE) / 2
    newman = st.theory.gaussian_exponents(width, gain / math.sqrt(width))
    logs = {"he": newman.mean() + fold, "orthogonal": math.log(gain) + fold}
    return logs.get(init, np.nan) if architecture == "plain_prelu" else np.nan


def naive(settings: Settings) -> xarray.Dataset:
    """Return log10 singular values of one plain chain of width 16, true and by a product formed in float64."""
    chain = chain_of(PLAIN, min(settings.wide_depth, 120), 1, settings, WIDE)
    s = st.spectrum(chain, ONES, progress=False)
    both = {"true": s.log_values[:, 0, 0], "naive": st.naive_spectrum(chain, ONES)[:, 0, 0]}
    coords = {"depth": np.arange(1, chain.depth + 1), "index": np.arange(1, WIDE + 1)}
    data = xarray.Dataset({name: (("depth", "index"), one.numpy() / DECADE) for name, one in both.items()}, coords)
    return data.assign(checked=bool(s.self_check.passed.all()))


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    schemes = {"architecture": [CHAINS[name][0] for name in PAIR], "init": list(st.INITS)}
    groups = {
        "fresh": parts.cells(fresh, settings, chain=PAIR),
        "trained": parts.cells(trained, settings, chain=list(CHAINS)),
        "wide": parts.cells(wide, settings, chain=PAIR),
        "growth_1": parts.cells(growth, settings, width=[1], **schemes).squeeze("width"),
        "growth_16": parts.cells(growth, settings, width=[WIDE], **schemes).squeeze("width"),
        "naive": parts.part("naive", naive, settings),
    }
    references = {"constant": st.references.constant(TASK), "monotone": st.references.best_monotone(TASK)}
    return xarray.DataTree.from_dict(groups | {"/": xarray.Dataset(attrs=references)})


def last(data: xarray.DataTree, group: str, chain: str) -> np.ndarray:
    """Return log10 of the values after the last step of a kind of chain, (seeds, points, index)."""
    return data[group].log_values.sel(chain=chain).isel(depth=-1).to_numpy().astype(float) / DECADE


def power(values: np.ndarray) -> str:
    return "10^{1:.1f} (10^{0:.1f} to 10^{2:.1f})".format(*study.levels(values))


def stopped_by_monotony(data: xarray.DataTree) -> bool:
    """Whether plain chains die from torch's initialisation, and from the identity end as a monotone function must."""
    plain, near = (float(data["trained"].loss.sel(chain=name).median()) for name in (PLAIN, IDENTITY))
    return plain > 0.99 * data.attrs["constant"] and near < 1.05 * data.attrs["monotone"]


def claims(data: xarray.DataTree) -> list[study.Row]:
    practice, trained, wide, naive = "common practice", *(data[k].to_dataset() for k in ("trained", "wide", "naive"))
    losses = {name: trained.loss.sel(chain=name) for name in CHAINS}
    keeps = ", ".join(f"{k}: median {float(v.median()):.2g}, best {float(v.min()):.2g}" for k, v in losses.items())
    keeps = f"mean-squared error, {keeps}; the best constant {data.attrs['constant']:.3g}, the best monotone function "
    keeps += f"{data.attrs['monotone']:.3g}"
    spans = {name: last(data, "wide", name)[..., 0] - last(data, "wide", name)[..., -1] for name in PAIR}
    parts = "; ".join(f"{name}: largest over smallest {power(span)}" for name, span in spans.items())
    parts += f"; self-checks passed: {bool(wide.checked.all() and naive.checked)}"
    together = f"A residual chain keeps the {WIDE} singular values of its product together, a plain one does not"
    close = spans[RESIDUAL].max() < 0.1 * spans[PLAIN].min()
    right = (abs(naive.naive - naive.true) < 1e-9 / DECADE).sum("index")
    half = right.depth[right < WIDE / 2]
    formed = f"{int(right[-1])} of {WIDE} values of one plain chain are right at depth {int(right.depth[-1])}"
    formed += f", fewer than half from depth {int(half[0])}" if half.size else ""
    exact, stopped = int(right.min()) == WIDE, "refined" if stopped_by_monotony(data) else "held"
    return [
        *(of_formats(data, group, name) for group in ("fresh", "trained") for name in data[group].chain.values),
        *(of_growth(data[f"growth_{width}"].to_dataset()) for width in (1, WIDE)),
        ("The vanishing derivative is what keeps the plain chain from fitting sin(x)", practice, keeps, stopped),
        (together, practice, parts, close),
        ("A product formed in float64 and decomposed gives its singular values", practice, formed, exact),
    ]


def of_formats(data: xarray.DataTree, group: str, name: str) -> study.Row:
    lost, logs = data[group].lost.sel(chain=name), last(data, group, name)
    words = f"median |J| {power(logs)}, {100 * np.isneginf(logs).mean():.1f} % exactly 0"
    for form in lost:
        half = form.step[form >= 0.5]
        since = f" (half from depth {int(half[0])})" if half.size else ""
        words += f", {100 * float(form[-1]):.1f} % 0 in {form.format.item()}{since}"
    statement = f"{name}, {group}: float32 and float64 hold |J| of {lost.step.size} layers"
    return statement, "common practice", words, ("held", "refined", "refuted")[int((lost[:, -1] > 0).sum())]


def of_growth(data: xarray.Dataset) -> study.Row:
    """Whether values grow as theory says, where it says something and chance has a part in it."""
    means = data.exponent.mean("index")
    error = means.std("seed", ddof=1) / math.sqrt(means.seed.size)
    z = ((means.mean("seed") - data.predicted) / error.where(error > 1e-12)).stack(scheme=("architecture", "init"))
    z = z.dropna("scheme")
    worst = z[int(np.argmax(np.abs(z.to_numpy())))]
    at = ", ".join(worst.scheme.item())
    words = f"the largest z of {z.size} pairs of chain and initialisation is {float(worst):+.1f} ({at})"
    statement = f"The mean growth a layer at width {data.index.size} is what theory says"
    return statement, "theory", words, bool(abs(worst) < BAND)


def draw(data: xarray.DataTree) -> dict[str, Figure]:
    return {"": draw_products(data), "growth": draw_growths(data)}


def draw_products(data: xarray.DataTree) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    titles = {"fresh": "width 1, fresh", "trained": r"width 1, trained on $\sin x$", "wide": f"width {WIDE}, fresh"}
    for ax, (group, title) in zip(axes.values(), titles.items(), strict=False):
        one = data[group].to_dataset()
        for name in one.chain.values:
            st.plots.spectrum(one.sel(chain=name), ax, colour=COLOURS[name])
        for line in one.predicted * one.depth / DECADE if "predicted" in one else []:
            ax.plot(one.depth, line, ":", color="black", zorder=5)
        ax.set(title=title, xlim=(0, int(one.depth[-1])))
        ends = {name: float(np.median(last(data, group, name))) for name in one.chain.values}
        st.plots.end_labels(ax, ends, {name: COLOURS[name] for name in ends})
    axes["a"].text(0.05, 0.05, "dotted: theory", transform=axes["a"].transAxes, fontsize=7)
    axes["b"].set_ylabel("")
    draw_naive(data["naive"].to_dataset(), axes["d"])
    plain, residual = (np.median(last(data, "fresh", name)) for name in PAIR)
    rest = "; started at the identity the plain one trains, and stops where a monotone function must"
    return st.plots.headline(
        figure,
        f"After {int(data['fresh']['depth'][-1])} layers the derivative of a plain PReLU chain is "
        f"$10^{{{plain:.0f}}}$, that of a residual one $10^{{{residual:.0f}}}$"
        + (f"{rest}." if stopped_by_monotony(data) else "."),
    )


def draw_naive(data: xarray.Dataset, ax: Axes) -> None:
    for index in data.index.values[::3]:
        one = data.sel(index=index)
        ax.plot(data.depth, one.true, color=COLOURS[PLAIN], alpha=1 - 0.6 * (index - 1) / data.index.size)
        some = one.isel(depth=slice(None, None, max(1, data.depth.size // 24)))
        ax.plot(some.depth, some.naive.where(np.isfinite(some.naive)), "x", color="#555555", markersize=3)
    ax.set(title=f"one plain chain of width {WIDE}", xlabel="depth", ylabel=r"$\log_{10}$ singular values")
    ax.set_xlim(0, data.depth.size + 1)
    ends = {"product\nin float64": float(data.naive[-1, -1]), "in the\nlog domain": float(data.true[-1, -1])}
    st.plots.end_labels(ax, ends, dict(zip(ends, ("#555555", COLOURS[PLAIN]), strict=True)))


def draw_growths(data: xarray.DataTree) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    draw_growth(data["growth_1"].to_dataset(), axes["a"])
    draw_growth(data["growth_16"].to_dataset(), axes["b"])
    lost, trained = data["fresh"].lost, data["trained"].to_dataset()
    for line in lost.stack(line=("chain", "format")).transpose("line", ...):
        name, form = line.line.item()
        axes["c"].plot(line.step, 100 * line, {"float32": "-", "float64": "--"}[form], color=COLOURS[name])
        for half in line.step[line >= 0.5][:1]:
            axes["c"].text(half + 0.02 * line.step.size, 50, f"{name}, {form}", color=COLOURS[name], fontsize=7)
    axes["c"].text(lost.step.size, 3, "residual, both", color=COLOURS[RESIDUAL], fontsize=7, ha="right")
    axes["c"].set(title="width 1, fresh", xlabel="depth", ylabel="share that rounds to 0 (%)")
    shown = [10, 30, int(trained.depth[-1])]
    for place, name in enumerate(CHAINS):
        for depth, alpha in zip(shown, (0.3, 0.6, 1.0), strict=True):
            one = trained.sel(chain=name)
            st.plots.distribution(one, axes["d"], colour=COLOURS[name], depth=depth, alpha=alpha)
        axes["d"].text(0.03, 0.93 - 0.07 * place, name, color=COLOURS[name], fontsize=7, transform=axes["d"].transAxes)
    axes["d"].set_title(f"width 1, trained: depths {', '.join(map(str, shown))}")
    plain, residual = data["growth_1"].exponent.median("seed")[..., 0]
    gap = (plain - residual).dropna("init")
    gap = gap[abs(gap) > 1e-9]  # at the identity neither grows
    return st.plots.headline(
        figure,
        f"By {int((gap < 0).sum())} of {gap.size} initialisations a plain chain of width 1 shrinks the derivative "
        "faster than a residual one (colours as in d; black ticks: theory).",
    )


def draw_growth(data: xarray.Dataset, ax: Axes) -> None:
    """Draw median and 5 to 95 % over seeds of every value's growth a layer, by initialisation."""
    for place, init in enumerate(data.init.values):
        for name, beside in zip(PAIR, (0.16, -0.16), strict=True):
            one, y = data.sel(architecture=CHAINS[name][0], init=init), beside - place
            if one.exponent.isnull().all():
                continue  # not every scheme exists for every architecture
            for index, (low, middle, high) in enumerate(one.exponent.quantile([0.05, 0.5, 0.95], "seed").T / DECADE):
                alpha = 1 - 0.7 * index / data.index.size
                ax.plot([low, high], [y, y], color=COLOURS[name], alpha=0.4 * alpha, linewidth=3, solid_capstyle="butt")
                ax.plot(middle, y, "o", color=COLOURS[name], alpha=alpha, markersize=3, markeredgewidth=0)
            ax.plot(one.predicted / DECADE, y, "|", color="black", markersize=9, markeredgewidth=1.2, zorder=5)
    ax.set_yticks(-np.arange(data.init.size), data.init.values)
    ax.set(ylim=(0.5 - data.init.size, 0.5), xlabel=r"$\log_{10}$ singular value, a layer")
    ax.set_title(f"width {data.index.size}, by initialisation")
    ax.axvline(0, color="#999999", linewidth=0.8, zorder=0)


if __name__ == "__main__":
    quick = Settings(depth=300, seeds=32, iterations=300, wide_depth=60, wide_seeds=4)
    study.main(Settings(), quick, measure, draw, claims)
