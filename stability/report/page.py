"""The page of a report: one file without script, for phones and paper, in light and dark."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stability.report.examination import Report
from stability.report.figures import beyond, drawings
from stability.report.finding import CODES, counted


@cache
def environment() -> Environment:
    """Return the templates of the pages."""
    # All that comes from the network, names of classes and texts of errors, is escaped.
    environment = Environment(
        loader=PackageLoader("stability.report", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["digits"] = lambda value: f"{value:.3g}"
    environment.filters["counted"] = counted
    return environment


def page_of(report: Report) -> str:
    """Return the page as text."""
    figures = [(one.title, one.words, Markup(one.svg)) for one in drawings(report)]
    looks = sorted(report.looked_at, key=lambda look: (beyond(look) != beyond(look), -beyond(look)))
    rows = [(look, beyond(look)) for look in looks]
    return environment().get_template("report.html").render(report=report, figures=figures, rows=rows, codes=CODES)


def fragment_of(report: Report) -> str:
    """Return the findings alone, for a notebook."""
    return environment().get_template("fragment.html").render(report=report, codes=CODES)
