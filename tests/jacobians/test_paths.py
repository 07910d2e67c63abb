"""Path lengths against all paths one by one, polynomials in rational arithmetic, and closed forms at depth 1000."""

import itertools
import math
import time
from fractions import Fraction

import flint
import numpy as np
import pytest
import torch
from torch import nn

import stability as st

X = torch.tensor([-1.3, 0.4, 2.0], dtype=torch.float64)


class Block(nn.Module):
    def __init__(self, width, scale=0.5):
        super().__init__()
        self.inner, self.scale = nn.Linear(width, width), scale

    def forward(self, h):
        return h + self.scale * torch.tanh(self.inner(h))


class Net(nn.Module):
    """An embedding of 3 numbers in 4, blocks, and a head."""

    def __init__(self, depth=6, scale=0.5):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([Block(4, scale) for _ in range(depth)])

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def rationals(table, positive):
    """The coefficients of prod(1 + z a_l) without rounding, for the rows of one seed: numerators and denominators."""
    product = flint.fmpq_poly([1])
    for (skip, weight, _, outer_weight, _, slope), side in zip(table.tolist(), positive, strict=True):
        a = Fraction(skip) + Fraction(outer_weight) * Fraction(weight) * (1 if side else Fraction(slope)) - 1
        product *= flint.fmpq_poly([1, flint.fmpq(a.numerator, a.denominator)])
    return [product[k] for k in range(len(table) + 1)]


def log_of(rational):
    """The log of the modulus, -inf for 0."""
    if rational == 0:
        return -math.inf
    with flint.ctx.workprec(100):
        return float(abs(flint.arb(rational)).log())


def sides(table, x):
    """On which side of its kink each step is."""
    h, found = x, []
    for skip, weight, bias, outer_weight, outer_bias, slope in table.tolist():
        z = weight * h + bias
        found.append(z > 0)
        h = skip * h + outer_weight * (z if z > 0 else slope * z) + outer_bias
    return found


def test_all_paths_of_twelve_layers_of_width_three_one_by_one():
    chain = st.Chain("residual2_prelu", 12, seeds=2, width=3)
    x = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    found = st.paths(chain, x, progress=False)
    for seed in range(2):
        branches, h = [], x[0]
        for step in chain.steps:

            def of_one(state, step=step, seed=seed):
                return step(state.expand(2, 1, 3))[seed, 0]

            branches.append(torch.autograd.functional.jacobian(of_one, h) - torch.eye(3, dtype=torch.float64))
            h = of_one(h).detach()
        taken = torch.tensor(list(itertools.product((False, True), repeat=12)))
        products = torch.eye(3, dtype=torch.float64).expand(len(taken), 3, 3)
        for branch, there in zip(branches, taken.T, strict=True):
            products = torch.where(there[:, None, None], branch @ products, products)
        sums = torch.zeros(13, 3, 3, dtype=torch.float64).index_add(0, taken.sum(dim=1), products)
        expected = sums.flatten(1).norm(dim=1).log()
        assert (found.log_norms[:, seed, 0] - expected).abs().max() < 1e-11
        strengths = torch.stack([branch.norm() / 3**0.5 for branch in branches]).log()
        assert torch.allclose(found.log_branches[:, seed, 0], strengths, rtol=0, atol=1e-12)
    assert not found.undecided.any()


@pytest.mark.parametrize("name", ["plain_relu", "residual1_relu", "residual2_prelu", "free"])
def test_polynomials_in_rational_arithmetic_at_depth_200(name):
    if name == "free":  # bypass weights near 1, of which 1 cannot be taken without rounding
        random = np.random.default_rng(3)
        table = random.standard_normal((2, 200, 6)) * 0.5
        table[..., 0] = 1 + random.standard_normal((2, 200)) * 10.0 ** -random.integers(0, 20, (2, 200))
        table[:, :9, 0] = random.uniform(0, 0.4, (2, 9))  # and some branches that are but the rounding of 1 - skip
        table[:, :9, 1], table[:, :9, 3], table[:, :9, 5] = 1.0, 1 - table[:, :9, 0], 1.0
        chain = st.Chain.from_table(table)
    else:
        chain = st.Chain(name, 200, seeds=2)
    x, table = X[:1], chain.table()
    found = st.paths(chain, x)
    for seed in range(2):
        steps = table[seed, :200]
        exact = rationals(steps, sides(steps, float(x[0])))
        assert found.signs[:, seed, 0].tolist() == [(c > 0) - (c < 0) for c in exact]
        logs, errors = found.log_norms[:, seed, 0].tolist(), found.log_errors[:, seed, 0].tolist()
        for log, error, true in zip(logs, errors, map(log_of, exact), strict=True):
            assert abs(log - true) <= max(1e-9, 4e-16 * abs(true)) if true > -math.inf else log == -math.inf
            # What the bound says holds, beside the rounding of the logs themselves.
            if true > -math.inf:
                assert abs(math.expm1(log - true)) <= math.exp(error - true) * 1.01 + 1e-15 * (1 + abs(true))
    assert not found.undecided.any()


