"""How does a residual chain fold a line into sin(x), layer by layer, and what can it not fold a line into?

Question. A step h <- h + wb phi(wa h + ba) + bb bends the picture at one height: everything above (or below) the kink
is stretched, flattened or folded over. What does a trained chain do with its steps? And the article says that such a
chain "can fit any function": can it?

Method. Many seeds are trained on sin(x) and the best is drawn after each step, exactly: the knots are found, not
sampled. Then the same is trained on other functions. A chain of one neuron is monotone on some stretch on which it
takes its whole range (each step is monotone or V-shaped; of a V keep the larger side), and so is every uniform limit
of chains. So a function that goes down by D on every stretch from near its minimum to near its maximum is never closer
to a chain than D/2 somewhere, whatever the depth; this bound is computed on a fine grid, less what the function can
change between two points of it.

Reading. Top rows: the line after each step, the folds of that step as dots, sin(x) grey. Bottom row: targets dashed
grey, the fit with the least maximal error in colour; under the title the bound and what was reached. The GIF shows the
steps in motion.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray
from matplotlib.animation import FuncAnimation, PillowWriter

import stability as st

INTERVAL = (-3, 3)
ARCHITECTURE = "residual2_prelu"
DEPTH = 7
TARGETS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sin x": torch.sin,
    "|x|": torch.abs,
    "exp(-x^2) cos 5x": lambda x: torch.exp(-(x**2)) * torch.cos(5 * x),
    "x + 1.5 sin 3x": lambda x: x + 1.5 * torch.sin(3 * x),
}


@dataclass(frozen=True)
class Settings:
    """The folding of a line into sin(x), and what cannot be folded."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds and iterations, and no GIF: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF), its data (netCDF) and the GIF."""
    seed: int = 0
    """The root seed."""


