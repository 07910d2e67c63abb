"""The singular values of every prefix product of a network's layer Jacobians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from stability.checks import check_dtype, check_finite, check_points
from stability.jacobians import kernels
from stability.jacobians.factors import log_factors


class WidthOneChain(Protocol):
    """What a width-1 network offers: its steps as rows of six numbers."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def members(self) -> tuple[int, ...]: ...
    def table(self) -> NDArray[np.float64]: ...


def log_half_smallest(dtype: torch.dtype) -> float:
    """Return the log of half the smallest positive subnormal number of `dtype`: what is no larger rounds to zero."""
    limits = torch.finfo(check_dtype(dtype))
    return math.log(limits.tiny) + math.log(limits.eps) - math.log(2)


@dataclass(frozen=True, repr=False)
class Spectrum:
    """Singular values of the Jacobian of every prefix of a network, in natural logarithms.

    Attributes:
        log_values: float64 (depth, *batch, k), descending along k; -inf where exactly zero. For a chain of
            width 1 the batch is (seeds, points), k is 1 and the value is log |dh_l/dx|.
        signs: int8 (depth, *batch), the sign of dh_l/dx at width 1, 0 exactly where it is zero.
        x: the points, (points,).
        members: the member numbers along the seeds.
    """

    log_values: Tensor
    signs: Tensor
    x: Tensor
    members: tuple[int, ...]

    @property
    def depth(self) -> int:
        """The number of steps."""
        return len(self.log_values)

    def __repr__(self) -> str:
        return f"Spectrum(log_values={tuple(self.log_values.shape)}, signs={tuple(self.signs.shape)})"

    @property
    def finite_time_exponents(self) -> Tensor:
        """log_values / l: the growth rate a step of each singular value over the first l steps."""
        depths = torch.arange(1, self.depth + 1, dtype=torch.float64)
        return self.log_values / depths.reshape(-1, *[1] * (self.log_values.ndim - 1))

    @property
    def vanished(self) -> Tensor:
        """Bool, as `log_values`: where the value is exactly zero, and not only too small for a format."""
        return self.log_values == -math.inf

    def underflows(self, dtype: torch.dtype) -> Tensor:
        """Bool, as `log_values`: where the value is not zero, but rounds to zero in `dtype`.

        That is where it is at most half the smallest positive subnormal number of `dtype`:
        2^-150 for float32, 2^-1075 for float64.
        """
        return (self.log_values <= log_half_smallest(dtype)) & ~self.vanished

    def to_dataset(self) -> xarray.Dataset:
        """Return `log_values` and `signs` with dims (depth, seed, x), for one value a point."""
        dims = ("depth", "seed", "x")
        coords = {"depth": np.arange(1, self.depth + 1), "seed": list(self.members), "x": self.x.numpy()}
        log_values = self.log_values[..., 0].numpy()
        about = {"long_name": "log |dh_l/dx|", "units": "natural logarithm"}
        return xarray.Dataset({"log_values": (dims, log_values, about), "signs": (dims, self.signs.numpy())}, coords)


def spectrum(net: WidthOneChain, x: Tensor) -> Spectrum:
    """Return log |dh_l/dx| and its sign for every prefix l of a piecewise-linear chain of width 1.

    With h_0 = x and h_l the state after step l, dh_l/dx = g_1 ... g_l, where
    g = skip + outer_weight weight (1 if z > 0 else slope) and z = weight h + bias, so a z of exactly 0 counts as
    not positive, as in torch. The read-out is not a step and is not among the factors.

    The logs are summed, with compensation, from the two logs that each step can contribute; a factor that is
    exactly zero gives -inf and sign 0 (a factor that cancels to under a thousandth is settled in rational
    arithmetic, at some microseconds each). The state is carried with an exponent of its own and cannot underflow or
    overflow, so the branches taken stay right at any depth; otherwise it is float64 and rounds as float64 does.

    Args:
        net: a `Chain` of width 1.
        x: points (points,) of the chain's dtype.

    Returns:
        A `Spectrum` with log_values (depth, seeds, points, 1) and signs (depth, seeds, points), on the CPU.

    Raises:
        ValueError, TypeError: for a chain without a step table, parameters or points that are not finite, and
            points of a wrong shape or dtype.

    >>> import torch, stability as st
    >>> chain = st.Chain("plain_prelu", depth=10_000, init="uniform")
    >>> s = st.spectrum(chain, torch.tensor([0.5], dtype=torch.float64))
    >>> s.log_values.shape
    torch.Size([10000, 1, 1, 1])
    >>> print(f"|J| = 10^{s.log_values[-1].item() / 2.302585092994046:.0f}")
    |J| = 10^-7330
    """
    if not all(hasattr(net, name) for name in ("table", "width", "depth", "members", "dtype", "device")):
        raise TypeError(f"net is a {type(net).__name__}: expected a stability.Chain of width 1")
    if net.width != 1:
        raise ValueError(f"the chain has width {net.width}: its spectrum is known at width 1; use torch.func.jacrev")
    table = np.ascontiguousarray(net.table()[:, : net.depth])
    check_finite("the chain's step table (seed, row, column)", table)
    check_finite("x", check_points(x, net.width, net.dtype, net.device))
    points = x.detach().to("cpu", torch.float64, copy=True)
    logs, factor_signs = log_factors(table)
    size = abs(table)
    safe = ((size == 0) | ((size > kernels.ROW_SMALL) & (size < kernels.ROW_LARGE))).all(axis=2)
    shape = (net.depth, len(table), len(points))
    log_values, signs = np.empty(shape), np.empty(shape, dtype=np.int8)
    kernels.log_derivatives(table, safe, logs, factor_signs, points.numpy(), log_values, signs)
    return Spectrum(torch.from_numpy(log_values)[..., None], torch.from_numpy(signs), points, net.members)
