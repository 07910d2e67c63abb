"""When and where the members of a chain died, as a result that grows while the chain trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stability.foundation.shown import Shown
from stability.jacobians import spectrum
from stability.networks import Chain
from stability.signals.death_causes import causes_of_death

if TYPE_CHECKING:
    import xarray

#: More than the rounding of a sum of three products, as a share of their sizes.
_ROUNDING = 2.0**-50
#: Within these sizes no product overflows, and what underflows is far below the smaller one.
_LEAST, _MOST = 1e-100, 1e60


class DeathRecord(Shown):
    """When and where the members of a chain died, as far as `watch_deaths` has looked.

    A member is dead while its derivative is exactly 0 at every point. Its layer of death is the first behind which all
    derivatives are 0, counted from 1, and 0 stands for none. A read-out is no layer here.

    Attributes:
        chain, x: what is looked at.
        born: int64 (seeds,), the layer of death at the first look.
        layer: int64 (seeds,), the same at the last look.
        iteration_of_death: int64 (seeds,), the iteration at which a member that was born alive was first seen dead, -1
            for none.
        layer_of_death: int64 (seeds,), its layer of death then, 0 for none.
        revivals: int64 (seeds,), how often a dead member was alive at the next look.
        table: float64 (seeds, rows, 6), the step table at the last look, which a chain that has been trained has left.
        before, after: float64 (seeds, rows, 6), the step table at the look before the first death, and at that death;
            the first table for members without one.
    """

    def __init__(self, chain: Chain, x: Tensor) -> None:
        self.chain, self.x = chain, x.double()
        self.table = torch.from_numpy(chain.table())
        self._rows: list[Tensor] = []
        self.layer, self._witness = self._exactly(self.table)
        self.born = self.layer.clone()
        self.iteration_of_death = torch.full_like(self.layer, -1)
        self.layer_of_death, self.revivals = torch.zeros_like(self.layer), torch.zeros_like(self.layer)
        self.before, self.after = self.table.clone(), self.table.clone()

    def __call__(self, iteration: int, *_losses: object) -> None:
        """Look at the chain again; this is what `st.train` calls as on_iteration."""
        table = torch.from_numpy(self.chain.table())
        # The dead stay dead as long as no layer up to their layer of death moves.
        behind = torch.arange(table.shape[1]) >= self.layer[:, None]
        unmoved = (self.layer > 0) & ((table == self.table).all(2) | behind).all(1)
        layer = self.layer.where(unmoved, 0)
        (unknown,) = (~unmoved).nonzero(as_tuple=True)
        unknown = unknown[~_surely_alive(table[unknown, : self.chain.depth], self.x[self._witness[unknown]])]
        if len(unknown):
            layer[unknown], self._witness[unknown] = self._exactly(table[unknown])
        first = (layer > 0) & (self.born == 0) & (self.iteration_of_death < 0)
        self.iteration_of_death[first], self.layer_of_death[first] = iteration, layer[first]
        self.before[first], self.after[first] = self.table[first], table[first]
        self.revivals += (self.layer > 0) & (layer == 0)
        self.layer, self.table = layer, table
        self._rows.append(layer > 0)

    @property
    def dead(self) -> Tensor:
        """Bool (looks, seeds), who was dead at each look after the first, which `born` holds."""
        return torch.stack(self._rows) if self._rows else torch.empty((0, len(self.born)), dtype=torch.bool)

    def causes(self) -> xarray.Dataset:
        """Return why each member died in training, with dims (seed, mover), NaN for members that did not.

        With z = w h + b the pre-activation of the layer of death, at the point where it was highest among those then
        on there and alive behind it, an iteration lowers z by, exactly, (w - w') h' + (b - b') + w (h - h').

        The data hold `distance`, this z one look before the death; `drop`, by how much it was lowered, and `drop_by`,
        the parts of it by the weight, the bias and the layers before; `live_points`, how many points were alive one
        look before; and `all_off`, whether the layer is off at all points, and not only at those that can reach it.
        """
        died = self.iteration_of_death > 0
        layers, depth = self.layer_of_death.where(died, 0).numpy(), self.chain.depth
        found = causes_of_death(self.before[:, :depth].numpy(), self.after[:, :depth].numpy(), layers, self.x.numpy())
        return found.assign_coords(seed=list(self.chain.members))

    def _exactly(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer of death of each member, and the number of a point at which it is alive."""
        signs = spectrum(Chain.from_table(table.numpy(), self.chain.architecture), self.x).signs
        assert signs is not None  # there are signs at width 1
        dead, alive = (signs == 0).all(2), signs[-1] != 0
        layer = torch.where(dead.any(0), dead.int().argmax(0) + 1, 0)
        # The middle one of the points that are alive stays alive the longest.
        middle = 2 * alive.cumsum(1) >= alive.sum(1, keepdim=True)
        return layer, (middle & alive).int().argmax(1)

    def __repr__(self) -> str:
        kinds = (self.born > 0, self.iteration_of_death >= 0, self.revivals > 0, self.layer > 0)
        born, died, again, now = (int(kind.sum()) for kind in kinds)
        return (
            f"DeathRecord({len(self._rows)} iterations, {len(self.born)} seeds: {born} born dead, {died} died in "
            f"training, {again} were alive again, {now} are dead)"
        )

    def to_dataset(self) -> xarray.Dataset:
        """Return who was dead with dims (iteration, seed), and what is known of each death by seed."""
        import xarray

        names = ("born", "layer", "iteration_of_death", "layer_of_death", "revivals")
        data: dict[str, object] = {name: ("seed", getattr(self, name).numpy()) for name in names}
        data["dead"] = (("iteration", "seed"), self.dead.numpy())
        coords = {"iteration": np.arange(len(self._rows)), "seed": list(self.chain.members)}
        return xarray.Dataset(data, coords, {"architecture": self.chain.architecture.name, "depth": self.chain.depth})


def _surely_alive(table: Tensor, x: Tensor) -> Tensor:
    """Return who has no factor of 0: on any way through the steps, or on that of its point x."""
    skip, weight, _, outer, _, slope = table.unbind(2)
    gain = outer * weight
    above, below = _is_not_zero(skip, gain), _is_not_zero(skip, gain * slope)
    ordinary = (table.abs() < _MOST).all(2).all(1)
    alive = (above & below).all(1) & ordinary
    (rest,) = (~alive & ordinary).nonzero(as_tuple=True)
    h, error, on = x[rest], torch.zeros(len(rest), dtype=x.dtype), torch.ones(len(rest), dtype=torch.bool)
    for k in range(table.shape[1] if len(rest) else 0):
        s, w, b, v, c, a = table[rest, k].unbind(1)
        z = w * h + b
        uncertain = w.abs() * error + _ROUNDING * ((w * h).abs() + b.abs()) + _LEAST
        on &= (h.abs() < _MOST) & (z.abs() > uncertain) & torch.where(z > 0, above[rest, k], below[rest, k])
        # On a side that is certain a step is a straight line, which stretches the error by its slope.
        q = v * torch.where(z > 0, 1.0, a)
        size = (s * h).abs() + (q * w * h).abs() + (q * b).abs() + c.abs()
        h, error = s * h + q * z + c, (s + q * w).abs() * error + _ROUNDING * (size + error) + _LEAST
    alive[rest] = on
    return alive


def _is_not_zero(skip: Tensor, gain: Tensor) -> Tensor:
    """Return where skip + gain is certainly not 0; where both are tiny nothing is certain."""
    size = skip.abs() + gain.abs()
    return ((skip + gain).abs() > _ROUNDING * size) & (size > _LEAST)
