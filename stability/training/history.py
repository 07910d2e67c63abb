"""What a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class History(Shown):
    """The record of a run of `st.train`.

    Attributes:
        loss: float64 (iterations + 1, seeds), the mean-squared error before each iteration and after the last; inf from
            where a member stopped, constant from where it converged. A run that was interrupted, or in which all
            members have stopped or converged, has fewer rows.
        best_iteration: int64 (seeds,), the row of `loss` whose parameters the chain has now.
        stopped_iteration: int64 (seeds,), the row at which a member's loss or gradient was not finite, -1 for none.
        converged_iteration: int64 (seeds,), the row from which on no iteration lowered a member's loss, -1 where the
            run ended before that; Adam never converges.
        members: the member numbers along the seeds.
        method: the training method.
        path: "kernel" for the compiled loops over the step table, "torch" for automatic differentiation.
        interrupted: whether the run was ended from the keyboard, with the best until then.
    """

    loss: Tensor
    best_iteration: Tensor
    stopped_iteration: Tensor
    converged_iteration: Tensor
    members: tuple[int, ...]
    method: str
    path: Literal["kernel", "torch"]
    interrupted: bool = False

    @property
    def best_loss(self) -> Tensor:
        """The loss of each seed at the parameters that the chain has now, (seeds,)."""
        return self.loss.gather(0, self.best_iteration[None])[0]

    def __repr__(self) -> str:
        low, middle, high = (f"{self.best_loss.quantile(q, interpolation='nearest'):.2e}" for q in (0.0, 0.5, 1.0))
        converged = int((self.converged_iteration >= 0).sum())
        return (
            f"History({self.method!r}, iterations={len(self.loss) - 1}, seeds={len(self.members)}, path={self.path!r}, "
            f"best loss {low} to {high}, median {middle}"
            + (f", {converged} converged" if self.method != "adam" else "")
            + ")"
        )

    def to_dataset(self) -> xarray.Dataset:
        """Return the losses with dims (iteration, seed)."""
        import xarray

        coords = {"iteration": np.arange(len(self.loss)), "seed": list(self.members)}
        return xarray.Dataset(
            {
                "loss": (("iteration", "seed"), self.loss.numpy(), {"long_name": "mean-squared error"}),
                "best_iteration": ("seed", self.best_iteration.numpy()),
                "stopped_iteration": ("seed", self.stopped_iteration.numpy()),
                "converged_iteration": ("seed", self.converged_iteration.numpy()),
            },
            coords,
            attrs={"method": self.method, "path": self.path, "interrupted": int(self.interrupted)},
        )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in `st.train`, after what was reached has been kept.

    Attributes:
        history: the `History` until then, with `interrupted` true.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history
