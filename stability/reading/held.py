"""What a function, a method or an object holds that can change when it is called: modules, generators, attributes."""

from __future__ import annotations

import dis
import functools
import random
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

#: Packages whose functions and objects are not looked into.
_OTHERS = {*sys.stdlib_module_names, "torch", "torchvision", "numpy", "scipy", "stability", "transformers"} - {
    "__main__"
}
#: How many members of a list or dictionary are looked into.
_MOST_MEMBERS = 1000
#: How many numbers a tensor has at most that counts as a state of what holds it, and not as data.
_MOST_NUMBERS = 2**20


@dataclass(frozen=True, eq=False)
class Named:
    """A global that a function binds anew.

    Attributes:
        names: the globals of its module.
        name: its own.
    """

    names: dict[str, object]
    name: str


def is_code(value: object) -> bool:
    """Whether a value is called and may hold others: a function, a bound method, a partial one, an object."""
    known = isinstance(value, FunctionType | MethodType | functools.partial)
    return known or (callable(value) and hasattr(value, "__dict__") and not isinstance(value, type | nn.Module))


def held_by(value: object) -> Iterator[object]:
    """Yield what a value holds, and can change: modules, generators, tensors, containers, dictionaries of attributes.

    A function holds what it closes over, its defaults, and the globals that it names; a cell that it closes over is
    yielded too, and a global, where it may be bound anew. Containers and attributes are to be taken as they are,
    without their members, which are yielded by themselves. Tensors of more than 2^20 numbers are data, and left out, as
    are large arrays, but for those that require a gradient.
    """
    left: deque[tuple[object, bool]] = deque([(value, True)])
    seen: dict[int, object] = {}  # the values themselves, so that no other gets the address of one
    while left:
        one, asked = left.popleft()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, nn.Module | torch.Generator | random.Random | np.random.Generator | np.random.RandomState):
            yield one
        elif isinstance(one, Tensor | np.ndarray):
            if (one.numel() if isinstance(one, Tensor) else one.size) <= _MOST_NUMBERS or _is_trained(one):
                yield one
        elif isinstance(one, Named):
            yield one
        elif isinstance(one, CellType):
            yield one
            left += ((content, False) for content in contents(one))
        elif isinstance(one, dict | list | set | tuple | deque):
            if not isinstance(one, tuple):
                yield one
            members = one.values() if isinstance(one, dict) else one
            left += ((member, False) for member in islice(members, _MOST_MEMBERS))
        elif isinstance(one, functools.partial):
            left += ((part, True) for part in (one.func, one.args, one.keywords))
        elif isinstance(one, MethodType):
            left += ((part, True) for part in (one.__func__, one.__self__))
        elif isinstance(one, FunctionType):
            if asked or not _is_of_others(one.__module__):
                left += ((part, False) for part in _of_function(one))
        elif _may_hold(one):
            left.append((vars(one), False))
            if callable(one):
                left.append((type(one).__call__, False))


def _may_hold(value: object) -> bool:
    """Whether a value is an object of the user's own, with attributes."""
    whole = hasattr(value, "__dict__") and not isinstance(value, type | ModuleType)
    return whole and not _is_of_others(type(value).__module__)


def contents(cell: CellType) -> Iterator[object]:
    """Yield what a cell is bound to, nothing where it is not bound yet."""
    try:
        yield cell.cell_contents
    except ValueError:
        return


def _of_function(function: FunctionType) -> Iterator[object]:
    yield from function.__closure__ or ()
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    names, bound = _names(function.__code__)
    for name in names:
        named = function.__globals__.get(name)
        # Data that a function but reads: no state of its own.
        if named is not None and (not isinstance(named, Tensor | np.ndarray) or _is_trained(named)):
            yield named
    for name in bound:
        yield Named(function.__globals__, name)


def _is_trained(value: object) -> bool:
    """Whether a value has a gradient that a backward pass adds to."""
    return isinstance(value, Tensor) and value.is_leaf and value.requires_grad


@functools.lru_cache(1024)
def _names(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in the code of a function and of those inside of it, and the globals that these bind."""
    names = list(code.co_names)
    bound = [one.argval for one in dis.get_instructions(code) if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _names(constant)
            names += inner[0]
            bound += inner[1]
    return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(bound))


def _is_of_others(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _OTHERS
