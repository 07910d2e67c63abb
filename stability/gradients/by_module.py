"""The gradients of any module, by automatic differentiation that is cut at the layers' inputs.

One forward pass is run with the graph cut where a layer takes its state: each state becomes a leaf. The backward pass
then goes from leaf to leaf, and what it carries is brought to order 1 on the way, so that it can neither overflow nor
underflow. What passes a layer by, tied parameters and repeated calls need no care: each leaf waits until everything
that was computed from it has been taken back.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stability.gradients.layers import modules_of, run_on, title, undisturbed
from stability.gradients.log_norms import combine
from stability.gradients.losses import Loss, scalar_loss
from stability.gradients.result import GradientNorms
from stability.gradients.scaled import Scaled
from stability.jacobians.blocks import hooked


@dataclass
class _Cut:
    """A tensor that a layer takes: what was computed, and the leaf from which the layer's own copy comes."""

    layer: str
    computed: Tensor
    leaf: Tensor
    is_state: bool


def module_gradients(net: nn.Module, x: Any, loss: Loss, blocks: str | Sequence[str] | None) -> GradientNorms:
    """Return the gradient norms of a module: see `gradient_norms`."""
    layers, whole = modules_of(net, blocks)
    names: dict[Tensor, str] = {value: name for name, value in net.named_parameters() if value.requires_grad}
    if not names:
        raise ValueError(
            f"no parameter of {type(net).__name__} requires a gradient: all are frozen; call requires_grad_() on some"
        )
    cuts: list[_Cut] = []
    cutters = {name: _Cutter(name, cuts) for name in layers}
    called: dict[str, None] = {}  # in the order of the first call

    def before(name: str, args: Any, options: Any) -> tuple[Any, Any]:
        called[name] = None
        return cutters[name].before(args, options)

    # Until the way back is done: batch normalisation keeps its running means for it.
    with undisturbed(net), torch.inference_mode(False), torch.enable_grad():
        with hooked(layers, before, lambda name, _: cutters[name].after()):
            output = run_on(net, x)
        _check_states(cuts)
        output_leaf = _leaf_of(output)
        value = scalar_loss(loss, output if output_leaf is None else output_leaf)
        root = None if output_leaf is None else _Cut("", output, output_leaf, is_state=False)
        gradients = _backward(value, cuts if root is None else [*cuts, root])
    missing = [name for parameter, name in names.items() if parameter not in gradients]
    if len(missing) == len(names):
        raise ValueError("the loss does not depend on the network's parameters: expected a function of its output")
    if missing:
        raise ValueError(
            f"{len(missing)} parameters get no gradient from this loss: {', '.join(missing[:8])}"
            f"{', ...' if len(missing) > 8 else ''}; freeze them with requires_grad_(False), or take a loss that they "
            "have a part in"
        )
    return _collect(layers, whole, called, cuts, root, names, gradients, value)


def _collect(
    layers: dict[str, nn.Module],
    whole: bool,
    called: dict[str, None],
    cuts: list[_Cut],
    root: _Cut | None,
    names: dict[Tensor, str],
    gradients: dict[Tensor, Scaled],
    value: Tensor,
) -> GradientNorms:
    """Sort the gradients by layer and kind."""
    order = [*called, *(name for name in layers if name not in called)]
    kept = [name for name in order if name in called or any(p in gradients for p in layers[name].parameters(whole))]
    own = {
        name: [
            (k, p) for k, p in layers[name].named_parameters(recurse=whole, remove_duplicate=False) if p in gradients
        ]
        for name in kept
    }
    kinds = dict.fromkeys(_kind(k) for parameters in own.values() for k, _ in parameters)
    logs: dict[str, list[Tensor]] = {}
    for kind in kinds:
        of_kind = {name: dict.fromkeys(p for k, p in own[name] if _kind(k) == kind) for name in kept}
        logs[kind] = [_norm([gradients[p] for p in of_kind[name]]) for name in kept]
    once = {name: list(dict.fromkeys(p for _, p in own[name])) for name in kept}  # a layer may hold one twice
    logs["parameters"] = [_norm([gradients[p] for p in once[name]]) for name in kept]
    states: dict[str, list[Scaled]] = defaultdict(list)
    for cut in cuts:
        if cut.is_state and cut.leaf in gradients:
            states[cut.layer].append(gradients[cut.leaf])
    logs["input"] = [_norm(states[name]) for name in kept]
    logs["relative"] = [_norm([gradients[p].times(p.detach()) for p in once[name] if p.ndim > 1]) for name in kept]
    present = {kind: [any(_kind(k) == kind for k, _ in own[name]) for name in kept] for kind in kinds}
    present["parameters"] = [bool(own[name]) for name in kept]
    present["input"] = [bool(states[name]) for name in kept]
    present["relative"] = [any(p.ndim > 1 for _, p in own[name]) for name in kept]
    kept_quantities = [quantity for quantity in logs if any(present[quantity])]
    at_output = gradients[root.leaf].log_norm() if root is not None and root.leaf in gradients else torch.zeros(())
    return GradientNorms(
        log_norms={q: torch.stack(logs[q])[:, None].cpu() for q in kept_quantities},
        present={q: torch.tensor(present[q]) for q in kept_quantities},
        named={name: gradients[p].log_norm()[None].cpu() for p, name in names.items()},
        output=at_output.double()[None].cpu(),
        loss=value.detach().double()[None].cpu(),
        layers=tuple(title(name, layers[name]) for name in kept),
        members=(0,),
        path="autograd",
    )


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _norm(parts: list[Scaled]) -> Tensor:
    if not parts:
        return torch.tensor(-math.inf, dtype=torch.float64)
    return combine(torch.stack([part.log_norm().cpu() for part in parts]), 0)


