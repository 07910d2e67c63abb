"""What a floating-point format loses: errors against rational arithmetic, bounds, first failures, loss scales."""

import copy
import itertools
import math
from fractions import Fraction

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies
from torch import nn

import stability as st
from stability.foundation.formats import Format
from stability.precision.forward_error import log_reach
from stability.precision.kernels.error_bounds import forward_errors
from stability.precision.kernels.expected_errors import log_expected_errors, states_in_range

POINTS = torch.linspace(-3, 3, 9, dtype=torch.float64)
X = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FORMATS = ("float16", "bfloat16", "float32", "float64")


def exact_states(table, x):
    """The states of one member at every point in rational arithmetic."""
    states = [[Fraction(v) for v in x]]
    for skip, weight, bias, outer_weight, outer_bias, slope in [list(map(Fraction, row)) for row in table]:
        following = []
        for h in states[-1]:
            z = weight * h + bias
            following.append(skip * h + outer_weight * (z if z > 0 else slope * z) + outer_bias)
        states.append(following)
    return states


def log_root(squares):
    """The log of the root of a rational of any size."""
    if squares == 0:
        return -math.inf
    shift = squares.numerator.bit_length() - squares.denominator.bit_length()
    return (math.log(squares / Fraction(2) ** shift) + shift * math.log(2)) / 2


@pytest.mark.parametrize("name", ["plain_prelu", "residual2_prelu", "residual2_relu", "residual1_relu"])
@pytest.mark.parametrize("init", ["pytorch", "uniform"])
def test_errors_are_those_of_rational_arithmetic(name, init):
    chain = st.Chain(name, depth=60, seeds=2, init=init)
    errors = st.forward_error(chain, POINTS, FORMATS)
    table = chain.table()[:, :60]
    for dtype in FORMATS:
        run = st.Chain(name, depth=60, seeds=2, init=init, dtype=getattr(torch, dtype))
        h = POINTS.to(run.dtype).expand(2, -1)
        states = [h] + [h := step(h).detach() for step in run.steps]
        for member in range(2):
            for layer, exact in enumerate(exact_states(table[member].tolist(), POINTS.tolist())):
                if not states[layer][member].isfinite().all():
                    assert errors.log_errors[dtype][layer, member] == math.inf
                    continue
                got = [Fraction(v) for v in states[layer][member].double().tolist()]
                error = log_root(sum((a - b) ** 2 for a, b in zip(got, exact, strict=True)))
                size = log_root(sum(b**2 for b in exact))
                assert errors.log_norms[layer, member].item() == pytest.approx(size, abs=1e-12)
                measured = errors.log_errors[dtype][layer, member].item()
                # Of a float64 run the exact state is known to 106 bits, its error to about 50.
                assert measured == pytest.approx(error - size, abs=1e-9) or measured < -70, (dtype, layer)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    seed=strategies.integers(0, 2**32),
    reach=strategies.sampled_from([0.3, 2.0, 6.0]),
    dtype=strategies.sampled_from(FORMATS),
)
def test_the_bound_is_never_violated(seed, reach, dtype):
    generator = np.random.default_rng(seed)
    depth = int(generator.integers(1, 60))
    table = generator.choice([-1, 1], (4, depth, 6)) * 10.0 ** generator.uniform(-reach, reach, (4, depth, 6))
    table[generator.random((4, depth, 6)) < 0.2] = 0
    x = torch.from_numpy(generator.normal(size=5) * 10.0 ** generator.uniform(-reach, reach))
    e = st.forward_error(st.Chain.from_table(table), x, [dtype])
    error, bound = e.log_errors[dtype], e.log_bounds[dtype]
    assert (error <= bound + 1e-9).all()
    assert not error.isnan().any()
    assert not bound.isnan().any()


