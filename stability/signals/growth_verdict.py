"""Growth laws of a quantity along depth: which law its logs follow, at what rate, with an interval over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stability.foundation.checks import check_finite, check_name
from stability.foundation.shown import Shown
from stability.signals.growth_laws import EXPONENTS, SHAPES, SPREADS, Array, Law, fit_law, trend

#: The fewest members and positions that a law is fitted to.
LEAST_SEEDS, LEAST_POSITIONS = 3, 4
#: Laws whose BIC differ by less than this are not told apart.
BIC_MARGIN = 2.0


@dataclass(frozen=True, repr=False)
class GrowthFit(Shown):
    """Every law fitted to one quantity, and what the best of them says.

    Attributes:
        quantity: what grows or decays.
        along: "layer" or "depth", what the positions count.
        positions: float64 (n,).
        laws: by rising BIC; empty where there are too few members or positions to fit any.
        seeds: how many members there are.
        alive: how many of them are not exactly zero at any position. Only these are fitted, so the rate is theirs.
        dead: the share of members that are exactly zero at the last position. A member that is zero at some other
            position only, such as a layer without gradient, is left out of the fit too, but not counted here.
        level: of the intervals.
    """

    quantity: str
    along: str
    positions: Tensor
    laws: tuple[Law, ...]
    seeds: int
    alive: int
    dead: float
    level: float

    def __repr__(self) -> str:
        return f"GrowthFit({self.quantity} along {self.along}: {self.verdict})"

    def law(self, shape: str, spread: str) -> Law:
        """Return the fit of one law.

        Raises:
            ValueError: for an unknown shape or spread, and where nothing was fitted.
        """
        check_name("shape", shape, SHAPES)
        check_name("spread", spread, SPREADS)
        if not self.laws:
            raise ValueError(f"no law was fitted to {self.quantity}: {self.verdict}")
        return next(law for law in self.laws if (law.shape, law.spread) == (shape, spread))

    @property
    def best(self) -> Law | None:
        """The law of the smallest BIC; None where nothing was fitted."""
        return self.laws[0] if self.laws else None

    @property
    def _exponential(self) -> Law | None:
        """The law that the rate is read from: where "constant" is the best, it says how small a rate is left."""
        if self.best is None or self.best.shape in ("power", "stretched"):
            return None
        return self.law("exponential", self.best.spread)

    @property
    def rate(self) -> float | None:
        """The growth of the mean log a layer; None where the best law has no such rate, or nothing was fitted."""
        return None if self._exponential is None else self._exponential.coefficient

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high) of the rate; None where there is no rate."""
        return None if self._exponential is None else self._exponential.interval

    @property
    def standard_error(self) -> float | None:
        """The standard error of the rate over the members; None where there is no rate."""
        return None if self._exponential is None else self._exponential.standard_error

    @property
    def factor(self) -> float | None:
        """exp(rate), the growth of the geometric mean a layer; None where there is no rate."""
        return None if self.rate is None else _exp(self.rate)

    @property
    def e_folding(self) -> float | None:
        """1 / |rate|, in layers; None where there is no rate, and where it may be 0."""
        if self.best is None or self.best.shape == "constant" or self.rate is None or _holds_zero(self.interval):
            return None
        return 1 / abs(self.rate)

    @property
    def verdict(self) -> str:
        """What was found, or why there is no rate, in words and numbers."""
        at = f"{self.along} {self.positions[-1]:g}"
        if self.dead == 1:
            return f"no rate: all {self.seeds} members are exactly dead at {at}"
        if self.alive < LEAST_SEEDS:
            words = f"{self.alive} of {self.seeds} members are alive at every position, and it takes {LEAST_SEEDS}"
            more = ": join the results of several seeds by of_seeds" if self.seeds < LEAST_SEEDS else ""
            return f"no rate: {words}{more}"
        if self.best is None:
            return f"no rate: there are {len(self.positions)} positions, and it takes {LEAST_POSITIONS}"
        clauses = [self._law_in_words(self.best)]
        reported = self._exponential or self.best
        # Least squares of equal members may differ in the last digits, which is no spread.
        slack = 1e-12 * abs(reported.coefficient)
        if not reported.interval[0] - slack <= reported.median <= reported.interval[1] + slack:
            clauses.append(f"the median over seeds differs, {reported.median:.3g}: a few members carry the mean")
        if self.best.spread == "random walk" and self.best.sigma > 0:
            count = "depth" if self.along == "depth" else "layer count"
            clauses.append(f"spread of the log {self.best.sigma:.3g} times the root of the {count}")
        other = next(law for law in self.laws if law.shape != self.best.shape)
        if other.bic - self.best.bic < BIC_MARGIN:
            clauses.append(f"the data do not tell {self.best.shape} from {other.shape}")
        if self.dead:
            clauses.append(f"{100 * self.dead:.3g} % of members exactly dead at {at}")
        if elsewhere := self.seeds - self.alive - round(self.dead * self.seeds):
            clauses.append(f"{elsewhere} of {self.seeds} members exactly zero elsewhere and left out")
        return "; ".join(clauses)

    def _law_in_words(self, best: Law) -> str:
        low, high = best.interval
        verb = "falls" if best.coefficient < 0 else "grows"
        unsettled = "; the interval holds no change" if _holds_zero(best.interval) else ""
        if best.shape == "constant":
            low, high = self.law("exponential", best.spread).interval
            # A rate of a few roundings is none.
            none = low <= 0 <= high or max(abs(low), abs(high)) < 1e-15
            near = "" if none else ", too near 0 to be told from it"
            return f"neither grows nor decays: the rate is within {low:+.2g} to {high:+.2g} a layer{near}"
        if best.shape == "exponential":
            value, ends = _in_digits(_exp(best.coefficient), _exp(low), _exp(high))
            words = f"{'decays' if best.coefficient < 0 else 'grows'} by a factor {value} a layer ({ends})"
            return words + (unsettled or f"; e-folding depth {1 / abs(best.coefficient):.3g}")
        value, ends = _in_digits(best.coefficient, low, high)
        if best.shape == "power":
            return f"{verb} as {self.along}^{value} ({ends}){unsettled}"
        exponent = best.exponent or 0.0
        edge = ", the end of its range" if min(abs(exponent - end) for end in EXPONENTS) < 1e-3 else ""
        law = f"exp({value} {self.along}^{exponent:.3g})"
        return f"{verb} as {law} ({ends} at the exponent {exponent:.3g}{edge}){unsettled}"

    def predict(self, positions: ArrayLike | Tensor) -> Tensor:
        """Return the mean log of the best law at `positions`, of their shape, from the mean intercept.

        Raises:
            ValueError: where nothing was fitted, and for positions that are not finite and above 0.
        """
        if self.best is None:
            raise ValueError(f"no law was fitted to {self.quantity}: {self.verdict}")
        at = np.asarray(positions, dtype=np.float64)
        if not ((at > 0) & np.isfinite(at)).all():
            raise ValueError(f"positions are {positions!r}: expected finite numbers above 0")
        return torch.as_tensor(
            self.best.intercept + self.best.coefficient * trend(self.best.shape, at, self.best.exponent)
        )


