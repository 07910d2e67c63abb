"""Small perceptrons, in the compiled way and by the rules, against rational arithmetic of another make."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import nn

import stability as st


def perceptron(layers, activation=nn.ReLU):
    """Return the module of weights and biases, given layer by layer."""
    modules = []
    for weight, bias in layers:
        linear = nn.Linear(len(weight[0]), len(weight)).double()
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight, dtype=torch.float64))
            linear.bias.copy_(torch.tensor(bias, dtype=torch.float64))
        modules += [linear, activation()]
    return nn.Sequential(*modules[:-1])


def count(layers, low, high, slope):
    """Return folds, turns and regions in rational arithmetic: pieces of vectors, cut where an entry is 0."""
    slope = Fraction(slope)
    pieces = [(Fraction(low), Fraction(high), [(Fraction(1), Fraction(0))])]
    for number, (weight, bias) in enumerate(layers):
        after = []
        for left, right, lines in pieces:
            lines = [
                (
                    sum(Fraction(w) * a for w, (a, _) in zip(row, lines, strict=True)),
                    sum(Fraction(w) * b for w, (_, b) in zip(row, lines, strict=True)) + Fraction(shift),
                )
                for row, shift in zip(weight, bias, strict=True)
            ]
            if number == len(layers) - 1:
                after.append((left, right, lines))
                continue
            cuts = sorted({-b / a for a, b in lines if a and left < -b / a < right})
            for start, end in itertools.pairwise([left, *cuts, right]):
                middle = (start + end) / 2
                factors = [1 if a * middle + b > 0 else slope for a, b in lines]
                after.append((start, end, [(f * a, f * b) for f, (a, b) in zip(factors, lines, strict=True)]))
        pieces = after
    slopes = [lines[0][0] for _, _, lines in pieces]
    signs = [a > 0 for a in slopes if a]
    folds, turns = (sum(a != b for a, b in itertools.pairwise(v)) for v in (slopes, signs))
    return st.Count(folds, turns, len(slopes))


ACTIVATIONS = {0.0: nn.ReLU, 0.25: lambda: nn.LeakyReLU(0.25), -0.5: lambda: nn.LeakyReLU(-0.5)}
NUMBERS = {
    "generic": some.floats(-1, 1, width=32),
    "integers": some.integers(-3, 3).map(float),
    "dyadic": some.integers(-6, 6).map(lambda i: i / 4),
    "decimal": some.integers(-6, 6).map(lambda i: i / 10),
}


@some.composite
def perceptrons(draw):
    number = NUMBERS[draw(some.sampled_from(sorted(NUMBERS)))]
    widths = [1, *draw(some.lists(some.integers(1, 5), min_size=1, max_size=3)), 1]
    return [
        (
            [[draw(number) for _ in range(inputs)] for _ in range(outputs)],
            [draw(number) for _ in range(outputs)],
        )
        for inputs, outputs in itertools.pairwise(widths)
    ]


# A dead plateau, whose slope is the rest of a sum.
PLATEAU = [([[-0.1], [-0.6]], [0.1, 0.4]), ([[-0.3, -0.5]], [0.0])]
# A kink of two neurons, that rounding takes apart.
PARTED = [([[3.0], [2.0]], [2.0, -1.0]), ([[-1.0, 2.0], [0.0, 2.0]], [3.0, -2.0]), ([[2.0, -2.0]], [0.0])]


@settings(max_examples=150)
@given(perceptrons(), some.sampled_from(sorted(ACTIVATIONS)))
@example(PLATEAU, 0.0)
@example(PARTED, 0.0)
def test_what_is_decided_is_right(layers, slope):
    model = perceptron(layers, ACTIVATIONS[slope])
    exact = count(layers, -2, 2, slope)
    assert st.restrict(model, (-2, 2), exact=True).count() == exact
    for net in (model, nn.Sequential(model)):  # in the compiled way, and by the rules
        c = st.count(net, (-2, 2))
        assert c.undecided > 0 or c == exact


@pytest.mark.parametrize("nested", [False, True])
def test_slopes_whose_sign_rounding_hides_are_found_in_rational_numbers(nested):
    # 1 - 5 * 0.2 is -5.6e-17 for the stored numbers, and 0 in float64.
    layers = [([[1.0], [5.0]], [3.0, 0.0]), ([[1.0, -0.2]], [0.0])]
    assert count(layers, -2, 2, 0) == st.Count(1, 1, 2)
    model = perceptron(layers)
    c = st.count(nn.Sequential(model) if nested else model, (-2, 2))
    assert (c, c.undecided) == (st.Count(1, 1, 2), 0)


@pytest.mark.parametrize("nested", [False, True])
def test_values_and_slopes_that_underflow(nested):
    tiny = 2.0**-600
    layers = [([[tiny]], [tiny / 2]), ([[tiny]], [0.0])]
    assert count(layers, -2, 2, 0) == st.Count(1, 0, 2)
    model = perceptron(layers)
    c = st.count(nn.Sequential(model) if nested else model, (-2, 2))
    assert (c, c.undecided) == (st.Count(1, 0, 2), 0)