@pytest.mark.parametrize("init", ["pytorch", "uniform", "he", "scaled"])
@pytest.mark.parametrize("name", st.ARCHITECTURES)
def test_the_bound_of_real_chains_holds_and_is_near(name, init):
    try:
        chain = st.Chain(name, depth=100, seeds=100, init=init)
    except ValueError:
        pytest.skip("the initialisation does not exist for this architecture")
    e = st.forward_error(chain, POINTS)
    for dtype in FORMATS:
        error, bound = e.log_errors[dtype], e.log_bounds[dtype]
        assert (error <= bound + 1e-9).all()
        # In logs the bound is within a factor 2 of the error, medians over the members, wherever digits are left. It
        # adds up what roundings of both signs cancel, so of the two digits of half precision it soon leaves none.
        layers = slice(0, 101) if dtype in ("float32", "float64") else slice(0, 31)
        middle, above = error.median(dim=1).values[layers], bound.median(dim=1).values[layers]
        compared = (above < 0) & (middle > -60)
        assert (above[compared] <= middle[compared] / 2).double().mean() >= 0.8 or not compared.any(), dtype
        if dtype in ("float32", "float64"):
            assert (above[compared] <= middle[compared] / 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pytorch", "uniform", "he"])
@pytest.mark.parametrize("name", st.ARCHITECTURES)
def test_the_probable_bound_is_near_and_rarely_exceeded_in_half_precision_too(name, init):
    for depth in (100, 200):
        e = st.forward_error(st.Chain(name, depth, seeds=100, init=init), POINTS, ["float16", "bfloat16", "float32"])
        for dtype in e.formats:
            error, bound = e.log_errors[dtype][1:], e.log_probable_bounds[dtype][1:]
            assert not bound.isnan().any()
            told = error.isfinite() & bound.isfinite()
            assert not told.any() or (error[told] > bound[told]).double().mean() <= 0.01, (depth, dtype)
            last = told[-1]
            if last.sum() < 10 or bound[-1][last].median() >= 0:  # no digit is left, or nobody
                continue
            middle, above = error[-1][last].median(), bound[-1][last].median()
            # Of a normal variable the 99 % point is 1.34 in the log above the median: less of a digit shows no factor.
            assert above <= middle / 2 or middle > -2 * 1.34, (depth, dtype, middle, above)


def test_the_level_of_the_probable_bound_is_the_share_below_it():
    # Many roundings make a normal variable; of one point, as errors of several do not move alike.
    chain, x = st.Chain("residual2_prelu", depth=40, seeds=3000), torch.tensor([1.2703125], dtype=torch.float64)
    for level in (0.5, 0.9, 0.99):
        e = st.forward_error(chain, x, ["float16", "float32"], level=level)
        assert e.level == level
        for dtype in e.formats:
            share = (e.log_errors[dtype][-1] <= e.log_probable_bounds[dtype][-1]).double().mean().item()
            # Three standard errors are 0.03; the variance of a rounding depends on where in a binade a number is.
            assert share == pytest.approx(level, abs=0.06), (level, dtype, share)
    with pytest.raises(ValueError, match="level is 1"):
        st.forward_error(chain, x, level=1)
    for level in (1e-300, 0.3, 1 - 2**-53):
        size = mpmath.sqrt(2) * mpmath.erfinv(mpmath.mpf(level))
        assert log_reach(level) == pytest.approx(float(mpmath.log(size)), rel=1e-12)


def test_the_probable_bound_does_not_leave_the_range():
    # A state of 2^-800 beside which a square of an error is nothing, and then a bias of order 1.
    rows = [*[[0, 2.0**-80, 0, 1, 0, 1.3]] * 10, [0, 1.7, 0, 1, 0.3, 1]]
    e = st.forward_error(st.Chain.from_table([rows]), torch.tensor([1.1, -0.7], dtype=torch.float64), ["float64"])
    bound = e.log_probable_bounds["float64"][:, 0]
    assert (e.log_errors["float64"][:, 0] <= bound).all()
    assert (bound < math.log(1e-14)).all()
    assert (bound[1:11] > math.log(1e-18)).all()


@pytest.mark.parametrize(
    ("row", "x"),
    [([0, 2.0**-600, 0, 2.0**-600, 0, 1], 1.1 * 2.0**1000), ([0, 2.0**600, 0, 2.0**600, 0, 0], -1.1 * 2.0**-100)],
)
def test_the_bound_holds_where_a_slope_leaves_the_range(row, x):
    table = [[[1.3, 0, 0, 0, 0, 1], row, [1, 0, 0, 0, 0, 1]]]
    errors = st.forward_error(st.Chain.from_table(table), torch.tensor([x], dtype=torch.float64), ["float64"])
    assert (errors.log_errors["float64"] <= errors.log_bounds["float64"]).all()


def test_the_roundings_of_the_bound_itself_are_counted():
    # Errors near 1, of two steps that add to one another: what their sum rounds off shows in the log.
    generator = np.random.default_rng(0)
    x = generator.uniform(-2, 2, 10_000)
    first = x + generator.uniform(0, 1e-3, x.shape)
    computed = np.stack([first, first + generator.uniform(0.9, 1.1, x.shape)])[:, None]
    sizes, errors, bounds = (np.empty((2, 1, len(x))) for _ in range(3))
    forward_errors(0, 1, np.array([[[1.0, 0, 0, 0, 0, 1]]]), x, computed, sizes, errors, bounds)
    assert (errors <= bounds).all()
    assert bounds == pytest.approx(errors, abs=1e-12)


def test_exact_runs_have_no_error():
    e = st.forward_error(st.Chain("plain_prelu", depth=30, init="identity"), torch.tensor([1.0, -2.0]).double())
    for dtype in FORMATS:
        assert (e.log_errors[dtype] == -math.inf).all()
        assert (e.log_bounds[dtype] == -math.inf).all()
    assert e.digits("float32").min() == math.inf


def test_a_state_that_a_format_cannot_hold_has_no_digits_left():
    fading = st.Chain("plain_prelu", depth=3000, seeds=5, init="uniform")
    e = st.forward_error(fading, POINTS)
    for dtype in FORMATS:
        assert e.log_errors[dtype][-1].tolist() == [0.0] * 5  # it reads 0: the error is the whole
    assert (e.log_norms[-1] < -4000).all()
    growing = st.forward_error(st.Chain("residual1_relu", depth=2000, init="he"), torch.ones(1).double())
    assert growing.log_errors["float32"][-1].item() == math.inf
    assert growing.log_errors["float64"][-1].item() < math.log(1e-10)


def _mean(y):
    return y.flatten(1).mean(dim=1)


@pytest.mark.parametrize("init", ["pytorch", "uniform"])
@pytest.mark.parametrize("name", st.ARCHITECTURES)
def test_predicted_failures_are_the_measured_ones(name, init):
    chain = st.Chain(name, depth=300 if name.startswith("plain") else 100, seeds=100, init=init)
    f = st.first_failure(chain, POINTS)
    assert (f.agreement >= 0.95).all(), f.agreement
    if name == "plain_prelu":
        # 16 bits, then 32: every member's gradient is lost, in that order.
        first = f.first()
        half, brain, single = (first[FORMATS.index(d), 2].double().median() for d in ("float16", "bfloat16", "float32"))
        assert 0 < half < single
        assert 0 < brain <= single + 3  # the same exponents, and the same range but for the last digits


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_a_format_cannot_hold_takes_the_branch_of_zero(dtype):
    # A state, then a pre-activation, that halves until the format has none left.
    one = Format(getattr(torch, dtype))
    number = torch.finfo(one.dtype).smallest_normal * torch.finfo(one.dtype).eps * 4
    halves = [[[0.5, 1, 0, 0, 0, 1]] * 6, [[1, 0.5**k, 0, 0, 0, 1] for k in range(6)]]
    for table in np.array(halves, dtype=np.float64)[:, None]:
        sizes, positive = np.empty((7, 1, 1)), np.empty((6, 1, 1), dtype=bool)
        states_in_range(0, 1, table, np.array([number]), one.log2_least, sizes, positive)
        h, by_hand, branches = torch.tensor(number, dtype=one.dtype), [], []
        for skip, weight in table[0, :, :2].tolist():
            by_hand.append(math.log(float(h)) if h else -math.inf)
            branches.append(bool(h * weight > 0))
            h = h * skip
        assert positive[:, 0, 0].tolist() == branches
        assert False in branches
        assert sizes[:6, 0, 0].tolist() == pytest.approx(by_hand)


def test_the_largest_number_that_rounds_to_zero():
    for dtype in FORMATS:
        largest = Fraction(2) ** Format(getattr(torch, dtype)).log2_least
        for number, held in [(largest, False), (largest * (1 + Fraction(1, 2**8)), True)]:
            # Python rounds to float64, torch to the others.
            rounded = float(number)
            if dtype != "float64":
                rounded = torch.tensor(rounded, dtype=torch.float64).to(getattr(torch, dtype)).item()
            assert (rounded != 0) == held, (dtype, held)


@pytest.mark.parametrize(("outer", "roundings"), [(False, 2), (True, 4)])
def test_expected_errors_are_those_of_many_runs(outer, roundings):
    # A weight and its product are rounded once each, by 0.18034 roundoff^2 in the mean square of numbers that are
    # logarithmically uniform: (1 / 3) of the integral of m^-3 / ln 2 over a binade.
    seeds, generator = 20_000, np.random.default_rng(0)
    table = np.zeros((seeds, 2, 6))
    table[:, :, [1, 3]] = 2.0 ** generator.uniform(0, 8, (seeds, 2, 2)) if outer else 1
    table[:, :, 1] = 2.0 ** generator.uniform(0, 8, (seeds, 2))
    table[:, :, 5] = 1
    logs = np.log(table[..., 1] * table[..., 3]).cumsum(axis=1).T
    expected = _expected(table, np.ones(1), "float32", outer)[1:, :, 0] - logs
    unit = 0.18 * torch.finfo(torch.float32).eps ** 2 / 4
    assert np.diff(np.exp(2 * expected), axis=0) / unit == pytest.approx(roundings, rel=1e-9)
    error = st.forward_error(st.Chain.from_table(table), torch.ones(1).double(), ["float32"]).log_errors["float32"]
    grown = np.diff((2 * error[1:]).exp().numpy(), axis=0)[0] / unit * 0.18 / 0.18034
    assert abs(grown.mean() - roundings) < 4 * grown.std() / math.sqrt(seeds)


def _expected(table, x, dtype, outer):
    one, logs = Format(getattr(torch, dtype)), np.empty((table.shape[1] + 1, len(table), len(x)))
    log_expected_errors(0, len(table), table, x, one.roundoff, one.log2_least, outer, False, logs)
    return logs


@pytest.mark.parametrize("power", [-900, 120, 250, 900])
def test_expected_errors_keep_their_place_at_any_magnitude(power):
    # All in units of 2^power, or with the state on its way at 2^(4 power): the relative errors are the same.
    table = st.Chain("residual2_prelu", depth=10, seeds=3).table()
    x = np.linspace(-3, 3, 4)
    plain = _expected(table, x, "float64", True)
    scaled = table.copy()
    scaled[..., [2, 4]] *= 2.0**power
    found = _expected(scaled, x * 2.0**power, "float64", True)
    np.testing.assert_allclose(found - power * math.log(2), plain, rtol=0, atol=1e-9)
    steps = np.zeros((1, 4, 6))
    steps[..., [1, 3, 5]] = 1.3
    far = steps.copy()
    far[0, :, 1:4:2] *= 2.0 ** np.array([power, power, -power, -power])[:, None]
    shift = np.array([0, 2, 4, 2, 0])[:, None, None] * power * math.log(2)
    found, plain = _expected(far, x, "float64", True) - shift, _expected(steps, x, "float64", True)
    if power > 0:
        np.testing.assert_allclose(found, plain, rtol=0, atol=1e-9)
    else:  # what float64 cannot hold is lost
        assert (found[-1] > 0).all()


def test_digits_are_lost_between_the_layers_that_are_said():
    chain = st.Chain("residual2_prelu", depth=400, seeds=100)
    f = st.first_failure(chain, POINTS, ["bfloat16", "float32"])
    measured, expected = f.measured[0, 0, 2], f.predicted[0, 0, 2]
    low, high = (torch.where(end > 0, end, 401) for end in f.digits_between[0].unbind(-1))
    lost, mean = (torch.where(layer > 0, layer, 401) for layer in (measured, expected))
    assert ((low <= lost) & (lost <= high)).double().mean() >= 0.9
    assert ((low <= mean) & (mean <= high)).all()
    assert (measured > 0).double().mean() > 0.4
    assert (low > 1).all()
    assert (f.digits_between[1] == 0).all()
    assert f.to_dataset().digits_between.sel(dtype="bfloat16", seed=3, end="least").item() == f.digits_between[0, 3, 0]
    wide = st.first_failure(st.Chain("plain_prelu", depth=3, seeds=2, width=8), X, ["float32"])
    assert (wide.digits_between == -1).all()


@pytest.mark.parametrize("power", [-900, 0, 900])
@pytest.mark.parametrize(("skip", "weight", "rounded"), [(1, 2.0**-60, 1), (2.0**-60, 1, 3)])
def test_the_rounding_of_a_sum_is_no_larger_than_its_smaller_summand(skip, weight, rounded, power):
    # A state of 2^power, rounded to float64, and beside it 2^-60 of it, which the sum of both loses. What is left are
    # the roundings of the point, and of a weight and a product of order 1.
    table = np.array([[[skip, weight, 0, 1, 0, 1]]])
    found = _expected(table, np.array([2.0**power]), "float64", False)[1, 0, 0] - power * math.log(2)
    assert found == pytest.approx(math.log(0.18 * rounded * 2.0**-106) / 2, abs=1e-3)


def test_failures_are_those_of_a_run_by_hand():
    chain = st.Chain("plain_prelu", depth=100, seeds=20, init="uniform")
    f = st.first_failure(chain, POINTS, ["float16"], loss=lambda y: 3 * _mean(y))
    half = st.Chain("plain_prelu", depth=100, seeds=20, init="uniform", dtype=torch.float16)
    states = [POINTS.half().expand(20, -1).clone().requires_grad_()]
    for step in half.steps:
        states.append(step(states[-1]))
    tiny = torch.finfo(torch.float16).tiny
    for member in range(20):
        sizes = [state[member].double().square().mean().sqrt().item() for state in states]
        first = next((layer for layer in range(1, 101) if sizes[layer] < tiny), 0)
        assert f.measured[0, 0, 1, member] == first
    (3 * _mean(half.readout(states[-1]))).sum().backward(inputs=states)
    for member in range(20):
        sizes = [state.grad[member].double().square().mean().sqrt().item() for state in reversed(states[:-1])]
        first = next((layer for layer in range(1, 101) if sizes[layer - 1] < tiny), 0)
        assert f.measured[0, 2, 1, member] == first
    with torch.no_grad():
        tangents = torch.func.jvp(lambda x: torch.stack(_through(half, x)), (POINTS.half(),), (torch.ones(9).half(),))[
            1
        ]
    for member in range(20):
        sizes = tangents[:, member].double().square().mean(dim=1).sqrt().tolist()
        first = next((layer for layer in range(1, 101) if sizes[layer - 1] < tiny), 0)
        assert f.measured[0, 1, 1, member] == first


def _through(chain, x):
    h, states = x.expand(chain.seeds, -1), []
    for step in chain.steps:
        h = step(h)
        states.append(h)
    return states


def test_overflow_is_found_in_activations_products_and_gradients():
    f = st.first_failure(
        st.Chain("residual1_relu", depth=300, seeds=30, init="uniform"), POINTS, ["float16", "float64"]
    )
    assert (f.measured[0, :, 0] > 0).all()
    assert (f.measured[1] <= 0).all()
    assert (f.measured[:, :, 1] == 0).all()
    # A bypass of one neuron grows by 2 ln 2 - 1 every other step: 65504 / 3 is reached after ln(65504 / 3) / 0.19315.
    expected = math.log(65504 / 3) / (math.log(2) - 0.5)
    assert f.measured[0, 0, 0].double().mean().item() == pytest.approx(expected, rel=0.1)


def test_exact_zeros_are_no_underflow():
    chain = st.Chain("plain_relu", depth=50, seeds=30)
    dead = (st.spectrum(chain, POINTS).signs[-1] == 0).all(dim=1)
    assert dead.double().mean() > 0.5
    f = st.first_failure(chain, POINTS, ["float64"])
    assert (f.measured[0, :, 1] == 0).all()
    assert (f.predicted[0, :, 1] == 0).all()


def test_a_loss_scale_saves_a_float16_run_where_there_is_one():
    chain = st.Chain("plain_prelu", depth=12, seeds=20)
    loss = _mean
    f = st.first_failure(chain, POINTS, ["float16"], loss=loss)
    saved = [m for m in range(20) if f.loss_scales[0, m, 0].ceil() <= f.loss_scales[0, m, 1].floor()]
    lost = [m for m in range(20) if m not in saved]
    assert saved
    assert lost
    assert (f.measured[0, 2, 1] > 0).any()
    for member in range(20):
        high = f.loss_scales[0, member, 1].item()
        one = st.Chain("plain_prelu", depth=12, seeds=[member])
        scale = 2.0 ** math.floor(high)
        g = st.gradient_norms(one, POINTS, lambda y, scale=scale: scale * loss(y))
        sizes = torch.cat([g["input"] - math.log(9) / 2, g.output[None] - math.log(9) / 2, g["parameters"]])
        within = (sizes.min() >= math.log(torch.finfo(torch.float16).tiny)) & (
            sizes.max() <= math.log(torch.finfo(torch.float16).max)
        )
        assert bool(within) == (member in saved)
    few = st.first_failure(st.Chain("residual2_prelu", depth=12, seeds=20), POINTS, ["float16"], loss=loss)
    scale = few.loss_scale("float16")
    assert scale is not None
    assert math.log2(scale) == int(math.log2(scale))
    assert f.loss_scale("float16") is None
    dead = st.first_failure(st.Chain("plain_relu", depth=100, seeds=5, init="uniform"), POINTS, ["float16"])
    assert dead.loss_scale("float16") is not None
    # A scale in the middle saves the run, and not only the logarithms.
    chain = st.Chain("plain_prelu", depth=10, seeds=100)
    plain = st.first_failure(chain, POINTS, ["float16"], loss=loss)
    low, high = plain.loss_scales[0].unbind(-1)
    scale = 2.0 ** ((low + high) / 2).floor()
    scaled = st.first_failure(chain, POINTS, ["float16"], loss=lambda y: loss(y) * scale.to(y.dtype))
    saved = low.ceil() + 1 <= high.floor()
    assert saved.double().mean() > 0.3
    assert (plain.measured[0, 2, :2, saved] > 0).any(dim=0).double().mean() > 0.9
    # But where the loss itself, or the scale, is too large for float16.
    runs = saved & (scaled.measured[0, 2, 0] == 0)
    assert runs.double().mean() > 0.2
    assert (scaled.measured[0, 2, 1, saved] == 0).all()


def test_modules_and_wide_chains():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(40)))
    x = torch.randn(8, 16)
    with torch.no_grad():
        for block in net:
            block[0].weight *= 3.5
    e = st.forward_error(net, x)
    assert set(e.log_errors) == {"float16", "bfloat16", "float32"}
    assert not e.log_bounds
    assert (e.log_errors["float32"][1:] < e.log_errors["bfloat16"][1:]).all()
    f = st.first_failure(net, x, ["float16", "float32"])
    assert f.measured[0, 0, 0].item() > 0
    assert f.measured[1, 0, 0].item() == 0
    assert (f.measured[0, 0, 0] - f.predicted[0, 0, 0]).abs() <= 1
    assert (f.measured[:, 1] == -1).all()  # products of modules are not taken
    wide = st.Chain("plain_prelu", depth=120, seeds=4, width=8, init="uniform")
    with torch.no_grad():
        wide.weight *= 0.5
    f = st.first_failure(wide, X, ["float16", "float32"])
    assert (f.measured[0, :, 1] > 0)[[0, 2]].all()
    assert f.agreement[0, 0] == 1
    assert (f.agreement[1, [0, 2]] == 1).all()
    growing = st.first_failure(st.Chain("residual2_prelu", depth=60, seeds=20, width=8, init="uniform"), X, ["float16"])
    assert (growing.measured[0, [0, 2], 0] > 0).all()
    assert (growing.agreement[0, [0, 2]] >= 0.9).all()
    growing = st.first_failure(st.Chain("residual1_relu", depth=60, seeds=20, width=8), X, ["float16"])
    assert (growing.measured[0, 0, 0] > 0).all()
    assert (growing.agreement[0, [0, 2]] >= 0.9).all()
    with pytest.raises(ValueError, match="float64 has no reference"):
        st.forward_error(net, x, ["float64"])


