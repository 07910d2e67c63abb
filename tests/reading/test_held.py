"""Modules inside functions and losses are left as they were, wherever they are held."""

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

import stability as st
from stability.reading.traces import unchanged

NORM = nn.BatchNorm1d(4)  # named by a function as a global


def cleared(norm):
    norm.reset_running_stats()
    return norm


class Held:
    """A loss that is an object, with a module and a count."""

    def __init__(self, norm):
        self.norm, self.calls, self.sizes = norm, 0, []

    def __call__(self, y):
        self.calls += 1
        self.sizes.append(float(y.detach().norm()))
        return self.norm(y).square().mean() + y.square().mean()

    def method(self, y):
        return self(y)


def by_global(y):
    return NORM(y).square().mean() + y.square().mean()


def losses(norm):
    """By name, losses that hold a batch normalisation, each in another way."""
    held = Held(norm)
    cleared(NORM)
    return {
        "closure": lambda y: norm(y).square().mean() + y.square().mean(),
        "closure in a closure": lambda y: (lambda z: norm(z))(y).square().mean() + y.square().mean(),
        "default": lambda y, one=norm: one(y).square().mean() + y.square().mean(),
        "partial": functools.partial(lambda one, y: one(y).square().mean() + y.square().mean(), norm),
        "object": held,
        "method": held.method,
        "module": nn.Sequential(norm, Square()),
        "global": by_global,
        "list": functools.partial(lambda ones, y: ones[0](y).square().mean() + y.square().mean(), [norm]),
    }


class Square(nn.Module):
    def forward(self, y):
        return (y + 0.1).square().mean()


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


VERBS = {
    "first_nonfinite": lambda net, x, loss: st.first_nonfinite(net, x, loss),
    "gradient_norms": lambda net, x, loss: st.gradient_norms(net, x, loss),
    "examine": lambda net, x, loss: st.examine(net, x, loss, optimizer=torch.optim.Adam(net.parameters()), budget=5),
    "first_failure": lambda net, x, loss: st.first_failure(net, x, ["float16"], loss, progress=False),
}


def states():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", losses(nn.BatchNorm1d(4)))
def test_a_module_in_a_loss_is_left_as_it_was(how, verb):
    norm = nn.BatchNorm1d(4)
    every = losses(norm)
    loss, net = every[how], network()
    before, known = states(), [t.clone() for one in (norm, NORM) for t in one.state_dict().values()]
    VERBS[verb](net, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), loss)
    after = [t for one in (norm, NORM) for t in one.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(known, after, strict=True))
    assert torch.equal(before[0], states()[0])
    assert before[1:] == states()[1:]
    assert every["object"].calls == 0
    assert not every["object"].sizes


def test_a_loss_that_draws_and_counts_leaves_no_trace():
    generator, seen, mean = torch.Generator().manual_seed(5), [], torch.zeros(())
    count = 0

    def loss(y):
        nonlocal count
        count += 1
        seen.append(count)
        mean.add_(1)
        noise = torch.rand((), generator=generator) + random.random() + float(np.random.rand())  # noqa: NPY002
        return (y * noise * torch.rand(())).square().mean()

    net = network()
    before, own = states(), generator.get_state()
    for verb in ("first_nonfinite", "gradient_norms"):
        VERBS[verb](net, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), loss)
        assert torch.equal(before[0], states()[0])
        assert before[1:] == states()[1:]
        assert torch.equal(own, generator.get_state())
        assert (count, seen, float(mean)) == (0, [], 0.0)


def test_a_module_in_a_callable_of_the_network_is_left_as_it_was():
    norm = nn.BatchNorm1d(4)
    known = [t.clone() for t in norm.state_dict().values()]
    held = Held(norm)
    for net in (
        [nn.Linear(4, 4), lambda h: norm(h)],
        [nn.Linear(4, 4), lambda h: held(h) + h],
        [nn.Linear(4, 4), functools.partial(norm)],
    ):
        assert st.first_nonfinite(net, torch.randn(6, 4), lambda y: y.square().mean()) is None
        st.gradient_norms(net, torch.randn(6, 4), lambda y: y.square().mean(), batch_dim=None)
        assert all(torch.equal(one, other) for one, other in zip(known, norm.state_dict().values(), strict=True))
    assert held.calls == 0


COUNT = 0
WIDTH = torch.tensor(1.0, requires_grad=True)
TABLE = torch.zeros(1025, 1024, requires_grad=True)  # more numbers than count as a state


def by_what_is_global(y):
    global COUNT
    COUNT += 1
    return (y * WIDTH + TABLE[0, 0]).square().mean()


def test_globals_that_a_loss_binds_or_that_get_a_gradient_are_left_as_they_were():
    net, x = network(), torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    with unchanged(by_what_is_global):
        by_what_is_global(net(x)).backward()
        assert COUNT == 1
        assert WIDTH.grad is not None
    assert COUNT == 0
    assert WIDTH.grad is None
    assert TABLE.grad is None
