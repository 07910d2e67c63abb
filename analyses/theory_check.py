"""Do the closed forms of the library agree with simulation, and do they fail where their assumptions do?

Question. `st.theory` says how log|J| of a chain grows and spreads, with which probability it is dead, how many folds it
is expected to have, which scale is critical, how vectors are stretched at width n. Do chains do all of this? And where
an assumption does not hold, is that seen?

Method. Every form is held against a sample of its own: members of `st.Chain` that no other form sees, at five roots, so
that all z = (measured - predicted) / standard error are independent. If the forms are right, z is normal with mean 0
and variance 1, and the sum of the squares follows the chi-square law. Exponents are means of log|J| / depth over
members; variances and moments are taken over steps. A moment is averaged only if its relative variance is below 1.
Otherwise a few members carry it, an average misses them, and the mean of the logarithm is held against theory instead.
Then some assumptions are broken on purpose, one at a time. `theory_cases.py` lists all of it.

Reading. a: z of every form at every root, in the colour of its architecture, which b names; grey band: |z| < 3.
b: all of them, and the normal density. c: z where an assumption is broken, on a logarithmic scale beyond 3. The crosses
lie outside the band, as they should.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import chi2, norm

import stability as st
import study
from theory_cases import BROKEN, DEPTH, Case, Draw, all_cases

BAND = 3.0
#: What is less likely than this is no chance.
RARE = 1e-3


@dataclass(frozen=True)
class Settings(study.Settings):
    roots: int = 5  # Roots, from the seed on.
    members: int = 800  # Chains that a form is held against at each root; some take more.


def simulated(label: str, cases: dict[str, Case], settings: Settings) -> xarray.Dataset:
    """Return a case at every root, from members that no case before it has."""
    case, before = cases[label], list(cases.values())[: list(cases).index(label)]
    first = sum(int(other.times * settings.members) for other in before)
    members = range(first, first + int(case.times * settings.members))
    roots = range(settings.seed, settings.seed + settings.roots)
    found = [case.form.check(case.sample(Draw(members, root)), **case.numbers) for root in roots]
    names = ("measured", "standard_error", "z")
    return xarray.Dataset({name: ("root", [getattr(one, name) for one in found]) for name in names}, {"root": roots})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    cases = all_cases()
    data = parts.cells(simulated, cases, settings, case=list(cases))
    about = {name: ("case", [getattr(case, name) for case in cases.values()]) for name in ("kind", "architecture")}
    data["predicted"] = "case", [float(case.form.value(**case.numbers)) for case in cases.values()]
    return data.assign(about).assign_attrs(depth=DEPTH)


def fits(data: xarray.Dataset) -> xarray.Dataset:
    """Return the sum of squares of z at each root over the cases that should agree, and over all roots, with p."""
    z = parted(data)[0].z
    over = {f"root {root}": z.sel(root=root) for root in z.root.values} | {"all": z}
    squares, freedom = np.array([(float((one**2).sum(skipna=False)), one.size) for one in over.values()]).T
    values = {"chi_square": squares, "freedom": freedom, "p": chi2.sf(squares, freedom)}
    return xarray.Dataset({name: ("over", v) for name, v in values.items()}, {"over": list(over)})


def parted(data: xarray.Dataset) -> list[xarray.Dataset]:
    """Return the cases that should agree, and those that should not."""
    return [data.isel(case=np.flatnonzero(which)) for which in (data.kind != BROKEN, data.kind == BROKEN)]


def by_kind(good: xarray.Dataset) -> dict[str, xarray.Dataset]:
    return {kind: good.isel(case=np.flatnonzero(good.kind == kind)) for kind in dict.fromkeys(good.kind.values)}


def claims(data: xarray.Dataset) -> list[study.Row]:
    (good, bad), over = parted(data), fits(data)
    size, seen = abs(good.z), (abs(bad.z) > BAND).all("root")
    worst = good.case[int(np.argmax(size.max("root").to_numpy()))].item()
    # How likely chance alone makes the largest |z| of all as large as it is.
    chance = -math.expm1(size.size * math.log1p(-2 * norm.sf(float(size.max()))))
    by_root = "; ".join(
        f"{name}: {float(c):.1f} of {int(f)}, p = {float(p):.3f}"
        for name, c, f, p in zip(over.over.values, over.chi_square, over.freedom, over.p, strict=True)
    )
    rows = [
        (f"{good.case.size} closed forms are what chains do", f"chi-square {by_root}", over.p[-1] > RARE),
        (
            "No form is off by more than chance makes one of so many",
            f"the largest |z| of {size.size} is {float(size.max()):.2f}, at {worst}: as much in {100 * chance:.2g} % "
            f"of such checks; {int((size > BAND).sum())} are beyond {BAND:g}, {2 * norm.sf(BAND) * size.size:.1f} "
            "expected",
            chance > RARE,
        ),
    ]
    for kind, part in by_kind(good).items():
        squares = float((part.z**2).sum(skipna=False))
        p = float(chi2.sf(squares, part.z.size))
        below, above = (int((sign * part.predicted > 1e-12).sum()) for sign in (-1, 1))
        words = f"{below} predicted below 0, {above} above, {part.case.size - below - above} zero"
        words = f"chi-square {squares:.1f} of {part.z.size}, p = {p:.3f}; {words}"
        rows.append((f"{part.case.size} forms: {kind}", words, p > RARE))
    missed = "".join(f"; not so: {name}" for name in bad.case.values[~seen])
    found = f"{int(seen.sum())} of {bad.case.size} are seen at every root, the least |z| is "
    found += f"{float(abs(bad.z).min()):.1f}{missed}"
    rows.append(("Where an assumption is broken, theory and simulation part", found, bool(seen.all()) or "refined"))
    return [(said, "theory", words, verdict) for said, words, verdict in rows]


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cc", height=5.6, height_ratios=(1.1, 1), width_ratios=(1.7, 1))
    (good, bad), over = parted(data), fits(data).isel(over=-1)
    draw_kinds(good, axes["a"])
    draw_density(good.z.to_numpy().ravel(), axes["b"])
    draw_broken(bad, axes["c"])
    for ax in axes.values():
        ax.axvspan(-BAND, BAND, color="#E6EAEE", zorder=-2)
    seen = int((abs(bad.z) > BAND).all("root").sum())
    return st.plots.headline(
        figure,
        f"{good.case.size} closed forms {'agree' if over.p > RARE else 'do not agree'} with simulation: chi-square "
        f"{float(over.chi_square):.0f} of {int(over.freedom)} (p = {float(over.p):.2f}). "
        f"{seen} of {bad.case.size} broken assumptions are seen at every root.",
    )


def draw_kinds(good: xarray.Dataset, ax: Axes) -> None:
    kinds = by_kind(good)
    for place, part in enumerate(kinds.values()):
        reach = min(0.36, 0.06 * part.case.size)
        for at, y in enumerate(np.linspace(-reach, reach, part.case.size) - place):
            shade = st.plots.colour(part.architecture.values[at])
            ax.plot(part.z[at], np.full(part.root.size, y), ".", color=shade, markersize=3.5, alpha=0.8)
    ax.set_yticks(-np.arange(len(kinds)), [f"{kind} ({part.case.size})" for kind, part in kinds.items()])
    limit = max(4.4, 1.1 * float(abs(good.z).max()))
    ax.set(xlim=(-limit, limit), ylim=(0.5 - len(kinds), 0.5), xlabel="z = (measured - predicted) / standard error")


def draw_density(z: np.ndarray, ax: Axes) -> None:
    ax.hist(z, np.arange(-5.2, 5.3, 0.4), density=True, color="#9AA5B1")
    line = np.linspace(-4.4, 4.4, 300)
    ax.plot(line, norm.pdf(line), color="black")
    ax.text(1.2, norm.pdf(1.1), "normal", fontsize=7)
    for place, name in enumerate([*st.ARCHITECTURES, "width n"]):
        x, side = ((0.02, "left"), (0.98, "right"))[place % 2]
        look = {"color": st.plots.colour(name), "fontsize": 7, "ha": side, "transform": ax.transAxes}
        ax.text(x, 0.93 - 0.065 * (place // 2), name, **look)
    ax.set(xlim=(-4.4, 4.4), ylim=(0, 0.65), xlabel="z", ylabel="density")


def draw_broken(bad: xarray.Dataset, ax: Axes) -> None:
    for at in range(bad.case.size):
        shade = st.plots.colour(bad.architecture.values[at])
        ax.plot(bad.z[at], np.full(bad.root.size, -at), "x", color=shade, markersize=4)
    ax.set_yticks(-np.arange(bad.case.size), [name.replace(": ", ":\n", 1) for name in bad.case.values])
    ax.set_xscale("symlog", linthresh=BAND, linscale=0.5)
    ticks = {0: "0"} | {sign * 10**k: f"${sign * 10}^{k}$" for k in range(1, 8) for sign in (-1, 1)}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.minorticks_off()
    low, high = (1.6 * max(float(one.max()), 3 * BAND) for one in (-bad.z, bad.z))
    ax.set(xlim=(-low, high), ylim=(-bad.case.size + 0.4, 0.6), xlabel=f"z, logarithmic beyond {BAND:g}")
    ax.set_title("an assumption broken on purpose")


if __name__ == "__main__":
    study.main(Settings(), Settings(roots=2, members=60), measure, draw, claims)
