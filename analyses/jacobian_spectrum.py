"""Why does the plain PReLU chain fail where the residual one does not?

Question. Both chains fold with PReLU. A plain step is h <- prelu(W h + b), a residual one
h <- h + Wb prelu(Wa h + ba) + bb. What becomes of the singular values of dh_l/dx, the product of l layer Jacobians, at
width 1 (one number, |J|) and at width 16, freshly initialised by every named scheme, and trained on sin(x)?

Method. At width 1 |J| is summed in logarithms with a state that cannot leave the floating range; at width 16 all
singular values of every prefix are taken in the log domain, and checked. At width 1 with torch's initialisation the
derivatives of successive steps are independent and equally distributed (the sign of the pre-activation is a fair coin,
whatever the state), so log |J| is a random walk of mean l E log|g|. At width 16 with weights that are Gaussian or
orthogonal and no biases, the mean of all 16 exponents is E log|det W| / 16 + log(slope) / 2. The naive product is
formed in float64 and decomposed, as one would.

Reading. Top: width 1. Left, log10 |J| against depth, median, 25-75 % and 5-95 % over seeds and points; black dotted is
theory. Middle, growth a layer by initialisation, median and 5-95 % over seeds, black ticks are theory. Right, the
share of products that round to 0 in float32 (solid), in float64 (dashed), and that are exactly 0 (dotted). Centre:
width 16. Left, all 16 singular values, medians. Middle, the same growth for each of the 16 (pale for the smaller
ones), black ticks are theory for their mean. Right, one plain chain: lines are its singular values, crosses what the
naive product makes of them. Bottom: trained, width 1; in the middle the distribution of the growth a layer.
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

import stability as st

LABELS = {
    "plain_prelu": "plain PReLU",
    "plain_prelu, identity start": "plain PReLU, identity start",
    "residual2_prelu": "residual PReLU",
}
COLOURS = {name: st.plots.colour(name.split(",")[0]) for name in LABELS}
COLOURS["plain_prelu, identity start"] = "#CC79A7"
WIDE = 16
SLOPE = 0.25  # of PReLU, as every scheme but the identity starts it


@dataclass(frozen=True)
class Settings:
    """Plain against residual PReLU: log |J| against depth, fresh and trained."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, iterations and layers: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def predict(architecture: str, init: str, width: int, depth: int) -> float | None:
    """Return E log|g| a layer (at width 16 the mean over all exponents), None where nothing is derived here."""
    if width == 1:
        # The sign of the state matters for the identity alone.
        exponent = st.theory.lyapunov_exponent(architecture, init, sign=1)
        known = {"depth": depth}
        return float(exponent.value(**{s.name: known[s.name] for s in exponent.symbols if s.name in known}))
    if init == "identity":
        return 0.0
    if architecture == "plain_prelu":
        gain, fold = math.sqrt(2 / (1 + SLOPE**2)), math.log(SLOPE) / 2
        newman = st.theory.gaussian_exponents(width, gain / math.sqrt(width))
        logs = {"he": newman.mean(), "orthogonal": math.log(gain)}
        return logs[init] + fold if init in logs else None
    return None


def growth(width: int, depth: int, seeds: int, root: int) -> xarray.Dataset:
    """Return the growth a layer of every singular value, for every pair of architecture and initialisation."""
    x = torch.ones(1, dtype=torch.float64) if width == 1 else torch.ones(1, width, dtype=torch.float64)
    found: dict[tuple[str, str], np.ndarray] = {}
    for name in ("plain_prelu", "residual2_prelu"):
        for init in st.INITS:
            try:
                chain = st.Chain(name, depth, seeds=seeds, width=width, init=init, root=root)
            except ValueError:
                continue  # not every scheme exists for every architecture
            s = st.spectrum(chain, x, check=False, distances=False, progress=False)
            found[name, init] = s.finite_time_exponents[-1, :, 0].numpy()
    data = xarray.Dataset({"exponent": (("scheme", "seed", "index"), np.stack(list(found.values())))})
    names = [predict(*pair, width, depth) for pair in found]
    return (
        data.assign_coords(
            architecture=("scheme", [name for name, _ in found]), init=("scheme", [init for _, init in found])
        )
        .assign(predicted=("known", [v for v in names if v is not None]))
        .assign_coords(known=[i for i, v in enumerate(names) if v is not None])
        .assign_attrs(depth=depth)
    )


