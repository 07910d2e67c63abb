"""The layers of a network in colours, and the bar that names them."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def name_layers(figure: Figure, ax: Axes, shown: ScalarMappable) -> None:
    """Add the bar that says which colour is which layer of birth."""
    bar = figure.colorbar(shown, ax=ax)
    bar.set_label("layer of birth")
    bar.locator = MaxNLocator(integer=True)
    bar.minorticks_off()
    bar.update_ticks()
