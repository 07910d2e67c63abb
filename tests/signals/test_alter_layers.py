"""Layers left out and swapped, against networks written without them, or in another order."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

X = torch.tensor([-1.3, 0.4, 2.0], dtype=torch.float64)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, h):
        return h + torch.tanh(self.inner(h))


class Net(nn.Module):
    """A stem, blocks in an order of choice, and a head."""

    def __init__(self, depth=5, order=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([Block(4) for _ in range(depth)])
        self.order = range(depth) if order is None else order

    def forward(self, x):
        h = self.stem(x)
        for number in self.order:
            h = self.blocks[number](h)
        return {"y": self.head(h), "h": h}


class Loose(nn.Module):
    """Blocks that are no modules: a sum around a call, in place or not."""

    def __init__(self, order, in_place=False):
        super().__init__()
        torch.manual_seed(0)
        self.steps = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])
        self.order, self.in_place = order, in_place

    def forward(self, x):
        h = x.clone() * 1.0
        for number in self.order:
            if self.in_place:
                h += torch.tanh(self.steps[number](h.clone()))
            else:
                h = h + torch.tanh(self.steps[number](h))
        return h.sum(dim=-1, keepdim=True) * torch.ones(2, dtype=x.dtype)


def expected(one, other):
    return (one - other).flatten(1).norm(dim=1).log()


def without(depth, *left):
    return [k for k in range(depth) if k not in left]


def swapped(depth, k):
    order = list(range(depth))
    order[k], order[k + 1] = order[k + 1], order[k]
    return order


def test_a_module_equals_networks_written_without_the_layer():
    x, net = torch.randn(6, 3, dtype=torch.float64), Net().double()
    y = net(x)["y"].detach()
    found = st.leave_out(net, x, "blocks")
    assert found.layers == tuple(f"blocks.{k}" for k in range(5))
    for k in range(5):
        own = Net(order=without(5, k)).double()(x)["y"]
        assert torch.allclose(found.log_changes[k, 0], expected(own, y), rtol=0, atol=1e-9)
    assert torch.allclose(found.log_outputs[0], y.norm(dim=1).log())
    pairs = st.leave_out(net, x, "blocks", sets=[[0, 3], ["blocks.1", "blocks.2", "blocks.4"]])
    for case, left in enumerate([(0, 3), (1, 2, 4)]):
        own = Net(order=without(5, *left)).double()(x)["y"]
        assert torch.allclose(pairs.log_changes[case, 0], expected(own, y), rtol=0, atol=1e-9)
    swaps = st.swap_neighbours(net, x, "blocks")
    for k in range(4):
        own = Net(order=swapped(5, k)).double()(x)["y"]
        assert torch.allclose(swaps.log_changes[k, 0], expected(own, y), rtol=0, atol=1e-9)
    relative = (found.log_changes[2, 0].exp().square().sum() / y.square().sum()).sqrt()
    assert found.log_relative[2, 0].exp() == pytest.approx(float(relative))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_layer_that_is_more_than_its_module(in_place):
    x = torch.randn(6, 4, dtype=torch.float64)
    net = Loose(range(4), in_place).double()
    names = st.layers(net, x).names
    before = copy.deepcopy(net.state_dict())
    y = net(x)
    found, swaps = st.leave_out(net, x, names[:4]), st.swap_neighbours(net, x, names[:4])
    for k in range(4):
        own = Loose(without(4, k), in_place).double()(x)
        assert torch.allclose(found.log_changes[k, 0], expected(own, y), rtol=0, atol=1e-9)
    for k in range(3):
        own = Loose(swapped(4, k), in_place).double()(x)
        assert torch.allclose(swaps.log_changes[k, 0], expected(own, y), rtol=0, atol=1e-9)
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    assert not net.steps[0]._forward_hooks


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", ["residual2_prelu", "plain_prelu"])
def test_chains_equal_their_steps_taken_one_by_one(name, width):
    chain = st.Chain(name, 7, seeds=3, width=width)
    x = X if width == 1 else torch.randn(4, 3, dtype=torch.float64)

    def run(order):
        h = x
        for number in order:
            h = chain.steps[number](h)
        h = h if h.ndim > x.ndim else h.expand(3, *h.shape)
        return chain.readout(h).detach().reshape(3, len(x), -1)

    y = run(range(7))
    found, swaps = st.leave_out(chain, x), st.swap_neighbours(chain, x)
    for k in range(7):
        change = (run(without(7, k)) - y).norm(dim=2)
        assert torch.allclose(found.log_changes[k].exp(), change, rtol=1e-10, atol=1e-14)
    for k in range(6):
        change = (run(swapped(7, k)) - y).norm(dim=2)
        assert torch.allclose(swaps.log_changes[k].exp(), change, rtol=1e-10, atol=1e-14)
    sets = st.leave_out(chain, x, together=3, draws=10, root=4)
    assert len(sets.sets) == 10
    for case, left in enumerate(sets.sets):
        assert len(set(left)) == 3
        assert torch.allclose(
            sets.log_changes[case].exp(), (run(without(7, *left)) - y).norm(dim=2), rtol=1e-10, atol=1e-14
        )
    assert st.leave_out(chain, x, together=3, draws=10, root=4).sets == sets.sets
    assert st.leave_out(chain, x, together=3, draws=10, root=5).sets != sets.sets


def test_a_chain_whose_states_leave_the_range_of_float64():
    """h -> 2 h, 3000 times: without one step the output is half of 2^3000 x."""
    table = np.zeros((1, 3000, 6))
    table[..., 0], table[..., 5] = 2.0, 1.0
    found = st.leave_out(table, X, sets=[[0], [7, 2999]])
    sizes = X.abs().log() + 3000 * math.log(2)
    assert torch.allclose(found.log_outputs[0], sizes, rtol=1e-14, atol=0)
    assert torch.allclose(found.log_changes[:, 0] - sizes, torch.tensor([[0.5], [0.75]]).double().log(), atol=1e-10)
    assert torch.allclose(found.log_relative[:, 0].exp(), torch.tensor([0.5, 0.75]).double())
    assert (st.swap_neighbours(table[:, :20], X).log_changes == -math.inf).all()


def test_what_cannot_be_left_out_is_refused_by_name():
    x, net = torch.randn(6, 3, dtype=torch.float64), Net().double()
    with pytest.raises(ValueError, match=r"layer stem changes the shape of the state .* cannot be left out"):
        st.leave_out(net, x)
    with pytest.raises(ValueError, match=r"layer stem changes the shape of the state .* cannot be swapped"):
        st.swap_neighbours(net, x)
    assert len(st.leave_out(net, x, sets=[["blocks.1"]]).layers) == 7  # the others may have any shape
    for sets, words in [
        ([], "empty"),
        ([[]], "one layer or more"),
        ([[1, 1]], "each once"),
        ([[9]], "layer 9"),
        ([["head.x"]], "layer 'head.x'"),
    ]:
        with pytest.raises(ValueError, match=words):
            st.leave_out(net, x, "blocks", sets=sets)
    with pytest.raises(ValueError, match="together is 6"):
        st.leave_out(net, x, "blocks", together=6)
    with pytest.raises(ValueError, match="give one of them"):
        st.leave_out(net, x, "blocks", sets=[[0]], together=2)
    dropping = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    with pytest.raises(ValueError, match="draws random numbers"):
        st.leave_out(dropping, x)
    with pytest.raises(ValueError, match="no neighbours"):
        st.swap_neighbours(st.Chain("residual2_prelu", 1), X)


class Watchful(nn.Module):
    """Counts how often it runs, and adds it from the third time on."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])

    def forward(self, x):
        for part in self.parts:
            x = part(x) if not part._forward_hooks else part(x) + 1
        return x


def test_a_network_that_behaves_otherwise_when_it_is_followed_is_refused():
    with pytest.raises(ValueError, match="other values"):
        st.leave_out(Watchful().double(), torch.randn(4, 3, dtype=torch.float64))


def test_the_dataset_and_the_words():
    chain = st.Chain("residual2_prelu", 6, seeds=2)
    found = st.leave_out(chain, X, sets=[[0, 1], [5]])
    data = found.to_dataset()
    assert data["log_changes"].dims == ("case", "seed", "x")
    assert data["chosen"].to_numpy().tolist() == [[True, True, False, False, False, False], [False] * 5 + [True]]
    assert "1 to 2 of 6 layers left out, 2 cases" in repr(found)
    assert " to " in repr(found).partition("changes by")[2]
    assert " to " not in repr(st.leave_out(chain, X, sets=[[0, 1]])).partition("changes by")[2], "one case has no range"
    assert "<" in found._repr_html_()
    assert all(len(pair) == 2 for pair in st.swap_neighbours(chain, X).sets)
    assert list(itertools.chain(*st.swap_neighbours(chain, X).sets)) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
