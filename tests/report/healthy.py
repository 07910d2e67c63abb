"""Two hundred healthy networks: the usual recipes at their usual depths, at the start and trained a little."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from tests.report import architectures as a

ACTS = (nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.SELU)


def _recipes():
    for act, (width, depth) in itertools.product(ACTS, ((8, 2), (32, 4), (64, 8))):
        yield (
            f"mlp default {act.__name__} {width}x{depth}",
            lambda s, w=width, d=depth, f=act: a.mlp(w, d, f, "default", seed=s),
        )
        start = "he" if act in (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU) else "lecun"
        yield (
            f"mlp {start} {act.__name__} {width}x{depth}",
            lambda s, w=width, d=depth, f=act, i=start: a.mlp(w, d, f, i, seed=s),
        )
    for width, depth in ((32, 12), (64, 20), (128, 10)):
        for start in ("he", "orthogonal"):
            yield (
                f"mlp {start} ReLU {width}x{depth}",
                lambda s, w=width, d=depth, i=start: a.mlp(w, d, nn.ReLU, i, seed=s),
            )
        yield f"mlp xavier Tanh {width}x{depth}", lambda s, w=width, d=depth: a.mlp(w, d, nn.Tanh, "xavier", seed=s)
    for norm in (nn.LayerNorm, nn.BatchNorm1d, nn.RMSNorm):
        for width, depth in ((16, 3), (32, 8), (32, 16)):
            yield (
                f"mlp {norm.__name__} {width}x{depth}",
                lambda s, w=width, d=depth, n=norm: a.mlp(w, d, nn.ReLU, "default", norm=n, seed=s),
            )
            yield (
                f"residual {norm.__name__} {width}x{depth}",
                lambda s, w=width, d=depth, n=norm: a.residual(w, d, nn.GELU, n, seed=s),
            )
    for depth in (4, 12, 24):
        yield f"residual plain {depth}", lambda s, d=depth: a.residual(32, d, nn.ReLU, None, seed=s)
    for act in (nn.ReLU, nn.GELU, nn.SiLU):
        for width, depth in ((4, 3), (8, 6), (16, 8)):
            yield f"conv he {act.__name__} {width}x{depth}", lambda s, w=width, d=depth, f=act: a.conv(w, d, f, seed=s)
            yield (
                f"conv batch norm {act.__name__} {width}x{depth}",
                lambda s, w=width, d=depth, f=act: a.conv(w, d, f, "default", norm=nn.BatchNorm2d, seed=s),
            )
    for width, depth, zero in itertools.product((4, 8, 16), (2, 6, 12), (False, True)):
        yield f"resnet {width}x{depth} zero={zero}", lambda s, w=width, d=depth, z=zero: a.resnet(w, d, z, seed=s)
    for first, act, (width, depth), tokens in itertools.product(
        (True, False), ("relu", "gelu"), ((8, 2), (16, 6), (32, 12)), (False, True)
    ):
        if not first and depth > 6:
            depth = 8
        yield (
            f"transformer first={first} {act} {width}x{depth} tokens={tokens}",
            lambda s, n=first, f=act, w=width, d=depth, t=tokens: a.transformer(w, d, n, f, t, seed=s),
        )
    for kind, (width, depth), length in itertools.product((nn.LSTM, nn.GRU), ((8, 1), (16, 2), (32, 3)), (5, 20)):
        yield (
            f"{kind.__name__} {width}x{depth} length {length}",
            lambda s, k=kind, w=width, d=depth, n=length: a.recurrent(w, d, k, n, seed=s),
        )


RECIPES = list(_recipes())
COUNT = 200
OPTIMIZERS = (
    lambda p: torch.optim.Adam(p, 1e-3),
    lambda p: torch.optim.AdamW(p, 3e-4),
    lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
)


def healthy(number: int):
    """Return a name, a sample and an optimiser: every third one is trained for 40 iterations before."""
    # The numbers walk through the recipes with a step that shares no factor with their count.
    step = next(k for k in range(61, 1000) if len(RECIPES) % k and all(k % p for p in range(2, k)))
    name, make = RECIPES[number * step % len(RECIPES)]
    sample = make(number)
    optimizer = OPTIMIZERS[number % 3](sample.net.parameters())
    if (number // 3) % 3 == 2:
        name += ", trained"
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            value = sample.loss(sample.net(sample.x))
            value.backward()
            losses.append(float(value.detach()))
            optimizer.step()
        # The independent truth: it learns.
        assert losses[0] > losses[-1], name
        optimizer.zero_grad()
    return name, sample, optimizer
