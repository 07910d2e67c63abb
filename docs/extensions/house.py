"""`{house}`: the rooms of the library, floor by floor, as their imports and the heads of their files say."""

from __future__ import annotations

import ast
import html
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(__file__).parents[2] / "stability"
ROOMS = {path.name: path for path in sorted(PACKAGE.iterdir()) if path.is_dir() and path.name[0].isalpha()}


@cache
def imported(room: str) -> frozenset[str]:
    """Return the rooms that a room imports, besides itself."""
    names: set[str] = set()
    for path in ROOMS[room].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = {name.split(".")[1] for name in names if name.startswith("stability.")}
    return frozenset(found & set(ROOMS)) - {room}


@cache
def floor(room: str) -> int:
    """Return on which floor a room is: one above the highest room that it imports."""
    return 1 + max((floor(below) for below in imported(room)), default=-1)


def about(room: str) -> str:
    """Return the first sentence of a room's description."""
    text = ast.get_docstring(ast.parse((ROOMS[room] / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


class HouseDirective(SphinxDirective):
    """The house as rows of boxes, the ground floor at the bottom."""

    def run(self) -> list[nodes.Node]:
        storeys: dict[int, list[str]] = {}
        for room, path in ROOMS.items():
            self.env.note_dependency(str(path / "__init__.py"))
            storeys.setdefault(floor(room), []).append(room)
        rows = []
        for number in sorted(storeys, reverse=True):
            boxes = "".join(
                f'<div class="room"><b>{room}</b><span>{html.escape(about(room))}</span></div>'
                for room in storeys[number]
            )
            rows.append(f'<div class="storey"><i>{number}</i><div class="rooms">{boxes}</div></div>')
        picture = "\n".join(["", *rows, ""])
        return [nodes.raw("", f'<div class="house">{picture}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("house", HouseDirective)
    return {"parallel_read_safe": True}
