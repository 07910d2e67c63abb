"""Pictures of folded lines: a function with its folds, and how their number grows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from stability.folds import Count, PiecewiseLinear
from stability.foundation.arguments import door
from stability.foundation.checks import check_finite
from stability.plots.layer_colours import layer_colours, name_layers
from stability.plots.style import DEFAULT, axes_of, name_axes


@door
def function(
    result: PiecewiseLinear,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    alpha: float = 1.0,
    marks: bool = True,
    births: bool = False,
) -> Figure:
    """Draw a scalar piecewise-linear function, exactly: its knots are joined by straight lines.

    Folds are dots, and turns, where the slope changes its sign, are larger ones.

    Args:
        result: the function.
        ax, label, colour, alpha: where and how to draw.
        marks: whether to mark folds and turns.
        births: whether the folds have the colours of the layers where they were born, with a bar that names them: dark
            for the first, grey for those of the line itself. For what `st.restrict` made.

    Raises:
        ValueError: for a vector function, and with `births` for one of which they are not known.

    >>> import stability as st
    >>> figure = st.plots.function(st.restrict(st.tent(4), (0, 1)))
    """
    if not isinstance(result, PiecewiseLinear):
        raise TypeError(
            f"the result is a {type(result).__name__}: expected one PiecewiseLinear; draw a list one by one"
        )
    figure, ax = axes_of(ax)
    turns, heights = result.extrema()
    values = result.values.reshape(-1).astype(np.float64)
    ax.plot(result.knots.astype(np.float64), values, color=colour, alpha=alpha, linewidth=1.3, label=label)
    if births:
        _mark_births(figure, ax, result, alpha)
    elif marks:
        folds = result.folds()
        ax.plot(folds, result(folds).reshape(-1), "o", markersize=2.2, color=colour, alpha=alpha, linestyle="none")
    if marks:
        ax.plot(
            turns, heights, "o", markersize=4.2, markerfacecolor="white", color=colour, alpha=alpha, linestyle="none"
        )
    name_axes(ax, "t", "f(t)", label)
    return figure


def _mark_births(figure: Figure, ax: Axes, function: PiecewiseLinear, alpha: float) -> None:
    born = function.folds(births=True)
    places, heights = born.at.astype(np.float64), function(born.at).reshape(-1).astype(np.float64)
    theirs = born.layers < 0
    ax.plot(places[theirs], heights[theirs], "o", markersize=3, color="#999999", alpha=alpha, linestyle="none")
    colours, norm = layer_colours(max(len(function.count(births=True).births or ()), 1), "viridis")
    dots = ax.scatter(
        places[~theirs],
        heights[~theirs],
        s=12,
        c=born.layers[~theirs],
        cmap=colours,
        norm=norm,
        alpha=alpha,
        zorder=3,
        linewidths=0,
    )
    name_layers(figure.colorbar(dots, ax=ax))


@door
def counts(
    result: Mapping[int, ArrayLike] | Mapping[float, ArrayLike],
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
) -> Figure:
    """Draw counts against depth: the median over seeds, and bands from 25 to 75 % and from 5 to 95 %.

    The scale is linear up to 1 and logarithmic above, so that 0 has a place.

    Args:
        result: by depth (or by what else they grow with), the counts of all seeds, (seeds,), not negative.
        ax, label, colour: where and how to draw.

    >>> import stability as st
    >>> chain = st.Chain("residual2_prelu", depth=30, seeds=20, init="uniform")
    >>> folds = {depth: st.count(chain.prefix(depth), (-3, 3)).folds for depth in (1, 3, 10, 30)}
    >>> figure = st.plots.counts(folds)
    """
    if not isinstance(result, Mapping) or not result:
        raise TypeError(f"the result is {result!r}: expected a dictionary of the counts of all seeds by depth")
    if any(isinstance(row, Count) for row in result.values()):
        raise TypeError("the numbers are Counts: expected one kind of them, such as count.folds")
    figure, ax = axes_of(ax)
    try:
        depths = np.asarray(list(result), dtype=np.float64)
        numbers = np.asarray(list(result.values()), dtype=np.float64)
    except OverflowError:
        raise ValueError("the numbers leave float64's range: draw their logarithms") from None
    check_finite("depths", depths)
    check_finite("the numbers", numbers)
    if depths.ndim != 1 or numbers.ndim != 2 or (numbers < 0).any():
        raise ValueError(
            f"the numbers of all depths have the shape {numbers.shape}: expected (depths, seeds), counts that are not "
            "negative"
        )
    levels = np.quantile(numbers, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)
    ax.fill_between(depths, levels[0], levels[4], color=colour, alpha=0.12, linewidth=0)
    ax.fill_between(depths, levels[1], levels[3], color=colour, alpha=0.3, linewidth=0)
    ax.plot(depths, levels[2], color=colour, linewidth=1.5, label=label)
    ax.set_yscale("symlog", linthresh=1, linscale=0.5)
    ax.set_ylim(0, 1.5 * max(ax.dataLim.y1, 1.0))
    name_axes(ax, "depth", "count", label)
    return figure
