"""Rules on what travels through the layers: states, gradients, and what tells points apart."""

from __future__ import annotations

import itertools
import math

from torch import nn

from stability.reading.inputs import Inputs
from stability.report.case import Case, advice, settled
from stability.report.finding import Finding, Trial, counted
from stability.report.growth import Change, farthest
from stability.report.observation import Observation
from stability.report.remedies import orthogonal, rescale
from stability.report.thresholds import least_spread, log_range

_WORDS = {
    "vanishing_signal": ("state", "falls", "what a bias or a skip adds later drowns it"),
    "exploding_signal": ("state", "grows", "what later layers add to it is lost, and the range of a format is near"),
    "vanishing_gradient": ("gradient", "falls on its way back", "at one rate early layers stand still"),
    "exploding_gradient": (
        "gradient",
        "grows on its way back",
        "at a rate that suits the last layers the first diverge",
    ),
}


def states_and_gradients(case: Case) -> None:
    """Find states and gradients that fall or grow by more than 1/u of the format: see `thresholds.log_range`."""
    for code in _WORDS:
        if not _explained(case, code):
            _one(case, code)


def _explained(case: Case, code: str) -> bool:
    # Beyond units that pass nothing there is nothing that could fall.
    return code.startswith("vanishing") and any(
        f.severity == "broken" for f in case.found("dead_units", "cut_gradient")
    )


def _path(seen: Observation, code: str) -> tuple[list[float], list[int]]:
    """Return logs along the way of a quantity, and for each the number of layers before its place."""
    logs = seen.log_sizes if code.endswith("signal") else seen.log_gradients
    places = [k for k, log in enumerate(logs) if log is not None]
    if code.endswith("gradient"):
        places = places[::-1]
    known: list[float] = []
    for place in places:
        log = logs[place]
        if log is None or not math.isfinite(log):
            break
        known.append(log)
    return known, places[: len(known)]


def change_of(seen: Observation, code: str) -> tuple[Change | None, list[int]]:
    """Return the farthest change of a quantity in the direction of a code, and the places along its way."""
    logs, places = _path(seen, code)
    return farthest(logs, -1 if code.startswith("vanishing") else 1), places


def _decades(seen: Observation, code: str) -> float:
    change, _ = change_of(seen, code)
    lost = seen.log_sizes if code.endswith("signal") else seen.log_gradients
    if change is None or math.inf in lost or (code.startswith("vanishing") and -math.inf in lost):
        return math.nan
    return change.size / math.log(10)


def _one(case: Case, code: str) -> None:
    what, verb, harm = _WORDS[code]
    change, places = change_of(case.seen, code)
    limit = log_range(case.seen.dtype)
    if change is None:
        return
    single = change.share > 0.5
    one, other = sorted((places[change.largest], places[change.largest + 1])) if change.size else (0, 1)
    layer = case.name(one) if single and other == one + 1 else None
    decades, most = change.size / math.log(10), limit / math.log(10)
    case.look(code, f"decades by which the {what} {verb}", decades, most, layer)
    settled_rate = single or change.low * change.high > 0
    if change.size <= limit or not settled_rate:
        return
    trial = None
    if not case.late:
        names = None if layer is None else (layer,)
        trial = settled(
            [_rescaled(case, code, decades, names), _orthogonal(case, code, decades, names)],
            lambda t: t.after < max(most / 2, t.before / 4),
        )
    evidence = {
        "decades": decades,
        "threshold": most,
        "rate_a_layer": change.rate,
        "layers": change.stop - change.start,
    }
    if math.isfinite(change.low):
        evidence |= {"rate_low": change.low, "rate_high": change.high}
    where = f", {change.share:.0%} of it in this layer" if layer is not None else ""
    # Of few points it may be chance that the units of a layer pass nothing.
    chance = case.few and any(f.code in ("dead_units", "saturated") for f in case.findings)
    case.findings.append(
        Finding(
            code,
            "watch" if chance else "harmful",
            layer,
            evidence,
            f"The {what} {verb} by {decades:.1f} decades{where}, more than {str(case.seen.dtype)[6:]} tells apart: "
            f"{harm}.",
            advice(
                trial, "No start or scale that was tried on a copy helps: shorten it, or add skips or norms.", case.late
            ),
            trial,
        )
    )


