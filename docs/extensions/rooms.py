"""Write the pages of the reference, a room of the library a page, from the public names in `stability/__init__.pyi`."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

from sphinx.application import Sphinx

import stability

#: Rooms whose functions are reached by the name of the room.
MODULES = {"plots": "stability.plots", "theory": "stability.theory", "references": "stability.training.references"}
#: Where the comments of data stand.
DATA = {
    "ARCHITECTURES": "stability.networks.architecture",
    "INITS": "stability.networks.initialisation",
    "PAGE_WIDTH": "stability.plots.lettered_panels",
    "STYLE": "stability.plots.style",
}


def public_rooms() -> dict[str, list[str]]:
    """Return the public names of each room, in the order of the stub."""
    rooms: dict[str, list[str]] = {}
    stub = Path(stability.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    for statement in ast.parse(stub).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            rooms.setdefault(statement.module, []).extend(each.name for each in statement.names)
    return rooms


def entry(path: str, value: object) -> list[str]:
    """Return what lets autodoc write one name."""
    if inspect.isclass(value):
        return [f".. autoclass:: {path}", "   :members:", "   :inherited-members: Module, tuple, ABC", ""]
    if callable(value):
        return [f".. autofunction:: {path}", ""]
    name = path.rpartition(".")[2]
    return [f".. autodata:: {DATA[name]}.{name}", "   :no-value:", ""]


def page(name: str, module_name: str, names: list[str]) -> str:
    """Return the page of a room, or of a module that is a public name: names that are reached by this path."""
    title, module = f"stability.{name}", importlib.import_module(module_name)
    about = (inspect.getdoc(module) or "").split("\n\n")[0]
    path = title if name in MODULES else "stability"
    entries = [line for each in names for line in entry(f"{path}.{each}", getattr(module, each))]
    return "\n".join([title, "=" * len(title), "", about, "", *entries])


def write_pages(app: Sphinx) -> None:
    """Write docs/generated/reference: a page a room, and one for each module that is a public name."""
    folder = Path(app.srcdir) / "generated" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    rooms = {room: [name for name in names if name not in MODULES] for room, names in public_rooms().items()}
    pages = {room: page(room, f"stability.{room}", names) for room, names in rooms.items()}
    pages |= {name: page(name, path, importlib.import_module(path).__all__) for name, path in MODULES.items()}
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
