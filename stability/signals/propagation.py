"""How signals travel forward, as a result: their size, how much a layer moves them, how alike two of them become."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class Propagation(Shown):
    """The states of a network layer by layer, in natural logarithms; a module counts as one seed.

    Attributes:
        log_norms: float64 (layers + 1, seeds, points), the log of the L2 norm of the state of each point before each
            layer and after the last; -inf where it is exactly zero.
        log_largest: the same shape, the log of the largest entry of the state.
        log_updates: (layers, seeds, points), log of |h_l - h_(l-1)| / |h_(l-1)|: how far a layer moves the state,
            relative to it. inf where it leaves zero, and -inf where nothing moves or the shape changes.
        same_shape: bool (layers,), whether the layer keeps the shape of the state.
        correlations: (layers + 1, seeds, pairs), the cosine between the states of two points, 0 where one is zero. At
            width 1 that is 1 or -1.
        log_decorrelations: the same shape, log (1 - correlation), without cancellation: two states in the same
            direction to a relative 1e-10 still have one of about -46. -inf where float64 tells no difference.
        pairs: (pairs, 2), which points.
        widths: int64 (layers + 1,), how many numbers the state of a point has.
        layers: the names of the layers.
        members: the member numbers along the seeds.
        x: the points.
    """

    log_norms: Tensor
    log_largest: Tensor
    log_updates: Tensor
    same_shape: Tensor
    correlations: Tensor
    log_decorrelations: Tensor
    pairs: Tensor
    widths: Tensor
    layers: tuple[str, ...]
    members: tuple[int, ...]
    x: Tensor

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.layers)

    def __repr__(self) -> str:
        low, high = (float(self.log_norms[layer].median()) for layer in (0, -1))
        return (
            f"Propagation({self.depth} layers, {len(self.members)} seeds, {self.log_norms.shape[2]} points, median log "
            f"|h| {low:+.4g} before the first to {high:+.4g} after the last)"
        )

    @classmethod
    def of_seeds(cls, results: Sequence[Propagation]) -> Propagation:
        """Join results of networks with the same layers and points, such as one model from several seeds.

        Raises:
            ValueError, TypeError: for no results, and those with other layers, widths, points or pairs than the first.

        >>> import torch, stability as st
        >>> x = torch.ones(3, 8)
        >>> results = []
        >>> for seed in range(5):
        ...     _ = torch.manual_seed(seed)
        ...     results.append(st.propagation([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)], x))
        >>> st.Propagation.of_seeds(results).log_norms.shape
        torch.Size([3, 5, 3])
        """
        results = list(results)
        if not results:
            raise ValueError("there are no results to join: expected at least one")
        first = results[0]
        for number, other in enumerate(results):
            if not isinstance(other, Propagation):
                raise TypeError(f"result {number} is a {type(other).__name__}: expected a Propagation")
            alike = other.layers == first.layers and all(
                torch.equal(getattr(other, name), getattr(first, name)) for name in ("same_shape", "widths")
            )
            if not alike:
                raise ValueError(f"result {number} has other layers than the first: join what is alike")
            if not (torch.equal(other.x, first.x) and torch.equal(other.pairs, first.pairs)):
                raise ValueError(
                    f"result {number} has other points, or pairs of them, than the first: join what is alike"
                )
        over_seeds = ("log_norms", "log_largest", "log_updates", "correlations", "log_decorrelations")
        joined = {name: torch.cat([getattr(r, name) for r in results], dim=1) for name in over_seeds}
        members = tuple(range(joined["log_norms"].shape[1]))
        return dataclasses.replace(first, members=members, **joined)  # type: ignore[arg-type]

    def to_dataset(self) -> xarray.Dataset:
        """Return everything with dims (depth, seed, x) and (depth, seed, pair), depth 0 before the first layer."""
        import xarray

        about = {"units": "natural logarithm"}
        undefined = np.full((1, *self.log_updates.shape[1:]), -np.inf)
        coords: dict[str, object] = {
            "depth": np.arange(self.depth + 1),
            "seed": list(self.members),
            "x": self.x.double().cpu().numpy() if self.x.ndim == 1 else np.arange(self.log_norms.shape[2]),
        }
        return xarray.Dataset(
            {
                "log_norms": (("depth", "seed", "x"), self.log_norms.numpy(), {"long_name": "log |h_l|", **about}),
                "log_updates": (
                    ("depth", "seed", "x"),
                    np.concatenate([undefined, self.log_updates.numpy()]),
                    {"long_name": "log |h_l - h_(l-1)| / |h_(l-1)|", **about},
                ),
                "correlations": (("depth", "seed", "pair"), self.correlations.numpy()),
                "log_decorrelations": (("depth", "seed", "pair"), self.log_decorrelations.numpy(), about),
                "pairs": (("pair", "end"), self.pairs.numpy()),
            },
            coords,
        )
