"""Which floating-point format fails first, and where: by running in it, and from the logarithms alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from stability.checks import check_name
from stability.gradients.formats import Format, check_formats, format_name, in_format
from stability.gradients.forward_error import forward_error, log_expected_errors
from stability.gradients.kernels import formats as kernel
from stability.gradients.layers import as_module, refuse_randomness
from stability.gradients.log_norms import combine
from stability.gradients.losses import Loss, loss_of_members
from stability.gradients.norms import gradient_norms
from stability.gradients.propagation import Propagation, propagation
from stability.gradients.result import GradientNorms
from stability.gradients.runs import run_in
from stability.gradients.states import calls_of
from stability.gradients.width_one import float64_output, points_of, table_of
from stability.jacobians.blocks import is_chain
from stability.jacobians.factors import log_factors
from stability.jacobians.of_networks import spectrum
from stability.jacobians.threads import side_by_side
from stability.jacobians.width_one import is_piecewise_linear_width_one

#: What can fail, in the order of `FirstFailures.measured`.
QUANTITIES = ("activations", "products", "gradients")
#: How it can fail.
KINDS = ("overflow", "underflow", "digits")
# What the modulus of a standard normal variable exceeds with probability 5 %, and 95 %.
_REACHES = tuple(NormalDist().inv_cdf((1 + level) / 2) for level in (0.95, 0.05))


@dataclass(frozen=True, repr=False)
class FirstFailures:
    """After how many layers a run in each format fails, in three ways and in three quantities.

    The quantities are the states h_l ("activations"), the derivative dh_l/dx, or for wider states its product with a
    random direction ("products"), and dLoss/dh_l ("gradients"). Layers are counted the way the quantity travels: from
    the input for the first two, from the output for gradients. A quantity

    - overflows ("overflow") where one of its numbers is not finite, gradients at once where the loss is not;
    - underflows ("underflow") where the root of their mean square is below the smallest normal number of the format,
      and not exactly zero in truth;
    - has lost all digits ("digits") where it is as far from the truth as the truth is large.

    Attributes:
        measured: int64 (formats, quantities, kinds, seeds), the first such number of layers in the run, 0 for none;
            -1 where it was not measured.
        predicted: the same from the logarithms of a run that cannot leave the range. Lost digits are predicted for the
            activations of width-1 chains alone, from roundings taken as random.
        digits_between: int64 (formats, seeds, 2), after how many layers at the earliest, and at the latest, activations
            of a width-1 chain are to be expected to lose all digits: where 5 % of the errors exceed the state, and
            where 95 % do; 0 for never, -1 where it is not predicted. Where a random walk first crosses a threshold has
            a spread that no prediction without the run's own roundings removes: `predicted` names but one such layer.
        loss_scales: float64 (formats, seeds, 2), the log2 of the least and of the largest factor by which the loss may
            be multiplied so that neither the gradients of states nor those of parameters underflow or overflow; the
            least is above the largest where there is none.
        depth: the number of layers.
        formats: the formats. quantities, kinds: what the other dimensions are.
        members: the member numbers.
    """

    measured: Tensor
    predicted: Tensor
    digits_between: Tensor
    loss_scales: Tensor
    depth: int
    formats: tuple[str, ...]
    members: tuple[int, ...]
    quantities: tuple[str, ...] = QUANTITIES
    kinds: tuple[str, ...] = KINDS

    def first(self, predicted: bool = False) -> Tensor:
        """Return after how many layers each quantity first fails, in any way, (formats, quantities, seeds); 0: never.

        Only kinds of failure that are both measured and predicted count, so that the two can be compared; -1 where a
        quantity has none, as the products of modules.
        """
        both = (self.measured >= 0) & (self.predicted >= 0)
        layers = self.predicted if predicted else self.measured
        never = self.depth + 2
        first = torch.where(both & (layers > 0), layers, never).amin(dim=2)
        return torch.where(both.any(dim=2), torch.where(first == never, 0, first), -1)

    @property
    def agreement(self) -> Tensor:
        """(formats, quantities): the share of members of which prediction and measurement agree.

        That is within one layer or a hundredth of the depth, or that neither fails. -1 where there is nothing to be
        compared, as of the products of modules.
        """
        measured, predicted = self.first(), self.first(predicted=True)
        never = (measured == 0) == (predicted == 0)
        near = (measured - predicted).abs() <= max(1.0, 0.01 * self.depth)
        return torch.where((measured >= 0).all(dim=2), (never & near).double().mean(dim=2), -1.0)

    def loss_scale(self, dtype: str | torch.dtype) -> float | None:
        """Return a power of 2 that saves the gradients of every member in a format, the middle one; None for none.

        Members whose gradients need no scale, being exactly zero, do not count.
        """
        name = check_name("format", format_name(dtype), self.formats)
        low, high = self.loss_scales[self.formats.index(name)].unbind(-1)
        low, high = low[low.isfinite()], high[low.isfinite()]
        if not len(low):
            return 1.0
        least, largest = math.ceil(low.max().item()), min(math.floor(high.min().item()), 1023)  # a float itself
        return None if least > largest else 2.0 ** ((least + largest) // 2)

    def __repr__(self) -> str:
        parts = []
        first = self.first()
        for f, name in enumerate(self.formats):
            for q, quantity in enumerate(self.quantities):
                failed = first[f, q][first[f, q] > 0]
                if len(failed):
                    parts.append(
                        f"{name} {quantity} fail for {100 * len(failed) / len(self.members):.0f} %, median after "
                        f"{failed.double().median():.0f} layers"
                    )
        return f"FirstFailures({self.depth} layers, {len(self.members)} seeds: {'; '.join(parts) or 'nothing fails'})"

    def to_dataset(self) -> xarray.Dataset:
        """Return both with dims (dtype, quantity, kind, seed), and the loss scales."""
        over = ("dtype", "quantity", "kind", "seed")
        return xarray.Dataset(
            {
                "measured": (over, self.measured.numpy(), {"units": "layers", "long_name": "first failure, measured"}),
                "predicted": (
                    over,
                    self.predicted.numpy(),
                    {"units": "layers", "long_name": "first failure, predicted"},
                ),
                "digits_between": (("dtype", "seed", "end"), self.digits_between.numpy(), {"units": "layers"}),
                "loss_scales": (("dtype", "seed", "end"), self.loss_scales.numpy(), {"units": "log2"}),
            },
            {
                "dtype": list(self.formats),
                "quantity": list(self.quantities),
                "kind": list(self.kinds),
                "seed": list(self.members),
                "end": ["least", "largest"],
            },
            attrs={"depth": self.depth},
        )


def _mean(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"the network returns a {got}, which has no mean: give loss=, a function from the output to a scalar"
        )
    return output.mean()


def _mean_of_members(output: Tensor) -> Tensor:
    return output.flatten(1).mean(dim=1)


def first_failure(
    net: Any,
    x: Tensor,
    dtypes: Sequence[str | torch.dtype] = ("float16", "bfloat16", "float32", "float64"),
    loss: Loss | None = None,
    blocks: str | Sequence[str] | None = None,
    progress: bool = True,
) -> FirstFailures:
    """Return after how many layers activations, products and gradients fail in each format, measured and predicted.

    Measured: a copy of the network and the points are rounded to the format, and run forward, forward with a tangent,
    and backward in it. Predicted: from `propagation`, `spectrum` and `gradient_norms`, whose logarithms cannot leave
    the range, and the format's limits. In a chain of width 1 a state that the format cannot hold counts as zero, and
    the step after it takes the branch of zero; of wider networks only the sizes are looked at, so that gradients behind
    such states may fail earlier than predicted.

    Args:
        net: a chain, a module, or a list of modules that follow one another.
        x: the points.
        dtypes: names or torch dtypes.
        loss: as for `gradient_norms`; without, the mean of the output.
        blocks: which layers of a module, see `gradient_norms`.
        progress: whether to show a progress bar over the formats, on a terminal.

    Raises:
        ValueError, TypeError: for an unknown format, a module that draws random numbers, and as `gradient_norms`.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> f = st.first_failure(st.Chain("plain_prelu", depth=100, seeds=20), x, dtypes=["float16", "float32"])
    >>> f.first()[1, 2].double().median() > f.first()[0, 2].double().median()  # float32 gradients live longer
    tensor(True)
    """
    formats = check_formats(dtypes)
    members = is_chain(net)
    if not members:
        net = as_module(net, x)
    chosen: Loss = loss if loss is not None else _mean_of_members if members else _mean
    if not callable(chosen):
        raise TypeError(f"loss is a {type(chosen).__name__}: expected one function of the network's output")
    if not members:
        refuse_randomness(net, x)
        _refuse_repeated_calls(net, x, blocks)
    gradients = gradient_norms(net, x, chosen, blocks)
    depth = net.depth if members else int(gradients.present["input"].sum())
    states = propagation(net, x, blocks)
    alive = _truth(net, x, gradients, states)
    shape = (len(formats), len(QUANTITIES), len(KINDS), len(gradients.members))
    measured, predicted = torch.full(shape, -1, dtype=torch.int64), torch.full(shape, -1, dtype=torch.int64)
    between = torch.full((len(formats), len(gradients.members), 2), -1, dtype=torch.int64)
    errors = _errors(net, x, formats, blocks)
    chain = _Chain.of(net, x, chosen, states) if is_piecewise_linear_width_one(net) else None
    bar = tqdm(formats, disable=None if progress else True, desc=f"first failures, {depth} layers")
    for f, one in enumerate(bar):
        logs = _logs_of_network(gradients, states) if chain is None else _logs_of_chain(chain, one)
        runs = run_in(net, x, one, chosen, blocks, members)
        for q, quantity in enumerate(QUANTITIES):
            if quantity not in logs.sizes or quantity not in runs:
                continue
            sizes, run, least = logs.sizes[quantity], runs[quantity], math.log(one.smallest)
            predicted[f, q, 0] = _first(logs.tops[quantity] > math.log(one.largest))
            predicted[f, q, 1] = _first((sizes < least) & alive[quantity])
            measured[f, q, 0] = _first(run == math.inf)
            measured[f, q, 1] = _first((run < least) & alive[quantity])
        predicted[f, 2, 0] = torch.where(predicted[f, 0, 0] > 0, 1, predicted[f, 2, 0])
        if logs.expected is not None:
            predicted[f, 0, 2] = _first(logs.expected >= 0)
            between[f] = torch.stack([_first(logs.expected + math.log(reach) >= 0) for reach in _REACHES], dim=-1)
        if one.name in errors:
            measured[f, 0, 2] = _first(errors[one.name] >= 0)
    names = tuple(one.name for one in formats)
    scales = _loss_scales(gradients, states, formats)
    return FirstFailures(measured, predicted, between, scales, depth, names, gradients.members)


def _refuse_repeated_calls(net: nn.Module, x: Tensor, blocks: Any) -> None:
    names = [call.name for call in calls_of(net, x, blocks)]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            raise ValueError(
                f"layer {name} is called {names.count(name)} times: a first failure needs layers that are called once; "
                "name others with blocks="
            )


def _truth(net: Any, x: Tensor, gradients: GradientNorms, states: Propagation) -> dict[str, Tensor]:
    """Return where each quantity is not exactly zero, so that it can be lost, (layers, seeds), as it is met."""
    backward = _inputs(gradients).flip(0)
    found = {"activations": combine(states.log_norms, 2)[1:], "gradients": backward}
    if is_piecewise_linear_width_one(net):
        found["products"] = combine(spectrum(net, x, distances=False).log_values[..., 0], 2)
    return {name: logs > -math.inf for name, logs in found.items()}


def _inputs(gradients: GradientNorms) -> Tensor:
    """Return the logs of the gradient with respect to the states, of the layers that take one."""
    return gradients["input"][gradients.present["input"]]


def _log_root_entries(states: Propagation) -> Tensor:
    """Return what is to be taken off the log of a norm for the root mean square, (layers + 1, 1)."""
    return (states.widths * states.log_norms.shape[2]).double().log()[:, None] / 2


def _loss_scales(gradients: GradientNorms, states: Propagation, formats: list[Format]) -> Tensor:
    """Return log2 of the ends of the factors that keep all gradients in the range, (formats, seeds, 2).

    Of the states and the output that is the root mean square, as in the runs; of parameters the norm, layer by layer
    and of each that is outside the layers.
    """
    around = torch.cat([_inputs(gradients), gradients.output[None]])
    layers = [gradients["parameters"]] if "parameters" in gradients.log_norms else []
    outside = [logs[None] for name, logs in gradients.named.items() if name not in gradients.log_norms]
    every = torch.cat([around - _log_root_entries(states)[: len(around)], *layers, *outside])
    least = torch.where(every == -math.inf, math.inf, every).amin(dim=0)
    ends = [
        torch.stack([math.log(one.smallest) - least, math.log(one.largest) - every.amax(dim=0)], dim=-1)
        for one in formats
    ]
    return torch.stack(ends) / math.log(2)


def _first(failed: Tensor) -> Tensor:
    """Return the first True along the layers (layers, seeds), counted from 1; 0 for none."""
    numbers = torch.arange(1, len(failed) + 1)[:, None]
    never = len(failed) + 1
    first = torch.where(failed, numbers, never).amin(dim=0)
    return torch.where(first == never, 0, first)


def _errors(net: Any, x: Tensor, formats: list[Format], blocks: Any) -> dict[str, Tensor]:
    """Return log relative errors (layers, seeds) after each layer, of the formats that have a reference."""
    exact = is_piecewise_linear_width_one(net)
    known = [one.name for one in formats if exact or one.name != "float64"]
    if not known:
        return {}
    found = forward_error(net, x, known, blocks).log_errors
    return {name: error[1:] for name, error in found.items()}


@dataclass(frozen=True)
class _Logs:
    """The logarithms of the quantities, (layers, seeds), in the order in which they are met.

    Attributes:
        sizes: of the root mean square, -inf where it is exactly zero.
        tops: of the largest, or of what bounds it.
        expected: of the relative error to be expected of the activations, None where it is not predicted.
    """

    sizes: dict[str, Tensor]
    tops: dict[str, Tensor]
    expected: Tensor | None = None


def _logs_of_network(gradients: GradientNorms, states: Propagation) -> _Logs:
    """Return the logarithms of any network, from norms over all neurons."""
    entries, backward = _log_root_entries(states), _inputs(gradients).flip(0)
    return _Logs(
        {
            "activations": (combine(states.log_norms, 2) - entries)[1:],
            "gradients": backward - entries[:-1].flip(0),
        },
        {"activations": states.log_largest.amax(dim=2)[1:], "gradients": backward},
    )


@dataclass(frozen=True)
class _Chain:
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
    def of(cls, net: Any, x: Tensor, loss: Loss, states: Propagation) -> _Chain:
        table, points = table_of(net), points_of(net, x)
        _, cotangents = loss_of_members(loss, float64_output(net, table, points))
        with np.errstate(divide="ignore"):
            at_output = np.log(abs(cotangents.cpu().numpy()))
        steps = np.ascontiguousarray(table[:, : net.depth])
        return cls(net, x, steps, points, at_output, combine(states.log_norms, 2))


def _logs_of_chain(chain: _Chain, one: Format) -> _Logs:
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
    return _Logs(
        {name: combine(value, 2) - entries for name, value in logs.items()},
        {name: value.amax(dim=2) for name, value in logs.items()},
        log_expected_errors(net, chain.table, chain.points, chain.log_norms, one)[1:],
    )
