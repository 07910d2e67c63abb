"""The house style: one colour an architecture everywhere, and one look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import xarray
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision can tell apart.
_COLOURS = {
    "plain_relu": "#000000",
    "residual1_relu": "#E69F00",
    "residual2_relu": "#56B4E9",
    "residual2_prelu": "#0072B2",
    "plain_prelu": "#D55E00",
}
_OTHER = "#009E73"
#: Of what belongs to no architecture.
DEFAULT = "#0072B2"

#: The house style, for `matplotlib.rc_context`: sizes for print, colours that colour-blind readers can tell apart.
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


class Result(Protocol):
    """What a measurement returns: it can be labelled and stored."""

    def to_dataset(self) -> xarray.Dataset: ...


def colour(architecture: str) -> str:
    """Return the colour of an architecture by its name; all that are not the article's five share one.

    >>> import stability as st
    >>> st.plots.colour("plain_prelu")
    '#D55E00'
    """
    if not isinstance(architecture, str):
        raise TypeError(f"architecture is a {type(architecture).__name__}: expected its name, a text")
    return to_hex(_COLOURS.get(architecture, _OTHER)).upper()


def axes_of(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the axes given and their figure, or new ones in the house style."""
    if ax is None:
        with mpl.rc_context(STYLE):
            return plt.subplots(figsize=(5, 3.4))
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure, ax


def dataset_of(
    result: object, kind: type[Result], call: str, variables: Sequence[str], dims: Sequence[str]
) -> xarray.Dataset:
    """Return the dataset of a result, which may be one already, with any choice along its dimensions.

    Args:
        kind, call: what the result must be, and what gives it.
        variables: that the dataset must have.
        dims: that it has in the end: one along which a single place was chosen has the length 1.
    """
    if not isinstance(result, xarray.Dataset):
        if not isinstance(result, kind):
            raise TypeError(f"the result is a {type(result).__name__}: expected what {call} gave, or its dataset")
        return result.to_dataset()
    missing = [name for name in variables if name not in result.variables]
    if missing:
        raise ValueError(
            f"the dataset has no {', '.join(missing)}: it has {', '.join(map(str, result.variables))}; expected "
            f"that of what {call} gave"
        )
    for dim in dims:
        if dim not in result.dims:
            if dim not in result.coords:
                raise ValueError(f"the dataset has no {dim}: expected that of what {call} gave, with it")
            result = result.expand_dims(dim)
    return result


def name_axes(ax: Axes, x: str, y: str, label: str | None) -> None:
    """Name both axes, and show the legend where there is a label."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if label is not None:
        ax.legend()
