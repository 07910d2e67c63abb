"""Which floating-point format fails first, after how many layers, in what and how?

Question. A float16 number lies between 10^-5 and 10^5, a bfloat16 number has two to three digits. After how many layers
does a run of Peng's five chains in bfloat16, float16, float32 and float64 fail: in the states h_l (activations), in
dh_l/dx (products) or in dLoss/dh_l (gradients, counted from the output), and by overflow, underflow or lost digits? Do
the logarithms of a run that cannot leave the range say so beforehand? How does the forward error grow, and does its
bound hold? Is there a power of 2 by which to scale the loss that saves a run in float16?

Method. Chains of one neuron, freshly initialised, 9 points on (-3, 3); the loss is the mean of the output. Measured:
the chain is rounded to the format, and run forward, forward with a tangent, and backward in it. Predicted: from sums of
logarithms and the limits of the format; lost digits from roundings taken as random. The forward error is against
arithmetic of 106 bits, its bound from running error analysis. A scale exists for a member if its gradients, times the
scale, stay in the normal range; the middle one is tried in a run.

Reading. a, b: layers until the first failure, a row a format: circles are activations, squares products, triangles
gradients, which fail at once where the loss overflows. Marks are medians over seeds, bars go from 5 to 95 %, black
ticks are the medians predicted; open marks at the right: the median survives the whole depth. c, d: forward error
against layer, median and 5 to 95 %, with the medians of the bound (dashed) and of the one that holds with 99 % if
roundings are random (dotted).
The second figure. a: the share of seeds of which the prediction is right, to one layer or a hundredth of the depth, a
number where it is below 95 %; a, p and g are activations, products and gradients. b: the share of seeds for which a
loss scale exists in float16 (lines) and bfloat16 (dashed); dots are the seeds that a scale saves in a float16 run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

FORMATS, HALF = ("bfloat16", "float16", "float32", "float64"), ("float16", "bfloat16")
QUANTITIES = ("activations", "products", "gradients")
PAIR = ("plain_prelu", "residual2_prelu")
INITS = {"pytorch": "torch's initialisation", "uniform": "no biases", "he": "He et al."}
TOTALS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
#: The share of members that a case is to be predicted for; shares are stored with seven digits.
ENOUGH = 0.95 - 1e-6


@dataclass(frozen=True)
class Settings(study.Settings):
    """Which floating-point format fails first in a deep chain, where and how."""

    seeds: int = 100
    """Members of every chain."""
    depth: int = 500
    """Of the chains that are run until they fail."""
    error_depth: int = 200
    """Of the chains whose forward error is taken."""
    scaled_depth: int = 1000
    """Of the deepest chains for which a loss scale is looked for."""


def chain_of(architecture: str, depth: int, settings: Settings, init: str = "pytorch") -> tuple[st.Chain, torch.Tensor]:
    """Return a chain and its points."""
    chain = st.Chain(architecture, depth, seeds=settings.seeds, init=init, root=settings.seed)
    return chain, torch.linspace(-3, 3, 9, dtype=torch.float64)


def failures(init: str, architecture: str, settings: Settings) -> xarray.Dataset:
    """Return the first failures, measured and predicted, with the shares of members that were predicted."""
    found = st.first_failure(*chain_of(architecture, settings.depth, settings, init), FORMATS, progress=False)
    data, over = found.to_dataset(), ("dtype", "quantity", "seed")
    data["first"], data["first_predicted"] = (over, found.first().numpy()), (over, found.first(predicted=True).numpy())
    data["agreement"] = (over[:2], found.agreement.numpy())
    # Numbers of layers are small, and seven digits are enough for the rest.
    return data.astype({name: np.int16 if v.dtype.kind == "i" else np.float32 for name, v in data.items()})


def errors(init: str, architecture: str, settings: Settings) -> xarray.Dataset:
    """Return what the forward error is after the last layer, as log10, and how often it exceeds its bounds."""
    found = st.forward_error(*chain_of(architecture, settings.error_depth, settings, init), FORMATS).to_dataset()
    error, bound, probable = (
        found[name] / math.log(10) for name in ("log_errors", "log_bounds", "log_probable_bounds")
    )
    # Where the truth is exactly zero a relative error says nothing, and an infinite bound is no bound.
    told = np.isfinite(error) & np.isfinite(bound)
    over = ["depth", "seed"]
    data = {
        "violations": (~(error <= bound)).sum(over),
        "compared": told.sum(over),
        "exceeded": (told & (error > probable)).sum(over),
        "kept": (bound.clip(max=0) / error).where(told & (error < 0)).median(over),
    }
    last = {"error": error, "bound": bound, "probable": probable}
    return xarray.Dataset(data | {name: v.where(told)[:, -1].drop_vars("depth") for name, v in last.items()})


def curves(architecture: str, settings: Settings) -> xarray.Dataset:
    """Return errors and bounds by layer."""
    found = st.forward_error(*chain_of(architecture, settings.error_depth, settings), FORMATS).to_dataset()
    some = found[["log_errors", "log_bounds", "log_probable_bounds"]].isel(depth=slice(0, None, 8))
    return some.astype(np.float32)


def scales(architecture: str, settings: Settings) -> xarray.Dataset:
    """Return log2 of the loss scales that exist, and whether float16 gradients fail without one and with the middle."""
    totals = [total for total in TOTALS if total <= settings.scaled_depth]
    deepest, x = chain_of(architecture, totals[-1], settings)
    ends, failed = [], []
    for total in totals:
        chain = deepest.prefix(total)
        plain = st.first_failure(chain, x, HALF, progress=False)
        low, high = plain.loss_scales[..., 0].ceil(), plain.loss_scales[..., 1].floor()
        middle = torch.where(low <= high, (low + high) / 2, 0)[0].floor()
        # As a loss scaler does, the loss is scaled in a format that can hold it.
        scaled = st.first_failure(
            chain, x, HALF[:1], lambda y, by=2**middle: y.double().mean(dim=1) * by, progress=False
        )
        ends.append(torch.stack([low, high], dim=-1).numpy())
        failed.append([one.first()[0, QUANTITIES.index("gradients")].numpy() > 0 for one in (plain, scaled)])
    return xarray.Dataset(
        {
            "scale": (("total", "half", "seed", "end"), np.stack(ends).astype(np.float32), {"units": "log2"}),
            "failed": (("total", "run", "seed"), np.array(failed), {"long_name": "float16 gradients fail"}),
        },
        {"total": totals, "half": list(HALF), "end": ["least", "largest"], "run": ["no scale", "middle scale"]},
    )


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    every = {"init": list(INITS), "architecture": list(study.CHAINS)}
    found = [
        parts.cells(failures, settings, **every),
        parts.cells(errors, settings, **every),
        parts.cells(curves, settings, followed=list(PAIR)),
        parts.cells(scales, settings, architecture=list(study.CHAINS)),
    ]
    data = xarray.merge(found, combine_attrs="drop")
    data.attrs |= {"depth": settings.depth, "error_depth": settings.error_depth}
    return data


def draw(data):
    raise SystemExit("no figure yet")


def claims(data):
    return []


if __name__ == "__main__":
    quick = Settings(seeds=20, depth=60, error_depth=30, scaled_depth=50)
    study.main(Settings(), quick, measure, draw, claims)
