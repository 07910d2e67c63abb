"""Rules on which parameters the loss reaches."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch

from stability.foundation.scaled_sums import log_norm_of
from stability.report.case import Case
from stability.report.finding import Finding, counted
from stability.report.observation import observe


def unused_parameters(case: Case) -> None:
    """Find parameters that no operation of the forward pass takes. They cost memory and nothing else: "watch"."""
    case.look("unused_parameters", "parameters that no operation takes", float(len(case.seen.untaken)), 1.0)
    for module, names in _by_owner(case.seen.untaken)[:3]:
        one = names[0] if len(names) == 1 else module
        case.findings.append(
            Finding(
                "unused_parameters",
                "watch",
                one,
                {"parameters": float(len(names)), "threshold": 1.0},
                f"The network never uses {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} on this input.",
                "Take it out, or call it in forward: nothing trains it.",
            )
        )


def cut_gradient(case: Case) -> None:
    """Find layers whose parameters are used in the forward pass and get no gradient from the loss.

    A gradient of exactly 0 counts for weights of two dimensions and more, and where it stays 0 once all parameters are
    moved a little: branches that start at 0 have it at the start alone. One that dead or saturated units explain is
    told there. Where the network returns what a layer makes, it is the loss that does not take it.
    """
    seen = case.seen
    gone = [name for name in seen.missing if name not in seen.untaken]
    if not gone and not seen.gradients:
        # No parameter gets any: those that require one are out of reach, all of them.
        gone = [n for n, p in case.net.named_parameters() if p.requires_grad and n not in seen.untaken]
    if not case.found("dead_units", "saturated") and not case.few:
        shapes = {name: p.ndim for name, p in case.net.named_parameters()}
        zero = [n for n, part in seen.gradients.items() if shapes[n] > 1 and log_norm_of([part]) == -math.inf]
        if zero and not case.late:
            still = _after_a_move(case)
            gone += [n for n in zero if n in still]
    order = {name: k for k, (name, _) in enumerate(case.net.named_parameters())}
    gone.sort(key=order.__getitem__)
    case.look("cut_gradient", "parameters in use that get no gradient", float(len(gone)), 1.0)
    if not gone:
        return
    every = len(gone) == sum(p.requires_grad for p in case.net.parameters())
    returned = [name for name in gone if name in seen.returned and name in seen.missing]
    cut = [name for name in gone if name not in returned]
    remedy = "Look for detach, no_grad, item, numpy, argmax or rounding between it and the loss, and for a result that "
    _told(case, cut, every, remedy + "forward drops.")
    remedy = "Its output does not enter the loss: add a term for it, or take it out."
    _told(case, returned, every, remedy)


def _told(case: Case, gone: list[str], every: bool, remedy: str) -> None:
    if not gone:
        return
    owners = _by_owner(gone)
    module, names = owners[-1]
    before = len(owners) - 1
    others = f", nor {counted(before, 'module')} before it" if before else ""
    case.findings.append(
        Finding(
            "cut_gradient",
            "broken" if every else "harmful",
            module or names[0],
            {"parameters": float(len(gone)), "threshold": 1.0},
            f"The loss does not reach {', '.join(names[:3])}, which the network uses{others}: "
            f"{'it never changes' if len(gone) == 1 else 'they never change'}.",
            remedy,
        )
    )


def _by_owner(names: tuple[str, ...] | list[str]) -> list[tuple[str, list[str]]]:
    held: dict[str, list[str]] = {}
    for name in names:
        held.setdefault(name.rpartition(".")[0], []).append(name)
    return list(held.items())


def _after_a_move(case: Case) -> set[str]:
    """Return the parameters whose gradient is 0 on a copy whose parameters have all moved a little."""
    twin, generator = copy.deepcopy(case.net), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
                size = float(parameter.double().square().mean().sqrt()) if parameter.numel() else 0.0
                parameter.add_(noise * (0.01 * size or 0.01))
    try:
        moved = observe(replace(case.reading, module=twin), case.loss)
    except (ValueError, RuntimeError):
        return set()
    return {n for n, part in moved.gradients.items() if log_norm_of([part]) == -math.inf}
