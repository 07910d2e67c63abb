"""A user's loss: what it says of an output, and its gradient there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from stability.reading.traces import unchanged

Loss = Callable[[Any], Tensor]

# Of operations that saturate, by what autograd calls them: the number that they keep, and where no gradient is left.
_SATURATED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "Exp": ("result", lambda y: y == 0),
    "Sigmoid": ("result", lambda y: (y == 0) | (y == 1)),
    "Tanh": ("result", lambda y: y.abs() == 1),
    "Softmax": ("result", lambda y: y == 1),
    "SafeSoftmax": ("result", lambda y: y == 1),
    "LogSoftmax": ("result", lambda y: y == 0),
    "LogSigmoid": ("self", lambda x: (-x).exp() == 0),
    "Softplus": ("self", lambda x: x.exp() == 0),
    "SoftMarginLoss": ("self", lambda x: (-x.abs()).exp() == 0),
    "BinaryCrossEntropyWithLogits": ("self", lambda x: (x.sigmoid() == 0) | (x.sigmoid() == 1)),
    "Erf": ("self", lambda x: (-x.square()).exp() == 0),
    "Erfc": ("self", lambda x: (-x.square()).exp() == 0),
}


def loss_of_members(loss: Loss, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each seed and its gradient with respect to the output (seeds, points, ...).

    The loss of one seed must not depend on the output of another, of which that of the first seed is looked at.
    """
    seeds = len(output)
    with unchanged(loss), torch.enable_grad():
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
        (gradient,) = torch.autograd.grad(values.sum(), leaf, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("the loss does not depend on the network's output: expected a differentiable function of it")
    if not gradient.isfinite().all():
        place = tuple((~gradient.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"the loss has a gradient that is not finite, at output {place}: take one that is smooth there"
        )
    zero = (gradient == 0).flatten(1).all(dim=1)
    if zero.any():
        edge = torch.autograd.graph.get_gradient_edge(leaf)
        refuse_saturated(values, edge.node, f" for {int(zero.sum())} of {seeds} seeds")
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


def refuse_saturated(value: Tensor, output: Node, where: str) -> None:
    """Raise if a loss whose gradient at the output is zero is saturated, so that it may have been lost inside.

    Args:
        value: the loss, in its graph. output: the node of the output in it. where: of which seeds, for the message.
    """
    for node in _between(value.grad_fn, output):
        name = node.name().rpartition("::")[2].partition("Backward")[0]
        kept, lost = _SATURATED.get(name, ("", torch.isnan))
        numbers = getattr(node, f"_saved_{kept}", None) if kept else None
        # A softmax of one number is 1 whatever that is.
        dim = getattr(node, "_saved_dim", None) if "oftmax" in name else None
        alone = isinstance(numbers, Tensor) and dim is not None and numbers.shape[dim] == 1
        if isinstance(numbers, Tensor) and not alone and lost(numbers.detach()).any():
            raise ValueError(
                f"the gradient of the loss with respect to the output is zero in {str(value.dtype)[6:]}{where}: it is "
                f"lost inside the loss, in {name}, which is saturated; scale the output down, or take a wider dtype, "
                "the network in float64, or a loss that converts its output to it"
            )


def _between(first: Node | None, last: Node) -> list[Node]:
    """Return the nodes of a graph on paths from one to another one below it."""
    leads: dict[Node, bool] = {last: True}
    left = [(first, False)]
    while left:
        node, seen = left.pop()
        if node is None or (node in leads and not seen):
            continue
        below = [after for after, _ in node.next_functions if after is not None]
        if seen:
            leads[node] = any(leads[after] for after in below)
        else:
            leads[node] = False
            left.append((node, True))
            left += [(after, False) for after in below]
    return [node for node, there in leads.items() if there and node is not last]


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
