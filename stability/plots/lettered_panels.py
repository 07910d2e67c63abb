"""A figure of a few panels: letters, one sentence above, names at the ends of lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_positive
from stability.plots.style import STYLE

Array = NDArray[np.float64]
#: The width of a page in inches. Figures are made as wide as they are printed, so that 8 points are 8 points.
PAGE_WIDTH = 7.0
#: Points.
_TEXT, _LEAST = 8.0, 7.0
_LOOK: Any = {
    **STYLE,
    "font.size": _TEXT,
    "axes.titlesize": _TEXT,
    "axes.labelsize": _TEXT,
    "xtick.labelsize": _LEAST,
    "ytick.labelsize": _LEAST,
    "legend.fontsize": _LEAST,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
}


@door
def panels(mosaic: str, height: float, **options: Any) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure of one page's width and its panels by letter, which stands in bold above each.

    Args:
        mosaic: how the panels lie, as for `matplotlib.pyplot.subplot_mosaic`: "ab;cd" is two rows of two.
        height: in inches.
        options: what else `subplot_mosaic` takes, such as height_ratios.

    >>> import stability as st
    >>> figure, axes = st.plots.panels("ab;cd", height=4)
    >>> sorted(axes)
    ['a', 'b', 'c', 'd']
    """
    rows = mosaic.split(";") if isinstance(mosaic, str) else []
    if not _is_even(rows):
        raise ValueError(f"mosaic is {mosaic!r}: expected letters in rows of one length, such as 'ab;cd'")
    check_positive("height", height)
    with mpl.rc_context(_LOOK):
        # No pyplot: nothing is left behind, and no window is opened.
        figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        axes = figure.subplot_mosaic(mosaic, **options)
    for letter, ax in axes.items():
        ax.set_title(letter, loc="left", fontweight="bold", fontsize=_TEXT + 1)
    return figure, axes


@door
def headline(figure: Figure, text: str) -> Figure:
    """Set the sentence that says what a figure shows above its panels, in as many lines as it takes; return the figure.

    >>> import stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> figure = st.plots.headline(figure, "Folds double with every step.")
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure is a {type(figure).__name__}: expected a matplotlib Figure")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text is {text!r}: expected a sentence")
    font, room, left = FontProperties(size=_TEXT + 1), 0.97 * 72 * figure.get_figwidth(), 0.0

    def width(word: str) -> float:  # a word by itself, as a line with a formula in it takes long to measure
        return float(text_to_path.get_text_width_height_descent(word, font, "$" in word)[0])

    lines: list[str] = []
    for word in re.findall(r"(?:\$[^$]*\$|\S)+", text):  # a formula is one word
        left -= width(" ") + width(word)
        if lines and left >= 0:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
            left = room - width(word)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=_TEXT + 1)
    return figure


@door
def end_labels(ax: Axes, labels: Mapping[str, float], colours: Mapping[str, str] | None = None) -> None:
    """Write the names of lines to the right of the panel, each at the height where its line ends, apart if these meet.

    To be called when the limits of the panel are what they will be.

    Args:
        ax: the panel.
        labels: the height of every name, in the panel's own units.
        colours: the colour of a name; black for those without.

    >>> import stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> st.plots.end_labels(axes["a"], {"plain": 0.5, "residual": 0.51}, {"plain": "#D55E00"})
    """
    for name, given in (("labels", labels), ("colours", {} if colours is None else colours)):
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise TypeError(f"{name} is a {type(given).__name__}: expected a dictionary by the names of the lines")
    shades = {} if colours is None else dict(colours)
    if not set(shades) <= set(labels):
        raise ValueError(f"colours has {sorted(set(shades) - set(labels))}: these are none of the labels")
    heights = np.array(list(labels.values()), dtype=np.float64)
    if not np.isfinite(heights).all():
        raise ValueError(f"a height is not finite: {dict(labels)}; leave out the lines that do not reach the end")
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = to_axes.transform(np.column_stack([np.full(len(heights), ax.get_xlim()[1]), heights]))[:, 1]
    figure = ax.get_figure(root=True)
    assert figure is not None
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # it settles how high the panel is
    line = 1.25 * _LEAST / 72 / (ax.get_position().height * figure.get_figheight())
    sizes = line * np.array([1 + name.count("\n") for name in labels])
    place = ax.transAxes
    for name, height in zip(labels, _apart(wanted, sizes), strict=True):
        shade = shades.get(name, "black")
        ax.text(1.02, float(height), name, color=shade, fontsize=_LEAST, va="center", clip_on=False, transform=place)


@door
def ticks(ax: Axes, x: Sequence[float] | None = None, y: Sequence[float] | None = None) -> None:
    """Mark these places alone, each by its number, as on a logarithmic axis of depths; small ticks go from both axes.

    Args:
        ax: the panel, on its final scales.
        x, y: the places along each axis; None leaves its large ticks as they are.

    >>> import stability as st
    >>> figure, axes = st.plots.panels("a", height=2)
    >>> axes["a"].set(xscale="log", xlim=(3, 1000))  # doctest: +ELLIPSIS
    [...]
    >>> st.plots.ticks(axes["a"], x=[3, 10, 30, 100, 300, 1000])
    """
    for name, places, axis in (("x", x, ax.xaxis), ("y", y, ax.yaxis)):
        if places is not None:
            found = np.asarray(places)
            if found.ndim != 1 or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
                raise ValueError(f"{name} is {places!r}: expected the places, finite numbers")
            axis.set_ticks(found.tolist(), [f"{place:.12g}" for place in found.tolist()])
    ax.minorticks_off()


def _is_even(rows: list[str]) -> bool:
    return (
        bool(rows)
        and bool(rows[0])
        and len(set(map(len, rows))) == 1
        and all(row.replace(".", "").isalpha() for row in rows)
    )


def _apart(wanted: Array, sizes: Array) -> Array:
    """Return heights in the order of those wanted, as near as can be, at which words of such sizes are apart."""
    order = np.argsort(wanted, kind="stable")
    up = np.cumsum(sizes[order]) - sizes[order] / 2  # where they are if they touch
    # Less this they are to be non-decreasing, and the nearest such numbers are means over blocks.
    blocks: list[list[float]] = []
    for height in wanted[order] - up:
        blocks.append([height])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    found = np.empty(len(order))
    found[order] = [np.mean(block) for block in blocks for _ in block] + up
    return found
