"""Write docs/reference/closed_forms.md: every closed form with its assumptions, its derivation and its check.

Question. What does the library state in closed form, under which assumptions, why, and what did simulation say?

Method. The statements are the objects themselves, those that `theory_check.py` holds against simulation: the LaTeX of
the expression, the assumptions and the derivation are theirs; a plain function gives the words of its documentation.
What was measured is read from the data beside that script's figure, so that the page is the same on every machine.

Reading. One entry a form. The check is the mean over five roots with its standard error, and z of that mean, which is
normal of mean 0 and variance 1 if the form is right.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import xarray

import stability as st

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))
from theory_cases import BROKEN, Case, all_cases
from theory_check import fits

TITLES = {
    "exponent": "The growth of log|J| a step",
    "critical scale": "The scale at which log|J| neither grows nor decays",
    "spread": "The variance of log|g|: that of log|J| is `depth` times as large",
    "moment by logs": "Moments of heavy tails, held by the mean of the logarithm",
    "moment": "Moments of g",
    "death": "The probability that a plain ReLU chain is a constant",
    "count": "Expected folds, turns and regions",
    "gradient rate": "The rate of gradient norms a layer",
    "limit": "What |J| tends to where the weights are divided by the root of the depth",
    "width n": "At width n",
    "broken on purpose": "Assumptions broken on purpose",
    "residual stream": "Residual streams and their paths",
}


@dataclass(frozen=True)
class Settings:
    """Write the page of closed forms."""

    out: Path = Path("docs/reference/closed_forms.md")  # The page.
    data: Path = Path("figures/theory_check.nc")  # The data that `theory_check.py` wrote.


def steps() -> list[str]:
    """Return the steps of the architectures, read from the row that their chains fill."""
    lines = ["## The steps", ""]
    for name in st.ARCHITECTURES:
        formula = st.theory.step_formula(name)
        lines += [f"`{name}`", "", f"$${formula.latex()}$$", ""]
    return [*lines, "A step folds the line at $h = -b / w$, the inner weight and bias, where its derivative jumps.", ""]


def check(data: xarray.Dataset, case: Case) -> str:
    """Return the check of a case in one line: predicted, the mean over roots with its error, and z."""
    one, stated = data.sel(case=case.label), case.form.value(**case.numbers)
    predicted, measured = float(one.predicted), float(one.measured.mean())
    if not math.isclose(predicted, stated, rel_tol=1e-9, abs_tol=1e-12):
        raise SystemExit(f"{case.label}: theory says {stated}, the data {predicted}: run theory_check.py first")
    error = math.sqrt(float((one.standard_error**2).sum())) / one.root.size
    z = (measured - predicted) / error
    digits = max(1, 2 - math.floor(math.log10(error)))
    if digits > 8 or abs(predicted) > 1e6:
        return f"predicted {predicted:.3g}, measured {measured:.3g}, z = {z:.3g}"
    shown = 0.0 if abs(predicted) < 1e-12 else predicted
    # Without a -0.0.
    return (
        f"predicted {shown:.{digits}f}, measured {measured:.{digits}f} ± {error:.{digits}f}, z = {round(z, 1) + 0:+.1f}"
    )


def entry(case: Case, data: xarray.Dataset) -> list[str]:
    """Return the lines of one case."""
    numbers = ", ".join(f"{s.name} {case.numbers[s.name]:.5g}" for s in case.form.symbols if s.name in case.numbers)
    at, lines = f" at {numbers}" if numbers else "", [f"**`{case.label}`**", ""]
    if case.kind == BROKEN:
        form = f" ({case.form.name}{at})" if case.form.symbols else ""
        return [f"- {case.label}{form}: {check(data, case)}"]
    if case.function is not None:
        statement, why = documented(case.function)
        lines += [statement, "", *([f"- Derivation, assumptions, source: {why}"] if why else [])]
        return [*lines, f"- Check: {check(data, case)}.", ""]
    for form in filter(None, (case.stated, case.form)):
        lines += [f"{form.name} ({form.how}):", "", f"$${form.latex()}$$", ""]
        lines += [f"- Assumptions: {form.assumptions}.", f"- Derivation: {form.derivation}.", ""]
    return [*lines[:-1], f"- Check{at}: {check(data, case)}.", ""]


def documented(function: Any) -> tuple[str, str]:
    """Return what a function returns, in the words of its documentation, and the paragraph behind, which says why."""
    statement, _, rest = (inspect.getdoc(function) or "").partition("\n\n")
    why = "" if rest.startswith((">>>", "Args:")) else rest.partition("\n\n")[0]
    said = " ".join(statement.split()).removeprefix("Return ")
    capital = said if "_" in said.split()[0] else said[:1].upper() + said[1:]
    return capital, " ".join(why.split())


def others(text: str) -> list[str]:
    """Return a line for each function of the library's theory that the page does not show yet."""
    functions = {name: getattr(st.theory, name) for name in st.theory.__all__}
    return [
        f"- `{name}`: {documented(function)[0]}"
        for name, function in functions.items()
        if inspect.isfunction(function) and f"`{name}(" not in text
    ]


def page(data: xarray.Dataset) -> str:
    """Return the whole page."""
    cases, over = list(all_cases().values()), fits(data)
    good = sum(case.kind != BROKEN for case in cases)
    lines = [
        "# Closed forms",
        "",
        "Written by `docs/theory_page.py` from the objects of `st.theory`; the checks are those of",
        "`analyses/theory_check.py`. `scale` is a factor on the weights, on the outer ones where there are two maps; g",
        "is the derivative of a step, J their product.",
        "",
        f"{good} forms are held against chains at {data.root.size} roots. The sums of the squares of z, and how likely",
        "chance alone makes them as large:",
        "",
        "| | chi-square | degrees of freedom | p |",
        "|---|---|---|---|",
        *(
            f"| {name} | {float(c):.1f} | {int(f)} | {float(p):.3f} |"
            for name, c, f, p in zip(over.over.values, over.chi_square, over.freedom, over.p, strict=True)
        ),
        "",
        *steps(),
    ]
    for kind, listed in itertools.groupby(cases, lambda case: case.kind):
        lines += [f"## {TITLES[kind]}", "", *(line for case in listed for line in entry(case, data))]
    rest = others("\n".join(lines))
    lines += [
        "",
        "## What else there is",
        "",
        "With sources in the documentation of each, checked in `tests/theory`.",
        "",
    ]
    return "\n".join([*lines, *rest]) + "\n"


def main(settings: Settings) -> None:
    data = st.plots.read_data(settings.data)
    settings.out.write_text(page(data), encoding="utf-8")
    broken = int((data.kind == BROKEN).sum())
    print(f"{data.case.size - broken} forms and {broken} broken assumptions: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
