"""Gradients, activations and parameters of every layer, recorded while a user's own loop trains the model."""

from __future__ import annotations

import math
import os
import threading
import warnings
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_name
from stability.foundation.log_norms import combine
from stability.reading import Layers
from stability.reading.traces import is_read
from stability.reading.trees import tensors_in
from stability.signals.watch_record import Values, WatchedPass, WatchRecord
from stability.signals.watched_hooks import Calls, OfGradient, OfOutput, is_forward, log_norm_by, running_pass
from stability.signals.watched_layers import Watched, WatchedLayers, watched
from stability.signals.watched_nonfinite import Explainer
from stability.signals.watched_steps import StepRows


@door
def watch(
    model: nn.Module,
    layers: str | Sequence[str] | Layers | None = None,
    every: int = 1,
    parameters: bool = False,
    *,
    source: str | int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
    nonfinite: str | None = None,
    keep: str | os.PathLike[str] | None = None,
) -> AbstractContextManager[WatchRecord]:
    """Record the norms of every layer of a model while it trains, until the context is left.

    Every backward pass that reaches the parameters is one row, `torch.autograd.grad` with respect to them included:
    several losses with a pass each, or gradients that are accumulated over passes, are several rows, each with the
    gradients of its own pass, before clipping, and scaled if a GradScaler scaled the loss. With optimizer= every step
    of that optimiser is one row instead, with the gradient that it is given: accumulated, unscaled and clipped. The
    training is the same to the bit, and once the context is left, also by an exception, the model is as it was. Norms
    are over all points, whichever dimension tells them apart.

    Activations are what the last module of a layer returns, before what has no module and belongs to the layer as well
    (for its state see `propagation`). They are those of the forwards in grad mode since the row before: forwards under
    torch.no_grad(), as in validation, and those that a checkpoint repeats do not count. A layer whose calls are several
    in one row has the root mean square over all its outputs; of a tuple or dictionary the first tensor counts. A pass
    with no forward since the one before, as with two losses of one forward, repeats its activations. Gradients that are
    None in a pass count as zero. A checkpoint with use_reentrant=True runs a backward pass for every segment, and each
    is a row.

    Args:
        model: a `Chain`, whose layers are its steps, with the read-out last, seed by seed; or any nn.Module.
        layers, source: how a module is read, see `st.layers`. Without what `st.layers` returns, the layers are read
            from the first forward pass, whose inputs the model is given once more before it, without a trace; until
            then `WatchRecord.layers` is empty. Where they cannot be read a warning says why, and the whole model is one
            layer. A parameter that several layers share counts in the first; one that is frozen when the watch begins
            does not count.
        every: record the passes, or steps, 0, every, 2 every, ... only; those between cost next to nothing.
        parameters: record the norms of the parameters as well, for a few percent of a training iteration.
        optimizer: make its steps the rows. What it does not hold when the watch begins does not count.
        scaler: the GradScaler whose `step` calls that optimiser: a step that it skips, as a gradient is not finite, is
            a row as well, see `WatchRecord.skipped`, and every row has its scale. Without scaler= the gradients are
            unscaled all the same, but a skipped step is a row for fused optimisers only.
        nonfinite: "explain" ends the training with `NotFinite` at the first backward pass after which the .grad of a
            parameter, or the loss that `backward` was called on, is not finite, or the first step of optimizer= after
            which a parameter is not. The pass is then run once more from its inputs and random numbers, also those of
            Python and numpy, to which references are kept, and explained as by `first_nonfinite`; where the output or
            the gradients are others than before, as in a model that counts its calls, no cause is named. A step is
            explained from the optimiser's state. A loss that no backward pass starts from is not seen, nor one under
            `torch.autograd.grad`. Where scaler= only scaled the loss too much the training goes on. None does nothing.
        keep: where torch.save then writes the batch and the parameters.

    Returns:
        A context manager that gives the `WatchRecord`, which can be read at any time.

    Raises:
        ValueError, TypeError: for a model in which nothing trains, names that are not in it, every < 1, an optimiser
            of another model, LBFGS, keep= without nonfinite=, or, in the loop, a step that is given a closure.
        NotFinite: in the loop, with nonfinite="explain".

    >>> import torch
    >>> model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with watch(model) as record:
    ...     for iteration in range(5):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(8, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> record.layers, record.log_gradients.shape
    (('0', '1', '2'), torch.Size([5, 3, 1]))
    """
    every = check_integer("every", every, 1)
    if nonfinite is not None:
        check_name("way to treat what is not finite", nonfinite, ("explain",))
    elif keep is not None:
        raise ValueError('keep was given without nonfinite: expected nonfinite="explain" beside it')
    of = watched(model, layers, source, optimizer, scaler)
    record = WatchRecord((), every, of.members or (0,), parameters, of.members is None, ())
    return _watching(of, record, nonfinite is not None, keep)


