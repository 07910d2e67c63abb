"""What the layers of a network are: its blocks in the order in which they are applied, and the state before each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stability.checks import check_finite

Block = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Blocks:
    """The layers of a network at given points.

    Attributes:
        names: how each is called.
        functions: each as a function of the state.
        states: the state before each and after the last, (*batch, *shape).
        batch_dims: how many dimensions of a state are the batch; the points are the last of them.
    """

    names: tuple[str, ...]
    functions: tuple[Block, ...]
    states: tuple[Tensor, ...]
    batch_dims: int = 1


def is_chain(net: Any) -> bool:
    """Whether a network is a chain: steps on the state of all its members."""
    return hasattr(net, "steps") and hasattr(net, "members")


def step_names(depth: int) -> tuple[str, ...]:
    """Return how the steps of a chain are called."""
    return tuple(f"step {number}" for number in range(1, depth + 1))


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    before: Callable[[str, tuple[Any, ...], dict[str, Any]], Any],
    after: Callable[[str, Any], None],
) -> Iterator[None]:
    """Call before(name, args, options) and after(name, output) around each call of the modules.

    What `before` returns takes the place of args and options, unless it is None.
    """
    handles: list[Any] = []
    for name, module in modules.items():
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, options, name=name: before(name, args, options), with_kwargs=True
            )
        )
        handles.append(module.register_forward_hook(lambda _, __, output, name=name: after(name, output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_blocks(net: Any, x: Tensor, blocks: str | Sequence[str] | None) -> Blocks:
    """Return the blocks of a chain, an nn.Sequential, a sequence of callables, or any nn.Module; see `spectrum`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}: expected a tensor whose first dimension is the batch of points")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: expected the batch of points first, and at least one point")
    if x.is_floating_point():
        check_finite("x", x)
    if isinstance(net, nn.Module):
        _refuse_randomness(net)
    if is_chain(net):
        if blocks is not None:
            raise ValueError("a chain's blocks are its steps: leave out blocks=")
        if x.shape[1:] != (() if net.width == 1 else (net.width,)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: a chain of width {net.width} takes "
                + ("(points,)" if net.width == 1 else f"(points, {net.width})")
            )
        if x.dtype != net.dtype:
            raise TypeError(f"x is {x.dtype} and the chain is {net.dtype}: convert one of them, x.to({net.dtype})")
        return _run(
            step_names(net.depth), tuple(net.steps), x.detach().expand(len(net.members), *x.shape), batch_dims=2
        )
    if blocks is None and isinstance(net, nn.Sequential | nn.ModuleList):
        # Not named_children, which leaves out what stands in it a second time.
        return _run(*_named(list(net._modules.items())), x)
    if isinstance(net, nn.Module):
        return _inside(net, x, blocks)
    if isinstance(net, Sequence) and not isinstance(net, str):
        if blocks is not None:
            raise ValueError("a list of blocks has its blocks already: leave out blocks=")
        for number, block in enumerate(net):
            if not callable(block):
                raise TypeError(f"block {number} is a {type(block).__name__}: expected a callable from state to state")
            if isinstance(block, nn.Module):
                _refuse_randomness(block)
        return _run(*_named([(str(number), block) for number, block in enumerate(net)]), x)
    raise TypeError(
        f"net is a {type(net).__name__}: expected a stability.Chain, an nn.Sequential, a list of "
        "blocks, or an nn.Module"
    )


def _named(blocks: Sequence[tuple[str, Block]]) -> tuple[tuple[str, ...], tuple[Block, ...]]:
    if not blocks:
        raise ValueError("the network has no blocks: expected at least one")
    names = (
        f"{name} ({type(block).__name__})" if isinstance(block, nn.Module) else f"{name} (function)"
        for name, block in blocks
    )
    return tuple(names), tuple(block for _, block in blocks)


