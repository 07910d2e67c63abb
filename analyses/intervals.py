"""Intervals of 95 %, for claims: of a share and of a slope over seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


def wilson(count: float, of: float) -> tuple[float, float, float]:
    """Return a share in percent, and the ends of its 95 % interval (Wilson)."""
    from scipy.stats import binomtest  # slow to load, and not wanted by a script that only draws

    interval = binomtest(int(count), int(of)).proportion_ci(method="wilson")
    return 100 * int(count) / int(of), 100 * interval.low, 100 * interval.high


def slope(x: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """Return the mean slope of values (x, seed), one fit a seed, and half of Student's interval over the seeds."""
    slopes = np.polyfit(np.asarray(x), np.asarray(values), 1)[0]
    half = stdtrit(slopes.size - 1, 0.975) * slopes.std(ddof=1) / np.sqrt(slopes.size)
    return float(slopes.mean()), float(half)
