"""Asymptotic Lyapunov exponents: growth rates a layer in the limit of infinite depth, with a standard error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit
from torch import Tensor, nn
from tqdm.auto import tqdm

from stability.foundation.arguments import door
from stability.foundation.formats import SPACING, Format
from stability.foundation.shown import Shown
from stability.jacobians.of_matrices import Matrices, layers_of
from stability.jacobians.of_networks import states_of
from stability.jacobians.of_step_tables import width_one_spectrum
from stability.jacobians.products import Array, PrefixProducts
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.derivatives import derivatives
from stability.reading.read import AnyNetwork, read

#: Below this depth there is nothing to take a standard error from.
LEAST_DEPTH = 32
#: Parts of a stretch that tell whether neighbours make up for each other.
FINER = 4
#: How many standard errors of a correlation are not taken for chance.
SEEN = 3.5


@dataclass(frozen=True, repr=False)
class LyapunovExponents(Shown):
    """Estimates of the limits of log(singular value) / depth, for infinite depth.

    Not to be taken for `Spectrum.finite_time_exponents`, which are exact for the depth that is there and hold a
    transient that dies out as 1 / depth. These leave out the first layers, and err by `standard_errors`.

    Attributes:
        exponents: float64 (*batch, k), descending; -inf where the product is singular. The batch is (seeds,
            points) for a network, of which a module is one seed.
        standard_errors: (*batch, k), from the spread of batch means over stretches of layers, which holds where the
            layers' statistics do not change with depth; 0 where the exponent is -inf. Where the stretches are few they
            are so much wider that 1.96 of them hold the limit with a probability of 95 %, as for many.
        depth: the number of layers, and `burn_in` how many of them were left out.
        stretches: how many stretches the standard errors come from.
        undecided: int64 (*batch), how many of the exponents that are -inf may be finite: for their direction a layer's
            format cannot tell from zero.
    """

    exponents: Tensor
    standard_errors: Tensor
    depth: int
    burn_in: int
    stretches: int
    undecided: Tensor

    def __repr__(self) -> str:
        k = self.exponents.shape[-1]
        pairs = zip(self.exponents.reshape(-1, k)[0], self.standard_errors.reshape(-1, k)[0], strict=True)
        values = [f"{one:+.4g} +- {error:.1g}" for one, error in list(pairs)[:3]]
        more = ", ..." if self.exponents.shape[-1] > 3 else ""
        first = "" if self.exponents[..., 0].numel() == 1 else " of the first"
        shape = tuple(self.exponents.shape)
        return f"LyapunovExponents({', '.join(values)}{more}{first}, exponents={shape}, depth={self.depth})"

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return the mean exponents over the batch, (k,), and its standard error from the spread over the batch.

        The points of one seed share its weights: they are averaged first and only seeds count as independent, of
        which a module is one.

        Raises:
            ValueError: for fewer than two seeds.
        """
        members = self.exponents
        if members.ndim == 3:
            members = members.mean(dim=1)
        if members.ndim < 2 or len(members) < 2:
            raise ValueError(
                f"the exponents have shape {tuple(self.exponents.shape)}: pooling needs two seeds or more, of which a "
                "module is one, as its points share its weights"
            )
        mean, vanished = members.mean(dim=0), (members == -math.inf).any(dim=0)
        error = torch.where(vanished, 0.0, members.where(~vanished, 0.0).std(dim=0) / math.sqrt(len(members)))
        return mean, error


@door
def lyapunov(
    net: AnyNetwork | Matrices,
    x: object = None,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    progress: bool = True,
) -> LyapunovExponents:
    """Return the asymptotic growth rates a layer of the Jacobian product, by QR, with a standard error.

    After J U = Q R the next U is Q, and the exponents are the averages of log |R_ii| over the layers (Benettin et al.
    1980). The first quarter is left out. The standard error is that of means over sqrt(depth) stretches of layers;
    where these show a transient that dies out as 1 / l, it holds what that adds to the mean as well.

    Args:
        net: a network as `spectrum` takes it, or, without x, matrices as it takes them.
        x: points.
        layers, source, batch_dim: how a module is read, see `st.layers`.
        progress: whether to show a progress bar, on a terminal.

    Raises:
        ValueError: for fewer than 32 layers, and as for `spectrum`.

    >>> import torch, stability as st
    >>> J = torch.randn(4000, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> found = st.lyapunov(J)
    >>> z = (found.exponents - torch.as_tensor(st.theory.gaussian_exponents(3))) / found.standard_errors
    >>> bool((z.abs() < 4).all())
    True
    """
    if x is None:
        if isinstance(net, nn.Module):
            raise TypeError(f"x is missing: a {type(net).__name__} has Jacobians only at points")
        matrices, batch, _ = layers_of(cast(Matrices, net))
        _check_depth(len(matrices))
        pairs = ((matrix, SPACING) for matrix in matrices)
        return _from_sums(*_log_scales(pairs, len(matrices), progress), batch)
    reading = read(net, x, layers, source, batch_dim)
    if isinstance(reading, Steps):
        _check_depth(reading.chain.depth)
    if isinstance(reading, StepTable):
        logs = width_one_spectrum(reading, distances=False).log_values
        sums = logs.flatten(1, 2).numpy()
        return _from_sums(sums, np.zeros(sums.shape[1], np.int64), tuple(logs.shape[1:3]))
    with states_of(reading) as (names, states):
        _check_depth(len(names))
        jacobians = ((layer.jacobian(), Format(layer.dtype).spacing) for layer in derivatives(names, states))
        batch = (len(reading.members), states[0].batch[-1])
        return _from_sums(*_log_scales(jacobians, len(names), progress), batch)


