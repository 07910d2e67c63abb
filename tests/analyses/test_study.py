"""The frame of the scripts, with a script of four small parts."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed
import numpy as np
import pytest
import xarray
from matplotlib.image import imread

import stability as st

ROOT = Path(__file__).parents[2]
SCRIPT = '''"""Does a script keep its parts?

Question. So. Method. So. Reading. So.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray

sys.path.insert(0, {analyses!r})
import stability as st
import study

LOG = Path(__file__).with_suffix(".log")


@dataclass(frozen=True)
class Settings(study.Settings):
    """A small script."""

    points: int = 50
    """How many."""


def one(name, settings):
    with LOG.open("a") as log:
        log.write(f"{{name}} {{settings.seed}} {{settings.points}}\\n")
    if name == os.environ.get("FAIL"):
        raise RuntimeError("on purpose")
    if name == os.environ.get("SLEEP"):
        time.sleep(30)
    if name == os.environ.get("BLOCK"):  # a compiled loop: no signal reaches the main thread
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)
    values = np.random.default_rng([settings.seed, ord(name)]).normal(size=settings.points)
    return xarray.Dataset({{"y": ("x", values)}})


def measure(settings, parts):
    return parts.cells(one, settings, name=list("abcd"))


def draw(data):
    figure, axes = st.plots.panels("a", 2.0)
    axes["a"].plot(data.y.T, ".")
    st.plots.headline(figure, f"The mean is {{float(data.y.mean()):.3f}}.")
    return figure


def claims(data):
    return [("The mean is 0", "theory", f"{{float(data.y.mean()):.3f}}", data.y.count() > 0)]


if __name__ == "__main__":
    study.main(Settings(), Settings(points=5), measure, draw, claims)