class Stack(nn.Module):
    """Blocks in a row, called with a keyword or without."""

    def __init__(self, *blocks, keyword=False):
        super().__init__()
        self.blocks, self.keyword = nn.ModuleList(blocks), keyword

    def forward(self, x):
        for block in self.blocks:
            x = block(input=x) if self.keyword else block(x)
        return x


def test_modules_that_take_keywords_or_change_their_states():
    torch.manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64)
    given = x.clone()
    linear = [nn.Linear(5, 5).double() for _ in range(3)]
    pairs = [  # each with one of the same states that changes nothing in place and takes no keyword
        (Stack(*linear, keyword=True), Stack(*linear)),
        *(
            (
                Stack(*(nn.Sequential(nn.ReLU(inplace=True), one) for one in linear), keyword=keyword),
                Stack(*(nn.Sequential(nn.ReLU(), one) for one in linear)),
            )
            for keyword in (False, True)
        ),
    ]
    for net, plain in pairs:
        failures, expected = (st.first_failure(one, x, ["float16", "float32"]) for one in (net, plain))
        assert torch.equal(failures.measured, expected.measured)
        assert torch.equal(failures.predicted, expected.predicted)
        found, expected = (st.forward_error(one, x, ["float16"]) for one in (net, plain))
        assert torch.equal(found.log_errors["float16"], expected.log_errors["float16"])
        found, expected = (st.propagation(one, x) for one in (net, plain))
        assert torch.equal(found.log_norms, expected.log_norms)
        assert torch.equal(found.log_updates, expected.log_updates)
        assert torch.equal(x, given)


