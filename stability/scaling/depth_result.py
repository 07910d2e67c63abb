"""What a depth check has found, as a result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from stability.foundation.shown import Shown
from stability.scaling.depth_exponents import Array, Exponent, fit_exponent, mean_square, unfit
from stability.scaling.depth_remedies import Remedy, Trained, remedies

#: The level of the intervals.
LEVEL = 0.95
#: What is fitted against the depth, and what it is called.
QUANTITIES = {
    "state": "the last state at the start",
    "branch": "what a layer adds to its state",
    "change": "the change of the last state",
    "relative change": "that change over the state",
    "output change": "the change of the output",
    "share": "a layer's own share of that",
    "gradient": "the gradient of a layer",
    "step": "the step of a layer over the rate",
}
#: What the sizes along the relative depth are called.
PROFILES = {"state": "log_state", "change": "log_change", "share": "log_share", "gradient": "log_gradient"}


@dataclass(frozen=True, repr=False)
class DepthCheck(Shown):
    """What of a training depends on the depth. Sizes are natural logs of root mean squares, by (depth, seed, ...).

    Attributes:
        depths, seeds: of the models.
        layers: how many layers that grow in number each has; `kind` is their class.
        relative_depth: (n,), where the states are looked at, from the first layers to 1, the last one.
        relative_layer: (m,), which layers are looked at, from 0, the first one, to 1, the last one.
        log_state: (depth, seed, n), of the states at the start.
        log_branch: (depth, seed), of what layers add to their state, over all of them; NaN where they pass nothing on.
        log_change: (depth, seed, iteration, n), of how far the updates until then have changed the states.
        log_output_change: (depth, seed, iteration), of the output's change.
        log_share: (depth, seed, m), of the output's change when the layer alone has its updated parameters, and all
            others those of the start; NaN where layers share parameters.
        log_gradient: (depth, seed, m), the log norm of a layer's gradient at the start.
        log_step: (depth, seed), of the first step of the layers' parameters, over the rate.
        loss: (depth, seed, iteration + 1), at the start and after each update.
        diverged: (depth, seed), the update after which the training was lost, -1 where it was not. A change that is
            not there is NaN.
        optimizer: its class; `order` is the power of the gradient's size that its step goes with, None where unknown.
        skips: whether the layers add what they take to what they give.
    """

    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    layers: tuple[int, ...]
    kind: str
    relative_depth: Tensor
    relative_layer: Tensor
    log_state: Tensor
    log_branch: Tensor
    log_change: Tensor
    log_output_change: Tensor
    log_share: Tensor
    log_gradient: Tensor
    log_step: Tensor
    loss: Tensor
    diverged: Tensor
    optimizer: str
    order: int | None
    skips: bool
    level: float = LEVEL

    @property
    def steps(self) -> int:
        """How many updates there were."""
        return self.log_change.shape[2]

    @cached_property
    def _logs(self) -> dict[str, Array]:
        """The log of each quantity, (depths, seeds), NaN where a training was lost."""
        state, change = self.log_state[..., -1].numpy(), self.log_change[..., -1, -1].numpy()
        found = {
            "state": state,
            "branch": self.log_branch.numpy(),
            "change": change,
            "relative change": change - state,
            "output change": self.log_output_change[..., -1].numpy(),
            "share": mean_square(self.log_share.numpy()),
            "gradient": mean_square(self.log_gradient.numpy()),
            "step": self.log_step.numpy(),
        }
        # These have no meaning for layers that pass nothing on, that share parameters, and that take no step.
        without = {name for name in ("branch", "share", "step") if np.isnan(found[name]).all()}
        return {name: logs for name, logs in found.items() if name not in without}

    @cached_property
    def _trained(self) -> tuple[int, ...]:
        """The depths at which no training was lost."""
        return tuple(d for d, row in zip(self.depths, self.diverged, strict=True) if bool((row < 0).all()))

    def _used(self, quantity: str, logs: Array) -> tuple[tuple[int, ...], Array]:
        at_start = quantity in ("state", "branch", "gradient")
        used = self.depths if at_start else self._trained
        return used, logs[[self.depths.index(depth) for depth in used]]

    @cached_property
    def exponents(self) -> dict[str, Exponent]:
        """The exponents by quantity, of those that have one; after the last update, over the depths that train."""
        found = {}
        for name, logs in self._logs.items():
            used, rows = self._used(name, logs)
            if len(used) > 1 and not unfit(used, rows):
                found[name] = fit_exponent(name, used, rows, self.level)
        return found

    def exponents_of(self, profile: str) -> list[Exponent | None]:
        """Return the exponent of "state", "change", "share" or "gradient" at each relative depth, None for none."""
        logs = getattr(self, PROFILES[profile]).numpy()
        logs = logs[:, :, -1] if profile == "change" else logs
        found: list[Exponent | None] = []
        for place in range(logs.shape[-1]):
            used, rows = self._used(profile, logs[..., place])
            fits = len(used) > 1 and not unfit(used, rows)
            found.append(fit_exponent(profile, used, rows, self.level) if fits else None)
        return found

    @cached_property
    def remedies(self) -> tuple[Remedy, ...]:
        """What undoes the dependence on the depth, as it follows from the exponents."""
        step = self.exponents.get("step")
        # A step that ought not to go with the gradient, and does, has an epsilon larger than the gradient.
        known = self.order != 0 or (step is not None and step.verdict == "does not depend")
        return remedies(self.exponents, Trained(self.skips, self.order if known else None))

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """What was found, in words, a sentence each."""
        found = []
        for depth, row in zip(self.depths, self.diverged, strict=True):
            if lost := int((row >= 0).sum()):
                first = int(row[row >= 0].min())
                found.append(
                    f"the training diverges at depth {depth} for {lost} of {len(row)} seeds, after {first} updates or "
                    "more; the exponents of the changes are those of the other depths"
                )
        for name, words in QUANTITIES.items():
            if name in self.exponents:
                if name not in ("branch", "step"):
                    found.append(f"{words} {self.exponents[name]}")
            elif name in self._logs:
                used, rows = self._used(name, self._logs[name])
                why = unfit(used, rows) if len(used) > 1 else "has no exponent: fewer than two depths train"
                found.append(f"{words} {why}")
        step = self.exponents.get("step")
        if self.order == 0 and step is not None and step.verdict == "depends":
            found.append(f"{QUANTITIES['step']} {step}: with {self.optimizer} it should not; look at its eps")
        return tuple(found)

    @cached_property
    def advice(self) -> str:
        """How to undo what depends on the depth, in one sentence."""
        told = [name for name in ("state", "relative change") if name in self.exponents]
        verdicts = {name: self.exponents[name].verdict for name in told}
        if self.remedies:
            return "to undo it: " + "; or ".join(one.words for one in self.remedies)
        if len(told) < 2:
            return "no advice: without an exponent there is nothing to undo by a power of the depth"
        if "open" in verdicts.values():
            return "no advice: more seeds, or a wider range of depths, would settle what is open"
        if "depends" in verdicts.values():
            return "no advice: no power of the depth is known to undo this; st.examine looks into the deepest model"
        return "nothing to undo: neither the state nor its change depends on the depth"

    def __repr__(self) -> str:
        head = (
            f"DepthCheck(depths {', '.join(map(str, self.depths))}; {len(self.seeds)} seeds; {self.steps} updates by "
            f"{self.optimizer}; {self.layers[0]} to {self.layers[-1]} layers of {self.kind})"
        )
        return "\n  ".join([head, *self.findings, self.advice])

    def to_dataset(self) -> xarray.Dataset:
        """Return all sizes, labelled, with the exponents of `exponents` beside them."""
        dims = {
            "log_state": ("depth", "seed", "relative_depth"),
            "log_branch": ("depth", "seed"),
            "log_change": ("depth", "seed", "iteration", "relative_depth"),
            "log_output_change": ("depth", "seed", "iteration"),
            "log_share": ("depth", "seed", "relative_layer"),
            "log_gradient": ("depth", "seed", "relative_layer"),
            "log_step": ("depth", "seed"),
            "loss": ("depth", "seed", "updates"),
            "diverged": ("depth", "seed"),
        }
        found = self.exponents
        data = xarray.Dataset(
            {name: (of, getattr(self, name).numpy()) for name, of in dims.items()}
            | {
                "exponent": ("quantity", [one.value for one in found.values()]),
                "exponent_low": ("quantity", [one.interval[0] for one in found.values()]),
                "exponent_high": ("quantity", [one.interval[1] for one in found.values()]),
            },
            {
                "depth": list(self.depths),
                "seed": list(self.seeds),
                "relative_depth": self.relative_depth.numpy(),
                "relative_layer": self.relative_layer.numpy(),
                "iteration": np.arange(1, self.steps + 1),
                "updates": np.arange(self.steps + 1),
                "quantity": list(found),
                "layers": ("depth", list(self.layers)),
            },
            {"optimizer": self.optimizer, "kind": self.kind, "level": self.level, "advice": self.advice},
        )
        for name in ("log_state", "log_change", "log_output_change", "log_share", "log_branch", "log_step"):
            data[name].attrs["long_name"] = "natural log of a root mean square"
        data["log_gradient"].attrs["long_name"] = "natural log of an L2 norm"
        return data

    @classmethod
    def of(cls, data: xarray.Dataset, **rest: object) -> DepthCheck:
        """Return the result of the cells of a sweep, by (depth, seed, ...)."""
        given: dict[str, Any] = {str(name): torch.as_tensor(np.array(data[name].values)) for name in data.data_vars}
        for name in ("relative_depth", "relative_layer"):
            given[name] = torch.as_tensor(np.array(data[name].values))
        given |= {"depths": tuple(map(int, data["depth"].values)), "seeds": tuple(map(int, data["seed"].values))}
        return cls(**(given | rest))
