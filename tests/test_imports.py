"""Imports run one way, so that a reader can take the rooms one at a time."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import stability as st

ROOT = Path(__file__).parents[1]
ROOMS = {path.name: path for path in (ROOT / "stability").iterdir() if path.is_dir() and path.name[0].isalpha()}
MEASURED = {"folds", "slices", "jacobians", "signals", "precision"}
#: What each room may import besides itself and the foundation, from the ground up.
ALLOWED = {
    "foundation": set(),
    "networks": set(),
    "reading": {"networks"},
    "theory": {"networks"},
    "flows": {"networks"},
    "folds": {"networks"},
    "slices": {"folds"},
    "jacobians": {"reading", "networks"},
    "signals": {"jacobians", "reading", "networks"},
    "precision": {"signals", "jacobians", "reading", "networks"},
    "training": {"folds", "networks"},
    "sweeps": set(),
    "scaling": {"signals", "reading", "networks", "sweeps"},
    "plots": MEASURED | {"reading", "networks", "training", "flows", "scaling"},
    "report": MEASURED | {"reading", "networks", "training", "flows", "plots", "sweeps", "scaling"},
    "__init__": set(ROOMS),
    "__main__": {"report"},
}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("stability.")}
    return rooms & set(ROOMS)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "stability").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "stability").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "stability"))
)
def test_a_room_imports_only_what_is_below_it(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} has no place in the house: give it one in ALLOWED"
    assert imported_rooms(path) - {room, "foundation"} <= ALLOWED[room]


SCRIPTS = [path for folder in ("analyses", "docs") for path in sorted((ROOT / folder).glob("*.py"))]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_analyses_use_public_names_only(path):
    assert not imported_rooms(path), "an analysis says `import stability as st` and no more"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            assert owner != "st" or node.attr in [*st.__all__, "__version__"], ast.unparse(node)
            assert owner != "st.plots" or node.attr in st.plots.__all__, ast.unparse(node)
            assert owner != "st.references" or node.attr in st.references.__all__, ast.unparse(node)


MODULES = [path for path in sorted((ROOT / "stability").rglob("*.py")) if path.name != "__init__.py"]


def test_no_two_modules_have_one_name():
    times = Counter(path.stem for path in MODULES) + Counter(list(ROOMS))
    assert [name for name, count in times.items() if count > 1] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "stability")))
def test_a_file_is_short_and_a_function_takes_few_arguments(path):
    text = path.read_text()
    assert len(text.splitlines()) < 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            assert len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) <= 10, node.name


def test_types_are_named():
    words = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    assert sum(isinstance(node, ast.Name) and node.id == "Any" for node in words) < 40


def test_the_package_loads_nothing_before_a_name_is_asked_for():
    program = "import sys, stability; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"scipy", "sympy", "xarray", "matplotlib", "numba", "pandas"})
    assert set(st.__all__) <= set(dir(st))
    for name in st.__all__:
        assert getattr(st, name) is not None


FIRST_CALLS = (
    "x = torch.tensor([0.5, 1.0], dtype=torch.float64)",
    "st.count(st.Chain('residual2_prelu', 3), (-3, 3))",
    "st.spectrum(np.eye(2)[None], progress=False)",
    "st.train(st.Chain('residual2_prelu', 2), st.Task(torch.sin, (-3, 3)), iterations=1, progress=False)",
    "st.gradient_norms(st.Chain('residual2_prelu', 2), x, lambda output: output.square().mean())",
    "st.propagation(st.Chain('residual2_prelu', 2), x)",
)


def test_a_first_call_loads_no_data_frames_and_no_optimisers():
    calls = "; ".join(FIRST_CALLS)
    program = f"import sys, numpy as np, torch, stability as st; {calls}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"numba", "stability.signals.propagation"} <= loaded
    assert loaded.isdisjoint({"xarray", "pandas", "matplotlib", "sympy", "scipy.optimize", "scipy.stats"})
