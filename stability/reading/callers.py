"""Who calls an operation of torch: which module, at which line of the user's code, in which hook."""

from __future__ import annotations

import functools
import linecache
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from stability.reading.not_finite import plain_name

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parents[1]) + os.sep
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_ENGINE = str(Path(_TORCH, "autograd", "graph.py"))
_CHECKPOINT = str(Path(_TORCH, "utils", "checkpoint.py"))
_MODULE = str(Path(_TORCH, "nn", "modules", "module.py"))
_HOOKS = str(Path(_TORCH, "utils", "hooks.py"))


@dataclass(frozen=True)
class Place:
    """Where an operation was called.

    Attributes:
        module: the name of the module whose forward ran, "" for the network's own; None outside of it, as in a loss.
        call: the number of the call of that module, from 1.
        line: the file and line of the user's code, None where all of it is torch's.
        name: of the operation, in plain words.
        hook: words for the hook that called it, "" where none did.
    """

    module: str | None
    call: int
    line: str | None
    name: str
    hook: str = ""


@dataclass(frozen=True)
class At:
    """Where in the run an operation was called.

    Attributes:
        place: of a forward operation; of one of the backward pass that of the operation whose gradient it is a part of.
        backward: whether it is one of the backward pass, of which the forward that a checkpoint repeats is none.
        repeated: whether a checkpoint repeats it.
    """

    place: Place
    backward: bool
    repeated: bool


class Callers:
    """Follows the calls of the modules of a network.

    Args:
        net: the network.
        bottom: the code of the function below which no frame is the user's.
    """

    def __init__(self, net: nn.Module, bottom: CodeType) -> None:
        self.net, self.bottom = net, bottom
        self.names = {id(module): name for name, module in net.named_modules()}
        self.running: list[tuple[str, int]] = []
        self.calls: dict[str, int] = {}
        self.places: dict[int, Place] = {}  # of the operations that made a node of the graph, by the node's number
        self.known = torch._C._autograd._get_sequence_nr()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the calls, by hooks of all modules: with one of its own a module may take another way."""
        begins = register_module_forward_pre_hook(self._begins)
        try:
            ends = register_module_forward_hook(self._ends, always_call=True)
            try:
                yield
            finally:
                ends.remove()
        finally:
            begins.remove()

    def _begins(self, module: nn.Module, _: object) -> None:
        name = self.names.get(id(module))
        if name is None:
            return
        if torch._C._current_graph_task_id() == -1:
            self.calls[name] = self.calls.get(name, 0) + 1
        self.running.append((name, self.calls.get(name, 1)))

    def _ends(self, module: nn.Module, _arguments: object, _output: object) -> None:
        name = self.names.get(id(module))
        while name is not None and self.running and self.running.pop()[0] != name:
            pass

    def at(self, kernel: str, frame: FrameType | None) -> At:
        """Return where an operation of a kernel that is about to run is called, from the frame that called it."""
        backward = torch._C._current_graph_task_id() != -1
        line, repeated, hook, last = None, False, None, frame
        while frame is not None and frame.f_code is not self.bottom:
            code = frame.f_code
            file = code.co_filename
            if backward and file == _ENGINE and code.co_name == "_engine_run_backward":
                break
            repeated |= backward and file == _CHECKPOINT
            if line is None and _is_users(file):
                line = f"{file}:{frame.f_lineno}"
            if hook is None and code.co_name == "inner" and file == _MODULE:
                hook = self._of_forward(frame)
            if file == _HOOKS and backward:
                hook = self._of_backward(frame)
            frame, last = frame.f_back, frame
        if backward and not repeated:
            place = self._back_place(kernel, line, hook, last)
        else:
            module, call = self.running[-1] if self.running else self._of_node() if repeated else (None, 1)
            place = Place(module, call, line, plain_name(kernel))
            if hook is not None:
                place = Place(hook[0], self.calls.get(hook[0] or "", 1), line, plain_name(kernel), hook[1])
        now = torch._C._autograd._get_sequence_nr()
        for made in range(self.known, now):
            self.places[made] = place
        self.known = now
        return At(place, backward and not repeated, repeated)

    def _back_place(
        self, kernel: str, line: str | None, hook: tuple[str | None, str] | None, last: FrameType | None
    ) -> Place:
        node = torch._C._current_autograd_node()
        place = self._place_of(node)
        if hook is None and last is not None and _is_users(last.f_code.co_filename):
            hook = self._of_gradient(last.f_code) or (place.module, "a hook of a gradient")
        if hook is not None:
            return Place(hook[0], place.call, line, plain_name(kernel), hook[1])
        own = plain_name(node.name()) if node is not None else ""
        return Place(place.module, place.call, line or place.line, own or place.name, place.hook)

    def _place_of(self, node: Node | None) -> Place:
        number = -1 if node is None else node._sequence_nr()
        return self.places.get(number, Place(None, 1, None, ""))

    def _of_node(self) -> tuple[str | None, int]:
        """Return the module that called the checkpoint which repeats a function now, and the number of its call."""
        place = self._place_of(torch._C._current_autograd_node())
        return place.module, place.call

    def _of_forward(self, frame: FrameType) -> tuple[str | None, str] | None:
        """Return the module whose hook is called in a frame of torch's, and words; None where its forward is."""
        text = linecache.getline(_MODULE, frame.f_lineno)
        name = self.names.get(id(frame.f_locals.get("self")))
        if "hook(self" not in text or name is None:
            return None
        return name, f"a forward{' pre' if 'args' in text.partition('=')[0] else ''}-hook"

    def _of_backward(self, frame: FrameType) -> tuple[str | None, str] | None:
        """Return the module whose backward hook is called in a frame of torch's, and words."""
        module = getattr(frame.f_locals.get("self"), "module", None)
        return (self.names[id(module)], "a backward hook") if id(module) in self.names else None

    def _of_gradient(self, code: CodeType) -> tuple[str, str] | None:
        """Return the module of the parameter of whose gradient a hook has some code, and words."""
        for name, parameter in self.net.named_parameters():
            hooks = parameter._backward_hooks or {}
            if any(_code(hook) is code for hook in hooks.values()):
                return name.rpartition(".")[0], f"a hook of the gradient of the parameter {name}"
        return None


def _code(hook: object) -> CodeType | None:
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    if not hasattr(function, "__code__") and callable(hook):
        function = type(hook).__call__
    return getattr(function, "__code__", None)


def _is_users(file: str) -> bool:
    if file.startswith((_TORCH, _HERE)):
        return False
    return not file.startswith(_PYTHON) or "site-packages" in file
