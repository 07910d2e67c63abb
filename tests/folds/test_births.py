"""Where folds are born: layer by layer in chains, by module and unit in networks, against rational arithmetic."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

from .test_count import FAMILIES, INTERVALS, random_table

INF = math.inf


# --- chains ---


def births_by_hand(table, interval, limit=400):
    """Return rows run before too many pieces come, and the births of the folds, row by row, in rational arithmetic."""
    low, high = (Fraction(end) if math.isfinite(end) else None for end in interval)
    pieces, born = [(low, high, Fraction(1), Fraction(0))], {}
    rows = len(table)
    for number, row in enumerate(table):
        skip, weight, bias, outer_weight, outer_bias, slope = (Fraction(float(v)) for v in row)
        found = []
        for left, right, a, b in pieces:
            za, zb = weight * a, weight * b + bias
            kink = -zb / za if za else None
            if kink is not None and (left is None or kink >= left) and (right is None or kink <= right):
                if kink not in (low, high):
                    born.setdefault(kink, number)
                parts = [(left, kink, -1 if za > 0 else 1), (kink, right, 1 if za > 0 else -1)]
                parts = [(s, t, sign) for s, t, sign in parts if s is None or t is None or s < t]
            else:
                inside = left if left is not None else right if right is not None else Fraction(0)
                if kink is not None and inside == kink:
                    inside = kink + 1 if left is not None else kink - 1
                middle = inside if None in (left, right) else (left + right) / 2
                parts = [(left, right, 1 if za * middle + zb > 0 else -1)]
            for s, t, sign in parts:
                gain = outer_weight * (1 if sign > 0 else slope)
                found.append((s, t, skip * a + gain * za, skip * b + gain * zb + outer_bias))
        if len(found) > limit:
            rows = number
            break
        pieces = found
    births = [0] * rows
    for (_, at, a, _), (_, _, c, _) in itertools.pairwise(pieces):
        if a != c:
            births[born[at]] += 1
    return rows, tuple(births)


def births_are_right(family, tables):
    rng, most = np.random.default_rng(100 + FAMILIES.index(family)), 0
    for _ in range(tables):
        table, interval = random_table(rng, family), INTERVALS[rng.integers(len(INTERVALS))]
        rows, expected = births_by_hand(table[:20], interval, limit=200)
        if not rows:
            continue
        c = st.count(table[:rows], interval, births=True)
        assert c.births == expected, (table[:rows].tolist(), interval)
        assert sum(c.births) == c.folds
        most = max(most, c.folds)
    assert most > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_births_of_chains_are_those_of_rational_enumeration(family):
    births_are_right(family, 40)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_births_of_five_thousand_chains(family):
    births_are_right(family, 715)


@pytest.mark.parametrize("family", FAMILIES)
def test_births_add_up_at_any_depth(family):
    rng = np.random.default_rng(FAMILIES.index(family))
    for _ in range(60):
        table, interval = random_table(rng, family), INTERVALS[rng.integers(len(INTERVALS))]
        c = st.count(table, interval, births=True)
        assert c == st.count(table, interval)
        assert len(c.births) == len(table)
        assert sum(c.births) == c.folds


def test_births_of_the_tent_of_depth_1000():
    c = st.count(st.tent(1000), (0, 1), births=True)
    assert c.births == tuple(2**layer for layer in range(1000))
    assert sum(c.births) == c.folds
    assert st.count(st.tent(1000), (0, 1)).births is None


def test_a_fold_of_several_layers_is_of_the_first():
    bend = (1.0, 1.0, -0.5, 1.0, 0.0, 0.0)  # keeps its kink where it is
    idle = (1.0, 1.0, -0.5, 0.0, 0.0, 0.0)  # has a kink, and does not bend
    for table, births in (([bend, bend], (1, 0)), ([idle, bend], (1, 0)), ([bend, idle], (1, 0)), ([idle], (0,))):
        assert st.count(table, (0, 1), births=True).births == births
        assert st.restrict(table, (0, 1)).count(births=True).births == births
        assert st.restrict(table, (0, 1), exact=True).count(births=True).births == births


def test_births_of_seeds_chains_and_parts():
    chain = st.Chain("residual2_prelu", depth=12, seeds=3)
    c = st.count(chain, (-3, 3), births=True)
    assert c.births.shape == c.folds.shape == (3,)
    assert all(isinstance(born, tuple) and len(born) == 12 for born in c.births)
    assert [sum(born) for born in c.births] == c.folds.tolist()
    assert max(c.folds) > 3
    for seed, f in enumerate(st.restrict(chain, (-3, 3))):
        assert f.count(births=True).births == c.births[seed]
        assert st.count(f, births=True).births == c.births[seed]
        assert st.count(st.restrict(chain.table()[seed], (-3, 3), window=6), births=True).births == c.births[seed]
        left, right = (st.count(f, part, births=True).births for part in ((-3, 0.1), (0.1, 3)))
        assert tuple(a + b for a, b in zip(left, right, strict=True)) == c.births[seed]
    whole = st.count(chain.table(), (Fraction(-3), Fraction(1, 3)), births=True)
    assert [sum(born) for born in whole.births] == whole.folds.tolist()
    # A read-out is no step.
    plain = st.count(st.Chain("plain_prelu", depth=5, seeds=2), (-INF, INF), births=True)
    assert [len(born) for born in plain.births] == [5, 5]


def test_a_step_of_several_activations_is_one_layer():
    twice = st.Architecture("twice", skip=1, maps=3, activation="prelu")
    chain = st.Chain(twice, depth=4, seeds=2, init="he")
    assert not chain.has_table
    c = st.count(chain, (-3, 3), births=True)
    assert [len(born) for born in c.births] == [4, 4]
    assert [sum(born) for born in c.births] == c.folds.tolist()
    assert max(c.folds) > 0


def test_the_births_of_a_chain_are_not_those_of_numbers_that_have_changed():
    table = st.tent(3)
    f = st.restrict(table, (0, 1))
    table[:, 1:] = 0
    assert f.count(births=True).births == (1, 2, 4)


def test_births_along_a_bent_line():
    line = st.PiecewiseLinear([0, 1, 2], [0.125, 0.875, 0.125])
    births = st.restrict(st.tent(2), line).folds(births=True)
    # The kinks 1/2, and 1/4 and 3/4, on the way there and back; and the turn of the line itself.
    assert births.layers.tolist() == [1, 0, 1, -1, 1, 0, 1]
    assert births.units.tolist() == [0, 0, 0, -1, 0, 0, 0]
    assert st.restrict(st.tent(2), line, exact=True).folds(births=True).layers.tolist() == [1, 0, 1, -1, 1, 0, 1]
    assert st.restrict(st.tent(2), line).count(births=True).births == (2, 4)
    # A line that a network made has folds of its own too, which are no unit's of this one.
    line = st.restrict(st.tent(1), (0, 1))
    for exact in (False, True):
        assert st.restrict(st.tent(2), line, exact=exact).folds(births=True).layers.tolist() == [1, 0, 1, -1, 1, 0, 1]
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(-0.75)
    assert st.restrict(Wrapped(model), line._shaped((1,))).folds(births=True).layers.tolist() == [0, -1, 0]


# --- modules ---


class Wrapped(nn.Module):
    """The same, and not a Sequential, so that it is followed operation by operation."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)

    def forward(self, h):
        return h + self.outer(self.act(self.inner(h)))


