"""What a layer does to small changes of its state: J v and J^T u between two states of one pass, and J itself.

Nothing of the network is run again: the derivatives are backward passes from one state to the one before, and J v is
the derivative of J^T u with respect to u, which it is linear in. One cotangent serves all points of a batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.formats import Format
from stability.reading.cuts import below
from stability.reading.forward_recording import Edge, coarsest_dtype
from stability.reading.states import State

Array = NDArray[np.float64]

#: How many numbers go through a layer at once: what a backward pass holds is a multiple of it.
CHUNK = 2**22


class Derivative:
    """The derivative of a layer, from the state before it to the one after it, at all points.

    Args:
        name: of the layer.
        before, after: its states.

    Attributes:
        dtype: the coarsest format that it works in.
    """

    def __init__(self, name: str, before: State, after: State) -> None:
        self.name, self.before, self.after = name, before, after
        self.is_identity = before.edges == after.edges
        self._held: Tensor | None = None
        self._one_by_one = False  # whether some operation takes no batch of cotangents
        self._transposed: tuple[list[Tensor], list[Tensor | None]] | None = None
        self.like = after.like
        self.dtype = _coarsest(before, after)

    def hold(self) -> None:
        """Form the Jacobian once, where many products with it are to come; see `jacobian`."""
        self._held = torch.from_numpy(self.jacobian())

    def pull(self, directions: Tensor) -> Tensor:
        """Return J^T u for every direction: (q, size, m) to (q, size, n), in the dtype of the state."""
        if self._held is not None:
            return torch.einsum("pmn,qpm->qpn", self._held, directions.double())
        return self._in_chunks(directions, self._pull_some)

    def push(self, directions: Tensor) -> Tensor:
        """Return J v for every direction: (q, size, n) to (q, size, m).

        Raises:
            ValueError: where an operation of the layer cannot be differentiated twice.
        """
        if self._held is not None:
            return torch.einsum("pmn,qpn->qpm", self._held, directions.double())
        return self._in_chunks(directions, self._push_some)

    def _in_chunks(self, directions: Tensor, some: Callable[[Tensor], Tensor]) -> Tensor:
        if self.is_identity:
            return directions
        each = self.before.size * max(self.before.width, self.after.width)
        portion = max(1, CHUNK // each)
        parts = [some(directions[k : k + portion]) for k in range(0, len(directions), portion)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pull_some(self, directions: Tensor) -> Tensor:
        given = self.after.shaped(directions.to(self.like))
        if len(directions) > 1 and not self._one_by_one:
            try:
                return self._pull(given, batched=True)
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
                self._one_by_one = True  # some operation cannot take many cotangents at once
        return torch.stack([self._pull([g[k] for g in given], batched=False) for k in range(len(directions))])

    def _pull(self, cotangents: list[Tensor], batched: bool) -> Tensor:
        found = self._back(cotangents, batched=batched)
        if all(part is None for part in found):
            lead = cotangents[0].shape[:1] if batched else ()
            return self.before.like.new_zeros(*lead, self.before.size, self.before.width)
        return self.before.flat(found, lead=int(batched))

    def _back(self, cotangents: list[Tensor], batched: bool = False, create_graph: bool = False) -> list[Tensor | None]:
        """Do one backward pass through the layer."""
        with closed(self.before.edges):
            found = torch.autograd.grad(
                self.after.gradient_edges,
                self.before.gradient_edges,
                cotangents,
                is_grads_batched=batched,
                create_graph=create_graph,
                retain_graph=True,
                allow_unused=True,
            )
        return list(found)

    def _push_some(self, directions: Tensor) -> Tensor:
        units, pulled = self._transpose()
        given = self.before.shaped(directions.to(self.like))
        wanted = [(one, g) for one, g in zip(pulled, given, strict=True) if one is not None and one.requires_grad]
        if len(directions) > 1 and not self._one_by_one:
            try:
                return self._push(units, wanted, batched=True)
            except (RuntimeError, NotImplementedError, TypeError):
                pass  # one by one tells whether that is for the batch
        rows = [self._push(units, [(one, g[k]) for one, g in wanted], batched=False) for k in range(len(directions))]
        return torch.stack(rows)

    def _push(self, units: list[Tensor], wanted: list[tuple[Tensor, Tensor]], batched: bool) -> Tensor:
        try:
            found = torch.autograd.grad(
                [one for one, _ in wanted],
                units,
                [g for _, g in wanted],
                is_grads_batched=batched,
                retain_graph=True,
                allow_unused=True,
            )
        except RuntimeError as error:
            if batched:
                raise
            raise ValueError(self._not_twice(error)) from error
        if all(part is None for part in found):
            self._check_zero()
            lead = wanted[0][1].shape[:1] if batched else ()
            return self.like.new_zeros(*lead, self.after.size, self.after.width)
        return self.after.flat(found, lead=int(batched))

    def _check_zero(self) -> None:
        """Raise where a layer without a forward derivative has one backward."""
        if bool((self._pull_plainly(self._random(self.after)[None]) != 0).any()):
            raise ValueError(self._not_twice("what comes back is no function of what is sent back"))

    def check_adjoint(self) -> None:
        """Raise where <u, J v> and <J^T u, v> differ for random u and v."""
        if self.is_identity:
            return
        u, v = self._random(self.after), self._random(self.before)
        back, there = self._pull_plainly(u[None])[0].double(), self._push_some(v[None])[0].double()
        apart = ((back * v).sum(dim=-1) - (there * u).sum(dim=-1)).abs()
        size = torch.minimum((back * v).abs().sum(dim=-1), (there * u).abs().sum(dim=-1))
        size = size + (back.norm(dim=-1) * v.double().norm(dim=-1)) / math.sqrt(v.shape[-1])
        if not (apart <= 1e4 * Format(self.dtype).spacing * size).all():
            raise ValueError(
                f"the derivatives of layer {self.name} in forward and in backward mode disagree (by "
                f"{float((apart / size).max()):.1e}): the layer has a wrong derivative in one mode"
            )

    def _random(self, state: State) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(state.size, state.width, generator=generator, dtype=torch.float64).to(self.like)

    def _transpose(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return cotangents u of 0 and J^T u as a function of them."""
        if self._transposed is None:
            units = [one.requires_grad_() for one in self.after.zeros()]
            try:
                with torch.enable_grad():
                    pulled = self._back(units, create_graph=True)
            except RuntimeError as error:
                raise ValueError(self._not_twice(error)) from error
            if not any(one is not None and one.requires_grad for one in pulled):
                if any(one is not None and bool((one != 0).any()) for one in pulled):
                    raise ValueError(f"layer {self.name} has a backward pass that is not linear in what it is given")
                raise ValueError(self._not_twice("it is no function of what is sent back"))
            self._transposed = units, pulled
        return self._transposed

    def refuse_mixed_points(self) -> None:
        """Raise where one point depends on another: cotangents of some points alone must come back to these alone.

        Two points differ in some digit of their numbers, so that halves by each digit tell all of them apart.
        """
        size, given = self.after.size, self._random(self.after)
        numbers = torch.arange(size, device=self.like.device)
        for digit in range((size - 1).bit_length()):
            for value in (0, 1):
                chosen = (numbers >> digit & 1) == value
                back = self._pull_plainly((given * chosen[:, None])[None])[0]
                if (back[~chosen].nan_to_num(nan=0.0) != 0).any():  # NaN is 0 times inf, and tells nothing
                    raise ValueError(
                        f"layer {self.name} gives no point a Jacobian of its own: points depend on one another in it. "
                        "batch_dim= names the dimension that tells points apart, and None takes all of x for one point"
                    )

    def _not_twice(self, reason: object) -> str:
        return (
            f"layer {self.name} has no forward mode of differentiation, which takes the derivative of its backward "
            f"pass: leave out k=, or write the layer otherwise ({reason})"
        )

    def jacobian(self) -> Array:
        """Return J, float64 (size, m, n), held against a random probe.

        Raises:
            ValueError: where points depend on one another, and where a derivative is not linear or not finite.
        """
        m, n = self.after.width, self.before.width
        if self.is_identity:
            return np.tile(np.eye(n), (self.before.size, 1, 1))
        matrix, by_columns = None, 2 * n < m
        if by_columns:
            try:
                matrix = self._of_columns()
            except ValueError:  # an operation that cannot be differentiated twice
                by_columns = False
        if matrix is None:
            matrix = self._of_rows()
        if not matrix.isfinite().all():
            size, row, column = (~matrix.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"the Jacobian of layer {self.name} is not finite at point {size}, entry {(row, column)}: look at what "
                "the layer does there (a root of 0, a division by 0, an overflow)"
            )
        fault = self._fault(matrix)
        if fault and (by_columns or not self._one_by_one):
            self._one_by_one = True
            matrix = self._of_rows()
            fault = self._fault(matrix)
        if fault:
            raise ValueError(fault)
        return np.ascontiguousarray(matrix.numpy())

    def _of_rows(self) -> Tensor:
        m = self.after.width
        unit = torch.eye(m, dtype=self.like.dtype, device=self.like.device)
        rows = self.pull(unit[:, None].expand(m, self.after.size, m))
        return rows.detach().to("cpu", torch.float64).movedim(0, 1)

    def _of_columns(self) -> Tensor:
        n = self.before.width
        unit = torch.eye(n, dtype=self.like.dtype, device=self.like.device)
        columns = self.push(unit[:, None].expand(n, self.before.size, n))
        return columns.detach().to("cpu", torch.float64).permute(1, 2, 0)

    def _fault(self, matrix: Tensor) -> str | None:
        """Say what is wrong with a Jacobian, by a random cotangent of all points at once; None if nothing is."""
        direction = self._random(self.after)
        expected = self._pull_plainly(direction[None])[0].detach().to("cpu", torch.float64)
        if not expected.isfinite().all():  # numbers near the largest there are, of which a sum overflows
            direction = direction * 2.0**-8
            expected = self._pull_plainly(direction[None])[0].detach().to("cpu", torch.float64)
        v, own = direction.to("cpu", torch.float64)[..., None], matrix.mT
        error = ((own @ v)[..., 0] - expected).abs()
        scale = (own.abs() @ v.abs())[..., 0].amax(dim=-1, keepdim=True)
        allowed = 1e3 * Format(self.dtype).spacing * math.sqrt(own.shape[-1]) * scale
        if (error <= allowed).all():
            return None
        try:
            self.refuse_mixed_points()
        except ValueError as mixed:
            return str(mixed)
        point = int((~(error <= allowed)).nonzero()[0][0])
        return (
            f"the Jacobian of layer {self.name} at point {point} disagrees with a random probe "
            f"({float(error.max()):.1e}): the layer has a backward pass that is not linear in what is sent back"
        )

    def _pull_plainly(self, directions: Tensor) -> Tensor:
        return torch.stack([self._pull(self.after.shaped(one), batched=False) for one in directions])


