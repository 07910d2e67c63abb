"""The step table: a width-1 chain as rows of six numbers, and back.

A row holds skip, weight, bias, outer_weight, outer_bias, slope of
h -> skip h + outer_weight phi(weight h + bias) + outer_bias, with phi(z) = z for z > 0 and slope z otherwise. An
architecture is a row with some entries fixed; a read-out w h + b is the row (w, 0, 0, 0, b, 1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from stability.foundation.checks import COLUMNS
from stability.networks.architecture import Architecture

Array = NDArray[np.float64]

#: Where the two parameters of a read-out stand in its row, and what the others are there.
READOUT = {"readout_weight": "skip", "readout_bias": "outer_bias"}
READOUT_FIXED = {"weight": 0.0, "bias": 0.0, "outer_weight": 0.0, "slope": 1.0}


def fixed_entries(architecture: Architecture, factor: float = 1.0) -> dict[str, float]:
    """The entries of a step's row that the architecture fixes, with a factor on the branch."""
    entries = {"skip": architecture.skip, "outer_weight": factor, "outer_bias": 0.0, "slope": architecture.phi.slope}
    return {k: float(v) for k, v in entries.items() if k not in architecture.parameters and v is not None}


def pack(architecture: Architecture, values: Mapping[str, Array], factor: float = 1.0) -> Array:
    """Return the table (seeds, rows, 6) of the parameters, (seeds, depth) each and (seeds,) for a read-out."""
    fixed = fixed_entries(architecture, factor)
    seeds, depth = values["weight"].shape
    table = np.empty((seeds, depth + architecture.readout, len(COLUMNS)))
    for column, kind in enumerate(COLUMNS):
        table[:, :depth, column] = values[kind] if kind in values else fixed[kind]
    if architecture.readout:
        last = READOUT_FIXED | {column: values[kind] for kind, column in READOUT.items()}
        for column, kind in enumerate(COLUMNS):
            table[:, depth, column] = last[kind]
    return table


def unpack(architecture: Architecture, table: Array, factor: float = 1.0) -> dict[str, Array]:
    """Return the parameters of a table, the inverse of `pack`; raise where a fixed entry is not as it must be."""
    if not architecture.holds_rows:
        raise ValueError(
            f"the parameters of {architecture.name!r} are no rows of a step table: that takes 1 or 2 maps in the order "
            "'between', a piecewise-linear activation, no shared parameters and no factor on an outer map; give no "
            "architecture"
        )
    depth = table.shape[1] - architecture.readout
    if depth == 0:
        raise ValueError("the table has a read-out and no step before it: expected at least two rows")
    steps, last = (0, table[:, :depth], fixed_entries(architecture, factor)), (depth, table[:, depth:], READOUT_FIXED)
    for first, rows, fixed in (steps, last):
        for kind, value in fixed.items():
            column = rows[..., COLUMNS.index(kind)]
            for seed, row in np.argwhere(column != value)[:1]:
                part = "the read-out" if fixed is READOUT_FIXED else "a step"
                raise ValueError(
                    f"in {architecture.name!r} {part} has {kind} = {value}, and the table has {column[seed, row]} at "
                    f"seed {seed}, row {first + row}: give the architecture that made the table, or none"
                )
    values = {kind: table[:, :depth, COLUMNS.index(kind)] for kind in architecture.parameters if kind not in READOUT}
    if architecture.readout:
        values |= {kind: table[:, depth, COLUMNS.index(column)] for kind, column in READOUT.items()}
    return values


def entries(architecture: Architecture, depth: int, parameters: Collection[str]) -> NDArray[np.bool_]:
    """Return which entries (rows, 6) of a table hold one of the `parameters` named."""
    held = np.zeros((depth + architecture.readout, len(COLUMNS)), dtype=bool)
    held[:depth] = [kind in architecture.parameters and kind in parameters for kind in COLUMNS]
    if architecture.readout:
        for kind, column in READOUT.items():
            held[depth, COLUMNS.index(column)] = kind in parameters
    return held
