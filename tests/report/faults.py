"""How each fault is planted: `FAULTS[code](planted)` lists functions that make `planted(name, sample, code, ...)`."""

# ruff: noqa: ARG001 -- all that plant take the same

from __future__ import annotations

import math

import torch
from torch import nn

from tests.report import architectures as a

FACTOR = 1e-10  # beyond 1/u of float32, which is 1.7e7, by three decades


class After(nn.Module):
    """A block, and what is done to its state."""

    def __init__(self, block, function):
        super().__init__()
        self.block, self.function = block, function

    def forward(self, h):
        return self.function(self.block(h))


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor on its way back."""

    @staticmethod
    def forward(context, h, factor):
        context.factor = factor
        return h.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


def after(sample, block, function):
    sample.replace(block, After(sample.net.get_submodule(block), function))
    return sample


def _everywhere(seed):
    """One sample of each of twelve architectures, with a block in the middle."""
    return {
        "mlp": lambda: a.mlp(32, 6, seed=seed),
        "tanh mlp": lambda: a.mlp(24, 5, nn.Tanh, "lecun", seed=seed),
        "residual": lambda: a.residual(32, 6, seed=seed),
        "conv": lambda: a.conv(8, 4, seed=seed),
        "resnet": lambda: a.resnet(8, 4, seed=seed),
        "pre-norm transformer": lambda: a.transformer(16, 4, True, seed=seed),
        "post-norm transformer": lambda: a.transformer(16, 3, False, seed=seed),
        "LSTM": lambda: a.recurrent(16, 2, nn.LSTM, seed=seed),
        "GRU": lambda: a.recurrent(16, 3, nn.GRU, seed=seed),
        "wide mlp": lambda: a.mlp(128, 10, seed=seed),
        "deep residual": lambda: a.residual(16, 16, seed=seed),
        "token transformer": lambda: a.transformer(32, 3, True, "gelu", True, seed=seed),
    }


def _each(planted, code, plant, names=None, count=12, **options):
    """Plant one fault in blocks of architectures: plant(sample, block) returns (what it is, the layer)."""
    makers = _everywhere(0)
    names = list(names or makers)
    made = []
    for number in range(count):
        name = names[number % len(names)]

        def make(number=number, name=name):
            sample = _everywhere(number)[name]()
            block = sample.blocks[(number + 1) % len(sample.blocks)]
            what, layer = plant(sample, block, number)
            own = {key: value(sample) if callable(value) else value for key, value in options.items()}
            return planted(f"{name}, {what} in {block}", sample, code, layer, **own)

        made.append(make)
    return made


def nonfinite(planted):
    def plant(sample, block, number):
        kind = number % 4
        if kind == 0:
            after(sample, block, lambda h: (h - h.abs() - 1).log())
            return "log of a negative number", block
        if kind == 1:
            after(sample, block, lambda h: h / (h - h))
            return "division by 0", block
        if kind == 2:
            after(sample, block, lambda h: (h - h).sqrt() + h)  # finite, with an infinite derivative at 0
            return "root of 0", block
        next(sample.net.get_submodule(block).parameters()).data.view(-1)[0] = math.nan
        return "NaN parameter", block

    return _each(planted, "nonfinite", plant)


def dead_units(planted):
    def plant(sample, block, number):
        inner = sample.net.get_submodule(block)
        if hasattr(inner, "bn1"):
            inner.bn1.bias.data.fill_(-1e3)
        elif hasattr(inner, "linear1"):
            inner.linear1.bias.data.fill_(-1e3 * (1 + number))
        else:
            sample.maps(block)[0].bias.data.fill_(-100.0 * (1 + number))
        return "bias far below 0", block

    names = ["mlp", "residual", "conv", "resnet", "pre-norm transformer", "post-norm transformer", "wide mlp"]
    return _each(planted, "dead_units", plant, [*names, "mlp with head"][:7])


def cut_gradient(planted):
    def plant(sample, block, number):
        after(sample, block, (lambda h: h.detach()) if number % 3 else torch.round)
        return "detach" if number % 3 else "round", block

    return _each(planted, "cut_gradient", plant)


def unused_parameters(planted):
    def plant(sample, block, number):
        after(sample, block, lambda h: h)
        sample.net.get_submodule(block).extra = nn.Linear(4 + number, 3)
        return "a Linear that is never called", block

    return _each(planted, "unused_parameters", plant)


def vanishing_signal(planted):
    def plant(sample, block, number):
        after(sample, block, lambda h: h * (FACTOR / 10**number))
        return "a factor far below 1/u", block

    def uniform(number):
        depth, act = 20 + 5 * number, (nn.ReLU, nn.Tanh)[number % 2]
        # Each layer keeps gain of the root mean square: of a ReLU layer started as He et al. times gain exactly.
        sample = a.mlp(64, depth, act, "he" if act is nn.ReLU else "lecun", bias=False, seed=number)
        gain = 10 ** (-12 / depth)
        for block in sample.blocks:
            sample.maps(block)[0].weight.data.mul_(gain)
        return planted(f"{act.__name__} mlp of depth {depth}, gain {gain:.2f}", sample, "vanishing_signal", None)

    return [*_each(planted, "vanishing_signal", plant, count=8), *(lambda n=n: uniform(n) for n in range(4))]


def exploding_signal(planted):
    def plant(sample, block, number):
        after(sample, block, lambda h: h / FACTOR * 10 ** (number % 3))
        return "a factor far above 1/u", block

    def uniform(number):
        depth = 15 + 5 * number
        sample = a.mlp(64, depth, (nn.ReLU, nn.PReLU)[number % 2], "he", bias=False, seed=number)
        gain = 10 ** (12 / depth)
        for block in sample.blocks:
            sample.maps(block)[0].weight.data.mul_(gain)
        return planted(f"mlp of depth {depth}, gain {gain:.2f}", sample, "exploding_signal", None)

    names = ["mlp", "residual", "conv", "pre-norm transformer", "LSTM", "GRU", "wide mlp", "tanh mlp"]
    return [*_each(planted, "exploding_signal", plant, names, count=8), *(lambda n=n: uniform(n) for n in range(4))]


def vanishing_gradient(planted):
    def plant(sample, block, number):
        after(sample, block, lambda h: ScaledGradient.apply(h, FACTOR / 10 ** (number % 4)))
        return "gradient scaled down", block

    def uniform(number):
        # torch's start has weights of variance 1 / (3 n): a tanh layer keeps 3^(-1/2), a ReLU layer 6^(-1/2) of the
        # gradient; 10 decades take 42 and 26 layers.
        act, depth = ((nn.Tanh, 45), (nn.ReLU, 30), (nn.PReLU, 35), (nn.Tanh, 100), (nn.ReLU, 100), (nn.PReLU, 100))[
            number
        ]
        sample = a.mlp(64, depth, act, "default", seed=number)
        return planted(f"{act.__name__} mlp of depth {depth} as torch starts it", sample, "vanishing_gradient", None)

    return [*_each(planted, "vanishing_gradient", plant, count=8), *(lambda n=n: uniform(n) for n in range(6))]


def exploding_gradient(planted):
    def plant(sample, block, number):
        after(sample, block, lambda h: ScaledGradient.apply(h, 10 ** (number % 4) / FACTOR))
        return "gradient scaled up", block

    def uniform(number):
        depth = 20 + 5 * number
        sample = a.mlp(64, depth, nn.ReLU, "he", bias=False, seed=number)
        for block in sample.blocks:
            sample.maps(block)[0].weight.data.mul_(10 ** (11 / depth))
        return planted(f"mlp of depth {depth} with too large weights", sample, "exploding_gradient", None)

    return [*_each(planted, "exploding_gradient", plant, count=8), *(lambda n=n: uniform(n) for n in range(4))]


def collapsed(planted):
    def plant(sample, block, number):
        def same(h):
            constant = torch.linspace(-1, 1, h[0].numel()).reshape(h[0].shape).to(h)
            return h * 10.0 ** (-9 - number % 3) + constant

        after(sample, block, same)
        return "points made the same", block

    def uniform(number):
        # c_l of tanh layers with torch's start falls by 3^(-1/2) a layer or faster in order: 9 decades take 38.
        act, depth = ((nn.Tanh, 60), (nn.Tanh, 90), (nn.ReLU, 60), (nn.PReLU, 60))[number]
        sample = a.mlp(48, depth, act, "default", seed=number)
        return planted(f"{act.__name__} mlp of depth {depth} as torch starts it", sample, "collapsed", None)

    names = ["mlp", "tanh mlp", "conv", "wide mlp", "residual", "pre-norm transformer", "post-norm transformer", "GRU"]
    return [*_each(planted, "collapsed", plant, names, count=8), *(lambda n=n: uniform(n) for n in range(4))]


def _chi(act, scale):
    """chi_1 = scale^2 E phi'(sqrt(q) z)^2 at the fixed point q = scale^2 E phi(sqrt(q) z)^2, by a sum over a grid."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2)
    weight /= weight.sum()
    q = torch.tensor(1.0, dtype=torch.float64)
    for _ in range(200):
        q = scale**2 * (weight * act(q.sqrt() * z) ** 2).sum()
    h = (q.sqrt() * z).requires_grad_()
    (slope,) = torch.autograd.grad(act(h).sum(), h)
    return float(scale**2 * (weight * slope**2).sum())


