"""Pictures of what a training does along the relative depth, a line a depth, and of the exponents."""

from __future__ import annotations

import math
import re

import numpy as np
import xarray
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from stability.foundation.arguments import door
from stability.foundation.checks import check_name
from stability.plots.lettered_panels import headline, panels
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes
from stability.scaling import DepthCheck

#: What is drawn along which dimension, and what the axis is called.
_PROFILES = {
    "state": ("log_state", "relative_depth", "rms of the state at the start"),
    "change": ("log_change", "relative_depth", "rms of its change by the updates"),
    "share": ("log_share", "relative_layer", "change of the output by one layer"),
    "gradient": ("log_gradient", "relative_layer", "norm of the layer's gradient"),
}
_PANELS = {"a": "change", "b": "share"}


@door
def depth_check(
    result: DepthCheck | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = "viridis",
    quantity: str | None = None,
) -> Figure:
    """Draw what a training does to a network along its relative depth, one line a depth, and the exponents.

    A line is the median over seeds, a band reaches from the least to the largest. Where nothing depends on the depth
    the lines lie on one another. Without `ax` and `quantity` there are three panels: the change of the state, the
    share of a layer, and the exponents of all quantities with their intervals.

    Args:
        result: a `DepthCheck`, or its dataset.
        ax: where to draw one quantity; None makes a new figure.
        label: what the title says; by default how to undo what was found.
        colour: one of matplotlib's colour maps, for the depths.
        quantity: "state", "change", "share", "gradient" or "exponents"; on given axes "change" by default.

    Raises:
        ValueError: for another quantity.

    >>> import torch, stability as st
    >>> chain = lambda depth: torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(depth)))
    >>> check = st.depth_check(chain, [2, 4], torch.randn(3, 8), lambda y: y.square().mean(), seeds=2)
    >>> figure = st.plots.depth_check(check)
    """
    needed = [*(name for name, _, _ in _PROFILES.values()), "exponent", "exponent_low", "exponent_high"]
    data = dataset_of(result, DepthCheck, "st.depth_check", needed, ["depth", "seed", "iteration"])
    if quantity is not None:
        check_name("quantity", quantity, [*_PROFILES, "exponents"])
    shades = colormaps[colour] if isinstance(colour, str) and colour in colormaps else colour
    if ax is None and quantity is None:
        figure, axes = panels("abc", 2.7, width_ratios=[1, 1, 0.9])
        for letter, name in _PANELS.items():
            _lines(data, axes[letter], name, shades, legend=letter == "a")
        _exponents(data, axes["c"])
        headline(figure, label if label is not None else _sentence(data))
        return figure
    figure, ax = axes_of(ax)
    if quantity == "exponents":
        _exponents(data, ax)
    else:
        _lines(data, ax, quantity or "change", shades, legend=True)
    if label is not None:
        ax.set_title(label)
    return figure


def _lines(data: xarray.Dataset, ax: Axes, quantity: str, shades: Colormap | str, *, legend: bool) -> None:
    name, along, words = _PROFILES[quantity]
    sizes = data[name].isel(iteration=-1) if "iteration" in data[name].dims else data[name]
    sizes = sizes.transpose("depth", "seed", along)
    depths, at = data["depth"].to_numpy(), data[along].to_numpy()
    for place, depth in enumerate(depths):
        logs = sizes.isel(depth=place).to_numpy()
        logs = logs[np.isfinite(logs).all(axis=1)]
        if not len(logs):
            continue
        shade = shades(0.9 * place / max(1, len(depths) - 1)) if isinstance(shades, Colormap) else shades
        low, middle, high = np.exp(np.quantile(logs, [0, 0.5, 1], axis=0))
        mark = "o" if len(at) > 1 else "s"
        ax.plot(at, middle, color=shade, marker=mark, markersize=3, label=f"depth {depth}" if not place else f"{depth}")
        ax.fill_between(at, low, high, color=shade, alpha=0.15, linewidth=0)
    if ax.lines:
        ax.set_yscale("log")
    name_axes(ax, "relative depth" if along == "relative_depth" else "layer, from first (0) to last (1)", words, None)
    if legend and ax.lines:
        # Above the panel, as lines that rise and fall leave no corner free.
        ax.legend(
            fontsize=7,
            ncols=len(depths),
            handlelength=0.8,
            columnspacing=0.7,
            handletextpad=0.3,
            loc="lower right",
            bbox_to_anchor=(1.03, 0.99),
            borderaxespad=0.2,
        )


def _exponents(data: xarray.Dataset, ax: Axes) -> None:
    """Draw the exponents with their intervals, the first quantity at the top."""
    names = [str(name) for name in data["quantity"].to_numpy()]
    heights = np.arange(len(names))[::-1]
    values, low, high = (data[name].to_numpy() for name in ("exponent", "exponent_low", "exponent_high"))
    ax.axvline(0, color="0.6", linewidth=1)
    for height, value, one, other in zip(heights, values, low, high, strict=True):
        if math.isfinite(other - one):
            ax.plot([one, other], [height, height], color=DEFAULT, linewidth=1.5, solid_capstyle="butt")
        ax.plot(value, height, "o", color=DEFAULT, markersize=4)
    ax.set_yticks(heights, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel("exponent of the depth")


def _sentence(data: xarray.Dataset) -> str:
    """Return the finding as the sentence above a figure."""
    words = str(data.attrs.get("advice", ""))
    names = list(map(str, data["quantity"].to_numpy()))
    if "change" in names:
        value = float(data["exponent"].to_numpy()[names.index("change")])
        words = f"The last state changes like depth$^{{{value:.2f}}}$; {words}"
    words = re.sub(r"depth\^(-?[\d./]+)", r"depth$^{\1}$", words)
    return words[:1].upper() + words[1:] + "."
