"""The modules at work in a network that is being followed along a line or over a plane."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from torch.nn.modules import module as everywhere

#: From the outermost to the innermost; None where no network is followed.
_at_work: ContextVar[tuple[nn.Module, ...] | None] = ContextVar("modules at work", default=None)
_where: ContextVar[str] = ContextVar("what it is followed along", default="along a line")


@contextmanager
def following(where: str = "along a line") -> Iterator[None]:
    """Know, in this thread and until the end of the block, which module is at work, and along what."""
    with _hooks:
        token, place = _at_work.set(()), _where.set(where)
        try:
            yield
        finally:
            _at_work.reset(token)
            _where.reset(place)


def followed_where() -> str:
    """Say along what a network is followed."""
    return _where.get()


def modules_at_work() -> tuple[nn.Module, ...]:
    """Return them from the outermost to the innermost; none where no network is followed."""
    return _at_work.get() or ()


def module_in_use() -> str:
    """Say what the innermost module at work is, by its name in the outermost one; nothing where none is followed."""
    modules = _at_work.get()
    if not modules:
        return ""
    name = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    kind = type(modules[-1]).__name__
    return f" in module {name!r} ({kind})" if name else f" in the module ({kind})"


def hooked_by_others() -> bool:
    """Whether there are hooks on the calls of all modules besides those of `following`."""
    hooks = (*everywhere._global_forward_pre_hooks.values(), *everywhere._global_forward_hooks.values())
    return any(hook not in (_enter, _leave) for hook in hooks)


def _enter(module: nn.Module, _: object) -> None:
    outer = _at_work.get()
    if outer is not None:
        _at_work.set((*outer, module))


def _leave(module: nn.Module, *_: object) -> None:
    modules = _at_work.get()
    if modules and modules[-1] is module:
        _at_work.set(modules[:-1])


class _Hooks:
    """Torch's hooks on all modules, which are there as long as any thread follows a network; none runs compiled then.

    One pair does for all: a thread that registered its own would change what another one is going through.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._undone = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._runs == 0:
                # A network may catch what a module of it raises, and go on.
                leave = everywhere.register_module_forward_hook(_leave, always_call=True)
                for handle in (everywhere.register_module_forward_pre_hook(_enter), leave):
                    self._undone.callback(handle.remove)
                if "torch._dynamo" in sys.modules:  # else nothing is compiled
                    self._undone.enter_context(torch.compiler.set_stance("force_eager"))
            self._runs += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                self._undone.close()


_hooks = _Hooks()
