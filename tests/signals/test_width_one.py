"""Gradients of width-1 chains against arithmetic of hundreds of bits, automatic differentiation and their own laws."""

import math

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies

import stability as st
from stability.foundation.checks import COLUMNS
from stability.signals.kernels.easy_rows import scale_biases
from stability.signals.step_table_gradients import gradients

from . import oracle

POINTS = torch.linspace(-3, 3, 64, dtype=torch.float64)


def mean_squared_error(x):
    target = x.sin()
    return lambda y: (y - target).square().mean(dim=1)


def assert_matches_the_oracle(chain, x, member=0, tolerance=1e-10):
    g = st.gradient_norms(chain, x, mean_squared_error(x))
    sums, conditions, states = oracle.gradient(chain.table()[member], x.tolist(), x.sin().tolist())
    for kind in chain.architecture.kinds:
        column = COLUMNS.index(kind)
        for layer in range(chain.depth):
            true, condition = oracle.log(sums[layer][column]), float(conditions[layer][column])
            got = float(g[kind][layer, member])
            if true == -math.inf:
                assert got == -math.inf
            elif condition < 1e10:  # beyond it the sum has cancelled in float64 too
                assert abs(got - true) <= tolerance * condition, (kind, layer, got, true, condition)
    for layer in range(chain.depth):
        assert float(g["input"][layer, member]) == pytest.approx(oracle.log(states[layer]), rel=1e-13, abs=tolerance)
    return g


@pytest.mark.parametrize("init", ["pytorch", "uniform"])
@pytest.mark.parametrize("name", st.ARCHITECTURES)
def test_depth_2000_matches_arithmetic_of_hundreds_of_bits(name, init):
    chain = st.Chain(name, depth=2000, seeds=2, init=init)
    if name == "residual1_relu":  # its output grows to 10^167: an error of that size has a square in range up to here
        chain = chain.prefix(1000)
    x = torch.tensor([-2.5, -0.3, 0.7, 1.9], dtype=torch.float64)
    g = assert_matches_the_oracle(chain, x, member=1)
    if name == "plain_prelu":
        # Where automatic differentiation in float64 reads 0.
        chain.zero_grad()
        mean_squared_error(x)(chain(x)).sum().backward()
        assert (chain.weight.grad[:, 0] == 0).all()
        assert (g["weight"][0] < -1000 * math.log(10)).all()
        assert not g.dead.any()


@pytest.mark.parametrize("init", ["pytorch", "uniform", "he", "knots"])
@pytest.mark.parametrize("name", st.ARCHITECTURES)
def test_depth_20_matches_automatic_differentiation(name, init):
    chain = st.Chain(name, depth=20, seeds=6, init=init)
    g = st.gradient_norms(chain, POINTS, mean_squared_error(POINTS))
    output = chain(POINTS)
    loss = mean_squared_error(POINTS)(output)
    loss.sum().backward()
    assert torch.equal(g.loss, loss.detach())
    for kind, value in chain.named_parameters():
        got = g.named[kind].exp() if kind.startswith("readout") else g[kind].exp().mT
        # A sum over points that cancels errs by a rounding of its terms.
        scale = max(float(value.grad.abs().max()), float(g.output.max().exp()))
        torch.testing.assert_close(got, value.grad.abs(), rtol=1e-12, atol=1e-12 * scale)
    together = torch.stack([value.grad**2 for kind, value in chain.named_parameters() if value.ndim > 1]).sum(dim=0)
    scale = float(together.sqrt().max())
    torch.testing.assert_close(g["parameters"].exp().mT, together.sqrt(), rtol=1e-12, atol=1e-12 * scale)
    every = sum(value.grad.reshape(6, -1).square().sum(dim=1) for value in chain.parameters())
    torch.testing.assert_close(g.total.exp(), every.sqrt(), rtol=1e-12, atol=0)