def perceptron(seed, widths, coarse):
    torch.manual_seed(seed)
    linears = [nn.Linear(a, b).double() for a, b in itertools.pairwise(widths)]
    if coarse:  # so that kinks meet
        with torch.no_grad():
            for parameter in itertools.chain(*(one.parameters() for one in linears)):
                parameter.copy_((2 * parameter * math.sqrt(widths[1])).round() / 2)
    return nn.Sequential(linears[0], *(m for one in linears[1:] for m in (nn.ReLU(), one)))


def value_at(model, t):
    """Return the value and, layer by layer, the pre-activations at a rational t."""
    h, seen = [Fraction(t)], []
    for layer in model:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            h = [
                sum((Fraction(w) * v for w, v in zip(row, h, strict=True)), Fraction(b))
                for row, b in zip(weight, bias, strict=True)
            ]
        else:
            seen.append(h)
            h = [max(v, Fraction(0)) for v in h]
    return h, seen


def first_kink(model, t, step):
    """Return the first layer and unit that is 0 at t and is not on one side of it."""
    near = [value_at(model, t + s * step)[1] for s in (-1, 1)]
    for layer, units in enumerate(value_at(model, t)[1]):
        for unit, z in enumerate(units):
            if z == 0 and (near[0][layer][unit] > 0) != (near[1][layer][unit] > 0):
                return layer, unit
    return None


@pytest.mark.parametrize("coarse", [False, True])
def test_births_of_perceptrons_against_rational_arithmetic(coarse):
    several = 0
    for seed in range(25):
        widths = [(1, 4, 1), (1, 5, 4, 2), (1, 3, 3, 3, 1)][seed % 3]
        model = perceptron(seed, widths, coarse)
        exact = st.restrict(model, (-3, 3), exact=True)
        births = exact.folds(births=True)
        knots = exact.knots.tolist()
        step = min(b - a for a, b in itertools.pairwise(knots)) / 8
        expected = [first_kink(model, t, step) for t in births.at.tolist()]
        assert list(zip(births.layers.tolist(), births.units.tolist(), strict=True)) == expected
        assert list(births.modules) == [str(2 * layer + 1) for layer, _ in expected]
        for t in births.at.tolist():
            seen = value_at(model, t)[1]
            several += sum(z == 0 for units in seen for z in units) > 1
        for net, prefix in ((model, ""), (Wrapped(model), "model.")):
            f = st.restrict(net, (-3, 3))
            assert f.undecided == 0
            found = f.folds(births=True)
            assert np.allclose(found.at, births.at.astype(float), atol=1e-9)
            assert (found.layers, found.units) == (pytest.approx(births.layers), pytest.approx(births.units))
            assert found.modules == tuple(prefix + name for name in births.modules)
            assert st.count(net, (-3, 3), births=True).births == exact.count(births=True).births
    assert (several > 3) == coarse


