"""Small parts of panels: a median with its band, and a table of numbers on their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike

from stability.foundation.arguments import check_numbers, door

#: Numbers are white on colours darker than this, of 1.
_DARK = 0.55


@door
def band(
    ax: Axes, x: ArrayLike, levels: ArrayLike, colour: str, style: str = "-", alpha: float = 0.2, size: float = 3.0
) -> None:
    """Draw a line in the middle of a band, where all of them are finite.

    Args:
        ax: the panel.
        x: the places, (n,).
        levels: the lower end, the middle and the upper end, (3, n), such as quantiles of 0.05, 0.5 and 0.95.
        colour: of both.
        style: of the line, as matplotlib writes it: "o-" has marks.
        alpha: of the band.
        size: of the marks, in points.

    >>> import numpy as np, stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> values = np.random.default_rng(0).normal(size=(100, 5))
    >>> st.plots.band(axes["a"], range(5), np.quantile(values, [0.05, 0.5, 0.95], axis=0), "#0072B2")
    """
    check_numbers("x", x)
    check_numbers("levels", levels)
    places, found = np.asarray(x, dtype=np.float64), np.asarray(levels, dtype=np.float64)
    if places.ndim != 1 or found.shape != (3, places.size):
        raise ValueError(f"levels has shape {found.shape} and x {places.shape}: expected (3, n) and (n,)")
    if (found[0] > found[1]).any() or (found[1] > found[2]).any():
        raise ValueError("levels are not in order: expected the lower end, the middle and the upper end")
    shown = np.isfinite(found).all(axis=0)
    low, middle, high = found[:, shown]
    ax.fill_between(places[shown], low, high, color=colour, alpha=alpha, linewidth=0)
    ax.plot(places[shown], middle, style, color=colour, markersize=size)


@door
def numbers(
    ax: Axes,
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float] = (0.0, 100.0),
    below: float = np.inf,
    colour: str = "Greys",
) -> None:
    """Draw a table: a cell a number, in its colour and, where it is small enough, written. NaN is left blank.

    Args:
        ax: the panel.
        values: (rows, columns).
        rows, columns: what stands beside and below them.
        limits: the values of the first and the last colour.
        below: numbers are written below this.
        colour: the name of a colour map.

    >>> import stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> st.plots.numbers(axes["a"], [[10.0, 90.0]], ["plain"], ["depth 3", "depth 10"])
    """
    check_numbers("values", values)
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (len(rows), len(columns)):
        raise ValueError(f"values has shape {found.shape}: expected ({len(rows)}, {len(columns)}), as rows and columns")
    low, high = limits
    ax.imshow(found, cmap=colour, vmin=low, vmax=high, aspect="auto")
    tones = colormaps[colour](Normalize(low, high, clip=True)(found))[..., :3] @ [0.299, 0.587, 0.114]
    for (row, column), value in np.ndenumerate(found):
        if np.isfinite(value) and value < below:
            shade = "white" if tones[row, column] < _DARK else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=shade)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
