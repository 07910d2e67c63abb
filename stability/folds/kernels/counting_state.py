"""What exact counting knows between two steps: nodes, the labels that stand on them, and counters.

A node is a value that ends of pieces share, held as a ball. A label stands for all kinks born at one layer, which have
one value there and are on one node ever after.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

#: Where the counters stand in the state.
NODES, ACTIVE, LABELS, LIVE, PIECES, STRETCHES, LIMBS = range(7)
#: The exponent of a node at infinity, on the side of its m.
AT_INFINITY = 1 << 60


class Nodes(NamedTuple):
    """Columns of the nodes, by number."""

    active: Integers  # the numbers of those that still end something
    m: NDArray[np.float64]
    r: NDArray[np.float64]
    e: Integers
    birth: Integers  # the layer of its kink, -1 for the ends of the interval
    decided: Integers  # the layer at which z_sign is known from outside
    z_sign: NDArray[np.int8]


class Labels(NamedTuple):
    """Columns of the labels, by number."""

    live: Integers  # the numbers of those with a live side
    layer: Integers  # of its birth
    node: Integers
    below: NDArray[np.int8]  # the signs of its one-sided derivatives, below and above the kink
    above: NDArray[np.int8]
    counts: NDArray[np.uint64]  # (labels, limbs), its multiplicity


class Pairs(NamedTuple):
    """Pieces by the nodes at their ends, with multiplicities, which are integers of many 64-bit limbs, least first."""

    ends: Integers  # (room, 2)
    counts: NDArray[np.uint64]  # (room, limbs)


class Room(NamedTuple):
    """Room to work in."""

    slot: Integers  # (nodes,), all -1 between calls
    undecided: Integers  # (nodes,), out: the nodes whose signs are wanted
    table: Integers  # of hashes, for `_merge_equal`
