"""Let docstrings, which are plain text, be read as reStructuredText: `names` are code, |J| and a * b are themselves."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_QUOTED = re.compile(r"(``.*?``|`[^`]+`)")


def _plain(text: str) -> str:
    """Return text whose |, * and names that end in an underscore mean nothing."""
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([|*\\])", r"\\\1", text))


def as_restructured(lines: list[str]) -> list[str]:
    """Return the lines of a docstring, escaped outside its examples."""
    made, example = [], False
    for line in lines:
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if example:
            made.append(line)
            continue
        parts = [
            f"``{part.strip('`')}``" if index % 2 else _plain(part) for index, part in enumerate(_QUOTED.split(line))
        ]
        made.append(re.sub(r"``(?=[a-zA-Z])(?<=\w``)", r"``\\ ", "".join(parts)))  # the s of several
    return made


def process(_app: Sphinx, _what: str, _name: str, _value: object, _options: Any, lines: list[str]) -> None:
    lines[:] = as_restructured(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon, whose marks are no text
    return {"parallel_read_safe": True}
