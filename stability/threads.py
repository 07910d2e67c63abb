"""How many threads a batch is spread over."""

from __future__ import annotations

from functools import cache

import numba
import torch


@cache
def _launch() -> None:
    """Let numba launch its threads, which sets the number of torch's to its own: put that back."""
    before = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(before)


def workers() -> int:
    """Return how many threads numba may use, see numba.set_num_threads. The number of torch's stays as it is."""
    _launch()
    return int(numba.get_num_threads())
