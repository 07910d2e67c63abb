"""Where a finding begins, each threshold with its reason. u is half the spacing of a format above 1."""

from __future__ import annotations

import math

import torch

from stability.foundation.formats import Format


def log_range(dtype: torch.dtype) -> float:
    """Return ln(1/u), by how much a state or gradient may change in log over a network.

    Numbers that differ by more than 1/u do not meet: the smaller one is lost in the sum with the larger. A state that
    has fallen by more vanishes beside a bias of the size of the first state, and an update of a first layer beside one
    of the last, at the same rate.

    >>> round(log_range(torch.float32), 2)
    16.64
    """
    return -math.log(Format(dtype).roundoff)


def least_spread(dtype: torch.dtype) -> float:
    """Return u, the distance between points over their size, below which the format cannot tell them apart.

    The root of it is where "watch" begins: half of the digits that tell points apart are gone.
    """
    return Format(dtype).roundoff


def parting(dtype: torch.dtype) -> float:
    """Return 1/sqrt(u), the amplification of a small difference between points from which on a network is chaotic.

    Two points at sqrt(u) of each other end far apart, and a point's own rounding, of u, takes half of the digits of the
    output. A correct start amplifies by about 1, as it neither orders nor parts points.
    """
    return 1 / math.sqrt(Format(dtype).roundoff)


#: Share of the units of a tanh whose derivative rounds to 0 from which on the activation counts as saturated: the share
#: of a normal variable beyond one standard deviation. It is met where the root mean square of what enters is the place
#: where the derivative rounds to 0 (9.0 for tanh in float32); a correct start has about 1 there.
SATURATED_SHARE = math.erfc(1 / math.sqrt(2))
#: Half of all units, or rows of a softmax: then most ways through the layer are blocked.
BLOCKED_SHARE = 0.5
#: A layer in which all units are at 0 passes nothing. Every point counts: a layer of w units that are each active with
#: probability 1/2 blocks a point with probability 2^-w, and so a share of the points that is 1 is no chance from 8
#: points on: 2^-(8 w).
DEAD_SHARE = 1.0
#: With fewer points a share of them may be chance, unless the layer has so many numbers at all points together.
LEAST_POINTS, LEAST_NUMBERS = 8, 30
#: Units that are dead at every point: half of them in a layer is what theory expects where all points have become
#: alike, so more than that, and never more than "watch".
DEAD_UNITS_SHARE = 0.5


def epsilon_ratio(severe: bool) -> float:
    """Return the ratio r of |g| to the optimiser's epsilon below which it is small: 1, and 1/100 where that is harmful.

    Adam's step is rate g / (|g| + epsilon) at the start: r / (1 + r) of the rate. At 1 it is half of it; at 1/100 the
    same way takes 100 times the iterations.
    """
    return 0.01 if severe else 1.0


#: Over half of a layer's weights that an update leaves as they are: the layer does not follow the optimiser any more.
LOST_SHARE = 0.5
#: var / (var + epsilon) of a normalisation where var is epsilon: what leaves it is below 1 / sqrt(2) of what it should.
NORM_SHARE = 0.5


def condition(width: int, dtype: torch.dtype) -> float:
    """Return 1/u, the condition number of a weight from which on the format holds no inverse of it.

    A square random matrix of width n exceeds x with probability about 2 n / x (Edelman 1988): at 1/u in float32, 1e-5
    for a width of 100. For wide ones the bound grows, so that the chance stays below 1e-4.
    """
    return max(1 / Format(dtype).roundoff, 2e4 * width)


#: Spread of the points over their root mean square, c. The curvature of a squared loss at the first layer is that of
#: the second moments of the input: 1 along the mean, c^2 across it. Gradient descent takes 1/c^2 iterations: 4096 at
#: 1/64, which is 1/sqrt(u) of float32, and 44 at 0.15.
SPREAD_HARMFUL, SPREAD_WATCH = 1 / 64, 0.15
#: Starts are made for inputs of order 1; a factor s on the input is one of s^2 on the curvature of a squared loss, so
#: that a rate that suits order 1 is off by 1000 at s = 32.
SCALE = math.sqrt(1000.0)
#: Higher orders in the change of the output that a step makes, over the first. To second order the part t of a step
#: makes t - c t^2 of what is predicted, at most 1 / (4 c) at t = 1 / (2 c). At this c, 0.854, the whole step makes half
#: of what 0.59 of it does.
HIGHER_ORDERS = (1 + 1 / math.sqrt(2)) / 2