@contextmanager
def _watching(
    of: Watched, record: WatchRecord, explains: bool, keep: str | os.PathLike[str] | None
) -> Iterator[WatchRecord]:
    watcher, explainer = _Watcher(of, record), None
    try:
        watcher.attach()
        if explains:
            explainer = Explainer(of.model, of.optimizer, of.scaler, keep)
        yield record
    finally:
        watcher.detach()
        if explainer is not None:
            explainer.detach()


class _Watcher:
    """The hooks on one model, and what they know between two rows.

    `torch.autograd.graph.register_multi_grad_hook` would tell when a pass is complete, but it keeps all gradients
    until then: autograd must copy each where it would hand it over, which costs 15 % of a training iteration and the
    gradients' memory once more. So each gradient's norm is taken when it comes, and the number of the running pass,
    which that function uses as well and no public name gives, tells to which row it belongs.
    """

    def __init__(self, of: Watched, record: WatchRecord) -> None:
        self.of, self.record = of, record
        self.parameters = list(of.parameters.values())
        self.handles: list[RemovableHandle] = []
        self.steps: StepRows | None = None
        self.on_cpu = of.members is None and all(p.device.type == "cpu" for p in self.parameters)
        self.passes = 0
        self.running = -1  # the number that autograd gave to the pass of the row
        self.row: WatchedPass | None = None
        self.records = True  # whether the next row is recorded
        self.forward = 0  # the number of forward passes that began
        self.calls: list[list[tuple[Tensor | float, int]]] = []
        self.called = False
        self.activations: Values = self._empty(0)
        self.lock = threading.Lock()  # autograd has a thread for each device

    def attach(self) -> None:
        if self.of.optimizer is not None:
            self.steps = StepRows(self.of.optimizer, self.of.scaler, self.parameters, self._begin, self._log_norm)
        else:
            for index, (p, kept) in enumerate(zip(self.parameters, self.of.dims_kept, strict=True)):
                self.handles.append(p.register_hook(OfGradient(self, index, kept)))  # type: ignore[no-untyped-call]
        if self.of.layers is not None:
            self._know(self.of.layers)
        self.handles.append(self.of.model.register_forward_pre_hook(Calls(self._runs), with_kwargs=True))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.steps is not None:
            self.steps.detach()

    def _know(self, layers: WatchedLayers) -> None:
        """Set up what needs the layers."""
        self.record.layers, self.record.spans = layers.names, layers.spans
        self.calls = [[] for _ in layers.names]
        self.activations = self._empty(len(layers.names))
        modules = dict(self.of.model.named_modules())
        for name, ends in layers.ends.items():
            self.handles.append(modules[name].register_forward_hook(OfOutput(self, ends)))

    def _empty(self, size: int) -> Values:
        # Eight bytes a number where all are floats, so that long trainings fit.
        return array("d", [-math.inf]) * size if self.on_cpu else [-math.inf] * size

    def _runs(self, _module: nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
        """Read the layers when the model is first called, and count calls from then on anew."""
        if not is_forward():
            return
        self.forward += 1
        if self.steps is not None:
            self.steps.begins()
        tensors = list(tensors_in((args, options)))
        if not self.record.layers and not any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)):
            try:
                layers = self.of.read(args, options)
            except (ValueError, TypeError, RuntimeError) as error:
                warnings.warn(f"the layers cannot be read, the whole model is watched as one: {error}", stacklevel=2)
                layers = self.of.whole
            self._know(layers)

    def begins(self) -> bool:
        """Begin the row of the pass that runs, unless it is no doing of the user's; return whether it is."""
        if is_read():
            return False
        task = running_pass()
        with self.lock:
            if task != self.running:
                self._begin()
                self.running = task
        return True

    def _log_norm(self, index: int, tensor: Tensor) -> Tensor | float:
        return log_norm_by(self.of.dims_kept[index], tensor)

    def _begin(self) -> WatchedPass | None:
        """Begin the row of the next pass or step; return it, None where it is not recorded."""
        number, self.passes = self.passes, self.passes + 1
        records, self.records = self.records, self.passes % self.record.every == 0
        self.row = None
        if not records:
            return None
        if self.called:
            self.activations = self._empty(len(self.calls))
            for layer, calls in enumerate(self.calls):
                self.activations[layer] = _root_mean_square(calls)
                calls.clear()
            self.called = False
        gradients = self._empty(len(self.parameters))
        parameters = None
        if self.record.with_parameters:
            parameters = self._empty(len(self.parameters))
            for index, parameter in enumerate(self.parameters):
                parameters[index] = self._log_norm(index, parameter)
        self.row = WatchedPass(number, gradients, parameters, self.activations)
        self.record.rows.append(self.row)
        return self.row


def _root_mean_square(calls: list[tuple[Tensor | float, int]]) -> Tensor | float:
    """Return the log of the root mean square over outputs of given log norms and numbers of entries; NaN of none."""
    entries = calls[0][1] if len(calls) == 1 else sum(number for _, number in calls)
    if entries == 0:
        return math.nan
    if len(calls) == 1:
        return calls[0][0] - math.log(entries) / 2
    logs = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value, _ in calls])
    result = combine(logs, dim=0) - math.log(entries) / 2
    return result if isinstance(calls[0][0], Tensor) else result.item()
