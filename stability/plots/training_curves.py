"""Pictures of training: the fits and the losses."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from stability.plots.style import axes_of, name_axes
from stability.training import History

_DEFAULT = "#0072B2"


def fits(
    x: ArrayLike,
    outputs: ArrayLike,
    target: ArrayLike,
    ax: Axes | None = None,
    label: str | None = None,
    colour: str = _DEFAULT,
) -> Figure:
    """Draw what every member makes of the points: thin lines, the best one bold, the target dashed.

    Args:
        x: (points,).
        outputs: (seeds, points).
        target: (points,).
        ax, label, colour: where and how to draw.

    >>> import torch, stability as st
    >>> task = st.Task(torch.sin, (-3, 3))
    >>> outputs = st.Chain("residual2_prelu", depth=5, seeds=9)(task.x).detach()
    >>> figure = st.plots.fits(task.x, outputs, task.y)
    """
    figure, ax = axes_of(ax)
    x, outputs, target = (np.asarray(v, dtype=np.float64) for v in (x, outputs, target))
    if x.ndim != 1 or target.shape != x.shape or outputs.ndim != 2 or outputs.shape[1:] != x.shape:
        raise ValueError(
            f"x, outputs and target have shapes {x.shape}, {outputs.shape} and {target.shape}: expected (points,), "
            "(seeds, points) and (points,)"
        )
    errors = ((outputs - target) ** 2).mean(axis=1)
    best = np.argmin(np.where(np.isfinite(errors), errors, np.inf))
    ax.plot(x, outputs.T, color=colour, alpha=0.25, linewidth=0.5)
    ax.plot(x, target, color="#777777", linestyle=(0, (4, 2)), linewidth=1.2)
    ax.plot(x, outputs[best], color=colour, linewidth=1.6, label=label)
    name_axes(ax, "x", "f(x)", label)
    return figure


def history(h: History, ax: Axes | None = None, label: str | None = None, colour: str = _DEFAULT) -> Figure:
    """Draw the loss against the step: the median over seeds, and a band from 5 % to 95 %.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=5, seeds=9)
    >>> record = st.train(chain, st.Task(torch.sin, (-3, 3)), steps=50, progress=False)
    >>> figure = st.plots.history(record)
    """
    figure, ax = axes_of(ax)
    levels = torch.quantile(
        h.loss, torch.tensor([0.05, 0.5, 0.95], dtype=h.loss.dtype), dim=1, interpolation="nearest"
    ).numpy()
    steps = np.arange(len(h.loss))
    levels = np.where(np.isfinite(levels), levels, np.nan)
    ax.fill_between(steps, levels[0], levels[2], color=colour, alpha=0.2, linewidth=0)
    ax.plot(steps, levels[1], color=colour, label=label, linewidth=1.2)
    ax.set_yscale("log")
    name_axes(ax, "step", "mean-squared error", label)
    return figure
