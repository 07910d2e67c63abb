"""The fast way for the commonest network on an interval: Linear layers with an activation between any two."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from stability.folds.kernels.layers import enumerate_layers
from stability.folds.pieces import TooManyKnots
from stability.folds.piecewise import PiecewiseLinear

_NO_LIMIT = 2**62


def restrict_layers(model: nn.Module, low: float, high: float, limit: int | None) -> PiecewiseLinear | None:
    """Return the model on [low, high], or None if it is not Linear, activation, Linear, ..., from one input."""
    modules: list[Any] = list(model) if type(model) is nn.Sequential else []
    if len(modules) % 2 == 0 or any(type(m) is not nn.Linear for m in modules[::2]) or modules[0].in_features != 1:
        return None
    widths = [1]
    parameters, slopes = [], []
    for linear, activation in zip(modules[::2], [*modules[1::2], None], strict=True):
        if linear.in_features != widths[-1]:
            return None
        widths.append(linear.out_features)
        weight, bias = linear._parameters["weight"], linear._parameters["bias"]
        if weight is None or linear._forward_hooks or linear._forward_pre_hooks:
            return None
        parameters.append(weight.numpy(force=True).ravel())
        parameters.append(np.zeros(widths[-1]) if bias is None else bias.numpy(force=True))
        kind = type(activation)
        if kind is nn.ReLU:
            slopes.append(np.zeros(widths[-1]))
        elif kind is nn.LeakyReLU:
            slopes.append(np.full(widths[-1], activation.negative_slope))
        elif kind is nn.PReLU:
            slopes.append(np.broadcast_to(activation.weight.numpy(force=True), widths[-1:]))
        elif activation is not None:
            return None
    flat = np.concatenate(parameters, dtype=np.float64)
    bent = np.concatenate(slopes, dtype=np.float64) if slopes else np.zeros(0)
    knots, data, errors, undecided = enumerate_layers(
        np.array(widths), flat, bent, low, high, _NO_LIMIT if limit is None else limit
    )
    if not len(knots):
        raise TooManyKnots
    if widths[-1] == 1:
        data = data.ravel()
    return PiecewiseLinear._make(knots, data, errors, {-1: undecided} if undecided else {})
