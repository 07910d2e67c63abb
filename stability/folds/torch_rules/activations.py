"""Rules of activations, which bend every entry by itself, and of dropout, which in eval mode does nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stability.folds.bends import hinge
from stability.folds.kinks_met import as_one_layer
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.dimensions import check_channels
from stability.folds.torch_rules.extremes import larger, smaller
from stability.folds.torch_rules.registry import Operand, in_place, rule


def _activation(name: str, bend: Callable[..., PiecewiseLinear]) -> None:
    bend = as_one_layer(bend)

    @rule(name)
    def with_inplace(f: PiecewiseLinear, *args: object, inplace: bool = False, **kwargs: object) -> PiecewiseLinear:
        out = bend(f, *args, **kwargs)
        return f._become(out) if inplace else out

    in_place(name)


def _clamp(f: PiecewiseLinear, min: Operand | None = None, max: Operand | None = None) -> PiecewiseLinear:
    if min is not None:
        f = hinge(f, min, 0.0, 1.0) if isinstance(min, int | float) else larger(f, min)
    if max is None:
        return f
    return hinge(f, max, 1.0, 0.0) if isinstance(max, int | float) else smaller(f, max)


def _softshrink(f: PiecewiseLinear, lambd: float = 0.5) -> PiecewiseLinear:
    return hinge(f - lambd, 0.0, 0.0, 1.0) + hinge(f + lambd, 0.0, 1.0, 0.0)


def _rrelu(f: PiecewiseLinear, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> PiecewiseLinear:
    if training:
        refuse("rrelu in train mode", "it is random; call model.eval() first")
    return hinge(f, 0.0, (lower + upper) / 2, 1.0)


def _prelu(f: PiecewiseLinear, weight: Tensor) -> PiecewiseLinear:
    slope = weight.detach().to("cpu", torch.float64).numpy()
    if slope.size > 1:
        check_channels(f, 1 if len(f.shape) > 1 else 0, slope.size)
        slope = slope.reshape(-1, *[1] * max(len(f.shape) - 2, 0))  # channels are dimension 1 of a batch
    return hinge(f, 0.0, slope.reshape(()) if slope.size == 1 else slope, 1.0)


def _leaky_relu(f: PiecewiseLinear, negative_slope: float = 0.01) -> PiecewiseLinear:
    return hinge(f, 0.0, negative_slope, 1.0)


def _threshold(f: PiecewiseLinear, threshold: float, value: float) -> PiecewiseLinear:
    if threshold != value:
        refuse(f"threshold {threshold} with value {value}", "it jumps; only equal ones are continuous")
    return hinge(f, threshold, 0.0, 1.0)


_activation("relu", lambda f: hinge(f, 0.0, 0.0, 1.0))
_activation("leaky_relu", _leaky_relu)
_activation("prelu", _prelu)
_activation("hardtanh", lambda f, min_val=-1.0, max_val=1.0: _clamp(f, min_val, max_val))
_activation("relu6", lambda f: _clamp(f, 0.0, 6.0))
_activation("hardsigmoid", lambda f: _clamp(f + 3, 0.0, 6.0) / 6)
_activation("softshrink", _softshrink)
_activation("rrelu", _rrelu)
_activation("clamp", _clamp)
_activation("clip", _clamp)
_activation("clamp_min", lambda f, min: _clamp(f, min, None))
_activation("clamp_max", lambda f, max: _clamp(f, None, max))
_activation("threshold", _threshold)
rule("_threshold")(PiecewiseLinear.rules["threshold"])  # what torch calls nn.Threshold's function
_activation("abs", abs)
_activation("absolute", abs)


@rule("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout")
def _(f: PiecewiseLinear, p: float = 0.5, training: bool = True, inplace: bool = False) -> PiecewiseLinear:  # noqa: ARG001
    if training and p > 0:
        refuse("dropout in train mode", "it is random; call model.eval() first")
    return f
