"""What the operations of one forward pass did, from what autograd saved of them: activations, softmaxes and norms."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stability.foundation.formats import Format
from stability.reading.cuts import below
from stability.reading.forward_recording import Node
from stability.reading.passes import Pass
from stability.reading.running import told_of_calls


@dataclass(frozen=True)
class Gate:
    """The activations, or rows of a softmax, that one module makes.

    Attributes:
        kind: "relu" for what is 0 on a side, "tanh", "sigmoid" or "softmax".
        module: the innermost module, the name of the layer where there is none.
        layer: its place among the layers.
        blocked: the share of numbers (of rows of a softmax) whose derivative is 0 or rounds to it.
        blocked_points: the share of points at which that holds for all of them.
        dead: the share of units for which it holds at all points.
        separates: whether all of the network passes through it.
        points: how many there are.
        numbers: how many of a point there are at least.
    """

    kind: str
    module: str
    layer: int
    blocked: float
    blocked_points: float
    dead: float
    separates: bool
    points: int
    numbers: int


@dataclass(frozen=True)
class Normalisation:
    """A normalisation: the share of the variance in what it divides by, var / (var + epsilon), its median."""

    module: str
    layer: int
    share: float


Spans = list[tuple[str, int, int]]


@contextmanager
def spans_of_calls(net: nn.Module) -> Iterator[Spans]:
    """Give a list that fills with (module, first number, last number) as the network runs inside."""
    spans: Spans = []
    running: list[tuple[str, int]] = []

    def number() -> int:
        return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]

    def begins(name: str) -> None:
        if name:
            running.append((name, number()))

    def ends(name: str) -> None:
        while name and running:
            began, first = running.pop()
            if began == name:
                spans.append((name, first, number()))
                return

    with told_of_calls(net, begins, ends):
        yield spans


class Places:
    """Where a node of the graph belongs: its layer, and the innermost module that made it."""

    def __init__(self, found: Pass, spans: Spans) -> None:
        self.layers = found.layers
        ends = [max((node._sequence_nr() for node, _ in state.edges), default=2**62) for state in found.after]
        self.ends = [max(ends[: k + 1]) for k in range(len(ends))]
        self.spans = sorted(spans, key=lambda span: span[2] - span[1])
        self.cuts = {node for cut in found.path.cuts for node, _ in cut.edges}

    def layer_of(self, node: Node) -> int:
        """Return the number of the layer that made a node."""
        return min(bisect_left(self.ends, node._sequence_nr()), len(self.layers) - 1)

    def module_of(self, node: Node) -> str:
        """Return the innermost module that made a node, the layer's name where none did."""
        number = node._sequence_nr()
        inner = next((name for name, first, last in self.spans if first <= number < last), None)
        return self.layers[self.layer_of(node)] if inner is None else inner


def nodes_of(found: Pass) -> list[Node]:
    """Return the nodes of a pass that made something, in order."""
    nodes = below([tensor.grad_fn for tensor in found.outputs if tensor.grad_fn is not None])
    return [node for node in nodes if "AccumulateGrad" not in node.name()]


def gates(found: Pass, places: Places, nodes: Iterable[Node], batch_dim: int | None) -> list[Gate]:
    """Return the activations and softmaxes of a pass; what a module does several times counts together."""
    held: dict[tuple[str, str], list[tuple[Node, Tensor]]] = {}
    for node in nodes:
        kind = _KINDS.get(node.name().rstrip("0123456789").removesuffix("Backward"))
        blocked = None if kind is None else _saved(node, kind[1])
        if kind is not None and blocked is not None and blocked.numel():
            held.setdefault((kind[0], places.module_of(node)), []).append((node, blocked))
    gathered = []
    for (kind_of, module), several in held.items():
        shares, points, dead, numbers, count = [], [], [], [], 1
        for _, rows in several:
            if batch_dim is not None and rows.ndim > batch_dim and rows.shape[batch_dim] == found.inputs.points:
                rows, count = rows.movedim(batch_dim, 0), found.inputs.points
            else:
                rows = rows[None]
            rows = rows[:, None] if rows.ndim == 1 else rows  # one softmax a point
            unit = 1 if rows.ndim >= 4 else rows.ndim - 1
            by_unit = rows.movedim(unit, -1).reshape(-1, rows.shape[unit])
            numbers.append(rows[0].numel())
            shares.append(float(rows.double().mean()))
            points.append(float(rows.flatten(1).all(dim=1).double().mean()))
            dead.append(float(by_unit.all(dim=0).double().mean()))
        first = several[0][0]
        # Of a module that is called several times the worst call blocks; that of a loop over time all calls together.
        mean = [math.fsum(shares) / len(shares), max(points), max(dead)]
        separates = any(node in places.cuts for node, _ in several)
        layer = places.layer_of(first)
        gathered.append(Gate(kind_of, module, layer, mean[0], mean[1], mean[2], separates, count, min(numbers)))
    return gathered


