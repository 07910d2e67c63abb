"""Small perceptrons, in the compiled way and by the rules, against rational arithmetic of another make."""

import importlib
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import nn

import stability as st
from stability.folds import perceptrons as compiled
from stability.folds.lines import line_of
from stability.folds.replay import _float

restriction = importlib.import_module("stability.folds.restrict")


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


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.LeakyReLU, nn.PReLU])
def test_segments_in_the_compiled_way_and_by_the_rules(shape, kind, monkeypatch):
    def act():
        return kind(4) if kind is nn.PReLU and len(shape) == 2 else kind()

    followed = []
    follow = restriction._follow
    monkeypatch.setattr(restriction, "_follow", lambda *args: followed.append(args) or follow(*args))
    for seed in range(15):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), act(), nn.Linear(4, 4), act(), nn.Linear(4, 2)).double()
        line = st.segment(3 * torch.randn(shape), 3 * torch.randn(shape))
        followed.clear()
        quick = st.restrict(model, line)
        assert not followed
        exact, slow = st.restrict(model, line, exact=True), st.restrict(nn.Sequential(model), line)
        assert followed
        assert quick.count() == slow.count() == exact.count()
        assert quick.undecided == slow.undecided == 0
        assert quick.shape == slow.shape == (*shape[:-1], 2)
        for part, found in ((quick.knots, exact.knots), (quick._data, exact._data)):
            np.testing.assert_allclose(part, found.astype(float), atol=1e-12)
        assert (
            abs(quick._data - exact._data.astype(float)).reshape(len(quick._data), -1).max(axis=1) <= quick._errors
        ).all()
        t = np.linspace(0, 1, 7)
        at = torch.from_numpy(line.values[0] + t.reshape(-1, *[1] * len(shape)) * (line.values[1] - line.values[0]))
        values = np.stack([model(point).detach().numpy() for point in at])
        np.testing.assert_allclose(quick(t), values, atol=1e-12)


def test_a_segment_takes_no_more_memory_than_it_may():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)).double()
    line = st.segment(torch.full((3,), -3.0), torch.tensor([3.0, 2.0, 1.0]))
    f = st.restrict(model, line)
    assert f.undecided == 0
    with pytest.raises(ValueError, match=r"takes more than memory=0\.01 GiB"):
        st.restrict(model, line, memory=0.01)
    parts = list(st.restrict(model, line, window=10**6, memory=0.01))
    assert len(parts) > 1
    assert st.count(parts) == f.count()


def test_only_what_the_compiled_way_leaves_open_is_followed_again(monkeypatch):
    followed = []
    follow = restriction._follow
    monkeypatch.setattr(
        restriction, "_follow", lambda *args: followed.append([*map(_float, args[1].interval)]) or follow(*args)
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)).double()
    with torch.no_grad():  # the kinks of two neurons that rounding takes apart
        model[0].weight[1], model[0].bias[1] = model[0].weight[0] / 3, model[0].bias[0] / 3
        model[0].bias[0], model[0].bias[1] = 0.7 * model[0].weight[0], 0.7 * model[0].weight[1]
    for net, line in ((model, (-2, 2)), (model, st.segment([-2.0], [2.0]))):
        followed.clear()
        f = st.restrict(net, line)
        assert followed
        low, high = f.interval
        assert all((high - low) > 20 * (end - start) for start, end in followed)
        g = st.restrict(nn.Sequential(net), line)
        assert f.undecided == g.undecided == 0
        assert f.count() == g.count() == st.restrict(net, line, exact=True).count()
        births, other = f.folds(births=True), g.folds(births=True)
        assert (births.layers.tolist(), births.units.tolist()) == (other.layers.tolist(), other.units.tolist())
        assert tuple("0." + name for name in births.modules) == other.modules


def test_the_bounds_of_wide_layers_leave_nothing_open(monkeypatch):
    followed = []
    follow = restriction._follow
    monkeypatch.setattr(restriction, "_follow", lambda *args: followed.append(args) or follow(*args))
    torch.manual_seed(2)
    linear = [nn.Linear(i, o) for i, o in itertools.pairwise((1, 128, 128, 128, 1))]
    model = nn.Sequential(linear[0], *(module for one in linear[1:] for module in (nn.ReLU(), one)))
    f = st.restrict(model, (-3, 3))
    assert not followed
    assert f.undecided == 0
    assert f.count() == st.restrict(nn.Sequential(model), (-3, 3)).count()  # which is followed by operations


@pytest.mark.parametrize("room", [0, 200, 2**24])
def test_the_room_to_work_in_is_no_matter(room, monkeypatch):
    for seed, together in itertools.product(range(10), (False, True)):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(1, 9), nn.PReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU())
        model.append(nn.Linear(7, 2)).double()
        with torch.no_grad():
            model[2].weight.mul_(4.0)
            if together:  # several kinks in one place
                model[0].weight[1:3], model[0].bias[1:3] = model[0].weight[0], model[0].bias[0]
                model[2].weight[1], model[2].bias[1] = model[2].weight[0], model[2].bias[0]
        f = compiled.restrict_layers(model, line_of((-3, 3)), None)
        monkeypatch.setattr(compiled, "_ROOM_AT_LEAST", 0)
        monkeypatch.setattr(compiled, "_ROOM_AT_MOST", room)
        g = compiled.restrict_layers(model, line_of((-3, 3)), None)
        monkeypatch.undo()
        assert (f.knots == g.knots).all()
        assert (f._data == g._data).all()
        assert (f._errors == g._errors).all()


def test_slopes_by_channel_need_a_batch_as_in_torch():
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)).double()
    with pytest.raises(RuntimeError, match="channel size = 1"):
        model(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="channel size = 1"):
        st.restrict(model, st.segment([0.0, 0.0, 1.0], [1.0, -1.0, 0.0]))
