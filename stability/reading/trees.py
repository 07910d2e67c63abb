"""What networks take and return: tensors inside tuples, dictionaries and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors_in(tree: object) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from tensors_in(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for part in dataclasses.fields(tree):
            yield from tensors_in(getattr(tree, part.name, None))


def named_tensors(tree: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree, in order, each with the keys, numbers and fields that lead to it."""
    if isinstance(tree, Tensor):
        yield name or "output", tree
        return
    parts: list[tuple[object, object]] = []
    if isinstance(tree, Mapping):
        parts = list(tree.items())
    elif isinstance(tree, tuple | list):
        parts = list(enumerate(tree))
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        parts = [(part.name, getattr(tree, part.name, None)) for part in dataclasses.fields(tree)]
    for key, value in parts:
        yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def map_tensors(tree: Any, function: Callable[[Tensor], object]) -> Any:
    """Return a tree of the same kind with function(tensor) in the place of every tensor; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        changed = {key: map_tensors(value, function) for key, value in tree.items()}
        return changed if type(tree) is dict else _filled(tree, changed)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(value, function) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(value, function) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        twin = copy.copy(tree)
        for part in dataclasses.fields(tree):
            object.__setattr__(twin, part.name, map_tensors(getattr(tree, part.name), function))
        return twin
    return tree


def _filled(tree: Mapping[object, object], values: dict[object, object]) -> Any:
    """Return a mapping of the type of `tree` with other values, a plain dictionary where that type cannot be filled."""
    try:
        twin: Any = copy.copy(tree)
        for key, value in values.items():
            twin[key] = value
    except (TypeError, AttributeError):
        return values
    return twin
