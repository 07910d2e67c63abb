"""Rules on the points, on what becomes of near ones, and on the weights that take directions away."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from stability.foundation.log_norms import log_norm
from stability.reading.in_format import in_format
from stability.reading.inputs import Inputs
from stability.reading.running import run
from stability.reading.traces import undisturbed
from stability.reading.trees import tensors_in
from stability.report.case import Case, advice, settled
from stability.report.finding import Finding, Trial
from stability.report.observation import Observation
from stability.report.remedies import orthogonal, rescale
from stability.report.thresholds import SCALE, SPREAD_HARMFUL, SPREAD_WATCH, condition, parting

#: The relative change of the points that `chaotic` follows in float64: small enough to be linear as long as it grows by
#: less than 1e6, and 1e7 times what float64 rounds.
NUDGE = 1e-9


def input_scale(case: Case) -> None:
    """Find points that hardly differ from one another, or are far from order 1: see `thresholds.SPREAD_HARMFUL`.

    The scale does not count where the first module is a normalisation.
    """
    if not _floating(case.reading.inputs) or case.reading.source is not None:
        return
    size, spread = case.seen.log_sizes[0], case.seen.log_spreads[0]
    if spread is not None:
        value = math.exp(spread)
        case.look("input_scale", "spread of the points over their root mean square", value, SPREAD_WATCH)
        if value < SPREAD_WATCH:
            words = "take the mean from the points and divide by their standard deviation"

            def after(seen: Observation) -> float:
                found = seen.log_spreads[0]
                return math.nan if found is None else math.exp(found)

            trial = case.try_out(words, "the spread", value, _standardised, after, backward=False)
            harmful = value < SPREAD_HARMFUL
            case.findings.append(
                Finding(
                    "input_scale",
                    "harmful" if harmful else "watch",
                    None,
                    {"spread": value, "threshold": SPREAD_HARMFUL if harmful else SPREAD_WATCH},
                    f"The points differ by {value:.2g} of their size: what they have in common is learned first, and "
                    f"what tells them apart {1 / max(value, 1e-150) ** 2:.2g} times slower.",
                    advice(settled([trial], lambda t: t.after > SPREAD_WATCH), "Take the mean from the points."),
                    settled([trial], lambda t: t.after > SPREAD_WATCH),
                )
            )
            return
    if size is None or not math.isfinite(size) or _normalises_first(case.net):
        return
    value = math.exp(abs(size))
    case.look("input_scale", "factor of the points away from order 1", value, SCALE)
    if value <= SCALE:
        return

    def scale_after(seen: Observation) -> float:
        found = seen.log_sizes[0]
        return math.nan if found is None else math.exp(abs(found))

    words = "take the mean from the points and divide by their standard deviation"
    trial = settled(
        [case.try_out(words, "the factor", value, _standardised, scale_after, backward=False)],
        lambda t: t.after < SCALE,
    )
    case.findings.append(
        Finding(
            "input_scale",
            "watch",
            None,
            {"size": math.exp(size), "factor": value, "threshold": SCALE},
            f"The points have a root mean square of {math.exp(size):.2g}, where starts are made for 1.",
            advice(trial, "Divide the points by their standard deviation."),
            trial,
        )
    )


def _floating(inputs: Inputs) -> bool:
    return any(t.is_floating_point() for _, t in inputs.tensors())


def _normalises_first(net: nn.Module) -> bool:
    first = next((m for m in net.modules() if not list(m.children()) and list(m.parameters(recurse=False))), None)
    return first is not None and "Norm" in type(first).__name__


def _standardised(_: nn.Module, inputs: Inputs) -> Inputs:
    done: list[Tensor] = []

    def change(tensor: Tensor) -> Tensor:
        if done or not tensor.is_floating_point():
            return tensor
        done.append(tensor)
        wide = tensor.double()
        apart = wide - wide.mean(dim=0, keepdim=True)
        return (apart / apart.square().mean().sqrt().clamp(min=1e-300)).to(tensor.dtype)

    return inputs.mapped(change)


def chaotic(case: Case) -> None:
    """Find networks in which near points part: a small difference grows by more than 1/sqrt(u), relative to the state.

    The points are moved by a relative 1e-9 in a random direction, in float64.
    """
    if not _floating(case.reading.inputs) or case.wide is None or case.seen.random or case.late:
        return
    amplification = _amplification(case, case.net, case.reading.inputs)
    if amplification is None:
        return
    limit = parting(case.seen.dtype)
    case.look("chaotic", "growth of a small relative difference between points", amplification, limit)
    if amplification <= limit:
        return
    spread = case.seen.log_spreads[0]
    if spread is not None and spread < math.log(SPREAD_HARMFUL):
        return  # points that hardly differ part as soon as their mean is taken away
    words = "divide the weights by the standard deviation of what they make, with biases at 0 (LSUV)"
    trials = []
    for number, name in enumerate((words, "start with orthogonal weights of gain 1 and biases at 0")):

        def change(net: nn.Module, inputs: Inputs, number: int = number) -> None:
            if number:
                orthogonal(net)
            else:
                rescale(net, inputs)

        if case.late:
            break
        twin = copy.deepcopy(case.net)
        try:
            with torch.no_grad():
                change(twin, case.reading.inputs)
            after = _amplification(case, twin, case.reading.inputs)
        except (ValueError, RuntimeError):
            after = None
        trials.append(None if after is None else Trial(name, "the growth of a small difference", amplification, after))
    trial = settled(trials, lambda t: t.after < limit)
    case.findings.append(
        Finding(
            "chaotic",
            "harmful",
            None,
            {"growth": amplification, "threshold": limit},
            f"A difference of 1e-9 between two points grows by {amplification:.2g}: near points end far apart, and a "
            "step of the optimiser does not do what its gradient says.",
            advice(trial, "Make the weights smaller, or add skips with branches over the root of the depth."),
            trial,
        )
    )


def _amplification(case: Case, net: nn.Module, inputs: Inputs) -> float | None:
    """Return the relative change of the output over that of the points, the median over the points; None for none."""
    reading = in_format(replace(case.reading, module=net, inputs=inputs), torch.float64)
    generator = torch.Generator().manual_seed(1)
    moved: list[Tensor] = []

    def nudge(tensor: Tensor) -> Tensor:
        if moved or not tensor.is_floating_point():
            return tensor
        moved.append(tensor)
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor + NUDGE * noise * tensor.double().square().mean().sqrt()

    with undisturbed(reading.module), torch.no_grad():
        plain = [t.double() for t in tensors_in(run(reading.module, reading.copied())) if t.is_floating_point()]
    with undisturbed(reading.module), torch.no_grad():
        other = [t.double() for t in tensors_in(run(reading.module, reading.copied().mapped(nudge)))]
    if not plain or not plain[0].numel() or plain[0].shape != other[0].shape:
        return None
    lead = plain[0].shape[0] if plain[0].ndim else 1
    sizes = [float(log_norm(t)) for t in plain[0].reshape(lead, -1)]
    changes = [float(log_norm(t)) for t in (other[0] - plain[0]).reshape(lead, -1)]
    logs = sorted(a - b for a, b in zip(changes, sizes, strict=True) if math.isfinite(b) and math.isfinite(a))
    return math.exp(min(logs[len(logs) // 2], 700.0)) / NUDGE if logs else None


def ill_conditioned(case: Case) -> None:
    """Find weights with a condition number above 1/u: see `thresholds.condition`.

    "watch", and "harmful" where a weight of four rows and columns or more has rank one: all points then lie on a line.
    Weights of zeros, embeddings and weights of more than 2^20 numbers are left out.
    """
    worst: tuple[float, str] = (1.0, "")
    found: list[tuple[float, str, int, int]] = []
    limit = condition(1, case.seen.dtype)
    for name, module in case.net.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2 or case.late or not 4 <= parameter.numel() <= 2**20:
                continue
            matrix = parameter.detach().double().flatten(1)
            values = torch.linalg.svdvals(matrix) if min(matrix.shape) > 1 else torch.ones(1)
            top = float(values[0])
            if top == 0 or len(values) < 2:
                continue
            number = top / float(values[-1]) if values[-1] > 0 else math.inf
            full = f"{name}.{own}" if name else own
            worst = max(worst, (number, full))
            if number > condition(min(matrix.shape), case.seen.dtype):
                rank = int((values > top * max(matrix.shape) * torch.finfo(case.seen.dtype).eps).sum())
                found.append((number, full, rank, len(values)))
    if case.late and not worst[1]:
        return  # no time was left to look at any
    case.look("ill_conditioned", "condition number of a weight", worst[0], limit, worst[1] or None)
    for number, name, rank, width in sorted(found, reverse=True)[:3]:
        owner = name.rpartition(".")[0]
        trial = None
        if isinstance(case.net.get_submodule(owner), nn.Linear | nn.modules.conv._ConvNd):
            with undisturbed(nn.Module()):
                twin = nn.init.orthogonal_(case.net.get_parameter(name).detach().clone())
            spread = torch.linalg.svdvals(twin.double().flatten(1))
            after = float(spread[0] / spread[-1])
            trial = Trial("start it as an orthogonal matrix", "its condition number", min(number, 1e300), after)
        harmful = rank == 1 and width >= 4
        case.findings.append(
            Finding(
                "ill_conditioned",
                "harmful" if harmful else "watch",
                name,
                {"condition": number, "threshold": limit, "rank": float(rank), "width": float(width)},
                f"Its condition number is {number:.2g}: of {width} directions {rank} are left in "
                f"{str(case.seen.dtype)[6:]}.",
                advice(trial, "Start it anew, or take its rank for what it is."),
                trial,
            )
        )
