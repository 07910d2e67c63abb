"""A rule on whether a step of the optimiser does what its gradient says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stability.reading.in_format import in_format
from stability.reading.running import run
from stability.reading.traces import undisturbed
from stability.reading.trees import tensors_in
from stability.report.case import Case, advice, settled
from stability.report.finding import Finding, Trial, reason
from stability.report.rules_steps import Step, one_step
from stability.report.thresholds import HIGHER_ORDERS

#: The part of a step whose effect is its linear one. In float64 rounding leaves it 1e-9 of a change of order 1.
SMALL = 2.0**-22


@dataclass(frozen=True)
class Response:
    """How the output and the loss answer to a step.

    Attributes:
        ratio: <actual, predicted> / <predicted, predicted> of the changes of the output, 1 where they are equal.
        cosine: of the angle between both.
        loss_ratio: the actual change of the loss over the predicted one, 1 where no fall is predicted.
    """

    ratio: float
    cosine: float
    loss_ratio: float

    @property
    def higher_orders(self) -> float:
        """The size of the higher orders in the change of the output, over the first."""
        return abs(self.ratio - 1)

    @property
    def is_straight(self) -> bool:
        """Whether a step does what its derivative predicts, so far as a step should."""
        return self.higher_orders <= HIGHER_ORDERS and self.loss_ratio >= 0


def step_too_large(case: Case) -> None:
    """Find steps of the optimiser whose effect is not the one that the derivative predicts.

    They change the output by far less or more, or raise a loss that should fall. "watch": a warm-up mends it, and many
    recipes have one; harmful where a trial of training diverges. What else makes a step useless, an epsilon
    or lost digits, is told there.
    """
    if case.optimizer is None or case.left < 6 * case.lasts or case.found("optimizer_epsilon", "lost_updates"):
        return
    step = one_step(case)
    response = None if step is None else response_of(case, step)
    if step is None or response is None:
        return
    quantity = "higher orders of a step over its first"
    case.look("step_too_large", quantity, response.higher_orders, HIGHER_ORDERS)
    if response.is_straight:
        return
    trials: list[Trial | None] = []
    for part, words in ((0.1, "a tenth"), (0.01, "a hundredth")):
        shorter = None if case.left < 4 * case.lasts else response_of(case, step, part)
        if shorter is not None and shorter.is_straight:
            remedy = f"warm up from {words} of the rate"
            trials.append(Trial(remedy, quantity, response.higher_orders, shorter.higher_orders))
    trial = settled(trials, lambda one: one.after < 0.5)
    words = f"A step of the optimiser changes the output by {response.ratio:.2g} times what its derivative predicts"
    if response.loss_ratio < 0:
        words += ", and raises the loss that should fall"
    case.findings.append(
        Finding(
            "step_too_large",
            "watch",
            None,
            {"higher_orders": response.higher_orders, "threshold": HIGHER_ORDERS}
            | {"ratio": response.ratio, "cosine": response.cosine, "loss_ratio": response.loss_ratio},
            f"{words}: it is longer than the network is straight.",
            advice(trial, "Not even a hundredth of the rate is short enough: mend what makes it so sensitive."),
            trial,
        )
    )


def response_of(case: Case, step: Step, length: float = 1.0) -> Response | None:
    """Return how the output answers to a part of a step, all in float64; None where it does not change."""
    states = [_output(case, step.changes, part) for part in (0.0, SMALL * length, length)]
    if any(state is None for state in states):
        return None
    (plain, loss), (near, near_loss), (whole, whole_loss) = (state for state in states if state is not None)
    predicted, actual = (near - plain) / SMALL, whole - plain
    squared = float(predicted.square().sum())
    if not (0 < squared < math.inf) or not math.isfinite(float(actual.square().sum())):
        return None
    product = float((predicted * actual).sum())
    fall = (near_loss - loss) / SMALL
    loss_ratio = (whole_loss - loss) / fall if fall < -SMALL * abs(loss) else 1.0
    return Response(product / squared, product / math.sqrt(squared * float(actual.square().sum()) or 1.0), loss_ratio)


def _output(case: Case, changes: dict[str, Tensor], part: float) -> tuple[Tensor, float] | None:
    """Return all floating numbers of the output in float64, and the loss, with a part of a step taken."""
    reading = in_format(case.reading, torch.float64)
    try:
        with undisturbed(reading.module, case.loss), torch.no_grad():
            for name, parameter in reading.module.named_parameters():
                if name in changes:
                    parameter.add_(changes[name].to(parameter), alpha=part)
            output = run(reading.module, reading.copied())
            found = [t.double().flatten() for t in tensors_in(output) if t.is_floating_point()]
            loss = 0.0 if case.loss is None else float(case.loss(output))
    except Exception as error:  # a loss of the user's own may raise any
        case.notes.append(f"the effect of a step was not looked at: {reason(error)}")
        return None
    return (torch.cat(found), loss) if found else None
