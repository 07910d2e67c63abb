"""The main facts of what is measured over trainings, depths and grids, beside those of one network."""

from __future__ import annotations

import math

from stability.flows import Flow
from stability.report.result_facts import Rows, names_of, power_of
from stability.report.result_facts import facts as facts
from stability.scaling import DepthCheck
from stability.signals import DeathRecord, WatchRecord
from stability.sweeps.cells import words_of
from stability.sweeps.opened import Sweep
from stability.training import History


@facts.register
def _flow(one: Flow) -> Rows:
    rows: Rows = [
        ("equation", f"{one.kind}, of {one.formula}"),
        ("depths", f"{len(one.depths)}, {one.depths[0]} to {one.depths[-1]}"),
        ("over", f"{len(one.members)} seeds, {len(one.x)} points, width {one.x.shape[1]}"),
        ("found", one.finding),
    ]
    if one.kind == "ordinary":
        middle = one.distances[-1].median()
        rows.append(("distance at the last depth, median", f"{float(middle):.2e}"))
    return rows


@facts.register
def _record(one: WatchRecord) -> Rows:
    rows: Rows = [("iterations", str(len(one))), ("layers", names_of(one.layers)), ("seeds", str(len(one.members)))]
    if len(one) and one.layers:
        last = one.log_gradients[-1]
        for place in [0, len(one.layers) - 1] if len(one.layers) > 1 else [0]:
            if not last[place].isnan().all():
                words = "not finite" if (last[place] == math.inf).any() else power_of(last[place])
                rows.append((f"last gradient of {one.layers[place]}", words))
    skipped = int(one.skipped.sum())
    return [*rows, ("steps skipped", str(skipped))] if skipped else rows


@facts.register
def _deaths(one: DeathRecord) -> Rows:
    died, again = one.iteration_of_death >= 0, one.revivals > 0
    return [
        ("iterations", str(len(one.dead))),
        ("seeds", str(len(one.born))),
        ("born dead", str(int((one.born > 0).sum()))),
        ("died in training", str(int(died.sum()))),
        ("were alive again", str(int(again.sum()))),
        ("dead now", str(int((one.layer > 0).sum()))),
    ]


@facts.register
def _depth_check(one: DepthCheck) -> Rows:
    rows: Rows = [
        ("depths", ", ".join(map(str, one.depths))),
        ("layers", f"{one.layers[0]} to {one.layers[-1]} of {one.kind}"),
        ("trained", f"{one.steps} updates by {one.optimizer}, {len(one.seeds)} seeds"),
    ]
    rows += [(name, str(exponent)) for name, exponent in one.exponents.items()]
    lost = int((one.diverged >= 0).sum())
    return [*rows, ("diverged", f"{lost} of {one.diverged.numel()}"), ("advice", one.advice)]


@facts.register
def _history(one: History) -> Rows:
    low, middle, high = (float(one.best_loss.quantile(q, interpolation="nearest")) for q in (0.0, 0.5, 1.0))
    ended = " (interrupted)" if one.interrupted else ""
    rows: Rows = [
        ("method", f"{one.method}, {'compiled' if one.path == 'kernel' else one.path}"),
        ("iterations", f"{len(one.loss) - 1}{ended}"),
        ("seeds", str(len(one.members))),
        ("best loss", f"{low:.2e} to {high:.2e}, median {middle:.2e}"),
    ]
    for words, when in (("stopped", one.stopped_iteration), ("converged", one.converged_iteration)):
        if (when >= 0).any():
            rows.append((f"seeds that {words}", str(int((when >= 0).sum()))))
    return rows


@facts.register
def _sweep(one: Sweep) -> Rows:
    found = one.progress()
    rows: Rows = [("function", found.function), ("cells", f"{found.there} of {found.cells} are there")]
    rows.append(("failed", str(found.failed)))
    return [*rows, *((words_of(dict(failure.cell)), failure.error) for failure in one.failed[:3])]
