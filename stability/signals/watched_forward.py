"""A forward pass of a watched training: what is needed to run it again, and to know it again."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stability.reading.kinds import all_finite, has_numbers, kinds_of
from stability.reading.traces import unchanged
from stability.reading.trees import tensors_in

#: How far, of its norm, an output may be from what it was: what kernels that are not deterministic explain.
_NEAR = 1e-2


@dataclass
class Forward:
    """References to what a forward pass took and gave, and the random numbers that it drew.

    Attributes:
        args, options: what it took.
        random, random_cuda: the states of the generators of torch.
        random_python, random_numpy: those of Python and numpy.
        autocast: the devices and formats of torch.autocast.
        outputs: the tensors that it gave, each with the number of times that it had been changed in place.
        cotangents: the gradients of those of them that are in a graph.
    """

    args: tuple[object, ...]
    options: dict[str, object]
    random: Tensor
    random_cuda: list[Tensor]
    random_python: tuple[Any, ...]
    random_numpy: Any
    autocast: list[tuple[str, torch.dtype]]
    outputs: list[tuple[Tensor, int]] = field(default_factory=list)
    cotangents: list[Tensor | None] = field(default_factory=list)

    @classmethod
    def of(cls, args: tuple[object, ...], options: dict[str, object]) -> Forward:
        """Return a pass that is about to run."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        numpy = np.random.get_state()  # noqa: NPY002
        return cls(args, options, torch.get_rng_state(), cuda, random.getstate(), numpy, casts)

    def gave(self, output: object) -> None:
        """Keep what it returned."""
        self.outputs = [(tensor.detach(), tensor._version) for tensor in tensors_in(output)]

    @property
    def is_finite(self) -> bool:
        """Whether what it gave was finite."""
        return all(all_finite(tensor) for tensor, _ in self.outputs)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Let all draw the random numbers that the pass drew, in its formats."""
        with ExitStack() as stack:
            stack.enter_context(unchanged())
            torch.set_rng_state(self.random)
            random.setstate(self.random_python)
            np.random.set_state(self.random_numpy)  # noqa: NPY002
            if self.random_cuda:
                torch.cuda.set_rng_state_all(self.random_cuda)
            for kind, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype))
            yield

    def agrees(self, observed: Mapping[str, Tensor], stage: Mapping[str, Tensor]) -> bool:
        """Whether the output of a replay, or then its gradients, may be those of this pass.

        Args:
            observed: the gradients of the parameters after the backward pass, by name.
            stage: the output, or the gradients, of the replay, by words.
        """
        if any(words.startswith("the gradient of ") for words in stage):
            pairs = ((observed.get(words.removeprefix(_PARAMETER)), one) for words, one in stage.items())
            return all(_explains(one, gradient) for gradient, one in pairs if gradient is not None)
        given = list(stage.values())
        if len(given) != len(self.outputs):
            return False
        pairs_given = zip(self.outputs, given, strict=True)
        return all(_alike(old, new) for (old, version), new in pairs_given if old._version == version)


_PARAMETER = "the gradient of the parameter "


@torch.no_grad()
def _alike(old: Tensor, new: Tensor) -> bool:
    """Whether two outputs are not finite in the same places, and near one another elsewhere."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    if not has_numbers(old):
        return old.layout != torch.strided or old.is_floating_point() or torch.equal(old, new)
    if not torch.equal(kinds_of(old), kinds_of(new)):
        return False
    wide = torch.complex128 if old.is_complex() else torch.float64
    one, other = (torch.where(tensor.isfinite(), tensor, 0).to(wide) for tensor in (old, new))
    return bool((one - other).norm() <= _NEAR * one.norm())


@torch.no_grad()
def _explains(replayed: Tensor, observed: Tensor) -> bool:
    """Whether what is not finite in a gradient of a replay is not in what was accumulated either."""
    if not has_numbers(replayed) or not has_numbers(observed) or replayed.shape != observed.shape:
        return True
    return bool((replayed.isfinite() | ~observed.isfinite()).all())


def losses_of_pass() -> list[Tensor]:
    """Return the scalars from which the backward pass that runs now starts, to add to gradients; none if not known."""
    frame = _engine(sys._getframe())
    if frame is None:  # autograd has a thread for each device, and the one that called it waits
        found = [one for other in sys._current_frames().values() if (one := _engine(other)) is not None]
        frame = found[0] if len(found) == 1 else None
    if frame is None or not frame.f_locals.get("kwargs", {}).get("accumulate_grad", False):
        return []
    return [tensor for tensor in frame.f_locals.get("t_outputs", ()) if _is_loss(tensor)]


def _is_loss(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _engine(frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_code is not torch.autograd.graph._engine_run_backward.__code__:
        frame = frame.f_back
    return frame
