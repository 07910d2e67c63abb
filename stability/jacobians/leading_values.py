"""The leading singular values of every prefix without its Jacobian: block Krylov iteration with graded QR."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from stability.foundation.formats import Format
from stability.jacobians.products import Array, PrefixProducts
from stability.jacobians.spectrum import Spectrum
from stability.reading.derivatives import Derivative, derivatives
from stability.reading.states import State

#: Directions kept beyond the k that are asked for: they take what is nearly as large as the k-th value.
SPARE = 4
#: A relative residual r leaves a relative error of about r^2 in a value that is apart from the others, at most r else.
TOLERANCE = 1e-6
#: Random directions that are added to every guess.
FRESH = 2
ROUNDS = 40
#: Jacobians of so many numbers altogether are formed: a product with them is far cheaper than one through the graph.
HELD = 2**25


def leading_spectrum(
    names: Sequence[str],
    states: Sequence[State],
    k: int,
    progress: bool,
    seeds: int = 1,
    apart: bool = False,
    until: float = math.inf,
) -> Spectrum:
    """Return the k leading singular values of every prefix from products with J and J^T.

    For every prefix the right singular vectors are sought in the space of the last guess, of what P^T P makes of it,
    of the guess before (a locally optimal block iteration), and of random directions, by a Rayleigh-Ritz projection in
    the log domain; the first guess is that of the prefix before. Without the random ones a guess at a right angle to
    the leading vectors would stay there, with a residual of 0. Values are approached from below. Deep prefixes cost in
    proportion to their depth, so that all of them cost in proportion to its square.

    Args:
        names, states: of the layers, and before the first of them and after each.
        k: how many values.
        progress: whether to show a progress bar.
        seeds: how many; a module is one.
        apart: whether points are known not to depend on one another.
        until: the time on `time.monotonic` at which it is given up.

    Raises:
        ValueError: where points depend on one another, and where a derivative is not finite.
        TimeoutError: where the values have not converged in time.
    """
    size = states[0].size
    widths = [state.width for state in states]
    found = derivatives(names, states)
    numbers = size * sum(a * b for a, b in itertools.pairwise(widths))
    for layer in found:
        if not apart:
            layer.refuse_mixed_points()
        if numbers <= HELD:
            layer.hold()
        else:
            layer.check_adjoint()
    depth, n = len(found), widths[0]
    kept = min(n, k + SPARE)
    generator = torch.Generator().manual_seed(0)
    # One start for all points, so that a point is treated alike alone and among others.

    def random_rows(count: int) -> Array:
        rows = torch.randn(n, count, dtype=torch.float64, generator=generator).numpy()
        return np.tile(np.linalg.qr(rows)[0].T, (size, 1, 1))

    guess = random_rows(kept)
    log_values, residuals = np.empty((depth, size, k)), np.empty((depth, size, k))
    undecided = np.zeros((depth, size), np.int64)
    for prefix in tqdm(range(1, depth + 1), desc="leading values", disable=None if progress else True):
        before = guess
        for turn in range(ROUNDS):
            if time.monotonic() > until:
                raise TimeoutError
            left = _push(found, prefix, guess)
            values, residual, pulled = _residuals(found, prefix, left, guess, k)
            if turn and not (residual >= TOLERANCE).any():  # NaN where a value is zero
                break
            space = np.concatenate([guess, random_rows(min(n, FRESH)), pulled, before], axis=1)
            space = _orthonormal(space[:, :n])
            turned = _push(found, prefix, space).right_vectors()[:, :kept] @ space
            before, guess = guess, _orthonormal(np.concatenate([turned, space], axis=1))[:, :kept]
        lost = np.minimum(left.lost, (values == -math.inf).sum(axis=1))
        log_values[prefix - 1], residuals[prefix - 1], undecided[prefix - 1] = values, residual, lost

    def shaped(a: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(a).reshape(depth, seeds, size // seeds, *a.shape[2:])

    return Spectrum(shaped(log_values), (k,) * depth, shaped(undecided), residuals=shaped(residuals))


def _orthonormal(rows: Array) -> Array:
    """Return as many orthonormal rows, at most as many as there are columns, the first ones spanning what they did."""
    return np.ascontiguousarray(np.linalg.qr(rows.transpose(0, 2, 1))[0].transpose(0, 2, 1))


def _push(found: list[Derivative], prefix: int, rows: Array) -> PrefixProducts:
    """Return the product of the first layers with the directions `rows`, (size, q, n)."""
    return _through(found, range(prefix), rows, forward=True)


def _through(found: list[Derivative], layers: range, rows: Array, forward: bool) -> PrefixProducts:
    product = PrefixProducts(len(rows), rows.shape[1])
    for number, layer in enumerate(layers):
        # What a layer rounds grows with all that it adds up, of which what was pushed shows a part.
        spacing = Format(found[layer].dtype).spacing * max(1.0, found[layer].before.width / rows.shape[1])
        directions = rows if number == 0 else product.basis
        given = torch.from_numpy(np.ascontiguousarray(directions.transpose(1, 0, 2)))
        got = found[layer].push(given) if forward else found[layer].pull(given)
        if not got.isfinite().all():
            raise ValueError(
                f"what layer {found[layer].name} makes of a small change is not finite in "
                f"{'forward' if forward else 'backward'} mode: look at what the layer does there (a root of 0, a "
                "division by 0, an overflow)"
            )
        # (directions, points, m) as columns, (points, m, directions)
        columns = got.detach().to("cpu", torch.float64).permute(1, 2, 0).contiguous().numpy()
        product.multiply_applied(columns, spacing)
    return product


def _residuals(
    found: list[Derivative], prefix: int, left: PrefixProducts, guess: Array, k: int
) -> tuple[Array, Array, Array]:
    """Return log values, relative residuals (NaN of zeros) and the directions P^T u of the guess.

    The residual of a value s with vectors u, v is what P^T u has outside the space of the guess, over s. Inside that
    space the Rayleigh-Ritz projection has left nothing but rounding.
    """
    values = left.log_values()[:, :k]
    back = _through(found, range(prefix - 1, -1, -1), left.basis, forward=False)
    logs, mixing = back.parts
    outside = back.basis - (back.basis @ guess.transpose(0, 2, 1)) @ guess
    scales, _ = left.parts
    # P^T u_i = sum_j basis_j scale_j mixing_ji, for the left vectors u_i in the order of their scales.
    order = np.argsort(-scales, axis=1)[:, :k]
    residual = np.empty_like(values)
    for b, columns in enumerate(order):
        # What rounding gives u_i of a direction with a much larger scale is not counted here: whether that one has
        # converged is told by its own residual.
        with np.errstate(invalid="ignore"):
            weights = mixing[b][:, columns] * np.exp(np.minimum(logs[b][:, None] - scales[b][columns], 1.0))
        residual[b] = np.linalg.norm(np.nan_to_num(weights).T @ outside[b], axis=1)
    residual[values == -math.inf] = math.nan  # of zero there is no relative residual
    return values, residual, back.basis
