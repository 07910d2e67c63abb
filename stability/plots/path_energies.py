"""Pictures of how a Jacobian product spreads over path lengths."""

from __future__ import annotations

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stability.foundation.arguments import door
from stability.jacobians import Paths
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes

#: Path lengths at the ends that hold less than this share of the energy are not shown.
_FAINT = 1e-4


@door
def paths(
    result: Paths | xarray.Dataset, ax: Axes | None = None, *, label: str | None = None, colour: str = DEFAULT
) -> Figure:
    """Draw the share of the energy by path length, and beside it what random signs would give.

    The line is the median over the batch of the share that each path length has in sum_k |C_k|^2, the dark band the
    middle half, the light band from 5 % to 95 %. Dashed is the median of what the same branches would have with random
    signs (`Paths.random_signs`), dotted the binomial of branches that are equally strong besides (`Paths.binomial`).
    Lengths at the ends that next to no energy is in are left out.

    Args:
        result: a `Paths`, or its dataset.
        ax: where to draw; None makes a new figure.
        label: what the legend says.
        colour: any matplotlib colour.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=50, seeds=20)
    >>> figure = st.plots.paths(st.paths(chain, torch.ones(1, dtype=torch.float64)), label="residual2_prelu")
    """
    figure, ax = axes_of(ax)
    data = dataset_of(result, Paths, "st.paths", ["share", "random_signs", "binomial"], ["length"])
    lengths = data["length"].to_numpy()
    share, random, equal = (
        data[name].transpose("length", ...).to_numpy().reshape(len(lengths), -1)
        for name in ("share", "random_signs", "binomial")
    )
    low, quarter, middle, three, high = np.quantile(share, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)
    expected = {"random signs": (np.median(random, axis=1), "--"), "binomial": (np.median(equal, axis=1), ":")}
    seen = np.flatnonzero((high > _FAINT) | (expected["random signs"][0] > _FAINT) | (expected["binomial"][0] > _FAINT))
    shown = slice(seen[0], seen[-1] + 1) if len(seen) else slice(None)
    ax.fill_between(lengths[shown], low[shown], high[shown], color=colour, alpha=0.15, linewidth=0)
    ax.fill_between(lengths[shown], quarter[shown], three[shown], color=colour, alpha=0.3, linewidth=0)
    ax.plot(lengths[shown], middle[shown], color=colour, linewidth=1.5, label=label)
    for name, (line, style) in expected.items():
        words = f"{label}: {name}" if label else name
        ax.plot(lengths[shown], line[shown], style, color=colour, linewidth=1.2, label=words)
    ax.set_ylim(bottom=0)
    name_axes(ax, "path length, in layers", "share of the energy", label)
    return figure
