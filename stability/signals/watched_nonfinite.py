"""The iteration of a watched training in which a loss, gradient or parameter is first not finite, explained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stability.reading.inputs import Inputs
from stability.reading.kinds import all_finite, largest_finite
from stability.reading.nonfinite_result import FirstNonfinite, first_of
from stability.reading.nonfinite_search import NOT_SHOWN, NotShown, Question
from stability.reading.not_finite import largest, plain_name
from stability.reading.traces import is_read
from stability.reading.trees import tensors_in
from stability.signals.watched_forward import Forward, losses_of_pass


class NotFinite(FloatingPointError):
    """A loss, a gradient or a parameter of a watched training is not finite.

    Attributes:
        found: where the first such number is made; None where the iteration, run again, does not show it.
        iteration: the number of the backward pass, or of the step of the optimiser, from 0.
    """

    def __init__(self, message: str, found: FirstNonfinite | None, iteration: int) -> None:
        super().__init__(message)
        self.found, self.iteration = found, iteration


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
        self.running: Forward | None = None
        # By the number of a backward pass that runs, the forwards that it has reached, and the losses it starts from.
        self.backward: dict[int, tuple[list[Forward], list[Tensor]]] = {}
        self.passes = self.steps = 0
        self.explains = False
        self.handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(_Looking(self._begins), with_kwargs=True),
            model.register_forward_hook(_Looking(self._ends)),
            *(p.register_hook(_Looking(self._reaches)) for p in self.named.values()),  # type: ignore[no-untyped-call]
        ]
        if optimizer is not None:
            self.handles.append(optimizer.register_step_post_hook(self._stepped))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _begins(self, _: nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
        if not _is_forward():
            return
        self.backward.clear()  # what a pass that raised has left
        self.running = Forward.of(args, options)

    def _ends(self, _module: nn.Module, _args: object, output: object) -> None:
        forward, self.running = self.running, None
        if forward is None or not _is_forward():
            return
        forward.gave(output)
        graph = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        forward.cotangents = [None] * len(graph)
        for number, tensor in enumerate(graph):

            def keep(gradient: Tensor, number: int = number) -> None:
                reached = self._reached()
                if reached is None:
                    return
                if not any(forward is other for other in reached):
                    reached.append(forward)
                    forward.cotangents = [None] * len(forward.cotangents)  # of no pass before this one
                forward.cotangents[number] = gradient

            tensor.register_hook(keep)  # type: ignore[no-untyped-call]

    def _reaches(self, _: Tensor) -> None:
        """A backward pass reaches a parameter, be it not through what the model returned."""
        self._reached()

    def _reached(self) -> list[Forward] | None:
        """Return the forwards that the backward pass that runs has reached so far; None while one is explained."""
        if self.explains or is_read():
            return None
        task = torch._C._current_graph_task_id()
        if task not in self.backward:
            self.backward[task] = [], losses_of_pass()
            torch.autograd.Variable._execution_engine.queue_callback(partial(self._finished, task))
        return self.backward[task][0]

    def _finished(self, task: int) -> None:
        """A backward pass has ended."""
        forwards, roots = self.backward.pop(task)
        number, self.passes = self.passes, self.passes + 1
        gradients = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        if _are_finite([*gradients.values(), *roots]):
            return
        wrong = next((f"gradient of {name}" for name, value in gradients.items() if not all_finite(value)), "")
        # In a thread of its own, as this one still is in the backward pass.
        with ThreadPoolExecutor(1) as pool:
            replays = list(pool.map(self._explained, forwards))
            found = next((one for one, _ in replays if one is not None), None)
            why = next((why for _, why in replays if why), "")
            if self.scaler is not None and self.scaler.is_enabled():
                nan = any(bool(root.isnan()) for root in roots)  # a scale makes inf of a loss, and never NaN
                of_scale = pool.submit(self._is_of_the_scale, forwards, found, not why)
                if not nan and (not wrong or of_scale.result()):
                    return
        self._save(forwards)
        message = f"the {wrong or 'loss'} is not finite in backward pass {number}"
        if found is not None:
            raise NotFinite(f"{message}\n{found}", found, number)
        if not forwards:
            why = "the backward pass goes through no call of the model itself, and so cannot be run again"
        raise NotFinite(f"{message}; {why or _why_not_found(roots, wrong)}", None, number)

    def _is_of_the_scale(self, forwards: list[Forward], found: FirstNonfinite | None, shown: bool) -> bool:
        """Whether a GradScaler, which skips such a step and lowers its scale, has only scaled the loss too much."""
        assert self.scaler is not None
        scale = self.scaler.get_scale()
        if scale <= 1 or (found is not None and found.reaches == "the output"):
            return False
        if not shown:
            return all(forward.is_finite for forward in forwards)
        # What the loss lets in as infinite is so by the scale; what is not finite without it is not.
        known = [f for f in forwards if all(all_finite(c) for c in f.cotangents if c is not None)]
        return all(self._explained(forward, scale)[0] is None for forward in known)

    def _explained(self, forward: Forward, scale: float = 1.0) -> tuple[FirstNonfinite | None, str]:
        """Return where a pass, run once more, is first not finite, and words for why the replay shows nothing."""
        gradients = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        agrees = partial(forward.agrees, gradients) if scale == 1 else None
        given = [c if c is None or scale == 1 else c / scale for c in forward.cotangents]
        self.explains = True
        try:
            with forward.again():
                inputs = Inputs(forward.args, forward.options, None).mapped(torch.Tensor.detach)
                return first_of(Question(self.model, inputs, None, given, agrees)), ""
        except NotShown:
            return None, f"the replay does not show it: {NOT_SHOWN}"
        except Exception as error:  # whatever the model does in a second run: the training has failed before
            return None, f"the replay raises {type(error).__name__}: {error}"
        finally:
            self.explains = False

    def _save(self, forwards: list[Forward]) -> None:
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


def _why_not_found(roots: list[Tensor], wrong: str) -> str:
    """Return words where no operation was found in a replay that is the same pass, which end a message."""
    bad = [root for root in roots if not all_finite(root)]
    if not wrong and bad:
        last = "" if bad[0].grad_fn is None else f", whose last operation is {plain_name(bad[0].grad_fn.name())}"
        return (
            f"it is {bad[0].item()}, with gradients that are finite: it is made after the output of the model, in the "
            f"loss{last}, or in what is added to it without a gradient"
        )
    return (
        "run again, that pass has the same output, and the gradients that come through it are finite: the other comes "
        "from what the loss takes of the parameters themselves, from the sum with the gradients that were there "
        "before, or from a hook with a state of its own"
    )


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