class Sine(nn.Module):
    def forward(self, h):
        return torch.sin(h)


def chaotic(planted):
    def make(number):
        act = (nn.Tanh, Sine, nn.Softsign, nn.Hardtanh)[number % 4]()
        scale = (3.0, 4.0)[number % 2] if not isinstance(act, Sine) else 2.5
        chi = _chi(act, scale)
        # Small differences grow by sqrt(chi_1) a layer: as many layers as make 1e6, 1/sqrt(u) being 4e3.
        depth = math.ceil(2 * math.log(1e6) / math.log(chi))
        kind = ("mlp", "conv", "tied")[number % 3]
        width = (64, 12, 48)[number % 3] if number < 6 else (128, 16, 96)[number % 3]
        if kind == "conv":
            sample = a.conv(width, depth, type(act), "lecun", seed=number)
            for module in sample.net.modules():
                if isinstance(module, nn.Conv2d):
                    module.padding_mode, module._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
        else:
            sample = a.mlp(width, depth, type(act), "lecun", seed=number)
        for block in sample.blocks:
            sample.maps(block)[0].weight.data.mul_(scale)
        if kind == "tied":
            for block in sample.blocks[1:]:
                sample.net.get_submodule(block)[0].weight = sample.net.get_submodule(sample.blocks[0])[0].weight
        words = f"{kind} of {type(act).__name__}, scale {scale}, chi_1 {chi:.2f}, depth {depth}"
        return planted(words, sample, "chaotic", None)

    return [lambda n=n: make(n) for n in range(12)]


