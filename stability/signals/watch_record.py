"""What was recorded of every layer while a model trained, as a result."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stability.foundation.log_norms import combine
from stability.foundation.shown import Shown

if TYPE_CHECKING:
    import xarray

Values = MutableSequence[Any]  # of floats, or of tensors on the model's device


@dataclass
class WatchedPass:
    """One backward pass or step: logs of norms, of gradients and parameters one each, of activations one a layer."""

    number: int
    gradients: Values
    parameters: Values | None
    activations: Values
    scale: float = math.nan
    skipped: bool = False


@dataclass(repr=False)
class WatchRecord(Shown):
    """What `watch` recorded so far; every quantity is the natural log of a norm, float64, on the CPU.

    An iteration is a backward pass, or a step of the optimiser that `watch` was given; a module counts as one seed.
    Before the first there are zero iterations. -inf is an exact zero, +inf stands for a NaN or an infinity among the
    entries, NaN for what was not seen.

    Attributes:
        layers: the names of the layers.
        every: which passes are recorded.
        members: the member numbers of a chain, (0,) for a module.
        iterations: int64 (iterations,), the numbers of the passes or steps, counted from 0.
        scales: (iterations,), the factor by which a GradScaler scaled the loss of a step, which the gradients here no
            longer hold; NaN for a step that none called, 1 for one that is not enabled.
        skipped: bool (iterations,), steps that the scaler skipped, as a gradient was not finite: +inf in the layers
            that have one.
        log_gradients: (iterations, layers, seeds): the L2 norm of the loss gradient with respect to a layer's
            parameters; NaN for a layer that has none that train, see `trains`.
        log_activations: (iterations, layers, seeds): the root mean square of what the last module of a layer returns;
            NaN for a layer that gave none, such as one without a module. None for a chain, for which see
            `propagation`.
        log_parameters: (iterations, layers, seeds): the L2 norm of a layer's parameters at which the gradient was
            taken, so that log_gradients - log_parameters is the size of the gradient relative to what it changes. None
            unless parameters=True asked for it.
    """

    layers: tuple[str, ...]
    every: int
    members: tuple[int, ...]
    with_parameters: bool
    with_activations: bool
    spans: tuple[range, ...]
    rows: list[WatchedPass] = field(default_factory=list)
    _read: dict[str, tuple[int, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        seeds = f", {len(self.members)} seeds" if len(self.members) > 1 else ""
        number = sum(row.skipped for row in self.rows)
        skipped = f", {number} of them skipped" if number else ""
        return f"WatchRecord({len(self)} iterations, {len(self.layers)} layers{seeds}{skipped})"

    @property
    def iterations(self) -> Tensor:
        return torch.tensor([row.number for row in self.rows], dtype=torch.int64)

    @property
    def scales(self) -> Tensor:
        return torch.tensor([row.scale for row in self.rows], dtype=torch.float64)

    @property
    def skipped(self) -> Tensor:
        return torch.tensor([row.skipped for row in self.rows], dtype=torch.bool)

    @property
    def trains(self) -> Tensor:
        """Bool (layers,), which layers hold a parameter that trains and counts in no layer before."""
        held = {layer for span in self.spans for layer in span}
        return torch.tensor([layer in held for layer in range(len(self.layers))], dtype=torch.bool)

    @property
    def log_gradients(self) -> Tensor:
        return self._once("gradients", lambda: self._by_layer([row.gradients for row in self.rows]))

    @property
    def log_parameters(self) -> Tensor | None:
        if not self.with_parameters:
            return None
        rows = [row.parameters for row in self.rows if row.parameters is not None]
        return self._once("parameters", lambda: self._by_layer(rows))

    @property
    def log_activations(self) -> Tensor | None:
        if not self.with_activations:
            return None
        shape = (len(self), len(self.layers), 1)
        unseen = [math.nan] * len(self.layers)  # in a pass before the layers were known
        flat = [value for row in self.rows for value in (row.activations or unseen)]
        return self._once("activations", lambda: _stack(flat, ()).reshape(shape))

    def _once(self, quantity: str, read: Callable[[], Tensor]) -> Tensor:
        """Return what was read before if there are no more rows than then."""
        rows, values = self._read.get(quantity, (-1, torch.empty(0)))
        if rows != len(self):
            values = read()
            self._read[quantity] = (len(self), values)
        return values

    def _by_layer(self, rows: list[Values]) -> Tensor:
        if rows and not self.layers:
            raise ValueError(
                "the layers are not known, as the model itself was not called, only parts of it: give watch "
                "layers=st.layers(model, x)"
            )
        seeds = len(self.members)
        result = torch.full((len(rows), len(self.layers), seeds), -math.inf, dtype=torch.float64)
        for index, span in enumerate(self.spans):
            if not span:  # no layer holds this parameter
                continue
            shape = () if self.with_activations else (len(span), seeds)  # a number a parameter, or one a step and seed
            own = _stack([row[index] for row in rows], shape).reshape(len(rows), len(span), seeds)
            layers = slice(span.start, span.stop)
            result[:, layers] = combine(torch.stack([result[:, layers], own]), dim=0)
        result[:, ~self.trains] = math.nan
        return result

    def to_dataset(self) -> xarray.Dataset:
        """Return what is there with dims (iteration, layer, seed)."""
        import xarray

        dims = ("iteration", "layer", "seed")
        coords: dict[str, object] = {
            "iteration": self.iterations.numpy(),
            "layer": np.array(self.layers, dtype=str),
            "seed": np.array(self.members),
            "trains": ("layer", self.trains.numpy()),
            "scale": ("iteration", self.scales.numpy()),
            "skipped": ("iteration", self.skipped.numpy()),
        }
        names = {
            "log_gradients": (self.log_gradients, "log norm of the gradient"),
            "log_activations": (self.log_activations, "log root mean square of the output"),
            "log_parameters": (self.log_parameters, "log norm of the parameters"),
        }
        kept = {
            name: (dims, values.numpy(), {"long_name": title, "units": "natural logarithm"})
            for name, (values, title) in names.items()
            if values is not None
        }
        return xarray.Dataset(kept, coords)


def _stack(values: Sequence[Any], shape: tuple[int, ...]) -> Tensor:
    """Return floats and tensors of one shape as one float64 tensor on the CPU, fetched from the device at once."""
    places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
    numbers = [-math.inf if isinstance(value, Tensor) else value for value in values]
    result = torch.tensor(numbers, dtype=torch.float64)
    result = result.reshape(-1, *[1] * len(shape)).repeat(1, *shape)
    if places:
        by_device: dict[torch.device, list[int]] = {}
        for place in places:
            by_device.setdefault(values[place].device, []).append(place)
        for own in by_device.values():
            result[own] = torch.stack([values[place] for place in own]).cpu()
    return result
