"""Measures how signals travel forward through any network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.log_norms import log_norm
from stability.foundation.scaled_tensors import Scaled
from stability.foundation.threads import side_by_side
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.derivatives import derivatives
from stability.reading.read import AnyNetwork, read
from stability.reading.refusals import normalises_by_batch
from stability.reading.states import State
from stability.signals.kernels import forward_states
from stability.signals.propagation import Propagation
from stability.signals.scaled_steps import PassedLayer, states_of_chain

Pairs = Sequence[tuple[int, int]] | Tensor | None


@door
def propagation(
    net: AnyNetwork,
    x: object,
    layers: str | Sequence[str] | Layers | None = None,
    pairs: Pairs = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
) -> Propagation:
    """Return, layer by layer, the size of the state, of each layer's update, and the correlation of pairs of inputs.

    These are what mean-field theory predicts: q_l = |h_l|^2 / width and the correlation c_l (Poole et al. 2016).
    The state of a chain is carried in float64 with an exponent of its own for every seed and point, and cannot leave
    the range; of a width above 1, what an activation takes below 2^-1900 counts as zero in a step that has biases. A
    module runs in its own dtype, and a state that leaves the range is refused, and so are points that depend on one
    another, but by batch normalisation in train mode.

    Args:
        net: a chain, any module, or callables that follow one another.
        x: the points, or what the network takes: a tensor, a tuple of positional inputs, a dictionary of keyword ones.
        layers, source, batch_dim: how a module is read, see `st.layers`. The first state is the source: of a network on
            whole numbers what its embeddings make of them.
        pairs: (pairs, 2) numbers of points; without, each point with the next one.

    Raises:
        ValueError, TypeError: for points or parameters that are not finite, pairs of points that there are not, and
            states of a module that are not finite or underflow.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> p = st.propagation(st.Chain("plain_prelu", depth=3000, seeds=4, init="uniform"), x)
    >>> print(f"10^{p.log_norms[-1].median() / 2.302585092994046:.0f}")
    10^-2194
    >>> net = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh()) for _ in range(9)])
    >>> st.propagation(net, torch.randn(5, 64)).correlations.shape
    torch.Size([10, 1, 4])
    """
    reading = read(net, x, layers, source, batch_dim)
    if isinstance(reading, Steps):
        return propagation_of_steps(reading, pairs)
    with reading.forward() as found:
        found.check_states()
        states = found.states("a state")
        if not normalises_by_batch(reading.module):
            for layer in derivatives(found.layers, states):
                layer.refuse_mixed_points()
        return _measured(_layers_of(found.layers, states), reading.x, states[0].size, pairs, reading.members)


def propagation_of_steps(reading: Steps, pairs: Pairs = None) -> Propagation:
    """Return the propagation through a chain: see `propagation`."""
    if isinstance(reading, StepTable):
        return _width_one(reading, pairs)
    reading.check()
    return _measured(states_of_chain(reading), reading.x, len(reading.x), pairs, reading.members)


def _check_pairs(pairs: Pairs, points: int) -> Tensor:
    if pairs is None:
        first = torch.arange(points - 1)
        return torch.stack([first, first + 1], dim=1)
    try:
        chosen = torch.as_tensor(pairs)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"pairs is {pairs!r}: expected integers (pairs, 2)") from None
    if chosen.is_floating_point() or chosen.ndim != 2 or chosen.shape[1] != 2:
        raise ValueError(f"pairs has shape {tuple(chosen.shape)} and {chosen.dtype}: expected integers (pairs, 2)")
    if ((chosen < 0) | (chosen >= points)).any():
        low, high = int(chosen.min()), int(chosen.max())
        raise ValueError(f"pairs names points {low} to {high}: there are {points}, numbered from 0")
    return chosen.to(torch.int64)


def _width_one(reading: StepTable, pairs: Pairs) -> Propagation:
    points, table, depth = reading.points, reading.steps, reading.chain.depth
    chosen = _check_pairs(pairs, len(points))
    shape = (depth + 1, len(table), len(points))
    log_sizes, signs, updates = np.empty(shape), np.empty(shape, np.int8), np.empty((depth, *shape[1:]))
    side_by_side(
        lambda first, last: forward_states.log_states(first, last, table, points, log_sizes, signs, updates),
        len(table),
        10.0 * updates.size,
    )
    with np.errstate(invalid="ignore"):
        relative = np.where(updates == -np.inf, -np.inf, updates - log_sizes[:-1])
    sign = torch.from_numpy(signs)
    correlations = (sign[..., chosen[:, 0]] * sign[..., chosen[:, 1]]).double()
    return Propagation(
        log_norms=torch.from_numpy(log_sizes),
        log_largest=torch.from_numpy(log_sizes),
        log_updates=torch.from_numpy(relative),
        same_shape=torch.ones(depth, dtype=torch.bool),
        correlations=correlations,
        log_decorrelations=(1 - correlations).log(),
        pairs=chosen,
        widths=torch.ones(depth + 1, dtype=torch.int64),
        layers=reading.layers,
        members=reading.members,
        x=reading.x.detach().cpu(),
    )


def _measured(
    layers: Iterator[PassedLayer],
    x: Tensor,
    points: int,
    pairs: Pairs,
    members: tuple[int, ...],
) -> Propagation:
    """Measure states (seeds, points, ...) as they come."""
    names, log_norms, updates, same, correlations, decorrelations = [], [], [], [], [], []
    widths: list[int] = []
    largest: list[Tensor] = []
    chosen, last = _check_pairs(pairs, points), None

    def measure(state: Scaled) -> None:
        log_norms.append(state.log_norm())
        largest.append(state.log_largest())
        widths.append(math.prod(state.mantissa.shape[2:]))
        correlation, decorrelation = _correlate(state, chosen.to(state.mantissa.device))
        correlations.append(correlation)
        decorrelations.append(decorrelation)

    for layer in layers:
        measure(layer.before)
        names.append(layer.name)
        same.append(layer.update is not None)
        size = log_norms[-1]
        change = torch.full_like(size, -math.inf) if layer.update is None else layer.update.log_norm()
        updates.append(torch.where(change == -math.inf, -math.inf, change - size))
        last = layer.after
    assert last is not None
    measure(last)
    stacked = (torch.stack(values).cpu() for values in (log_norms, largest, updates, correlations, decorrelations))
    norms, tops, moved, cosines, apart = stacked
    return Propagation(
        norms,
        tops,
        moved,
        torch.tensor(same),
        cosines,
        apart,
        chosen,
        torch.tensor(widths),
        tuple(names),
        members,
        x.detach().cpu(),
    )


def _correlate(state: Scaled, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of pairs of states and log (1 - cosine) = log |u - v|^2 / 2 for unit vectors u and v."""
    flat = state.mantissa.double().flatten(2) if state.mantissa.ndim > 2 else state.mantissa.double()[..., None]
    size = flat.norm(dim=-1, keepdim=True)
    unit = flat / torch.where(size == 0, 1.0, size)
    u, v = unit[:, pairs[:, 0]], unit[:, pairs[:, 1]]
    apart = 2 * log_norm(u - v, 2) - math.log(2)
    zero = ((u == 0).all(dim=-1)) | ((v == 0).all(dim=-1))
    return torch.where(zero, 0.0, (1 - apart.exp()).clamp(-1, 1)), torch.where(zero, 0.0, apart)


def _layers_of(names: Sequence[str], states: Sequence[State]) -> Iterator[PassedLayer]:
    """Yield what each layer of a module makes of the state."""
    for name, before, after in zip(names, states[:-1], states[1:], strict=True):
        one, other = before.numbers(name), after.numbers(name)
        update = (
            _one_seed(other.double() - one.double())
            if one.shape == other.shape and before.shape == after.shape
            else None
        )
        yield PassedLayer(name, _one_seed(one), _one_seed(other), update)


def _one_seed(state: Tensor) -> Scaled:
    return Scaled.of(state[None], torch.zeros((1, len(state)), dtype=torch.int64, device=state.device))