@pytest.mark.parametrize("strength", [0.05, 0.5, 3.0])
def test_matrix_polynomials_in_rational_arithmetic_at_depth_200(strength):
    """The entries of J - I are multiples of 2^-40, so that they are taken without rounding."""
    random = np.random.default_rng(8)
    branches = np.round(strength * random.standard_normal((200, 2, 2)) * 2.0**40) / 2.0**40
    found = st.paths(np.eye(2) + branches)
    product = [[flint.fmpq_poly([int(i == j)]) for j in range(2)] for i in range(2)]
    for branch in branches:
        entries = [[flint.fmpq(int(value * 2**40), 2**40) for value in row] for row in branch]
        factor = [[flint.fmpq_poly([int(i == j), entries[i][j]]) for j in range(2)] for i in range(2)]
        product = [[sum(factor[i][m] * product[m][j] for m in range(2)) for j in range(2)] for i in range(2)]
    squares = [sum(product[i][j][k] ** 2 for i in range(2) for j in range(2)) for k in range(201)]
    exact = torch.tensor([log_of(square) / 2 for square in squares], dtype=torch.float64)
    apart = (found.log_norms - exact).abs()
    assert apart.max() < 1e-10
    assert (torch.expm1(apart) <= 1.01 * (found.log_errors - exact).exp() + 1e-12).all()
    assert not found.undecided.any()


@pytest.mark.slow
def test_paths_of_1000_layers_of_width_16_take_less_than_ten_spectra():
    chain, x = st.Chain("residual2_prelu", 1000, width=16), torch.ones(1, 16, dtype=torch.float64)
    seconds = []
    for verb in (st.spectrum, st.paths):
        start = time.perf_counter()
        found = verb(chain, x, progress=False)
        seconds.append(time.perf_counter() - start)
    assert not found.undecided.any()
    assert seconds[1] < 10 * seconds[0]