def test_the_gradient_with_respect_to_states_is_that_of_automatic_differentiation():
    chain = st.Chain("residual2_prelu", depth=15, seeds=4)
    g = st.gradient_norms(chain, POINTS, mean_squared_error(POINTS))
    states = [POINTS.expand(4, -1).clone().requires_grad_()]
    for step in chain.steps:
        states.append(step(states[-1]))
    found = torch.autograd.grad(mean_squared_error(POINTS)(states[-1]).sum(), states)
    for layer in range(15):
        torch.testing.assert_close(g["input"][layer].exp(), found[layer].norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(g.output.exp(), found[-1].norm(dim=1), rtol=1e-12, atol=0)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    seed=strategies.integers(0, 2**20), depth=strategies.integers(1, 400), scale=strategies.floats(-60, 60)
)
def test_weight_times_gradient_is_the_same_in_every_layer_of_a_plain_chain_without_biases(seed, depth, scale):
    generator = np.random.default_rng(seed)
    table = np.zeros((3, depth + 1, 6))
    table[:, :-1, 1] = generator.choice([-1, 1], (3, depth)) * 10.0 ** generator.uniform(-3, 3, (3, depth))
    table[:, :-1, 1] *= 10.0 ** (scale / depth)
    table[:, :-1, 3] = 1
    table[:, :-1, 5] = generator.uniform(0.1, 1, (3, depth))
    table[:, -1] = [1, 0, 0, 0, 0, 1]
    g = st.gradient_norms(st.Chain.from_table(table, "plain_prelu"), POINTS[40:], lambda y: y.mean(dim=1))
    spread = g["relative"].amax(dim=0) - g["relative"].amin(dim=0)
    assert (g["relative"] > -math.inf).all()
    assert (spread <= 1e-11 * (1 + g["relative"].abs().amax(dim=0))).all()


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(seed=strategies.integers(0, 2**20), init=strategies.sampled_from(["pytorch", "he", "knots"]))
def test_inner_and_outer_parameters_of_a_residual_neuron_move_the_loss_alike(seed, init):
    # wb phi(wa h + ba) does not change when wa, ba are multiplied and wb divided by one positive number, so
    # wa dLoss/dwa + ba dLoss/dba = wb dLoss/dwb.
    for name in ("residual2_relu", "residual2_prelu"):
        chain = st.Chain(name, depth=50, seeds=[seed], init=init)
        table = chain.table()
        cotangents = 2 * (chain(POINTS) - POINTS.sin()).detach().numpy() / 64
        found = gradients(table, POINTS.numpy(), cotangents)
        d = np.moveaxis(np.ldexp(found.values, found.exponents), 1, -1)
        inner = table[..., 1] * d[..., 1] + table[..., 2] * d[..., 2]
        outer = table[..., 3] * d[..., 3]
        size = abs(table[..., 1] * d[..., 1]) + abs(table[..., 2] * d[..., 2]) + abs(outer)
        # The terms of the sums may be larger than the sums; they are at most what a point gives.
        assert (abs(inner - outer) <= 1e-10 * (size + abs(d).max(axis=-1))).all()


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(seed=strategies.integers(0, 2**32), reach=strategies.sampled_from([5, 100, 250, 307]))
def test_any_magnitude_matches_arithmetic_of_thousands_of_bits(seed, reach):
    generator = np.random.default_rng(seed)
    depth = int(generator.integers(1, 12))
    table = generator.choice([-1, 1], (depth, 6)) * 10.0 ** generator.uniform(-reach, reach, (depth, 6))
    table[generator.random((depth, 6)) < 0.2] = 0
    # What comes before may be of any size; the output must be within float64.
    table = np.vstack([table, [[0, 1, 0, 0, 0.5, 1], [1, 0, 0, 0, 0, 1]][int(generator.integers(0, 2))]])
    x = generator.choice([-1, 1], 3) * 10.0 ** generator.uniform(-reach / 2, reach / 2, 3)
    chain = st.Chain.from_table(table[None])
    try:
        output = chain(torch.from_numpy(x))
        hypothesis.assume(bool((output.abs() < 1e150).all()))
        g = st.gradient_norms(chain, torch.from_numpy(x), lambda y: (y - 0.25).square().mean(dim=1))
    except ValueError as error:
        assert "overflow" in str(error)  # noqa: PT017
        hypothesis.reject()
    sums, conditions, states = oracle.gradient(table, x.tolist(), [0.25] * 3, bits=8000)
    for column, kind in enumerate(COLUMNS):
        for layer in range(len(table)):
            true, condition = oracle.log(sums[layer][column]), float(conditions[layer][column])
            if condition < 1e4:
                assert float(g[kind][layer, 0]) == pytest.approx(true, abs=1e-9 * condition), (kind, layer)
    for layer in range(len(table)):
        assert float(g["input"][layer, 0]) == pytest.approx(oracle.log(states[layer]), abs=1e-9), layer


