"""Every operation of a forward and a backward pass whose numbers are not all finite, with where it was called."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from stability.reading.callers import At, Callers
from stability.reading.kinds import Slot, all_finite, has_numbers, largest_finite
from stability.reading.trees import map_tensors, tensors_in
from stability.reading.wide_replay import Args, Options, Replay, replayed

#: What overwrites the tensor that it is called on, without a look at its numbers.
_OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "set_")
#: What returns memory with whatever numbers lie in it.
_EMPTY = ("empty", "new_empty", "resize_")
#: What is called on tensors that are made of numbers of Python or numpy.
_LIFT = "lift_fresh"


@dataclass
class Operation:
    """An operation that took or gave numbers that are not finite, and gave some.

    Attributes:
        number: of the operation, in the order of the run.
        function: of torch.
        at: where it was called.
        takes, gives: its tensors with numbers that are not finite.
        scalars: the numbers given with it, none of a tensor, that are not finite.
        dtype: of its first output that is not finite.
        settings: the positional arguments, None for what is no number.
        sizes: the largest finite magnitude of every input; empty where it took NaN of another operation.
        replays: what float64 says of each output, as far as it can be run.
    """

    number: int
    function: OpOverload
    at: At
    takes: list[Slot]
    gives: list[Slot]
    scalars: frozenset[object]
    dtype: torch.dtype
    settings: tuple[object, ...]
    sizes: tuple[float, ...] = ()
    replays: list[Replay] = field(default_factory=list)

    @property
    def kernel(self) -> str:
        """Its name in torch, such as "native_layer_norm"."""
        return str(self.function.overloadpacket.__name__)


@dataclass(frozen=True)
class Brought:
    """Memory with numbers that torch did not calculate.

    Attributes:
        at: where it was made.
        is_empty: whether nothing was said of its numbers, as with torch.empty; else they are of Python or numpy.
    """

    at: At
    is_empty: bool


@dataclass
class OperationLog:
    """What was logged.

    Attributes:
        operations: those that gave numbers that are not finite.
        writers: by storage, which operations wrote such numbers into it, and as which output, in order.
        brought: by storage, memory that was made in the run with numbers that torch did not calculate.
        held: the storages, which are freed all the same.
    """

    operations: list[Operation] = field(default_factory=list)
    writers: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    brought: dict[int, Brought] = field(default_factory=dict)
    held: dict[int, StorageWeakRef] = field(default_factory=dict)  # so that no other storage gets its address


class _Logger(TorchDispatchMode):
    """Looks at what every operation gives."""

    def __init__(self, log: OperationLog, callers: Callers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log, self.callers = log, callers
        self.count = 0

    def __torch_dispatch__(
        self, function: OpOverload, types: Sequence[type], args: Args = (), kwargs: Options | None = None
    ) -> object:
        options, name = dict(kwargs or {}), function.overloadpacket.__name__
        at = self.callers.at(name, sys._getframe(1))
        self.count += 1
        if function.is_view or name.startswith((*_EMPTY, _LIFT)):
            result = function(*args, **options)
            if name.startswith((*_EMPTY, _LIFT)):
                self._bring(tensors_in(result), at, name)
            return result
        written = list(tensors_in(_written(function, args, options)))
        running = list(tensors_in(_kept_running(function, args, options)))
        written += running if "backward" not in name else []
        blind = name in _OVERWRITES or options.get("out") is not None
        # What is changed in place is looked at before.
        early = {id(t): (_slot(t), t.detach().clone()) for t in written if has_numbers(t) and not blind}
        result = function(*args, **options)
        wrong = [tensor for tensor in _new(args, options, result, written) if not all_finite(tensor)]
        if not wrong:
            return result
        if blind:
            args = args[1:] if name in _OVERWRITES else args
            options = {key: value for key, value in options.items() if key != "out"}
        taken = [t for t in tensors_in((args, options)) if not any(t is other for other in running)]
        takes = [early[id(t)][0] if id(t) in early else _slot(t) for t in taken]
        operation = Operation(
            number=self.count,
            function=function,
            at=at,
            takes=[slot for slot in takes if slot is not None],
            gives=[Slot.of(tensor) for tensor in wrong],
            scalars=frozenset(filter(_is_not_finite, (*args, *options.values()))),
            dtype=wrong[0].dtype,
            settings=tuple(value if isinstance(value, bool | int | float) else None for value in args),
        )
        # What takes NaN that another operation gave has made nothing itself.
        if not any(slot.storage in self.log.writers and slot.has_nan for slot in operation.takes):
            args, options = map_tensors((args, options), lambda t: early[id(t)][1] if id(t) in early else t)
            operation.sizes = tuple(largest_finite(tensor) for tensor in tensors_in((args, options)))
            if torch.Tag.nondeterministic_seeded not in function.tags:
                operation.replays = _replays(operation, args, options, list(tensors_in(result)), wrong)
        self._keep(operation, wrong)
        return result

    def _keep(self, operation: Operation, outputs: list[Tensor]) -> None:
        number = len(self.log.operations)
        self.log.operations.append(operation)
        for index, (slot, tensor) in enumerate(zip(operation.gives, outputs, strict=True)):
            self.log.writers.setdefault(slot.storage, []).append((number, index))
            held = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            self.log.held.setdefault(slot.storage, held)

    def _bring(self, tensors: Iterable[Tensor], at: At, kernel: str) -> None:
        """Keep where memory comes from whose numbers torch did not calculate."""
        for tensor in tensors:
            if has_numbers(tensor):
                storage = tensor.untyped_storage()
                self.log.brought[storage._cdata] = Brought(at, kernel.startswith(_EMPTY))
                self.log.held.setdefault(storage._cdata, StorageWeakRef(storage))  # type: ignore[no-untyped-call]


@contextmanager
def logged(net: nn.Module, bottom: CodeType) -> Iterator[OperationLog]:
    """Log the operations that run inside; frames below the function of the code `bottom` are not the user's."""
    log, callers = OperationLog(), Callers(net, bottom)
    with callers.following(), _Logger(log, callers):
        yield log


