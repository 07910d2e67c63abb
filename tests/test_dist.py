"""What is released: wheel and source distribution, built, looked into, and installed into an empty environment."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import stability

ROOT = Path(__file__).parents[1]
NAME = f"deep_stability-{stability.__version__}"
USE = """
import sys
from pathlib import Path
import torch
import stability as st

assert Path(st.__file__).is_relative_to(sys.prefix), st.__file__
assert st.__version__ == sys.argv[1]
assert (Path(st.__file__).parent / "py.typed").is_file()
for name in st.__all__:
    getattr(st, name)
chain = st.Chain("residual2_prelu", depth=200, seeds=3)
print(st.spectrum(chain, torch.tensor([0.5], dtype=torch.float64)))
print(st.count(st.tent(50), (0.0, 1.0)).folds)
model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()) for _ in range(4)))
page = st.examine(model, torch.randn(16, 8), lambda y: y.square().mean()).to_html("report.html")
assert page.stat().st_size > 1000
"""

pytestmark = pytest.mark.dist


def said(command, **given):
    """Run a command without what may lead it to this folder, and return what it prints."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean, **given)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with both: the wheel is made from the source distribution, so that nothing is missing in that."""
    folder = tmp_path_factory.mktemp("dist")
    said([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)])
    return folder


def test_there_is_one_version(built):
    names = sorted(path.name for path in built.iterdir())
    assert names == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    assert f"version: {stability.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {stability.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_holds_the_library_and_nothing_else(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stability").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {
        name for name in files if "__pycache__" not in name
    }
    assert {"stability/py.typed", f"{NAME}.dist-info/licenses/LICENSE"} <= names
    assert metadata["Name"] == "deep-stability"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.11"
    assert len(metadata.get_all("Project-URL")) >= 2
    assert len(metadata.get_all("Classifier")) >= 6


def test_the_source_holds_what_the_tests_need(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    for name in (
        "tests/conftest.py",
        "analyses/study.py",
        "docs/conf.py",
        "figures/fit_sine.nc",
        "Makefile",
        "CHANGELOG.md",
    ):
        assert name in names


def test_it_is_used_from_an_empty_environment(built, tmp_path):
    environment, other = tmp_path / "environment", tmp_path / "elsewhere"
    other.mkdir()
    said([sys.executable, "-m", "venv", str(environment)])
    python = environment / "bin" / "python"
    wheel = str(built / f"{NAME}-py3-none-any.whl")
    said([python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), wheel])
    said([python, "-m", "pip", "check"])
    printed = said([python, "-c", USE, stability.__version__], cwd=other)
    assert f"{2**50 - 1}" in printed
    assert "examine" in said([environment / "bin" / "stability", "--help"], cwd=other)
