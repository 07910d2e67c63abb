"""How the product of a network's layers spreads over the lengths of paths, as a result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.arguments import check_numbers, door
from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray

#: The share of the energy that may be open where a mean or a quantile is taken.
OPEN = 0.01


@dataclass(frozen=True, repr=False)
class Paths(Shown):
    """The coefficients C_k of z^k in (I + z A_L) ... (I + z A_1), A_l = J_l - I, in natural logarithms.

    C_k is the sum over all paths through k layers, which go past the other L - k, so that the sum of all C_k is the
    Jacobian J_L ... J_1. The energy of a path length is |C_k|^2, with the Frobenius norm. The batch is (seeds, points)
    for a network, of which a module is one seed, and for matrices what stands between the depth and the last two
    dimensions.

    Attributes:
        log_norms: float64 (k + 1, *batch), log |C_k| for the path lengths from 0 to k; -inf where C_k is exactly zero.
        log_errors: the same shape, the log of a bound of the error of C_k, as the norm of a difference; -inf where
            there is none.
        log_branches: (depth, *batch), log of |A_l| over the root of the width, the strength of each layer's branch;
            -inf where the layer is the identity.
        signs: int8, as log_norms, at width 1 the sign of C_k, 0 exactly where it is zero; else None.
        width: how many numbers a state has.
        x: the points; None for matrices.
        members: the member numbers of a chain, (0,) for a module; None for matrices.
        layers: the names of the layers.
    """

    log_norms: Tensor
    log_errors: Tensor
    log_branches: Tensor
    signs: Tensor | None
    width: int
    x: Tensor | None = None
    members: tuple[int, ...] | None = None
    layers: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.log_branches)

    @property
    def undecided(self) -> Tensor:
        """Bool, as log_norms: where the error may be as large as a tenth of the coefficient, or more."""
        return self.log_errors > self.log_norms + math.log(0.1)

    @property
    def shares(self) -> Tensor:
        """As log_norms: the share of each path length in the energy, sum_k |C_k|^2 of those that are there."""
        return (2 * self.log_norms).softmax(dim=0)

    @property
    def mean_length(self) -> Tensor:
        """(*batch), the mean path length, each length taken with its energy.

        Raises:
            ValueError: where longer paths were left out by k=, or rounding leaves more than 1 % of the energy open.
        """
        return (self._lengths() * self._decided_shares()).sum(dim=0)

    @door
    def quantiles(self, q: Sequence[float] = (0.05, 0.5, 0.95)) -> Tensor:
        """Return the path lengths up to which there is a share q of the energy, int64 (len(q), *batch).

        Raises:
            ValueError: as for `mean_length`.
        """
        check_numbers("q", q)
        if np.ndim(q) != 1 or not len(q) or not all(0 <= level <= 1 for level in q):
            raise ValueError(f"q is {q}: expected levels from 0 to 1")
        up_to = self._decided_shares().cumsum(dim=0)
        return torch.stack([(up_to < min(float(level), 1 - 1e-12)).sum(dim=0) for level in q])

    @property
    def log_strength(self) -> Tensor:
        """(*batch), log s^2, the mean over the layers of the relative energy |A_l|^2 / width of a branch."""
        return (2 * self.log_branches).logsumexp(dim=0) - math.log(self.depth)

    def random_signs(self) -> Tensor:
        """Return the shares that these branches have with random signs, as log_norms.

        If products of different layers are uncorrelated, the expected energies are the coefficients of
        prod_l (1 + z s_l^2), s_l^2 = |A_l|^2 / width. Their mean length is the sum of s_l^2 / (1 + s_l^2).
        """
        shares = torch.zeros(self.log_norms.shape, dtype=torch.float64)
        shares[0] = 1.0
        for probability in (2 * self.log_branches).sigmoid():
            shares[1:] = shares[1:] * (1 - probability) + shares[:-1] * probability
            shares[0] *= 1 - probability
        return shares

    def binomial(self) -> Tensor:
        """Return the shares of Binomial(depth, s^2 / (1 + s^2)), as log_norms: `random_signs` for equal branches.

        With s^2 the mean relative energy of this network's branches (`log_strength`). Its mean is
        depth s^2 / (1 + s^2), which is the largest that random signs give for this s^2.
        """
        taken, left = self._lengths(), self.depth - self._lengths()
        number = math.lgamma(self.depth + 1) - torch.lgamma(taken + 1) - torch.lgamma(left + 1)
        on, off = (torch.nn.functional.logsigmoid(sign * self.log_strength) for sign in (1, -1))
        # 0 times the infinite log of a branch that is 0 is 0.
        return (number + torch.where(taken > 0, taken * on, 0) + torch.where(left > 0, left * off, 0)).exp()

    def _lengths(self) -> Tensor:
        return torch.arange(len(self.log_norms), dtype=torch.float64).reshape(-1, *[1] * (self.log_norms.ndim - 1))

    def _decided_shares(self) -> Tensor:
        if len(self.log_norms) <= self.depth:
            raise ValueError(
                f"the path lengths from {len(self.log_norms)} to {self.depth} were left out by k=: take all of them, "
                "st.paths without k="
            )
        errors = self.log_errors
        # |C|^2 is within 2 |C| e + e^2 of what it was found to be.
        open_parts = torch.logaddexp(self.log_norms + errors + math.log(2), 2 * errors).logsumexp(dim=0)
        share = (open_parts - (2 * self.log_norms).logsumexp(dim=0)).exp()
        if (share > OPEN).any():
            place = tuple((share > OPEN).nonzero()[0].tolist())
            raise ValueError(
                f"rounding leaves {float(share[place]):.1g} of the energy open at {place} of the batch "
                f"{tuple(share.shape)}: its coefficients cancel beyond float64, see log_errors"
            )
        return self.shares

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.log_norms.shape[1:]))
        over = f"{self.depth} layers of width {self.width}" + (f", batch {shape}" if shape else "")
        if len(self.log_norms) <= self.depth:
            return f"Paths({over}, path lengths up to {len(self.log_norms) - 1})"
        try:
            low, high = (int(one.double().median()) for one in self.quantiles((0.05, 0.95)))
            mean = float(self.mean_length.median())
        except ValueError:
            return f"Paths({over}, {int(self.undecided.sum())} of {self.undecided.numel()} coefficients undecided)"
        expected = float((2 * self.log_branches).sigmoid().sum(dim=0).median())
        many = "" if self.log_norms[0].numel() == 1 else ", medians"
        return (
            f"Paths({over}: mean path length {mean:.4g}, 90 % of the energy from {low} to {high}; with random signs "
            f"{expected:.4g}{many})"
        )

    def to_dataset(self) -> xarray.Dataset:
        """Return what is there with dims (length, *batch) and (layer, *batch).

        The batch is named (seed, x) for a network, (batch_0, ...) for matrices. Points that are single numbers are
        the coordinate of x, others are numbered.
        """
        import xarray

        shape = self.log_norms.shape[1:]
        batch = ("seed", "x") if self.members is not None else tuple(f"batch_{i}" for i in range(len(shape)))
        coords: dict[str, object] = {
            "length": np.arange(len(self.log_norms)),
            "layer": np.arange(1, self.depth + 1),
            **{name: np.arange(size) for name, size in zip(batch, shape, strict=True)},
        }
        if self.members is not None:
            coords["seed"] = np.array(self.members)
        if self.x is not None and self.x.shape == shape[-1:]:
            coords["x"] = self.x.double().cpu().numpy()
        if self.layers:
            coords["name"] = ("layer", list(self.layers))
        about = {"units": "natural logarithm"}
        over = ("length", *batch)
        variables = {
            "log_norms": (over, self.log_norms.numpy(), {"long_name": "log |C_k|", **about}),
            "log_errors": (over, self.log_errors.numpy(), {"long_name": "log of a bound of the error", **about}),
            "share": (over, self.shares.numpy(), {"long_name": "share of the energy"}),
            "random_signs": (over, self.random_signs().numpy(), {"long_name": "share with random signs"}),
            "binomial": (over, self.binomial().numpy(), {"long_name": "share with random signs and equal branches"}),
            "log_branches": (
                ("layer", *batch),
                self.log_branches.numpy(),
                {"long_name": "log |A_l| / sqrt(width)", **about},
            ),
        }
        if self.signs is not None:
            variables["signs"] = (over, self.signs.numpy(), {})
        return xarray.Dataset(variables, coords)
