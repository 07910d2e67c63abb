"""Chains of growing depth against solved equations: closed forms, exact moments, and the orders of both."""

import math
import re

import numpy as np
import pytest
import torch

import stability as st

X = torch.linspace(-1.5, 2, 5, dtype=torch.float64)
PLANE = torch.stack([X, X.cos(), -X], dim=1)


def architecture(activation="tanh", power=-1.0, **fields):
    given = {"skip": 1, "maps": 2, "activation": activation, "branch_power": power} | fields
    return st.Architecture(f"flow_{activation}", **given)


def one_map(activation, power=-1.0, **fields):
    return architecture(activation, power, maps=1, **fields)


# --- ordinary equations with a closed form ---


def test_a_linear_flow_is_the_exponential():
    f = st.flow(one_map("linear"), X, (10, 100), 3, weights=lambda _: {"weight": 0.7, "bias": 0.5})
    exact = math.exp(0.7) * X + 0.5 * math.expm1(0.7) / 0.7
    assert (f.limit[..., 0] - exact).abs().max() < 1e-11
    euler = (1 + 0.07) ** 10 * X + 0.5 * ((1 + 0.07) ** 10 - 1) / 0.7
    assert (f.ends[0, ..., 0] - euler).abs().max() < 1e-14
    assert f.distances[0, 0] == pytest.approx(float((euler - exact).square().mean().sqrt()), rel=1e-10)


def test_weights_that_change_along_the_depth_are_followed():
    f = st.flow(one_map("linear"), X, (10, 100), 1, weights=lambda t: {"weight": 3 * t**2 - 2 * t, "bias": 2 * t})
    # The exponent of the whole is 0, and h(1) = x + the integral of 2 t exp(t^2 - t^3).
    t = np.linspace(0, 1, 200_001)
    moved = np.trapezoid(2 * t * np.exp(t**2 - t**3), t)
    assert (f.limit[0, :, 0] - X - moved).abs().max() < 1e-9


def test_a_sinh_grows_exponentially_along_tanh():
    # h' = b tanh(a h): d sinh(a h) / dt = a b sinh(a h).
    given = {"weight": 1.5, "bias": 0.0, "outer_weight": -0.8, "outer_bias": 0.0}
    f = st.flow(architecture(), X, (10, 100), 1, weights=lambda _: given)
    exact = torch.asinh(math.exp(-1.2) * torch.sinh(1.5 * X)) / 1.5
    assert (f.limit[0, :, 0] - exact).abs().max() < 1e-11


def test_a_relu_flow_bends_where_it_starts_to_move():
    f = st.flow(one_map("relu"), X, (10, 100), 1, weights=lambda _: {"weight": 0.9, "bias": -0.3})
    exact = torch.where(X > 1 / 3, math.exp(0.9) * X - math.expm1(0.9) / 3, X)
    assert (f.limit[0, :, 0] - exact).abs().max() < 1e-8


def test_a_rotation_in_the_plane():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]]) * 2.0
    x = torch.tensor([[1.0, 0.0], [0.5, -2.0]], dtype=torch.float64)
    f = st.flow(one_map("linear"), x, (10, 100), 1, width=2, weights=lambda _: {"weight": turn, "bias": 0.0})
    rotation = torch.tensor([[math.cos(2), -math.sin(2)], [math.sin(2), math.cos(2)]], dtype=torch.float64)
    assert (f.limit[0] - x @ rotation.T).abs().max() < 1e-11


def test_the_factor_of_the_branch_is_the_time():
    slow, fast = (st.flow(architecture("gelu", branch=b, shared=True), X, (10, 30), 2) for b in (0.5, 1.0))
    half = st.flow(architecture("gelu", branch=0.5, shared=True), slow.limit[0, :, 0], (10, 30), 1)
    assert (half.limit[0] - fast.limit[0]).abs().max() < 1e-10


# --- orders ---


@pytest.mark.parametrize(
    ("activation", "width"),
    [("tanh", 1), ("tanh", 3), *(pytest.param("gelu", width, marks=pytest.mark.slow) for width in (1, 3))],
)
def test_smooth_chains_converge_with_order_1(activation, width):
    f = st.flow(architecture(activation), (X if width == 1 else PLANE)[::2], (50, 200, 400), 5, width=width)
    order = f.order
    assert order.depths == (200, 400)
    assert order.low - 2e-3 < 1 < order.high + 2e-3  # what is left of the second order at these depths
    assert order.high - order.low < 0.05
    assert "the distance from the flow falls as L^-" in repr(f)
    assert abs(order.value - 1) < 0.01