def test_what_a_common_exponent_cannot_hold_is_kept():
    # A bias of 2^-398 beside a state of 2^843, and a weight that brings a square back that has underflowed.
    table = np.zeros((1, 12, 6))
    table[0, :9] = [0, 2.0**94, 0, 1, 0, 1]
    table[0, 9] = [0, 0, 2.0**-398, 1, 0, 1]
    table[0, 10] = [0, 2.0**99, 0, 2.0**99, 0, 1]
    table[0, 11] = [1, 0, 0, 0, 0, 1]
    found = gradients(table, np.ones(1), np.ones((1, 1)))
    log_2 = math.log(2)
    outer = np.log2(abs(found.values[0, 3, 9])) + found.exponents[0, 3, 9]
    assert outer == pytest.approx(-398 + 198, abs=1e-9)
    small = np.zeros((1, 2, 6))
    small[0] = [[0, 2.0**-99, 0, 2.0**99, 0, 1], [0, 2.0**-99, 0, 2.0**-99, 0, 1]]
    found = gradients(small, np.full(1, 2.0**-290), np.full((1, 1), 2.0**-100))
    relative = found.norm_logs[2, 0, 0] / log_2
    assert relative == pytest.approx(-290 - 100 - 198 + 0.5, abs=1e-9)


@pytest.mark.parametrize("exponent", [-(2**32), 901, 2**32, 2**32 + 1])
def test_biases_far_from_the_states_are_never_in_the_safe_range(exponent):
    # Exponents grow with the depth, and ldexp takes 32 bits of them only.
    row = np.array([1.0, 1, 1, 1, 0.5, 1])
    assert not scale_biases(row, exponent)[1]
    assert scale_biases(row, 0)[1]


# Rows that use the room between the ends of the range to the full: states that shrink to 2^-300, mild rows that go on
# from there unseen, and what comes back at 2^-400.
_SHRINK, _BACK = [2.0**-74, 0, 0, 0, 0, 1], [2.0**-99, 0, 0, 0, 0, 1]
_CANCEL = [2.0**-19, 2.0**-19, 0, 2.0**-53 - 1, 0, 1]
_LAST = [0, 2.0**-99, 0, 2.0**-99, 0, 2.0**-99]


@pytest.mark.parametrize(
    ("rows", "x", "cotangents"),
    [
        ([[0, 1, -(2.0**-599), 2.0**-99, 0, 1], *[_BACK] * 4], [0.0], [1]),
        ([*[_SHRINK] * 4, *[_CANCEL] * 3, _LAST, *[_BACK] * 4], [1.0], [1]),
        ([*[_SHRINK] * 4, *[_CANCEL] * 3, _LAST, *[_BACK] * 4], [-1.0], [1]),
        ([[0, 2.0**-99, 0, 1, 0, 0]] * 12, [1.0], [1]),
        ([*[_SHRINK] * 4, *[_CANCEL] * 3, _LAST, *[_BACK] * 3], [0.0, -1.0], [1, 2.0**-199]),
        ([*[_SHRINK] * 4, [1, 2.0**99, 0, 1.3 * 2.0**-50, 0, 2.0**-50], _BACK, [2.0**-35, 0, 0, 0, 0, 1]], [-1.0], [1]),
    ],
)
def test_nothing_is_lost_at_the_ends_of_the_range(rows, x, cotangents):
    found = gradients(np.array([rows]), np.array(x), np.array([cotangents], dtype=np.float64))
    # Beside these targets the output is nothing.
    sums, _, states = oracle.gradient(rows, x, [-len(x) * c / 2 for c in cotangents], bits=4000)
    logs, norms = found.logs, found.norm_logs
    for layer, row in enumerate(rows):
        for column in range(6):
            assert logs[column, 0, layer] == pytest.approx(oracle.log(sums[layer][column]), abs=1e-9), (column, layer)
        weights = mpmath.hypot(row[1] * sums[layer][1], row[3] * sums[layer][3])
        assert norms[0, 0, layer] == pytest.approx(oracle.log(states[layer]), abs=1e-9), layer
        assert norms[1, 0, layer] == pytest.approx(oracle.log(mpmath.norm(sums[layer])), abs=1e-9), layer
        assert norms[2, 0, layer] == pytest.approx(oracle.log(weights), abs=1e-9), layer


def test_exactly_dead_members_are_told_from_those_that_underflow():
    dying = st.Chain("plain_relu", depth=100, seeds=50)
    g = st.gradient_norms(dying, POINTS, mean_squared_error(POINTS))
    constant = (st.spectrum(dying, POINTS).signs[-1] == 0).all(dim=1)
    assert torch.equal(g.dead, constant)
    assert g.dead.double().mean() > 0.9
    assert (g["input"][0, g.dead] == -math.inf).all()
    assert not g.underflows(torch.float64)[:, g.dead].all(dim=0).any()

    fading = st.gradient_norms(st.Chain("plain_prelu", depth=1000, seeds=50), POINTS, mean_squared_error(POINTS))
    assert not fading.dead.any()
    assert fading["parameters"].isfinite().all()
    assert fading.underflows(torch.float64)[0].all()
    assert not fading.underflows(torch.float64)[-1].any()


