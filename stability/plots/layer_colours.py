"""The bar that names the layers of a network by their colours."""

from __future__ import annotations

from matplotlib.colorbar import Colorbar
from matplotlib.ticker import MaxNLocator


def name_layers(bar: Colorbar) -> None:
    """Let a bar say which colour is which layer of birth."""
    bar.set_label("layer of birth")
    bar.locator = MaxNLocator(integer=True)
    bar.minorticks_off()
    bar.update_ticks()
