"""One model of one depth, trained for a few iterations: what its states, its output and its layers do."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stability.foundation.formats import Format
from stability.foundation.log_norms import combine, log_norm
from stability.networks import Chain
from stability.reading.forward_recording import coarsest_dtype
from stability.reading.inputs import Inputs
from stability.reading.network import Network
from stability.reading.running import run
from stability.reading.traces import unchanged
from stability.reading.trees import tensors_in
from stability.scaling.depth_stack import Stack
from stability.signals.losses import Loss, evaluate, scalar_loss

Make = Callable[[int], nn.Module]
MakeOptimizer = Callable[..., torch.optim.Optimizer]

#: What a user who says nothing trains with.
RATE = 1e-3
#: A loss this many times larger than the first one has diverged, though it is finite still.
LARGEST_LOSS = 1e3
#: By the class of an optimiser, the power of the gradient's size that its step goes with.
_ORDERS: dict[type, int] = {
    torch.optim.SGD: 1,
    **dict.fromkeys((torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam), 0),
    **dict.fromkeys((torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Rprop), 0),
}


def build(make: Make, depth: int, seed: int) -> nn.Module:
    """Return make(depth) after the global generators are seeded."""
    _seed(seed)
    try:
        model = make(depth)
    except Exception as error:
        raise ValueError(f"make({depth}) raises {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"make({depth}) gives a {type(model).__name__}: expected an nn.Module")
    if isinstance(model, Chain):
        raise TypeError(
            f"make({depth}) gives a Chain, which holds the numbers of all its layers in one parameter: expected a "
            "module whose layers have parameters of their own"
        )
    for name, value in model.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise ValueError(f"make({depth}) gives a model whose parameter {name!r} has no shape: run it on a batch")
        if not value.isfinite().all():
            raise ValueError(f"make({depth}) gives a model whose parameter {name!r} is not finite, for seed {seed}")
    return model


def build_optimizer(optimizer: MakeOptimizer | None, model: nn.Module, depth: int) -> torch.optim.Optimizer:
    """Return the optimiser of a model's parameters; what asks for the model or the depth by its name is told."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    if not parameters:
        raise ValueError(f"no parameter of make({depth}) requires a gradient: all are frozen; call requires_grad_()")
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=RATE)
    try:
        asked = inspect.signature(optimizer).parameters
    except (TypeError, ValueError):
        asked = inspect.Signature().parameters
    told = {name: value for name, value in (("model", model), ("depth", depth)) if name in asked}
    try:
        made = optimizer(parameters, **told)
    except Exception as error:
        raise ValueError(f"optimizer(parameters) raises {type(error).__name__} at depth {depth}: {error}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer(parameters) gives a {type(made).__name__}: expected a torch.optim.Optimizer")
    if isinstance(made, torch.optim.LBFGS):
        raise ValueError("the optimizer is an LBFGS, which takes several gradients in a step: expected another one")
    return made


def order_of(optimizer: torch.optim.Optimizer) -> int | None:
    """Return the power of the gradient's size that a step goes with: 1 for SGD, 0 for Adam, None where unknown.

    The step of SGD with a weight decay has a part that does not go with the gradient.
    """
    if isinstance(optimizer, torch.optim.SGD) and any(group["weight_decay"] for group in optimizer.param_groups):
        return None
    return next((order for kind, order in _ORDERS.items() if isinstance(optimizer, kind)), None)


@dataclass(frozen=True)
class Sight:
    """What one forward pass shows: the states of the stack, the log rms of its branches, the output, and a spacing.

    The spacing is that of the coarsest format that the pass calculates in, relative, grown by the number of layers;
    random is whether the pass drew random numbers.
    """

    states: list[Tensor]
    branch: float
    output: Tensor
    spacing: float
    parameters: tuple[tuple[str, ...], ...]
    random: bool


