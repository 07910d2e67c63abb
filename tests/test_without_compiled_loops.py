"""The compiled loops run as plain Python as well, for debuggers and coverage, and nothing warns."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, torch, stability as st
generator = torch.Generator().manual_seed(0)
x = torch.linspace(-3, 3, 5, dtype=torch.float64)
wide, narrow = st.Chain("residual1_relu", 6, width=4), st.Chain("residual2_prelu", 12)
points = torch.randn(3, 4, dtype=torch.float64, generator=generator)
net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()) for _ in range(3))).double()
with torch.no_grad():
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=generator))
squares = lambda y: y.square().mean()
right_angle = [[[1e30, 0.0], [0.0, 1e-30]], [[1e-16, 1.0], [1.0, 0.0]], [[1e30, 0.0], [0.0, 1e-30]]]
found = [st.spectrum(net, points).log_values, st.spectrum(wide, points).log_values, st.spectrum(narrow, x).log_values,
         st.spectrum(right_angle).log_values, st.gradient_norms(narrow, x, squares).log_norms["input"],
         st.gradient_norms(net, points, squares).log_norms["input"],
         st.paths(narrow, x).log_norms, st.leave_out(narrow, x).log_changes,
         torch.tensor([float(st.count(narrow, (-3, 3)).folds[0])]),
         st.lyapunov(torch.randn(40, 2, 2, dtype=torch.float64, generator=generator)).exponents]
print(json.dumps([t.flatten().tolist() for t in found]))
"""


def results(**variables):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.replace("-Infinity", "-1e999"))


@pytest.mark.slow
def test_plain_python_finds_what_compiled_loops_find_and_neither_warns():
    compiled, plain = results(), results(NUMBA_DISABLE_JIT="1")
    assert len(compiled) == 10
    for one, other in zip(compiled, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
