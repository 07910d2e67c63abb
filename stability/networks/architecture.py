"""Architectures as data: what one step of a chain computes."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stability.foundation.checks import check_name


@dataclass(frozen=True)
class Activation:
    """An activation phi(z, slope).

    Attributes:
        function: maps (z, slope) to phi(z); `slope` is None unless `trains_slope`.
        trains_slope: each channel has a slope of its own for z <= 0.
        slope: the fixed slope for z <= 0 of a piecewise-linear phi, None for a smooth one or a trained slope.
        second_moment: a -> E phi(z)^2 for z ~ N(0, 1) and slope a; the gain that keeps the mean square
            of a signal is its inverse square root.
        derivative_at_zero: phi'(0) as automatic differentiation gives it, None where it is the trained slope.
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    second_moment: Callable[[float], float]
    slope: float | None = None
    trains_slope: bool = False
    derivative_at_zero: float | None = None

    @property
    def piecewise_linear(self) -> bool:
        """Whether a step with this activation is six numbers at width 1."""
        return self.trains_slope or self.slope is not None

    def gain(self, slope: float) -> float:
        """1 / sqrt(E phi(z)^2), z ~ N(0, 1): sqrt(2 / (1 + slope^2)) for PReLU (He et al. 2015, eq. 15)."""
        return 1 / math.sqrt(self.second_moment(slope))


def _prelu(z: Tensor, slope: Tensor | None) -> Tensor:
    # torch.where and not F.prelu: under vmap(jacrev) F.prelu is silently wrong when batch equals channels.
    assert slope is not None
    return torch.where(z > 0, z, slope * z)


#: The activations by name. The second moments of tanh and GELU are quadratures of phi^2 over N(0, 1).
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(lambda z, _: torch.relu(z), lambda _: 0.5, slope=0.0, derivative_at_zero=0.0),
    "prelu": Activation(_prelu, lambda a: (1 + a * a) / 2, trains_slope=True),
    "tanh": Activation(lambda z, _: torch.tanh(z), lambda _: 0.39429449039784117, derivative_at_zero=1.0),
    "gelu": Activation(lambda z, _: torch.nn.functional.gelu(z), lambda _: 0.42522148257029867, derivative_at_zero=0.5),
}


@dataclass(frozen=True)
class Architecture:
    """What a step of a chain computes, as data.

    A step is h -> skip h + phi(weight h + bias) with one affine map, and
    h -> skip h + outer_weight phi(weight h + bias) + outer_bias with two. At width n the weights are n x n
    matrices, the biases and the slopes vectors of n.

    Attributes:
        name: names the architecture and its random streams.
        skip: the weight of the bypass, 0 for none. None means a number of its own in every step: such a
            chain comes from a step table, see `Chain.from_table`.
        maps: 1 or 2 affine maps in a step.
        activation: a name in `ACTIVATIONS`: "relu", "prelu", "tanh", "gelu".
        readout: whether one affine map follows the last step.

    A sixth architecture is one entry:

    >>> import stability as st
    >>> residual1_prelu = st.Architecture("residual1_prelu", skip=1, maps=1, activation="prelu")
    >>> st.Chain(residual1_prelu, depth=3).table().shape
    (1, 3, 6)
    >>> print(residual1_prelu.formula)
    h <- h + prelu(w h + b)
    """

    name: str
    skip: float | None = 0.0
    maps: int = 1
    activation: str = "relu"
    readout: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"an architecture's name is {self.name!r}: expected a string that is not empty")
        check_name("activation", self.activation, ACTIVATIONS)
        if not isinstance(self.readout, bool):
            raise ValueError(f"readout is {self.readout!r}: expected True or False")
        if self.maps not in (1, 2):
            raise ValueError(f"maps is {self.maps!r}: a step has 1 or 2 affine maps")
        if self.skip is not None and (not isinstance(self.skip, int | float) or not math.isfinite(self.skip)):
            raise ValueError(f"skip is {self.skip!r}: expected a finite number, 0 for no bypass")

    @property
    def phi(self) -> Activation:
        """The activation itself."""
        return ACTIVATIONS[self.activation]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of parameter of a step that an initialisation draws, in the order of the drawing."""
        outer = ("outer_weight", "outer_bias") if self.maps == 2 else ()
        return ("weight", "bias", *outer, *(("slope",) if self.phi.trains_slope else ()))

    @property
    def parameters(self) -> tuple[str, ...]:
        """All that a chain trains: the kinds, a bypass weight of its own, the read-out."""
        skip = ("skip",) if self.skip is None else ()
        return (*self.kinds, *skip, *(("readout_weight", "readout_bias") if self.readout else ()))

    def shapes(self, seeds: int, depth: int, width: int) -> dict[str, tuple[int, ...]]:
        """The shape of each of `parameters`: a read-out has no depth, and at width 1 there is no n."""
        n = () if width == 1 else (width,)
        return {
            kind: (seeds, *(() if kind.startswith("readout") else (depth,)))
            + (n * 2 if kind.endswith("weight") else () if kind == "skip" else n)
            for kind in self.parameters
        }

    @property
    def formula(self) -> str:
        """One step in the field's notation."""
        weight = "s " if self.skip is None else "" if self.skip == 1 else f"{self.skip:g} "
        skip = "" if self.skip == 0 else f"{weight}h + "
        inner = self.activation + ("(wa h + ba)" if self.maps == 2 else "(w h + b)")
        step = f"wb {inner} + bb" if self.maps == 2 else inner
        return f"h <- {skip}{step}" + (", then w h + b" if self.readout else "")


class Architectures(UserDict[str, Architecture]):
    """Architectures by their names: an entry under another name than its own is refused."""

    def __setitem__(self, name: str, architecture: Architecture) -> None:
        if not isinstance(architecture, Architecture):
            raise TypeError(f"the entry {name!r} is a {type(architecture).__name__}: expected an Architecture")
        if name != architecture.name:
            raise ValueError(
                f"the entry {name!r} is an architecture called {architecture.name!r}, by which its random streams are "
                f"named: use one name, ARCHITECTURES[{architecture.name!r}]"
            )
        super().__setitem__(name, architecture)


#: The five chains of Peng (2017), in the article's order. Add an entry and everything works on it.
ARCHITECTURES = Architectures(
    {
        architecture.name: architecture
        for architecture in (
            Architecture("plain_relu", skip=0, maps=1, activation="relu", readout=True),
            Architecture("residual1_relu", skip=1, maps=1, activation="relu"),
            Architecture("residual2_relu", skip=1, maps=2, activation="relu"),
            Architecture("residual2_prelu", skip=1, maps=2, activation="prelu"),
            Architecture("plain_prelu", skip=0, maps=1, activation="prelu", readout=True),
        )
    }
)

#: Every column of the step table free: what a table without a name is read as.
TABLE = Architecture("table", skip=None, maps=2, activation="prelu")


def find_architecture(architecture: str | Architecture) -> Architecture:
    """Return the architecture of that name in `ARCHITECTURES`, or the one given."""
    if isinstance(architecture, Architecture):
        return architecture
    return ARCHITECTURES[check_name("architecture", architecture, ARCHITECTURES)]
