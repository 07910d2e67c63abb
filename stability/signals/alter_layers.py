"""Leaves layers of a network out, or swaps neighbours, and measures how far the output moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer
from stability.foundation.log_norms import log_norm
from stability.reading import Layers
from stability.reading.chain_reading import Steps
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, read
from stability.reading.replaced_states import ReplacedStates, check_in_range
from stability.signals.altered_chains import LEFT_OUT, changes_of_chain
from stability.signals.layer_effects import LayerEffects

#: Sets of layers, by number from 0 or by name.
Sets = Sequence[Sequence[int | str]]


@door
def leave_out(
    net: AnyNetwork,
    x: object,
    layers: str | Sequence[str] | Layers | None = None,
    sets: Sets | None = None,
    *,
    together: int = 1,
    draws: int = 32,
    root: int = 0,
    source: str | int | None = None,
    batch_dim: int | None = 0,
) -> LayerEffects:
    """Return how far the output moves when layers are left out: one at a time, or sets of several.

    A layer is left out by taking the state before it for the state after it; all others do what they do. Of a chain
    the rows are replaced by the identity, with states that cannot leave the range at width 1. Of a module the numbers
    of the state after the layer are overwritten while it runs, which is held against a run without any of this.

    Args:
        net: a chain, any module, or callables that follow one another, as it is: in eval mode if it has dropout.
        x: the points, or what the network takes: a tensor, a tuple of positional inputs, a dictionary of keyword ones.
        layers, source, batch_dim: how a module is read, see `st.layers`. A layer that changes the shape of the state
            cannot be left out: name those that do not in sets=, or the layers between, such as layers="blocks". What
            follows the last layer that is named belongs to none. The output is that of the whole network, of several
            tensors the first.
        sets: which layers are left out together in each case, by number from 0 or by name; every layer alone without.
        together: without sets, how many layers are left out together; more than 1 in random sets.
        draws: how many random sets.
        root: the seed of their draw.

    Returns:
        `LayerEffects`, with log_changes (cases, seeds, points).

    Raises:
        ValueError, TypeError: for a layer that changes the shape of the state, sets that are empty or name what is no
            layer, networks that draw random numbers, and outputs that leave the range.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> e = st.leave_out(st.Chain("residual2_prelu", depth=50, seeds=20), x)
    >>> e.log_changes.shape, e.log_relative.shape
    (torch.Size([50, 20, 9]), torch.Size([50, 20]))
    """
    together, draws = check_integer("together", together, 1), check_integer("draws", draws, 1)
    root = check_integer("root", root, 0)
    if sets is not None and together != 1:
        raise ValueError("sets and together= both say which layers are left out: give one of them")

    def cases(names: tuple[str, ...]) -> list[tuple[int, ...]]:
        if sets is not None:
            return _numbers(sets, names)
        if together == 1:
            return [(number,) for number in range(len(names))]
        if together > len(names):
            raise ValueError(f"together is {together}: the network has {len(names)} layers")
        random = np.random.default_rng(root)
        found = [random.choice(len(names), together, replace=False) for _ in range(draws)]
        return [tuple(sorted(map(int, one))) for one in found]

    def order(depth: int, case: tuple[int, ...]) -> np.ndarray:
        places = np.arange(depth)
        places[list(case)] = LEFT_OUT
        return places

    return _effects("left out", read(net, x, layers, source, batch_dim), cases, order, _without)


@door
def swap_neighbours(
    net: AnyNetwork,
    x: object,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
) -> LayerEffects:
    """Return how far the output moves when two layers that follow one another are swapped, for every such pair.

    Of a module the first layer of a pair is given what the second makes of the state before both, by runs in which
    these states are overwritten; see `leave_out`.

    Args:
        net, x, layers, source, batch_dim: as for `leave_out`.

    Returns:
        `LayerEffects`, with log_changes (depth - 1, seeds, points).

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> st.swap_neighbours(st.Chain("residual2_prelu", depth=50, seeds=20), x).log_changes.shape
    torch.Size([49, 20, 9])
    """

    def cases(names: tuple[str, ...]) -> list[tuple[int, ...]]:
        if len(names) < 2:
            raise ValueError(f"the network has one layer, {names[0]}: there are no neighbours to swap")
        return [(number, number + 1) for number in range(len(names) - 1)]

    def order(depth: int, case: tuple[int, ...]) -> np.ndarray:
        places = np.arange(depth)
        places[list(case)] = case[::-1]
        return places

    return _effects("swapped", read(net, x, layers, source, batch_dim), cases, order, _swapped)


def _numbers(sets: Sets, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Return sets of layers by their numbers."""
    if isinstance(sets, str) or not isinstance(sets, Sequence) or not all(isinstance(one, Sequence) for one in sets):
        raise TypeError(f"sets is {sets!r}: expected a list of lists of layers, by number from 0 or by name")
    if not len(sets):
        raise ValueError("sets is empty: expected at least one set of layers")
    found = []
    for one in sets:
        numbers = []
        for layer in [one] if isinstance(one, str) else one:
            if isinstance(layer, str) and layer in names:
                numbers.append(names.index(layer))
            elif isinstance(layer, int | np.integer) and not isinstance(layer, bool) and 0 <= layer < len(names):
                numbers.append(int(layer))
            else:
                raise ValueError(
                    f"sets names the layer {layer!r}: there are {len(names)}, numbered from 0, {names[0]} to "
                    f"{names[-1]}"
                )
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"sets holds {list(one)!r}: expected one layer or more, each once")
        found.append(tuple(sorted(numbers)))
    return found


