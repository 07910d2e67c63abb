"""What the units of a network do, as a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class Units(Shown):
    """How active the units of every layer are, over points and, of images and sequences, over places.

    A layer's own tensors are (seeds, units); layers may differ in width, so there is a list of them.

    Attributes:
        active: by layer, the share of points at which a unit is not exactly zero.
        activity: by layer, the mean of |h| of a unit.
        saturated: by layer, the share of points at which a unit is within a hundredth of an end of the range of the
            activation that the layer ends with (Tanh, Sigmoid and the like); NaN where it has no such end.
        effective_rank: float64 (layers, seeds), exp of the entropy of s_i / sum s, with s the singular values of the
            activations of a layer, points by units: between 1 and the number of units (Roy and Vetterli 2007); 0 of
            nothing but zeros.
        threshold: a unit whose activity is at most this share of its layer's mean counts as dormant.
        points: how many points there were, in all batches.
        layers: the names of the layers. members: of the seeds.
    """

    active: list[Tensor]
    activity: list[Tensor]
    saturated: list[Tensor]
    effective_rank: Tensor
    threshold: float
    points: int
    layers: tuple[str, ...]
    members: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many units each layer has."""
        return tuple(one.shape[1] for one in self.active)

    @property
    def dead(self) -> list[Tensor]:
        """By layer, bool (seeds, units): which units are zero at every point."""
        return [one == 0 for one in self.active]

    @property
    def dormant(self) -> list[Tensor]:
        """By layer, bool (seeds, units): E|h_i| <= threshold times the mean of it over the layer (Sokar et al. 2023).

        In a layer of zeros all are.
        """
        return [one <= self.threshold * one.mean(dim=1, keepdim=True) for one in self.activity]

    def share(self, kind: str) -> Tensor:
        """Return the share of each layer's units that are "dead", "dormant" or "saturated", (layers, seeds).

        A unit counts as saturated where it is at more than half of the points; NaN of layers that cannot be.
        """
        if kind == "saturated":
            found = [torch.where(one.isnan(), one, (one > 0.5).double()) for one in self.saturated]
        elif kind in ("dead", "dormant"):
            found = [one.double() for one in (self.dead if kind == "dead" else self.dormant)]
        else:
            raise ValueError(f"unknown kind {kind!r}: known are 'dead', 'dormant', 'saturated'")
        return torch.stack([one.mean(dim=1) for one in found])

    def __repr__(self) -> str:
        dead, dormant = (self.share(kind).max(dim=1).values for kind in ("dead", "dormant"))
        worst = int(dormant.argmax())
        return (
            f"Units({len(self.layers)} layers, {self.points} points: dead {100 * float(dead.max()):.0f} % at most, "
            f"dormant {100 * float(dormant[worst]):.0f} % at most, in {self.layers[worst]!r})"
        )

    def to_dataset(self) -> xarray.Dataset:
        """Return all units in a row with dims (seed, unit), and what is by layer with dims (layer, seed)."""
        import xarray

        over, by_layer = ("seed", "unit"), ("layer", "seed")
        parts = {"active": self.active, "activity": self.activity, "saturated": self.saturated, "dormant": self.dormant}
        data: dict[str, object] = {name: (over, torch.cat(found, dim=1).numpy()) for name, found in parts.items()}
        data |= {f"share_{kind}": (by_layer, self.share(kind).numpy()) for kind in ("dead", "dormant", "saturated")}
        data["effective_rank"] = (by_layer, self.effective_rank.numpy())
        data["width"] = ("layer", np.array(self.widths))
        coords = {
            "layer": np.array(self.layers, dtype=str),
            "seed": list(self.members),
            "layer_of_unit": ("unit", np.repeat(np.array(self.layers, dtype=str), self.widths)),
            "number": ("unit", np.concatenate([np.arange(width) for width in self.widths])),
        }
        return xarray.Dataset(data, coords, {"threshold": self.threshold, "points": self.points})
