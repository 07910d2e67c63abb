"""When the rows of a watched training are the steps of an optimiser: what it applies, and what a scaler did."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stability.signals.watch_record import WatchedPass

#: Gives the row of the next step, None where it is not recorded.
Open = Callable[[], WatchedPass | None]
#: Takes the log norm of a gradient, given the index of its parameter.
Norm = Callable[[int, Tensor], Tensor | float]


class StepRows:
    """Fills a row at every step of an optimiser, from the gradients that it is about to apply.

    A GradScaler skips a step by not calling the optimiser, which no hook sees: where one is given, its `step` is
    wrapped until `detach`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        parameters: Sequence[nn.Parameter],
        begin: Open,
        norm: Norm,
    ) -> None:
        self.optimizer, self.scaler, self.parameters = optimizer, scaler, parameters
        self.begin, self.norm = begin, norm
        self.stepped = False
        self.handle = optimizer.register_step_pre_hook(self._before)
        if scaler is not None:
            self.unwrapped, self.own_step = scaler.step, vars(scaler).get("step")
            vars(scaler)["step"] = self._scaler_step

    def detach(self) -> None:
        self.handle.remove()
        if self.scaler is not None:
            del vars(self.scaler)["step"]
            if self.own_step is not None:  # such as that of a watch around this one
                vars(self.scaler)["step"] = self.own_step

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Fill the row of a step that the optimiser is about to take."""
        if (len(args) > 1 and args[1] is not None) or options.get("closure") is not None:
            raise ValueError(
                "optimizer.step was given a closure, inside which it computes the gradients: watch without optimizer=, "
                "where every backward pass is a row"
            )
        self.stepped = True
        # A fused optimiser under a scaler divides the gradients itself, and skips inside its kernel.
        scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        self._fill(1.0 if scale is None else float(scale), found is not None and bool(found))

    def _scaler_step(self, optimizer: torch.optim.Optimizer, *args: Any, **options: Any) -> Any:
        if optimizer is not self.optimizer:
            return self.unwrapped(optimizer, *args, **options)
        self.stepped = False
        result = self.unwrapped(optimizer, *args, **options)
        if not self.stepped:  # the gradients hold infinities or NaN, and were unscaled
            self._fill(1.0, True)
        return result

    def _fill(self, held: float, skipped: bool) -> None:
        """Fill a row; held is the factor that the gradients still hold."""
        row = self.begin()
        if row is None:
            return
        row.skipped = skipped
        row.scale = math.nan if self.scaler is None else self.scaler.get_scale()
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
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}: expected a torch.optim.Optimizer")
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