def test_gradients_of_in_place_layers_are_measured_where_they_fail():
    # Every layer halves the gradient 2^-20 of the mean: the k-th from the output gets 2^(-20 - k).
    net = Stack(*(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(1, 1, bias=False)) for _ in range(8)))
    with torch.no_grad():
        for layer in net.blocks:
            layer[1].weight.fill_(0.5)
    failures = st.first_failure(net, torch.full((1, 1), 1024.0), ["float16"], loss=lambda y: y.sum() / 2**10)
    assert failures.measured[0, 2, 1].tolist() == failures.predicted[0, 2, 1].tolist() == [5]  # 2^-15 < 2^-14


def test_gradients_of_layers_of_changing_widths_fail_where_predicted():
    # The root mean square of a gradient is over the entries of the state before the layer.
    torch.manual_seed(0)
    widths = [1, 256, 1, 256, 1, 256]
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)))
    x, found = torch.ones(1, 1), []
    for power in range(-4, 20, 2):
        f = st.first_failure(net, x, ["float16"], loss=lambda y, power=power: y.sum() / 2.0**power)
        assert f.measured[0, 2, 1].tolist() == f.predicted[0, 2, 1].tolist(), power
        found.append(int(f.measured[0, 2, 1]))
    assert len(set(found)) > 3, found


