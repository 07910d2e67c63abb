"""The iteration of a watched training in which a gradient or a parameter is first not finite, explained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stability.reading.inputs import Inputs
from stability.reading.kinds import all_finite, largest_finite
from stability.reading.nonfinite_result import FirstNonfinite, first_of
from stability.reading.nonfinite_search import Question
from stability.reading.not_finite import largest
from stability.reading.traces import is_read
from stability.reading.trees import tensors_in


class NotFinite(FloatingPointError):
    """A gradient or a parameter of a watched training is not finite.

    Attributes:
        found: where the first such number is made; None where the iteration, run again, is finite.
        iteration: the number of the backward pass, or of the step of the optimiser, from 0.
    """

    def __init__(self, message: str, found: FirstNonfinite | None, iteration: int) -> None:
        super().__init__(message)
        self.found, self.iteration = found, iteration


@dataclass
class _Forward:
    """What is needed to run a forward pass again: references, and the random numbers that it drew."""

    args: tuple[object, ...]
    options: dict[str, object]
    random: Tensor
    random_cuda: list[Tensor]
    autocast: list[tuple[str, torch.dtype]]
    cotangents: list[Tensor | None] = field(default_factory=list)


class Explainer:
    """Keeps what the last forward pass took, and raises `NotFinite` when a gradient or a parameter is not finite."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        scaler: torch.amp.GradScaler | None,
        keep: str | os.PathLike[str] | None,
    ) -> None:
        self.model, self.optimizer, self.scaler, self.keep = model, optimizer, scaler, keep
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.running: _Forward | None = None
        self.backward: list[_Forward] = []  # those that the backward pass which runs now has reached
        self.passes = self.steps = 0
        self.handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(_Looking(self._begins), with_kwargs=True),
            model.register_forward_hook(_Looking(self._ends)),
        ]
        if optimizer is not None:
            self.handles.append(optimizer.register_step_post_hook(self._stepped))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _begins(self, _: nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
        if not _is_forward():
            return
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        self.running = _Forward(args, options, torch.get_rng_state(), cuda, casts)

    def _ends(self, _module: nn.Module, _args: object, output: object) -> None:
        forward, self.running = self.running, None
        if forward is None or not _is_forward():
            return
        graph = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        forward.cotangents = [None] * len(graph)
        for number, tensor in enumerate(graph):

            def keep(gradient: Tensor, number: int = number) -> None:
                if is_read():
                    return
                if not self.backward:
                    torch.autograd.Variable._execution_engine.queue_callback(self._finished)
                if not any(forward is other for other in self.backward):
                    self.backward.append(forward)
                forward.cotangents[number] = gradient

            tensor.register_hook(keep)  # type: ignore[no-untyped-call]

    def _finished(self) -> None:
        """A backward pass has ended."""
        forwards, self.backward = self.backward, []
        number, self.passes = self.passes, self.passes + 1
        if _are_finite([p.grad for p in self.named.values() if p.grad is not None]):
            return
        gradients = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        wrong = next(name for name, gradient in gradients.items() if not all_finite(gradient))
        # In a thread of its own, as this one still is in the backward pass.
        with ThreadPoolExecutor(1) as pool:
            found = next((f for f in pool.map(self._explained, forwards) if f is not None), None)
        if self.scaler is not None and self.scaler.is_enabled() and self._is_of_the_scale(found):
            return
        self._save(forwards)
        message = f"the gradient of {wrong} is not finite in backward pass {number}"
        if found is None:
            message += "; run again, that pass is finite: it does not depend on the model, its input and random numbers"
        raise NotFinite(f"{message}\n{found}" if found else message, found, number)

    def _is_of_the_scale(self, found: FirstNonfinite | None) -> bool:
        """Whether a GradScaler, which skips such a step and lowers its scale, has only scaled the loss too much."""
        assert self.scaler is not None
        return self.scaler.get_scale() > 1 and (found is None or found.reaches != "the output")

    def _explained(self, forward: _Forward) -> FirstNonfinite | None:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=list(range(len(forward.random_cuda)))))
            torch.set_rng_state(forward.random)
            if forward.random_cuda:
                torch.cuda.set_rng_state_all(forward.random_cuda)
            for kind, dtype in forward.autocast:
                stack.enter_context(torch.autocast(kind, dtype))
            inputs = Inputs(forward.args, forward.options, None).mapped(torch.Tensor.detach)
            return first_of(Question(self.model, inputs, None, forward.cotangents))

    def _save(self, forwards: list[_Forward]) -> None:
        if self.keep is not None:
            batch = [{"args": f.args, "options": f.options, "random": f.random} for f in forwards]
            torch.save({"batch": batch, "parameters": self.model.state_dict()}, self.keep)

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """The optimiser has taken a step."""
        number, self.steps = self.steps, self.steps + 1
        named = self.named
        if _are_finite(list(named.values())):
            return
        name = next(name for name, parameter in named.items() if not all_finite(parameter))
        found = _of_update(optimizer, name, named[name])
        self._save([])
        raise NotFinite(f"the parameter {name} is not finite after step {number}\n{found}", found, number)


