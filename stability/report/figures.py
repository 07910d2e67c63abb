"""The figures of the page, as inline SVG whose text is text and whose colours are those of the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stability.foundation.formats import FORMATS, Format
from stability.plots import STYLE
from stability.report.examination import Report
from stability.report.finding import Look, counted

#: Colours of the drawing, and the variables of the page that stand for them in light and in dark.
_INK, _GRID, _BLUE, _RED, _GREEN, _BAND = "#333333", "#E4E4E4", "#0072B2", "#D55E00", "#009E73", "#8899AA"
_VARIABLES = {_INK: "ink", _GRID: "grid", _BLUE: "blue", _RED: "red", _GREEN: "green", _BAND: "band"}
LOOK = {
    **STYLE,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of the user's may hold a dollar
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.family": "sans-serif",
    "axes.unicode_minus": False,
}
_TEN = math.log(10)
#: More marks than this make a line, so that the page stays small.
_MOST = 2000
#: Points of the smallest text: a figure is as many pixels wide on a phone as it has points.
_SMALL = 9


@dataclass(frozen=True)
class Drawing:
    """A figure: its title, which says what it shows, a text alternative, and the SVG."""

    title: str
    words: str
    svg: str


def drawings(report: Report) -> list[Drawing]:
    """Return the figures that a report has numbers for, five at most."""
    made = []
    for draw in (_profile, _spectrum, _correlation, _dead, _findings):
        found = draw(report)
        if found is not None:
            made.append(found)
    return made


def _drawn(title: str, words: str, draw: Callable[[Axes], None], height: float = 2.9) -> Drawing:
    with mpl.rc_context(LOOK | {"svg.hashsalt": title}):
        # No pyplot: nothing is left behind, and no window is opened.
        figure = Figure(figsize=(4.9, height), layout="constrained")
        figure.patch.set_alpha(0)
        ax = figure.add_subplot()
        ax.patch.set_alpha(0)
        draw(ax)
        held = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(held, format="svg", metadata=empty, transparent=True)
    return Drawing(title, words, inline(held.getvalue()))


def inline(svg: str) -> str:
    """Return an SVG without its header, with the page's variables for colours, and no name that another may have."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'^<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    for colour, name in _VARIABLES.items():
        svg = re.sub(re.escape(colour), f"var(--{name})", svg, flags=re.IGNORECASE)
    # Text is written as black where no colour is said.
    return re.sub(r"\n\s*", "\n", svg).strip()


def _known(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _marks(values: np.ndarray) -> float:
    return 2.5 if len(values) < 100 else 1.0


def _places(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _range_words(logs: np.ndarray) -> str:
    known = logs[np.isfinite(logs)]
    return f"from 10^{known[0]:.1f} to 10^{known[-1]:.1f}, least 10^{known.min():.1f}, largest 10^{known.max():.1f}"


def _profile(report: Report) -> Drawing | None:
    profile = report.profile
    states, back = _known(profile.log_sizes) / _TEN, _known(profile.log_gradients) / _TEN
    if not np.isfinite(states).any():
        return None
    words = f"Size of the state over {counted(len(profile.layers), 'layer')}: {_range_words(states)}."
    if np.isfinite(back).any():
        words += f" Gradient of the loss by layer: {_range_words(back)}."
    every = np.concatenate([states, back])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))

    def draw(ax: Axes) -> None:
        bottom, top = min(low, -9.0) - 1, max(high, 6.0) + 1
        for name, alpha in (("float32", 0.10), ("float16", 0.22)):
            one = Format(FORMATS[name])
            ends = math.log10(one.smallest), math.log10(one.largest)
            words_of = "float32, bfloat16" if name == "float32" else name
            span = max(ends[0], bottom), min(ends[1], top)
            ax.axhspan(*span, color=_BAND, alpha=alpha, linewidth=0, label=words_of)
        ax.plot(np.arange(len(states)), states, color=_BLUE, label="state", marker="o", markersize=_marks(states))
        ax.plot(
            np.arange(len(back)),
            back,
            color=_RED,
            label="gradient",
            marker="s",
            markersize=_marks(back),
            linestyle="--",
        )
        for finding in report.findings:
            number = _number_of(report, finding.layer)
            if number is not None and finding.severity != "watch":
                ax.axvline(number + 1, color=_RED, linewidth=0.8, linestyle=":")
        ax.set_ylim(bottom, top)
        ax.set_xlabel("layer")
        ax.set_ylabel("log10 of the size")
        handles, labels = ax.get_legend_handles_labels()
        order = [labels.index(one) for one in ("state", "gradient", "float16", "float32, bfloat16")]
        ax.legend(
            [handles[k] for k in order],
            [labels[k] for k in order],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            borderaxespad=0.2,
            fontsize=_SMALL,
            handlelength=1.2,
            columnspacing=1.0,
        )
        _places(ax)

    return _drawn("States and gradients over the layers, in the ranges of the formats", words, draw)


