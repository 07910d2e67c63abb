"""Every operation that is followed, in a small network around it, against the network itself on tensors.

The activation after it has kinks of its own, which are not those of the operation.

That the function is affine between its knots, and bends at them, is asked of the network alone: at points inside each
piece, and on both sides of each fold.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stability as st


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def like(x, *shape, seed=5):
    """A constant with the numbers of x, as a float32 network would have it."""
    return random(*shape, seed=seed).to(x.dtype)


class Around(nn.Module):
    """linear, the operation on values of a shape, a shift for each of its entries, leaky relu, linear."""

    def __init__(self, operation, shape, outputs=2):
        super().__init__()
        size = math.prod(shape)
        self.before = nn.Linear(2, size)
        self.operation, self.values = operation, shape
        with torch.no_grad():
            self.before.weight.copy_(random(size, 2, seed=1))
            self.before.bias.copy_(random(size, seed=2) / 2)
            out = operation(torch.zeros(shape))
            self.shift = nn.Parameter(random(out.numel(), seed=6).float())
            self.after = nn.Linear(out.numel(), outputs)
            self.after.weight.copy_(random(outputs, out.numel(), seed=3) / out.numel() ** 0.5)
            self.after.bias.copy_(random(outputs, seed=4))

    def forward(self, x):
        h = self.operation(self.before(x).reshape(self.values))
        return self.after(F.leaky_relu(h.reshape(-1) + self.shift, 0.2))


P, Q = 3 * random(2, seed=10), -3 * random(2, seed=10) + random(2, seed=11)


@torch.no_grad()
def values(net, t):
    return torch.stack([net(P + x * (Q - P)) for x in torch.as_tensor(t, dtype=torch.float64)]).numpy()


def agrees(net, undecided=0, few=1, exact=True):
    """The function of the line has the network's values and its folds."""
    f = st.restrict(net, st.segment(P, Q))
    net = net.double()
    t = np.random.default_rng(3).random(60)
    size = max(1.0, float(abs(f.values).max()))
    np.testing.assert_allclose(f(t), values(net, t), rtol=0, atol=1e-13 * size)
    # Inside each piece, at places that no rule would plant a knot at.
    start, width = f.knots[:-1], np.diff(f.knots)
    inside = [start + part * width for part in (0.137, 0.471, 0.891)]
    at = [values(net, u) for u in inside]
    for u, v in zip(inside, at, strict=True):
        np.testing.assert_allclose(f(u), v, rtol=0, atol=1e-13 * size)
    steep = (at[2] - at[0]) / (inside[2] - inside[0])[:, None]
    noise = 4e-13 * size / width
    assert (abs(steep - f.slopes) <= noise[:, None]).all()
    change = abs(steep[1:] - steep[:-1]).max(axis=1)
    allowed = 2 * (noise[1:] + noise[:-1])
    bent = f._bent()
    assert (change[bent] > allowed[bent]).all()
    assert (change[~bent] <= allowed[~bent]).all()
    assert bent.sum() >= few
    assert f.undecided <= undecided
    if exact:
        e = st.restrict(net, st.segment(P, Q), exact=True)
        assert e.undecided == 0
        assert len(e.folds()) == len(f.folds())
        np.testing.assert_allclose(e.folds().astype(float), f.folds(), rtol=0, atol=1e-12)
        assert e.count().regions == f.count().regions
        k = len(f.knots)
        error = abs(f.values - e.values).astype(float).max(axis=1)
        moved = np.abs(f.knots - e.knots).astype(float) * float(abs(f.slopes).max())
        assert (error <= f._errors[:k] + moved).all()
        assert (abs(f.slopes - e.slopes).astype(float).max(axis=1) <= f._errors[k : 2 * k - 1]).all()
        assert f._errors[:k].max() <= 1e-10 * size
    return f


