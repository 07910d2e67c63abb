"""Rules of what is linear in the one function among its arguments: torch's own function, row by row of the data.

A row is a value, a slope or a bend. What the function makes of ones with the moduli of all weights is the largest row
sum of the map, and with ones in the place of the weights it is the number of products in a sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stability.folds.following import module_in_use
from stability.folds.numbers import FLOOR, Array, flatten_rows, lift_zeros, rationals, row_size
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.replay import price, spend, writing
from stability.folds.torch_rules.arrangement import arranged
from stability.folds.torch_rules.dimensions import check_channels, check_spatial
from stability.folds.torch_rules.registry import BATCH_OF_ONE, Rule, naming, rule, torch_function
from stability.folds.torch_rules.tensor_facts import check_kind
from stability.foundation.formats import ROUNDOFF


def linear_map(
    f: PiecewiseLinear,
    apply: Callable[[Tensor], Tensor],
    norm: float,
    terms: int,
    bias: Tensor | None = None,
    mean: bool = False,
) -> PiecewiseLinear:
    """Return the image of `f` under a linear map and a bias that broadcasts against its output.

    Args:
        apply: the map, of float64 tensors (rows, *shape).
        norm: its largest row sum of moduli. terms: how many products a sum has.
        mean: whether an entry of the map is one over an integer, which exact arithmetic must know.
    """
    k = f._points
    if f.exact:
        out = _exact_map(f, apply, mean)
        if bias is not None:
            out[:k] += rationals(bias.numpy(), type(f._data.flat[0]))
        return f._like(out)
    data = f._data if f._data.flags.c_contiguous else np.ascontiguousarray(f._data)
    with torch.no_grad():
        out = apply(torch.from_numpy(data)).numpy()
        if (total := writing.get()) is not None:
            total[0] += price(f.shape.numel(), math.prod(out.shape[1:]))
        size = row_size(f._data)
        errors = norm * (f._errors + (terms + 2) * ROUNDOFF * size) * (1 + 1e-12)
        if norm > 0:
            errors += (terms + 2) * FLOOR * ((size > 0) | (f._errors > 0))
        if bias is not None:
            out[:k] += bias.numpy()
            errors[:k] += ROUNDOFF * (norm * size[:k] + float(bias.abs().max()))
        for rows in f._held:
            if not out[rows].all():
                lift_zeros(out[rows], errors[rows], _cancelled(data[rows], out[rows], apply))
    return f._like(out, errors)


def _cancelled(data: Array, out: Array, apply: Callable[[Tensor], Tensor]) -> Array:
    """Which zeros of an image are made by rounding: those to which numbers other than 0 contribute."""
    zero: Array = out == 0
    rows = flatten_rows(zero).any(axis=1) & flatten_rows(data != 0).any(axis=1)
    zero[~rows] = False
    if not rows.any():
        return zero
    # Random factors: sums of them cancel by accident alone.
    probe = (data[rows] != 0) * np.random.default_rng(0).uniform(1, 2, data[rows].shape)
    zero[rows] &= apply(torch.from_numpy(probe)).numpy() != 0
    return zero


def _exact_map(f: PiecewiseLinear, apply: Callable[[Tensor], Tensor], mean: bool) -> Array:
    """Apply a map to exact numbers, entry by entry: its matrix is what it makes of the unit vectors."""
    size = f.shape.numel()
    spend(price(size, apply(torch.zeros(1, *f.shape, dtype=torch.float64)).numel()))
    if size > 4096:
        spend(math.inf)  # of a budget, where there is one, that is too much
        raise ValueError(f"a layer has {size} inputs: exact arithmetic is for up to 4096; use the default")
    image = apply(torch.eye(size, dtype=torch.float64).reshape(size, *f.shape))
    matrix = image.reshape(size, -1).numpy()
    kind = type(f._data.flat[0])
    rows = f._data.reshape(len(f._data), size)
    column, entry = np.nonzero(np.ascontiguousarray(matrix.T))
    spend(len(rows) * len(entry))
    if kind is not Fraction and not mean and len(entry) > matrix.size / 4:
        return _dense_map(rows, matrix).reshape(len(rows), *image.shape[1:])
    # Most weights of a convolution are in many places.
    values, which = np.unique(matrix[entry, column], return_inverse=True)
    weights = rationals(values, kind)
    if mean:
        weights = rationals(np.array([Fraction(1, round(1 / value)) for value in values.tolist()], dtype=object), kind)
    ends = np.searchsorted(column, np.arange(matrix.shape[1] + 1))
    zero = rationals(np.zeros(1), kind)[0]
    out = np.empty((len(rows), matrix.shape[1]), dtype=object)
    for j, (begin, end) in enumerate(itertools.pairwise(ends.tolist())):
        out[:, j] = rows[:, entry[begin:end]] @ weights[which[begin:end]] if end > begin else zero
    return out.reshape(len(rows), *image.shape[1:])


def _dense_map(rows: Array, matrix: Array) -> Array:
    """Return rows of fmpq times a matrix of float64: flint takes out what denominators have in common first."""
    from flint import fmpq_mat

    factors = rationals(matrix, type(rows.flat[0]))
    left = fmpq_mat(len(rows), rows.shape[1], rows.ravel().tolist())
    product = left * fmpq_mat(len(matrix), matrix.shape[1], factors.ravel().tolist())
    out = np.empty(len(rows) * matrix.shape[1], dtype=object)
    out[:] = product.entries()
    return out.reshape(len(rows), -1)


def double(value: Tensor) -> Tensor:
    if value.is_complex():
        refuse("a complex weight", "values are real")
    return value.detach().to("cpu", torch.float64)


def _operands(args: Sequence[object]) -> list[object]:
    """Arguments as they are but for tensors and arrays, which are read as float64."""
    arrays = (torch.from_numpy(v) if isinstance(v, np.ndarray) and v.dtype != object else v for v in args)
    return [double(v) if isinstance(v, Tensor) else v for v in arrays]


def _by_rows(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda rows: torch.vmap(call)(rows)


def product(
    name: str,
    function: Callable[..., Tensor],
    args: Sequence[object],
    bias: Tensor | None = None,
    weighs: bool = False,
    mean: bool = False,
) -> PiecewiseLinear:
    """Return the image of the one function among the arguments under a function that is linear in it.

    Args:
        weighs: whether the function has weights of its own, none of them negative; then a sum may be of all entries.
        mean: whether each of these is one over an integer.
    """
    args = _operands(args)
    followed = [i for i, value in enumerate(args) if isinstance(value, PiecewiseLinear)]
    if len(followed) != 1:
        refuse(f"torch's {name} of {len(followed)} functions", "only one factor may change along the line")
    place = followed[0]
    f = cast(PiecewiseLinear, args[place])

    def call(x: Tensor, weigh: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        given = [weigh(v) if weigh and isinstance(v, Tensor) else v for v in args]
        return function(*given[:place], x, *given[place + 1 :])

    ones = torch.ones(f.shape, dtype=torch.float64)
    with naming(name, f.shape, *(v.shape for v in args if isinstance(v, Tensor))):
        norm, terms = call(ones, Tensor.abs), call(ones, lambda w: (w != 0).to(w.dtype))
    if norm.numel() == 0:
        raise ValueError(f"torch's {name} of values of shape {tuple(f.shape)} leaves nothing of them")
    if sum(isinstance(value, Tensor) for value in args) > 1:
        refuse(f"torch's {name} of several constants", "their product rounds; multiply them first")
    norm = norm.abs()
    count = f.shape.numel() if weighs else round(float(terms.max()))
    apply = call if name == "linear" and place == 0 else _by_rows(call)  # that one takes rows as they are
    return linear_map(f, apply, float(norm.max()), max(count, 1), bias, mean)


PRODUCTS = ("mm", "bmm", "mv", "dot", "vdot", "inner", "outer", "ger", "tensordot", "kron", "matmul")


def _product(name: str, function: Callable[..., Tensor]) -> Rule:
    def multiplied(*args: object, **kwargs: object) -> PiecewiseLinear:
        args = (*args, *(kwargs.pop(key) for key in ("mat2", "vec2", "vec", "tensor") if key in kwargs))
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        return product(name, lambda *given: function(*given, **kwargs), args)

    return multiplied


for _name in PRODUCTS:
    rule(_name)(_product(_name, cast(Callable[..., Tensor], getattr(torch, _name))))
rule("__matmul__")(PiecewiseLinear.rules["matmul"])
rule("__rmatmul__")(lambda f, other: PiecewiseLinear.rules["matmul"](other, f))


@rule("einsum")
def _(equation: str, *operands: object) -> PiecewiseLinear:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    return product("einsum", lambda *given: torch.einsum(equation, *given), operands)


def _sum_with_product(name: str, multiply: Callable[..., object]) -> None:
    @rule(name)
    def added(input: object, a: object, b: object, *, beta: float = 1, alpha: float = 1) -> object:
        return input * beta + multiply(a, b) * alpha  # type: ignore[operator]


_sum_with_product("addmm", torch.mm)
_sum_with_product("addmv", torch.mv)
_sum_with_product("addr", torch.outer)
_sum_with_product("baddbmm", torch.bmm)
_sum_with_product("addbmm", lambda a, b: torch.bmm(a, b).sum(0))


def _layer(name: str, dims: int, transposed: bool = False) -> None:
    function = cast(Callable[..., Tensor], torch_function(name))

    @rule(name)
    def layer(input: object, weight: object, bias: object = None, *args: object, **kwargs: object) -> PiecewiseLinear:
        if isinstance(input, PiecewiseLinear) and isinstance(weight, Tensor):
            _check_layer(input, weight, dims, transposed, args, kwargs)
        if isinstance(bias, PiecewiseLinear):
            refuse(f"torch's {name} with a bias that changes along the line", "add it to the result")
        shift = None if bias is None else double(cast(Tensor, bias)).reshape(-1, *[1] * dims)
        return product(name, lambda x, w: function(x, w, None, *args, **kwargs), [input, weight], shift)


def _check_layer(
    f: PiecewiseLinear, weight: Tensor, dims: int, transposed: bool, args: Sequence[object], kwargs: dict[str, object]
) -> None:
    if not dims:
        if not f.shape or f.shape[-1] != weight.shape[-1]:
            raise ValueError(
                f"there are values of shape {tuple(f.shape)} here{module_in_use()}: the linear layer takes "
                f"(..., {weight.shape[-1]}); {BATCH_OF_ONE}"
            )
        return
    check_spatial(f, dims)
    groups = 1 if transposed else cast(int, kwargs.get("groups", args[3] if len(args) > 3 else 1))
    check_channels(f, -dims - 1, weight.shape[0] if transposed else weight.shape[1] * groups)


_layer("linear", 0)
for _dims in (1, 2, 3):
    _layer(f"conv{_dims}d", _dims)
    _layer(f"conv_transpose{_dims}d", _dims, transposed=True)


@rule("batch_norm")
def _(
    f: PiecewiseLinear,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> PiecewiseLinear:
    if training or running_mean is None or running_var is None:
        refuse("batch normalisation with the statistics of the batch", "call model.eval() first")
    if f.exact:
        refuse("batch normalisation in exact arithmetic", "its scale is a square root; fold it into the layer before")
    mean, variance = double(running_mean), double(running_var)
    check_channels(f, 1, len(mean))
    scale = 1 / torch.sqrt(variance + eps)
    if weight is not None:
        scale = scale * double(weight)
    from_mean = -mean * scale
    shift = from_mean if bias is None else from_mean + double(bias)
    shape = (-1, *[1] * (len(f.shape) - 2))
    g = linear_map(f, lambda x: x * scale.reshape(shape), float(scale.abs().max()), 4, shift.reshape(shape))
    # The shift is a sum of rounded numbers, which may cancel.
    g._errors[: g._points] += 6 * ROUNDOFF * float(from_mean.abs().max())
    return g


def _kinds(name: str) -> Rule:
    function = cast(Callable[..., Tensor], torch_function(name))

    def summed(f: PiecewiseLinear, dim: object = None, *args: object, dtype: object = None, **kwargs: object) -> object:
        check_kind(name, dtype)
        # Of no dimensions torch sums all; a function of rows would not.
        dims = [] if dim is None or dim == () or dim == [] else [dim]
        if not dims and (args or kwargs):
            dims = [tuple(range(len(f.shape)))]
        return product(name, lambda x: function(x, *dims, *args, **kwargs), [f], weighs=True, mean=name == "mean")

    return summed


for _name in ("sum", "mean", "cumsum", "trace"):
    rule(_name)(_kinds(_name))


def _weighted(name: str) -> Rule:
    """Averages: what torch weighs the entries with is not negative."""
    function = cast(Callable[..., Tensor], torch_function(name))

    def averaged(f: PiecewiseLinear, *args: object, **kwargs: object) -> PiecewiseLinear:
        check_spatial(f, int(name[-2]))
        return product(name, lambda x: function(x, *args, **kwargs), [f], weighs=True, mean=True)

    return averaged


for _dims in (1, 2, 3):
    for _name in (f"avg_pool{_dims}d", f"adaptive_avg_pool{_dims}d"):
        rule(_name)(_weighted(_name))


@rule("fold")
def _(f: PiecewiseLinear, *args: object, **kwargs: object) -> PiecewiseLinear:
    return product("fold", lambda x: functional.fold(x, *args, **kwargs), [f])  # type: ignore[arg-type]


@rule("interpolate")
def _(f: PiecewiseLinear, *args: object, mode: str = "nearest", **kwargs: object) -> object:
    function: Callable[..., Tensor] = functional.interpolate

    def resize(x: Tensor) -> Tensor:
        return function(x, *args, mode=mode, **kwargs)

    if mode.startswith("nearest"):
        return arranged("interpolate", f, resize)
    if mode == "bicubic":
        refuse("interpolation of mode 'bicubic'", "its weights have either sign; use bilinear")
    return product("interpolate", resize, [f], weighs=True, mean=mode == "area")


@rule("diff")
def _(f: PiecewiseLinear, n: int = 1, dim: int = -1) -> PiecewiseLinear:
    for _ in range(n):
        f = f.narrow(dim, 1, f.shape[dim] - 1) - f.narrow(dim, 0, f.shape[dim] - 1)
    return f


@rule("lerp")
def _(start: object, end: object, weight: object) -> object:
    if isinstance(weight, PiecewiseLinear):
        refuse("torch's lerp with a weight that changes along the line", "it is not piecewise linear")
    return start + (end - start) * weight  # type: ignore[operator]