def _coarsest(before: State, after: State) -> torch.dtype:
    """Return the format in which a layer works at its coarsest, such as float32 inside a network in float64."""
    nodes = below([node for node, _ in after.edges], {node for node, _ in before.edges})
    return coarsest_dtype(nodes)


def derivatives(names: Sequence[str], states: Sequence[State]) -> list[Derivative]:
    """Return the derivative of each layer, of states before the first and after each."""
    return list(map(Derivative, names, states[:-1], states[1:]))


def check_chain(layers: Sequence[Derivative]) -> None:
    """Raise where what goes back through two layers one by one is not what goes back through both at once.

    Two by two, so that nothing leaves the range. A hook on the state between them, for one, would be taken twice.
    """
    for one, following in itertools.pairwise(layers):
        both = Derivative(f"{one.name} and {following.name}", one.before, following.after)
        cotangent = both._random(both.after)[None]
        direct, back = both.pull(cotangent), one.pull(following.pull(cotangent))
        finite = direct.isfinite() & back.isfinite()
        size = torch.where(finite, direct, 0.0).abs().amax(dim=-1, keepdim=True)
        apart = torch.where(finite, (back - direct).abs(), 0.0)
        if (apart > 1e4 * Format(both.dtype).spacing * size + Format(direct.dtype).faint).any():
            raise ValueError(
                f"the derivatives of the layers {one.name} and {following.name} do not make up that of both: what the "
                "state between them passes on is changed, as by a hook on a tensor; take it out"
            )


@contextmanager
def closed(edges: tuple[Edge, ...]) -> Iterator[None]:
    """Let nothing go back beyond the tensors of a state, so that each of several counts as given."""

    def nothing(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(None if gradient is None else torch.zeros_like(gradient) for gradient in gradients)

    nodes = {node for node, _ in edges} if len(edges) > 1 else set()
    handles = [node.register_prehook(nothing) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
