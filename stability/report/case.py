"""What the rules share: the network as it is read, what runs of it showed, and how a remedy is tried on a copy."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from stability.reading.inputs import Inputs
from stability.reading.network import Network
from stability.report.finding import Finding, Look, Trial
from stability.report.observation import Observation, observe
from stability.report.thresholds import LEAST_POINTS
from stability.signals.losses import Loss

Optimizer = torch.optim.Optimizer


@dataclass
class Case:
    """A network that is examined.

    Attributes:
        reading: a copy of the network, which the rules may run.
        loss, optimizer: as given; the optimiser is that of the copy.
        seen: what its run showed, in its own format.
        wide: the same in float64, None where that could not be run.
        until: the time at which all is to be over.
        lasts: the seconds that the last run took, forward and backward: nothing is begun that would not end in time.
            The first one takes longer than those after it, and other programs may slow one down.
        looks, findings, notes: what the rules looked at, found, and left out.
    """

    reading: Network
    loss: Loss | None
    optimizer: Optimizer | None
    seen: Observation
    wide: Observation | None
    until: float
    lasts: float = 0.0
    memory: float = 4.0
    looks: list[Look] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def net(self) -> nn.Module:
        return self.reading.module

    @property
    def few(self) -> bool:
        """Whether there are fewer points than tell chance from a fault."""
        return self.reading.inputs.batch_dim is not None and self.reading.inputs.points < LEAST_POINTS

    @property
    def late(self) -> bool:
        """Whether the budget does not allow one more run."""
        return self.left < self.lasts

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return self.until - time.monotonic()

    def name(self, layer: int) -> str | None:
        """Return the name of a layer, None for a network that no cut separates."""
        return self.seen.layers[layer] if self.seen.is_cut else None

    def found(self, *codes: str) -> list[Finding]:
        """Return the harmful findings of some codes."""
        return [one for one in self.findings if one.code in codes and one.severity != "watch"]

    def look(self, code: str, quantity: str, value: float, threshold: float, layer: str | None = None) -> None:
        self.looks.append(Look(code, quantity, value, threshold, layer))

    def try_out(
        self,
        remedy: str,
        quantity: str,
        before: float,
        change: Callable[[nn.Module, Inputs], Inputs | None],
        measure: Callable[[Observation], float],
        backward: bool = True,
    ) -> Trial | None:
        """Return a trial of a remedy on a copy, None where there is no time or it cannot be tried.

        Args:
            remedy, quantity, before: as of `Trial`.
            change: makes the change to the copy, or returns other inputs.
            measure: gives the number after.
            backward: whether it needs gradients.
        """
        if self.late:
            return None
        began = time.monotonic()
        try:
            twin = copy.deepcopy(self.net)
            with torch.no_grad():
                inputs = change(twin, self.reading.inputs) or self.reading.inputs
            after = measure(observe(replace(self.reading, module=twin, inputs=inputs), self.loss, backward))
        except (ValueError, RuntimeError, TypeError):
            return None
        took = time.monotonic() - began
        self.lasts = took if backward else max(took, self.lasts)
        return None if math.isnan(after) else Trial(remedy, quantity, before, after)


def settled(trials: list[Trial | None], helps: Callable[[Trial], bool]) -> Trial | None:
    """Return the first trial that helps."""
    return next((trial for trial in trials if trial is not None and helps(trial)), None)


def advice(trial: Trial | None, otherwise: str, late: bool = False) -> str:
    """Return the sentence of a remedy that was tried and helped, else another one, or that there was no time to try."""
    if trial is None:
        return "No remedy was tried: the budget does not allow it." if late else otherwise
    text = trial.remedy[0].upper() + trial.remedy[1:]
    return f"{text}: on a copy {trial.quantity} went from {trial.before:.3g} to {trial.after:.3g}."
