"""The README's programs run as printed, and what it names is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PROGRAM, differs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN, CHAINS = PROGRAM.findall(README)


def printed(program, folder):
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_of_ones_own_prints_what_the_readme_says(tmp_path):
    program, shown = OWN
    assert differs(printed(program, tmp_path), shown) is None
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_chains_in_ten_lines_do_what_the_readme_says(tmp_path):
    program, _ = CHAINS
    assert len([line for line in program.splitlines() if line.strip()]) == 10
    plain, residual = re.findall(r"error (\S+), log \|J\| (\S+)", printed(program, tmp_path))
    assert float(plain[0]) == pytest.approx(0.52, abs=0.005)
    assert float(plain[1]) == pytest.approx(-86, abs=2)
    assert 3e-5 < float(residual[0]) < 3e-4
    assert abs(float(residual[1])) < 1
    assert (tmp_path / "spectrum.png").stat().st_size > 1000


def test_it_is_short():
    assert len(README.splitlines()) <= 130


def test_what_it_links_to_is_there():
    names = re.findall(r"\]\(([^):]+)\)", README) + re.findall(r"python ((?:analyses|docs)/\S+\.py)", README)
    assert len(names) >= 8
    for name in names:
        assert (ROOT / name).exists(), name


def test_it_names_what_there_is():
    import stability as st

    for name in re.findall(r"\bst\.(\w+)", README):
        assert name in st.__all__, name


def test_the_reference_tells_of_every_public_name():
    import stability as st

    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    missing = [name for name in st.__all__ if f"st.{name}" not in page and f"`{name}`" not in page]
    assert missing == []
