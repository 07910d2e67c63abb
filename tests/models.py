"""Networks as people bring them, small: what the reading makes of each is in `MODELS`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class ResidualBlock(nn.Module):
    """Convolutions with batch normalisation, everything that can be in place is."""

    def __init__(self, channels, stride=1):
        super().__init__()
        self.first = nn.Conv2d(channels // stride, channels, 3, stride, 1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels // stride, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, h):
        out = self.second(self.relu(self.norm(self.first(h))))
        out += self.shortcut(h)
        return self.relu(out)


class ResidualNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.relu = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.stage1 = nn.Sequential(ResidualBlock(4), ResidualBlock(4))
        self.stage2 = nn.Sequential(ResidualBlock(8, 2), ResidualBlock(8))
        self.head = nn.Linear(8, 3)

    def forward(self, image):
        h = self.stage2(self.stage1(self.relu(self.bn(self.stem(image)))))
        return self.head(h.mean(dim=(2, 3)))


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


class TokenBlock(nn.Module):
    """A pre-norm block with attention written out, and keys and values that it may be given."""

    def __init__(self, width, rotary=False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.rotary = rotary

    def forward(self, h, mask=None, angles=None):
        q, k, v = self.attend(self.norm1(h)).chunk(3, dim=-1)
        if self.rotary:
            q, k = (rotate(one, angles) for one in (q, k))
        h = h + self.mix(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        return h + self.mlp(self.norm2(h))


def rotate(h, angles):
    one, other = h.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


class Language(nn.Module):
    """Tokens and places, pre-norm blocks, and an unembedding that is the embedding."""

    def __init__(self, depth=3, width=8):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, width), nn.Embedding(6, width)
        self.h = nn.ModuleList(TokenBlock(width) for _ in range(depth))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        h = self.wte(tokens) + self.wpe(places)
        for block in self.h:
            h = block(h)
        return {"logits": self.lm_head(self.ln_f(h))}


class Rotary(nn.Module):
    """Like a Llama: angles made by a function, a mask made anew, normalisation by the root mean square."""

    def __init__(self, depth=3, width=8):
        super().__init__()
        self.embed_tokens = nn.Embedding(11, width)
        self.layers = nn.ModuleList(TokenBlock(width, rotary=True) for _ in range(depth))
        self.scale, self.lm_head = nn.Parameter(torch.ones(width)), nn.Linear(width, 11, bias=False)

    def forward(self, input_ids):
        h, length = self.embed_tokens(input_ids), input_ids.shape[1]
        mask = torch.full((length, length), -math.inf, dtype=h.dtype).triu(1)
        angles = torch.arange(length, dtype=h.dtype)[:, None] / torch.arange(1, 5, dtype=h.dtype)
        for layer in self.layers:
            h = layer(h, mask=mask, angles=angles)
        return self.lm_head(self.scale * h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt())


class EncoderDecoder(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.source, self.target = nn.Embedding(11, width), nn.Embedding(11, width)
        self.encoder = nn.ModuleList(TokenBlock(width) for _ in range(3))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 2, 12, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, 11)

    def forward(self, source, target):
        memory, h = self.source(source), self.target(target)
        for block in self.encoder:
            memory = block(memory)
        for block in self.decoder:
            h = block(h, memory)
        return self.head(h)


class DenseLayer(nn.Module):
    def __init__(self, width, growth):
        super().__init__()
        self.linear = nn.Linear(width, growth)

    def forward(self, h):
        return torch.cat([h, torch.tanh(self.linear(h))], dim=-1)


class DenseBlock(nn.Module):
    """Every layer takes what all before it made."""

    def __init__(self, width, growth, depth):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width + k * growth, growth) for k in range(depth))

    def forward(self, h):
        made = [h]
        for part in self.parts:
            made.append(torch.tanh(part(torch.cat(made, dim=-1))))
        return torch.cat(made, dim=-1)


def dense_net():
    return nn.Sequential(DenseBlock(5, 2, 3), nn.Linear(11, 5), DenseBlock(5, 2, 3), nn.ReLU(), nn.Linear(11, 3))


class UNet(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.d = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.u = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, h):
        kept = []
        for down in self.d:
            h = torch.tanh(down(h))
            kept.append(h)
        for up in self.u:
            h = torch.tanh(up(h)) + kept.pop()
        return self.head(h)


class Recurrent(nn.Module):
    """Reads a sequence, batch first, with a cell whose state is two tensors."""

    def __init__(self, width=4):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(3, width), nn.Linear(width, 2)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.out(state[0])


class PairBlock(nn.Module):
    """Takes and returns a pair of hidden state and residual."""

    def __init__(self, width=5):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, hidden, residual):
        residual = hidden if residual is None else hidden + residual
        return torch.tanh(self.linear(self.norm(residual))), residual


class Pairs(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(PairBlock(width) for _ in range(4)), nn.Linear(width, 2)

    def forward(self, x):
        residual = None
        for block in self.blocks:
            x, residual = block(x, residual)
        return self.head(x + residual)


class Shared(nn.Module):
    """One Linear, used four times."""

    def __init__(self, width=5):
        super().__init__()
        self.cell, self.out = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, h):
        for _ in range(4):
            h = torch.tanh(self.cell(h))
        return self.out(h)


class SharedBlock(nn.Module):
    """One container, called three times."""

    def __init__(self, width=5):
        super().__init__()
        self.b = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, h):
        return self.b(self.b(self.b(h)))


class TwoInputs(nn.Module):
    """An image of numbers and a context, which every block takes as well."""

    def __init__(self, width=5):
        super().__init__()
        self.mix = nn.ModuleList(nn.Linear(width + 3, width) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, x, context):
        for mix in self.mix:
            x = x + torch.tanh(mix(torch.cat([x, context], dim=-1)))
        return self.head(x)


@dataclasses.dataclass
class Output:
    number: int
    hidden: torch.Tensor
    last: torch.Tensor


class Dictionaries(nn.Module):
    """Takes keywords, hands dictionaries from block to block, and returns a dataclass."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, state):
            return {"h": state["h"] + torch.tanh(self.linear(state["h"])), "step": state["step"] + 1}

    def __init__(self, width=5):
        super().__init__()
        self.blocks = nn.ModuleDict({name: self.Block(width) for name in ("first", "second", "third")})

    def forward(self, *, features, step=0):
        state = {"h": features, "step": step}
        for block in self.blocks.values():
            state = block(state)
        return Output(state["step"], state["h"], state["h"][:, :1])


