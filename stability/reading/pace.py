"""The number of torch's threads in which a network runs fastest as the machine is now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stability.reading.network import Network
from stability.reading.running import run
from stability.reading.traces import undisturbed

#: A network that one thread runs in so many seconds stays in one. Where other programs keep the cores busy, threads
#: wait for one another at every operation, up to a hundred times as long as a short one lasts.
SHORT = 0.1


@contextmanager
def at_best_pace(reading: Network) -> Iterator[None]:
    """Let torch use one thread inside, or as many as before where a run of the network is faster with them."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(_best(reading, before))
        yield
    finally:
        torch.set_num_threads(before)


def _best(reading: Network, before: int) -> int:
    if before == 1 or any(p.device.type != "cpu" for p in reading.module.parameters()):
        return before
    try:
        with undisturbed(reading.module):
            alone = _seconds(reading, 1)
            return 1 if alone < SHORT or alone < _seconds(reading, before) else before
    except Exception:
        return before  # what cannot be run so says why when it is looked at


def _seconds(reading: Network, threads: int) -> float:
    torch.set_num_threads(threads)
    began = time.monotonic()
    run(reading.module, reading.copied())
    return time.monotonic() - began
