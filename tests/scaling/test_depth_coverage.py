"""Intervals of a depth check hold the exponents that are known, as often as they say."""

import pytest

import stability as st
from stability.scaling.depth_exponents import fit_exponent

from .known_cases import CASES, loss, slope

REPETITIONS, SEEDS = 100, 3
#: Those of which no other has the same networks and the same optimiser.
COUNTED = [
    "plain, SGD",
    "unscaled residual",
    "1/sqrt(L), SGD",
    "1/sqrt(L), Adam",
    "1/L, SGD",
    "pre-norm, Adam",
    "post-norm, SGD",
    "Depth-muP",
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COUNTED)
def test_an_interval_holds_the_truth_in_90_of_100_repetitions(name):
    case = CASES[name]
    check = st.depth_check(case.make, case.depths, case.x, loss, case.optimizer, steps=1, seeds=REPETITIONS * SEEDS)
    logs = check._logs
    for quantity, truth in case.truths.items():
        known, held = slope(truth, case.depths), 0
        for first in range(0, REPETITIONS * SEEDS, SEEDS):
            found = fit_exponent(quantity, case.depths, logs[quantity][:, first : first + SEEDS], check.level)
            held += found.interval[0] <= known <= found.interval[1]
        assert held >= 90, (quantity, known, held)
