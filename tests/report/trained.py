"""An independent truth of severity: does it train? `python -m tests.report.trained` asks every network.

Each is trained for 200 iterations of Adam at 1e-3 on two batches, the halves of its points; by its own optimiser where
the fault is in that. Harm is the loss in the end over that of chance, ln 4 for four classes: 0 where it has learned
them, 1 where nothing.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
from pathlib import Path

import torch

import stability as st
from tests.report.healthy import COUNT, healthy
from tests.report.planted import ALL, examined

ITERATIONS = 200
#: From here on a network counts as one that does not learn: less than a quarter of chance is gone.
HARMED = 0.75


def harm_of(sample, optimizer) -> float:
    """Return the loss after training over that of chance; 1 where it is not finite or raises."""
    net, own = copy.deepcopy((sample.net, optimizer))
    net.train()
    own = torch.optim.Adam(net.parameters(), 1e-3) if own is None else own
    half = len(sample.x) // 2
    batches = [sample.x[:half], sample.x[half:]]
    torch.manual_seed(0)
    last = []
    try:
        for number in range(ITERATIONS):
            own.zero_grad()
            value = sample.loss(net(batches[number % 2]))
            value.backward()
            own.step()
            last.append(float(value.detach()))
    except RuntimeError:
        return 1.0
    # A planted loss may be scaled: chance is what it is at the start, if that is below ln 4.
    chance = math.log(4) if last[0] > 1e-3 else last[0]
    harm = sum(last[-2:]) / 2 / chance
    return min(harm, 1.0) if math.isfinite(harm) else 1.0


def worst(report: st.Report) -> str:
    """Return the worst severity of a report, "none" without findings."""
    return report.findings[0].severity if report.findings else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth of both")
    parser.add_argument("--out", type=Path, help="folder for the CSV")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(given.every)
    print(table(rows))
    if given.out:
        with (given.out / "examine_training.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["code", "name", "severity", "harm"])
            writer.writerows((code, name, severity, f"{harm:.4f}") for code, name, severity, harm in rows)


def measured(every: int, start: int = 0) -> list[tuple[str, str, str, float]]:
    """Return code, name, worst severity and harm of every so manieth network of both sets."""
    rows = []
    for number in range(start, len(ALL), every):
        truth = ALL[number]()
        rows.append((truth.code, truth.name, worst(examined(truth)), harm_of(truth.sample, truth.optimizer)))
    for number in range(start, COUNT, every):
        name, sample, optimizer = healthy(number)
        report = st.examine(sample.net, sample.x, sample.loss, optimizer=optimizer)
        # Their own optimisers are slower than Adam at 1e-3 where a network has to learn labels without a rule.
        rows.append(("healthy", name, worst(report), harm_of(sample, None)))
    return rows


def shares(rows: list[tuple[str, str, str, float]]) -> tuple[int, int, int, int]:
    """Return how many do not learn, how many of them have a broken or harmful finding, and both of those that learn."""
    ill = [row[2] in ("broken", "harmful") for row in rows if row[3] > HARMED]
    well = [row[2] in ("broken", "harmful") for row in rows if row[3] <= HARMED]
    return len(ill), sum(ill), len(well), sum(well)


def table(rows: list[tuple[str, str, str, float]]) -> str:
    """Return by severity, and by code, how many learn and how many do not."""
    lines = [f"{'':<22}{'all':>5}{'learn not':>12}{'median harm':>13}"]
    groups = {f"severity {s}": [r for r in rows if r[2] == s] for s in ("broken", "harmful", "watch", "none")}
    groups |= {code: [r for r in rows if r[0] == code] for code in dict.fromkeys(row[0] for row in rows)}
    for name, own in groups.items():
        if own:
            harms = sorted(row[3] for row in own)
            lines.append(f"{name:<22}{len(own):>5}{sum(h > HARMED for h in harms):>12}{harms[len(harms) // 2]:>13.3f}")
    ill, told, well, wrong = shares(rows)
    lines.append(f"broken or harmful: {told} of {ill} that do not learn, {wrong} of {well} that do")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
