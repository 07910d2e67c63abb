"""Critical scales and limits of |J| against chains drawn and scaled."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

import stability as st

theory = st.theory


def logs_of(architecture, init, scale, depth, seeds, x=1.0, root=0):
    """log|J| (seeds,) of drawn chains with a factor on the weights, the outer ones where there are two maps."""
    table = st.Chain(architecture, depth, seeds=seeds, init=init, root=root).table()
    table[:, :depth, 3 if st.ARCHITECTURES[architecture].maps == 2 else 1] *= scale
    chain, x = st.Chain.from_table(table, architecture), torch.tensor([x], dtype=torch.float64)
    return st.spectrum(chain, x, check=False, distances=False, progress=False).log_values[-1, :, 0, 0].numpy()


CASES = [
    ("plain_prelu", "pytorch", 400),
    ("plain_prelu", "he", 400),
    ("plain_prelu", "orthogonal", 200),
    ("residual2_relu", "pytorch", 800),
    ("residual2_relu", "he", 1600),
    ("residual2_relu", "orthogonal", 200),
    ("residual2_prelu", "uniform", 800),
    ("residual2_prelu", "he", 1600),
    ("residual2_prelu", "orthogonal", 200),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "init", "seeds"), CASES)
def test_at_the_critical_scale_chains_neither_grow_nor_decay_and_beside_it_they_do(architecture, init, seeds):
    found = theory.critical_scale(architecture, init)
    assert max(map(abs, found.residuals)) < 1e-13
    zs = []
    for factor in (0.99, 1.0, 1.01):
        exponents = logs_of(architecture, init, factor * found.scale, 3000, seeds) / 3000
        zs.append(exponents.mean() / (exponents.std(ddof=1) / math.sqrt(seeds)))
    assert zs[0] < -3
    assert abs(zs[1]) < 3
    assert zs[2] > 3


def test_scales_that_can_be_written_down():
    assert theory.critical_scale("plain_prelu", slope=0.5).scale == pytest.approx(math.e / math.sqrt(0.5), rel=1e-15)
    assert theory.critical_scale("plain_relu", "uniform", alive=True).scale == pytest.approx(math.e, rel=1e-15)
    # |1 - c^2| |1 - a^2 c^2| = 1 with c^2 = 2 s^2 / (1 + a^2): c^2 = (1 + a^2) / a^2, or two roots of a quadratic.
    a = 0.25**2
    roots = np.sort([*np.roots([a, -(1 + a), 2]), (1 + a) / a])
    scales = theory.critical_scale("residual2_prelu", "orthogonal").scales
    assert scales == pytest.approx(np.sqrt(roots * (1 + a) / 2), rel=1e-12)
    # Divided by sqrt(depth) the scale is sqrt(depth) times that of the rest.
    assert theory.critical_scale("residual2_relu", "scaled", depth=400).scale == pytest.approx(
        20 * theory.critical_scale("residual2_relu", "uniform").scale, rel=1e-12
    )


def test_where_there_is_none_the_reason_is_given():
    for found, said in (
        (theory.critical_scale("plain_relu"), "kills the signal"),
        (theory.critical_scale("residual1_relu", "he", sign=1), "above 0 at every scale"),
        (theory.critical_scale("residual1_relu", "uniform", sign=-1), "below 0"),
        (theory.critical_scale("residual2_prelu", "identity"), "0 throughout"),
    ):
        assert not found.scales
        assert said in found.reason
        with pytest.raises(ValueError, match=said):
            _ = found.scale
    assert not theory.critical_scale("plain_prelu").trivial
    assert theory.critical_scale("residual2_relu").trivial
    with pytest.raises(ValueError, match="slop"):
        theory.critical_scale("plain_prelu", slop=0.5)


def test_a_bypass_with_one_map_and_slopes_near_1_has_one():
    one_map = st.Architecture("residual1_prelu", skip=1, maps=1, activation="prelu")
    found = theory.critical_scale(one_map, "uniform", sign=1, slope=0.9)
    assert 0 < found.scale < 1
    assert abs(found.residuals[0]) < 1e-13
    assert "does not change its sign" in theory.critical_scale(one_map, "uniform", sign=1).reason
    init = dataclasses.replace(st.INITS["uniform"], slope=st.Distribution("constant", 0.9))
    exponent = theory.lyapunov_exponent(one_map, init, sign=1)
    chain = st.Chain(one_map, 500, seeds=400, init=init)
    s = st.spectrum(chain, torch.ones(1, dtype=torch.float64), check=False, distances=False, progress=False)
    assert abs(exponent.check(s.finite_time_exponents[-1, :, 0, 0]).z) < 4


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pytorch", "he", "orthogonal"])
@pytest.mark.parametrize("architecture", ["residual2_relu", "residual2_prelu"])
def test_divided_by_the_root_of_the_depth_the_derivative_is_log_normal(architecture, init):
    depth, seeds, scale = 1000, 2000, 1.5
    limit = theory.scaled_limit(architecture, init, 0.5)
    assert limit.kind == "log-normal"
    logs = logs_of(architecture, init, scale / math.sqrt(depth), depth, seeds)
    mean, variance = limit.mean.value(scale=scale), limit.variance.value(scale=scale)
    assert mean == pytest.approx(-variance / 2)  # so that E|J| = 1
    assert abs(limit.mean.check(logs, scale=scale).z) < 4
    assert abs(limit.variance.check((logs - mean) ** 2, scale=scale).z) < 4
    assert kstest((logs - mean) / math.sqrt(variance), "norm").pvalue > 1e-4


@pytest.mark.parametrize(
    ("architecture", "init", "sign"),
    [
        ("residual2_prelu", "pytorch", None),
        ("residual2_relu", "he", None),
        ("residual1_relu", "uniform", 1),
        ("residual1_relu", "uniform", -1),
        ("residual1_relu", "he", 1),
    ],
)
def test_divided_by_the_depth_the_derivative_is_a_number(architecture, init, sign):
    limit = theory.scaled_limit(architecture, init, 1, sign)
    assert (limit.kind, limit.variance.value()) == ("number", 0)
    spreads = []
    for depth in (250, 1000):
        logs = logs_of(architecture, init, 1 / depth, depth, 500, x=sign or 1.0)
        spreads.append(logs.std())
        # The next order is 1 / depth.
        assert abs(logs.mean() - limit.mean.value()) < 4 * logs.std() / math.sqrt(500) + 2 / depth
    assert spreads[1] == pytest.approx(spreads[0] / 2, rel=0.2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bypass_with_one_map_diverges_under_the_root_of_the_depth(sign):
    limit = theory.scaled_limit("residual1_relu", "uniform", 0.5, sign)
    assert limit.kind == "divergence"
    assert limit.mean.value() == sign * math.inf
    rate = theory.scaled_limit("residual1_relu", "uniform", 1, sign).mean.value()
    for depth in (250, 1000):
        logs = logs_of("residual1_relu", "uniform", 1 / math.sqrt(depth), depth, 500, x=float(sign))
        assert logs.mean() == pytest.approx(rate * math.sqrt(depth), abs=0.3)
        spread = theory.scaled_limit("residual1_relu", "uniform", 0.5, sign).variance
        assert abs(spread.check((logs - logs.mean()) ** 2).z) < 4


def test_without_a_bypass_and_with_too_little_of_it_the_derivative_vanishes():
    assert theory.scaled_limit("plain_prelu", "pytorch", 1).mean.value() == -math.inf
    assert theory.scaled_limit("residual2_relu", "pytorch", 0.4).kind == "divergence"
    assert theory.scaled_limit("residual2_relu", "identity", 0.4).kind == "number"
    with pytest.raises(ValueError, match="depends on the depth already"):
        theory.scaled_limit("residual2_relu", "scaled")
    with pytest.raises(ValueError, match="power"):
        theory.scaled_limit("residual2_relu", power=0)