def _replays(
    operation: Operation, args: Args, options: Options, given: list[Tensor], wrong: list[Tensor]
) -> list[Replay]:
    """Return what float64 says of the outputs that are not finite."""
    bad = {id(tensor): slot.bad for tensor, slot in zip(wrong, operation.gives, strict=True)}
    places = [bad.get(id(t), torch.zeros((), dtype=torch.bool, device=t.device).expand(t.shape)) for t in given]
    found = replayed(operation.function, args, options, places)
    return [replay for replay, tensor in zip(found, given, strict=False) if id(tensor) in bad]


def _slot(tensor: Tensor) -> Slot | None:
    return None if all_finite(tensor) else Slot.of(tensor)


def _written(function: OpOverload, args: Args, options: Options) -> list[object]:
    """Return the arguments that an operation says that it changes."""
    found = []
    for number, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[number] if number < len(args) else options.get(argument.name))
    return found


def _kept_running(function: OpOverload, args: Args, options: Options) -> list[object]:
    """Return the statistics that batch normalisation in training keeps, changes without saying so, and does not use."""
    name = function.overloadpacket.__name__
    if "batch_norm" not in name:
        return []
    names = [argument.name for argument in function._schema.arguments]
    values = {**dict(zip(names, args, strict=False)), **options}
    training = next((values[key] for key in ("training", "train", "update") if key in values), "backward" in name)
    return [values.get("running_mean"), values.get("running_var")] if training else []


def _new(args: Args, options: Options, result: object, written: list[Tensor]) -> list[Tensor]:
    """Return the tensors that an operation wrote, without those that are but views of what it took."""
    into = {t.untyped_storage()._cdata for t in written if has_numbers(t)}
    lying = {t.untyped_storage()._cdata for t in tensors_in((args, options)) if has_numbers(t)} - into
    found: list[Tensor] = []
    for tensor in (*tensors_in(result), *written):
        new = has_numbers(tensor) and not any(tensor is other for other in found)
        if new and tensor.untyped_storage()._cdata not in lying:
            found.append(tensor)
    return found


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
