"""Products of random matrices of many kinds against exact products: what is wrong beyond its bound must be flagged.

`python -m tests.jacobians.random_products 560` takes so many of each kind and prints what became of them.
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


def rotated(random, layers):
    """The same layers between random bases: what was apart in size is mixed in every entry."""
    bases = [orthogonal(random, layers[0].shape[1]), *(orthogonal(random, len(layer)) for layer in layers)]
    return [after @ layer @ before.T for layer, before, after in zip(layers, bases[:-1], bases[1:], strict=True)]


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
    widths = random.integers(1, 17, depth + 1)
    return [random.standard_normal((widths[i + 1], widths[i])) for i in range(depth)]


PLAIN = {
    "generic": lambda random, n, depth: list(random.standard_normal((depth, n, n)) / math.sqrt(n)),
    "graded": graded,
    "scaled": scaled,
    "right angle": lambda random, *_: right_angle(random),
    "losing rank": losing_rank,
    "sparse": sparse,
    "rectangular": rectangular,
    "extreme": lambda random, n, depth: [
        random.standard_normal((n, n)) * 10.0 ** random.uniform(-300, 300) for _ in range(depth)
    ],
}
KINDS = [*PLAIN, *(f"{kind}, rotated" for kind in PLAIN)]
#: Depths for which the exact product of such layers still fits in some ten thousand digits.
SHALLOW = {"graded": 30, "scaled": 30, "extreme": 30}


def product(kind, number):
    random = np.random.default_rng([KINDS.index(kind), number])
    plain, _, turned = kind.partition(", ")
    depth = int(10 ** random.uniform(0, math.log10(SHALLOW.get(plain, 300))))
    layers = PLAIN[plain](random, int(random.integers(1, 17)), depth)
    return rotated(random, layers) if turned else layers


class Outcome(NamedTuple):
    """What became of one product: a flag, whether by exact products, whether it is wrong, its error and its bound."""

    flag: str
    exact: bool
    wrong: bool
    error: float
    bound: float


def outcome(kind: str, number: int) -> Outcome:
    layers = product(kind, number)
    s = st.spectrum(layers, distances=False)
    expected = log_singular_values(layers, 60 + 3 * len(layers))
    found = s.log_values[-1].numpy()
    k = min(len(expected), len(found))
    expected, found = expected[:k], found[:k]
    both = (expected > -math.inf) & (found > -math.inf)
    error = float(abs(expected[both] - found[both]).max(initial=0.0))
    bound = float(s.self_check.value_bound)
    wrong = bool(((expected > -math.inf) != (found > -math.inf)).any()) or error > bound
    flag = "undecided" if s.undecided[-1] else "" if s.self_check.passed else "failed"
    return Outcome(flag, bool(s.self_check.exact), wrong, error, bound)


def main(count: int) -> None:
    for kind in KINDS:
        outcomes = [outcome(kind, number) for number in range(count)]
        became = collections.Counter(
            one.flag or ("WRONG AND PASSED" if one.wrong else "within its bound") for one in outcomes
        )
        exact = sum(one.exact for one in outcomes)
        ratios = [one.bound / one.error for one in outcomes if not one.flag and one.error]
        tightness = f"{np.median(ratios):.1f}" if ratios else "none"
        print(f"{kind}: {dict(became)}, {exact} exactly, bound over error {tightness} in the median", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