def _saved(node: Node, rule: Callable[[Node], Tensor | None]) -> Tensor | None:
    try:
        with torch.no_grad():
            found = rule(node)
            return None if found is None else found.detach()
    except (AttributeError, RuntimeError):  # not saved, or changed in place since
        return None


def _roundoff(values: Tensor) -> float:
    return Format(values.dtype).roundoff


def _result(node: Node) -> Tensor:
    result: Tensor = node._saved_result
    return result


def _tanh(node: Node) -> Tensor:
    result = _result(node)
    return 1 - result.double().square() < _roundoff(result)


def _sigmoid(node: Node) -> Tensor:
    result = _result(node)
    return result.double() * (1 - result.double()) < _roundoff(result)


def _softmax(node: Node) -> Tensor | None:
    result, dim = _result(node), int(node._saved_dim)
    dim -= 2**64 if dim > 2**63 else 0  # autograd keeps -1 as a number without sign
    if result.ndim == 0 or result.shape[dim] < 2:
        return None
    # p (1 - p) is below u for all of a row where the largest p is within u of 1.
    return 1 - result.double().amax(dim=dim) < _roundoff(result)


def _below(threshold: Callable[[float], float]) -> Callable[[Node], Tensor]:
    """Blocked where what enters is so far below 0 that the derivative rounds to 0."""

    def rule(node: Node) -> Tensor:
        values: Tensor = node._saved_self
        return values.double() < threshold(_roundoff(values))

    return rule


def _hardtanh(node: Node) -> Tensor:
    values: Tensor = node._saved_self
    outside: Tensor = (values <= node._saved_min_val) | (values >= node._saved_max_val)
    return outside


def _clamp(node: Node) -> Tensor:
    values: Tensor = node._saved_self
    least, most = getattr(node, "_saved_min", None), getattr(node, "_saved_max", None)
    outside = torch.zeros_like(values, dtype=torch.bool)
    for end, beyond in ((least, torch.le), (most, torch.ge)):
        if isinstance(end, int | float):
            outside |= beyond(values, end)
    return outside


def _larger(node: Node) -> Tensor | None:
    """Of a maximum with a constant where that is the larger one."""
    if all(after is not None for after, _ in node.next_functions):
        return None
    one, other = node._saved_self, node._saved_other
    found: Tensor = one <= other if node.next_functions[0][0] is not None else other <= one
    return found


def _mask(node: Node) -> Tensor | None:
    """Of a product with a mask."""
    kept = [node._saved_other, node._saved_self]
    mask = next((m for m, (after, _) in zip(kept, node.next_functions, strict=True) if m is not None and after), None)
    if mask is None or mask.dtype != torch.bool or sum(after is not None for after, _ in node.next_functions) != 1:
        return None
    found: Tensor = ~mask
    return found


def _where(node: Node) -> Tensor | None:
    """Of a choice between something and a constant where that is chosen."""
    chosen: Tensor = node._saved_condition
    first, second = (after is not None for after, _ in node.next_functions[-2:])
    if first == second:
        return None
    return ~chosen if first else chosen