def test_coefficients_that_cancel_are_exact_zeros():
    """(1 + z)^m (1 - z)^m = (1 - z^2)^m, and thirds, of which float64 has no exact sums, at both ends."""
    table = np.zeros((2, 60, 6))
    table[..., 0], table[..., 1], table[..., 5] = 1.0, 1.0, 1.0
    table[0, :, 3] = np.where(np.arange(60) < 30, 1 / 3, -1 / 3)
    table[1, :, 3] = np.where(np.arange(60) % 2 == 0, 1 / 3, -1 / 3)
    found = st.paths(table, X[:1])
    lengths = np.arange(61)
    expected = np.array([math.log(math.comb(30, k // 2)) + k * math.log(1 / 3) for k in lengths])
    for seed in range(2):
        assert found.log_norms[:, seed, 0].numpy()[::2] == pytest.approx(expected[::2], abs=1e-12)
        assert (found.log_norms[1::2, seed, 0] == -math.inf).all()
        assert found.signs[::2, seed, 0].tolist() == [(-1) ** (k // 2) for k in lengths[::2]]
    assert not found.undecided.any()


def test_matrices_that_cancel_are_not_vouched_for():
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0] / 3
    half = np.eye(4) + np.stack([q] * 20), np.eye(4) - np.stack([q] * 20)
    found = st.paths(np.concatenate(half))
    assert found.undecided[1::2].all()
    assert not found.undecided[::2].any()
    expected = [math.log(math.comb(20, k // 2)) + k * math.log(1 / 3) + math.log(2) for k in range(0, 41, 2)]
    assert found.log_norms[::2].numpy() == pytest.approx(expected, abs=1e-9)
    assert "mean path length" in repr(found)  # what is open there is next to nothing of the energy


@pytest.mark.parametrize("scale", [1e-3, 0.5, 300.0])
def test_binomial_coefficients_at_depth_1000(scale):
    """With one orthogonal matrix in all layers C_k = binomial(L, k) (scale Q)^k: hundreds of decades of them."""
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    jacobians = np.eye(4) + scale * np.stack([q] * 1000)
    found = st.paths(jacobians)
    lengths = torch.arange(1001, dtype=torch.float64)
    binomials = (1001.0 * torch.ones(())).double().lgamma() - (lengths + 1).lgamma() - (1001 - lengths).lgamma()
    expected = binomials + lengths * math.log(scale) + math.log(2)
    # J = 1 + scale Q is itself rounded.
    assert (found.log_norms - expected).abs().max() < 1e-9
    assert expected.max() - expected.min() > 600
    assert found.log_strength.item() == pytest.approx(2 * math.log(scale), abs=1e-10)
    assert found.shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["plain_prelu", "residual2_prelu"])
def test_the_coefficients_sum_to_the_product(name):
    chain = st.Chain(name, 1000, seeds=5)
    found, s = st.paths(chain, X), st.spectrum(chain, X)
    top = found.log_norms.amax(dim=0)
    total = (found.signs * (found.log_norms - top).exp()).sum(dim=0)
    product = s.signs[-1] * (s.log_values[-1, ..., 0] - top).exp()
    assert (total - product).abs().max() < 1e-11


def test_binomial_expectation_of_independent_branches():
    """For independent Gaussian branches E |C_k|^2 = n binomial(L, k) s^2k, which `binomial` says."""
    width, depth, draws, s = 6, 8, 4000, 0.7
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(depth, draws, width, width, dtype=torch.float64, generator=generator)
    found = st.paths(torch.eye(width, dtype=torch.float64) + s / width**0.5 * noise)
    energies = (2 * found.log_norms).exp().mean(dim=1)
    mean = energies / energies.sum()
    p = s**2 / (1 + s**2)
    expected = torch.tensor([math.comb(depth, k) * p**k * (1 - p) ** (depth - k) for k in range(depth + 1)])
    assert (mean - expected).abs().max() < 0.01
    assert (found.binomial().mean(dim=1) - expected).abs().max() < 0.01
    assert (found.random_signs().mean(dim=1) - expected).abs().max() < 0.01
    uneven = st.paths(torch.eye(2, dtype=torch.float64) + torch.tensor([0.5, 2.0, 0.0]).double()[:, None, None])
    p, q = 2 * 0.25 / (1 + 2 * 0.25), 2 * 4 / (1 + 2 * 4)  # the entries of A are all alike, so s^2 = 2 a^2
    signs = torch.tensor([(1 - p) * (1 - q), p * (1 - q) + q * (1 - p), p * q, 0.0], dtype=torch.float64)
    assert torch.allclose(uneven.random_signs(), signs, rtol=1e-12, atol=0)
    assert energies @ torch.arange(9, dtype=torch.float64) / energies.sum() == pytest.approx(depth * p, rel=0.02)
    low, middle, high = (int(q.double().median()) for q in found.quantiles())
    assert low < middle < high


def test_a_module_between_its_stem_and_its_head_in_portions():
    torch.manual_seed(0)
    net = Net().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    found = st.paths(net, x, layers="blocks", progress=False)
    assert found.layers == tuple(f"blocks.{k}" for k in range(6))
    branches, h = [], net.stem(x)
    for block in net.blocks:
        own = torch.stack([torch.autograd.functional.jacobian(block, one) for one in h.detach()])
        branches.append(own - torch.eye(4, dtype=torch.float64))
        h = block(h)
    first = sum(branches)
    assert torch.allclose(found.log_norms[1, 0], first.flatten(1).norm(dim=1).log(), rtol=0, atol=1e-10)
    last = torch.eye(4, dtype=torch.float64).expand(5, 4, 4)
    for branch in branches:
        last = branch @ last
    assert torch.allclose(found.log_norms[6, 0], last.flatten(1).norm(dim=1).log(), rtol=0, atol=1e-8)
    parts = st.paths(net, x, layers="blocks", memory=8 * 4**2 * 12 / 2**30, progress=False)
    assert torch.allclose(parts.log_norms, found.log_norms, rtol=0, atol=1e-12)
    few = st.paths(net, x, layers="blocks", k=2, progress=False)
    assert torch.allclose(few.log_norms, found.log_norms[:3], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="left out by k="):
        _ = few.mean_length
    assert "up to 2" in repr(few)


def test_a_layer_that_changes_the_shape_is_named():
    with pytest.raises(ValueError, match=r"layer stem changes the shape of the state from \(5, 3\) to \(5, 4\)"):
        st.paths(Net().double(), torch.zeros(5, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="matrix 1 is 3 by 2"):
        st.paths([np.eye(2), np.ones((3, 2))])
    with pytest.raises(ValueError, match="k is 7: the network has 6 layers"):
        st.paths(Net(), torch.zeros(5, 3), layers="blocks", k=7)


def test_branches_below_the_rounding_of_float32_are_not_vouched_for():
    torch.manual_seed(0)
    faint, strong = Net(scale=1e-7), Net(scale=0.5)
    assert st.paths(faint, torch.randn(2, 3), layers="blocks").undecided[1:].all()
    found = st.paths(strong, torch.randn(2, 3), layers="blocks")
    assert not found.undecided.any()
    assert (found.log_errors > found.log_norms - 16).all()


def test_zero_branches_leave_no_longer_paths():
    jacobians = np.stack([np.eye(3), np.eye(3) + 0.5, np.eye(3), np.eye(3) - 0.25])
    found = st.paths(jacobians)
    assert (found.log_norms[3:] == -math.inf).all()
    assert not found.undecided.any()
    assert found.log_branches.isinf().tolist() == [True, False, True, False]


def test_the_dataset_and_the_words():
    chain = st.Chain("residual2_prelu", 30, seeds=3)
    found = st.paths(chain, X)
    data = found.to_dataset()
    assert data["log_norms"].dims == ("length", "seed", "x")
    assert data["log_branches"].sizes == {"layer": 30, "seed": 3, "x": 3}
    assert data["share"].sum("length").to_numpy() == pytest.approx(np.ones((3, 3)))
    assert data["binomial"].sum("length").to_numpy() == pytest.approx(np.ones((3, 3)))
    assert repr(found).startswith("Paths(30 layers of width 1, batch 3x3: mean path length ")
    assert "<" in found._repr_html_()
