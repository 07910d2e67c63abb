"""Intervals of 95 %, for claims: of a share and of a slope over seeds, without scipy.stats, which is slow to load."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit


def wilson(count: float, of: float) -> tuple[float, float, float]:
    """Return a share in percent, and the ends of its 95 % interval (Wilson)."""
    hits, trials, z2 = int(count), int(of), float(ndtri(0.975)) ** 2
    middle = (hits + z2 / 2) / (trials + z2)
    half = float(np.sqrt(z2 * (hits * (trials - hits) / trials + z2 / 4))) / (trials + z2)
    # At the ends the interval ends exactly at 0 and at 1.
    low, high = (middle - half if hits else 0.0), (middle + half if hits < trials else 1.0)
    return 100 * hits / trials, 100 * low, 100 * high


def slope(x: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """Return the mean slope of values (x, seed), one fit a seed, and half of Student's interval over the seeds."""
    slopes = np.polyfit(np.asarray(x), np.asarray(values), 1)[0]
    half = stdtrit(slopes.size - 1, 0.975) * slopes.std(ddof=1) / np.sqrt(slopes.size)
    return float(slopes.mean()), float(half)