def test_a_loss_scale_where_the_read_out_alone_is_trained():
    chain = st.Chain("plain_prelu", depth=5, seeds=2)
    for kind, value in chain.named_parameters():
        value.requires_grad_(kind.startswith("readout"))
    gradients = st.gradient_norms(chain, POINTS, _mean)
    states = torch.cat([gradients["input"], gradients.output[None]]) - math.log(len(POINTS)) / 2
    every = torch.cat([states, torch.stack(list(gradients.named.values()))])
    assert (every.amax(dim=0) > states.amax(dim=0)).any()
    found = st.first_failure(chain, POINTS, ["float32"])
    limits = torch.finfo(torch.float32)
    least, largest = math.log(limits.tiny) - every.amin(dim=0), math.log(limits.max) - every.amax(dim=0)
    expected = torch.stack([least, largest], dim=-1)[None] / math.log(2)
    torch.testing.assert_close(found.loss_scales, expected, rtol=1e-12, atol=0)
    assert found.loss_scale("float32") is not None


def test_a_loss_scale_without_gradients_or_with_the_least_there_are():
    chain = st.Chain("residual2_relu", depth=5, seeds=2)
    assert st.first_failure(chain, POINTS, ["float16"], loss=lambda y: 0 * y.sum(dim=1)).loss_scale("float16") == 1
    small = st.first_failure(chain, POINTS[:1], ["float64"], loss=lambda y: y.sum(dim=1) * 2.0**-1070)
    low, high = small.loss_scales[0].unbind(-1)
    assert high.min() > 2000
    assert math.log2(small.loss_scale("float64")) >= low.max()


