"""Training all members of a chain at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stability.foundation.checks import check_finite, check_integer, check_name, check_number, check_positive
from stability.networks import Chain
from stability.training import checkpoint as checkpoints
from stability.training.adam import adam
from stability.training.growing import can_grow, growth
from stability.training.history import History
from stability.training.levenberg_marquardt import levenberg_marquardt
from stability.training.objective import Objective, TableObjective, make_objective, runs_compiled
from stability.training.options import Options
from stability.training.run import Keeper, Run, carry_out
from stability.training.task import Task

#: The training methods, and how many steps each does where nothing else is said.
METHODS: dict[str, Callable[..., Any]] = {
    "adam": adam,
    "levenberg_marquardt": levenberg_marquardt,
    "growth": growth,
}
_STEPS = {"adam": 2000, "levenberg_marquardt": 200, "growth": 1000}


def train(
    chain: Chain,
    task: Task,
    method: str = "adam",
    steps: int | None = None,
    *,
    rate: float = 0.01,
    clip: float = 1.0,
    adam_steps: int = 0,
    homotopy: float = 0.0,
    start: int = 1,
    least_slope: float | None = None,
    checkpoint: str | Path | None = None,
    every: float = 60.0,
    resume: str | Path | None = None,
    on_step: Callable[[int, Tensor], Any] | None = None,
    progress: bool = True,
) -> History:
    """Fit every member of `chain` to `task` by mean-squared error, in place; it ends at each seed's best parameters.

    Every member is trained on its own: it takes the same path alone and among a thousand others. A member whose
    loss or gradient is not finite stops there, with a warning that names it, keeps its best parameters, and harms
    no other. Parameters with requires_grad=False stay as they are.

    The methods:
        "adam": Adam with each member's gradient clipped, the rate falling to a hundredth along half a cosine.
        "levenberg_marquardt": Gauss-Newton steps, damped for each member. For chains of width 1, piecewise linear,
            float64, on the CPU. A good start is init "knots". A step of two maps is fitted by its kink and its two
            slopes, its weight made -1 or 1 first, which leaves the function as it is up to rounding. Every tenth step,
            kinks of such steps that bend nothing (all states on one side, or the same slope on both) move to where they
            promise most.
        "growth": the chain's first `start` steps alone by Levenberg-Marquardt, the others inserted between
            iterations, each as the identity, at the position and kink that promise the largest fall of the error; of
            the parameters given only those of the first steps and the read-out are used. For chains of two maps with
            skip 1, and plain chains with trained slopes and a read-out. Two thirds of the steps serve growing.

    Starts, rates and dampings are made for points and values of a size near 1. The loss does not say when others are
    the reason for a poor fit: divide x and y by their sizes before.

    Interrupted from the keyboard, the run ends after its step with the best until then, a warning and
    `History.interrupted`. With `checkpoint` it can be resumed, then and after a crash.

    Args:
        chain: the members; width 1 and piecewise linear on the CPU runs in compiled loops, all else in torch.
        task: what to fit.
        method: "adam", "levenberg_marquardt" or "growth".
        steps: how many; 2000, 200 and 1000 by default.
        rate: Adam's first learning rate.
        clip: the L2 norm to which a member's gradient is scaled down in Adam where it is larger.
        adam_steps: so many steps of Adam come before the other methods; in growth, with the first steps alone.
        homotopy: the share of the steps, from 0 to 1, in which the target moves from x to the task's: what is
            fitted is (1 - s) x + s target, s rising to 1. The losses recorded are those of the task.
        start: the steps that growth begins with.
        least_slope: trained slopes are held at this or above, from the first step on; at most 1, the slope at which a
            step bends nothing. None leaves them free.
        checkpoint: a file to which the run is written every so many seconds, and at its end.
        every: so many seconds.
        resume: a checkpoint to go on from, with the same chain, task and options, to the same result as an unbroken
            run, bit for bit on the same machine; it goes on being written to unless `checkpoint` is another.
        on_step: called as on_step(step, losses) before each step and after the last, with the chain at the
            parameters of that step (a stopped member at its best); `losses` is (seeds,).
        progress: whether to show a progress bar with the quantiles of the best losses, on a terminal.

    Returns:
        A `History`: loss by step and seed, the best steps, the members that stopped and those that converged.

    Raises:
        ValueError, TypeError: for an unknown method, options that make no sense, parameters that are not finite, a
            task whose points do not fit the chain, a chain that the method cannot train, and a checkpoint of another
            run.
        OSError: for a folder of the checkpoint that is not there, and a checkpoint that is a folder.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=10, seeds=8)
    >>> history = st.train(chain, st.Task(torch.sin, (-3, 3)), steps=300, progress=False)
    >>> history.loss.shape, history.path
    (torch.Size([301, 8]), 'kernel')
    >>> bool((history.best_loss < history.loss[0]).all())
    True

    Growth is below the best spline of ten folds, 3.8e-5, with every member:

    >>> history = st.train(chain, st.Task(torch.sin, (-3, 3)), method="growth", progress=False)
    >>> bool((history.best_loss < 2e-5).all())
    True
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"chain is a {type(chain).__name__}: expected a stability.Chain")
    if not isinstance(task, Task):
        raise TypeError(f"task is a {type(task).__name__}: expected a stability.Task, or Task.from_samples(x, y)")
    run_method = METHODS[check_name("training method", method, METHODS)]
    options = Options(
        steps=_STEPS[method] if steps is None else check_integer("steps", steps, 1),
        rate=check_positive("rate", rate),
        clip=check_positive("clip", clip),
        adam_steps=check_integer("adam_steps", adam_steps, 0),
        homotopy=check_number("homotopy", homotopy, 0, 1),
        start=check_integer("start", start, 1),
        least_slope=-math.inf if least_slope is None else check_number("least_slope", least_slope, maximum=1),
    )
    every = check_positive("every", every)
    if not (on_step is None or callable(on_step)):
        raise TypeError(f"on_step is {on_step!r}: expected a function of a step and its losses, or None")
    _check_chain(chain, task)
    if method != "adam":
        _check_least_squares(chain, method)
    elif adam_steps:
        raise ValueError(f"adam_steps is {adam_steps} with method 'adam': use steps")
    objective = make_objective(chain, task, options.least_slope)
    if method == "growth":
        _check_growth(chain, objective, options)
    run, keeper = _prepare(chain, task, method, options, objective, checkpoint, every, resume)
    label = f"{chain.architecture.name} L={chain.depth}"
    carry_out(run, partial(run_method, objective, options), keeper, label, on_step, progress)
    _warn(run, chain)
    return run.history(chain.members, method)


