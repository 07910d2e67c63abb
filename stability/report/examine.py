"""The verb that examines a network."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from stability.foundation.arguments import door
from stability.foundation.checks import check_positive
from stability.foundation.formats import check_formats
from stability.reading import Layers
from stability.reading.network import Network
from stability.reading.pace import at_best_pace
from stability.reading.read import AnyNetwork, as_module, is_chain, read
from stability.reading.traces import unchanged
from stability.report import (
    rules_curvature,
    rules_flow,
    rules_inputs,
    rules_numbers,
    rules_steps,
    rules_training,
    rules_units,
)
from stability.report.case import Case, Optimizer
from stability.report.chain_member import one_member
from stability.report.examination import Profile, Report
from stability.report.finding import Finding, Look, counted
from stability.report.learning import by_learning
from stability.report.observation import in_mode, observe, without_fused_operations
from stability.report.thresholds import LEAST_POINTS
from stability.report.whole_spectrum import spectrum_of
from stability.signals.losses import Loss

#: The rules in the order of causes: what an earlier one explains a later one does not tell again.
RULES: tuple[Callable[[Case], None], ...] = (
    rules_units.dead_units,
    rules_units.saturated,
    rules_training.unused_parameters,
    rules_training.cut_gradient,
    rules_units.norm_epsilon,
    rules_inputs.input_scale,
    rules_flow.states_and_gradients,
    rules_flow.collapsed,
    rules_inputs.chaotic,
    rules_inputs.ill_conditioned,
    rules_steps.optimizer_epsilon,
    rules_steps.lost_updates,
    rules_curvature.step_too_large,
)


@door
def examine(
    net: AnyNetwork,
    x: object,
    loss: Loss | None = None,
    *,
    optimizer: Optimizer | None = None,
    layers: str | Sequence[str] | Layers | None = None,
    formats: Sequence[str | torch.dtype] = ("float16", "bfloat16", "float32"),
    train: bool = False,
    budget: float = 30.0,
    memory: float = 4.0,
) -> Report:
    """Return a report of what is wrong with a network, where, how badly, and what helps.

    A copy of the network is run forward and backward once in its own format and once forward in float64; the rules of
    `stability.report` look at its states, gradients, activations, norms and weights. Each threshold has its reason in
    `stability.report.thresholds`. Remedies are tried on copies, and those that do not help are not advised. Where
    something is found, a copy is trained for 60 iterations: what it learns in spite of is "watch".

    Args:
        net: any module, a `Chain` of one member, or callables that follow one another.
        x: what it takes: a tensor, a tuple of positional inputs, or a dictionary of keyword inputs; 8 points or more.
        loss: a function of what the network returns; without, the mean over the points of a random unit direction.
        optimizer: of the network's parameters; without one, its epsilon and its steps are not looked at.
        layers: other layers than those of `st.layers`, or what it returned.
        formats: which are tried, beside the one that the network is in.
        train: whether modules are in train mode. By default they are in eval mode, but for batch normalisations that
            have seen no batch, which take the statistics of this one.
        budget: seconds. What would not end in time by how long one run took is not begun: trials, formats and the
            spectrum are left out first, and `Report.notes` says so.
        memory: GiB that the spectrum may take.

    Raises:
        ValueError, TypeError: for a network that does not take x or cannot be copied, a `Chain` of several members.

    >>> import torch, stability as st
    >>> net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU()) for _ in range(4)))
    >>> with torch.no_grad():
    ...     _ = net[2][0].bias.fill_(-100.0)
    >>> report = st.examine(net, torch.randn(32, 16))
    >>> report.findings[0].severity, report.findings[0].code, report.findings[0].layer
    ('broken', 'dead_units', '2.1')
    >>> report.findings[0].tried.remedy
    'set the biases before it to 0'
    """
    began = time.monotonic()
    check_positive("budget", budget), check_positive("memory", memory)
    chosen = [one.name for one in check_formats(formats)]
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}: expected one function of the network's output, or None")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}: expected a torch.optim.Optimizer, or None")
    title = type(net).__name__
    module, own = _copied(one_member(net) if is_chain(net) else net, optimizer)
    broken = rules_numbers.parameters_not_finite(module)
    if broken:
        seconds = time.monotonic() - began
        note = "nothing else was looked at: the parameters are not finite"
        return Report(title, tuple(broken), (Look("nonfinite", "parameters", 1.0, 1.0),), (note,), Profile(), seconds)
    reading = read(module, x, layers)
    assert isinstance(reading, Network)
    # Remedies draw random numbers.
    with (
        unchanged(loss, module),
        in_mode(module, train),
        without_fused_operations(module),
        at_best_pace(reading),
    ):
        return _examined(reading, loss, own, layers, chosen, (title, began, budget, memory))


def _copied(net: AnyNetwork, optimizer: Optimizer | None) -> tuple[nn.Module, Optimizer | None]:
    module = as_module(net)
    try:
        # Together, so that the optimiser of the copy holds the parameters of the copy.
        return copy.deepcopy((module, optimizer))
    except Exception as error:
        raise ValueError(f"{type(net).__name__} cannot be copied, and remedies are tried on copies: {error}") from error


def _examined(
    reading: Network,
    loss: Loss | None,
    optimizer: Optimizer | None,
    layers: str | Sequence[str] | Layers | None,
    formats: list[str],
    frame: tuple[str, float, float, float],
) -> Report:
    title, began, budget, memory = frame
    start = time.monotonic()
    seen = observe(reading, loss)
    first = time.monotonic() - start
    case = Case(reading, loss, optimizer, seen, None, began + budget, first, memory)
    case.notes += seen.notes
    if loss is None:
        case.notes.append("no loss was given: gradients are of a random direction in the output")
    if case.few:
        words = "which units are dead and which saturated is not told from chance"
        words += ", nor whether points become the same" if reading.inputs.points == 1 else ""
        case.notes.append(f"of {counted(reading.inputs.points, 'point')} {words}: give {LEAST_POINTS} or more")
    if optimizer is None:
        case.notes.append("no optimiser was given: its epsilon and its steps were not looked at")
    values: tuple[float, ...] = ()
    if not rules_numbers.not_finite(case):
        case.wide = rules_numbers.replayed(case)
        for rule in RULES:
            rule(case)
        by_learning(case)
        rules_numbers.formats(case, formats, layers if isinstance(layers, Layers) else None)
        values = spectrum_of(case)
    if first > budget:
        words = f"one run forward and backward took {first:.0f} s, more than the budget of {budget:g} s"
        case.notes.append(f"{words}: later looks and trials were left out")
    elif case.late:
        case.notes.append(f"the budget of {budget:g} s is spent: later looks and trials were left out")
    findings = tuple(sorted(_each_once(case.findings), key=lambda one: one.rank))
    looks = tuple(_nearest(case.looks))
    seconds = time.monotonic() - began
    return Report(title, findings, looks, tuple(dict.fromkeys(case.notes)), _profile(case, values), seconds)


def _each_once(findings: list[Finding]) -> list[Finding]:
    held: dict[tuple[str, str | None], Finding] = {}
    for one in findings:
        held.setdefault((one.code, one.layer), one)
    return list(held.values())


def _nearest(looks: list[Look]) -> list[Look]:
    """Return of the looks at one quantity the one that is nearest to a finding, or farthest beyond it."""
    held: dict[tuple[str, str], Look] = {}
    for one in looks:
        key, before = (one.code, one.quantity), held.get((one.code, one.quantity))
        if before is None or one.value > before.value:
            held[key] = one
    return list(held.values())


def _profile(case: Case, values: tuple[float, ...]) -> Profile:
    def known(logs: Sequence[float | None]) -> tuple[float, ...]:
        return tuple(math.nan if log is None else log for log in logs)

    seen = case.seen
    dead = [math.nan] * len(seen.layers)
    for gate in seen.gates:
        if gate.kind == "relu":
            dead[gate.layer] = gate.dead if math.isnan(dead[gate.layer]) else max(dead[gate.layer], gate.dead)
    spreads = known((case.wide or seen).log_spreads)
    # Of unit vectors about their mean: the mean cosine of pairs is 1 - spread^2 n / (n - 1).
    points = max(2, case.reading.inputs.points)
    cosines = tuple(1 - math.exp(2 * s) * points / (points - 1) if not math.isnan(s) else math.nan for s in spreads)
    return Profile(
        seen.layers,
        known(seen.log_sizes),
        spreads,
        known(seen.log_gradients[: len(seen.layers)]),
        tuple(dead),
        values,
        cosines,
        str(seen.dtype).removeprefix("torch."),
    )