class Functional(nn.Module):
    """A residual network whose sums stand between its modules."""

    def __init__(self, width=5, depth=4):
        super().__init__()
        self.steps, self.head = nn.ModuleList(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, 2)

    def forward(self, x):
        for step in self.steps:
            x = x + torch.tanh(step(x))
        return self.head(x)


class Bare(nn.Module):
    """No module at all."""

    def __init__(self, width=5):
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(width, width) / 3 for _ in range(3))
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        for weight in self.weights:
            x = x + torch.tanh(x @ weight)
        return x * self.gain


class Frozen(nn.Module):
    """Embeddings that do not train, and a frozen block in the middle."""

    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Embedding(11, width).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.blocks[1].requires_grad_(False)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens):
        h = self.embed(tokens)
        for block in self.blocks:
            h = torch.tanh(block(h))
        return self.head(h.mean(dim=1))


class Checkpointed(nn.Module):
    def __init__(self, reentrant=False, width=5):
        super().__init__()
        self.blocks, self.reentrant = nn.ModuleList(nn.Linear(width, width) for _ in range(4)), reentrant

    def forward(self, h):
        for block in self.blocks:
            h = h + checkpoint(lambda h, block=block: torch.tanh(block(h)), h, use_reentrant=self.reentrant)
        return h


class Tied(nn.Module):
    """Two blocks share a weight, of which autocast makes one copy."""

    def __init__(self, width=8):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.blocks[2].weight = self.blocks[0].weight

    def forward(self, h):
        with torch.autocast("cpu", torch.bfloat16):
            for block in self.blocks:
                h = torch.tanh(block(h))
        return h.float()


