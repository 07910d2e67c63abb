"""Which modules of a network count as its layers, and how to run it without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stability.checks import check_finite


def as_module(net: object, x: object) -> nn.Module:
    """Return a module, or a list of modules that follow one another as one, once it and its points are checked.

    Raises:
        TypeError, ValueError: for anything else, parameters or points that are not finite, and no points.
    """
    if isinstance(net, Sequence) and not isinstance(net, str) and all(isinstance(part, nn.Module) for part in net):
        net = nn.Sequential(*net)
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"net is a {type(net).__name__}: expected a stability.Chain, an nn.Module, or a list of modules that "
            "follow one another"
        )
    if next(net.parameters(), None) is None:
        raise ValueError(f"{type(net).__name__} has no parameters, and so no layers: expected at least one with some")
    for name, parameter in net.named_parameters():
        check_finite(f"the parameter {name}", parameter)
    if isinstance(x, torch.Tensor):
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: expected the batch of points first, and at least one point"
            )
        if x.is_floating_point():
            check_finite("x", x)
    return net


def run_on(net: nn.Module, x: Any) -> Any:
    """Return net(x) of a copy of x, which the network may change in place.

    Raises:
        ValueError: where the network does not take x, with its own error as the cause.
    """
    try:
        return net(x.clone() if isinstance(x, Tensor) else x)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        got = f"x of shape {tuple(x.shape)} and {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        own = next((parameter.dtype for parameter in net.parameters()), None)
        raise ValueError(
            f"{type(net).__name__} does not take {got}: {error}. x is what the whole model takes, the batch first, on "
            f"its device and in its dtype; its parameters are {own}"
        ) from error


def refuse_randomness(net: nn.Module, x: Any) -> None:
    """Raise where a network draws random numbers of torch as it runs, so that no two runs are of one network."""
    with undisturbed(net), torch.no_grad():
        before = _generators(x)
        run_on(net, x)
        drawn = any(not torch.equal(one, other) for one, other in zip(before, _generators(x), strict=True))
    if drawn:
        raise ValueError(
            f"{type(net).__name__} draws random numbers when it runs, as dropout does in train mode: runs in two "
            "formats would be of two networks; call eval() first"
        )


def _generators(x: Any) -> list[Tensor]:
    """Return the states of the random generators that a run on x may draw from."""
    states = [torch.get_rng_state()]
    if isinstance(x, Tensor) and x.is_cuda:
        states.append(torch.cuda.get_rng_state(x.device))
    return states


def refuse_blocks(blocks: object) -> None:
    """Raise where blocks are named of a chain."""
    if blocks is not None:
        raise ValueError("a chain's layers are its steps: leave out blocks=")


def modules_of(model: nn.Module, blocks: str | Sequence[str] | None) -> tuple[dict[str, nn.Module], bool]:
    """Return the layers of a module by name, and whether the parameters of the modules inside them are their own too.

    With `blocks`, those are the children with parameters of the Sequential or ModuleList of that name, or the modules
    of these names. Without, the children with parameters of the model itself if it is a Sequential or ModuleList, else
    of the longest one inside, else, where none has two, all modules that own parameters.

    Raises:
        ValueError: for unknown names.
    """
    parts = dict(model.named_modules())
    containers = {
        name: {
            f"{name}.{child}" if name else child: part
            for child, part in container.named_children()
            if _has_parameters(part)
        }
        for name, container in parts.items()
        if isinstance(container, nn.Sequential | nn.ModuleList)
    }
    containers = {name: children for name, children in containers.items() if children}
    if isinstance(blocks, str):
        if blocks not in containers:
            known = ", ".join(map(repr, list(containers)[:10])) or "none there are"
            raise ValueError(
                f"blocks is {blocks!r}: expected the name of a Sequential or ModuleList with parameters, one of {known}"
            )
        return containers[blocks], True
    if blocks is not None and not isinstance(blocks, Sequence):
        raise TypeError(f"blocks is {blocks!r}: expected the name of a Sequential or ModuleList, or a list of names")
    if blocks is not None:
        names = list(blocks)
        unknown = [name for name in names if name not in parts]
        if unknown or not names:
            raise ValueError(f"blocks names {unknown or 'nothing'}: the modules are {sorted(filter(None, parts))}")
        return {name: parts[name] for name in names}, True
    if "" in containers:
        return containers[""], True
    longest = max(containers.values(), key=len, default={})
    # One child alone tells nothing apart: such containers are heads and shortcuts, and no stack of blocks.
    if len(longest) > 1:
        return longest, True
    return {name: part for name, part in parts.items() if _has_parameters(part, recurse=False)}, False


def _has_parameters(module: nn.Module, recurse: bool = True) -> bool:
    return next(module.parameters(recurse), None) is not None


def title(name: str, module: nn.Module) -> str:
    """Return how a layer is called."""
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


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
