"""The trainable chain: all seeds at once, one module for every architecture and width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from stability.foundation.arguments import door
from stability.foundation.checks import (
    check_dtype,
    check_finite,
    check_integer,
    check_members,
    check_points,
    check_table,
)
from stability.networks import step_table, storage
from stability.networks.architecture import TABLE, Activation, Architecture, find_architecture
from stability.networks.initialisation import Init, draw, find_init


def affine(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return weight h + bias for every seed, for weights (seeds,) or (seeds, n, n)."""
    if weight.ndim == 1:
        return weight[:, None] * h + bias[:, None]
    return h @ weight.mT + bias[:, None, :]


@dataclass(frozen=True)
class Step:
    """One step of a chain, for all seeds: maps h to skip h + outer_weight phi(weight h + bias) + outer_bias.

    Called with points, (points,) or (points, n), or with a state, (seeds, points) or (seeds, points, n), it
    returns the next state.
    """

    activation: Activation
    skip: float | Tensor
    weight: Tensor
    bias: Tensor
    outer_weight: Tensor | None = None
    outer_bias: Tensor | None = None
    slope: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        z = affine(h, self.weight, self.bias)
        h_next = self.activation.function(z, None if self.slope is None else self.slope[:, None])
        if self.outer_weight is not None:
            scalar = self.outer_weight.ndim == 1
            h_next = self.outer_weight[:, None] * h_next if scalar else h_next @ self.outer_weight.mT
        # The formula of `step_formula` with matrices, and without what an architecture leaves out. Its order lets both
        # readings agree to the bit.
        if isinstance(self.skip, Tensor):
            h_next = self.skip[:, None] * h + h_next
        elif self.skip != 0:
            h_next = (h if self.skip == 1 else self.skip * h) + h_next
        return h_next if self.outer_bias is None else h_next + self.outer_bias[:, None]


