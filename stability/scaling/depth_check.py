"""The verb that asks whether what a training does to a network depends on how deep it is."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray
from torch import nn
from tqdm.auto import tqdm

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_members
from stability.reading.inputs import Inputs
from stability.reading.network import Network
from stability.reading.pace import at_best_pace
from stability.reading.traces import unchanged, undisturbed
from stability.scaling.depth_cells import DepthCell, version_of
from stability.scaling.depth_result import DepthCheck
from stability.scaling.depth_stack import Outline, find_stack, outline
from stability.scaling.depth_training import MakeOptimizer, build, build_optimizer, order_of
from stability.signals.losses import Loss
from stability.sweeps.cells import cells_of
from stability.sweeps.sweep import sweep


@door
def depth_check(
    make: Callable[[int], nn.Module],
    depths: Sequence[int],
    x: object,
    loss: Loss,
    optimizer: MakeOptimizer | None = None,
    steps: int = 3,
    seeds: int | Sequence[int] = 5,
    store: str | Path | None = None,
    client: object = None,
    workers: int | None = 0,
) -> DepthCheck:
    """Train models of several depths for a few iterations, and return what of it depends on the depth, and how.

    For each depth and seed the global generators are seeded, make(depth) is called, and what it gives is trained on x.
    At places that are the same for all depths, as shares of the layers that grow in number, these are looked at:

    - the state at the start, and how far the updates change it;
    - a layer's own share: what the output changes by when that layer alone has its updated parameters;
    - the norm of a layer's gradient at the start.

    Each is fitted by depth^p, seed by seed; the interval of p is Student's t over the seeds, at a level of 95 %. It
    holds the slope over the depths that were given, which is that of the limit of large ones only where these are
    large: sqrt(1 + L) is L^0.44 over depths 4 to 64. Where an exponential fits much better, that is said.
    `.advice` says how to undo what depends on the depth. It follows from the exponents to first order in the updates:
    a rate that is too large for that gives others.

    Args:
        make: gives a model of a depth, a whole number. Layers of which the deeper models have more are found as
            `st.layers` reads them; of several stacks that grow, as an encoder and a decoder, the states are those after
            the layers of the last kind. It must take its random numbers from the global generators.
        depths: two or more, rising; p is against these numbers.
        x: the batch that all train on: a tensor, a tuple of positional inputs, or a dictionary of keyword inputs.
        loss: maps the output to a scalar.
        optimizer: maps the list of parameters to an optimiser, such as `lambda p: torch.optim.SGD(p, lr=0.1)`; it is
            given the model and the depth too if it has arguments called `model` and `depth`. None is Adam, rate 1e-3.
        steps: how many updates.
        seeds: how many, or their numbers; for one seed there are no intervals.
        store: a folder in which each depth and seed is kept and found again by the next call, see `st.sweep`;
            `make`, `loss` and `optimizer` are then functions of a module, or partial ones, and not lambdas. What they
            call is not looked at: give another folder when that has changed.
        client, workers: where it runs, as for `st.sweep`; in this process without. With client= its workers are taken.

    Returns:
        A `DepthCheck`, which prints its findings.

    Raises:
        TypeError, ValueError: for models that do not get more layers with the depth, that are the same for two seeds,
            or do not take x; for a loss that is no finite scalar before the first update. A training that diverges
            later is a finding.

    >>> import torch, stability as st
    >>> class Residual(torch.nn.Module):
    ...     def __init__(self, depth):
    ...         super().__init__()
    ...         self.blocks = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(depth))
    ...     def forward(self, h):
    ...         for block in self.blocks:
    ...             h = h + block(h) / len(self.blocks) ** 0.5
    ...         return h
    >>> check = st.depth_check(Residual, [4, 8, 16], torch.randn(4, 32), lambda y: y.square().mean())
    >>> print(check.advice)
    to undo it: multiply the rate by depth^-1/2; or multiply the branches by depth^-1/2
    """
    numbers = _check_depths(depths)
    check_integer("steps", steps, 1)
    members = check_members(seeds)
    if not callable(loss):
        raise TypeError(f"loss is {loss!r}: expected a function of the output")
    if optimizer is not None and not callable(optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}: expected a function of the list of parameters")
    if client is not None and store is None:
        raise ValueError("client= was given without store=: expected a folder that all of its workers can write to")
    inputs = Inputs.of(x, None)
    outlines: dict[int, Outline] = {}
    for depth in numbers:
        with unchanged(make, loss, optimizer):
            model = build(make, depth, members[0])
            with undisturbed(model):
                outlines[depth] = outline(model, inputs)
                made = build_optimizer(optimizer, model, depth)
    if len(members) > 1:
        _check_seeds(make, numbers[0], members)
    stack, layers = find_stack(outlines)
    cell = DepthCell(make, x, loss, optimizer, steps, stack)
    if store is None and workers == 0:
        with unchanged(make), at_best_pace(Network(build(make, numbers[-1], members[0]), inputs)):
            data = _here(cell, numbers, members)
    elif store is None:
        with tempfile.TemporaryDirectory() as folder:
            data = _swept(cell, numbers, members, folder, None, workers, "temporary")
    else:
        data = _swept(cell, numbers, members, store, client, workers, version_of(cell))
    return DepthCheck.of(
        data, layers=layers, kind=stack.kind, optimizer=type(made).__name__, order=order_of(made), skips=stack.skips
    )


def _check_depths(depths: object) -> tuple[int, ...]:
    if isinstance(depths, torch.Tensor) and not depths.is_meta:
        depths = depths.tolist()
    if isinstance(depths, str | bytes) or not isinstance(depths, Sequence | np.ndarray | range):
        raise TypeError(f"depths is {depths!r}: expected a sequence of whole numbers, such as [4, 16, 64]")
    numbers = tuple(check_integer("a depth in depths", depth, 1) for depth in depths)
    if len(numbers) < 2:
        raise ValueError(f"depths is {depths!r}: expected two depths or more")
    if any(one >= other for one, other in itertools.pairwise(numbers)):
        raise ValueError(f"depths is {depths!r}: expected rising numbers, each once")
    return numbers


def _check_seeds(make: Callable[[int], nn.Module], depth: int, seeds: Sequence[int]) -> None:
    """Raise where two seeds give the same model, so that intervals over seeds would say nothing."""
    with unchanged(make):
        one = [value.detach().clone() for value in build(make, depth, seeds[0]).parameters()]
        other = list(build(make, depth, seeds[1]).parameters())
    if len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    ):
        raise ValueError(
            f"make({depth}) gives the same model for the seeds {seeds[0]} and {seeds[1]}: expected one that draws from "
            "the global generators, and that does not seed them itself; or give seeds=1, without intervals"
        )


def _here(cell: DepthCell, depths: Sequence[int], seeds: Sequence[int]) -> xarray.Dataset:
    found = []
    with tqdm(total=len(depths) * len(seeds), unit="model", disable=None) as bar:
        for depth, seed in itertools.product(depths, seeds):
            found.append(cell(depth, seed))
            bar.update()
    return _stacked(found, depths, seeds)


def _stacked(found: Sequence[xarray.Dataset], depths: Sequence[int], seeds: Sequence[int]) -> xarray.Dataset:
    """Return the datasets of all models, the seed changing fastest, as one by (depth, seed, ...)."""
    shape, first = (len(depths), len(seeds)), found[0]
    sizes = {}
    for name, variable in first.data_vars.items():
        values = np.stack([one[name].values for one in found]).reshape(*shape, *variable.shape)
        sizes[name] = (("depth", "seed", *variable.dims), values)
    return xarray.Dataset(sizes, {**first.coords, "depth": list(depths), "seed": list(seeds)})


def _swept(
    cell: DepthCell,
    depths: Sequence[int],
    seeds: Sequence[int],
    store: str | Path,
    client: object,
    workers: int | None,
    version: str,
) -> xarray.Dataset:
    grid = {"depth": list(depths), "seed": list(seeds)}
    found = sweep(
        cell,
        grid,
        store,
        client,
        workers=workers if client is None else None,
        version=version,
        retry_failed=True,
    )
    if found.failed:
        first = found.failed[0]
        raise ValueError(
            f"{len(found.failed)} of {len(depths) * len(seeds)} models failed, the first at {dict(first.cell)}: "
            f"{first.error}"
        )
    # Each file is read once, and not once a variable.
    return _stacked([found.cell(**one) for one in cells_of(found.grid)], depths, seeds)