def _effects(
    done: str,
    reading: Steps | Network,
    cases: Callable[[tuple[str, ...]], list[tuple[int, ...]]],
    order: Callable[[int, tuple[int, ...]], np.ndarray],
    altered: Callable[[ReplacedStates, tuple[int, ...]], Tensor],
) -> LayerEffects:
    """Run every case, of a chain by the order in which its steps are taken, of a module with states replaced."""
    if isinstance(reading, Steps):
        reading.check()
        names = reading.layers
        chosen = cases(names)
        orders = np.stack([order(len(names), case) for case in chosen])
        changes, outputs = changes_of_chain(reading, orders)
    else:
        runs = ReplacedStates(reading, "the effect of a layer")
        names = runs.layers
        chosen = cases(names)
        _check_shapes(runs, sorted({number for case in chosen for number in case}), done)
        found = []
        for case in chosen:
            output = altered(runs, case)
            check_in_range(output, f"{', '.join(names[number] for number in case)} {done}")
            found.append(_log_norms(output, runs.output, reading))
        changes = torch.stack(found)[:, None]
        outputs = _log_norms(runs.output, torch.zeros_like(runs.output), reading)[None]
    x = reading.x.detach().to("cpu", copy=True)
    return LayerEffects(done, tuple(chosen), changes, outputs, names, reading.members, x)


def _check_shapes(runs: ReplacedStates, numbers: Sequence[int], done: str) -> None:
    """Raise for the first of some layers that changes the shape of the state."""
    for number in numbers:
        before, after = runs.shapes[number], runs.shapes[number + 1]
        if before != after:
            shapes = [one[0] if len(one) == 1 else one for one in (before, after)]
            raise ValueError(
                f"layer {runs.layers[number]} changes the shape of the state from {shapes[0]} to {shapes[1]}: it "
                f"cannot be {done}; name the layers that keep it in layers=, such as a container"
            )


def _without(runs: ReplacedStates, case: tuple[int, ...]) -> Tensor:
    # In ascending order: of two neighbours the second one's state is that which was put in the place of the first's.
    replaced = {number + 1: number for number in case if not runs.same(number, number + 1)}
    return runs.run(replaced)[0]


def _swapped(runs: ReplacedStates, case: tuple[int, ...]) -> Tensor:
    first, second = case
    _, kept = runs.run({second: first} if not runs.same(first, second) else {}, kept=(second + 1,))
    moved = kept[second + 1]  # what the second layer makes of the state before both
    if runs.same(second, second + 1):  # the second is the identity
        return runs.run({})[0]
    return runs.run({first: moved, second + 1: second})[0]


def _log_norms(one: Tensor, other: Tensor, reading: Network) -> Tensor:
    """Return the log norm of a difference of outputs, (points,)."""
    if one.shape != other.shape:
        raise ValueError(
            f"the output has shape {tuple(one.shape)} in place of {tuple(other.shape)} with layers altered"
        )
    dim, points = reading.inputs.batch_dim, reading.inputs.points
    wide = torch.complex128 if one.is_complex() else torch.float64
    difference = one.to(wide) - other.to(wide)
    if dim is None:
        return log_norm(difference[None], 1).cpu()
    if difference.ndim <= dim or difference.shape[dim] != points:
        raise ValueError(
            f"the output has shape {tuple(one.shape)}: its dimension {dim} must be the batch of {points} points; "
            "batch_dim= names another dimension, None takes all of x for one point"
        )
    return log_norm(difference.movedim(dim, 0), 1).cpu()
