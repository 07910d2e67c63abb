"""Products of random matrices of many kinds against exact products: what is wrong beyond its bound must be flagged.

`python -m tests.jacobians.random_products 1112` takes so many of each kind and prints what became of them.
"""

import collections
import math
import sys
from typing import NamedTuple

import numpy as np

import stability as st

from .oracle import log_singular_values


def orthogonal(random, n):
    return np.linalg.qr(random.standard_normal((n, n)))[0]


def powers(random, n, decades):
    return np.diag(10.0 ** random.uniform(-decades, decades, n))


def right_angle(random):
    """A direction leaves the middle layer at a right angle, but for t, to the one that the last takes up."""
    t = 10.0 ** random.uniform(-18, -1)
    return [np.diag([1e30, 1e-30]), np.array([[t, 1.0], [1.0, 0.0]]), np.diag([1e30, 1e-30])]


def right_angle_rotated(random):
    first, middle, last = right_angle(random)
    one, other = orthogonal(random, 2), orthogonal(random, 2)
    return [one @ first**0.5, other @ middle @ one.T, last**0.5 @ other.T]


def graded(random, n, depth):
    return [
        powers(random, n, 30) if random.random() < 0.7 else orthogonal(random, n) @ powers(random, n, 30)
        for _ in range(depth)
    ]


def scaled(random, n, depth):
    return [powers(random, n, 20) @ random.standard_normal((n, n)) @ powers(random, n, 20) for _ in range(depth)]


def losing_rank(random, n, depth):
    layers = random.standard_normal((depth, n, n))
    for layer in layers:
        if random.random() < 0.3:
            layer[random.integers(n)] = 0
    return list(layers)


def sparse(random, n, depth):
    return [random.integers(-1, 2, (n, n)) * (random.random((n, n)) < 0.6) * 1.0 for _ in range(min(depth, 12))]


def rectangular(random, _, depth):
    widths = random.integers(1, 9, depth + 1)
    return [random.standard_normal((widths[i + 1], widths[i])) for i in range(depth)]


KINDS = {
    "generic": lambda random, n, depth: list(random.standard_normal((depth, n, n)) / math.sqrt(n)),
    "graded": graded,
    "scaled": scaled,
    "right angle": lambda random, *_: right_angle(random),
    "right angle, rotated": lambda random, *_: right_angle_rotated(random),
    "losing rank": losing_rank,
    "sparse": sparse,
    "rectangular": rectangular,
    "extreme": lambda random, n, depth: [
        random.standard_normal((n, n)) * 10.0 ** random.uniform(-300, 300) for _ in range(depth)
    ],
}


class Outcome(NamedTuple):
    """What became of one product: whether it was flagged, whether it is wrong, its error and its bound."""

    flag: str
    wrong: bool
    error: float
    bound: float


def outcome(kind: str, number: int) -> Outcome:
    random = np.random.default_rng([list(KINDS).index(kind), number])
    layers = KINDS[kind](random, int(random.integers(1, 9)), int(random.integers(1, 30)))
    s = st.spectrum(layers)
    decades = sum(np.ptp(np.log10(abs(layer[layer != 0]))) if layer.any() else 0 for layer in layers)
    expected = log_singular_values(layers, int(60 + 1.2 * decades + 3 * len(layers)))
    found = s.log_values[-1].numpy()
    k = min(len(expected), len(found))
    expected, found = expected[:k], found[:k]
    both = (expected > -math.inf) & (found > -math.inf)
    error = float(abs(expected[both] - found[both]).max(initial=0.0))
    bound = float(s.self_check.value_bound)
    wrong = bool(((expected > -math.inf) != (found > -math.inf)).any()) or error > bound
    flag = "undecided" if s.undecided[-1] else "" if s.self_check.passed else "failed"
    return Outcome(flag, wrong, error, bound)


def main(count: int) -> None:
    for kind in KINDS:
        outcomes = [outcome(kind, number) for number in range(count)]
        became = collections.Counter(
            one.flag or ("WRONG AND PASSED" if one.wrong else "within its bound") for one in outcomes
        )
        ratios = [one.bound / one.error for one in outcomes if not one.flag and one.error]
        print(f"{kind}: {dict(became)}, bound over error {np.median(ratios) if ratios else math.nan:.1f} in the median")


if __name__ == "__main__":
    main(int(sys.argv[1]))