def _check_chain(chain: Chain, task: Task) -> None:
    if chain.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the chain is {chain.dtype}: training needs torch.float32 or torch.float64, see chain.to")
    if task.x.shape[1:] != (() if chain.width == 1 else (chain.width,)):
        raise ValueError(
            f"the task has points of shape {tuple(task.x.shape)}: a chain of width {chain.width} needs "
            + ("points (points,)" if chain.width == 1 else f"samples (points, {chain.width}), see Task.from_samples")
        )
    for name, values in (("x", task.x), ("y", task.y)):
        check_finite(f"the task's {name} as {chain.dtype} (point)", values.to(chain.dtype))
    if not any(value.requires_grad for value in chain.parameters()):
        raise ValueError("no parameter of the chain requires a gradient: there is nothing to train")
    for kind, value in chain.named_parameters():
        check_finite(f"the chain's {kind}", value)


def _check_least_squares(chain: Chain, method: str) -> None:
    if not runs_compiled(chain) or chain.dtype != torch.float64:
        raise ValueError(
            f"method {method!r} needs a chain of width 1, piecewise linear, in float64, on the CPU, and this one has "
            f"width {chain.width}, {chain.architecture.activation!r}, {chain.dtype}, on {chain.device}: take "
            "method 'adam'"
        )


def _check_growth(chain: Chain, objective: Objective, options: Options) -> None:
    assert isinstance(objective, TableObjective)
    if not can_grow(chain, objective.trained):
        raise ValueError(
            f"{chain.architecture.name!r} cannot grow: an inserted step must be the identity and able to bend, which "
            "takes two maps with skip 1, or no skip, a trained slope and a read-out, and all their parameters trained; "
            "take method 'levenberg_marquardt'"
        )
    if options.start > chain.depth:
        raise ValueError(f"start is {options.start}: expected at most the chain's depth, {chain.depth}")


def _prepare(
    chain: Chain,
    task: Task,
    method: str,
    options: Options,
    objective: Objective,
    path: str | Path | None,
    every: float,
    resume: str | Path | None,
) -> tuple[Run, Keeper]:
    """Return a run at its beginning, or where the checkpoint `resume` has it."""
    run = Run(objective, options.steps + options.adam_steps)
    start, description = checkpoints.digest(run.best), checkpoints.describe(chain, task, method, options)
    if resume is not None:
        began, tensors = checkpoints.read(resume, description)
        if start not in (began, checkpoints.digest(tensors["best"])):
            raise ValueError(
                f"{resume} is of a run that began with other parameters: resume it with the chain as it was before, or "
                "as the run left it"
            )
        run.take_up(tensors)
        start = began
        path = resume if path is None else path
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {Path(path).parent} does not exist; make it first")
    if path is not None and Path(path).is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file, such as {Path(path, 'run')}")
    return run, Keeper(path, every, description, start)


def _warn(run: Run, chain: Chain) -> None:
    if run.interrupted:
        warnings.warn(
            f"interrupted at step {len(run.record) - 1} of {run.total}: the chain has the best parameters until then",
            RuntimeWarning,
            stacklevel=3,
        )
    if (run.stopped >= 0).any():
        which = [(chain.members[i], int(run.stopped[i])) for i in (run.stopped >= 0).nonzero().flatten().tolist()]
        shown = ", ".join(f"member {member} at step {step}" for member, step in which[:5])
        warnings.warn(
            f"{len(which)} of {chain.seeds} members stopped where their loss or gradient was not finite: {shown}"
            f"{', ...' if len(which) > 5 else ''}; they keep their best parameters. Try a smaller rate or init",
            RuntimeWarning,
            stacklevel=3,
        )
