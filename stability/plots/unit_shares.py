"""A picture of what the units of a network do."""

from __future__ import annotations

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stability.foundation.arguments import door
from stability.plots.style import DEFAULT, axes_of, dataset_of
from stability.signals import Units

#: What is drawn of every layer: the words of the legend, and how.
_LINES = {
    "share_dead": ("dead", "-", "s"),
    "share_dormant": ("dormant", "--", "o"),
    "share_saturated": ("saturated", ":", "^"),
}


@door
def units(
    result: Units | xarray.Dataset, ax: Axes | None = None, *, label: str | None = None, colour: str = DEFAULT
) -> Figure:
    """Draw the share of dead, dormant and saturated units of every layer, and its effective rank over its width.

    The median over seeds. A layer of which nothing can be saturated has no mark there.

    Args:
        result: a `Units`, or its dataset.
        ax: where to draw; None makes a new figure.
        label: what the title says.
        colour: any matplotlib colour, of the shares.

    >>> import torch, stability as st
    >>> net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()) for _ in range(5)))
    >>> figure = st.plots.units(st.units(net, torch.randn(50, 8)))
    """
    needed = [*_LINES, "effective_rank", "width"]
    data = dataset_of(result, Units, "st.units", needed, ["layer", "seed"])
    figure, ax = axes_of(ax)
    layers = np.arange(1, data.sizes["layer"] + 1)
    used = (data["effective_rank"] / data["width"]).median("seed").to_numpy()
    ax.bar(layers, used, color="0.85", width=0.8, label="effective rank / units")
    for name, (words, line, mark) in _LINES.items():
        shares = data[name].median("seed").to_numpy()
        if not np.isnan(shares).all():
            ax.plot(layers, shares, line, marker=mark, markersize=4, color=colour, label=words, clip_on=False)
    ax.set_ylim(0, 1)
    ax.set_xlabel("layer")
    ax.set_ylabel("share of the units")
    shown = np.arange(0, len(layers), -(-len(layers) // 12))
    ax.set_xticks(layers[shown], [str(name) for name in data["layer"].to_numpy()[shown]])
    if label is not None:
        ax.set_title(label, pad=30)  # the legend is below it, as there is no room inside
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, columnspacing=1, fontsize=7, frameon=False)
    return figure
