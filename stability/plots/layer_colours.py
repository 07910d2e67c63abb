"""The colours of the layers of a network, and the bar that names them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import MaxNLocator

# What of a colour map the layers take: its bright end is lost on paper.
_SEEN = 0.8


def layer_colours(layers: int, colour: str) -> tuple[ListedColormap, BoundaryNorm]:
    """Return one colour a layer, from the dark end of a colour map on, and which number has which."""
    colours = ListedColormap(mpl.colormaps[colour](np.linspace(0, _SEEN, layers)))
    return colours, BoundaryNorm(np.arange(layers + 1) - 0.5, layers)


def name_layers(bar: Colorbar) -> None:
    """Let a bar say which colour is which layer of birth."""
    bar.set_label("layer of birth")
    bar.locator = MaxNLocator(integer=True)
    bar.minorticks_off()
    bar.update_ticks()