@pytest.mark.parametrize("order", [1e200, 1e-160])
def test_a_reference_that_leaves_the_range_is_refused(order):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)).double()
    chain = st.Chain("residual2_prelu", depth=2, width=2, seeds=2)
    with torch.no_grad():
        for layer in net:
            layer.weight.fill_(order)
        net[0].bias.zero_()
        chain.outer_weight.fill_(order)
        chain.weight.fill_(order)
    x = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"state after layer 1 .* (overflows torch.float64|it underflows)"):
        st.forward_error(net, x)
    if order > 1:  # the bypass lets no state of the chain underflow
        with pytest.raises(ValueError, match=r"state after layer step 1 .* overflows torch.float64"):
            st.forward_error(chain, x)


@pytest.mark.parametrize("call", [st.first_failure, st.forward_error])
def test_networks_that_draw_random_numbers_are_refused(call):
    x = torch.ones(4, 3)
    noisy = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.Linear(3, 3))
    attention = nn.Sequential(*(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1) for _ in range(2)))
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"Sequential draws random numbers .*; call eval\(\) first"):
        call(noisy, x, ["float16"])
    with pytest.raises(ValueError, match="draws random numbers"):
        call(attention, torch.ones(3, 2, 4), ["bfloat16"])
    assert torch.equal(torch.get_rng_state(), state)
    call(noisy.eval(), x, ["float16"])
    call(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.BatchNorm1d(3)), torch.eye(3), ["float16"])


@pytest.mark.parametrize("call", [st.first_failure, st.forward_error])
def test_complex_parameters_are_refused(call):
    net = nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64), nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"the parameter net.0.weight is torch.complex64: expected real"):
        call(Real(net), torch.ones(3, 2), ["float16"])


