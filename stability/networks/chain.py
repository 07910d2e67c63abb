"""The trainable chain: all seeds at once, one module for every architecture and width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from stability.networks.architecture import TABLE, Architecture, find_architecture
from stability.networks.chain_step import Step, affine
from stability.networks.initialisation import Init, draw, find_init


class Chain(nn.Module):
    """Many members of one architecture, held and trained together.

    A step is h -> skip h + phi(weight h + bias), or with two maps
    h -> skip h + outer_weight phi(weight h + bias) + outer_bias, or what else an `Architecture` says; `depth` of them
    follow one another, and a plain chain ends in an affine read-out. `Chain(...)(x)` maps points (points,) to
    (seeds, points), and at width n (points, n) to (seeds, points, n).

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
        factor: on the branch of every step; a `prefix` keeps that of the whole chain.
        weight, bias, outer_weight, outer_bias, slope, skip: parameters (seeds, depth), and at width n
            (seeds, depth, n, n) or (seeds, depth, n), those that the architecture has: with three maps or more
            map2_weight, map2_bias, ... too, and with several trained slopes slope2, ...; a depth of 1 where they are
            shared.
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
    factor: float

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
        if architecture.norm is not None and width == 1:
            raise ValueError(
                f"{architecture.name!r} normalises, and the width is 1: a state of one number would keep its sign at "
                "most; take a width above 1 or norm=None"
            )
        init, factor = find_init(init, architecture, width), architecture.factor(depth)
        values = draw(init, architecture, depth, width, members, root)
        tensors = {kind: torch.as_tensor(v).to(device=device, dtype=dtype) for kind, v in values.items()}
        self._hold(storage.Stored(architecture, members, init.name, root, tensors, depth, factor))

    def _hold(self, stored: storage.Stored) -> None:
        super().__init__()
        self.architecture, self.members = stored.architecture, tuple(stored.members)
        self.init, self.root, self.factor = stored.init, stored.root, stored.factor
        values = stored.values
        self.depth = values["weight"].shape[1] if stored.depth is None else stored.depth
        self.width = 1 if values["weight"].ndim == 2 else values["weight"].shape[2]
        for kind, value in values.items():
            self.register_parameter(kind, nn.Parameter(value))

    @classmethod
    def _from_stored(cls, stored: storage.Stored) -> Chain:
        chain = cls.__new__(cls)
        chain._hold(stored)
        return chain

    def _stored(self, values: Mapping[str, Tensor], depth: int) -> storage.Stored:
        """Return what there is to say of this chain with other values and another depth."""
        return storage.Stored(self.architecture, self.members, self.init, self.root, values, depth, self.factor)

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
        times = self.depth if self.architecture.shared else 1
        layers = zip(*(self._value(kind).unbind(1) * times for kind in kinds), strict=True)
        return [Step(self.architecture, dict(zip(kinds, layer, strict=True)), self.factor) for layer in layers]

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
            ValueError: at a width over 1, with a smooth activation, and for other orders and more maps, which six
                numbers cannot hold.
        """
        if not self.has_table:
            raise ValueError(
                f"a chain of width {self.width} with activation {self.architecture.activation!r} has no step table: "
                "six numbers a step need width 1, a piecewise-linear activation and 1 or 2 maps in the order 'between'"
            )
        values, factor = self._numpy(), self._rounded_factor
        if self.architecture.shared:
            values = {k: v if k.startswith("readout") else v.repeat(self.depth, axis=1) for k, v in values.items()}
        return step_table.pack(self.architecture, values, factor)

    @property
    def has_table(self) -> bool:
        """Whether six numbers a step hold the chain."""
        return self.width == 1 and self.architecture.six_numbers

    @property
    def holds_rows(self) -> bool:
        """Whether the parameters are themselves entries of the step table."""
        return self.width == 1 and self.architecture.holds_rows

    @property
    def _rounded_factor(self) -> float:
        return float(torch.tensor(self.factor, dtype=self.dtype))

    def _numpy(self) -> dict[str, NDArray[np.float64]]:
        """Return the parameters, the outer map times the factor on the branch."""
        values = {kind: value.detach() for kind, value in self.named_parameters()}
        if self.factor != 1:
            values |= {kind: self.factor * value for kind, value in values.items() if kind.startswith("outer")}
        return {kind: value.to("cpu", torch.float64).numpy() for kind, value in values.items()}

    def set_table(self, table: ArrayLike | Tensor) -> None:
        """Give the parameters the values of a step table of this chain's own shape, rounded to its dtype."""
        array = check_table(table)
        expected = (self.seeds, self.depth + self.architecture.readout)
        if array.shape[:2] != expected:
            raise ValueError(f"the table has {array.shape[:2]} seeds and rows: this chain has {expected}")
        with torch.no_grad():
            for kind, value in step_table.unpack(self.architecture, array, self._rounded_factor).items():
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
        dtype, depth = check_dtype(dtype), values.shape[1] - found.readout
        factor = found.factor(max(depth, 1))
        parameters = step_table.unpack(found, values, float(torch.tensor(factor, dtype=dtype)))
        tensors = {k: torch.tensor(v).to(device=device, dtype=dtype) for k, v in parameters.items()}
        for kind, value in tensors.items():
            check_finite(f"the table's {kind} as {dtype} (seed, row)", value)
        return cls._from_stored(storage.Stored(found, range(len(values)), "table", 0, tensors, depth, factor))

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
        return self._from_stored(self._stored(values, depth))

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
        if self.architecture.shared:
            raise ValueError(
                f"the steps of {self.architecture.name!r} share their parameters: one cannot be put in alone"
            )
        values = {kind: value.detach().clone() for kind, value in self.named_parameters()}
        for kind, drawn in self._identity_step().items():
            value = values[kind]
            new = torch.as_tensor(drawn).to(value)
            values[kind] = torch.cat([value[:, :position], new[:, None], value[:, position:]], dim=1)
        deeper = self._from_stored(self._stored(values, self.depth + 1))
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
        return storage.write(path, self._stored(dict(self.named_parameters()), self.depth))

    @classmethod
    @door
    def load(cls, path: str | Path, device: torch.device | str | None = None) -> Chain:
        """Return the chain that `save` wrote: the same parameters bit for bit, and the same description.

        Raises:
            ValueError: for a file that is cut short, is no saved chain, or does not hold what it says.
        """
        return cls._from_stored(storage.read(path, device))

    def extra_repr(self) -> str:
        return (
            f"{self.architecture.name!r}, depth={self.depth}, seeds={self.seeds}, width={self.width}, "
            f"init={self.init!r}, root={self.root}, dtype={self.dtype}"
        )
