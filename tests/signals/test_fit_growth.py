"""Growth along layers and along depth: closed forms, which question is which, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import xlogy
from torch import nn

import stability as st
from stability.signals.growth_verdict import fit_series

ONE = torch.ones(1, dtype=torch.float64)
MINUS_ONE = -ONE
#: E log |g| a layer at init "uniform": weights U(-1, 1), no biases, slopes 1/4.
EXACT = {
    ("plain_prelu", 1.0): -1 - math.log(4) / 2,
    ("residual1_relu", 1.0): math.log(2) - 0.5,
    ("residual1_relu", -1.0): -0.5,
}


def mean(y):
    return y.mean(dim=1)


def log_moment(slope):
    """E log |1 + w u phi'| of a residual step with w, u ~ U(-1, 1), by quadrature: half of the time the slope."""

    def mean_log(a):
        # Over u, v ~ U(0, 1) and both signs: E_v log |1 + a u v| in closed form, t log t - t.
        def over_v(u):
            t = a * u
            return t / 2 if abs(t) < 1e-8 else (xlogy(1 + t, 1 + t) - t) / t

        value, error = quad(over_v, 0, 1, epsabs=1e-12)
        assert error < 1e-9
        return value

    return (mean_log(1) + mean_log(-1) + mean_log(slope) + mean_log(-slope)) / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sign", "members", "exact"),
    [
        ("plain_prelu", 1.0, 60_000, EXACT["plain_prelu", 1.0]),
        ("residual1_relu", 1.0, 6_000, EXACT["residual1_relu", 1.0]),
        ("residual1_relu", -1.0, 30_000, EXACT["residual1_relu", -1.0]),
        ("residual2_relu", 1.0, 12_000, log_moment(0.0)),
        ("residual2_prelu", 1.0, 12_000, log_moment(0.25)),
    ],
)
def test_rates_are_the_closed_forms(name, sign, members, exact):
    """The exponents of both signs, within 4 standard errors, at a standard error under 3e-4."""
    if name.startswith("residual2"):
        assert exact == pytest.approx({"residual2_relu": -0.03658, "residual2_prelu": -0.03833}[name], abs=1e-5)
    parts = []
    for first in range(0, members, 6000):
        chain = st.Chain(name, 300, seeds=range(first, min(first + 6000, members)), init="uniform")
        # The rate of a random walk lies in its ends alone; a few layers between them tell it from other laws.
        parts.append(st.gradient_norms(chain, sign * ONE, mean)["input"][[0, 60, 120, 180, 240, 299]])
    logs = torch.cat(parts, dim=1).flip(0)
    fit = fit_series([1, 60, 120, 180, 240, 300], logs, quantity="input", along="layer")
    assert (fit.best.shape, fit.best.spread) == ("exponential", "random walk")
    error = fit.standard_error
    assert error == pytest.approx(fit.best.by_seed.std(ddof=1) / math.sqrt(members), rel=1e-12)
    assert error < 3e-4
    assert abs(fit.rate - exact) < 4 * error, (fit.rate, exact, (fit.rate - exact) / error)


def test_along_the_layers_and_along_the_depth_are_two_questions():
    depths = (10, 30, 100, 200)
    chains = [st.Chain("plain_prelu", depth, seeds=200, init="uniform") for depth in depths]
    results = [st.gradient_norms(chain, ONE, mean) for chain in chains]
    along_layers = st.fit_growth(results[-1], quantity="relative")
    assert along_layers.best.shape == "constant"
    assert abs(along_layers.rate) < 1e-12
    for quantity in ("relative", "weight", None):
        along_depth = st.fit_growth(results, along="depth", quantity=quantity)
        low, high = along_depth.interval
        assert low < EXACT["plain_prelu", 1.0] < high
        assert along_depth.positions.tolist() == list(depths)
    # The read-out's bias has the same gradient at any depth, and the whole gradient is never smaller than that.
    whole = st.fit_growth(results, along="depth", quantity="total")
    assert np.ptp(whole.predict([10, 200]).numpy()) < 1
    assert st.fit_growth(results[::-1], along="depth").rate == st.fit_growth(results, along="depth").rate
    assert "a layer" in repr(along_depth)


