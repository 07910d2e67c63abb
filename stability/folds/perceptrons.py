"""The fast way for the commonest network on an interval: Linear layers with an activation between any two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stability.folds.following import hooked_by_others
from stability.folds.kernels.perceptron_knots import enumerate_layers
from stability.folds.numbers import Array
from stability.folds.pieces import TooManyKnots
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places

_NO_LIMIT = 2**62


def _as_made(module: nn.Module) -> bool:
    """Whether calling the module does what its class says, and no hook or function of its own has a say."""
    held = module.__dict__
    return not (held["_forward_hooks"] or held["_forward_pre_hooks"] or "forward" in held)


def _numbers(parameter: Tensor) -> Array:
    # numpy knows all floats but one, and this way is the faster.
    array: Array = (parameter.float() if parameter.dtype is torch.bfloat16 else parameter).numpy(force=True)
    return array


class Layer(NamedTuple):
    """A Linear layer, weight (outputs, inputs) and bias, and the slopes below 0 of the activation that follows."""

    weight: Array
    bias: Array
    slopes: Array | None


def read_layers(model: nn.Module, inputs: int) -> list[Layer] | None:
    """Return the layers of a model, or None if it is not Linear, activation, Linear, ..., from so many inputs."""
    modules = list(model) if type(model) is nn.Sequential else []
    linears = [module for module in modules[::2] if type(module) is nn.Linear]
    if len(modules) % 2 == 0 or len(linears) < len(modules[::2]) or linears[0].in_features != inputs:
        return None
    if hooked_by_others() or not all(map(_as_made, (model, *modules))):
        return None
    layers, width = [], inputs
    for linear, activation in zip(linears, [*modules[1::2], None], strict=True):
        if linear.in_features != width:
            return None
        width = linear.out_features
        weight, bias = linear._parameters.get("weight"), linear._parameters.get("bias")
        if weight is None or (bias is None and linear.bias is not None):
            return None  # pruned, or calculated from others
        slopes: Array | None = None
        if type(activation) is nn.ReLU:
            slopes = np.zeros(width)
        elif type(activation) is nn.LeakyReLU:
            slopes = np.full(width, activation.negative_slope)
        elif type(activation) is nn.PReLU:
            slope = activation._parameters.get("weight")
            if slope is None or slope.numel() not in (1, width):
                return None
            slopes = np.broadcast_to(_numbers(slope), (width,))
        elif activation is not None:
            return None
        layers.append(Layer(_numbers(weight), np.zeros(width) if bias is None else _numbers(bias), slopes))
    return layers


def restrict_layers(model: nn.Module, low: float, high: float, limit: int | None) -> PiecewiseLinear | None:
    """Return the model on [low, high], or None if it is not Linear, activation, Linear, ..., from one input."""
    layers = read_layers(model, 1)
    if layers is None:
        return None
    widths = [1, *(len(layer.bias) for layer in layers)]
    flat = np.concatenate([v for layer in layers for v in (layer.weight.ravel(), layer.bias)], dtype=np.float64)
    slopes = [layer.slopes for layer in layers if layer.slopes is not None]
    bent = np.concatenate(slopes, dtype=np.float64) if slopes else np.zeros(0)
    knots, data, errors, place_error, undecided = enumerate_layers(
        np.array(widths), flat, bent, low, high, _NO_LIMIT if limit is None else limit
    )
    if not len(knots):
        raise TooManyKnots
    if widths[-1] == 1:
        data = data.ravel()
    doubts = {-1: np.tile([low, high], (undecided, 1))} if undecided else {}
    return PiecewiseLinear._make(Places(knots, place_error), data, errors, doubts)
