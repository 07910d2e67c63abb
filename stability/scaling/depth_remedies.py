"""How to undo a dependence on the depth: what follows from the exponents that were measured, and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from stability.scaling.depth_exponents import Exponent

#: An exponent may be so far from the multiple of a half that it is taken for, as it is of finite depths.
_SLACK = 0.1


@dataclass(frozen=True)
class Remedy:
    """One way to undo a dependence.

    Attributes:
        branches: the power of the depth by which to multiply what each layer adds to its state.
        rate: the power of the depth by which to multiply the rate.
        gain: by what to multiply what each layer makes of its state, a unit of depth.
        words: the same in words.
    """

    branches: float
    rate: float
    gain: float
    words: str


@dataclass(frozen=True)
class Trained:
    """What the remedies depend on beside the exponents.

    Attributes:
        skips: whether the layers add what they take to what they give.
        order: the power of the gradient's size that a step goes with, 1 for SGD, 0 for Adam; None where unknown.
    """

    skips: bool
    order: int | None


def remedies(exponents: Mapping[str, Exponent], how: Trained) -> tuple[Remedy, ...]:
    """Return what undoes the dependence of the state and of its change, the first one first.

    Three facts, and no others, are used. A first-order change is proportional to the rate, whatever the optimiser. In
    a residual network whose states are of order 1, a branch s F enters the effect of its own parameters once through
    its output; for SGD once more through its gradient; so that the change goes like s^2 for SGD and like s for Adam.
    And L independent branches of size s add up to s sqrt(L) at the start.
    """
    state, change = exponents.get("state"), exponents.get("relative change")
    grows = state is not None and state.verdict == "depends"
    if state is not None and grows and state.rate is not None:
        return _against_exponential(state.rate, how)
    found = []
    if state is not None and grows and state.value > 0 and how.skips:
        found += _against_growth(exponents.get("branch"), how)
    if change is None or change.verdict != "depends" or change.rate is not None:
        return tuple(found)
    power = nice(change)
    found.append(Remedy(0.0, -power, 1.0, f"multiply the rate by {power_words(-power)}"))
    branch = exponents.get("branch")
    if not grows and how.skips and how.order is not None and branch is not None:
        factor = -power / (1 + how.order)
        # Larger branches than 1/sqrt(depth) would make the state grow.
        if nice(branch) + factor <= -0.5 + _SLACK:
            found.append(Remedy(factor, 0.0, 1.0, f"multiply the branches by {power_words(factor)}"))
    return tuple(found)


def _against_exponential(rate: float, how: Trained) -> tuple[Remedy, ...]:
    if how.skips and rate > 0:
        return (_root(-0.5, how),)
    if how.skips:
        return ()
    gain = math.exp(-rate)
    return (Remedy(0.0, 0.0, gain, f"multiply the weights of each layer at the start by {gain:.3g}, and check again"),)


def _against_growth(branch: Exponent | None, how: Trained) -> list[Remedy]:
    size = 0.0 if branch is None else nice(branch)
    return [_root(-0.5 - size, how)] if size > -0.5 else []


def _root(factor: float, how: Trained) -> Remedy:
    """Branches of 1/sqrt(L): their updates then add up to order 1 by SGD and to sqrt(L) by Adam."""
    words = f"multiply the branches by {power_words(factor)}"
    if how.order == 1:
        return Remedy(factor, 0.0, 1.0, f"{words}, which needs no other rate with SGD")
    if how.order == 0:
        return Remedy(factor, -0.5, 1.0, f"{words} and the rate by {power_words(-0.5)}, as steps like Adam's need then")
    return Remedy(factor, 0.0, 1.0, f"{words}, and check again for the rate")


def nice(exponent: Exponent) -> float:
    """Return a multiple of a half that the interval holds or that is as good as there, else two digits."""
    near = round(2 * exponent.value) / 2
    low, high = exponent.interval
    holds = low - _SLACK / 2 <= near <= high + _SLACK / 2
    return near if holds and high - low < 1 else round(exponent.value, 2)


def power_words(power: float) -> str:
    """Return a power of the depth as it is written: depth^-1/2, depth^-1, depth^0.37."""
    halves = 2 * power
    if halves == round(halves) and int(halves) % 2:
        return f"depth^{int(halves)}/2"
    return "depth" if power == 1 else f"depth^{power:g}"
