"""The fast way for the commonest network on an interval: Linear layers with an activation between any two."""

from __future__ import annotations

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


def _as_made(module: nn.Module) -> bool:
    """Whether calling the module does what its class says, and no hook or function of its own has a say."""
    held = module.__dict__
    return not (held["_forward_hooks"] or held["_forward_pre_hooks"] or "forward" in held)


def _numbers(parameter: Tensor) -> Array:
    # numpy knows all floats but one, and this way is the faster.
    array: Array = (parameter.float() if parameter.dtype is torch.bfloat16 else parameter).numpy(force=True)
    return array


def restrict_layers(model: nn.Module, line: PiecewiseLinear, limit: int | None) -> PiecewiseLinear | None:
    """Return the model along a straight line, or None if it is not Linear, activation, Linear, ..., of its numbers."""
    modules = list(model) if type(model) is nn.Sequential else []
    linears = [module for module in modules[::2] if type(module) is nn.Linear]
    if len(modules) % 2 == 0 or len(linears) < len(modules[::2]) or linears[0].in_features != line.shape.numel():
        return None
    if hooked_by_others() or not all(map(_as_made, (model, *modules))):
        return None
    widths = [line.shape.numel()]
    parameters, slopes = [], []
    for linear, activation in zip(linears, [*modules[1::2], None], strict=True):
        if linear.in_features != widths[-1]:
            return None
        widths.append(linear.out_features)
        weight, bias = linear._parameters.get("weight"), linear._parameters.get("bias")
        if weight is None or (bias is None and linear.bias is not None):
            return None  # pruned, or calculated from others
        parameters.append(_numbers(weight).ravel())
        parameters.append(np.zeros(widths[-1]) if bias is None else _numbers(bias))
        if type(activation) is nn.ReLU:
            slopes.append(np.zeros(widths[-1]))
        elif type(activation) is nn.LeakyReLU:
            slopes.append(np.full(widths[-1], activation.negative_slope))
        elif type(activation) is nn.PReLU:
            weight = activation._parameters.get("weight")
            # Of one dimension torch takes all entries for one channel.
            channels = 1 if len(line.shape) == 1 else widths[-1]
            if weight is None or weight.numel() not in (1, channels):
                return None
            slopes.append(np.broadcast_to(_numbers(weight), widths[-1:]))
        elif activation is not None:
            return None
    flat = np.concatenate(parameters, dtype=np.float64)
    bent = np.concatenate(slopes, dtype=np.float64) if slopes else np.zeros(0)
    low, high = map(float, line.interval)
    start, slope = flatten_rows(line._data)[[0, 2]].copy()
    off, tilt = float(line._errors[:2].max()), float(line._errors[2])
    given = (start, slope, off + tilt * (high - low), tilt) if line.shape else (start, slope, 0.0, 0.0)
    most, few = most_bytes.get(), _NO_LIMIT if limit is None else limit
    fit = _NO_LIMIT if most is None else int(most / (24 * max(widths)))  # a value, a slope and a bend of each
    knots, data, errors, doubts, (whose, blurs) = enumerate_layers(
        np.array(widths), flat, bent, low, high, min(few, fit), given
    )
    if not len(knots):
        raise TooMuchMemory if fit < few else TooManyKnots
    if line.shape:
        data = data.reshape(len(data), *line.shape[:-1], widths[-1])
    elif widths[-1] == 1:
        data = data.ravel()
    names = _names(model)
    sources = [(layer, names[id(module)]) for layer, module in enumerate(modules[1::2])]
    inside = Origins(sources, lambda: np.pad(whose, ((1, 1), (0, 0)), constant_values=-1))
    error = np.zeros(len(knots))
    error[1:-1] = blurs
    places = Places(knots, error, origins=inside)
    return PiecewiseLinear._make(places, data, errors, {-1: doubts} if len(doubts) else {})


def _names(model: nn.Module) -> dict[int, str]:
    """Return the names of its modules, of one that is in it several times the first."""
    return {id(module): name for name, module in reversed(model._modules.items())}