class Conditioned(nn.Module):
    """A derived weight and a conditioning that every block uses, both made before the first."""

    def __init__(self, width=6, depth=4):
        super().__init__()
        self.raw, self.code = nn.Parameter(torch.randn(width, width) / 3), nn.Parameter(torch.randn(3))
        self.embed, self.blocks = nn.Linear(3, width), nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, h):
        weight, condition = torch.tanh(self.raw), torch.tanh(self.embed(self.code))
        for block in self.blocks:
            h = torch.tanh(block(h) @ weight + condition)
        return h


class DerivedUpFront(nn.Module):
    """A weight of its own for every layer, all of them derived before the first is used."""

    def __init__(self, width=6, depth=4):
        super().__init__()
        self.raw = nn.ParameterList(torch.randn(width, width) / 2 for _ in range(depth))
        self.acts = nn.ModuleList(nn.Tanh() for _ in range(depth))

    def forward(self, h):
        weights = [torch.sinh(raw) for raw in self.raw]
        for weight, act in zip(weights, self.acts, strict=True):
            h = act(h @ weight)
        return h


class Forces(nn.Module):
    """An energy, and its slope, which the network takes itself."""

    def __init__(self, width=6):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, x):
        with torch.enable_grad():
            x = x.requires_grad_() if not x.requires_grad else x
            energy = self.net(x)[:, 0] + x.square().sum(1) / 2
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return torch.cat([energy[:, None], -slope], dim=1)


class Timed(nn.Module):
    """A time that moves on in place between blocks, an attribute that is set before each, a counter of calls."""

    class Step(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear, self.gain = nn.Linear(width, width), 0.0

        def forward(self, h, time):
            return h + self.gain * torch.tanh(self.linear(h)) * torch.cos(time)

    def __init__(self, width=5, depth=4):
        super().__init__()
        self.blocks, self.calls = nn.ModuleList(self.Step(width) for _ in range(depth)), 0

    def forward(self, h):
        self.calls += 1
        time = torch.zeros((), dtype=h.dtype)
        for number, block in enumerate(self.blocks):
            block.gain = 1 / (number + self.calls)
            h = block(h, time)
            time += 0.6
        return h


class InPlace(nn.Module):
    """Everything in place: activations, sums, views."""

    def __init__(self, width=6, depth=4):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x):
        h = x * 1
        for block in self.blocks:
            update = block(h)
            update[:, ::2] *= 0.5
            update.view(-1).add_(0.1)
            update = update.tanh_() * 2
            h = h.clone()
            h += update
            functional.leaky_relu_(h, 0.3)
        return h


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tokens(*shape, seed=0):
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass
class Model:
    """A network to be read.

    Attributes:
        make: makes it.
        x: what it takes.
        layers: how its layers are called.
        loss: of what it returns.
        options: for the reading.
        last: of what it returns the state after the last layer.
        dtype: in which it is built.
    """

    make: Callable[[], nn.Module]
    x: Any
    layers: tuple[str, ...]
    loss: Callable[[Any], torch.Tensor] = lambda y: y.square().mean()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    last: Callable[[Any], torch.Tensor] = lambda y: y
    dtype: torch.dtype = torch.float64


