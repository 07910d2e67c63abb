"""Set powers that stand in prose, as in 10^-738 or L^-0.4, as powers. Code and formulas stay what they are."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_POWER = re.compile(r"(?<=[\w)])\^(-\d+/\d+|-?(?:\d+(?:\.\d+)?|[A-Za-z]\b))")
_LEFT = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)


def with_powers(text: str) -> list[nodes.Node]:
    """Return text as nodes, with what follows a ^ raised."""
    parts = _POWER.split(text)
    made: list[nodes.Node] = []
    for index, part in enumerate(parts):
        if part:
            part = part.replace("-", "\N{MINUS SIGN}") if index % 2 else part
            made.append(nodes.superscript(text=part) if index % 2 else nodes.Text(part))
    return made


class Powers(SphinxTransform):
    """Raise the powers of a page."""

    default_priority = 900

    def apply(self, **_: Any) -> None:
        for node in list(self.document.findall(nodes.Text)):
            parents, parent = [], node.parent
            while parent is not None:
                parents.append(parent)
                parent = parent.parent
            if _POWER.search(node) and not any(isinstance(one, _LEFT) for one in parents):
                node.parent.replace(node, with_powers(str(node)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Powers)
    return {"parallel_read_safe": True}
