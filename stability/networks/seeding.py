"""The random numbers of a member: a pure function of (root, architecture, member, layer)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.random import Philox, SeedSequence
from numpy.typing import NDArray

#: A member's streams: one runs through the steps, layer after layer, one serves the read-out, one the kinks that
#: training tries.
STREAMS = {"steps": 0, "readout": 1, "kinks": 2}


def uniforms(
    root: int, architecture: str, members: Sequence[int], stream: str, layers: int, count: int, turn: int | None = None
) -> NDArray[np.float64]:
    """Return uniform numbers strictly inside (0, 1), `count` of them for each member and layer.

    Each member reads the raw 64-bit words of a Philox counter generator (Salmon et al. 2011), keyed by
    root, architecture, member and stream, in the order of its layers. So a shallow network is the prefix of a
    deep one, and neither the batch, nor the order, nor threads, nor the device can change a member. A word w
    becomes (floor(w / 2^12) + 1/2) / 2^52, which float64 holds exactly. A turn of a stream has
    numbers of its own.

    Returns:
        float64 (members, layers, count).

    >>> alone = uniforms(0, "plain_prelu", [7], "steps", layers=2, count=3)
    >>> among = uniforms(0, "plain_prelu", range(10), "steps", layers=9, count=3)
    >>> bool((alone[0] == among[7, :2]).all())
    True
    """
    digest = blake2b(architecture.encode(), digest_size=16).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    turns = () if turn is None else (turn,)
    raw = np.empty((len(members), layers * count), dtype=np.uint64)
    for row, member in enumerate(members):
        key = SeedSequence(root, spawn_key=(*words, member, STREAMS[stream], *turns))
        raw[row] = Philox(key).random_raw(layers * count)
    middles = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return middles.reshape(len(members), layers, count)
