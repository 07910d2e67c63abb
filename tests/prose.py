"""What README.md and the pages of the site say: the one place in which tests look for sentences and their numbers."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE = {"generated", "_build"}


def documents() -> dict[str, str]:
    """Return README.md and every page that is written by hand, by name, each as one line."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = {path.relative_to(ROOT).as_posix(): path for path in paths if not MADE & set(path.parts)}
    return {name: " ".join(path.read_text(encoding="utf-8").split()) for name, path in names.items()}


def numbers(pattern: str) -> list[float]:
    """Return the numbers in a sentence, which stands in one document at least, and has the same numbers in each."""
    found = {name: re.findall(pattern, text) for name, text in documents().items()}
    found = {name: said for name, said in found.items() if said}
    assert found, f"no document says {pattern!r}"
    assert all(len(said) == 1 for said in found.values()), f"said twice in a document: {found}"
    (said,) = {said[0] for said in found.values()}
    return [float(one) for one in (said if isinstance(said, tuple) else (said,))]


def says(sentence: str) -> bool:
    """Whether a document holds the sentence."""
    return any(sentence in text for text in documents().values())
