"""Ctrl-C that does not wait for a long compiled loop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from stability.foundation.arguments import door
from stability.foundation.checks import check_positive


@door
def ends_soon(message: Callable[[], str], patience: float = 1.0) -> AbstractContextManager[None]:
    """Have Ctrl-C within a block print a message and end the program, even in a compiled loop that sees no signal.

    For a program that keeps what it has done, as `st.sweep` does, and can say how to go on. The status is 130. What the
    block would do at its end is not done: what it writes must be whole at any time.

    Args:
        message: returns what is printed.
        patience: the seconds that the block may take to end by itself before it is ended.

    >>> import stability as st
    >>> with st.ends_soon(lambda: "interrupted: run the same command again"):
    ...     print("a long loop")
    a long loop
    """
    check_positive("patience", patience)
    return _ends_soon(message, patience)


@contextmanager
def _ends_soon(message: Callable[[], str], patience: float) -> Iterator[None]:
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    ended, once = threading.Event(), threading.Lock()

    def leave() -> None:
        if once.acquire(blocking=False):
            print(message(), file=sys.stderr, flush=True)
            os._exit(130)  # without the seconds that Python takes to end

    def watch() -> None:
        while os.read(read, 1) != bytes([signal.SIGINT]):
            if ended.is_set():
                return
        if not ended.wait(patience):
            leave()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        leave()
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.write(write, b"\0")
        watcher.join(patience)
        os.close(read)
        os.close(write)
