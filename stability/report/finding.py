"""One finding about a network: what is wrong, where, how badly, and what helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: The codes, each with what it means.
CODES = {
    "nonfinite": "a number is NaN or infinite, whatever the format",
    "format": "a floating-point format fails",
    "dead_units": "units whose derivative is 0 at every point",
    "cut_gradient": "a layer that the loss does not reach",
    "vanishing_signal": "the state falls below what a sum with numbers of its first size would keep",
    "exploding_signal": "the state grows beyond what a sum with numbers of its first size would keep",
    "vanishing_gradient": "the gradient falls on its way back by more than the format tells apart",
    "exploding_gradient": "the gradient grows on its way back by more than the format tells apart",
    "collapsed": "different points become the same",
    "chaotic": "near points part",
    "saturated": "units at the end of their range, where the derivative rounds to 0",
    "optimizer_epsilon": "gradients below the epsilon of the optimiser",
    "lost_updates": "updates below half a unit in the last place of the parameter",
    "step_too_large": "a step of the optimiser that does not do what its derivative predicts",
    "norm_epsilon": "a normalisation whose variance is below its epsilon",
    "ill_conditioned": "a weight that takes directions away",
    "input_scale": "points that hardly differ, or are far from order 1",
    "unused_parameters": "parameters that the network never uses",
}
#: From the worst: nothing works, something is blocked, and what is worth a look.
SEVERITIES = ("broken", "harmful", "watch")


def counted(number: int, one: str) -> str:
    """Return a number with what it counts, in the plural but for 1.

    >>> counted(1, "layer"), counted(0, "layer")
    ('1 layer', '0 layers')
    """
    return f"{number} {one if number == 1 else one + 's'}"


def reason(error: Exception, most: int = 160) -> str:
    """Return in one sentence why something could not be looked at, without the words of what is underneath.

    >>> reason(RuntimeError("mat1 and mat2 must have the same dtype"))
    'the network raises RuntimeError when it is run so'
    >>> reason(ValueError("points depend on one another: raise memory=. More follows"))
    'points depend on one another: raise memory='
    """
    cause = error.__cause__
    if cause is not None or not isinstance(error, ValueError):
        return f"the network raises {type(cause or error).__name__} when it is run so"
    text = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return text if len(text) <= most else text[: most - 3] + "..."


class Alike:
    """A record that equals another of its kind with the same numbers, NaN among them, as a file gives them back."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _same(vars(self), vars(other))

    def __hash__(self) -> int:
        return hash((type(self), *(value for value in vars(self).values() if isinstance(value, str))))


def _same(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or (one != one and other != other)


@dataclass(frozen=True, eq=False)
class Trial(Alike):
    """A remedy, tried on a copy of the network.

    Attributes:
        remedy: what was done.
        quantity: what was measured.
        before, after: the number without it and with it.
    """

    remedy: str
    quantity: str
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Finding(Alike):
    """One finding.

    Attributes:
        code: one of `CODES`.
        severity: "broken" where nothing of the signal or the gradient gets through, "harmful" where a layer blocks
            it, "watch" for what mostly trains. Where a loss is given a short training of a copy has the last word.
        layer: the name of a layer of `st.layers`, or of a module or parameter inside one; None for the whole network.
        evidence: numbers by name, with the threshold among them.
        why: what that means, in a sentence.
        remedy: what to do, in a sentence.
        tried: the remedy as it was tried on a copy, None where it cannot be.

    Raises:
        ValueError: for an unknown code or severity.

    >>> finding = Finding("collapsed", "harmful", "9", {"spread": 1e-9, "threshold": 6e-8}, "All is one.", "Scale.")
    >>> print(finding)
    harmful collapsed in '9': All is one. (spread 1e-09, threshold 6e-08) Scale.
    """

    code: str
    severity: str
    layer: str | None
    evidence: Mapping[str, float]
    why: str
    remedy: str
    tried: Trial | None = None

    def __post_init__(self) -> None:
        if self.code not in CODES or self.severity not in SEVERITIES:
            raise ValueError(
                f"a finding is {self.severity!r} {self.code!r}: expected one of {', '.join(SEVERITIES)}, and of "
                f"{', '.join(CODES)}"
            )

    @property
    def rank(self) -> tuple[int, int]:
        """Where it stands among others: by severity, then by how early in the chain of causes its code is."""
        return SEVERITIES.index(self.severity), list(CODES).index(self.code)

    def __str__(self) -> str:
        where = "" if self.layer is None else f" in {self.layer!r}"
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in self.evidence.items())
        return f"{self.severity} {self.code}{where}: {self.why} ({numbers}) {self.remedy}"


@dataclass(frozen=True, eq=False)
class Look(Alike):
    """One thing that was looked at, found or not.

    Attributes:
        code: which finding it would be.
        quantity: what was measured.
        value: the number nearest to a finding.
        threshold: where a finding begins.
        layer: where that number is; None for the whole.
        note: what was left out, in words.
    """

    code: str
    quantity: str
    value: float
    threshold: float
    layer: str | None = None
    note: str = ""

    @property
    def distance(self) -> float:
        """log10 of the value over the threshold: 0 at the threshold, whichever side a finding lies on."""
        if not (self.value > 0 and self.threshold > 0) or math.inf in (self.value, self.threshold):
            return math.nan
        return math.log10(self.value) - math.log10(self.threshold)
