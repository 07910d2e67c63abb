"""The gradients of a loss with respect to states and parameters, held against ordinary automatic differentiation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stability.foundation.formats import Format
from stability.foundation.scaled_sums import Part, log_norm_of
from stability.reading.backward_pass import BackwardPass
from stability.reading.passes import Pass
from stability.reading.states import State


@dataclass
class LossGradients:
    """The gradients of a loss.

    Attributes:
        states: for each state asked for the log of the norm of the gradient with respect to it; None where it is not
            separated from what else the loss takes.
        parameters: by name, the gradient as a tensor and an exponent of 2.
        missing: the names of the parameters that the loss does not depend on.
    """

    states: list[float | None]
    parameters: dict[str, Part]
    missing: list[str]


def loss_gradients(found: Pass, value: Tensor, states: Sequence[State | None]) -> LossGradients:
    """Return the gradients of a scalar with respect to states of a pass and all parameters that require one.

    Raises:
        ValueError: where a gradient is not finite, and where ordinary automatic differentiation, as far as it stays in
            the range, says something else.
    """
    named = {p: n for n, p in found.module.named_parameters() if p.requires_grad}
    found_plainly = torch.autograd.grad(value, list(named), retain_graph=True, allow_unused=True) if named else ()
    plain = {n: None if g is None else g.to_dense() for n, g in zip(named.values(), found_plainly, strict=True)}
    missing = [name for name, gradient in plain.items() if gradient is None]
    walk = BackwardPass(found, value, states)
    parameters = walk.run(named)
    _compare(walk, plain, parameters)
    if walk.may_have_lost(parameters):
        lifted = BackwardPass(found, value, states, walk.lift)
        _refuse_lost(walk, parameters, lifted, lifted.run(named))
    return LossGradients(walk.measured, parameters, missing)


def _refuse_lost(
    walk: BackwardPass, parameters: Mapping[str, Part], lifted: BackwardPass, again: Mapping[str, Part]
) -> None:
    """Raise where a gradient is another one when all are raised by a power of 2: part of it has left the range."""
    pairs = {
        f"the parameter {name}": (log_norm_of([part]), log_norm_of([again[name]])) for name, part in parameters.items()
    }
    places = (*(f"the state before layer {name}" for name in walk.found.layers), "the output")
    for place, state, other in zip(places, walk.measured, lifted.measured, strict=True):
        if state is not None and other is not None:
            pairs[place] = (state, other)
    spacing = max(Format(dtype).spacing for dtype in walk.dtypes)
    for name, (one, other) in pairs.items():
        if other < math.inf and one != other and not abs(one - other) <= max(1e-3, 100 * spacing):
            raise ValueError(
                f"the gradient with respect to {name} underflows on its way through a single layer, or through what "
                "several layers have in common: take a wider dtype, net.double()"
            )


def _compare(walk: BackwardPass, plain: Mapping[str, Tensor | None], parameters: dict[str, Part]) -> None:
    """Raise where an ordinary backward pass that stayed in the range has other gradients."""
    every = [Format(dtype) for dtype in walk.dtypes]
    narrow, spacing = max(every, key=lambda one: one.smallest), max(one.spacing for one in every)
    least, largest = math.log2(narrow.faint), math.log2(narrow.largest) / 2
    known = [e for e in walk.exponents if e is not None]
    if min(known) < least or max(known) > largest:
        return
    values = dict(walk.found.module.named_parameters())
    for name, gradient in plain.items():
        if gradient is None or values[name]._backward_hooks or not gradient.isfinite().all():
            continue  # a hook of the user's on a parameter changes what it gets, not the gradient of the loss
        own = Format(gradient.dtype)
        size = float(gradient.abs().max().double()) if gradient.numel() else 0.0
        if not own.faint < size < own.largest * own.spacing:
            continue
        want = log_norm_of([(gradient, 0)])
        got = log_norm_of([parameters[name]]) if name in parameters else -math.inf
        if abs(got - want) > max(1e4 * own.spacing, 10 * spacing) + 1e-9:
            raise ValueError(
                f"the gradient of the parameter {name} is e^{got:.6g} where an ordinary backward pass has "
                f"e^{want:.6g}: the network behaves otherwise when its backward pass is followed"
            )
