"""The first number of a forward and a backward pass that is not finite, and from which a result's descends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from stability.reading.cuts import below
from stability.reading.descent import Descent, Outside, descend
from stability.reading.inputs import Inputs
from stability.reading.kinds import PLUS, all_finite, held_values
from stability.reading.nonfinite_origin import Origin, origin_at, outside_origin
from stability.reading.operation_log import OperationLog, logged
from stability.reading.running import eagerly, run, title
from stability.reading.traces import undisturbed
from stability.reading.trees import tensors_in

#: Maps what a network returns to a scalar; gradients that are given instead, for each tensor of it in a graph.
Loss = Callable[[object], Tensor]


#: What a run that is not the same once more is.
NOT_SHOWN = "the model depends on state outside of its tensors, such as a counter or a generator of its own"


class NotShown(ValueError):
    """A run is another one when it is repeated, so that nothing can be said of it."""


@dataclass(frozen=True)
class Question:
    """What is run.

    Attributes:
        net, inputs: the network and what it takes.
        loss: of the output; None for a forward pass alone.
        cotangents: instead of a loss, the gradients of the tensors of the output, None for those that have none.
        agrees: whether the output, and then the gradients, by words, are those that were observed; None for no matter.
    """

    net: nn.Module
    inputs: Inputs
    loss: Loss | None = None
    cotangents: Sequence[Tensor | None] | None = None
    agrees: Callable[[Mapping[str, Tensor]], bool] | None = None


def search(question: Question) -> tuple[Origin, str] | None:
    """Return where the first number that is not finite is made, and words for what it reaches; None without one.

    The network is run once as it is, and only where a result is not finite once more, operation by operation.

    Raises:
        ValueError: where the network does not take x, or a loss is no scalar in a graph of it.
        NotShown: where the network is another one in each run.
    """
    with _grad_mode(question), eagerly(question.net):
        with undisturbed(question.net, question.loss), _fresh_casts():
            number, known = _first_wrong(question)
        if not known:
            return None
        with undisturbed(question.net, question.loss), _fresh_casts():
            given = _copied(question.inputs)
            with logged(question.net, _run.__code__) as log:
                for place, stage in enumerate(_run(question, given)):
                    wrong = _wrong(stage)
                    if place <= number and wrong.keys() != (known if place == number else set()):
                        raise NotShown(
                            f"{title(question.net)} gives numbers that are not finite when it runs, and others when it "
                            f"runs once more and each operation is looked at: {NOT_SHOWN}"
                        )
                    if wrong:
                        with _disable_current_modes():  # this is no part of the run
                            names, tensors = _names(question, given), list(wrong.values())
                            origin = _explain(log, descend(log, tensors), names, next(iter(wrong)))
                        if origin is not None:
                            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                            return origin, next(iter(wrong)) + more
    return None


@contextmanager
def _grad_mode(question: Question) -> Iterator[None]:
    """Run as the caller does where only the forward pass is asked about: fused kernels run without a graph alone."""
    if question.loss is None and question.cotangents is None:
        yield
        return
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _first_wrong(question: Question) -> tuple[int, Set[str]]:
    """Return the first stage of a run in which something is not finite, and what; raise where it is another run."""
    for number, stage in enumerate(_run(question, _copied(question.inputs))):
        if question.agrees is not None and not question.agrees(stage):
            raise NotShown(f"the replay does not show it: {NOT_SHOWN}")
        if wrong := _wrong(stage):
            return number, wrong.keys()
    return 0, set()


def _wrong(stage: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with _disable_current_modes():
        return {name: tensor for name, tensor in stage.items() if not all_finite(tensor)}


@contextmanager
def _fresh_casts() -> Iterator[None]:
    """Neither use casts of parameters that autocast made before, nor leave some."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


def _copied(inputs: Inputs) -> Inputs:
    return inputs.mapped(lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))


