"""Mean-field theory against mpmath, closed identities, and networks that are wide and wider."""

import dataclasses
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import stability as st

theory = st.theory
ACTIVATIONS = ("tanh", "relu", "prelu", "gelu", "linear")
SLOPE = 0.3
PHI = {
    "tanh": mpmath.tanh,
    "relu": lambda z: max(z, mpmath.mpf(0)),
    "prelu": lambda z: z if z > 0 else mpmath.mpf(SLOPE) * z,
    "gelu": lambda z: z * mpmath.ncdf(z),
    "linear": lambda z: z,
}
BREAKS = [-12, -5, -2, -1, -0.3, 0, 0.3, 1, 2, 5, 12]


def mean(f, variance):
    """E f(z) by mpmath."""
    with mpmath.workdps(25):
        size = mpmath.sqrt(variance)
        return float(mpmath.quad(lambda z: mpmath.npdf(z) * f(size * z), BREAKS))


def mean_given(activation, m, s):
    """E phi(v), v ~ N(m, s^2), in closed form."""
    if activation == "gelu":
        root = mpmath.sqrt(1 + s * s)
        return m * mpmath.ncdf(m / root) + s * s / root * mpmath.npdf(m / root)
    slope = {"relu": 0, "prelu": mpmath.mpf(SLOPE)}[activation]
    positive, negative = (sign * m * mpmath.ncdf(sign * m / s) + s * mpmath.npdf(m / s) for sign in (1, -1))
    return positive - slope * negative