#: By the operation as autograd names it: the kind of the gate, and where it is blocked.
_KINDS: dict[str, tuple[str, Callable[[Node], Tensor | None]]] = {
    "Relu": ("relu", lambda node: node._saved_result <= 0),
    "Threshold": ("relu", lambda node: node._saved_self <= node._saved_threshold),
    "Hardtanh": ("relu", _hardtanh),
    "Clamp": ("relu", _clamp),
    "ClampMin": ("relu", _clamp),
    "Maximum": ("relu", _larger),
    "Mul": ("relu", _mask),
    "Where": ("relu", _where),
    "LeakyRelu": ("relu", lambda node: node._saved_self <= 0 if node._saved_negative_slope == 0 else None),
    "Hardswish": ("relu", lambda node: node._saved_self <= -3),
    "Hardsigmoid": ("relu", lambda node: node._saved_self.abs() >= 3),
    # e^x and x e^x, and for GELU a normal tail, exp(-x^2 / 2).
    "Elu": ("relu", _below(math.log)),
    "Softplus": ("relu", _below(math.log)),
    "Silu": ("relu", _below(lambda u: math.log(u) - 4)),
    "Gelu": ("relu", _below(lambda u: -math.sqrt(-2 * math.log(u)))),
    "Tanh": ("tanh", _tanh),
    "Sigmoid": ("sigmoid", _sigmoid),
    "Softmax": ("softmax", _softmax),
    "SafeSoftmax": ("softmax", _softmax),
}


def normalisations(places: Places, nodes: Iterable[Node]) -> list[Normalisation]:
    """Return the normalisations by mean and variance of a pass."""
    gathered = []
    for node in nodes:
        share = _saved(node, _norm_share)
        if share is not None and share.numel():
            median = float(share.double().flatten().median())
            gathered.append(Normalisation(places.module_of(node), places.layer_of(node), median))
    return gathered


def _norm_share(node: Node) -> Tensor | None:
    name = node.name()
    values: Tensor
    variance: Tensor
    if name.startswith("NativeLayerNorm"):
        values, dims = node._saved_input.double(), len(node._saved_normalized_shape)
        # The reciprocal of the root of var + epsilon is saved, epsilon is not.
        rstd: Tensor = node._saved_result2
        variance = values.flatten(-dims).var(dim=-1, correction=0).flatten()
        return variance * rstd.double().flatten().square()
    if name.startswith("NativeGroupNorm"):
        values, groups = node._saved_input.double(), node._saved_group
        variance = values.reshape(values.shape[0], groups, -1).var(dim=-1, correction=0)
        return variance / (variance + float(node._saved_eps))
    if "BatchNorm" in name:
        variance = node._saved_running_var
        if node._saved_training or variance is None:
            values = node._saved_input.double().movedim(1, 0).flatten(1)
            variance = values.var(dim=1, correction=0)
        eps: float = node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon
        return variance.double() / (variance.double() + eps)
    return None


def rms_shares(found: Pass, places: Places, nodes: Iterable[Node]) -> list[Normalisation]:
    """Return the normalisations by the root mean square, x rsqrt(mean(x^2) + epsilon), of a pass."""
    gathered = []
    for node in nodes:
        if not node.name().startswith("Rsqrt"):
            continue
        inner = node.next_functions[0][0]
        while inner is not None and inner.name().startswith("Add") and inner.next_functions:
            inner = inner.next_functions[0][0]
        result = _saved(node, lambda rsqrt: rsqrt._saved_result)
        mean = None if inner is None else _mean_square(found, inner)
        if result is not None and mean is not None and mean.numel() == result.numel():
            share = mean.double().flatten() * result.double().flatten().square()
            gathered.append(Normalisation(places.module_of(node), places.layer_of(node), float(share.median())))
    return gathered


def _mean_square(found: Pass, node: Node) -> Tensor | None:
    """Return the numbers that a mean made: as they were seen, or from the squares of what autograd saved."""
    seen = found.recording.seen.get((node, 0))
    if seen is not None:
        return seen.values if seen.intact else None
    square = node.next_functions[0][0] if node.name().startswith("Mean") and node.next_functions else None
    if square is None or not square.name().startswith("Pow"):
        return None
    values = _saved(square, lambda pow: pow._saved_self)
    if values is None or square._saved_exponent != 2:
        return None
    dims = [dim - 2**64 if dim > 2**63 else dim for dim in node._saved_dim]
    return values.double().square().mean(dim=dims)