def _run(question: Question, given: Inputs) -> Iterator[dict[str, Tensor]]:
    """Yield the output, the loss and the gradients of a run, by words: below this frame none is the user's."""
    net, loss = question.net, question.loss
    named: dict[str, Tensor] = {f"the parameter {n}": p for n, p in net.named_parameters() if p.requires_grad}
    named |= {name: t for name, t in given.tensors() if t.requires_grad}
    output = run(net, given)
    outputs = list(tensors_in(output))
    yield {"the output" if number == 0 else f"output {number}": tensor for number, tensor in enumerate(outputs)}
    if loss is not None:
        value = loss(output)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ValueError(f"loss returns a {type(value).__name__}: expected a real scalar made from the output")
        value = value.sum() if value.numel() != 1 else value
        yield {"the loss": value}
        roots, cotangents = [value], None
    else:
        graph = [t for t in outputs if t.requires_grad]
        pairs = [(t, c) for t, c in zip(graph, question.cotangents or (), strict=False) if c is not None]
        roots, cotangents = [t for t, _ in pairs], [c for _, c in pairs]
    if named and any(t.requires_grad for t in roots):
        gradients = _gradients(roots, list(named.values()), cotangents)
        pairs_found = zip(named, gradients, strict=True)
        yield {f"the gradient of {name}": held_values(g) for name, g in pairs_found if g is not None}


def _gradients(
    roots: list[Tensor], leaves: list[Tensor], cotangents: Sequence[Tensor | None] | None
) -> Sequence[Tensor | None]:
    """Return the gradients of leaves, None where there is none; what is called below is the user's frame still."""
    nodes = below([root.grad_fn for root in roots if root.grad_fn is not None])
    if not any(node.name() == "CheckpointFunctionBackward" for node in nodes):
        return torch.autograd.grad(roots, leaves, cotangents, allow_unused=True)
    # A checkpoint with use_reentrant=True only adds to .grad, which is set again afterwards.
    if any(leaf._post_accumulate_grad_hooks for leaf in leaves):
        raise ValueError(
            "a checkpoint with use_reentrant=True is beside hooks that act when a gradient is complete, such as steps "
            "of an optimiser: call torch.utils.checkpoint.checkpoint with use_reentrant=False"
        )
    for leaf in leaves:
        leaf.grad = None
    torch.autograd.backward(roots, cotangents)
    return [leaf.grad for leaf in leaves]


def _names(question: Question, given: Inputs) -> dict[int, str]:
    """Return words for tensors that were there before, by their storage."""
    named: dict[int, str] = {}
    every = (
        *((f"the parameter {name}", tensor) for name, tensor in question.net.named_parameters()),
        *((f"the buffer {name}", tensor) for name, tensor in question.net.named_buffers()),
        *given.tensors(),
        *_attributes(question.net),
        *(("the gradient of the output", t) for t in question.cotangents or () if t is not None),
    )
    for name, tensor in every:
        if tensor.layout == torch.strided:
            named.setdefault(tensor.untyped_storage()._cdata, name)
    return named


def _attributes(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in net.named_modules():
        for own, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"the attribute {name}.{own}".replace(" .", " "), value


def _explain(log: OperationLog, found: Descent, names: dict[int, str], reached: str) -> Origin | None:
    """Return the first fault; where there is none but infinities that were written on purpose, what they do."""
    faults: list[Origin] = []
    marks: list[Origin] = []
    for number, masks in found.made.items():
        origin = origin_at(log, number, masks)
        (marks if origin.written else faults).append(origin)
    for outside in found.outside:
        name = names.get(outside.slot.storage)
        origin = outside_origin(log, outside, name)
        (faults if _is_fault(outside, name) else marks).append(origin)
    first = min(faults, key=lambda origin: origin.number, default=None)
    if found.empty and (first is None or first.cause == "pole"):
        return origin_at(log, min(found.empty), None, "mask")
    if first is None and found.turned:
        made = origin_at(log, min(found.turned), None, "invalid")
        return made.of_written(min(marks, key=lambda origin: origin.number)) if marks else made
    if first is None and not reached.startswith(("the output", "output")):
        first = min(marks, key=lambda origin: origin.number, default=None)
    if first is not None and found.turned:
        turned = log.operations[min(found.turned)]
        if turned.number != first.number:
            first = first.turned_by(turned)
    return first


def _is_fault(outside: Outside, name: str | None) -> bool:
    """Whether numbers from outside are wrong, and no mask."""
    if outside.has_nan:
        return True
    if name is None or name.startswith(("the buffer", "the attribute")):
        return False
    if name.startswith(("the parameter", "the gradient")) or name == "x":
        return True
    return bool((outside.slot.kinds == PLUS).any())
