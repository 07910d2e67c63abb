"""Rules on single activations and normalisations: dead and saturated units, and variances below epsilon."""

from __future__ import annotations

import math

from torch import nn

from stability.foundation.formats import Format
from stability.reading.inputs import Inputs
from stability.report.case import Case, advice, settled
from stability.report.finding import Finding, counted
from stability.report.observation import Observation
from stability.report.remedies import feeding, rescale, without_bias
from stability.report.seen_nodes import Gate
from stability.report.thresholds import (
    BLOCKED_SHARE,
    DEAD_SHARE,
    DEAD_UNITS_SHARE,
    LEAST_NUMBERS,
    LEAST_POINTS,
    NORM_SHARE,
    SATURATED_SHARE,
)


def _of(seen: Observation, gate: Gate) -> Gate | None:
    return next((one for one in seen.gates if (one.module, one.kind) == (gate.module, gate.kind)), None)


def dead_units(case: Case) -> None:
    """Find activations in which all units are at 0 at all points, and "watch" where over half of the units are.

    "broken" where all of the network passes through it, "harmful" in a branch, whose parameters get no gradient.
    """
    gates = [gate for gate in case.seen.gates if gate.kind == "relu"]
    if not gates:
        return
    worst = max(gates, key=lambda gate: (gate.blocked_points, gate.dead))
    quantity = "share of points at which all units have derivative 0"
    case.look("dead_units", quantity, worst.blocked_points, DEAD_SHARE, worst.module)
    blocked = [gate for gate in gates if gate.blocked_points >= DEAD_SHARE]
    # What comes after a dead layer on the only way is fed by its biases alone.
    for gate in blocked[:3]:
        severity = "broken" if gate.separates else "harmful"
        if gate.points < LEAST_POINTS and gate.points * gate.numbers < LEAST_NUMBERS:
            severity = "watch"

        def measure(seen: Observation, gate: Gate = gate) -> float:
            after = _of(seen, gate)
            return math.nan if after is None else after.blocked_points

        def no_bias(net: nn.Module, _: Inputs, gate: Gate = gate) -> None:
            without_bias(net, gate.module)

        def smaller(net: nn.Module, inputs: Inputs, gate: Gate = gate) -> None:
            rescale(net, inputs, feeding(net, gate.module) or None)

        trials = [
            case.try_out("set the biases before it to 0", quantity, 1.0, no_bias, measure, False),
            case.try_out(
                "scale the weights before it, with biases at 0 (LSUV)", quantity, 1.0, smaller, measure, False
            ),
        ]
        trial = settled(trials, lambda t: t.after < BLOCKED_SHARE)
        what = "nothing of the input gets through" if gate.separates else "the branch passes nothing"
        case.findings.append(
            Finding(
                "dead_units",
                severity,
                gate.module,
                {"blocked_points": gate.blocked_points, "threshold": DEAD_SHARE, "dead_units": gate.dead},
                f"The derivative of all units is 0 at every point: {what}, and the weights before it get no gradient.",
                advice(trial, "Look at what enters it: no bias or scale that was tried on a copy helps.", case.late),
                trial,
            )
        )
    many = [
        g for g in gates if g.dead > DEAD_UNITS_SHARE and g.blocked_points < DEAD_SHARE and g.points >= LEAST_POINTS
    ]
    if many and not blocked:
        gate = max(many, key=lambda one: one.dead)
        case.findings.append(
            Finding(
                "dead_units",
                "watch",
                gate.module,
                {"dead_units": gate.dead, "threshold": DEAD_UNITS_SHARE, "points": gate.points},
                f"The derivative of {gate.dead:.0%} of its units is 0 at every one of {counted(gate.points, 'point')}.",
                "More points tell whether they are dead; where all points have become alike, half of them are.",
            )
        )


