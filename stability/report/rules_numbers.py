"""Rules on numbers that are not finite, and on the formats that fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from stability.foundation.formats import FORMATS, Format, format_name
from stability.precision import FirstFailures, first_failure
from stability.reading import Layers
from stability.reading.in_format import in_format
from stability.report.case import Case
from stability.report.finding import Finding, Trial, counted, reason
from stability.report.observation import Observation, observe, random_loss
from stability.signals.losses import Loss

#: How many runs the references of the formats take about, and each format.
REFERENCE_RUNS, FORMAT_RUNS = 5, 4


def parameters_not_finite(net: nn.Module) -> list[Finding]:
    """Return a finding for each of the first parameters with a NaN or an infinity: nothing else can be looked at."""
    found = []
    for name, parameter in net.named_parameters():
        bad = int((~parameter.detach().isfinite()).sum()) if parameter.is_floating_point() else 0
        if bad:
            found.append(
                Finding(
                    "nonfinite",
                    "broken",
                    name,
                    {"numbers": float(bad), "threshold": 1.0, "of": float(parameter.numel())},
                    f"{bad} of its {counted(parameter.numel(), 'number')} {'is' if bad == 1 else 'are'} NaN or "
                    "infinite, and so is all that it makes.",
                    "Load an earlier checkpoint, or start it anew; find the iteration that made them.",
                )
            )
    return found[:3]


def not_finite(case: Case) -> bool:
    """Find the first layer that makes a NaN or an infinity; return whether there is one.

    It is "format" where the same network in float64 makes none, and "nonfinite" otherwise.
    """
    layer, where = _first_infinite(case.seen)
    case.look("nonfinite", "tensors with a NaN or an infinity", float(sum(case.seen.infinite)), 1.0)
    if where is None:
        return False
    wide = None
    if case.seen.dtype != torch.float64:
        try:
            wide = observe(in_format(case.reading, torch.float64), case.loss)
        except (ValueError, RuntimeError, TypeError) as error:
            case.notes.append(f"float64 was not tried: {reason(error)}")
    by_format = wide is not None and _first_infinite(wide)[1] is None
    name = format_name(case.seen.dtype)
    count = float(max(1, sum(case.seen.infinite)))
    if by_format:
        # At that place in float64 the largest number says which format holds it.
        trial = Trial("run it in float64", "tensors that are not finite", count, 0.0)
        largest = Format(case.seen.dtype).largest
        why = f"{where[0].upper()}{where[1:]} is not finite in {name}, which ends at {largest:.2g}."
        remedy = "Run it in a wider format, where it is finite, or scale the weights down there."
        evidence = {"tensors": count, "threshold": 1.0, "largest_of_the_format": largest}
        case.findings.append(Finding("format", "broken", layer, evidence, why, remedy, trial))
        return True
    why = f"{where[0].upper()}{where[1:]} is NaN or infinite, in float64 too."
    remedy = "Look for a division by 0, a root or logarithm of 0, or an overflow in what it does."
    case.findings.append(Finding("nonfinite", "broken", layer, {"tensors": count, "threshold": 1.0}, why, remedy))
    return True


def _first_infinite(seen: Observation) -> tuple[str | None, str | None]:
    """Return the layer where the first number is not finite, and words for what that is; (None, None) for none."""
    for number, name in enumerate(seen.layers):
        size = seen.log_sizes[number + 1]
        if seen.infinite[number] or size == math.inf:
            return (name if seen.is_cut else None), "what a layer makes"
    if not seen.output_finite:
        return None, "the output"
    if not math.isfinite(seen.loss):
        return None, "the loss"
    logs = seen.log_gradients
    for number in range(len(logs) - 1, -1, -1):
        log = logs[number]
        if log == math.inf:
            return (seen.layers[min(number, len(seen.layers) - 1)] if seen.is_cut else None), "the gradient"
    for name, (tensor, _) in seen.gradients.items():
        if not tensor.isfinite().all():
            return name, "the gradient"
    return None, None


def formats(case: Case, names: Sequence[str | torch.dtype], layers: Layers | None) -> FirstFailures | None:
    """Find the formats that fail, other than the one that the network is in: "watch", as it does not run in them.

    Gradients that a loss scale saves are no finding.
    """
    chosen = [n for n in map(format_name, names) if FORMATS.get(n) != case.seen.dtype]
    if case.seen.random:
        case.notes.append("formats were not looked at: the network draws random numbers")
        return None
    fitting = max(0, int((case.left - REFERENCE_RUNS * case.lasts) / (FORMAT_RUNS * max(case.lasts, 1e-9))))
    if fitting < len(chosen):
        case.notes.append(f"not looked at, as the budget does not allow it: {', '.join(chosen[fitting:])}")
        chosen = chosen[:fitting]
    if not chosen:
        return None
    loss: Loss = case.loss or random_loss
    try:
        found = first_failure(
            case.net,
            case.reading.inputs.args if not case.reading.inputs.options else case.reading.inputs.options,
            [*chosen],
            loss,
            layers=case.reading.choice if layers is None else layers,
            source=None if layers is not None else case.reading.source,
            batch_dim=case.reading.inputs.batch_dim if layers is None else 0,
            progress=False,
        )
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        case.notes.append(f"formats were not looked at: {reason(error)}")
        return None
    for f, name in enumerate(found.formats):
        _one_format(case, found, f, name)
    return found


def _one_format(case: Case, found: FirstFailures, f: int, name: str) -> None:
    scale = found.loss_scale(name)
    depth, names = found.depth, case.seen.layers
    failures = []
    for q, quantity in enumerate(found.quantities):
        for k, kind in enumerate(found.kinds):
            after = int(found.measured[f, q, k].max())
            if after <= 0 or quantity == "products":
                continue
            if quantity == "gradients" and kind == "underflow" and scale is not None:
                case.notes.append(f"{name} needs a loss scale, such as {scale:g}")
                continue
            failures.append(
                (quantity, kind, names[(after if quantity == "activations" else depth + 1 - after) - 1], after)
            )
    case.look("format", f"ways in which {name} fails", float(len(failures)), 1.0)
    if not failures:
        return
    # What overflows forward is the cause of what fails behind it.
    quantity, kind, layer, after = failures[0]
    verb = {"overflow": "overflow", "underflow": "underflow", "digits": "lose all digits"}[kind]
    case.findings.append(
        Finding(
            "format",
            "watch",
            layer if case.seen.is_cut else None,
            {"after_layers": float(after), "threshold": float(depth), "bits": float(torch.finfo(FORMATS[name]).bits)},
            f"In {name} the {quantity} {verb} after {after} of {counted(depth, 'layer')}.",
            f"Keep this layer out of {name}, or the network in {format_name(case.seen.dtype)}.",
        )
    )


def replayed(case: Case) -> Observation | None:
    """Return what the network shows in float64, without gradients; None where it cannot be run so."""
    if case.seen.dtype == torch.float64:
        return case.seen
    if case.left < 2 * case.lasts:
        case.notes.append("the network was not run in float64: the budget does not allow it")
        return None
    try:
        reading = in_format(case.reading, torch.float64)
        return observe(replace(reading, expected=None), case.loss, backward=False)
    except (ValueError, RuntimeError, TypeError) as error:
        case.notes.append(f"float64 was not tried: {reason(error)}")
        return None