class _Looking:
    """A hook that does nothing while a network is read."""

    only_looks = True

    def __init__(self, method: object) -> None:
        self.method = method

    def __call__(self, *arguments: object) -> None:
        if not is_read() and callable(self.method):
            self.method(*arguments)

    def __reduce__(self) -> tuple[type[_Looking], tuple[None]]:
        return _Looking, (None,)  # a copy of the model is not watched


def _is_forward() -> bool:
    return torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1


@torch.no_grad()
def _are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers are finite, by sums, the fastest that what is not finite goes through."""
    totals: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_complex():
            return all(map(all_finite, tensors))
        half = tensor.element_size() < 4
        totals.setdefault(tensor.device, []).append(tensor.sum(dtype=torch.float32) if half else tensor.sum())
    # Each device is asked once. A sum may be too large by itself, so that then all is looked at.
    sums = (torch.stack([total.float() for total in found]) for found in totals.values())
    return all(bool(found.isfinite().all()) for found in sums) or all(map(all_finite, tensors))


def _of_update(optimizer: torch.optim.Optimizer, name: str, parameter: Tensor) -> FirstNonfinite:
    """Return why the step of an optimiser made a parameter not finite, from its state."""
    group = next(g for g in optimizer.param_groups if any(parameter is p for p in g["params"]))
    state = {key: value for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)}
    gradient = parameter.grad
    sizes = {key: largest_finite(value) for key, value in state.items()}
    limit = largest(parameter.dtype)
    rate = float(group.get("lr", 0.0))
    wrong = [key for key, value in state.items() if not all_finite(value)]
    cause, why = "overflow", f"the step, of learning rate {rate:.3g}, is larger than {limit:.3g}"
    if not abs(rate) < float("inf"):
        cause, why = "given", f"the learning rate is {rate}"
    elif gradient is not None and not all_finite(gradient):
        cause, why = "given", "its gradient is not finite"
    elif wrong:
        size = 0.0 if gradient is None else largest_finite(gradient)
        why = f"{wrong[0]} of the optimiser's state left the range: gradients are up to {size:.3g}"
    elif "exp_avg_sq" in state and bool((state["exp_avg_sq"] == 0).any()):
        eps = group.get("eps", 0.0)
        cause = "invalid"
        why = f"exp_avg_sq of the optimiser's state is 0, and eps, {eps:.3g}, is 0 in {parameter.dtype}: 0 / 0"
    bad = ~parameter.detach().isfinite()
    return FirstNonfinite(
        operation=type(optimizer).__name__,
        kernel="step",
        direction="update",
        module=name.rpartition(".")[0],
        call=1,
        line=None,
        inputs=tuple(sizes.values()),
        cause=cause,
        why=why,
        log10_magnitude=None,
        dtype=parameter.dtype,
        index=tuple(bad.nonzero()[0].tolist()),
        count=int(bad.sum()),
        size=bad.numel(),
        reaches=f"the parameter {name}",
    )
