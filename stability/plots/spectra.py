"""Pictures of the spectra of Jacobian products."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer
from stability.foundation.formats import Format
from stability.jacobians import Spectrum
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes


def _log10(result: Spectrum | xarray.Dataset) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the depths and log10 of the singular values, (depths, batch, k)."""
    data = dataset_of(result, Spectrum, "st.spectrum", ["log_values"], ["depth", "index"])
    values = data["log_values"].transpose("depth", ..., "index").to_numpy().astype(np.float64) / math.log(10)
    return data["depth"].to_numpy(), values.reshape(len(values), -1, values.shape[-1])


@door
def spectrum(
    result: Spectrum | xarray.Dataset, ax: Axes | None = None, *, label: str | None = None, colour: str = DEFAULT
) -> Figure:
    """Draw log10 of the singular values of the Jacobian product against depth: medians and quantiles over the batch.

    With one value a point the line is the median, the dark band the middle half, the light band from 5 % to 95 %.
    With more, a line is the median of each value, paler for smaller ones, and light bands from 5 % to 95 % surround
    the first and the last. Exact zeros count as -inf: a quantile that reaches them ends there.

    Args:
        result: a `Spectrum`, or its dataset, with any choice of depths.
        ax: where to draw; None makes a new figure.
        label: what the legend says.
        colour: any matplotlib colour.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> figure = st.plots.spectrum(st.spectrum(st.Chain("plain_prelu", depth=50, seeds=20), x))
    """
    figure, ax = axes_of(ax)
    depths, values = _log10(result)
    levels = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1, method="inverted_cdf")
    levels[~np.isfinite(levels)] = np.nan
    k = values.shape[2]
    for index in sorted({0, k - 1}):
        ax.fill_between(depths, levels[0, :, index], levels[4, :, index], color=colour, alpha=0.15, linewidth=0)
    if k == 1:
        ax.fill_between(depths, levels[1, :, 0], levels[3, :, 0], color=colour, alpha=0.35, linewidth=0)
    for index in range(k):
        alpha, width = (1.0, 1.5) if index == 0 else (1 - 0.6 * index / (k - 1), 0.8)
        ax.plot(depths, levels[2, :, index], color=colour, alpha=alpha, linewidth=width, label=None if index else label)
    name_axes(ax, "depth", r"$\log_{10}\,|dh_l/dx|$" if k == 1 else r"$\log_{10}$ singular values", label)
    return figure


@door
def distribution(
    result: Spectrum | xarray.Dataset,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    depth: int | None = None,
    alpha: float = 1.0,
) -> Figure:
    """Draw the distribution, over the batch and all values, of log10 of the singular values a layer.

    The curve is the share of products with log10 |dh_l/dx| / l up to each value, at one depth l. As it is taken a
    layer, a law of large numbers shows as a rise that grows steeper with depth. Exact zeros lie at -inf: with them
    the curve starts above 0.

    Args:
        result: a `Spectrum`, or its dataset.
        ax, label, colour, alpha: where and how to draw.
        depth: one of its depths, by default the last.

    Raises:
        ValueError: for a depth that the spectrum does not have.

    >>> import torch, stability as st
    >>> s = st.spectrum(st.Chain("plain_prelu", depth=50, seeds=20), torch.ones(1, dtype=torch.float64))
    >>> figure = st.plots.distribution(s, depth=50)
    """
    figure, ax = axes_of(ax)
    depths, values = _log10(result)
    depth = int(depths[-1]) if depth is None else check_integer("depth", depth, 1)
    if depth not in depths:
        raise ValueError(f"depth is {depth}: the spectrum has the depths {', '.join(map(str, depths))}")
    ordered = np.sort(values[depths == depth].ravel()) / depth
    share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
    finite = np.isfinite(ordered)
    ax.step(ordered[finite], share[finite], where="post", color=colour, alpha=alpha, label=label, linewidth=1.5)
    ax.set_ylim(-3, 103)
    name_axes(ax, r"$\log_{10}\,|dh_l/dx|\;/\;l$", "share of products up to here (%)", label)
    return figure


@door
def vanishing(
    result: Spectrum | xarray.Dataset, ax: Axes | None = None, *, label: str | None = None, colour: str = DEFAULT
) -> Figure:
    """Draw the share of Jacobian products that are exactly zero, and that round to zero in float32 and float64.

    Dotted is exactly zero; dashed rounds to zero in float64 or is zero; solid the same in float32.

    >>> import torch, stability as st
    >>> s = st.spectrum(st.Chain("plain_prelu", depth=100, seeds=20), torch.ones(1, dtype=torch.float64))
    >>> figure = st.plots.vanishing(s)
    """
    figure, ax = axes_of(ax)
    depths, values = _log10(result)
    limits = {
        "rounds to 0 in float32": (Format(torch.float32).log_least / math.log(10), "-"),
        "rounds to 0 in float64": (Format(torch.float64).log_least / math.log(10), "--"),
        "exactly 0": (-math.inf, ":"),
    }
    for name, (limit, style) in limits.items():
        share = (values <= limit).mean(axis=(1, 2))
        ax.plot(depths, 100 * share, style, color=colour, label=f"{label}: {name}" if label else name, linewidth=1.5)
    ax.set_ylim(-3, 103)
    name_axes(ax, "depth", "share of products (%)", label)
    return figure
