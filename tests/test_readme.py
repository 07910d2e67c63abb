"""The README's programs run as printed, and what it names is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_program_has_ten_lines_and_prints_what_the_readme_says(tmp_path):
    assert len([line for line in PROGRAMS[0].splitlines() if line.strip()]) == 10
    command = [sys.executable, "-c", PROGRAMS[0]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    plain, residual = re.findall(r"error (\S+), log \|J\| (\S+)", printed)
    assert float(plain[0]) == pytest.approx(0.52, abs=0.005)
    assert float(plain[1]) == pytest.approx(-86, abs=2)
    assert 3e-5 < float(residual[0]) < 3e-4
    assert abs(float(residual[1])) < 1
    assert (tmp_path / "spectrum.png").stat().st_size > 1000


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("number", range(1, len(PROGRAMS)))
def test_the_other_programs_run(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAMS[number], f"program {number} of the README", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_there_are_other_programs():
    assert len(PROGRAMS) > 5


def test_pictures_and_scripts_it_names_are_there():
    names = re.findall(r"\]\((figures/[^)]+)\)", README) + re.findall(r"python ((?:analyses|docs)/\S+\.py)", README)
    assert len(names) >= 4
    for name in names:
        assert (ROOT / name).is_file(), name


def test_it_tells_of_every_public_name():
    import stability as st

    missing = [name for name in st.__all__ if f"st.{name}" not in README and f"`{name}`" not in README]
    assert missing == [], "the README tells of every public name"