def fit_series(
    positions: ArrayLike | Tensor, log_values: ArrayLike | Tensor, *, quantity: str, along: str, level: float = 0.95
) -> GrowthFit:
    """Return which law the logs of a quantity follow along depth, at what rate, and how sure that is.

    Four shapes with two spreads, see `Law`, are fitted by maximum likelihood, and the best is picked by BIC,
    -2 log-likelihood + parameters log(alive (n - 1)); the likelihoods are all densities of the differences between
    neighbours, so that they compare. The rate is that of the members that are nowhere exactly zero. Its interval is
    from their spread, so it holds whether or not the noise within a member is what the law says.

    Args:
        positions: (n,), rising and above 0: layers from where the signal enters, or total depths.
        log_values: (n, seeds), natural logs, -inf where the value is exactly zero.
        quantity: its name, for the verdict.
        along: "layer" or "depth".
        level: of the intervals.

    Raises:
        TypeError: for values that are not real numbers.
        ValueError: for shapes that do not fit, positions that do not rise from above 0, NaN or +inf, an unknown
            `along`, a level outside (0, 1).

    >>> import numpy as np
    >>> factors = np.random.default_rng(0).uniform(-1, 1, (100, 50))
    >>> logs = np.log(abs(factors)).cumsum(axis=0)
    >>> fit = fit_series(np.arange(1, 101), logs, quantity="gradient norm", along="depth")
    >>> fit.best.shape, fit.best.spread, fit.interval[0] < -1 < fit.interval[1]
    ('exponential', 'random walk', True)
    >>> fit.verdict.split("; ")[:2]
    ['decays by a factor 0.373 a layer (0.363 to 0.383)', 'e-folding depth 1.01']
    """
    at, logs = _as_real("positions", positions), _as_real("log_values", log_values)
    _check(at, logs)
    check_name("along", along, ("layer", "depth"))
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: expected a share above 0 and below 1, such as 0.95")
    alive = np.isfinite(logs).all(axis=0)
    laws: list[Law] = []
    if alive.sum() >= LEAST_SEEDS and len(at) >= LEAST_POSITIONS:
        laws = [fit_law(shape, spread, at, logs[:, alive], level) for shape in SHAPES for spread in SPREADS]
    dead = float((logs[-1] == -math.inf).mean())
    ordered = tuple(sorted(laws, key=lambda law: law.bic))
    return GrowthFit(quantity, along, torch.from_numpy(at), ordered, logs.shape[1], int(alive.sum()), dead, level)


