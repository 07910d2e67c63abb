"""The size of residual streams and the energy of their paths against chains and matrices."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

import stability as st

theory = st.theory


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0])
def test_the_mean_square_of_a_relu_stream_is_exact_under_every_factor(power):
    architecture = st.Architecture("scaled_relu", skip=1, maps=2, activation="relu", branch_power=power)
    weight, zero = st.Distribution("uniform", 2.0, -0.5), st.Distribution("constant", 0.0)
    init = st.Init("no bias", "", weight, zero, weight, zero)
    depth, width, seeds = 6, 3, 4000
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    with torch.no_grad():
        h = st.Chain(architecture, depth, seeds, width, init)(x)
    sample = (h.square().sum(dim=(1, 2)) / x.square().sum()).numpy()
    # E |V D W h|^2 = n Var V n Var W / 2 |h|^2, with Var = 4 / (3 n).
    predicted = theory.residual_rms().value(strength=math.sqrt(16 / 18), depth=depth, power=power) ** 2
    z = (sample.mean() - predicted) / (sample.std(ddof=1) / math.sqrt(seeds))
    assert abs(z) < 4
    assert abs(sample.mean() - 1) > 3 * sample.std(ddof=1) / math.sqrt(seeds)


def test_the_mean_square_of_a_normalised_stream_grows_linearly():
    order = ("norm", "map", "add")
    architecture = st.Architecture("prenorm", skip=1, maps=1, order=order, norm="rms", activation="linear")
    width, depth, seeds = 4, 50, 1000
    weight = st.Distribution("normal", 0.5)  # the branch has 4 times 1/4 of the mean square of what it is given
    init = st.Init("no bias", "", weight, st.Distribution("constant", 0.0))
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    with torch.no_grad():
        h = st.Chain(architecture, depth, seeds, width, init)(x)
    sample = h.square().mean(dim=(1, 2)).numpy()
    predicted = theory.residual_rms("normalised").value(strength=1, depth=depth, power=0) ** 2
    assert predicted == pytest.approx(51)
    # Normalisation adds 1e-5 to the mean square.
    assert abs(sample.mean() - predicted) < 4 * sample.std(ddof=1) / math.sqrt(seeds) + 1e-3


def test_limits_of_the_depth():
    form = theory.residual_rms()
    assert form.value(depth=1e9, power=-0.5, strength=0.7) == pytest.approx(math.exp(0.7**2 / 2), rel=1e-8)
    assert form.value(depth=1e9, power=-1, strength=0.7) == pytest.approx(1, abs=1e-8)


def test_paths_are_binomial():
    form = theory.path_energy()
    k = np.arange(101)
    expected = binom.pmf(k, 100, 0.36 / 1.36)
    np.testing.assert_allclose(form.value(depth=100, strength=0.6, length=k), expected, rtol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_paths_through_random_matrices_have_that_energy(length):
    depth, n, count, strength = 6, 4, 40_000, 0.9
    random = np.random.default_rng(length)
    # The coefficients of prod (I + z A_l) v, by Horner's rule over the layers.
    paths = np.zeros((depth + 1, count, n))
    paths[0, :, 0] = 1.0
    for _ in range(depth):
        a = random.standard_normal((count, n, n)) * strength / math.sqrt(n)
        paths[1:] += np.einsum("sij,ksj->ksi", a, paths[:-1].copy())
    energy = (paths[length] ** 2).sum(axis=1) / (1 + strength**2) ** depth
    assert abs(theory.path_energy().check(energy, depth=depth, strength=strength, length=length).z) < 4


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'plain'"):
        theory.residual_rms("plain")
    with pytest.raises(ValueError, match="depth is 0"):
        theory.residual_rms().value(depth=0)
    with pytest.raises(ValueError, match="length is -1"):
        theory.path_energy().value(length=-1)
