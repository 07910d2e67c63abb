"""What the states, the products and the gradients of a network are to be expected to be when it runs in a format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.gradients.formats import Format, in_format
from stability.gradients.forward_error import log_expected_errors
from stability.gradients.kernels import formats as kernel
from stability.gradients.log_norms import combine
from stability.gradients.losses import Loss, loss_of_members
from stability.gradients.propagation import Propagation
from stability.gradients.result import GradientNorms
from stability.gradients.width_one import float64_output, points_of, table_of
from stability.jacobians.factors import log_factors
from stability.threads import side_by_side


def inputs_of(gradients: GradientNorms) -> Tensor:
    """Return the logs of the gradient with respect to the states, of the layers that take one."""
    return gradients["input"][gradients.present["input"]]


def log_root_entries(states: Propagation) -> Tensor:
    """Return what is to be taken off the log of a norm for the root mean square, (layers + 1, 1)."""
    return (states.widths * states.log_norms.shape[2]).double().log()[:, None] / 2


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


def predict_network(gradients: GradientNorms, states: Propagation) -> Prediction:
    """Return the logarithms of any network, from norms over all neurons."""
    entries, backward = log_root_entries(states), inputs_of(gradients).flip(0)
    return Prediction(
        {
            "activations": (combine(states.log_norms, 2) - entries)[1:],
            "gradients": backward - entries[:-1].flip(0),
        },
        {"activations": states.log_largest.amax(dim=2)[1:], "gradients": backward},
    )


@dataclass(frozen=True)
class ExactChain:
    """A width-1 chain with its points, and what is the same in every format.

    Attributes:
        net, x: as given.
        table: (seeds, depth, 6), the steps. points: (points,).
        at_output: (seeds, points), the log of the gradient there.
        log_norms: (depth + 1, seeds), of the exact states.
    """

    net: Any
    x: Tensor
    table: NDArray[np.float64]
    points: NDArray[np.float64]
    at_output: NDArray[np.float64]
    log_norms: Tensor

    @classmethod
    def of(cls, net: Any, x: Tensor, loss: Loss, states: Propagation) -> ExactChain:
        table, points = table_of(net), points_of(net, x)
        _, cotangents = loss_of_members(loss, float64_output(net, table, points))
        with np.errstate(divide="ignore"):
            at_output = np.log(abs(cotangents.cpu().numpy()))
        steps = np.ascontiguousarray(table[:, : net.depth])
        return cls(net, x, steps, points, at_output, combine(states.log_norms, 2))


def predict_chain(chain: ExactChain, one: Format) -> Prediction:
    """Return the logarithms of a width-1 chain with the parameters and the range of a format, but exact digits.

    The branch that a step takes is the one of a state that the format cannot hold, where it cannot.
    """
    net = chain.net
    stored, rounded = in_format(net, chain.x, one.dtype)
    points, table = points_of(stored, rounded), table_of(stored)
    shape = (table.shape[1] + 1, len(table), len(points))
    sizes, positive = np.empty(shape), np.empty((table.shape[1], *shape[1:]), dtype=bool)

    def run(first: int, last: int) -> None:
        kernel.states_in_range(first, last, table, points, one.log2_least, sizes, positive)

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
