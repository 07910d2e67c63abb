"""Rules on what the loss and the optimiser do to the parameters."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from stability.foundation.scaled_sums import Part, log_norm_of
from stability.reading.running import run
from stability.reading.traces import undisturbed
from stability.report.case import Case, Optimizer, advice, settled
from stability.report.finding import Finding, Trial
from stability.report.observation import Observation, observe, random_loss
from stability.report.thresholds import LOST_SHARE, epsilon_ratio


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
    told there.
    """
    seen = case.seen
    gone = [name for name in seen.missing if name not in seen.untaken]
    if not gone and not seen.gradients:
        # No parameter gets any: those that require one are out of reach, all of them.
        gone = [n for n, p in case.net.named_parameters() if p.requires_grad and n not in seen.untaken]
    if not case.found("dead_units", "saturated"):
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
    owners = _by_owner(gone)
    module, names = owners[-1]
    every = len(gone) == sum(p.requires_grad for p in case.net.parameters())
    others = f", nor {len(owners) - 1} modules before it" if len(owners) > 1 else ""
    case.findings.append(
        Finding(
            "cut_gradient",
            "broken" if every else "harmful",
            module or names[0],
            {"parameters": float(len(gone)), "threshold": 1.0},
            f"The loss does not reach {', '.join(names[:3])}, which the network uses{others}: they never change.",
            "Look for detach, no_grad, item, numpy, argmax or rounding between it and the loss.",
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

    def smaller(ratio: float) -> Trial:
        # The step of Adam at the start, over its rate, with an epsilon of a hundredth of the gradient.
        before = ratio / (1 + ratio)
        return Trial("make its epsilon a hundredth of the gradients", "the step over the rate", before, 100 / 101)

    told: list[tuple[str | None, float]] = [(None, ratios[worst])]
    if not everywhere:
        told = [(layer, small[layer]) for layer in sorted(small, key=small.__getitem__)[:3]]
    for layer, ratio in told:
        trial = smaller(ratio)
        severe = ratio < epsilon_ratio(severe=True)
        case.findings.append(
            Finding(
                "optimizer_epsilon",
                "harmful" if severe else "watch",
                layer,
                {"gradient_over_epsilon": ratio, "threshold": 1.0, "layers": float(len(small))},
                f"Half of the gradients are below {ratio:.2g} times the optimiser's epsilon: its steps are "
                f"{trial.before:.2g} of its rate.",
                advice(trial, ""),
                trial,
            )
        )


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
            sizes = tensor.double().abs()
            sizes = sizes[sizes > 0]
            if sizes.numel():
                log = math.log(float(sizes.median())) + exponent * math.log(2) - math.log(epsilons[name])
                found.append(math.exp(max(-700.0, min(700.0, log))))
        if found:
            ratios[layer] = max(found)
    return ratios


def lost_updates(case: Case) -> None:
    """Find weights that a step of the optimiser leaves as they are, as it is below half a unit in their last place.

    The step is taken on a copy. Over half of a layer's weights is harmful. Groups with a rate of 0, as a warm-up
    begins with, are left out, and so are weights without a gradient.
    """
    if case.optimizer is None or case.late or case.found("optimizer_epsilon"):
        return  # steps that epsilon makes small are told there
    shares = _lost(case, None)
    if shares is None or not shares:
        return
    worst = max(shares, key=shares.__getitem__)
    many = {name: share for name, share in shares.items() if share > LOST_SHARE}
    everywhere = len(many) > len(shares) / 2
    case.look(
        "lost_updates", "share of weights that a step leaves", shares[worst], LOST_SHARE, None if everywhere else worst
    )
    if not many:
        return
    wider = _lost(case, torch.float64 if case.seen.dtype == torch.float32 else torch.float32)
    after = math.nan if not wider else max(wider.values())
    words = f"keep the parameters in {'float64' if case.seen.dtype == torch.float32 else 'float32'}"
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


def _lost(case: Case, dtype: torch.dtype | None) -> dict[str, float] | None:
    """Return by layer the share of weights with a gradient that one step leaves as they are."""
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
    rates = {id(p): float(group.get("lr", 1.0)) for group in optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    try:
        with undisturbed(nn.Module()), torch.enable_grad():
            optimizer.zero_grad()
            value = (case.loss or random_loss)(run(net, inputs.mapped(lambda t: t.detach().clone())))
            torch.autograd.backward(value)
            moved = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
            optimizer.step()
    except (ValueError, RuntimeError, TypeError) as error:
        case.notes.append(f"lost updates were not looked at: {error}")
        return None
    shares = {}
    after = dict(net.named_parameters())
    for layer, names in zip(case.seen.layers, case.seen.parameters, strict=True):
        lost = total = 0
        for name in names:
            gradient = moved.get(name)
            if gradient is None or after[name].ndim < 2 or rates.get(id(after[name]), 0.0) == 0:
                continue
            there = (gradient.to_dense() != 0) & (before[name] != 0)
            lost += int(((after[name] == before[name]) & there).sum())
            total += int(there.sum())
        if total:
            shares[layer] = lost / total
    return shares
