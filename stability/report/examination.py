"""The report of an examination: findings, what was looked at, and the numbers of its figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import cast

from stability.foundation.arguments import door
from stability.foundation.files import write_atomically
from stability.report.finding import Alike, Finding, Look, Trial, counted

_VERSION = 1
_KEYS = {"stability_report", "checksum", "title", "findings", "looked_at", "notes", "profile", "seconds"}


@dataclass(frozen=True, eq=False)
class Profile(Alike):
    """The numbers that the figures show, natural logarithms by layer; NaN where there is none.

    Attributes:
        layers: the names.
        log_sizes: before the first layer and after each, of the state.
        log_spreads: likewise, of the distance between points over their size.
        log_gradients: before each layer, of the loss.
        dead: after each layer, the share of dead units, NaN where nothing can be dead.
        spectrum: the logs of the singular values of the whole network at its first points, all in a row.
        correlations: before the first layer and after each, the mean over pairs of points.
        dtype: the format of the network.
    """

    layers: tuple[str, ...] = ()
    log_sizes: tuple[float, ...] = ()
    log_spreads: tuple[float, ...] = ()
    log_gradients: tuple[float, ...] = ()
    dead: tuple[float, ...] = ()
    spectrum: tuple[float, ...] = ()
    correlations: tuple[float, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True, repr=False, eq=False)
class Report(Alike):
    """What `st.examine` found.

    Attributes:
        title: the network's class.
        findings: the most severe first.
        looked_at: all that was measured, with its threshold.
        notes: what was left out or shortened, in words.
        profile: the numbers of the figures.
        seconds: how long it took.
    """

    title: str
    findings: tuple[Finding, ...]
    looked_at: tuple[Look, ...]
    notes: tuple[str, ...] = ()
    profile: Profile = field(default_factory=Profile)
    seconds: float = 0.0

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken or harmful."""
        return all(finding.severity == "watch" for finding in self.findings)

    def __repr__(self) -> str:
        counts = {s: sum(f.severity == s for f in self.findings) for s in ("broken", "harmful", "watch")}
        verdict = (
            "nothing is broken or harmful" if self.healthy else "something is broken or blocks a signal or gradient"
        )
        lines = [
            f"{self.title}: {verdict}",
            f"{counted(len(self.profile.layers), 'layer')}, {self.profile.dtype}, {self.seconds:.1f} s; "
            + ", ".join(f"{count} {name}" for name, count in counts.items()),
        ]
        for finding in self.findings[:3]:
            where = "" if finding.layer is None else f" in {finding.layer}"
            lines += [f"{finding.severity}: {finding.code}{where}. {finding.why}", f"    {finding.remedy}"]
        if len(self.findings) > 3:
            lines.append(f"and {len(self.findings) - 3} more: " + ", ".join(f.code for f in self.findings[3:8]))
        near = sorted((look for look in self.looked_at if not math.isnan(look.distance)), key=lambda k: abs(k.distance))
        for look in near[: max(0, 9 - len(lines))]:
            lines.append(f"nearest to its threshold: {look.quantity} {look.value:.3g}, threshold {look.threshold:.3g}")
        if self.notes and len(lines) < 10:
            lines.append("note: " + "; ".join(self.notes))
        if len(lines) < 10:
            lines.append(f"looked at {counted(len(self.looked_at), 'number')}: see report.looked_at")
        return "\n".join(_short(line) for line in lines[:10])

    def _repr_html_(self) -> str:
        from stability.report.page import fragment_of

        return fragment_of(self)

    @door
    def to_html(self, path: str | Path) -> Path:
        """Write the report as one file without script that needs no other, and return its path.

        Raises:
            OSError: for a folder that is not there or cannot be written to.
        """
        from stability.report.page import page_of

        text = page_of(self)
        return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @door
    def to_json(self, path: str | Path) -> Path:
        """Write the report as JSON and return its path; numbers that are not finite are written as texts.

        Raises:
            OSError: for a folder that is not there or cannot be written to.
        """
        held = {"stability_report": _VERSION, **cast("dict[str, object]", _plain(asdict(self)))}
        text = json.dumps({**held, "checksum": _checksum(held)}, indent=1, allow_nan=False)
        return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    @door
    def from_json(cls, path: str | Path) -> Report:
        """Return a report that `to_json` wrote.

        Raises:
            ValueError: for a file that is cut short, changed, or something else.
            OSError: for a file that is not there.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(held, dict) or set(held) != _KEYS:
                raise ValueError("its entries are not those of a report")
            if held["stability_report"] is True or held["stability_report"] != _VERSION:
                raise ValueError(f"it is of version {held['stability_report']!r}, and this program reads {_VERSION}")
            if held.pop("checksum") != _checksum(held):
                raise ValueError("it was changed after it was written, as its checksum tells")
            return cls(
                _text(held["title"]),
                tuple(_finding(one) for one in _list(held["findings"])),
                tuple(_look(one) for one in _list(held["looked_at"])),
                tuple(_text(note) for note in _list(held["notes"])),
                _profile(held["profile"]),
                _number(held["seconds"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path} is no whole report of st.examine: {error}") from None


def _checksum(held: dict[str, object]) -> str:
    """Return a digest of what a file holds, whatever the order and the spaces in it."""
    return blake2b(json.dumps(held, sort_keys=True).encode(), digest_size=16).hexdigest()


def _short(line: str, most: int = 200) -> str:
    line = " ".join(line.split()) if not line.startswith(" ") else "    " + " ".join(line.split())
    return line if len(line) <= most else line[: most - 4].rpartition(" ")[0] + " ..."


def _plain(value: object) -> object:
    """Return a value as JSON holds it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _number(value: object) -> float:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"it has {str(value)[:40]!r} where a number stands")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it has {str(value)[:40]!r} where a text stands")
    return value


def _finding(held: object) -> Finding:
    one = _entries(held, Finding)
    tried = None if one["tried"] is None else _entries(one["tried"], Trial)
    trial = None
    if tried is not None:
        texts = _text(tried["remedy"]), _text(tried["quantity"])
        trial = Trial(*texts, _number(tried["before"]), _number(tried["after"]))
    if not isinstance(one["evidence"], dict):
        raise ValueError("its evidence is no table of numbers")
    evidence = {_text(name): _number(value) for name, value in one["evidence"].items()}
    words = _text(one["why"]), _text(one["remedy"])
    return Finding(_text(one["code"]), _text(one["severity"]), _name(one["layer"]), evidence, *words, trial)


def _look(held: object) -> Look:
    one = _entries(held, Look)
    numbers = _number(one["value"]), _number(one["threshold"])
    return Look(_text(one["code"]), _text(one["quantity"]), *numbers, _name(one["layer"]), _text(one["note"]))


def _profile(held: object) -> Profile:
    one = _entries(held, Profile)
    series = {}
    for name in set(one) - {"layers", "dtype"}:
        series[name] = tuple(map(_number, _list(one[name])))
    return Profile(layers=tuple(map(_text, _list(one["layers"]))), dtype=_text(one["dtype"]), **series)


def _entries(held: object, kind: type) -> dict[str, object]:
    if not isinstance(held, dict) or set(held) != {one.name for one in fields(kind)}:
        raise ValueError(f"it has a {kind.__name__} with other entries")
    return held


def _list(held: object) -> list[object]:
    if not isinstance(held, list):
        raise ValueError(f"it has {str(held)[:40]!r} where a list stands")
    return held


def _name(held: object) -> str | None:
    return None if held is None else _text(held)
