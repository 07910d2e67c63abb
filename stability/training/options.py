"""How a run of training is to go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What `st.train` is asked for; see there. `steps` are those of the method, after `adam_steps` of Adam."""

    steps: int
    rate: float
    clip: float
    adam_steps: int
    homotopy: float
    start: int
    least_slope: float

    def share(self, step: int) -> float:
        """The share of the target in what is fitted at a step of the method, the rest being the identity."""
        length = self.homotopy * self.steps
        return min(1.0, (step + 1) / length) if length > 0 else 1.0
