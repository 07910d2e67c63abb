"""Unmodified torch modules along a line, against the modules themselves and rational arithmetic."""

import builtins
import copy
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import stability as st


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(*shape, seed=0):
    p, q = random(*shape, seed=2 * seed + 1), random(*shape, seed=2 * seed + 2)
    return st.segment(p, q), lambda t: p + t * (q - p)


def randomise(module, seed=0):
    """Give every parameter and statistic of a module a value of its own, and put it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5)
        for name, value in module.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if "var" in name else -0.5))
    return module.eval()


@torch.no_grad()
def agrees(function, shape, bound=1e-13, points=150, exact=True):
    """The restriction has the values of the function in float64, and the folds of exact arithmetic."""
    f_line, at = line(*shape)
    f = st.restrict(function, f_line)
    direct = function(line(*shape)[0])  # an in-place layer changes the line itself
    double = copy.deepcopy(function).double() if isinstance(function, nn.Module) else function
    t = torch.rand(points, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    expected = torch.stack([double(at(x)) for x in t])
    for g in (f, direct):
        assert g.shape == expected.shape[1:]
        assert (g(t) - expected).abs().max() <= bound * max(1.0, expected.abs().max())
    assert f.undecided == 0
    assert (np.diff(f.knots) > 0).all()
    if exact:
        e = st.restrict(function, f_line, exact=True)
        assert e.exact
        assert e.undecided == 0
        assert e.count() == f.count() == direct.count()
        np.testing.assert_allclose(f.knots, e.knots.astype(float), rtol=0, atol=1e-14)
        k = len(f.knots)
        error = abs(f.values - e.values).astype(float).reshape(k, -1).max(axis=1)
        # The exact knots are others by a rounding: what the steepest piece makes of it.
        steepest = float(abs(f.slopes).max())
        assert (error <= f._errors[:k] + steepest * np.abs(f.knots - e.knots).astype(float)).all()
    return f


LAYERS = {
    "Linear": (nn.Linear(6, 4), (6,)),
    "Linear, batched": (nn.Linear(6, 4, bias=False), (1, 6)),
    "Conv1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1), (1, 2, 9)),
    "Conv1d, unbatched": (nn.Conv1d(2, 3, 2, dilation=2), (2, 6)),
    "Conv2d": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (1, 2, 6, 5)),
    "Conv2d, groups": (nn.Conv2d(4, 4, 3, padding="same", groups=2), (1, 4, 4, 4)),
    "Conv2d, depthwise": (nn.Conv2d(3, 6, (1, 3), groups=3, bias=False), (3, 3, 4)),
    "ReLU": (nn.ReLU(), (5,)),
    "ReLU, in place": (nn.ReLU(inplace=True), (5,)),
    "LeakyReLU": (nn.LeakyReLU(0.2), (5,)),
    "LeakyReLU, in place": (nn.LeakyReLU(-0.2, inplace=True), (5,)),
    "PReLU": (nn.PReLU(), (1, 3, 4)),
    "PReLU, channels": (nn.PReLU(3), (1, 3, 4)),
    "PReLU, vector": (nn.PReLU(5), (1, 5)),
    "Hardtanh": (nn.Hardtanh(-0.5, 0.7), (5,)),
    "ReLU6": (nn.Sequential(nn.Linear(3, 6), nn.ReLU6(inplace=True)), (3,)),
    "Threshold": (nn.Threshold(0.1, 0.1), (5,)),
    "MaxPool1d": (nn.MaxPool1d(3, 2, 1), (1, 2, 9)),
    "MaxPool1d, unbatched": (nn.MaxPool1d(2), (2, 6)),
    "MaxPool2d": (nn.MaxPool2d(3, 2, 1), (1, 2, 7, 7)),
    "MaxPool2d, dilated": (nn.MaxPool2d(2, 3, 1, dilation=2, ceil_mode=True), (1, 2, 7, 8)),
    "MaxPool2d, oblong": (nn.MaxPool2d((1, 3), stride=(2, 1)), (2, 4, 5)),
    "AvgPool1d": (nn.AvgPool1d(3, 2, 1), (1, 2, 9)),
    "AvgPool2d": (nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True), (1, 2, 7, 7)),
    "AvgPool2d, divisor": (nn.AvgPool2d(2, divisor_override=1), (1, 2, 4, 4)),
    "AdaptiveAvgPool1d": (nn.AdaptiveAvgPool1d(4), (1, 2, 9)),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d((3, None)), (1, 2, 7, 4)),
    "Flatten": (nn.Sequential(nn.Flatten(), nn.ReLU()), (1, 2, 3)),
    "Unflatten": (nn.Unflatten(1, (2, 3)), (1, 6)),
    "ZeroPad2d": (nn.ZeroPad2d(1), (1, 2, 3, 3)),
    "Dropout": (nn.Sequential(nn.Dropout(), nn.ReLU()), (5,)),
    "Dropout2d": (nn.Dropout2d(), (1, 2, 3, 3)),
    "Identity": (nn.Identity(), (3,)),
    "pooled dead neurons": (nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 1)), (1, 1, 6, 6)),
    "pooled dead pairs": (nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d((1, 2), 1)), (1, 1, 6, 6)),
    "MLP": (nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 1)), (3,)),
    "PReLU net": (nn.Sequential(nn.Linear(3, 8), nn.PReLU(8), nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 2)), (1, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    module, shape = LAYERS[name]
    agrees(randomise(copy.deepcopy(module)), shape)


def test_layers_bend_where_they_should():
    # What agrees at random points could still be without a fold: the counts of known layers, by their definition.
    f_line, at = line(5)
    crosses = int((at(0.0) * at(1.0) < 0).sum())
    assert st.restrict(nn.ReLU(), f_line).count().folds == crosses > 0
    f = st.restrict(nn.Hardtanh(-0.5, 0.7), f_line)
    assert f.count().folds == int(sum(((at(0.0) - c) * (at(1.0) - c) < 0).sum() for c in (-0.5, 0.7)))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(4), (1, 4)),
        (nn.BatchNorm1d(4, eps=0.3), (1, 4, 5)),
        (nn.BatchNorm2d(4), (1, 4, 3, 3)),
        (nn.BatchNorm2d(4, affine=False), (1, 4, 3, 3)),
    ],
)
def test_batch_normalisation_in_eval_mode(norm, shape):
    agrees(nn.Sequential(randomise(norm), nn.ReLU()), shape, exact=False)
    f = agrees(randomise(nn.Sequential(norm, nn.ReLU())), shape, exact=False)
    assert f.count().folds > 0
    with pytest.raises(TypeError, match=r"exact arithmetic in module '0' \(BatchNorm.*fold it into"):
        st.restrict(nn.Sequential(norm), line(*shape)[0], exact=True)


ones = torch.ones(4, dtype=torch.float64)
FUNCTIONS = {
    "relu": (F.relu, (4,)),
    "relu_": (lambda x: F.relu_(x + 0), (4,)),
    "torch.relu": (torch.relu, (4,)),
    ".relu_()": (lambda x: (2 * x).relu_(), (4,)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), (4,)),
    "leaky_relu_": (lambda x: F.leaky_relu_(x * 1, 0.3), (4,)),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.5], dtype=torch.float64)), (4,)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.2, 0.3), (4,)),
    "hardtanh_": (lambda x: F.hardtanh_(x * 1, -0.2, 0.3), (4,)),
    "relu6": (lambda x: F.relu6(9 * x), (4,)),
    "abs": (torch.abs, (4,)),
    ".abs_()": (lambda x: (x * 1).abs_(), (4,)),
    "builtin abs": (abs, (4,)),
    "clamp": (lambda x: torch.clamp(x, -0.3, 0.4), (4,)),
    "clamp, min": (lambda x: x.clamp(min=0.1), (4,)),
    "clamp_": (lambda x: (x + 0).clamp_(max=0.1), (4,)),
    "clamp_min": (lambda x: x.clamp_min(0.25), (4,)),
    "max, dim": (lambda x: torch.max(x, 0)[0], (4,)),
    "max, values": (lambda x: x.max(dim=-1).values, (2, 4)),
    "max, all": (lambda x: x.max(), (2, 4)),
    "max, two": (lambda x: torch.max(x, -x), (4,)),
    "min, keepdim": (lambda x: torch.min(x, 1, True)[0], (2, 4)),
    "amax": (lambda x: x.amax((0, 2)), (2, 3, 4)),
    "amin": (lambda x: x.amin(0, keepdim=True), (2, 4)),
    "maximum": (lambda x: torch.maximum(x, 2 * x - 1), (4,)),
    "maximum, constant": (lambda x: torch.maximum(x, ones / 4), (4,)),
    "maximum, of a constant": (lambda x: torch.maximum(ones / 4, x), (4,)),
    "minimum": (lambda x: torch.minimum(x, 1 - x), (4,)),
    "max_pool1d": (lambda x: F.max_pool1d(x, 2), (1, 2, 6)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), (1, 2, 4, 4)),
    "conv2d": (lambda x: F.conv2d(x, random(2, 1, 2, 2), padding=1), (1, 1, 3, 3)),
    "linear": (lambda x: F.linear(x, random(2, 4), random(2)), (3, 4)),
    "matmul": (lambda x: x @ random(4, 2), (3, 4)),
    "matrix times vector": (lambda x: torch.matmul(x.relu(), random(4)), (3, 4)),
    "linear, by name": (lambda x: F.linear(input=x, weight=random(2, 4), bias=random(2)), (3, 4)),
    "matrix on the left": (lambda x: random(2, 4) @ x.relu(), (4,)),
    "matrix on the left of a matrix": (lambda x: torch.matmul(random(2, 4), other=x.relu()), (3, 4, 2)),
    "vector on the left": (lambda x: random(4) @ x.relu(), (4,)),
    "flatten, by name": (lambda x: torch.flatten(input=x.relu(), start_dim=1), (1, 2, 2)),
    "reshape, by name": (lambda x: torch.reshape(input=x, shape=(2, 2)).relu(), (4,)),
    "clamp, by name": (lambda x: torch.clamp(input=x, min=-0.1, max=0.3), (4,)),
    "max, by name": (lambda x: torch.max(input=x, other=-x), (4,)),
    "max, axis": (lambda x: torch.max(x, axis=0).values, (4,)),
    "sum, axis": (lambda x: x.relu().sum(axis=1), (2, 4)),
    "mean, axis": (lambda x: torch.mean(input=x.relu(), axis=0), (2, 4)),
    "cat, axis": (lambda x: torch.cat(tensors=[x, x.relu()], axis=1), (2, 3)),
    "sub, by name": (lambda x: torch.sub(input=x.relu(), other=x, alpha=3), (4,)),
    "cat": (lambda x: torch.cat([x, x.relu(), ones]), (4,)),
    "cat, dim": (lambda x: torch.cat((x.relu(), x.clamp(max=0.2)), dim=1), (2, 3)),
    "stack": (lambda x: torch.stack((x.clamp(min=0.1), x.abs(), -x), -1), (2, 3)),
    "sum": (lambda x: x.relu().sum(), (2, 4)),
    "sum, dim": (lambda x: x.relu().sum(0, keepdim=True), (4, 2)),
    "mean": (lambda x: x.relu().mean((0, 1)), (3, 7)),
    "transpose": (lambda x: x.transpose(0, 1).relu() * torch.arange(1, 5), (4, 2)),
    "permute": (lambda x: x.permute(1, 2, 0).relu(), (2, 2, 3)),
    "reshape": (lambda x: x.reshape(-1, 2).relu() @ random(2, 1), (4, 3)),
    "view": (lambda x: x.abs().view([2, -1]).clamp(max=0.5), (4, 3)),
    "flatten": (lambda x: torch.flatten(x, 1).relu(), (1, 2, 2)),
    "squeeze": (lambda x: x.squeeze(0).unsqueeze(-1).relu(), (1, 3)),
    "chunk": (lambda x: torch.add(*x.relu().chunk(2, -1)), (1, 4)),
    "indexing": (lambda x: x[:, 1:] - x[..., :-1].relu(), (1, 4)),
    "branches": (lambda x: x.relu() + x.clamp(0.1, 0.5) - 2 * x.abs(), (4,)),
    "sub, alpha": (lambda x: torch.sub(x, x.relu(), alpha=2), (4,)),
    "tensor on the left": (lambda x: ones - ones * x + (ones + x).relu(), (4,)),
    "rsub": (lambda x: torch.rsub(x, 3), (4,)),
    "div": (lambda x: x.relu() / torch.tensor(3.0), (4,)),
    "in-place arithmetic": (lambda x: x.relu().mul_(2).add_(1).sub_(x).div_(4), (4,)),
    "broadcasting": (lambda x: x[:, None].relu() + x[None].abs(), (3,)),
    "clone": (lambda x: x.clone().relu_() + x, (4,)),
    "dropout": (lambda x: F.dropout(x, 0.3, training=False).relu(), (4,)),
    "shape": (lambda x: x.view(x.size(0), -1).relu() * x.dim() + x.shape[0] + x.numel(), (1, 4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function, shape = FUNCTIONS[name]
    agrees(function, shape)


def test_numpy_s_functions():
    f_line, at = line(4)
    a, matrix = np.arange(4.0), random(2, 4).numpy()
    pairs = [
        (np.abs(f_line), lambda x: x.abs()),
        (np.maximum(a, f_line), lambda x: torch.maximum(x, torch.from_numpy(a))),
        (a - f_line, lambda x: torch.from_numpy(a) - x),
        (np.float64(2) * f_line, lambda x: 2 * x),
        (f_line / np.float64(3), lambda x: x / 3),
        (matrix @ f_line, lambda x: torch.from_numpy(matrix) @ x),
    ]
    for f, g in pairs:
        for t in (0.0, 0.3, 1.0):
            np.testing.assert_allclose(f(t), g(at(t)), rtol=0, atol=1e-14)
    with pytest.raises(TypeError, match="numpy's exp cannot be followed along a line"):
        np.exp(f_line)
    with pytest.raises(TypeError, match="numpy's add cannot be followed"):
        np.add(f_line, a, out=a)
    with pytest.raises(TypeError, match="a quotient by a function"):
        a / f_line


def test_arguments_that_a_rule_does_not_take():
    with pytest.raises(TypeError, match=r"torch's sum with these arguments .* got an unexpected keyword argument 'q'"):
        line(4)[0].sum(q=1)
    with pytest.raises(ValueError, match=r"matmul of values of shape \(4,\) and operands of shape \(2, 3\)"):
        random(2, 3) @ line(4)[0]
    with pytest.raises(TypeError, match="matmul of 2 functions cannot be followed"):
        line(4)[0] @ line(4)[0]


def test_float32_modules_are_read_exactly():
    model = randomise(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)))
    assert next(model.parameters()).dtype == torch.float32
    f_line, _ = line(4)
    f, g = st.restrict(model, f_line), st.restrict(copy.deepcopy(model).double(), f_line)
    np.testing.assert_array_equal(f.knots, g.knots)
    np.testing.assert_array_equal(f.values, g.values)


@pytest.mark.parametrize("last", [1, 3])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(9)])
def test_plain_layers_on_an_interval(activation, last):
    # The compiled way, against the way of rules, rational arithmetic and the module.
    model = randomise(
        nn.Sequential(nn.Linear(1, 9), activation, nn.Linear(9, 9), copy.deepcopy(activation), nn.Linear(9, last))
    )
    f = st.restrict(model, (-2, 3))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x)

    slow, exact = st.restrict(Wrapped(), (-2, 3)), st.restrict(model, (-2, 3), exact=True)
    assert f.count() == slow.count() == exact.count()
    assert f.count().folds > 5
    assert f.undecided == slow.undecided == 0
    x = torch.linspace(-2, 3, 1001, dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x[:, None])
    for g in (f, slow):
        np.testing.assert_allclose(g.knots, exact.knots.astype(float), rtol=0, atol=1e-13)
        assert (g(x).reshape(expected.shape) - expected).abs().max() < 1e-13
        error = np.abs(g.values - exact.values.astype(float)).reshape(len(g.knots), -1).max(axis=1)
        moved = np.abs(g.knots - exact.knots).astype(float) * float(abs(g.slopes).max())
        assert (error <= g._errors[: len(g.knots)] + moved).all()


def test_without_python_flint_exact_is_the_same(monkeypatch):
    model = randomise(nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.LeakyReLU(0.1), nn.Linear(6, 1)))
    f_line, _ = line(2)
    with_flint = st.restrict(model, f_line, exact=True)
    true_import, asked = builtins.__import__, []

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "flint":
            asked.append(name)
            raise ImportError(name)
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    plain = st.restrict(model, f_line, exact=True)
    assert asked
    assert plain.knots.tolist() == with_flint.knots.tolist()
    assert plain.values.tolist() == with_flint.values.tolist()
    assert plain.bends.tolist() == with_flint.bends.tolist()
    assert all(type(k) is Fraction for k in (*plain.knots, *with_flint.knots))


# --- a residual network ---


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(Block(a, b, 1 if i == 0 else 2), Block(b, b, 1))
                for i, (a, b) in enumerate(itertools.pairwise(widths))
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layers(x))
        return self.fc(torch.flatten(x, 1))


@torch.no_grad()
def test_a_resnet_18():
    generator = torch.Generator().manual_seed(0)
    model = ResNet().double()
    for value in model.parameters():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    model.train()
    for seed in range(3):
        model(random(16, 3, 32, 32, seed=seed))
    model.eval()
    p, q = random(1, 3, 32, 32, seed=10), random(1, 3, 32, 32, seed=11)
    q = p + 0.02 * (q - p)
    f = st.restrict(model, st.segment(p, q))
    assert f.shape == (1, 10)
    t = torch.linspace(0, 1, 10_000, dtype=torch.float64)
    batches = [p + part[:, None, None, None] * (q - p) for part in t.split(500)]
    expected = torch.cat([model(batch) for batch in batches])
    got = f(t)[:, 0]
    assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()
    # Where the second difference on the grid is not rounding, a fold is; a fold shows in two of them at most.
    folds = f.folds()
    assert len(folds) > 30
    second = (expected[2:] - 2 * expected[1:-1] + expected[:-2]).abs().amax(1).numpy()
    largest = np.abs(f.bends).reshape(len(f.bends), -1).max(axis=1)
    noise = 4e-12 * float(expected.abs().max())
    # The smallest bend is still seen, at least half of it at one of the points beside the fold.
    assert largest[largest > 0].min() / (len(t) - 1) / 2 > noise
    seen = set((np.flatnonzero(second > noise) + 1).tolist())
    cells = np.floor(folds * (len(t) - 1)).astype(int)  # fold i is between the grid points cells[i] and cells[i] + 1
    assert all(cell in seen or cell + 1 in seen for cell in cells)
    beside = {int(i) for i in (*cells, *(cells + 1))}
    assert seen <= beside
    # All folds but one or two are alone between two points: the grid is fine enough to tell them apart.
    assert len(set(cells)) >= len(folds) - 2


# --- refusals ---


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Assigns(nn.Module):
    def forward(self, x):
        x[0] = 0.0
        return x


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.GELU()), (4,), r"torch's gelu in module '1' \(GELU\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), (4,), r"softmax in module '1' \(Softmax\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), r"layer_norm in module '1' \(LayerNorm\)"),
        (nn.Sequential(nn.Tanh()), (4,), r"tanh in module '0' \(Tanh\)"),
        (nn.Sigmoid(), (4,), r"sigmoid in the module \(Sigmoid\)"),
        (Attends(), (1, 3, 4), r"in module 'attention' \(MultiheadAttention\)"),
        (Branches(), (4,), r"a comparison or a branch on values in the module \(Branches\)"),
        (Assigns(), (4,), r"an assignment to entries in the module \(Assigns\)"),
        (
            nn.MaxPool1d(2, return_indices=True),
            (1, 2, 4),
            "max pooling with indices",
        ),
        (nn.Sequential(nn.Threshold(0.1, 0.5)), (4,), "it jumps; only equal ones are continuous"),
    ],
)
def test_what_is_not_piecewise_linear_is_refused(module, shape, message):
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        st.restrict(module.eval(), line(*shape)[0])
    if raised.type is TypeError:
        assert "cannot be followed along a line" in str(raised.value)
        assert "What works: Linear, Conv1d to 3d" in str(raised.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.BatchNorm1d(4)), r"statistics of the batch in module '0' \(BatchNorm1d\).*model.eval\(\)"),
        (
            nn.Sequential(nn.Identity(), nn.Dropout()),
            r"dropout in train mode in module '1' \(Dropout\).*model.eval\(\)",
        ),
    ],
)
def test_train_mode_is_refused(module, message):
    with pytest.raises(TypeError, match=message):
        st.restrict(module.train(), line(1, 4)[0])


def test_in_place_on_a_view_in_use_is_refused():
    def through_a_view(x):
        y = x.view(4)
        y.relu_()
        return x + y  # torch has changed x as well

    with pytest.raises(TypeError, match="an in-place operation on a tensor of which a view is in use"):
        st.restrict(through_a_view, line(1, 4)[0])

    def through_a_part(x):
        x[:, :2].relu_()
        return x

    with pytest.raises(TypeError, match="an in-place operation"):
        st.restrict(through_a_part, line(1, 4)[0])

    def on_the_only_name(x):
        return (x * 2).view(4).relu_()

    assert st.restrict(on_the_only_name, line(1, 4)[0]).shape == (4,)


def test_the_line_given_is_left_as_it_was():
    f_line, _ = line(4)
    values = f_line.values.copy()
    f = st.restrict(lambda x: x.relu_().mul_(3), f_line)
    assert f.count().folds > 0
    np.testing.assert_array_equal(f_line.values, values)
    assert len(f_line.knots) == 2


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.Linear(3, 2), (4,), r"shape \(4,\) here .*: the linear layer takes \(..., 3\); if .* batches"),
        (nn.Conv2d(1, 1, 3), (4, 4), r"takes \(channels, ...\) or \(batch, channels, ...\)"),
        (nn.Unflatten(0, (2, 3)), (4,), "do not fit|don't multiply|expected"),
        (lambda x: x.reshape(3, 5), (4,), r"values of shape \(4,\): shape '\[3, 5\]' is invalid"),
        (lambda x: x @ torch.ones(3, 2), (4,), r"values of shape \(4,\) and operands of shape \(3, 2\)"),
        (lambda x: F.batch_norm(x, ones, ones), (4,), r"shape \(4,\) here: the layer takes 4 channels in dimension 1"),
        (nn.PReLU(3), (1, 2, 4), r"shape \(1, 2, 4\) here .*: the layer takes 3 channels in dimension 1"),
        (nn.Sequential(nn.Linear(1, 2), nn.PReLU(3), nn.Linear(2, 1)), (1,), r"module '1' .* takes 3 channels"),
        (nn.Conv1d(4, 4, 1, groups=2), (2, 4), "the layer takes 4 channels in dimension -2"),
        (lambda x: x.sum(2), (4,), r"torch's sum of values of shape \(4,\)"),
        (nn.Unflatten(1, (2, 2)), (4,), r"shape \(4,\) in the module \(Unflatten\): .* a batch dimension of 1"),
    ],
)
def test_shapes_that_do_not_fit_are_named(module, shape, message):
    with pytest.raises((ValueError, IndexError, RuntimeError), match=message):
        st.restrict(module, line(*shape)[0])


def test_what_is_no_network_is_named():
    with pytest.raises(TypeError, match=r"the line is None: expected an interval \(low, high\)"):
        st.restrict(nn.ReLU(), None)
    with pytest.raises(TypeError, match="net is a NoneType: expected a Chain, a step table or"):
        st.restrict(None, (0, 1))
    with pytest.raises(TypeError, match="the network makes a tuple of the line: expected one tensor"):
        st.restrict(lambda x: (x, x), line(4)[0])
    with pytest.raises(ValueError, match="up to 4096"):
        st.restrict(nn.Linear(5000, 1), line(5000)[0], exact=True)
    assert math.isfinite(st.restrict(nn.Linear(1, 1), (0, 1))(0.5))


class Wrapped(nn.Module):
    """A module of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x / x.norm(), "torch's norm with p = 2 in the module"),
        (lambda x: x if x[0] == 1 else -x, "a comparison or a branch on values in the module"),
        (lambda x: x if 5 in [x] else -x, "a comparison or a branch on values"),
        (lambda x: x.relu() if torch.is_tensor(x) else -x, "asks what kind of object it is given"),
        (lambda x: x + torch.randn(2), "it is random"),
        (lambda x: 1 / x, "a quotient by a function in the module"),
        (lambda x: x @ torch.ones(2, 1, dtype=torch.complex64), "a complex weight"),
    ],
)
def test_nothing_else_comes_back_silently(function, message):
    with pytest.raises(TypeError, match=message):
        st.restrict(Wrapped(function), st.segment([1.0, 0.0], [1.0, 1.0]))


