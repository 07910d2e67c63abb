"""One run of a training method: its best parameters, its record, its checkpoints."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from stability.foundation.threads import torch_on_one_thread
from stability.training import checkpoint
from stability.training.history import History
from stability.training.objective import Objective
from stability.training.status import CONVERGED, MOVING, STOPPED

#: A method: what it changes is the objective's parameters and its state, from which it goes on.
Method = Callable[[dict[str, Tensor]], Iterator[tuple[Tensor, Tensor]]]


class Run:
    """A run of a method on an objective.

    Args:
        objective: the members' losses.
        total: how many iterations there will be, those of every part of the method.
    """

    def __init__(self, objective: Objective, total: int) -> None:
        parameters, seeds = objective.parameters, len(objective.parameters)
        self.objective, self.total = objective, total
        self.best = parameters.clone()
        self.best_loss = torch.full((seeds,), math.inf, dtype=parameters.dtype, device=parameters.device)
        self.best_iteration = torch.zeros(seeds, dtype=torch.int64, device=parameters.device)
        self.stopped = torch.full_like(self.best_iteration, -1)
        self.converged = torch.full_like(self.best_iteration, -1)
        self.record: list[Tensor] = []
        self.state: dict[str, Tensor] = {}
        self.interrupted = False

    def note(self, losses: Tensor, status: Tensor) -> Tensor:
        """Take down the losses at the objective's parameters; return which members have not stopped."""
        iteration = len(self.record)
        alive = status != STOPPED
        self.record.append(losses.to(torch.float64).where(alive, math.inf))
        self.stopped = self.stopped.where(alive | (self.stopped >= 0), iteration)
        converged = status == CONVERGED
        self.converged = torch.where(converged, self.converged.where(self.converged >= 0, iteration), -1)
        better = alive & (losses < self.best_loss)
        self.best_loss = losses.where(better, self.best_loss)
        self.best_iteration = self.best_iteration.where(~better, iteration)
        # Not by a mask as an index, for which torch wakes all its threads.
        self.best = self.objective.parameters.where(better[:, None], self.best)
        return alive

    def tensors(self) -> dict[str, Tensor]:
        """Return all that it takes to go on from here. The last row of the record is taken down again then."""
        before = self.record[:-1]
        record = torch.stack(before) if before else torch.empty((0, len(self.best)), dtype=torch.float64)
        return {
            "parameters": self.objective.parameters,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_iteration": self.best_iteration,
            "stopped": self.stopped,
            "converged": self.converged,
            "record": record,
            **{f"state.{name}": value for name, value in self.state.items()},
        }

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise for tensors of a checkpoint that are missing, or of another shape or format than this run's."""
        for name, expected in self.tensors().items():
            got, own = tensors.get(name), expected.shape
            if name == "record":  # as long as the run was
                own = (len(got) if got is not None and got.ndim else 0, *own[1:])  # type: ignore[assignment]
            if got is None or got.dtype != expected.dtype or got.shape != own:
                what = "missing" if got is None else f"{got.dtype} {tuple(got.shape)}"
                raise ValueError(f"its {name} is {what}, and this run has {expected.dtype} {tuple(own)}")
        if len(tensors["record"]) > self.total:
            raise ValueError(f"its record has {len(tensors['record'])} iterations, and this run has {self.total}")
        unknown = [name for name in tensors if name not in self.tensors() and not name.startswith("state.")]
        if unknown:
            raise ValueError(f"it holds {unknown[0]}, which no run has")
        if (
            not tensors["best"].isfinite().all()
            or tensors["best_loss"].isnan().any()
            or tensors["record"].isnan().any()
        ):
            raise ValueError("its best parameters or its losses are no numbers")
        check_state(tensors)

    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to where a checkpoint was written."""
        device = self.best.device
        tensors = {name: value.to(device) for name, value in tensors.items()}
        self.objective.parameters.copy_(tensors["parameters"])
        self.best, self.best_loss, self.best_iteration = (
            tensors["best"],
            tensors["best_loss"],
            tensors["best_iteration"],
        )
        self.stopped, self.converged = tensors["stopped"], tensors["converged"]
        self.record = list(tensors["record"])
        self.state = {name.removeprefix("state."): v for name, v in tensors.items() if name.startswith("state.")}

    def history(self, members: tuple[int, ...], method: str) -> History:
        """Return the record, which ends where no member moves any more."""
        record = self.record
        loss = torch.stack(record).cpu() if record else torch.full((1, len(members)), math.inf, dtype=torch.float64)
        ends = (self.best_iteration.cpu(), self.stopped.cpu(), self.converged.cpu())
        return History(loss, *ends, members, method, self.objective.path, self.interrupted)


#: What a method's state may consist of.
_STATES: tuple[set[str], ...] = (
    set(),
    {"mean", "square", "status", "adam_iteration"},
    {"damping", "status", "iteration"},
    {"mean", "square", "status", "adam_iteration", "damping", "iteration"},
)


def check_state(tensors: Mapping[str, Tensor]) -> None:
    """Raise for a method's state in a checkpoint that no method leaves."""
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    seeds, dtype = len(tensors["best"]), tensors["best"].dtype
    if set(state) not in _STATES:
        raise ValueError(f"its state consists of {', '.join(sorted(state))}, which no method leaves")
    for name, value in state.items():
        counts = name.endswith("iteration")
        rows, whole = () if counts else (seeds,), counts or name == "status"
        wanted = torch.int64 if whole else torch.float64 if name == "damping" else dtype
        if value.dtype != wanted or value.shape[:1] != rows or (value.ndim > 1) != (name in ("mean", "square")):
            raise ValueError(f"its state's {name} is {value.dtype} {tuple(value.shape)}, for {seeds} members")
    moving = state.get("status", torch.empty(0)) == MOVING
    for name in set(state) & {"mean", "square", "damping"}:
        if not state[name][moving].isfinite().all():
            raise ValueError(f"its state's {name} is not finite for members that move")
    if not tensors["parameters"][moving if len(moving) else ...].isfinite().all():
        raise ValueError("its parameters are not finite for members that move")
    if "mean" in state and state["mean"].shape != state["square"].shape:
        raise ValueError(f"its state's mean and square are {state['mean'].shape} and {state['square'].shape}")
    if not set(state.get("status", torch.empty(0)).tolist()) <= {MOVING, STOPPED, CONVERGED}:
        raise ValueError("its state's status is none that a member may have")
    done = sum(int(state[name]) for name in ("adam_iteration", "iteration") if name in state)
    if done != len(tensors["record"]):
        raise ValueError(f"its state is after {done} iterations, and its record has {len(tensors['record'])}")


