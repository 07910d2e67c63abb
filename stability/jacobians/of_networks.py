"""The spectrum of a network's Jacobian products."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_positive
from stability.foundation.formats import Format, coarsest
from stability.jacobians.leading_values import SPARE, leading_spectrum
from stability.jacobians.of_matrices import Matrices, matrix_spectrum, spectrum_of_layers
from stability.jacobians.of_step_tables import width_one_spectrum
from stability.jacobians.products import Array
from stability.jacobians.spectrum import Spectrum
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.derivatives import check_chain, derivatives
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, read
from stability.reading.refusals import refuse_chance, refuse_train_mode
from stability.reading.states import State

#: Up to this width of the first state all values cost no more than the leading ones.
ALL_UP_TO = 256
#: The same, over the number of layers and of directions that are followed: a prefix costs in proportion to both.
ALL_UP_TO_EACH = 8


@door
def spectrum(
    net: AnyNetwork | Matrices,
    x: object = None,
    layers: str | Sequence[str] | Layers | None = None,
    k: int | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    check: bool = True,
    distances: bool = True,
    memory: float = 4.0,
    progress: bool = True,
) -> Spectrum:
    """Return the log singular values of dh_l/dh_0, the Jacobian of the first l layers, for every l and every point.

    Without x these are the singular values of every prefix product J_l ... J_1 of given matrices.

    All of them are right, at any condition number of the product, or flagged: the error of a log value is bounded by
    about n eps times the sum of the *layers'* condition numbers, and by what a small change of the layers does to it
    (`Spectrum.self_check`). The product is kept as U diag(s) T with U orthonormal, T moderate and s in logarithms; a
    layer is taken in by a QR factorisation of J U whose columns are pivoted on their length times s, and the singular
    values of diag(s) T come by one-sided Jacobi rotations in the log domain, or from LAPACK where the range allows it
    and the determinant confirms it. A layer's own scale, and that of its rows and columns, may be anything. A value is
    -inf where it is exactly zero: below the smallest dimension so far, for zero rows and columns (a ReLU), and for
    directions that float64 cannot tell from zero, which `Spectrum.undecided` counts. Given matrices whose product
    float64 cannot vouch for are multiplied again as rational numbers, and their values taken as roots of a
    characteristic polynomial, where python-flint is installed and some seconds are enough (with check=True).

    At width 1 a piecewise-linear chain's values are sums of logarithms, with a sign, and its state cannot leave the
    range; wider states are those of the network's own dtype.

    What the layers of a module are `st.layers` shows. h_0 is the state before the first of them: what enters, or, of a
    network on whole numbers, what its embeddings make of them, whose own layer is then the identity. States are
    flattened point by point; a complex number is two real ones. Layers may change the width; there are then as many
    singular values as the smallest dimension so far. Jacobians are backward passes from cut to cut of the network's
    own graph: they are what its backward pass says, right or wrong, and are held against random probes of it.

    Args:
        net: the network, in eval mode; or, without x, matrices (depth, *batch, n, n), or a sequence of matrices
            (*batch, m, n) that chain, the first applied first, float64 or a smaller format, whose numbers are taken as
            they are.
        x: points, (points,) or (points, n) for a chain, and what the network takes otherwise: a tensor, a tuple of
            positional inputs, or a dictionary of keyword inputs.
        layers, source, batch_dim: how a module is read, see `st.layers`. With batch_dim=None all of x is one point.
        k: only the k leading values. Of states of more than 256 numbers they are approached without the others, and
            without forming Jacobians of more than 2^25 numbers altogether: then there is no self-check, and
            `Spectrum.residuals` tells how far they have converged; every prefix takes some tens of passes through its
            layers, so that the time grows with the square of the depth.
        check: whether to test the values, see `SelfCheck`; of matrices that takes longer than the values.
        distances: whether to measure how far layers and products are from the identity. Neither applies with k.
        memory: GiB that the Jacobians may take; points are taken in portions that fit.
        progress: whether to show a progress bar, on a terminal.

    Returns:
        A `Spectrum` on the CPU, with log_values (depth, seeds, points, k), a module being one seed, and
        (depth, *batch, k) for matrices.

    Raises:
        ValueError, TypeError: for points or parameters that are not finite, layers that do not follow one another or
            that no cut separates, points that depend on one another, batch normalisation in train mode, random
            networks, Jacobians that are not finite, matrices that do not chain or are not real, and a memory budget
            that one point exceeds.

    >>> import torch, stability as st
    >>> chain = st.Chain("plain_prelu", depth=10_000, init="uniform")
    >>> s = st.spectrum(chain, torch.tensor([0.5], dtype=torch.float64))
    >>> print(f"|J| = 10^{s.log_values[-1].item() / 2.302585092994046:.0f}")
    |J| = 10^-7330
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(50)]).double()
    >>> s = st.spectrum(net, torch.zeros(3, 8, dtype=torch.float64))
    >>> s.log_values.shape, bool(s.self_check.passed.all())
    (torch.Size([50, 1, 3, 8]), True)
    >>> J = torch.randn(1000, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 4
    >>> s = st.spectrum(J)
    >>> print(f"condition number 10^{s.log_condition[-1].item() / 2.302585:.0f}, {s.ranks[-1]} values")
    condition number 10^846, 16 values
    """
    if x is None:
        return _of_matrices(net, layers, k, check, distances, progress)
    if k is not None:
        check_integer("k", k, 1)
    check_positive("memory", memory)
    reading = read(net, x, layers, source, batch_dim)
    if isinstance(reading, StepTable):
        if k is not None:
            check_integer("k", k, 1, 1)  # all that there is
        return width_one_spectrum(reading, distances)
    with states_of(reading) as (names, states):
        if k is not None:
            _check_values(k, names, states)
        if k is not None and (_leading_are_cheaper(k, states) or _one_point(reading, states) > memory):
            apart = isinstance(reading, Steps)
            part = leading_spectrum(names, states, k, progress, len(reading.members), apart)
        else:
            part = _in_portions(reading, names, states, check, distances and k is None, memory, progress)
            part = part if k is None else _leading(part, k)
    return dataclasses.replace(part, x=reading.x.detach().to("cpu", copy=True), members=reading.members, layers=names)


def _check_values(k: int, names: tuple[str, ...], states: list[State]) -> None:
    widths = [state.width for state in states]
    if k > min(widths):
        few = widths.index(min(widths))
        place = f"before layer {names[0]}" if few == 0 else f"after layer {names[few - 1]}"
        raise ValueError(
            f"k is {k}: the states have as few as {min(widths)} numbers, {place}, so there are no more values; ask for "
            "fewer, or name layers= that end before"
        )


def _leading_are_cheaper(k: int, states: list[State]) -> bool:
    return states[0].width > max(ALL_UP_TO, ALL_UP_TO_EACH * (len(states) - 1) * (k + SPARE))


def _leading(s: Spectrum, k: int) -> Spectrum:
    """Return the k leading values of a spectrum alone, of which those that are undecided come before exact zeros."""
    undecided = torch.minimum(s.undecided, (k - s.ranks).clamp(min=0))
    return dataclasses.replace(
        s, log_values=s.log_values[..., :k].clone(), sizes=tuple(min(k, size) for size in s.sizes), undecided=undecided
    )


def _of_matrices(
    matrices: AnyNetwork | Matrices, layers: object, k: int | None, check: bool, distances: bool, progress: bool
) -> Spectrum:
    if isinstance(matrices, nn.Module):
        raise TypeError(f"x is missing: a {type(matrices).__name__} has Jacobians only at points")
    for name, value in (("layers", layers), ("k", k)):
        if value is not None:
            raise ValueError(f"matrices have no {name}=: leave it out, all values of all of them come back")
    return matrix_spectrum(cast(Matrices, matrices), check, distances, progress)


@contextmanager
def states_of(reading: Steps | Network) -> Iterator[tuple[tuple[str, ...], list[State]]]:
    """Run a network in which every point has a Jacobian of its own; inside, its states and their graph may be used."""
    if isinstance(reading, Steps):
        reading.check()
        yield reading.layers, reading.states()
        return
    if reading.inputs.batch_dim is not None:
        refuse_train_mode(reading.module)
    with reading.forward(math_attention=True) as found:
        refuse_chance(reading, found, "it has no one Jacobian")
        if found.recording.hooks_tensors:
            raise ValueError(
                "the network puts a hook on a tensor as it runs (register_hook), which changes what goes back through "
                "it: a Jacobian would count it once a layer or more; take it out, or write it as a function"
            )
        found.check_states()
        states = found.states("a Jacobian")
        check_chain(derivatives(found.layers, states))
        yield found.layers, states


def _one_point(reading: Steps | Network, states: list[State]) -> float:
    """Return the GiB of the Jacobians of one point, and beside the largest of them what is in work."""
    widths = [state.width for state in states]
    products = [a * b for a, b in itertools.pairwise(widths)]
    return 8 * len(reading.members) * (sum(products) + 6 * max(*products, widths[0] ** 2)) / 2**30


def _in_portions(
    reading: Steps | Network,
    names: tuple[str, ...],
    states: list[State],
    check: bool,
    distances: bool,
    memory: float,
    progress: bool,
) -> Spectrum:
    """Take as many points at a time as the memory allows, and join what comes back."""
    parts = []
    advice = "take fewer layers, or ask for the leading values alone with k="
    for points, found, dtype in jacobians_in_portions(reading, names, states, memory, progress, advice):
        batch = (len(reading.members), points)
        parts.append(spectrum_of_layers(found, batch, dtype, Format(dtype).spacing, check, distances, progress))
    return parts[0] if len(parts) == 1 else _join(parts)


def jacobians_in_portions(
    reading: Steps | Network,
    names: tuple[str, ...],
    states: list[State],
    memory: float,
    progress: bool,
    advice: str = "or take fewer layers",
) -> Iterator[tuple[int, list[Array], torch.dtype]]:
    """Yield the Jacobians (seeds times points, m, n) of all layers at as many points at a time as the memory allows.

    Args:
        advice: what else than to raise memory= is said of a point that exceeds it.

    Yields:
        How many points there are, the Jacobians, and the coarsest dtype that they come from.
    """
    seeds, points = len(reading.members), states[0].batch[-1]
    depth, one = len(states) - 1, _one_point(reading, states)
    if one > memory:
        raise ValueError(
            f"the Jacobians of one point take {one:.3g} GiB ({depth} layers of up to "
            f"{max(state.width for state in states)} numbers"
            + (f", {seeds} seeds" if isinstance(reading, Steps) else "")
            + f"): the budget is {memory:g} GiB. Raise memory=, {advice}"
        )
    portion = max(1, int(memory / one))
    with tqdm(total=points * depth, desc="Jacobians", disable=None if progress else True) as bar:
        for start in range(0, points, portion):
            stop = min(points, start + portion)
            found, dtypes = [], []
            with _some_points(reading, states, start, stop) as own:
                for layer in derivatives(names, own):
                    found.append(layer.jacobian())
                    dtypes.append(layer.dtype)
                    bar.update(stop - start)
            yield stop - start, found, coarsest(dtypes)


@contextmanager
def _some_points(reading: Steps | Network, states: list[State], start: int, stop: int) -> Iterator[list[State]]:
    """Run the network on some of the points, and hold their states against those of the run on all."""
    if stop - start == states[0].batch[-1]:
        yield states
        return
    why = (
        "points depend on one another, or an input that is not a batch has the batch's length; raise memory=, or give "
        "fewer points"
    )
    with ExitStack() as stack:
        try:
            _, own = stack.enter_context(states_of(reading.part(start, stop)))
        except ValueError as error:
            raise ValueError(
                f"the network does not run on the points {start} to {stop - 1} alone ({error}): {why}"
            ) from error
        for whole, part in zip(states, own, strict=True):
            expected = whole.numbers("")[..., start:stop, :]
            got = part.numbers("")
            scale = 1e3 * Format(expected.dtype).spacing * math.sqrt(whole.width) * float(expected.abs().max())
            if got.shape != expected.shape or not ((got - expected).abs() <= scale).all():
                raise ValueError(
                    f"the network has other states for the points {start} to {stop - 1} alone than among all "
                    f"{states[0].batch[-1]}: {why}"
                )
        yield own


def _join(parts: list[Spectrum]) -> Spectrum:
    """Join spectra of portions of the points, whose dimension comes after layers and seeds."""

    def join(values: list[Tensor | None], axis: int) -> Tensor | None:
        return None if values[0] is None else torch.cat([v for v in values if v is not None], dim=axis)

    checks = [part.self_check for part in parts]
    check = checks[0]
    if check is not None:
        over = {
            "determinant": 2,
            "determinant_bound": 2,
            "bound": 2,
            "reversed": 1,
            "reversed_bound": 1,
            "eps": 1,
            "sensitivity": 2,
            "exact": 1,
        }
        joined = {name: join([getattr(one, name) for one in checks], axis) for name, axis in over.items()}
        check = dataclasses.replace(check, **joined)  # type: ignore[arg-type]
    fields = ("log_values", "undecided", "distance_from_identity", "log_product_distance")
    values = {name: join([getattr(part, name) for part in parts], 2) for name in fields}
    return dataclasses.replace(parts[0], **values, self_check=check)  # type: ignore[arg-type]
