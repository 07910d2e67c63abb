"""The singular values of every prefix product of layer Jacobians, as a result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.checks import check_dtype
from stability.foundation.formats import Format
from stability.foundation.shown import Shown
from stability.jacobians.self_check import SelfCheck

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class Spectrum(Shown):
    """Singular values of the Jacobian of every prefix of a network, in natural logarithms.

    The batch is (seeds, points) for a network, of which a module is one seed, and for matrices what stands between
    the depth and the last two dimensions.

    Attributes:
        log_values: float64 (depth, *batch, k), descending along k, -inf where exactly zero. Prefix l has
            `sizes[l - 1]` singular values; where that is less than k the rest are -inf.
        sizes: for every prefix the smallest dimension so far, at most k.
        undecided: int64 (depth, *batch): how many values of a prefix were taken for exactly zero because float64
            cannot tell them from it, beyond those that zero rows and columns of the layers prove.
        signs: int8 (depth, *batch) at width 1, the sign of dh_l/dx, 0 exactly where it is zero; else None.
        distance_from_identity: (depth, *batch), the spectral norm of J_l - I for every layer; None if it was not
            asked for or a layer is not square.
        log_product_distance: (depth, *batch), the log of the spectral norm of J_l ... J_1 - I; None likewise.
        self_check: two tests of the values, a `SelfCheck`; None at width 1, where nothing can mix, or if it was not
            asked for.
        residuals: of leading values that were approached without the others, (depth, *batch, k): the error of each as
            a relative residual, NaN where the value is zero; else None.
        x: the points; None for matrices.
        members: the member numbers of a chain, (0,) for a module; None for matrices.
        layers: the names of the layers.
    """

    log_values: Tensor
    sizes: tuple[int, ...]
    undecided: Tensor
    signs: Tensor | None = None
    distance_from_identity: Tensor | None = None
    log_product_distance: Tensor | None = None
    self_check: SelfCheck | None = None
    residuals: Tensor | None = None
    x: Tensor | None = None
    members: tuple[int, ...] | None = None
    layers: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.log_values)

    def __repr__(self) -> str:
        parts = [f"log_values={tuple(self.log_values.shape)}"]
        if self.layers:
            parts.append(f"layers={self.layers[0]!r} to {self.layers[-1]!r}")
        if self.self_check is not None:
            parts.append(f"self_check={self.self_check!r}")
        return f"Spectrum({', '.join(parts)})"

    @property
    def finite_time_exponents(self) -> Tensor:
        """log_values / l: the growth rate a layer of each singular value over the first l layers."""
        return self.log_values / self._depths()

    def _depths(self) -> Tensor:
        depths = torch.arange(1, self.depth + 1, dtype=torch.float64)
        return depths.reshape(-1, *[1] * (self.log_values.ndim - 1))

    @property
    def ranks(self) -> Tensor:
        """Int64 (depth, *batch): how many singular values are not exactly zero."""
        return (self.log_values > -math.inf).sum(dim=-1)

    @property
    def log_condition(self) -> Tensor:
        """(depth, *batch): log of the largest over the smallest singular value, inf where the smallest is zero."""
        largest = self.log_values[..., 0]
        last = torch.tensor(self.sizes).reshape(-1, *[1] * (self.log_values.ndim - 1)) - 1
        smallest = self.log_values.gather(-1, last.expand(*self.log_values.shape[:-1], 1))[..., 0]
        return torch.where(smallest == -math.inf, math.inf, largest - smallest)

    @property
    def vanished(self) -> Tensor:
        """Bool, as `log_values`: where the value is exactly zero, and not only too small for a format."""
        return self.log_values == -math.inf

    def underflows(self, dtype: torch.dtype) -> Tensor:
        """Bool, as `log_values`: where the value is not zero, but rounds to zero in `dtype`.

        That is where it is at most half the smallest positive subnormal number of `dtype`:
        2^-150 for float32, 2^-1075 for float64.
        """
        return (self.log_values <= Format(check_dtype(dtype)).log_least) & ~self.vanished

    def to_dataset(self) -> xarray.Dataset:
        """Return what is there with dims (depth, *batch, index).

        The batch is named (seed, x) for a network, (batch_0, ...) for matrices. Points that are single numbers are
        the coordinate of x, others are numbered.
        """
        import xarray

        shape = self.log_values.shape[1:-1]
        if self.members is not None:
            batch: tuple[str, ...] = ("seed", "x")
        else:
            batch = tuple(f"batch_{i}" for i in range(len(shape)))
        coords = {
            "depth": np.arange(1, self.depth + 1),
            **{name: np.arange(size) for name, size in zip(batch, shape, strict=True)},
            "index": np.arange(1, self.log_values.shape[-1] + 1),
        }
        if self.members is not None:
            coords["seed"] = np.array(self.members)
        if self.x is not None and self.x.shape == shape[-1:]:
            coords["x"] = self.x.double().cpu().numpy()
        over = ("depth", *batch)
        about = {"units": "natural logarithm"}
        variables = {
            "log_values": ((*over, "index"), self.log_values, {"long_name": "log singular value", **about}),
            "undecided": (over, self.undecided, {"long_name": "values taken for zero by rounding alone"}),
            "size": ("depth", torch.tensor(self.sizes), {"long_name": "smallest dimension so far"}),
            "signs": (over, self.signs, {}),
            "distance_from_identity": (over, self.distance_from_identity, {"long_name": "|J_l - I|"}),
            "log_product_distance": (over, self.log_product_distance, {"long_name": "log |J_l ... J_1 - I|", **about}),
            "residuals": ((*over, "index"), self.residuals, {"long_name": "relative residual"}),
        }
        kept = {name: (dims, t.numpy(), a) for name, (dims, t, a) in variables.items() if t is not None}
        return xarray.Dataset(kept, coords)
