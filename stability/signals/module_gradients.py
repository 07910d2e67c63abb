"""The gradients of any network, layer by layer, from one backward pass through its graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stability.foundation.scaled_sums import Part, largest_of, log_norm_of, times_power_of_2
from stability.reading.forward_recording import edge_of
from stability.reading.loss_gradients import LossGradients, loss_gradients
from stability.reading.network import Network
from stability.reading.passes import Pass
from stability.reading.running import title
from stability.reading.states import State
from stability.reading.traces import unchanged
from stability.signals.gradient_norms import GradientNorms
from stability.signals.losses import Loss, refuse_saturated, scalar_loss


def module_gradients(reading: Network, loss: Loss) -> GradientNorms:
    """Return the gradient norms of a network: see `gradient_norms`."""
    net = reading.module
    if not any(value.requires_grad for value in net.parameters()):
        raise ValueError(
            f"no parameter of {title(net)} requires a gradient: it has none, or all are frozen; call requires_grad_() "
            "on some"
        )
    with unchanged(loss), reading.forward() as found:
        found.check_states()
        return norms_in(found, loss)


def norms_in(found: Pass, loss: Loss) -> GradientNorms:
    """Return the gradient norms of a pass, which may be used for more."""
    output = _state_of(found)  # before the loss, which may change it in place
    value = scalar_loss(loss, found.output)
    states = [state if there else None for state, there in zip(found.before, found.takes_state, strict=True)]
    gradients = loss_gradients(found, value, [*states, output])
    if output is not None and gradients.states[-1] == -math.inf:
        refuse_saturated(value, output.edges[0][0], "")
    if not gradients.parameters:
        raise ValueError("the loss does not depend on the network's parameters: expected a function of its output")
    return _sorted(found, value, gradients, has_output=output is not None)


def _state_of(found: Pass) -> State | None:
    """Return the output as a state, so that its gradient can be told, if it is one tensor."""
    output = found.output
    if not isinstance(output, Tensor) or (edge := edge_of(output)) is None:
        return None
    return State((edge,), (None,), (tuple(output.shape),), (output.dtype,), None, (1,))


def _sorted(found: Pass, value: Tensor, gradients: LossGradients, has_output: bool) -> GradientNorms:
    """Sort the gradients of a loss by layer and kind."""
    parts, values = gradients.parameters, dict(found.module.named_parameters())
    own = [[name for name in layer if name in parts] for layer in found.parameters]
    kinds = dict.fromkeys(_kind(name) for layer in own for name in layer)
    chosen = {kind: [[name for name in layer if _kind(name) == kind] for layer in own] for kind in kinds}
    chosen["parameters"] = own
    logs = {kind: [log_norm_of([parts[n] for n in layer]) for layer in layers] for kind, layers in chosen.items()}
    present = {kind: [bool(layer) for layer in layers] for kind, layers in chosen.items()}
    states = gradients.states[: len(own)]
    has_state = [state is not None for state in states]
    logs["input"] = [-math.inf if state is None else state for state in states]
    present["input"] = has_state
    weights = [[name for name in layer if values[name].ndim > 1] for layer in own]
    logs["relative"] = [log_norm_of([_times(parts[n], values[n]) for n in layer]) for layer in weights]
    present["relative"] = [bool(layer) for layer in weights]
    at_output = gradients.states[-1] if has_output else 0.0

    def row(numbers: list[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[:, None]

    quantities = [quantity for quantity in logs if any(present[quantity])]
    return GradientNorms(
        log_norms={quantity: row(logs[quantity]) for quantity in quantities},
        present={quantity: torch.tensor(present[quantity]) for quantity in quantities},
        named={
            name: torch.tensor([log_norm_of([parts[name]])], dtype=torch.float64) for name in values if name in parts
        },
        output=torch.tensor([0.0 if at_output is None else at_output], dtype=torch.float64),
        loss=value.detach().double().reshape(1).cpu(),
        layers=found.layers,
        members=(0,),
        path="autograd",
        missing=tuple(gradients.missing),
    )


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _times(part: Part, factor: Tensor) -> Part:
    """Return the product with a parameter, entry by entry, of numbers of order 1."""
    tensor, exponent = part
    sizes = largest_of(factor), largest_of(tensor)
    if all(1e-15 < size < 1e15 for size in sizes) and tensor.dtype == factor.dtype == torch.float32:
        return tensor * factor.detach(), exponent
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    shifts = [math.frexp(size)[1] if 0 < size < math.inf else 0 for size in sizes]
    one, other = (
        times_power_of_2(t.to(wide), 0, shift) for t, shift in zip((factor.detach(), tensor), shifts, strict=True)
    )
    return one * other, exponent + sum(shifts)
