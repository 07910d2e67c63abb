"""Self-checks: never passed where a value is wrong beyond its bound, and no alarm where all are right."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import flint
import numpy as np
import pytest
import torch
from torch import nn

import stability as st
from stability.jacobians import exact_products

from .oracle import log_singular_values
from .random_products import KINDS, outcome
from .test_products import orthogonal


def right_angle(t):
    return [np.diag([1e30, 1e-30]), np.array([[t, 1.0], [1.0, 0.0]]), np.diag([1e30, 1e-30])]


@pytest.mark.parametrize("kind", KINDS)
def test_what_passes_is_within_its_bound(kind):
    outcomes = [outcome(kind, number) for number in range(15)]
    assert not any(one.wrong for one in outcomes if not one.flag)
    assert sum(bool(one.flag) for one in outcomes) <= (5 if kind == "losing rank, rotated" else 2)  # beyond the budget
    if not any(one.exact for one in outcomes):
        assert np.median([one.bound / one.error for one in outcomes if one.error]) < 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_passes_is_within_its_bound_in_many_products(kind):
    assert not any(one.wrong for one in (outcome(kind, number) for number in range(15, 30)) if not one.flag)


@pytest.fixture
def no_budget(monkeypatch):
    monkeypatch.setattr(exact_products, "BUDGET", 0)


@pytest.mark.usefixtures("no_budget")
@pytest.mark.parametrize("kind", KINDS)
def test_without_exact_products_what_is_wrong_is_flagged(kind):
    outcomes = [outcome(kind, number) for number in range(15)]
    assert not any(one.exact or (one.wrong and not one.flag) for one in outcomes)
    if kind in ("graded", "scaled, rotated"):
        assert any(one.wrong for one in outcomes)  # or else nothing is seen here


def test_the_budget_is_spent_in_the_order_of_the_batch(monkeypatch):
    layers = np.tile(np.array(right_angle(1e-16))[:, None], (1, 3, 1, 1))
    monkeypatch.setattr(exact_products, "BUDGET", 2.5 * exact_products._work(right_angle(1e-16)))
    s = st.spectrum(layers)
    assert s.self_check.exact.tolist() == s.self_check.passed.tolist() == [True, True, False]


def test_without_python_flint_what_float64_cannot_tell_is_flagged(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    s = st.spectrum(right_angle(1e-16))
    assert not s.self_check.exact
    assert not s.self_check.passed


def test_exact_values_leave_the_digits_of_flint_as_they_are():
    before = flint.ctx.prec
    assert st.spectrum(right_angle(1e-16)).self_check.exact
    assert flint.ctx.prec == before


def test_exact_values_pass_and_others_do_not():
    layers = right_angle(1e-16)
    exact = np.stack([log_singular_values(layers[: depth + 1], 400) for depth in range(3)])
    assert st.check_spectrum(layers, exact).passed
    for prefix in range(3):
        wrong = exact.copy()
        wrong[prefix, 0] += 1e-10
        check = st.check_spectrum(layers, wrong)
        assert not check.passed
        assert check.reversed == pytest.approx(1e-10, rel=1e-3)


def test_values_that_hang_on_a_rounding_of_the_layers_are_said_to():
    layer = np.outer([1.0, 2.0, 3.0], [0.1, 0.7, 1.3]) + np.outer([1.0, -1.0, 0.5], [1.0, 0.3, 0.2])
    s = st.spectrum([layer, layer])
    assert s.self_check.passed
    assert s.self_check.input_bound == math.inf
    assert st.spectrum([np.eye(3), np.eye(3)]).self_check.input_bound < 1e-13


@pytest.mark.parametrize("t", [1e-3, 1e-6, 1e-9, 1e-12, 1e-14, 1e-16])
def test_a_direction_at_a_right_angle_is_within_its_bound_or_flagged_in_a_network_too(t):
    layers = right_angle(t)
    expected = log_singular_values(layers, 400)
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False, dtype=torch.float64) for _ in range(3)))
    with torch.no_grad():
        for module, layer in zip(net, layers, strict=True):
            module.weight.copy_(torch.from_numpy(layer))
    given, calculated = st.spectrum(layers), st.spectrum(net, torch.zeros(1, 2, dtype=torch.float64), progress=False)
    for s in (given, calculated):
        error = abs(s.log_values[-1].reshape(2).numpy() - expected).max()
        assert not s.self_check.passed.all() or error <= s.self_check.value_bound.max()
    assert given.self_check.passed
    if t != 1e-12:  # about where float64 can vouch for the value no more
        assert bool(given.self_check.exact) == (t < 1e-12)
        assert bool(calculated.self_check.passed) == (t > 1e-12)  # what a network calculates is no exact number


class PostNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.linear, self.norm = nn.Linear(n, n), nn.LayerNorm(n)

    def forward(self, h):
        return self.norm(h + torch.tanh(self.linear(h)))


class Instances(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.linear, self.norm = nn.Linear(n, n), nn.InstanceNorm1d(4)

    def forward(self, h):
        return torch.tanh(self.norm(self.linear(h).reshape(len(h), 4, -1)).flatten(1))


#: A block of n numbers, and how many directions the first one of a network takes away.
BLOCKS = {
    "layer norm": (lambda n: nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.Tanh()), 1),
    "layer norm last": (lambda n: nn.Sequential(nn.Linear(n, n), nn.Tanh(), nn.LayerNorm(n)), 1),
    "group norm": (lambda n: nn.Sequential(nn.Linear(n, n), nn.GroupNorm(4, n), nn.Tanh()), 4),
    "instance norm": (Instances, 4),
    "rms norm": (lambda n: nn.Sequential(nn.Linear(n, n), nn.RMSNorm(n), nn.Tanh()), None),  # but for its epsilon
    "softmax": (lambda n: nn.Sequential(nn.Linear(n, n), nn.Softmax(-1)), 1),
    "post-norm": (PostNorm, 1),
    "none": (lambda n: nn.Sequential(nn.Linear(n, n), nn.Tanh()), 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", BLOCKS)
def test_norms_take_directions_away_without_an_alarm(block, dtype):
    make, taken = BLOCKS[block]
    for depth in (3, 12):
        for seed in range(3):
            torch.manual_seed(seed)
            net = nn.Sequential(*(make(24) for _ in range(depth))).to(dtype)
            s = st.spectrum(net, torch.randn(4, 24, dtype=dtype), progress=False)
            assert s.self_check.passed.all()
            if taken is not None:
                assert (s.ranks[-1] <= 24 - taken).all()  # noise is no value
                assert (s.ranks[-1] + s.undecided[-1] == 24).all()


@pytest.mark.parametrize(
    "layers",
    [
        [np.random.default_rng(i).standard_normal((4, 4)) * (1e300 if i % 2 else 1e-300) for i in range(8)],
        [np.array([[1e-300]])] * 50,
        [np.eye(3)[[1, 2, 0]] * (1e30 if i % 2 else 1e-30) for i in range(200)],
    ],
    ids=["1e300 and 1e-300 in turn", "width 1", "200 layers"],
)
def test_logs_that_cancel_or_add_up_are_no_alarm(layers):
    s = st.spectrum(layers)
    expected = log_singular_values(layers, 50)
    assert s.self_check.passed
    assert abs(s.log_values[-1].numpy() - expected).max() <= s.self_check.value_bound


def test_a_layer_at_both_ends_of_the_range_is_within_its_bound_or_flagged():
    random = np.random.default_rng(0)
    for _ in range(20):
        layer = random.standard_normal((4, 4)) * 10.0 ** random.choice([-320, -200, 0, 300], (4, 4))
        s = st.spectrum([layer, random.standard_normal((4, 4))])
        assert not s.log_values.isnan().any()
        assert s.log_values[s.log_values > -math.inf].isfinite().all()


def test_a_layer_of_numbers_as_large_and_as_small_as_there_are():
    s = st.spectrum([np.array([[1e300, 5e-324], [5e-324, 1e300]]), np.array([[1.0, 2.0], [3.0, 4.0]])])
    expected = log_singular_values([np.array([[1e300, 0.0], [0.0, 1e300]]), np.array([[1.0, 2.0], [3.0, 4.0]])], 50)
    assert abs(s.log_values[-1].numpy() - expected).max() <= s.self_check.value_bound
    assert s.self_check.passed


def test_a_product_is_judged_alike_alone_and_among_others():
    # Of the second product a prefix before the last takes more than one nudge, of the first one none does.
    products = [np.stack([*right_angle(t), np.eye(2)]) for t in (1e-5, 1e-10)]
    together = st.spectrum(np.stack(products, axis=1), distances=False).self_check
    for member, layers in enumerate(products):
        alone = st.spectrum(layers, distances=False).self_check
        assert torch.equal(together.sensitivity[:, member], alone.sensitivity)


def test_integers_that_float64_cannot_hold_are_refused():
    st.spectrum(torch.tensor([[[2**53]]]))
    with pytest.raises(ValueError, match=r"matrix 1 holds the integer 9007199254740993: float64 holds integers up to"):
        st.spectrum(torch.tensor([[[2**53 + 1]]]))


def test_too_few_layers_for_an_exponent_are_refused_before_anything_is_calculated():
    called = []
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(31))).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    x.register_hook(lambda _: called.append(1))
    with pytest.raises(ValueError, match="has 31 layers: an asymptotic exponent"):
        st.lyapunov(net, x, progress=False)
    assert called == []
    with pytest.raises(ValueError, match="has 3 layers: an asymptotic exponent"):
        st.lyapunov(np.ones((3, 2, 2)))


@pytest.mark.parametrize("depth", [100, 1000, 5000])
def test_a_transient_is_part_of_the_error_of_an_exponent(depth):
    """A shear stretches by l after l layers: both of its exponents are 0."""
    found = st.lyapunov(np.tile(np.array([[1.0, 1.0], [0.0, 1.0]]), (depth, 1, 1)), progress=False)
    assert (found.exponents.abs() < 2 * found.standard_errors).all()
    assert (found.standard_errors < 3 * math.log(depth) / depth).all()


def test_without_a_transient_the_error_is_that_of_the_spread():
    layers = torch.randn(900, 200, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = st.lyapunov(layers, progress=False)
    z = (found.exponents - torch.as_tensor(st.theory.gaussian_exponents(2))) / found.standard_errors
    assert 0.85 < z.square().mean() < 1.3


@pytest.mark.parametrize("depth", [32, 48])
def test_errors_from_few_stretches_cover_as_often_as_they_say(depth):
    layers = torch.randn(depth, 2000, 1, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = st.lyapunov(layers, progress=False)
    z = (found.exponents - torch.as_tensor(st.theory.gaussian_exponents(1))) / found.standard_errors
    assert 0.935 < (z.abs() < 1.96).double().mean() < 0.965


def test_growth_that_makes_up_for_itself_has_a_small_error():
    """Of x -> 4 x (1 - x) the log of the slope is log 2 and the change of a function of x, which adds up to little."""
    random = np.random.default_rng(0)
    x, slopes = random.random(300), []
    for _ in range(1000):
        slopes.append(4 - 8 * x)
        x = np.clip(4 * x * (1 - x) + 1e-13 * random.standard_normal(300), 1e-15, 1 - 1e-15)
    found = st.lyapunov(np.array(slopes)[..., None, None], progress=False)
    errors = found.exponents - math.log(2)
    assert 0.93 < (errors.abs() < 1.96 * found.standard_errors).double().mean() < 0.995
    assert found.standard_errors.median() < 2.5 * errors.square().mean().sqrt()


def test_a_wrong_value_in_front_is_seen_behind_a_layer_that_hides_it():
    """The last prefix is zero and right; the one before it is as ill as a right angle can be."""
    c, s, e = math.cos(0.7), math.sin(0.7), 1e-100
    first = np.array([[c, -s], [s, c]]) @ np.diag([1, e])
    second = np.diag([1, e]) @ np.array([[-s, c], [c, s]])
    layers = [first, second, np.zeros((2, 2))]
    given = st.spectrum(layers)
    assert given.self_check.passed
    assert abs(given.log_values[1].numpy() - log_singular_values(layers[:2], 400)).max() < 1e-12
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False, dtype=torch.float64) for _ in layers))
    with torch.no_grad():
        for module, layer in zip(net, layers, strict=True):
            module.weight.copy_(torch.from_numpy(layer))
    assert not st.spectrum(net, torch.zeros(1, 2, dtype=torch.float64), progress=False).self_check.passed


def test_claims_of_every_prefix_are_tested():
    random = np.random.default_rng(0)
    square = random.standard_normal((6, 4, 4))
    losing = square.copy()
    losing[:, 0] = 0
    for layers in (list(square), [*square, random.standard_normal((3, 4))], list(losing)):
        right = st.spectrum(layers).log_values
        assert st.check_spectrum(layers, right).passed
        upside_down, balanced, garbage = right.clone(), right.clone(), right.clone()
        upside_down[2] = upside_down[2].flip(0)
        balanced[2, 0] += 5
        balanced[2, 1] -= 5
        garbage[:-1] = 123.0
        for claims in (upside_down, balanced, garbage):
            assert not st.check_spectrum(layers, claims).passed


def test_rows_further_apart_than_the_range_of_float64():
    wide = random_with_columns([1e200, 1e-200, 1e-200])
    for layers in ([wide.T, wide], [wide.T], [wide]):
        s = st.spectrum(layers)
        assert abs(s.log_values[-1].numpy() - log_singular_values(layers, 2000)).max() <= s.self_check.value_bound
        assert s.self_check.passed
    net = nn.Sequential(nn.Linear(2, 2, bias=False, dtype=torch.float64))
    narrow = random_with_columns([1e200, 1e-200])
    for weight in (narrow, narrow.T):
        with torch.no_grad():
            net[0].weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        s = st.spectrum(net, torch.zeros(1, 2, dtype=torch.float64), progress=False)
        assert abs(s.log_values[-1, 0, 0].numpy() - log_singular_values([weight], 2000)).max() < 1e-12
        assert s.self_check.passed


def random_with_columns(sizes):
    return np.random.default_rng(0).standard_normal((2, len(sizes))) * np.array(sizes)


def test_numbers_as_large_as_there_are_may_be_nudged():
    assert st.spectrum(np.full((2, 3, 3), 1.7e308)).self_check.passed
    net = nn.Sequential(nn.Linear(3, 3, bias=False, dtype=torch.float64))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.7, 1.6, -1.5], [1.2, -1.7, 1.1], [1.3, 1.4, 1.7]]).double() * 1e308)
    assert st.spectrum(net, torch.zeros(1, 3, dtype=torch.float64), progress=False).self_check.passed


def test_threads_calculate_exactly_one_at_a_time():
    before, layers = flint.ctx.prec, np.tile(np.array(right_angle(1e-16))[:, None], (1, 8, 1, 1))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: st.spectrum(layers, progress=False), range(30)))
    assert all(one.self_check.exact.all() for one in found)
    assert flint.ctx.prec == before


def test_the_work_of_a_bottleneck_is_counted():
    random, n = np.random.default_rng(0), 200
    rank_one = [np.vstack([np.full((1, n), 0.1), np.full((1, n), 0.3)]), random.standard_normal((n, 2))]
    assert exact_products._work([*rank_one, random.standard_normal((n, n))]) > exact_products.BUDGET


@pytest.mark.parametrize("n", [1, 5, 12])
def test_the_bound_of_identities(n):
    assert st.spectrum([np.eye(n)] * 3).self_check.bound[-1].item() == pytest.approx(n * 8 * 2.0**-52, rel=1e-9, abs=0)


@pytest.mark.usefixtures("no_budget")
def test_ranks_are_compared_both_ways():
    random = np.random.default_rng(0)
    layers = [random.standard_normal((3, 5)), random.standard_normal((5, 3))]  # not square: there is no determinant
    right = st.spectrum(layers).log_values
    assert st.check_spectrum(layers, right).passed
    right[-1, -1] = -math.inf
    assert not st.check_spectrum(layers, right).passed
    layers = [random.standard_normal((3, 5)), np.diag([1.0, 2.0, 0.0])]
    right = st.spectrum(layers).log_values
    assert st.check_spectrum(layers, right).passed
    right[-1, -1] = -40.0
    assert not st.check_spectrum(layers, right).passed


def test_the_coarsest_layer_counts_wherever_it_is():
    a = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    b = a.float()
    fine, coarse = (lambda h: h @ a), (lambda h: (h.float() @ b).double())
    for layers in ([fine, coarse], [coarse, fine]):
        assert st.spectrum(layers, x, progress=False).self_check.dtype == torch.float32


@pytest.mark.usefixtures("no_budget")
def test_a_bound_beyond_a_half_is_flagged():
    layers = [orthogonal(2, 2 * i) @ np.diag([1.0, 2e-15]) @ orthogonal(2, 2 * i + 1) for i in range(8)]
    check = st.spectrum(layers).self_check
    assert check.value_bound > 0.5
    assert not check.passed


@pytest.mark.usefixtures("no_budget")
def test_a_direction_just_above_the_noise_is_given_up():
    assert st.spectrum([np.array([[1.0, 1.0], [1.0, 1.0 + 8 * 2.0**-52]])]).undecided.tolist() == [1]


def test_the_first_layers_are_left_out_of_an_exponent_and_no_others():
    found = st.lyapunov(np.exp(np.where(np.arange(100) < 30, 7.0, 1.0))[:, None, None], progress=False)
    assert found.burn_in == 30
    assert found.exponents.item() == pytest.approx(1.0, abs=1e-12)


def test_the_pooled_error_is_that_of_a_sample():
    two = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    found = st.LyapunovExponents(two, torch.zeros_like(two), 100, 25, 10, torch.zeros(2, dtype=torch.int64))
    mean, error = found.pooled()
    assert (mean.item(), error.item()) == pytest.approx((2.0, 1.0))


def test_exponents_that_rounding_takes_are_undecided():
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

        def forward(self, h):
            return self.up(self.down(h))

    torch.manual_seed(0)
    net = nn.Sequential(*(Bottleneck() for _ in range(40)))
    found = st.lyapunov(net, torch.randn(1, 4), progress=False)
    assert (found.exponents == -math.inf).sum() == 2
    assert found.undecided.tolist() == [[2]]
    assert st.lyapunov(np.tile(np.diag([1.0, 0.0]), (64, 1, 1)), progress=False).undecided.tolist() == 0


def test_exact_values_are_not_undecided():
    layer = np.outer([1.0, 2.0, 3.0], [0.1, 0.7, 1.3]) + np.outer([1.0, -1.0, 0.5], [1.0, 0.3, 0.2])
    s = st.spectrum([layer, layer])
    assert s.self_check.exact
    assert s.undecided.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("matrices", "says"),
    [
        (np.ones((1, 2, 2), np.longdouble), "matrix 1 holds float128|matrix 1 holds longdouble"),
        ([np.eye(2), [["a"]]], "matrix 2 holds <U1"),
        ([[[None]]], "matrix 1 holds object"),
        ([[[2**70]]], "matrix 1 holds the integer 1180591620717411303424"),
        ([[[1, 2], [3]]], "matrix 1 is no array of numbers"),
        (torch.eye(2).to_sparse()[None], "expected a dense tensor"),
        (torch.empty(1, 2, 2, device="meta"), "device meta"),
        ([torch.empty(2, 2, device="meta")], "expected a dense tensor"),
        (np.ma.ones((1, 2, 2)), "matrix 1 is a masked array"),
    ],
)
def test_what_is_no_matrix_is_refused_by_its_number(matrices, says):
    with pytest.raises((TypeError, ValueError), match=says):
        st.spectrum(matrices)


def test_matrices_of_every_format_of_numbers():
    for dtype in (np.uint16, np.int8, ">f8", np.float16):
        assert st.spectrum(np.tile(np.eye(2), (3, 1, 1)).astype(dtype)).log_values.abs().max() == 0


@pytest.mark.parametrize("claims", ["abc", None, st])
def test_claims_that_are_no_numbers_are_refused(claims):
    with pytest.raises((TypeError, ValueError), match="log_values"):
        st.check_spectrum([np.eye(2)], claims)
    right = torch.zeros(1, 2, requires_grad=True, dtype=torch.bfloat16)
    assert st.check_spectrum([np.eye(2)], right).passed
