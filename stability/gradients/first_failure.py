"""Which floating-point format fails first, and where: by running in it, and from the logarithms alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn
from torch.autograd import forward_ad

from stability.gradients.formats import Format, check_formats, in_format
from stability.gradients.forward_error import forward_error
from stability.gradients.kernels import width_one
from stability.gradients.log_norms import combine, log_norm
from stability.gradients.losses import Loss, evaluate, loss_of_members
from stability.gradients.norms import gradient_norms
from stability.gradients.propagation import propagation
from stability.gradients.states import record_calls
from stability.gradients.width_one import outputs, points_of, safe_rows, table_of
from stability.jacobians.factors import log_factors
from stability.jacobians.of_networks import spectrum
from stability.jacobians.threads import side_by_side
from stability.jacobians.width_one import is_piecewise_linear_width_one

#: What can fail, in the order of `FirstFailures.measured`.
QUANTITIES = ("activations", "products", "gradients")
#: How it can fail.
KINDS = ("overflow", "underflow", "digits")


@dataclass(frozen=True, repr=False)
class FirstFailures:
    """After how many layers a run in each format fails, in three ways and in three quantities.

    The quantities are the states h_l ("activations"), the derivative dh_l/dx, or for wider states its product with a
    random direction ("products"), and dLoss/dh_l ("gradients"). Layers are counted the way the quantity travels: from
    the input for the first two, from the output for gradients. A quantity

    - overflows ("overflow") where one of its numbers is not finite;
    - underflows ("underflow") where the root of their mean square is below the smallest normal number of the format,
      and not exactly zero in truth;
    - has lost all digits ("digits") where it is as far from the truth as the truth is large.

    Attributes:
        measured: int64 (formats, quantities, kinds, seeds), the first such number of layers in the run, 0 for none;
            -1 where it was not measured.
        predicted: the same from the logarithms of a run that cannot leave the range. Lost digits are predicted for the
            activations of width-1 chains alone, from roundings taken as random.
        loss_scales: float64 (formats, seeds, 2), the least and the largest power of 2 by which the loss may be
            multiplied so that neither the gradients of states nor those of parameters underflow or overflow; the
            least is above the largest where there is none.
        depth: the number of layers.
        formats: the formats. quantities, kinds: what the other dimensions are.
        members: the member numbers.
    """

    measured: Tensor
    predicted: Tensor
    loss_scales: Tensor
    depth: int
    formats: tuple[str, ...]
    members: tuple[int, ...]
    quantities: tuple[str, ...] = QUANTITIES
    kinds: tuple[str, ...] = KINDS

    def first(self, predicted: bool = False) -> Tensor:
        """Return after how many layers each quantity first fails, in any way, (formats, quantities, seeds); 0: never.

        Only what is both measured and predicted counts, so that the two can be compared.
        """
        both = (self.measured >= 0) & (self.predicted >= 0)
        layers = self.predicted if predicted else self.measured
        never = self.depth + 2
        first = torch.where(both & (layers > 0), layers, never).amin(dim=2)
        return torch.where(first == never, 0, first)

    @property
    def agreement(self) -> Tensor:
        """(formats, quantities): the share of members of which prediction and measurement agree.

        That is within one layer or a hundredth of the depth, or that neither fails.
        """
        measured, predicted = self.first(), self.first(predicted=True)
        never = (measured == 0) == (predicted == 0)
        near = (measured - predicted).abs() <= max(1.0, 0.01 * self.depth)
        return (never & near).double().mean(dim=2)

    def loss_scale(self, dtype: str) -> float | None:
        """Return a power of 2 that saves the gradients of every member in a format, the middle one; None for none.

        Members whose gradients need no scale, being exactly zero, do not count.
        """
        low, high = self.loss_scales[self.formats.index(dtype)].unbind(-1)
        least, largest = math.ceil(low.max().item()), math.floor(high.min().item())
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
                "predicted": (over, self.predicted.numpy(), {"units": "layers", "long_name": "first failure, predicted"}),
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


def _mean_of_members(output: Tensor) -> Tensor:
    return output.flatten(1).mean(dim=1)


def first_failure(
    net: Any,
    x: Tensor,
    dtypes: Sequence[str | torch.dtype] = ("float16", "bfloat16", "float32", "float64"),
    loss: Loss | None = None,
    blocks: str | Sequence[str] | None = None,
) -> FirstFailures:
    """Return after how many layers activations, products and gradients fail in each format, measured and predicted.

    Measured: a copy of the network and the points are rounded to the format, and run forward, forward with a tangent,
    and backward in it. Predicted: from `propagation`, `spectrum` and `gradient_norms`, whose logarithms cannot leave
    the range, and the format's limits.

    Args:
        net: a chain, a module, or a list of modules that follow one another.
        x: the points.
        dtypes: names or torch dtypes.
        loss: as for `gradient_norms`; without, the mean of the output.
        blocks: which layers of a module, see `gradient_norms`.

    Raises:
        ValueError, TypeError: for an unknown format, and as `gradient_norms`.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> f = st.first_failure(st.Chain("plain_prelu", depth=100, seeds=20), x, dtypes=["float16", "float32"])
    >>> f.first()[1, 2].double().median() > f.first()[0, 2].double().median()  # float32 gradients live longer
    tensor(True)
    """
    formats = check_formats(dtypes)
    if isinstance(net, Sequence) and not isinstance(net, str):
        net = nn.Sequential(*net)
    members = hasattr(net, "steps") and hasattr(net, "members")
    chosen: Loss = loss if loss is not None else _mean_of_members if members else lambda y: y.mean()
    exact = _Exact.of(net, x, chosen, blocks)
    depth, seeds = exact.depth, exact.seeds
    shape = (len(formats), len(QUANTITIES), len(KINDS), seeds)
    measured, predicted = torch.full(shape, -1, dtype=torch.int64), torch.full(shape, -1, dtype=torch.int64)
    scales = torch.empty((len(formats), seeds, 2), dtype=torch.float64)
    errors = _errors(net, x, formats, blocks)
    for f, one in enumerate(formats):
        for q, quantity in enumerate(QUANTITIES):
            sizes, tops = exact.sizes[quantity], exact.tops[quantity]
            if sizes is not None and tops is not None:
                # Of what is exactly zero in truth nothing is lost.
                predicted[f, q, 0] = _first(tops > math.log(one.largest))
                predicted[f, q, 1] = _first((sizes < math.log(one.smallest)) & (sizes > -math.inf))
        if exact.expected is not None:
            predicted[f, 0, 2] = _first(exact.expected(one) >= 0)
        runs = _run_in(net, x, one, chosen, blocks, members)
        for q, quantity in enumerate(QUANTITIES):
            run = runs[quantity]
            sizes = exact.sizes[quantity]
            if run is None or sizes is None:
                measured[f, q] = predicted[f, q] = -1
                continue
            lost = torch.isinf(run) & (run > 0)
            measured[f, q, 0] = _first(lost)
            measured[f, q, 1] = _first((run < math.log(one.smallest)) & (sizes > -math.inf))
        if one.name in errors:
            measured[f, 0, 2] = _first(errors[one.name] >= 0)
        scales[f, :, 0] = (math.log(one.smallest) - exact.least) / math.log(2)
        scales[f, :, 1] = (math.log(one.largest) - exact.most) / math.log(2)
    names = tuple(one.name for one in formats)
    return FirstFailures(measured, predicted, scales, depth, names, net.members if members else (0,))


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
class _Exact:
    """The logarithms of the three quantities, in the order in which they are met, (layers, seeds).

    Attributes:
        sizes: root mean square; tops: the largest, or what bounds it. None where there are none.
        least, most: (seeds,), the ends of the range of all gradients.
        expected: maps a format to the log relative error to be expected, (layers, seeds).
    """

    sizes: dict[str, Tensor | None]
    tops: dict[str, Tensor | None]
    least: Tensor
    most: Tensor
    expected: Any

    @property
    def depth(self) -> int:
        sizes = self.sizes["activations"]
        assert sizes is not None
        return len(sizes)

    @property
    def seeds(self) -> int:
        return len(self.least)

    @classmethod
    def of(cls, net: Any, x: Tensor, loss: Loss, blocks: Any) -> _Exact:
        gradients = gradient_norms(net, x, loss, blocks)
        if is_piecewise_linear_width_one(net):
            return cls._of_width_one(net, x, loss, gradients)
        states = propagation(net, x, blocks)
        numbers = states.log_norms.shape[2]
        entries = math.log(numbers) / 2
        activations = combine(states.log_norms, 2)[1:]
        backward = gradients["input"].flip(0)
        return cls(
            {"activations": activations - entries, "products": None, "gradients": backward - entries},
            {"activations": states.log_norms.amax(dim=2)[1:], "products": None, "gradients": backward},
            *_range([gradients["input"], gradients["parameters"]]),
            None,
        )

    @classmethod
    def _of_width_one(cls, net: Any, x: Tensor, loss: Loss, gradients: Any) -> _Exact:
        points, table = points_of(net, x), table_of(net)
        states = propagation(net, x).log_norms[1:]
        products = spectrum(net, x, distances=False).log_values[..., 0]
        mantissas, exponents = outputs(table, points)
        output = torch.from_numpy(np.ldexp(mantissas, exponents))
        _, cotangents = loss_of_members(loss, output.to(net.device))
        logs = np.empty((table.shape[1] + 1, len(table), len(points)))
        with np.errstate(divide="ignore"):
            logs[-1] = np.log(abs(cotangents.cpu().numpy()))
        safe, factors = safe_rows(table), log_factors(table)[0]
        side_by_side(
            lambda first, last: width_one.log_backward(first, last, table, safe, factors, points, logs),
            len(table),
            10.0 * logs.size,
        )
        # What reaches the state before each step, the last one first.
        backward = torch.from_numpy(logs[: net.depth]).flip(0)
        all_logs = {"activations": states, "products": products, "gradients": backward}
        entries = math.log(len(points)) / 2
        steps = np.ascontiguousarray(table[:, : net.depth])
        sizes = combine(states, 2)

        def expected(one: Format) -> Tensor:
            found = np.empty((net.depth + 1, len(table), len(points)))
            numbers = (one.roundoff, one.least, net.architecture.maps == 2, net.architecture.skip not in (0, 1))
            side_by_side(
                lambda first, last: width_one.log_expected_errors(first, last, steps, points, *numbers, found),
                len(table),
                10.0 * found.size,
            )
            error = combine(torch.from_numpy(found), 2)[1:]
            return torch.where(sizes == -math.inf, -math.inf, error - sizes)

        return cls(
            {name: combine(value, 2) - entries for name, value in all_logs.items()},
            {name: value.amax(dim=2) for name, value in all_logs.items()},
            *_range([gradients["input"], gradients["parameters"]]),
            expected,
        )


def _range(logs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the least and the largest log that is not -inf, by seed."""
    every = torch.cat(logs)
    return torch.where(every == -math.inf, math.inf, every).amin(dim=0), every.amax(dim=0)


