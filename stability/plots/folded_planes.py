"""Pictures of slices: the regions of a network on a plane, its folds, and where it has one value."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from stability.foundation.arguments import door
from stability.foundation.checks import check_name
from stability.plots.layer_colours import layer_colours, name_layers
from stability.plots.style import axes_of, name_axes
from stability.slices import PiecewiseLinearSlice

_INK = "#222222"


@door
def slice(
    result: PiecewiseLinearSlice,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = "viridis",
    by: str = "value",
    level: float | None = None,
    draw_folds: bool = True,
    births: bool = False,
) -> Figure:
    """Draw the regions of a piecewise-linear function on a plane, exactly, in the plane's parameters u and v.

    Args:
        result: the function. Of a vector the slopes are those of all entries together, and there is no value.
        ax, label: where and how to draw.
        colour: the colour map of the regions, or with `births` that of the layers.
        by: what colours a region: its mean "value" at the corners, its "slope" (the norm of its gradient), or "none".
        level: of a scalar, also draw where it has this value.
        draw_folds: whether to draw them.
        births: whether the folds have the colours of the layers where they were born, with a bar that names them. The
            regions are grey then.

    >>> import torch, stability as st
    >>> f = st.restrict(torch.nn.ReLU(), st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True))
    >>> figure = st.plots.slice(f, by="slope")
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> figure = st.plots.slice(st.restrict(model, f.plane), births=True)
    """
    if not isinstance(result, PiecewiseLinearSlice):
        raise TypeError(f"the result is a {type(result).__name__}: expected a PiecewiseLinearSlice, of st.plane")
    check_name("by", by, ("value", "slope", "none"))
    result = result.to_float()
    regions = len(result.faces)
    if by == "value" and result.shape.numel() != 1:
        raise ValueError(
            f"the function has values of shape {tuple(result.shape)}: expected a scalar; give by='slope', or "
            "by='none' for the folds alone, or take one entry"
        )
    lines = [] if level is None else result.level_sets(level)
    figure, ax = axes_of(ax)
    if by == "none":
        shown = None
    elif by == "slope":
        shown = np.sqrt(np.nansum(result.gradients.reshape(regions, -1) ** 2, axis=1))
    else:
        corners = result.values.reshape(-1)[result.corners]
        shown = np.add.reduceat(corners, result.offsets[:-1]) / np.diff(result.offsets)
    faces = PolyCollection(result.polygons, array=shown, linewidths=0, antialiased=False)
    if shown is None:
        faces.set_facecolor("none")
    else:
        faces.set_cmap(mpl.colormaps["Greys" if births else colour])
        if births:  # pale, so that the folds stand out
            low, high = float(np.min(shown)), float(np.max(shown))
            faces.set_clim(low, low + 4 * (high - low) if high > low else low + 1)
    ax.add_collection(faces)
    rim = result.plane.parameters
    ax.plot(*np.concatenate([rim, rim[:1]]).T, color=_INK, linewidth=0.8)
    if draw_folds:
        _draw_folds(figure, ax, result, colour if births else None)
    for line in lines:
        ax.plot(line[:, 0], line[:, 1], color="#D55E00", linewidth=1.6)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    name_axes(ax, "u", "v", None)
    if label is not None:
        ax.set_title(label)
    return figure


def _draw_folds(figure: Figure, ax: Axes, result: PiecewiseLinearSlice, colour: str | None) -> None:
    """Draw the folds, and with a colour map those of each layer in its colour, the first ones on top."""
    thin = 20 / np.sqrt(len(result.faces))
    if colour is None:
        width = float(np.clip(thin, 0.15, 0.8))
        ax.add_collection(LineCollection(list(result.folds()), colors=_INK, linewidths=width))
        return
    born, layers = result.folds(births=True), max(result.origins.layers, 1)
    order = np.argsort(-born.layers, kind="stable")
    colours, norm = layer_colours(layers, colour)
    lines = LineCollection(
        list(born.at[order]),
        array=born.layers[order],
        cmap=colours,
        norm=norm,
        linewidths=float(np.clip(1.6 * thin, 0.3, 1.3)),
    )
    ax.add_collection(lines)
    # As high as the plane, which keeps its shape.
    name_layers(figure.colorbar(lines, cax=ax.inset_axes((1.04, 0, 0.05, 1))))
