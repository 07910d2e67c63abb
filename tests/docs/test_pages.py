"""The programs of the site run as printed, and print what stands under them.

A page is one session: its programs run in their order, in an empty folder. A fence of `text` right after a program is
what it prints; numbers in it are held to a few of their last digits, for they may differ from machine to machine.
"""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if "generated" not in path.parts and "_build" not in path.parts
}
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
WITH_PROGRAMS = [name for name, text in PAGES.items() if PROGRAM.search(text)]


def differs(printed, shown):
    """Return the first line of what was printed that is not as shown, None where all are."""
    lines, wanted = ([line.rstrip() for line in text.strip().splitlines()] for text in (printed, shown))
    if len(lines) != len(wanted):
        return f"{len(lines)} lines for {len(wanted)}:\n{printed}"
    for line, other in zip(lines, wanted, strict=True):
        if NUMBER.sub("#", " ".join(line.split())) != NUMBER.sub("#", " ".join(other.split())):
            return f"{line!r} for {other!r}"
        for one, two in zip(NUMBER.findall(line), NUMBER.findall(other), strict=True):
            digits = re.sub(r"e.*", "", two.lstrip("+-")).partition(".")[2]
            unit = 10.0 ** (int(two.partition("e")[2] or 0) - len(digits))
            whole = not digits and "e" not in two
            if abs(float(one) - float(two)) > (0 if whole else max(3 * unit, 0.03 * abs(float(two)))):
                return f"{line!r} for {other!r}"
    return None


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
