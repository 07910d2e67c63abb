"""From what numbers that are not finite descend: back through the log of operations, number by number."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stability.reading.kinds import MINUS, NAN, PLUS, Slot
from stability.reading.operation_log import Operation, OperationLog

#: Operations that give one of the numbers that they take, or one that is given with them.
_CHOOSE = {"where", "masked_fill", "masked_fill_"}
#: Operations that take one number for each that they give, beside those that torch tags so.
_POSITIONAL = {"copy_", "_to_copy", "clone", "contiguous", "fill_"} | _CHOOSE
#: Softmaxes, of a dimension.
_SOFTMAX = {"_softmax", "_log_softmax", "_safe_softmax"}
#: Parts of the names of kernels that have a softmax inside.
_ATTENTIONS = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")
#: Products of two matrices.
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}


@dataclass(frozen=True)
class Outside:
    """Numbers that are not finite and came in with a tensor that no operation of the run wrote.

    Attributes:
        slot: of the tensor.
        has_nan: whether there is a NaN among those that matter.
        taker: the number of the first operation that took it, None where it is a result itself.
    """

    slot: Slot
    has_nan: bool
    taker: int | None


@dataclass
class Descent:
    """What was found on the way back.

    Attributes:
        made: for each operation that gave such numbers from finite ones, which: by output, a mask.
        turned: the operations that gave NaN from infinite numbers.
        empty: those of them that are a softmax over nothing but -inf.
        outside: what came in.
    """

    made: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    turned: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)


def descend(log: OperationLog, results: Sequence[Tensor]) -> Descent:
    """Return from what the numbers of results that are not finite descend."""
    walk = _Walk(log)
    for tensor in results:
        slot = Slot.of(tensor)
        walk.want(slot, slot.bad, len(log.operations))
    return walk.run()


class _Walk:
    """The way back: which numbers of which operations are asked about."""

    def __init__(self, log: OperationLog) -> None:
        self.log, self.found = log, Descent()
        self.wanted: dict[int, dict[int, Tensor]] = {}
        self.queue: list[int] = []

    def want(self, slot: Slot, mask: Tensor, before: int) -> None:
        """Ask where some numbers of a tensor come from, as it was before an operation."""
        for number, index in reversed(self.log.writers.get(slot.storage, ())):
            if number >= before:
                continue
            if not mask.any():
                return
            gave = self.log.operations[number].gives[index]
            if gave.itemsize != slot.itemsize:  # the same memory read in another way
                self._ask(number, index, gave.bad)
                return
            if (gave.size, gave.stride, gave.offset) == (slot.size, slot.stride, slot.offset):
                here = mask & gave.bad
                mask = mask & ~here
            else:
                left = torch.zeros(slot.length, dtype=torch.bool, device=mask.device)
                left[slot.places()[mask]] = True
                here = left.as_strided(gave.size, gave.stride, gave.offset) & gave.bad
                left[gave.places()[here]] = False
                mask = left.as_strided(slot.size, slot.stride, slot.offset) & mask
            if here.any():
                self._ask(number, index, here)
        if mask.any():
            taker = before if before < len(self.log.operations) else None
            self.found.outside.append(Outside(slot, _has_nan(slot, mask), taker))

    def _ask(self, number: int, index: int, mask: Tensor) -> None:
        if number not in self.wanted:
            self.wanted[number] = {}
            heapq.heappush(self.queue, -number)
        known = self.wanted[number].get(index)
        self.wanted[number][index] = mask if known is None else known | mask

    def run(self) -> Descent:
        """Go back until nothing is asked; each operation comes after all that took what it gave."""
        while self.queue:
            number = -heapq.heappop(self.queue)
            operation, masks = self.log.operations[number], self.wanted[number]
            relevant = _relevant(operation, masks)
            for slot, mask in relevant:
                self.want(slot, mask, number)
            made = _made(operation, masks, relevant)
            if made:
                self.found.made[number] = made
            if any(mask.any() for _, mask in relevant) and _turns(operation, masks, relevant):
                self.found.turned.append(number)
                minus_only = all(bool(((slot.kinds == MINUS) | ~mask).all()) for slot, mask in relevant)
                if minus_only and (operation.kernel in _SOFTMAX or _attends_to_nothing(operation)):
                    self.found.empty.append(number)
        self.found.turned.reverse()
        self.found.empty.reverse()
        return self.found


def _attends_to_nothing(operation: Operation) -> bool:
    """Whether an operation is attention in one piece, with a row of its mask that is nothing but -inf."""
    if not any(name in operation.kernel for name in _ATTENTIONS):
        return False
    return any(bool((slot.kinds == MINUS).all(-1).any()) for slot in operation.takes if slot.size)


def _is_positional(operation: Operation) -> bool:
    pointwise = torch.Tag.pointwise in operation.function.tags or operation.kernel in _POSITIONAL
    return pointwise and len(operation.gives) == 1


def _relevant(operation: Operation, masks: dict[int, Tensor]) -> list[tuple[Slot, Tensor]]:
    """Return the numbers of its inputs, not finite, on which those of its outputs depend."""
    takes, kernel = operation.takes, operation.kernel
    if _is_positional(operation):
        (mask,) = masks.values()
        fitting = [slot for slot in takes if _fits(slot, mask)]
        if kernel in _CHOOSE:  # what was not taken does not matter
            gave = operation.gives[0].kinds
            return [(slot, _reduced(mask & (_spread(slot.kinds, mask) == gave), slot)) for slot in fitting]
        return [(slot, _reduced(mask & _spread(slot.bad, mask), slot)) for slot in fitting]
    if kernel in _SOFTMAX and len(takes) == 1:
        slot, dim = takes[0], int(operation.settings[1])  # type: ignore[call-overload]
        (mask,) = masks.values()
        rows = mask.any(dim, keepdim=True)
        wrong = (slot.kinds == NAN) | (slot.kinds == PLUS)
        guilty = wrong.any(dim, keepdim=True)
        # -inf beside finite numbers is a weight of 0: it only matters where there is nothing else.
        return [(slot, rows & torch.where(guilty, wrong, slot.bad))]
    if kernel in _PRODUCTS and len(masks) == 1:
        return [_of_product(operation, slot, next(iter(masks.values()))) for slot in takes]
    return [(slot, slot.bad) for slot in takes]


def _of_product(operation: Operation, slot: Slot, mask: Tensor) -> tuple[Slot, Tensor]:
    """Return the numbers of a factor that go into some of a product: whole rows of the first, columns of the second."""
    out = operation.gives[0].size
    rows, columns = mask.any(-1, keepdim=True), mask.any(-2, keepdim=True)
    if len(slot.size) == len(out) and slot.size[-2] == out[-2] and slot.size[-1] != out[-1]:
        return slot, slot.bad & rows
    if len(slot.size) == len(out) and slot.size[-1] == out[-1] and slot.size[-2] != out[-2]:
        return slot, slot.bad & columns
    return slot, slot.bad


def _made(operation: Operation, masks: dict[int, Tensor], relevant: Sequence[tuple[Slot, Tensor]]) -> dict[int, Tensor]:
    """Return which of the asked numbers were made there from finite ones, by output."""
    if not any(mask.any() for _, mask in relevant):
        return masks
    if not _is_positional(operation):
        return {}
    ((index, mask),) = masks.items()
    come = torch.zeros_like(mask)
    for _, part in relevant:
        come |= _spread(part, mask)
    rest = mask & ~come
    return {index: rest} if rest.any() else {}


def _turns(operation: Operation, masks: dict[int, Tensor], relevant: Sequence[tuple[Slot, Tensor]]) -> bool:
    """Whether NaN is made of infinite numbers."""
    gave = any(_has_nan(operation.gives[index], mask) for index, mask in masks.items())
    if not gave:
        return False
    if _is_positional(operation):
        ((index, mask),) = masks.items()
        nan, had = (operation.gives[index].kinds == NAN) & mask, torch.zeros_like(mask)
        from_infinite = torch.zeros_like(mask)
        for slot, part in relevant:
            had |= _spread((slot.kinds == NAN) & part, mask)
            from_infinite |= _spread(part, mask)
        return bool((nan & ~had & from_infinite).any())
    return not any(_has_nan(slot, mask) for slot, mask in relevant)


def _has_nan(slot: Slot, mask: Tensor) -> bool:
    return bool(((slot.kinds == NAN) & mask).any())


def _fits(slot: Slot, mask: Tensor) -> bool:
    """Whether a tensor can be broadcast to the shape of a mask."""
    lead = mask.ndim - len(slot.size)
    return lead >= 0 and all(own in (1, full) for own, full in zip(slot.size, mask.shape[lead:], strict=True))


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    return values.to(mask.device).expand(mask.shape)


def _reduced(mask: Tensor, slot: Slot) -> Tensor:
    """Return a mask of the shape of what was broadcast."""
    if tuple(mask.shape) == slot.size:
        return mask.to(slot.kinds.device)
    return (mask.to(torch.int32).sum_to_size(slot.size) > 0).to(slot.kinds.device)