'''


class Script:
    """The script in a folder of its own."""

    def __init__(self, folder):
        self.path, self.out = folder / "little.py", folder / "out"
        self.path.write_text(SCRIPT.format(analyses=str(ROOT / "analyses")))
        self.log = self.path.with_suffix(".log")

    def run(self, *arguments):
        """Run it in this process, as a new one would."""
        spec = importlib.util.spec_from_file_location("little", self.path)
        module = sys.modules["little"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        options = ["--out", str(self.out), *arguments]
        module.study.main(
            module.Settings(), module.Settings(points=5), module.measure, module.draw, module.claims, arguments=options
        )
        return st.plots.read_data(self.out / "little.nc")

    def measured(self):
        found = [line.split()[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return "".join(found)

    def failing(self, monkeypatch, where, *arguments):
        """Have a run end in the middle."""
        monkeypatch.setenv("FAIL", where)
        with pytest.raises(RuntimeError, match="on purpose"):
            self.run(*arguments)
        monkeypatch.delenv("FAIL")


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield Script(tmp_path)
    sys.modules.pop("little", None)


def refused(capsys, action):
    with pytest.raises(SystemExit) as ended:
        action()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("little: ")
    return said[0]


def test_a_complete_run_writes_data_with_settings_versions_and_claims_and_keeps_no_parts(script, capsys):
    data = script.run("--seed", "3")
    assert sorted(path.name for path in script.out.iterdir()) == ["little.nc", "little.pdf", "little.png"]
    assert script.measured() == "abcd"
    assert data.y.dims == ("name", "x")
    assert data.y.shape == (4, 50)
    assert json.loads(data.attrs["settings"]) == {"seed": 3, "points": 50}
    assert (data.attrs["script"], data.attrs["seed"], data.attrs["quick"]) == ("little", 3, 0)
    assert data.attrs["version_stability"] == "0.1.0"
    assert {"version_torch", "version_numpy", "platform"} <= set(data.attrs)
    (claim,) = json.loads(data.attrs["claims"])
    assert claim == {
        "statement": "The mean is 0",
        "source": "theory",
        "measured": f"{float(data.y.mean()):.3f}",
        "verdict": "held",
    }
    shown = capsys.readouterr().out
    for words in ("statement", "The mean is 0", "theory", claim["measured"], "held", "little.nc"):
        assert words in shown


def test_quick_has_other_defaults_which_an_option_overrides(script):
    assert script.run("--quick").y.shape == (4, 5)
    assert script.run("--quick", "--points", "7").y.shape == (4, 7)


def test_redraw_draws_the_same_pixels_and_measures_nothing(script):
    data = script.run()
    script.measured()
    before = imread(script.out / "little.png")
    for suffix in (".png", ".pdf"):
        (script.out / f"little{suffix}").unlink()
    again = script.run("--redraw")
    assert script.measured() == ""
    np.testing.assert_array_equal(imread(script.out / "little.png"), before)
    assert before.std() > 0
    assert (script.out / "little.pdf").exists()
    xarray.testing.assert_identical(again, data)


def test_parts_that_are_kept_are_not_measured_again(script, monkeypatch):
    script.failing(monkeypatch, "c")
    assert script.measured() == "abcd"
    data = script.run()
    assert script.measured() == "c"
    xarray.testing.assert_identical(data, script.run())
    assert script.measured() == "abcd"


@pytest.mark.parametrize("other", [("--seed", "1"), ("--points", "49"), ("--quick",), ("--fresh",)], ids=" ".join)
def test_parts_of_other_settings_are_not_used(script, monkeypatch, other):
    script.failing(monkeypatch, "c")
    script.measured()
    data = script.run(*other)
    assert script.measured() == "abcd"
    expected = np.random.default_rng([data.attrs["seed"], ord("a")]).normal(size=data.sizes["x"])
    np.testing.assert_array_equal(data.y.sel(name="a"), expected)
    script.run()  # theirs are still there, but for --fresh
    assert script.measured() == ("abcd" if other == ("--fresh",) else "c")


def test_parts_of_other_code_are_not_used(script, monkeypatch):
    script.failing(monkeypatch, "c")
    script.measured()
    script.path.write_text(script.path.read_text().replace("ord(name)", "ord(name) + 1"))
    script.run()
    assert script.measured() == "abcd"


def interrupted(script, where, how, *options):
    command = [sys.executable, str(script.path), "--out", str(script.out), *options]
    environment = {**os.environ, how: where, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not script.log.exists() or where not in script.log.read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    status = process.wait(timeout=60)
    seconds = time.monotonic() - began
    return status, seconds, process.communicate(timeout=60)[1].strip().splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("how", ["SLEEP", "BLOCK"])
def test_an_interrupted_run_ends_soon_says_how_to_go_on_and_goes_on(script, how):
    status, seconds, said = interrupted(script, "c", how)
    assert status == 130
    assert seconds < 2
    assert said[-1] == "little: interrupted; run the same command again: 2 parts are kept"
    assert len(said) == 1
    assert script.measured() == "abc"
    assert not (script.out / "little.nc").exists()
    data = script.run()
    assert script.measured() == "cd"
    xarray.testing.assert_identical(data, script.run())


@pytest.mark.slow
def test_processes_measure_the_same_and_an_interrupted_run_of_theirs_goes_on(script, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status, seconds, said = interrupted(script, "c", "SLEEP", "--workers", "2")
    assert status == 130
    assert said[-1] == "little: interrupted; run the same command again: 3 parts are kept"
    assert seconds < 2
    assert "".join(sorted(script.measured())) == "abcd"
    assert (
        subprocess.run([sys.executable, str(script.path), "--out", str(script.out), "--workers", "2"]).returncode == 0
    )
    assert script.measured() == "c"
    data = st.plots.read_data(script.out / "little.nc")
    xarray.testing.assert_identical(data, script.run())


@pytest.mark.slow
def test_a_cluster_measures_the_same(script, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        command = [sys.executable, str(script.path), "--out", str(script.out), "--client", cluster.scheduler_address]
        subprocess.run(command, check=True)
    assert "".join(sorted(script.measured())) == "abcd"
    data = st.plots.read_data(script.out / "little.nc")
    xarray.testing.assert_identical(data, script.run())


def test_a_file_that_cannot_be_drawn_again_is_refused_by_name(script, capsys):
    assert "little.nc is not there" in refused(capsys, lambda: script.run("--redraw"))
    script.run()
    capsys.readouterr()
    path = script.out / "little.nc"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is no whole netCDF file" in refused(capsys, lambda: script.run("--redraw"))
    path.write_text("rubbish")
    assert "is no whole netCDF file" in refused(capsys, lambda: script.run("--redraw"))
    st.plots.write_data(xarray.Dataset(attrs={"script": "big"}), path)
    assert "is of big, not of little" in refused(capsys, lambda: script.run("--redraw"))
    st.plots.write_data(xarray.Dataset(), path)
    assert "is of another program" in refused(capsys, lambda: script.run("--redraw"))
    path.write_bytes(whole)
    for options in (("--quick",), ("--seed", "1"), ("--fresh",)):
        assert "--redraw draws what is stored" in refused(
            capsys, lambda options=options: script.run("--redraw", *options)
        )
    assert script.run("--redraw").attrs["script"] == "little"


def test_data_of_another_version_of_the_script_are_refused_in_one_line(script, capsys):
    script.run()
    text = script.path.read_text()
    script.path.write_text(text.replace("data.y", "data.other"))
    capsys.readouterr()
    said = refused(capsys, lambda: script.run("--redraw"))
    assert "is of another version of this script" in said
    assert "other" in said
    script.path.write_text(text.replace("axes[", "axes['no panel'], axes["))
    with pytest.raises(KeyError, match="no panel"):  # an error in a script and not in data
        script.run()


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(script, capsys):
    script.out.write_text("a file")
    assert "cannot write into the folder" in refused(capsys, script.run)
    assert script.measured() == ""


def test_an_error_in_the_figure_loses_no_measurement(script):
    text = script.path.read_text()
    script.path.write_text(text.replace("    figure, axes", "    raise RuntimeError('no figure')\n    figure, axes"))
    with pytest.raises(RuntimeError, match="no figure"):
        script.run()
    script.path.write_text(text)
    script.measured()
    script.run("--redraw")
    assert script.measured() == ""


def test_a_claim_has_one_of_three_verdicts_and_parts_have_names_of_their_own(script, tmp_path):
    script.run()
    study = sys.modules["little"].study
    with pytest.raises(ValueError, match="expected one of held, refuted, refined"):
        study.Claim("It is so", "theory", "1", "true")
    verdicts = [study.Claim("It is so", "theory", "1", verdict).verdict for verdict in (True, np.False_, "refined")]
    assert verdicts == ["held", "refuted", "refined"]
    with pytest.raises(ValueError, match="the verdict is None"):
        study.Claim("It is so", "theory", "1", None)
    parts = study.Parts(tmp_path / "parts")
    parts.part("a", xarray.Dataset)
    with pytest.raises(ValueError, match="two parts have the name 'a'"):
        parts.part("a", xarray.Dataset)


def test_cells_of_several_axes_become_the_first_dimensions(script, tmp_path):
    script.run()
    parts = sys.modules["little"].study.Parts(tmp_path / "parts")

    def sized(width, depth, offset):
        return xarray.Dataset({"y": ("seed", np.full(width, 10.0 * width + depth + offset))})

    data = parts.cells(sized, 0.5, width=[1, 2], depth=[3, 4, 5])
    assert data.y.dims == ("width", "depth", "seed")
    np.testing.assert_array_equal(data.y.sel(width=2), [[23.5] * 2, [24.5] * 2, [25.5] * 2])
    np.testing.assert_array_equal(data.y.sel(width=1, depth=5), [15.5, np.nan])
    assert parts.kept() == 6
