"""Every committed figure is drawn again from the data beside it."""

import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
OTHERS = {"study", "ensemble_cells", "ensemble_networks", "theory_cases", "theory_page"}
SCRIPTS = sorted({path.stem for path in (ROOT / "analyses").glob("*.py")} - OTHERS)


def test_all_scripts_are_on_the_frame():
    assert len(SCRIPTS) >= 14
    for name in SCRIPTS:
        assert "    study.main(" in (ROOT / "analyses" / f"{name}.py").read_text(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_figure_is_that_of_its_data(name, tmp_path):
    shutil.copy(ROOT / "figures" / f"{name}.nc", tmp_path)
    command = [sys.executable, ROOT / "analyses" / f"{name}.py", "--redraw", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = sorted(tmp_path.glob(f"{name}*.png"))
    assert drawn
    for path in drawn:
        again, committed = plt.imread(path), plt.imread(ROOT / "figures" / path.name)
        assert again.shape == committed.shape, path.name
        assert np.mean(np.abs(again - committed)) < 1e-3, path.name
