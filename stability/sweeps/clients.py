"""Where a sweep runs: processes on this machine, or a cluster that dask knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stability.sweeps.cells import Cell
from stability.sweeps.computing import ONE_THREAD, Outcome

if TYPE_CHECKING:
    from distributed import Client


class Dask:
    """A client with what is in flight."""

    def __init__(self, client: Client) -> None:
        from distributed import as_completed

        self._client, self._queue = client, as_completed(loop=client.loop, raise_errors=False)
        self._cells: dict[object, Sequence[Cell]] = {}

    @property
    def dashboard(self) -> str:
        return str(self._client.dashboard_link)

    def workers(self) -> int:
        """Return how many threads work, 1 while the first has not come yet."""
        info = self._client.scheduler_info(n_workers=-1)["workers"]
        return max(1, sum(worker["nthreads"] for worker in info.values()))

    def check(self, function: Callable[..., object]) -> None:
        """Raise TypeError for a function that cannot be sent."""
        from distributed.protocol.pickle import dumps

        try:
            dumps(function)
        except Exception as error:
            raise TypeError(f"{function!r} cannot be sent to a worker: {error}; make it a plain function") from None

    def submit(self, cells: Sequence[Cell], action: Callable[..., Outcome], *arguments: object) -> None:
        """Let a worker call action(*arguments), which computes these cells."""
        future = self._client.submit(action, *arguments, pure=False)
        self._cells[future.key] = cells
        self._queue.add(future)

    def next(self) -> tuple[Sequence[Cell], Outcome | None]:
        """Return the next batch that has ended, and how; None where its worker died."""
        from distributed.scheduler import KilledWorker

        future = next(self._queue)
        cells = self._cells.pop(future.key)
        if future.status == "finished":
            outcome = future.result()
            assert isinstance(outcome, Outcome)
            return cells, outcome
        error = future.exception() if future.status == "error" else None
        if error is None or isinstance(error, KilledWorker):
            return cells, None
        raise error


@contextmanager
def connected(client: object, workers: int | None) -> Iterator[Dask]:
    """Yield a client: the given one, one at the given address, or one of new processes on this machine."""
    try:
        import distributed
    except ImportError:
        raise ImportError("a sweep needs dask: pip install 'deep-stability[sweeps]', or give workers=0") from None
    import dask

    if isinstance(client, distributed.Client):
        yield Dask(client)
        return
    if client is not None:
        if not isinstance(client, str):
            raise TypeError(f"client is a {type(client).__name__}: expected None, an address, or a distributed.Client")
        try:
            made = distributed.Client(client, timeout=30, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OSError(f"no scheduler of dask answers at {client!r}: {error}") from None
        with made:
            yield Dask(made)
        return
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # deaths are counted by the sweep, which knows the cells
        "distributed.scheduler.worker-saturation": 1.0,  # so that none is blamed that only waits
        "distributed.nanny.pre-spawn-environ": ONE_THREAD,
    }
    with (
        _environment_comes_back(),
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as made,
    ):
        yield Dask(made)


@contextmanager
def _environment_comes_back() -> Iterator[None]:
    """Put back the environment of this process, into which dask writes that of its workers."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