def train(name: str, depth: int, seeds: int, iterations: int, root: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tables of all seeds and their maximal errors on a fine grid."""
    task = st.Task(TARGETS[name], INTERVAL)
    chain = st.Chain(ARCHITECTURE, depth, seeds=seeds, root=root)
    st.train(chain, task, iterations=iterations)
    x = torch.linspace(*INTERVAL, 4001, dtype=torch.float64)
    return chain.table(), (chain(x) - TARGETS[name](x)).abs().amax(1).detach().numpy()


def bound(name: str) -> float:
    """Return what the maximal error of every one-neuron chain exceeds on this target.

    If a chain g is within e of f, then g is monotone on some [s, t] from its minimum to its maximum (or back), so
    f(s) <= min f + 2e, f(t) >= max f - 2e and f falls by at most 2e inside [s, t].
    """
    x = torch.linspace(*INTERVAL, 2001, dtype=torch.float64)
    smallest = np.inf
    values = TARGETS[name](x).numpy()
    between = float(np.abs(np.diff(values)).max())
    for y in (values, values[::-1]):
        for s in range(len(y)):
            highest = np.maximum.accumulate(y[s:])
            fall = np.maximum.accumulate(highest - y[s:])
            smallest = min(smallest, float(np.maximum(np.maximum(fall, y[s] - y.min()), y.max() - y[s:]).min()))
    return max(smallest - 2 * between, 0.0) / 2


def frames(table: np.ndarray, between: int) -> list[np.ndarray]:
    """Return tables that pass from no step to all of them, each step growing from the identity."""
    out = [np.array([[1.0, 0, 0, 0, 0, 1]])]
    for k in range(len(table)):
        for part in np.linspace(0, 1, between + 1)[1:]:
            partial = table[: k + 1].copy()
            partial[k, 3:5] *= part
            out.append(partial)
    return out


def animate(table: np.ndarray, path: Path) -> Path:
    """Write the folding as a GIF."""
    line, x = INTERVAL, np.linspace(*INTERVAL, 400)
    shown = [st.restrict(partial, line) for partial in frames(table, 8)]
    steps = [0] + [k + 1 for k in range(len(table)) for _ in range(8)]
    low = min(-1.2, *(float(f.values.min()) for f in shown))
    high = max(1.2, *(float(f.values.max()) for f in shown))
    with mpl.rc_context(st.plots.STYLE):
        figure, ax = plt.subplots(figsize=(4.2, 3.2), dpi=90)

        def show(i: int) -> list:
            ax.clear()
            ax.plot(x, np.sin(x), color="#999999", linestyle=(0, (4, 2)), linewidth=1.2)
            st.plots.function(shown[i], ax, colour=st.plots.colour(ARCHITECTURE))
            ax.set(xlim=INTERVAL, ylim=(low - 0.1, high + 0.1), xlabel="x", ylabel="h(x)", title=f"step {steps[i]}")
            return []

        order = [*range(len(shown)), *[len(shown) - 1] * 12]
        FuncAnimation(figure, lambda i: show(order[i]), frames=len(order)).save(path, writer=PillowWriter(fps=12))
        plt.close(figure)
    return path


def draw(data: xarray.Dataset) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    table, line, x = data.table.to_numpy(), INTERVAL, data.x.to_numpy()
    shade, columns = st.plots.colour(ARCHITECTURE), 4
    with mpl.rc_context(st.plots.STYLE):
        figure, axes = plt.subplots(2 + len(table) // columns, columns, figsize=(11, 2.4 * (2 + len(table) // columns)))
        before: set[float] = set()
        for k in range(len(table) + 1):
            ax = axes.flat[k]
            f = st.PiecewiseLinear(line, line) if k == 0 else st.restrict(table[:k], line)
            st.plots.function(f, ax, colour=shade, marks=False)
            fresh = np.array(sorted({float(t) for t in f.folds()} - before))
            ax.plot(fresh, f(fresh) if len(fresh) else [], "o", color="#D55E00", markersize=4)
            ax.plot(x, np.sin(x), color="#999999", linestyle=(0, (4, 2)), linewidth=1)
            count = f.count()
            ax.set(xlabel="", ylabel="h(x)" if k % columns == 0 else "")
            ax.set_title("the line" if k == 0 else f"step {k}: folds {count.folds}, turns {count.turns}")
            before |= {float(t) for t in f.folds()}
        for ax in axes.flat[len(table) + 1 : -columns]:
            ax.axis("off")
        for ax, name in zip(axes[-1], data.target.values, strict=True):
            one = data.sel(target=name)
            ax.plot(x, one.fit, color=shade, linewidth=1.3)
            ax.plot(x, one.wanted, color="#777777", linestyle=(0, (4, 2)), linewidth=1.2)
            ax.set_title(f"{name}\nbound {float(one.bound):.2f}, reached {float(one.reached.min()):.3g}")
            ax.set(xlabel="x", ylabel="f(x)" if ax is axes[-1, 0] else "")
    return figure


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    seeds, iterations, depth = (32, 400, 20) if settings.quick else (128, 3000, 30)
    tables, errors = train("sin x", DEPTH, seeds, iterations, settings.seed)
    table = tables[np.argmin(errors)]
    x = np.linspace(*INTERVAL, 600)
    runs = {name: train(name, depth, seeds, iterations, settings.seed) for name in TARGETS}
    best = {name: st.restrict(found[np.argmin(worst)], INTERVAL) for name, (found, worst) in runs.items()}
    data = xarray.Dataset(
        {
            "table": (("step", "column"), table),
            "fit": (("target", "x"), np.stack([f(x) for f in best.values()])),
            "wanted": (("target", "x"), np.stack([TARGETS[name](torch.from_numpy(x)).numpy() for name in TARGETS])),
            "reached": (("target", "seed"), np.stack([worst for _, worst in runs.values()])),
            "bound": ("target", [bound(name) for name in TARGETS]),
        },
        {"target": list(TARGETS), "x": x},
        {"depth": depth, "architecture": ARCHITECTURE},
    )

    print(f"The best of {seeds} chains {ARCHITECTURE} of depth {DEPTH} on sin(x), step by step:\n")
    for k in range(1, len(table) + 1):
        c = st.count(table[:k], INTERVAL)
        skip, weight, bias, outer_weight, _, slope = table[k - 1]
        below, above = skip + outer_weight * weight * slope, skip + outer_weight * weight
        below, above = (below, above) if weight > 0 else (above, below)
        does = "folds" if below * above < 0 else "bends"
        print(
            f"step {k}: {does} at height {-bias / weight:+.3f}, slopes {below:+.2f} below and {above:+.2f} above: "
            f"folds {c.folds}, turns {c.turns}, regions {c.regions}"
        )
    print(f"\nWhat {seeds} chains of depth {depth} reach, by the largest error anywhere on {INTERVAL}:\n")
    for name in TARGETS:
        one = data.sel(target=name)
        low, mid = float(one.reached.min()), float(one.reached.median())
        verdict = (
            f"out of reach: no chain of any depth comes within {float(one.bound):.2f}"
            if float(one.bound) > 0
            else "the theorem sets no limit"
        )
        print(f"{name:<18} best {low:.3f}, median {mid:.3f}; {verdict}")
    far = [name for name in TARGETS if float(data.bound.sel(target=name)) > 0]
    below = int((data.reached < data.bound).sum())
    missed = [
        name
        for name in TARGETS
        if name not in far
        and float(data.reached.sel(target=name).min()) > 0.2 * float(abs(data.wanted.sel(target=name)).max())
    ]
    print(
        "\n"
        + textwrap.fill(
            f'"It can fit any function" does not hold in the uniform norm: {" and ".join(far)} cannot be folded from '
            "a line, since no stretch on which a chain is monotone can take the whole range without following the "
            f"target's way down. Fits below their bound: {below} (must be 0)."
            + (f" And what can be expressed is not always found: {' and '.join(missed)}." if missed else ""),
            100,
        )
    )
    paths = st.plots.save(draw(data), data, settings.out, "folding")
    if not settings.quick:
        paths.append(animate(table, settings.out / "folding.gif"))
    print("\nWritten: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
