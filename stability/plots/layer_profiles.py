"""Pictures of gradients and signals by layer."""

from __future__ import annotations

import math

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_name
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes
from stability.signals import GradientNorms, Propagation
from stability.signals.watch_record import WatchRecord

_ZERO, _NOT_FINITE = "#BBBBBB", "#D50000"
_QUANTITIES = {
    "gradients": r"$\log_{10}$ norm of the gradient",
    "activations": r"$\log_{10}$ root mean square of the output",
    "parameters": r"$\log_{10}$ norm of the parameters",
}
_NORMS = {
    "input": r"$\log_{10}\,|dLoss/dh|$",
    "parameters": r"$\log_{10}\,|dLoss/d\theta|$",
    "relative": r"$\log_{10}\,|w\,dLoss/dw|$",
}
#: What a propagation offers: the variable of its dataset, and the name of the axis.
_SIGNALS = {
    "norm": ("log_norms", r"$\log_{10}\,|h_l|$"),
    "update": ("log_updates", r"$\log_{10}\,|h_l - h_{l-1}|\,/\,|h_{l-1}|$"),
    "decorrelation": ("log_decorrelations", r"$\log_{10}\,(1 - $correlation$)$"),
}


@door
def gradient_norms(
    result: GradientNorms | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    quantity: str = "input",
) -> Figure:
    """Draw log10 of the norm of a loss gradient against the layer: median and quantiles over the seeds.

    The dark band is the middle half, the light band from 5 % to 95 %. Layers without the quantity are left out. An
    exact zero is -inf, which has no place on the scale: a quantile that reaches it ends there.

    Args:
        result: a `GradientNorms`, or its dataset, with any choice of layers.
        ax: where to draw; None makes a new figure.
        label: what the legend says.
        colour: any matplotlib colour.
        quantity: one that the result has: "input", "parameters", "relative", "weight", ...

    Raises:
        ValueError: for a quantity that the result does not have.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> g = st.gradient_norms(st.Chain("plain_prelu", depth=50, seeds=20), x, lambda y: y.square().mean(dim=1))
    >>> figure = st.plots.gradient_norms(g, label="plain chain")
    """
    data = dataset_of(result, GradientNorms, "st.gradient_norms", ["log_norms", "present"], ["quantity", "layer"])
    one = data.sel(quantity=check_name("quantity", quantity, data["quantity"].values.tolist()))
    one = one.isel(layer=np.flatnonzero(one["present"].to_numpy()))
    figure, ax = axes_of(ax)
    _draw_quantiles(ax, one["layer"].to_numpy(), one["log_norms"].transpose("layer", ...), label, colour)
    name_axes(ax, "layer", _NORMS.get(quantity, rf"$\log_{{10}}$ norm of the gradient of {quantity}"), label)
    return figure


@door
def propagation(
    result: Propagation | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    quantity: str = "norm",
) -> Figure:
    """Draw how signals travel forward, layer by layer: median and quantiles over all seeds and points, or pairs.

    The dark band is the middle half, the light band from 5 % to 95 %. What is exactly zero is -inf, which has no place
    on the scale: a quantile that reaches it ends there.

    Args:
        result: a `Propagation`, or its dataset, with any choice of depths.
        ax: where to draw; None makes a new figure.
        label: what the legend says.
        colour: any matplotlib colour.
        quantity: "norm", the size of the states; "update", how far a layer moves them, relative to it; or
            "decorrelation", 1 less the correlation of pairs of points. All as log10.

    Raises:
        ValueError: for another quantity.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> figure = st.plots.propagation(st.propagation(st.Chain("residual2_prelu", depth=50, seeds=20), x))
    """
    name, axis = _SIGNALS[check_name("quantity", quantity, _SIGNALS)]
    data = dataset_of(result, Propagation, "st.propagation", [name], ["depth"])
    if quantity == "update":  # there is none before the first layer
        data = data.isel(depth=np.flatnonzero(data["depth"].to_numpy() > 0))
    figure, ax = axes_of(ax)
    _draw_quantiles(ax, data["depth"].to_numpy(), data[name].transpose("depth", ...), label, colour)
    name_axes(ax, "layer", axis, label)
    return figure


def _draw_quantiles(
    ax: Axes, layers: NDArray[np.generic], logs: xarray.DataArray, label: str | None, colour: str
) -> None:
    """Draw the median and two bands of natural logs (layers, ...), as log10."""
    values = logs.to_numpy().astype(np.float64).reshape(len(layers), -1) / math.log(10)
    levels = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1, method="inverted_cdf")
    levels[~np.isfinite(levels)] = np.nan
    ax.fill_between(layers, levels[0], levels[4], color=colour, alpha=0.15, linewidth=0)
    ax.fill_between(layers, levels[1], levels[3], color=colour, alpha=0.35, linewidth=0)
    ax.plot(layers, levels[2], color=colour, linewidth=1.5, label=label)
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