def saturated(planted):
    def plant(sample, block, number):
        inner = sample.net.get_submodule(block)
        if hasattr(inner, "self_attn"):
            width = inner.self_attn.embed_dim
            inner.self_attn.in_proj_weight.data[: 2 * width].mul_(100.0)
            return "query and key times 100", block
        if hasattr(inner, "cell"):
            for name, parameter in inner.cell.named_parameters():
                if name.startswith("weight_ih"):
                    parameter.data.mul_(1e4)
            return "gates times 1e4", block
        sample.maps(block)[0].weight.data.mul_(1e3)
        return "weights times 1000", block

    def gate(number):
        act = (nn.Sigmoid, nn.Tanh)[number % 2]
        sample = a.conv(6 + number, 3, act, "lecun", seed=number)
        sample.maps("blocks.1")[0].weight.data.mul_(1e3)
        return planted(f"conv of {act.__name__}", sample, "saturated", "blocks.1")

    names = ["tanh mlp", "pre-norm transformer", "post-norm transformer", "LSTM", "GRU", "token transformer"]
    return [*_each(planted, "saturated", plant, names[:5], count=8), *(lambda n=n: gate(n) for n in range(4))]


def ill_conditioned(planted):
    def plant(sample, block, number):
        weight = max(
            (p for p in sample.net.get_submodule(block).parameters() if p.ndim > 1),
            key=lambda p: min(p.flatten(1).shape),
        )
        matrix = weight.data.flatten(1)
        if number % 2:  # a row given twice
            few = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            few[1] = few[0]
            what = "a row or column twice"
        else:
            u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
            s = s[0] * torch.logspace(0, -12, len(s), dtype=torch.float64)
            matrix = (u * s @ v).to(weight)
            what = "12 decades of singular values"
        weight.data.copy_(matrix.reshape(weight.shape))
        return what, block

    return _each(planted, "ill_conditioned", plant)


class Detour(nn.Module):
    """A block whose state passes through numbers of order 1e6."""

    def __init__(self, block, size):
        super().__init__()
        self.block, self.size = block, size

    def forward(self, h):
        return self.block(h) * self.size * 1e6 / self.size / 1e6


