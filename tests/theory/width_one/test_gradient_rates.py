"""Rates of gradient norms and depths of failure against drawn chains."""

import math

import numpy as np
import pytest
import torch

import stability as st

theory = st.theory


@pytest.mark.parametrize(
    ("architecture", "init", "sign"),
    [
        ("plain_prelu", "pytorch", None),
        ("plain_prelu", "he", None),
        ("residual2_prelu", "pytorch", None),
        ("residual2_relu", "he", None),
        ("residual1_relu", "uniform", 1),
        ("residual1_relu", "uniform", -1),
    ],
)
def test_rates_by_layer_are_fitted_rates(architecture, init, sign):
    chain = st.Chain(architecture, 200, seeds=1000, init=init)
    x = torch.tensor([sign or 1.0], dtype=torch.float64)
    found = st.gradient_norms(chain, x, lambda output: output.square().mean(dim=1))["input"].numpy()
    steps = (found[0] - found[-1]) / (len(found) - 1)
    assert abs(theory.gradient_rate(architecture, init, sign=sign).check(steps).z) < 4


@pytest.mark.parametrize(("architecture", "sign"), [("residual1_relu", 1), ("residual2_prelu", None)])
def test_rates_by_depth(architecture, sign):
    chain = st.Chain(architecture, 300, seeds=1000, init="uniform")
    x = torch.ones(1, dtype=torch.float64)

    def loss(output):
        # With two maps a loss whose derivative stays bounded: the sum itself.
        return output.square().mean(dim=1) if sign else output.mean(dim=1)

    first = [st.gradient_norms(chain.prefix(depth), x, loss)["input"][0].numpy() for depth in (100, 300)]
    rate = theory.gradient_rate(architecture, "uniform", along="depth", sign=sign)
    assert abs(rate.check((first[1] - first[0]) / 200).z) < 4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("architecture", "init"), [("plain_prelu", "pytorch"), ("plain_prelu", "he")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_depths_of_underflow(architecture, init, dtype, share):
    seeds = 4000
    found = theory.failure_depth(architecture, init, dtype, share)
    assert found.reason == "underflow"
    chain = st.Chain(architecture, math.ceil(found.depth) + 5, seeds=seeds, init=init)
    s = st.spectrum(chain, torch.ones(1, dtype=torch.float64), check=False, distances=False, progress=False)
    lost = s.underflows(getattr(torch, dtype)).double().mean(dim=(1, 2, 3)).numpy()
    # What is lost at the depth foretold, between whole depths: the share but for sampling, and for the skewness of a
    # sum of L numbers, of order 1 / sqrt(L).
    depths = np.arange(1, s.depth + 1)
    measured = float(np.interp(found.depth, depths, lost))
    assert abs(measured - share) < 4 * math.sqrt(share * (1 - share) / seeds) + 0.35 / math.sqrt(found.depth)


def test_half_of_the_products_are_lost_at_the_depth_foretold():
    chain = st.Chain("plain_prelu", 500, seeds=4000)
    s = st.spectrum(chain, torch.ones(1, dtype=torch.float64), check=False, distances=False, progress=False)
    for dtype in ("bfloat16", "float32", "float64"):
        lost = s.underflows(getattr(torch, dtype)).double().mean(dim=(1, 2, 3)).numpy()
        measured = int((lost >= 0.5).argmax()) + 1
        assert measured == pytest.approx(theory.failure_depth("plain_prelu", dtype=dtype).depth, rel=0.02, abs=1)


def test_overflow_and_what_never_fails():
    found = theory.failure_depth("residual1_relu", "uniform", "float32", sign=1)
    assert found.depth == pytest.approx(128 * math.log(2) / (math.log(2) - 0.5), rel=1e-12)
    chain = st.Chain("residual1_relu", math.ceil(found.depth), seeds=1000, init="uniform")
    s = st.spectrum(chain, torch.ones(1, dtype=torch.float64), check=False, distances=False, progress=False)
    above = (s.log_values[-1] > 128 * math.log(2)).double().mean()
    assert abs(float(above) - 0.5) < 4 * 0.5 / math.sqrt(1000) + 0.02
    assert theory.failure_depth("residual2_prelu", "identity") == theory.FailureDepth(math.inf, "never")
    # A walk without drift: never half of them, but a tenth.
    assert theory.failure_depth("residual2_relu", "orthogonal", "float16").depth == math.inf
    assert theory.failure_depth("residual2_relu", "orthogonal", "float16", 0.1).reason == "overflow"
    # With a drift away from the level, a small share meets it for a while, or never.
    assert theory.failure_depth("plain_relu", share=0.75) == theory.FailureDepth(2.0, "exactly 0")


def test_the_spread_brings_some_there_early():
    depths = [theory.failure_depth("plain_prelu", share=share).depth for share in (0.05, 0.5, 0.95)]
    assert depths[0] < depths[1] < depths[2]
    mean, variance = theory.lyapunov_exponent("plain_prelu").value(), theory.log_variance("plain_prelu").value()
    for depth, z in zip(depths, (-1.6448536269514722, 0, 1.6448536269514722), strict=True):
        # At that depth the quantile of log|J| is that of the smallest number.
        assert depth * mean + z * math.sqrt(depth * variance) == pytest.approx(-150 * math.log(2), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: theory.failure_depth("plain_prelu", dtype="float23"), "float23"),
        (lambda: theory.failure_depth("plain_prelu", share=1), "share is 1"),
        (lambda: theory.gradient_rate("plain_prelu", along="time"), "time"),
        (lambda: theory.failure_depth("plain_prelu", scal=1), "scal"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
