"""How a result shows itself in a notebook."""

from __future__ import annotations

import html
import importlib


class Shown:
    """A result that a notebook shows as a small table of its main facts, with a figure where it has one."""

    def _repr_html_(self) -> str:
        """Return a fragment of HTML; what cannot be drawn is the escaped repr instead."""
        try:
            # By its name and only now: the report stands above every room that has results.
            fragment: str = importlib.import_module("stability.report.result_page").html_of(self)
        except Exception:  # a notebook shows a result, whatever is wrong with its picture
            fragment = f"<pre>{html.escape(_text(self))}</pre>"
        return fragment


def _text(result: object) -> str:
    try:
        return repr(result)
    except Exception:  # of a result that was made by hand, say
        return type(result).__name__
