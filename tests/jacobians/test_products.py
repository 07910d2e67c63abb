"""Singular values of matrix products against exact products and many digits, and the laws that they obey."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as some

import stability as st
from stability.jacobians.products import LANCZOS_FROM, log_spectral_norm

from .oracle import log_singular_values

EPS = 2.0**-52


def gaussian(depth, n, seed=0):
    return np.random.default_rng(seed).standard_normal((depth, n, n)) / math.sqrt(n)


def orthogonal(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def assert_equal(found, expected, tolerance):
    """The same ranks, and finite logs within the tolerance."""
    found = np.asarray(found)
    np.testing.assert_array_equal(found == -math.inf, expected == -math.inf)
    finite = expected > -math.inf
    assert abs(found[finite] - expected[finite]).max(initial=0.0) <= tolerance


@pytest.mark.parametrize("prefix", [1, 2, 5, 20, 50, 100, 200, 400])
def test_width_8_against_many_digits(prefix):
    layers = gaussian(400, 8)
    s = st.spectrum(layers)
    assert_equal(s.log_values[prefix - 1], log_singular_values(layers[:prefix], 60 + 2 * prefix), 1e-9)
    assert s.self_check.passed


@pytest.mark.parametrize(("depth", "digits"), [(64, 200), (512, 900), pytest.param(1000, 1600, marks=pytest.mark.slow)])
def test_width_16_against_many_digits(depth, digits):
    layers = gaussian(depth, 16, seed=depth)
    s = st.spectrum(layers)
    expected = log_singular_values(layers, digits)
    assert_equal(s.log_values[-1], expected, 1e-9)
    assert abs(s.log_values[-1].numpy() - expected).max() <= s.self_check.value_bound
    # What it is worth: a product in float64 keeps a few of them.
    product = np.eye(16)
    for layer in layers:
        product = layer @ product
    with np.errstate(divide="ignore"):
        naive = np.log(np.linalg.svd(product, compute_uv=False))
    assert (abs(naive - expected) < 1e-9).sum() < 10


@pytest.mark.parametrize("keep", [0.95, 0.8])
def test_relu_layers_lose_rank_exactly(keep):
    random = np.random.default_rng(5)
    layers = gaussian(30, 16) * (random.random((30, 16, 1)) < keep)
    s = st.spectrum(layers)
    for prefix in (1, 3, 10, 30):
        expected = log_singular_values(layers[:prefix], 300)
        assert_equal(s.log_values[prefix - 1], expected, 1e-9)
        assert s.ranks[prefix - 1] == (expected > -math.inf).sum()
    assert s.undecided.max() == 0
    assert s.self_check.passed


def test_zero_columns_lose_rank_exactly():
    layers = gaussian(10, 8)
    layers[3][:, [1, 4]] = 0
    layers[7][:, 2] = 0
    layers[7][5] = 0
    s = st.spectrum(layers)
    for prefix in (3, 4, 8, 10):
        assert_equal(s.log_values[prefix - 1], log_singular_values(layers[:prefix], 100), 1e-11)
    assert s.ranks.tolist() == [8] * 3 + [6] * 6 + [6]
    assert s.undecided.max() == 0


def test_a_rank_that_only_rounding_takes_is_undecided(monkeypatch):
    monkeypatch.setattr("stability.jacobians.exact_products.BUDGET", 0)
    layer = np.outer([1.0, 2.0, 3.0], [0.1, 0.7, 1.3]) + np.outer([1.0, -1.0, 0.5], [1.0, 0.3, 0.2])
    s = st.spectrum([layer, layer])
    assert s.ranks.tolist() == [2, 2]
    assert s.undecided.tolist() == [1, 1]
    assert_equal(s.log_values[-1][:2], log_singular_values([layer, layer], 100)[:2], 1e-12)


def test_a_nilpotent_product_is_exactly_zero():
    up = np.diag(np.ones(3), 1)
    s = st.spectrum([up] * 5)
    assert s.ranks.tolist() == [3, 2, 1, 0, 0]
    assert (s.log_values[3] == -math.inf).all()
    assert s.log_condition.tolist() == [math.inf] * 5
    assert s.self_check.passed


def test_identity_diagonal_and_zero_matrices_are_exact():
    identity = st.spectrum(np.broadcast_to(np.eye(5), (100, 5, 5)))
    assert (identity.log_values == 0).all()
    assert (identity.distance_from_identity == 0).all()
    assert (identity.log_product_distance == -math.inf).all()
    powers = st.spectrum(np.broadcast_to(np.diag([0.5, -8.0, 2.0]), (50, 3, 3)))
    expected = np.arange(1, 51)[:, None] * np.array([3, 1, -1]) * math.log(2)
    np.testing.assert_allclose(powers.log_values, expected, rtol=2 * EPS)
    wide = st.spectrum([np.diag([1e300, 1.0, 1e-300])] * 40)
    np.testing.assert_allclose(
        wide.log_values[-1], 40 * np.array([math.log(1e300), 0, math.log(1e-300)]), rtol=1e-15, atol=1e-13
    )
    zero = st.spectrum(np.zeros((3, 4, 4)))
    assert (zero.log_values == -math.inf).all()
    assert zero.self_check.passed
    assert torch.equal(zero.log_product_distance, torch.zeros(3, dtype=torch.float64))


def test_orthogonal_matrices_stay_at_one():
    n, depth = 8, 1000
    s = st.spectrum([orthogonal(n, seed) for seed in range(depth)])
    layers = torch.arange(1, depth + 1)[:, None]
    assert (s.log_values.abs() <= 4 * n * layers * EPS).all()


def test_one_layer_of_condition_1e12_stays_within_the_bound():
    layers = gaussian(40, 8)
    layers[20] = orthogonal(8, 1) @ np.diag(np.geomspace(1, 1e-12, 8)) @ orthogonal(8, 2)
    s = st.spectrum(layers)
    expected = log_singular_values(layers, 200)
    error = abs(s.log_values[-1].numpy() - expected).max()
    assert error <= s.self_check.value_bound
    assert 1e-5 < s.self_check.bound[-1] < 1e-1  # about n eps 1e12
    assert s.self_check.passed


@pytest.mark.parametrize("rotate", ["left", "right", "both"])
def test_layers_graded_in_rows_or_columns_lose_nothing(rotate):
    grades = np.diag(np.geomspace(1, 1e-40, 6))
    layers = []
    for seed in range(12):
        layer = grades
        if rotate in ("left", "both"):
            layer = orthogonal(6, seed) @ layer
        if rotate in ("right", "both") and seed % 2:
            layer = grades @ orthogonal(6, seed)
        layers.append(layer)
    s = st.spectrum(layers)
    assert_equal(s.log_values[-1], log_singular_values(layers, 1500), 1e-11)


def test_powers_of_a_defective_matrix():
    layers = [np.eye(6) + np.diag(np.ones(5), 1)] * 500
    s = st.spectrum(layers)
    for prefix in (1, 10, 500):
        assert_equal(s.log_values[prefix - 1], log_singular_values(layers[:prefix], 200), 1e-9)


def test_layers_near_the_ends_of_the_range():
    layers = gaussian(20, 6)
    random = np.random.default_rng(2)
    powers = random.integers(-990, 990, 20)
    scaled = np.ldexp(layers, powers[:, None, None])
    shifts = np.cumsum(powers)[:, None] * math.log(2)
    plain, moved = st.spectrum(layers), st.spectrum(scaled)
    np.testing.assert_allclose(moved.log_values.numpy(), plain.log_values.numpy() + shifts, rtol=2 * EPS, atol=1e-13)
    assert moved.self_check.passed


@given(some.integers(0, 10**6), some.integers(2, 7), some.integers(1, 12))
def test_permutations_rotations_and_transposes_change_nothing(seed, n, depth):
    random = np.random.default_rng(seed)
    layers = random.standard_normal((depth, n, n)) * 10 ** random.uniform(-5, 5, (depth, 1, 1))
    s = st.spectrum(layers)
    bound = 2 * float(s.self_check.value_bound)
    shuffled = layers.copy()
    shuffled[-1] = shuffled[-1][random.permutation(n)]
    shuffled[0] = shuffled[0][:, random.permutation(n)]
    rotated = layers.copy()
    rotated[-1] = orthogonal(n, seed) @ rotated[-1]
    rotated[0] = rotated[0] @ orthogonal(n, seed + 1)
    for other in (shuffled, rotated, layers[::-1].transpose(0, 2, 1)):
        again = st.spectrum(other).log_values[-1]
        assert abs(again - s.log_values[-1]).max() <= bound


@given(some.integers(0, 10**6), some.lists(some.integers(1, 6), min_size=2, max_size=6))
def test_layers_that_change_the_width(seed, widths):
    random = np.random.default_rng(seed)
    layers = [random.standard_normal((m, n)) for n, m in itertools.pairwise(widths)]
    s = st.spectrum(layers)
    assert s.sizes == tuple(np.minimum.accumulate([min(layer.shape) for layer in layers]).tolist())
    for prefix in range(1, len(layers) + 1):
        expected = log_singular_values(layers[:prefix], 60)
        k = min(s.log_values.shape[1], len(expected))
        assert_equal(s.log_values[prefix - 1][:k], expected[:k], 1e-9)
        assert s.ranks[prefix - 1] == s.sizes[prefix - 1]
        values = s.log_values[prefix - 1]
        assert s.log_condition[prefix - 1] == values[0] - values[s.sizes[prefix - 1] - 1]
    assert s.self_check.passed


@given(some.integers(0, 10**6), some.integers(2, 5), some.integers(1, 8))
def test_small_integer_matrices_have_their_exact_rank(seed, n, depth):
    layers = np.random.default_rng(seed).integers(-1, 2, (depth, n, n)).astype(float)
    expected = log_singular_values(layers, 120)
    s = st.spectrum(layers)
    # Columns that depend on each other without being zero are told from rounding, and counted as undecided.
    assert s.ranks[-1] == (expected > -math.inf).sum()
    assert_equal(s.log_values[-1], expected, 1e-9)


def test_a_batch_is_its_members():
    layers = np.stack([gaussian(30, 5, seed) for seed in range(6)], axis=1)
    layers[10, 2, 3] = 0  # one of them loses a rank
    whole = st.spectrum(layers.reshape(30, 2, 3, 5, 5))
    assert whole.log_values.shape == (30, 2, 3, 5)
    for member in range(6):
        alone = st.spectrum(layers[:, member])
        assert torch.equal(whole.log_values.reshape(30, 6, 5)[:, member], alone.log_values)
        assert torch.equal(whole.self_check.bound.reshape(30, 6)[:, member], alone.self_check.bound)
    data = whole.to_dataset()
    assert data.log_values.dims == ("depth", "batch_0", "batch_1", "index")


def test_lapack_and_rotations_agree_where_both_may_be_asked():
    layers = gaussian(12, 48)
    layers[6:] *= np.geomspace(1, 1e-3, 48)[:, None]
    s = st.spectrum(layers)
    for prefix in (1, 6, 12):
        expected = log_singular_values(layers[:prefix], 160)
        assert_equal(s.log_values[prefix - 1], expected, 1e-11)


def test_wide_relu_layers_beyond_the_rank_where_lapack_is_asked():
    random = np.random.default_rng(3)
    layers = gaussian(6, 64) * (random.random((6, 64, 1)) < 0.7)
    s = st.spectrum(layers)
    assert_equal(s.log_values[-1], log_singular_values(layers, 120), 1e-9)


def test_distances_from_the_identity():
    random = np.random.default_rng(0)
    layers = np.eye(6) + 0.3 * random.standard_normal((25, 6, 6))
    s = st.spectrum(layers)
    product = np.eye(6)
    for layer, factor in enumerate(layers):
        product = factor @ product
        expected = np.linalg.norm(factor - np.eye(6), 2)
        assert s.distance_from_identity[layer].item() == pytest.approx(expected, rel=1e-13)
        expected = math.log(np.linalg.norm(product - np.eye(6), 2))
        assert s.log_product_distance[layer].item() == pytest.approx(expected, abs=1e-11)
    huge = st.spectrum([np.diag([1e200, 1e-200])] * 10)
    assert huge.log_product_distance[-1].item() == pytest.approx(10 * math.log(1e200))
    assert st.spectrum([np.ones((2, 3)), np.ones((3, 2))]).distance_from_identity is None
    assert st.spectrum(layers, distances=False).distance_from_identity is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_formats_are_taken_as_they_are(dtype):
    layers = torch.from_numpy(gaussian(50, 6)).to(dtype)
    s = st.spectrum(layers)
    assert_equal(s.log_values[-1], log_singular_values(layers.double().numpy(), 200), 1e-10)
    ratio = s.self_check.input_bound / s.self_check.value_bound
    assert ratio == pytest.approx(torch.finfo(dtype).eps / EPS)
    # What the rounding to the format has done is within its bound.
    before = st.spectrum(gaussian(50, 6)).log_values[-1]
    assert abs(before - s.log_values[-1]).max() <= s.self_check.input_bound


# --- the check ---


def sums_of_log_diagonals(layers):
    """sum log |R_ii| after every layer, sorted: what is often passed off as singular values."""
    q, total, sums = np.eye(layers.shape[1]), np.zeros(layers.shape[1]), []
    for layer in layers:
        q, r = np.linalg.qr(layer @ q)
        total = total + np.log(abs(np.diag(r)))
        sums.append(np.sort(total)[::-1])
    return np.array(sums)


def naive(layers):
    product, logs = np.eye(layers.shape[1]), []
    for layer in layers:
        product = layer @ product
        logs.append(np.log(np.linalg.svd(product, compute_uv=False)))
    return np.array(logs)


def test_the_check_catches_sums_of_log_diagonals_by_the_reversed_product():
    layers = gaussian(60, 8)
    check = st.check_spectrum(layers, sums_of_log_diagonals(layers))
    assert not check.passed
    assert check.determinant.max() < 1e-11  # the determinant alone sees nothing
    assert check.reversed > 0.1


def test_the_check_catches_a_naive_product_by_both_tests():
    layers = gaussian(60, 8)
    check = st.check_spectrum(layers, naive(layers))
    assert not check.passed
    assert check.determinant.max() > 1
    assert check.reversed > 1


def test_the_check_passes_what_is_right_and_sees_each_wrong_value():
    layers = gaussian(30, 6)
    right = st.spectrum(layers).log_values
    assert st.check_spectrum(layers, right).passed
    assert "passed" in repr(st.check_spectrum(layers, right))
    for index in range(6):
        wrong = right.clone()
        wrong[-1, index] += 1e-8
        check = st.check_spectrum(layers, wrong)
        assert not check.passed
        assert "FAILED in 1" in repr(check)
    wrong = right.clone()
    wrong[12, 2] += 1e-8  # inside, where only the determinant looks
    assert not st.check_spectrum(layers, wrong).passed
    rank = right.clone()
    rank[-1, -1] = -math.inf
    assert st.check_spectrum(layers, rank).reversed == math.inf


def test_the_determinant_is_that_of_the_layers():
    layers = gaussian(5, 4)
    s = st.spectrum(layers)
    expected = np.cumsum([math.log(abs(np.linalg.det(layer))) for layer in layers])
    np.testing.assert_allclose(s.log_values.sum(dim=1), expected, rtol=1e-12)


# --- bad input ---


def test_bad_matrices_are_refused():
    fine = np.eye(2)
    for matrices, error, message in (
        ([], ValueError, "there are no matrices: expected at least one layer"),
        ([fine, np.ones((2, 3))], ValueError, "matrix 2 takes 3 numbers and the one before gives 2"),
        ([fine, np.array([[1.0, math.nan], [0, 1]])], ValueError, "matrix 2 has 1 values that are not finite"),
        ([fine, np.ones(2)], ValueError, r"matrix 2 has shape \(2,\): expected"),
        ([fine + 1j], TypeError, "matrix 1 holds torch.complex128: expected real numbers"),
        ([fine, np.ones((3, 2, 2))], ValueError, r"matrix 2 has the batch \(3,\), the ones before have \(\)"),
        (np.ones((3, 0, 0)), ValueError, "none of them 0"),
        (torch.eye(2), ValueError, r"matrix 1 has shape \(2,\)"),
        ("matrices", TypeError, "expected a tensor or a sequence of matrices"),
        (3, TypeError, "expected a tensor or a sequence of matrices"),
    ):
        with pytest.raises(error, match=message):
            st.spectrum(matrices)
    with pytest.raises(ValueError, match=r"log_values has shape \(2,\): these matrices have \(1, 2\)"):
        st.check_spectrum([fine], np.zeros(2))
    with pytest.raises(ValueError, match="log_values holds NaN"):
        st.check_spectrum([fine], np.full((1, 2), math.nan))


@given(some.integers(0, 10**5), some.integers(2, 4))
def test_integer_matrices_are_taken_as_numbers(seed, n):
    layers = np.random.default_rng(seed).integers(-3, 4, (4, n, n))
    assume(abs(np.linalg.det(layers)).min() > 0.5)
    assert torch.equal(st.spectrum(layers).log_values, st.spectrum(layers.astype(float)).log_values)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal", "rank one", "identity", "zero", "tiny"])
def test_the_largest_value_of_large_matrices_is_that_of_a_decomposition(kind):
    random = np.random.default_rng(0)
    n = LANCZOS_FROM
    gaussian = random.standard_normal((n, n + 3))
    matrix = {
        "gaussian": gaussian,
        "orthogonal": np.linalg.qr(gaussian)[0],
        "rank one": np.outer(gaussian[0], gaussian[1]),
        "identity": np.eye(n),
        "zero": np.zeros((n, n)),
        "tiny": 1e-250 * gaussian,
    }[kind]
    with np.errstate(divide="ignore"):
        expected = np.log(np.linalg.svd(matrix / max(abs(matrix).max(), 1e-300), compute_uv=False)[0])
        expected += np.log(max(abs(matrix).max(), 1e-300)) if matrix.any() else -np.inf
    np.testing.assert_allclose(log_spectral_norm(matrix[None]), [expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [4, 80])
def test_the_matrices_are_left_as_they_are(n):
    matrices = gaussian(5, n) * 1e200
    before = matrices.copy()
    st.spectrum(matrices, progress=False)
    np.testing.assert_array_equal(matrices, before)