def _refuse_randomness(module: nn.Module) -> None:
    """Raise for what is random, or makes one point depend on the others, in train mode."""
    for name, part in module.named_modules():
        where = f"{type(part).__name__} {name!r}" if name else type(part).__name__
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
            raise ValueError(
                f"{where} is in train mode: it normalises by the batch, so a point has no Jacobian of its own; "
                "call model.eval() first"
            )
        rate = getattr(part, "p", 0) if isinstance(part, nn.modules.dropout._DropoutNd) else 0
        if isinstance(part, nn.MultiheadAttention | nn.RNNBase):
            rate = part.dropout
        if part.training and rate:
            raise ValueError(f"{where} drops out at random in train mode: call model.eval() first")


def check_output(name: str, state: Tensor, output: object, batch_dims: int) -> Tensor:
    """Return what a block gave if it is a state with the batch of the one that it took."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"block {name} returns a {type(output).__name__}: expected one tensor; wrap it, "
            "as in [lambda h, block=block: block(h)[0] for block in blocks]"
        )
    if output.shape[:batch_dims] != state.shape[:batch_dims]:
        raise ValueError(
            f"block {name} turns a state of shape {tuple(state.shape)} into {tuple(output.shape)}: it must keep the "
            f"batch, the first {batch_dims} dimension{'s' if batch_dims > 1 else ''}"
        )
    if not output.is_floating_point():
        raise TypeError(f"block {name} returns {output.dtype}: a Jacobian needs floating-point states")
    return output.detach()


def check_state(name: str, state: Tensor, batch_dims: int = 1) -> None:
    """Raise where a state has left the range, and the branches taken there are no longer those of the network."""
    finite = state.isfinite()
    if not finite.all():
        place = tuple((~finite).nonzero()[0].tolist())
        raise ValueError(
            f"the state after block {name} has {int((~finite).sum())} values that are not finite, the first at "
            f"{place}: the network overflows {state.dtype} there; scale its weights, or take a wider dtype"
        )
    size = state.abs().flatten(batch_dims).amax(dim=-1) if state.ndim > batch_dims else state.abs()
    lost = (size > 0) & (size < torch.finfo(state.dtype).tiny)
    if lost.any():
        raise ValueError(
            f"the state after block {name} is below the smallest normal number of {state.dtype} at point "
            f"{tuple(lost.nonzero()[0].tolist())}: it underflows, and a ReLU or PReLU after it would take the wrong "
            "branch; scale the weights or the points, or take a wider dtype"
        )


def _run(names: tuple[str, ...], functions: tuple[Block, ...], x: Tensor, batch_dims: int = 1) -> Blocks:
    if not x.is_floating_point():
        raise TypeError(
            f"x is {x.dtype}: a Jacobian needs floating-point points. For a model that embeds tokens, give the model "
            "itself and name its blocks: the states between them are what is differentiated"
        )
    states = [x.detach()]
    for name, function in zip(names, functions, strict=True):
        with torch.enable_grad():
            try:
                output = function(states[-1].clone())
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"block {name} does not take the state of shape {tuple(states[-1].shape)} that comes before it: "
                    f"{error}"
                ) from error
        states.append(check_output(name, states[-1], output, batch_dims))
        check_state(name, states[-1], batch_dims)
    return Blocks(names, functions, tuple(states), batch_dims)


@dataclass
class _Call:
    name: str
    module: nn.Module
    state: Tensor
    rest: tuple[Any, ...]
    options: dict[str, Any]
    output: Any = None

    def __call__(self, state: Tensor) -> Tensor:
        output: Tensor = self.module(state, *self.rest, **self.options)
        return output

    @property
    def keeps_shape(self) -> bool:
        return isinstance(self.output, Tensor) and self.output.shape == self.state.shape


def _record(net: nn.Module, x: Tensor, watched: dict[str, nn.Module]) -> list[_Call]:
    """Run net(x) and return the calls of the watched modules, in order."""
    calls: list[_Call] = []
    open_calls: dict[str, _Call] = {}

    def before(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if args and isinstance(args[0], Tensor):
            calls.append(_Call(name, watched[name], args[0].detach().clone(), args[1:], options))
            open_calls[name] = calls[-1]

    def after(name: str, output: Any) -> None:
        if name in open_calls:
            call = open_calls.pop(name)
            call.output = output.detach().clone() if isinstance(output, Tensor) else output

    try:
        with hooked(watched, before, after), torch.enable_grad():
            net(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"{type(net).__name__} does not take x of shape {tuple(x.shape)} and {x.dtype}: {error}. x is what the "
            "whole model takes, the batch first, in the model's dtype"
        ) from error
    return calls


def _inside(net: nn.Module, x: Tensor, blocks: str | Sequence[str] | None) -> Blocks:
    parts = dict(net.named_modules())
    containers = {
        name: {f"{name}.{child}" if name else child: module for child, module in part.named_children()}
        for name, part in parts.items()
        if isinstance(part, nn.Sequential | nn.ModuleList) and len(part) > 0
    }
    if blocks is None:
        every = {name: module for children in containers.values() for name, module in children.items()}
        calls = _record(net, x, every)
        found: list[_Call] = []
        for children in containers.values():
            own = [call for call in calls if call.name in children]
            if len(own) > len(found) and all(c.keeps_shape for c in own) and _break(own) is None:
                found = own
        if not found:
            raise ValueError(
                f"no Sequential or ModuleList of {type(net).__name__} has children that keep the state's shape and "
                f"follow each other: name the blocks, blocks='...', one of {_outermost(containers)} or a "
                "list of modules' names; or give a list of callables"
            )
        return _of_calls(found)
    if isinstance(blocks, str):
        if blocks not in containers:
            known = _outermost(containers)
            raise ValueError(f"blocks is {blocks!r}: expected the name of a Sequential or ModuleList, one of {known}")
        watched = containers[blocks]
    else:
        unknown = [name for name in blocks if name not in parts]
        if unknown or not blocks:
            raise ValueError(f"blocks names {unknown or 'nothing'}: the modules are {sorted(filter(None, parts))}")
        watched = {name: parts[name] for name in blocks}
    calls = _record(net, x, watched)
    if not calls:
        raise ValueError(f"the blocks {list(watched)} are not called with a tensor when the model runs on x")
    for call in calls:
        if call.state.is_floating_point():
            check_output(call.name, call.state, call.output, 1)
        else:
            raise TypeError(f"block {call.name} takes {call.state.dtype}: leave it out, a Jacobian needs floats")
    gap = _break(calls)
    if gap is not None:
        before, after = (tuple(state.shape) for state in (calls[gap].output, calls[gap + 1].state))
        change = "does something to the state" if before == after else f"turns a state of {before} into one of {after}"
        raise ValueError(
            f"the blocks do not chain: between {calls[gap].name} and {calls[gap + 1].name} the model {change}; give a "
            "list of callables that holds what happens there"
        )
    return _of_calls(calls)


def _break(calls: list[_Call]) -> int | None:
    """Return the first call whose output is not the next one's state, None if all chain."""
    for number in range(len(calls) - 1):
        output = calls[number].output
        if not isinstance(output, Tensor) or not torch.equal(output, calls[number + 1].state):
            return number
    return None


def _of_calls(calls: list[_Call]) -> Blocks:
    names = tuple(f"{call.name} ({type(call.module).__name__})" for call in calls)
    for name, call in zip(names, calls, strict=True):
        check_state(name, call.output)
    return Blocks(names, tuple(calls), (*(call.state for call in calls), calls[-1].output))


def _outermost(containers: dict[str, Any]) -> str:
    """Name the containers that are in no other one, ten at most."""
    names = [name for name in containers if name]
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return ", ".join(map(repr, outer[:10])) + (", ..." if len(outer) > 10 else "") or "none there are"