def saturated(case: Case) -> None:
    """Find tanh, sigmoid and softmax at the end of their range, where the derivative rounds to 0.

    A tanh or sigmoid from `thresholds.SATURATED_SHARE` of its numbers on is "watch", a softmax from half of its rows
    on; "harmful" is over half of the numbers, so that most ways through the layer are blocked.
    """
    for gate in case.seen.gates:
        if gate.kind not in ("tanh", "sigmoid", "softmax"):
            continue
        limit = BLOCKED_SHARE if gate.kind == "softmax" else SATURATED_SHARE
        what = "rows" if gate.kind == "softmax" else "numbers"
        quantity = f"share of {what} of a {gate.kind} whose derivative rounds to 0"
        case.look("saturated", quantity, gate.blocked, limit, gate.module)
        if gate.blocked <= limit:
            continue

        def measure(seen: Observation, gate: Gate = gate) -> float:
            after = _of(seen, gate)
            return math.nan if after is None else after.blocked

        def smaller(net: nn.Module, inputs: Inputs, gate: Gate = gate) -> None:
            rescale(net, inputs, feeding(net, gate.module) or None)

        def shrink(net: nn.Module, _: Inputs, gate: Gate = gate) -> None:
            for name in feeding(net, gate.module):
                for parameter in net.get_submodule(name).parameters(recurse=False):
                    parameter.mul_(0.01)

        words = "divide the weights before it by the standard deviation of what they make, with biases at 0"
        trials = [
            case.try_out(words, quantity, gate.blocked, smaller, measure, False),
            case.try_out(
                "make the weights and biases before it 100 times smaller",
                quantity,
                gate.blocked,
                shrink,
                measure,
                False,
            ),
        ]
        trial = settled(trials, lambda t, limit=limit: t.after <= limit / 2)  # type: ignore[misc]
        case.findings.append(
            Finding(
                "saturated",
                "harmful" if gate.blocked > BLOCKED_SHARE and not case.few else "watch",
                gate.module,
                {"share": gate.blocked, "threshold": limit},
                f"At {gate.blocked:.0%} of its {what} the {gate.kind}'s derivative rounds to 0: no gradient passes.",
                advice(trial, "Scale what enters it down: its weights, or the points."),
                trial,
            )
        )


def norm_epsilon(case: Case) -> None:
    """Find normalisations whose variance is below their epsilon: var / (var + epsilon) below a half.

    What leaves them is then not of order 1. Most networks train in spite of it: "watch", and "harmful" where what
    leaves is below sqrt(u) of what it should be, var < u epsilon, as nothing of it is left beside a bias.
    """
    if not case.seen.norms:
        return
    worst = min(case.seen.norms, key=lambda norm: norm.share)
    quantity = "var / (var + epsilon) of a normalisation"
    case.look("norm_epsilon", quantity, worst.share, NORM_SHARE, worst.module)
    held: dict[str, float] = {}
    for norm in case.seen.norms:
        if norm.share < NORM_SHARE:
            held[norm.module] = min(norm.share, held.get(norm.module, 1.0))
    for module, share in sorted(held.items(), key=lambda pair: pair[1])[:3]:
        trial = None
        if share > 0:

            def change(net: nn.Module, _: Inputs, module: str = module, share: float = share) -> None:
                norm = net.get_submodule(module)
                if isinstance(getattr(norm, "eps", None), float):
                    norm.eps = norm.eps * share / 100  # type: ignore[assignment, operator]

            def measure(seen: Observation, module: str = module) -> float:
                return min((n.share for n in seen.norms if n.module == module), default=math.nan)

            words = "make its epsilon smaller than a hundredth of the variance"
            trial = settled([case.try_out(words, quantity, share, change, measure, False)], lambda t: t.after > 0.5)
        severity = "harmful" if share < Format(case.seen.dtype).roundoff else "watch"
        case.findings.append(
            Finding(
                "norm_epsilon",
                severity,
                module,
                {"share": share, "threshold": NORM_SHARE},
                f"The variance of what it takes is {share / max(1 - share, 1e-300):.2g} times its epsilon, so that it "
                f"does not bring it to order 1: {math.sqrt(share):.2g} of that leaves it.",
                advice(trial, "What enters it hardly varies: look at the layers before, or make its epsilon smaller."),
                trial,
            )
        )
