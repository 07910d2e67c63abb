"""Two hundred planted faults, their truth known from how they are made; `python -m tests.report.planted` confuses them.

Every code of `st.Finding` is planted in five architectures or more and in several sizes. The detector has no part in
what the truth is: where a fault is one of degree, its size is set by a closed form, and is well beyond the threshold.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import stability as st
from tests.report import architectures as a
from tests.report import faults
from tests.report.healthy import COUNT, healthy


@dataclass
class Planted:
    """A network with one fault.

    Attributes:
        name: the architecture and the fault in words.
        sample, optimizer, formats: what is examined.
        code: the truth.
        layer: the block in which it is, None where it is of the whole network.
    """

    name: str
    sample: a.Sample
    code: str
    layer: str | None
    optimizer: torch.optim.Optimizer | None = None
    formats: tuple[str, ...] = ("float16", "bfloat16", "float32")


ALL: list[Callable[[], Planted]] = [make for code in faults.FAULTS for make in faults.FAULTS[code](Planted)]


def is_right(found: st.Finding, truth: Planted) -> bool:
    """Whether a finding names the place: the block or what is inside it; for the whole network None."""
    if found.code != truth.code:
        return False
    if truth.layer is None:
        return found.layer is None
    return found.layer is not None and (found.layer == truth.layer or found.layer.startswith(f"{truth.layer}."))


def examined(truth: Planted) -> st.Report:
    sample = truth.sample
    return st.examine(sample.net, sample.x, sample.loss, optimizer=truth.optimizer, formats=truth.formats, budget=20.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth of both")
    parser.add_argument("--only", help="one code")
    parser.add_argument("--out", type=Path, help="folder for the CSV")
    parser.add_argument("--seed", type=int, default=0, help="added to all seeds: other networks of the same kinds")
    given = parser.parse_args()
    a.OFFSET[0] = given.seed
    torch.set_num_threads(1)
    rows, began = [], time.time()
    for number, make in list(enumerate(ALL))[:: given.every]:
        truth = make()
        if given.only and truth.code != given.only:
            continue
        try:
            report = examined(truth)
        except Exception as error:
            print("RAISED", truth.name, truth.code, repr(error)[:600], sep=" | ", file=sys.stderr)
            rows.append(("planted", number, truth.name, truth.code, truth.layer, False, [], 0.0))
            continue
        right = [f for f in report.findings if is_right(f, truth)]
        found = [(f.code, f.severity, f.layer) for f in report.findings]
        rows.append(("planted", number, truth.name, truth.code, truth.layer, bool(right), found, report.seconds))
        if not right:
            print("MISSED", truth.name, truth.code, truth.layer, found, *report.notes, sep=" | ", file=sys.stderr)
    for number in range(0, 0 if given.only else COUNT, given.every):
        name, sample, optimizer = healthy(number)
        report = st.examine(sample.net, sample.x, sample.loss, optimizer=optimizer, budget=20.0)
        found = [(f.code, f.severity, f.layer) for f in report.findings]
        rows.append(("healthy", number, name, "healthy", None, report.healthy, found, report.seconds))
        if not report.healthy:
            print("FALSE", name, found, [dict(f.evidence) for f in report.findings], sep=" | ", file=sys.stderr)
    print(confusion(rows))
    print(f"{time.time() - began:.0f} s, {max(row[7] for row in rows):.1f} s for the slowest")
    if given.out:
        write(rows, given.out)


def confusion(rows: list[tuple]) -> str:
    """Return the table: by planted code how many there are, found with the right layer, and what else was found."""
    lines = [f"{'planted':<20}{'all':>5}{'found':>7}  other broken or harmful findings"]
    for code in dict.fromkeys(row[3] for row in rows):
        own = [row for row in rows if row[3] == code]
        other = Counter(c for row in own for c in {f[0] for f in row[6] if f[1] != "watch"} - {code})
        words = ", ".join(f"{name} {count}" for name, count in other.most_common())
        lines.append(f"{code:<20}{len(own):>5}{sum(row[5] for row in own):>7}  {words}")
    planted = [row for row in rows if row[0] == "planted"]
    sound = [row for row in rows if row[0] == "healthy"]
    if planted:
        share = sum(row[5] for row in planted) / len(planted)
        lines.append(
            f"planted faults found in the right layer: {sum(r[5] for r in planted)} of {len(planted)}, {share:.1%}"
        )
    if sound:
        wrong = sum(not row[5] for row in sound)
        lines.append(
            f"healthy networks with a broken or harmful finding: {wrong} of {len(sound)}, {wrong / len(sound):.1%}"
        )
        watched = Counter(code for row in sound for code in {f[0] for f in row[6]})
        lines.append(
            "findings of healthy networks, of any severity: " + ", ".join(f"{c} {n}" for c, n in watched.items())
        )
    return "\n".join(lines)


def write(rows: list[tuple], folder: Path) -> None:
    with (folder / "examine_confusion.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "number", "name", "code", "layer", "right", "findings"])
        for row in rows:
            words = "; ".join(f"{code}:{severity}:{layer}" for code, severity, layer in row[6])
            writer.writerow([*row[:6], words])
    draw(rows).savefig(folder / "examine_confusion.png", dpi=150, metadata={"Software": None})


def draw(rows: list[tuple]) -> Figure:
    """Return the confusion matrix as a picture: rows are planted, columns found, in per cent of the row."""
    codes = list(faults.FAULTS)
    planted = [*codes, "healthy"]
    counts = np.zeros((len(planted), len(codes)))
    for row in rows:
        # What was planted counts at any severity, anything else where it is broken or harmful.
        found = {code for code, severity, _ in row[6] if severity != "watch"} - {row[3]}
        found |= {row[3]} if row[5] and row[3] in codes else set()
        for code in found:
            counts[planted.index(row[3]), codes.index(code)] += 1
    totals = np.array([max(1, sum(row[3] == code for row in rows)) for code in planted])
    shares = 100 * counts / totals[:, None]
    figure = Figure(figsize=(8, 7.2), layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (i, j), share in np.ndenumerate(shares):
        if share:
            ax.text(
                j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white" if share > 60 else "black"
            )
    ax.set_xticks(range(len(codes)), codes, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(planted)), [f"{c} ({n})" for c, n in zip(planted, totals, strict=True)], fontsize=8)
    ax.set_xlabel("found: what was planted in its layer at any severity, anything else broken or harmful, in %")
    ax.set_ylabel("planted (how many)")
    right, wrong = sum(r[5] for r in rows if r[0] == "planted"), sum(not r[5] for r in rows if r[0] == "healthy")
    ax.set_title(
        f"{right} of {sum(totals[:-1])} planted faults found in their layer, {wrong} of {totals[-1]} healthy flagged"
    )
    return figure


if __name__ == "__main__":
    main()