def test_a_loss_without_gradient_leaves_nobody_dead():
    chain = st.Chain("plain_prelu", depth=5, seeds=3)
    target = chain(POINTS).detach()
    g = st.gradient_norms(chain, POINTS, lambda y: (y - target).square().mean(dim=1))
    assert (g.output == -math.inf).all()
    assert not g.dead.any()


def test_members_do_not_depend_on_each_other_and_threads_change_nothing():
    chain, alone = st.Chain("residual2_relu", 60, seeds=300), st.Chain("residual2_relu", 60, seeds=[217])
    many = st.gradient_norms(chain, POINTS, mean_squared_error(POINTS))
    one = st.gradient_norms(alone, POINTS, mean_squared_error(POINTS))
    for quantity in many.log_norms:
        assert torch.equal(many[quantity][:, 217], one[quantity][:, 0])
    assert many.members[217] == one.members[0] == 217


def test_frozen_kinds_are_left_out():
    chain = st.Chain("plain_prelu", depth=4)
    chain.slope.requires_grad_(False)
    chain.readout_bias.requires_grad_(False)
    g = st.gradient_norms(chain, POINTS, mean_squared_error(POINTS))
    assert set(g.log_norms) == {"weight", "bias", "parameters", "input", "relative"}
    assert set(g.named) == {"weight", "bias", "readout_weight"}


def test_float16_chains_are_measured_by_what_they_store():
    chain = st.Chain("plain_prelu", depth=80, seeds=3, dtype=torch.float16)
    stored = st.Chain.from_table(chain.table(), "plain_prelu")
    x = torch.linspace(-2, 2, 9, dtype=torch.float16)
    half = st.gradient_norms(chain, x, lambda y: y.square().mean(dim=1))
    double = st.gradient_norms(stored, x.double(), lambda y: y.square().mean(dim=1))
    assert torch.equal(half["weight"], double["weight"])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y: (y - 1).square().mean(), "one value a seed"),
        (lambda y: (y - 1).square(), "one value a seed"),
        (lambda _: torch.zeros(2, dtype=torch.float64), "does not depend"),
        (lambda _: torch.zeros(2, dtype=torch.float64, requires_grad=True), "does not depend"),
        (lambda y: y.mean(dim=1).detach(), "does not depend"),
        (lambda y: (y * math.inf).mean(dim=1), "not finite at seed 0, 1"),
        (lambda y: (y - y.detach()).abs().sqrt().mean(dim=1), "gradient that is not finite"),
        (lambda y: y.mean(dim=1) > 0, "floating"),
        (lambda _: 1.0, "returns a float"),
        (3, "expected a function"),
    ],
)
def test_bad_losses_are_refused(loss, message):
    with pytest.raises((ValueError, TypeError), match=message):
        st.gradient_norms(st.Chain("residual2_prelu", 3, seeds=2), POINTS, loss)


def test_other_bad_input_is_refused():
    chain, loss = st.Chain("residual1_relu", 4000, seeds=2), mean_squared_error(POINTS)
    with pytest.raises(ValueError, match="output overflows float64 for 2 members"):
        st.gradient_norms(chain, POINTS, loss)
    with pytest.raises(ValueError, match="leave out layers"):
        st.gradient_norms(chain, POINTS, loss, layers="steps")
    with pytest.raises(TypeError, match=r"x\.to"):
        st.gradient_norms(chain, POINTS.float(), loss)
    with pytest.raises(ValueError, match="x has 1 values"):
        st.gradient_norms(chain, torch.tensor([1.0, math.nan], dtype=torch.float64), loss)
    with pytest.raises(TypeError, match="expected a stability"):
        st.gradient_norms(lambda x: x, POINTS, loss)
    with pytest.raises(TypeError, match=r"loss is {'mean': .*: expected a function of the network's output"):
        st.gradient_norms(st.Chain("residual1_relu", 4), POINTS, {"mean": loss})
    with torch.no_grad():
        chain.weight[0, 3] = math.inf
    with pytest.raises(ValueError, match="step table"):
        st.gradient_norms(chain, POINTS, loss)
    small = st.Chain("residual1_relu", 4)
    for value in small.parameters():
        value.requires_grad_(False)
    with pytest.raises(ValueError, match="all are frozen"):
        st.gradient_norms(small, POINTS, loss)
