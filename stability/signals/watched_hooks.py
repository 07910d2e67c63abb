"""The hooks of a watched training that autograd and modules call in every iteration.

They are called between two matrix products, which leave nothing of them in the processor's cache: there each further
function and object that they touch costs as much as the norm of a short gradient. So they are short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from stability.foundation.log_norms import log_norm, quick_log_norm
from stability.reading.traces import is_read
from stability.reading.trees import tensors_in
from stability.signals.watch_record import WatchedPass

#: Returns the number of the backward pass that runs in this thread, -1 for none; no public name gives it.
running_pass = torch._C._current_graph_task_id


class Watcher(Protocol):
    """What the hooks know of a watch.

    Attributes:
        running: the number of the pass of the row.
        row: the row, None where it is not recorded.
        forward: how many forward passes began.
        records: whether the next row is recorded.
        calls: for each layer the log norms and the numbers of entries of its outputs since the row before.
        called: whether a layer gave an output since the row before, whether it is recorded or not.
    """

    running: int
    row: WatchedPass | None
    forward: int
    records: bool
    calls: list[list[tuple[Tensor | float, int]]]
    called: bool

    def begins(self) -> bool:
        """Begin the row of the pass that runs, unless it is no doing of the user's; return whether it is."""


class Hook:
    """A hook that only looks. A copy of the model, also a pickled one, is not watched."""

    __slots__ = ()
    only_looks = True

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _hook_of_a_copy, ()


def _ignore(*_: object) -> None:
    """Do nothing, in the place of a hook."""


def _hook_of_a_copy() -> Callable[..., None]:
    return _ignore


class Calls(Hook):
    """Calls a method with the arguments of the hook."""

    __slots__ = ("method",)

    def __init__(self, method: Callable[..., None]) -> None:
        self.method = method

    def __call__(self, *arguments: object) -> None:
        if not is_read():
            self.method(*arguments)


class OfGradient(Hook):
    """Puts the log norm of the gradient of a parameter into the row."""

    __slots__ = ("index", "last", "norm", "watcher")

    def __init__(self, watcher: Watcher, index: int, dims_kept: int) -> None:
        self.watcher, self.index = watcher, index
        self.norm = quick_log_norm if dims_kept == 0 else partial(log_norm_by, dims_kept)
        self.last: Tensor | float = 0.0

    def __call__(self, gradient: Tensor) -> None:
        watcher = self.watcher
        if running_pass() != watcher.running and not watcher.begins():
            return
        if watcher.row is not None:
            watcher.row.gradients[self.index] = self.last = self.norm(gradient, self.last)


class OfOutput(Hook):
    """Keeps the log norm of what a module returns, in calls that end a layer: `ends` gives for each which."""

    __slots__ = ("ends", "forward", "last", "number", "watcher")

    def __init__(self, watcher: Watcher, ends: Sequence[int | None]) -> None:
        self.watcher, self.ends = watcher, ends
        self.forward, self.number = -1, 0
        self.last: Tensor | float = 0.0

    def __call__(self, _module: nn.Module, _arguments: object, output: object) -> None:
        if not is_forward() or is_read():
            return
        watcher = self.watcher
        if self.forward != watcher.forward:
            self.forward, self.number = watcher.forward, 0
        number, self.number = self.number, self.number + 1
        index = self.ends[number] if number < len(self.ends) else None
        if index is None:
            return
        if not watcher.records:
            watcher.called = True
            return
        tensor = _first_tensor(output)
        if tensor is not None:
            self.last = quick_log_norm(tensor, self.last)
            watcher.calls[index].append((self.last, tensor.numel()))
            watcher.called = True


def log_norm_by(dims_kept: int, tensor: Tensor, near: Tensor | float = 0.0) -> Tensor | float:
    """Return the log norm of a whole tensor of a module, or of each step and seed of a chain, (steps, seeds)."""
    if dims_kept == 0:
        return quick_log_norm(tensor, near)
    logs = log_norm(tensor, dims_kept)
    return logs.T if dims_kept == 2 else logs[None]


def is_forward() -> bool:
    """Whether this is a forward pass to be recorded: none under no_grad, and none that a checkpoint repeats."""
    return torch.is_grad_enabled() and running_pass() == -1


def _first_tensor(output: object) -> Tensor | None:
    for tensor in (output,) if isinstance(output, Tensor) else tensors_in(output):
        # Inside torch.func a tensor stands for many, which hold no numbers to look at; no public name tells them.
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        if (tensor.is_floating_point() or tensor.is_complex()) and not wrapped:
            return tensor
    return None
