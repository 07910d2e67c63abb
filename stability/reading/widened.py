"""A network in float64 whose parts that work in a narrower format, whatever the model's, are in float64 too."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from stability.reading.running import title, told_of_calls
from stability.reading.trees import map_tensors, tensors_in

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))


class _Widened(TorchDispatchMode):
    """Lets operations whose result would be in a narrower format than float64 work in float64.

    That is one that is asked for a dtype, one that is given narrow numbers, and one that makes floating numbers of
    whole ones. What draws random numbers draws the same ones; what is changed in place, and a view, keeps its format.
    """

    def __init__(self, only_looks: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.only_looks = only_looks
        self.running: list[str] = []
        self.places: dict[str, None] = {}
        self.meant = WeakTensorKeyDictionary()  # the narrow formats that tensors would have

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        options = dict(kwargs or {})
        if not self.running:  # what keeps the network as it was
            return function(*args, **options)
        given = [t for t in tensors_in((args, options)) if t.is_floating_point() or t.is_complex()]
        formats = [self.meant.get(t, t.dtype) for t in given]  # type: ignore[no-untyped-call]
        narrow = (
            next((dtype for dtype in formats if dtype in _WIDE), None) if all(d in _WIDE for d in formats) else None
        )
        arguments = function._schema.arguments
        if self.only_looks or any(one.alias_info is not None for one in arguments):
            result = function(*args, **options)
            return self._meant(result, narrow if given else None)
        if torch.Tag.nondeterministic_seeded in function.tags:
            return map_tensors(function(*args, **options), _wide)
        place = next((number for number, one in enumerate(arguments) if one.name == "dtype"), None)
        own = options.get("dtype", args[place] if place is not None and place < len(args) else None)
        if own in _WIDE and place is not None:
            if place < len(args):
                args = (*args[:place], _WIDE[own], *args[place + 1 :])
            else:
                options["dtype"] = _WIDE[own]
            return self._meant(function(*args, **options), own)
        if own is None and given:
            wide, more = map_tensors((args, options), _wide)
            return self._meant(function(*wide, **more), narrow)
        result = function(*args, **options)
        if given or not isinstance(result, Tensor) or result.dtype not in _WIDE:
            return result
        own = result.dtype
        if place is not None:  # such as torch.linspace, in the default dtype
            return self._meant(function(*args, **{**options, "dtype": _WIDE[own]}), own)
        # Such as the quotient of whole numbers.
        wide, more = map_tensors((args, options), lambda t: t if t.dtype == torch.bool else t.double())
        return self._meant(function(*wide, **more), own)

    def _meant(self, result: object, dtype: torch.dtype | None) -> object:
        """Keep the format that a result would have, and name the module at work if the numbers are others in it."""
        for tensor in tensors_in(result):
            if dtype is None or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            self.meant[tensor] = dtype
            if self.only_looks or not torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
                self.places[self.running[-1]] = None
        return result


@contextmanager
def widened(net: nn.Module, only_look: bool = False) -> Iterator[dict[str, None]]:
    """Let a network in float64 be so inside as well; give the names of its modules that would not be, in a dict.

    With `only_look` it stays as it is, for networks that do not work otherwise: one that asserts a dtype, or takes
    numbers apart bit by bit.
    """
    mode, thread = _Widened(only_look), threading.get_ident()

    def begins(name: str) -> None:
        if threading.get_ident() == thread:
            mode.running.append(name or title(net))

    def ends(_: str) -> None:
        if threading.get_ident() == thread:
            mode.running.pop()

    with told_of_calls(net, begins, ends), mode:
        yield mode.places