def naive_product(depth: int, root: int) -> xarray.Dataset:
    """Return log10 singular values of one plain chain of width 16, true and by a product formed in float64."""
    chain, x = st.Chain("plain_prelu", depth, seeds=1, width=WIDE, root=root), torch.ones(1, WIDE, dtype=torch.float64)
    s = st.spectrum(chain, x, progress=False)
    assert s.self_check is not None
    assert bool(s.self_check.passed.all())
    logs = st.naive_spectrum(chain, x)[:, 0, 0].numpy() / math.log(10)
    both = {"true": s.log_values[:, 0, 0].numpy() / math.log(10), "naive": logs}
    coords = {"depth": np.arange(1, depth + 1), "index": np.arange(1, WIDE + 1)}
    return xarray.Dataset({k: (("depth", "index"), v) for k, v in both.items()}, coords)


def summarise(spectra: dict[str, st.Spectrum], stride: int, shown: list[int]) -> xarray.Dataset:
    """Return the spectra at every `stride`-th depth, with dims (architecture, depth, seed, x, index)."""
    depth = next(iter(spectra.values())).depth
    kept = sorted({1, *shown, *range(stride, depth + 1, stride)})
    datasets = [s.to_dataset()[["log_values"]].sel(depth=kept) for s in spectra.values()]
    data = xarray.concat(datasets, xarray.IndexVariable("architecture", list(spectra)))
    # Seven digits are enough for a figure and halve the file.
    data["log_values"] = data.log_values.astype(np.float32)
    return data.assign_attrs(shown_depths=shown)


def median_underflow(s: st.Spectrum, dtype: torch.dtype) -> int | None:
    """Return the first depth at which at least half of the products are zero in `dtype`."""
    share = (s.vanished | s.underflows(dtype)).flatten(1).double().mean(1)
    depths = (share >= 0.5).nonzero()
    return int(depths[0]) + 1 if len(depths) else None


def compare(data: xarray.Dataset, width: int) -> None:
    """Print the growth a layer against what theory says of its mean over the values."""
    print(f"Growth of the log of a singular value a layer at width {width}, mean over all values, by initialisation:")
    known = dict(zip(data.known.values.tolist(), data.predicted.values.tolist(), strict=True))
    for scheme, (name, init) in enumerate(zip(data.architecture.values, data.init.values, strict=True)):
        means = data.exponent[scheme].mean("index")
        error = float(means.std(ddof=1)) / math.sqrt(means.size)
        line = f"  {LABELS[name]}, {init}: {float(means.mean()):+.4f} +- {error:.4f}"
        if scheme in known:
            line += f", theory {known[scheme]:+.4f}"
            if error > 1e-12:
                line += f" ({(float(means.mean()) - known[scheme]) / error:+.1f} standard errors)"
        print(line)