def _number_of(report: Report, layer: str | None) -> int | None:
    for number, name in enumerate(report.profile.layers):
        if layer is not None and (layer == name or layer.startswith(f"{name}.")):
            return number
    return None


def _spectrum(report: Report) -> Drawing | None:
    values = np.asarray(report.profile.spectrum, dtype=np.float64) / _TEN
    values = values[np.isfinite(values)][:_MOST]
    if len(values) < 2:
        return None
    ends = f"from 10^{values[0]:.1f} to 10^{values[-1]:.1f}"
    words = f"{len(values)} singular values of the whole network's Jacobian, {ends}."

    def draw(ax: Axes) -> None:
        ax.plot(np.arange(1, len(values) + 1), values, color=_BLUE, marker="o", markersize=2, linewidth=0.8)
        ax.axhline(
            values[0] + math.log10(Format(FORMATS[_format(report)]).roundoff), color=_RED, linewidth=0.8, linestyle="--"
        )
        ax.set_xlabel("number of the value")
        ax.set_ylabel("log10 of the singular value")
        _places(ax)

    return _drawn(
        "Singular values of the whole network at its first points; below the dashed line rounding covers them",
        words,
        draw,
    )


def _format(report: Report) -> str:
    return report.profile.dtype if report.profile.dtype in FORMATS else "float32"


def _correlation(report: Report) -> Drawing | None:
    logs = _known(report.profile.log_spreads) / _TEN
    if np.isfinite(logs).sum() < 2:
        return None
    cosines = _known(report.profile.correlations)
    last = cosines[np.isfinite(cosines)][-1]
    words = f"Distance of the points from their mean, over their size: {_range_words(logs)}."
    words += f" Mean correlation {last:.3f} at the end."
    limit = math.log10(Format(FORMATS[_format(report)]).roundoff)

    def draw(ax: Axes) -> None:
        ax.plot(np.arange(len(logs)), logs, color=_GREEN, marker="o", markersize=_marks(logs))
        ax.axhline(limit, color=_RED, linewidth=0.8, linestyle="--")
        ax.text(
            0.99,
            limit,
            f"half a unit of {_format(report)}",
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=_SMALL,
        )
        ax.set_ylim(min(float(np.nanmin(logs)), limit) - 0.7, max(0.5, float(np.nanmax(logs)) + 0.3))
        ax.set_xlabel("layer")
        ax.set_ylabel("log10 of spread / size")
        _places(ax)

    return _drawn("How far apart points stay; below the dashed line they are the same", words, draw)


def _dead(report: Report) -> Drawing | None:
    shares = _known(report.profile.dead)
    if not np.isfinite(shares).any():
        return None
    worst = int(np.nanargmax(shares))
    words = f"Share of dead units by layer: at most {100 * shares[worst]:.0f} %, in {report.profile.layers[worst]}."

    def draw(ax: Axes) -> None:
        ax.bar(
            np.arange(1, len(shares) + 1), np.nan_to_num(shares), color=_BLUE, width=0.8 if len(shares) < 100 else 1.0
        )
        ax.axhline(1.0, color=_RED, linewidth=0.8, linestyle="--")
        ax.set_ylim(0, 1.05)
        ax.set_xlabel("layer")
        ax.set_ylabel("share of dead units")
        _places(ax)

    return _drawn("Units that are at 0 at every point", words, draw, 2.3)


#: Of these the finding lies below the threshold.
_BELOW = {
    "spread of the points over their size",
    "var / (var + epsilon) of a normalisation",
    "median |g| over epsilon",
} | {"spread of the points over their root mean square"}


def beyond(look: Look) -> float:
    """Return log10 of how far a number is beyond its threshold, on the side of a finding; NaN where it has no log."""
    return -look.distance if look.quantity in _BELOW else look.distance


def _findings(report: Report) -> Drawing | None:
    looks = [look for look in report.looked_at if not math.isnan(beyond(look))]
    looks = sorted(looks, key=beyond)[-14:]
    if not looks:
        return None
    over = [look.code for look in looks if beyond(look) > 0]
    words = f"Distance of {counted(len(looks), 'number')} from the threshold in decades"
    words += f"; beyond: {', '.join(over) or 'none'}."

    def draw(ax: Axes) -> None:
        far = [max(-12.0, min(12.0, beyond(look))) for look in looks]
        ax.barh(range(len(looks)), far, color=[_RED if one > 0 else _GREEN for one in far], height=0.7)
        ax.set_yticks(range(len(looks)), [look.code for look in looks], fontsize=_SMALL)
        ax.axvline(0, color=_INK, linewidth=0.8)
        ax.set_xlabel("decades beyond the threshold (12 at most)")

    return _drawn("What was looked at, and how far each number is from where a finding begins", words, draw, 3.2)
