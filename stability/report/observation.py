"""What one forward and one backward pass of a network show: sizes, spreads, gates, norms and gradients, no graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stability.foundation.log_norms import log_norm
from stability.foundation.scaled_sums import Part
from stability.reading.cuts import below
from stability.reading.in_format import format_of
from stability.reading.loss_gradients import loss_gradients
from stability.reading.network import Network
from stability.reading.passes import Pass
from stability.reading.running import LooksOnly
from stability.reading.states import State
from stability.reading.traces import unchanged
from stability.reading.trees import tensors_in
from stability.report.finding import reason
from stability.report.seen_nodes import (
    Gate,
    Normalisation,
    Places,
    gates,
    nodes_of,
    normalisations,
    rms_shares,
    spans_of_calls,
)
from stability.signals.losses import Loss, scalar_loss


@dataclass
class Observation:
    """One run of a network.

    Attributes:
        layers: their names.
        modules: the names of the calls inside each.
        parameters: the names of the parameters of each.
        dtype: the format of the network.
        is_cut: whether the layers are separated.
        log_sizes: before the first layer and after each, the log of the root mean square over all numbers; None where
            there is no state, +inf where it is not finite.
        log_spreads: likewise the log of the distance of the points from their mean over their size; None for one point.
        infinite: how many of the tensors that each layer makes are not finite.
        output_finite, loss: whether the output is, and the value of the loss.
        log_gradients: of the loss with respect to the state before each layer, then the output; None where there is
            none.
        gradients: by parameter, as a tensor and an exponent of 2.
        missing: the parameters that require a gradient and get none.
        untaken: those of them, and of the frozen ones, that no operation takes.
        returned: the parameters that what the network returns depends on.
        gates, norms: the activations and normalisations.
        random: whether random numbers were drawn.
        notes: what could not be looked at, and why.
    """

    layers: tuple[str, ...]
    modules: tuple[tuple[str, ...], ...]
    parameters: tuple[tuple[str, ...], ...]
    dtype: torch.dtype
    is_cut: bool
    log_sizes: list[float | None] = field(default_factory=list)
    log_spreads: list[float | None] = field(default_factory=list)
    infinite: list[int] = field(default_factory=list)
    output_finite: bool = True
    loss: float = 0.0
    log_gradients: list[float | None] = field(default_factory=list)
    gradients: dict[str, Part] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    untaken: tuple[str, ...] = ()
    returned: frozenset[str] = frozenset()
    gates: list[Gate] = field(default_factory=list)
    norms: list[Normalisation] = field(default_factory=list)
    random: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def finite(self) -> bool:
        """Whether the states and the output are finite."""
        return self.output_finite and not any(self.infinite) and math.inf not in self.log_sizes


def observe(reading: Network, loss: Loss | None, backward: bool = True) -> Observation:
    """Return what one run of a network shows.

    Args:
        reading: the network.
        loss: a function of the output; without one a random direction in the output, see `random_loss`.
        backward: whether gradients are looked at too.

    Raises:
        ValueError: where the network does not take x.
    """
    with ExitStack() as stack:
        stack.enter_context(unchanged(loss))  # what it holds
        taken = stack.enter_context(_taken(reading.module))
        spans = stack.enter_context(spans_of_calls(reading.module))
        found = stack.enter_context(reading.forward(math_attention=True))
        seen = Observation(found.layers, found.modules, found.parameters, format_of(reading), found.is_cut)
        seen.random = found.random
        for name, state in zip((found.layers[0], *found.layers), found.all_states, strict=True):
            size, spread = _measured(state, name)
            seen.log_sizes.append(size)
            seen.log_spreads.append(spread)
        seen.infinite = found.infinite_inside
        held = reading.held_inputs(found)
        if held:
            words = "its own layers were looked at in part; layers=st.layers(net, x, source=...) follows them"
            seen.notes.append(f"held fixed: {', '.join(held)}; {words}")
        seen.output_finite = all(
            bool((t == -math.inf).logical_or(t.isfinite()).all())
            for t in tensors_in(found.output)
            if t.is_floating_point()
        )
        places, nodes = Places(found, spans), nodes_of(found)
        seen.gates = gates(found, places, nodes, reading.inputs.batch_dim)
        seen.norms = [*normalisations(places, nodes), *rms_shares(found, places, nodes)]
        trained = {name: p for name, p in reading.module.named_parameters() if p.requires_grad}
        if backward and trained:
            _backward(found, random_loss if loss is None else loss, seen)
            ends = below([tensor.grad_fn for tensor in found.outputs if tensor.grad_fn is not None])
            leaves = {id(node.variable) for node in ends if hasattr(node, "variable")}
            seen.returned = frozenset(name for name, p in trained.items() if id(p) in leaves)
        seen.untaken = tuple(name for name, p in reading.module.named_parameters() if id(p) not in taken.seen)
    return seen


def random_loss(output: object) -> Tensor:
    """Return the mean over the points of a random unit direction times the output, the same one at every call."""
    total: Tensor | None = None
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors_in(output):
        if tensor.is_floating_point() and tensor.requires_grad:
            direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            # The root of the number of points times that of the numbers of a point.
            scale = math.sqrt(tensor.numel()) * math.sqrt(max(1, tensor.shape[0] if tensor.ndim else 1))
            part = (tensor * (direction / scale).to(tensor)).sum()
            total = part if total is None else total + part
    if total is None:
        raise ValueError("the network returns nothing that depends on it: give loss=, a function of its output")
    return total


def _measured(state: State, name: str) -> tuple[float | None, float | None]:
    """Return the log root mean square of a state, and the log of what tells its points apart, over it."""
    try:
        whole = state.whole(name)
    except ValueError:  # changed in place
        return None, None
    if not whole.numel():
        return None, None
    size = float(log_norm(whole)) - math.log(whole.numel()) / 2
    if not state.has_points or state.size < 2 or not math.isfinite(size):
        return size, None
    numbers = state.numbers(name).double().reshape(state.size, -1) * math.exp(max(-600.0, min(600.0, -size)))
    apart = numbers - numbers[:1]  # of one, and then of their mean: equal points are so to the last digit
    apart = apart - apart.mean(dim=0)
    return size, float(log_norm(apart)) - math.log(apart.numel()) / 2


class _OutOfReach(Exception):
    """The loss depends on no parameter."""


def _backward(found: Pass, loss: Loss, seen: Observation) -> None:
    try:
        if not any(t.requires_grad for t in tensors_in(found.output)):
            raise _OutOfReach
        value = loss(found.output)
        if isinstance(value, Tensor) and not value.requires_grad:
            raise _OutOfReach
        seen.loss = float(value.detach().double().sum()) if isinstance(value, Tensor) else 0.0
        if isinstance(value, Tensor) and value.numel() == 1 and not math.isfinite(seen.loss):
            return
        value = scalar_loss(loss, found.output)
    except _OutOfReach:
        seen.missing = tuple(name for name, p in found.module.named_parameters() if p.requires_grad)
        return
    wanted = [s if there else None for s, there in zip(found.before, found.takes_state, strict=True)]
    output = found.after[-1] if found.is_cut and found.after[-1].edges else None
    try:
        result = loss_gradients(found, value, [*wanted, output])
        seen.log_gradients, seen.gradients, seen.missing = result.states, result.parameters, tuple(result.missing)
    except (ValueError, RuntimeError) as error:
        seen.notes.append(f"gradients are those of an ordinary backward pass, which may underflow: {reason(error)}")
        _plain_backward(found, value, [*wanted, output], seen)


def _plain_backward(found: Pass, value: Tensor, wanted: list[State | None], seen: Observation) -> None:
    named = {name: p for name, p in found.module.named_parameters() if p.requires_grad}
    states = [None if s is None or len(s.edges) != 1 else s for s in wanted]
    edges = [s.gradient_edges[0] for s in states if s is not None]
    sources = cast("list[Tensor]", [*named.values(), *edges])
    given = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    left = iter(given[len(named) :])
    logs: list[float | None] = []
    for state in states:
        gradient = None if state is None else next(left)
        logs.append(None if gradient is None else float(log_norm(gradient)))
    seen.log_gradients = logs
    for name, gradient in zip(named, given, strict=False):
        if gradient is None:
            seen.missing = (*seen.missing, name)
        else:
            seen.gradients[name] = (gradient.detach().to_dense(), 0)


class _Taken(TorchFunctionMode):
    """Keeps which tensors torch's functions take while the network runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.runs = False

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if self.runs and getattr(function, "__name__", "") != "__get__":
            for tree in (args, kwargs):
                self.seen.update(id(tensor) for tensor in tensors_in(tree))
        return function(*args, **kwargs)


@contextmanager
def without_fused_operations(net: nn.Module) -> Iterator[None]:
    """Let the gates of an LSTM be operations of their own on the CPU, in every format alike."""
    if not any(isinstance(module, nn.RNNBase) for module in net.modules()):
        yield  # convolutions are far faster with them
        return
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def _taken(net: nn.Module) -> Iterator[_Taken]:
    mode = _Taken()
    begins, ends = LooksOnly(setattr, mode, "runs", True), LooksOnly(setattr, mode, "runs", False)
    handles = [net.register_forward_pre_hook(begins), net.register_forward_hook(ends, always_call=True)]
    try:
        with mode:
            yield mode
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def in_mode(net: nn.Module, train: bool) -> Iterator[None]:
    """Let a network be in train mode, or in eval mode but for batch normalisations that have seen no batch yet.

    Those have no statistics of their own: in eval mode they would do nothing.
    """
    before = {module: module.training for module in net.modules()}
    net.train(train)
    for module in net.modules():
        fresh = getattr(module, "num_batches_tracked", None)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and fresh is not None and int(fresh) == 0:
            module.train()
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