class Real(nn.Module):
    """The modules of a network, each on the real part of what comes before."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        for part in self.net:
            x = part(x.to(part.weight.dtype)).real
        return x


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def forward(self, x):
        return self.layers(x), x


def test_an_output_without_a_mean_needs_a_loss():
    with pytest.raises(TypeError, match="the network returns a tuple, which has no mean: give loss="):
        st.first_failure(Pair(), torch.ones(2, 3))
    assert st.first_failure(Pair(), torch.ones(2, 3), ["float32"], loss=lambda y: y[0].mean()).depth == 2


def test_what_is_not_compared_is_no_agreement():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    f = st.first_failure(net, torch.ones(2, 3), ["float16", "float64"])
    for predicted in (False, True):
        assert f.first(predicted)[:, 1].tolist() == [[-1], [-1]]
        assert f.first(predicted)[:, [0, 2]].tolist() == [[[0], [0]]] * 2
    assert f.agreement.tolist() == [[1, -1, 1]] * 2


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    chain = st.Chain("plain_prelu", depth=5, seeds=2)
    st.first_failure(chain, POINTS, ["float16"])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    st.first_failure(chain, POINTS, ["float16"])
    assert "first failures, 5 layers" in capsys.readouterr().err
    st.first_failure(chain, POINTS, ["float16"], progress=False)
    assert capsys.readouterr() == ("", "")


def test_datasets_and_words():
    chain = st.Chain("plain_prelu", depth=60, seeds=5)
    f, e = st.first_failure(chain, POINTS), st.forward_error(chain, POINTS)
    data = f.to_dataset()
    assert data.measured.sel(dtype="float16", quantity="gradients", kind="underflow", seed=3).item() == (
        f.measured[0, 2, 1, 3].item()
    )
    assert "float16 gradients fail for 100 %" in repr(f)
    assert e.to_dataset().log_bounds.sel(dtype="float32", depth=7, seed=2).item() == (
        e.log_bounds["float32"][7, 2].item()
    )


def test_a_device_without_float64_is_refused(monkeypatch):
    # As if the CPU were one.
    monkeypatch.setattr("stability.foundation.checks.WITHOUT_FLOAT64", {"cpu"})
    chain, net = st.Chain("plain_prelu", depth=3), nn.Linear(2, 2)
    calls = [
        lambda: st.gradient_norms(chain, POINTS, _mean),
        lambda: st.gradient_norms(net, torch.ones(2, 2), lambda y: y.sum()),
        lambda: st.propagation(chain, POINTS),
        lambda: st.first_failure(chain, POINTS),
        lambda: st.forward_error(chain, POINTS),
        lambda: st.watch(net),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"the device cpu has no float64.*net.to"):
            call()


def test_names_of_formats_and_repeated_layers():
    chain = st.Chain("residual2_prelu", depth=5, seeds=3)
    f, e = st.first_failure(chain, POINTS, [torch.float16]), st.forward_error(chain, POINTS, torch.float16)
    assert f.loss_scale(torch.float16) == f.loss_scale("float16") is not None
    assert torch.equal(e.digits(torch.float16), e.digits("float16"))
    for wrong in (lambda: f.loss_scale("float32"), lambda: e.digits("float32"), lambda: e.digits(3)):
        with pytest.raises(ValueError, match=r"unknown format .*known are 'float16'"):
            wrong()
    with pytest.raises(TypeError, match="formats is None: expected a list"):
        st.first_failure(chain, POINTS, None)
    with pytest.raises(TypeError, match="loss is a dict: expected one function"):
        st.first_failure(chain, POINTS, ["float16"], loss={})
    block = nn.Linear(4, 4)
    f = st.first_failure(nn.Sequential(block, block, block), torch.ones(2, 4), ["float16"])
    alike = st.first_failure([block, copy.deepcopy(block), copy.deepcopy(block)], torch.ones(2, 4), ["float16"])
    assert f.depth == 3
    assert torch.equal(f.measured, alike.measured)


@pytest.mark.parametrize("call", [st.first_failure, st.forward_error])
def test_bad_formats_are_refused(call):
    chain = st.Chain("plain_prelu", depth=3)
    with pytest.raises(ValueError, match=r"unknown floating-point format 'float8'.*'float16'"):
        call(chain, POINTS, ["float8"])
    with pytest.raises(ValueError, match="unknown floating-point format 'int32'"):
        call(chain, POINTS, [torch.int32])
    with pytest.raises(ValueError, match="formats is empty"):
        call(chain, POINTS, [])
    with pytest.raises(ValueError, match="repeats a format"):
        call(chain, POINTS, ["float16", torch.float16])
    with pytest.raises(ValueError, match="leave out layers"):
        call(chain, POINTS, ["float16"], layers="steps")


def _stack(seed=0, width=4, depth=5):
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)))


def test_a_network_is_held_against_another_layer_by_layer():
    net, x = _stack().double(), torch.randn(3, 4, dtype=torch.float64)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[2][0].weight.mul_(1 + 1e-6)
    found = st.forward_error(net, x, reference=other)
    states, twins = [x], [x]
    for one, twin in zip(net, other, strict=True):
        states.append(one(states[-1]))
        twins.append(twin(twins[-1]))
    expected = [((a - b).norm() / b.norm()).log().item() for a, b in zip(states, twins, strict=True)]
    assert found.formats == ("float64",)
    assert found.log_errors["float64"][:3, 0].tolist() == [-math.inf] * 3
    assert found.log_errors["float64"][3:, 0].tolist() == pytest.approx(expected[3:], abs=1e-9)
    assert found.log_bounds == {}
    assert "right digits after the last: float64" in repr(found)


def test_a_reference_may_be_in_another_format_and_compiled():
    net, x = _stack(), torch.randn(3, 4)
    fine = copy.deepcopy(net).double()
    found = st.forward_error(net, x, reference=fine)
    expected = st.forward_error(net, x, ["float32"])
    torch.testing.assert_close(found.log_errors["float32"], expected.log_errors["float32"], rtol=0, atol=1e-9)
    assert (found.log_errors["float32"][1:] < -12).all()


def test_chains_are_held_against_chains_and_modules():
    chain, x = st.Chain("residual2_prelu", 6, seeds=2), torch.linspace(-3, 3, 5, dtype=torch.float64)
    twin = st.Chain.from_table(chain.table())
    found = st.forward_error(chain, x, reference=twin)
    assert (found.log_errors["float64"] == -math.inf).all()
    with torch.no_grad():
        twin.bias[1, 3] += 1e-3
    errors = st.forward_error(chain, x, reference=twin).log_errors["float64"]
    assert (errors[:, 0] == -math.inf).all()
    assert (errors[:4, 1] == -math.inf).all()
    assert (errors[4:, 1] > -20).all()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: _stack(depth=4), "the network has 5 layers, .* and the reference 4"),
        (lambda: nn.Sequential(*_stack()[:4], nn.Linear(4, 3)), r"at 4 the network has \(1, 12\) numbers and the ref"),
        (lambda: 3, "net is a int"),
    ],
)
def test_references_of_other_networks_are_refused(other, says):
    with pytest.raises((ValueError, TypeError), match=says):
        st.forward_error(_stack(), torch.randn(3, 4), reference=other())
    with pytest.raises(ValueError, match="formats and reference exclude each other"):
        st.forward_error(_stack(), torch.randn(3, 4), ["float32"], reference=_stack())


def test_digits_that_are_measured_and_not_predicted_are_a_first_failure_and_told_of():
    measured = torch.tensor([[[[0], [0], [3]]]])  # (formats, quantities, kinds, seeds)
    predicted = torch.tensor([[[[0], [0], [-1]]]])
    f = st.FirstFailures(
        measured,
        predicted,
        torch.zeros(1, 1, 2, dtype=torch.int64),
        torch.zeros(1, 1, 2, dtype=torch.float64),
        4,
        ("float16",),
        (0,),
        quantities=("activations",),
    )
    assert f.first().tolist() == [[[3]]]
    assert f.first(predicted=True).tolist() == [[[0]]]
    assert f.agreement.tolist() == [[1.0]]  # of what both know
    assert "float16 activations fail for 100 %, median after 3 layers" in repr(f)


class HandNorm(nn.Module):
    """A norm written by hand: the square leaves the range of float16, and what is divided by it is zero."""

    def forward(self, x):
        far = x - x.mean(1, keepdim=True)
        return far / far.square().mean(1, keepdim=True).sqrt() + 0.5


def test_an_overflow_inside_a_layer_counts_though_its_state_is_finite():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), HandNorm()) for _ in range(4)))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
        net[2][0].weight.mul_(1000)
    x = torch.randn(3, 6)
    assert net.half()(x.half()).isfinite().all()
    f = st.first_failure(net.float(), x, ["float16", "float32"])
    assert f.measured[0, 0, 0, 0] == 3
    assert f.measured[1, 0, 0, 0] == 0


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(4, 4)

    def forward(self, x):
        scores = self.query(x) @ x.mT
        mask = torch.full((5, 5), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)
        return x + (scores + mask + torch.full((5, 5), -torch.inf, dtype=x.dtype).triu(1)).softmax(-1) @ x


def test_masks_are_no_overflows():
    torch.manual_seed(0)
    net = nn.Sequential(*(Causal() for _ in range(3)))
    f = st.first_failure(net, torch.randn(2, 5, 4), ["float16"])
    assert f.measured[0, 0, 0, 0] == 0


def test_a_network_whose_gradient_is_cut_has_failures_of_activations_alone():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x).detach())

    f = st.first_failure(Cut(), torch.randn(3, 4), ["float16"])
    assert f.measured[0, 2, :2, 0].tolist() == [0, 0]


class _TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.logits, self.value = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        h = self.body(x)
        return {"logits": self.logits(h), "value": self.value(h)}


def test_an_output_beside_the_layers_that_overflows_is_a_failure():
    torch.manual_seed(0)
    net, x = _TwoHeads(), torch.randn(5, 4)

    def loss(output):
        return output["logits"].square().mean() + torch.sigmoid(output["value"]).mean()

    assert (st.first_failure(net, x, ["float16"], loss).measured <= 0).all()
    with torch.no_grad():
        net.value.bias.fill_(6e4)
        net.value.weight.fill_(6e4)
    assert net(x)["value"].isfinite().all()
    assert not copy.deepcopy(net).half()(x.half())["value"].isfinite().all()
    found = st.first_failure(net, x, ["float16", "bfloat16"], loss)
    assert found.measured[0, 0, 0].tolist() == [found.depth]
    assert found.measured[1, 0, 0].tolist() == [0]


def test_a_port_that_differs_in_another_output_is_told_of():
    torch.manual_seed(0)
    net, x = _TwoHeads(), torch.randn(5, 4)
    port = copy.deepcopy(net)
    with torch.no_grad():
        port.value.bias += 0.1
    found = st.forward_error(port, x, reference=net)
    expected = ((port(x)["value"] - net(x)["value"]).double().norm() / net(x)["value"].double().norm()).log().item()
    assert found.log_errors["float32"][-1, 0] == -math.inf  # the layers lead to the logits
    assert found.log_output_errors["logits"] == -math.inf
    assert found.log_output_errors["value"] == pytest.approx(expected, abs=1e-6)
    assert "of the outputs: logits inf, value " in repr(found)
    assert st.forward_error(net, x, ["bfloat16"]).log_output_errors == {}