def test_births_in_a_network_without_biases_through_0():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    births = st.restrict(Wrapped(model), st.segment([-1.0, -2.0], [0.5, 1.0])).folds(births=True)
    assert births.layers.tolist() == [0]
    assert births.units.tolist() == [0]
    assert births.at.tolist() == [pytest.approx(2 / 3)]


def test_births_of_every_kind_of_operation():
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.Hardtanh(),
        nn.Linear(4, 3),
        nn.Softshrink(),
    ).eval()
    line = st.segment(30 * torch.randn(1, 1, 6, 6), 30 * torch.randn(1, 1, 6, 6))
    f = st.restrict(conv, line)
    births = f.folds(births=True)
    found = set(zip(births.layers.tolist(), births.modules, strict=True))
    assert found <= {(0, "1"), (1, "2"), (2, "5"), (3, "7")}
    assert len(found) > 2
    for unit, layer in zip(births.units, births.layers, strict=True):
        assert 0 <= unit < (32, 8, 4, 3)[layer]
    by_layer = f.count(births=True).births
    assert len(by_layer) == 4
    assert sum(by_layer) == len(births.at)
    parts = st.count(st.restrict(conv, line, window=8), births=True)
    assert parts.births == by_layer

    def sort(x):
        return (x * torch.tensor([1.0, -1.0])).sort().values

    assert st.restrict(sort, (-1, 2)).count(births=True).births == (1,)


def test_modules_that_are_called_twice_and_functions():
    act = nn.ReLU()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.block = act, Residual(2)

        def forward(self, x):
            h = self.act(x * torch.tensor([1.0, -2.0]) + torch.tensor([0.25, 1.0]))
            return torch.relu(0.5 - self.act(h + 0.1 * self.block(h) - 1.5)).sum(dim=1)

    torch.manual_seed(1)
    births = st.restrict(Net(), (-2, 2)).folds(births=True)
    names = {0: "act", 1: "block.act", 2: "act", 3: ""}
    assert [names[layer] for layer in births.layers.tolist()] == list(births.modules)
    assert {0, 2} <= set(births.layers.tolist())
    births = st.restrict(lambda x: x.relu(), (-1, 1)).folds(births=True)
    assert (births.layers.tolist(), births.modules, births.units.tolist()) == ([0], ("",), [0])


def test_what_is_made_of_a_function_knows_the_births():
    f = st.restrict(st.tent(3), (0, 1))
    births = f.folds(births=True)
    for g in (f.simplify(), 2 * f + 1, f.to_exact(), f.restrict(0, 1), f + f):
        assert g.folds(births=True).layers.tolist() == births.layers.tolist() == [2, 1, 2, 0, 2, 1, 2]
    bent = abs(f - 0.5).folds(births=True)
    assert bent.layers.tolist().count(-1) == 8
    assert [bent.modules[i] for i in np.flatnonzero(bent.layers < 0)] == [""] * 8
    # Of two networks each fold has its own layer and module.
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(-0.3125)
    both = (f + st.restrict(model, (0, 1))).folds(births=True)
    assert both.layers.tolist() == [2, 1, 0, 2, 0, 2, 1, 2]
    assert both.modules == ("", "", "1", "", "", "", "", "")
    # Where both have a fold in one place it is that of the first.
    one = st.restrict(st.tent(1), (0, 1))
    with torch.no_grad():
        model[0].bias.fill_(-0.5)
    other = st.restrict(model, (0, 1))
    assert ((one + other).folds(births=True).modules, (other + one).folds(births=True).modules) == (("",), ("1",))
    assert (st.PiecewiseLinear([0, 0.5, 1], [0, 1, 0]) + other).folds(births=True).modules == ("1",)
    with pytest.raises(ValueError, match="born is not known"):
        st.PiecewiseLinear([0, 1, 2], [0, 1, 0]).folds(births=True)


def test_a_fold_just_where_windows_meet_has_no_birth():
    f = st.restrict(st.tent(2), (0, 1))
    parts = [f.restrict(0, 0.25), f.restrict(0.25, 1)]
    assert st.count(parts).folds == 3
    with pytest.raises(ValueError, match="two windows meet"):
        st.count(parts, births=True)
