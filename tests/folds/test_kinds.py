"""What rounding gets wrong along lines, kind by kind: cancelled neurons, kinks in one place, ranges, ends."""

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

from .random_modules import outcome

ONE = torch.ones(3, dtype=torch.float64)


def cancelled():
    """A neuron whose value and slope are 0 in float64; the sum of the stored numbers is 2.8e-17."""
    layer = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.4, -0.5]], dtype=torch.float64))
    assert sum(map(Fraction, layer.weight[0].tolist())) > 0 == layer(ONE).item()
    return layer


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.25), nn.Hardtanh(0.0, 1.0)])
def test_a_neuron_that_only_rounding_makes_0_bends(activation, exact):
    f = st.restrict(nn.Sequential(cancelled(), activation), st.segment(-ONE, ONE), exact=exact)
    assert (f.count().folds, f.undecided) == (1, 0)
    assert f.folds().tolist() == [0.5]


def test_entries_that_only_rounding_makes_equal_part():
    layer = cancelled()

    class Larger(nn.Module):
        def forward(self, x):
            base = x[..., :1]
            return torch.maximum(base + layer(x), base)

    line = st.segment(-ONE, ONE)
    f, sure = st.restrict(Larger(), line), st.restrict(Larger(), line, exact=True)
    assert (f.count(), f.undecided) == (sure.count(), 0)
    assert sure.count().folds == 1


@pytest.mark.parametrize("seed", range(20))
def test_networks_without_biases_bend_in_one_place_on_a_line_through_0(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3, bias=False)).double()
    a = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    f = st.restrict(net, st.segment(-a, 2 * a))
    assert (f.count().folds, f.undecided) == (1, 0)
    assert f.knots[1] == pytest.approx(1 / 3, rel=1e-15)
    for t in (0.1, 0.7):
        # Positively homogeneous: the value on either side is that of one image, times a number.
        size = 3 * t - 1
        torch.testing.assert_close(f(torch.tensor(t)), abs(size) * net(float(np.sign(size)) * a).detach())


def test_a_line_through_0_has_no_knot_there_where_nothing_bends():
    net = nn.Linear(2, 1).double()
    a = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert st.restrict(nn.Sequential(net), st.segment(-a, 2 * a)).count() == st.Count(0, 0, 1)


@pytest.mark.parametrize(
    "twice",
    [
        lambda z: torch.cat([z.relu(), (-z).relu()], -1).sum(-1, keepdim=True),
        lambda z: z.relu() * 3 + z.abs() - (0.5 * z).relu(),
        lambda z: torch.maximum(z, -z) - torch.minimum(z, -z),
        lambda z: z.clamp(0, 1).clamp(0, 2),
        lambda z: nn.functional.leaky_relu(z, 0.1) + nn.functional.hardtanh(z, 0.0, 1.0),
    ],
)
def test_a_kink_that_is_made_twice_is_one(twice):
    for seed in range(10):
        torch.manual_seed(seed)
        layer = nn.Linear(3, 4).double()
        line = st.segment(torch.randn(3).double(), torch.randn(3).double())
        f, sure = (st.restrict(lambda x, layer=layer: twice(layer(x)), line, exact=exact) for exact in (False, True))
        assert (f.count(), f.undecided) == (sure.count(), 0)