@pytest.mark.parametrize("exact", [False, True])
def test_parameters_that_are_not_finite_are_named(exact):
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    model[2].bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"not finite|cannot convert NaN"):
        st.restrict(model, (-1, 1), exact=exact)
    if not exact:
        with pytest.raises(ValueError, match=r"the module's 2.bias has 1 values that are not finite"):
            st.count(model, (-1, 1))


def test_a_class_and_a_wide_chain_are_named():
    with pytest.raises(TypeError, match=r"net is the class ReLU: expected an instance"):
        st.restrict(nn.ReLU, (0, 1))
    with pytest.raises(ValueError, match="the chain has width 3: only chains of width 1"):
        st.restrict(st.Chain("residual2_relu", 3, width=3), st.segment([0.0] * 3, [1.0] * 3))


def test_what_rounding_leaves_open_is_said_with_the_count():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)).double()
    assert st.count(model, (-1, 1)).undecided == st.restrict(model, (-1, 1)).undecided
    # All is exactly 0 at the start of the line, which leaves nothing open.
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU()).double()
    f = st.restrict(convolution, st.segment(torch.zeros(1, 1, 5, 5), torch.ones(1, 1, 5, 5)))
    assert f.undecided == 0


# --- modules that do more than their classes say ---


def doubled(*given):
    return given[-1] * 2


