"""What compiled loops do to the threads of others."""

import subprocess
import sys

import pytest

START = "import torch, stability as st; chain = st.Chain('plain_prelu', 10, seeds=4); torch.set_num_threads(1); "


@pytest.mark.parametrize(
    "call", ["st.train(chain, st.Task(torch.sin, (-3, 3)), steps=1, progress=False)", "st.count(chain, (-3, 3))"]
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
