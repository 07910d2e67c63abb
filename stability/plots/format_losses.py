"""Pictures of what floating-point formats do to a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_name, check_positive
from stability.foundation.formats import format_name
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes
from stability.precision import FirstFailures, ForwardErrors

_MARKS = {"activations": "o", "products": "s", "gradients": "^"}


@door
def first_failure(
    result: FirstFailures | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    top: float = 0.0,
    size: float = 4.5,
) -> Figure:
    """Draw after how many layers activations, products and gradients first fail, a row a format.

    A filled mark is the median over seeds, a circle of activations, a square of products and a triangle of gradients,
    with a bar from 5 % to 95 %; a black tick is the median of what was predicted. Where fewer than half of the seeds
    fail, an open mark beyond the depth says that the median survives it; the tick is then left out if that was
    predicted too. A bar that ends beyond the depth has seeds that do not fail. What was not both measured and
    predicted has no mark.

    Args:
        result: a `FirstFailures`, or its dataset.
        ax: where to draw; None makes a new figure.
        label: what the legend says, beside what the marks mean.
        colour: any matplotlib colour.
        top: where the first row is; the others follow below it, one apart, so that several results have room.
        size: of the marks, in points.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> f = st.first_failure(st.Chain("plain_prelu", depth=30, seeds=9), x, formats=["float16", "bfloat16"])
    >>> figure = st.plots.first_failure(f)
    """
    check_positive("size", size)
    fresh = ax is None
    figure, ax = axes_of(ax)
    data = dataset_of(
        result, FirstFailures, "st.first_failure", ["measured", "predicted"], ["dtype", "quantity", "kind", "seed"]
    )
    data = data.transpose("dtype", "quantity", "kind", "seed", ...)
    measured, predicted = (data[name].to_numpy() for name in ("measured", "predicted"))
    both = (measured >= 0) & (predicted >= 0)  # so that the two can be compared
    depth = int(data.attrs["depth"])
    formats, quantities = data["dtype"].values.tolist(), data["quantity"].values.tolist()
    heights = 0.29 * (np.arange(len(quantities)) - (len(quantities) - 1) / 2)
    for row, place in np.ndindex(len(formats), len(quantities)):
        y, edge = top + row + heights[place], _edge(depth, place)
        known = both[row, place]
        if not known.any():
            continue
        low, middle, high = np.minimum(_levels(measured[row, place], known, (0.05, 0.5, 0.95)), edge)
        (expected,) = np.minimum(_levels(predicted[row, place], known, (0.5,)), edge)
        if low < edge:
            ax.plot([low, min(high, 1.1 * depth)], [y, y], color=colour, alpha=0.4, linewidth=2, solid_capstyle="butt")
        look: dict[str, Any] = {
            "color": colour,
            "markersize": size,
            "markeredgewidth": 0.8,
            "linestyle": "",
            "clip_on": False,
        }
        mark = _MARKS.get(quantities[place], "D")
        ax.plot([middle], [y], marker=mark, markerfacecolor=colour if middle < edge else "white", zorder=3, **look)
        if min(middle, expected) < edge:
            ax.plot([expected], [y], "|", color="black", markersize=size + 2, markeredgewidth=0.9, zorder=4)
    ax.set_xscale("log")
    ax.set_xlim(0.9, 1.15 * _edge(depth, len(quantities) - 1))
    name_axes(ax, "layers until the first failure", "", None)
    if fresh:
        ax.set_yticks([top + row for row in range(len(formats))], formats)
        ax.set_ylim(top + len(formats) - 0.5, top - 0.5)
    if label is not None:
        keys = [
            ax.plot([], [], _MARKS.get(quantity, "D"), color=colour, label=f"{label}: {quantity}")[0]
            for quantity in quantities
        ]
        ax.legend(handles=keys)
    return figure


def _edge(depth: int, place: int) -> float:
    """Return where a quantity that survives all layers is drawn, each in a column of its own."""
    return float(depth * 1.3 * 1.22**place)


def _levels(layers: NDArray[np.int64], known: NDArray[np.bool_], q: tuple[float, ...]) -> NDArray[np.float64]:
    """Return quantiles over seeds of the first of all kinds of failure (kinds, seeds), inf for none."""
    first = np.where(known & (layers > 0), layers, np.inf).min(axis=0)
    return np.asarray(np.quantile(first, q, method="inverted_cdf"), dtype=np.float64)


@door
def forward_error(
    result: ForwardErrors | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    dtype: str | torch.dtype | None = None,
    alpha: float = 1.0,
) -> Figure:
    """Draw log10 of the relative error of a run in a format against the layer: median, and a band from 5 % to 95 %.

    Dashed is the median of the bound, where there is one, dotted that of the probable bound. What is exact, or
    overflows, has no place on the scale: a quantile that is either ends there. At 0 all digits are lost.

    Args:
        result: a `ForwardErrors`, or its dataset, with any choice of layers.
        ax: where to draw; None makes a new figure.
        label: what the legend says.
        colour, alpha: of the lines.
        dtype: one of its formats; it may be left out where there is one.

    Raises:
        ValueError: for a format that the result does not have.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> errors = st.forward_error(st.Chain("residual2_prelu", depth=50, seeds=9), x)
    >>> figure = st.plots.forward_error(errors, dtype="float32")
    """
    data = dataset_of(result, ForwardErrors, "st.forward_error", ["log_errors"], ["dtype", "depth", "seed"])
    formats = data["dtype"].values.tolist()
    if dtype is None and len(formats) > 1:
        raise ValueError(f"there are several formats: give one of them, dtype={' or '.join(map(repr, formats))}")
    chosen = formats[0] if dtype is None else format_name(dtype)
    name = check_name("floating-point format", chosen, formats)
    figure, ax = axes_of(ax)
    one = data.sel(dtype=name).transpose("depth", "seed", ...)
    layers = one["depth"].to_numpy()
    errors = one["log_errors"].to_numpy().astype(np.float64) / math.log(10)
    low, middle, high = _finite(np.quantile(errors, [0.05, 0.5, 0.95], axis=1, method="inverted_cdf"))
    ax.fill_between(layers, low, high, color=colour, alpha=0.2 * alpha, linewidth=0)
    ax.plot(layers, middle, color=colour, alpha=alpha, linewidth=1.3, label=label)
    for kind, style in (("log_bounds", "--"), ("log_probable_bounds", ":")):
        if kind in one:
            bounds = one[kind].to_numpy().astype(np.float64) / math.log(10)
            bound = _finite(np.quantile(bounds, 0.5, axis=1, method="inverted_cdf"))
            ax.plot(layers, bound, style, color=colour, alpha=alpha, linewidth=1)
    name_axes(ax, "layer", r"$\log_{10}$ relative error", label)
    return figure


def _finite(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(levels), levels, np.nan)
