"""The eigenvalues of the Hessian of a loss, seed by seed, as a result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class Hessian(Shown):
    """Eigenvalues of the second derivative of a loss with respect to all parameters of a network; a module is one seed.

    Attributes:
        eigenvalues: float64 (seeds, count), descending: all of them, or as many of the largest as of the smallest.
        residuals: the same shape, |H v - lambda v| / |H| for the vector v of length 1 of each, with the largest
            |lambda| for |H|; an eigenvalue lies that close to lambda. 0 where H is zero.
        tolerance: (seeds,), what is not told from zero: the rounding of H, as an eigenvalue.
        against_differences: (seeds,), how far H v is from differences of gradients at nearby parameters, relative, for
            a random v. Where it is not small the loss has a kink there, such as at a pre-activation of exactly 0, or
            a derivative that is wrong.
        agrees: bool (seeds,), whether it is as small as the format of the parameters lets it be told: 1 % in float64,
            and half in coarser ones.
        loss, gradient_norm: (seeds,), the loss and the norm of its gradient.
        parameters: how many there are in each seed.
        members: the member numbers along the seeds.
    """

    eigenvalues: Tensor
    residuals: Tensor
    tolerance: Tensor
    against_differences: Tensor
    agrees: Tensor
    loss: Tensor
    gradient_norm: Tensor
    parameters: int
    members: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether all eigenvalues are there."""
        return self.eigenvalues.shape[1] == self.parameters

    @property
    def largest(self) -> Tensor:
        """(seeds,), the largest |eigenvalue|."""
        return self.eigenvalues.abs().amax(dim=1)

    @property
    def zeros(self) -> Tensor:
        """Int64 (seeds,): how many eigenvalues of those that are there are not told from zero."""
        return (self.eigenvalues.abs() <= self.tolerance[:, None]).sum(dim=1)

    @property
    def rank(self) -> Tensor:
        """Int64 (seeds,): how many eigenvalues are told from zero.

        Raises:
            ValueError: where only the extreme eigenvalues are there.
        """
        self._refuse_part("rank")
        return self.parameters - self.zeros

    @property
    def negative(self) -> Tensor:
        """Int64 (seeds,): how many eigenvalues of those that are there are negative and told from zero."""
        return (self.eigenvalues < -self.tolerance[:, None]).sum(dim=1)

    @property
    def condition(self) -> Tensor:
        """(seeds,), the largest |eigenvalue| over the smallest, inf where some are zero.

        Raises:
            ValueError: where only the extreme eigenvalues are there.
        """
        self._refuse_part("condition number")
        ratio = self.largest / self.eigenvalues.abs().amin(dim=1)
        return torch.where(self.zeros > 0, math.inf, ratio)

    def _refuse_part(self, what: str) -> None:
        if not self.complete:
            raise ValueError(
                f"the {what} needs all {self.parameters} eigenvalues, and {self.eigenvalues.shape[1]} are there: give "
                "st.hessian a larger all_up_to="
            )

    def __repr__(self) -> str:
        high, low = (float(self.eigenvalues[:, place].median()) for place in (0, -1))
        parts = [f"{self.parameters} parameters, {len(self.members)} seeds: eigenvalues {high:.4g} to {low:.4g}"]
        if self.complete:
            condition, zeros = float(self.condition.median()), int(self.zeros.median())
            parts.append(f"{zeros} zero" if zeros else f"condition number {condition:.4g}")
        parts.append(f"{int(self.negative.median())} negative" + ("" if self.complete else " of these"))
        if not self.agrees.all():
            parts.append(
                f"differs from finite differences by up to {float(self.against_differences.max()):.1g}: a kink, or a "
                "wrong derivative"
            )
        return f"Hessian({', '.join(parts)})"

    def to_dataset(self) -> xarray.Dataset:
        """Return what is there with dims (seed, index)."""
        import xarray

        per_seed = {
            "tolerance": (self.tolerance, "what is not told from zero"),
            "against_differences": (self.against_differences, "relative distance from differences of gradients"),
            "agrees": (self.agrees, "whether that is small"),
            "loss": (self.loss, "loss"),
            "gradient_norm": (self.gradient_norm, "norm of the gradient"),
        }
        return xarray.Dataset(
            {
                "eigenvalues": (("seed", "index"), self.eigenvalues.numpy(), {"long_name": "eigenvalue"}),
                "residuals": (("seed", "index"), self.residuals.numpy(), {"long_name": "|H v - lambda v| / |H|"}),
                **{name: ("seed", values.numpy(), {"long_name": words}) for name, (values, words) in per_seed.items()},
            },
            {"seed": list(self.members), "index": np.arange(1, self.eigenvalues.shape[1] + 1)},
            attrs={"parameters": self.parameters},
        )
