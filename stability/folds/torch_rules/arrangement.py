"""Rules of arrangement: the same entries in another order and shape, copies of them, and a part of them.

What torch does to the numbers of the entries says where each of them goes, so torch's own rules hold for indices,
sizes and dimensions. The numbers start at 1, for torch fills with 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stability.folds.entries import take
from stability.folds.pieces import view
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.registry import Rule, naming, rule, torch_function

NAMES = (
    *("reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "atleast_1d", "atleast_2d", "atleast_3d"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "rot90"),
    *("roll", "flip", "fliplr", "flipud", "repeat", "tile", "repeat_interleave", "expand", "broadcast_to"),
    *("chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit", "unbind", "__getitem__"),
    *("narrow", "select", "index_select", "gather", "take", "take_along_dim", "diagonal", "diag", "diag_embed"),
    *("tril", "triu", "expand_as", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
)


def numbered(f: PiecewiseLinear, first: int = 1) -> Tensor:
    """Return the numbers of the entries; torch's layers of images take no integers."""
    return torch.arange(first, first + f.shape.numel(), dtype=torch.float64).reshape(f.shape)


def places(numbers: Tensor) -> np.ndarray:
    """Return which entries these numbers are of; -1 where torch has filled with 0."""
    index: np.ndarray = numbers.numpy().astype(np.intp) - 1
    return index


def arranged(name: str, f: PiecewiseLinear, arrange: Callable[[Tensor], object]) -> object:
    """Return what torch makes of the entries, as one function or as several."""
    numbers = numbered(f)
    with naming(name, f.shape):
        out = arrange(numbers)

    def one(part: Tensor) -> PiecewiseLinear:
        g = take(f, places(part))
        # What shares memory in torch is one tensor for in-place operations.
        shared = part.untyped_storage().data_ptr() == numbers.untyped_storage().data_ptr()
        return view(f, g) if shared else g

    return one(out) if isinstance(out, Tensor) else tuple(map(one, cast(tuple[Tensor, ...], out)))


def _arrangement(name: str, function: Callable[..., object]) -> Rule:
    def arrange(f: object, *args: object, **kwargs: object) -> object:
        if not isinstance(f, PiecewiseLinear):
            refuse(f"torch's {name} by what changes along the line", "the places must be constant")
        others = [torch.empty(v.shape) if isinstance(v, PiecewiseLinear) else v for v in args]
        if name != "expand_as" and any(isinstance(v, PiecewiseLinear) for v in (*args, *kwargs.values())):
            refuse(f"torch's {name} by what changes along the line", "the places must be constant")
        return arranged(name, f, lambda numbers: function(numbers, *others, **kwargs))

    return arrange


for _name in NAMES:
    rule(_name)(_arrangement(_name, torch_function(_name)))
# Data may be in another order than torch's would be: then it is a copy where torch has a view.
rule("view")(_arrangement("view", Tensor.reshape))
rule("T")(_arrangement("T", lambda x: x.permute(*range(x.ndim)[::-1])))
rule("mT", "mH")(_arrangement("mT", lambda x: x.transpose(-2, -1)))
rule("nearest")(_arrangement("interpolate", functional.interpolate))


@rule("view_as", "reshape_as")
def _(f: PiecewiseLinear, other: PiecewiseLinear | Tensor) -> object:
    return arranged("view_as", f, lambda x: x.reshape(other.shape))


@rule("unfold")
def _(f: PiecewiseLinear, *args: object, **kwargs: object) -> object:
    # Two functions of one name: the windows of an image, whose other arguments torch names, and Tensor.unfold.
    function: Callable[..., Tensor] = functional.unfold if "dilation" in kwargs else Tensor.unfold
    return arranged("unfold", f, lambda x: function(x, *args, **kwargs))


@rule("pad")
def _(f: PiecewiseLinear, pad: list[int], mode: str = "constant", value: float | None = None) -> PiecewiseLinear:
    g = cast(
        PiecewiseLinear, arranged("pad", f, lambda x: functional.pad(x, pad, mode, 0 if mode == "constant" else None))
    )
    if mode != "constant" or not value:
        return g
    return g + functional.pad(torch.zeros(f.shape, dtype=torch.float64), pad, mode, value)


@rule("clone")
def _(f: PiecewiseLinear, **__: object) -> PiecewiseLinear:
    return f._again()
