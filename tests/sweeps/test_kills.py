"""Processes are killed at random moments, and the sweep goes on: every cell is there once, as it would be."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import stability as st
from tests.sweeps.cell_functions import line

ROOT = Path(__file__).parents[2]
GRID = {"slope": list(range(8)), "shift": [0.0, 0.25, 0.5, 0.75]}


#: For many kills in one run.
LONG = {"slope": list(range(32)), "shift": [0.0, 0.25, 0.5, 0.75]}


def begin(store, grid=GRID):
    """Start a script that sweeps on two workers, as the leader of its own group of processes."""
    program = f"""
        import stability as st
        from tests.sweeps.cell_functions import slow_line
        if __name__ == "__main__":
            st.sweep(slow_line, {grid!r}, {str(store)!r}, workers=2, progress=False)
    """
    script = Path(f"{store}.py")
    script.write_text(textwrap.dedent(program))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)


def count(store):
    return len(list(Path(store).glob("cells/*/*.nc")))


def workers_of(process):
    """Return the workers, which are the children of nannies' children that compute."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def check_whole(store, tmp_path, grid=GRID):
    undisturbed = tmp_path / "undisturbed"
    st.sweep(line, grid, undisturbed, workers=0, progress=False)  # the same numbers, without the wait
    found = st.open_sweep(store)
    assert found.missing == []
    assert found.failed == []
    assert count(store) == len(grid["slope"]) * len(grid["shift"])
    assert list(Path(store).glob("temporary/*")) == []
    data, expected = found.dataset.load(), st.open_sweep(undisturbed).dataset.load()
    assert data.identical(expected)
    for name in expected.variables:
        assert data[name].values.tobytes() == expected[name].values.tobytes(), "to the last bit"


def kill_workers(store, number, chance, grid=GRID):
    process = begin(store, grid)
    killed, before = 0, 0
    try:
        while process.poll() is None and killed < number:
            time.sleep(0.3 + chance.random())
            workers = workers_of(process)
            # Some cells between two kills: one that dies with its worker three times would be given up, as it should.
            if count(store) >= before + 4 and workers and process.poll() is None:
                chance.choice(workers).kill()
                killed, before = killed + 1, count(store)
        assert process.wait(timeout=550) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return killed


def kill_whole_sweeps(store, number, chance, grid=GRID):
    killed = 0
    for _ in range(number):
        process, before = begin(store, grid), count(store)
        while process.poll() is None and count(store) == before:
            time.sleep(0.05)
        time.sleep(chance.random())
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        for path in Path(store).glob("cells/*/*.nc"):
            assert path.stat().st_size > 0
    process = begin(store, grid)
    assert process.wait(timeout=550) == 0
    return killed


def test_workers_are_killed(tmp_path):
    assert kill_workers(tmp_path / "store", 3, random.Random(0)) == 3
    check_whole(tmp_path / "store", tmp_path)


@pytest.mark.slow
def test_twenty_workers_are_killed(tmp_path):
    assert kill_workers(tmp_path / "store", 20, random.Random(2), LONG) == 20
    check_whole(tmp_path / "store", tmp_path, LONG)


@pytest.mark.slow
def test_ten_whole_sweeps_are_killed_with_their_scheduler(tmp_path):
    assert kill_whole_sweeps(tmp_path / "store", 11, random.Random(3), LONG) >= 10
    check_whole(tmp_path / "store", tmp_path, LONG)
