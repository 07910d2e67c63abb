"""Residual growth and shattered gradients against networks and closed identities."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import stability as st

theory = st.theory


def chain(activation, depth, width, seeds, weight=1.0, outer=1.0, bias=0.0, outer_bias=0.0, root=0):
    """A residual chain with two maps and Gaussian entries of those scales."""
    normal = st.Distribution
    init = dataclasses.replace(
        st.INITS["he"],
        name="mean field",
        weight=normal("normal", weight, width_power=-0.5),
        bias=normal("normal", bias),
        outer_weight=normal("normal", outer, width_power=-0.5),
        outer_bias=normal("normal", outer_bias),
    )
    architecture = st.Architecture(f"residual2_{activation}_wide", skip=1, maps=2, activation=activation)
    return st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=root)


def inputs(width, correlation):
    """Two points of mean square 1 with that correlation."""
    x = torch.zeros(2, width, dtype=torch.float64)
    x[:, 0] = 1
    x[1, 0], x[1, 1] = correlation, math.sqrt(1 - correlation**2)
    return x * math.sqrt(width)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu", "prelu", "gelu"])
def test_networks_grow_as_the_recursion_says_for_infinite_width(activation):
    # Means over seeds at three widths, extrapolated in 1 / width: what is left is the mean field.
    depth, scales = 8, {"weight": 1.3, "outer": 0.8, "bias": 0.3, "outer_bias": 0.2}
    expected = theory.residual_signals(depth, 1.3, 0.8, 0.3, 0.2, activation, correlation=0.3)
    widths, means, errors = (16, 32, 64), [], []
    for n in widths:
        net = chain(activation, depth, n, 24_000 // n, root=n, **scales)
        p = st.propagation(net, inputs(n, 0.3))
        squares = (2 * p.log_norms[-1]).exp().numpy() / n
        dots = p.correlations[-1, :, 0].numpy() * np.sqrt(squares.prod(axis=1))
        sample = np.stack([squares.mean(axis=1), dots])
        means.append(sample.mean(axis=1))
        errors.append(sample.std(axis=1) / math.sqrt(sample.shape[1]))
    for kind, limit in enumerate((expected.mean_squares[-1], expected.mean_squares[-1] * expected.correlations[-1])):
        found, error = extrapolate([m[kind] for m in means], [e[kind] for e in errors], widths)
        assert abs(found - limit) < 4 * error
        assert error < 0.05 * limit


def extrapolate(values, errors, widths):
    """Fit value + slope / width by weighted least squares; return the limit and its standard error."""
    design = np.stack([np.ones(len(widths)), 1 / np.asarray(widths)], axis=1) / np.asarray(errors)[:, None]
    covariance = np.linalg.inv(design.T @ design)
    return (covariance @ design.T @ (np.asarray(values) / errors))[0], math.sqrt(covariance[0, 0])


def test_relu_growth_is_exact_at_every_width():
    depth, n = 6, 8
    p = st.propagation(chain("relu", depth, n, 4000, weight=0.7, outer=0.9), inputs(n, 0.0)[:1])
    sample = (2 * p.log_norms[-1, :, 0]).exp().numpy() / n
    expected = theory.residual_growth_factor(0.7, 0.9) ** depth
    assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(len(sample))
    found = theory.residual_signals(depth, 0.7, 0.9, activation="relu").mean_squares
    np.testing.assert_allclose(found, theory.residual_growth_factor(0.7, 0.9) ** np.arange(depth + 1), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_grow_as_the_recursion_says(activation):
    depth, n = 10, 128
    net = chain(activation, depth, n, 60, weight=1.2, outer=0.7, bias=0.2)
    x = inputs(n, 0.0)[:1]
    g = st.gradient_norms(net, x, lambda y: y[:, 0, 0])
    squares = (2 * g["input"]).exp().numpy()  # (layers, seeds), the gradient before each layer
    expected = np.exp(theory.residual_signals(depth, 1.2, 0.7, 0.2, activation=activation).log_gradients[:-1])
    error = squares.std(axis=1) / math.sqrt(squares.shape[1])
    assert (abs(squares.mean(axis=1) - expected) < 4 * error + 3 / n * expected).all()
    assert (error < 0.1 * expected).all()


@pytest.mark.slow
def test_tanh_networks_grow_linearly_and_their_gradients_as_a_root():
    rate, root = theory.residual_tanh_laws(1.5, 0.8, 0.3)
    depth = 8000
    s = theory.residual_signals(depth, 1.5, 0.8, 0.1, 0.3)
    # p = rate l - O(sqrt l): the slope between two depths tends to the rate.
    slope = (s.mean_squares[-1] - s.mean_squares[depth // 2]) / (depth // 2)
    assert math.isclose(slope, rate, rel_tol=1e-2)
    # d log / d sqrt(l) at large depth, up to 1 / sqrt(l).
    late = s.log_gradients[depth // 4] - s.log_gradients[-1]
    assert math.isclose(late / (math.sqrt(depth) - math.sqrt(depth // 4)), root, rel_tol=2e-2)
    # Below every exponential: log gradient over depth falls.
    assert (s.log_gradients[0] - s.log_gradients[-1]) / depth < 0.03 * math.log(theory.residual_growth_factor(1.5, 0.8))


def test_relu_correlations_rise_to_one():
    s = theory.residual_signals(200, 1.0, 1.0, activation="relu", correlation=-0.5)
    assert (np.diff(s.correlations) > 0).all()
    assert 0.9 < s.correlations[-1] < 1
    one = theory.residual_signals(50, 1.0, 1.0, 0.3, activation="tanh", correlation=1.0)
    np.testing.assert_allclose(one.correlations, 1, atol=1e-12)


def products(kind, depth, width, samples, seed):
    """Inner products of the gradients at two inputs whose units are active independently, and squares at one."""
    random = np.random.default_rng([seed, depth])
    g = np.zeros((samples, 2, width))
    g[:, :, 0] = 1
    for layer in range(depth, 0, -1):
        size = {"plain": 2.0, "residual": 2.0, "normalised": 2.0 / layer}[kind]
        w = random.standard_normal((samples, width, width)) * math.sqrt(size / width)
        on = random.random((samples, 2, width)) < 0.5
        branch = on * np.einsum("sij,ski->skj", w, g)
        g = branch if kind == "plain" else g + branch
    return (g[:, 0] * g[:, 1]).sum(axis=1), (g**2).sum(axis=2).mean(axis=1)


@pytest.mark.parametrize("kind", ["plain", "residual", "normalised"])
@pytest.mark.parametrize("depth", [1, 4, 8])
def test_shattered_gradients_under_the_assumption_of_the_theorem(kind, depth):
    inner, squares = products(kind, depth, 24, 6000, seed=1)
    size = {"plain": 1.0, "residual": 2.0**depth, "normalised": depth + 1.0}[kind]
    assert abs(squares.mean() - size) < 4 * squares.std() / math.sqrt(len(squares))
    expected = theory.shattered_correlation(depth, kind) * size
    assert abs(inner.mean() - expected) < 4 * inner.std() / math.sqrt(len(inner))


def test_shattered_correlations_have_their_closed_forms():
    depth = np.array([0, 1, 2, 10, 100, 10_000])
    np.testing.assert_array_equal(theory.shattered_correlation(depth), 0.5**depth)
    np.testing.assert_allclose(theory.shattered_correlation(depth, "residual"), 0.75**depth, rtol=1e-12)
    # prod (l + 1/2) / (l + 1) = binom(2 L + 2, L + 1) 2 / 4^(L + 1).
    exact = [2 * math.comb(2 * n + 2, n + 1) / 4 ** (n + 1) for n in depth[:5].tolist()]
    np.testing.assert_allclose(theory.shattered_correlation(depth, "normalised")[:5], exact, rtol=1e-12)
    found = theory.shattered_correlation(10_000, "normalised") * math.sqrt(10_000)
    assert math.isclose(found, 2 / math.sqrt(math.pi), rel_tol=1e-3)
    # Equal inputs have equal gradients.
    for kind in ("plain", "residual", "normalised"):
        np.testing.assert_allclose(theory.shattered_correlation(depth, kind, co_active=0.5), 1, rtol=1e-9)


@pytest.mark.slow
def test_in_a_network_gradients_shatter_less_than_the_theorem_says():
    # Inputs become more alike from layer to layer; with their correlations in place of 1/4 the recursion holds.
    depth, n, seeds = 8, 128, 200
    net = st.Chain("plain_relu", depth, seeds=seeds, width=n, init="he", root=5)
    start = torch.randn(seeds, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / math.sqrt(n)
    both = []
    for point in inputs(n, 0.0):
        # A copy of the point for every seed, so that each seed has a gradient of its own.
        h = copies = point.expand(seeds, 1, n).clone().requires_grad_()
        for step in net.steps:
            h = step(h)
        both.append(torch.autograd.grad((h[:, 0] * start).sum(), copies)[0][:, 0])
    inner = (both[0] * both[1]).sum(dim=1).detach().numpy()
    squares = 0.5 * (both[0].square() + both[1].square()).sum(dim=1).detach().numpy()
    c, expected = 0.0, 1.0
    for _ in range(depth):
        expected *= 2 * theory.derivative_kernel(c, 1.0, "relu")
        c = theory.correlation_map(c, 1.0, math.sqrt(2), activation="relu")
    error = inner.std() / math.sqrt(seeds)
    assert abs(inner.mean() - expected) < 4 * error + 3 / n
    assert abs(squares.mean() - 1) < 4 * squares.std() / math.sqrt(seeds)
    assert expected > 10 * theory.shattered_correlation(depth)
    assert inner.mean() - 4 * error > 5 * theory.shattered_correlation(depth)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.residual_signals(3, -1.0, 1.0), "weight_scale is -1"),
        (lambda: theory.residual_signals(3, 1.0, 1.0, correlation=1.5), "correlation is 1.5: expected numbers from -1"),
        (lambda: theory.residual_signals(3, 1.0, 1.0, start=0.0), "start is 0"),
        (lambda: theory.residual_growth_factor(1.0, -2.0), "outer_scale is -2"),
        (lambda: theory.shattered_correlation(2, co_active=0.7), "co_active is 0.7: expected numbers from 0 to 0.5"),
        (lambda: theory.shattered_correlation(2.5), "expected whole numbers"),
        (lambda: theory.shattered_correlation(2, "resnet"), "unknown kind 'resnet'"),
    ],
)
def test_outside_the_domain_the_domain_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
