"""How to run a user's network and leave no trace of it, and how to tell that it cannot be followed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stability.reading.inputs import Inputs
from stability.reading.trees import tensors_in

_reading = threading.local()


def is_read() -> int:
    """How many readings this thread is in the middle of: what happens then is no doing of the user's."""
    return getattr(_reading, "depth", 0)


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Leave a network as it was: its buffers, attributes, gradients and mode, and the states of random generators."""
    _reading.depth = is_read() + 1
    modules = list(net.modules())
    attributes = [dict(vars(module)) for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    values = [(value, value.clone()) for own in buffers for value in own.values() if isinstance(value, Tensor)]
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            _reading.depth -= 1
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            for module, own, held in zip(modules, attributes, buffers, strict=True):
                now = vars(module)
                for name in [name for name in now if name not in own]:
                    del now[name]
                now.update(own)
                module._buffers.clear()
                module._buffers.update(held)
            with torch.no_grad():
                for value, before in values:
                    if not _same(value, before):  # nothing is written that did not change: a graph may hold it
                        value.copy_(before)
            for parameter, gradient in gradients:
                if parameter.grad is not gradient:
                    parameter.grad = gradient


def _same(one: Tensor, other: Tensor) -> bool:
    # Not by the versions: batch normalisation changes its running means without a new one.
    if one.shape != other.shape or one.is_sparse or not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other) if one.shape == other.shape else False
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def run(net: nn.Module, inputs: Inputs) -> Any:
    """Return what a network makes of inputs, which it may change in place.

    Raises:
        ValueError: where the network does not take them, with its own error as the cause.
    """
    try:
        return net(*inputs.args, **inputs.options)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        own = next((parameter.dtype for parameter in net.parameters()), None)
        raise ValueError(
            f"{title(net)} does not take {inputs}: {error}. x is what the whole model takes, on its device and in its "
            f"dtype; its parameters are {own}"
        ) from error


def title(net: nn.Module) -> str:
    """Return how a network is called in messages."""
    return type(net).__name__


def generators() -> list[Any]:
    """Return the states of the random generators that a network may draw from."""
    states: list[Any] = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()]  # type: ignore[index]  # noqa: NPY002
    if torch.cuda.device_count():
        states += torch.cuda.get_rng_state_all()
    return states


def same_states(one: list[Any], other: list[Any]) -> bool:
    """Whether nothing was drawn between two calls of `generators`."""
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other, strict=True))


def hooks_may_matter(net: nn.Module) -> bool:
    """Whether a network has parts that may behave otherwise when it is followed: compiled ones, and hooks of others."""
    return any(
        isinstance(module, torch.jit.ScriptModule)
        or getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__name__ == "OptimizedModule"
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


def same_values(one: Any, other: Any) -> bool:
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
        tolerance = 1e3 * torch.finfo(a.dtype).eps * float(size)
        if not torch.allclose(a.detach(), b.detach(), rtol=0.0, atol=tolerance, equal_nan=True):
            return False
    return True
