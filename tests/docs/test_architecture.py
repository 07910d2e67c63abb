"""The page on the house: its rooms are the folders, its floors the imports, and its walk is the one that is taken."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import stability as st

ROOT = Path(__file__).parents[2]
PACKAGE = Path(st.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0].isalpha()}
OTHERS = {"stability", "analyses", "docs"}


def test_its_rooms_are_the_folders():
    assert set(re.findall(r"`(\w+)/`", PAGE)) - OTHERS == ROOMS


def test_what_it_names_is_there():
    for name in re.findall(r"`((?:stability|tests|analyses)/[\w/.]+)`", PAGE):
        assert (ROOT / name).exists(), name


def test_a_room_stands_above_what_it_imports(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs" / "extensions")
    import house

    assert set(house.ROOMS) == ROOMS
    assert {room for room in ROOMS if house.floor(room) == 0} == {"foundation"}
    for room in ROOMS:
        assert house.about(room), room
        assert all(house.floor(below) < house.floor(room) for below in house.imported(room)), room


def walked(run):
    """Return the functions of the package that are called, in the order of their first calls, as file and name."""
    run()  # what is loaded at the first call is no part of the walk
    seen = {}

    def look(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            seen.setdefault((path.relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname), None)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(before)
    return list(seen)


def check(part, run):
    named = re.findall(r"`(\w+/\w+\.py)::([\w.]+)`", part)
    assert len(named) >= 5
    called = walked(run)
    places = []
    for path, name in named:
        at = [n for n, (file, whole) in enumerate(called) if file == path and f"{whole}.".startswith(f"{name}.")]
        assert at, f"{path}::{name} is not called"
        places.append(at[0])
    assert places == sorted(places), "called in another order"


def test_a_module_and_a_chain_walk_as_it_says():
    walks = PAGE.split("What is called on the way")[1].split("## Where to add")[0]
    of_modules, of_chains = walks.split("A chain of width 1")
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(3, 4)
    check(of_modules, lambda: st.first_failure(model, x, ["float16", "float32"], lambda y: y.square().mean()))
    chain, points = st.Chain("plain_prelu", 5, seeds=2), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    check(of_chains, lambda: st.first_failure(chain, points, ["float16"]))