def describe(name: str, s: st.Spectrum) -> str:
    """Return one line on the last depth of a spectrum."""
    last = s.log_values[-1].flatten() / math.log(10)
    low, middle, high = (np.quantile(last, q, method="inverted_cdf") for q in (0.05, 0.5, 0.95))
    lost = [f"{100 * s.vanished[-1].double().mean():.1f} % exactly 0"]
    for dtype in (torch.float32, torch.float64):
        share = 100 * s.underflows(dtype)[-1].double().mean()
        first = median_underflow(s, dtype)
        since = f" (half of them from depth {first})" if first else ""
        lost.append(f"{share:.1f} % underflow {str(dtype).removeprefix('torch.')}{since}")
    return (
        f"  {LABELS[name]}, depth {s.depth}: median |J| 10^{middle:.1f} (5 to 95 %: 10^{low:.1f} to 10^{high:.1f}); "
        + ", ".join(lost)
    )


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    seeds, depth, iterations = (40, 300, 300) if settings.quick else (200, 1000, 2000)
    trained_seeds, trained_depth = seeds // 2, 100
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    task = st.Task(torch.sin, (-3, 3), points=128)

    pair = ("plain_prelu", "residual2_prelu")
    fresh = {name: st.spectrum(st.Chain(name, depth, seeds=seeds, root=settings.seed), x) for name in pair}
    print(f"Freshly initialised as torch does, {seeds} seeds, {len(x)} points on (-3, 3):")
    predictions = {}
    for name, s in fresh.items():
        print(describe(name, s))
        mean = predict(name, "pytorch", 1, depth)
        assert mean is not None
        # Points of one seed share its weights: only seeds are independent.
        by_seed = s.finite_time_exponents[-1, :, :, 0].mean(1)
        error = float(by_seed.std()) / math.sqrt(seeds)
        z = (float(by_seed.mean()) - mean) / error
        predictions[name] = mean
        print(
            f"    growth of log |J| a layer: measured {by_seed.mean():+.4f} +- {error:.4f}, "
            f"theory {mean:+.4f} ({z:+.1f} standard errors)"
        )

    trained, losses = {}, {}
    for name, init in (
        ("plain_prelu", "pytorch"),
        ("plain_prelu, identity start", "identity"),
        ("residual2_prelu", "pytorch"),
    ):
        chain = st.Chain(name.split(",")[0], trained_depth, seeds=trained_seeds, init=init, root=settings.seed)
        history = st.train(chain, task, iterations=iterations)
        losses[name] = history.best_loss
        trained[name] = st.spectrum(chain, x)
    print(f"Trained on sin(x), depth {trained_depth}, {iterations} iterations of Adam, {trained_seeds} seeds:")
    for name, s in trained.items():
        print(describe(name, s))
        print(f"    mean-squared error: best {losses[name].min():.1e}, median {losses[name].median():.1e}")
    dead, monotone = st.references.constant(task), st.references.best_monotone(task)
    print(f"    for comparison: the best constant {dead:.4f}, the best monotone function {monotone:.4f}")

    wide_depth, wide_seeds = (60, 6) if settings.quick else (300, 20)
    ones = torch.ones(1, WIDE, dtype=torch.float64)
    wide = {
        name: st.spectrum(st.Chain(name, wide_depth, seeds=wide_seeds, width=WIDE, root=settings.seed), ones)
        for name in pair
    }
    print(f"Width {WIDE}, freshly initialised as torch does, {wide_seeds} seeds, depth {wide_depth}:")
    for name, s in wide.items():
        first, last = (float(s.log_values[-1, ..., i].median()) / math.log(10) for i in (0, -1))
        print(
            f"  {LABELS[name]}: largest singular value 10^{first:.1f}, smallest 10^{last:.1f} (medians); "
            f"condition number 10^{first - last:.0f}. {s.self_check}"
        )
    naive = naive_product(min(wide_depth, 120), settings.seed)
    right = (abs(naive.naive - naive.true) < 1e-9).sum("index")
    fewer = naive.depth.to_numpy()[(right < WIDE / 2).to_numpy()]
    print(
        f"  A product formed in float64 has {int(right[-1])} of {WIDE} values of one plain chain right at depth "
        f"{int(naive.depth[-1])}" + (f", and fewer than half of them from depth {fewer[0]}." if fewer.size else ".")
    )
    groups = {
        "fresh": summarise(fresh, depth // 40, [10, 100, depth]),
        "trained": summarise(trained, 4, [10, 30, trained_depth]),
        "wide": summarise(wide, wide_depth // 30, [wide_depth]),
        "growth_1": growth(1, depth, seeds, settings.seed),
        "growth_16": growth(WIDE, wide_depth, wide_seeds, settings.seed),
        "naive": naive,
    }
    groups["trained"]["loss"] = (("architecture", "seed"), np.stack([v.numpy() for v in losses.values()]))
    groups["fresh"]["predicted_exponent"] = ("architecture", [predictions[name] for name in fresh])
    for width in (1, WIDE):
        compare(groups[f"growth_{width}"], width)
    data = xarray.DataTree.from_dict(groups)
    paths = st.plots.save(draw(groups), data, settings.out, "jacobian_spectrum")

    plain, near, residual = (float(losses[name].median()) for name in LABELS)
    gap = {name: float(s.log_values[-1].median()) / math.log(10) for name, s in fresh.items()}
    spread = {name: float(s.log_condition[-1].median()) / math.log(10) for name, s in wide.items()}
    finding = (
        f"Found: after {depth} layers the derivative of the plain chain is 10^{gap['plain_prelu']:.0f}, that of the "
        f"residual chain 10^{gap['residual2_prelu']:.0f} (medians). At width {WIDE} the plain chain's singular "
        f"values also part, by 10^{spread['plain_prelu']:.0f} in {wide_depth} layers, the residual chain's by "
        f"10^{spread['residual2_prelu']:.0f}. Trained to depth {trained_depth}, the plain chain "
        f"ends with a median error of {plain:.2g} (the best constant has {dead:.2g}), the residual one with "
        f"{residual:.1e}. Started at the identity, where all members are alike and the derivative is 1, the plain "
        f"chain ends with {near:.4f}; the best monotone function has {monotone:.4f}."
    )
    if plain > 0.99 * dead and near < 1.05 * monotone:
        finding += (
            " So the vanishing derivative is what stops the plain chain, and not the last thing that would: without "
            "it, it stops where a monotone function must."
        )
    print("\n" + textwrap.fill(finding, 100))
    print("Written: " + ", ".join(str(path) for path in paths))


def draw(groups: dict[str, xarray.Dataset]) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    with mpl.rc_context(st.plots.STYLE):
        figure, axes = plt.subplots(3, 3, figsize=(11.5, 9.4), width_ratios=(1.25, 1, 1))
        fresh, wide, trained = groups["fresh"], groups["wide"], groups["trained"]
        for data, ax in ((fresh, axes[0, 0]), (wide, axes[1, 0]), (trained, axes[2, 0])):
            for name in data.architecture.values:
                one = data.sel(architecture=name)
                st.plots.spectrum(one, ax, label=LABELS[name], colour=COLOURS[name])
                if "predicted_exponent" in one:
                    line = float(one.predicted_exponent) * one.depth / math.log(10)
                    ax.plot(one.depth, line, ":", color="black", linewidth=1.2, zorder=5)
        for data, ax in ((fresh, axes[0, 2]), (trained, axes[2, 2])):
            for name in data.architecture.values:
                st.plots.vanishing(data.sel(architecture=name), ax, colour=COLOURS[name])
        shades = trained.attrs["shown_depths"]
        for name in trained.architecture.values:
            for shade, alpha in zip(shades, (0.3, 0.6, 1.0), strict=True):
                one = trained.sel(architecture=name)
                st.plots.distribution(one, axes[2, 1], colour=COLOURS[name], depth=shade, alpha=alpha)
        for ax, key in ((axes[0, 1], "growth_1"), (axes[1, 1], "growth_16")):
            draw_growth(groups[key], ax)
        draw_naive(groups["naive"], axes[1, 2])

        theory = [plt.Line2D([], [], color="black", linestyle=":", label="theory: depth times E log |g|")]
        axes[0, 0].legend(handles=[*axes[0, 0].get_legend_handles_labels()[0], *theory], loc="lower left")
        axes[1, 0].legend(loc="lower left")
        axes[2, 0].legend(loc="lower left")
        depths = zip(shades, (0.3, 0.6, 1.0), strict=True)
        keys = [plt.Line2D([], [], color="#333333", alpha=alpha, label=f"depth {d}") for d, alpha in depths]
        axes[2, 1].legend(handles=keys, loc="center", bbox_to_anchor=(0.69, 0.5))
        styles = {"0 in float32": "-", "0 in float64": "--", "exactly 0": ":"}
        keys = [plt.Line2D([], [], color="#555555", linestyle=v, label=k) for k, v in styles.items()]
        axes[0, 2].legend(handles=keys, loc="center right")
        for row, title in zip(axes, ("width 1, fresh", f"width {WIDE}, fresh", "width 1, trained"), strict=True):
            row[0].set_title(f"{title}: singular values against depth", loc="left")
        for ax, key in ((axes[0, 1], "growth_1"), (axes[1, 1], "growth_16")):
            ax.set_title(f"growth a layer, depth {groups[key].attrs['depth']}", loc="left")
        axes[2, 1].set_title("growth a layer", loc="left")
        axes[0, 2].set_title("products that a format loses", loc="left")
        axes[2, 2].set_title("products that a format loses", loc="left")
        axes[1, 2].set_title("what a product in float64 says (plain)", loc="left")
    return figure


def draw_growth(data: xarray.Dataset, ax: plt.Axes) -> None:
    """Draw median and 5 to 95 % over seeds of every value's growth a layer, by initialisation."""
    inits = list(dict.fromkeys(data.init.values.tolist()))
    known = dict(zip(data.known.values.tolist(), data.predicted.values.tolist(), strict=True))
    for scheme, (name, init) in enumerate(zip(data.architecture.values, data.init.values, strict=True)):
        y = -inits.index(init) + (0.16 if name == "plain_prelu" else -0.16)
        exponents = data.exponent[scheme].to_numpy() / math.log(10)
        k = exponents.shape[1]
        low, middle, high = np.quantile(exponents, [0.05, 0.5, 0.95], axis=0)
        for i in range(k):
            alpha = 1 - 0.7 * i / k
            ax.plot(
                [low[i], high[i]], [y, y], color=COLOURS[name], alpha=0.4 * alpha, linewidth=3, solid_capstyle="butt"
            )
            ax.plot(middle[i], y, "o", color=COLOURS[name], alpha=alpha, markersize=3.5, markeredgewidth=0)
        if scheme in known:
            ax.plot(known[scheme] / math.log(10), y, "|", color="black", markersize=11, markeredgewidth=1.3, zorder=5)
    ax.set_yticks([-i for i in range(len(inits))], inits)
    ax.set_xlabel(r"$\log_{10}$ singular value, a layer")
    ax.axvline(0, color="#999999", linewidth=0.8, zorder=0)
    theory = "theory" if data.index.size == 1 else "theory, mean of all"
    key = plt.Line2D([], [], color="black", linestyle="", marker="|", markersize=9, markeredgewidth=1.3, label=theory)
    ax.legend(handles=[key], loc="lower left")


def draw_naive(data: xarray.Dataset, ax: plt.Axes) -> None:
    """Draw the true values of one chain as lines and the naive ones as crosses."""
    for index in data.index.values[::3]:
        look = {"color": COLOURS["plain_prelu"], "alpha": 1 - 0.6 * (index - 1) / data.index.size}
        ax.plot(data.depth, data.true.sel(index=index), linewidth=1.2, **look)
        some = data.sel(index=index, depth=data.depth[:: max(1, data.depth.size // 24)])
        shown = np.isfinite(some.naive)
        ax.plot(some.depth[shown], some.naive[shown], "x", color="#555555", markersize=3.5, markeredgewidth=0.8)
    keys = [
        plt.Line2D([], [], color=COLOURS["plain_prelu"], label="in the log domain"),
        plt.Line2D([], [], color="#555555", linestyle="", marker="x", markersize=4, label="product in float64"),
    ]
    ax.legend(handles=keys, loc="lower left")
    ax.set_xlabel("depth")
    ax.set_ylabel(r"$\log_{10}$ singular values")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
