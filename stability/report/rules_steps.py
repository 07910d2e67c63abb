"""Rules on a step of the optimiser: gradients below its epsilon, and updates that the format loses."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stability.foundation.formats import format_name
from stability.foundation.scaled_sums import Part
from stability.reading.running import run
from stability.reading.traces import undisturbed
from stability.report.case import Case, Optimizer, advice, settled
from stability.report.finding import Finding, Trial, reason
from stability.report.observation import Observation, random_loss
from stability.report.optimizers import rate_of, take_step
from stability.report.thresholds import LOST_SHARE, epsilon_ratio


@dataclass(frozen=True)
class Step:
    """A step of the optimiser on a copy.

    Attributes:
        weights: before, after, gradient and rate of every weight matrix of a rate above 0.
        changes: by how much every parameter changes that does.
    """

    weights: dict[str, tuple[Tensor, Tensor, Tensor, float]]
    changes: dict[str, Tensor]


def one_step(
    case: Case, dtype: torch.dtype | None = None, epsilon: float | None = None, scale: float = 1.0
) -> Step | None:
    """Return a step on a copy of the network and its optimiser, None where it raises.

    Args:
        dtype: another format for the copy.
        epsilon: another one for the optimiser.
        scale: what the loss is multiplied by.
    """
    net, optimizer = copy.deepcopy((case.net, case.optimizer))
    assert optimizer is not None
    inputs = case.reading.inputs
    if dtype is not None:
        net.to(dtype)
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point() and key != "step":
                    state[key] = value.to(dtype)
        inputs = inputs.mapped(lambda t: t.to(dtype) if t.is_floating_point() else t)
    for group in optimizer.param_groups:
        if epsilon is not None and "eps" in group:
            group["eps"] = epsilon
    rates = {id(p): rate_of(group, 1.0) for group in optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    try:
        with undisturbed(nn.Module(), case.loss), torch.enable_grad():
            optimizer.zero_grad()
            value = (case.loss or random_loss)(run(net, inputs.mapped(lambda t: t.detach().clone())))
            torch.autograd.backward(value * scale)
            gradients = {name: p.grad.to_dense() for name, p in net.named_parameters() if p.grad is not None}
            take_step(optimizer)
    except Exception as error:  # an optimiser or a loss of the user's own may raise any
        case.notes.append(f"a step of the optimiser was not looked at: {reason(error)}")
        return None
    found: dict[str, tuple[Tensor, Tensor, Tensor, float]] = {}
    changes: dict[str, Tensor] = {}
    for name, parameter in net.named_parameters():
        change = parameter.detach().double() - before[name].double()
        changes |= {name: change} if bool(change.any()) else {}
        rate = rates.get(id(parameter), 0.0)
        if name in gradients and parameter.ndim > 1 and rate != 0:
            found[name] = (before[name], parameter.detach(), gradients[name], rate)
    return Step(found, changes)


def optimizer_epsilon(case: Case) -> None:
    """Find layers in all of whose weight matrices the median of |g| is below the epsilon of the optimiser.

    Entries that are exactly 0, as of dead units and of tokens that do not occur, do not count. See
    `thresholds.epsilon_ratio` for where it is harmful.
    """
    if case.optimizer is None:
        return
    epsilons = _epsilons(case.optimizer, case.net)
    ratios = _ratios(case.seen.gradients, epsilons, case.net, case.seen)
    if not ratios:
        return
    worst = min(ratios, key=ratios.__getitem__)
    small = {layer: r for layer, r in ratios.items() if r < epsilon_ratio(severe=False)}
    everywhere = len(small) > len(ratios) / 2
    case.look("optimizer_epsilon", "median |g| over epsilon", ratios[worst], 1.0, None if everywhere else worst)
    if not small or case.found("dead_units", "cut_gradient"):
        return
    told: list[tuple[str | None, float]] = [(None, ratios[worst])]
    if not everywhere:
        told = [(layer, small[layer]) for layer in sorted(small, key=small.__getitem__)[:3]]
    for layer, ratio in told:
        trial = _larger_steps(case, layer or worst, ratio, max(epsilons.values()))
        severe = ratio < epsilon_ratio(severe=True)
        case.findings.append(
            Finding(
                "optimizer_epsilon",
                "harmful" if severe else "watch",
                layer,
                {"gradient_over_epsilon": ratio, "threshold": 1.0, "layers": float(len(small))},
                f"Half of the gradients are below {ratio:.2g} times the optimiser's epsilon: its first steps are "
                f"{ratio / (1 + ratio):.2g} of its rate.",
                advice(
                    trial,
                    "Mend what makes the gradients small: no epsilon or scale of the loss that was tried helps.",
                    case.left < 4 * case.lasts,
                ),
                trial,
            )
        )


def _larger_steps(case: Case, layer: str, ratio: float, epsilon: float) -> Trial | None:
    """Try an epsilon of a hundredth of the gradients, then a loss that lifts them to 100 epsilon."""
    if case.left < 4 * case.lasts:  # three steps on copies
        return None
    before, quantity = _step_over_rate(case, one_step(case), layer), "the step over the rate"
    smaller, scale = max(ratio * epsilon / 100, 1e-300), 2.0 ** min(1000, round(math.log2(100 / max(ratio, 1e-300))))
    trials: list[Trial | None] = []
    for words, step in (
        (f"make its epsilon {smaller:.1g}", one_step(case, epsilon=smaller)),
        (f"multiply the loss by {scale:.3g}", one_step(case, scale=scale)),
    ):
        trials.append(Trial(words, quantity, before, _step_over_rate(case, step, layer)))
    return settled(trials, lambda trial: trial.after > 0.5 and trial.after > trial.before)


def _step_over_rate(case: Case, step: Step | None, layer: str) -> float:
    """Return the largest over the weight matrices of a layer of the median step over its rate, NaN for none."""
    found = []
    for name in case.seen.parameters[case.seen.layers.index(layer)]:
        if step is not None and name in step.weights:
            before, after, gradient, rate = step.weights[name]
            moved = ((after - before).double().abs() / rate)[gradient != 0]
            found += [float(moved.median())] if moved.numel() else []
    return max(found, default=math.nan)


def _epsilons(optimizer: Optimizer, net: nn.Module) -> dict[str, float]:
    names = {id(p): name for name, p in net.named_parameters()}
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        epsilon = group.get("eps")
        if isinstance(epsilon, float) and epsilon > 0 and "Adagrad" not in type(optimizer).__name__:
            found |= {names[id(p)]: epsilon for p in group["params"] if id(p) in names}
    return found


def _ratios(
    gradients: dict[str, Part], epsilons: dict[str, float], net: nn.Module, seen: Observation
) -> dict[str, float]:
    """Return by layer the largest over its weight matrices of the median |g| over epsilon."""
    shapes, ratios = {name: p.ndim for name, p in net.named_parameters()}, {}
    for layer, names in zip(seen.layers, seen.parameters, strict=True):
        found: list[float] = []
        for name in names:
            if name not in gradients or name not in epsilons or shapes[name] < 2:
                continue
            tensor, exponent = gradients[name]
            median = _median_size(tensor)
            if median is not None:
                log = math.log(median) + exponent * math.log(2) - math.log(epsilons[name])
                found.append(math.exp(max(-700.0, min(700.0, log))))
        if found:
            ratios[layer] = max(found)
    return ratios


def _median_size(tensor: Tensor) -> float | None:
    """Return the median of the sizes that are not 0, of about 2^20 evenly spaced ones where there are more."""
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    every = wide.flatten().cpu().numpy()
    # An odd spacing comes to all columns of the usual widths.
    for spacing in (max(1, every.size >> 20) | 1, 1):
        sizes = np.abs(every[::spacing])
        sizes = sizes[sizes > 0]
        if sizes.size:
            middle = (sizes.size - 1) // 2
            return float(np.partition(sizes, middle)[middle])
    return None


def lost_updates(case: Case) -> None:
    """Find weights that a step of the optimiser leaves as they are, as it is below half a unit in their last place.

    The step is taken on a copy. Over half of a layer's weights is harmful. Groups with a rate of 0, as a warm-up
    begins with, are left out, and so are weights without a gradient.
    """
    if case.optimizer is None or case.late or case.found("optimizer_epsilon"):
        return  # steps that epsilon makes small are told there
    shares = _lost(case, one_step(case))
    if not shares:
        return
    worst = max(shares, key=shares.__getitem__)
    many = {name: share for name, share in shares.items() if share > LOST_SHARE}
    everywhere = len(many) > len(shares) / 2
    case.look(
        "lost_updates", "share of weights that a step leaves", shares[worst], LOST_SHARE, None if everywhere else worst
    )
    if not many:
        return
    wide = torch.float64 if case.seen.dtype == torch.float32 else torch.float32
    wider = _lost(case, one_step(case, dtype=wide))
    after = math.nan if not wider else max(wider.values())
    words = f"keep the parameters in {format_name(wide)}"
    trial = settled(
        [Trial(words, "the share of weights that a step leaves", shares[worst], after)], lambda t: t.after < LOST_SHARE
    )
    told: list[str | None] = [None]
    if not everywhere:
        told = [*sorted(many, key=lambda name: -many[name])[:3]]
    for layer in told:
        share = shares[worst] if layer is None else many[layer]
        case.findings.append(
            Finding(
                "lost_updates",
                "harmful",
                layer,
                {"share": share, "threshold": LOST_SHARE, "layers": float(len(many))},
                f"A step of the optimiser leaves {share:.0%} of the weights as they are: it is below half a unit in "
                f"their last place in {str(case.seen.dtype)[6:]}.",
                advice(trial, "Raise the rate, or keep the parameters in a wider format."),
                trial,
            )
        )


def _lost(case: Case, step: Step | None) -> dict[str, float]:
    """Return by layer the share of weights with a gradient that a step leaves as they are."""
    shares: dict[str, float] = {}
    for layer, names in zip(case.seen.layers, case.seen.parameters, strict=True):
        lost = total = 0
        for name in names:
            if step is None or name not in step.weights:
                continue
            before, after, gradient, _ = step.weights[name]
            there = (gradient != 0) & (before != 0)
            lost += int(((after == before) & there).sum())
            total += int(there.sum())
        if total:
            shares[layer] = lost / total
    return shares
