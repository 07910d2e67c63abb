"""The bounds that the package promises are those that it is tested with."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def pins(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return {one.name: next(iter(one.specifier)) for one in found}


def test_lower_bounds_are_the_versions_of_the_oldest_environment():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lowest = pins("constraints-lowest.txt")
    for text in (*project["dependencies"], *extras["test"], *extras["exact"]):
        one = Requirement(text)
        if one.name != "torch":  # one build of it is small to fetch, and the bound is that one
            (bound,) = one.specifier
            assert bound.operator == ">="
            assert lowest[one.name].operator == "=="
            assert lowest[one.name].contains(bound.version), text


def test_what_is_tested_lies_above_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = pins("constraints.txt")
    for text in project["dependencies"]:
        one = Requirement(text)
        if one.name != "torch":
            assert one.specifier.contains(tested[one.name].version), text
