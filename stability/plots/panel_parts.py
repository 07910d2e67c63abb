"""Small parts of panels: a median with its band, and a table of numbers on their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike

from stability.foundation.arguments import check_numbers, door
from stability.foundation.checks import check_number, check_positive

#: Numbers are white on colours darker than this, of 1.
_DARK = 0.55


@door
def band(
    ax: Axes,
    x: ArrayLike,
    levels: ArrayLike,
    colour: str,
    marks: float = 0.0,
    alpha: float = 0.2,
    label: str | None = None,
) -> None:
    """Draw a line in the middle of a band, where all of them are finite.

    Args:
        ax: the panel.
        x: the places, (n,).
        levels: the lower end, the middle and the upper end, (3, n), such as quantiles of 0.05, 0.5 and 0.95.
        colour: of both.
        marks: the size of dots on the line, in points; 0 for none.
        alpha: of the band.
        label: what a legend says.

    >>> import numpy as np, stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> values = np.random.default_rng(0).normal(size=(100, 5))
    >>> st.plots.band(axes["a"], range(5), np.quantile(values, [0.05, 0.5, 0.95], axis=0), "#0072B2")
    """
    check_numbers("x", x)
    check_numbers("levels", levels)
    check_number("marks", marks, 0.0)
    places, found = np.asarray(x, dtype=np.float64), np.asarray(levels, dtype=np.float64)
    if places.ndim != 1 or found.shape != (3, places.size):
        raise ValueError(f"levels has shape {found.shape} and x {places.shape}: expected (3, n) and (n,)")
    if (found[0] > found[1]).any() or (found[1] > found[2]).any():
        raise ValueError("levels are not in order: expected the lower end, the middle and the upper end")
    shown = np.isfinite(found).all(axis=0)
    low, middle, high = found[:, shown]
    ax.fill_between(places[shown], low, high, color=colour, alpha=alpha, linewidth=0)
    ax.plot(places[shown], middle, "o-" if marks else "-", color=colour, markersize=marks, label=label)


@door
def numbers(
    ax: Axes,
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    most: float = 100.0,
    below: float | None = None,
    cmap: str = "Greys",
) -> None:
    """Draw a table: a cell a number, in its colour and, where it is small enough, written. NaN is left blank.

    Args:
        ax: the panel.
        values: (rows, columns).
        rows, columns: what stands beside and below them.
        most: what has the last colour; the first is that of 0.
        below: numbers are written below this; None writes all.
        cmap: the name of a colour map.

    >>> import stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> st.plots.numbers(axes["a"], [[10.0, 90.0]], ["plain"], ["depth 3", "depth 10"])
    """
    check_numbers("values", values)
    check_positive("most", most)
    written = np.inf if below is None else check_number("below", below)
    for name, given in (("rows", rows), ("columns", columns)):
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            raise TypeError(f"{name} is a {type(given).__name__}: expected a list of texts")
    if not isinstance(cmap, str) or cmap not in colormaps:
        raise ValueError(f"cmap is {cmap!r}: expected the name of a colour map of matplotlib")
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (len(rows), len(columns)):
        raise ValueError(f"values has shape {found.shape}: expected ({len(rows)}, {len(columns)}), as rows and columns")
    ax.imshow(found, cmap=cmap, vmin=0, vmax=most, aspect="auto")
    tones = colormaps[cmap](Normalize(0, most, clip=True)(found))[..., :3] @ [0.299, 0.587, 0.114]
    for (row, column), value in np.ndenumerate(found):
        if np.isfinite(value) and value < written:
            shade = "white" if tones[row, column] < _DARK else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=shade)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
