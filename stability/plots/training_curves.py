"""Pictures of training: the fits and the losses."""

from __future__ import annotations

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stability.foundation.arguments import door
from stability.networks import Chain
from stability.plots.style import DEFAULT, axes_of, dataset_of, name_axes
from stability.training import History, Task


@door
def fits(
    result: Chain,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = DEFAULT,
    task: Task,
) -> Figure:
    """Draw what every member of a chain makes of a task: thin lines, the best one bold, the target dashed.

    Args:
        result: the chain, of width 1.
        ax, label, colour: where and how to draw.
        task: what it was fitted to.

    >>> import torch, stability as st
    >>> task, chain = st.Task(torch.sin, (-3, 3)), st.Chain("residual2_prelu", depth=5, seeds=9)
    >>> history = st.train(chain, task, iterations=50, progress=False)
    >>> figure = st.plots.fits(chain, task=task)
    """
    if not isinstance(result, Chain) or not isinstance(task, Task) or task.x.ndim != 1 or result.width != 1:
        raise TypeError(f"got {result!r} and {task!r}: expected a chain of width 1, and task= a Task on single numbers")
    figure, ax = axes_of(ax)
    with torch.no_grad():
        outputs = result(task.x.to(result.device, result.dtype)).double().cpu().numpy()
    x, target = task.x.double().numpy(), task.y.double().numpy()
    errors = ((outputs - target) ** 2).mean(axis=1)
    best = np.argmin(np.where(np.isfinite(errors), errors, np.inf))
    ax.plot(x, outputs.T, color=colour, alpha=0.25, linewidth=0.5)
    ax.plot(x, target, color="#777777", linestyle=(0, (4, 2)), linewidth=1.2)
    ax.plot(x, outputs[best], color=colour, linewidth=1.6, label=label)
    name_axes(ax, "x", "f(x)", label)
    return figure


@door
def history(
    result: History | xarray.Dataset, ax: Axes | None = None, *, label: str | None = None, colour: str = DEFAULT
) -> Figure:
    """Draw the loss against the iteration: the median over seeds, and a band from 5 % to 95 %.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=5, seeds=9)
    >>> record = st.train(chain, st.Task(torch.sin, (-3, 3)), iterations=50, progress=False)
    >>> figure = st.plots.history(record)
    """
    data = dataset_of(result, History, "st.train", ["loss"], ["iteration", "seed"])
    figure, ax = axes_of(ax)
    loss = data["loss"].transpose("iteration", "seed").to_numpy()
    levels = np.quantile(loss, [0.05, 0.5, 0.95], axis=1, method="nearest")
    iterations = data["iteration"].to_numpy()
    levels = np.where(np.isfinite(levels), levels, np.nan)
    ax.fill_between(iterations, levels[0], levels[2], color=colour, alpha=0.2, linewidth=0)
    ax.plot(iterations, levels[1], color=colour, label=label, linewidth=1.2)
    ax.set_yscale("log")
    name_axes(ax, "iteration", "mean-squared error", label)
    return figure
