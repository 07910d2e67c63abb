"""Imports run one way, so that a reader can take the rooms one at a time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stability as st

ROOT = Path(__file__).parents[1]
BASEMENT = {"checks", "files", "threads", "foundation"}
GROUND = {"networks", "reading", "folds", "jacobians", "gradients", "theory"}
#: What each room may import besides itself and the basement.
ALLOWED = {
    **{room: set() for room in GROUND},
    "theory": {"networks"},
    "reading": {"networks"},
    "jacobians": {"reading", "networks"},
    "gradients": {"jacobians", "reading", "networks"},
    "training": GROUND,
    "plots": GROUND | {"training"},
    **{room: set() for room in BASEMENT},
    "__init__": GROUND | {"training", "plots"},
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
    folders = {p.name for p in (ROOT / "stability").iterdir() if p.is_dir()}
    return rooms & (folders | BASEMENT)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "stability").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "stability").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "stability"))
)
def test_a_room_imports_only_what_is_below_it(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} has no place in the house: give it one in ALLOWED"
    assert imported_rooms(path) - {room} - BASEMENT <= ALLOWED[room]


@pytest.mark.parametrize("path", sorted((ROOT / "analyses").glob("*.py")), ids=lambda p: p.name)
def test_analyses_use_public_names_only(path):
    assert not imported_rooms(path), "an analysis says `import stability as st` and no more"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            assert owner != "st" or node.attr in st.__all__, ast.unparse(node)
            assert owner != "st.plots" or node.attr in st.plots.__all__, ast.unparse(node)
            assert owner != "st.references" or node.attr in st.references.__all__, ast.unparse(node)


def test_the_package_loads_nothing_before_a_name_is_asked_for():
    program = "import sys, stability; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"scipy", "sympy", "xarray", "matplotlib", "numba", "pandas"})
    assert set(st.__all__) <= set(dir(st))
    for name in st.__all__:
        assert getattr(st, name) is not None
