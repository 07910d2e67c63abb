"""Why does the plain PReLU chain fail where the residual one does not?

Question. Both chains have one neuron a layer and fold the line with PReLU. A plain step is h <- prelu(w h + b), a
residual one h <- h + wb prelu(wa h + ba) + bb. What becomes of the derivative |J| = |dh_l/dx|, the product of the
derivatives of l steps, freshly initialised to depth 1000 and trained on sin(x) to depth 100?

Method. |J| is summed in logarithms with a state that cannot leave the floating range, for many seeds and points.
With torch's initialisation the derivatives of successive steps are independent and equally distributed (the sign
of the pre-activation is a fair coin, whatever the state), so log |J| is a random walk of mean l E log|g|, known in
closed form for the plain chain and by quadrature for the other. The trained row adds the plain chain started at the
identity.

Reading. Left: median of log10 |J| against depth, bands 25-75 % and 5-95 % over seeds and points; black dotted
lines are that mean. Middle: the distribution of log10 |J| a layer at three depths, darker is
deeper. Right: the share of
products that round to 0 in float32 (solid), in float64 (dashed), and that are exactly 0 (dotted).
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
from scipy.integrate import quad

import stability as st

LABELS = {
    "plain_prelu": "plain PReLU",
    "plain_prelu, identity start": "plain PReLU, identity start",
    "residual2_prelu": "residual PReLU",
}
COLOURS = {name: st.plots.colour(name.split(",")[0]) for name in LABELS}
COLOURS["plain_prelu, identity start"] = "#CC79A7"


@dataclass(frozen=True)
class Settings:
    """Plain against residual PReLU: log |J| against depth, fresh and trained."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, steps and layers: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def predict(architecture: str) -> float:
    """Return E log|g| of a step with weights U(-1, 1) and slope 1/4."""
    if architecture == "plain_prelu":
        return -1 - math.log(4) / 2  # g = w or w / 4 with probability 1/2 each, and E log|w| = -1

    # g = 1 + p or 1 + p / 4 with probability 1/2 each, p = wa wb of density -log|p| / 2 on (-1, 1).
    def average(p: float) -> float:
        return (math.log1p(p) + math.log1p(p / 4)) / 2 * -math.log(abs(p)) / 2

    return sum(quad(average, *ends, limit=200)[0] for ends in ((-1, 0), (0, 1)))


def summarise(spectra: dict[str, st.Spectrum], stride: int, shown: list[int]) -> xarray.Dataset:
    """Return log |J| and its sign at every `stride`-th depth, with dims (architecture, depth, seed, x)."""
    depth = next(iter(spectra.values())).depth
    kept = sorted({1, *shown, *range(stride, depth + 1, stride)})
    datasets = [s.to_dataset().sel(depth=kept) for s in spectra.values()]
    data = xarray.concat(datasets, xarray.IndexVariable("architecture", list(spectra)))
    # Seven digits are enough for a figure and halve the file.
    data["log_values"] = data.log_values.astype(np.float32)
    return data.assign_attrs(shown_depths=shown)


def median_underflow(s: st.Spectrum, dtype: torch.dtype) -> int | None:
    """Return the first depth at which at least half of the products are zero in `dtype`."""
    share = (s.vanished | s.underflows(dtype)).flatten(1).double().mean(1)
    depths = (share >= 0.5).nonzero()
    return int(depths[0]) + 1 if len(depths) else None


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
    seeds, depth, steps = (40, 300, 300) if settings.quick else (200, 1000, 2000)
    trained_seeds, trained_depth = seeds // 2, 100
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    task = st.Task(torch.sin, (-3, 3), points=128)

    fresh = {
        name: st.spectrum(st.Chain(name, depth, seeds=seeds, root=settings.seed), x)
        for name in ("plain_prelu", "residual2_prelu")
    }
    print(f"Freshly initialised as torch does, {seeds} seeds, {len(x)} points on (-3, 3):")
    predictions = {}
    for name, s in fresh.items():
        print(describe(name, s))
        mean = predict(name)
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
        history = st.train(chain, task, steps=steps)
        if history.interrupted:
            raise SystemExit(1)
        losses[name] = history.best_loss
        trained[name] = st.spectrum(chain, x)
    print(f"Trained on sin(x), depth {trained_depth}, {steps} steps of Adam, {trained_seeds} seeds:")
    for name, s in trained.items():
        print(describe(name, s))
        print(f"    mean-squared error: best {losses[name].min():.1e}, median {losses[name].median():.1e}")
    dead, monotone = st.references.constant(task), st.references.best_monotone(task)
    print(f"    for comparison: the best constant {dead:.4f}, the best monotone function {monotone:.4f}")

    groups = {
        "fresh": summarise(fresh, depth // 40, [10, 100, depth]),
        "trained": summarise(trained, 4, [10, 30, trained_depth]),
    }
    groups["trained"]["loss"] = (("architecture", "seed"), np.stack([v.numpy() for v in losses.values()]))
    groups["fresh"]["predicted_exponent"] = ("architecture", [predictions[name] for name in fresh])
    data = xarray.DataTree.from_dict(groups)
    paths = st.plots.save(draw(groups), data, settings.out, "jacobian_spectrum")

    plain, near, residual = (float(losses[name].median()) for name in LABELS)
    gap = {name: float(s.log_values[-1].median()) / math.log(10) for name, s in fresh.items()}
    finding = (
        f"Found: after {depth} layers the derivative of the plain chain is 10^{gap['plain_prelu']:.0f}, that of the "
        f"residual chain 10^{gap['residual2_prelu']:.0f} (medians). Trained to depth {trained_depth}, the plain chain "
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
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), width_ratios=(1.25, 1, 1))
        for row, (state, data) in zip(axes, groups.items(), strict=True):
            deepest, shades = int(data.depth.max()), data.attrs["shown_depths"]
            for name in data.architecture.values:
                one, look = data.sel(architecture=name), {"colour": COLOURS[name]}
                st.plots.spectrum(one, row[0], label=LABELS[name], **look)
                for shade, alpha in zip(shades, (0.3, 0.6, 1.0), strict=True):
                    st.plots.distribution(one, shade, row[1], alpha=alpha, **look)
                st.plots.vanishing(one, row[2], **look)
                if "predicted_exponent" in one:
                    line = float(one.predicted_exponent) * one.depth / math.log(10)
                    row[0].plot(one.depth, line, ":", color="black", linewidth=1.2, zorder=5)
            row[0].set_title(f"{state} to depth {deepest}: quantiles against depth", loc="left")
            row[1].set_title("growth a layer", loc="left")
            depths = zip(shades, (0.3, 0.6, 1.0), strict=True)
            keys = [plt.Line2D([], [], color="#333333", alpha=alpha, label=f"depth {d}") for d, alpha in depths]
            row[1].legend(handles=keys, loc="center", bbox_to_anchor=(0.69, 0.5))
            row[2].set_title("products that a format loses", loc="left")
        theory = [plt.Line2D([], [], color="black", linestyle=":", label="theory: depth times E log |g|")]
        axes[0, 0].legend(handles=[*axes[0, 0].get_legend_handles_labels()[0], *theory], loc="lower left")
        axes[1, 0].legend(loc="lower left")
        styles = {"0 in float32": "-", "0 in float64": "--", "exactly 0": ":"}
        keys = [plt.Line2D([], [], color="#555555", linestyle=v, label=k) for k, v in styles.items()]
        axes[0, 2].legend(handles=keys, loc="center right")
    return figure


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
