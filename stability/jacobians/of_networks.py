"""The spectrum of a network's Jacobian products: for a chain, a Sequential, a list of blocks, or any module."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from stability.checks import check_integer, check_positive
from stability.jacobians.block_jacobians import block_jacobian
from stability.jacobians.blocks import Blocks, find_blocks
from stability.jacobians.leading import leading_spectrum
from stability.jacobians.of_matrices import spectrum_of_layers
from stability.jacobians.products import Array
from stability.jacobians.spectrum import Spectrum
from stability.jacobians.width_one import WidthOneChain, is_piecewise_linear_width_one, width_one_spectrum

Network = WidthOneChain | nn.Module | Sequence[Callable[[Tensor], Tensor]]


def spectrum(
    net: Network,
    x: Tensor,
    blocks: str | Sequence[str] | None = None,
    k: int | None = None,
    *,
    check: bool = True,
    distances: bool = True,
    memory: float = 4.0,
    progress: bool = True,
) -> Spectrum:
    """Return the log singular values of dh_l/dh_0, the Jacobian of the first l layers, for every l and every point.

    All of them are right at any depth and condition number, see `product_spectrum`, which takes the layers'
    Jacobians from here. At width 1 a piecewise-linear chain's are sums of logarithms, with a sign, and its state
    cannot leave the range; wider states are those of the network's own dtype.

    What a layer is:

    - a `Chain`: a step. The read-out is none.
    - an `nn.Sequential`: a child. A list or tuple of callables: an entry, which takes and returns a state.
    - any other `nn.Module`: the children of the Sequential or ModuleList named `blocks`, or the modules that a list
      of names gives, in the order in which the model calls them; x is what the model takes. Without `blocks`, the
      longest Sequential or ModuleList whose children all keep the state's shape and follow each other.
      `Spectrum.blocks` says which were taken.

    The first dimension of x and of every state is the batch of points, and what follows is flattened: h_0 is the
    state before the first layer. Layers may change the width; there are then as many singular values as the smallest
    dimension so far. Jacobians come by reverse mode, or by forward mode where a layer's input is smaller than its
    output, and are held against random probes in both.

    Args:
        net: the network, in eval mode.
        x: points, (points,) or (points, n) for a chain, and what the network takes otherwise.
        blocks: which layers of a module.
        k: only the k leading values, without forming any Jacobian, for states too large for that; see
            `Spectrum.residuals` for how far they have converged.
        check: whether to test the values, see `SelfCheck`.
        distances: whether to measure how far layers and products are from the identity. Neither applies with k.
        memory: GiB that the Jacobians may take; points are taken in portions that fit.
        progress: whether to show a progress bar, on a terminal.

    Returns:
        A `Spectrum` on the CPU, with log_values (depth, points, k), and (depth, seeds, points, k) for a chain.

    Raises:
        ValueError, TypeError: for points or parameters that are not finite, blocks that do not chain, that return
            anything but one tensor or change the batch, batch normalisation in train mode, dropout, integer states,
            Jacobians that are not finite, and a memory budget that one point exceeds.

    >>> import torch, stability as st
    >>> chain = st.Chain("plain_prelu", depth=10_000, init="uniform")
    >>> s = st.spectrum(chain, torch.tensor([0.5], dtype=torch.float64))
    >>> print(f"|J| = 10^{s.log_values[-1].item() / 2.302585092994046:.0f}")
    |J| = 10^-7330
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(50)]).double()
    >>> s = st.spectrum(net, torch.zeros(3, 8, dtype=torch.float64))
    >>> s.log_values.shape, bool(s.self_check.passed.all())
    (torch.Size([50, 3, 8]), True)
    """
    chain: Any = net
    if k is not None:
        check_integer("k", k, 1)
    check_positive("memory", memory)
    if is_piecewise_linear_width_one(net):
        if blocks is not None:
            raise ValueError("a chain's blocks are its steps: leave out blocks=")
        if k is not None:
            check_integer("k", k, 1, 1)  # all that there is
        return width_one_spectrum(chain, x, distances)
    found = find_blocks(net, x, blocks)
    members = chain.members if found.batch_dims == 2 else None
    if k is not None:
        part = leading_spectrum(found, k, progress)
    else:
        part = _in_portions(found, check, distances, memory, progress)
    return dataclasses.replace(part, x=x.detach().to("cpu", copy=True), members=members, blocks=found.names)


def _in_portions(found: Blocks, check: bool, distances: bool, memory: float, progress: bool) -> Spectrum:
    """Take as many points at a time as the memory allows, and join what comes back."""
    dims, (*lead, points) = found.batch_dims, found.states[0].shape[: found.batch_dims]
    widths = [math.prod(state.shape[dims:]) for state in found.states]
    # Jacobians, and beside the largest of them what is in work.
    products = [a * b for a, b in zip(widths[1:], widths[:-1], strict=True)]
    one = 8 * math.prod(lead) * (sum(products) + 6 * max(*products, widths[0] ** 2)) / 2**30
    if one > memory:
        raise ValueError(
            f"the Jacobians of one point take {one:.3g} GiB ({len(products)} layers of up to {max(widths)} numbers"
            + (f", {math.prod(lead)} seeds" if lead else "")
            + f"): the budget is {memory:g} GiB. Raise memory=, take fewer layers, or ask for the leading values "
            "alone with k="
        )
    portion = max(1, int(memory / one))
    parts = []
    bar = tqdm(total=points * len(products), desc="Jacobians", disable=None if progress else True)
    with bar:
        for start in range(0, points, portion):
            stop = min(points, start + portion)
            batch = (*lead, stop - start)
            layers: list[Array] = []
            for name, block, state in zip(found.names, found.functions, found.states[:-1], strict=True):
                try:
                    jacobian = block_jacobian(name, block, state.narrow(dims - 1, start, stop - start), dims)
                except ValueError as error:
                    raise ValueError(f"{error} (points {start} to {stop - 1})" if portion < points else error) from None
                layers.append(jacobian.reshape(math.prod(batch), *jacobian.shape[dims:]))
                bar.update(stop - start)
            parts.append(spectrum_of_layers(layers, batch, found.states[0].dtype, check, distances, progress))
    return parts[0] if len(parts) == 1 else _join(parts, dims)


def _join(parts: list[Spectrum], dims: int) -> Spectrum:
    """Join spectra of portions of the points, the last dimension of the batch."""

    def join(values: list[Tensor | None], axis: int) -> Tensor | None:
        return None if values[0] is None else torch.cat([v for v in values if v is not None], dim=axis)

    checks = [part.self_check for part in parts]
    check = checks[0]
    if check is not None:
        over = {"determinant": dims, "bound": dims, "reversed": dims - 1, "sensitivity": dims - 1}
        joined = {name: join([getattr(one, name) for one in checks], axis) for name, axis in over.items()}
        check = dataclasses.replace(check, **joined)  # type: ignore[arg-type]
    fields = ("log_values", "undecided", "distance_from_identity", "log_product_distance")
    values = {name: join([getattr(part, name) for part in parts], dims) for name in fields}
    return dataclasses.replace(parts[0], **values, self_check=check)  # type: ignore[arg-type]
