"""What a network is before it is read, and how to make it so again: nothing of a reading stays behind."""

from __future__ import annotations

import copy
import gc
import random
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CellType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stability.reading.held import Named, contents, held_by, is_code

_reading = threading.local()
#: One reading at a time: two of one network would see, and undo, what the other does to it.
_ALONE = threading.RLock()
_MISSING = object()


def is_read() -> int:
    """How many readings this thread is in the middle of: what happens then is no doing of the user's."""
    return getattr(_reading, "depth", 0)


@contextmanager
def undisturbed(net: nn.Module, *beside: object) -> Iterator[None]:
    """Leave a network as it was: parameters and their gradients, buffers, attributes, modes, and random generators.

    Attributes count with what lists, dictionaries and sets in them hold, and functions with the modules that they use.

    Args:
        net: the network.
        beside: what else is called, such as a loss, and may hold modules.
    """
    with _ALONE, ExitStack() as stack:
        if gc.isenabled():  # each collection looks at every node of the graph, which makes deep networks slow
            gc.disable()
            stack.callback(gc.enable)
        _reading.depth = is_read() + 1
        stack.callback(lambda: setattr(_reading, "depth", is_read() - 1))
        with unchanged(net, *beside):
            yield


@contextmanager
def unchanged(*values: object) -> Iterator[None]:
    """Leave modules, what functions hold, and the random generators as they were."""
    devices = list(range(torch.cuda.device_count()))
    with ExitStack() as stack, torch.random.fork_rng(devices=devices):
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        known: dict[int, object] = {}
        for value in values:
            if isinstance(value, nn.Module):
                _keep(value, stack, known)
            else:
                _keep_held(value, stack, known)
        yield


def generators(net: nn.Module) -> list[object]:
    """Return the states of the random generators that a network may draw from."""
    found = (_generator(value) for part in net.modules() for value in vars(part).values())
    own = [pair[0]() for pair in found if pair is not None]
    states: list[object] = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes(), *own]  # type: ignore[index]  # noqa: NPY002
    if torch.cuda.device_count():
        states += torch.cuda.get_rng_state_all()
    return states


def same_states(one: list[object], other: list[object]) -> bool:
    """Whether nothing was drawn between two calls of `generators`."""
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else repr(a) == repr(b)
        for a, b in zip(one, other, strict=True)
    )


def _generator(value: object) -> tuple[Callable[[], object], Callable[[Any], object]] | None:
    """Return how the state of a random generator is read and set, None for what is none."""
    if isinstance(value, torch.Generator | np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, np.random.Generator):
        return lambda: copy.deepcopy(value.bit_generator.state), lambda state: setattr(
            value.bit_generator, "state", state
        )
    return None


def _keep(value: Any, stack: ExitStack, known: dict[int, object]) -> None:
    """Let the stack make a value what it is now, and all that it holds."""
    if id(value) in known:
        return
    known[id(value)] = value
    if isinstance(value, Tensor):
        stack.callback(_tensor_again(value))
    elif isinstance(value, nn.Module):
        modules = list(value.modules())
        known |= {id(module): module for module in modules}
        for tensor in (*value.parameters(), *value.buffers()):
            _keep(tensor, stack, known)
        for module in modules:
            _keep(vars(module), stack, known)
    elif is_code(value):
        _keep_held(value, stack, known)
    elif isinstance(value, dict) and type(value) in (dict, OrderedDict, defaultdict):
        items = _keep_items(value, stack)
        for one in items.values():
            _keep(one, stack, known)
    elif type(value) in (list, set, deque):
        for one in _keep_members(value, stack):
            _keep(one, stack, known)
    elif isinstance(value, tuple):
        for one in value:
            _keep(one, stack, known)
    else:
        _keep_itself(value, stack)


def _keep_held(value: object, stack: ExitStack, known: dict[int, object]) -> None:
    """Let the stack make again what a function or an object holds."""
    for one in held_by(value):
        if isinstance(one, Tensor | nn.Module):
            _keep(one, stack, known)
        elif id(one) not in known:
            known[id(one)] = one
            if isinstance(one, CellType):
                for content in contents(one):
                    stack.callback(setattr, one, "cell_contents", content)
            elif isinstance(one, Named):
                stack.callback(_bind, one.names, one.name, one.names.get(one.name, _MISSING))
            elif isinstance(one, dict):
                _keep_items(one, stack)
            elif isinstance(one, list | set | deque):
                _keep_members(one, stack)
            else:
                _keep_itself(one, stack)


def _keep_itself(value: Any, stack: ExitStack) -> None:
    if (pair := _generator(value)) is not None:
        stack.callback(pair[1], pair[0]())
    elif isinstance(value, np.ndarray):
        stack.callback(np.copyto, value, value.copy())


def _keep_items(value: dict[object, object], stack: ExitStack) -> dict[object, object]:
    items = {key: one for key, one in value.items() if not _is_hooks(key)}
    stack.callback(_fill, value, items)
    return items


def _keep_members(value: Any, stack: ExitStack) -> list[object]:
    held = list(value)
    add = value.update if isinstance(value, set) else value.extend

    def restore() -> None:
        if list(value) != held if isinstance(value, set) else [*map(id, value)] != [*map(id, held)]:
            value.clear()
            add(held)

    stack.callback(restore)
    return held


def _bind(names: dict[str, object], name: str, value: object) -> None:
    if value is not _MISSING:
        names[name] = value
    else:
        names.pop(name, None)


def _is_hooks(key: object) -> bool:
    """Whether an attribute of a module holds hooks, which come and go by their handles."""
    return isinstance(key, str) and key.startswith("_") and "_hooks" in key


def _fill(value: dict[object, object], items: dict[object, object]) -> None:
    for key in [key for key in value if key not in items and not _is_hooks(key)]:
        del value[key]
    for key, one in items.items():
        if key not in value or value[key] is not one:
            value[key] = one


def _tensor_again(tensor: Tensor) -> Callable[[], None]:
    """Return what makes a tensor hold the numbers, and have the gradient, that it has now."""
    before, requires, leaf = tensor.detach().clone(), tensor.requires_grad, tensor.is_leaf
    gradient = tensor.grad if leaf else None
    numbers = None if gradient is None else gradient.detach().clone()

    def restore() -> None:
        with torch.no_grad():
            if not _same(tensor.detach(), before):  # nothing is written that did not change: a graph may hold it
                if tensor.shape != before.shape:
                    tensor.resize_(before.shape)
                tensor.copy_(before)
            if not leaf:
                return
            if tensor.requires_grad != requires:
                tensor.requires_grad_(requires)
            if tensor.grad is not gradient:
                tensor.grad = gradient
            if gradient is not None and numbers is not None and not _same(gradient, numbers):
                gradient.copy_(numbers)

    return restore


def _same(one: Tensor, other: Tensor) -> bool:
    # Not by the versions: batch normalisation changes its running means without a new one.
    if one.shape != other.shape:
        return False
    if one.layout != torch.strided or not (one.is_floating_point() or one.is_complex()):
        return one.layout != torch.strided or torch.equal(one, other)
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
