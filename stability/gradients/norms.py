"""How large the gradient of a loss is in every layer of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from torch import Tensor, nn

from stability.checks import check_finite, check_float64, check_points, check_positive
from stability.gradients.by_module import module_gradients
from stability.gradients.by_steps import step_gradients
from stability.gradients.layers import as_module, refuse_blocks
from stability.gradients.losses import Loss
from stability.gradients.result import GradientNorms
from stability.gradients.width_one import width_one_gradients
from stability.jacobians.blocks import is_chain
from stability.jacobians.width_one import is_piecewise_linear_width_one


@overload
def gradient_norms(
    net: nn.Module | Sequence[nn.Module],
    x: Any,
    loss: Loss,
    blocks: str | Sequence[str] | None = None,
    *,
    memory: float = 4.0,
) -> GradientNorms: ...
@overload
def gradient_norms(
    net: nn.Module | Sequence[nn.Module],
    x: Any,
    loss: Mapping[str, Loss],
    blocks: str | Sequence[str] | None = None,
    *,
    memory: float = 4.0,
) -> dict[str, GradientNorms]: ...
def gradient_norms(
    net: nn.Module | Sequence[nn.Module],
    x: Any,
    loss: Loss | Mapping[str, Loss],
    blocks: str | Sequence[str] | None = None,
    *,
    memory: float = 4.0,
) -> GradientNorms | dict[str, GradientNorms]:
    """Return the log norms of a loss's gradient, layer by layer: with respect to parameters, states and weights.

    No norm overflows or underflows, at any depth: at width 1 the gradient comes from the derivatives of the steps,
    with an exponent of its own; elsewhere by automatic differentiation, layer after layer, and what goes back between
    two layers is brought to order 1. A gradient is -inf in the log only where it is exactly zero, or where it vanishes
    within a single layer of a module.

    What a layer is:

    - a `Chain`: a step. The read-out is none, see `GradientNorms.named`.
    - an `nn.Sequential`, or a list of modules that follow one another: a child with parameters.
    - any other `nn.Module`: the children with parameters of the Sequential or ModuleList named `blocks`, or the modules
      that a list of names gives. Without `blocks`, those of the longest Sequential or ModuleList inside; if none has
      two, all modules that own parameters. What passes them by is taken into account. A parameter counts, with the
      whole of its gradient, in every layer that holds it, and a layer that is called several times once, with all the
      states that it took; frozen parameters are left out.

    Args:
        net: the network, as it is: in train or eval mode, with tied or frozen parameters.
        x: what it takes. For a chain (points,) or (points, n).
        loss: for a chain maps the output (seeds, points) or (seeds, points, n) to one value a seed, (seeds,), that
            depends on that seed's output alone; at width 1 the output comes in float64. Otherwise maps the network's
            output to a scalar. Or several losses by name: the result is then a dictionary.
        blocks: which layers of a module.
        memory: GiB that the states of a chain of width n may take; points are taken in portions that fit. A module
            takes what a training step does.

    Raises:
        ValueError, TypeError: for a loss of another shape, that is not finite or does not depend on the network,
            parameters without gradient, states that overflow, or, but in a chain of width 1, underflow.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 64, dtype=torch.float64)
    >>> chain = st.Chain("plain_prelu", depth=2000, seeds=8)
    >>> g = st.gradient_norms(chain, x, lambda y: (y - x.sin()).square().mean(dim=1))
    >>> print(f"|dLoss/dw_1| is about 10^{g['weight'][0].median() / 2.302585092994046:.0f}")
    |dLoss/dw_1| is about 10^-1476
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(50)])
    >>> g = st.gradient_norms(net, torch.randn(4, 8), lambda y: y.square().sum())
    >>> g["parameters"].shape, g["input"].shape
    (torch.Size([50, 1]), torch.Size([50, 1]))
    """
    check_positive("memory", memory)
    check_float64(net, x)
    if isinstance(loss, Mapping):
        if not loss:
            raise ValueError("loss is an empty mapping: expected at least one loss by name")
        return {name: gradient_norms(net, x, one, blocks, memory=memory) for name, one in loss.items()}
    if is_chain(net):
        refuse_blocks(blocks)
        if not any(value.requires_grad for value in net.parameters()):  # type: ignore[union-attr]
            raise ValueError("no parameter of the chain requires a gradient: all are frozen; call requires_grad_()")
        if is_piecewise_linear_width_one(net):
            return width_one_gradients(net, x, loss)
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}: expected a tensor of points")
        chain: Any = net
        check_finite("x", check_points(x, chain.width, chain.dtype, chain.device))
        return step_gradients(net, x, loss, memory)
    return module_gradients(as_module(net, x), x, loss, blocks)
