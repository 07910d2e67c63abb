"""A user's loss: what it says of an output, and its gradient there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any], Tensor]


def loss_of_members(loss: Loss, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each seed and its gradient with respect to the output (seeds, points, ...).

    The loss of one seed must not depend on the output of another, of which that of the first seed is looked at.
    """
    seeds = len(output)
    with torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        values = evaluate(loss, leaf)
        if values.shape != (seeds,) and not (seeds == 1 and values.ndim == 0):
            raise ValueError(
                f"the loss has shape {tuple(values.shape)}: of a chain it maps the output {tuple(output.shape)} to one "
                f"value a seed, ({seeds},), as in lambda y: (y - target).square().mean(dim=1)"
            )
        if not values.requires_grad:
            raise ValueError(
                "the loss does not depend on the network's output: expected a differentiable function of it, without "
                "detach, item or numpy"
            )
        _check_loss(values.reshape(seeds), "seed")
        _check_apart(values, leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ValueError("the loss does not depend on the network's output: expected a differentiable function of it")
    if not gradient.isfinite().all():
        place = tuple((~gradient.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"the loss has a gradient that is not finite, at output {place}: take one that is smooth there"
        )
    return values.detach().reshape(seeds), gradient


def _check_apart(values: Tensor, output: Tensor) -> None:
    """Raise where the loss of the first seed depends on the output of another."""
    if len(output) == 1:
        return
    (gradient,) = torch.autograd.grad(values[0], output, retain_graph=True, allow_unused=True)
    mixed = () if gradient is None else (gradient[1:].flatten(1).abs() > 0).any(dim=1).nonzero().flatten().tolist()
    if mixed:
        raise ValueError(
            f"the loss of seed 0 depends on the output of seed {mixed[0] + 1}: expected one value a seed that depends "
            "on that seed's output alone, as in lambda y: (y - target).square().mean(dim=1)"
        )


def evaluate(loss: Loss, output: object) -> Tensor:
    """Return loss(output), a floating tensor."""
    if not callable(loss):
        raise TypeError(f"loss is {loss!r}: expected a function of the network's output; of several take one at a time")
    values = loss(output)
    if not isinstance(values, Tensor):
        raise TypeError(f"the loss returns a {type(values).__name__}: expected a tensor, use functions of torch")
    if not values.is_floating_point():
        raise TypeError(f"the loss returns {values.dtype}: expected a floating tensor")
    return values


def scalar_loss(loss: Loss, output: object) -> Tensor:
    """Return loss(output), a finite scalar that can be differentiated."""
    value = evaluate(loss, output)
    if value.numel() != 1:
        raise ValueError(f"the loss has shape {tuple(value.shape)}: of a module it is a scalar; take its mean or sum")
    if not value.requires_grad:
        raise ValueError(
            "the loss does not depend on the network's parameters or input: expected a differentiable function of the "
            "output, without detach, item or numpy, and a network with parameters that require a gradient"
        )
    _check_loss(value.reshape(1), "value")
    return value.reshape(())


def _check_loss(values: Tensor, of: str) -> None:
    finite = values.isfinite()
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"the loss is not finite at {of} {', '.join(map(str, bad[:5]))}{', ...' if len(bad) > 5 else ''}: "
            f"{values[bad[0]].item()}; the output overflows, or the loss does"
        )
