"""Networks whose dependence on the depth is known in closed form, and that form, apart from the code that measures it.

All are linear but for their norms, of width n, read out by a fixed vector v, in float64, and trained with the loss y
and a rate so small that the change is of first order. A layer's matrix W has independent entries of variance 1/n.
Write h_l for the state after layer l, b_l for the gradient of y with respect to what layer l adds, s for the scale of
a branch. One step by SGD changes y through layer l by

    rate s^2 |b_l|^2 |h_(l-1)|^2,

and one by Adam, whose step is the sign of the gradient, by

    rate s |b_l|_1 |h_(l-1)|_1,

where |.|_1 of a vector of independent directions is sqrt(2 n / pi) times its norm, whatever the depth. Each truth
below is the log of an expectation, as a function of the depth; what a width of n adds to the log's own expectation is
of order 1/n and is written down where it grows with the depth. The exponent over given depths is the least-squares
slope of that log.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

WIDTH = 64
DEPTHS = (2, 4, 8)
X = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
X = X * math.sqrt(WIDTH) / X.norm()  # mean square 1
RATE = 1e-9


def loss(y):
    return y.sum()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=RATE)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=RATE, eps=1e-20)


def depth_mup(parameters, depth):
    """Depth-muP: branches of 1/sqrt(depth), and Adam at a rate of 1/sqrt(depth)."""
    return torch.optim.Adam(parameters, lr=RATE / depth**0.5, eps=1e-20)


def normed(h):
    return h * math.sqrt(h.shape[-1]) / h.norm(dim=-1, keepdim=True)


class Block(nn.Module):
    def __init__(self, kind, scale):
        super().__init__()
        self.kind, self.scale = kind, scale
        weight = torch.randn(WIDTH, WIDTH, dtype=torch.float64) / math.sqrt(WIDTH)
        if kind == "plain":
            weight = nn.init.orthogonal_(weight)
        if kind == "diagonal":
            weight = torch.randint(2, (WIDTH * 8,)).double() * 2 - 1
        self.weight = nn.Parameter(weight)

    def forward(self, h):
        if self.kind == "plain":
            return h @ self.weight.T
        if self.kind == "diagonal":
            return h + self.scale * self.weight * h
        if self.kind == "post":
            return normed(h + h @ self.weight.T)
        return h + self.scale * ((normed(h) if self.kind == "pre" else h) @ self.weight.T)


class Readout(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        width = WIDTH * 8 if kind == "diagonal" else WIDTH
        self.register_buffer("vector", torch.randn(width, dtype=torch.float64) / math.sqrt(width))
        if kind == "diagonal":
            self.vector = self.vector.sign()

    def forward(self, h):
        return (normed(h) if self.kind == "pre" else h) @ self.vector


class Net(nn.Module):
    def __init__(self, depth, kind="residual", power=0.0, size=1.0):
        super().__init__()
        self.blocks = nn.ModuleList(Block(kind, size * depth**power) for _ in range(depth))
        self.readout = Readout(kind)

    def forward(self, h):
        for block in self.blocks:
            h = block(h)
        return self.readout(h)


@dataclass(frozen=True)
class Case:
    """A network, how it is trained, and the logs that are known as functions of the depth, by quantity."""

    make: Callable
    optimizer: Callable
    truths: dict[str, Callable[[int], float]]
    x: torch.Tensor = field(default=X, repr=False)
    depths: tuple[int, ...] = DEPTHS


def slope(truth, depths):
    """The least-squares slope of a log against the log of the depth."""
    return float(np.polyfit(np.log(depths), [truth(depth) for depth in depths], 1)[0])


def sampled(depth, count):
    """The numbers, from 1, of so many layers that are spread evenly from the first to the last."""
    return [1 + round(place * (depth - 1)) for place in np.linspace(0, 1, count)]


# Plain: W is orthogonal, so that all norms are kept: |h_l| = |x|, |b_l| = |v|. The change of the last state by SGD is
# the sum of J J^T v |x|^2, with J J^T the identity, and goes exactly like L. By Adam it is the sum of J sign(J^T v)
# |h|_1: each has the share 2/pi of its square along v, and the rest in directions that are independent.
PLAIN_SGD = {
    "state": lambda _: 0.0,
    "change": lambda depth: math.log(depth),
    "output change": lambda depth: math.log(depth),
    "share": lambda _: 0.0,
    "gradient": lambda _: 0.0,
}
PLAIN_ADAM = PLAIN_SGD | {"change": lambda depth: 0.5 * math.log(2 / math.pi * depth**2 + (1 - 2 / math.pi) * depth)}


def log_step(s):
    """E log(|h + s W h|^2 / |h|^2) to the order 1/n: the log of the mean, 1 + s^2, less half the relative variance."""
    return math.log(1 + s**2) - (2 * s**2 + s**4) / (WIDTH * (1 + s**2) ** 2)


def residual(power, order, rate=0.0):
    """The logs of a residual network with branches of s = L^power, where |h_l|^2 and |b_l|^2 grow by 1 + s^2 a layer.

    h_(l-1) and b_l depend on different matrices, so that the expectation of a product is that of its factors. By SGD
    the layers' parts of y have all the same expectation, s^2 (1 + s^2)^(L-1), and by Adam the root of it.
    """

    def grown(depth):
        s = depth**power
        return math.log(s) + (depth - 1) / 2 * log_step(s)

    def change(depth):  # (1 + s W)^T (1 + s W) has the mean 1 + s^2 and the variance 2 s^2 + s^4
        square = depth ** (2 * power)
        sizes = [square * (1 + square) ** layer for layer in range(depth)]
        return 0.5 * math.log(square_of_sum(1 + square, 2 * square + square**2, sizes))

    found = {
        "state": lambda depth: depth / 2 * log_step(depth**power),
        "gradient": grown,
        "share": lambda depth: (1 + order) * grown(depth) + rate * math.log(depth),
        "output change": lambda depth: math.log(depth) + (1 + order) * grown(depth) + rate * math.log(depth),
    }
    if order == 1:
        found["change"] = change
    return found


def square_of_sum(mean, variance, sizes):
    """tr S^2 / n for S = sum_l c_l J_l J_l^T with the sizes c_l, in the limit of large widths.

    A layer M turns S to M S M^T + c. With B = M^T M free from S, tr (S B S B) is mean(B)^2 tr S^2 + var(B) (tr S)^2.
    """
    first = second = 0.0
    for c in sizes:
        moved = mean * first
        second = mean**2 * second + variance * first**2 + 2 * c * moved + c**2
        first = moved + c
    return second


def pre_norm(order):
    """The logs of h + W n(h), read out as v n(h), where n(h) has mean square 1.

    Each branch adds 1 to the mean square, r_l^2 = 1 + l. Backwards |b_l|^2 is |v|^2 / r_L^2 at the end, by the last
    norm, and grows by 1 + 1 / r_k^2 at each layer on the way: the product of these telescopes to r_L^2 / r_l^2, so
    that |b_l|^2 = |v|^2 / r_l^2.
    """
    power = (1 + order) / 2  # of 1 / r_l^2 in a layer's part of y
    return {
        "state": lambda depth: 0.5 * math.log(1 + depth),
        "output change": lambda depth: math.log(sum((1 + k) ** -power for k in range(1, depth + 1))),
        "share": lambda depth: 0.5 * math.log(np.mean([(1.0 + k) ** (-2 * power) for k in sampled(depth, DEPTHS[0])])),
        "gradient": lambda depth: 0.5 * math.log(np.mean([1 / (1.0 + k) for k in sampled(depth, DEPTHS[0])])),
    }


def post_norm(order):
    """The logs of n(h + W h): states have the mean square 1, and |b_l| is nearly kept.

    With u = h + W h, |u|^2 = 2 n up to a relative variance of 3 / (2 n), b is at right angles to u, and 1 + W^T takes
    b to 2 |b|^2 less what is along h, 3 / (4 n) of it, with the same variance. In E log that is -3/4 - 3/4 + 3/4 over
    n. The layers' parts of y are alike and add up to L. The last state changes by more, like L^(3/2): the singular
    values of the maps (1 + W) / sqrt(2) between, of which B has the variance 3/4, spread ever farther.
    """

    def weight(depth, k):
        return math.exp(-0.75 * (depth - k) / WIDTH)

    power = (1 + order) / 2
    more = {"change": lambda depth: 0.5 * math.log(square_of_sum(1.0, 0.75, [1.0] * depth))} if order else {}
    return more | {
        "state": lambda _: 0.0,
        "output change": lambda depth: math.log(sum(weight(depth, k) ** power for k in range(1, depth + 1))),
        "gradient": lambda depth: 0.5 * math.log(np.mean([weight(depth, k) for k in sampled(depth, DEPTHS[0])])),
    }


def diagonal(size, power, order):
    """The logs of h + s w h with signs w, unit by unit, s = size L^power, where all moments are products over layers.

    By Adam unit i of the last state changes by s |h_L| sum_l 1 / (1 + s w_l), and by SGD by s^2 h_L^2 times the sum of
    1 / (1 + s w_l)^2, with h_L = prod_l (1 + s w_l) x. With m_k the mean of (1 + s w)^k the square of the sum has the
    expectation L m^(L-1) + L (L-1) p^2 m^(L-2), where m = m_2, p = m_1 = 1 for Adam, and m = m_4, p = m_2 for SGD. (The
    readout is a vector of signs.)
    """

    def change(depth):
        s = size * depth**power
        m, p = (1 + 6 * s**2 + s**4, 1 + s**2) if order else (1 + s**2, 1.0)
        square = depth * m ** (depth - 1) + depth * (depth - 1) * p**2 * m ** (depth - 2)
        return (1 + order) * math.log(s) + 0.5 * math.log(square)

    return {"state": lambda depth: depth / 2 * math.log(1 + (size * depth**power) ** 2), "change": change}


DIAGONAL_X = torch.ones(1, WIDTH * 8, dtype=torch.float64)


class OneToken(nn.Module):
    """torch's own transformer layers before a norm, on one token, where attention is a linear map."""

    def __init__(self, depth, norm_first=True):
        super().__init__()
        options = {"batch_first": True, "norm_first": norm_first, "dropout": 0.0, "dtype": torch.float64}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 4, WIDTH, **options) for _ in range(depth))
        self.readout = Readout("plain")

    def forward(self, h):
        for layer in self.layers:
            h = layer(h)
        return self.readout(h).mean()


