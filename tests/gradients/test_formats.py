"""What a floating-point format loses: errors against rational arithmetic, bounds, first failures, loss scales."""

import math
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies
from torch import nn

import stability as st

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
    monkeypatch.setattr("stability.checks.WITHOUT_FLOAT64", {"cpu"})
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
    with pytest.raises(TypeError, match="dtypes is None: expected a list"):
        st.first_failure(chain, POINTS, None)
    with pytest.raises(TypeError, match="loss is a dict: expected one function"):
        st.first_failure(chain, POINTS, ["float16"], loss={})
    block = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"layer 0 \(Linear\) is called 3 times"):
        st.first_failure(nn.Sequential(block, block, block), torch.ones(2, 4), ["float16"])


@pytest.mark.parametrize("call", [st.first_failure, st.forward_error])
def test_bad_formats_are_refused(call):
    chain = st.Chain("plain_prelu", depth=3)
    with pytest.raises(ValueError, match=r"unknown floating-point format 'float8'.*'float16'"):
        call(chain, POINTS, ["float8"])
    with pytest.raises(ValueError, match="unknown floating-point format 'int32'"):
        call(chain, POINTS, [torch.int32])
    with pytest.raises(ValueError, match="dtypes is empty"):
        call(chain, POINTS, [])
    with pytest.raises(ValueError, match="repeats a format"):
        call(chain, POINTS, ["float16", torch.float16])
    with pytest.raises(ValueError, match="leave out blocks"):
        call(chain, POINTS, ["float16"], blocks="steps")