def _run_in(net: Any, x: Tensor, one: Format, loss: Loss, blocks: Any, members: bool) -> dict[str, Tensor | None]:
    """Run a network in a format; return the log root mean squares of the quantities as they are met, (layers, seeds)."""
    copy, points = in_format(net, x, one.dtype)
    products: Tensor | None
    if members:
        backward = _backward_of_chain(copy, points, loss)
        activations, products = _forward_of_chain(copy, points)
    else:
        activations, backward = _run_module(copy, points, loss, blocks)
        products = None
    return {"activations": activations, "products": products, "gradients": backward}


def _size(numbers: Tensor, kept: int = 1) -> Tensor:
    """Return the log root mean square of each seed, inf where a number is not finite."""
    return log_norm(numbers, kept).cpu() - math.log(numbers[0].numel()) / 2


def _forward_of_chain(net: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    states, tangents = [], []
    direction = torch.ones_like(x)
    if x.ndim > 1:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        direction = (drawn / drawn.norm(dim=-1, keepdim=True)).to(x)
    with torch.no_grad(), forward_ad.dual_level():
        seeds = len(net.members)
        h = forward_ad.make_dual(
            x.expand(seeds, *x.shape).contiguous(), direction.expand(seeds, *x.shape).contiguous()
        )
        for step in net.steps:
            h = step(h)
            state, tangent = forward_ad.unpack_dual(h)
            states.append(_size(state))
            tangents.append(_size(torch.zeros_like(state) if tangent is None else tangent))
    return torch.stack(states), torch.stack(tangents) if x.ndim == 1 else None


def _backward_of_chain(net: Any, x: Tensor, loss: Loss) -> Tensor:
    with torch.enable_grad():
        states = [x.expand(len(net.members), *x.shape).detach().clone().requires_grad_()]
        for step in net.steps:
            states.append(step(states[-1]))
        values = evaluate(loss, net.readout(states[-1]))
        # Not the sum of the losses, which may overflow where none of them does.
        found = torch.autograd.grad(values, states[:-1], torch.ones_like(values), allow_unused=True)
    zero = torch.zeros_like(states[0])
    return torch.stack([_size(zero if gradient is None else gradient) for gradient in reversed(found)])


def _run_module(net: nn.Module, x: Tensor, loss: Loss, blocks: Any) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        calls, output = record_calls(net, x, blocks, keep_graph=True)
        value = evaluate(loss, output)
        states = [call.before for call in calls]
        wanted = [state for state in states if state.requires_grad]
        found = dict(zip(wanted, torch.autograd.grad(value, wanted, allow_unused=True), strict=True))
    activations = torch.stack([_size(call.after[None]) for call in calls])
    backward = [found.get(state) for state in reversed(states)]
    zeros = [torch.zeros_like(state) for state in reversed(states)]
    return activations, torch.stack(
        [_size((zero if g is None else g)[None]) for g, zero in zip(backward, zeros, strict=True)]
    )
