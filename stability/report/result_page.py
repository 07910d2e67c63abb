"""A result as a fragment of HTML for a notebook: a table of its main facts, and its figure as inline SVG."""

from __future__ import annotations

import io

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter

from stability.reading import Layers
from stability.report.figures import LOOK, Drawing, inline
from stability.report.page import environment
from stability.report.result_pictures import Picture, picture
from stability.report.training_facts import facts

#: A larger figure than this, in characters, is left out: a notebook keeps all that it shows.
_MOST_TEXT = 400_000


def html_of(result: object) -> str:
    """Return the fragment of a result.

    Raises:
        TypeError: for what is no result.
    """
    rows, found = facts(result), picture(result)
    drawing = None if found is None else _drawn(found, repr(result))
    if drawing is not None and len(drawing.svg) > _MOST_TEXT:
        drawing = None
    svg = None if drawing is None else Markup(drawing.svg)
    template = environment().get_template("result.html")
    head = isinstance(result, Layers)  # whose first row names the columns
    return template.render(name=type(result).__name__, rows=rows, drawing=drawing, svg=svg, head=head)


def _drawn(found: Picture, salt: str) -> Drawing:
    """Return a figure with a text alternative; the salt keeps the names in it apart from those of other results."""
    # The axes of st.plots are named in TeX's mathematics.
    with mpl.rc_context(LOOK | {"text.parse_math": True, "svg.hashsalt": salt}):
        figure = Figure(figsize=(4.9, 2.9), layout="constrained")
        figure.patch.set_alpha(0)
        ax = figure.add_subplot()
        ax.patch.set_alpha(0)
        found.draw(ax)
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(axis.get_major_formatter(), FixedFormatter):  # names of the user's may hold a dollar
                for text in axis.get_ticklabels():
                    text.set_parse_math(False)
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        words = f"{found.caption}. From left to right {left:.3g} to {right:.3g}, upwards {low:.3g} to {high:.3g}."
        held = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(held, format="svg", metadata=empty, transparent=True)
    svg = inline(held.getvalue()).replace("#000000", "var(--ink)")
    return Drawing(found.caption, words, svg)
