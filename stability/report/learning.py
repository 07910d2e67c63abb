"""Whether a network learns in spite of what was found: a short training of a copy decides how severe that is."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stability.reading.running import run
from stability.reading.traces import undisturbed
from stability.reading.trees import map_tensors, tensors_in
from stability.report.case import Case
from stability.report.finding import Finding, reason

#: The trial is as long as a healthy network takes to show where it goes: of small ones of the usual kinds the slowest
#: turn downwards after 40 iterations of Adam at 1e-3, and all have lost half within 200.
ITERATIONS, LAST, HORIZON = 60, 20, 200
#: What is so however the loss goes.
_SETTLED = {"nonfinite", "format", "unused_parameters", "ill_conditioned"}
#: What training alone tells to be harmful.
_RAISED = {"input_scale", "norm_epsilon", "saturated", "optimizer_epsilon", "lost_updates"}


@dataclass(frozen=True)
class Learning:
    """A short training of a copy on the points that were given.

    Attributes:
        losses: before each iteration.
        reference: the least loss of an output that is the same for all points.
        optimizer: its name, with its rate.
    """

    losses: tuple[float, ...]
    reference: float
    optimizer: str

    @property
    def learns(self) -> bool:
        """Whether the loss falls to half of the reference within `HORIZON` iterations at the pace of the last ones."""
        last = self.losses[-1]
        if not math.isfinite(last):
            return False
        half = self.reference / 2
        if last < half:
            return True
        before = self.losses[-1 - LAST] if len(self.losses) > ITERATIONS else math.inf
        if not last < before < math.inf:
            return False
        # The pace of a fall in proportion: what is left takes as many iterations as its logarithm says.
        return math.log(last / half) / math.log(before / last) * LAST < HORIZON - ITERATIONS

    def __str__(self) -> str:
        count, first, last = len(self.losses) - 1, self.losses[0], self.losses[-1]
        words = f"{count} iterations of {self.optimizer} take the loss of a copy from {first:.3g} to {last:.3g}"
        return f"{words}, where an output that ignores the points has {self.reference:.3g}"


def by_learning(case: Case) -> None:
    """Let a short training decide severities: what learns all the same is "watch", what does not may be harmful.

    It is made where something was found that it can decide, and where a loss was given that stays above 0.
    """
    if case.loss is None or not any(_open(finding) for finding in case.findings):
        return
    learning = _trained(case)
    if learning is None:
        return
    case.notes.append(str(learning))
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
    severity = "harmful" if finding.severity == "watch" else finding.severity
    return replace(finding, severity=severity, evidence=evidence, why=why)


def _trained(case: Case) -> Learning | None:
    """Return a short training of a copy in train mode, None where it raises or there is no time for it.

    It ends early where the loss is below half of its reference. Without an optimiser it is Adam at 1e-3.
    """
    assert case.loss is not None
    net, optimizer = copy.deepcopy((case.net, case.optimizer))
    if optimizer is None:
        wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if not wanted:
            return None
        optimizer = torch.optim.Adam(wanted, 1e-3)
    rates = {float(group.get("lr", 0.0)) for group in optimizer.param_groups}
    words = f"{type(optimizer).__name__} at {min(rates):.2g}" if len(rates) == 1 else type(optimizer).__name__
    began, allowed = time.monotonic(), case.left / 2  # formats and spectrum come after it
    losses: list[float] = []
    reference: float | None = None
    try:
        with undisturbed(nn.Module()), torch.enable_grad():
            net.train()
            while len(losses) <= ITERATIONS:
                optimizer.zero_grad()
                output = run(net, case.reading.copied())
                value = case.loss(output)
                losses.append(float(value.detach()))
                if reference is None:
                    reference = _best_constant(case, output)
                    # What has learned more than a constant need not learn more, and of nothing half means nothing.
                    if reference is None or not 1e-12 * losses[0] < reference < 2 * losses[0]:
                        return None
                if not 0 <= losses[-1] < math.inf or losses[-1] < reference / 2:
                    break
                spent = time.monotonic() - began
                if spent > allowed or (len(losses) == 5 and spent * ITERATIONS / 5 > 2 * allowed):
                    case.notes.append(f"a trial of training was left out: {ITERATIONS} iterations take too long")
                    return None
                torch.autograd.backward(value)
                optimizer.step()
    except (ValueError, RuntimeError, TypeError) as error:
        case.notes.append(f"no trial of training was made: {reason(error)}")
        return None
    # Of a loss that may be negative half means nothing.
    return None if reference is None or losses[-1] < 0 else Learning(tuple(losses), reference, words)


def _best_constant(case: Case, output: object) -> float | None:
    """Return the least loss of an output that is the same for all points, None where there is none.

    That much the last bias learns alone, whatever happens before it.
    """
    assert case.loss is not None
    dim, loss = case.reading.inputs.batch_dim, case.loss
    floating = [t.detach() for t in tensors_in(output) if t.is_floating_point()]
    if dim is None or not floating or any(t.ndim <= dim for t in floating):
        return None
    constants = [t.double().mean(dim, keepdim=True).requires_grad_() for t in floating]

    def value() -> Tensor:
        left = iter(constants)

        def same(tensor: Tensor) -> Tensor:
            return next(left).to(tensor.dtype).expand_as(tensor) if tensor.is_floating_point() else tensor

        return loss(map_tensors(output, same))

    def closure() -> float:
        optimizer.zero_grad()
        now = value()
        torch.autograd.backward(now)
        return float(now.detach())

    optimizer = torch.optim.LBFGS(
        constants, max_iter=200, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )
    try:
        with undisturbed(nn.Module()), torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            return float(value().detach())
    except Exception:  # of a loss that wants its output to hang together
        return None
