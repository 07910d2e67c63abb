"""What a product makes of its singular values that is formed in float64 and decomposed: for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from stability.foundation.arguments import door
from stability.jacobians.of_matrices import Matrices, layers_of
from stability.jacobians.of_networks import states_of
from stability.jacobians.products import Array
from stability.reading import Layers
from stability.reading.chain_reading import StepTable
from stability.reading.derivatives import derivatives
from stability.reading.read import AnyNetwork, read


@door
def naive_spectrum(
    net: AnyNetwork | Matrices,
    x: object = None,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
) -> Tensor:
    """Return the log singular values of every prefix product as they come by multiplying and decomposing in float64.

    They are wrong below the rounding of the largest one, without a sign of it: this is what `spectrum` is held
    against. A value that the decomposition gives as 0 is -inf.

    Args:
        net, x, layers, source, batch_dim: as for `spectrum`. The Jacobians of all points are held at once.

    Returns:
        The log values, of the shape of `Spectrum.log_values`: (depth, seeds, points, k), and (depth, *batch, k) for
        matrices.

    Raises:
        ValueError, TypeError: as for `spectrum`; for a chain of one neuron a layer, whose Jacobian is one number that
            float64 holds or not (`Spectrum.underflows`); and for a product that overflows float64.

    >>> import torch, stability as st
    >>> J = torch.randn(200, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 8**0.5
    >>> naive, right = st.naive_spectrum(J), st.spectrum(J).log_values
    >>> bool((naive - right)[:, 0].abs().max() < 1e-9), bool((naive - right)[-1, -1].abs() > 50)
    (True, True)
    """
    if x is None:
        if isinstance(net, nn.Module):
            raise TypeError(f"x is missing: a {type(net).__name__} has Jacobians only at points")
        if layers is not None:
            raise ValueError("matrices have no layers=: leave it out, all values of all of them come back")
        matrices, batch, _ = layers_of(cast(Matrices, net))
        return _decomposed(matrices, batch)
    reading = read(cast(AnyNetwork, net), x, layers, source, batch_dim)
    if isinstance(reading, StepTable):
        raise ValueError(
            "the chain has one neuron a layer: its Jacobian is one number, right wherever float64 holds it; "
            "see Spectrum.underflows, or take a wider chain"
        )
    with states_of(reading) as (names, states):
        jacobians = [layer.jacobian() for layer in derivatives(names, states)]
        batch = (len(reading.members), states[0].batch[-1])
    return _decomposed(jacobians, batch)


def _decomposed(layers: Sequence[Array], batch: tuple[int, ...]) -> Tensor:
    """Return the logs of the values of every product, in as many columns as the first layer leaves."""
    columns = min(layers[0].shape[1:])
    product, found = layers[0], np.full((len(layers), len(layers[0]), columns), -np.inf)
    for place, layer in enumerate(layers):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            product = layer @ product if place else product
            if not np.isfinite(product).all():
                raise ValueError(f"the product of the first {place + 1} layers is beyond float64: see st.spectrum")
            values = np.log(np.linalg.svd(product, compute_uv=False))[:, :columns]
        found[place, :, : values.shape[1]] = values
    return torch.from_numpy(found.reshape(len(layers), *batch, columns))
