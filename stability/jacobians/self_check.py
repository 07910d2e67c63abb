"""Whether claimed singular values of a product can be those of its factors: two tests and their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.formats import SPACING, Format
from stability.foundation.shown import Shown
from stability.jacobians.kernels.graded import NOTHING, VAGUE
from stability.jacobians.products import Array, PrefixProducts

#: Changes of the layers, above rounding and below what bends the answer; the second where the first bends it.
NUDGES = (2.0**-30, 2.0**-42)
#: The sensitivity from which on one nudge is not enough.
WARY = 1e3
#: What part of the sensitivity from which on a prefix is given up is far from it: there one nudge is enough.
FAR = 1e-6
#: A value that a nudge moves by more is bent by it: what it would do in the limit cannot be told.
_BENT = 0.1


@dataclass(frozen=True, repr=False)
class SelfCheck(Shown):
    """Two tests of the log singular values of prefix products, and the bounds that they are held against.

    The sum of the logs must be log |det|, which noise in place of a small value would miss; but sums of log |R_ii|
    pass it, whatever they are. The reversed product, J_1^T ... J_L^T, has the same singular values and takes another
    path to them, which those sums do not survive.

    Attributes:
        determinant: (depth, *batch), |sum of the logs - sum of log |det J_l||, 0 where both are -inf, and where values
            are undecided, which a determinant cannot tell from zero either; None where a layer is not square.
        determinant_bound: the same shape, what it may be: 2 n bound, and the rounding of the sums of logs.
        reversed: (*batch), the largest difference between the logs of the last prefix and those of the reversed
            product (and, in `check_spectrum`, between those of any other prefix and the ones of `spectrum`); inf where
            that has fewer values, or more than there are with what is undecided. Of layers in a coarse format it may
            have fewer, by what it leaves undecided.
        reversed_bound: (*batch), what it may be: `value_bound` on either path, each with its own condition numbers.
        bound: (depth, *batch), n eps times the sum of the layers' condition numbers and 5, plus eps times the largest
            log: how far the mean of a prefix's log values may be off. The condition number of a layer is estimated,
            after scaling its rows and columns. eps is float64's; where values of a network are undecided it is that
            of the format in which the layers were calculated, as what was taken for zero in it is of that size.
        eps: (*batch), the same for the last prefix.
        sensitivity: (depth, *batch), some times the largest change of a log value for a small random change of the
            layers, over its size: J_l becomes (1 + d G) J_l, G normal, for what rounding does to the directions of a
            state; what it does to the entries of a layer is in its condition number. A value sigma with the vectors u
            and v changes by about d times the root of the sum of squares of |J_(l+1)^T ... J_L^T u| |J_l ... J_1 v|
            / sigma: 1 a layer where what comes and what is taken up agree, 1 / t where they are at a right angle but
            for t. inf where even the smallest change bends the value, t being below 1e-12 or so: then it is not known
            in float64.
        exact: bool (*batch), where more than float64's digits were lost on the way, and the values were calculated from
            exact products instead (given matrices only, see `spectrum`). There `reversed` is the largest difference
            between the logs of any prefix and the exact ones, and `bound` that of layers of condition number 1.
        values: n, how many singular values a product has.
        dtype: what the layers came in.
    """

    determinant: Tensor | None
    determinant_bound: Tensor | None
    reversed: Tensor
    reversed_bound: Tensor
    bound: Tensor
    eps: Tensor
    sensitivity: Tensor
    exact: Tensor
    values: int
    dtype: torch.dtype

    @property
    def value_bound(self) -> Tensor:
        """(*batch), of the error of a single log value of the last prefix: bound + n eps sensitivity, or `bound` alone
        where the values are exact."""
        return torch.where(self.exact, self.bound[-1], self._bound_in_float64)

    @property
    def _bound_in_float64(self) -> Tensor:
        return self.bound[-1] + self.values * self.eps * self.sensitivity[-1]

    @property
    def input_bound(self) -> Tensor:
        """(*batch), what rounding the layers to the dtype that they came in may have changed before: about
        eps(dtype) / eps times bound + n eps sensitivity, as float64 for integers."""
        return self._bound_in_float64 * (max(SPACING, Format(self.dtype).spacing) / self.eps)

    @property
    def passed(self) -> Tensor:
        """Bool (*batch): both tests lie within their bounds, and float64 could tell the values of every prefix from
        zero: one that its roundings may move by half in the log may as well be zero. Where the values were calculated
        exactly, the test against the exact ones is enough."""
        clear = self.bound * (SPACING / self.eps) + self.values * SPACING * self.sensitivity < VAGUE
        passed = clear.all(dim=0)
        if self.determinant is not None and self.determinant_bound is not None:
            passed = passed & (self.determinant <= self.determinant_bound).all(dim=0)
        return (passed | self.exact) & (self.reversed <= self.reversed_bound)

    def __repr__(self) -> str:
        determinant = "None" if self.determinant is None else f"{float(self.determinant.max()):.1e}"
        passed = "passed" if bool(self.passed.all()) else f"FAILED in {int((~self.passed).sum())}"
        return (
            f"SelfCheck({passed}: reversed {float(self.reversed.max()):.1e}, determinant {determinant}, "
            f"a value is within {float(self.value_bound.max()):.1e})"
        )


class Losses(NamedTuple):
    """What rounding did to every prefix of a product.

    Attributes:
        undecided: int (depth, batch), how many values it has taken for zero.
        conditions: (depth, batch), the summed condition numbers of the layers.
        spacing: of the format that the layers were calculated in.
    """

    undecided: NDArray[np.int64]
    conditions: Array
    spacing: float


def self_check(
    layers: Sequence[Array], log_values: Array, losses: Losses, dtype: torch.dtype, batch: tuple[int, ...]
) -> SelfCheck:
    """Return the two tests for log_values (depth, batch, k) of layers [(batch, m, n), ...].

    Args:
        layers: the factors, the first applied first.
        log_values: what is claimed of every prefix.
        losses: of the product that they are of.
        dtype: what the factors came in.
        batch: the shape that the results get.
    """
    depth, _, k = log_values.shape
    transposed = [layer.transpose(0, 2, 1) for layer in reversed(layers)]
    other, other_undecided, other_conditions = _log_values(transposed, losses.spacing)
    last, shared = log_values[-1], min(k, other.shape[1])
    ranks, other_ranks = (last > -math.inf).sum(axis=1), (other > -math.inf).sum(axis=1)
    both = np.arange(shared) < np.minimum(ranks, other_ranks)[:, None]
    differences = np.where(both, _difference(last[:, :shared], other[:, :shared]), 0.0).max(axis=1)
    # What this path cannot tell from zero it does not claim; what the other one cannot is not confirmed, unless the
    # layers were calculated in a coarse format, whose noise is found on one path and not on the other.
    tolerated = other_undecided * (losses.spacing > SPACING)
    differences[(ranks > other_ranks + tolerated) | (other_ranks > ranks + losses.undecided[-1])] = math.inf
    sensitivity = _sensitivity(layers, log_values, losses.spacing)

    determinant = determinant_bound = None
    eps = np.where(losses.undecided > 0, losses.spacing, SPACING)
    eps[-1] = np.where((losses.undecided[-1] > 0) | (other_undecided > 0), losses.spacing, SPACING)
    bound = eps * k * (losses.conditions + 5)  # and the values of one layer are rounded too
    largest = abs(np.where(np.isfinite(log_values), log_values, 0.0)).max(axis=2, initial=0.0)
    bound += SPACING * largest
    other_bound = bound[-1] + eps[-1] * k * (other_conditions - losses.conditions[-1])
    reversed_bound = bound[-1] + other_bound + 2 * k * eps[-1] * sensitivity[-1]
    if all(layer.shape[1] == layer.shape[2] == k for layer in layers):
        logs = np.stack([_log_determinant(layer) for layer in layers])
        apart = _difference(log_values.sum(axis=2), logs.cumsum(axis=0))
        apart[losses.undecided > 0] = 0.0
        # The determinant is a sum over n values, and comes by an elimination with the same condition numbers. Its log
        # is a sum over the layers, of which each addition rounds.
        added = np.where(np.isfinite(logs), abs(logs), 0.0).cumsum(axis=0) + k * largest
        allowed = 2 * k * bound + (depth + k) * SPACING * added
        determinant, determinant_bound = (torch.from_numpy(a).reshape(depth, *batch) for a in (apart, allowed))
    return SelfCheck(
        determinant=determinant,
        determinant_bound=determinant_bound,
        reversed=torch.from_numpy(differences).reshape(batch),
        reversed_bound=torch.from_numpy(reversed_bound).reshape(batch),
        bound=torch.from_numpy(bound).reshape(depth, *batch),
        eps=torch.from_numpy(eps[-1]).reshape(batch),
        sensitivity=torch.from_numpy(sensitivity).reshape(depth, *batch),
        exact=torch.zeros(batch, dtype=torch.bool),
        values=k,
        dtype=dtype,
    )


def against_exact(
    check: SelfCheck, log_values: Array, undecided: NDArray[np.int64], exact: Mapping[int, Array]
) -> SelfCheck:
    """Return the check of log_values (depth, batch, k) with members of the batch held against exact values instead.

    What float64 leaves `undecided` (depth, batch), a rounding of the layers may change by any factor.
    """
    depth, size, k = log_values.shape
    shape = check.exact.shape
    judged = torch.zeros(size, dtype=torch.bool)
    bound, apart, sensitivity = (
        check.bound.reshape(depth, size).clone(),
        check.reversed.reshape(size).clone(),
        check.sensitivity.reshape(depth, size).clone(),
    )
    for member, values in exact.items():
        judged[member] = True
        apart[member] = _difference(log_values[:, member], values).max()
        largest = abs(np.where(np.isfinite(values), values, 0.0)).max(axis=1)
        bound[:, member] = torch.from_numpy(SPACING * (k * (np.arange(depth) + 3) + largest))
        sensitivity[torch.from_numpy(undecided[:, member] > 0), member] = math.inf
    allowed = torch.where(judged, 2 * bound[-1], check.reversed_bound.reshape(size))
    return replace(
        check,
        reversed=apart.reshape(shape),
        reversed_bound=allowed.reshape(shape),
        bound=bound.reshape(depth, *shape),
        sensitivity=sensitivity.reshape(depth, *shape),
        exact=judged.reshape(shape),
    )


def _sensitivity(layers: Sequence[Array], log_values: Array, spacing: float) -> Array:
    """Return some times the largest change of a log value for a nudge of the layers, over its size, (depth, batch).

    A draw moves a value by a normal number times what others would: now and then by much less. So it is four times the
    change of one draw, and where that is large ten times that of several: of 10,000 products one was beyond four. Only
    the last prefix has a bound that hangs on it: of those before, more draws are of use where it may be given up.
    """
    depth, size, k = log_values.shape
    sensitivity = np.zeros((depth, size))
    wary = np.ones((depth, size), dtype=bool)
    for draw in range(_draws(k)):
        members, prefixes = np.flatnonzero(wary.any(axis=0)), np.flatnonzero(wary.any(axis=1))
        if not len(members):
            break
        found = np.full((len(prefixes), len(members)), math.inf)
        for nudge in NUDGES:
            bent = np.flatnonzero(np.isinf(found).any(axis=0))
            if len(bent):
                moved = _moved(layers, log_values, members[bent], prefixes, nudge, draw, spacing)
                found[:, bent] = np.minimum(found[:, bent], np.where(moved < _BENT, 4 * moved / nudge, math.inf))
        place = np.ix_(prefixes, members)
        sensitivity[place] = np.maximum(sensitivity[place], np.where(wary[place], found, 0.0))
        wary = sensitivity > max(WARY, FAR * VAGUE / (k * SPACING))
        wary[-1] = sensitivity[-1] > WARY
        wary &= np.isfinite(sensitivity).all(axis=0)
    return np.where(sensitivity > WARY, 2.5 * sensitivity, sensitivity)


def _draws(values: int) -> int:
    """Return how many nudges at most there are of products of so many values, the more the fewer values.

    What rounding does falls with their number: in nine of ten Gaussian products less than 2.2, 1.4, 0.7, 0.13 and 0.03
    times n eps times the sensitivity at n = 2, 4, 16, 64 and 256. All draws fall so far short of a tenth of that in
    about one of 1,000 products at n = 2, and in fewer where there are more values.
    """
    return 4 if values < 16 else 3 if values < 128 else 2


def _moved(
    layers: Sequence[Array],
    log_values: Array,
    members: NDArray[np.intp],
    prefixes: NDArray[np.intp],
    nudge: float,
    draw: int,
    spacing: float,
) -> Array:
    """Return how far a nudge of the layers moves the log values of some prefixes and members, (prefixes, members)."""
    size, k = len(members), log_values.shape[2]
    # One draw for all of a batch, so that a product is judged alike alone and among others.
    random = np.random.default_rng(draw)
    products, shift = PrefixProducts(size, layers[0].shape[2]), np.zeros((size, 1))
    moved = np.empty((len(prefixes), size))
    for prefix in range(prefixes[-1] + 1):
        layer = layers[prefix][members]
        large = abs(layer).max(axis=(1, 2)) > 2.0**1000  # a nudge must not overflow
        shift[large] += 30 * math.log(2)
        layer[large] *= 2.0**-30
        products.multiply(_nudged(layer, nudge, random), spacing)
        for place in np.flatnonzero(prefixes == prefix):
            claimed, values = log_values[prefix, members], products.log_values()[:, :k] + shift
            # A direction that only rounding has taken for zero is none after a nudge.
            both = (claimed > -math.inf) & (values != -math.inf)
            moved[place] = np.nan_to_num(np.where(both, _difference(values, claimed), 0.0).max(axis=1), nan=math.inf)
    return moved


def _nudged(layers: Array, nudge: float, random: np.random.Generator) -> Array:
    rows = layers.shape[1]
    # G as a product of thin ones: its entries are as good as normal, and it costs next to nothing.
    thin = min(rows, 16)
    left, right = random.standard_normal((rows, thin)), random.standard_normal((thin, rows))
    return np.asarray(layers + (nudge / math.sqrt(thin) * left) @ (right @ layers))


def _log_values(layers: Sequence[Array], spacing: float) -> tuple[Array, NDArray[np.int64], Array]:
    """Return the log values of the whole product, how many are undecided, and the sum of the condition numbers."""
    products = PrefixProducts(len(layers[0]), layers[0].shape[2])
    for layer in layers:
        products.multiply(layer, spacing)
    return products.log_values(), products.lost, products.conditions


def difference_of_spectra(claimed: Array, found: Array, undecided: NDArray[np.int64]) -> Array:
    """Return the largest difference of logs (..., k), inf where the ranks differ by more than is undecided (...)."""
    ranks, others = (claimed > -math.inf).sum(axis=-1), (found > -math.inf).sum(axis=-1)
    both = (claimed > -math.inf) & (found > -math.inf)
    differences = np.where(both, _difference(claimed, found), 0.0).max(axis=-1)
    return np.where((ranks < others) | (ranks > others + undecided), math.inf, differences)


def _difference(a: Array, b: Array) -> Array:
    """|a - b|, 0 where both are -inf."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, abs(a - b))


def _log_determinant(layers: Array) -> Array:
    """Return log |det|, with columns and rows scaled by powers of 2 first, so that no product leaves the range."""
    exponents = np.where(layers != 0, np.frexp(layers)[1], NOTHING)
    columns = exponents.max(axis=1, keepdims=True)
    zero = (columns == NOTHING).any(axis=(1, 2))
    columns = np.where(columns == NOTHING, 0, columns)
    rows = (exponents - columns).max(axis=2, keepdims=True)
    zero |= (rows <= NOTHING // 2).any(axis=(1, 2))
    rows = np.where(rows <= NOTHING // 2, 0, rows)
    with np.errstate(divide="ignore"):
        logs = np.linalg.slogdet(np.ldexp(layers, -(rows + columns)))[1]
    logs += math.log(2) * (rows.sum(axis=(1, 2)) + columns.sum(axis=(1, 2)))
    logs[zero] = -math.inf
    return np.asarray(logs)
