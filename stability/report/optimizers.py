"""What is asked of an optimiser, which may be one of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

import torch


def rate_of(group: Mapping[str, SupportsFloat | None], otherwise: float) -> float:
    """Return the rate of a group of parameters, another number where it has none."""
    rate = group.get("lr")
    return otherwise if rate is None else float(rate)


def is_on_schedule(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the rate of a group is not that of the training: 0, or below the one from which a schedule makes it."""

    def low(group: Mapping[str, SupportsFloat | None]) -> bool:
        rate = rate_of(group, 1.0)
        known = (group.get("initial_lr"), group.get("max_lr"))
        return rate == 0 or any(rate < float(one) for one in known if one is not None)

    return any(low(group) for group in optimizer.param_groups)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Take a step.

    Raises:
        ValueError: where it raises, as one does that wants a closure, or that holds more than torch copies of it.
    """
    try:
        optimizer.step()
    except Exception as error:
        words = " ".join(str(error).split())
        raise ValueError(f"the optimiser raises {type(error).__name__} on a copy: {words}") from None
