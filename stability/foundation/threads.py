"""Parts of a batch side by side, in threads that sleep while they wait.

Compiled loops release the interpreter and run in one thread each. A pool that spins at a barrier would take the time
that a thread on the same processor needs, and calls may last microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np
import torch

#: So many operations are worth a thread.
WORTHWHILE = 2**20


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


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C in a compiled loop that may raise be a KeyboardInterrupt: numba makes a SystemError of it."""
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__cause__ or cause.__context__
        raise


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Let torch do what follows in one thread: for many short operations, at each of which it would wake the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


# A child that is forked has the pools and none of their threads: it would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def side_by_side(run: Callable[[int, int], object], size: int, operations: float) -> None:
    """Call run(first, last) for ranges that make up range(size), in threads where there is enough to do.

    Args:
        run: does its range, whatever the others do.
        size: how many parts there are.
        operations: about how many operations all of them take.
    """
    threads = min(workers(), size, max(1, int(operations / WORTHWHILE)))
    if threads == 1:
        run(0, size)
        return
    cuts = np.linspace(0, size, threads + 1).astype(int).tolist()
    for _ in _pool(threads).map(run, cuts[:-1], cuts[1:]):
        pass
