"""The programs of the site run as printed, and print what stands under them.

A page is one session: its programs run in their order, in an empty folder.
"""

from pathlib import Path

import pytest

import stability as st
from tests.programs import PROGRAM, differs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if "generated" not in path.parts and "_build" not in path.parts
}
WITH_PROGRAMS = [name for name, text in PAGES.items() if PROGRAM.search(text)]


@pytest.fixture
def names_come_back():
    """Put back the architectures and initialisations, to which pages add their own."""
    before = {id(names): set(names) for names in (st.ARCHITECTURES, st.INITS)}
    yield
    for names in (st.ARCHITECTURES, st.INITS):
        for name in set(names) - before[id(names)]:
            del names[name]


@pytest.mark.usefixtures("names_come_back")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", WITH_PROGRAMS)
def test_the_programs_of_a_page_print_what_it_says(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "__main__"}
    for number, match in enumerate(PROGRAM.finditer(PAGES[name]), 1):
        program, shown = match.groups()
        exec(compile(program, f"program {number} of {name}", "exec"), session)
        printed = capsys.readouterr().out
        if shown is not None:
            assert differs(printed, shown) is None, f"program {number} of {name}: {differs(printed, shown)}"


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a 1.002 b", "a 1.001 b", True),
        ("a 1.10 b", "a 1.00 b", False),
        ("3 layers", "4 layers", False),
        ("5e-08", "6e-08", True),
        ("5e-08", "5e-07", False),
        ("a b", "a c", False),
        ("a\nb", "a", False),
        ("a   b", "a b", True),
    ],
)
def test_numbers_are_compared_by_their_digits(printed, shown, same):
    assert (differs(printed, shown) is None) == same
