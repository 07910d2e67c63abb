"""Hanin and Nica's law of |J v|^2 against networks, exact at fixed width by z < 4."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import stability as st

theory = st.theory


def stretches(widths, samples, activation="relu", bias=0.0):
    """|J v|^2 of networks with those widths, width widths[0] at the input, times inputs / outputs."""
    # A thousand at a time, to hold little.
    return np.concatenate([some_stretches(widths, 1000, activation, bias, seed) for seed in range(samples // 1000)])


def some_stretches(widths, samples, activation, bias, seed):
    random = np.random.default_rng([seed, *widths])
    inputs = widths[0]
    h, u = random.standard_normal((samples, inputs)), np.zeros((samples, inputs))
    u[:, 0] = 1
    for n in widths:
        w = random.standard_normal((samples, n, h.shape[1])) / math.sqrt(
            h.shape[1] / (2 if activation == "relu" else 1)
        )
        z = np.einsum("sij,sj->si", w, h) + bias * random.standard_normal((samples, n))
        on = z > 0 if activation == "relu" else np.ones_like(z)
        h, u = z * on, np.einsum("sij,sj->si", w, u) * on
    return (u**2).sum(axis=1) * inputs / widths[-1]


def z_of_mean(sample, expected):
    return (sample.mean() - expected) / (sample.std(ddof=1) / math.sqrt(len(sample)))


def z_of_variance(sample, expected):
    squares = (sample - sample.mean()) ** 2
    return (sample.var(ddof=1) - expected) / (squares.std(ddof=1) / math.sqrt(len(sample)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "activation", "bias"),
    [([20] * 20, "relu", 0.0), ([12, 30, 8, 20], "relu", 0.5), ([6] * 10, "linear", 0.0), ([2, 3, 2], "relu", 0.0)],
)
def test_log_squared_norm_is_that_of_networks(widths, activation, bias):
    sample = stretches(widths, 20_000, activation, bias)
    alive = sample > 0
    mean, variance = theory.log_squared_norm(widths, activation)
    logs = np.log(sample[alive])
    assert abs(z_of_mean(logs, mean)) < 4
    assert abs(z_of_variance(logs, variance)) < 4
    share = theory.survival_probability(widths, activation)
    assert abs(alive.mean() - share) <= 4 * math.sqrt(share * (1 - share) / len(sample))


@pytest.mark.slow
@pytest.mark.parametrize(("order", "widths"), [(1, [10] * 3), (2, [40]), (0.5, [20] * 10), (1.5, [40, 50])])
def test_moments_of_small_relative_variance_are_those_of_networks(order, widths):
    first, second = theory.squared_norm_moment(order, widths), theory.squared_norm_moment(2 * order, widths)
    assert second / first**2 - 1 < 1 + 1e-12 or order == 1
    assert abs(z_of_mean(stretches(widths, 40_000) ** order, first)) < 4


@pytest.mark.slow
def test_chains_obey_it_too():
    # The chain as the package initialises it, its products by automatic differentiation.
    width, depth, seeds = 16, 12, 4000
    chain = st.Chain("plain_relu", depth, seeds=seeds, width=width, init="he", root=3)

    def run(x):
        for step in chain.steps:
            x = step(x)
        return x

    x = torch.linspace(-1, 1, width, dtype=torch.float64)[None]
    with torch.no_grad():
        _, u = torch.func.jvp(run, (x,), (torch.eye(width, dtype=torch.float64)[:1],))
    logs = u.square().sum(dim=(1, 2)).numpy()
    logs = np.log(logs[logs > 0])
    mean, variance = theory.log_squared_norm([width] * depth)
    assert abs(z_of_mean(logs, mean)) < 4
    assert abs(z_of_variance(logs, variance)) < 4


def test_the_average_misses_what_the_logs_tell():
    # E |J v|^4 = (1 + 5 / 20)^20 = 86.7: the mean over 6000 networks is far below, because a few carry it.
    widths = [20] * 20
    exact = theory.squared_norm_moment(2, widths)
    assert math.isclose(exact, float(Fraction(5, 4) ** 20), rel_tol=1e-13)
    assert theory.squared_norm_moment(4, widths) / exact**2 > 1e6


@pytest.mark.parametrize(("activation", "excess"), [("relu", 5), ("linear", 2)])
def test_the_second_moment_is_a_product_over_the_layers(activation, excess):
    widths = [3, 7, 20, 400]
    expected = math.prod(1 + excess / n for n in widths)
    assert math.isclose(theory.squared_norm_moment(2, widths, activation), expected, rel_tol=1e-12)
    assert math.isclose(theory.squared_norm_moment(1, widths, activation), 1, rel_tol=1e-12)


def test_the_logs_are_the_derivatives_of_the_moments_where_all_survive():
    # d/dm log E X^m at 0 is E log X, and the second derivative its variance.
    widths, h = [60] * 5, 1e-3
    logs = [math.log(theory.squared_norm_moment(order, widths)) for order in (h, 2 * h)]
    mean, variance = theory.log_squared_norm(widths)
    assert math.isclose((4 * logs[0] - logs[1]) / (2 * h), mean, rel_tol=1e-4)
    assert math.isclose((logs[1] - 2 * logs[0]) / h**2, variance, rel_tol=1e-2)


def test_the_limit_is_approached_as_one_over_the_width():
    gaps = []
    for n in (50, 100, 200, 400):
        exact, limit = theory.log_squared_norm([n] * n), theory.log_squared_norm_limit([n] * n)
        assert limit == (-2.5, pytest.approx(5))
        gaps.append([abs(a - b) for a, b in zip(exact, limit, strict=True)])
    ratios = np.array(gaps[:-1]) / np.array(gaps[1:])
    assert ((ratios > 1.9) & (ratios < 2.2)).all()


def test_linear_width_is_that_of_gaussian_matrices():
    # Mean of log |J v|^2 of products of Gaussian matrices is twice the largest Lyapunov exponent a layer.
    mean, _ = theory.log_squared_norm([9] * 4, "linear")
    assert math.isclose(mean, 8 * theory.gaussian_exponents(9, scale=1 / 3)[0], rel_tol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: theory.log_squared_norm(20), TypeError, "expected the width of every layer"),
        (lambda: theory.log_squared_norm([]), ValueError, "at least one layer"),
        (lambda: theory.log_squared_norm([3, 0]), ValueError, "a width is 0"),
        (lambda: theory.squared_norm_moment(-1, [3]), ValueError, "order is -1"),
        (lambda: theory.squared_norm_moment(2, [3], "tanh"), ValueError, "unknown activation 'tanh'"),
    ],
)
def test_outside_the_domain_the_domain_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
