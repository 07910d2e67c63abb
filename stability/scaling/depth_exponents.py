"""How a quantity depends on the depth: the power of it, with an interval over seeds, or that it is an exponential."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stability.signals.growth_laws import fit_law

Array = NDArray[np.float64]

#: An exponent nearer to 0 than this is said not to matter: over ten times the depth it is a factor of 1.6, and what
#: goes like (1 + 1/L)^L has one of 0.1 over depths of tens.
NEGLIGIBLE = 0.2
#: An interval that holds 0 and reaches farther than this leaves it open whether there is a dependence.
OPEN = 0.25
#: Half an interval is no less than this: depths are whole numbers, places are interpolated, and numbers rounded.
LEAST_HALF = 1e-3
#: By so much the criterion of an exponential must be better than that of a power.
_BETTER = 6.0


@dataclass(frozen=True)
class Exponent:
    """The exponent p of a quantity that goes like depth^p, from the least-squares slope of each seed.

    Attributes:
        quantity: its name.
        value: the mean of `by_seed`.
        interval: (low, high), Student's t over the seeds; infinite for one seed. It is for the slope over these depths,
            which is that of a law with more than one term only for large ones.
        by_seed: of each seed.
        depths: those that it was fitted over.
        rate: the growth of the log with the depth where an exponential fits much better than any power, else None.
    """

    quantity: str
    value: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    depths: tuple[int, ...]
    rate: float | None = None

    @property
    def verdict(self) -> str:
        """ "depends", "does not depend" or "open"."""
        low, high = self.interval
        holds_zero = low <= 0 <= high
        if not holds_zero and (abs(self.value) >= NEGLIGIBLE or self.rate is not None):
            return "depends"
        return "does not depend" if max(abs(low), abs(high)) <= OPEN else "open"

    @property
    def law(self) -> str:
        """The law with its interval, as depth^0.49 (0.45 to 0.53)."""
        low, high = self.interval
        ends = f" ({low:.2f} to {high:.2f})" if math.isfinite(high - low) else " (one seed: no interval)"
        return f"depth^{round(self.value, 2) + 0.0:.2f}{ends}"  # and not -0.00

    def __str__(self) -> str:
        if self.rate is not None and self.verdict == "depends":
            verb = "grows" if self.rate > 0 else "falls"
            return f"{verb} exponentially, by a factor {math.exp(self.rate):.3g} a unit of depth"
        if self.verdict == "depends":
            return f"{'grows' if self.value > 0 else 'falls'} like {self.law}"
        if self.verdict == "does not depend":
            if not self.interval[0] <= 0 <= self.interval[1]:
                return f"hardly depends on the depth: {self.law}"
            return f"does not depend on the depth: {self.law}"
        return f"is like {self.law}, which leaves open whether it depends on the depth"


def fit_exponent(quantity: str, depths: tuple[int, ...], logs: Array, level: float) -> Exponent:
    """Return the exponent of a quantity from its finite logs (depths, seeds)."""
    at = np.array(depths, dtype=np.float64)
    if logs.shape[1] == 1:
        slope = float(np.polyfit(np.log(at), logs[:, 0], 1)[0])
        return Exponent(quantity, slope, (-math.inf, math.inf), (slope,), depths)
    power = fit_law("power", "independent", at, logs, level)
    half = max(LEAST_HALF, (power.interval[1] - power.interval[0]) / 2)
    rate = None
    if len(at) > 2:
        exponential = fit_law("exponential", "independent", at, logs, level)
        told = exponential.bic + _BETTER < power.bic and exponential.interval[0] * exponential.interval[1] > 0
        # Less than a factor e in all is a slow drift, which any law fits.
        if told and abs(exponential.coefficient) * (at[-1] - at[0]) > 1:
            rate = exponential.coefficient
    value = power.coefficient
    return Exponent(quantity, value, (value - half, value + half), tuple(map(float, power.by_seed)), depths, rate)


def unfit(depths: tuple[int, ...], logs: Array) -> str:
    """Return why logs (depths, seeds) have no exponent, "" where they have one."""
    for depth, row in zip(depths, logs, strict=True):
        if (row == -math.inf).any():
            return f"is exactly 0 at depth {depth} for {int((row == -math.inf).sum())} of {len(row)} seeds"
        if np.isnan(row).any():
            return f"is lost in rounding at depth {depth} for {int(np.isnan(row).sum())} of {len(row)} seeds"
        if not np.isfinite(row).all():
            return f"is not finite at depth {depth}"
    return ""


def mean_square(logs: Array) -> Array:
    """Return the log of the root mean square over the last dimension, of logs; NaN where one is NaN."""
    top = logs.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(np.isfinite(top), top, 0.0)
        found = 0.5 * np.log(np.exp(2 * (logs - shift)).mean(axis=-1)) + shift[..., 0]
    return np.asarray(found)