def _holds_zero(interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] <= 0 <= interval[1]


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _in_digits(value: float, low: float, high: float) -> tuple[str, str]:
    """Return the value and its interval in words, with as many digits as the width of the interval bears."""
    largest, width = max(abs(low), abs(high)), high - low
    digits = 3
    if 0 < width < largest < math.inf:
        digits = min(max(math.ceil(math.log10(largest / width)) + 1, 3), 6)
    return f"{value:.{digits}g}", f"{low:.{digits}g} to {high:.{digits}g}"


def _as_real(name: str, values: ArrayLike | Tensor) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.dtype.is_floating_point else values).numpy()
    given = np.asarray(values)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"{name} holds {given.dtype}: expected real numbers")
    return np.array(given, dtype=np.float64)


def _check(positions: Array, log_values: Array) -> None:
    n = len(positions) if positions.ndim == 1 else 0
    if n == 0 or log_values.ndim != 2 or len(log_values) != n or log_values.shape[1] == 0:
        raise ValueError(
            f"positions and log_values have shapes {positions.shape} and {log_values.shape}: expected (n,) and "
            "(n, seeds), a column for each of at least one member; a single series is log_values[:, None]"
        )
    check_finite("positions", positions)
    if positions[0] <= 0:
        raise ValueError(f"positions begin at {positions[0]:g}: expected numbers above 0; count layers from 1")
    if (falls := np.flatnonzero(np.diff(positions) <= 0)).size:
        i = int(falls[0])
        raise ValueError(
            f"positions go from {positions[i]:g} to {positions[i + 1]:g} at place {i + 1}: expected rising numbers, "
            "each once; sort them, and log_values with them"
        )
    if (bad := np.argwhere(np.isnan(log_values) | (log_values == math.inf))).size:
        place = (int(bad[0, 0]), int(bad[0, 1]))
        raise ValueError(
            f"log_values has {len(bad)} values that are NaN or +inf, the first {log_values[place]} at {place}: "
            "expected natural logs, -inf for an exact zero; leave out what overflowed, or compute it in the log domain"
        )
