"""A network in float64 whose parts that convert to a narrower format, whatever the model's, stay in float64 too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stability.reading.running import title
from stability.reading.trees import tensors_in

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


class _Hook:
    """Keeps which modules are running."""

    only_looks = True

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change

    def __call__(self, *_: object) -> None:
        self.change()


class _Widened(TorchDispatchMode):
    """Lets every operation that would return a narrower format than it is given return float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[str] = []
        self.places: dict[str, None] = {}

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        wide = _WIDE.get(options.get("dtype"))  # type: ignore[arg-type]
        makes = not any(t.is_floating_point() or t.is_complex() for t in tensors_in((args, options)))
        if wide is None and makes:  # such as torch.linspace, in the default dtype
            result = function(*args, **options)
            found = next(iter(tensors_in(result)), None)
            wide = None if found is None else _WIDE.get(found.dtype)
            if wide is None or not any(argument.name == "dtype" for argument in function._schema.arguments):
                return result
        if wide is not None:
            options["dtype"] = wide
            self.places[self.running[-1]] = None
        return function(*args, **options)


@contextmanager
def widened(net: nn.Module) -> Iterator[dict[str, None]]:
    """Let a network in float64 be so inside as well; give the names of its modules that would not be, in a dict."""
    mode, handles = _Widened(), []
    mode.running.append(title(net))
    for name, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        begins, ends = _Hook(partial(mode.running.append, name or title(net))), _Hook(mode.running.pop)
        handles += [module.register_forward_pre_hook(begins), module.register_forward_hook(ends, always_call=True)]
    try:
        with mode:
            yield mode.places
    finally:
        for handle in handles:
            handle.remove()
