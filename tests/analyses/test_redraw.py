"""Every committed figure is drawn again from the data beside it."""

import runpy
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
OTHERS = {"study", "ensemble_cells", "ensemble_networks", "theory_cases"}
SCRIPTS = sorted({path.stem for path in (ROOT / "analyses").glob("*.py")} - OTHERS)


def test_all_scripts_are_on_the_frame():
    assert len(SCRIPTS) >= 14
    for name in SCRIPTS:
        assert "    study.main(" in (ROOT / "analyses" / f"{name}.py").read_text(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_figure_is_that_of_its_data(name, tmp_path, monkeypatch):
    shutil.copy(ROOT / "figures" / f"{name}.nc", tmp_path)
    script = ROOT / "analyses" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--redraw", "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(script.parent)  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")
    drawn = sorted(tmp_path.glob(f"{name}*.png"))
    assert drawn
    for path in drawn:
        again, committed = plt.imread(path), plt.imread(ROOT / "figures" / path.name)
        assert again.shape == committed.shape, path.name
        assert np.mean(np.abs(again - committed)) < 1e-3, path.name
