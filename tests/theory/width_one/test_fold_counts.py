"""Expected folds, turns and regions against exact counts of drawn chains."""

import math

import numpy as np
import pytest

import stability as st

WHOLE = (-math.inf, math.inf)


def counts_of(architecture, init, scale, depth, seeds, interval):
    table = st.Chain(architecture, depth, seeds=seeds, init=init).table()
    table[:, :depth, 3 if st.ARCHITECTURES[architecture].maps == 2 else 1] *= scale
    return st.count(table, interval)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 5, 12])
@pytest.mark.parametrize(
    ("architecture", "init", "scale", "interval"),
    [
        ("plain_prelu", "pytorch", 1, WHOLE),
        ("plain_prelu", "pytorch", 4, WHOLE),
        ("residual1_relu", "pytorch", 1, WHOLE),
        ("residual2_relu", "pytorch", 1, WHOLE),
        ("residual2_relu", "pytorch", 3, WHOLE),
        ("residual2_prelu", "pytorch", 1, WHOLE),
        ("residual2_prelu", "pytorch", 3, WHOLE),
        ("residual2_prelu", "pytorch", 8, WHOLE),
        ("residual2_prelu", "scaled", 1, WHOLE),
        ("plain_relu", "he", 1, (-3, 3)),
        ("plain_relu", "uniform", 1, (-1, math.inf)),
        ("plain_prelu", "uniform", 1, (-3, 3)),
        ("plain_prelu", "he", 1, WHOLE),
        ("residual1_relu", "he", 1, (-3, 3)),
        ("residual1_relu", "uniform", 1.6, (-3, 3)),
        ("residual1_relu", "orthogonal", 1, (-3, 3)),
        ("residual2_relu", "uniform", 1, (-3, 3)),
        ("residual2_prelu", "uniform", 1, (-3, 3)),
        ("plain_prelu", "uniform", 1, (1, 3)),
    ],
)
def test_counts_are_those_of_drawn_chains(architecture, init, scale, interval, depth):
    counted = counts_of(architecture, init, scale, depth, 2000, interval)
    expected = st.theory.expected_counts(architecture, init, interval)
    for kind in ("folds", "turns", "regions"):
        found = getattr(expected, kind).check(getattr(counted, kind).astype(float), depth=depth, scale=scale)
        # Where all members agree but for some of a probability below 1 / 2000, none may have been met.
        assert abs(found.z) < 4 or (found.standard_error == 0 and abs(found.measured - found.predicted) < 1e-3)


def test_the_number_of_folds_is_exact_where_steps_keep_the_order_and_a_mean_beyond():
    assert set(counts_of("residual2_prelu", "pytorch", 1, 30, 200, WHOLE).folds) == {30}
    beyond = counts_of("residual2_prelu", "pytorch", 8, 30, 200, WHOLE).folds.astype(float)
    assert beyond.std() > 10
    assert st.theory.expected_counts("residual2_prelu").turns.value(scale=[0.5, 1.0]).tolist() == [0, 0]


def test_deep_chains():
    form = st.theory.expected_counts("plain_prelu", "uniform").folds
    found = form.value(depth=[1.0, 2.0, 1000.0, 100_000.0])
    exact = [1, 1 / 2, 1 - math.comb(1000, 500) / 2**1000, 1 - 1 / math.sqrt(math.pi * 50_000)]
    assert found == pytest.approx(exact, rel=1e-8)
    assert np.isfinite(st.theory.expected_counts("plain_relu", "he").folds.value(depth=5000))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: st.theory.expected_counts("plain_relu"), "plain_relu.* with biases"),
        (lambda: st.theory.expected_counts("residual2_prelu", "pytorch", (-3, 3)), "whole line"),
        (lambda: st.theory.expected_counts("plain_prelu", "knots"), "independent of the biases"),
        (lambda: st.theory.expected_counts("plain_prelu", "identity"), "symmetric about 0"),
        (lambda: st.theory.expected_counts("residual2_prelu", "identity"), "outer weights"),
        (lambda: st.theory.expected_counts("residual2_prelu", "he"), "across 0"),
        (lambda: st.theory.expected_counts("residual1_relu").folds.value(scale=1.1), "scale is 1.1"),
        (lambda: st.theory.expected_counts("plain_prelu").folds.value(slope=1), "slope is 1"),
        (lambda: st.theory.expected_counts("plain_prelu", "he", (2, -math.inf)), "low < high"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