class _Cutter:
    """Gives a layer copies, each from a leaf, in place of the tensors that it takes."""

    def __init__(self, layer: str, cuts: list[_Cut]) -> None:
        self.layer, self.cuts = layer, cuts
        self.running: list[dict[int, tuple[Tensor, Tensor]]] = []  # for every call what it was to take, and the copy

    def before(self, args: Any, options: Any) -> tuple[Any, Any]:
        self.running.append({})
        return self._cut(args), self._cut(options)

    def after(self) -> None:
        for value, copy in self.running.pop().values():
            if copy._version > 0:  # the layer changed it in place, which what passes the layer by is to see
                value.copy_(copy)

    def _cut(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            copies = self.running[-1]
            if id(value) in copies:  # as the query and the keys of attention may be one state
                return copies[id(value)][1]
            first = not copies
            if not value.is_floating_point() or not (first or value.requires_grad):
                copies[id(value)] = value, value
                return value
            # Copies, as the network may change what it computed in place, and the layer what it takes.
            computed = value.clone()
            leaf = computed.detach().requires_grad_()
            self.cuts.append(_Cut(self.layer, computed, leaf, is_state=first))
            copies[id(value)] = value, leaf.clone()
            return copies[id(value)][1]
        if isinstance(value, dict):
            return {key: self._cut(one) for key, one in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._cut(one) for one in value)
        return value


def _leaf_of(output: Any) -> Tensor | None:
    """Return a leaf in place of an output that is one tensor, so that its gradient can be told."""
    if isinstance(output, Tensor) and output.is_floating_point() and output.requires_grad:
        return output.detach().clone().requires_grad_()
    return None


def _check_states(cuts: list[_Cut]) -> None:
    """Raise where a state has left the range, and what is computed from it is no longer the network's."""
    for cut in cuts:
        state, dtype = cut.computed, cut.computed.dtype
        if not state.isfinite().all():
            raise ValueError(
                f"the state before {cut.layer} is not finite: the network overflows {dtype} there; scale its weights, "
                "or take a wider dtype"
            )
        largest = float(state.detach().abs().max()) if state.numel() else 0.0
        if cut.is_state and 0 < largest < torch.finfo(dtype).tiny:
            raise ValueError(
                f"the state before {cut.layer} is below the smallest normal number of {dtype}: it underflows; scale "
                "the weights or the points, or take a wider dtype"
            )


def _backward(value: Tensor, cuts: list[_Cut]) -> dict[Tensor, Scaled]:
    """Return the gradients of the loss with respect to all leaves and parameters, each with an exponent of its own."""
    gradients: dict[Tensor, Scaled] = {}

    def take(computed: Tensor, back: Scaled) -> None:
        wanted = _leaves_of(computed)
        if not wanted:
            return
        found = torch.autograd.grad(computed, wanted, back.mantissa, retain_graph=True, allow_unused=True)
        for leaf, gradient in zip(wanted, found, strict=True):
            if gradient is None:
                continue
            gradient = gradient.to_dense()  # an embedding's may be sparse
            if not gradient.isfinite().all():
                raise ValueError(
                    f"a gradient of shape {tuple(gradient.shape)} is not finite: the network, or the loss, is not "
                    "differentiable at this point, or overflows within one layer"
                )
            scaled = Scaled.of(gradient, back.exponent)
            gradients[leaf] = gradients[leaf] + scaled if leaf in gradients else scaled

    zero = torch.zeros((), dtype=torch.int64, device=value.device)
    take(value, Scaled.of(torch.ones_like(value), zero))
    for cut in reversed(cuts):
        if cut.leaf in gradients and cut.computed.requires_grad:
            take(cut.computed, gradients[cut.leaf])
    return gradients


def _leaves_of(tensor: Tensor) -> list[Tensor]:
    """Return the leaves that a tensor was computed from."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    leaves: dict[Tensor, None] = {}
    seen, waiting = {tensor.grad_fn}, [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves[leaf] = None
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return list(leaves)
