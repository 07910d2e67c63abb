"""Pictures of chains of growing depth beside the flow that they tend to."""

from __future__ import annotations

import textwrap

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stability.flows import Flow
from stability.foundation.arguments import door
from stability.plots.panel_parts import band
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes


@door
def flow(
    result: Flow | xarray.Dataset, ax: Axes | None = None, *, label: str | None = None, colour: str = DEFAULT
) -> Figure:
    """Draw how chains tend to a flow, against their depth; the title says how fast.

    Of an ordinary equation the distance of chains from it, median and quantiles over the seeds from 5 % to 95 %, with a
    dashed line of order 1 through the last median. Of a stochastic one the quantiles of chains from 5 % to 95 %, at the
    last point, with their intervals, and as lines those of the limit.

    Args:
        result: a `Flow`, or its dataset.
        ax: where to draw; None makes a new figure.
        label: what the legend says.
        colour: any matplotlib colour.

    >>> import torch, stability as st
    >>> tanh = st.Architecture("residual2_tanh", skip=1, maps=2, activation="tanh", branch_power=-1)
    >>> f = st.flow(tanh, torch.ones(1, dtype=torch.float64), depths=(10, 100), seeds=4)
    >>> figure = st.plots.flow(f, label="tanh")
    """
    data = dataset_of(result, Flow, "st.flow", ["ends", "limit"], ["depth", "seed"])
    figure, ax = axes_of(ax)
    depths = data["depth"].to_numpy()
    ax.set_xscale("log")
    if "distances" in data:
        distances = data["distances"].transpose("depth", "seed").to_numpy()
        levels = np.quantile(distances, [0.05, 0.5, 0.95], axis=1)
        band(ax, depths, levels, colour, marks=3.5, label=label)
        ax.plot(depths, levels[1][-1] * depths[-1] / depths, color="#777777", linestyle=(0, (4, 2)), linewidth=1)
        ax.set_yscale("log")
        name_axes(ax, "depth L", "distance of h(L) from the flow", label)
    else:
        one = data.isel(x=-1, statistic=slice(2, None))
        for place in range(one.sizes["statistic"]):
            quantile = one.isel(statistic=place)
            value, half = quantile["statistics"].to_numpy(), quantile["half_widths"].to_numpy()
            ax.axhline(float(quantile["limits"]), color="#777777", linewidth=1)
            named = label if place == 0 else None
            ax.errorbar(depths, value, half, fmt="o", color=colour, markersize=3.5, linewidth=1, label=named)
        size = "h(L)" if data.sizes["index"] == 1 else "root mean square of h(L)"
        name_axes(ax, "depth L", f"quantiles of {size}: 5, 25, 50, 75, 95 %", label)
    finding = str(data.attrs["finding"])
    ax.set_title(textwrap.fill(finding[0].upper() + finding[1:], 52), loc="left")
    return figure
