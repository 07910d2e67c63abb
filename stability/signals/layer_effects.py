"""What becomes of the output when layers are left out or swapped, as a result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.log_norms import combine
from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class LayerEffects(Shown):
    """How far the output moves when layers are left out or swapped, in natural logarithms; a module is one seed.

    Attributes:
        done: "left out" or "swapped".
        sets: the layers of each case, by their numbers from 0, as in `layers`.
        log_changes: float64 (cases, seeds, points), the log of the L2 norm of the change of the output; -inf where it
            is exactly the same. What rounding does to the output counts as a change.
        log_outputs: (seeds, points), the log of the norm of the output as it is.
        layers: the names of the layers.
        members: the member numbers along the seeds.
        x: the points.
    """

    done: str
    sets: tuple[tuple[int, ...], ...]
    log_changes: Tensor
    log_outputs: Tensor
    layers: tuple[str, ...]
    members: tuple[int, ...]
    x: Tensor

    @property
    def log_relative(self) -> Tensor:
        """(cases, seeds), the log of the root mean square change over the points, over that of the output.

        inf where all of the output is zero and something changes.
        """
        changes, outputs = combine(self.log_changes, dim=2), combine(self.log_outputs, dim=1)
        return torch.where(changes == -math.inf, -math.inf, changes - outputs)

    def __repr__(self) -> str:
        middle = self.log_relative.median(dim=1).values
        low, high = (float(one.exp()) for one in (middle.min(), middle.max()))
        most = self.sets[int(middle.argmax())]
        names = ", ".join(self.layers[number] for number in most[:3]) + (", ..." if len(most) > 3 else "")
        sizes = sorted({len(one) for one in self.sets})
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        changes = (
            f"{low:.3g} of its size for" if len(self.sets) == 1 else f"{low:.3g} to {high:.3g} of its size, most for"
        )
        return (
            f"LayerEffects({each} of {len(self.layers)} layers {self.done}, {len(self.sets)} cases, "
            f"{len(self.members)} seeds, {self.log_outputs.shape[1]} points: the output changes by {changes} {names})"
        )

    def to_dataset(self) -> xarray.Dataset:
        """Return the logs with dims (case, seed, x), and bool (case, layer) for the layers of each case."""
        import xarray

        chosen = np.zeros((len(self.sets), len(self.layers)), dtype=bool)
        for case, numbers in enumerate(self.sets):
            chosen[case, list(numbers)] = True
        about = {"units": "natural logarithm"}
        return xarray.Dataset(
            {
                "log_changes": (
                    ("case", "seed", "x"),
                    self.log_changes.numpy(),
                    {"long_name": "log change of the output", **about},
                ),
                "log_relative": (
                    ("case", "seed"),
                    self.log_relative.numpy(),
                    {"long_name": "log relative change of the output", **about},
                ),
                "log_outputs": (("seed", "x"), self.log_outputs.numpy(), {"long_name": "log |f(x)|", **about}),
                "chosen": (("case", "layer"), chosen, {"long_name": self.done}),
            },
            {
                "case": np.arange(len(self.sets)),
                "layer": np.arange(1, len(self.layers) + 1),
                "name": ("layer", list(self.layers)),
                "seed": list(self.members),
                "x": self.x.double().cpu().numpy() if self.x.ndim == 1 else np.arange(self.log_outputs.shape[1]),
            },
            attrs={"done": self.done},
        )
