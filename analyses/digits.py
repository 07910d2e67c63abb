"""Does a plain PReLU chain not train because of its digits, or because of its start?

Question. Peng (2017) finds that a plain chain of PReLU steps cannot be fitted to sin(x): a matter of numerical
stability, he says. Would more digits help, and what else does?

Method. Adam makes the same run in arithmetic of 24, 53, 64 bits and 50 decimal digits, at depths 10 and 30, with its
epsilon of 1e-8 and without, with slopes free and held at 0 or above. Then many chains of 30 steps are trained from
torch's start with and without epsilon, and from weights and slopes of -1 and 1 ("signs"), through which no signal
fades. A chain whose slopes are not negative is monotone; a fit that folds must get below the best monotone function.

Reading. a: final errors, a line a chain, in ever more digits; open and dashed with epsilon 0. b: the error of every
chain of 30 steps, a dot each, by epsilon and start; dotted, the best monotone function.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

PRECISIONS: dict[str, Any] = {"24 bits": np.float32, "53 bits": np.float64, "64 bits": np.longdouble}
PRECISIONS["50 digits"] = Decimal
#: Adam's epsilon, and what slopes are held above.
RUNS: dict[str, tuple[float, float | None]] = {"free": (1e-8, None), "free, epsilon 0": (0.0, None)}
RUNS |= {"held": (1e-8, 0.0), "held, epsilon 0": (0.0, 0.0)}
STARTS: dict[str, tuple[str | st.Init, Any, float]] = {
    "epsilon 1e-8": ("pytorch", np.float64, 1e-8),
    "epsilon 0, 24 bits": ("pytorch", np.float32, 0.0),
    "epsilon 0": ("pytorch", np.float64, 0.0),
    "signs": (study.SIGNS, np.float64, 1e-8),
}
DEPTHS = (10, 30)


@dataclass(frozen=True)
class Settings(study.Settings):
    members: int = 4  # Chains that are trained in every arithmetic.
    iterations: int = 300  # Of Adam, in every arithmetic.
    chains: int = 32  # Chains that are trained by epsilon and start.
    longer: int = 2000  # Iterations of Adam, by epsilon and start.


def sine(points: int) -> st.Task:
    return st.Task(torch.sin, (-3, 3), points=points)


def in_digits(run: str, settings: Settings) -> xarray.Dataset:
    errors = []
    for depth in DEPTHS:
        chain = st.Chain("plain_prelu", depth, seeds=settings.members, root=settings.seed)
        by_kind = [
            st.references.adam_in(kind, chain, sine(16), settings.iterations, *RUNS[run])
            for kind in PRECISIONS.values()
        ]
        errors.append(by_kind)
    axes = {"depth": list(DEPTHS), "precision": list(PRECISIONS)}
    return xarray.Dataset({"precise_error": ((*axes, "member"), errors)}, axes)


def from_start(start: str, settings: Settings) -> xarray.Dataset:
    (init, kind, epsilon), task = STARTS[start], sine(32)
    chain = st.Chain("plain_prelu", DEPTHS[-1], seeds=settings.chains, init=init, root=settings.seed)
    (chain(task.x) - task.y).square().mean(1).sum().backward()
    errors = st.references.adam_in(kind, chain, task, settings.longer, epsilon)
    gradients = chain.weight.grad[:, 0].abs().numpy()
    return xarray.Dataset({"chance_error": ("chain", errors), "first_gradient": ("chain", gradients)})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    torch.set_num_threads(1)
    data = parts.cells(in_digits, settings, run=list(RUNS))
    data = data.merge(parts.cells(from_start, settings, start=list(STARTS)))
    data["monotone"], data["constant"] = st.references.best_monotone(sine(32)), st.references.constant(sine(32))
    return data.assign(bits_of_longdouble=int(np.finfo(np.longdouble).nmant) + 1)


def below(data: xarray.Dataset, start: str) -> float:
    """Return which percentage of the chains gets below what a monotone function can do."""
    return 100 * float((data.chance_error.sel(start=start) < 0.98 * data.monotone).mean())


def change(data: xarray.Dataset) -> float:
    """Return the largest relative change of a final error by more digits, with Adam's own epsilon."""
    errors = data.precise_error.sel(run=["free", "held"])
    return float(abs(errors / errors.sel(precision="50 digits") - 1).max())


