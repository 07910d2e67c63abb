"""Log-derivatives of width-1 chains against torch.func, mpmath and rational arithmetic."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as some

import stability as st
from stability.jacobians.step_derivatives import log_factors

FIVE = list(st.ARCHITECTURES)


def points(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("init", ["pytorch", "uniform", "he", "knots"])
@pytest.mark.parametrize("name", FIVE)
def test_agrees_with_automatic_differentiation_at_depth_20(name, init):
    chain, x = st.Chain(name, 20, seeds=6, init=init), torch.linspace(-2.9, 3, 8, dtype=torch.float64)
    s = st.spectrum(chain, x)

    def states(point):
        h, all_states = point[None], []
        for step in chain.steps:
            h = step(h)
            all_states.append(h[:, 0])
        return torch.stack(all_states)

    # (points, depth, seeds) -> (depth, seeds, points)
    expected = torch.func.vmap(torch.func.jacfwd(states))(x).permute(1, 2, 0)
    got = s.signs * s.log_values[..., 0].exp()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    assert torch.equal(s.vanished[..., 0], s.signs == 0)


def oracle(table, x):
    """log |dh_l/dx| and sign of every prefix in arithmetic of 5000 bits, one seed and point."""
    with mpmath.workprec(5000):
        h, product, logs, signs = mpmath.mpf(x), mpmath.mpf(1), [], []
        for row in table:
            skip, weight, bias, outer_weight, outer_bias, slope = map(mpmath.mpf, map(float, row))
            z = weight * h + bias
            side = mpmath.mpf(1) if z > 0 else slope
            h = skip * h + outer_weight * side * z + outer_bias
            product *= skip + outer_weight * weight * side
            with mpmath.workprec(100):  # the product is known, its log need not be
                logs.append(float(mpmath.log(abs(product))) if product else -math.inf)
            signs.append(int(mpmath.sign(product)))
    return np.array(logs), np.array(signs)


@pytest.mark.parametrize(
    ("name", "init"),
    [
        ("plain_prelu", "uniform"),  # bias-free: the state goes to 1e-2200
        ("plain_prelu", "pytorch"),
        ("residual1_relu", "uniform"),
        ("residual1_relu", "pytorch"),  # the state goes to 1e+250
        ("residual2_relu", "uniform"),
        ("residual2_prelu", "uniform"),
        ("residual2_prelu", "pytorch"),
        ("residual2_prelu", "scaled"),
    ],
)
def test_agrees_with_5000_bits_at_depth_3000(name, init):
    chain = st.Chain(name, 3000, seeds=2, init=init)
    x = points(0.7, -1.3)
    s = st.spectrum(chain, x)
    for seed, table in enumerate(chain.table()[:, :3000]):
        for point in range(2):
            logs, signs = oracle(table, x[point].item())
            np.testing.assert_array_equal(s.signs[:, seed, point], signs)
            # Each of 3000 factors is right to 1e-13 relative, mostly to 1e-16; the logs are summed with compensation.
            np.testing.assert_allclose(s.log_values[:, seed, point, 0], logs, rtol=4e-16, atol=1e-12)


def test_a_plain_float64_state_would_take_wrong_branches():
    # The trap this room is built around: the same factors, the state left to underflow.
    chain = st.Chain("plain_prelu", 3000, init="uniform")
    table, h, total = chain.table()[0], 0.7, 0.0
    for _, weight, bias, _, _, slope in table[:3000]:
        z = weight * h + bias
        total += math.log(abs(weight) * (1 if z > 0 else slope))
        h = z if z > 0 else slope * z
    right = st.spectrum(chain, points(0.7)).log_values[-1].item()
    assert math.isfinite(total)
    assert abs(total - right) > 100


def test_ten_thousand_layers_give_finite_logs():
    s = st.spectrum(st.Chain("plain_prelu", 10_000, seeds=20, init="uniform"), points(-2.0, 0.5))
    assert s.log_values.isfinite().all()
    assert not s.vanished.any()
    rate = s.finite_time_exponents[-1, :, 0, 0]
    # E log|w| + E log(slope) / 2 = -1 - log(4) / 2 for weights U(-1, 1).
    z = (rate.mean() + 1 + math.log(4) / 2) / (rate.std() / math.sqrt(20))
    assert abs(z) < 4


def test_exact_zeros_are_told_from_underflow():
    dead = st.spectrum(st.Chain("plain_relu", 50, seeds=50), points(-1.0, 1.0))
    small = st.spectrum(st.Chain("plain_prelu", 1000, seeds=50), points(-1.0, 1.0))
    assert dead.vanished[-1].all()
    assert torch.equal(dead.signs == 0, dead.vanished[..., 0])
    assert not dead.underflows(torch.float64).any()
    assert not small.vanished.any()
    assert small.underflows(torch.float64)[-1].all()
    assert (small.signs != 0).all()


@pytest.mark.parametrize(("dtype", "numpy"), [(torch.float16, np.float16), (torch.float32, np.float32)])
def test_underflow_is_where_rounding_gives_zero(dtype, numpy):
    s = st.spectrum(st.Chain("plain_prelu", 100, seeds=40), points(-1.0, 1.0))
    values = np.exp(s.log_values.numpy())
    assert values.min() > 0
    np.testing.assert_array_equal(s.underflows(dtype).numpy(), values.astype(numpy) == 0)
    assert 0.1 < s.underflows(dtype).double().mean() < 0.95
    with pytest.raises(TypeError, match="expected a floating dtype"):
        s.underflows(torch.int32)


# --- laws on random and adversarial tables ---

coarse = some.integers(-8, 8).map(lambda i: i / 4)
rows = some.tuples(some.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), coarse, coarse, coarse, coarse, coarse)


def rational(table, x):
    """Sign and modulus of every prefix product, exactly."""
    h, product, products = Fraction(x), Fraction(1), []
    for row in table:
        skip, weight, bias, outer_weight, outer_bias, slope = map(Fraction, row)
        z = weight * h + bias
        side = 1 if z > 0 else slope
        h = skip * h + outer_weight * side * z + outer_bias
        product *= skip + outer_weight * weight * side
        products.append(product)
    return products


@given(some.lists(rows, min_size=1, max_size=6), some.integers(-12, 12).map(lambda i: i / 4))
def test_agrees_with_rational_arithmetic_where_float64_is_exact(table, x):
    s = st.spectrum(st.Chain.from_table([table]), points(x))
    for layer, product in enumerate(rational(table, x)):
        assert s.signs[layer, 0, 0] == (product > 0) - (product < 0)
        expected = math.log(abs(product)) if product else -math.inf
        assert s.log_values[layer, 0, 0, 0].item() == pytest.approx(expected, rel=1e-14, abs=1e-14)


extreme = some.one_of(
    some.floats(allow_nan=False, allow_infinity=False), some.floats(-4, 4), some.sampled_from([1.0, -1.0, 0.0])
)


@given(extreme, extreme, extreme, extreme)
@example(1.0, 1 + 2.0**-30, -(1 - 2.0**-30), 1.0)  # 1 + w o = 2^-60, which float64 rounds to 0
@example(1.0, 0.1, -10.0, 1.0)  # 1 - 10 * 0.1 is not 0: 0.1 is not a tenth
@example(1.0, 0.5, -2.0, 1.0)  # exactly 0
@example(1.0, 0.1, -9.99999, 1.0)  # 1 + w o = 1e-6: six digits are lost in float64
@example(0.0, 1.1e-160, 1.3e-160, 1e300)  # the product is in range, its first part is not
@example(0.0, 1e-300, 1e-300, 1e-300)
@example(0.0, 1e300, 1e300, 1e-300)
def test_factors_are_right_at_any_size_and_cancellation(skip, weight, outer_weight, slope):
    logs, signs = log_factors(np.array([[[skip, weight, 0.0, outer_weight, 0.0, slope]]]))
    for branch, side in enumerate((slope, 1.0)):
        g = Fraction(skip) + Fraction(weight) * Fraction(outer_weight) * Fraction(side)
        assert signs[0, 0, branch] == (g > 0) - (g < 0)
        if g == 0:
            assert logs[0, 0, branch] == -math.inf
        else:
            with mpmath.workprec(2000):
                expected = float(mpmath.log(abs(mpmath.mpf(g.numerator) / g.denominator)))
            assert logs[0, 0, branch] == pytest.approx(expected, rel=1e-15, abs=2e-13)


@given(
    some.lists(some.tuples(some.floats(0.5, 2), some.integers(-300, 300), some.booleans()), min_size=1, max_size=12),
    some.integers(-300, 300),
)
def test_the_state_may_go_to_any_power_of_two(layers, start):
    # A bias-free plain PReLU chain is homogeneous: the branches depend on signs alone.
    table = [[0.0, (-w if flip else w) * 2.0**e, 0.0, 1.0, 0.0, 0.25] for w, e, flip in layers]
    s = st.spectrum(st.Chain.from_table([table]), points(2.0**start))
    sign, total = 1, 0.0
    for layer, (w, e, flip) in enumerate(layers):
        sign = -sign if flip else sign
        total += math.log(w) + e * math.log(2) + (0 if sign > 0 else math.log(0.25))
        assert s.signs[layer, 0, 0] == np.prod([-1 if f else 1 for *_, f in layers[: layer + 1]])
        assert s.log_values[layer, 0, 0, 0].item() == pytest.approx(total, rel=1e-14, abs=1e-12)


@given(
    some.lists(
        some.tuples(
            some.sampled_from([0.0, 1.0, 1e-250, 1e250]),
            *[some.sampled_from([0.0, 1.0, -1.0, 1e-250, -1e-250, 1e250, -1e250, 3e-310])] * 4,
            some.sampled_from([0.0, 0.25, 1e-250]),
        ),
        min_size=1,
        max_size=8,
    ),
    some.sampled_from([0.0, 1.0, -1.0, 1e-300, -1e300, 1e-100, -1e100]),
)
def test_any_mixture_of_magnitudes(table, x):
    logs, signs = oracle(table, x)
    # Sums of numbers of one size may cancel to what rounding decides: those are not the subject here.
    with mpmath.workprec(5000):
        h = mpmath.mpf(x)
        for skip, weight, bias, outer_weight, outer_bias, slope in [map(mpmath.mpf, row) for row in table]:
            z = weight * h + bias
            assume(not z or abs(z) > 1e-10 * (abs(weight * h) + abs(bias)))
            a = outer_weight * (z if z > 0 else slope * z)
            new = skip * h + a + outer_bias
            assume(not new or abs(new) > 1e-10 * (abs(skip * h) + abs(a) + abs(outer_bias)))
            assume(new or not (skip * h or a or outer_bias))
            h = new
    s = st.spectrum(st.Chain.from_table([table]), points(x))
    np.testing.assert_array_equal(s.signs[:, 0, 0], signs)
    np.testing.assert_allclose(s.log_values[:, 0, 0, 0], logs, rtol=1e-14, atol=1e-9)


cancelling = some.tuples(some.floats(0.1, 2), some.floats(-12, -1), some.sampled_from([1.0, -1.0]))


@given(cancelling)
def test_factors_that_cancel_lose_nothing(parts):
    weight, digits, sign = parts
    outer_weight = -(1 + sign * 10**digits) / weight
    logs, _ = log_factors(np.array([[[1.0, weight, 0.0, outer_weight, 0.0, 0.25]]]))
    g = 1 + Fraction(weight) * Fraction(outer_weight)
    assert logs[0, 0, 1] == pytest.approx(float(mpmath.log(abs(mpmath.mpf(g.numerator) / g.denominator))), abs=2e-13)


@pytest.mark.parametrize(
    ("table", "x", "expected"),
    [
        # Near the ends of the range: the state 2^-950 times 2^-150 is no float64, and still above 0.
        ([[0, 2.0**-150, 0, 1, 0, 0.25], [0, 1, 0, 1, 0, 0.25]], 2.0**-950, -150 * math.log(2)),
        ([[0, 2.0**150, 0, 1, 0, 0.25], [0, -1, 0, 1, 0, 0.25]], 2.0**950, 150 * math.log(2) + math.log(0.25)),
        # A row of extreme numbers that cancel each other, from a harmless state.
        ([[0, 1e-250, 0, 1e250, 0, 0.25], [0, 1, 0, 1, 0, 0.25]], 1e-100, 0.0),
        # The state is 2^600 + 2^-200: the difference to 2^600 decides, 800 powers below.
        ([[1, 0, 0, 0, 2.0**-200, 1], [0, 1, -(2.0**600), 1, 0, 0.25]], 2.0**600, math.log(0.25)),
    ],
)
def test_the_edges_of_the_range(table, x, expected):
    s = st.spectrum(st.Chain.from_table([table]), points(x))
    assert s.log_values[-1].item() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("name", ["plain_prelu", "residual2_prelu", "residual1_relu"])
def test_distances_from_the_identity_at_width_1(name):
    chain, x = st.Chain(name, 40, seeds=5), points(-2.0, 0.3, 1.7)
    s = st.spectrum(chain, x)
    logs = torch.cat([torch.zeros_like(s.log_values[:1]), s.log_values])[..., 0]
    alive = s.signs != 0
    factors = (logs[1:] - logs[:-1]).exp() * s.signs * torch.cat([torch.ones_like(s.signs[:1]), s.signs[:-1]])
    torch.testing.assert_close(s.distance_from_identity[alive], (factors - 1).abs()[alive], rtol=1e-11, atol=1e-11)
    value = s.signs * s.log_values[..., 0].exp()
    torch.testing.assert_close(s.log_product_distance, (value - 1).abs().log(), rtol=1e-9, atol=1e-9)
    assert st.spectrum(chain, x, distances=False).distance_from_identity is None


def test_the_distance_of_a_product_beyond_the_range_is_a_log():
    table = [[[0, -1e300, 0, 1, 0, -1], [0, -1e300, 0, 1, 0, -1], [0, 1.0, 0, 0, 0, 1]]]
    s = st.spectrum(st.Chain.from_table(table), points(1.0))
    expected = [math.log(1e300), math.log(1e300) * 2, 0.0]
    np.testing.assert_allclose(s.log_product_distance[:, 0, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(s.distance_from_identity[:, 0, 0], [1e300, 1e300, 1.0], rtol=1e-12)


def test_finite_time_exponents_divide_by_the_depth():
    s = st.spectrum(st.Chain("plain_prelu", 7, seeds=2), points(0.3, -2.0))
    for layer in range(7):
        torch.testing.assert_close(
            s.finite_time_exponents[layer] * (layer + 1), s.log_values[layer], rtol=1e-15, atol=0
        )


def test_a_spectrum_keeps_its_own_points():
    x = points(0.3)
    s = st.spectrum(st.Chain("plain_prelu", 2), x)
    x.zero_()
    assert s.x.item() == 0.3
    assert repr(s) == "Spectrum(log_values=(2, 1, 1, 1), layers='step 1' to 'step 2')"


def test_a_chain_of_prefixes_is_a_prefix_of_the_spectrum():
    chain, x = st.Chain("residual2_prelu", 30, seeds=5), torch.linspace(-3, 3, 7, dtype=torch.float64)
    whole, part = st.spectrum(chain, x), st.spectrum(chain.prefix(11), x)
    assert torch.equal(whole.log_values[:11], part.log_values)
    alone = st.spectrum(st.Chain("residual2_prelu", 30, seeds=[3]), x)
    assert torch.equal(alone.log_values[:, 0], whole.log_values[:, 3])


def test_to_dataset_names_its_dimensions():
    s = st.spectrum(st.Chain("plain_relu", 4, seeds=[2, 9]), points(0.0, 1.0, 2.0))
    data = s.to_dataset()
    np.testing.assert_array_equal(data.log_values, s.log_values)
    np.testing.assert_array_equal(data.signs, s.signs)
    assert data.x.values.tolist() == [0.0, 1.0, 2.0]
    assert dict(data.sizes) == {"depth": 4, "seed": 2, "x": 3, "index": 1}
    assert data.seed.values.tolist() == [2, 9]
    assert data.depth.values.tolist() == [1, 2, 3, 4]


def test_bad_input_is_refused():
    x = points(0.0)
    with pytest.raises(ValueError, match="k is 2: expected an integer >= 1 and <= 1"):
        st.spectrum(st.Chain("plain_relu", 3), x, k=2)
    with pytest.raises(ValueError, match="leave out layers="):
        st.spectrum(st.Chain("plain_relu", 3), x, layers="steps")
    with pytest.raises(ValueError, match="x has 1 values that are not finite, the first nan"):
        st.spectrum(st.Chain("plain_relu", 3), points(math.nan))
    chain = st.Chain("plain_relu", 3)
    with torch.no_grad():
        chain.bias[0, 1] = math.inf
    with pytest.raises(ValueError, match=r"not finite, the first inf at \(0, 1, 2\)"):
        st.spectrum(chain, x)