def test_chains_of_independent_weights_have_no_such_order():
    # Chains under 1 / L of fresh weights stay near x, and not near the flow of smooth ones.
    f = st.flow(architecture(), X, (100, 400), 6)
    chain = st.Chain(architecture(), 400, 6)
    far = (chain(X).detach() - f.limit[..., 0]).square().mean(dim=1).sqrt()
    assert (far > 10 * f.distances[1]).all()


@pytest.mark.slow
def test_relu_chains_converge_with_order_1_too():
    f = st.flow(architecture("relu"), X, (100, 300, 1000, 3000), 8)
    assert f.order.low - 0.01 < 1 < f.order.high + 0.01


@pytest.mark.slow
def test_the_order_holds_to_ten_thousand_layers():
    f = st.flow(architecture(), X, seeds=8)
    assert f.depths[-1] == 10_000
    assert f.order.low - 1e-3 < 1 < f.order.high + 1e-3


# --- a chain as it is ---


def test_a_chain_is_the_euler_chain_of_its_own_flow():
    chain = st.Chain(architecture(power=-0.5), 12, seeds=3)
    f = st.flow(chain, X)
    assert f.depths == (12, 24, 48, 96, 192)
    assert torch.equal(f.ends[0, ..., 0], chain(X).detach())
    assert f.members == chain.members
    # Euler steps of piecewise straight weights: each doubling halves the distance in the end.
    assert f.distances[3] / f.distances[4] == pytest.approx(2, abs=0.15)


def test_a_refined_chain_has_the_parameters_between():
    chain = st.Chain(one_map("linear", power=0.0), 2, seeds=1)
    w, b = chain.weight.detach()[0].tolist(), chain.bias.detach()[0].tolist()
    f = st.flow(chain, X, (2, 4))
    h = X
    for weight, bias in zip(
        np.interp([0, 0.5, 1, 1.5], [0, 1], w), np.interp([0, 0.5, 1, 1.5], [0, 1], b), strict=True
    ):
        h = h + (weight * h + bias) / 2
    assert (f.ends[1, 0, :, 0] - h).abs().max() < 1e-14


# --- stochastic equations ---

NO_BIAS = st.Init("no bias", "", bias=st.Distribution("constant", 0.0), outer_bias=st.Distribution("constant", 0.0))
ONE = torch.tensor([1.0], dtype=torch.float64)


def test_a_linear_chain_tends_to_geometric_brownian_motion():
    strength = 0.5  # variance of the branch over h^2: branch^2 / 3
    brownian = one_map("linear", -0.5, branch=math.sqrt(3 * strength))
    count = 2500
    f = st.flow(brownian, ONE, (4, 16, 32), count, init=NO_BIAS)
    _, limit = f.statistics
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(levels))
    exact = torch.exp(-strength / 2 + math.sqrt(strength) * normal)  # log h is normal
    error = math.sqrt(math.expm1(strength) / count)
    assert abs(limit[0, 0] - 1) < 4 * error
    assert abs(limit[0, 1] - math.exp(strength)) < 4 * math.sqrt(
        (math.exp(6 * strength) - math.exp(2 * strength)) / 1e4
    )
    density = torch.exp(-(normal**2) / 2) / math.sqrt(2 * math.pi * strength) / exact
    spread = np.sqrt(levels * (1 - levels) / count) / density.numpy()
    assert (abs(limit[0, 2:] - exact).numpy() < 4 * spread).all()
    # Chains have the mean square (1 + strength / L)^L, to the noise that the squared moves have.
    each = f.moves[..., 0, 0]
    for place, depth in enumerate(f.depths):
        z = (1 + each[place].mean() - (1 + strength / depth) ** depth) / (each[place].std() / math.sqrt(count))
        assert abs(z) < 4
    assert f.differences.half.shape == f.differences.value.shape == (3, 1, 7)
    assert f.steps == 16 * 32


@pytest.mark.slow
def test_the_weak_order_is_1():
    f = st.flow(one_map("linear", -0.5, branch=math.sqrt(1.5)), ONE, (4, 8, 16, 32), 40_000, init=NO_BIAS, grid=1024)
    assert f.order.low < 1 < f.order.high
    assert f.order.high - f.order.low < 1
    exact = [(1 + 0.5 / depth) ** depth - math.exp(0.5) for depth in f.depths]
    found = f._squares_by_group()
    half = 4 * found.std(axis=0, ddof=1) / math.sqrt(len(found))
    assert (abs(found.mean(axis=0) - exact) < half).all()


