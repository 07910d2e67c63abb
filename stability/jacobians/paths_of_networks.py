"""Spreads the Jacobian product of a network over the lengths of the paths through its layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_positive
from stability.foundation.formats import SPACING, Format
from stability.jacobians.of_matrices import Matrices, layers_of
from stability.jacobians.of_networks import jacobians_in_portions, states_of
from stability.jacobians.path_lengths import Paths
from stability.jacobians.path_polynomials import TOGETHER, Polynomials, path_polynomial
from stability.jacobians.products import Array
from stability.jacobians.table_paths import table_paths
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, read
from stability.reading.states import State

#: A relative bound up to which a coefficient is not calculated a second time.
CLEAR = 1e-6
#: How many times what one nudge of the layers changes counts as the error.
NUDGED = 10.0


@door
def paths(
    net: AnyNetwork | Matrices,
    x: object = None,
    layers: str | Sequence[str] | Layers | None = None,
    k: int | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    memory: float = 4.0,
    progress: bool = True,
) -> Paths:
    """Return how the Jacobian of a network spreads over path lengths: the norms of the coefficients of prod(I + z A_l).

    With A_l = J_l - I, the branch of layer l beside the identity, J_L ... J_1 is the sum over all 2^L sets of layers of
    the product of their branches, a path through these layers and past the others (Veit et al. 2016). The coefficient
    C_k of z^k in (I + z A_L) ... (I + z A_1) sums up the paths of length k. All of them are found at once, by a product
    tree of polynomials, with an exponent of its own for every coefficient, so that they may spread over any number of
    decades; that takes about depth^2 n^3 operations.

    Every coefficient comes with a bound of its error. At width 1 the bound follows each operation, and coefficients
    that it does not vouch for are taken in rational arithmetic where some seconds are enough: an exact zero comes out
    as one. At width n, where the bound is not tight, or the network works in a narrower format than float64, all is
    calculated again with layers that are nudged by their own rounding, and ten times the difference counts as the
    error. What is still open is told by `Paths.undecided`.

    Args:
        net: the network, in eval mode; or, without x, matrices (depth, *batch, n, n).
        x: points, as for `st.spectrum`.
        layers, source, batch_dim: how a module is read, see `st.layers`. Every layer must keep the shape of the state:
            of a network with an embedding and a head name the layers between, such as layers="blocks".
        k: the longest path wanted; the depth without.
        memory: GiB that the Jacobians may take; points are taken in portions that fit.
        progress: whether to show a progress bar, on a terminal.

    Returns:
        `Paths` on the CPU, with log_norms (k + 1, seeds, points), and (k + 1, *batch) for matrices.

    Raises:
        ValueError, TypeError: for a layer that changes the shape of the state, and as for `st.spectrum`.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=100, seeds=20)
    >>> p = st.paths(chain, torch.tensor([0.5], dtype=torch.float64))
    >>> p.log_norms.shape, bool(p.undecided.any())
    (torch.Size([101, 20, 1]), False)
    >>> J = torch.eye(3, dtype=torch.float64) * 1.5
    >>> st.paths(J.expand(10, 3, 3)).shares[:3].sum()  # binomial coefficients, squared, times 1/4^k
    tensor(0.2447, dtype=torch.float64)
    """
    if k is not None:
        check_integer("k", k, 0)
    check_positive("memory", memory)
    if x is None:
        return _of_matrices(net, layers, k)
    reading = read(net, x, layers, source, batch_dim)
    if isinstance(reading, StepTable):
        return table_paths(reading, _highest(k, reading.chain.depth))
    with states_of(reading) as (names, states):
        _check_shapes(names, states)
        part = _of_states(reading, names, states, _highest(k, len(names)), memory, progress)
    return dataclasses.replace(part, x=reading.x.detach().to("cpu", copy=True), members=reading.members, layers=names)


def _highest(k: int | None, depth: int) -> int:
    """Return the longest path wanted."""
    if k is None:
        return depth
    if k > depth:
        raise ValueError(f"k is {k}: the network has {depth} layers, so no path is longer")
    return int(k)


def _check_shapes(names: Sequence[str], states: Sequence[State]) -> None:
    """Raise for the first layer that changes the shape of the state."""
    for name, before, after in zip(names, states[:-1], states[1:], strict=True):
        if before.shapes != after.shapes:
            raise ValueError(
                f"layer {name} changes the shape of the state from {before.shape} to {after.shape}: a path goes past a "
                "layer only where the state keeps its shape; name the layers between in layers=, such as a container"
            )


def _of_matrices(net: AnyNetwork | Matrices, layers: object, k: int | None) -> Paths:
    if isinstance(net, nn.Module):
        raise TypeError(f"x is missing: a {type(net).__name__} has Jacobians only at points")
    if layers is not None:
        raise ValueError("matrices have no layers=: leave it out, all of them are taken")
    matrices, batch, _ = layers_of(cast(Matrices, net))
    for number, matrix in enumerate(matrices):
        rows, columns = matrix.shape[1:]
        if rows != columns or columns != matrices[0].shape[2]:
            raise ValueError(f"matrix {number} is {rows} by {columns}: a path goes past it only if it is square")
    found = _of_jacobians(matrices, _highest(k, len(matrices)), torch.float64)
    return found.shaped(batch)


@dataclasses.dataclass(frozen=True)
class _Found:
    """Logs (.., batch) of norms, of bounds of their errors, and of the branches, and the signs at width 1."""

    log_norms: Array
    log_errors: Array
    log_branches: Array
    signs: NDArray[np.int8] | None
    width: int

    def shaped(self, batch: tuple[int, ...]) -> Paths:
        def tensor(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).reshape(len(values), *batch)

        signs = None if self.signs is None else tensor(self.signs)
        norms, errors, branches = (tensor(values) for values in (self.log_norms, self.log_errors, self.log_branches))
        return Paths(norms, errors, branches, signs, self.width)


def _of_states(
    reading: Steps | Network,
    names: tuple[str, ...],
    states: list[State],
    highest: int,
    memory: float,
    progress: bool,
) -> Paths:
    """Take as many points at a time as the memory allows, and join what comes back."""
    seeds = len(reading.members)
    parts = [
        _of_jacobians(found, highest, dtype).shaped((seeds, points))
        for points, found, dtype in jacobians_in_portions(reading, names, states, memory, progress)
    ]
    joined = dataclasses.replace(
        parts[0],
        log_norms=torch.cat([part.log_norms for part in parts], dim=2),
        log_errors=torch.cat([part.log_errors for part in parts], dim=2),
        log_branches=torch.cat([part.log_branches for part in parts], dim=2),
    )
    signs = [part.signs for part in parts if part.signs is not None]
    return dataclasses.replace(joined, signs=torch.cat(signs, dim=2)) if signs else joined


def _of_jacobians(jacobians: Sequence[Array], highest: int, dtype: torch.dtype) -> _Found:
    """Return the paths of Jacobians (batch, n, n) that come from calculations in a dtype."""
    batch, n = jacobians[0].shape[:2]
    branches = [one - np.eye(n) for one in jacobians]
    depth, spacing = len(branches), Format(dtype).spacing
    portion = max(1, int(TOGETHER / (4 * depth * n * n)))
    norms, errors, signs = [], [], []
    random = np.random.default_rng(0)
    noise = random.standard_normal((depth, n, n))
    for start in range(0, batch, portion):
        some = [branch[start : start + portion] for branch in branches]
        first = path_polynomial(some, highest)
        logs, bounds = first.log_norms[0], first.log_errors[0]
        if spacing > SPACING or (bounds > logs + math.log(CLEAR)).any():
            nudged = path_polynomial(_nudged(some, noise, spacing), highest)
            moved = _log_distance(first, nudged) + math.log(NUDGED)
            least = logs + math.log(NUDGED * spacing)
            seen = np.where(bounds == -np.inf, bounds, np.maximum(moved, least))
            bounds = seen if spacing > SPACING else np.minimum(bounds, seen)
        norms.append(logs)
        errors.append(bounds)
        signs.append(np.sign(first.mantissas[0, :, :, 0, 0]).astype(np.int8))
    with np.errstate(divide="ignore"):
        sizes = np.stack([_log_norms(branch) for branch in branches]) - math.log(n) / 2
    own = np.concatenate(signs).T if n == 1 else None
    return _Found(np.concatenate(norms).T, np.concatenate(errors).T, sizes, own, n)


def _log_norms(matrices: Array) -> Array:
    largest = abs(matrices).max(axis=(1, 2))
    scaled = matrices / np.where(largest == 0, 1.0, largest)[:, None, None]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.linalg.norm(scaled, axis=(1, 2))) + np.log(largest))


def _nudged(branches: Sequence[Array], noise: Array, spacing: float) -> list[Array]:
    """Return A_l with what rounding may have done to J_l: to all entries that are not exactly those of the identity."""
    n = branches[0].shape[1]
    moved = []
    for branch, one in zip(branches, noise, strict=True):
        entries = abs(branch + np.eye(n))
        size = entries + np.linalg.norm(entries, axis=2, keepdims=True) / math.sqrt(n)
        moved.append(np.where(branch == 0, 0.0, branch + spacing * size * one))
    return moved


def _log_distance(one: Polynomials, other: Polynomials) -> Array:
    """Return the log of the norm of the difference of coefficients, (batch, k + 1)."""
    top = np.maximum(one.exponents, other.exponents)
    first, second = (np.ldexp(p.mantissas, np.maximum(p.exponents - top, -2000)[..., None, None]) for p in (one, other))
    size = np.linalg.norm(first - second, axis=(3, 4))
    with np.errstate(divide="ignore"):
        logs = np.log(size) + np.where(size > 0, top, 0) * math.log(2)
    return np.asarray(logs[0])