MOVES = {
    "roll": (lambda x: torch.roll(x, (1, 2), (0, 1)), (2, 3)),
    "roll, flattened": (lambda x: x.roll(1), (2, 3)),
    "flip": (lambda x: torch.flip(x, [0, -1]), (2, 3)),
    "fliplr": (torch.fliplr, (2, 3)),
    "flipud": (torch.flipud, (2, 3)),
    "rot90": (lambda x: torch.rot90(x, 1, (0, 1)), (2, 3)),
    "split": (lambda x: x.split(2)[0] - 2 * x.split([1, 2])[1], (3, 2)),
    "torch.split": (lambda x: torch.split(x, 2, dim=1)[1], (2, 3)),
    "tensor_split": (lambda x: torch.tensor_split(x, 2, -1)[1], (2, 3)),
    "hsplit": (lambda x: torch.hsplit(x, 3)[1], (2, 3)),
    "chunk": (lambda x: torch.add(*x.chunk(2, -1)), (2, 4)),
    "unbind": (lambda x: x.unbind(1)[0] + torch.unbind(x)[1][:2], (2, 3)),
    "iteration": (lambda x: torch.stack([2 * row for row in x]), (2, 3)),
    "repeat": (lambda x: x.repeat(2, 1, 2) + like(x, 2, 2, 6), (2, 3)),
    "tile": (lambda x: torch.tile(x, (2, 2)) + like(x, 4, 6), (2, 3)),
    "repeat_interleave": (lambda x: torch.repeat_interleave(x, 2, dim=1) + like(x, 2, 6), (2, 3)),
    "repeat_interleave, each": (lambda x: x.repeat_interleave(torch.tensor([1, 2]), 0) + like(x, 3, 3), (2, 3)),
    "expand": (lambda x: x.expand(4, -1) + like(x, 4, 3), (1, 3)),
    "expand_as": (lambda x: x[:1].expand_as(x) + like(x, 2, 3), (2, 3)),
    "broadcast_to": (lambda x: torch.broadcast_to(x, (2, 3)) + like(x, 2, 3), (3,)),
    "broadcast_tensors": (lambda x: torch.broadcast_tensors(x[0], x)[0] + like(x, 2, 3), (2, 3)),
    "narrow": (lambda x: x.narrow(1, 1, 2), (2, 3)),
    "select": (lambda x: torch.select(x, 1, -1), (2, 3)),
    "index_select": (lambda x: x.index_select(1, torch.tensor([2, 0, 2])) + like(x, 2, 3), (2, 3)),
    "gather": (lambda x: x.gather(1, torch.tensor([[2, 0], [1, 1]])) + like(x, 2, 2), (2, 3)),
    "take": (lambda x: torch.take(x, torch.tensor([5, 0, 3])), (2, 3)),
    "take_along_dim": (lambda x: torch.take_along_dim(x, torch.tensor([[2, 0], [0, 1]]), 1), (2, 3)),
    "T": (lambda x: x.T + like(x, 3, 2), (2, 3)),
    "t": (lambda x: x.t() + like(x, 3, 2), (2, 3)),
    "mT": (lambda x: x.mT + like(x, 1, 3, 2), (1, 2, 3)),
    "movedim": (lambda x: torch.movedim(x, 0, 2) + like(x, 2, 3, 1), (1, 2, 3)),
    "swapaxes": (lambda x: x.swapaxes(0, 1) + like(x, 3, 2), (2, 3)),
    "swapdims": (lambda x: x.swapdims(0, 1) + like(x, 3, 2), (2, 3)),
    "ravel": (lambda x: x.T.ravel() + like(x, 6), (2, 3)),
    "diagonal": (lambda x: x.diagonal(1), (2, 3)),
    "diag": (torch.diag, (3,)),
    "diag_embed": (torch.diag_embed, (2, 3)),
    "tril": (lambda x: x.tril(), (2, 3)),
    "triu": (lambda x: torch.triu(x, 1), (2, 3)),
    "view_as": (lambda x: x.view_as(torch.empty(3, 2)) + like(x, 3, 2), (2, 3)),
    "Tensor.unfold": (lambda x: x.unfold(0, 3, 2) + like(x, 2, 3), (6,)),
    "F.unfold": (lambda x: F.unfold(x, 2, 1, 1, 2), (1, 2, 3, 3)),
    "nn.Unfold": (nn.Unfold(2), (1, 2, 3, 3)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2) + like(x, 1, 1, 4, 4), (1, 4, 2, 2)),
    "pixel_unshuffle": (lambda x: nn.PixelUnshuffle(2)(x) + like(x, 1, 4, 2, 2), (1, 1, 4, 4)),
    "channel_shuffle": (lambda x: nn.ChannelShuffle(2)(x) + like(x, 1, 4, 2, 1), (1, 4, 2, 1)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2) + like(x, 1, 1, 4, 4), (1, 1, 2, 2)),
    "nearest-exact": (lambda x: F.interpolate(x, size=(5,), mode="nearest-exact") + like(x, 1, 1, 5), (1, 1, 3)),
    "pad, reflect": (lambda x: F.pad(x, (2, 1), mode="reflect") + like(x, 1, 2, 6), (1, 2, 3)),
    "pad, replicate": (lambda x: F.pad(x, (1, 1, 1, 0), mode="replicate") + like(x, 1, 1, 3, 5), (1, 1, 2, 3)),
    "pad, circular": (lambda x: nn.CircularPad1d(1)(x) + like(x, 1, 2, 5), (1, 2, 3)),
    "pad, constant": (lambda x: F.pad(x, (1, 0), value=0.7) + like(x, 2, 4), (2, 3)),
    "pad, cropping": (lambda x: F.pad(x, (-1, 1)), (2, 3)),
    "index on both sides of a slice": (lambda x: x[0, :, torch.tensor([1, 0])] + like(x, 2, 2), (1, 2, 3)),
    "two indices": (lambda x: x[[0, 1, 0], [2, 0, 1]], (2, 3)),
    "mask": (lambda x: x[torch.tensor([[True, False, True], [False, True, True]])], (2, 3)),
    "None and step": (lambda x: x[None, ..., ::2], (2, 3)),
    "hstack": (lambda x: torch.hstack([x, -x]), (2, 3)),
    "vstack": (lambda x: torch.vstack([x[0], x, torch.ones(3, dtype=x.dtype)]) + like(x, 4, 3), (2, 3)),
    "dstack": (lambda x: torch.dstack((x, -x)), (2, 3)),
    "column_stack": (lambda x: torch.column_stack((x, -x)), (3,)),
    "where, constant mask": (lambda x: torch.where(torch.tensor([True, False, True]), x, 0.3), (2, 3)),
    "where, Tensor": (lambda x: x.where(torch.tensor([True, False, True]), x.flip(1)), (2, 3)),
    "masked_fill": (lambda x: x.masked_fill(torch.eye(2, 3).bool(), 0.5), (2, 3)),
    "scatter": (lambda x: x.scatter(1, torch.tensor([[1], [0]]), 0.5), (2, 3)),
    "padding mode of a layer": (
        lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), like(x, 1, 1, 3, 3)),
        (1, 1, 2, 3),
    ),
}
LINEAR = {
    "sum, of no dimensions": (lambda x: x.relu().sum(()) - x.sum(dim=()), (2, 3)),
    "sum": (lambda x: x.sum(1, keepdim=True) + x.sum(keepdim=True, dim=None), (2, 3)),
    "mean": (lambda x: x.mean((0, 2)), (2, 3, 2)),
    "cumsum": (lambda x: x.cumsum(1), (2, 3)),
    "trace": (lambda x: torch.trace(x), (3, 3)),
    "diff": (lambda x: torch.diff(x, 2), (2, 5)),
    "einsum": (lambda x: torch.einsum("ij,kj->ik", x, like(x, 2, 3)), (2, 3)),
    "einsum, transposed": (lambda x: torch.einsum("kj,ij->ki", like(x, 2, 3), x), (2, 3)),
    "einsum, of one": (lambda x: torch.einsum("ij->j", x), (2, 3)),
    "dot": (lambda x: torch.dot(x, like(x, 4)), (4,)),
    "dot, on the right": (lambda x: torch.dot(like(x, 4), x), (4,)),
    "mv": (lambda x: torch.mv(x, like(x, 3)), (2, 3)),
    "mv of a vector": (lambda x: torch.mv(like(x, 2, 3), x), (3,)),
    "bmm": (lambda x: torch.bmm(x, like(x, 2, 3, 2)), (2, 1, 3)),
    "bmm, on the right": (lambda x: torch.bmm(like(x, 2, 2, 2), x), (2, 2, 3)),
    "batched matmul": (lambda x: x @ like(x, 2, 3, 2), (2, 1, 3)),
    "inner": (lambda x: torch.inner(x, like(x, 2, 3)), (2, 3)),
    "outer": (lambda x: torch.outer(x, like(x, 3)), (3,)),
    "tensordot": (lambda x: torch.tensordot(x, like(x, 3, 2), 1), (2, 3)),
    "kron": (lambda x: torch.kron(x, like(x, 2, 1)), (2, 2)),
    "addmm": (lambda x: torch.addmm(like(x, 2), x, like(x, 3, 2), beta=0.5, alpha=2), (2, 3)),
    "addmm, on the right": (lambda x: torch.addmm(x[:, :3], like(x, 2, 2), x), (2, 3)),
    "addmv": (lambda x: torch.addmv(x[:, 0], x, like(x, 3)), (2, 3)),
    "baddbmm": (lambda x: torch.baddbmm(like(x, 1), x, like(x, 2, 3, 1)), (2, 2, 3)),
    "linear": (lambda x: F.linear(x, like(x, 4, 3), like(x, 4)), (2, 3)),
    "conv3d": (lambda x: F.conv3d(x, like(x, 2, 1, 2, 2, 2), like(x, 2), padding=1), (1, 1, 2, 2, 2)),
    "conv3d, unbatched": (lambda x: F.conv3d(x, like(x, 1, 2, 2, 2, 2)), (2, 2, 2, 3)),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, like(x, 2, 3, 2), like(x, 3), 2), (1, 2, 3)),
    "conv_transpose1d, unbatched": (lambda x: F.conv_transpose1d(x, like(x, 2, 1, 3), groups=2), (2, 3)),
    "conv_transpose2d": (
        lambda x: F.conv_transpose2d(x, like(x, 1, 2, 2, 2), stride=2, output_padding=1),
        (1, 1, 2, 2),
    ),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 1, 2, 3)),
    "bilinear, corners": (nn.Upsample(size=(3, 5), mode="bilinear", align_corners=True), (1, 1, 2, 3)),
    "linear interpolation": (lambda x: F.interpolate(x, 5, mode="linear"), (1, 2, 3)),
    "trilinear": (lambda x: F.interpolate(x, size=(3, 2, 2), mode="trilinear"), (1, 1, 2, 2, 2)),
    "area": (lambda x: F.interpolate(x, size=2, mode="area"), (1, 1, 5)),
    "fold": (lambda x: F.fold(x, (3, 3), 2), (1, 4, 4)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2, 1), (1, 1, 2, 3, 3)),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, (1, 2, 2)), (1, 1, 2, 3, 3)),
    "lerp": (lambda x: torch.lerp(x[0], x[1], 0.3) + x[0].lerp(like(x, 3), like(x, 3)), (2, 3)),
}
ORDER = {
    "sort": (lambda x: x.sort().values + like(x, 2, 4), (2, 4)),
    "sort, descending": (lambda x: torch.sort(x, 0, descending=True)[0] + like(x, 4, 2), (4, 2)),
    "msort": (lambda x: torch.msort(x) + like(x, 4, 2), (4, 2)),
    "topk": (lambda x: torch.topk(x, 2)[0] + like(x, 2, 2), (2, 5)),
    "topk, smallest": (lambda x: x.topk(2, dim=0, largest=False).values + like(x, 2, 2), (5, 2)),
    "kthvalue": (lambda x: x.kthvalue(2, 1)[0], (2, 5)),
    "kthvalue, keepdim": (lambda x: torch.kthvalue(x, 3, dim=0, keepdim=True).values, (4, 2)),
    "median": (lambda x: x.median(1).values, (2, 4)),
    "median, all": (torch.median, (2, 3)),
    "cummax": (lambda x: x.cummax(1).values + like(x, 2, 4), (2, 4)),
    "cummin": (lambda x: torch.cummin(x, 0)[0] + like(x, 4, 2), (4, 2)),
    "amax, of no dimensions": (lambda x: x.amax(()), (2, 3)),
    "aminmax": (lambda x: torch.aminmax(x, dim=1).max - x.aminmax().min, (2, 4)),
    "fmax": (lambda x: torch.fmax(x[0], x[1]), (2, 4)),
    "fmin": (lambda x: torch.fmin(x[0], like(x, 4)), (2, 4)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2, 1), (1, 1, 2, 3, 3)),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 3), (1, 2, 5)),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d((2, None)), (1, 1, 3, 4)),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, (1, 2, 1)), (1, 2, 3, 3, 2)),
    "clamp, tensors": (lambda x: x.clamp(like(x, 3, seed=8) - 1, like(x, 3, seed=8) + 0.3), (2, 3)),
    "clamp, functions": (lambda x: torch.clamp(x[0], max=x[1]), (2, 4)),
    "norm, 1": (lambda x: x.norm(1, dim=1), (2, 4)),
    "norm, inf": (lambda x: torch.norm(x, math.inf), (2, 4)),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, -math.inf, dim=1, keepdim=True), (2, 4)),
    "linalg.norm": (lambda x: torch.linalg.norm(x, ord=1, dim=0), (2, 4)),
    "l1_loss": (lambda x: F.l1_loss(x[0], x[1]) + F.l1_loss(x, like(x, 2, 3), reduction="sum"), (2, 3)),
}
BENDS = {
    "hardsigmoid": (lambda x: F.hardsigmoid(9 * x), (4,)),
    "softshrink": (lambda x: F.softshrink(x, 0.3), (4,)),
    "rrelu": (nn.RReLU().eval(), (4,)),
    "rrelu, in place": (lambda x: F.rrelu(2 * x, 0.1, 0.5, False, True), (4,)),
    "in place, first": (nn.Sequential(nn.ReLU(inplace=True), nn.Hardsigmoid(inplace=True)), (4,)),
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), (4,)),
    "where, constants": (lambda x: torch.where(x >= 0.3, x, 0.3), (4,)),
    "where, le": (lambda x: torch.where(x <= 0, -0.3 * x, x), (4,)),
    "where, lt": (lambda x: torch.where(-x > 0.25, x + 0.25, torch.zeros_like(x)), (4,)),
    "where, two functions": (lambda x: torch.where(x[0] > x[1], 2 * x[0], x[0] + x[1]), (2, 3)),
    "where, tensors": (lambda x: torch.where(torch.gt(x, like(x, 4)), x - like(x, 4), 0), (4,)),
    "where, tensor first": (lambda x: torch.where(like(x, 4) < x, like(x, 4), x), (4,)),
    "where, broadcast": (lambda x: torch.where(x[:, :1] > 0, x[:, :1] * like(x, 3), 0), (2, 3)),
    "where, not": (lambda x: torch.where(~(x > 0), 0, x) + torch.where(torch.logical_not(x < 0), x, 0), (4,)),
    "Tensor.where": (lambda x: x.where(x > 0, 0.2 * x), (4,)),
    "mask": (lambda x: x * (x > 0), (4,)),
    "mask, on the left": (lambda x: (x < 0).to(x.dtype) * x, (4,)),
    "mask, float": (lambda x: torch.mul(x, (x.ge(0)).float()), (4,)),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0.0), (4,)),
}
ALL = MOVES | LINEAR | ORDER | BENDS