@pytest.mark.parametrize("width", [1, 2])
def test_deep_chains_have_the_moments_and_quantiles_of_their_limit(width):
    x = X[[0, -1]] if width == 1 else PLANE[[0, -1], :2]
    f = st.flow(architecture("relu", -0.5, branch=3.0), x, (50, 100), 1000, width=width, grid=400, level=0.999)
    inside = f.differences.value.abs() <= f.differences.half
    assert inside.double().mean() > 0.95
    # And not those of a branch half as strong.
    other = st.flow(architecture("relu", -0.5, branch=1.5), x, (50, 100), 1000, width=width, grid=400)
    assert (f.statistics[0][:, :, 1] > other.statistics[1][:, 1]).all()
    assert "statistics are within" in repr(f) or "falls as" in repr(f)


def test_points_move_together():
    # With 0 as a fixed point, h(2 x) = 2 h(x) on every path without biases.
    f = st.flow(architecture("relu", -0.5), torch.tensor([1.0, 2.0], dtype=torch.float64), (5, 10), 50, init=NO_BIAS)
    assert (f.limit[:, 1] - 2 * f.limit[:, 0]).abs().max() < 1e-12
    assert (f.ends[:, :, 1] - 2 * f.ends[:, :, 0]).abs().max() < 1e-12


# --- results ---


def test_a_flow_does_not_depend_on_its_batch():
    whole, part = st.flow(architecture(), X, (10, 20), 3), st.flow(architecture(), X, (10, 20), [2])
    assert torch.equal(whole.limit[2], part.limit[0])
    assert torch.equal(whole.ends[:, 2], part.ends[:, 0])
    one, two = (st.flow(architecture("tanh", -0.5), X, (5, 10), 60) for _ in range(2))
    assert torch.equal(one.limit, two.limit)


def test_datasets_hold_what_was_compared():
    f = st.flow(architecture(), PLANE, (5, 10), 3, width=3)
    data = f.to_dataset()
    assert dict(data.sizes) == {"depth": 2, "seed": 3, "x": 5, "index": 3}
    assert data.attrs["order"][0] == f.order.value
    g = st.flow(architecture("tanh", -0.5), X, (5, 10), 60).to_dataset()
    assert g.differences.dims == ("depth", "x", "statistic")
    assert g.statistic.values.tolist()[:2] == ["mean", "mean square"]


def test_what_the_other_kind_has_is_refused():
    ordinary, stochastic = st.flow(architecture(), X, (5, 10), 3), st.flow(architecture("tanh", -0.5), X, (5, 10), 60)
    with pytest.raises(ValueError, match="paired with those of chains: see distances"):
        ordinary.statistics  # noqa: B018
    with pytest.raises(ValueError, match="not paired: see differences"):
        stochastic.distances  # noqa: B018


def test_a_distance_as_small_as_the_solvers_error_has_no_order():
    # Euler steps of a constant branch are exact.
    f = st.flow(one_map("linear"), X, (10, 20), 3, weights=lambda _: {"weight": 0.0, "bias": 0.3})
    assert f.order is None
    assert "as small as the solver's error" in repr(f)


def test_one_seed_has_distances_and_no_order():
    f = st.flow(one_map("linear"), X, (10, 20), 1, weights=lambda _: {"weight": 0.7, "bias": 0.5})
    assert f.order is None
    first, last = f.distances[:, 0].tolist()
    assert f"is {first:.2g} at depth 10 and {last:.2g} at depth 20 in one seed" in repr(f)
    # And of two of which one has no distance.
    weights = {"weight": np.array([0.0, 0.7]), "bias": 0.5}
    f = st.flow(one_map("linear"), X, (10, 20), 2, weights=lambda _: weights)
    assert f.order is None
    assert f"is {first:.2g} at depth 10 and {last:.2g} at depth 20 in one seed" in repr(f)


def test_seeds_that_are_copies_count_once():
    def given(weight):
        return lambda _: {"weight": weight, "bias": 0.5}

    one, copies = (st.flow(one_map("linear"), X, (10, 20), seeds, weights=given(0.7)) for seeds in (1, 4))
    assert copies.order is None
    assert repr(copies).endswith("in one seed (the others: 3 copies), and an order takes two)")
    assert "copies" not in repr(one)
    # Two members and a copy have the interval of the two.
    pair = st.flow(one_map("linear"), X, (10, 20), 2, weights=given([0.7, -0.4]))
    with_copy = st.flow(one_map("linear"), X, (10, 20), 3, weights=given([0.7, -0.4, 0.7]))
    assert with_copy.order == pair.order
    assert pair.order.high > pair.order.value


