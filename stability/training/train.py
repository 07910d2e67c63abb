"""Training all members of a chain at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from stability.checks import check_finite, check_integer, check_name, check_positive
from stability.networks import Chain
from stability.training.adam import adam
from stability.training.history import History
from stability.training.objective import make_objective
from stability.training.task import Task

#: The training methods.
METHODS = {"adam": adam}


def train(
    chain: Chain,
    task: Task,
    method: str = "adam",
    steps: int = 2000,
    rate: float = 0.01,
    clip: float = 1.0,
    on_step: Callable[[int, Tensor], Any] | None = None,
    progress: bool = True,
) -> History:
    """Fit every member of `chain` to `task` by mean-squared error, in place; it ends at each seed's best parameters.

    Every member is trained on its own: it takes the same path alone and among a thousand others. A member whose
    loss or gradient is not finite stops there, with a warning that names it, keeps its best parameters, and harms
    no other. Interrupted from the keyboard, the run ends with the best until then, a warning and
    `History.interrupted`. Parameters with requires_grad=False stay as they are.

    Args:
        chain: the members; width 1 and piecewise linear on the CPU runs in compiled loops, all else in torch.
        task: what to fit.
        method: "adam".
        steps: how many.
        rate: the first learning rate; it falls to a hundredth along half a cosine.
        clip: the L2 norm to which a member's gradient is scaled down where it is larger.
        on_step: called as on_step(step, losses) before each step and after the last, with the chain at the
            parameters of that step (a stopped member at its best); `losses` is (seeds,).
        progress: whether to show a progress bar with the quantiles of the best losses, on a terminal.

    Returns:
        A `History`: loss by step and seed, the best steps, the members that stopped.

    Raises:
        ValueError, TypeError: for an unknown method, a rate, clip or number of steps below what makes sense,
            parameters that are not finite, and a task whose points do not fit the chain.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=10, seeds=8)
    >>> history = st.train(chain, st.Task(torch.sin, (-3, 3)), steps=300, progress=False)
    >>> history.loss.shape, history.path
    (torch.Size([301, 8]), 'kernel')
    >>> bool((history.best_loss < history.loss[0]).all())
    True
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"chain is a {type(chain).__name__}: expected a stability.Chain")
    if not isinstance(task, Task):
        raise TypeError(f"task is a {type(task).__name__}: expected a stability.Task, or Task.from_samples(x, y)")
    run = METHODS[check_name("training method", method, METHODS)]
    steps, rate, clip = check_integer("steps", steps, 1), check_positive("rate", rate), check_positive("clip", clip)
    if chain.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the chain is {chain.dtype}: training needs torch.float32 or torch.float64, see chain.to")
    if task.x.shape[1:] != (() if chain.width == 1 else (chain.width,)):
        raise ValueError(
            f"the task has points of shape {tuple(task.x.shape)}: a chain of width {chain.width} needs "
            + ("points (points,)" if chain.width == 1 else f"samples (points, {chain.width}), see Task.from_samples")
        )
    if not any(value.requires_grad for value in chain.parameters()):
        raise ValueError("no parameter of the chain requires a gradient: there is nothing to train")
    for kind, value in chain.named_parameters():
        check_finite(f"the chain's {kind}", value)

    objective = make_objective(chain, task)
    best = objective.parameters.clone()
    best_loss = torch.full((chain.seeds,), math.inf, dtype=best.dtype, device=best.device)
    best_step = torch.zeros(chain.seeds, dtype=torch.int64, device=best.device)
    stopped = torch.full_like(best_step, -1)
    record: list[Tensor] = []
    interrupted = False
    with tqdm(
        total=steps, disable=None if progress else True, desc=f"{chain.architecture.name} L={chain.depth}"
    ) as bar:
        try:
            for step, (losses, moving) in enumerate(run(objective, steps, rate, clip)):
                record.append(losses.to(torch.float64).where(moving, math.inf))
                stopped = stopped.where(moving | (stopped >= 0), step)
                better = moving & (losses < best_loss)
                best_loss = losses.where(better, best_loss)
                best_step = best_step.where(~better, step)
                best[better] = objective.parameters[better]
                if on_step is not None:
                    objective.write(objective.parameters.where(moving[:, None], best))
                    on_step(step, record[-1].clone())
                if progress and step % 50 == 0:
                    low, middle, high = best_loss.double().quantile(
                        torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, device=best.device), interpolation="nearest"
                    )
                    bar.set_postfix_str(f"best {low:.1e} median {middle:.1e} worst {high:.1e}", refresh=False)
                bar.update(step > 0)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            objective.write(best)
    if interrupted:
        warnings.warn(
            f"interrupted at step {len(record) - 1} of {steps}: the chain has the best parameters until then",
            RuntimeWarning,
            stacklevel=2,
        )
    if (stopped >= 0).any():
        which = [(chain.members[i], int(stopped[i])) for i in (stopped >= 0).nonzero().flatten().tolist()]
        shown = ", ".join(f"member {member} at step {step}" for member, step in which[:5])
        warnings.warn(
            f"{len(which)} of {chain.seeds} members stopped where their loss or gradient was not finite: {shown}"
            f"{', ...' if len(which) > 5 else ''}; they keep their best parameters. Try a smaller rate or init",
            RuntimeWarning,
            stacklevel=2,
        )
    if not interrupted:  # a run ends early where no member moves any more
        record += [torch.full_like(record[0], math.inf)] * (steps + 1 - len(record))
    loss = torch.stack(record).cpu() if record else torch.full((1, chain.seeds), math.inf, dtype=torch.float64)
    return History(loss, best_step.cpu(), stopped.cpu(), chain.members, method, objective.path, interrupted)
