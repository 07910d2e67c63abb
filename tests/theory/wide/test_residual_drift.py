"""The drift of random residual steps against chains, the plane, and the sign that it has."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import stability as st

theory = st.theory


def stretches(width, strength, depth, seeds):
    """Means of log |J v| a step of chains with Gaussian maps and biases, for v of a direction of its own."""
    scale = math.sqrt(math.sqrt(2) * strength / width)
    weight = st.Distribution("normal", scale)
    init = st.Init("gaussian", "", weight, st.Distribution("normal", 0.3), weight, st.Distribution("normal", 0.3))
    chain = st.Chain("residual2_relu", depth, seeds, width, init, root=width)
    x = torch.linspace(-1, 1, width, dtype=torch.float64)[None] if width > 1 else torch.ones(1, dtype=torch.float64)
    v = torch.zeros_like(x).reshape(-1)
    v[0] = 1.0

    def push(h, step):
        return torch.func.jvp(lambda state: step(state), h[:1], h[1:])

    state = x.expand(seeds, *x.shape), v.reshape(x.shape).expand(seeds, *x.shape)
    for step in chain.steps:
        state = push(state, step)
    return (state[1].reshape(seeds, -1).norm(dim=1).log() / depth).detach().numpy()


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_it_is_that_of_chains(width):
    agreement = theory.residual_drift(width).check(stretches(width, 0.8, 4, 20_000), strength=0.8)
    assert abs(agreement.z) < 4
    # The sample is fine enough to tell the drift from that of the next width.
    other = theory.residual_drift(width + 1).value(strength=0.8)
    assert abs(agreement.measured - other) > 4 * agreement.standard_error


def test_the_sign_changes_between_width_1_and_2():
    strengths = np.geomspace(0.05, 5, 20)
    assert (theory.residual_drift(1).value(strength=strengths[strengths < 0.9]) < 0).all()
    for width in (2, 3, 4, 16):
        drift = theory.residual_drift(width).value(strength=strengths)
        assert (drift > -1e-12).all()
        assert (np.diff(drift) > -1e-12).all()


@pytest.mark.parametrize("width", [1, 3, 4, 10, 100])
def test_weak_branches_have_the_drift_of_second_order(width):
    strength = 0.01
    expected = strength**2 * (1 / 2 - 1 / width)
    assert theory.residual_drift(width).value(strength=strength) == pytest.approx(expected, rel=3e-3)


def test_in_the_plane_only_moves_longer_than_the_vector_count():
    # log|x| is harmonic there: the mean of log |e + r u| over directions u is log r beyond r = 1 and 0 within.
    random = np.random.default_rng(0)
    count, strength = 4_000_000, 0.7
    k = random.binomial(2, 0.5, count)
    r = math.sqrt(strength**2 / 2) * np.sqrt(random.chisquare(np.maximum(k, 1)) * (k > 0) * random.chisquare(2, count))
    sample = np.log(np.maximum(r, 1.0))
    assert abs(theory.residual_drift(2).check(sample, strength=strength).z) < 4


def test_strong_branches_of_width_1_grow():
    root = brentq(lambda s: theory.residual_drift(1).value(strength=s), 0.5, 2.0)
    assert 1.0 < root < 1.1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="width is 0"):
        theory.residual_drift(0)
    with pytest.raises(ValueError, match="strength is -1"):
        theory.residual_drift(2).value(strength=-1)
