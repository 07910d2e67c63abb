"""Changes to a copy of a network that may mend it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stability.reading.inputs import Inputs
from stability.reading.running import run

#: What has a weight matrix that makes the state.
MAPS = (nn.Linear, nn.modules.conv._ConvNd)


def maps_in(net: nn.Module, names: tuple[str, ...] | None = None) -> list[tuple[str, nn.Module]]:
    """Return the linear maps and convolutions of a network, those inside some modules where names are given."""
    found: list[tuple[str, nn.Module]] = [(n, m) for n, m in net.named_modules() if isinstance(m, MAPS)]
    if names is None:
        return found
    return [(n, m) for n, m in found if any(n == one or n.startswith(f"{one}.") for one in names)]


def rescale(net: nn.Module, inputs: Inputs, names: tuple[str, ...] | None = None) -> None:
    """Divide every weight by the standard deviation of what it makes, and set its bias to 0, in one pass (LSUV)."""
    handles = []

    def scaled(module: nn.Module, _: object, output: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        if isinstance(bias, Tensor):
            shape = [1, -1, *[1] * (output.ndim - 2)] if isinstance(module, nn.modules.conv._ConvNd) else [-1]
            output = output - bias.reshape(shape)
            bias.zero_()
        size = float(output.double().square().mean().sqrt())
        if not 0 < size < math.inf:
            return output
        weight.div_(size)
        return output / size

    for _, module in maps_in(net, names):
        handles.append(module.register_forward_hook(scaled))
    try:
        with torch.no_grad():
            run(net, inputs)
    finally:
        for handle in handles:
            handle.remove()


def orthogonal(net: nn.Module, names: tuple[str, ...] | None = None, gain: float = 1.0) -> None:
    """Start every linear map as an orthogonal matrix, with its bias at 0."""
    for _, module in maps_in(net, names):
        assert isinstance(module.weight, Tensor)
        nn.init.orthogonal_(module.weight, gain)
        if isinstance(module.bias, Tensor):
            module.bias.zero_()


def without_bias(net: nn.Module, name: str) -> None:
    """Set to 0 the biases of the module `name`, or of the one before it where it has none."""
    for _, parameter in _near(net, name, "bias"):
        parameter.zero_()


def fan_in(net: nn.Module, names: tuple[str, ...] | None) -> None:
    """Start every linear map with entries of variance 2 / fan_in (He et al. 2015), with its bias at 0."""
    for _, module in maps_in(net, names):
        assert isinstance(module.weight, Tensor)
        nn.init.kaiming_normal_(module.weight)
        if isinstance(module.bias, Tensor):
            module.bias.zero_()


def _near(net: nn.Module, name: str, kind: str) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of a kind in the module `name`, else in the one that stands before it."""
    own = [(n, p) for n, p in net.named_parameters() if n.startswith(f"{name}.") and n.endswith(kind)]
    if own:
        return own
    before: list[tuple[str, nn.Parameter]] = []
    for module_name, module in net.named_modules():
        if module_name == name:
            break
        here = [(f"{module_name}.{n}", p) for n, p in module.named_parameters(recurse=False) if n.endswith(kind)]
        before = here or before
    return before


def feeding(net: nn.Module, name: str) -> tuple[str, ...]:
    """Return the names of the modules whose weights make what the activation `name` takes, as far as names tell."""
    return tuple(dict.fromkeys(n.rpartition(".")[0] for n, _ in _near(net, name, "weight")))
