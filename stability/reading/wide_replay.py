"""One operation once more in float64: how large its numbers are, and why those that are not finite are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload

from stability.reading.kinds import has_numbers
from stability.reading.not_finite import has_pole, plain_name
from stability.reading.trees import map_tensors, tensors_in

#: What an operation is called with.
Args: TypeAlias = tuple[object, ...]
Options: TypeAlias = dict[str, object]
Tree = TypeVar("Tree")
#: Why an operation gives a number that is not finite.
OVERFLOW, INVALID, POLE = 1, 2, 3


@dataclass(frozen=True)
class Replay:
    """What float64 says of the numbers of one output that are not finite.

    Attributes:
        causes: for each of them, in order.
        log10: of the magnitude that they have, for each; inf and NaN where there is none.
    """

    causes: Tensor
    log10: Tensor


def replayed(function: OpOverload, args: Args, options: Options, bad: Sequence[Tensor]) -> list[Replay]:
    """Return what float64 says of the numbers of each output that `bad` points out; of none where it cannot be run."""
    try:
        return _replayed(function, args, options, bad)
    except Exception:  # it is no part of the run that is looked at, whatever a kernel does not take in float64
        return []


def _replayed(function: OpOverload, args: Args, options: Options, bad: Sequence[Tensor]) -> list[Replay]:
    wide_args, wide_options = _widened(args), _widened(options)
    name = plain_name(function.overloadpacket.__name__)
    dtype = wide_options.get("dtype")
    if isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex):
        wide_options["dtype"] = torch.complex128 if dtype.is_complex else torch.float64
    found = []
    for output, where in zip(tensors_in(function(*wide_args, **wide_options)), bad, strict=False):
        if output.shape != where.shape:
            return []
        values = output[where].abs().double() if has_numbers(output) else output[where].double()
        causes = torch.full(values.shape, OVERFLOW, dtype=torch.uint8, device=values.device)
        causes[values.isnan()] = INVALID
        log10, infinite = values.log10(), values.isinf()
        if infinite.any():
            if has_pole(name) and not _is_beyond(name, wide_args):
                causes[infinite] = POLE
            else:
                # What is changed in place is widened again.
                beyond = _log10_beyond(function, name, _widened(args), wide_options, output)
                if beyond is not None:
                    log10 = torch.where(infinite, beyond[where], log10)
        found.append(Replay(causes, log10))
    return found


def _widened(tree: Tree) -> Tree:
    def wide(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.detach().to(torch.complex128, copy=True)
        return tensor.detach().to(torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)

    twin: Tree = map_tensors(tree, wide)
    return twin


def _is_beyond(name: str, args: Args) -> bool:
    """Whether an operation that has a pole is not at it, so that its infinite numbers are too large for float64."""
    at = {"div": 1, "pow": 0, "reciprocal": 0}.get(name)
    if at is None:
        return False
    value = args[at] if len(args) > at else 0.0
    return bool((value != 0).all()) if isinstance(value, Tensor) else value != 0


#: Operations that are linear in each of two tensors, or of one.
_LINEAR = ("mm", "bmm", "addmm", "baddbmm", "convolution", "mv", "dot", "sum")
_EXPONENTIALS = {"exp": 1.0, "expm1": 1.0, "sinh": 1.0, "cosh": 1.0, "exp2": math.log(2)}


def _log10_beyond(function: OpOverload, name: str, args: Args, options: Options, like: Tensor) -> Tensor | None:
    """Return the log10 of magnitudes that float64 cannot hold, None where it is not known."""
    tensors = [t for t in tensors_in(args) if t.is_floating_point()]
    if name in _EXPONENTIALS:
        return tensors[0].abs() * (_EXPONENTIALS[name] / math.log(10))
    if name not in _LINEAR and name not in ("mul", "div", "pow"):
        return None
    logs = [_log10(value) for value in args[:2]]
    if name == "mul":
        return _like(logs[0] + logs[1], like)
    if name == "div":
        return _like(logs[0] - logs[1], like)
    if name == "pow" and isinstance(exponent := args[1], Tensor | int | float):
        return _like(logs[0] * exponent, like)
    if name in _LINEAR:
        # Linear in each: brought to order 1, and back; a bias and what is added count for nothing there.
        first = 1 if name in ("addmm", "baddbmm") else 0
        used = tensors[first : first + (1 if name == "sum" else 2)]
        sizes = [float(t.abs().max()) or 1.0 for t in used]
        scaled = {id(t): t / size for t, size in zip(used, sizes, strict=True)}
        small = map_tensors(args, lambda t: scaled.get(id(t), t * 0 if t.is_floating_point() else t))
        total = sum(map(math.log10, sizes))
        size: Tensor = function(*small, **options).abs().log10()
        return size + total
    return None


def _log10(value: object) -> Tensor | float:
    if isinstance(value, Tensor):
        return value.abs().double().log10()
    return math.log10(abs(value)) if isinstance(value, int | float) and value else -math.inf


def _like(value: object, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=like.device).expand(like.shape)
