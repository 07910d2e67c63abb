"""How a size changes over the layers: the rate a layer with its interval, the farthest change, and one layer's part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Change:
    """A fall or a rise of logs along the way.

    Attributes:
        size: by how much in natural logarithms, at least 0.
        start, stop: between which places.
        rate: the mean change a layer there, with its sign.
        low, high: an interval of it that holds with 95 %, by Student's t over the layers.
        largest: the place before the step that changes most in that direction.
        share: its part of the change.
    """

    size: float
    start: int
    stop: int
    rate: float
    low: float
    high: float
    largest: int
    share: float


def farthest(logs: Sequence[float], sign: int) -> Change | None:
    """Return the farthest rise (sign 1) or fall (sign -1) between two places in order, None for fewer than two logs.

    The change between places i < j is sign (log_j - log_i), and the rate is the mean of the j - i steps between them.

    >>> change = farthest([0.0, -1.0, -3.0, -2.9], -1)
    >>> change.size, change.start, change.stop, change.largest
    (3.0, 0, 2, 1)
    """
    values = np.asarray(logs, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    values = sign * values
    lowest = np.minimum.accumulate(values)
    stop = int((values - lowest).argmax())
    start = int(values[: stop + 1].argmin())
    steps = np.diff(values[start : stop + 1])
    if not len(steps):
        return Change(0.0, start, stop, 0.0, -math.inf, math.inf, start, 0.0)
    size, mean = float(values[stop] - values[start]), float(steps.mean())
    half = math.inf
    if len(steps) > 1:
        half = float(stdtrit(len(steps) - 1, 0.975)) * float(steps.std(ddof=1)) / math.sqrt(len(steps))
    place = int(steps.argmax())
    low, high = sorted((sign * (mean - half), sign * (mean + half)))
    return Change(size, start, stop, sign * mean, low, high, start + place, float(steps[place]) / size if size else 0.0)