MODELS: dict[str, Model] = {
    "residual net": Model(
        ResidualNet,
        randn(2, 2, 4, 4),
        ("stem", "bn", "relu", "stage1.0", "stage1.1", "stage2.0", "stage2.1", "head"),
    ),
    "pre-norm encoder": Model(lambda: encoder(True), randn(2, 3, 8), ("layers.0", "layers.1", "layers.2")),
    "post-norm encoder": Model(lambda: encoder(False), randn(2, 3, 8), ("layers.0", "layers.1", "layers.2")),
    "language model": Model(
        Language,
        tokens(2, 4),
        ("wte ... wpe", "h.0", "h.1", "h.2", "ln_f", "lm_head"),
        lambda y: y["logits"].square().mean(),
        last=lambda y: y["logits"],
    ),
    "rotary language model": Model(
        Rotary,
        {"input_ids": tokens(2, 4)},
        ("embed_tokens", "layers.0", "layers.1", "layers.2", "lm_head"),
    ),
    "encoder and decoder": Model(
        EncoderDecoder,
        (tokens(2, 4), tokens(2, 3, seed=1)),
        ("source", "encoder.0", "encoder.1", "encoder.2", "decoder", "head"),
    ),
    "dense net": Model(dense_net, randn(2, 5), ("0", "1", "2", "3", "4")),
    "U": Model(UNet, randn(2, 5), ("d.0", "d.1 ... u.2", "head")),
    "recurrent": Model(
        Recurrent, randn(2, 4, 3), ("cell", "cell#2", "cell#3", "cell#4", "out"), options={"source": "cell"}
    ),
    "pairs": Model(Pairs, randn(3, 5), ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "head")),
    "shared cell": Model(Shared, randn(2, 5), ("cell", "cell#2", "cell#3", "cell#4", "out")),
    "shared container": Model(SharedBlock, randn(2, 5), ("b", "b#2", "b#3")),
    "two inputs": Model(TwoInputs, (randn(2, 5), randn(2, 3)), ("mix.0", "mix.1", "mix.2", "head")),
    "two inputs, the second followed": Model(
        TwoInputs, (randn(2, 5), randn(2, 3)), ("mix", "head"), options={"source": 1}
    ),
    "dictionaries": Model(
        Dictionaries,
        {"features": randn(3, 5), "step": 2},
        ("blocks.first", "blocks.second", "blocks.third"),
        lambda y: y.hidden.square().mean() + y.last.sum(),
        last=lambda y: y.hidden,
    ),
    "functional residual": Model(Functional, randn(2, 5), ("steps.0", "steps.1", "steps.2", "steps.3", "head")),
    "bare": Model(Bare, randn(2, 5), ("add", "add#2", "add#3", "mul")),
    "LSTM": Model(
        lambda: nn.LSTM(3, 4),
        randn(5, 2, 3),
        ("stack",),
        lambda y: y[0].square().mean(),
        {"batch_dim": 1},
        last=lambda y: y[0],
    ),
    "frozen": Model(Frozen, tokens(2, 4), ("embed", "blocks.0", "blocks.1", "blocks.2", "head")),
    "checkpointed": Model(Checkpointed, randn(2, 5), ("blocks.0", "blocks.1", "blocks.2", "blocks.3")),
    "tied under autocast": Model(
        Tied, randn(3, 8, dtype=torch.float32), ("blocks.0", "blocks.1", "blocks.2", "blocks.3"), dtype=torch.float32
    ),
    "conditioned": Model(Conditioned, randn(3, 6), ("blocks.0", "blocks.1", "blocks.2", "blocks.3")),
    "derived up front": Model(DerivedUpFront, randn(3, 6), ("acts.0", "acts.1", "acts.2", "acts.3")),
    "forces": Model(Forces, randn(4, 3), ("net",)),
    "timed": Model(Timed, randn(2, 5), ("blocks.0", "blocks.1", "blocks.2", "blocks.3")),
    "in place": Model(InPlace, randn(3, 6), ("blocks.0", "blocks.1", "blocks.2", "blocks.3")),
    "sequence first": Model(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 8, norm_first=True), 2, enable_nested_tensor=False
        ),
        randn(4, 2, 6),
        ("layers.0", "layers.1"),
        options={"batch_dim": 1},
    ),
}


def built(name):
    """Return a model of `MODELS` in its dtype, in eval mode, with parameters of its own."""
    torch.manual_seed(0)
    net = MODELS[name].make().to(MODELS[name].dtype).eval()
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):  # the copies that torch makes are all alike
            parameter += 0.2 * randn(*parameter.shape, seed=number + 1).to(parameter)
    return net


def compiled(net, how, part):
    """Return a Sequential that torch compiles, wrapped, in place, or in one part alone."""
    torch._dynamo.reset()
    if how == "wrapped":
        return torch.compile(net, backend="eager")
    if how == "in place":
        net.compile(backend="eager")
    else:
        net[part] = torch.compile(net[part], backend="eager")
    return net
