"""Rules of linear maps: layers with weights, batch normalisation, sums, means and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stability.folds.numbers import FLOOR, Array, flatten_rows, lift_zeros, rationals, row_size
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.replay import spend
from stability.folds.torch_rules.dimensions import Dims, check_channels, data_dimensions, on_batches
from stability.folds.torch_rules.registry import Rule, rule
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
    k = len(f.knots)
    if f.exact:
        out = _exact_map(f, apply, mean)
        if bias is not None:
            out[:k] += rationals(bias.numpy(), type(f._data.flat[0]))
        return f._like(out)
    data = f._data if f._data.flags.c_contiguous else np.ascontiguousarray(f._data)
    with torch.no_grad():
        out = apply(torch.from_numpy(data)).numpy()
        size = row_size(f._data)
        errors = norm * (f._errors + (terms + 2) * ROUNDOFF * size) * (1 + 1e-12)
        if norm > 0:
            errors += (terms + 2) * FLOOR * ((size > 0) | (f._errors > 0))
        if bias is not None:
            out[:k] += bias.numpy()
            errors[:k] += ROUNDOFF * (norm * size[:k] + float(bias.abs().max()))
        if not out[:k].all():
            lift_zeros(out[:k], errors[:k], _cancelled(data[:k], out[:k], apply))
    return f._like(out, errors)


def _cancelled(data: Array, out: Array, apply: Callable[[Tensor], Tensor]) -> Array:
    """Which zeros of an image are made by rounding: those to which numbers other than 0 contribute."""
    zero: Array = out == 0
    rows = flatten_rows(zero).any(axis=1)
    # Random factors: sums of them cancel by accident alone.
    probe = (data[rows] != 0) * np.random.default_rng(0).uniform(1, 2, data[rows].shape)
    zero[rows] &= apply(torch.from_numpy(probe)).numpy() != 0
    return zero


def _exact_map(f: PiecewiseLinear, apply: Callable[[Tensor], Tensor], mean: bool) -> Array:
    """Apply a map to exact numbers, entry by entry: its matrix is what it makes of the unit vectors."""
    size = f.shape.numel()
    if size > 4096:
        raise ValueError(f"a layer has {size} inputs: exact arithmetic is for up to 4096; use the default")
    spend(size * size)
    image = apply(torch.eye(size, dtype=torch.float64).reshape(size, *f.shape))
    matrix = image.reshape(size, -1).numpy()
    kind = type(f._data.flat[0])
    rows = f._data.reshape(len(f._data), size)
    filled = int(np.count_nonzero(matrix))
    spend(len(rows) * filled)
    if kind is not Fraction and not mean and filled > matrix.size / 4:
        return _dense_map(rows, matrix).reshape(len(rows), *image.shape[1:])
    out = np.empty((len(rows), matrix.shape[1]), dtype=object)
    for j in range(matrix.shape[1]):
        used = np.flatnonzero(matrix[:, j])
        if mean:
            weights = rationals(np.array([1.0])) / round(1 / matrix[used[0], j])
            weights = rationals(np.broadcast_to(weights, used.shape), kind)
        else:
            weights = rationals(matrix[used, j], kind)
        zero = rationals(np.zeros(1), kind)[0]
        out[:, j] = rows[:, used] @ weights if len(used) else zero
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


def _double(value: Tensor) -> Tensor:
    if value.is_complex():
        refuse("a complex weight", "values are real")
    return value.detach().to("cpu", torch.float64)


def _rows_sum(weight: Tensor) -> float:
    return float(weight.abs().flatten(1).sum(1).max())


@rule("linear")
def _(f: PiecewiseLinear, weight: Tensor, bias: Tensor | None = None) -> PiecewiseLinear:
    w, b = _double(weight), None if bias is None else _double(bias)
    if not f.shape or f.shape[-1] != w.shape[1]:
        raise ValueError(f"the line has values of shape {tuple(f.shape)}: the linear layer takes (..., {w.shape[1]})")
    return linear_map(f, lambda x: x @ w.T, _rows_sum(w), w.shape[1], b)


@rule("matmul", "mm", "__matmul__")
def _(f: object, other: object) -> PiecewiseLinear:
    if not isinstance(f, PiecewiseLinear):
        return _matrix_times(_double(torch.as_tensor(f)), cast(PiecewiseLinear, other))
    if isinstance(other, PiecewiseLinear):
        refuse("a matrix product of two functions", "it is not piecewise linear")
    w = _double(torch.as_tensor(other))
    if w.ndim > 2 or not f.shape or f.shape[-1] != len(w):
        raise ValueError(
            f"values of shape {tuple(f.shape)} times a matrix of shape {tuple(w.shape)}: expected (..., n) times "
            "(n, m) or (n,)"
        )
    return linear_map(f, lambda x: x @ w, float(w.abs().sum(0).max()), len(w))


def _matrix_times(w: Tensor, f: PiecewiseLinear) -> PiecewiseLinear:
    if w.ndim not in (1, 2) or not f.shape or f.shape[max(len(f.shape) - 2, 0)] != w.shape[-1]:
        raise ValueError(
            f"a matrix of shape {tuple(w.shape)} times values of shape {tuple(f.shape)}: expected (m, n) or (n,) times "
            "(n,) or (..., n, k)"
        )

    def apply(x: Tensor) -> Tensor:
        return torch.matmul(w, x[..., None])[..., 0] if x.ndim == 2 else torch.matmul(w, x)

    return linear_map(f, apply, float(w.abs().sum(-1).max()), w.shape[-1])


def _convolution(convolve: Callable[..., Tensor], dims: int) -> Rule:
    def convolved(
        f: PiecewiseLinear,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> PiecewiseLinear:
        w = _double(weight)
        apply = on_batches(f, dims, lambda x: convolve(x, w, None, stride, padding, dilation, groups))
        check_channels(f, -dims - 1, w.shape[1] * groups)
        shift = None if bias is None else _double(bias).reshape(-1, *[1] * dims)
        return linear_map(f, apply, _rows_sum(w), w[0].numel(), shift)

    return convolved


rule("conv1d")(_convolution(functional.conv1d, 1))
rule("conv2d")(_convolution(functional.conv2d, 2))


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
    mean, variance = _double(running_mean), _double(running_var)
    check_channels(f, 1, len(mean))
    scale = 1 / torch.sqrt(variance + eps)
    if weight is not None:
        scale = scale * _double(weight)
    from_mean = -mean * scale
    shift = from_mean if bias is None else from_mean + _double(bias)
    shape = (-1, *[1] * (len(f.shape) - 2))
    g = linear_map(f, lambda x: x * scale.reshape(shape), float(scale.abs().max()), 4, shift.reshape(shape))
    # The shift is a sum of rounded numbers, which may cancel.
    g._errors[: len(g.knots)] += 6 * ROUNDOFF * float(from_mean.abs().max())
    return g


@rule("sum")
def _(f: PiecewiseLinear, dim: Dims = None, keepdim: bool = False, dtype: object = None) -> PiecewiseLinear:  # noqa: ARG001
    dims = data_dimensions(f, dim)
    terms = int(np.prod([f._data.shape[d] for d in dims]))
    return linear_map(f, lambda x: x.sum(dims, keepdim=keepdim), terms, terms)


@rule("mean")
def _(f: PiecewiseLinear, dim: Dims = None, keepdim: bool = False, dtype: object = None) -> PiecewiseLinear:  # noqa: ARG001
    dims = data_dimensions(f, dim)
    return linear_map(f, lambda x: x.mean(dims, keepdim=keepdim), 1.0, f.shape.numel(), mean=True)


@rule("pad")
def _(f: PiecewiseLinear, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> PiecewiseLinear:
    if mode != "constant" or value:
        refuse(f"padding of mode {mode!r} with {value}", "only padding with 0 is a rule")
    return linear_map(f, lambda x: functional.pad(x, list(pad)), 1.0, 1)
