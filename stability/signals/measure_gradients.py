"""How large the gradient of a loss is in every layer of a network."""

from __future__ import annotations

from collections.abc import Sequence

from stability.foundation.arguments import door
from stability.foundation.checks import check_positive
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.read import AnyNetwork, read
from stability.signals.chain_gradients import step_gradients
from stability.signals.gradient_norms import GradientNorms
from stability.signals.losses import Loss
from stability.signals.module_gradients import module_gradients
from stability.signals.step_table_gradients import width_one_gradients


@door
def gradient_norms(
    net: AnyNetwork,
    x: object,
    loss: Loss,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    memory: float = 4.0,
) -> GradientNorms:
    """Return the log norms of a loss's gradient, layer by layer: with respect to parameters, states and weights.

    No norm overflows or underflows, at any depth: at width 1 the gradient comes from the derivatives of the steps,
    with an exponent of its own; of a wider chain it goes back step after step, and of a module through every cut of its
    graph in one pass, and is brought to order 1 on the way. A gradient is -inf in the log only where it is exactly
    zero: one that leaves the range within a single layer of a module, or within what several layers have in common, is
    refused. Hooks of your own on parameters are not applied: the norms are those of the loss's own gradient.

    What the layers of a module are `st.layers` shows. What passes them by is taken into account. A parameter counts,
    with the whole of its gradient, in every layer that uses it; frozen parameters are left out.

    Args:
        net: the network, as it is: in train or eval mode, with tied or frozen parameters.
        x: what it takes. For a chain (points,) or (points, n), else a tensor, a tuple of positional inputs, or a
            dictionary of keyword inputs.
        loss: for a chain maps the output (seeds, points) or (seeds, points, n) to one value a seed, (seeds,), that
            depends on that seed's output alone; at width 1 the output comes in float64. Otherwise maps what
            the network returns to a scalar.
        layers, source, batch_dim: how a module is read, see `st.layers`.
        memory: GiB that the states of a chain of width n may take; points are taken in portions that fit. A module
            takes what a training iteration does.

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
    reading = read(net, x, layers, source, batch_dim)
    if isinstance(reading, Steps):
        if not any(value.requires_grad for value in reading.chain.parameters()):
            raise ValueError("no parameter of the chain requires a gradient: all are frozen; call requires_grad_()")
        if isinstance(reading, StepTable):
            return width_one_gradients(reading, loss)
        return step_gradients(reading, loss, memory)
    return module_gradients(reading, loss)
