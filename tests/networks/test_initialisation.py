"""Initialisations against their formulas: moments with z < 4 at fixed seeds, identities and quadrature."""

import dataclasses
import math

import mpmath
import numpy as np
import pytest
import torch

import stability as st
from stability.networks.architecture import ACTIVATIONS
from stability.networks.seeding import uniforms


def assert_moments(values, mean, variance, fourth):
    """Assert that the sample's mean and mean square are those given, within four standard errors."""
    values = values.detach().double().flatten().numpy()
    n = len(values)
    assert n >= 10_000
    assert abs(values.mean() - mean) < 4 * math.sqrt(variance / n)
    second = variance + mean**2
    assert abs((values**2).mean() - second) < 4 * math.sqrt((fourth - second**2) / n)


def assert_uniform(values, bound):
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.99 * bound
    assert_moments(values, 0, bound**2 / 3, bound**4 / 5)


def assert_normal(values, variance):
    assert_moments(values, 0, variance, 3 * variance**2)


@pytest.mark.parametrize("width", [1, 9])
def test_pytorch_is_what_linear_and_prelu_do(width):
    chain = st.Chain("residual2_prelu", 60 if width > 1 else 100, seeds=200, width=width)
    for kind in ("weight", "bias", "outer_weight", "outer_bias"):
        assert_uniform(chain.get_parameter(kind), width**-0.5)
    torch.manual_seed(0)
    linear = torch.nn.Linear(width, 20_000)  # torch's own bound, seen in its own sample
    assert linear.weight.abs().max().item() == pytest.approx(width**-0.5, rel=1e-3)
    assert chain.slope.unique().item() == torch.nn.PReLU().weight.item()


@pytest.mark.parametrize("width", [1, 6])
def test_uniform_is_on_minus_one_to_one_without_biases(width):
    chain = st.Chain("plain_prelu", 100, seeds=200, width=width, init="uniform")
    assert_uniform(chain.weight, 1)
    assert not chain.bias.any()
    assert not chain.readout_bias.any()
    assert chain.slope.unique().item() == 0.25
    assert_uniform(st.Chain("plain_prelu", 1, seeds=20_000, width=width, init="uniform").readout_weight, 1)
    chain = st.Chain("residual2_prelu", 100, seeds=200, width=width, init="uniform")
    assert_uniform(chain.outer_weight, 1)
    assert not chain.outer_bias.any()


@pytest.mark.parametrize(("name", "square"), [("residual2_relu", 2.0), ("residual2_prelu", 2 / (1 + 1 / 16))])
def test_he_has_the_gain_of_the_slope(name, square):
    chain = st.Chain(name, 40, seeds=100, width=5, init="he")
    assert_normal(chain.weight, square / 5)
    assert_normal(chain.outer_weight, 1 / 5)
    assert not chain.bias.any()
    assert not chain.outer_bias.any()
    assert_normal(st.Chain("plain_relu", 1, seeds=1000, width=5, init="he").readout_weight, 1 / 5)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gains_agree_with_quadrature(name):
    phi = {
        "relu": lambda z: max(z, 0),
        "prelu": lambda z: z if z > 0 else z / 3,
        "tanh": mpmath.tanh,
        "gelu": lambda z: z * mpmath.ncdf(z),
        "linear": lambda z: z,
    }[name]
    moment = mpmath.quad(lambda z: phi(z) ** 2 * mpmath.npdf(z), [-mpmath.inf, -3, 0, 3, mpmath.inf])
    assert ACTIVATIONS[name].gain(1 / 3) == pytest.approx(float(moment**-0.5), rel=1e-13)


def test_orthogonal_is_haar_times_the_gain():
    chain = st.Chain("residual2_relu", 20, seeds=200, width=4, init="orthogonal")
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(chain.weight @ chain.weight.mT, (2 * eye).expand(200, 20, 4, 4), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        chain.outer_weight.mT @ chain.outer_weight, eye.expand(200, 20, 4, 4), rtol=0, atol=1e-14
    )
    readout = st.Chain("plain_relu", 1, seeds=9, width=4, init="orthogonal").readout_weight
    torch.testing.assert_close(readout @ readout.mT, eye.expand(9, 4, 4), rtol=0, atol=1e-14)
    # For Haar matrices E tr Q = 0 and E (tr Q)^2 = 1; without the sign correction of QR the first fails.
    trace = chain.outer_weight.detach().diagonal(dim1=-2, dim2=-1).sum(-1).flatten()
    assert abs(trace.mean()) < 4 * len(trace) ** -0.5
    assert abs((trace**2).mean() - 1) < 4 * float((trace**2).std()) * len(trace) ** -0.5


