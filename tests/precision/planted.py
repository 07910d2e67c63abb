"""Networks in which the first number that is not finite is known, as it was put there: what, where and why."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Explode(torch.autograd.Function):
    """The identity, whose gradient leaves every range."""

    @staticmethod
    def forward(_, h):
        return h.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient.abs().add(1) * torch.finfo(gradient.dtype).max  # here explode


class WithNumpy(torch.autograd.Function):
    """The logarithm of negative numbers, as numpy has it."""

    @staticmethod
    def forward(_, h):
        with np.errstate(invalid="ignore"):
            numbers = np.log(-1 - np.abs(h.detach().float().numpy()))
        return torch.from_numpy(numbers).to(h.dtype)  # here numpy_forward

    @staticmethod
    def backward(_, gradient):
        return gradient


class BackByNumpy(torch.autograd.Function):
    """The identity, of whose gradient numpy makes NaN."""

    @staticmethod
    def forward(_, h):
        return h.clone()

    @staticmethod
    def backward(_, gradient):
        numbers = gradient.float().numpy() * np.float32(math.nan)
        return torch.from_numpy(numbers).to(gradient.dtype)  # here numpy_backward


def exp(h):
    return (h + 1000).exp()  # here exp


def log_of_zero(h):
    return (h * 0).log()  # here log_of_zero


def log_of_negative(h):
    return (-h.abs() - 1).log()  # here log_of_negative


def root_of_negative(h):
    return (-h.abs() - 1).sqrt()  # here root_of_negative


def zero_by_zero(h):
    centred = h - h
    return centred / centred.norm(dim=-1, keepdim=True)  # here zero_by_zero


def by_zero(h):
    return (h.abs() + 1) / (h * 0)  # here by_zero


def infinities(h):
    end = torch.full_like(h, math.inf)
    return h + (end - end)  # here infinities


def square(h):
    large = (h.abs() + 1) * (4 * torch.finfo(h.dtype).max ** 0.5)
    return large.square()  # here square


def product(h):
    factor = torch.full((h.shape[-1],) * 2, torch.finfo(h.dtype).max / 2, dtype=h.dtype)
    rows = (h.abs() + 4).reshape(-1, h.shape[-1])
    return (rows @ factor).reshape(h.shape)  # here product


def masked_row(h):
    every = torch.ones_like(h, dtype=torch.bool)
    return h.masked_fill(every, -math.inf).softmax(-1)  # here masked_row


def log_masked_row(h):
    every = torch.zeros_like(h).log()
    return (h + every).log_softmax(-1)  # here log_masked_row


def variance_of_one(h):
    return h / h[..., :1].std(-1, keepdim=True)  # here variance_of_one


def constant_norm(h):
    return F.layer_norm(h * 0, h.shape[-1:], eps=0.0)  # here constant_norm


def root_at_zero(h):
    return h + (h * 0).sqrt()  # here root_at_zero


def power_at_zero(h):
    return h + (h * 0) ** 0.5  # here power_at_zero


def arc_cosine_at_one(h):
    return h + (h * 0 + 1).acos()  # here arc_cosine_at_one


def not_taken(h):
    raised = h + 1000
    return torch.where(raised <= 0, raised.exp() - 1, h)  # here not_taken


def explode(h):
    return Explode.apply(h)


def numpy_forward(h):
    return WithNumpy.apply(h)


def numpy_backward(h):
    return BackByNumpy.apply(h)


def constant(h):
    return h * math.nan  # here constant


def constant_tensor(h):
    return h + torch.tensor([math.nan], dtype=h.dtype)  # here constant_tensor


def ignored_targets(h):
    scores = h.reshape(-1, h.shape[-1]).float()
    return h + F.cross_entropy(scores, torch.full((len(scores),), -100)).to(h.dtype)  # here ignored_targets


def divided(gradient):
    return (gradient.abs() + 1) / (gradient * 0)  # here hook_of_gradient


def hook_of_gradient(h):
    h = h.clone()
    if h.requires_grad:
        h.register_hook(divided)
    return h


def remainder_by_zero(h):
    return h + h.fmod(torch.zeros_like(h))  # here remainder_by_zero


def power_of_negative(h):
    return (-h.abs() - 1) ** 0.5  # here power_of_negative


def distance_at_zero(h):
    return h + (h - h.detach()).square().sum(-1, keepdim=True).sqrt()  # here distance_at_zero


#: By name: what makes it, the operation, the direction, the cause.
FAULTS = {
    "exp": (exp, "exp", "forward", "overflow"),
    "log_of_zero": (log_of_zero, "log", "forward", "pole"),
    "log_of_negative": (log_of_negative, "log", "forward", "invalid"),
    "root_of_negative": (root_of_negative, "sqrt", "forward", "invalid"),
    "zero_by_zero": (zero_by_zero, "div", "forward", "invalid"),
    "by_zero": (by_zero, "div", "forward", "pole"),
    "infinities": (infinities, "sub", "forward", "invalid"),
    "square": (square, "pow", "forward", "overflow"),
    "product": (product, "mm", "forward", "overflow"),
    "masked_row": (masked_row, "softmax", "forward", "mask"),
    "log_masked_row": (log_masked_row, "log softmax", "forward", "mask"),
    "variance_of_one": (variance_of_one, "std", "forward", "invalid"),
    "constant_norm": (constant_norm, "layer norm", "forward", "invalid"),
    "root_at_zero": (root_at_zero, "sqrt", "backward", "pole"),
    "power_at_zero": (power_at_zero, "pow", "backward", "pole"),
    "arc_cosine_at_one": (arc_cosine_at_one, "acos", "backward", "pole"),
    "not_taken": (not_taken, "exp", "forward", "overflow"),
    "numpy_forward": (numpy_forward, "as tensor", "forward", "given"),
    "numpy_backward": (numpy_backward, "back by numpy", "backward", "given"),
    "constant": (constant, "mul", "forward", "given"),
    "constant_tensor": (constant_tensor, "as tensor", "forward", "given"),
    "ignored_targets": (ignored_targets, "nll loss", "forward", "invalid"),
    "hook_of_gradient": (hook_of_gradient, "div", "backward", "pole"),
    "remainder_by_zero": (remainder_by_zero, "fmod", "forward", "invalid"),
    "power_of_negative": (power_of_negative, "pow", "forward", "invalid"),
    "distance_at_zero": (distance_at_zero, "sqrt", "backward", "pole"),
    "explode": (explode, "explode", "backward", "overflow"),
}


class Fault(nn.Module):
    """Does nothing until its call of a number, None for every one, and then what it is given."""

    def __init__(self, function=None, at=None):
        super().__init__()
        self.function, self.at, self.calls = function, at, 0

    def forward(self, h):
        self.calls += 1
        return h if self.function is None or self.at not in (None, self.calls) else self.function(h)


class Residual(nn.Module):
    """h + fault(tanh(linear(norm(h))))."""

    def __init__(self, fault):
        super().__init__()
        self.norm, self.linear, self.fault = nn.LayerNorm(8), nn.Linear(8, 8), fault

    def forward(self, h):
        return h + self.fault(self.linear(self.norm(h)).tanh())


class Convolution(nn.Module):
    """A convolution with batch normalisation; the fault sees its channels last."""

    def __init__(self, fault):
        super().__init__()
        self.conv, self.bn, self.fault = nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), fault

    def forward(self, h):
        h = self.bn(self.conv(h.unsqueeze(-1).expand(-1, -1, 5) if h.ndim == 2 else h))
        return self.fault(h.relu().movedim(1, -1)).movedim(-1, 1)


class Attention(nn.Module):
    """A block of a transformer over the batch as a sequence, the norm before or after; the fault is in the middle."""

    def __init__(self, fault, pre):
        super().__init__()
        self.pre, self.fault = pre, fault
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def attend(self, h):
        return self.attention(h, h, h, need_weights=False)[0]

    def think(self, h):
        return self.down(self.fault(F.gelu(self.up(h))))

    def forward(self, h):
        if self.pre:
            h = h + self.attend(self.norm1(h))
            return h + self.think(self.norm2(h))
        h = self.norm1(h + self.attend(h))
        return self.norm2(h + self.think(h))


class Recurrent(nn.Module):
    """A cell that is called four times; the fault strikes in the third."""

    def __init__(self, fault):
        super().__init__()
        self.cell, self.fault = nn.GRUCell(8, 8), fault
        fault.at = 3

    def forward(self, x):
        h = torch.zeros_like(x)
        for _ in range(4):
            h = self.fault(self.cell(x, h))
        return h


def network(kind, function=None):
    """Return a network of a kind, the name of the module in which it goes wrong, and the number of the call."""
    torch.manual_seed(7)
    fault = Fault(function)
    if kind == "recurrent":
        return Recurrent(fault), "fault", 3
    make = {
        "perceptron": lambda f: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), f),
        "residual": Residual,
        "convolution": Convolution,
        "pre_norm": lambda f: Attention(f, True),
        "post_norm": lambda f: Attention(f, False),
    }[kind]
    net = nn.Sequential(make(Fault()), make(fault), make(Fault()))
    return net, "1.2" if kind == "perceptron" else "1.fault", 1


KINDS = ("perceptron", "residual", "convolution", "pre_norm", "post_norm", "recurrent")
