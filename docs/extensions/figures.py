"""Let the tutorial show the figures of `st.plots`, which pyplot does not know of, as a notebook shows them.

A cell shows every figure that was made since the cell before and that a name stands for. Its headline is its text for
those who cannot see it.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

#: Dots an inch: two a pixel of a page.
RESOLUTION = 200


def shown(_block: Any, names: dict[str, Any], settings: dict[str, Any]) -> str:
    """Save the new figures among the names of a cell, and return what shows them."""
    made = {id(value): value for value in names["example_globals"].values() if isinstance(value, Figure)}
    written = []
    for figure in made.values():
        if not hasattr(figure, "shown_on_a_page"):
            path = next(names["image_path_iterator"])
            figure.savefig(path, dpi=RESOLUTION, facecolor="white")
            figure.shown_on_a_page = True  # type: ignore[attr-defined]
            headline = " ".join(figure.get_suptitle().split())
            written.append(figure_rst([path], settings["src_dir"], headline))
    return "".join(written)