def format(planted):
    def plant(sample, block, number):
        sample.replace(block, Detour(sample.net.get_submodule(block), 1.0 + number))
        return "numbers above 65504", block

    def native(number):
        sample = (lambda: a.mlp(32, 5, seed=number), lambda: a.residual(32, 4, norm=None, seed=number))[number % 2]()
        block = sample.blocks[2]
        after(sample, block, lambda h: h * 1e5 * 1e3 / 1e8)
        sample.net.half()
        sample.x = sample.x.half()
        loss = sample.loss
        sample.loss = lambda y: loss(y.float())
        return planted("float16 with numbers of 1e8 inside", sample, "format", block)

    made = _each(planted, "format", plant, count=9, formats=("float16",))
    return [*made, *(lambda n=n: native(n) for n in range(3))]


def optimizer_epsilon(planted):
    def plant(sample, block, number):
        loss = sample.loss
        sample.loss = lambda y: loss(y) * 10.0 ** (-10 - number % 4)
        return "loss far too small", None

    def adam(sample):
        return torch.optim.Adam(sample.net.parameters(), 1e-3)

    return _each(planted, "optimizer_epsilon", plant, optimizer=adam)


def lost_updates(planted):
    def coarse(sample, block, number):
        sample.net.bfloat16()
        if sample.x.is_floating_point():
            sample.x = sample.x.bfloat16()
        loss = sample.loss
        sample.loss = lambda y: loss(y.float())
        return "bfloat16", None

    def tiny(sample, block, number):
        return "float32", None

    def rate(value):
        return lambda sample: torch.optim.Adam(sample.net.parameters(), value)

    names = ["mlp", "residual", "tanh mlp", "wide mlp", "deep residual", "pre-norm transformer"]
    return [
        # The step is the rate. A weight of 1e-3 has half a unit of 2e-6 in bfloat16, of 3e-11 in float32.
        *_each(planted, "lost_updates", coarse, names, count=6, optimizer=rate(1e-6)),
        *_each(planted, "lost_updates", tiny, count=6, optimizer=rate(1e-11)),
    ]


def step_too_large(planted):
    def plant(sample, block, number):
        return "steps of 1 for weights of 0.1", None

    # The first step of Adam is its rate in every weight. In ten of them at once no derivative predicts that.
    return _each(planted, "step_too_large", plant, optimizer=lambda s: torch.optim.Adam(s.net.parameters(), 1.0))


def norm_epsilon(planted):
    def make(number):
        kind = number % 6
        seed, size = number, 10.0 ** (-4 - number // 6)
        if kind == 0:
            sample = a.mlp(32, 5, norm=nn.LayerNorm, seed=seed)
        elif kind == 1:
            sample = a.mlp(24, 4, nn.GELU, norm=nn.BatchNorm1d, seed=seed)
        elif kind == 2:
            sample = a.conv(8, 4, norm=lambda w: nn.GroupNorm(2, w), seed=seed)
        elif kind == 3:
            sample = a.conv(8, 3, norm=nn.BatchNorm2d, seed=seed)
        elif kind == 4:
            sample = a.mlp(32, 6, norm=lambda w: nn.RMSNorm(w, eps=1e-5), seed=seed)
        else:
            sample = a.resnet(8, 3, seed=seed)
        block = sample.blocks[number % len(sample.blocks)]
        inner = sample.maps(block)[0]
        inner.weight.data.mul_(size)
        kinds = ("LayerNorm", "BatchNorm", "GroupNorm conv", "BatchNorm conv", "RMSNorm", "resnet")
        words = f"{kinds[kind]}, {type(inner).__name__} before it times {size:g}"
        return planted(words, sample, "norm_epsilon", block)

    return [lambda n=n: make(n) for n in range(12)]


def input_scale(planted):
    def plant(sample, block, number):
        kind = number % 3
        if kind == 0:
            sample.x = sample.x + 200.0
        elif kind == 1:
            sample.x = sample.x * 1e4
        else:
            sample.x = sample.x * 1e-4
        return ("mean of 200", "points of 1e4", "points of 1e-4")[kind], None

    names = [name for name in _everywhere(0) if not name.startswith("token")]
    return _each(planted, "input_scale", plant, names)


FAULTS = {
    make.__name__: make
    for make in (
        nonfinite,
        dead_units,
        cut_gradient,
        unused_parameters,
        vanishing_signal,
        exploding_signal,
        vanishing_gradient,
        exploding_gradient,
        collapsed,
        chaotic,
        saturated,
        ill_conditioned,
        format,
        optimizer_epsilon,
        lost_updates,
        step_too_large,
        norm_epsilon,
        input_scale,
    )
}