def kernel(activation, correlation, variance, other):
    """E phi(u) phi(v): over v given u in closed form and then by mpmath, or over a grid of independent numbers."""
    if activation == "tanh":
        z = np.arange(-9, 9, 0.02)
        v = math.sqrt(other) * (correlation * z[:, None] + math.sqrt(1 - correlation**2) * z)
        weight = np.exp(-z * z / 2) * 0.02 / math.sqrt(2 * math.pi)
        return float((weight * np.tanh(math.sqrt(variance) * z)) @ np.tanh(v) @ weight)
    with mpmath.workdps(25):
        c, a, b = mpmath.mpf(correlation), mpmath.sqrt(variance), mpmath.sqrt(other)
        s = b * mpmath.sqrt(1 - c * c)
        return float(
            mpmath.quad(
                lambda z: mpmath.npdf(z) * PHI[activation](a * z) * mean_given(activation, b * c * z, s), BREAKS
            )
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variance", [1e-6, 0.3, 2.0, 25.0, 1000.0])
def test_the_variance_is_that_of_mpmath(activation, variance):
    expected = 1.7 * mean(lambda z: PHI[activation](z) ** 2, variance) + 0.04
    found = theory.variance_map(variance, math.sqrt(1.7), 0.2, activation, SLOPE)
    assert math.isclose(found, expected, rel_tol=1e-12)
    found = theory.chi_1(1.3, activation=activation, slope=SLOPE, variance=variance)
    with mpmath.workdps(25):
        derivative = {
            "tanh": lambda z: mpmath.sech(z),
            "gelu": lambda z: mpmath.sqrt(abs(mpmath.ncdf(z) + z * mpmath.npdf(z))),
            "relu": lambda z: 1.0 if z > 0 else 0.0,
            "prelu": lambda z: 1.0 if z > 0 else math.sqrt(SLOPE),
            "linear": lambda _: 1.0,
        }[activation]
    assert math.isclose(found, 1.69 * mean(lambda z: derivative(z) ** 4, variance), rel_tol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("variance", [0.1, 2.0, 25.0])
def test_chi_q_is_the_derivative_of_the_variance(activation, variance):
    with mpmath.workdps(25):
        phi = PHI[activation]
        slope = mpmath.diff(
            lambda q: mpmath.quad(lambda z: mpmath.npdf(z) * phi(mpmath.sqrt(q) * z) ** 2, BREAKS), variance
        )
    assert math.isclose(theory.chi_q(1.0, activation=activation, variance=variance), float(slope), rel_tol=1e-11)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu", "prelu"])
@pytest.mark.parametrize(("correlation", "variance", "other"), [(-0.7, 0.5, 0.5), (0.4, 3.0, 3.0), (0.95, 0.2, 4.0)])
def test_the_kernel_is_that_of_mpmath(activation, correlation, variance, other):
    found = theory.activation_kernel(correlation, variance, activation, SLOPE, other)
    assert math.isclose(found, kernel(activation, correlation, variance, other), rel_tol=1e-12)


def test_gelu_has_the_closed_form_of_its_mean_square():
    # E phi(z)^2 = q / 4 + q / (2 pi) (arcsin(q / (1 + q)) + 2 q / ((1 + q) sqrt(1 + 2 q))), Tsuchida et al. 2021.
    q = np.geomspace(1e-8, 1e6, 50)
    expected = q / 4 + q / (2 * np.pi) * (np.arcsin(q / (1 + q)) + 2 * q / ((1 + q) * np.sqrt(1 + 2 * q)))
    np.testing.assert_allclose(theory.variance_map(q, 1.0, activation="gelu"), expected, rtol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_correlation_map_at_one_is_one_with_derivative_chi_1(activation):
    q, w, b, step = np.array([0.2, 1.0, 8.0]), 1.4, 0.3, 1e-5
    at = theory.correlation_map(1.0, q, w, b, activation, SLOPE)
    np.testing.assert_allclose(at, 1, rtol=1e-13)
    # One-sided differences of order 1 / 2 for kinks: 1 - f(1 - h) = h f'(1) - O(h^(3/2)).
    below = theory.correlation_map(1 - step, q, w, b, activation, SLOPE)
    slope = (1 - below) / step * theory.variance_map(q, w, b, activation, SLOPE) / q
    np.testing.assert_allclose(slope, theory.chi_1(w, b, activation, SLOPE, q), rtol=2 * math.sqrt(step))


@settings(max_examples=60, deadline=None)
@given(
    some.sampled_from(ACTIVATIONS),
    some.floats(-1, 1),
    some.floats(1e-3, 20),
    some.floats(1e-3, 20),
    some.floats(0.1, 3),
    some.floats(0, 2),
)
def test_correlations_stay_correlations_and_do_not_depend_on_the_order(activation, c, q, r, w, b):
    found = theory.correlation_map(c, q, w, b, activation, SLOPE, other_variance=r)
    assert -1 <= found <= 1
    assert math.isclose(found, theory.correlation_map(c, r, w, b, activation, SLOPE, other_variance=q), abs_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(some.sampled_from(ACTIVATIONS), some.floats(0, 3), some.floats(0, 2), some.floats(0.01, 20))
def test_the_fixed_variance_is_fixed_and_attracts(activation, w, b, start):
    q = theory.fixed_variance(w, b, activation, SLOPE, start)
    if math.isinf(q):
        following = theory.variance_map(start, w, b, activation, SLOPE)
        assert following > start or activation == "gelu"
        assert activation != "tanh"
        return
    assert math.isclose(theory.variance_map(q, w, b, activation, SLOPE), q, rel_tol=1e-12, abs_tol=1e-300)
    if q > 0:
        assert theory.chi_q(w, b, activation, SLOPE, q) <= 1 + 1e-7
    # And it is where the recursion goes.
    here = start
    for _ in range(200):
        here = theory.variance_map(here, w, b, activation, SLOPE)
    assert abs(here - q) <= abs(start - q) * (1 + 1e-12)
    assert (here - q) * (start - q) >= -1e-12 * q * q


@settings(max_examples=25, deadline=None)
@given(some.sampled_from(ACTIVATIONS), some.floats(0.3, 3), some.floats(0.01, 1))
def test_the_fixed_correlation_is_where_the_recursion_goes(activation, w, b):
    q = theory.fixed_variance(w, b, activation, SLOPE)
    if math.isinf(q):
        return
    c = theory.fixed_correlation(w, b, activation, SLOPE)
    assert abs(theory.correlation_map(c, q, w, b, activation, SLOPE) - c) < 1e-12
    assert (c < 1) == (theory.chi_1(w, b, activation, SLOPE) > 1)
    scale = theory.correlation_depth_scale(w, b, activation, SLOPE)
    if scale < 15:
        here = 0.0
        for _ in range(400):
            here = theory.correlation_map(here, q, w, b, activation, SLOPE)
        assert abs(here - c) < 1e-9


def test_the_edge_of_chaos_of_tanh_has_the_published_points():
    assert theory.edge_of_chaos(0.0) == 1
    # Schoenholz et al. 2017: 1.76 at bias variance 0.05; Xiao et al. 2018: (1.05, 2.01e-5), both to their digits.
    assert round(theory.edge_of_chaos(math.sqrt(0.05)) ** 2, 2) == 1.76
    assert abs(theory.edge_of_chaos(math.sqrt(2.01e-5)) ** 2 - 1.05) < 5e-4
    # Close to it, weight_scale^2 = 1 + 2 q with bias_scale^2 = 4 q^3 / 3.
    assert math.isclose(theory.edge_of_chaos(1e-6) ** 2 - 1, 2 * (0.75e-12) ** (1 / 3), rel_tol=1e-3)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_on_the_edge_chi_1_is_one(activation):
    b = np.linspace(0.45, 2, 7)  # where the fixed variance of GELU attracts
    w = theory.edge_of_chaos(b, activation)
    # From above: GELU's variance comes down to the fixed point of the edge.
    q = theory.fixed_variance(w, b, activation, start=100.0)
    np.testing.assert_allclose(theory.chi_1(w, b, activation, variance=q), 1, rtol=1e-9)
    assert (theory.chi_1(w * 1.01, b, "tanh") > theory.chi_1(w * 0.99, b, "tanh")).all()


def test_the_edge_of_relu_is_the_initialisation_of_he():
    assert theory.edge_of_chaos(0.0, "relu") == math.sqrt(2)
    assert math.isclose(
        theory.edge_of_chaos(0.0, "prelu", 0.25), st.networks.architecture.ACTIVATIONS["prelu"].gain(0.25)
    )
    # chi_1 is 1 there for every bias, but with one no variance is fixed.
    assert math.isclose(theory.chi_1(math.sqrt(2), 0.7, "relu"), 1)
    assert theory.fixed_variance(math.sqrt(2), 0.7, "relu") == math.inf
    assert theory.fixed_variance(math.sqrt(2), 0.0, "relu", start=3.0) == 3
    assert math.isinf(theory.correlation_depth_scale(math.sqrt(2), 0.0, "relu"))


def test_relu_at_the_edge_loses_decorrelation_as_the_square_of_the_depth():
    # 1 - c_l -> 9 pi^2 / (2 l^2) (Hayou et al. 2019, proposition 4).
    c, depth = 0.0, 4000
    for _ in range(depth):
        c = theory.correlation_map(c, 1.0, math.sqrt(2), activation="relu")
    assert math.isclose((1 - c) * depth**2, 9 * math.pi**2 / 2, rel_tol=0.02)


def network(activation, depth, width, seeds, weight, bias):
    """A plain chain with Gaussian entries of those scales."""
    init = dataclasses.replace(
        st.INITS["pytorch"],
        name="mean field",
        weight=st.Distribution("normal", weight, width_power=-0.5),
        bias=st.Distribution("normal", bias),
        slope=st.Distribution("constant", SLOPE),
    )
    architecture = st.Architecture(f"plain_{activation}_wide", activation=activation)
    return st.Chain(architecture, depth, seeds=seeds, width=width, init=init, root=width)


def inputs(width, correlation, mean_square=1.0):
    """Two points of that mean square and correlation."""
    x = torch.zeros(2, width, dtype=torch.float64)
    x[:, 0] = 1
    x[1, 0], x[1, 1] = correlation, math.sqrt(1 - correlation**2)
    return x * math.sqrt(width * mean_square)


def extrapolate(widths, means, errors):
    """Fit value + slope / width by weighted least squares; return the limit and its standard error."""
    design = np.stack([np.ones(len(widths)), 1 / np.asarray(widths)], axis=1) / np.asarray(errors)[:, None]
    covariance = np.linalg.inv(design.T @ design)
    return (covariance @ design.T @ (np.asarray(means) / errors))[0], math.sqrt(covariance[0, 0])


def over_widths(measure, widths=(16, 32, 64)):
    """Extrapolate in 1 / width the mean over seeds of measure(width) -> (seeds,)."""
    samples = [np.asarray(measure(n)) for n in widths]
    return extrapolate(widths, [s.mean() for s in samples], [s.std() / math.sqrt(len(s)) for s in samples])


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu", "prelu", "gelu"])
@pytest.mark.parametrize(("weight", "bias", "correlation"), [(1.5, 0.3, 0.2), (0.9, 0.5, -0.6)])
def test_networks_are_where_the_recursions_say_for_infinite_width(activation, weight, bias, correlation):
    depth, size = 4, 2.0
    q = weight**2 * size + bias**2
    c = (weight**2 * size * correlation + bias**2) / q
    for _ in range(depth - 1):
        c = theory.correlation_map(c, q, weight, bias, activation, SLOPE)
        q = theory.variance_map(q, weight, bias, activation, SLOPE)
    mean_square = (
        theory.variance_map(q, 1.0, 0.0, activation, SLOPE),
        theory.activation_kernel(c, q, activation, SLOPE),
    )
    found = {}
    for n in (16, 32, 64):
        p = st.propagation(network(activation, depth, n, 64_000 // n, weight, bias), inputs(n, correlation, size))
        squares = (2 * p.log_norms[-1]).exp().numpy() / n
        found[n] = squares.mean(axis=1), p.correlations[-1, :, 0].numpy() * np.sqrt(squares.prod(axis=1))
    for kind, expected in enumerate(mean_square):
        limit, error = over_widths(lambda n, kind=kind: found[n][kind])
        assert abs(limit - expected) < 4 * error
        assert error < 0.02 * mean_square[0]


def rate(net, width, correlation, first, last):
    """The mean change a layer of log (1 - correlation), by seed."""
    d = st.propagation(net, inputs(width, correlation)).log_decorrelations[:, :, 0].numpy()
    return (d[last] - d[first]) / (last - first)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "weight", "bias"), [("tanh", 1.0, 0.3), ("gelu", 1.1, 0.4), ("relu", 1.1, 0.4)])
def test_decorrelations_decay_with_the_depth_scale(activation, weight, bias):
    # In the ordered phase, by chi_1 a layer, which is exp(-1 / xi_c); started at the fixed variance, close together.
    def measure(n):
        return rate(network(activation, 14, n, 12_000 // n, weight, bias), n, 1 - 1e-9, 6, 14)

    limit, error = over_widths(measure, (32, 64, 128))
    expected = -1 / theory.correlation_depth_scale(weight, bias, activation)
    assert abs(limit - expected) < 4 * error
    assert error < 0.03 * abs(expected)
    assert math.isclose(expected, math.log(theory.chi_1(weight, bias, activation)), rel_tol=1e-10)


@pytest.mark.slow
def test_close_inputs_part_by_chi_1_in_the_chaotic_phase():
    limit, error = over_widths(
        lambda n: rate(network("tanh", 14, n, 12_000 // n, 2.0, 0.3), n, 1 - 1e-12, 5, 14), (32, 64, 128)
    )
    expected = math.log(theory.chi_1(2.0, 0.3))
    assert expected > 0.2
    assert abs(limit - expected) < 4 * error
    assert error < 0.05 * expected


@pytest.mark.slow
def test_unlike_inputs_end_at_the_fixed_correlation_in_the_chaotic_phase():
    weight, bias, depth = 2.5, 0.4, 30
    q, c = theory.fixed_variance(weight, bias), theory.fixed_correlation(weight, bias)
    assert 0.1 < c < 0.9

    def measure(n):
        p = st.propagation(network("tanh", depth, n, 24_000 // n, weight, bias), inputs(n, 0.0))
        return p.correlations[-1, :, 0].numpy() * (p.log_norms[-1].sum(dim=1)).exp().numpy() / n

    limit, error = over_widths(measure)
    assert abs(limit - theory.activation_kernel(c, q)) < 4 * error
    assert error < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "weight", "bias"), [("tanh", 1.0, 0.3), ("tanh", 2.0, 0.3), ("gelu", 1.2, 0.4)])
def test_squared_gradients_change_by_chi_1_a_layer(activation, weight, bias):
    depth = 12

    def measure(n):
        net = network(activation, depth, n, 12_000 // n, weight, bias)
        x = inputs(n, 0.0, theory.fixed_variance(weight, bias, activation))[:1]
        logs = st.gradient_norms(net, x, lambda y: y[:, 0, 0])["input"].numpy()
        # Away from both ends, by seed.
        return (logs[2] - logs[10]) / 4

    limit, error = over_widths(measure, (32, 64, 128))
    expected = math.log(theory.chi_1(weight, bias, activation))
    assert abs(limit - expected) < 4 * error
    assert error < 0.05 * abs(expected)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu", "prelu"])
def test_the_variance_nears_its_fixed_point_with_its_depth_scale(activation):
    weight, bias = 0.9, 0.4
    star, scale = (f(weight, bias, activation, SLOPE) for f in (theory.fixed_variance, theory.variance_depth_scale))
    here = star * (1 + 1e-6)
    for _ in range(3):
        following = theory.variance_map(here, weight, bias, activation, SLOPE)
        assert math.isclose((following - star) / (here - star), math.exp(-1 / scale), rel_tol=1e-5)
        here = following


@pytest.mark.slow
def test_arrays_of_a_million_parameters_are_one_call():
    w, b = np.linspace(0, 1.3, 10**6), np.full(10**6, 0.1)
    for function in (theory.fixed_variance, theory.chi_1, theory.correlation_depth_scale, theory.gradient_depth_scale):
        assert function(w, b, "relu").shape == w.shape
    assert theory.variance_map(w, w, b).shape == w.shape
    assert np.all(np.diff(theory.variance_map(w, w, b)) > 0)
    assert theory.fixed_correlation(np.full((3, 1), 2.0), np.full(4, 0.2)).shape == (3, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.variance_map(-1.0, 1.0), "variance is -1: expected numbers of 0 or more"),
        (lambda: theory.variance_map(1.0, [1.0, -2.0]), "weight_scale is -2: expected numbers of 0 or more"),
        (lambda: theory.fixed_variance(1.0, -0.1), "bias_scale is -0.1"),
        (lambda: theory.correlation_map(1.1, 1.0, 1.0), "correlation is 1.1: expected numbers from -1 to 1"),
        (lambda: theory.activation_kernel(-2.0, 1.0), "correlation is -2"),
        (lambda: theory.chi_1(1.0, variance=-1.0), "variance is -1"),
        (lambda: theory.chi_q(math.nan), "weight_scale has 1 values that are not finite"),
        (lambda: theory.edge_of_chaos(-1.0), "bias_scale is -1"),
        (lambda: theory.fixed_correlation(1.0, 0.1, "tanhh"), "the nearest is 'tanh'"),
    ],
)
def test_outside_the_domain_the_domain_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
