"""The parameters of a residual chain as functions of the place t = l / L along its depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stability.foundation.checks import check_finite
from stability.networks import Architecture, Chain, Init
from stability.networks.initialisation import find_init, law_of

#: How many cosines smooth weights are made of, the constant among them.
MODES = 3
#: Parameters of one's own: t -> {kind: numbers that broadcast to (seeds, ...)}.
Given = Callable[[float], Mapping[str, ArrayLike | Tensor]]


class Weights(Protocol):
    """Parameters by kind, (seeds, ...), as a function of t."""

    @property
    def breaks(self) -> tuple[float, ...]:
        """The places inside (0, 1) between which they are smooth."""
        ...

    def at(self, t: float) -> dict[str, Tensor]:
        """Return the parameters at t in [0, 1]."""
        ...

    def of(self, seed: int) -> Weights:
        """Return those of one seed."""
        ...


@dataclass(frozen=True)
class Smooth:
    """theta(t) = (c_0 + sqrt(2) c_1 cos(pi t) + sqrt(2) c_2 cos(2 pi t)) / sqrt(3), the c_k those of three layers.

    Its mean square over t is that of the initialisation. What is drawn from a constant stays constant.

    Attributes:
        modes: by kind, (seeds, MODES, ...), or (seeds, 1, ...) of what is constant.
        breaks: none.
    """

    modes: Mapping[str, Tensor]
    breaks: tuple[float, ...] = ()

    def at(self, t: float) -> dict[str, Tensor]:
        """Return the parameters at t."""
        return {kind: self._mix(t, modes) for kind, modes in self.modes.items()}

    def _mix(self, t: float, modes: Tensor) -> Tensor:
        count = modes.shape[1]
        mixed = modes[:, 0] / math.sqrt(count)
        for k in range(1, count):
            mixed = mixed + modes[:, k] * (math.cos(k * math.pi * t) * math.sqrt(2 / count))
        return mixed

    def of(self, seed: int) -> Weights:
        """Return those of one seed."""
        return Smooth({kind: modes[seed : seed + 1] for kind, modes in self.modes.items()})


@dataclass(frozen=True)
class Interpolated:
    """The parameters of a chain at t = l / L, straight lines between them, and constant after its last step.

    Attributes:
        layers: by kind, (seeds, depth, ...).
        breaks: the places between which they are straight.
    """

    layers: Mapping[str, Tensor]
    breaks: tuple[float, ...]

    def at(self, t: float) -> dict[str, Tensor]:
        """Return the parameters at t."""
        return {kind: self._between(t, layers) for kind, layers in self.layers.items()}

    def _between(self, t: float, layers: Tensor) -> Tensor:
        last = layers.shape[1] - 1
        # The chain itself has exactly its own parameters: t L is within rounding of a whole number there.
        place = t * (len(self.breaks) + 1)
        place = float(round(place)) if abs(place - round(place)) < 1e-9 else place
        low = min(int(place), last)
        share = min(place, float(last)) - low
        return layers[:, low] if share == 0 else torch.lerp(layers[:, low], layers[:, low + 1], share)

    def of(self, seed: int) -> Weights:
        """Return those of one seed."""
        return Interpolated({kind: layers[seed : seed + 1] for kind, layers in self.layers.items()}, self.breaks)


@dataclass(frozen=True)
class OfFunction:
    """What a function of one's own gives, checked at every t.

    Attributes:
        function: the function.
        shapes: by kind, (seeds, ...), of all parameters of a step.
        seed: which one alone is asked for.
        breaks: none.
    """

    function: Given
    shapes: Mapping[str, tuple[int, ...]]
    seed: int | None = None
    breaks: tuple[float, ...] = ()

    def at(self, t: float) -> dict[str, Tensor]:
        """Return the parameters at t."""
        given = self.function(t)
        if not isinstance(given, Mapping) or set(given) != set(self.shapes):
            names = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(f"weights({t:g}) gives {names}: expected a dictionary of {', '.join(self.shapes)}")
        found = {}
        for kind, shape in self.shapes.items():
            value = _numbers(f"weights({t:g})[{kind!r}]", given[kind])
            try:
                found[kind] = value.expand(shape)
            except RuntimeError:
                raise ValueError(
                    f"weights({t:g})[{kind!r}] has shape {tuple(value.shape)}: expected one that broadcasts to {shape}"
                ) from None
            check_finite(f"weights({t:g})[{kind!r}]", value)
        return found if self.seed is None else {k: v[self.seed : self.seed + 1] for k, v in found.items()}

    def check(self) -> None:
        """Raise where it is no function, or gives other numbers when it is asked again, as one that draws them does."""
        if not callable(self.function):
            raise TypeError(
                f"weights is a {type(self.function).__name__}: expected a function of t, such as lambda t: "
                f"{{{', '.join(f'{kind!r}: ...' for kind in self.shapes)}}}"
            )
        once = {kind: value.clone() for kind, value in self.at(0.0).items()}
        for kind, value in self.at(0.0).items():
            if not torch.equal(once[kind], value):
                raise ValueError(
                    f"weights(0)[{kind!r}] is another number when it is asked for again: expected a function of t, "
                    "whose random numbers are drawn beforehand"
                )

    def of(self, seed: int) -> Weights:
        """Return those of one seed."""
        return replace(self, seed=seed)


def _numbers(name: str, given: ArrayLike | Tensor) -> Tensor:
    """Return what a user gives as float64, a tensor that requires a gradient as its numbers."""
    plain = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if plain.dtype.kind not in "fiu":
        raise TypeError(f"{name} is {given!r}: expected real numbers, or an array of them")
    return torch.as_tensor(plain.astype(np.float64))


def smooth_weights(
    architecture: Architecture, members: Sequence[int], width: int, init: str | Init, root: int
) -> Weights:
    """Return smooth parameters drawn for each member, constant ones where all steps share them."""
    found = without_depth(init, architecture, width)
    own = replace(architecture, branch=1.0, branch_power=0.0)
    chain = Chain(own, 1 if architecture.shared else MODES, members, width, init, root)
    modes = {kind: value.detach() for kind, value in chain.named_parameters()}
    constant = {kind for kind in modes if law_of(found, kind).family in ("constant", "identity")}
    return Smooth({kind: value[:, :1] if kind in constant else value for kind, value in modes.items()})


def without_depth(init: str | Init, architecture: Architecture, width: int) -> Init:
    """Return an initialisation that says nothing of the depth, or raise."""
    found = find_init(init, architecture, width)
    if found.kinks is not None or any(law_of(found, kind).depth_power for kind in architecture.kinds):
        raise ValueError(
            f"init {found.name!r} depends on the depth: the factor of a flow is that of the architecture; take another "
            "init and branch_power"
        )
    return found


def chain_weights(chain: Chain) -> Weights:
    """Return the parameters of a chain as a function of the place along it."""
    layers = {
        kind: value.detach().to("cpu", torch.float64)
        for kind, value in chain.named_parameters()
        if not kind.startswith("readout")
    }
    return Interpolated(layers, tuple(place / chain.depth for place in range(1, chain.depth)))
