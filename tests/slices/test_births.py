"""Where the folds of slices are born: by layer, module and unit, against what forward hooks see on both sides."""

import itertools

import pytest
import torch
from torch import nn

import stability as st

from .births_by_hooks import changed_units, named_units
from .test_slices import random


class Residual(nn.Module):
    """Blocks with an activation of their own, one that all share, and a way around them."""

    def __init__(self, width, blocks):
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.own = nn.ModuleList([nn.PReLU(), nn.Hardtanh(-0.5, 0.25), nn.LeakyReLU(0.2)][i % 3] for i in range(blocks))
        self.shared, self.last = nn.ReLU(), nn.Linear(width, 2)

    def forward(self, h):
        for inner, own, outer in zip(self.inner, self.own, self.outer, strict=True):
            h = h + outer(self.shared(own(inner(h))))
        return self.last(self.shared(h))


class Branches(nn.Module):
    """Two branches of which the outputs are combined."""

    def __init__(self, width):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(3, width), nn.ReLU())
        self.right = nn.Sequential(nn.Linear(3, width), nn.LeakyReLU(0.25), nn.Linear(width, width), nn.ReLU())
        self.last = nn.Linear(3 * width, 1)

    def forward(self, h):
        left, right = self.left(h), self.right(h)
        return self.last(torch.cat([left, right, left - right], dim=-1))


def perceptron(*widths):
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutions(act):
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), act, nn.MaxPool2d(2), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)),
    )


NETS = {
    "layers": (lambda: perceptron(3, 5, 4, 2), (3,)),
    "wrapped": (lambda: nn.Sequential(nn.Sequential(perceptron(3, 5, 4), nn.ReLU()), nn.Linear(4, 1)), (3,)),
    "residual": (lambda: Residual(3, 3), (3,)),
    "branches": (lambda: Branches(3), (3,)),
    "pooled": (lambda: convolutions(nn.ReLU()), (1, 1, 6, 6)),
    "pooled before": (lambda: convolutions(nn.Identity()), (1, 1, 6, 6)),
}


def slice_of(kind, seed, exact=False, coarse=False):
    make, shape = NETS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make().double()
    if coarse:  # so that kinks meet
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_((2 * parameter).round() / 2)
    corners = [3 * random(*shape, seed=3 * seed + i) for i in range(3)]
    corners = [(2 * corner).round() / 2 for corner in corners] if coarse else corners
    return net, st.restrict(net, st.plane(*corners, rectangle=bool(seed % 2)), exact=exact)


def births_are_right(kind, seeds, **how):
    """Hold the births of all folds against the hooks; return how many there are, and at how many several units meet."""
    folds = several = narrow = 0
    for seed in seeds:
        net, f = slice_of(kind, seed, **how)
        assert f.undecided == 0
        found = changed_units(net, f)
        for named, changed in zip(named_units(f), found, strict=True):
            if changed is not None:
                assert named == changed[0], (kind, seed, how)
                several += len(changed) > 1
        narrow += sum(one is None for one in found)
        count = f.count(births=True)
        assert sum(count.births) == count.folds == len(found)
        folds += len(found)
    assert narrow <= folds // 50
    return folds, several


@pytest.mark.parametrize("kind", NETS)
def test_births_are_those_that_hooks_see(kind):
    folds, several = births_are_right(kind, range(5))
    assert folds > 50
    if "pooled" not in kind:  # where the entries that are dead leave it open which is the largest
        assert several == 0


@pytest.mark.parametrize("kind", ["layers", "residual", "branches", "pooled before"])
def test_births_where_kinks_meet(kind):
    folds, several = births_are_right(kind, range(3), exact=True, coarse=True)
    assert folds > several > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETS)
def test_births_of_many_networks(kind):
    folds, _ = births_are_right(kind, range(100, 200))
    assert folds > 1000
