"""The fast way for the commonest network on an interval: Linear layers with an activation between any two."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stability.folds.following import hooked_by_others
from stability.folds.kernels.perceptron_knots import enumerate_layers
from stability.folds.numbers import Array, flatten_rows
from stability.folds.origins import Origins
from stability.folds.pieces import TooManyKnots, TooMuchMemory, most_bytes
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places

_NO_LIMIT = 2**62
# In four blocks of so many numbers: less than 4 MiB have no large pages, and are not fresh a second time.
_ROOM_AT_LEAST, _ROOM_AT_MOST = 2**17, 2**24


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


def read_layers(model: nn.Module, shape: torch.Size) -> list[Layer] | None:
    """Return the layers of a model, or None if it is not Linear, activation, Linear, ..., of inputs of this shape."""
    modules = list(model) if type(model) is nn.Sequential else []
    linears = [module for module in modules[::2] if type(module) is nn.Linear]
    if len(modules) % 2 == 0 or len(linears) < len(modules[::2]) or linears[0].in_features != shape.numel():
        return None
    if hooked_by_others() or not all(map(_as_made, (model, *modules))):
        return None
    layers, width = [], shape.numel()
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
            # Of one dimension torch takes all entries for one channel.
            if slope is None or slope.numel() not in (1, 1 if len(shape) == 1 else width):
                return None
            slopes = np.broadcast_to(_numbers(slope), (width,))
        elif activation is not None:
            return None
        layers.append(Layer(_numbers(weight), np.zeros(width) if bias is None else _numbers(bias), slopes))
    return layers


def sources_of(model: nn.Module) -> list[tuple[int, str]]:
    """Return the layers of activations of a model that `read_layers` reads, and the name of each."""
    names = dict(reversed([(id(module), name) for name, module in model._modules.items()]))  # the first name of each
    activations = list(model._modules.values())[1::2]
    return [(layer, names[id(activation)]) for layer, activation in enumerate(activations)]


def restrict_layers(model: nn.Module, line: PiecewiseLinear, limit: int | None) -> PiecewiseLinear | None:
    """Return the model along a straight line, or None if it is not Linear, activation, Linear, ..., of its numbers."""
    layers = read_layers(model, line.shape)
    if layers is None:
        return None
    widths = [line.shape.numel(), *(len(layer.bias) for layer in layers)]
    flat = np.concatenate([v for layer in layers for v in (layer.weight.ravel(), layer.bias)], dtype=np.float64)
    slopes = [layer.slopes for layer in layers if layer.slopes is not None]
    bent = np.concatenate(slopes, dtype=np.float64) if slopes else np.zeros(0)
    low, high = map(float, line.interval)
    start, _, slope = flatten_rows(line._data).copy()
    *at_ends, tilt = line._errors.tolist()
    off = max(at_ends)
    given = (start, slope, off + tilt * (high - low), tilt) if line.shape else (start, slope, 0.0, 0.0)
    most, few = most_bytes.get(), _NO_LIMIT if limit is None else limit
    fit = _NO_LIMIT if most is None else int(most / (24 * max(widths)))  # a value, a slope and a bend of each
    # Fresh memory costs as much as the arithmetic, but for what numpy asks large pages for, and untouched nothing: room
    # for as many knots as neurons come before, as most networks have.
    rows = itertools.accumulate(widths[1:-1], initial=2)
    room = max(count * width for count, width in zip(rows, widths[1:], strict=True))
    blocks = np.empty((4, min(room, _ROOM_AT_MOST) if room >= _ROOM_AT_LEAST else 0))
    knots, data, errors, doubts, (whose, blurs) = enumerate_layers(
        np.array(widths), flat, bent, low, high, min(few, fit), given, blocks
    )
    if not len(knots):
        raise TooMuchMemory if fit < few else TooManyKnots
    if line.shape:
        data = data.reshape(len(data), *line.shape[:-1], widths[-1])
    elif widths[-1] == 1:
        data = data.ravel()
    inside = Origins(sources_of(model), lambda: np.pad(whose, ((1, 1), (0, 0)), constant_values=-1))
    error = np.zeros(len(knots))
    error[1:-1] = blurs
    places = Places(knots, error, origins=inside)
    return PiecewiseLinear._make(places, data, errors, {-1: doubts} if len(doubts) else {})
