"""When the rows of a watched training are the steps of an optimiser: what it applies, and what a scaler did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from stability.signals.watch_record import WatchedPass

#: Gives the row of the next step, None where it is not recorded.
Open = Callable[[], WatchedPass | None]
#: Takes the log norm of a gradient, given the index of its parameter.
Norm = Callable[[int, Tensor], Tensor | float]


class _ScalerStep:
    """Stands for the step of a GradScaler that is watched. A copy of the scaler, also a pickled one, is not watched."""

    def __init__(self, rows: StepRows, scaler: torch.amp.GradScaler) -> None:
        self.rows, self.scaler, self.inner = rows, scaler, vars(scaler).get("step")
        self.watches = True

    def __call__(self, optimizer: torch.optim.Optimizer, *args: object, **options: object) -> object:
        step = self.inner or partial(type(self.scaler).step, self.scaler)
        if not self.watches or optimizer is not self.rows.optimizer:
            return step(optimizer, *args, **options)
        with self.rows.in_scaler(self.scaler):
            return step(optimizer, *args, **options)

    def remove(self) -> None:
        """Watch no more, and give the scaler its own step back once no watch is left."""
        self.watches = False
        held = vars(self.scaler)
        while isinstance(top := held.get("step"), _ScalerStep) and not top.watches:
            if top.inner is None:
                del held["step"]
            else:
                held["step"] = top.inner

    def __deepcopy__(self, memo: dict[int, torch.amp.GradScaler]) -> Callable[..., object]:
        return partial(type(self.scaler).step, memo[id(self.scaler)])

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return partial, (type(self.scaler).step, self.scaler)


class StepRows:
    """Fills a row at every step of an optimiser, from the gradients that it is about to apply.

    A GradScaler skips a step by not calling the optimiser, which no hook sees: where one is given, its `step` is
    replaced until `detach`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        parameters: Sequence[nn.Parameter],
        begin: Open,
        norm: Norm,
    ) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.begin, self.norm = begin, norm
        self.stepped, self.depth = False, 0
        self.scale = math.nan  # of the scaler that calls the optimiser
        self.handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        self.scaler_step = None if scaler is None else _ScalerStep(self, scaler)
        if scaler is not None:
            vars(scaler)["step"] = self.scaler_step

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.scaler_step is not None:
            self.scaler_step.remove()

    def begins(self) -> None:
        """Begin anew after a step that was broken off."""
        self.depth = 0

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[object, ...], options: dict[str, object]) -> None:
        """Fill the row of a step that the optimiser is about to take."""
        self.depth += 1
        if self.depth > 1:  # a step that calls that of its class above
            return
        if (len(args) > 1 and args[1] is not None) or options.get("closure") is not None:
            raise ValueError(
                "optimizer.step was given a closure, inside which it computes the gradients: watch without optimizer=, "
                "where every backward pass is a row"
            )
        self.stepped = True
        # A fused optimiser under a scaler divides the gradients itself, and skips inside its kernel.
        scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        self._fill(1.0 if scale is None else float(scale), found is not None and bool(found))

    def _after(self, *_: object) -> None:
        self.depth -= 1

    @contextmanager
    def in_scaler(self, scaler: torch.amp.GradScaler) -> Iterator[None]:
        """Know the scale while a scaler calls the optimiser; fill the row if it does not, and skips the step."""
        self.stepped, self.scale = False, scaler.get_scale()
        try:
            yield
            if not self.stepped:  # the gradients hold infinities or NaN, and were unscaled
                self._fill(1.0, True)
        finally:
            self.scale = math.nan

    def _fill(self, held: float, skipped: bool) -> None:
        """Fill a row; held is the factor that the gradients still hold."""
        row = self.begin()
        if row is None:
            return
        row.skipped = skipped
        row.scale = self.scale
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                row.gradients[index] = self.norm(index, parameter.grad) - math.log(held)


def check_steps(
    optimizer: torch.optim.Optimizer | None, scaler: torch.amp.GradScaler | None, parameters: dict[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """Return those of the parameters that the optimiser holds; raise for what is no optimiser of theirs."""
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"scaler is a {type(scaler).__name__}: expected a torch.amp.GradScaler")
    if optimizer is None:
        if scaler is not None:
            raise ValueError("scaler= was given without optimizer=: expected the optimiser whose steps it scales too")
        return parameters
    if not isinstance(optimizer, torch.optim.Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: expected a torch.optim.Optimizer that was set up as one"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "optimizer is an LBFGS, which computes several gradients within a step: watch without optimizer=, where "
            "every backward pass is a row"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = {name: parameter for name, parameter in parameters.items() if id(parameter) in held}
    if not own:
        raise ValueError("optimizer holds no parameter of the model that requires a gradient: expected its optimiser")
    return own