def test_layers_are_counted_the_way_the_signal_travels():
    chain = st.Chain("plain_prelu", 200, seeds=100, init="uniform")
    forward = st.fit_growth(st.propagation(chain, ONE))
    backward = st.fit_growth(st.gradient_norms(chain, ONE, mean))
    # The state and the derivative of a chain without biases shrink alike, each on its way.
    assert forward.rate == pytest.approx(backward.rate, abs=0.02)
    assert forward.rate < -1.5
    by_hand = st.gradient_norms(chain, ONE, mean)["input"].flip(0)
    assert st.fit_growth(by_hand, positions=range(1, 201)).rate == pytest.approx(backward.rate, rel=1e-12)
    moves = st.fit_growth(
        st.propagation(st.Chain("residual2_prelu", 200, seeds=50, init="scaled"), ONE), "layer", "update"
    )
    assert moves.seeds == 50
    apart = st.propagation(st.Chain("plain_prelu", 25, seeds=50, width=8), torch.eye(8, dtype=torch.float64))
    assert st.fit_growth(apart, quantity="decorrelation").law("exponential", "random walk").coefficient < -0.5


def test_layers_without_the_quantity_are_left_out():
    torch.manual_seed(0)

    def one():
        net = nn.Sequential(*(nn.Linear(8, 8, bias=i % 2 == 0) for i in range(20)))
        return st.gradient_norms(net, torch.ones(2, 8), lambda y: y.sum())

    joined = st.GradientNorms.of_seeds([one() for _ in range(5)])
    assert (joined["bias"][1::2] == -math.inf).all()
    fit = st.fit_growth(joined, quantity="bias")
    assert fit.positions.tolist() == list(range(2, 21, 2))  # from the output: layer 19 has no bias
    assert fit.alive == 5
    assert fit.rate < 0


def test_updates_are_a_root_mean_square_over_points_and_only_where_the_shape_stays():
    p = st.propagation(st.Chain("residual2_prelu", depth=8, seeds=5), torch.linspace(1, 2, 7, dtype=torch.float64))
    kept = dataclasses.replace(p, same_shape=torch.arange(8) != 3)
    fit = st.fit_growth(kept, quantity="update")
    assert fit.positions.tolist() == [1, 2, 3, 5, 6, 7, 8]
    law = fit.law("constant", "independent")
    means = (2 * p.log_updates).exp().mean(dim=2).log() / 2
    assert law.intercept == pytest.approx(float(means[kept.same_shape].mean()), rel=1e-12)


def test_the_dead_are_counted():
    g = st.gradient_norms(st.Chain("plain_relu", depth=3, seeds=100), ONE, mean)
    fit = st.fit_growth(g)
    assert fit.dead == g.dead.double().mean()
    assert 0 < fit.dead < 1
    assert fit.rate is None  # three layers are too few
    everyone = st.fit_growth(st.gradient_norms(st.Chain("plain_relu", depth=100, seeds=9), ONE, mean))
    assert everyone.verdict == "no rate: all 9 members are exactly dead at layer 100"


def test_what_cannot_be_fitted_is_refused():
    g = st.gradient_norms(st.Chain("plain_prelu", 5, seeds=3), ONE, mean)
    other = st.gradient_norms(st.Chain("plain_prelu", 9, seeds=4), ONE, mean)
    with pytest.raises(ValueError, match=r'along="depth" compares networks'):
        st.fit_growth(g, along="depth")
    with pytest.raises(ValueError, match='a sequence of results is fitted along="depth"'):
        st.fit_growth([g, other])
    with pytest.raises(ValueError, match="different sets of members"):
        st.fit_growth([g, other], along="depth")
    with pytest.raises(ValueError, match="each once"):
        st.fit_growth([g, g], along="depth")
    with pytest.raises(ValueError, match=r"unknown quantity 'weigth'.*'weight'"):
        st.fit_growth(g, quantity="weigth")
    with pytest.raises(ValueError, match="unknown along 'layers'"):
        st.fit_growth(g, along="layers")
    with pytest.raises(ValueError, match="positions go with logs of your own"):
        st.fit_growth(g, positions=range(1, 6))
    with pytest.raises(TypeError, match=r"together with positions="):
        st.fit_growth(torch.zeros(5, 3))
