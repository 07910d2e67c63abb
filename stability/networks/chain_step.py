"""One step of a chain, for all seeds: what its architecture says, with the parameters of one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from stability.networks.architecture import Architecture
from stability.networks.block_order import normalise


class Operation(NamedTuple):
    """One part of a step.

    Attributes:
        part: "map", "activation", "norm", "scale" or "add".
        weight, bias: of a map, the factor on the branch taken into the last before the addition.
        slope: of an activation, where it is trained.
        adds_last: whether the bias of a map is added after the bypass, for that comes next.
    """

    part: str
    weight: Tensor | None = None
    bias: Tensor | None = None
    slope: Tensor | None = None
    adds_last: bool = False


@dataclass(frozen=True)
class Step:
    """One step of a chain, for all seeds: skip h + outer_weight phi(weight h + bias) + outer_bias, or another order.

    Called with points, (points,) or (points, n), or with a state, (seeds, points) or (seeds, points, n), it
    returns the next state. A parameter is an attribute too: `step.weight`.

    Attributes:
        architecture: what a step does.
        values: its parameters by kind, (seeds, ...).
        factor: on the branch.
    """

    architecture: Architecture
    values: Mapping[str, Tensor]
    factor: float = 1.0

    @property
    def skip(self) -> float | Tensor:
        """The weight of the bypass, (seeds,) where every step has its own."""
        return self.values["skip"] if self.architecture.skip is None else self.architecture.skip

    def __getattr__(self, name: str) -> Tensor:
        values: Mapping[str, Tensor] = self.__dict__.get("values", {})  # none yet in a copy that is being made
        if name not in values:
            raise AttributeError(f"the step has no {name}: it has {', '.join(values)}")
        return values[name]

    def operations(self) -> Iterator[Operation]:
        """Yield what is done to the state, in order."""
        values, parts = self.values, self.architecture.parts
        maps, slopes = iter(self.architecture.map_names), iter(self.architecture.slope_names)
        for place, part in enumerate(parts):
            if part == "map":
                name, last = next(maps), parts[place + 1 : place + 2] == ("add",)
                weight, bias = values[f"{name}weight"], values[f"{name}bias"]
                if last and self.factor != 1:
                    weight, bias = self.factor * weight, self.factor * bias
                yield Operation(part, weight, bias, adds_last=last)
            elif part == "activation":
                name = next(slopes, "")
                yield Operation(part, slope=values[name] if name else None)
            else:
                if part == "add" and self.factor != 1 and parts[place - 1] != "map":
                    yield Operation("scale")
                yield Operation(part)

    def __call__(self, h: Tensor) -> Tensor:
        state, bias = h, None
        for one in self.operations():
            if one.part == "map":
                assert one.weight is not None
                assert one.bias is not None
                h, bias = times(one.weight, h), one.bias[:, None]
                if not one.adds_last:
                    h, bias = h + bias, None
            elif one.part == "activation":
                h = self.architecture.phi.function(h, None if one.slope is None else one.slope[:, None])
            elif one.part == "norm":
                assert self.architecture.norm is not None
                h = normalise(h, self.architecture.norm)
            elif one.part == "scale":
                h = self.factor * h
            else:
                # The formula of `step_formula` with matrices, and without what an architecture leaves out. Its order
                # lets both readings agree to the bit.
                h = self._bypassed(state, h)
                h, bias = h if bias is None else h + bias, None
        return h

    def _bypassed(self, state: Tensor, h: Tensor) -> Tensor:
        if isinstance(self.skip, Tensor):
            return self.skip[:, None] * state + h
        if self.skip == 0:
            return h
        return (state if self.skip == 1 else self.skip * state) + h


def times(weight: Tensor, h: Tensor) -> Tensor:
    """Return weight h for every seed, for weights (seeds,) or (seeds, n, n)."""
    return weight[:, None] * h if weight.ndim == 1 else h @ weight.mT


def affine(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return weight h + bias for every seed."""
    return times(weight, h) + bias[:, None]