def test_weights_that_are_no_numbers_are_refused_by_name():
    def run(weights):
        return st.flow(one_map("tanh"), X, (10, 20), 2, weights=weights)

    with pytest.raises(TypeError, match=r"weights is a dict: expected a function of t, such as lambda t: {'weight'"):
        run({"weight": 1.0, "bias": 0.0})
    for wrong in ("steep", 1j, True, None):
        with pytest.raises(TypeError, match=r"weights\(0\)\['weight'\] is .*: expected real numbers"):
            run(lambda _, wrong=wrong: {"weight": wrong, "bias": 0.0})
    trained = torch.tensor([0.5, 0.7], requires_grad=True)
    plain = run(lambda _: {"weight": trained.detach().double(), "bias": 0.0})
    assert torch.equal(run(lambda _: {"weight": trained, "bias": 0.0}).ends, plain.ends)


def test_weights_that_are_no_function_of_t_are_refused():
    draw = np.random.default_rng(0)
    held = np.zeros(2)

    def in_place(_):
        held[:] = draw.standard_normal(2)
        return {"weight": held, "bias": 0.0}

    for weights in (lambda _: {"weight": draw.standard_normal(), "bias": 0.0}, in_place):
        with pytest.raises(ValueError, match=r"weights\(0\)\['weight'\] is another number when it is asked for again"):
            st.flow(one_map("tanh"), X, (10, 20), 2, weights=weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.flow("plain_relu", X), "skip is 1 and nothing stands behind the addition"),
        (lambda: st.flow("residual2_relu", X), "branch_power 0: a limit is known for -1"),
        (lambda: st.flow(architecture(order="original"), X), "skip is 1 and nothing"),
        (lambda: st.flow(architecture(power=-0.3), X), "branch_power -0.3"),
        (lambda: st.flow(architecture(), X, (10,)), "at least two"),
        (lambda: st.flow(architecture(), X, (10, 10)), "each larger"),
        (lambda: st.flow(architecture(), X, (10, 20), init="scaled"), "init 'scaled' depends on the depth"),
        (lambda: st.flow(architecture("relu"), X, (10, 20), init="knots"), "init 'knots' depends on the depth"),
        (lambda: st.flow(architecture(), PLANE, (10, 20)), "width 1 takes"),
        (lambda: st.flow(architecture(norm="rms", order="full_pre_activation"), X), "the width is 1"),
        (lambda: st.flow(architecture(), X, grid=100), "grid is of a stochastic equation"),
        (lambda: st.flow(architecture(), X, level=1.0), "level is 1.0"),
        (
            lambda: st.flow(architecture(), X, weights=lambda _: {"weight": 1.0}),
            "expected a dictionary of weight, bias",
        ),
        (
            lambda: st.flow(one_map("tanh"), X, weights=lambda _: {"weight": [1.0, 2.0], "bias": 0.0}, seeds=3),
            "broadcasts",
        ),
        (lambda: st.flow(architecture(power=-0.5), X, weights=lambda _: {}), "leave weights= out"),
        (lambda: st.flow(architecture(power=-0.5), X, seeds=10), "at least 40 samples"),
        (lambda: st.flow(architecture(power=-0.5), X, (10, 20), grid=5), "grid is 5"),
        (lambda: st.flow(one_map("relu", -0.5), X), "'relu' stands behind its last map"),
        (lambda: st.flow(architecture("tanh", -0.5, shared=True), X), "all steps share their parameters"),
        (lambda: st.flow(st.Chain(architecture(), 4), X, seeds=3), "seeds is 3: a chain has its own"),
        (lambda: st.flow(st.Chain("plain_prelu", 4), X), "skip is 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_solution_that_leaves_the_range_is_refused():
    with pytest.raises(ValueError, match=r"does not reach t = 1|leave the range"):
        st.flow(one_map("linear", branch=100), 1e300 * X, (10, 20), 1, weights=lambda _: {"weight": 1.0, "bias": 0.0})


def test_a_module_is_refused_with_what_to_do_instead():
    with pytest.raises(TypeError, match=r"net is a Linear: a flow is of a chain .* twice as many blocks"):
        st.flow(torch.nn.Linear(2, 2), torch.zeros(3))