@door
def watch(
    result: WatchRecord | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = "viridis",
    quantity: str = "gradients",
) -> Figure:
    """Draw log10 of the norm of every layer, upwards, at every iteration, to the right, as a colour.

    Grey is an exact zero, red a norm with a NaN or an infinity in it, white what was not seen. Of a chain's seeds the
    median is drawn. Layers without parameters that train are left out, and in a picture of activations those that never
    gave an output.

    Args:
        result: a `WatchRecord`, or its dataset, with any choice of iterations and layers.
        ax: where to draw; None makes a new figure.
        label: what the title says.
        colour: one of matplotlib's colour maps.
        quantity: "gradients", "activations" or "parameters".

    Raises:
        ValueError: for a record without iterations, or a quantity that it does not have.

    >>> import torch, stability as st
    >>> model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    >>> with st.watch(model) as record:
    ...     model(torch.ones(8, 4)).square().mean().backward()
    >>> figure = st.plots.watch(record)
    """
    check_name("quantity", quantity, _QUANTITIES)
    iterations, layers, values = _log10(result, quantity)
    figure, ax = axes_of(ax)
    edges = _edges(iterations), np.arange(len(layers) + 1) + 0.5
    finite = np.isfinite(values)
    ax.grid(False)
    if finite.any():
        image = ax.pcolormesh(*edges, np.ma.array(values, mask=~finite), cmap=colour, rasterized=True)
        figure.colorbar(image, ax=ax, label=_QUANTITIES[quantity])
    marks = {"exactly 0": (values == -math.inf, _ZERO), "not finite": (values == math.inf, _NOT_FINITE)}
    for where, shade in marks.values():
        if where.any():
            # Zeros and infinities have no place on the scale of the rest, so each is an image of one colour.
            ones = np.ma.array(np.ones_like(values), mask=~where)
            ax.pcolormesh(*edges, ones, cmap=ListedColormap([shade]), rasterized=True)
    entries = [Patch(color=shade, label=name) for name, (where, shade) in marks.items() if where.any()]
    name_axes(ax, "iteration (backward pass)", "layer", None)
    if label is not None:
        ax.set_title(label, loc="right" if entries else "center")
    if entries:  # above the image, which leaves no room inside
        ax.legend(handles=entries, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, frameon=False)
    shown = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), 10)).round().astype(int))
    ax.set_yticks(shown + 1, [_short(str(layers[place])) for place in shown])
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    return figure


def _log10(
    result: WatchRecord | xarray.Dataset, quantity: str
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.float64]]:
    """Return the iterations, the layers and log10 of a quantity, (layers, iterations)."""
    data = dataset_of(result, WatchRecord, "st.watch", [], ["layer", "iteration"])
    name = f"log_{quantity}"
    if name not in data:
        raise ValueError(
            f"the record has no {name}: it has {', '.join(map(str, data))}. A chain's has no activations, and a "
            "record has parameters if it is asked for them, watch(model, parameters=True)"
        )
    if data.sizes["iteration"] == 0:
        raise ValueError("the record has no iterations: no backward pass has reached the model's parameters yet")
    values = data[name].transpose("layer", "iteration", ...).to_numpy().astype(np.float64) / math.log(10)
    if values.ndim == 3:
        values = np.quantile(values, 0.5, axis=2, method="inverted_cdf")
    layers = data["layer"].to_numpy()
    kept = ~np.isnan(values).all(axis=1) if quantity == "activations" else np.atleast_1d(data["trains"].to_numpy())
    kept = kept if kept.any() else ~kept
    layers, values = layers[kept], values[kept]
    return data["iteration"].to_numpy(), layers, values


def _edges(iterations: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return where one iteration's column ends and the next begins."""
    middles = (iterations[1:] + iterations[:-1]) / 2
    first, last = (middles[0], middles[-1]) if len(middles) else (iterations[0] + 0.5, iterations[0] - 0.5)
    return np.array([2 * iterations[0] - first, *middles, 2 * iterations[-1] - last])


def _short(name: str) -> str:
    """Return the end of a module's path, which tells the layers apart, and leave the room to the picture."""
    path = name.partition(" (")[0]
    return path if len(path) <= 18 else f"…{path[-14:]}"
