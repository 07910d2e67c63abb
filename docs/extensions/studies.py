"""Two directives for the scripts of analyses/: `study` shows one with its figures and claims, `gallery` a card of each.

All that they say is read from the script and from the data beside its figures.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import xarray
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


class Study:
    """What a script and its data say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.script = ROOT / "analyses" / f"{name}.py"
        self.data = ROOT / "figures" / f"{name}.nc"
        with xarray.open_dataset(self.data) as data:
            self.attributes: dict[str, Any] = dict(data.attrs)
        text = ast.get_docstring(ast.parse(self.script.read_text(encoding="utf-8"))) or ""
        self.question, *self.paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
        self.claims: list[dict[str, str]] = json.loads(self.attributes["claims"])
        found: dict[str, str] = json.loads(self.attributes["findings"])
        self.findings = {(f"{name}_{key}" if key else name): finding for key, finding in found.items()}


def plain(finding: str) -> str:
    """Return a finding without the marks of its formulas, as screen readers are to say it."""
    return re.sub(r"\\[a-z]+|\\,|[$\\{}]", lambda mark: f"{mark[0][1:]} " if mark[0][1:].isalpha() else "", finding)


def study_names() -> list[str]:
    """Return the scripts that draw a figure, those without a page of their own as well."""
    return sorted(path.stem for path in (ROOT / "figures").glob("*.nc"))


class StudyDirective(SphinxDirective):
    """`{study} name`: the figures with what they find, question, method and claims, the script and the data."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        study = Study(self.arguments[0])
        for path in (study.script, study.data):
            self.env.note_dependency(str(path))
        lines: list[str] = []
        for picture, finding in study.findings.items():
            lines += [
                f"```{{figure}} /../figures/{picture}.png",
                f":alt: {plain(finding)}",
                ":figclass: figure-on-paper",
                "",
            ]
            lines += [finding, "```", ""]
        for paragraph in study.paragraphs:
            word, rest = paragraph.split(". ", 1)
            lines += [f"**{word}.** {rest}", ""]
        drawn = self.parse_text_to_nodes("\n".join(lines))
        claims = nodes.bullet_list()
        for claim in study.claims:
            verdict = nodes.strong(text=claim["verdict"].capitalize())
            said = nodes.paragraph("", "", verdict, nodes.Text(f": {claim['statement']} ({claim['source']}). "))
            measured = nodes.inline(text=f"Measured: {claim['measured']}.", classes=["measured"])
            claims += nodes.list_item("", said, nodes.paragraph("", "", measured))
        versions = ", ".join(
            f"{key[8:]} {value}" for key, value in study.attributes.items() if key.startswith("version_")
        )
        lines = [f"Run it again with `python analyses/{study.name}.py`, or draw its data again with `--redraw`."]
        lines += [f"Measured with {versions} (seed {study.attributes['seed']}).", ""]
        lines += [f"{{download}}`The data </../figures/{study.name}.nc>` (netCDF)."]
        lines += [f"{{download}}`{name}.pdf </../figures/{name}.pdf>`." for name in study.findings]
        lines += ["", "````{dropdown} The script", f"```{{literalinclude}} /../analyses/{study.name}.py", "```", "````"]
        return [*drawn, nodes.rubric(text="Claims"), claims, *self.parse_text_to_nodes("\n".join(lines))]


class GalleryDirective(SphinxDirective):
    """`{gallery}` with a name a line: a card of each, with its figure and its finding, that leads to its page."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines = ["::::{grid} 1 1 2 2", ":gutter: 3", ""]
        for name in (line.strip() for line in self.content if line.strip()):
            study = Study(name)
            lines += [f":::{{grid-item-card}} {study.question}", f":link: /gallery/{name}", ":link-type: doc"]
            lines += [f":img-top: /../figures/{name}.png", "", study.findings[name], ":::", ""]
        return self.parse_text_to_nodes("\n".join([*lines, "::::"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("study", StudyDirective)
    app.add_directive("gallery", GalleryDirective)
    return {"parallel_read_safe": True}
