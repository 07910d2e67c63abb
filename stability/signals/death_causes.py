"""What moved the pre-activation of the layer that killed a member under 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray

Array = NDArray[np.float64]
#: What changes z = weight h + bias from one iteration to the next.
MOVERS = ("its weight", "its bias", "the layers before")


def causes_of_death(before: Array, after: Array, layers: NDArray[np.int64], x: Array) -> xarray.Dataset:
    """Return by seed what the last iteration before a death did, NaN for members without a layer of death.

    Args:
        before, after: (seeds, steps, 6), the step tables around the death.
        layers: (seeds,), the layer of death, 0 for none.
        x: (points,).
    """
    import xarray

    seeds = len(layers)
    found = {name: np.full(seeds, np.nan) for name in ("distance", "drop", "live_points", "all_off")}
    drop_by = np.full((seeds, len(MOVERS)), np.nan)
    for s in np.flatnonzero(layers):
        k = int(layers[s]) - 1
        (h, z, live), (h_after, z_after, _) = (_pre_activations(table[s], k, x) for table in (before, after))
        if not live.any():  # no layer died of its pre-activation: a factor is 0 on both sides
            continue
        p = np.where(live, z, -np.inf).argmax()
        (w, b), (w_after, b_after) = before[s, k, 1:3], after[s, k, 1:3]
        drop_by[s] = (w - w_after) * h_after[p], b - b_after, w * (h[p] - h_after[p])
        found["distance"][s], found["drop"][s] = z[p], z[p] - z_after[p]
        found["live_points"][s], found["all_off"][s] = live.sum(), (z_after <= 0).all()
    data: dict[str, object] = {name: ("seed", values) for name, values in found.items()}
    return xarray.Dataset(data | {"drop_by": (("seed", "mover"), drop_by)}, {"mover": list(MOVERS)})


def _pre_activations(rows: Array, layer: int, x: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return at a layer the states, the pre-activations, and the points that are on there and alive behind it."""
    h, live = x, np.ones(len(x), dtype=bool)
    for skip, weight, bias, outer, outer_bias, slope in rows[:layer]:
        z = weight * h + bias
        side = np.where(z > 0, 1.0, slope)
        h, live = skip * h + outer * side * z + outer_bias, live & (skip + outer * weight * side != 0)
    skip, weight, bias, outer = rows[layer, :4]
    z = weight * h + bias
    return h, z, live & (z > 0) & (skip + outer * weight != 0)
