"""Mean-field theory against mpmath, closed identities, and networks that are wide and wider."""

import math

import mpmath
import numpy as np
import pytest
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
    found = theory.variance_step(variance, math.sqrt(1.7), 0.2, activation, SLOPE)
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
    np.testing.assert_allclose(theory.variance_step(q, 1.0, activation="gelu"), expected, rtol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_correlation_map_at_one_is_one_with_derivative_chi_1(activation):
    q, w, b, step = np.array([0.2, 1.0, 8.0]), 1.4, 0.3, 1e-5
    at = theory.correlation_step(1.0, q, w, b, activation, SLOPE)
    np.testing.assert_allclose(at, 1, rtol=1e-13)
    # One-sided differences of order 1 / 2 for kinks: 1 - f(1 - h) = h f'(1) - O(h^(3/2)).
    below = theory.correlation_step(1 - step, q, w, b, activation, SLOPE)
    slope = (1 - below) / step * theory.variance_step(q, w, b, activation, SLOPE) / q
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
    found = theory.correlation_step(c, q, w, b, activation, SLOPE, other_variance=r)
    assert -1 <= found <= 1
    assert math.isclose(found, theory.correlation_step(c, r, w, b, activation, SLOPE, other_variance=q), abs_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(some.sampled_from(ACTIVATIONS), some.floats(0, 3), some.floats(0, 2), some.floats(0.01, 20))
def test_the_fixed_variance_is_fixed_and_attracts(activation, w, b, start):
    q = theory.fixed_variance(w, b, activation, SLOPE, start)
    if math.isinf(q):
        following = theory.variance_step(start, w, b, activation, SLOPE)
        assert following > start or activation == "gelu"
        assert activation != "tanh"
        return
    assert math.isclose(theory.variance_step(q, w, b, activation, SLOPE), q, rel_tol=1e-12, abs_tol=1e-300)
    if q > 0:
        assert theory.chi_q(w, b, activation, SLOPE, q) <= 1 + 1e-7
    # And it is where the recursion goes.
    here = start
    for _ in range(200):
        here = theory.variance_step(here, w, b, activation, SLOPE)
    assert abs(here - q) <= abs(start - q) * (1 + 1e-12)
    assert (here - q) * (start - q) >= -1e-12 * q * q


@settings(max_examples=25, deadline=None)
@given(some.sampled_from(ACTIVATIONS), some.floats(0.3, 3), some.floats(0.01, 1))
def test_the_fixed_correlation_is_where_the_recursion_goes(activation, w, b):
    q = theory.fixed_variance(w, b, activation, SLOPE)
    if math.isinf(q):
        return
    c = theory.fixed_correlation(w, b, activation, SLOPE)
    assert abs(theory.correlation_step(c, q, w, b, activation, SLOPE) - c) < 1e-12
    assert (c < 1) == (theory.chi_1(w, b, activation, SLOPE) > 1)
    scale = theory.correlation_depth_scale(w, b, activation, SLOPE)
    if scale < 15:
        here = 0.0
        for _ in range(400):
            here = theory.correlation_step(here, q, w, b, activation, SLOPE)
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
        c = theory.correlation_step(c, 1.0, math.sqrt(2), activation="relu")
    assert math.isclose((1 - c) * depth**2, 9 * math.pi**2 / 2, rel_tol=0.02)


def test_arrays_of_a_million_parameters_are_one_call():
    w, b = np.linspace(0, 1.3, 10**6), np.full(10**6, 0.1)
    for function in (theory.fixed_variance, theory.chi_1, theory.correlation_depth_scale, theory.gradient_depth_scale):
        assert function(w, b, "relu").shape == w.shape
    assert theory.variance_step(w, w, b).shape == w.shape
    assert np.all(np.diff(theory.variance_step(w, w, b)) > 0)
    assert theory.fixed_correlation(np.full((3, 1), 2.0), np.full(4, 0.2)).shape == (3, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.variance_step(-1.0, 1.0), "variance is -1: expected numbers of 0 or more"),
        (lambda: theory.variance_step(1.0, [1.0, -2.0]), "weight_scale is -2: expected numbers of 0 or more"),
        (lambda: theory.fixed_variance(1.0, -0.1), "bias_scale is -0.1"),
        (lambda: theory.correlation_step(1.1, 1.0, 1.0), "correlation is 1.1: expected numbers from -1 to 1"),
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
