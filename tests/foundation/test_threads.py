"""What compiled loops do to the threads of others."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from stability.foundation import threads
from stability.foundation.threads import side_by_side

START = "import torch, stability as st; chain = st.Chain('plain_prelu', 10, seeds=4); torch.set_num_threads(1); "


@pytest.mark.parametrize(
    "call", ["st.train(chain, st.Task(torch.sin, (-3, 3)), iterations=1, progress=False)", "st.count(chain, (-3, 3))"]
)
def test_torchs_number_of_threads_stays_what_it_was(call):
    # In a process of its own: threads are launched once.
    done = subprocess.run(
        [sys.executable, "-c", START + call + "; print(torch.get_num_threads())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout == "1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(threads, "workers", lambda: 2)

    barrier = threading.Barrier(2)
    side_by_side(lambda *_: barrier.wait(), 2, 1e9)  # so that the pool has both its threads

    def done() -> list[int]:
        found: list[int] = []
        side_by_side(lambda first, last: found.extend(range(first, last)), 10, 1e9)
        return sorted(found)

    child = os.fork()
    if child == 0:
        os._exit(0 if done() == list(range(10)) else 1)
    for _ in range(400):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it does not have")
    assert os.waitstatus_to_exitcode(status) == 0


def interrupted_as_by_numba(explicitly):
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise SystemError("inner") from (interrupt if explicitly else None)
    except SystemError as inner:
        raise SystemError("a result with an exception set") from inner


def test_an_interrupt_in_a_loop_that_raises_is_an_interrupt():
    for explicitly in (True, False):
        with pytest.raises(KeyboardInterrupt), threads.interruptible():
            interrupted_as_by_numba(explicitly)
    with pytest.raises(SystemError, match="another"), threads.interruptible():
        raise SystemError("another")
