"""How signals travel forward: their size, how much a layer moves them, and how alike two of them become."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from stability.foundation.log_norms import log_norm
from stability.foundation.scaled import Scaled, times_power
from stability.foundation.threads import side_by_side
from stability.reading import Layers
from stability.reading.chains import Steps, StepTable
from stability.reading.derivatives import derivatives
from stability.reading.read import AnyNetwork, read
from stability.reading.refusals import normalises_by_batch
from stability.reading.states import State
from stability.signals.kernels import table_passes

Pairs = Sequence[tuple[int, int]] | Tensor | None


@dataclass(frozen=True, repr=False)
class Propagation:
    """The states of a network layer by layer, in natural logarithms; a module counts as one seed.

    Attributes:
        log_norms: float64 (layers + 1, seeds, points), the log of the L2 norm of the state of each point before each
            layer and after the last; -inf where it is exactly zero.
        log_largest: the same shape, the log of the largest entry of the state.
        log_updates: (layers, seeds, points), log of |h_l - h_(l-1)| / |h_(l-1)|: how far a layer moves the state,
            relative to it. inf where it leaves zero, and -inf where nothing moves or the shape changes.
        same_shape: bool (layers,), whether the layer keeps the shape of the state.
        correlations: (layers + 1, seeds, pairs), the cosine between the states of two points, 0 where one is zero. At
            width 1 that is 1 or -1.
        log_decorrelations: the same shape, log (1 - correlation), without cancellation: two states in the same
            direction to a relative 1e-10 still have one of about -46. -inf where float64 tells no difference.
        pairs: (pairs, 2), which points.
        widths: int64 (layers + 1,), how many numbers the state of a point has.
        layers: the names of the layers.
        members: the member numbers along the seeds.
        x: the points.
    """

    log_norms: Tensor
    log_largest: Tensor
    log_updates: Tensor
    same_shape: Tensor
    correlations: Tensor
    log_decorrelations: Tensor
    pairs: Tensor
    widths: Tensor
    layers: tuple[str, ...]
    members: tuple[int, ...]
    x: Tensor

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.layers)

    def __repr__(self) -> str:
        low, high = (float(self.log_norms[layer].median()) for layer in (0, -1))
        return (
            f"Propagation({self.depth} layers, {len(self.members)} seeds, {self.log_norms.shape[2]} points, median log "
            f"|h| {low:+.4g} before the first to {high:+.4g} after the last)"
        )

    @classmethod
    def of_seeds(cls, results: Sequence[Propagation]) -> Propagation:
        """Join results of networks with the same layers and points, such as one model from several seeds.

        Raises:
            ValueError, TypeError: for no results, and those with other layers, widths, points or pairs than the first.

        >>> import torch, stability as st
        >>> x = torch.ones(3, 8)
        >>> results = []
        >>> for seed in range(5):
        ...     _ = torch.manual_seed(seed)
        ...     results.append(st.propagation([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)], x))
        >>> st.Propagation.of_seeds(results).log_norms.shape
        torch.Size([3, 5, 3])
        """
        results = list(results)
        if not results:
            raise ValueError("there are no results to join: expected at least one")
        first = results[0]
        for number, other in enumerate(results):
            if not isinstance(other, Propagation):
                raise TypeError(f"result {number} is a {type(other).__name__}: expected a Propagation")
            alike = other.layers == first.layers and all(
                torch.equal(getattr(other, name), getattr(first, name)) for name in ("same_shape", "widths")
            )
            if not alike:
                raise ValueError(f"result {number} has other layers than the first: join what is alike")
            if not (torch.equal(other.x, first.x) and torch.equal(other.pairs, first.pairs)):
                raise ValueError(
                    f"result {number} has other points, or pairs of them, than the first: join what is alike"
                )
        over_seeds = ("log_norms", "log_largest", "log_updates", "correlations", "log_decorrelations")
        joined: dict[str, Any] = {name: torch.cat([getattr(r, name) for r in results], dim=1) for name in over_seeds}
        members = tuple(range(joined["log_norms"].shape[1]))
        return dataclasses.replace(first, members=members, **joined)

    def to_dataset(self) -> xarray.Dataset:
        """Return everything with dims (depth, seed, x) and (depth, seed, pair), depth 0 before the first layer."""
        about = {"units": "natural logarithm"}
        undefined = np.full((1, *self.log_updates.shape[1:]), -np.inf)
        coords: dict[str, Any] = {
            "depth": np.arange(self.depth + 1),
            "seed": list(self.members),
            "x": self.x.double().cpu().numpy() if self.x.ndim == 1 else np.arange(self.log_norms.shape[2]),
        }
        return xarray.Dataset(
            {
                "log_norms": (("depth", "seed", "x"), self.log_norms.numpy(), {"long_name": "log |h_l|", **about}),
                "log_updates": (
                    ("depth", "seed", "x"),
                    np.concatenate([undefined, self.log_updates.numpy()]),
                    {"long_name": "log |h_l - h_(l-1)| / |h_(l-1)|", **about},
                ),
                "correlations": (("depth", "seed", "pair"), self.correlations.numpy()),
                "log_decorrelations": (("depth", "seed", "pair"), self.log_decorrelations.numpy(), about),
                "pairs": (("pair", "end"), self.pairs.numpy()),
            },
            coords,
        )


def propagation(
    net: AnyNetwork,
    x: Any,
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
    return _measured(_states_of_chain(reading), reading.x, len(reading.x), pairs, reading.members)


def _check_pairs(pairs: Pairs, points: int) -> Tensor:
    if pairs is None:
        first = torch.arange(points - 1)
        return torch.stack([first, first + 1], dim=1)
    if isinstance(pairs, str):
        raise TypeError(f"pairs is {pairs!r}: expected integers (pairs, 2)")
    chosen = torch.as_tensor(pairs)
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
        lambda first, last: table_passes.log_states(first, last, table, points, log_sizes, signs, updates),
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


@dataclass(frozen=True)
class _Layer:
    """What a layer does to a state: its name, the state before and after it, and the difference where there is one."""

    name: str
    before: Scaled
    after: Scaled
    update: Scaled | None


def _measured(
    layers: Iterator[_Layer],
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


def _states_of_chain(reading: Steps) -> Iterator[_Layer]:
    """Yield what each step of a chain makes of the state, float64 with an exponent for each seed and point."""
    net, x = reading.chain, reading.x
    with torch.no_grad():
        points = x.detach().double().expand(len(net.members), *x.shape)
        state = Scaled.of(points, torch.zeros(points.shape[:2], dtype=torch.int64, device=x.device))
        for name, step in zip(reading.layers, net.steps, strict=True):
            after, update = _scaled_step(step, state)
            yield _Layer(name, state, after, update)
            state = after


def _scaled_step(step: Any, state: Scaled) -> tuple[Scaled, Scaled]:
    """Return the state after a step, and the update, of a state m 2^e.

    In units of 2^e a step is m -> skip m + outer_weight phi_e(weight m + bias 2^-e) + outer_bias 2^-e, where
    phi_e(z) = phi(z 2^e) 2^-e. A piecewise-linear phi is its own phi_e; tanh and GELU are linear below 2^-500 and
    homogeneous, up to nothing that float64 can tell, above 2^500. The bypass keeps the exponent of the state. But in a
    step with a bias the numbers that go through the activation count as zero below 2^-1900 or so, those of neurons
    without a bias too.
    """
    biases = [b.double()[:, None] for b in (step.bias, step.outer_bias) if b is not None]
    exponent = state.exponent
    biased = torch.stack([(b != 0).flatten(1).any(dim=1) for b in biases]).any(dim=0)[:, None]
    # Beside a bias of the same seed what is smaller is nothing.
    exponent = torch.where(biased, exponent.clamp(min=-900), exponent)
    m = times_power(state.mantissa, state.exponent - exponent)

    def affine(h: Tensor, weight: Tensor) -> Tensor:
        weight = weight.double()
        return weight[:, None] * h if weight.ndim == 1 else h @ weight.mT

    def scaled(bias: Tensor) -> Tensor:
        full = bias.double()[:, None].expand(m.shape).contiguous()
        return times_power(full, -exponent)

    z = affine(m, step.weight) + scaled(step.bias)
    slope = None if step.slope is None else step.slope.double()[:, None]
    moved = exponent.clamp(-500, 500)
    update = times_power(step.activation.function(times_power(z, moved), slope), -moved)
    if step.outer_weight is not None:
        update = affine(update, step.outer_weight)
    if step.outer_bias is not None:
        update = update + scaled(step.outer_bias)
    skip = step.skip.double() if isinstance(step.skip, Tensor) else torch.full_like(step.bias.double(), step.skip)
    skip = skip.reshape(len(skip), *[1] * (m.ndim - 1)) if skip.ndim == 1 else skip[:, None]
    moves = Scaled.of(update, exponent)
    kept, lost = (Scaled.of(factor * state.mantissa, state.exponent) for factor in (skip, skip - 1))
    return kept + moves, lost + moves


def _layers_of(names: Sequence[str], states: Sequence[State]) -> Iterator[_Layer]:
    """Yield what each layer of a module makes of the state."""
    for name, before, after in zip(names, states[:-1], states[1:], strict=True):
        one, other = before.numbers(name), after.numbers(name)
        update = (
            _one_seed(other.double() - one.double())
            if one.shape == other.shape and before.shape == after.shape
            else None
        )
        yield _Layer(name, _one_seed(one), _one_seed(other), update)


def _one_seed(state: Tensor) -> Scaled:
    return Scaled.of(state[None], torch.zeros((1, len(state)), dtype=torch.int64, device=state.device))
