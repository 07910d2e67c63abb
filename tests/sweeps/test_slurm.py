"""A sweep on Slurm: its jobs are dask's workers, and one that is cancelled costs no cell."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import stability as st
from tests.sweeps.cell_functions import slow_line
from tests.sweeps.one_node_slurm import lacks, slurm

# What dask leaves open when its cluster ends is none of ours.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
ROOT = Path(__file__).parents[2]
GRID = {"slope": list(range(12)), "shift": [0.0, 0.25, 0.5, 0.75]}


@pytest.fixture
def queue(tmp_path, monkeypatch):
    if why := lacks():
        pytest.skip(why)
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install dask-jobqueue")
    with slurm(tmp_path, cores=2, memory=4000) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value, prepend=":" if name == "PATH" else None)
        logs = tmp_path / "jobs"
        with jobqueue.SLURMCluster(
            cores=1, processes=1, memory="1500MB", interface="lo", python=sys.executable, log_directory=str(logs),
            job_script_prologue=[f"export PYTHONPATH={ROOT}"], scheduler_options={"dashboard_address": ":0"},
        ) as cluster:  # fmt: skip
            cluster.adapt(minimum=2, maximum=2)  # a job that ends is replaced
            yield cluster


def jobs():
    """Return the numbers of the jobs that run."""
    said = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], capture_output=True, text=True, check=True).stdout
    return said.split()


def test_a_cancelled_job_costs_no_cell(queue, tmp_path):
    store, cancelled = tmp_path / "store", []

    def cancel():
        while len(list(store.glob("cells/*/*.nc"))) < 8:
            time.sleep(0.1)
        cancelled.append(jobs()[0])
        subprocess.run(["scancel", "--signal=KILL", cancelled[0]], check=True)

    killer = threading.Thread(target=cancel)
    killer.start()
    with queue.get_client() as client:
        found = st.sweep(slow_line, GRID, store, client, progress=False)
    killer.join()
    assert cancelled
    assert found.missing == []
    assert found.failed == []
    assert list(store.glob("temporary/*")) == []
    expected = st.sweep(slow_line, GRID, tmp_path / "undisturbed", workers=0, progress=False)
    assert found.dataset.load().identical(expected.dataset.load())
