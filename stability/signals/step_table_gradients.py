"""The gradients of a piecewise-linear chain of width 1, from the derivatives of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stability.foundation.checks import COLUMNS
from stability.foundation.threads import side_by_side
from stability.jacobians.step_derivatives import factors
from stability.networks import Chain
from stability.reading.chain_reading import StepTable
from stability.signals.gradient_norms import GradientNorms
from stability.signals.kernels import back_through_rows, forward_states
from stability.signals.kernels.row_gradients import Gradient
from stability.signals.losses import Loss, loss_of_members

#: Where a read-out's two parameters stand in its row.
_READOUT = {"readout_weight": COLUMNS.index("skip"), "readout_bias": COLUMNS.index("outer_bias")}


def float64_output(net: Chain, table: NDArray[np.float64], points: NDArray[np.float64]) -> Tensor:
    """Return what the chain makes of the points, float64 (seeds, points) on its device, from states in any range."""
    mantissas = np.empty((len(table), len(points)))
    exponents = np.empty(mantissas.shape, dtype=np.int64)
    side_by_side(
        lambda first, last: forward_states.run(first, last, table, points, mantissas, exponents),
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


def width_one_gradients(reading: StepTable, loss: Loss) -> GradientNorms:
    """Return the gradient norms of a chain from its step table: see `gradient_norms`.

    With g_l the derivative of step l and d_l = dLoss/dh_l, d_(l-1) = d_l g_l, and with z = weight h + bias

        dLoss/dweight       = outer_weight sum phi'(z) d h     dLoss/dbias       = outer_weight sum phi'(z) d
        dLoss/douter_weight = sum phi(z) d                     dLoss/douter_bias = sum d
        dLoss/dslope        = outer_weight sum_(z <= 0) z d    dLoss/dskip       = sum h d

    over the points. Everything is float64 with an exponent of its own.
    """
    net, points, table, depth = reading.chain, reading.points, reading.table, reading.chain.depth
    values, cotangents = loss_of_members(loss, float64_output(net, table, points))
    trained = [kind for kind, value in net.named_parameters() if value.requires_grad]
    steps = [kind for kind in net.architecture.parameters if kind in trained and kind not in _READOUT]
    last = {kind: column for kind, column in _READOUT.items() if kind in trained}
    wanted = {*map(COLUMNS.index, steps), *last.values()}
    at_output = cotangents.to("cpu", torch.float64).numpy()
    found = _fill(table, points, at_output, steps, sorted(wanted), depth, keep=False)
    logs = dict(zip(sorted(wanted), torch.from_numpy(found.logs), strict=True))
    whole = dict(zip(sorted(wanted), torch.from_numpy(found.whole_logs), strict=True))
    states, parameters, relative = torch.from_numpy(found.norm_logs)
    named = {kind: whole[COLUMNS.index(kind)] for kind in steps}
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
    """The gradient with respect to a step table, as mantissas and exponents of 2, and its logs.

    Attributes:
        values, exponents: (seeds, 6, rows), with respect to each column.
        squares, square_exponents: (seeds, 3, rows + 1), squared norms: with respect to the state before each row and
            after the last, over the points; and with a last one that is void, with respect to the trained numbers of a
            row, and of its weights times their gradients.
        logs: (columns, seeds, rows), the log sizes of the columns asked for.
        norm_logs: (3, seeds, rows + 1), the logs of the norms.
        whole_logs: (columns, seeds), the log of the norm of a column over the rows that count.
    """

    values: NDArray[np.float64]
    exponents: NDArray[np.integer]
    squares: NDArray[np.float64]
    square_exponents: NDArray[np.integer]
    logs: NDArray[np.float64]
    norm_logs: NDArray[np.float64]
    whole_logs: NDArray[np.float64]


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
    return _fill(table, points, cotangents, trained, range(len(COLUMNS)), table.shape[1], keep=True)


def _fill(
    table: NDArray[np.float64],
    points: NDArray[np.float64],
    cotangents: NDArray[np.float64],
    trained: Sequence[str],
    columns: Sequence[int],
    depth: int,
    keep: bool,
) -> TableGradients:
    """Return the gradient, the logs of some columns, and of them over the first `depth` rows.

    Without `keep` the mantissas and exponents are those of some seed: memory that is used again is much faster.
    """
    seeds, rows, _ = table.shape
    places = np.full(len(COLUMNS), -1)
    places[list(columns)] = range(len(columns))
    kinds = np.isin(COLUMNS, trained).astype(np.float64)
    inputs = back_through_rows.Inputs(
        table, *factors(table), points, np.ascontiguousarray(cotangents), kinds, places, depth
    )
    of_columns, norms = np.empty((len(columns), seeds, rows)), np.empty((3, seeds, rows + 1))
    logs = back_through_rows.Logs(of_columns, norms, np.empty((len(columns), seeds)))

    def signed(kept: int) -> Gradient:
        of_table, squared = (kept, len(COLUMNS), rows), (kept, 3, rows + 1)
        return Gradient(
            np.empty(of_table), np.empty(of_table, np.int32), np.empty(squared), np.empty(squared, np.int32)
        )

    shared = signed(seeds if keep else 1)

    def run(first: int, last: int) -> None:
        out = shared if keep else signed(1)
        back_through_rows.gradients(first, last, inputs, out, logs)

    side_by_side(run, seeds, 3 * seeds * rows * len(points))
    return TableGradients(*shared, *logs)
