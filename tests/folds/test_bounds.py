"""The bounds of rounding errors bound the errors: against rational and high-precision arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

import stability as st
from stability.folds.rational import Orbit

UNIT = 2.0**-53


def value_errors(f, exact):
    """The errors of a scalar f at its knots, and their bounds."""
    wrong = [abs(Fraction(v) - w) for v, w in zip(f.values.reshape(-1).tolist(), exact, strict=True)]
    return wrong, [Fraction(b) for b in f._errors[: len(f.knots)].tolist()]


@given(some.integers(-(2**80), 2**80), some.integers(1, 2**70), some.integers(-900, 900))
def test_a_ball_holds_its_orbit(numerator, denominator, exponent):
    m, r, e = Orbit((numerator, exponent), denominator, 0).ball()
    value = Fraction(numerator, denominator) * Fraction(2) ** exponent
    assert abs(Fraction(m) * Fraction(2) ** e - value) <= Fraction(r) * Fraction(2) ** e


def test_a_composition_with_a_large_value():
    outer = st.PiecewiseLinear([0.0, 1.0], [1e6 + 0.3, 1e6 + 0.4])
    inner = st.PiecewiseLinear([0.0, 1.0, 3.0, 4.0], [0.1, 0.7, 0.3, 0.35])
    f, exact = outer(inner), outer.to_exact()(inner.to_exact())
    wrong, bounds = value_errors(f, exact.values.tolist())
    assert max(wrong) > 0
    assert all(w <= b for w, b in zip(wrong, bounds, strict=True))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_kink_is_as_uncertain_as_its_least_certain_neuron(order):
    # Two neurons are 0 at t = 1/2, and so flat is one of them that a rounding moves its kink by 2^20 of them.
    slight = 2.0**-20
    first = nn.Linear(1, 2).double()
    second = nn.Linear(2, 3).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [0.0]]))
        first.bias.copy_(torch.tensor([1.0, 1.0]))
        second.weight.copy_(torch.tensor([[slight, 1.0], [1.0, 0.0], [1.0, 0.0]])[[*order, 2]])
        second.bias.copy_(torch.tensor([-1.0 - 1.5 * slight, -1.5, 0.0], dtype=torch.float64)[[*order, 2]])
    net = nn.Sequential(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()))
    f = net(st.segment([0.0], [1.0]))
    assert f.knots.tolist() == [0.0, 0.5, 1.0]
    assert f._errors[1] > UNIT / slight
    assert f.undecided > 0
    assert st.restrict(net, (0, 1)).undecided == 0


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3, 0, 1]])
def test_a_crossing_is_as_uncertain_as_its_least_certain_pair(order):
    # Two pairs of entries cross at t = 1/2, one of them so flat that a rounding moves the place by 2^20 of them.
    slight = 2.0**-20
    weight = torch.tensor([[1.0], [-1.0], [1.0], [1.0 - slight]], dtype=torch.float64)[order]
    bias = torch.tensor([-0.5, 0.5, 0.0, slight / 2], dtype=torch.float64)[order]
    f = nn.functional.max_pool1d(nn.functional.linear(st.segment([0.0], [1.0]), weight, bias)[None], 2)[0]
    assert f.knots.tolist() == [0.0, 0.5, 1.0]
    assert f._places.error[1] > UNIT / slight


# --- the restriction of any module ---

ACTIVATIONS = [nn.ReLU, lambda: nn.PReLU(init=-0.3), lambda: nn.LeakyReLU(0.2), nn.Hardtanh, nn.ReLU6]


class Skip(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


@given(
    some.integers(0, 2**31),
    some.lists(some.tuples(some.integers(1, 6), some.sampled_from(ACTIVATIONS), some.booleans()), max_size=4),
    some.lists(some.fractions(-2, 2, max_denominator=64), min_size=1, max_size=8),
)
def test_a_restriction_is_the_module_to_its_bound(seed, layers, points):
    torch.manual_seed(seed)
    modules, width = [], 1
    for outputs, activation, skip in layers:
        part = nn.Sequential(nn.Linear(width, outputs), activation(), nn.Linear(outputs, width if skip else outputs))
        modules.append(Skip(part) if skip else part)
        width = width if skip else outputs
    model = nn.Sequential(*modules, nn.Linear(width, 1)).double().eval()
    f = st.restrict(model, (-2, 2))
    exact = st.restrict(model, (-2, 2), exact=True)
    with torch.no_grad():
        for t in points:
            value = model(torch.tensor([[float(t)]], dtype=torch.float64)).item()
            # A forward pass rounds as often as the terms of its sums, each of the size of what the weights can make.
            assert abs(value - float(exact(t))) <= 200 * UNIT * reach(model, 2.0)
            k = len(f.knots)
            # Between two knots the error is theirs, and that of a step along the slope.
            bound = f._errors[:k].max() + 4 * (f._errors[k : 2 * k - 1].max() + UNIT * np.abs(f.slopes).max())
            assert abs(f(float(t)) - float(exact(t))) <= bound + 8 * UNIT * reach(model, 2.0)


def reach(module, size):
    """A bound of the values anywhere in the module, for inputs of that size."""
    if isinstance(module, nn.Sequential):
        for part in module:
            size = max(size, reach(part, size))
        return size
    if isinstance(module, Skip):
        return size + reach(module.inner, size)
    if isinstance(module, nn.Linear):
        return size * float(module.weight.abs().sum(1).max()) + float(module.bias.abs().max())
    return size