IDENTITIES = {
    "residual2_relu": st.ARCHITECTURES["residual2_relu"],
    "residual2_prelu": st.ARCHITECTURES["residual2_prelu"],
    "plain_prelu": st.ARCHITECTURES["plain_prelu"],
    "residual1_prelu": st.Architecture("residual1_prelu", skip=1, activation="prelu"),
    "residual1_gelu": st.Architecture("residual1_gelu", skip=1, activation="gelu"),
    "residual1_tanh": st.Architecture("residual1_tanh", skip=1, activation="tanh"),
    "plain2_prelu": st.Architecture("plain2_prelu", skip=0, maps=2, activation="prelu"),
}


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", list(IDENTITIES))
def test_identity_is_exact_and_has_a_gradient_to_leave_it(name, width):
    chain = st.Chain(IDENTITIES[name], 30, width=width, init="identity")
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    x = x if width == 1 else x[:, None] * torch.arange(1, width + 1)
    output = chain(x)
    assert torch.equal(output[0], x)
    (output - x.sin()).square().sum().backward()
    for layer in range(30):
        assert any(value.grad[0, layer].any() for kind, value in chain.named_parameters() if "readout" not in kind)


@pytest.mark.parametrize(
    ("architecture", "init", "width", "reason"),
    [
        ("plain_relu", "identity", 1, r"relu\(w h \+ b\) is h for all h for no w and b"),
        ("residual1_relu", "identity", 1, "every gradient is 0"),
        (st.Architecture("half", skip=0.5, maps=2), "identity", 1, "bypass of weight 0.5"),
        ("plain_prelu", "scaled", 1, "divides the outer map"),
        ("residual1_relu", "scaled", 1, "divides the outer map"),
        ("residual2_relu", "knots", 2, "has width 2"),
        (st.Architecture("smooth", activation="tanh"), "knots", 1, "activation 'tanh'"),
        (st.Architecture("free", skip=None, maps=2), "pytorch", 1, "use Chain.from_table"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_reason(architecture, init, width, reason):
    with pytest.raises(ValueError, match=reason):
        st.Chain(architecture, 3, width=width, init=init)


@pytest.mark.parametrize("width", [1, 3])
def test_scaled_divides_the_outer_map_by_the_root_of_the_depth(width):
    scaled, plain = (st.Chain("residual2_prelu", 50, seeds=2, width=width, init=i) for i in ("scaled", "pytorch"))
    for kind, value in scaled.named_parameters():
        factor = 50**-0.5 if kind.startswith("outer") else 1
        torch.testing.assert_close(value, plain.get_parameter(kind) * factor, rtol=1e-15, atol=0)


def test_knots_spread_the_kinks_evenly():
    chain = st.Chain("residual2_prelu", 12, seeds=20, init="knots")
    kinks = (-chain.bias / chain.weight).sort(dim=1).values
    expected = -3 + 6 * (torch.arange(12, dtype=torch.float64) + 0.5) / 12
    torch.testing.assert_close(kinks, expected.expand(20, 12), rtol=0, atol=1e-14)
    assert chain.weight.abs().eq(1).all()
    assert len({tuple(row) for row in (-chain.bias / chain.weight).tolist()}) == 20, "each member has its own order"
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    assert torch.equal(chain(x), x.expand(20, 5))
    plain = st.Chain("plain_prelu", 5, init="knots")
    assert plain.readout_weight.item() == 1
    assert plain.readout_bias.item() == 0
    narrow = dataclasses.replace(st.INITS["knots"], name="narrow", kinks=(0.0, 1.0))
    chain = st.Chain("plain_relu", 2, init=narrow)
    torch.testing.assert_close((-chain.bias / chain.weight).sort(dim=1).values.tolist(), [[0.25, 0.75]])
    with pytest.raises(ValueError, match="empty or reversed"):
        dataclasses.replace(st.INITS["knots"], kinks=(1.0, 0.0))


def test_uniform_numbers_are_uniform_and_never_0_or_1():
    u = uniforms(0, "any", range(300), "steps", 20, 5).ravel()
    assert 0 < u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    chi_square = ((counts - len(u) / 50) ** 2 / (len(u) / 50)).sum()
    assert abs(chi_square - 49) < 4 * math.sqrt(2 * 49)
    lag = np.corrcoef(u[:-1], u[1:])[0, 1]
    assert abs(lag) < 4 / math.sqrt(len(u))


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_derivatives_at_zero_are_those_of_automatic_differentiation(name):
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    ACTIVATIONS[name].function(zero, None).backward()
    assert zero.grad.item() == ACTIVATIONS[name].derivative_at_zero


def test_the_gain_knows_the_distribution_of_the_slopes():
    # E phi(z)^2 = (1 + E a^2) / 2, and E a^2 = 3 for a ~ U(-3, 3).
    wide = dataclasses.replace(st.INITS["he"], name="wide", slope=st.Distribution("uniform", 3.0))
    assert_normal(st.Chain("plain_prelu", 100, seeds=200, init=wide).weight, 2 / (1 + 3))


@pytest.mark.parametrize("family", ["identity", "orthogonal"])
@pytest.mark.parametrize("kind", ["bias", "outer_bias", "slope", "readout_bias"])
def test_families_of_matrices_are_for_weights(kind, family):
    with pytest.raises(ValueError, match=f"draws {kind} from '{family}', a family of square matrices"):
        dataclasses.replace(st.INITS["pytorch"], **{kind: st.Distribution(family)})


def test_distributions_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="unknown family of distributions 'gaussian'"):
        st.Distribution("gaussian")
    with pytest.raises(ValueError, match="expected a finite number"):
        st.Distribution("normal", scale=math.inf)
