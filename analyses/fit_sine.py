"""Which one-neuron chains can be trained to sin(x), how deep, and what stops the others?

Question. Peng (2017) fits five chains of one neuron a layer to sin(x) on (-3, 3) and reports what each can do. Do
his findings hold over many seeds and depths, and what is the limit where they fail: what the chain can express,
or the training?

Method. Every architecture at depths 3, 10, 30 and 100, many seeds each, from torch's initialisation, by Adam on
the mean-squared error. The plain PReLU chain also from the identity (weights 1, slopes 1), where its numerics are
harmless. A member is dead when its derivative is exactly 0 at every point, and flat when its output varies by less
than 1 % of the target's range. The references are the best that a constant, a monotone function, a function above
x, and a spline with as many free knots as the chain has steps can do on the same points.

Reading. Each panel: all members thin, the best one bold, the target dashed grey. The right column: the loss
against the step, median and 5 to 95 %, darker is deeper; dashed is the best constant, dotted the best monotone
function.
"""

from __future__ import annotations

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

IDENTITY = "plain_prelu, identity start"
CASES = {name: (name, "pytorch") for name in st.ARCHITECTURES} | {IDENTITY: ("plain_prelu", "identity")}


@dataclass(frozen=True)
class Settings:
    """The article's pictures: five chains fitted to sin(x)."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, steps and depths: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def run(case: str, depth: int, seeds: int, steps: int, task: st.Task, root: int) -> xarray.Dataset:
    """Train one case at one depth and return its fits, losses and deaths by seed."""
    architecture, init = CASES[case]
    chain = st.Chain(architecture, depth, seeds=seeds, init=init, root=root)
    history = st.train(chain, task, steps=steps)
    if history.interrupted:
        raise SystemExit(1)
    output = chain(task.x).detach()
    slopes_kept = (chain.slope >= 0).all(1) if "slope" in chain.architecture.kinds else torch.ones(seeds, dtype=bool)
    never_bypassed = chain.architecture.skip == 0
    return xarray.Dataset(
        {
            "fit": (("seed", "x"), output.numpy().astype(np.float32)),
            "loss": ("seed", history.best_loss.numpy(), {"long_name": "mean-squared error"}),
            # One step in ten draws the same curve.
            "loss_by_step": (("step", "seed"), history.loss[::10].numpy().astype(np.float32)),
            "dead": ("seed", (st.spectrum(chain, task.x).signs[-1] == 0).all(1).numpy()),
            "flat": ("seed", (output.amax(1) - output.amin(1) < 0.01 * (task.y.max() - task.y.min())).numpy()),
            "monotone": ("seed", (slopes_kept & never_bypassed).numpy()),
            "least_rise": ("seed", (output - task.x).amin(1).numpy(), {"long_name": "least f(x) - x"}),
        },
        {"step": np.arange(0, steps + 1, 10), "seed": list(chain.members), "x": task.x.numpy()},
    )


def verdicts(data: xarray.Dataset, limits: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """Return for each architecture the article's claim, held, refuted or refined, and what was measured."""
    depths = [int(d) for d in data.depth]
    shallow, deep, middle = depths[0], depths[-1], 30
    every = "/".join(map(str, depths))

    def median(case: str, depth: int) -> float:
        return float(data.loss.sel(architecture=case, depth=depth).median())

    def percent(mask: xarray.DataArray, case: str, depth: int) -> float:
        return 100 * float(mask.sel(architecture=case, depth=depth).mean())

    def dead(case: str) -> str:
        return "/".join(f"{percent(data.dead, case, depth):.0f}" for depth in depths)

    stuck = data.loss > 0.9 * limits["constant"]
    rows = []

    flat = percent(data.flat, "plain_relu", middle)
    rows.append(
        (
            "plain_relu",
            "dies: with more layers everything is 0",
            "held" if flat >= 95 else "refuted",
            f"{flat:.0f} % flat at depth {middle}; exactly dead at depths {every}: {dead('plain_relu')} %",
        )
    )

    grown = data.sel(architecture="residual1_relu")
    rise, best = float(grown.least_rise.min()), float(grown.loss.min())
    rows.append(
        (
            "residual1_relu",
            "can only grow, so f(x) >= x",
            "held" if rise >= 0 else "refuted",
            f"least f(x) - x over all members and points {rise:.2g}; best error {best:.4f}, and that of the best "
            f"function above x {limits['above x']:.4f}",
        )
    )

    for case, claim in (
        ("residual2_relu", "keeps folding, fits any function; very deep it can still die"),
        ("residual2_prelu", "solves the dying"),
    ):
        error, late = median(case, middle), percent(stuck, case, deep)
        fits = error < 0.1 * limits["monotone"]
        dies = any(percent(data.dead, case, depth) > 0 for depth in depths)
        as_claimed = dies if case == "residual2_relu" else not dies and late == 0
        rows.append(
            (
                case,
                claim,
                ("held" if as_claimed else "refined") if fits else "refuted",
                f"median error {error:.1e} at depth {middle} on sin(x), the one function tried here; exactly dead at "
                f"depths {every}: {dead(case)} %; at depth {deep} {late:.0f} % end no better than a constant",
            )
        )

    works, flat = median("plain_prelu", shallow), percent(data.flat, "plain_prelu", middle)
    negative = 100 - percent(data.monotone, "plain_prelu", shallow)
    healed, monotone = median(IDENTITY, middle), percent(data.monotone, IDENTITY, middle) == 100
    at_limit = monotone and healed < 1.1 * limits["monotone"]
    reason = (
        f": its slopes stay >= 0, so it is monotone, and the best monotone function has {limits['monotone']:.4f}"
        if at_limit
        else f", where the best monotone function has {limits['monotone']:.4f}"
    )
    rows.append(
        (
            "plain_prelu",
            'does not work either, "a matter of numerical stability"',
            ("refined" if at_limit or works < limits["monotone"] else "held") if flat >= 95 else "refuted",
            f"at depth {shallow} the median error is {works:.1e}, and {negative:.0f} % of the members have a slope "
            f"below 0, which can fold; at depth {middle} {flat:.0f} % are flat, "
            f"{percent(data.dead, 'plain_prelu', middle):.0f} % dead. Started at the identity it ends at {healed:.4f}"
            + reason,
        )
    )
    return rows


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    seeds, steps, depths = (16, 400, (3, 10, 30)) if settings.quick else (64, 2000, (3, 10, 30, 100))
    task = st.Task(torch.sin, (-3, 3), points=256)
    limits = {
        "constant": st.references.constant(task),
        "monotone": st.references.best_monotone(task),
        "above x": st.references.best_above_identity(task),
    }
    splines = [st.references.best_spline(task, depth) for depth in depths]

    runs = [
        xarray.concat(
            [run(case, depth, seeds, steps, task, settings.seed) for depth in depths],
            xarray.IndexVariable("depth", list(depths)),
        )
        for case in CASES
    ]
    data = xarray.concat(runs, xarray.IndexVariable("architecture", list(CASES)))
    data["target"] = ("x", task.y.numpy())
    data["best_spline"] = ("depth", [spline.error for spline in splines])
    data["spline_lower_bound"] = ("depth", [spline.lower_bound for spline in splines])
    data = data.assign_attrs({f"best_{name.replace(' ', '_')}": value for name, value in limits.items()})

    print(f"Mean-squared error on sin(x), (-3, 3), {len(task.x)} points, {seeds} seeds, {steps} steps of Adam:\n")
    print(
        f"{'architecture':<28}{'depth':>6}{'best':>10}{'median':>10}{'worst':>10}{'dead':>7}{'flat':>7}{'spline':>10}"
    )
    for case in CASES:
        for depth, spline in zip(depths, splines, strict=True):
            one = data.sel(architecture=case, depth=depth)
            low, mid, high = (float(one.loss.quantile(q)) for q in (0, 0.5, 1))
            dead, flat = (f"{100 * float(one[k].mean()):.0f} %" for k in ("dead", "flat"))
            print(f"{case:<28}{depth:>6}{low:>10.1e}{mid:>10.1e}{high:>10.1e}{dead:>7}{flat:>7}{spline.error:>10.1e}")
    print("\nThe identity start of the plain chain has nothing random in it: its members are all alike.")
    print("References on these points: " + ", ".join(f"best {k} {v:.4f}" for k, v in limits.items()))
    below = int(((data.loss < limits["monotone"] * (1 - 1e-12)) & data.monotone).sum())
    print(f"Members that are monotone and yet below the best monotone function: {below} (must be 0)\n")
    for name, claim, verdict, measured in verdicts(data, limits):
        print(textwrap.fill(f"{name}: {claim}. {verdict.upper()}: {measured}.", 100, subsequent_indent="    "))
    paths = st.plots.save(draw(data), data, settings.out, "fit_sine")
    print("\nWritten: " + ", ".join(str(path) for path in paths))


