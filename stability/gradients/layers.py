"""Which modules of a network count as its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def find_layers(net: nn.Module, blocks: str | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the layers of a module by name.

    With `blocks`, the children of the Sequential or ModuleList of that name, or the modules of these names. Without,
    the children of the module itself if it is a Sequential or ModuleList, else those of the longest one inside, else,
    where there is none, all modules that own parameters.

    Raises:
        ValueError: for unknown names, and a network without parameters.
    """
    parts = dict(net.named_modules())
    containers = {
        name: {f"{name}.{child}" if name else child: module for child, module in part.named_children()}
        for name, part in parts.items()
        if isinstance(part, nn.Sequential | nn.ModuleList) and len(part) > 0
    }
    if isinstance(blocks, str):
        if blocks not in containers:
            known = ", ".join(repr(name) for name in list(containers)[:10]) or "none there are"
            raise ValueError(f"blocks is {blocks!r}: expected the name of a Sequential or ModuleList, one of {known}")
        return containers[blocks]
    if blocks is not None:
        unknown = [name for name in blocks if name not in parts]
        if unknown or not blocks:
            raise ValueError(f"blocks names {unknown or 'nothing'}: the modules are {sorted(filter(None, parts))}")
        return {name: parts[name] for name in blocks}
    if "" in containers:
        return containers[""]
    if containers:
        return max(containers.values(), key=len)
    owners = {name: part for name, part in parts.items() if list(part.parameters(recurse=False))}
    if not owners:
        raise ValueError(f"{type(net).__name__} has no parameters: there is no gradient to take")
    return owners


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Leave a network as it was: its buffers, such as running means, and the state of the random generator."""
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in net.named_buffers():
                    if name in buffers and value.shape == buffers[name].shape:
                        value.copy_(buffers[name])
