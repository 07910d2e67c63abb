"""Which floating-point format fails first, and where: by running in it, and from the logarithms alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from stability.foundation.arguments import door
from stability.foundation.checks import check_name
from stability.foundation.formats import Format, check_formats, format_name
from stability.foundation.log_norms import combine
from stability.foundation.shown import Shown
from stability.jacobians.of_step_tables import width_one_spectrum
from stability.precision.format_runs import FormatRun, products_in, run_in
from stability.precision.forward_error import log_reach, of_runs, of_step_table, run_in_float64
from stability.precision.predictions import ExactChain, Sizes, inputs_of, predict_chain, predict_network
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.in_format import in_format
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, read
from stability.reading.refusals import refuse_chance
from stability.reading.traces import unchanged
from stability.signals.chain_gradients import step_gradients
from stability.signals.gradient_norms import GradientNorms
from stability.signals.losses import Loss
from stability.signals.measure_propagation import propagation_of_steps
from stability.signals.module_gradients import norms_in
from stability.signals.step_table_gradients import width_one_gradients

if TYPE_CHECKING:
    import xarray

#: What can fail, in the order of `FirstFailures.measured`.
QUANTITIES = ("activations", "products", "gradients")
#: How it can fail.
KINDS = ("overflow", "underflow", "digits")
# How far from 0 errors stay with probability 95 %, and 5 %, in logs of what they are expected to be.
_REACHES = tuple(log_reach(level) for level in (0.95, 0.05))


@dataclass(frozen=True, repr=False)
class FirstFailures(Shown):
    """After how many layers a run in each format fails, in three ways and in three quantities.

    The quantities are the states h_l ("activations"), the derivative dh_l/dx of chains, or for wider ones its product
    with a random direction ("products", which are not measured of modules), and dLoss/dh_l ("gradients"). Layers are
    counted the way the quantity travels: from the input for the first two, from the output for gradients. A quantity

    - overflows ("overflow") where one of its numbers is not finite, gradients at once where the loss is not; of a
      module also where a number inside the layer is NaN or +inf, in its graph, while the state after it may be finite
      and wrong;
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

        Every kind of failure counts that was measured, or predicted; -1 where there is none, as for the products of
        modules.
        """
        layers = self.predicted if predicted else self.measured
        return self._first_of(layers, layers >= 0)

    def _first_of(self, layers: Tensor, known: Tensor) -> Tensor:
        never = self.depth + 2
        first = torch.where(known & (layers > 0), layers, never).amin(dim=2)
        return torch.where(known.any(dim=2), torch.where(first == never, 0, first), -1)

    @property
    def agreement(self) -> Tensor:
        """(formats, quantities): the share of members of which prediction and measurement agree.

        That is within one layer or a hundredth of the depth, or that neither fails, of the kinds that are both measured
        and predicted. -1 where there is nothing to be compared, as of the products of modules.
        """
        both = (self.measured >= 0) & (self.predicted >= 0)
        measured, predicted = self._first_of(self.measured, both), self._first_of(self.predicted, both)
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
        nothing = f"nothing fails in {', '.join(self.formats)}"
        return f"FirstFailures({self.depth} layers, {len(self.members)} seeds: {'; '.join(parts) or nothing})"

    def to_dataset(self) -> xarray.Dataset:
        """Return both with dims (dtype, quantity, kind, seed), and the loss scales."""
        import xarray

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


def _mean(output: object) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"the network returns a {got}, which has no mean: give loss=, a function from the output to a scalar"
        )
    return output.mean()


def _mean_of_members(output: Tensor) -> Tensor:
    return output.flatten(1).mean(dim=1)


@door
def first_failure(
    net: AnyNetwork,
    x: object,
    formats: Sequence[str | torch.dtype] = ("float16", "bfloat16", "float32", "float64"),
    loss: Loss | None = None,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    progress: bool = True,
) -> FirstFailures:
    """Return after how many layers activations, products and gradients fail in each format, measured and predicted.

    Measured: a copy of the network and the points are rounded to the format, and run forward, forward with a tangent,
    and backward in it. Predicted: from `propagation`, `spectrum` and `gradient_norms`, whose logarithms cannot leave
    the range, and the format's limits. In a chain of width 1 a state that the format cannot hold counts as zero, and
    the step after it takes the branch of zero; of wider networks only the sizes are looked at, so that gradients behind
    such states may fail earlier than predicted.

    Args:
        net: a chain, any module, or callables that follow one another.
        x: the points, or what the network takes: a tensor, a tuple of positional inputs, a dictionary of keyword ones.
        formats: names or torch dtypes.
        loss: as for `gradient_norms`; without, the mean of the output.
        layers, source, batch_dim: how a module is read, see `st.layers`.
        progress: whether to show a progress bar over the formats, on a terminal.

    Raises:
        ValueError, TypeError: for an unknown format, a module that draws random numbers, and as `gradient_norms`.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> f = st.first_failure(st.Chain("plain_prelu", depth=100, seeds=20), x, formats=["float16", "float32"])
    >>> f.first()[1, 2].double().median() > f.first()[0, 2].double().median()  # float32 gradients live longer
    tensor(True)
    """
    chosen = check_formats(formats)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}: expected one function of the network's output")
    reading = read(net, x, layers, source, batch_dim)
    if isinstance(reading, Steps):
        loss = _mean_of_members if loss is None else loss
        gradients, states = _gradients_of_chain(reading, loss), Sizes.of_propagation(propagation_of_steps(reading))
    else:
        loss = _mean if loss is None else loss
        with unchanged(loss), reading.forward() as found:
            refuse_chance(reading, found, "runs in two formats would be of two networks")
            found.check_states()
            gradients = norms_in(found, loss)
            none = torch.zeros(gradients.depth, dtype=torch.bool)
            states = Sizes.of_pass(found, gradients.present.get("input", none))
    alive = _truth(reading, gradients, states)
    shape = (len(chosen), len(QUANTITIES), len(KINDS), len(gradients.members))
    measured, predicted = torch.full(shape, -1, dtype=torch.int64), torch.full(shape, -1, dtype=torch.int64)
    between = torch.full((len(chosen), len(gradients.members), 2), -1, dtype=torch.int64)
    chain = ExactChain.of(reading, loss, states) if isinstance(reading, StepTable) else None
    exact = None if chain is not None or all(one.name == "float64" for one in chosen) else run_in_float64(reading)
    bar = tqdm(chosen, disable=None if progress else True, desc=f"first failures, {gradients.depth} layers")
    for f, one in enumerate(bar):
        prediction = predict_network(gradients, states) if chain is None else predict_chain(chain, one)
        stored = in_format(reading, one.dtype)
        run = run_in(stored, loss, states.before.tolist(), inside=exact is not None)
        sizes_of = {"activations": run.activations, "gradients": run.gradients}
        if isinstance(stored, Steps):
            sizes_of["products"] = products_in(stored)
        for q, quantity in enumerate(QUANTITIES):
            found_sizes = sizes_of.get(quantity)
            if quantity not in prediction.sizes or found_sizes is None:
                continue
            sizes, least = prediction.sizes[quantity], math.log(one.smallest)
            predicted[f, q, 0] = _first(prediction.tops[quantity] > math.log(one.largest))
            predicted[f, q, 1] = _first((sizes < least) & alive[quantity])
            overflows = found_sizes == math.inf
            if quantity == "activations" and exact is not None and exact.inside is not None and run.inside is not None:
                overflows |= run.inside > exact.inside
            measured[f, q, 0] = _first(overflows)
            measured[f, q, 1] = _first((found_sizes < least) & alive[quantity])
        predicted[f, 2, 0] = torch.where(predicted[f, 0, 0] > 0, 1, predicted[f, 2, 0])
        if prediction.expected is not None:
            predicted[f, 0, 2] = _first(prediction.expected >= 0)
            between[f] = torch.stack([_first(prediction.expected + reach >= 0) for reach in _REACHES], dim=-1)
        errors = _errors(reading, one, exact, run)
        if errors is not None:
            measured[f, 0, 2] = _first(errors >= 0)
    names = tuple(one.name for one in chosen)
    scales = _loss_scales(gradients, states, chosen)
    return FirstFailures(measured, predicted, between, scales, gradients.depth, names, gradients.members)


def _gradients_of_chain(reading: Steps, loss: Loss) -> GradientNorms:
    return width_one_gradients(reading, loss) if isinstance(reading, StepTable) else step_gradients(reading, loss)


def _truth(reading: Steps | Network, gradients: GradientNorms, states: Sizes) -> dict[str, Tensor]:
    """Return where each quantity is not exactly zero, so that it can be lost, (layers, seeds), as it is met."""
    found = {"activations": states.log_norms[1:], "gradients": inputs_of(gradients).flip(0)}
    if isinstance(reading, StepTable):
        found["products"] = combine(width_one_spectrum(reading, distances=False).log_values[..., 0], 2)
    return {name: logs > -math.inf for name, logs in found.items()}


def _loss_scales(gradients: GradientNorms, states: Sizes, formats: list[Format]) -> Tensor:
    """Return log2 of the ends of the factors that keep all gradients in the range, (formats, seeds, 2).

    Of the states and the output that is the root mean square, as in the runs; of parameters the norm, layer by layer
    and of each that is outside the layers.
    """
    around = inputs_of(gradients) - states.log_root_entries[:-1][states.before]
    output = gradients.output[None] - states.log_root_entries[-1:]
    kept = [gradients["parameters"]] if "parameters" in gradients.log_norms else []
    outside = [logs[None] for name, logs in gradients.named.items() if name not in gradients.log_norms]
    every = torch.cat([around, output, *kept, *outside])
    least = torch.where(every == -math.inf, math.inf, every).amin(dim=0)
    ends = [
        torch.stack([math.log(one.smallest) - least, math.log(one.largest) - every.amax(dim=0)], dim=-1)
        for one in formats
    ]
    return torch.stack(ends) / math.log(2)


def _first(failed: Tensor) -> Tensor:
    """Return the first True along the layers (layers, seeds), counted from 1; 0 for none."""
    if not len(failed):  # no gradient of a state is there to fail
        return torch.zeros(failed.shape[1:], dtype=torch.int64)
    numbers = torch.arange(1, len(failed) + 1)[:, None]
    never = len(failed) + 1
    first = torch.where(failed, numbers, never).amin(dim=0)
    return torch.where(first == never, 0, first)


def _errors(reading: Steps | Network, one: Format, exact: FormatRun | None, run: FormatRun) -> Tensor | None:
    """Return log relative errors (layers, seeds) after each layer, None where there is no reference."""
    if isinstance(reading, StepTable):
        return of_step_table(reading, [one], 0.99).log_errors[one.name][1:]
    if exact is None or one.name == "float64":
        return None
    return of_runs(exact, {one.name: run}, 0.99).log_errors[one.name][1:]