def claims(data: xarray.Dataset) -> list[study.Row]:
    digits, shares = change(data), {start: below(data, start) for start in STARTS}
    held = data.precise_error.sel(run=["held", "held, epsilon 0"]).min()
    limit = st.references.best_monotone(sine(16))
    gradient = data.first_gradient.sel(start="epsilon 1e-8").quantile([0, 0.5, 1]).to_numpy()
    low, middle, high = data.chance_error.sel(start="signs").quantile([0.05, 0.5, 0.95]).to_numpy()
    decided, free = digits > 0.5 or shares["epsilon 0"] >= 50, shares["epsilon 1e-8"]
    return [
        (
            "That plain PReLU chains do not train is a matter of numerical stability", "Peng 2017",
            f"from 24 bits to 50 digits final errors change by at most {digits:.1e}, relatively, with Adam's epsilon; "
            f"of {data.sizes['chain']} chains of {DEPTHS[-1]} steps {free:.0f} % get below the monotone limit, with "
            f"epsilon 0 {shares['epsilon 0']:.0f} % ({shares['epsilon 0, 24 bits']:.0f} % in 24 bits)",
            "held" if decided else "refined" if shares["epsilon 0"] > free else "refuted",
        ),
        (
            "They fail because no gradient is left at their start", "theory",
            f"first gradients {gradient[1]:.1e} (all: {gradient[0]:.1e} to {gradient[2]:.1e}), Adam's epsilon 1e-8; "
            f"from weights and slopes of -1 and 1 {shares['signs']:.0f} % get below the limit, median error "
            f"{middle:.1e} (5 to 95 %: {low:.1e} to {high:.1e})",
            gradient[2] < 1e-8 and shares["signs"] > free,
        ),
        (
            "With slopes of 0 or above no chain gets below the best monotone function", "theory",
            f"least error {float(held):.4f}, in any digits; the limit on these 16 points is {limit:.4f}",
            float(held) >= limit * (1 - 1e-9),
        ),
    ]  # fmt: skip


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab", height=2.9)
    draw_digits(data, axes["a"])
    draw_starts(data, axes["b"])
    return st.plots.headline(
        figure,
        f"More digits change the error of a plain PReLU chain by {change(data):.0e} of it at most. A start through "
        f"which signals pass takes {below(data, 'signs'):.0f} % of the chains below the monotone limit, torch's start "
        f"{below(data, 'epsilon 1e-8'):.0f} %.",
    )


def draw_digits(data: xarray.Dataset, ax: Axes) -> None:
    looks = {"free": ("o", "#D55E00"), "held": ("s", "#CC79A7")}
    for place, run in enumerate(data.run.values.tolist()):
        marker, shade = looks[run.split(",")[0]]
        fill, line = ("white", "--") if "epsilon" in run else (shade, "-")
        values = data.precise_error.sel(run=run).stack(all=("depth", "member")).transpose("precision", "all")
        x = np.arange(values.sizes["precision"]) + 0.06 * (place - 1.5)
        ax.plot(x, values, line, color=shade, marker=marker, markersize=3, markerfacecolor=fill, linewidth=0.5)
    ax.set_xticks(range(data.sizes["precision"]), data.precision.values)
    ax.set(yscale="log", ylim=(0.05, 1), ylabel="final error", title="in ever more digits")
    st.plots.ticks(ax, y=[0.05, 0.1, 0.2, 0.5, 1])
    for y, words, (_, shade) in zip((0.92, 0.84), ("free", "held at 0 or above"), looks.values(), strict=True):
        ax.text(0.02, y, f"slopes {words}; open: epsilon 0", transform=ax.transAxes, color=shade, fontsize=7)


def draw_starts(data: xarray.Dataset, ax: Axes) -> None:
    for row, start in enumerate(STARTS):
        errors = np.sort(data.chance_error.sel(start=start))
        ax.plot(errors, row + np.linspace(-0.25, 0.25, errors.size), ".", color="#D55E00", markersize=4)
        ax.text(0.9, row, f"{below(data, start):.0f} % below", fontsize=7, va="center")
    ax.axvline(float(data.monotone), color="black", linestyle=":", linewidth=1)
    ax.set_yticks(range(len(STARTS)), [start.replace(", ", ",\n") for start in STARTS])
    ax.set(xscale="log", xlim=(3e-5, 12), ylim=(len(STARTS) - 0.5, -0.5), xlabel="final error")
    ax.set_title(f"{DEPTHS[-1]} steps, by epsilon and start")


if __name__ == "__main__":
    study.main(Settings(), Settings(members=2, iterations=20, chains=8, longer=200), measure, draw, claims)
