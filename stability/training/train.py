"""Training all members of a chain at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_finite, check_name, check_positive
from stability.networks import Chain
from stability.training import checkpoint as checkpoints
from stability.training.adam import adam
from stability.training.growing import can_grow, growth
from stability.training.history import History, Interrupted
from stability.training.levenberg_marquardt import levenberg_marquardt
from stability.training.objective import Objective, TableObjective, make_objective, runs_compiled
from stability.training.options import MethodOptions, Options, check_options
from stability.training.run import Keeper, Run, carry_out
from stability.training.task import Task, check_task

#: The training methods, and how many iterations each does where nothing else is said.
METHODS: dict[str, Callable[..., Iterator[tuple[Tensor, Tensor]]]] = {
    "adam": adam,
    "levenberg_marquardt": levenberg_marquardt,
    "growth": growth,
}
_ITERATIONS = {"adam": 2000, "levenberg_marquardt": 200, "growth": 1000}


@door
def train(
    chain: Chain,
    task: Task,
    method: str = "adam",
    iterations: int | None = None,
    *,
    checkpoint: str | Path | None = None,
    every: float = 60.0,
    resume: str | Path | None = None,
    on_iteration: Callable[[int, Tensor], object] | None = None,
    progress: bool = True,
    **options: Unpack[MethodOptions],
) -> History:
    """Fit every member of `chain` to `task` by mean-squared error, in place; it ends at each seed's best parameters.

    Every member is trained on its own: it takes the same path alone and among a thousand others. A member whose
    loss or gradient is not finite stops there, with a warning that names it, keeps its best parameters, and harms
    no other. Parameters with requires_grad=False stay as they are.

    The methods:

    - "adam": Adam with each member's gradient clipped, the rate falling to a hundredth along half a cosine.
    - "levenberg_marquardt": Gauss-Newton iterations, damped for each member. For chains of width 1, piecewise linear,
      float64, on the CPU. A good start is init "knots". A step of two maps is fitted by its kink and its two
      slopes, its weight made -1 or 1 first, which leaves the function as it is up to rounding. Every tenth
      iteration, kinks of such steps that bend nothing (all states on one side, or the same slope on both) move to
      where they promise most.
    - "growth": the chain's first `start` steps alone by Levenberg-Marquardt, the others inserted between
      iterations, each as the identity, at the position and kink that promise the largest fall of the error; of
      the parameters given only those of the first steps and the read-out are used. For chains of two maps with
      skip 1, and plain chains with trained slopes and a read-out. Two thirds of the iterations serve growing.

    Starts, rates and dampings are made for points and values of a size near 1. The loss does not say when others are
    the reason for a poor fit: divide x and y by their sizes before.

    Interrupted from the keyboard, the run ends after its iteration with the best until then, a warning and
    `History.interrupted`. With `checkpoint` it can be resumed, then and after a crash.

    Args:
        chain: the members; width 1 and piecewise linear on the CPU runs in compiled loops, all else in torch.
        task: what to fit.
        method: "adam", "levenberg_marquardt" or "growth".
        iterations: how many; 2000, 200 and 1000 by default.
        checkpoint: a file to which the run is written every so many seconds, and at its end.
        every: so many seconds.
        resume: a checkpoint to go on from, with the same chain, task and options, to the same result as an unbroken
            run, bit for bit on the same machine; it goes on being written to unless `checkpoint` is another.
        on_iteration: called as on_iteration(iteration, losses) before each iteration and after the last, with the
            chain at the parameters of that one (a stopped member at its best); `losses` is (seeds,).
        progress: whether to show a progress bar with the quantiles of the best losses, on a terminal.
        options: those of the method:

            - rate: Adam's first learning rate, 0.01.
            - clip: the L2 norm to which a member's gradient is scaled down in Adam where it is larger, 1.
            - adam_iterations: so many iterations of Adam come before the other methods, 0; in growth, with the first
              steps alone.
            - homotopy: the share of the iterations, from 0 to 1, in which the target moves from x to the task's, 0:
              what is fitted is (1 - s) x + s target, s rising to 1. The losses recorded are those of the task.
            - start: the steps that growth begins with, 1.
            - least_slope: trained slopes are held at this or above, from the first iteration on; at most 1, the slope
              at which a step bends nothing. None, the default, leaves them free.

    Returns:
        A `History`: loss by iteration and seed, the best iterations, the members that stopped and those that converged.

    Raises:
        ValueError, TypeError: for an unknown method, options that make no sense, parameters that are not finite, a
            task whose points do not fit the chain, a chain that the method cannot train, and a checkpoint of another
            run.
        OSError: for a folder of the checkpoint that is not there, and a checkpoint that is a folder.
        Interrupted: a KeyboardInterrupt, on Ctrl-C, at the end of the iteration: the chain has its best parameters
            until then, the exception has the `history`, and the checkpoint is written.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=10, seeds=8)
    >>> history = st.train(chain, st.Task(torch.sin, (-3, 3)), iterations=300, progress=False)
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
    check_task(task)
    run_method = METHODS[check_name("training method", method, METHODS)]
    chosen = check_options(method, _ITERATIONS[method] if iterations is None else iterations, options)
    every = check_positive("every", every)
    _check_chain(chain, task)
    if method != "adam":
        _check_least_squares(chain, method)
    objective = make_objective(chain, task, chosen.least_slope)
    if method == "growth":
        _check_growth(chain, objective, chosen)
    run, keeper = _prepare(chain, task, method, chosen, objective, checkpoint, every, resume)
    label = f"{chain.architecture.name} L={chain.depth}"
    carry_out(run, partial(run_method, objective, chosen), keeper, label, on_iteration, progress)
    _warn(run, chain)
    history = run.history(chain.members, method)
    if run.interrupted:
        how = "give checkpoint= to be able to go on" if keeper.path is None else f"resume={str(keeper.path)!r} goes on"
        raise Interrupted(
            f"interrupted at iteration {len(run.record) - 1} of {run.total}: the chain has the best parameters so far; "
            f"{how}",
            history,
        )
    return history


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
            "takes two maps with skip 1, or no skip, a trained slope and a read-out, no factor on the branch, and all "
            "their parameters trained; take method 'levenberg_marquardt'"
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
    run = Run(objective, options.iterations + options.adam_iterations)
    start, description = checkpoints.digest(run.best), checkpoints.describe(chain, task, method, options)
    if resume is not None:
        began, tensors = checkpoints.read(resume, description)
        try:
            run.check(tensors)
        except ValueError as error:
            raise ValueError(f"{resume} is no checkpoint of this run: {error}; begin anew with resume=None") from None
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
    if (run.stopped >= 0).any():
        which = [(chain.members[i], int(run.stopped[i])) for i in (run.stopped >= 0).nonzero().flatten().tolist()]
        shown = ", ".join(f"member {member} at iteration {last}" for member, last in which[:5])
        warnings.warn(
            f"{len(which)} of {chain.seeds} members stopped where their loss or gradient was not finite: {shown}"
            f"{', ...' if len(which) > 5 else ''}; they keep their best parameters. Try a smaller rate or init",
            RuntimeWarning,
            stacklevel=3,
        )