def _transient(rates: Array, middles: NDArray[np.floating]) -> Array:
    """Return what a transient that dies out as 1 / l adds to the mean rate, (...), 0 where the stretches show none.

    The rates of stretches about the layers `middles` are fitted by a + c / l; one is shown where c is more than four of
    its standard errors.
    """
    inverse = 1 / middles - (1 / middles).mean()
    centred = rates - rates.mean(axis=0)
    square = (inverse**2).sum()
    slope = np.tensordot(inverse, centred, axes=1) / square
    rest = centred - inverse.reshape(-1, *[1] * (rates.ndim - 1)) * slope
    error = np.sqrt((rest**2).sum(axis=0) / ((len(rates) - 2) * square))
    return np.where(abs(slope) > 4 * error, abs(slope) * (1 / middles).mean(), 0.0)


def _spread(rates: Array, finer: Array) -> Array:
    """Return the standard error of the mean rate, from the rates (n, ...) of n stretches and of finer ones.

    Neighbours that make up for each other, as where the growth is a constant plus a bounded function of the state, have
    a correlation of -1/2 and a mean whose error falls as 1 / n, not as its root.
    """
    n, many = len(rates), len(finer)
    few = stdtrit(n - 1, 0.975) / ndtri(0.975)
    error = few * rates.std(axis=0, ddof=1) / math.sqrt(n)
    centred = finer - finer.mean(axis=0)
    square = (centred**2).sum(axis=0)
    shared = (centred[1:] * centred[:-1]).sum(axis=0) / np.where(square > 0, square, 1.0)
    compensated = np.sqrt(square / many * (np.maximum(1 + 2 * shared, 0.0) / many + 1 / many**2))
    return np.asarray(np.where(shared < -SEEN / math.sqrt(many), np.minimum(compensated, error), error))


def _check_depth(depth: int) -> None:
    """Refuse, before anything is calculated, a depth that no rate with an error can be told from."""
    if depth < LEAST_DEPTH:
        raise ValueError(
            f"the network has {depth} layers: an asymptotic exponent with a standard error needs {LEAST_DEPTH} or "
            "more; for the growth at the depth that is there see Spectrum.finite_time_exponents"
        )


def _log_scales(layers: Iterator[tuple[Array, float]], depth: int, progress: bool) -> tuple[Array, NDArray[np.int64]]:
    """Return the sums of log |R_ii| after every layer, (depth, batch, k), sorted, and how many rounding has taken.

    A layer comes with the spacing of the format that it was calculated in.
    """
    sums: list[Array] = []
    products = None
    for layer, spacing in tqdm(layers, total=depth, desc="exponents", disable=None if progress else True):
        products = products or PrefixProducts(len(layer), layer.shape[2])
        products.multiply(layer, spacing)
        sums.append(products.log_scales())
    assert products is not None
    return np.stack(sums), products.lost


def _from_sums(sums: Array, lost: NDArray[np.int64], batch: tuple[int, ...]) -> LyapunovExponents:
    """Take rates from sums of log growth (depth, size, k), of which rounding has taken some, (size,)."""
    depth = len(sums)
    stretches = math.isqrt(depth)
    length = (depth - depth // 4) // stretches
    burn_in = depth - stretches * length
    vanished = sums[-1] == -math.inf

    def rates_of(step: int) -> Array:
        return np.diff(np.where(vanished, 0.0, sums[burn_in - 1 :: step]), axis=0) / step

    rates = rates_of(length)
    exponents = np.where(vanished, -math.inf, rates.mean(axis=0))
    spread = _spread(rates, rates_of(max(1, length // FINER)))
    middles = burn_in + (np.arange(stretches) + 0.5) * length
    errors = np.where(vanished, 0.0, np.hypot(spread, _transient(rates, middles)))
    k = sums.shape[2]
    order = np.argsort(-exponents, axis=1, kind="stable")
    exponents, errors = (np.take_along_axis(found, order, axis=1) for found in (exponents, errors))
    return LyapunovExponents(
        torch.from_numpy(exponents).reshape(*batch, k),
        torch.from_numpy(errors).reshape(*batch, k),
        depth,
        burn_in,
        stretches,
        torch.from_numpy(lost).reshape(batch),
    )
