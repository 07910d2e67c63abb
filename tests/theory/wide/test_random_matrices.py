"""Random-matrix theory against simulation: exact laws at fixed width by z < 4, limits by extrapolation in the width."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

import stability as st

theory = st.theory


def gaussian(random, n):
    return random.standard_normal((n, n)) / math.sqrt(n)


def orthogonal(random, n):
    q, r = np.linalg.qr(random.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def relu(random, n):
    """A ReLU's derivative with half of the units active, times its gain."""
    active = np.zeros(n)
    active[random.permutation(n)[: n // 2]] = math.sqrt(2)
    return active[:, None]


def squares(make, depth, n, samples, seed=0):
    """Squared singular values, (samples, n), descending, of products of `depth` layers."""
    random = np.random.default_rng([seed, n])
    products = np.empty((samples, n, n))
    for sample in range(samples):
        products[sample] = make(random, n)
        for _ in range(depth - 1):
            products[sample] = make(random, n) @ products[sample]
    return np.linalg.svd(products, compute_uv=False) ** 2


def extrapolate(values, errors, widths, power):
    """Fit value + slope width^-power by weighted least squares; return the limit and its standard error."""
    design = np.stack([np.ones(len(widths)), np.asarray(widths, float) ** -power], axis=1) / np.asarray(errors)[:, None]
    covariance = np.linalg.inv(design.T @ design)
    return (covariance @ design.T @ (np.asarray(values) / errors))[0], math.sqrt(covariance[0, 0])


@pytest.mark.parametrize("n", [1, 3, 8])
def test_gaussian_exponents_sum_to_the_mean_log_determinant(n):
    # |det G| of a Gaussian matrix is a product of independent chi variables: exact at every width.
    random = np.random.default_rng(n)
    logs = np.linalg.slogdet(2 * random.standard_normal((40_000, n, n)))[1]
    z = (logs.mean() - theory.gaussian_exponents(n, scale=2).sum()) / (logs.std() / 200)
    assert abs(z) < 4


def test_gaussian_exponents_are_the_rates_of_long_products():
    layers = np.random.default_rng(0).standard_normal((4000, 4, 4))
    found = st.lyapunov(layers, progress=False)
    assert (abs(found.exponents.numpy() - theory.gaussian_exponents(4)) < 4 * found.standard_errors.numpy()).all()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_first_moment_is_one_at_every_width(depth):
    s = squares(gaussian, depth, 6, 20_000).mean(axis=1)
    assert abs(s.mean() - 1) < 4 * s.std() / math.sqrt(len(s))
    assert theory.fuss_catalan_moment(1, depth) == 1


@pytest.mark.parametrize(("order", "depth"), [(2, 1), (2, 3), (3, 2)])
def test_fuss_catalan_moments_are_the_limits(order, depth):
    # Corrections of Gaussian traces fall as 1 / width^2 with parity and 1 / width in general for real entries.
    widths, means, errors = (8, 16, 32, 64), [], []
    for n in widths:
        moments = (squares(gaussian, depth, n, 40_000 // n) ** order).mean(axis=1)
        means.append(moments.mean())
        errors.append(moments.std() / math.sqrt(len(moments)))
    limit, error = extrapolate(means, errors, widths, power=1)
    assert abs(limit - theory.fuss_catalan_moment(order, depth)) < 4 * error
    assert error < 0.1 * theory.fuss_catalan_moment(order, depth)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_the_fuss_catalan_density_has_its_moments_and_its_edge(depth):
    s, density = theory.fuss_catalan_density(depth, 200_001)
    for order in (1, 2, 3):
        # The trapezoid misses what lies below the first point, which these moments do not see.
        moment = np.sum((s[1:] - s[:-1]) * ((density * s**order)[1:] + (density * s**order)[:-1]) / 2)
        assert moment == pytest.approx(theory.fuss_catalan_moment(order, depth), rel=1e-6)
    assert s[-1] == pytest.approx(theory.largest_squared_singular_value(depth), rel=1e-6)


def test_fuss_catalan_quantiles_are_those_of_wide_products():
    shares = np.array([0.1, 0.5, 0.9])
    widths, values, errors = (32, 64, 128), [], []
    for n in widths:
        quantiles = np.quantile(np.log(squares(gaussian, 3, n, 6400 // n)) / 2, shares, axis=1)
        values.append(quantiles.mean(axis=1))
        errors.append(quantiles.std(axis=1) / math.sqrt(quantiles.shape[1]))
    for i, expected in enumerate(theory.fuss_catalan_quantiles(3, shares)):
        limit, error = extrapolate([v[i] for v in values], [e[i] for e in errors], widths, power=1)
        assert abs(limit - expected) < 4 * error
        assert error < 0.05


@pytest.mark.parametrize("share", [1e-300, 1e-12, 1e-5, 1e-3, 0.3, 0.999, 1.0])
def test_small_shares_of_one_layer_are_as_right_as_large_ones(share):
    x = math.exp(theory.fuss_catalan_quantiles(1, share))
    below = (x / 2 * math.sqrt(max(4 - x * x, 0.0)) + 2 * math.asin(min(x / 2, 1.0))) / math.pi
    assert below == pytest.approx(share, rel=1e-10)


@pytest.mark.parametrize("depth", [2, 5, 40])
def test_small_shares_of_deep_products(depth):
    """Near 0 the density of s is sin(pi / (L + 1)) / (pi s^(L / (L + 1))) times a constant: its integral is a power."""
    few, more = theory.fuss_catalan_quantiles(depth, [1e-9, 1e-8])
    assert 2 * (more - few) == pytest.approx((depth + 1) * math.log(10), rel=1e-6)
    top = theory.fuss_catalan_quantiles(depth, 1.0)
    assert 2 * top == pytest.approx(math.log(theory.largest_squared_singular_value(depth)), rel=1e-14)


def test_fuss_catalan_quantiles_of_one_layer_are_the_quarter_circle():
    # For one layer the singular values lie under sqrt(4 - x^2) / pi on (0, 2).
    for share in (0.01, 0.3, 0.7, 1.0):
        x = math.exp(theory.fuss_catalan_quantiles(1, share))
        below = quad(lambda t: math.sqrt(max(4 - t * t, 0)) / math.pi, 0, x)[0]
        assert below == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1])
def test_marchenko_pastur_integrates_to_one_and_to_its_moments(ratio):
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    for order, expected in ((0, 1), (1, 1), (2, 1 + ratio)):
        # In the square root, in which the density has no pole at 0.
        def part(root, order=order):
            return 2 * root * float(theory.marchenko_pastur_density(root**2, ratio)) * root ** (2 * order)

        assert quad(part, math.sqrt(low), math.sqrt(high))[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("depth", "activation", "weights"),
    [(1, "linear", "gaussian"), (3, "linear", "gaussian"), (3, "relu", "gaussian"), (6, "relu", "orthogonal")],
)
def test_edges_are_the_limits_of_the_largest_value(depth, activation, weights):
    draw = {"gaussian": gaussian, "orthogonal": orthogonal}[weights]

    def make(random, n):
        return draw(random, n) * (relu(random, n) if activation == "relu" else 1)

    # At a soft edge the largest of n values is n^(-2/3) away in the mean (Tracy and Widom).
    widths, means, errors = (24, 48, 96, 192), [], []
    for n in widths:
        largest = squares(make, depth, n, 9600 // n)[:, 0]
        means.append(largest.mean())
        errors.append(largest.std() / math.sqrt(len(largest)))
    expected = theory.largest_squared_singular_value(depth, activation, weights)
    limit, error = extrapolate(means, errors, widths, power=2 / 3)
    # The next order of the law is not in the fit: a hundredth of the edge is allowed for it.
    assert abs(limit - expected) < 4 * error + 0.01 * expected
    assert error < 0.03 * expected


@pytest.mark.parametrize(
    ("activation", "weights"), [("linear", "gaussian"), ("relu", "gaussian"), ("relu", "orthogonal")]
)
def test_the_variance_over_squared_values_is_the_limit(activation, weights):
    depth, draw = 3, {"gaussian": gaussian, "orthogonal": orthogonal}[weights]

    def make(random, n):
        return draw(random, n) * (relu(random, n) if activation == "relu" else 1)

    widths, means, errors = (16, 32, 64), [], []
    for n in widths:
        s = squares(make, depth, n, 24_000 // n)
        variance = (s**2).mean(axis=1) - s.mean(axis=1) ** 2
        means.append(variance.mean())
        errors.append(variance.std() / math.sqrt(len(variance)))
    limit, error = extrapolate(means, errors, widths, power=1)
    expected = theory.squared_singular_value_variance(depth, activation, weights)
    assert abs(limit - expected) < 4 * error
    assert error < 0.1 * expected


def test_residual_edges_are_the_limits_in_depth_and_width():
    # Finite depth is 1 / depth away: at depth L the S-transform is (1 - c (1 + 2 z) / L)^L up to 1 / L.
    strength, depths, limits, errors = 0.5, (10, 20, 40), [], []
    for depth in depths:

        def make(random, n, depth=depth):
            return np.eye(n) + gaussian(random, n) * math.sqrt(strength / depth)

        widths, means, widths_errors = (24, 48, 96), [], []
        for n in widths:
            ends = np.log(squares(make, depth, n, 2400 // n)[:, [-1, 0]]) / 2
            means.append(ends.mean(axis=0))
            widths_errors.append(ends.std(axis=0) / math.sqrt(len(ends)))
        fits = [extrapolate([m[i] for m in means], [e[i] for e in widths_errors], widths, 2 / 3) for i in (0, 1)]
        limits.append([fit[0] for fit in fits])
        errors.append([fit[1] for fit in fits])
    for i, expected in enumerate(theory.residual_log_edges(strength)):
        limit, error = extrapolate([v[i] for v in limits], [e[i] for e in errors], depths, power=1)
        assert abs(limit - expected) < 4 * error + 0.02 * abs(expected)
        assert error < 0.05 * abs(expected)


def test_residual_edges_are_those_of_the_identity_at_no_strength():
    # For a small strength the logs are a semicircle's of variance 2 c / 4: edges at -+ sqrt(2 c).
    low, high = theory.residual_log_edges(1e-6)
    assert low == -high
    assert high == pytest.approx(math.sqrt(2e-6), rel=1e-3)
    # For a large one, the two ends of the exponents of a Brownian motion on matrices, a log of the depth apart.
    assert theory.residual_log_edges(1e6)[1] / 1e6 == pytest.approx(0.5, rel=1e-4)


def test_bad_arguments_are_refused():
    for call, message in (
        (lambda: theory.gaussian_exponents(0), "width is 0: expected an integer >= 1"),
        (lambda: theory.gaussian_exponents(3, scale=-1), "scale is -1"),
        (lambda: theory.marchenko_pastur_density(1.0, ratio=2), "ratio is 2.0: expected at most 1"),
        (lambda: theory.fuss_catalan_moment(-1, 2), "order is -1"),
        (lambda: theory.fuss_catalan_density(0), "depth is 0"),
        (lambda: theory.fuss_catalan_quantiles(2, [0.0]), r"shares are \[0.0\]: expected numbers in \(0, 1\]"),
        (lambda: theory.largest_squared_singular_value(2, "selu"), "unknown activation 'selu'"),
        (lambda: theory.largest_squared_singular_value(2, weights="uniform"), "unknown weights 'uniform'"),
        (lambda: theory.residual_log_edges(0), "strength is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
