"""Architectures as data: what one step of a chain computes."""

from __future__ import annotations

import math
import string
import sys
from collections import UserDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from stability.foundation.checks import check_name, check_number
from stability.networks.block_order import NORMS, ORDERS, parts_of


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
    "linear": Activation(lambda z, _: z, lambda _: 1.0, slope=1.0, derivative_at_zero=1.0),
}

#: More maps than these in one step are a mistake.
_MOST_MAPS = 1000
#: The orders that are rows of a step table.
_ONE_MAP, _TWO_MAPS = (tuple(part for part in ORDERS["between"](maps) if part != "norm") for maps in (1, 2))


@dataclass(frozen=True)
class Architecture:
    """What a step of a chain computes, as data.

    A step is h -> skip h + phi(weight h + bias) with one affine map, and
    h -> skip h + outer_weight phi(weight h + bias) + outer_bias with two; with more maps an activation stands after
    each but the last. At width n the weights are n x n matrices, the biases and the slopes vectors of n.

    Attributes:
        name: names the architecture and its random streams.
        skip: the weight of the bypass, 0 for none. None means a number of its own in every step: such a
            chain comes from a step table, see `Chain.from_table`.
        maps: the number of affine maps in a step, 1 or more.
        activation: a name in `ACTIVATIONS`: "relu", "prelu", "tanh", "gelu", "linear".
        readout: whether one affine map follows the last step.
        order: where the activations stand: "between" the maps, as above; "original", after the addition too;
            "before_addition", after every map; "pre_activation", before every map; "full_pre_activation", the same with
            the normalisation before the activation. Or the parts in their order, of "map", "activation", "norm" and one
            "add", which ends the branch: ("activation", "map", "add", "activation").
        norm: "layer" or "rms", a normalisation over the n numbers of a state wherever the order has a place for it;
            None for none. It has no trained numbers, and needs a width above 1.
        branch, branch_power: the branch is multiplied by branch depth^branch_power, for the depth that the chain is
            made with: -0.5 for 1 / sqrt(L).
        shared: whether all steps have the same parameters.

    A sixth architecture is one entry:

    >>> import stability as st
    >>> residual1_prelu = st.Architecture("residual1_prelu", skip=1, maps=1, activation="prelu")
    >>> st.Chain(residual1_prelu, depth=3).table().shape
    (1, 3, 6)
    >>> print(residual1_prelu.formula)
    h <- h + prelu(w h + b)
    >>> print(st.Architecture("he", skip=1, maps=2, order="original", norm="layer", branch_power=-0.5).formula)
    h <- relu(h + L^-0.5 norm(wb relu(norm(wa h + ba)) + bb))
    """

    name: str
    skip: float | None = 0.0
    maps: int = 1
    activation: str = "relu"
    readout: bool = False
    order: str | Sequence[str] = "between"
    norm: str | None = None
    branch: float = 1.0
    branch_power: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"an architecture's name is {self.name!r}: expected a string that is not empty")
        check_name("activation", self.activation, ACTIVATIONS)
        for field in ("readout", "shared"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} is {getattr(self, field)!r}: expected True or False")
        if isinstance(self.maps, bool) or not isinstance(self.maps, int) or not 1 <= self.maps <= _MOST_MAPS:
            raise ValueError(f"maps is {self.maps!r}: a step has 1 affine map or more, up to {_MOST_MAPS}")
        number = isinstance(self.skip, int | float) and not isinstance(self.skip, bool)
        if self.skip is not None and not (number and abs(self.skip) <= sys.float_info.max):
            raise ValueError(f"skip is {self.skip!r}: expected a finite number, 0 for no bypass")
        if self.norm is not None:
            check_name("normalisation", self.norm, NORMS)
        for field in ("branch", "branch_power"):
            check_number(field, getattr(self, field))
        if not isinstance(self.order, Sequence):
            raise TypeError(f"order is {self.order!r}: expected its name, or parts in their order")
        if not isinstance(self.order, str):
            object.__setattr__(self, "order", tuple(self.order))  # hashed, and equal to what comes out of a file
        parts_of(self.order, self.maps, self.norm)
        if self.skip is None and (self.scaled or not self.holds_rows):
            raise ValueError(
                f"{self.name!r} has a bypass weight in every step, as in a step table: expected 1 or 2 maps in the "
                "order 'between', a piecewise-linear activation, no factor on the branch and no shared parameters"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """What a step does, in order: "map", "activation", "norm", "add"."""
        return parts_of(self.order, self.maps, self.norm)

    @property
    def scaled(self) -> bool:
        """Whether there is a factor other than 1 on the branch."""
        return (self.branch, self.branch_power) != (1, 0)

    def factor(self, depth: int) -> float:
        """Return the factor on the branch of a chain of that depth.

        Raises:
            ValueError: where it is not finite, or a branch that is there is multiplied by 0 through rounding.
        """
        try:
            factor = self.branch * math.pow(depth, self.branch_power)
        except OverflowError:
            factor = math.inf
        if not math.isfinite(factor) or (factor == 0) != (self.branch == 0):
            what, size = ("rounds to 0", "larger") if factor == 0 else ("is not finite", "smaller")
            raise ValueError(
                f"the factor on the branch of {self.name!r} at depth {depth} is {self.branch:g} {depth}^"
                f"{self.branch_power:g}, which {what}: take a {size} branch_power"
            )
        return factor

    @property
    def six_numbers(self) -> bool:
        """Whether a step of width 1 is a row of a step table."""
        return self.phi.piecewise_linear and self.parts in (_ONE_MAP, _TWO_MAPS)

    @property
    def holds_rows(self) -> bool:
        """Whether the parameters of a chain of width 1 are themselves entries of its step table."""
        return self.six_numbers and not self.shared and (self.maps == 1 or not self.scaled)

    @property
    def phi(self) -> Activation:
        """The activation itself."""
        return ACTIVATIONS[self.activation]

    @property
    def map_names(self) -> tuple[str, ...]:
        """What comes before "weight" and "bias" in the names of the parameters of each map."""
        inner = ("", *(f"map{number}_" for number in range(2, self.maps)))
        return inner if self.maps == 1 else (*inner, "outer_")

    @property
    def slope_names(self) -> tuple[str, ...]:
        """The names of the trained slopes, one for each activation of a step."""
        count = self.parts.count("activation") if self.phi.trains_slope else 0
        return tuple(f"slope{number}" if number > 1 else "slope" for number in range(1, count + 1))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of parameter of a step that an initialisation draws, in the order of the drawing."""
        maps = [f"{name}{part}" for name in self.map_names for part in ("weight", "bias")]
        return (*maps, *self.slope_names)

    @property
    def parameters(self) -> tuple[str, ...]:
        """All that a chain trains: the kinds, a bypass weight of its own, the read-out."""
        skip = ("skip",) if self.skip is None else ()
        return (*self.kinds, *skip, *(("readout_weight", "readout_bias") if self.readout else ()))

    def shapes(self, seeds: int, depth: int, width: int) -> dict[str, tuple[int, ...]]:
        """The shape of each of `parameters`: a read-out has no depth, and at width 1 there is no n."""
        n = () if width == 1 else (width,)
        return {
            kind: (seeds, *(() if kind.startswith("readout") else (1 if self.shared else depth,)))
            + (n * 2 if kind.endswith("weight") else () if kind == "skip" else n)
            for kind in self.parameters
        }

    @property
    def formula(self) -> str:
        """One step in the field's notation."""
        weight = "s " if self.skip is None else "" if self.skip == 1 else f"{self.skip:g} "
        skip = "" if self.skip == 0 else f"{weight}h + "
        factor = f"{self.branch:g} " if self.branch != 1 else ""
        factor += f"L^{self.branch_power:g} " if self.branch_power else ""
        letters = iter([""] if self.maps == 1 else string.ascii_lowercase[: self.maps])
        step, last = "h", ""
        for part in self.parts:
            if part == "map":
                letter = next(letters, "z")
                argument = step if last in ("", "activation", "norm") else f"({step})"
                step = f"w{letter} {argument} + b{letter}"
            elif part == "add":
                step = f"{factor}({step})" if factor and last == "map" else f"{factor}{step}"
                step = skip + step
            else:
                step = f"{self.activation if part == 'activation' else 'norm'}({step})"
            last = part
        step += ", the same in every step" if self.shared else ""
        return f"h <- {step}" + (", then w h + b" if self.readout else "")

    def as_data(self) -> dict[str, object]:
        """Return the fields that say what it is, those that the article's five leave alone only where they differ."""
        later = ("order", "norm", "branch", "branch_power", "shared")
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if name not in later or value != defaults[name]}


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
