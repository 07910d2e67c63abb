"""One forward pass of a network, recorded: the calls of its modules, and the tensors that its graph was made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stability.foundation.formats import coarsest
from stability.reading.inputs import Inputs
from stability.reading.trees import map_tensors, tensors_in

Node = Any  # of the autograd graph
Edge = tuple[Node, int]  # a tensor of the graph: the node that made it, and which of its outputs it is


@dataclass
class Call:
    """A call of a module.

    Attributes:
        name: of the module, with "#2" and so on for the second call of it and the later ones.
        module: itself.
        took, gave: the tensors of the graph that it took and returned, as they were then.
    """

    name: str
    module: nn.Module
    took: list[Edge]
    gave: list[Edge] = field(default_factory=list)

    @property
    def base(self) -> str:
        """The module's name."""
        return self.name.partition("#")[0]


@dataclass
class Seen:
    """A tensor of the graph: a view that shares its numbers, until something is about to change them in place."""

    values: Tensor
    version: int
    shape: tuple[int, ...]
    copied: bool = False

    @property
    def intact(self) -> bool:
        """Whether the numbers are still those that the tensor had when it was seen."""
        return self.copied or self.values._version == self.version


@dataclass
class Recording:
    """What a forward pass left.

    Attributes:
        output: what the network returned.
        calls: of its modules, in the order in which they ended.
        seen: the tensors of the graph, by edge.
        hooks_tensors: whether the network put a hook on a tensor, which changes what goes back.
        embeddings: the calls of embeddings, each with where the whole numbers that it took are stored.
    """

    output: object = None
    calls: list[Call] = field(default_factory=list)
    seen: dict[Edge, Seen] = field(default_factory=dict)
    hooks_tensors: bool = False
    embeddings: list[tuple[Edge, int]] = field(default_factory=list)


def edge_of(tensor: Tensor) -> Edge | None:
    """Return what a tensor is in the graph, None for leaves and what is in none."""
    node = tensor.grad_fn
    return None if node is None else (node, tensor.output_nr)


def coarsest_dtype(nodes: Iterable[Node]) -> torch.dtype:
    """Return the floating dtype of the fewest digits among those of the tensors that nodes made."""
    return coarsest(floating_dtypes(nodes))


def floating_dtypes(nodes: Iterable[Node]) -> set[torch.dtype]:
    """Return the floating dtypes of the tensors that nodes made."""
    found = {made.dtype for node in nodes for made in getattr(node, "_input_metadata", ())}
    return {dtype for dtype in found if dtype.is_floating_point or dtype.is_complex}


def _plain(tensor: Tensor, any_dtype: bool = False) -> bool:
    """Whether a tensor has numbers to look at; inside torch.func it may stand for many."""
    return bool(
        (any_dtype or tensor.is_floating_point() or tensor.is_complex())
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and tensor.layout == torch.strided
    )


#: Methods that change the tensor that they are called on, beside those whose names end in an underscore.
_CHANGING = {
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
} | {"__setitem__"}


_SET_REQUIRES_GRAD = torch.Tensor.requires_grad.__set__  # type: ignore[attr-defined]