class Keeper:
    """Writes checkpoints of a run, every so many seconds and at its end.

    A checkpoint that cannot be written is a warning: the run goes on, and the last good one stays.
    """

    def __init__(self, path: str | Path | None, every: float, description: dict[str, object], start: str) -> None:
        self.path, self._every, self._description, self._start = path, every, description, start
        self._last, self._warned = time.monotonic(), False

    def keep(self, run: Run, now: bool = False) -> None:
        """Write a checkpoint if it is time for one, or now."""
        if self.path is None or (not now and time.monotonic() - self._last < self._every):
            return
        try:
            checkpoint.write(self.path, self._description, self._start, run.tensors())
        except OSError as error:
            if not self._warned:
                warnings.warn(f"no checkpoint was written, the run goes on: {error}", RuntimeWarning, stacklevel=4)
            self._warned = True
        self._last = time.monotonic()


@contextmanager
def _interrupts_after_an_iteration() -> Iterator[threading.Event]:
    """Let the first Ctrl-C wait for the end of an iteration, where all is in order; the second one does not wait."""
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _iterations(run: Run, method: Method) -> Iterator[Tensor]:
    """Take a method from iteration to iteration and note each; yield which members have not stopped."""
    # Compiled loops have threads of their own, and what torch does beside them is short.
    alone = torch_on_one_thread if run.objective.path == "kernel" else nullcontext
    iterations = method(run.state)
    while True:
        with alone():
            progress = next(iterations, None)
            alive = None if progress is None else run.note(*progress)
        if alive is None:
            return
        yield alive


def carry_out(
    run: Run,
    method: Method,
    keeper: Keeper,
    label: str,
    on_iteration: Callable[[int, Tensor], object] | None,
    progress: bool,
) -> None:
    """Let a method run to its end, or until it is interrupted; the objective's chain gets the best parameters."""
    quantiles = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, device=run.best.device)
    shown, settled = -math.inf, True
    bar = tqdm(total=run.total, initial=max(0, len(run.record) - 1), disable=None if progress else True, desc=label)
    with bar, _interrupts_after_an_iteration() as asked:
        try:
            for alive in _iterations(run, method):
                settled = True
                keeper.keep(run)
                iteration = len(run.record) - 1
                if on_iteration is not None:
                    run.objective.write(run.objective.parameters.where(alive[:, None], run.best))
                    on_iteration(iteration, run.record[-1].clone())
                if progress and time.monotonic() - shown > 0.2:
                    shown = time.monotonic()
                    low, middle, high = run.best_loss.double().quantile(quantiles, interpolation="nearest")
                    bar.set_postfix_str(f"best {low:.1e} median {middle:.1e} worst {high:.1e}", refresh=False)
                bar.update(iteration > 0)
                if asked.is_set():
                    raise KeyboardInterrupt
                settled = False
            settled = True
        except KeyboardInterrupt:
            run.interrupted = True
        finally:
            run.objective.write(run.best)
            if settled:  # in the middle of an iteration the parameters are neither those before it nor after
                keeper.keep(run, now=True)
