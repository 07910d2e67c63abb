"""Every committed figure is drawn again from the data beside it."""

import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.analyses.scripts import ROOT, SCRIPTS, run


def test_all_scripts_are_on_the_frame():
    assert len(SCRIPTS) >= 18
    on_the_frame = {
        path.stem
        for path in (ROOT / "analyses").glob("*.py")
        if "\n    study.main(" in path.read_text(encoding="utf-8")
    }
    assert on_the_frame == set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_figure_is_that_of_its_data(name, tmp_path):
    shutil.copy(ROOT / "figures" / f"{name}.nc", tmp_path)
    done = run(name, "--redraw", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = sorted(tmp_path.glob(f"{name}*.png"))
    assert drawn
    for path in drawn:
        again, committed = plt.imread(path), plt.imread(ROOT / "figures" / path.name)
        assert again.shape == committed.shape, path.name
        assert np.mean(np.abs(again - committed)) < 1e-3, path.name