@pytest.mark.parametrize("name", ALL)
def test_operations(name):
    operation, shape = ALL[name]
    agrees(Around(operation, shape).double())


@pytest.mark.parametrize("name", ALL)
def test_operations_in_float32(name):
    operation, shape = ALL[name]
    if isinstance(operation, nn.Module):
        operation = operation.float()
    agrees(Around(operation, shape), exact=False)


REFUSED = {
    "where, jump": (lambda x: torch.where(x > 0, x + 1, x), "a choice by a comparison"),
    "where, small jump": (lambda x: torch.where(x > 0, x + 1e-9, x), "a choice by a comparison"),
    "where, of constants": (lambda x: torch.where(x > 0, 1.0, 0.0), "a choice by a comparison"),
    "where, at one point": (lambda x: torch.where(x.abs() > 0, x + 1, x), "a choice by a comparison"),
    "where, dead": (lambda x: torch.where(x.relu() > 0, x + 1, x), "a choice by a comparison"),
    "mask": (lambda x: (x - 1) * (x > 0), "a choice by a comparison"),
    "masked_fill": (lambda x: x.masked_fill(x > 0.1, 0.0), "a choice by a comparison"),
    "mask alone": (lambda x: (x > 0).float() + x, "a comparison or a branch on values"),
    "mask times a constant": (lambda x: x + (x > 0) * 2.0, "a comparison times a constant"),
    "mask in a sum": (lambda x: x + (x > 0), "a comparison or a branch on values"),
    "mask as an index": (lambda x: x[x > 0], "."),
    "two conditions": (lambda x: torch.where((x > 0) & (x < 1), x, 0), "a comparison or a branch on values"),
    "branch": (lambda x: x if (x > 0).all() else -x, "a comparison or a branch on values"),
    "eq": (lambda x: torch.where(torch.eq(x, 0), x, 0.0), "torch's eq"),
    "==": (lambda x: x * (x == 0), "a comparison or a branch on values"),
    "hardshrink": (F.hardshrink, "torch's hardshrink"),
    "hardswish": (F.hardswish, "torch's hardswish"),
    "%": (lambda x: x % 1, "a remainder, or rounding to integers,"),
    "% by": (lambda x: torch.ones(2, 4, dtype=x.dtype) % x, "a remainder, or rounding to integers,"),
    "//": (lambda x: x // 1, "a remainder, or rounding to integers,"),
    "**": (lambda x: x**3, "a power"),
    "2**": (lambda x: 2**x, "a power"),
    "remainder": (lambda x: torch.remainder(x, 1), "torch's remainder"),
    "fmod": (lambda x: x.fmod(1), "torch's fmod"),
    "floor_divide": (lambda x: torch.floor_divide(x, 2), "torch's floor_divide"),
    "div, rounded": (lambda x: torch.div(x, 2, rounding_mode="floor"), "torch's div with these arguments"),
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), f"torch's {name}")
        for name in ("round", "floor", "ceil", "trunc", "frac", "sign", "argmax", "argsort")
    },
    **{
        f"{name}_": (lambda x, name=name: getattr(x * 1, name + "_")(), f"torch's {name}")
        for name in ("round", "floor", "ceil", "trunc", "sign")
    },
    **{name: (lambda x, name=name: getattr(x, name)(), f"torch's {name}") for name in ("long", "int", "bool", "short")},
    "builtin round": (round, "a remainder, or rounding to integers,"),
    ".to(int)": (lambda x: x.to(torch.int64), "torch's cast to torch.int64"),
    ".to(device, int)": (lambda x: x.to("cpu", torch.int32), "torch's cast to torch.int32"),
    ".to(dtype=bool)": (lambda x: x.to(dtype=torch.bool), "torch's cast to torch.bool"),
    ".to(integers)": (lambda x: x.to(torch.arange(3)), "torch's cast to torch.int64"),
    ".type": (lambda x: x.type(torch.LongTensor), "torch's cast to"),
    ".type, name": (lambda x: x.type("torch.IntTensor"), "torch's cast to torch.IntTensor"),
    "type_as": (lambda x: x.type_as(torch.arange(3)), "torch's cast to torch.int64"),
    "sum to integers": (lambda x: x.sum(dtype=torch.int64), "torch's sum to torch.int64"),
    "norm, 2": (lambda x: x / x.norm(), "torch's norm with p = 2"),
    "norm, 0": (lambda x: torch.norm(x, 0), "torch's norm with p = 0"),
    "norm of a matrix": (lambda x: torch.linalg.norm(x, ord=1), "torch's norm of a matrix"),
    "bicubic": (lambda x: F.interpolate(x[None, None], size=3, mode="bicubic"), "interpolation of mode 'bicubic'"),
    "product": (lambda x: torch.einsum("ij,ij->i", x, x), "torch's einsum of 2 functions"),
    "lerp": (lambda x: torch.lerp(x, -x, x), "torch's lerp with a weight"),
    "rrelu": (lambda x: F.rrelu(x, training=True), "rrelu in train mode"),
    "topk, unsorted": (lambda x: x.topk(2, sorted=False)[0], "topk that is not sorted"),
    "gather by what moves": (lambda x: torch.arange(4.0)[x], "torch's __getitem__"),
    "pooling with indices": (lambda x: F.adaptive_max_pool1d(x, 2, True)[0], "max pooling with indices"),
    "random": (torch.rand_like, "torch's rand_like"),
    "assignment": (lambda x: x.new_zeros(2, 4).copy_(x), "torch's copy_"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("exact", [False, True])
def test_what_is_not_piecewise_linear_is_refused_by_its_name(name, exact):
    operation, message = REFUSED[name]
    net = Around(lambda x: x, (2, 4)).double()
    net.operation = operation
    with pytest.raises(TypeError, match=message) as raised:
        st.restrict(net, st.segment(P, Q), exact=exact)
    assert "in the module (Around) cannot be followed along a line" in str(raised.value)
    with pytest.raises(TypeError, match=message):
        net(st.segment(P, Q))  # also without a check against tensors


CONSTANTS = {
    "zeros_like": lambda x: torch.zeros_like(x),
    "ones_like": lambda x: torch.ones_like(x, dtype=torch.float64),
    "full_like": lambda x: torch.full_like(x, 3.0),
    "new_zeros": lambda x: x.new_zeros(4),
    "new_ones": lambda x: x.new_ones((2, 4)),
    "new_ones, sizes": lambda x: x.new_ones(2, 4),
    "new_full": lambda x: x.new_full((2, 1), 0.3),
    "new_tensor": lambda x: x.new_tensor([0.1, 0.2, 0.3, 0.4]),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_the_kind_of_a_function(name):
    made = CONSTANTS[name](st.segment(random(2, 4), random(2, 4, seed=1)))
    wanted = CONSTANTS[name](random(2, 4))
    assert type(made) is torch.Tensor
    assert torch.equal(made, wanted)
    assert made.dtype == wanted.dtype
    agrees(Around(lambda x: x.relu() + CONSTANTS[name](x), (2, 4)).double(), exact=False)


def test_a_choice_of_rationals_is_followed_where_it_is_continuous_to_the_last_digit():
    def kinks(x):
        return torch.where(x > third, x - third, 0.0)

    third = 1 / 3
    f = st.restrict(kinks, (0, 1), exact=True)
    assert f.folds().tolist() == [Fraction(third)]
    with pytest.raises(TypeError, match=r"it jumps near t = 0\.333333"):
        st.restrict(lambda x: torch.where(x > third, x - third, 5e-324), (0, 1), exact=True)


def test_what_shares_memory_is_one_tensor_for_what_is_in_place():
    def through(name, *args):
        def net(x):
            y = getattr(x, name)(*args)
            y.relu_()
            return x.sum()

        return net

    f_line = st.segment(random(2, 4), -random(2, 4, seed=1))
    shares = [("flatten",), ("t",), ("narrow", 1, 0, 2), ("select", 0, 1), ("expand", 2, 4), ("unfold", 1, 2, 2)]
    for name, *args in [*shares, ("movedim", 0, 1), ("view_as", torch.ones(4, 2))]:
        with pytest.raises(TypeError, match="an in-place operation on a tensor of which a view is in use"):
            st.restrict(through(name, *args), f_line)
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    for name, *args in [("flip", 0), ("roll", 1), ("repeat", 1, 2), ("index_select", 0, torch.tensor([1]))]:
        net = through(name, *args)
        f = st.restrict(net, f_line)
        expected = torch.stack([net(torch.from_numpy(f_line(float(x)))) for x in t])
        torch.testing.assert_close(f(t), expected)


def test_kinks_of_copies_are_those_of_the_neuron():
    # One and the same neuron: a knot each, and nothing that rounding could part.
    x = st.segment(random(2, 3), -random(2, 3, seed=1))
    crossing = int((random(2, 3) * -random(2, 3, seed=1) < 0).sum())
    assert crossing > 1
    f = x.flip(0).relu().flip(0) + x.repeat(2, 1)[:2].relu() + (-x.T).relu().T + x.roll(1).abs().roll(-1)
    assert f.undecided == 0
    assert len(f.knots) == 2 + crossing


def test_pairs_that_cross_at_knots_of_others():
    # All multiples of one number cross where it is 0, and rounding parts the places.
    generator = torch.Generator().manual_seed(0)
    t = np.linspace(0, 1, 41)
    for _ in range(100):
        p, q, w = (torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(3))
        f = (st.segment(p, q)[:, None] * w).sort(1).values
        expected = torch.stack([((p + x * (q - p))[:, None] * w).sort(1).values for x in torch.from_numpy(t)])
        np.testing.assert_allclose(f(t), expected, rtol=0, atol=1e-13)


def test_padding_modes_of_layers():
    for mode in ("reflect", "replicate", "circular", "zeros"):
        layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode).double()
        agrees(Around(lambda x, layer=layer: layer.to(x.dtype)(x), (1, 1, 3, 4)).double())


@pytest.mark.slow
def test_too_long_an_order_is_refused_before_memory_ends():
    with pytest.raises(ValueError, match=r"the order of 20000 entries"):
        st.restrict(lambda x: x.sort().values, st.segment(random(20000), random(20000, seed=1)))


def test_sort_against_rational_arithmetic():
    start, end = random(7, seed=3), -random(7, seed=4)
    f = st.restrict(lambda x: x.sort().values, st.segment(start, end), exact=True)
    p, q = ([Fraction(float(v)) for v in point] for point in (start, end))
    lines = [(a, b - a) for a, b in zip(p, q, strict=True)]
    crossings = {(a - c) / (d - b) for a, b in lines for c, d in lines if b != d}
    assert sorted(t for t in crossings if 0 < t < 1) == f.folds().tolist()
    for t in f.knots:
        assert sorted(a + b * t for a, b in lines) == f(t).tolist()
    # The median has knots where it is another entry alone.
    middle = st.restrict(lambda x: x.median(), st.segment(start, end), exact=True)
    ends = [Fraction(0), *f.knots[1:-1], Fraction(1)]
    insides = [(low + high) / 2 for low, high in itertools.pairwise(ends)]
    medians = [sorted(range(7), key=lambda i, t=t: lines[i][0] + lines[i][1] * t)[3] for t in insides]
    changes = [t for t, left, right in zip(ends[1:], medians, medians[1:], strict=False) if left != right]
    assert middle.knots.tolist() == [0, *changes, 1]
    assert 0 < len(changes) < len(f.knots) - 2
