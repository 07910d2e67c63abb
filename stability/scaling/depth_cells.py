"""One cell of a depth check: a depth and a seed, measured as a dataset that fits those of all others."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from stability.reading.inputs import Inputs
from stability.reading.running import run
from stability.reading.traces import unchanged, undisturbed
from stability.scaling.depth_stack import Stack, interpolated
from stability.scaling.depth_training import (
    Make,
    MakeOptimizer,
    Sight,
    Training,
    build,
    build_optimizer,
    doubles,
    flat,
    log_change,
    log_gradient,
    log_rms,
    look,
    same_draws,
)
from stability.signals.losses import Loss


@dataclass(frozen=True)
class DepthCell:
    """Measures a model of one depth and one seed: the function of a sweep, called by the names of its grid.

    Attributes:
        make, x, loss, optimizer, steps: as the user gave them.
        stack: which layers are looked at.
    """

    make: Make
    x: object
    loss: Loss
    optimizer: MakeOptimizer | None
    steps: int
    stack: Stack

    def __call__(self, depth: int, seed: int) -> xarray.Dataset:
        """Return the sizes of one model; nothing of it, of the functions or of the generators is changed."""
        with unchanged(self.make, self.loss, self.optimizer):
            model = build(self.make, depth, seed)
            with undisturbed(model, self.loss):
                return _Measurement(self, model, depth, seed).dataset()


class _Measurement:
    """The measurement of one model, which is trained in it."""

    def __init__(self, cell: DepthCell, model: nn.Module, depth: int, seed: int) -> None:
        self.cell, self.model = cell, model
        self.seed: int | None = seed
        self.where = f"depth {depth}, seed {seed}"
        self.inputs, self.stack = Inputs.of(cell.x, None), cell.stack
        self.optimizer = build_optimizer(cell.optimizer, model, depth)
        self.start = self._look()
        self.seed = seed if self.start.random else None
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        own = [tuple(name for name in names if name in trained) for names in self.start.parameters]
        self.layers = [own[k] for k in self.stack.trained(own)]
        self.names = {name for names in own[self.stack.lead : len(own) - self.stack.tail] for name in names}
        self.before = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.buffers = {name: value.detach().clone() for name, value in model.named_buffers()}

    def _look(self) -> Sight:
        return look(self.model, self.inputs, self.stack, self.seed)

    def dataset(self) -> xarray.Dataset:
        steps, stack = self.cell.steps, self.stack
        changes = torch.full((steps, stack.states), math.nan, dtype=torch.float64)
        outputs, losses = np.full(steps, math.nan), np.full(steps + 1, math.nan)
        shares = np.full(stack.layers, math.nan)
        training = Training(self.model, self.inputs, self.cell.loss, self.optimizer)
        gradients, step = np.full(stack.layers, math.nan), math.nan
        for iteration in range(steps):
            if not training.gradients(self.where):
                break
            if iteration == 0:
                gradients = np.array([log_gradient(self.model, names) for names in self.layers])
            if not training.update():
                break
            if iteration == 0:
                step = self._step()
            seen = self._look()
            pairs = list(zip(self.start.states, seen.states, strict=True))
            sizes = [log_change(one, other, self.start.spacing) for one, other in pairs]
            logs = torch.tensor(sizes, dtype=torch.float64)
            outputs[iteration] = log_change(self.start.output, seen.output, self.start.spacing)
            if (logs == math.inf).any() or outputs[iteration] == math.inf:
                training.diverged = iteration + 1
                break
            changes[iteration] = interpolated(logs, stack.state_places)
        else:
            training.end()
            if training.diverged < 0 and not stack.tied:
                shares = np.array([self._share(names) for names in self.layers])
        losses[: len(training.losses)] = training.losses
        states = torch.tensor([log_rms(doubles(state)) for state in self.start.states], dtype=torch.float64)
        return xarray.Dataset(
            {
                "log_state": ("relative_depth", interpolated(states, stack.state_places).numpy()),
                "log_branch": self.start.branch,
                "log_change": (("iteration", "relative_depth"), changes.numpy()),
                "log_output_change": ("iteration", outputs),
                "log_share": ("relative_layer", shares),
                "log_gradient": ("relative_layer", gradients),
                "log_step": step,
                "loss": ("updates", losses),
                "diverged": training.diverged,
            },
            {"relative_depth": stack.state_places, "relative_layer": stack.layer_places},
        )

    def _step(self) -> float:
        """Return the log rms of the first update of the layers' parameters, over the rate."""
        values = {id(value): name for name, value in self.model.named_parameters()}
        parts = []
        for group in self.optimizer.param_groups:
            rate = float(group.get("lr") or 1.0)
            for value in group["params"]:
                name = values.get(id(value), "")
                if name in self.names:
                    parts.append(doubles(value.detach() - self.before[name]).flatten() / rate)
        return log_rms(torch.cat(parts)) if parts else -math.inf

    def _share(self, names: tuple[str, ...]) -> float:
        """Return the log rms of what the output changes by when only some of the parameters are updated."""
        after = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        try:
            self._set({**self.before, **{name: after[name] for name in names}})
            with same_draws(self.seed):
                output = flat(run(self.model, self.inputs.mapped(lambda tensor: tensor.detach().clone())))
        finally:
            self._set(after)
        return log_change(self.start.output, output, self.start.spacing)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(self.buffers[name])


def version_of(cell: DepthCell) -> str:
    """Return a name of all that a cell is computed from but its depth and seed, by which a store finds it again.

    Functions count with their source text, not with what they call.

    Raises:
        TypeError: for a function that no other process could find by its name.
    """
    words = [_named("make", cell.make), _named("loss", cell.loss), str(cell.steps), repr(cell.stack)]
    words.append("Adam" if cell.optimizer is None else _named("optimizer", cell.optimizer))
    inputs = Inputs.of(cell.x, None)
    for name, tensor in inputs.tensors():
        numbers = tensor.detach().cpu().contiguous().flatten()
        words.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        words.append(blake2b(numbers.view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest())
    words.append(repr(inputs.mapped(lambda _: None)))
    return blake2b("\n".join(words).encode(), digest_size=8).hexdigest()


def _named(name: str, function: Callable[..., object]) -> str:
    """Return the name and the source of an importable function, or of a partial one of plain arguments."""
    if isinstance(function, functools.partial):
        try:
            given = json.dumps([function.args, sorted(function.keywords.items())])
        except TypeError:
            raise TypeError(
                f"{name} is a partial with {function.args}, {function.keywords}: a store is found again by "
                "plain numbers and texts"
            ) from None
        return f"{_named(name, function.func)}({given})"
    module, qualified = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    found: object = None
    if module is not None and qualified is not None:
        try:
            found = sys.modules.get(module) or importlib.import_module(module)
            for part in qualified.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            found = None
    if found is not function:
        shown = qualified or type(function).__name__
        raise TypeError(
            f"{name} is {shown}, which no other process finds by its name: with store= expected a function of a "
            "module, or leave out store="
        )
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    return f"{module}.{qualified}\n{source}"