def test_a_bound_that_is_infinite_is_a_doubt():
    f = st.PiecewiseLinear([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    f._errors[1] = np.inf
    assert torch.relu(f).undecided > 0


def test_rational_numbers_have_no_range():
    table = np.array([[1, 1e200, 0, 1e200, 0, 0]])
    assert st.restrict(table, (-1, 1), exact=True).count() == st.count(table, (-1, 1)) == st.Count(1, 0, 2)


@pytest.mark.parametrize(("low", "kink", "high"), [(Fraction(1, 10), 0.1, 1), (0, 2.0**53 + 4, 2**53 + 5)])
def test_ends_that_are_no_floats_are_taken_as_they_are(low, kink, high):
    table = np.array([[0, 1.0, -kink, 2.0, 0, 0]])
    assert st.count(table, (low, high)).folds == 1
    assert st.count(table, (Fraction(kink), high)).folds == 0
    assert st.count(table[None], (low, high)).folds.tolist() == [1]


def test_round_trips_through_whole_numbers_are_refused():
    class Quantised(nn.Module):
        def forward(self, x):
            return (x * 255).round() / 255

    with pytest.raises(TypeError, match="it jumps"):
        st.restrict(Quantised(), (0, 1))


def test_random_modules_are_right():
    found = [outcome(seed) for seed in range(150)]
    assert set(found) == {"right"}


def test_a_network_that_takes_too_much_memory_is_refused_or_taken_in_parts(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    line = st.segment(torch.randn(2), torch.randn(2))
    whole = st.restrict(net, line).count()
    with pytest.raises(ValueError, match=r"takes more than memory=0.0002 GiB: give window="):
        st.restrict(net, line, memory=0.0002)
    parts = list(st.restrict(net, line, window=10**6, memory=0.0002))
    assert len(parts) > 1
    assert st.count(parts) == whole
    monkeypatch.setattr(sys.modules["stability.folds.count_folds"], "_MEMORY", 0.0002)
    assert st.count(net, line) == whole


def test_an_order_that_changes_at_0_has_a_knot_there():
    class Order(nn.Module):
        def forward(self, h):
            return h.sort()[0][1] + (h[0] + 0.01).relu() + (h[0] - 0.01).relu()

    line = st.segment([1.0, -1.0], [-1.0, 1.0])
    assert st.count(Order(), line) == st.count(st.restrict(Order(), line, exact=True)) == st.Count(3, 1, 4)
    for seed in range(20):
        torch.manual_seed(seed)
        net = (nn.Linear(3, 4, bias=False), nn.Linear(3, 5), nn.Linear(5, 1))
        first, second, last = (layer.double() for layer in net)
        p = torch.randn(3).double()

        def top(h, first=first, second=second, last=last):
            return last(second(first(h).topk(3)[0]).relu())

        f, sure = (st.restrict(top, st.segment(p, -p), exact=exact) for exact in (False, True))
        assert (f.count(), f.undecided) == (sure.count(), 0)


def test_a_part_of_a_line_that_ends_at_0_does_so():
    part = st.segment([-0.1], [0.1]).restrict(0.0, 0.5)
    assert part.values[-1] == 0.0
    for exact in (False, True):
        assert st.restrict(lambda h: h.abs(), part, exact=exact).count().folds == 0


@pytest.mark.parametrize("exact", [False, True])
def test_windows_are_parts_of_one_line(exact):
    kinks = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], dtype=torch.float64)
    line = st.segment([1 / 3] + [0.0] * 6, [-0.1] + [1.0] * 6)

    def net(h):
        return (h - kinks).relu().sum()

    whole = st.restrict(net, line, exact=True).count()
    found = st.count(st.restrict(net, line, exact=exact, window=4))
    assert (found, found.undecided) == (whole, 0)
    assert whole.folds == 7


def test_windows_of_a_network_without_biases_have_no_folds_between_them():
    net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    with torch.no_grad():
        first = [[-0.6, -0.5], [-0.2, -0.1], [-0.5, -0.6], [0, 0.5]]
        net[0].weight.copy_(torch.tensor(first, dtype=torch.float64))
        net[2].weight.copy_(torch.tensor([[-0.4, 0, 0.3, 0.4]], dtype=torch.float64))
    line = st.segment([-0.5, 0.6], [0.6, -0.6])
    found = st.count(st.restrict(net, line, window=4))
    assert found == st.restrict(net, line, exact=True).count() or found.undecided > 0


def test_a_comparison_is_of_what_was_there_when_it_was_made():
    def in_place(h):
        x = h[:1]
        b = x.relu() - 2 * (x - 0.01).relu() + (x - 0.02).relu()
        kept, mask = b.clone(), b > 0
        b *= -1
        return kept * mask + x

    line = st.segment([-1.0, 0.0], [1.0, 1.0])
    assert st.count(in_place, line).folds == st.restrict(in_place, line, exact=True).count().folds == 3


@pytest.mark.parametrize(
    "tiny", [lambda h: (h * 1e-300).relu(), lambda h: (h * 1e-170 * 1e-170).abs(), lambda h: (h / 1e170 / 1e170).abs()]
)
def test_a_product_that_underflows_still_bends(tiny):
    line = st.segment([1e-30, 1.0], [-1e-30, 2.0])
    f = st.restrict(lambda h: torch.stack([tiny(h[0]), h[1]]), line)
    assert f.count().folds == 1 or f.undecided > 0


def test_a_product_of_constants_that_rounds_is_refused_and_negative_averages_have_positive_bounds():
    a, b = torch.tensor([[0.1, 0.3, -0.4]], dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    line = st.segment([1.0, 0.0], [-1.0, 1.0])
    with pytest.raises(TypeError, match="einsum of several constants"):
        st.restrict(lambda h: torch.einsum("i,ij,jk->k", h[:1], a, b).relu() + h[1:], line)

    def average(h):
        return (nn.functional.avg_pool2d(h.reshape(1, 1, 1, 2), (1, 2), divisor_override=-3) + 0.1).relu()

    line = st.segment([0.1, 0.2], [0.3, -0.7])
    f = st.restrict(average, line)
    assert f.count() == st.restrict(average, line, exact=True).count() or f.undecided > 0