def _rescaled(case: Case, code: str, before: float, names: tuple[str, ...] | None) -> Trial | None:
    def change(net: nn.Module, inputs: Inputs) -> None:
        rescale(net, inputs, names)

    where = "" if names is None else f" of {names[0]!r}"
    words = f"divide the weights{where} by the standard deviation of what they make, with biases at 0 (LSUV)"
    return case.try_out(words, "decades", before, change, lambda seen: _decades(seen, code))


def _orthogonal(case: Case, code: str, before: float, names: tuple[str, ...] | None) -> Trial | None:
    # The gain that keeps the mean square through a ReLU; of others 1.
    gain = math.sqrt(2) if any(gate.kind == "relu" for gate in case.seen.gates) else 1.0
    words = f"start with orthogonal weights of gain {gain:.2f} and biases at 0"
    return case.try_out(
        words, "decades", before, lambda net, _: orthogonal(net, names, gain), lambda seen: _decades(seen, code)
    )


def collapsed(case: Case) -> None:
    """Find the layer after which different points are the same: spread below u, and "watch" below sqrt(u).

    The spread is the distance of the points from their mean, over the root mean square of the state, taken in float64;
    u is of the network's own format. What happens by units that are dead or a gradient that is cut is told there, and
    so is an input without spread. A last layer of weights that are 0, as some recipes start it, is "watch".
    """
    seen = case.wide or case.seen
    known = [(k, spread) for k, spread in enumerate(seen.log_spreads) if spread is not None]
    if len(known) < 2 or any(f.severity == "broken" for f in case.found("dead_units")):
        return
    first, least = known[0][1], least_spread(case.seen.dtype)
    place, lowest = min(known[1:], key=lambda pair: pair[1])
    case.look("collapsed", "spread of the points over their size", math.exp(lowest), least, case.name(place - 1))
    # An input that hardly differs has no spread to lose.
    if first < math.log(least) / 2 or lowest > math.log(least) / 2:
        return
    # A head that starts at 0 has the same output for all points, and learns at once.
    head = lowest == -math.inf and place == known[-1][0] and known[-2][1] > math.log(least)
    harmful = lowest < math.log(least) and not head
    threshold = least if harmful else math.sqrt(least)
    place = next(k for k, spread in known[1:] if spread < math.log(threshold))
    steps = [(b[0], b[1] - a[1]) for a, b in itertools.pairwise(known)]
    worst = min(steps, key=lambda step: step[1])
    single = worst[1] < 0.5 * (lowest - first)
    layer = case.name(worst[0] - 1) if single else None
    change = farthest([spread for _, spread in known], -1)
    evidence = {"spread": math.exp(lowest), "threshold": threshold, "spread_of_the_input": math.exp(first)}
    evidence["after_layers"] = float(place)
    if change is not None and math.isfinite(change.low):
        evidence |= {"rate_a_layer": change.rate, "rate_low": change.low, "rate_high": change.high}
    trial = None
    if harmful:
        trials = [_spread_after(case, math.exp(lowest), layer if single else None, kind) for kind in (0, 1)]
        trial = settled(trials, lambda t: t.after > math.sqrt(least))
    case.findings.append(
        Finding(
            "collapsed",
            "harmful" if harmful else "watch",
            layer,
            evidence,
            f"Different points become the same: they end {math.exp(lowest):.1g} of their size from their mean, below "
            f"{threshold:.1g} after {counted(place, 'layer')}, and what follows cannot tell them apart.",
            advice(
                trial,
                "Use weights at the edge of chaos, skips, or fewer layers; no start tried on a copy helps.",
                case.late,
            ),
            trial,
        )
    )


def _spread_after(case: Case, before: float, layer: str | None, kind: int) -> Trial | None:
    names = None if layer is None else (layer,)
    gain = math.sqrt(2) if any(gate.kind == "relu" for gate in case.seen.gates) else 1.0

    def change(net: nn.Module, inputs: Inputs) -> None:
        if kind:
            orthogonal(net, names, gain)
        else:
            rescale(net, inputs, names)

    def measure(seen: Observation) -> float:
        return math.exp(min((s for s in seen.log_spreads[1:] if s is not None), default=math.nan))

    words = (f"start with orthogonal weights of gain {gain:.2f} and biases at 0",) * kind or (
        "divide the weights by the standard deviation of what they make, with biases at 0 (LSUV)",
    )
    return case.try_out(words[0], "the spread", before, change, measure, backward=False)
