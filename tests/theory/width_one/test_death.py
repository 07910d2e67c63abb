"""The death of plain ReLU chains: closed forms against exact death of drawn chains."""

import math

import numpy as np
import pytest
import torch

import stability as st

theory = st.theory


def tables(init, depth, seeds, root=0):
    return st.Chain("plain_relu", depth, seeds=seeds, init=init, root=root).table()[:, :depth]


def alive_on(table, low, high):
    """Whether a chain is no constant on an interval, after each step: its image is followed end by end."""
    ends = np.tile([[low], [high]], len(table)).astype(float)
    alive = []
    for weight, bias in table[:, :, 1:3].transpose(1, 2, 0):
        ends = np.sort(np.maximum(weight * ends + bias, 0), axis=0)
        alive.append(ends[1] > ends[0])
    return np.array(alive)


def z_of(share, probability, count):
    return (share - probability) / math.sqrt(probability * (1 - probability) / count)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pytorch", "uniform", "he", "orthogonal", "knots"])
@pytest.mark.parametrize("x", [1.0, -0.4])
def test_dead_at_a_point(init, x):
    depth, seeds = 8, 20_000
    chain = st.Chain("plain_relu", depth, seeds=seeds, init=init)
    s = st.spectrum(chain, torch.tensor([x], dtype=torch.float64), check=False, distances=False, progress=False)
    shares = (s.signs[:, :, 0] == 0).double().mean(1).numpy()
    form = theory.born_dead(x, init)
    for depth, share in enumerate(shares, 1):
        assert abs(z_of(share, form.value(depth=depth), seeds)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("init", ["uniform", "he", "orthogonal"])
@pytest.mark.parametrize("interval", [(-1, 2), (0, 2), (1, 2), (-3, -1)])
def test_dead_on_an_interval_without_biases(init, interval):
    seeds = 20_000
    alive = alive_on(tables(init, 8, seeds), *interval)
    form = theory.born_dead(interval, init)
    for depth, share in enumerate(1 - alive.mean(axis=1), 1):
        expected = form.value(depth=depth)
        assert share == 0 if expected == 0 else abs(z_of(share, expected, seeds)) < 4


def test_lu_et_al_2019_and_the_state_at_the_kink():
    assert theory.born_dead((-1, 1), "he").value(depth=[1, 2, 5]).tolist() == [0, 0.5, 1 - 2**-4]
    assert theory.born_dead(0.0, "he").value(depth=3) == 1
    assert theory.born_dead(0.0).value(depth=3) == 1 - 2**-3


def test_what_is_followed_end_by_end_is_what_the_derivatives_say():
    chain = st.Chain("plain_relu", 6, seeds=2000)
    alive = alive_on(chain.table()[:, :6], -3, 3)
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    signs = st.spectrum(chain, x, check=False, distances=False, progress=False).signs.numpy()
    seen = (signs != 0).any(axis=2)
    assert not (seen & ~alive).any()
    assert (seen == alive).mean() > 0.99  # but for what is alive between two points alone


BOTH_NORMAL = st.Init("both normal", "", weight=st.Distribution("normal", 0.8), bias=st.Distribution("normal", 0.5))
WEAK = st.Init("weak", "", weight=st.Distribution("uniform", 0.3), bias=st.Distribution("uniform", 0.7))


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pytorch", "he", BOTH_NORMAL, WEAK], ids=["pytorch", "he", "normal", "weak"])
@pytest.mark.parametrize("interval", [(-1, 1), (-0.2, 0.5), (0.3, 4), (-9, -2), (-0.1, 6), (2, 2.5)])
def test_one_step_on_an_interval(init, interval):
    seeds, (low, high) = 20_000, interval
    share = 1 - alive_on(tables(init, 1, seeds), low, high).mean()
    expected = theory.born_dead_step(init).value(middle=(low + high) / 2, radius=(high - low) / 2)
    assert share == expected if expected in (0, 1) else abs(z_of(share, expected, seeds)) < 4


@pytest.mark.parametrize("init", ["pytorch", BOTH_NORMAL, WEAK], ids=["pytorch", "normal", "weak"])
def test_one_step_at_a_point_is_a_coin(init):
    form = theory.born_dead_step(init)
    assert form.value(middle=np.linspace(-5, 5, 101), radius=0).tolist() == pytest.approx([0.5] * 101, abs=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pytorch", BOTH_NORMAL, WEAK], ids=["pytorch", "normal", "weak"])
@pytest.mark.parametrize("interval", [(-3, 3), (0.5, 1)])
def test_depth_with_biases(init, interval):
    seeds = 20_000
    shares = 1 - alive_on(tables(init, 6, seeds), *interval).mean(axis=1)
    for depth in (1, 2, 4, 6):
        found = theory.born_dead_by_sampling(depth, interval, init)
        if depth == 1:
            assert found.standard_error == pytest.approx(0, abs=1e-15)
        assert found.value < 1 - 2.0**-depth
        error = math.hypot(found.standard_error, math.sqrt(found.value * (1 - found.value) / seeds))
        assert abs(shares[depth - 1] - found.value) < 4 * error


def test_a_small_probability_needs_no_more_samples():
    found = theory.born_dead_by_sampling(40, (-3, 3))
    alive = 1 - found.value
    assert 2**-40 < alive < 100 * 2**-40
    assert found.standard_error < 0.05 * alive


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: theory.born_dead((-1, 1)), "born_dead_by_sampling"),
        (lambda: theory.born_dead((-1, 1), "knots"), "has biases"),
        (lambda: theory.born_dead((1, -1), "he"), "interval"),
        (lambda: theory.born_dead(1.0).value(depth=0), "depth is 0"),
        (lambda: theory.born_dead_step("knots"), "kinks for biases"),
        (lambda: theory.born_dead_step().value(radius=-1), "radius is -1"),
        (lambda: theory.born_dead_by_sampling(3, (-1, 1), "he"), "closed form"),
        (lambda: theory.born_dead(1.0, st.Init("c", "", bias=st.Distribution("constant", 1.0))), "not symmetric"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
