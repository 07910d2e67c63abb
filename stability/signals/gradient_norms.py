"""The norms of loss gradients, layer by layer and seed by seed, as a result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stability.foundation.arguments import check_numbers, door
from stability.foundation.checks import check_dtype, check_name
from stability.foundation.formats import Format
from stability.foundation.log_norms import combine
from stability.foundation.shown import Shown
from stability.networks import Chain
from stability.reading.chain_reading import step_names

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, repr=False)
class GradientNorms(Shown):
    """Natural logarithms of the L2 norms of a loss gradient, (layers, seeds) each; a module counts as one seed.

    Attributes:
        log_norms: by quantity, float64 (layers, seeds), -inf where the gradient is exactly zero:

            - a kind of parameter ("weight", "bias", "outer_weight", ...): the gradient with respect to it;
            - "parameters": with respect to all parameters of the layer together;
            - "input": with respect to the state before the layer, over all points;
            - "relative": with respect to relative changes of the weights, that is w dLoss/dw, entry by entry.
        present: by quantity, bool (layers,): whether the layer has it; where it has not its norm is -inf.
        named: by the name of a parameter of the network, (seeds,): the gradient with respect to the whole of it, those
            outside the layers included.
        output: (seeds,), the gradient with respect to the network's output; of an output that is not one tensor the
            log of 1, the gradient with respect to the loss.
        loss: (seeds,), its value.
        layers: the names of the layers.
        members: the member numbers along the seeds.
        path: "factors" where the logs come from the derivatives of width-1 steps, "autograd" where from automatic
            differentiation, layer by layer.
        missing: the names of parameters that require a gradient and get none, as the loss does not depend on them: an
            output that it does not take, an auxiliary head in eval mode. They are in no quantity.
    """

    log_norms: dict[str, Tensor]
    present: dict[str, Tensor]
    named: dict[str, Tensor]
    output: Tensor
    loss: Tensor
    layers: tuple[str, ...]
    members: tuple[int, ...]
    path: str
    missing: tuple[str, ...] = ()

    @classmethod
    def of_chain(
        cls,
        net: Chain,
        kinds: dict[str, Tensor],
        inputs: Tensor,
        parameters: Tensor | None,
        relative: Tensor | None,
        **rest: Any,
    ) -> GradientNorms:
        """Return the norms of a chain, (depth, seeds) each, without what its trained kinds do not make up."""
        log_norms = dict(kinds)
        if parameters is not None and kinds:
            log_norms["parameters"] = parameters
        log_norms["input"] = inputs
        if relative is not None and any(kind.endswith("weight") for kind in kinds):
            log_norms["relative"] = relative
        present = dict.fromkeys(log_norms, torch.ones(net.depth, dtype=torch.bool))
        return cls(log_norms=log_norms, present=present, layers=step_names(net.depth), members=net.members, **rest)

    def __repr__(self) -> str:
        sizes = ""
        if "input" in self.log_norms:  # not of layers that all take integers
            taken = self["input"][self.present["input"]]
            low, high = (float(taken[layer].median()) for layer in (0, -1))
            sizes = f", log |dLoss/dh| {high:+.4g} at the last layer to {low:+.4g} at the first"
        if self.missing:
            more = ", ..." if len(self.missing) > 3 else ""
            sizes += f", no gradient for {len(self.missing)} parameters ({', '.join(self.missing[:3])}{more})"
        dead = f", dead {100 * self.dead.double().mean():.0f} %" if self.dead.any() else ""
        return (
            f"GradientNorms({', '.join(self.log_norms)}: {self.depth} layers, {len(self.members)} seeds"
            f"{sizes}{dead}, path={self.path!r})"
        )

    def __getitem__(self, quantity: str) -> Tensor:
        """Return the logs of one quantity, (layers, seeds)."""
        return self.log_norms[check_name("quantity", quantity, self.log_norms)]

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @property
    def total(self) -> Tensor:
        """The log of the norm of the whole gradient, over all parameters, (seeds,)."""
        return combine(torch.stack(list(self.named.values())), dim=0)

    @property
    def dead(self) -> Tensor:
        """Bool (seeds,): no gradient at all reaches the first layer, though the loss has one at the output.

        The norm is then exactly zero, and not only too small for a format, see `underflows`. All weights before the
        layer that stops it are out of reach of training. Of a module it is zero as automatic differentiation in the
        module's own dtype has it: a tanh that is saturated in float32 has the derivative 0 there, and not in float64.
        """
        if "input" not in self.log_norms:  # layers that take no state of floating point
            return torch.zeros(len(self.members), dtype=torch.bool)
        return (self["input"][self.present["input"]][0] == -math.inf) & (self.output > -math.inf)

    @door
    def underflows(self, dtype: torch.dtype, quantity: str = "parameters") -> Tensor:
        """Bool (layers, seeds): where the norm is not zero, but rounds to zero in `dtype`."""
        return (self[quantity] <= Format(check_dtype(dtype)).log_least) & (self[quantity] > -math.inf)

    @door
    def quantiles(self, quantity: str, q: Sequence[float] = (0.05, 0.5, 0.95), alive: bool = False) -> Tensor:
        """Return quantiles of the logs over seeds, (len(q), layers): values that some seed has.

        Args:
            quantity: which one.
            q: the levels.
            alive: leave out the members that are `dead`; with none left there is no quantile, and ValueError.
        """
        check_numbers("q", q)
        if np.ndim(q) != 1 or not len(q) or not all(0 <= level <= 1 for level in q):
            raise ValueError(f"q is {q}: expected levels from 0 to 1")
        values = self[quantity][:, ~self.dead] if alive else self[quantity]
        if not values.shape[1]:
            raise ValueError(f"all {len(self.members)} members are dead: there are no quantiles over those alive")
        levels = np.quantile(values.cpu().numpy(), q, axis=1, method="inverted_cdf")
        return torch.from_numpy(np.asarray(levels))

    @classmethod
    def of_seeds(cls, results: Sequence[GradientNorms]) -> GradientNorms:
        """Join results of networks with the same layers, such as one model from several seeds, along the seeds."""
        results = list(results)
        if not results:
            raise ValueError("there are no results to join: expected at least one")
        for number, other in enumerate(results):
            if not isinstance(other, GradientNorms):
                raise TypeError(f"result {number} is a {type(other).__name__}: expected a GradientNorms")
        first = results[0]
        for number, other in enumerate(results):
            if (other.layers, tuple(other.log_norms), tuple(other.named)) != (
                first.layers,
                tuple(first.log_norms),
                tuple(first.named),
            ):
                raise ValueError(f"result {number} has other layers or quantities than the first: join what is alike")
        return dataclasses.replace(
            first,
            log_norms={k: torch.cat([r.log_norms[k] for r in results], dim=1) for k in first.log_norms},
            named={k: torch.cat([r.named[k] for r in results]) for k in first.named},
            output=torch.cat([r.output for r in results]),
            loss=torch.cat([r.loss for r in results]),
            members=tuple(range(sum(len(r.members) for r in results))),
        )

    def to_dataset(self) -> xarray.Dataset:
        """Return the logs with dims (quantity, layer, seed), and (parameter, seed) for the named parameters."""
        import xarray

        return xarray.Dataset(
            {
                "log_norms": (
                    ("quantity", "layer", "seed"),
                    torch.stack(list(self.log_norms.values())).numpy(),
                    {"long_name": "log norm of the loss gradient", "units": "natural logarithm"},
                ),
                "present": (("quantity", "layer"), torch.stack(list(self.present.values())).numpy()),
                "named": (("parameter", "seed"), torch.stack(list(self.named.values())).numpy()),
                "output": ("seed", self.output.numpy()),
                "loss": ("seed", self.loss.numpy()),
                "dead": ("seed", self.dead.numpy()),
            },
            {
                "quantity": list(self.log_norms),
                "layer": np.arange(1, self.depth + 1),
                "name": ("layer", list(self.layers)),
                "parameter": list(self.named),
                "seed": list(self.members),
            },
            attrs={"path": self.path},
        )
