"""The page of promises: the tests that it names exist, and its numbers are those of tests and of tables."""

import ast
import csv
import re
from functools import cache
from pathlib import Path

import pytest

from tests.precision.planted import FAULTS, KINDS
from tests.report.trained import ITERATIONS, shares

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
NAMED = sorted(set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", PAGE)))


@cache
def functions(path):
    """Return the tests of a file, as they are written."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return found


def said(pattern):
    """Return the numbers of a sentence of the page."""
    (found,) = re.findall(pattern, WORDS)
    return [float(one) for one in (found if isinstance(found, tuple) else (found,))]


def table(name):
    with (ROOT / "figures" / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[f"{path}::{name}" for path, name in NAMED])
def test_a_test_that_the_page_names_is_there(path, name):
    assert name in functions(path)


def test_every_promise_has_a_test():
    promises = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:-1]
    assert len(promises) >= 6
    for section in promises:
        for promise in re.split(r"^- ", section, flags=re.MULTILINE)[1:]:
            assert re.search(r"^  - `tests/", promise, re.MULTILINE), promise


#: A sentence of the page, and in which test its numbers stand, in the same order.
HELD = [
    (
        r"is the Jacobian of the whole to (1e-\d+), on residual",
        "tests/reading/test_models.py::test_products_of_jacobians_are_the_jacobian_of_the_whole",
        r"<= (1e-\d+) \* abs\(whole\)",
    ),
    (
        r"differentiation to (1e-\d+) at depth (\d+), and with",
        "tests/jacobians/test_spectrum.py::test_agrees_with_automatic_differentiation_at_depth_20",
        r"Chain\(name, (?P<b>\d+),[\s\S]*rtol=(?P<a>1e-\d+)",
    ),
    (
        r"with (\d+)-bit arithmetic to (1e-\d+) in the log at depth (\d+)",
        "tests/jacobians/test_spectrum.py::test_agrees_with_5000_bits_at_depth_3000",
        r"agrees_with_(?P<a>\d+)_bits[\s\S]*Chain\(name, (?P<c>\d+),[\s\S]*atol=(?P<b>1e-\d+)",
    ),
    (
        r"decomposed in up to (\d+) digits, to (1e-\d+) in the log: at width 16 to depth (\d+)",
        "tests/jacobians/test_products.py::test_width_16_against_many_digits",
        r"param\((?P<c>\d+), (?P<a>\d+), marks[\s\S]*expected, (?P<b>1e-\d+)\)",
    ),
    (
        r"graded over (\d+) decades",
        "tests/jacobians/test_products.py::test_layers_graded_in_rows_or_columns_lose_nothing",
        r"geomspace\(1, 1e-(\d+)",
    ),
    (
        r"of bits, at depth (\d+) and for",
        "tests/signals/test_width_one.py::test_depth_2000_matches_arithmetic_of_hundreds_of_bits",
        r"depth=(\d+), seeds",
    ),
    (
        r"stays in the range, to (1e-\d+)\.",
        "tests/reading/test_models.py::test_gradients_are_those_of_an_ordinary_backward_pass",
        r"else (1e-\d+)",
    ),
    (
        r"within (\d) standard errors of less than (\de-\d)\.",
        "tests/signals/test_fit_growth.py::test_rates_are_the_closed_forms",
        r"error < (?P<b>\de-\d)[\s\S]*exact\) < (?P<a>\d) \* error",
    ),
    (
        r"hold the truth in (\d+) to (\d+) of (\d+) repetitions",
        "tests/signals/test_growth.py::test_the_interval_covers_the_mean_log_of_a_factor",
        r"range\((?P<c>\d+)\)[\s\S]*assert (?P<a>\d+) <= covered <= (?P<b>\d+)",
    ),
    (
        r"in at least (\d+) of 100 repetitions of 3 seeds",
        "tests/scaling/test_depth_coverage.py::test_an_interval_holds_the_truth_in_90_of_100_repetitions",
        r"assert held >= (\d+)",
    ),
    (
        r"agrees with the module to (1e-\d+) at 10,000 points",
        "tests/folds/test_modules.py::test_a_resnet_18",
        r"linspace\(0, 1, 10_000,[\s\S]*got - expected[^\n]*<= (1e-\d+)",
    ),
    (
        r"after (\d+) workers or",
        "tests/sweeps/test_kills.py::test_twenty_workers_are_killed",
        r"\"store\", (\d+),",
    ),
]


@pytest.mark.parametrize(("sentence", "name", "source"), HELD, ids=[name for _, name, _ in HELD])
def test_numbers_of_the_page_are_those_of_the_tests(sentence, name, source):
    path, function = name.split("::")
    found = re.search(source, functions(path)[function])
    assert found, f"{name} has no {source}"
    assert name in PAGE
    groups = found.groupdict()
    values = [groups[key] for key in sorted(groups)] if groups else found.groups()
    assert said(sentence) == [float(value) for value in values]


def test_repetitions_and_tables_are_counted():
    text = (ROOT / "tests/scaling/test_depth_coverage.py").read_text(encoding="utf-8")
    assert "REPETITIONS, SEEDS = 100, 3\n" in text
    text = (ROOT / "tests/folds/test_count.py").read_text(encoding="utf-8")
    each = int(re.search(r"for _ in range\((\d+)\)", functions("tests/folds/test_count.py")[NO_COUNT])[1])
    kinds = ast.literal_eval(re.search(r"^FAMILIES = (\[.*\])$", text, re.MULTILINE)[1])
    wrong, tables, families = said(r"has (\d+) wrong counts on (\d+) random tables of (\d+) kinds")
    assert (wrong, tables, families) == (0, each * len(kinds), len(kinds))
    assert "assert not wrong" in functions("tests/folds/test_count.py")[NO_COUNT]
    kills = functions("tests/sweeps/test_kills.py")["test_ten_whole_sweeps_are_killed_with_their_scheduler"]
    assert said(r"workers or (\d+) schedulers") == [float(re.search(r"\b(10)\b", kills)[1])]


NO_COUNT = "test_no_count_is_wrong_on_five_thousand_tables"


def test_kinds_of_faults_that_are_not_finite():
    kinds, architectures = said(r"line: (\d+) kinds of planted faults in (\d+) architectures")
    assert (len(FAULTS), len(KINDS)) == (kinds, architectures)


def test_the_confusion_matrix():
    rows = table("examine_confusion.csv")
    planted, kinds, healthy = said(r"held against (\d+) planted faults of (\d+) kinds, .* and (\d+) healthy networks")
    faults = [row for row in rows if row["kind"] == "planted"]
    sound = [row for row in rows if row["kind"] == "healthy"]
    assert (len(faults), len({row["code"] for row in faults}), len(sound)) == (planted, kinds, healthy)
    assert said(r"Of the faults (\d+) are found in their layer") == [sum(row["right"] == "True" for row in faults)]
    flagged = sum(":broken:" in row["findings"] or ":harmful:" in row["findings"] for row in sound)
    assert said(r"Of the healthy networks (\d+) have a finding") == [flagged]


def test_what_training_says_of_severity():
    rows = table("examine_training.csv")
    found = [(row["code"], row["name"], row["severity"], float(row["harm"])) for row in rows]
    assert said(r"trained for (\d+) iterations of Adam") == [ITERATIONS]
    ill, told, well, wrong = said(
        r"Of the (\d+) that do not learn (\d+) are broken or harmful, of the (\d+) that do (\d+)\."
    )
    assert shares(found) == (ill, told, well, wrong)
    assert round(ill / (ill - told)) == 8  # "one in eight"