def look(model: nn.Module, inputs: Inputs, stack: Stack, seed: int | None) -> Sight:
    """Run a model once, with the same random numbers every time; seed None is for one that draws none."""
    with same_draws(seed), Network(model, inputs).forward() as found:
        inside = stack.inside([run.kind for run in found.runs])
        states = [found.after[k].whole(found.layers[k]) for k in inside]
        branch = math.nan
        if stack.skips:
            parts = [states[n] - found.before[k].whole(found.layers[k]) for n, k in enumerate(inside)]
            branch = log_rms(doubles(torch.cat(parts)))
        spacing = Format(coarsest_dtype(node for node, _ in found.recording.seen)).spacing
        return Sight(
            states, branch, flat(found.output), spacing * math.sqrt(len(found.runs)), found.parameters, found.random
        )


def flat(output: object) -> Tensor:
    """Return the numbers of an output in one dimension."""
    parts = [t.detach() for t in tensors_in(output) if t.is_floating_point() or t.is_complex()]
    return torch.cat([doubles(t).flatten() for t in parts])


def doubles(values: Tensor) -> Tensor:
    """Return numbers in float64, complex ones as pairs."""
    return (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).double()


def log_rms(values: Tensor) -> float:
    """Return the log of the root mean square, -inf where all is exactly zero."""
    return float(log_norm(values)) - 0.5 * math.log(max(1, values.numel()))


def log_change(before: Tensor, after: Tensor, spacing: float) -> float:
    """Return the log rms of a change, NaN where rounding explains it."""
    size = log_rms(doubles(after) - doubles(before))
    floor = log_rms(doubles(before)) + math.log(4 * spacing)
    return math.nan if -math.inf < size < floor else size


def log_gradient(model: nn.Module, names: tuple[str, ...]) -> float:
    """Return the log norm of the gradient of some parameters."""
    own = dict(model.named_parameters())
    logs = [log_norm(grad) for name in names if (grad := own[name].grad) is not None]
    return float(combine(torch.stack(logs), dim=0)) if logs else -math.inf


class Training:
    """The iterations of one model, one at a time.

    Attributes:
        losses: at the start and after each update.
        diverged: the update after which something is not finite, or the loss is far above the first one; -1 for none.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, loss: Loss, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.inputs, self.loss, self.optimizer = model, inputs, loss, optimizer
        self.losses: list[float] = []
        self.diverged = -1

    def gradients(self, where: str) -> bool:
        """Calculate the loss and the gradients of an iteration; False where the training has diverged."""
        self.optimizer.zero_grad()
        output = run(self.model, self.inputs.mapped(lambda tensor: tensor.detach().clone()))
        value = evaluate(self.loss, output)
        if self.losses and value.numel() == 1 and self._is_lost(float(value.detach())):
            return False
        try:
            value = scalar_loss(lambda _: value, output)
        except ValueError as error:
            raise ValueError(f"{error} ({where}, iteration {len(self.losses)})") from None
        self.losses.append(float(value.detach()))
        value.backward()  # type: ignore[no-untyped-call]
        return True

    def update(self) -> bool:
        """Take the step; False where the training has diverged."""
        try:
            self.optimizer.step()
        except Exception as error:
            words = " ".join(str(error).split())
            raise ValueError(f"the optimizer raises {type(error).__name__} as it takes a step: {words}") from error
        if all(bool(value.isfinite().all()) for value in self.model.parameters()):
            return True
        self.diverged = len(self.losses)
        return False

    def end(self) -> None:
        """Calculate the loss after the last update."""
        output = run(self.model, self.inputs.mapped(lambda tensor: tensor.detach().clone()))
        value = float(evaluate(self.loss, output).detach())
        if not self._is_lost(value):
            self.losses.append(value)

    def _is_lost(self, value: float) -> bool:
        start = self.losses[0]
        if math.isfinite(value) and value - start <= LARGEST_LOSS * max(abs(start), 1e-12):
            return False
        self.diverged = len(self.losses)
        return True


@contextmanager
def same_draws(seed: int | None) -> Iterator[None]:
    """Let what draws from the global generators draw the same every time, and put these back; None for no draws."""
    if seed is None:
        yield
        return
    with unchanged():
        _seed(seed)
        yield


def _seed(seed: int) -> None:
    if torch.cuda.device_count() or torch.backends.mps.is_available():
        torch.manual_seed(seed)
    else:  # without the look at all kinds of devices, which takes milliseconds
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
