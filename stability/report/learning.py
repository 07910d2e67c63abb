"""Whether a network learns in spite of what was found: a short training of a copy decides how severe that is."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stability.reading.in_format import in_format
from stability.reading.running import run
from stability.reading.traces import undisturbed
from stability.reading.trees import map_tensors
from stability.report.case import Case
from stability.report.finding import Finding, reason
from stability.report.least_losses import TooLong, least_losses
from stability.report.optimizers import is_on_schedule, rate_of, take_step
from stability.signals.losses import Loss

#: The trial is as long as a healthy network takes to show where it goes: of small ones of the usual kinds the slowest
#: turn downwards after 40 iterations of Adam at 1e-3, and all have lost half within 200.
ITERATIONS, LAST, HORIZON = 60, 20, 200
#: A loss that is so many times that of the start does not come back.
DIVERGED = 10.0
#: What is so however the loss goes.
_SETTLED = {"nonfinite", "format", "unused_parameters", "ill_conditioned"}
#: What training alone tells to be harmful.
_RAISED = {"input_scale", "norm_epsilon", "saturated", "optimizer_epsilon", "lost_updates", "step_too_large"}


@dataclass(frozen=True)
class Learning:
    """A short training of a copy on the points that were given.

    Attributes:
        losses: before each iteration.
        reference: the least loss of an output that is the same for all points.
        optimizer: its name, with its rate.
        floor: the least loss of any output.
        on_schedule: whether its rate is not the one that training has, but one that a schedule begins or ends with.
    """

    losses: tuple[float, ...]
    reference: float
    optimizer: str
    floor: float = 0.0
    on_schedule: bool = False

    @property
    def learns(self) -> bool:
        """Whether the loss falls halfway from the reference to the floor within `HORIZON` iterations at its last pace.

        That is the pace of the last iterations below the reference: what is above it the last bias learns alone.
        """
        last, whole = self._above(-1), self.reference - self.floor
        if not math.isfinite(last):
            return False
        half = whole / 2
        if last < half:
            return True
        if len(self.losses) <= ITERATIONS:
            return False
        back = next((k for k in range(LAST + 1) if not self._above(-1 - k) < whole), LAST)
        before = min(self._above(-1 - back), whole)
        if not last < before:
            return False
        # The pace of a fall in proportion: what is left takes as many iterations as its logarithm says. Of a few
        # iterations it would be that of chance.
        pace = math.log(before / last) / max(back, LAST // 2)
        return math.log(last / half) / pace < HORIZON - ITERATIONS

    @property
    def undecided(self) -> str | None:
        """Why it is no sign of harm that nothing is learned, None where it is one."""
        if self.on_schedule:
            return "a schedule has not raised its rate yet, or lowered it"
        whole, falls = self.reference - self.floor, self.losses[-1] < min(self.losses[:-1], default=-math.inf)
        if falls and self._above(-1) > 2 * whole:
            return "it is still on its way from a start far off, which the last bias decides"
        return None

    @property
    def diverges(self) -> bool:
        """Whether the loss ends far above its start, or not finite: from a little above it comes back."""
        return not self.losses[-1] < DIVERGED * self.losses[0]

    def _above(self, number: int) -> float:
        return self.losses[number] - self.floor

    def __str__(self) -> str:
        count, first, last = len(self.losses) - 1, self.losses[0], self.losses[-1]
        words = f"{count} iterations of {self.optimizer} take the loss of a copy from {first:.3g} to {last:.3g}"
        words += f", where an output that ignores the points has {self.reference:.3g}"
        return words if self.floor < 0.01 * self.reference else f"{words} and the best one {self.floor:.3g}"


def by_learning(case: Case) -> None:
    """Let a short training decide severities: what learns all the same is "watch", what does not may be harmful.

    It is made where something was found that it can decide, and where a loss was given that stays above 0.
    """
    if case.loss is None or not any(_open(finding) for finding in case.findings):
        return
    learning = _trained(case)
    if learning is None:
        return
    undecided = None if learning.learns else learning.undecided
    case.notes.append(f"{learning}" if undecided is None else f"{learning}, which decides nothing: {undecided}")
    if undecided is None:
        case.findings[:] = [_judged(finding, learning) for finding in case.findings]


def _open(finding: Finding) -> bool:
    return finding.code in _RAISED if finding.severity == "watch" else finding.code not in _SETTLED


def _judged(finding: Finding, learning: Learning) -> Finding:
    if not _open(finding):
        return finding
    evidence = {**finding.evidence, "loss_before": learning.losses[0], "loss_after": learning.losses[-1]}
    if learning.learns:
        why = f"{finding.why} It learns all the same: {learning}."
        return replace(finding, severity="watch", evidence=evidence, why=why)
    why = f"{finding.why} {learning}."
    raised = finding.severity == "watch" and (finding.code != "step_too_large" or learning.diverges)
    return replace(finding, severity="harmful" if raised else finding.severity, evidence=evidence, why=why)


def _trained(case: Case) -> Learning | None:
    """Return a short training of a copy in train mode, None where it raises or there is no time for it.

    It ends early where the loss is halfway from its reference to its floor. Without an optimiser it is Adam at 1e-3, in
    float32 where the network is in a narrower format, in which Adam's own epsilon is 0.
    """
    assert case.loss is not None
    dim = case.reading.inputs.batch_dim
    if dim is None:
        return None
    if case.optimizer is None:
        narrow = any(p.dtype in (torch.float16, torch.bfloat16) for p in case.net.parameters())
        reading = replace(case.reading, module=copy.deepcopy(case.net))
        reading = in_format(reading, torch.float32) if narrow else reading
        wanted = [parameter for parameter in reading.module.parameters() if parameter.requires_grad]
        if not wanted:
            return None
        optimizer: torch.optim.Optimizer = torch.optim.Adam(wanted, 1e-3)
        words = f"{_name(optimizer)}{' in float32' if narrow else ''}"
    else:
        net, optimizer = copy.deepcopy((case.net, case.optimizer))
        reading, words = replace(case.reading, module=net), _name(optimizer)
    began, allowed = time.monotonic(), case.left / 2  # formats and spectrum come after it
    losses: list[float] = []
    floor = reference = 0.0
    first: object = None
    try:
        with undisturbed(nn.Module(), case.loss), torch.enable_grad():
            reading.module.train()
            while len(losses) <= ITERATIONS:
                optimizer.zero_grad()
                output = run(reading.module, reading.copied())
                if not losses:
                    first = map_tensors(output, _apart)
                value = case.loss(output)
                losses.append(float(value.detach()))
                if len(losses) == 1:
                    _check_fixed(case.loss, first, losses[0])
                    points = reading.inputs.points
                    found = least_losses(case.loss, first, dim, points, began + allowed, case.memory)
                    # What has learned more than a constant need not learn more, and of nothing half means nothing.
                    if found is None or not _tells(*found, losses[0]):
                        case.notes.append("no trial of training was made: this loss does not tell what is learned")
                        return None
                    floor, reference = found
                if not 0 <= losses[-1] < math.inf or losses[-1] < (floor + reference) / 2:
                    break
                spent = time.monotonic() - began
                if spent > allowed or (len(losses) == 5 and spent * ITERATIONS / 5 > 2 * allowed):
                    raise TooLong
                torch.autograd.backward(value)
                take_step(optimizer)
            _check_fixed(case.loss, first, losses[0])
    except TooLong:
        case.notes.append(f"a trial of training was left out: {ITERATIONS} iterations take too long")
        return None
    except Exception as error:  # an optimiser or a loss of the user's own may raise any
        case.notes.append(f"no trial of training was made: {reason(error)}")
        return None
    if losses[-1] < 0:  # of a loss that may be negative half means nothing
        return None
    return Learning(tuple(losses), reference, words, floor, is_on_schedule(optimizer))


def _apart(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor that requires a gradient where it does."""
    twin = tensor.detach().clone()
    return twin.requires_grad_() if tensor.requires_grad else twin


def _check_fixed(loss: Loss, output: object, value: float) -> None:
    """Raise for a loss that gives another value for an output than it gave before: by what it draws, or by a count."""
    again = float(loss(map_tensors(output, _apart)).detach())
    if abs(again - value) > 1e-4 * abs(value):
        raise ValueError("the loss gives other values for the same output")


def _tells(floor: float, reference: float, loss: float) -> bool:
    """Whether what a network learns can be told from the least losses."""
    whole = reference - floor
    return floor >= 0 and whole > max(1e-4 * reference, 1e-12 * loss) and whole < 2 * (loss - floor)


def _name(optimizer: torch.optim.Optimizer) -> str:
    rates = {rate_of(group, 0.0) for group in optimizer.param_groups}
    return f"{type(optimizer).__name__} at {min(rates):.2g}" if len(rates) == 1 else type(optimizer).__name__