def doubled_before(_, given):
    return (given[0] * 2,)


MODIFICATIONS = {
    "pre-hook on a linear layer": lambda m: m[2].register_forward_pre_hook(doubled_before),
    "pre-hook on the whole": lambda m: m.register_forward_pre_hook(doubled_before),
    "hook with keywords": lambda m: m[1].register_forward_hook(doubled, with_kwargs=True),
    "forward of the whole": lambda m: setattr(m, "forward", lambda x: 2 * m[2](m[0](x).relu())),
    "forward of a linear layer": lambda m: setattr(m[2], "forward", lambda x: x.sum(-1, keepdim=True)),
    "spectral norm": lambda m: nn.utils.spectral_norm(m[0]).eval(),
    "spectral norm, parametrized": lambda m: parametrizations.spectral_norm(m[0]).eval(),
    "a weight that is no parameter": lambda m: replace_parameter(m[0], "weight"),
    "a bias that is no parameter": lambda m: replace_parameter(m[0], "bias"),
    "a slope that is no parameter": lambda m: replace_parameter(m[1], "weight"),
}


def replace_parameter(module, name):
    value = 2 * getattr(module, name).detach()
    delattr(module, name)
    setattr(module, name, value)


@pytest.mark.parametrize("name", MODIFICATIONS)
def test_modified_modules_are_followed_as_they_are(name):
    model = randomise(nn.Sequential(nn.Linear(1, 3), nn.PReLU(3), nn.Linear(3, 1)).double())
    MODIFICATIONS[name](model)
    f = st.restrict(model, (-1, 1))
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    with torch.no_grad():
        assert (f(x) - model(x[:, None])[:, 0]).abs().max() < 1e-14
