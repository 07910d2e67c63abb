"""How a measured quantity grows or decays from layer to layer, or from one depth to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_name
from stability.foundation.log_norms import combine
from stability.signals.gradient_norms import GradientNorms
from stability.signals.growth_verdict import GrowthFit, fit_series
from stability.signals.propagation import Propagation

Result = GradientNorms | Propagation


@door
def fit_growth(
    result: Result | Sequence[Result] | Tensor | ArrayLike,
    along: str = "layer",
    quantity: str | None = None,
    *,
    positions: ArrayLike | Tensor | None = None,
    level: float = 0.95,
) -> GrowthFit:
    """Return the law by which a quantity grows or decays, its rate with an interval over seeds, and a verdict.

    Two questions must not be mixed up:

    - along="layer": how does the quantity change from layer to layer of one network? Layers are counted the way the
      signal travels: from the output for gradients, which "decay by a factor 0.184 a layer" on their way back, and from
      the input for what `propagation` measures.
    - along="depth": how does it change from one network to a deeper one? Of a gradient that is what is left of it at
      the layer farthest from the output.

    The answers differ. In a chain without biases, skips and second maps w dLoss/dw is the same in every layer: along
    the layers "relative" neither grows nor decays, and along the depth it decays as the product of all layers does.

    Shapes (constant, exponential, power, stretched exponential) and spreads (independent, or a random walk, as of the
    log of a product of random factors) are compared by BIC; see `GrowthFit` for the laws and when there is no rate.

    Args:
        result: a `GradientNorms` or `Propagation` of three seeds or more; a sequence of them, one a depth and all of
            the same members, for along="depth"; or natural logs (n, seeds) of your own, with `positions`.
        along: "layer" or "depth".
        quantity: of gradients one of `GradientNorms.log_norms`, by default "input", that with respect to the state, and
            for along="depth" also "total". Of propagation "norm", "update" or "decorrelation", by default "norm".
        positions: (n,), what the rows of logs of your own are at.
        level: of the intervals.

    Raises:
        ValueError, TypeError: for an unknown quantity, results of one depth or of different members along the depth.

    >>> import torch, stability as st
    >>> chain = st.Chain("plain_prelu", depth=300, seeds=200, init="uniform")
    >>> g = st.gradient_norms(chain, torch.ones(1, dtype=torch.float64), lambda y: y.mean(dim=1))
    >>> print(st.fit_growth(g).verdict.split(";")[0])
    decays by a factor 0.183 a layer (0.182 to 0.185)
    """
    check_name("along", along, ("layer", "depth"))
    results = [one for one in result if isinstance(one, GradientNorms | Propagation)] if _is_sequence(result) else []
    if positions is not None and (results or isinstance(result, GradientNorms | Propagation)):
        raise ValueError("positions go with logs of your own: a result knows its layers and its depth, leave them out")
    if isinstance(result, GradientNorms | Propagation):
        if along == "depth":
            raise ValueError(
                'a fit along="depth" compares networks: give a sequence of results, one a depth; for the layers of one '
                'network take along="layer"'
            )
        name, at, logs = _along_layers(result, quantity)
        return fit_series(at, logs, quantity=name, along=along, level=level)
    if results and len(results) == len(result):  # type: ignore[arg-type]
        if along == "layer":
            raise ValueError('a sequence of results is fitted along="depth"; along="layer" takes one result')
        name, at, logs = _along_depth(results, quantity)
        return fit_series(at, logs, quantity=name, along=along, level=level)
    if positions is None:
        raise TypeError(
            f"result is a {type(result).__name__}: expected a GradientNorms, a Propagation, a sequence of them, or "
            "logs (n, seeds) together with positions="
        )
    return fit_series(positions, result, quantity="value" if quantity is None else quantity, along=along, level=level)  # type: ignore[arg-type]


def _is_sequence(result: object) -> TypeGuard[Sequence[object]]:
    return isinstance(result, list | tuple)


def _along_layers(result: Result, quantity: str | None) -> tuple[str, np.ndarray, Tensor]:
    """Return the quantity's name, layer numbers from where the signal enters, and logs (layers, seeds)."""
    if isinstance(result, Propagation):
        name = check_name("quantity", "norm" if quantity is None else quantity, _PROPAGATED)
        logs, present = _PROPAGATED[name](result), torch.ones(result.depth, dtype=torch.bool)
        if name == "update":
            present = result.same_shape
    else:
        name = check_name("quantity", "input" if quantity is None else quantity, result.log_norms)
        logs, present = result[name].flip(0), result.present[name].flip(0)
    return name, np.arange(1, result.depth + 1)[present.numpy()], logs[present]


def _norm(result: Propagation) -> Tensor:
    return combine(result.log_norms, 2)[1:]


def _update(result: Propagation) -> Tensor:
    return combine(result.log_updates, 2) - math.log(result.log_updates.shape[2]) / 2


def _decorrelation(result: Propagation) -> Tensor:
    logs = result.log_decorrelations[1:]
    return torch.logsumexp(logs, 2) - math.log(max(logs.shape[2], 1))


#: What a propagation offers, over all points: the L2 norm, the root mean square update, the mean of 1 - correlation.
_PROPAGATED = {"norm": _norm, "update": _update, "decorrelation": _decorrelation}


def _along_depth(results: list[Result], quantity: str | None) -> tuple[str, np.ndarray, Tensor]:
    """Return the quantity's name, the depths in order, and logs (depths, seeds) of what arrives."""
    results.sort(key=lambda one: one.depth)
    depths, members = [one.depth for one in results], {one.members for one in results}
    if len(set(depths)) < len(depths) or len(depths) < 2:
        raise ValueError(f"the results have depths {depths}: expected at least two, each once")
    if len(members) > 1:
        raise ValueError(
            f"the results have {len(members)} different sets of members: a rate of each member along the depth needs "
            "the same ones at every depth; see GradientNorms.of_seeds for modules"
        )
    rows = []
    name = ("norm" if isinstance(results[0], Propagation) else "input") if quantity is None else quantity
    for one in results:
        if isinstance(one, GradientNorms) and name == "total":
            rows.append(one.total)
        else:
            rows.append(_along_layers(one, name)[2][-1])
    return name, np.array(depths), torch.stack(rows)
