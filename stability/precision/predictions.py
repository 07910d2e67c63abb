"""What the states, the products and the gradients of a network are to be expected to be when it runs in a format."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.formats import Format
from stability.foundation.log_norms import combine, log_norm
from stability.foundation.threads import side_by_side
from stability.jacobians.step_derivatives import log_factors
from stability.precision.forward_error import log_expected_errors
from stability.precision.kernels import expected_errors
from stability.reading.chain_reading import StepTable
from stability.reading.in_format import in_format
from stability.reading.passes import Pass
from stability.signals.gradient_norms import GradientNorms
from stability.signals.losses import Loss, loss_of_members
from stability.signals.propagation import Propagation
from stability.signals.step_table_gradients import float64_output


@dataclass(frozen=True)
class Sizes:
    """How large the states of a network are, before the first layer and after each, over all points and neurons.

    Attributes:
        log_norms: (layers + 1, seeds), of their norms.
        log_largest: the same shape, of their largest entries.
        log_root_entries: (layers + 1, 1), what is to be taken off the log of a norm for the root mean square.
        before: bool (layers,), before which layers there is a state whose gradient is known.
    """

    log_norms: Tensor
    log_largest: Tensor
    log_root_entries: Tensor
    before: Tensor

    @classmethod
    def of_propagation(cls, states: Propagation) -> Sizes:
        """Return the sizes of the states of a chain."""
        entries = (states.widths * states.log_norms.shape[2]).double().log()[:, None] / 2
        every = torch.ones(states.depth, dtype=torch.bool)
        return cls(combine(states.log_norms, 2), states.log_largest.amax(dim=2), entries, every)

    @classmethod
    def of_pass(cls, found: Pass, before: Tensor) -> Sizes:
        """Return the sizes of the states of a pass, of which `before` are looked at backward too."""
        names = (found.layers[0], *found.layers)
        states = [state.whole(name) for state, name in zip(found.all_states, names, strict=True)]
        norms = torch.stack([log_norm(state[None], 1).cpu() for state in states])
        largest = torch.stack([state.abs().max().double().cpu().reshape(1) for state in states]).log()
        entries = torch.tensor([[len(state)] for state in states]).double().log() / 2
        return cls(norms, largest, entries, before)


@dataclass(frozen=True)
class Prediction:
    """The logarithms of the quantities, (layers, seeds), in the order in which they are met.

    Attributes:
        sizes: of the root mean square, -inf where it is exactly zero.
        tops: of the largest, or of what bounds it.
        expected: of the relative error to be expected of the activations, None where it is not predicted.
    """

    sizes: dict[str, Tensor]
    tops: dict[str, Tensor]
    expected: Tensor | None = None


def predict_network(gradients: GradientNorms, states: Sizes) -> Prediction:
    """Return the logarithms of any network, from norms over all neurons."""
    backward = inputs_of(gradients).flip(0)
    return Prediction(
        {
            "activations": (states.log_norms - states.log_root_entries)[1:],
            "gradients": backward - states.log_root_entries[:-1][states.before].flip(0),
        },
        {"activations": states.log_largest[1:], "gradients": backward},
    )


def inputs_of(gradients: GradientNorms) -> Tensor:
    """Return the logs of the gradient with respect to the states, of the layers that take one."""
    if "input" not in gradients.log_norms:
        return torch.empty(0, len(gradients.members), dtype=torch.float64)
    return gradients["input"][gradients.present["input"]]


@dataclass(frozen=True)
class ExactChain:
    """A width-1 chain with its points, and what is the same in every format.

    Attributes:
        reading: the chain and its points.
        table: (seeds, depth, 6), the steps. points: (points,).
        at_output: (seeds, points), the log of the gradient there.
        log_norms: (depth + 1, seeds), of the exact states.
    """

    reading: StepTable
    table: NDArray[np.float64]
    points: NDArray[np.float64]
    at_output: NDArray[np.float64]
    log_norms: Tensor

    @classmethod
    def of(cls, reading: StepTable, loss: Loss, states: Sizes) -> ExactChain:
        net, table, points = reading.chain, reading.table, reading.points
        _, cotangents = loss_of_members(loss, float64_output(net, table, points))
        with np.errstate(divide="ignore"):
            at_output = np.log(abs(cotangents.cpu().numpy()))
        steps = np.ascontiguousarray(table[:, : net.depth])
        return cls(reading, steps, points, at_output, states.log_norms)


def predict_chain(chain: ExactChain, one: Format) -> Prediction:
    """Return the logarithms of a width-1 chain with the parameters and the range of a format, but exact digits.

    The branch that a step takes is the one of a state that the format cannot hold, where it cannot.
    """
    net, stored = chain.reading.chain, in_format(chain.reading, one.dtype)
    points, table = stored.points, stored.table
    shape = (table.shape[1] + 1, len(table), len(points))
    sizes, positive = np.empty(shape), np.empty((table.shape[1], *shape[1:]), dtype=bool)

    def run(first: int, last: int) -> None:
        expected_errors.states_in_range(first, last, table, points, one.log2_least, sizes, positive)

    side_by_side(run, len(table), 50.0 * sizes.size)
    factors = np.take_along_axis(log_factors(table)[0].transpose(1, 0, 2), positive.astype(np.intp), axis=2)
    with np.errstate(invalid="ignore"):
        backward = chain.at_output + np.cumsum(factors[::-1], axis=0)
        products = np.cumsum(factors[: net.depth], axis=0)
    rows = table.shape[1] - net.depth  # the read-out is no layer
    logs = {
        "activations": torch.from_numpy(sizes[1 : net.depth + 1]),
        "products": torch.from_numpy(products),
        "gradients": torch.from_numpy(backward[rows:]),
    }
    entries = math.log(len(points)) / 2
    return Prediction(
        {name: combine(value, 2) - entries for name, value in logs.items()},
        {name: value.amax(dim=2) for name, value in logs.items()},
        log_expected_errors(net, chain.table, chain.points, chain.log_norms, one)[1:],
    )
