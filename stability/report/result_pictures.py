"""The small figures of results, by the functions of `st.plots`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import xarray
from matplotlib.axes import Axes

from stability import plots
from stability.flows import Flow
from stability.folds import PiecewiseLinear
from stability.jacobians import Paths, Spectrum
from stability.precision import FirstFailures, ForwardErrors
from stability.scaling import DepthCheck
from stability.signals import GradientNorms, Propagation, Units, WatchRecord
from stability.slices import PiecewiseLinearSlice
from stability.training import History

#: A small figure shows no more places than these along a dimension, evenly spaced.
_MOST = {"depth": 200, "layer": 200, "iteration": 200, "index": 8}
#: And of a function no more pieces.
_MOST_PIECES = 2000
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#333333")


@dataclass(frozen=True)
class Picture:
    """What a figure shows, in words, and what draws it on axes."""

    caption: str
    draw: Callable[[Axes], object]


def thinned(data: xarray.Dataset) -> xarray.Dataset:
    """Return a dataset with no more places than a small figure shows."""
    chosen = {}
    for name, most in _MOST.items():
        size = data.sizes.get(name, 0)
        if size > most:
            chosen[name] = np.unique(np.linspace(0, size - 1, most).round().astype(int))
    return data.isel(chosen)


@singledispatch
def picture(_result: object) -> Picture | None:
    """Return the figure of a result, None where there is none of its kind, or nothing to draw."""
    return None


@picture.register
def _spectrum(one: Spectrum) -> Picture:
    data = thinned(one.to_dataset())
    few = ", a choice of them" if data.sizes["index"] < one.log_values.shape[-1] else ""
    return Picture(f"Singular values of the product of the first layers{few}", lambda ax: plots.spectrum(data, ax))


@picture.register
def _paths(one: Paths) -> Picture:
    return Picture(
        "Share of the energy by path length, dashed with random signs, dotted the binomial",
        lambda ax: plots.paths(one, ax),
    )


@picture.register
def _propagation(one: Propagation) -> Picture:
    data = thinned(one.to_dataset())
    return Picture("Size of the state, layer by layer", lambda ax: plots.propagation(data, ax))


@picture.register
def _gradient_norms(one: GradientNorms) -> Picture | None:
    known = [name for name in ("input", "parameters") if name in one.log_norms and one.present[name].any()]
    if not known:
        return None
    data = thinned(one.to_dataset())
    of = "states" if known[0] == "input" else "parameters"
    return Picture(f"Gradient of the {of}, by layer", lambda ax: plots.gradient_norms(data, ax, quantity=known[0]))


@picture.register
def _units(one: Units) -> Picture:
    return Picture("Shares of idle units, and the effective rank, by layer", lambda ax: plots.units(one, ax))


@picture.register
def _record(one: WatchRecord) -> Picture | None:
    if not len(one) or not one.layers or not one.trains.any():
        return None
    data = thinned(one.to_dataset())
    return Picture("Gradient of every layer at every iteration", lambda ax: plots.watch(data, ax))


@picture.register
def _failures(one: FirstFailures) -> Picture:
    def draw(ax: Axes) -> None:
        plots.first_failure(one, ax)
        ax.set_yticks(range(len(one.formats)), one.formats)
        ax.set_ylim(len(one.formats) - 0.5, -0.5)

    return Picture("Layers until the first failure: circles activations, squares products, triangles gradients", draw)


@picture.register
def _errors(one: ForwardErrors) -> Picture:
    data = thinned(one.to_dataset())

    def draw(ax: Axes) -> None:
        for place, name in enumerate(one.formats):
            plots.forward_error(data, ax, dtype=name, label=name, colour=_COLOURS[place % len(_COLOURS)])

    return Picture("Relative error of a run in each format, by layer", draw)


@picture.register
def _depth_check(one: DepthCheck) -> Picture:
    return Picture("Change of the state by the updates, a line a depth", lambda ax: plots.depth_check(one, ax))


@picture.register
def _flow(one: Flow) -> Picture:
    data = one.to_dataset()

    def draw(ax: Axes) -> None:
        plots.flow(data, ax)
        ax.set_title("")

    return Picture("Chains of growing depth beside the flow that they tend to", draw)


@picture.register
def _history(one: History) -> Picture:
    data = thinned(one.to_dataset())
    return Picture("Loss against the iteration", lambda ax: plots.history(data, ax))


@picture.register
def _function(one: PiecewiseLinear) -> Picture | None:
    if one.shape or len(one.knots) - 1 > _MOST_PIECES:
        return None
    return Picture("The function, its folds and its turns", lambda ax: plots.function(one, ax))


@picture.register
def _slice(one: PiecewiseLinearSlice) -> Picture | None:
    if one.shape.numel() != 1 or len(one.offsets) - 1 > _MOST_PIECES:
        return None
    return Picture("The function over the plane, and its folds", lambda ax: plots.slice(one, ax))