class _Follower(TorchFunctionMode):
    """Sees every tensor that torch's functions take and return, and copies numbers before they are changed in place."""

    def __init__(self, recording: Recording, on_seen: Callable[[int, Tensor], object] | None = None) -> None:
        super().__init__()
        self.recording, self.seen, self.on_seen = recording, recording.seen, on_seen
        self.by_storage: dict[int, list[Seen]] = {}

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "__get__":  # an attribute
            return function(*args, **kwargs)
        if function == _SET_REQUIRES_GRAD and args[0].requires_grad == args[1]:
            return None  # what enters has a graph already, of which it is no leaf
        self.recording.hooks_tensors |= name == "register_hook"
        for tensor in tensors_in((args, kwargs)):
            self.see(tensor)
        changes = (name.endswith("_") and not name.endswith("__")) or name in _CHANGING
        if changes or kwargs.get("inplace") or kwargs.get("out") is not None:
            out = kwargs.get("out")
            for tensor in tensors_in((args[:1] or kwargs) if out is None else out):
                self._keep(tensor)
        result = function(*args, **kwargs)
        for tensor in tensors_in(result):
            self.see(tensor)
        return result

    def see(self, tensor: Tensor) -> None:
        """Keep a tensor of the graph, with the numbers that it has now."""
        if not tensor.requires_grad or not _plain(tensor):
            return
        edge = edge_of(tensor)
        if edge is None or edge in self.seen:
            return
        seen = self.seen[edge] = Seen(tensor.detach(), tensor._version, tuple(tensor.shape))
        self.by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(seen)
        if self.on_seen is not None:
            with torch._C.DisableTorchFunction():
                self.on_seen(len(self.seen) - 1, tensor)

    def _keep(self, tensor: Tensor) -> None:
        """Copy what shares the storage of a tensor that is about to be changed."""
        if not _plain(tensor):
            return
        for seen in self.by_storage.pop(tensor.untyped_storage().data_ptr(), []):
            if seen.intact and not seen.copied:
                seen.values, seen.copied = seen.values.clone(), True


@contextmanager
def recorded(
    net: nn.Module,
    inputs: Inputs,
    source: str | int | None = None,
    on_seen: Callable[[int, Tensor], object] | None = None,
) -> Iterator[Recording]:
    """Record the forward pass that is run inside.

    Args:
        net: whose modules are hooked, for as long as the context lasts.
        inputs: what it is given.
        source: the call whose result has a graph, be the module frozen or not, as the outputs of embeddings have.
        on_seen: called with every tensor of the graph as it is first seen, and its number in the order of `seen`.
    """
    recording = Recording()
    follower = _Follower(recording, on_seen)
    for _, tensor in inputs.tensors():
        follower.see(tensor)
    running: list[tuple[nn.Module, list[Edge], int]] = []
    counts: dict[str, int] = {}

    owner = threading.get_ident()  # others may run the network meanwhile

    def before(module: nn.Module, args: object, options: object) -> None:
        if threading.get_ident() != owner:
            return
        with torch._C.DisableTorchFunction():
            place = next(
                (t.untyped_storage().data_ptr() for t in tensors_in((args, options)) if _plain(t, any_dtype=True)), 0
            )
            # The nodes now: an in-place operation gives a tensor another one later.
            running.append((module, list(_edges((args, options), follower)), place))

    def after(name: str) -> Callable[[nn.Module, object, object], object]:
        def keep(module: nn.Module, _: object, output: Any) -> object:
            if threading.get_ident() != owner:
                return None
            with torch._C.DisableTorchFunction():
                counts[name] = counts.get(name, 0) + 1
                full = name if counts[name] == 1 else f"{name}#{counts[name]}"
                changed, (began, took, place) = None, running.pop()
                while began is not module:  # a call that raised what the network caught
                    began, took, place = running.pop()
                embeds = isinstance(module, nn.Embedding | nn.EmbeddingBag)
                if (embeds or full == source) and not any(t.requires_grad for t in tensors_in(output)):  # frozen
                    output = changed = map_tensors(output, _with_graph)
                if embeds:
                    edge = edge_of(output)
                    assert edge is not None
                    recording.embeddings.append((edge, place))
                call = Call(full, module, took, list(_edges(output, follower)))
                recording.calls.append(call)
                return changed

        return keep

    with ExitStack() as stack:
        for name, module in net.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                for handle in (
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(after(name)),
                ):
                    stack.callback(handle.remove)
        with follower:
            yield recording
        with torch._C.DisableTorchFunction():
            for tensor in tensors_in(recording.output):
                follower.see(tensor)


def _with_graph(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_().clone() if tensor.is_floating_point() or tensor.is_complex() else tensor


def _edges(tree: object, follower: _Follower) -> Iterator[Edge]:
    for tensor in tensors_in(tree):
        follower.see(tensor)
        if tensor.requires_grad and (edge := edge_of(tensor)) is not None:
            yield edge
