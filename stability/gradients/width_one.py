"""The gradients of a piecewise-linear chain of width 1, from the derivatives of its steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.checks import COLUMNS, check_finite, check_points
from stability.gradients.kernels import width_one
from stability.gradients.log_norms import combine
from stability.gradients.losses import Loss, loss_of_members
from stability.gradients.result import GradientNorms
from stability.jacobians.factors import factors
from stability.jacobians.threads import side_by_side

#: Where a read-out's two parameters stand in its row.
_READOUT = {"readout_weight": COLUMNS.index("skip"), "readout_bias": COLUMNS.index("outer_bias")}


def points_of(net: Any, x: Tensor) -> NDArray[np.float64]:
    """Return the points of a width-1 chain as float64 on the CPU, once they are checked."""
    check_finite("x", check_points(x, 1, net.dtype, net.device))
    points: NDArray[np.float64] = x.detach().to("cpu", torch.float64, copy=True).numpy()
    return points


def table_of(net: Any) -> NDArray[np.float64]:
    """Return the step table, once it is checked."""
    table = np.ascontiguousarray(net.table())
    check_finite("the chain's step table (seed, row, column)", table)
    return table


def float64_output(net: Any, x: Tensor) -> Tensor:
    """Return what the chain makes of the points, float64 (seeds, points) on its device, from states in any range."""
    points, table = points_of(net, x), table_of(net)
    mantissas = np.empty((len(table), len(points)))
    exponents = np.empty(mantissas.shape, dtype=np.int64)
    safe = safe_rows(table)
    side_by_side(
        lambda first, last: width_one.run(first, last, table, safe, points, mantissas, exponents),
        len(table),
        mantissas.size * table.shape[1],
    )
    with np.errstate(over="ignore", under="ignore"):
        output = torch.from_numpy(np.ldexp(mantissas, exponents))
    if not output.isfinite().all():
        bad = (~output.isfinite()).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"the output overflows float64 for {len(bad)} members, {net.members[bad[0]]} the first: a loss of it has "
            "no gradient; scale the weights, take fewer layers, or look at st.propagation and st.spectrum"
        )
    return output.to(net.device)


def width_one_gradients(net: Any, x: Tensor, loss: Loss) -> GradientNorms:
    """Return the gradient norms of a chain from its step table: see `gradient_norms`.

    With g_l the derivative of step l and d_l = dLoss/dh_l, d_(l-1) = d_l g_l, and with z = weight h + bias

        dLoss/dweight       = outer_weight sum phi'(z) d h     dLoss/dbias       = outer_weight sum phi'(z) d
        dLoss/douter_weight = sum phi(z) d                     dLoss/douter_bias = sum d
        dLoss/dslope        = outer_weight sum_(z <= 0) z d    dLoss/dskip       = sum h d

    over the points. Everything is float64 with an exponent of its own.
    """
    points, table = points_of(net, x), table_of(net)
    values, cotangents = loss_of_members(loss, float64_output(net, x))
    found, scale, squares, square_scale = gradients(table, points, cotangents.to("cpu", torch.float64).numpy())
    with np.errstate(divide="ignore"):
        log_inputs = torch.from_numpy(np.log(squares) / 2 + square_scale * (math.log(2) / 2)).mT
    trained = {name for name, value in net.named_parameters() if value.requires_grad}
    log_norms, named = {}, {}
    for kind in net.architecture.parameters:
        if kind not in trained:
            continue
        if kind in _READOUT:
            named[kind] = _log(found[:, -1, _READOUT[kind]], scale[:, -1, _READOUT[kind]])
            continue
        column = COLUMNS.index(kind)
        log_norms[kind] = _log(found[:, : net.depth, column], scale[:, : net.depth, column]).mT
        named[kind] = combine(log_norms[kind], 0)
    weights = {
        kind: log_norms[kind] + torch.from_numpy(_log_size(table[:, : net.depth, COLUMNS.index(kind)])).mT
        for kind in log_norms
        if kind.endswith("weight")
    }
    return GradientNorms(
        **of_kinds(log_norms, weights, log_inputs[: net.depth]),
        named=named,
        output=log_inputs[-1],
        loss=values.cpu(),
        layers=tuple(f"step {i}" for i in range(1, net.depth + 1)),
        members=net.members,
        path="factors",
    )


def of_kinds(kinds: dict[str, Tensor], weights: dict[str, Tensor], inputs: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return `log_norms` and `present` of a chain from the logs of each kind, of w dLoss/dw, and of the states'."""
    log_norms = dict(kinds)
    if kinds:
        log_norms["parameters"] = combine(torch.stack(list(kinds.values())), 0)
    log_norms["input"] = inputs
    if weights:
        log_norms["relative"] = combine(torch.stack(list(weights.values())), 0)
    everywhere = torch.ones(len(inputs), dtype=torch.bool)
    return {"log_norms": log_norms, "present": dict.fromkeys(log_norms, everywhere)}


def gradients(
    table: NDArray[np.float64], points: NDArray[np.float64], cotangents: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64], NDArray[np.int32]]:
    """Return the gradient with respect to the table, and the squared norms of that with respect to the states.

    Args:
        table: (seeds, rows, 6).
        points: (points,).
        cotangents: (seeds, points), the gradient with respect to the output.

    Returns:
        Mantissas and exponents (seeds, rows, 6), and mantissas and exponents (seeds, rows + 1).
    """
    seeds, rows, _ = table.shape
    mantissas, exponents = factors(table)
    shape = (seeds, rows, 6)
    values, scale = np.empty(shape), np.empty(shape, dtype=np.int32)
    squares, square_scale = np.empty((seeds, rows + 1)), np.empty((seeds, rows + 1), dtype=np.int32)
    arrays = (table, safe_rows(table), mantissas, exponents, points, np.ascontiguousarray(cotangents))
    side_by_side(
        lambda first, last: width_one.gradients(first, last, *arrays, values, scale, squares, square_scale),
        seeds,
        3 * seeds * rows * len(points),
    )
    return values, scale, squares, square_scale


def safe_rows(table: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows hold only numbers that are 0 or far from the ends of the range."""
    size = abs(table)
    unsafe = (size >= 2.0**width_one.ROW) | ((size <= 2.0**-width_one.ROW) & (size > 0))
    return np.asarray(~unsafe.any(axis=-1)) if unsafe.any() else np.ones(unsafe.shape[:2], dtype=bool)


def _log_size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(abs(values)))


def _log(mantissas: NDArray[np.float64], exponents: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(_log_size(mantissas) + exponents * math.log(2))