def draw(data: xarray.Dataset) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    depths = data.depth.values
    with mpl.rc_context(st.plots.STYLE):
        figure, axes = plt.subplots(
            len(CASES), len(depths) + 1, figsize=(2.1 * len(depths) + 3, 1.75 * len(CASES)), sharex="col", squeeze=False
        )
        for row, case in zip(axes, CASES, strict=True):
            shade = st.plots.colour(CASES[case][0]) if case != IDENTITY else "#CC79A7"
            for ax, depth, alpha in zip(row, depths, np.linspace(0.35, 1, len(depths)), strict=False):
                one = data.sel(architecture=case, depth=depth)
                st.plots.fits(one.x, one.fit, one.target, ax, colour=shade)
                ax.set(ylim=(-1.6, 1.6), xlabel="", ylabel="")
                note = f"best {float(one.loss.min()):.1e}, median {float(one.loss.median()):.1e}"
                if float(one.dead.mean()) > 0:
                    note += f"\ndead {100 * float(one.dead.mean()):.0f} %"
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
                ax.text(0.03, 0.97, note, transform=ax.transAxes, va="top", fontsize=7, color="#333333", bbox=box)
                levels = one.loss_by_step.quantile([0.05, 0.5, 0.95], "seed")
                row[-1].fill_between(one.step, levels[0], levels[2], color=shade, alpha=0.12 * alpha, linewidth=0)
                row[-1].plot(one.step, levels[1], color=shade, alpha=alpha, linewidth=1.3)
            row[0].set_ylabel(case.replace(", ", ",\n") + "\nf(x)", fontsize=8)
            row[-1].set(yscale="log", ylim=(1e-6, 10))
            row[-1].axhline(data.attrs["best_constant"], color="#777777", linestyle="--", linewidth=1)
            row[-1].axhline(data.attrs["best_monotone"], color="#777777", linestyle=":", linewidth=1)
            row[-1].yaxis.tick_right()
            row[-1].yaxis.set_label_position("right")
            row[-1].set_ylabel("error", fontsize=8)
            row[-1].spines[["left", "right"]].set_visible(False)
        for ax, depth in zip(axes[0], depths, strict=False):
            ax.set_title(f"depth {depth}")
        axes[0, -1].set_title("mean-squared error against step")
        shades = [
            plt.Line2D([], [], color="#333333", alpha=alpha, label=f"depth {depth}")
            for depth, alpha in zip(depths, np.linspace(0.35, 1, len(depths)), strict=True)
        ]
        kinds = [
            plt.Line2D([], [], color="#777777", linestyle=style, label=f"best {kind}")
            for kind, style in (("constant", "--"), ("monotone", ":"))
        ]
        axes[0, -1].legend(handles=[*shades, *kinds], loc="lower left", ncols=2, fontsize=7)
        for ax in axes[-1]:
            ax.set_xlabel("x")
        axes[-1, -1].set_xlabel("step")
    return figure


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
