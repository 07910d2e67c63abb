"""The gradients of a piecewise-linear chain of width 1, from the derivatives of its steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
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

#: How many rows of step tables are worked on at a time.
PORTION = 2**15
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


def float64_output(net: Any, table: NDArray[np.float64], points: NDArray[np.float64]) -> Tensor:
    """Return what the chain makes of the points, float64 (seeds, points) on its device, from states in any range."""
    mantissas = np.empty((len(table), len(points)))
    exponents = np.empty(mantissas.shape, dtype=np.int64)
    side_by_side(
        lambda first, last: width_one.run(first, last, table, points, mantissas, exponents),
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
    points, table, depth = points_of(net, x), table_of(net), net.depth
    values, cotangents = loss_of_members(loss, float64_output(net, table, points))
    trained = [kind for kind, value in net.named_parameters() if value.requires_grad]
    steps = [kind for kind in net.architecture.parameters if kind in trained and kind not in _READOUT]
    last = {kind: column for kind, column in _READOUT.items() if kind in trained}
    wanted = {*map(COLUMNS.index, steps), *last.values()}
    at_output = cotangents.to("cpu", torch.float64).numpy()
    logs, (states, parameters, relative) = _log_norms(table, points, at_output, steps, wanted)
    named = {kind: combine(logs[COLUMNS.index(kind)][:, :depth], 1) for kind in steps}
    named |= {kind: logs[column][:, -1] for kind, column in last.items()}
    return GradientNorms.of_chain(
        net,
        {kind: logs[COLUMNS.index(kind)][:, :depth].mT for kind in steps},
        states[:, :depth].mT,
        parameters[:, :depth].mT,
        relative[:, :depth].mT,
        named=named,
        output=states[:, -1],
        loss=values.cpu(),
        path="factors",
    )


@dataclass(frozen=True)
class TableGradients:
    """The gradient with respect to a step table, as mantissas and exponents of 2.

    Attributes:
        values, exponents: (6, seeds, rows), with respect to each column.
        squares, square_exponents: (3, seeds, rows + 1), squared norms: with respect to the state before each row and
            after the last, over the points; and with a last one that is void, with respect to the trained numbers of a
            row, and of its weights times their gradients.
    """

    values: NDArray[np.float64]
    exponents: NDArray[np.int32]
    squares: NDArray[np.float64]
    square_exponents: NDArray[np.int32]


def _log_norms(
    table: NDArray[np.float64],
    points: NDArray[np.float64],
    cotangents: NDArray[np.float64],
    steps: Sequence[str],
    wanted: Collection[int],
) -> tuple[dict[int, Tensor], Tensor]:
    """Return the log sizes of the gradient of the columns wanted, (seeds, rows) each, and of its norms.

    The norms are (3, seeds, rows + 1), see `TableGradients`; the columns of `steps` count in them.
    """
    seeds, rows, _ = table.shape
    logs = {column: torch.empty((seeds, rows), dtype=torch.float64) for column in wanted}
    roots = torch.empty((3, seeds, rows + 1), dtype=torch.float64)
    # Some members at a time: memory that has been used before is a good deal faster than new.
    portion = max(1, PORTION // rows)
    for start in range(0, seeds, portion):
        part = slice(start, start + portion)
        found = gradients(table[part], points, cotangents[part], steps)
        for column in wanted:
            _log_into(logs[column][part], found.values[column], found.exponents[column])
        for which in range(3):
            _log_into(roots[which, part], found.squares[which], found.square_exponents[which])
    return logs, roots.mul_(0.5)


def gradients(
    table: NDArray[np.float64],
    points: NDArray[np.float64],
    cotangents: NDArray[np.float64],
    trained: Sequence[str] = COLUMNS,
) -> TableGradients:
    """Return the gradient with respect to the table.

    Args:
        table: (seeds, rows, 6).
        points: (points,).
        cotangents: (seeds, points), the gradient with respect to the output.
        trained: which columns count in the norms.
    """
    seeds, rows, _ = table.shape
    inputs = (table, *factors(table), points, np.ascontiguousarray(cotangents), np.isin(COLUMNS, trained))
    found = TableGradients(
        np.empty((6, seeds, rows)),
        np.empty((6, seeds, rows), dtype=np.int32),
        np.zeros((3, seeds, rows + 1)),
        np.zeros((3, seeds, rows + 1), dtype=np.int32),
    )
    outputs = (found.values, found.exponents, found.squares, found.square_exponents)
    side_by_side(
        lambda first, last: width_one.gradients(first, last, *inputs, *outputs), seeds, 3 * seeds * rows * len(points)
    )
    return found


def _log_into(logs: Tensor, mantissas: NDArray[np.float64], exponents: NDArray[np.int32]) -> None:
    array = logs.numpy()
    np.abs(mantissas, out=array)
    with np.errstate(divide="ignore"):
        np.log(array, out=array)
    array += exponents * math.log(2)
