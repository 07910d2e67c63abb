"""What torch's functions do to a piecewise-linear function: a linear map acts on values, slopes and bends alike.

A rule is found by the name of the torch function or method. Where f has values of shape (channels, height, width),
its data have one row a value, slope or bend in front, so a dimension d of the tensor is d + 1 of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stability.folds.bends import hinge
from stability.folds.following import module_in_use
from stability.folds.largest import largest
from stability.folds.numbers import FLOOR, UNIT, rationals, row_size
from stability.folds.pieces import align, view
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refusal import refuse

Rule = Callable[..., Any]


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            PiecewiseLinear.rules[name] = rule
        return rule

    return register


def _in_place(name: str) -> None:
    """Let name_ be the in-place form of the rule `name`."""
    rule = PiecewiseLinear.rules[name]
    PiecewiseLinear.rules[name + "_"] = lambda f, *args, **kwargs: f._become(rule(f, *args, **kwargs))


def _double(value: Tensor) -> Tensor:
    if value.is_complex():
        refuse("a complex weight", "values are real")
    return value.detach().to("cpu", torch.float64)


# Linear maps --------------------------------------------------------------------------------------------------------


def _linear(
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
        errors = norm * (f._errors + (terms + 2) * UNIT * size) * (1 + 1e-12)
        if norm > 0:
            errors += (terms + 2) * FLOOR * ((size > 0) | (f._errors > 0))
        if bias is not None:
            out[:k] += bias.numpy()
            errors[:k] += UNIT * (norm * size[:k] + float(bias.abs().max()))
    return f._like(out, errors)


def _exact_map(f: PiecewiseLinear, apply: Callable[[Tensor], Tensor], mean: bool) -> Any:
    """Apply a map to exact numbers, entry by entry: its matrix is what it makes of the unit vectors."""
    size = f.shape.numel()
    if size > 4096:
        raise ValueError(f"a layer has {size} inputs: exact arithmetic is for up to 4096; use the default")
    image = apply(torch.eye(size, dtype=torch.float64).reshape(size, *f.shape))
    matrix = image.reshape(size, -1).numpy()
    kind = type(f._data.flat[0])
    rows = f._data.reshape(len(f._data), size)
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


def _rows_sum(weight: Tensor) -> float:
    return float(weight.abs().flatten(1).sum(1).max())


@_rule("linear")
def _(f: PiecewiseLinear, weight: Tensor, bias: Tensor | None = None) -> PiecewiseLinear:
    w, b = _double(weight), None if bias is None else _double(bias)
    if not f.shape or f.shape[-1] != w.shape[1]:
        raise ValueError(f"the line has values of shape {tuple(f.shape)}: the linear layer takes (..., {w.shape[1]})")
    return _linear(f, lambda x: x @ w.T, _rows_sum(w), w.shape[1], b)


@_rule("matmul", "mm", "__matmul__")
def _(f: Any, other: Any) -> PiecewiseLinear:
    if isinstance(f, PiecewiseLinear) and isinstance(other, PiecewiseLinear):
        refuse("a matrix product of two functions", "it is not piecewise linear")
    if not isinstance(f, PiecewiseLinear):
        return _matrix_times(_double(torch.as_tensor(f)), other)
    w = _double(torch.as_tensor(other))
    if w.ndim > 2 or not f.shape or f.shape[-1] != len(w):
        raise ValueError(
            f"values of shape {tuple(f.shape)} times a matrix of shape {tuple(w.shape)}: expected (..., n) times "
            "(n, m) or (n,)"
        )
    return _linear(f, lambda x: x @ w, float(w.abs().sum(0).max()), len(w))


def _matrix_times(w: Tensor, f: PiecewiseLinear) -> PiecewiseLinear:
    if w.ndim not in (1, 2) or not f.shape or f.shape[max(len(f.shape) - 2, 0)] != w.shape[-1]:
        raise ValueError(
            f"a matrix of shape {tuple(w.shape)} times values of shape {tuple(f.shape)}: expected (m, n) or (n,) times "
            "(n,) or (..., n, k)"
        )

    def apply(x: Tensor) -> Tensor:
        return torch.matmul(w, x[..., None])[..., 0] if x.ndim == 2 else torch.matmul(w, x)

    return _linear(f, apply, float(w.abs().sum(-1).max()), w.shape[-1])


def _convolution(convolve: Callable[..., Tensor], dims: int) -> Rule:
    def rule(
        f: PiecewiseLinear,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> PiecewiseLinear:
        w = _double(weight)
        batched = _batched(f, dims)
        _check_channels(f, -dims - 1, w.shape[1] * groups)

        def apply(x: Tensor) -> Tensor:
            flat = x.flatten(0, 1) if batched else x
            out = convolve(flat, w, None, stride, padding, dilation, groups)
            return out.reshape(*x.shape[:2], *out.shape[1:]) if batched else out

        shift = None if bias is None else _double(bias).reshape(-1, *[1] * dims)
        return _linear(f, apply, _rows_sum(w), w[0].numel(), shift)

    return rule


def _check_channels(f: PiecewiseLinear, dim: int, expected: int) -> None:
    """Raise where dimension `dim` of the values is not as long as a layer has channels."""
    if not -len(f.shape) <= dim < len(f.shape) or f.shape[dim] != expected:
        raise ValueError(
            f"the line has values of shape {tuple(f.shape)} here{module_in_use()}: the layer takes {expected} channels "
            f"in dimension {dim}"
        )


def _batched(f: PiecewiseLinear, dims: int) -> bool:
    if len(f.shape) not in (dims + 1, dims + 2):
        raise ValueError(
            f"the line has values of shape {tuple(f.shape)}: the layer takes (channels, ...) or (batch, channels, ...) "
            f"with {dims} spatial dimensions"
        )
    return len(f.shape) == dims + 2


_rule("conv1d")(_convolution(functional.conv1d, 1))
_rule("conv2d")(_convolution(functional.conv2d, 2))


@_rule("batch_norm")
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
    _check_channels(f, 1, len(mean))
    scale = 1 / torch.sqrt(variance + eps)
    if weight is not None:
        scale = scale * _double(weight)
    from_mean = -mean * scale
    shift = from_mean if bias is None else from_mean + _double(bias)
    shape = (-1, *[1] * (len(f.shape) - 2))
    g = _linear(f, lambda x: x * scale.reshape(shape), float(scale.abs().max()), 4, shift.reshape(shape))
    # The shift is a sum of rounded numbers, which may cancel.
    g._errors[: len(g.knots)] += 6 * UNIT * float(from_mean.abs().max())
    return g


def _pooling(pool: Callable[..., Tensor], dims: int) -> Rule:
    def rule(f: PiecewiseLinear, *args: Any, **kwargs: Any) -> PiecewiseLinear:
        batched = _batched(f, dims)

        def apply(x: Tensor) -> Tensor:
            flat = x.flatten(0, 1) if batched else x
            out = pool(flat, *args, **kwargs)
            return out.reshape(*x.shape[:2], *out.shape[1:]) if batched else out

        # A divisor of the caller's own may be smaller than the window.
        norm = float(apply(torch.ones((1, *f.shape), dtype=torch.float64)).max())
        return _linear(f, apply, norm, f.shape.numel(), mean=True)

    return rule


for _dims in (1, 2):
    _rule(f"avg_pool{_dims}d")(_pooling(getattr(functional, f"avg_pool{_dims}d"), _dims))
    _rule(f"adaptive_avg_pool{_dims}d")(_pooling(getattr(functional, f"adaptive_avg_pool{_dims}d"), _dims))


def _dimensions(f: PiecewiseLinear, dim: Any) -> list[int]:
    """Dimensions of a value as dimensions of the data."""
    n = len(f.shape)
    given = range(n) if dim is None else (dim,) if isinstance(dim, int) else dim
    for d in given:
        if not -n <= d < n:
            raise IndexError(f"dimension {d} of values of shape {tuple(f.shape)}: expected one within [{-n}, {n - 1}]")
    return [d % n + 1 for d in given]


@_rule("sum")
def _(f: PiecewiseLinear, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> PiecewiseLinear:  # noqa: ARG001
    dims = _dimensions(f, dim)
    terms = int(np.prod([f._data.shape[d] for d in dims]))
    return _linear(f, lambda x: x.sum(dims, keepdim=keepdim), terms, terms)


@_rule("mean")
def _(f: PiecewiseLinear, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> PiecewiseLinear:  # noqa: ARG001
    dims = _dimensions(f, dim)
    return _linear(f, lambda x: x.mean(dims, keepdim=keepdim), 1.0, f.shape.numel(), mean=True)


# Arrangement --------------------------------------------------------------------------------------------------------


def _sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else tuple(sizes)


@_rule("view", "reshape")
def _(f: PiecewiseLinear, *sizes: Any, shape: Any = None) -> PiecewiseLinear:
    wanted = _sizes(sizes if shape is None else (shape,))
    try:
        return view(f, f._data.reshape(len(f._data), *torch.empty(f.shape, device="meta").reshape(wanted).shape))
    except RuntimeError as error:
        raise ValueError(f"values of shape {tuple(f.shape)} do not fit the shape {wanted}") from error


@_rule("flatten")
def _(f: PiecewiseLinear, start_dim: int = 0, end_dim: int = -1) -> PiecewiseLinear:
    shape = torch.empty(f.shape, device="meta").flatten(start_dim, end_dim).shape
    return view(f, f._data.reshape(len(f._data), *shape))


@_rule("unflatten")
def _(f: PiecewiseLinear, dim: int, sizes: Sequence[int]) -> PiecewiseLinear:
    shape = torch.unflatten(torch.empty(f.shape, device="meta"), dim, sizes).shape
    return view(f, f._data.reshape(len(f._data), *shape))


@_rule("squeeze")
def _(f: PiecewiseLinear, dim: Any = None) -> PiecewiseLinear:
    one = torch.empty(f.shape, device="meta")
    shape = (one.squeeze() if dim is None else one.squeeze(dim)).shape
    return view(f, f._data.reshape(len(f._data), *shape))


@_rule("unsqueeze")
def _(f: PiecewiseLinear, dim: int) -> PiecewiseLinear:
    return view(f, f._data.reshape(len(f._data), *torch.empty(f.shape, device="meta").unsqueeze(dim).shape))


@_rule("permute")
def _(f: PiecewiseLinear, *dims: Any) -> PiecewiseLinear:
    return view(f, f._data.transpose(0, *_dimensions(f, _sizes(dims))))


@_rule("transpose", "swapaxes")
def _(f: PiecewiseLinear, dim0: int, dim1: int) -> PiecewiseLinear:
    return view(f, f._data.swapaxes(*_dimensions(f, (dim0, dim1))))


@_rule("chunk")
def _(f: PiecewiseLinear, chunks: int, dim: int = 0) -> tuple[PiecewiseLinear, ...]:
    axis = _dimensions(f, dim)[0]
    index = torch.arange(f._data.shape[axis]).chunk(chunks)
    return tuple(view(f, np.take(f._data, part.numpy(), axis)) for part in index)


@_rule("cat", "concat", "concatenate")
def _(tensors: Sequence[Any], dim: int = 0) -> PiecewiseLinear:
    fs = _on_one_line(tensors)
    return _joined(fs, np.concatenate([f._data for f in fs], axis=_dimensions(fs[0], dim)[0]))


@_rule("stack")
def _(tensors: Sequence[Any], dim: int = 0) -> PiecewiseLinear:
    fs = _on_one_line(tensors)
    return _joined(fs, np.stack([f._data for f in fs], axis=dim % (len(fs[0].shape) + 1) + 1))


def _on_one_line(tensors: Sequence[Any]) -> list[PiecewiseLinear]:
    """All on the same knots; constants become constant functions."""
    base = next(f for f in tensors if isinstance(f, PiecewiseLinear))
    scalar = base._like(base._data.reshape(len(base._data), -1)[:, 0] * 0, base._errors * 0)
    fs = [f if isinstance(f, PiecewiseLinear) else scalar + f for f in tensors]
    for _ in range(2):  # the first pass gathers the knots, the second hands them out
        for i in range(1, len(fs)):
            joint = align(_plain(fs[0]), _plain(fs[i]))[0]
            fs[0], fs[i] = (align(f, joint * 0)[0] for f in (fs[0], fs[i]))
            fs[0] = fs[0]._make(fs[0]._places, fs[0]._data, fs[0]._errors, joint._undecided, fs[0]._limit)
    return fs


def _plain(f: PiecewiseLinear) -> PiecewiseLinear:
    """A scalar on the same knots."""
    return f._like(f._data.reshape(len(f._data), -1)[:, 0])


def _joined(fs: Sequence[PiecewiseLinear], data: Any) -> PiecewiseLinear:
    undecided: dict[int, int] = {}
    for f in fs:
        undecided |= f._undecided
    errors = np.maximum.reduce([f._errors for f in fs])
    return fs[0]._make(fs[0]._places, data, errors, undecided, fs[0]._limit)


@_rule("pad")
def _(f: PiecewiseLinear, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> PiecewiseLinear:
    if mode != "constant" or value:
        refuse(f"padding of mode {mode!r} with {value}", "only padding with 0 is a rule")
    return _linear(f, lambda x: functional.pad(x, list(pad)), 1.0, 1)


@_rule("clone")
def _(f: PiecewiseLinear, **__: Any) -> PiecewiseLinear:
    return f._like(f._data)


@_rule("contiguous", "detach", "to", "double", "float", "type_as", "cpu", "requires_grad_", "positive")
def _(f: PiecewiseLinear, *_: Any, **__: Any) -> PiecewiseLinear:
    return view(f, f._data)


@_rule("size")
def _(f: PiecewiseLinear, dim: int | None = None) -> Any:
    return f.shape if dim is None else f.shape[dim]


@_rule("dim", "ndimension")
def _(f: PiecewiseLinear) -> int:
    return len(f.shape)


@_rule("numel")
def _(f: PiecewiseLinear) -> int:
    return f.shape.numel()


@_rule("is_floating_point")
def _(f: PiecewiseLinear) -> bool:  # noqa: ARG001
    return True


# Bends --------------------------------------------------------------------------------------------------------------


def _activation(name: str, rule: Rule) -> None:
    def with_inplace(f: PiecewiseLinear, *args: Any, inplace: bool = False, **kwargs: Any) -> PiecewiseLinear:
        out = rule(f, *args, **kwargs)
        return f._become(out) if inplace else out

    PiecewiseLinear.rules[name] = with_inplace
    _in_place(name)


def _clamp(f: PiecewiseLinear, min: float | None = None, max: float | None = None) -> PiecewiseLinear:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        refuse("clamp with tensors as bounds", "use numbers, or maximum and minimum")
    if min is not None:
        f = hinge(f, min, 0.0, 1.0)
    return f if max is None else hinge(f, max, 1.0, 0.0)


def _prelu(f: PiecewiseLinear, weight: Tensor) -> PiecewiseLinear:
    slope = weight.detach().to("cpu", torch.float64).numpy()
    if slope.size > 1:
        _check_channels(f, 1 if len(f.shape) > 1 else 0, slope.size)
        slope = slope.reshape(-1, *[1] * max(len(f.shape) - 2, 0))  # channels are dimension 1 of a batch
    return hinge(f, 0.0, slope.reshape(()) if slope.size == 1 else slope, 1.0)


def _relu_functional(f: PiecewiseLinear) -> PiecewiseLinear:
    return hinge(f, 0.0, 0.0, 1.0)


def _leaky_relu(f: PiecewiseLinear, negative_slope: float = 0.01) -> PiecewiseLinear:
    return hinge(f, 0.0, negative_slope, 1.0)


def _threshold(f: PiecewiseLinear, threshold: float, value: float) -> PiecewiseLinear:
    if threshold != value:
        refuse(f"threshold {threshold} with value {value}", "it jumps; only equal ones are continuous")
    return hinge(f, threshold, 0.0, 1.0)


_activation("relu", _relu_functional)
_activation("leaky_relu", _leaky_relu)
_activation("prelu", _prelu)
_activation("hardtanh", lambda f, min_val=-1.0, max_val=1.0: _clamp(f, min_val, max_val))
_activation("relu6", lambda f: _clamp(f, 0.0, 6.0))
_activation("clamp", _clamp)
_activation("clip", _clamp)
_activation("clamp_min", lambda f, min: _clamp(f, min, None))
_activation("clamp_max", lambda f, max: _clamp(f, None, max))
_activation("threshold", _threshold)
PiecewiseLinear.rules["_threshold"] = PiecewiseLinear.rules["threshold"]  # what torch calls nn.Threshold's function
_activation("abs", lambda f: abs(f))
_activation("absolute", lambda f: abs(f))


def _larger(f: Any, g: Any) -> PiecewiseLinear:
    f, g = (f, g) if isinstance(f, PiecewiseLinear) else (g, f)
    return f.maximum(g)  # type: ignore[no-any-return]


def _smaller(f: Any, g: Any) -> PiecewiseLinear:
    f, g = (f, g) if isinstance(f, PiecewiseLinear) else (g, f)
    return f.minimum(g)  # type: ignore[no-any-return]


_rule("maximum")(_larger)
_rule("minimum")(_smaller)


@_rule("amax")
def _(f: PiecewiseLinear, dim: Any = None, keepdim: bool = False) -> PiecewiseLinear:
    dims = [d - 1 for d in _dimensions(f, dim)]
    rest = [d for d in range(len(f.shape)) if d not in dims]
    shape = tuple(1 if d in dims else n for d, n in enumerate(f.shape) if keepdim or d in rest)
    entries = np.arange(f.shape.numel()).reshape(f.shape).transpose(*dims, *rest)
    return largest(f, entries.reshape(-1, math.prod(f.shape[d] for d in rest)), shape)


@_rule("amin")
def _(f: PiecewiseLinear, dim: Any = None, keepdim: bool = False) -> PiecewiseLinear:
    return -PiecewiseLinear.rules["amax"](-f, dim, keepdim)  # type: ignore[no-any-return]


def _extreme(name: str, both: Rule) -> Rule:
    def rule(f: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, PiecewiseLinear | Tensor):
            return both(f, dim)
        best = PiecewiseLinear.rules["a" + name](f, dim, keepdim)
        if dim is None:
            return best
        # As torch, (values, indices), but the indices change along the line.
        return getattr(torch.return_types, name)((best, None))

    return rule


_rule("max")(_extreme("max", _larger))
_rule("min")(_extreme("min", _smaller))


def _max_pool(dims: int) -> Rule:
    def rule(
        f: PiecewiseLinear,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> PiecewiseLinear:
        if return_indices:
            refuse("max pooling with indices", "they jump along the line; use return_indices=False")
        size, step, pad, gap = (
            (v,) * dims if isinstance(v, int) else tuple(v)
            for v in (kernel_size, kernel_size if stride is None or stride == [] else stride, padding, dilation)
        )
        _batched(f, dims)
        spatial, lead = f.shape[-dims:], f.shape[:-dims]
        # Which input entry each window sees at each of its places; -1 outside. Torch itself lays the windows.
        entry = torch.arange(spatial.numel(), dtype=torch.float64).reshape(1, 1, *spatial)
        pool = getattr(functional, f"max_pool{dims}d")
        out = pool(entry, size, step, pad, gap, ceil_mode).shape[2:]
        places = np.stack(np.meshgrid(*(np.arange(s) for s in size), indexing="ij"), -1).reshape(-1, dims)
        corners = np.stack(np.meshgrid(*(np.arange(o) for o in out), indexing="ij"), -1).reshape(-1, dims)
        seen = corners[None] * step - np.array(pad) + places[:, None] * np.array(gap)
        inside = ((seen >= 0) & (seen < np.array(spatial))).all(-1)
        flat = (np.clip(seen, 0, np.array(spatial) - 1) * np.cumprod((1, *spatial[:0:-1]))[::-1]).sum(-1)
        # A place outside repeats the window's first place inside, which changes no maximum.
        first = flat[np.argmax(inside, axis=0), np.arange(flat.shape[1])]
        index = np.where(inside, flat, first)
        offsets = np.arange(lead.numel()) * spatial.numel()
        return largest(f, (offsets[:, None] + index[:, None]).reshape(len(index), -1), (*lead, *out))

    return rule


for _dims in (1, 2):
    for _name in (f"max_pool{_dims}d", f"_max_pool{_dims}d", f"max_pool{_dims}d_with_indices"):
        _rule(_name)(_max_pool(_dims))


# The rest -----------------------------------------------------------------------------------------------------------


def _dropout(f: PiecewiseLinear, p: float = 0.5, training: bool = True, inplace: bool = False) -> PiecewiseLinear:  # noqa: ARG001
    if training and p > 0:
        refuse("dropout in train mode", "it is random; call model.eval() first")
    return f


for _name in ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"):
    _rule(_name)(_dropout)


def _binary(name: str, operate: Rule) -> None:
    def rule(a: Any, b: Any, *, alpha: float = 1) -> Any:
        return operate(a, b * alpha if alpha != 1 else b)

    for form in (name, f"__{name}__"):
        PiecewiseLinear.rules[form] = rule
    PiecewiseLinear.rules[name + "_"] = lambda a, b, *, alpha=1: a._become(rule(a, b, alpha=alpha))


def _add(a: Any, b: Any) -> Any:
    return a + b if isinstance(a, PiecewiseLinear) else b + a


def _multiply(a: Any, b: Any) -> Any:
    return a * b if isinstance(a, PiecewiseLinear) else b * a


_binary("add", _add)
_binary("sub", lambda a, b: a - b if isinstance(a, PiecewiseLinear) else -b + a)
_binary("mul", _multiply)
_binary("div", lambda a, b: a / b if isinstance(a, PiecewiseLinear) else b.__rtruediv__(a))
for _alias, _name in (
    ("subtract", "sub"),
    ("multiply", "mul"),
    ("divide", "div"),
    ("true_divide", "div"),
    ("__radd__", "add"),
    ("__rmul__", "mul"),
    ("__truediv__", "div"),
):
    PiecewiseLinear.rules[_alias] = PiecewiseLinear.rules[_name]
PiecewiseLinear.rules["rsub"] = PiecewiseLinear.rules["__rsub__"] = lambda a, b: -(a - b)
PiecewiseLinear.rules["neg"] = PiecewiseLinear.rules["negative"] = lambda f: -f