class Chain(nn.Module):
    """Many members of one architecture, held and trained together.

    A step is h -> skip h + phi(weight h + bias), or with two maps
    h -> skip h + outer_weight phi(weight h + bias) + outer_bias; `depth` of them follow one another, and a
    plain chain ends in an affine read-out. `Chain(...)(x)` maps points (points,) to (seeds, points), and at
    width n (points, n) to (seeds, points, n).

    Args:
        architecture: a name in `ARCHITECTURES`, or an `Architecture`.
        depth: the number of steps, the read-out not among them.
        seeds: how many members, or a sequence of member numbers.
        width: the neurons of a layer.
        init: a name in `INITS`, or an `Init`.
        root: the root seed. A member is a pure function of (root, architecture, member, layer), and of the depth
            where the initialisation scales with it ("scaled", "knots").
        dtype: the parameters' floating dtype, the rounding of the float64 member.
        device: where the parameters live.

    Attributes:
        architecture, depth, width, root: as given.
        members: the member numbers, in the order of the first dimension.
        init: the name of the initialisation, "table" for a chain that came from a step table.
        weight, bias, outer_weight, outer_bias, slope, skip: parameters (seeds, depth), and at width n
            (seeds, depth, n, n) or (seeds, depth, n), those that the architecture has.
        readout_weight, readout_bias: parameters (seeds,), and at width n (seeds, n, n) and (seeds, n).

    Raises:
        ValueError, TypeError: for an unknown name, a depth of 0, repeated seeds and the like, with the remedy.

    >>> import torch, stability as st
    >>> chain = st.Chain("residual2_prelu", depth=100, seeds=1000)
    >>> chain(torch.linspace(-3, 3, 5, dtype=torch.float64)).shape
    torch.Size([1000, 5])
    >>> len(chain.steps), chain.table().shape
    (100, (1000, 100, 6))
    """

    architecture: Architecture
    depth: int
    width: int
    members: tuple[int, ...]
    init: str
    root: int

    @door
    def __init__(
        self,
        architecture: str | Architecture,
        depth: int,
        seeds: int | Sequence[int] = 1,
        width: int = 1,
        init: str | Init = "pytorch",
        root: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        architecture = find_architecture(architecture)
        depth, width = check_integer("depth", depth, 1), check_integer("width", width, 1)
        members, root = check_members(seeds), check_integer("root", root, 0, 2**64 - 1)
        dtype = check_dtype(dtype)
        init = find_init(init, architecture, width)
        values = draw(init, architecture, depth, width, members, root)
        tensors = {kind: torch.as_tensor(v).to(device=device, dtype=dtype) for kind, v in values.items()}
        self._hold(architecture, members, init.name, root, tensors)

    def _hold(
        self, architecture: Architecture, members: Sequence[int], init: str, root: int, values: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.architecture, self.members, self.init, self.root = architecture, tuple(members), init, root
        self.depth = values["weight"].shape[1]
        self.width = 1 if values["weight"].ndim == 2 else values["weight"].shape[2]
        for kind, value in values.items():
            self.register_parameter(kind, nn.Parameter(value))

    @classmethod
    def _from_parameters(
        cls,
        architecture: Architecture,
        members: Sequence[int],
        init: str,
        root: int,
        values: Mapping[str, Tensor],
    ) -> Chain:
        chain = cls.__new__(cls)
        chain._hold(architecture, members, init, root, values)
        return chain

    @property
    def seeds(self) -> int:
        """How many members there are."""
        return len(self.members)

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return self._value("weight").dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._value("weight").device

    def _value(self, kind: str) -> Tensor:
        # Not get_parameter: under torch.func.functional_call the values are tensors and no parameters.
        value = getattr(self, kind)
        assert isinstance(value, Tensor)
        return value

    @property
    def steps(self) -> list[Step]:
        """The `depth` steps as callables on the state of all seeds, the read-out not among them.

        >>> import torch, stability as st
        >>> chain, h = st.Chain("residual2_relu", depth=5), torch.zeros(1, dtype=torch.float64)
        >>> for step in chain.steps:
        ...     h = step(h)
        >>> bool(torch.equal(h, chain(torch.zeros(1, dtype=torch.float64))))
        True
        """
        # One unbind a kind: a select for every step would make the backward pass quadratic in the depth.
        kinds = [kind for kind in self.architecture.parameters if not kind.startswith("readout")]
        layers = zip(*(self._value(kind).unbind(1) for kind in kinds), strict=True)
        skip = {} if self.architecture.skip is None else {"skip": self.architecture.skip}
        return [
            Step(self.architecture.phi, **skip, **dict(zip(kinds, layer, strict=True)))  # type: ignore[arg-type]
            for layer in layers
        ]

    @property
    def readout(self) -> Callable[[Tensor], Tensor]:
        """What follows the last step, as a callable: an affine map, or nothing at all."""
        if not self.architecture.readout:
            return lambda h: h
        weight, bias = self._value("readout_weight"), self._value("readout_bias")
        return lambda h: affine(h, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        h = check_points(x, self.width, self.dtype, self.device)
        for step in self.steps:
            h = step(h)
        return self.readout(h)

    def table(self) -> NDArray[np.float64]:
        """Return the step table, float64 (seeds, rows, 6), of a piecewise-linear chain of width 1.

        A row holds skip, weight, bias, outer_weight, outer_bias, slope of
        h -> skip h + outer_weight phi(weight h + bias) + outer_bias, phi(z) = z for z > 0 and slope z else. A
        read-out w h + b is the last row (w, 0, 0, 0, b, 1). The values are those of the parameters, exactly.

        Raises:
            ValueError: at a width over 1 or with a smooth activation, which six numbers cannot hold.
        """
        if self.width != 1 or not self.architecture.phi.piecewise_linear:
            raise ValueError(
                f"a chain of width {self.width} with activation {self.architecture.activation!r} has no step table: "
                "six numbers a step need width 1 and a piecewise-linear activation"
            )
        return step_table.pack(self.architecture, self._numpy())

    def _numpy(self) -> dict[str, NDArray[np.float64]]:
        return {k: v.detach().to("cpu", torch.float64).numpy() for k, v in self.named_parameters()}

    def set_table(self, table: ArrayLike | Tensor) -> None:
        """Give the parameters the values of a step table of this chain's own shape, rounded to its dtype."""
        array = check_table(table)
        expected = (self.seeds, self.depth + self.architecture.readout)
        if array.shape[:2] != expected:
            raise ValueError(f"the table has {array.shape[:2]} seeds and rows: this chain has {expected}")
        with torch.no_grad():
            for kind, value in step_table.unpack(self.architecture, array).items():
                self.get_parameter(kind).copy_(torch.from_numpy(value))

    @classmethod
    @door
    def from_table(
        cls,
        table: ArrayLike | Tensor,
        architecture: str | Architecture | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Chain:
        """Return the chain of a step table (seeds, rows, 6), the inverse of `table`.

        With an architecture, its fixed columns must hold what it says, and where it has a read-out the last row must be
        one. Without, every row is a step and all six columns are free to train. Members are numbered from 0.

        >>> import numpy as np, stability as st
        >>> table = st.Chain("plain_prelu", depth=5, seeds=3).table()
        >>> bool(np.array_equal(st.Chain.from_table(table, "plain_prelu").table(), table))
        True
        """
        values = check_table(table)
        found = TABLE if architecture is None else find_architecture(architecture)
        if not found.phi.piecewise_linear:
            raise ValueError(f"{found.name!r} has activation {found.activation!r}: a step table is piecewise linear")
        parameters = step_table.unpack(found, values)
        dtype = check_dtype(dtype)
        tensors = {k: torch.tensor(v).to(device=device, dtype=dtype) for k, v in parameters.items()}
        for kind, value in tensors.items():
            check_finite(f"the table's {kind} as {dtype} (seed, row)", value)
        return cls._from_parameters(found, range(len(values)), "table", 0, tensors)

    def prefix(self, depth: int) -> Chain:
        """Return the chain of the first `depth` steps, with the same read-out where there is one.

        Its parameters are views: what trains one trains the other. Their gradients are their own.

        >>> import stability as st
        >>> chain = st.Chain("residual2_prelu", depth=100)
        >>> chain.prefix(20).weight.data_ptr() == chain.weight.data_ptr()
        True
        """
        depth = check_integer("depth", depth, 1, self.depth)
        values = {
            kind: value.detach() if kind.startswith("readout") else value.detach()[:, :depth]
            for kind, value in self.named_parameters()
        }
        return self._from_parameters(self.architecture, self.members, self.init, self.root, values)

    def insert(self, position: int) -> Chain:
        """Return a chain one step deeper: a step that is the identity before the step at `position`, or at the end.

        The new step is that of init "identity": its output is its input bit for bit, and so is the function, whatever
        was trained before. Its free numbers are those of the member's next layer. The parameters are copies.

        Args:
            position: from 0 to the depth.

        Raises:
            ValueError: for an architecture whose step cannot be the identity.

        >>> import torch, stability as st
        >>> chain, x = st.Chain("residual2_prelu", depth=5, seeds=3), torch.linspace(-3, 3, 7, dtype=torch.float64)
        >>> deeper = chain.insert(2)
        >>> deeper.depth, bool(torch.equal(deeper(x), chain(x)))
        (6, True)
        """
        position = check_integer("position", position, 0, self.depth)
        values = {kind: value.detach().clone() for kind, value in self.named_parameters()}
        for kind, drawn in self._identity_step().items():
            value = values[kind]
            new = torch.as_tensor(drawn).to(value)
            values[kind] = torch.cat([value[:, :position], new[:, None], value[:, position:]], dim=1)
        deeper = self._from_parameters(self.architecture, self.members, self.init, self.root, values)
        for kind, value in self.named_parameters():
            deeper.get_parameter(kind).requires_grad_(value.requires_grad)
        return deeper

    def _identity_step(self) -> dict[str, NDArray[np.float64]]:
        """Return a step that is the identity, by kind, (seeds,) and with the shape of the width behind it."""
        architecture = self.architecture
        if architecture.skip is None:
            # Steps with a bypass weight of their own, which no init draws.
            ones, zeros = np.ones(self.seeds), np.zeros(self.seeds)
            row = {"skip": ones, "weight": ones, "bias": zeros, "outer_weight": zeros, "outer_bias": zeros}
            return row | {"slope": 0.25 * ones}
        init = find_init("identity", architecture, self.width)
        values = draw(init, architecture, self.depth + 1, self.width, self.members, self.root)
        return {kind: value[:, -1] for kind, value in values.items() if not kind.startswith("readout")}

    @door
    def save(self, path: str | Path) -> Path:
        """Write the chain to one safetensors file, whole or not at all; see `Chain.load`."""
        values = dict(self.named_parameters())
        return storage.write(path, storage.Stored(self.architecture, self.members, self.init, self.root, values))

    @classmethod
    @door
    def load(cls, path: str | Path, device: torch.device | str | None = None) -> Chain:
        """Return the chain that `save` wrote: the same parameters bit for bit, and the same description.

        Raises:
            ValueError: for a file that is cut short, is no saved chain, or does not hold what it says.
        """
        stored = storage.read(path, device)
        return cls._from_parameters(stored.architecture, stored.members, stored.init, stored.root, stored.values)

    def extra_repr(self) -> str:
        return (
            f"{self.architecture.name!r}, depth={self.depth}, seeds={self.seeds}, width={self.width}, "
            f"init={self.init!r}, root={self.root}, dtype={self.dtype}"
        )
