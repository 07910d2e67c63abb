"""Networks by the usual recipes, small, each with the names of its blocks: what faults are planted in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

#: Added to all seeds: other networks of the same kinds, that nothing was chosen on.
OFFSET = [0]


@dataclass
class Sample:
    """A network with points and a loss.

    Attributes:
        net, x, loss: what is examined.
        blocks: the names of its blocks in order, as `net.get_submodule` takes them.
        maps: by block the names of the linear maps and convolutions inside.
    """

    net: nn.Module
    x: torch.Tensor
    loss: Callable[[object], torch.Tensor]
    blocks: list[str] = field(default_factory=list)

    def maps(self, block: str) -> list[nn.Module]:
        inner = self.net.get_submodule(block)
        return [m for m in inner.modules() if isinstance(m, nn.Linear | nn.Conv2d)]

    def replace(self, block: str, module: nn.Module) -> None:
        holder, _, name = block.rpartition(".")
        self.net.get_submodule(holder)[int(name)] = module


class Stack(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, stem, blocks, head):
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, h):
        return h + self.branch(h)


class Pooled(nn.Module):
    """The mean over places or times, then a linear map."""

    def __init__(self, width, classes, dims):
        super().__init__()
        self.linear, self.dims = nn.Linear(width, classes), dims

    def forward(self, h):
        return self.linear(h.mean(dim=self.dims))


class Recurrent(nn.Module):
    """A recurrent layer that returns its states alone."""

    def __init__(self, kind, width, inner):
        super().__init__()
        self.cell = kind(width, inner, batch_first=True)

    def forward(self, h):
        return self.cell(h)[0]


class Embedded(nn.Module):
    def __init__(self, words, length, width):
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens):
        return self.tokens(tokens) + self.places


def started(net: nn.Module, start: str) -> nn.Module:
    """Return the network with its maps started as named: "default" leaves them as torch does."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and start != "default":
            if start == "he":
                nn.init.kaiming_normal_(module.weight)
            elif start == "xavier":
                nn.init.xavier_uniform_(module.weight)
            elif start == "orthogonal":
                nn.init.orthogonal_(module.weight, 2**0.5)
            elif start == "lecun":
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def labels(points: int, classes: int) -> Callable[[object], torch.Tensor]:
    target = torch.arange(points) % classes
    return lambda output: functional.cross_entropy(output, target[: len(output)])


def _points(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 + seed + OFFSET[0]))


def mlp(width=32, depth=6, act=nn.ReLU, start="he", bias=True, norm=None, points=32, seed=0) -> Sample:
    torch.manual_seed(seed + OFFSET[0])
    blocks = []
    for _ in range(depth):
        parts = [nn.Linear(width, width, bias=bias), *([norm(width)] if norm else []), act()]
        blocks.append(nn.Sequential(*parts))
    net = started(Stack(nn.Linear(16, width, bias=bias), blocks, nn.Linear(width, 4, bias=bias)), start)
    return Sample(net, _points(points, 16, seed=seed), labels(points, 4), [f"blocks.{k}" for k in range(depth)])


def residual(width=32, depth=6, act=nn.ReLU, norm=nn.LayerNorm, points=32, seed=0) -> Sample:
    torch.manual_seed(seed + OFFSET[0])
    blocks = []
    for _ in range(depth):
        parts = [nn.Linear(width, 2 * width), act(), nn.Linear(2 * width, width)]
        blocks.append(Residual(nn.Sequential(*([norm(width)] if norm else []), *parts)))
    net = Stack(nn.Linear(16, width), blocks, nn.Linear(width, 4))
    return Sample(net, _points(points, 16, seed=seed), labels(points, 4), [f"blocks.{k}" for k in range(depth)])


def conv(width=8, depth=4, act=nn.ReLU, start="he", bias=True, norm=None, points=16, seed=0) -> Sample:
    torch.manual_seed(seed + OFFSET[0])
    blocks = []
    for _ in range(depth):
        parts = [nn.Conv2d(width, width, 3, padding=1, bias=bias), *([norm(width)] if norm else []), act()]
        blocks.append(nn.Sequential(*parts))
    net = started(Stack(nn.Conv2d(3, width, 3, padding=1, bias=bias), blocks, Pooled(width, 4, (2, 3))), start)
    return Sample(net, _points(points, 3, 8, 8, seed=seed), labels(points, 4), [f"blocks.{k}" for k in range(depth)])


class BasicBlock(nn.Module):
    def __init__(self, width, zero=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, h):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(h)))))
        out += h
        return self.relu(out)


def resnet(width=8, depth=4, zero=False, points=16, seed=0) -> Sample:
    torch.manual_seed(seed + OFFSET[0])
    stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    net = Stack(stem, [BasicBlock(width, zero) for _ in range(depth)], Pooled(width, 4, (2, 3)))
    return Sample(net, _points(points, 3, 8, 8, seed=seed), labels(points, 4), [f"blocks.{k}" for k in range(depth)])


def transformer(width=16, depth=4, norm_first=True, act="relu", tokens=False, points=16, seed=0) -> Sample:
    torch.manual_seed(seed + OFFSET[0])
    layers = [
        nn.TransformerEncoderLayer(width, 2, 2 * width, 0.1, act, batch_first=True, norm_first=norm_first)
        for _ in range(depth)
    ]
    stem = Embedded(11, 6, width) if tokens else nn.Linear(12, width)
    head = Pooled(width, 4, (1,))
    head = nn.Sequential(nn.LayerNorm(width), head) if norm_first else head
    x = _points(points, 6, 12, seed=seed)
    if tokens:
        x = torch.randint(0, 11, (points, 6), generator=torch.Generator().manual_seed(seed + OFFSET[0]))
    return Sample(Stack(stem, layers, head), x, labels(points, 4), [f"blocks.{k}" for k in range(depth)])


def recurrent(width=16, depth=2, kind=nn.LSTM, length=6, points=16, seed=0) -> Sample:
    torch.manual_seed(seed + OFFSET[0])
    net = Stack(nn.Linear(12, width), [Recurrent(kind, width, width) for _ in range(depth)], Pooled(width, 4, (1,)))
    x = _points(points, length, 12, seed=seed)
    return Sample(net, x, labels(points, 4), [f"blocks.{k}" for k in range(depth)])
