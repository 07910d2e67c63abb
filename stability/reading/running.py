"""How a user's network is run, and whether it is still the same network when it is followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from stability.foundation.formats import Format
from stability.reading.inputs import Inputs
from stability.reading.trees import tensors_in


def run(net: nn.Module, inputs: Inputs) -> object:
    """Return what a network makes of inputs, which it may change in place.

    Raises:
        ValueError: where the network does not take them, with its own error as the cause.
    """
    try:
        return net(*inputs.args, **inputs.options)
    except Exception as error:
        own = next((parameter.dtype for parameter in net.parameters()), None)
        raise ValueError(
            f"{title(net)} does not take {inputs}: {error}. x is what the whole model takes, on its device and in its "
            f"dtype; its parameters are {own}"
        ) from error


def title(net: nn.Module) -> str:
    """Return how a network is called in messages."""
    return type(net).__name__


def is_compiled(net: nn.Module) -> bool:
    """Whether torch.compile runs a network, or a part of it, whose modules are not called one by one then."""
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"
        for module in net.modules()
    )


@contextmanager
def eagerly(net: nn.Module) -> Iterator[None]:
    """Let compiled parts of a network run as they are written."""
    if not is_compiled(net):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def hooks_may_matter(net: nn.Module) -> bool:
    """Whether a network has parts that may behave otherwise when it is followed: scripted ones, and hooks of others."""
    return any(
        isinstance(module, torch.jit.ScriptModule)
        or any(
            not getattr(hook, "only_looks", False)
            for hooks in (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
            for hook in hooks.values()
        )
        for module in net.modules()
    )


class LooksOnly:
    """A hook that changes nothing of what passes."""

    only_looks = True

    def __init__(self, act: Callable[..., object], *given: object) -> None:
        self.act, self.given = act, given

    def __call__(self, *_: object) -> None:
        self.act(*self.given)


@contextmanager
def told_of_calls(net: nn.Module, begins: Callable[[str], object], ends: Callable[[str], object]) -> Iterator[None]:
    """Call `begins` with its name when a module of a network is called, and `ends` when it returns or raises."""
    with ExitStack() as stack:
        for name, module in net.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(LooksOnly(begins, name)).remove)
                stack.callback(module.register_forward_hook(LooksOnly(ends, name), always_call=True).remove)
        yield


def same_values(one: object, other: object) -> bool:
    """Whether two outputs of a network hold the same numbers, up to what rounding explains."""
    first, second = list(tensors_in(one)), list(tensors_in(other))
    if len(first) != len(second):
        return False
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return False
            continue
        size = a.detach().abs().nan_to_num(posinf=0.0).max() if a.numel() else 0.0
        tolerance = 1e3 * Format(a.dtype).spacing * float(size)
        if not torch.allclose(a.detach(), b.detach(), rtol=0.0, atol=tolerance, equal_nan=True):
            return False
    return True
