"""How far chains of growing depth are from their limit, as a result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray

Array = NDArray[np.float64]

#: The levels of the quantiles that chains and their limit are compared by.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
#: What is compared of a sample of states: their mean, their mean square and quantiles.
STATISTICS = ("mean", "mean square", *(f"quantile {level:g}" for level in LEVELS))
#: A distance counts where it is this many times the error of the solver.
_ABOVE = 10.0


class Order(NamedTuple):
    """By which power of the depth a distance falls: L^-value.

    Attributes:
        value: the power.
        low, high: the ends of its interval, Student's over seeds or groups of them.
        depths: those that it was fitted to.
    """

    value: float
    low: float
    high: float
    depths: tuple[int, ...]


class Differences(NamedTuple):
    """Statistics of chains less those of the limit, (depth, point, statistic) each, in the order of `STATISTICS`.

    Attributes:
        value: the difference.
        half: half the width of its interval.
    """

    value: Tensor
    half: Tensor


@dataclass(frozen=True, repr=False)
class Flow(Shown):
    """Chains of growing depth beside the differential equation that they tend to.

    Attributes:
        kind: "ordinary", for factors that fall as 1 / L, or "stochastic", for 1 / sqrt(L) and independent weights.
        formula: of a step.
        depths: of the chains, (depth,).
        ends: their states after the last step, float64 (depth, seed, point, index).
        limit: h(1) of the equation, (seed, point, index): of the same seeds, or samples of their own.
        error: of the solver, root mean square over points, (seed,); 0 of samples, which have that of sampling.
        moves, limit_moves: of a stochastic equation the sum of the squared moves of the state, of the shapes of `ends`
            and `limit`; else void.
        steps: the Euler-Maruyama steps that a sample took, 0 of an ordinary equation.
        x: the points, (point, index).
        members: the member numbers of the seeds.
        level: of the intervals.
    """

    kind: str
    formula: str
    depths: tuple[int, ...]
    ends: Tensor
    limit: Tensor
    error: Tensor
    moves: Tensor
    limit_moves: Tensor
    steps: int
    x: Tensor
    members: tuple[int, ...]
    level: float

    @property
    def distances(self) -> Tensor:
        """(depth, seed), the root mean square over points and indices of h_L - h(1), of an ordinary equation."""
        self._need("ordinary", "members of a stochastic equation are not paired: see differences")
        return (self.ends - self.limit).square().mean(dim=(2, 3)).sqrt()

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Those of the chains, (depth, point, statistic), and of the limit, (point, statistic): see `STATISTICS`.

        At width 1 of the state itself, else of its root mean square over the indices.
        """
        self._need("stochastic", "the members of an ordinary equation are paired with those of chains: see distances")
        return torch.from_numpy(_statistics(self._sizes(self.ends))), torch.from_numpy(
            _statistics(self._sizes(self.limit))
        )

    @cached_property
    def differences(self) -> Differences:
        """The statistics of the chains less those of the limit, with Student's intervals over groups of seeds."""
        value, limit = self.statistics
        each = self._by_group(_statistics)
        half = self._student(len(each)) * each.std(axis=0, ddof=1) / math.sqrt(len(each))
        return Differences(value - limit, torch.from_numpy(half))

    @cached_property
    def order(self) -> Order | None:
        """The order of the distance in the depth, or None where fewer than two depths tell.

        Of an ordinary equation that of the slope of log distance against log depth over the deeper half of the depths
        (in logs), two at least, seed by seed, where the distance is ten times the error of the solver; seeds that are
        nearer are left out, and copies, as of given weights that are the same for all seeds, count once, for an
        interval over copies would have no width. Of a stochastic one that of the mean square, over all points,
        weighted, at the depths where the difference is larger than its interval, all of one sign; the interval comes
        from leaving out one group of seeds after another.
        """
        return self._order_of_distances() if self.kind == "ordinary" else self._order_of_squares()

    def _order_of_distances(self) -> Order | None:
        depths, distances = np.array(self.depths, dtype=float), self.distances.numpy()
        deep, seen = self._deep, self._seen
        if seen.sum() < 2:
            return None
        slopes = -np.polyfit(np.log(depths[deep]), np.log(distances[deep][:, seen]), 1)[0]
        half = self._student(len(slopes)) * float(slopes.std(ddof=1)) / math.sqrt(len(slopes))
        value = float(slopes.mean())
        return Order(value, value - half, value + half, tuple(int(depth) for depth in depths[deep]))

    @property
    def _deep(self) -> NDArray[np.bool_]:
        """Which depths, (depth,), an order of distances is fitted to."""
        depths = np.array(self.depths, dtype=float)
        return np.asarray(depths >= min(math.sqrt(depths[0] * depths[-1]) * (1 - 1e-12), depths[-2]))

    @property
    def _seen(self) -> NDArray[np.bool_]:
        """Which seeds, (seed,), are far enough from the flow there for the error of the solver, of copies the first."""
        far = (self.distances.numpy()[self._deep] > _ABOVE * self.error.numpy()).all(axis=0)
        return np.asarray(far & ~self._copies)

    @cached_property
    def _copies(self) -> NDArray[np.bool_]:
        """Which seeds, (seed,), are chains that an earlier seed is already, to the last bit."""
        chains = self.ends.transpose(0, 1).flatten(1).numpy()
        copies = np.ones(len(chains), dtype=bool)
        copies[np.unique(chains, axis=0, return_index=True)[1]] = False
        return copies

    def _order_of_squares(self) -> Order | None:
        each = self._squares_by_group()
        count, whole = len(each), each.mean(axis=0)
        error = each.std(axis=0, ddof=1) / math.sqrt(count)
        told = np.abs(whole) > self._student(count) * error
        # From the shallowest depth on, where the difference is largest.
        told &= np.cumprod(told & (np.sign(whole) == np.sign(whole[0]))).astype(bool)
        if told.sum() < 2:
            return None
        logs, weights = np.log(np.array(self.depths, dtype=float))[told], np.abs(whole[told]) / error[told]

        def slope(values: Array) -> float:
            return float(-np.polyfit(logs, np.log(np.abs(values[told])), 1, w=weights)[0])

        value = slope(whole)
        left_out = np.array([slope((count * whole - one) / (count - 1)) for one in each])
        half = self._student(count) * math.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
        return Order(value, value - half, value + half, tuple(int(d) for d in np.array(self.depths)[told]))

    def _squares_by_group(self) -> Array:
        """Return the mean square of chains less that of the limit, group by group, (group, depth).

        The mean of a state is x, of chains and of the limit, and so E h^2 = x^2 + E [h], [h] the sum of the squared
        moves, which has much less noise than h^2; what is left of it goes with h - x is taken out by regression.
        """
        controlled = []
        for states, moves in ((self.ends, self.moves), (self.limit[None], self.limit_moves[None])):
            off, square = (states - self.x).numpy(), moves.numpy()
            variance = (off**2).mean(axis=1, keepdims=True)
            slope = (off * square).mean(axis=1, keepdims=True) / np.where(variance > 0, variance, 1)
            parts = np.array_split((square - slope * off).mean(axis=(2, 3)), self._groups, axis=1)
            controlled.append(np.stack([part.mean(axis=1) for part in parts]))
        chains, limit = controlled
        found: Array = chains - limit
        return found

    @property
    def _groups(self) -> int:
        return max(4, min(20, len(self.members) // 10))

    def _student(self, count: int) -> float:
        return float(stdtrit(count - 1, (1 + self.level) / 2))

    def _sizes(self, states: Tensor) -> Array:
        """Return (..., point, seed): the state at width 1, else its root mean square."""
        sizes = states[..., 0] if states.shape[-1] == 1 else states.square().mean(dim=-1).sqrt()
        found: Array = sizes.transpose(-1, -2).numpy()
        return found

    def _by_group(self, statistic: object) -> Array:
        """Return a statistic of chains less that of the limit, group of seeds by group."""
        assert callable(statistic)
        count = self._groups
        chains, limit = self._sizes(self.ends), self._sizes(self.limit)
        parts = zip(np.array_split(chains, count, axis=-1), np.array_split(limit, count, axis=-1), strict=True)
        return np.stack([statistic(own) - statistic(other) for own, other in parts])

    def _need(self, kind: str, why: str) -> None:
        if self.kind != kind:
            raise ValueError(f"the equation is {self.kind}: {why}")

    @property
    def finding(self) -> str:
        """What was found, in words."""
        law = "1 / L" if self.kind == "ordinary" else "1 / sqrt(L)"
        what = "distance from the flow" if self.kind == "ordinary" else "mean square's distance from the limit's"
        order = self.order
        if order is not None:
            spread = max(order.high - order.value, 1e-12)
            digits = min(6, max(2, 1 - math.floor(math.log10(spread))))
            shares = f"L^-{order.value:.{digits}f} ({order.low:.{digits}f} to {order.high:.{digits}f})"
            return f"under {law} the {what} falls as {shares}"
        if self.kind == "stochastic":
            worst = self.differences
            inside = float((worst.value.abs() <= worst.half).double().mean())
            return f"under {law} {100 * inside:.0f} % of the statistics are within their intervals of the limit's"
        if self._seen.any():
            first, last = self.distances[[0, -1]][:, torch.from_numpy(self._seen)][:, 0].tolist()
            depths = f"{first:.2g} at depth {self.depths[0]} and {last:.2g} at depth {self.depths[-1]}"
            others = int(self._copies.sum())
            copies = f" (the others: {others} copies)" if others else ""
            return f"under {law} the {what} is {depths} in one seed{copies}, and an order takes two"
        return f"under {law} the {what} is as small as the solver's error, {float(self.error.max()):.1e}"

    def __repr__(self) -> str:
        size = f"{len(self.members)} seeds, {len(self.x)} points, width {self.x.shape[1]}"
        span = f"{len(self.depths)} depths from {self.depths[0]} to {self.depths[-1]}"
        return f"Flow({self.kind}, {self.formula}: {span}, {size}; {self.finding})"

    def to_dataset(self) -> xarray.Dataset:
        """Return the ends with dims (depth, seed, x, index), the limit's, and what was compared."""
        import xarray

        data = {
            "ends": (("depth", "seed", "x", "index"), self.ends.numpy()),
            "limit": (("seed", "x", "index"), self.limit.numpy()),
            "error": ("seed", self.error.numpy()),
            "points": (("x", "index"), self.x.numpy()),
        }
        if self.kind == "ordinary":
            data["distances"] = (("depth", "seed"), self.distances.numpy())
        else:
            dims = ("depth", "x", "statistic")
            value, limit = self.statistics
            data["moves"] = (("depth", "seed", "x", "index"), self.moves.numpy())
            data["limit_moves"] = (("seed", "x", "index"), self.limit_moves.numpy())
            data["statistics"] = (dims, value.numpy())
            data["limits"] = (dims[1:], limit.numpy())
            data["differences"] = (dims, self.differences.value.numpy())
            data["half_widths"] = (dims, self.differences.half.numpy())
        coords: dict[str, list[int] | list[str]] = {"depth": list(self.depths), "seed": list(self.members)}
        if self.kind == "stochastic":
            coords["statistic"] = list(STATISTICS)
        order = {} if self.order is None else {"order": [self.order.value, self.order.low, self.order.high]}
        attrs = {"kind": self.kind, "formula": self.formula, "finding": self.finding, "level": self.level, **order}
        return xarray.Dataset(data, coords, attrs)


def _statistics(sizes: Array) -> Array:
    """Return the statistics of (..., seed), (..., statistic)."""
    quantiles = np.moveaxis(np.quantile(sizes, LEVELS, axis=-1), 0, -1)
    return np.concatenate([sizes.mean(axis=-1)[..., None], (sizes**2).mean(axis=-1)[..., None], quantiles], axis=-1)
