"""Where a number that is not finite is made: by what, from what, and why, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stability.reading.callers import Place
from stability.reading.descent import Outside
from stability.reading.kinds import NAN
from stability.reading.not_finite import has_pole, largest, plain_name, pole, undefined
from stability.reading.operation_log import Operation, OperationLog
from stability.reading.wide_replay import INVALID, OVERFLOW, POLE

_CAUSES = {OVERFLOW: "overflow", INVALID: "invalid", POLE: "pole"}
#: Operations that write a number that is given with them.
_FILLS = (
    "full",
    "fill",
    "masked_fill",
    "scalar_tensor",
    "new_full",
    "index_fill",
    "scatter",
    "constant_pad",
    "index_put",
)


@dataclass(frozen=True)
class Origin:
    """Where a number that is not finite is made.

    Attributes:
        number: of the operation, in the order of the run.
        place: where it was called.
        kernel: its name in torch.
        backward: whether it belongs to the backward pass.
        cause: "overflow", "invalid", "pole", "mask" or "given".
        why: in words.
        inputs: the largest finite magnitude of each of its inputs.
        log10_magnitude: of the largest number that did not fit, None where there is none.
        dtype: of what it gave.
        index, count, size: of what it gave the first that is not finite, how many are not, and how many there are.
        written: whether the number was written there on purpose.
    """

    number: int
    place: Place
    kernel: str
    backward: bool
    cause: str
    why: str
    inputs: tuple[float, ...] = ()
    log10_magnitude: float | None = None
    dtype: torch.dtype = torch.float32
    index: tuple[int, ...] = ()
    count: int = 0
    size: int = 0
    written: bool = False

    def turned_by(self, operation: Operation) -> Origin:
        """Return the same, with words for where it is NaN first."""
        at = operation.at
        where = "the backward pass of " if at.backward else ""
        return replace(self, why=f"{self.why}; NaN comes of it in {where}{_of_place(at.place)}")

    def of_written(self, mark: Origin) -> Origin:
        """Return the same, with words for where the infinite numbers were written that NaN is made of."""
        if not mark.written:
            return replace(self, why=f"{self.why}; {mark.why}")
        line = f", {mark.place.line}" if mark.place.line else ""
        return replace(self, why=f"{self.why}; infinite numbers are written by {_of_place(mark.place)}{line}")


def _in_hook(place: Place) -> str:
    """Return words for the hook that a place is in, with a space before them; none outside of hooks."""
    return f" in {place.hook}" if place.hook else ""


def _of_place(place: Place) -> str:
    return f"{place.name}{_in_hook(place)}{in_module(place)}"


def in_module(place: Place) -> str:
    """Return words for the module of a place, with a space before them; none outside of all modules."""
    if place.module is None:
        return ""
    return f" in {place.module}" if place.module else " in the model's own forward"


def origin_at(log: OperationLog, number: int, masks: dict[int, Tensor] | None, cause: str | None = None) -> Origin:
    """Return the origin that an operation of the log is; `masks` says which of its numbers count, None for all."""
    operation = log.operations[number]
    if operation.at.repeated:  # by a checkpoint: what it did the first time is meant
        operation = _first_time(log, operation)
    if masks is None:
        masks = {index: slot.bad for index, slot in enumerate(operation.gives)}
    index = min(masks)
    slot = operation.gives[index]
    mask = masks[index] if masks[index].shape == slot.kinds.shape else slot.bad
    log10 = None
    nan = bool((slot.kinds[mask] == NAN).any())
    if cause is None:
        cause, log10 = _cause(operation, index, mask, nan)
    given = nan and not operation.takes and any(number != number for number in operation.scalars)
    written = bool(operation.scalars) and not given and (not nan or operation.kernel.startswith(_FILLS))
    if given or written:
        cause, log10 = "given" if given else "mask", None
    return Origin(
        operation.number,
        operation.at.place,
        operation.kernel,
        operation.at.backward,
        cause,
        _why(operation, cause, log10, written),
        operation.sizes,
        log10,
        operation.dtype,
        tuple(mask.nonzero()[0].tolist()),
        int(mask.sum()),
        mask.numel(),
        written,
    )


def outside_origin(log: OperationLog, outside: Outside, name: str | None) -> Origin:
    """Return the origin of what came in with a tensor that no operation wrote."""
    bad = outside.slot.bad
    what = "NaN" if outside.has_nan else "infinite numbers"
    brought = log.brought.get(outside.slot.storage) if name is None else None
    named = name or (
        "a tensor that is no parameter, buffer or input, such as a target, a constant, or one made in another thread,"
    )
    if brought is not None:
        at = brought.at
        of = f"{'the backward pass of ' if at.backward else ''}{at.place.name or 'numbers'}"
        named = f"a tensor made{_in_hook(at.place)} of numbers of Python or numpy, by code that torch does not see,"
        if brought.is_empty:
            named = f"memory of {of}{_in_hook(at.place)}, never written, or by code that torch does not see,"
    why = f"{named} holds {what}: {int(bad.sum())} of {bad.numel()}"
    first = tuple(bad.nonzero()[0].tolist())
    nowhere = Origin(-1, Place(None, 1, None, "none"), "", False, "given", why, (), None, torch.float32, first)
    nowhere = replace(nowhere, count=int(bad.sum()), size=bad.numel())
    if outside.taker is None:
        return nowhere if brought is None else replace(nowhere, place=brought.at.place, backward=brought.at.backward)
    taker = log.operations[outside.taker]
    at = taker.at if brought is None else brought.at
    return replace(
        nowhere,
        number=taker.number,
        place=at.place,
        kernel=taker.kernel,
        backward=at.backward,
        inputs=taker.sizes,
        dtype=taker.dtype,
    )


def _first_time(log: OperationLog, operation: Operation) -> Operation:
    place, kernel = operation.at.place, operation.kernel
    for other in log.operations:
        # Where a checkpoint calls a function, the module around it is not called again.
        there = other.at.place
        same = (other.kernel, there.line) == (kernel, place.line) and place.module in (None, there.module)
        if same and not other.at.repeated and not other.at.backward:
            return other
    return operation


def _cause(operation: Operation, index: int, mask: Tensor, nan: bool) -> tuple[str, float | None]:
    """Return why numbers are not finite, and the log10 of the largest that did not fit."""
    name = operation.at.place.name
    if index >= len(operation.replays):
        return ("invalid" if nan else "pole" if has_pole(name) else "overflow"), None
    replay = operation.replays[index]
    chosen = mask[operation.gives[index].bad]
    causes, log10 = replay.causes[chosen], replay.log10[chosen]
    code = int(causes.mode().values)
    if code != OVERFLOW:
        return _CAUSES[code], None
    sizes = log10[(causes == OVERFLOW) & ~log10.isnan()]
    size = float(sizes.max()) if sizes.numel() else math.inf
    # What would fit has left the range on the way, as the squares in a norm.
    return "overflow", size if math.log10(largest(operation.dtype)) < size < math.inf else None


def _why(operation: Operation, cause: str, log10: float | None, written: bool) -> str:
    name, kernel = operation.at.place.name, operation.kernel
    hook = _in_hook(operation.at.place)
    of = f"the backward pass of {name}" if operation.at.backward and not hook else f"{name}{hook}"
    if cause == "given":
        return f"{of} takes nan, a number that the code gives it"
    if written:
        return f"{of} writes a number that is not finite, and it is not masked away"
    if cause == "overflow":
        size = "goes on the way beyond the range" if log10 is None else f"gives 10^{log10:.2f}"
        return f"{of} {size}; the largest {str(operation.dtype).removeprefix('torch.')} is {_shown(operation)}"
    if cause == "mask":
        return f"{of} takes a row of nothing but -inf: 0 / 0"
    step = plain_name(kernel) if operation.at.backward else name
    infinite = bool(operation.takes or operation.scalars)
    words = undefined(step, infinite) if cause == "invalid" else pole(step)
    return f"{of}: {words}"


def _shown(operation: Operation) -> str:
    most = largest(operation.dtype)
    return f"{most:.0f}" if most < 1e6 else f"{most:.3g}"
