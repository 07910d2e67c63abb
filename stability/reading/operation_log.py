"""Every operation of a forward and a backward pass whose numbers are not all finite, with where it was called."""

from __future__ import annotations

import math
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from stability.reading.kinds import Slot, all_finite, has_numbers, largest_finite
from stability.reading.not_finite import plain_name
from stability.reading.running import told_of_calls
from stability.reading.trees import map_tensors, tensors_in
from stability.reading.wide_replay import Args, Options, Replay, replayed

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parents[1]) + os.sep
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_ENGINE = str(Path(_TORCH, "autograd", "graph.py"))
_CHECKPOINT = str(Path(_TORCH, "utils", "checkpoint.py"))

#: What overwrites the tensor that it is called on, without a look at its numbers.
_OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "set_")
#: What returns memory with whatever numbers lie in it.
_EMPTY = ("empty", "new_empty", "resize_")


@dataclass(frozen=True)
class Place:
    """Where an operation was called.

    Attributes:
        module: the name of the module whose forward ran, "" for the network's own; None outside of it, as in a loss.
        call: the number of the call of that module, from 1.
        line: the file and line of the user's code, None where all of it is torch's.
        name: of the operation, in plain words.
    """

    module: str | None
    call: int
    line: str | None
    name: str


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


@dataclass
class Operation:
    """An operation that took or gave numbers that are not finite, and gave some.

    Attributes:
        number: of the operation, in the order of the run.
        function: of torch.
        at: where it was called.
        takes, gives: its tensors with numbers that are not finite.
        scalars: whether a number given with it, none of a tensor, is not finite.
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
    scalars: bool
    dtype: torch.dtype
    settings: tuple[object, ...]
    sizes: tuple[float, ...] = ()
    replays: list[Replay] = field(default_factory=list)

    @property
    def kernel(self) -> str:
        """Its name in torch, such as "native_layer_norm"."""
        return str(self.function.overloadpacket.__name__)


@dataclass
class OperationLog:
    """What was logged.

    Attributes:
        operations: those that gave numbers that are not finite.
        writers: by storage, which operations wrote such numbers into it, and as which output, in order.
        bottom: the code of the function below which no frame is the user's.
        held: the storages, which are freed all the same.
    """

    operations: list[Operation] = field(default_factory=list)
    writers: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    bottom: CodeType | None = None
    held: dict[int, StorageWeakRef] = field(default_factory=dict)  # so that no other storage gets its address


class _Logger(TorchDispatchMode):
    """Looks at what every operation gives."""

    def __init__(self, log: OperationLog) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log
        self.running: list[tuple[str, int]] = []
        self.calls: dict[str, int] = {}
        self.places: dict[int, Place] = {}  # of the operations that made a node of the graph, by the node's number
        self.known = torch._C._autograd._get_sequence_nr()
        self.count = 0

    def __torch_dispatch__(
        self, function: OpOverload, types: Sequence[type], args: Args = (), kwargs: Options | None = None
    ) -> object:
        options, name = dict(kwargs or {}), function.overloadpacket.__name__
        at = self._at(name)
        self.count += 1
        if function.is_view or name.startswith(_EMPTY):
            return function(*args, **options)
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
            scalars=any(map(_is_not_finite, (*args, *options.values()))),
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

    def _at(self, name: str) -> At:
        """Return where the operation that is about to run is called."""
        backward = torch._C._current_graph_task_id() != -1
        line, repeated, frame = None, False, sys._getframe(2)
        while frame is not None and frame.f_code is not self.log.bottom:
            file = frame.f_code.co_filename
            if backward and file == _ENGINE and frame.f_code.co_name == "_engine_run_backward":
                break
            repeated |= backward and file == _CHECKPOINT
            if line is None and _is_users(file):
                line = f"{file}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        if backward and not repeated:
            node = torch._C._current_autograd_node()
            number = -1 if node is None else node._sequence_nr()
            place = self.places.get(number, Place(None, 1, None, ""))
            own = plain_name(node.name()) if node is not None else ""
            place = Place(place.module, place.call, line or place.line, own or place.name)
        else:
            module, call = self.running[-1] if self.running else (None, 1)
            place = Place(module, call, line, plain_name(name))
        now = torch._C._autograd._get_sequence_nr()
        for made in range(self.known, now):
            self.places[made] = place
        self.known = now
        return At(place, backward and not repeated, repeated)

    def begins(self, name: str) -> None:
        """A module is called."""
        if torch._C._current_graph_task_id() == -1:
            self.calls[name] = self.calls.get(name, 0) + 1
        self.running.append((name, self.calls.get(name, 1)))

    def ends(self, name: str) -> None:
        """A module returns, or raises."""
        while self.running and self.running.pop()[0] != name:
            pass


@contextmanager
def logged(net: nn.Module, bottom: CodeType) -> Iterator[OperationLog]:
    """Log the operations that run inside; frames below the function of the code `bottom` are not the user's."""
    log = OperationLog(bottom=bottom)
    logger = _Logger(log)
    with told_of_calls(net, logger.begins, logger.ends), logger:
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


def _is_users(file: str) -> bool:
    if file.startswith((_TORCH, _HERE)):
        return False
    return not file.startswith(_PYTHON) or "site-packages" in file