# What a layer of torch's adds to the mean square: values of variance 1/(2n) an entry (Xavier over 3n outputs) times an
# output map of 1/(3n); and two linear maps of 1/(3n), with biases of 1/(3n), with a ReLU between, which halves.
ADDED = 1 / 6 + (1 / 3 + 1 / (3 * WIDTH)) / 2 / 3 + 1 / (3 * WIDTH)
SMALL = 0.1  # the rms of the token embeddings
TRANSFORMER = {"state": lambda depth: 0.5 * math.log(SMALL**2 + ADDED * depth)}

CASES = {
    "plain, SGD": Case(lambda d: Net(d, "plain"), sgd, PLAIN_SGD),
    "plain, Adam": Case(lambda d: Net(d, "plain"), adam, PLAIN_ADAM),
    "unscaled residual": Case(Net, sgd, {"state": residual(0.0, 1)["state"], "gradient": residual(0.0, 1)["gradient"]}),
    "1/sqrt(L), SGD": Case(lambda d: Net(d, power=-0.5), sgd, residual(-0.5, 1)),
    "1/sqrt(L), Adam": Case(lambda d: Net(d, power=-0.5), adam, residual(-0.5, 0)),
    "1/L, SGD": Case(lambda d: Net(d, power=-1.0), sgd, residual(-1.0, 1)),
    "1/L, Adam": Case(lambda d: Net(d, power=-1.0), adam, residual(-1.0, 0)),
    "Depth-muP": Case(lambda d: Net(d, power=-0.5), depth_mup, residual(-0.5, 0, rate=-0.5)),
    "pre-norm, SGD": Case(lambda d: Net(d, "pre"), sgd, pre_norm(1)),
    "pre-norm, Adam": Case(lambda d: Net(d, "pre"), adam, pre_norm(0)),
    "post-norm, SGD": Case(lambda d: Net(d, "post"), sgd, post_norm(1)),
    "post-norm, Adam": Case(lambda d: Net(d, "post"), adam, post_norm(0)),
    "diagonal, SGD": Case(lambda d: Net(d, "diagonal", -0.5, 0.3), sgd, diagonal(0.3, -0.5, 1), DIAGONAL_X),
    "diagonal, Adam": Case(lambda d: Net(d, "diagonal", -0.5, 0.3), adam, diagonal(0.3, -0.5, 0), DIAGONAL_X),
    "pre-norm transformer": Case(OneToken, adam, TRANSFORMER, SMALL * X[None]),
    "post-norm transformer": Case(lambda d: OneToken(d, norm_first=False), adam, {"state": lambda _: 0.0}, X[None]),
}
