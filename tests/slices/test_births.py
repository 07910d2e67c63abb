"""Where the folds of slices are born: by layer, module and unit, against what forward hooks see on both sides."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import stability as st

from .births_by_hooks import both_sides, changed_units, named_units
from .test_slices import random, square


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
    "branches": (lambda: Branches(5), (3,)),
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
    # Only what follows an activation at once has its kinks where that has its own.
    assert (several > 0) == (kind in ("residual", "pooled"))


@pytest.mark.parametrize("kind", ["layers", "residual", "branches", "pooled before"])
def test_births_where_kinks_meet(kind):
    folds, several = births_are_right(kind, range(8), exact=True, coarse=True)
    assert folds > several > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETS)
def test_births_of_many_networks(kind):
    folds, _ = births_are_right(kind, range(100, 200))
    assert folds > 1000


def slopes_by_autograd(net, f, x):
    """Return the derivatives of all entries along the two sides of the plane, (entries, 2)."""
    rows = torch.autograd.functional.jacobian(net, x).reshape(f.shape.numel(), -1)
    sides = [torch.from_numpy(corner - f.plane.p).flatten() for corner in (f.plane.q, f.plane.r)]
    return rows @ torch.stack(sides, dim=1)


def bends_of_entries(net, f):
    """Return the edges inside that are not too narrow, and which entries bend there, (edges, entries)."""
    inside = np.flatnonzero((f.beside >= 0).all(axis=1))
    pairs = list(both_sides(f, inside))
    wide = [pair is not None for pair in pairs]
    slopes = [[slopes_by_autograd(net, f, x) for x in pair] for pair in pairs if pair is not None]
    size = max(1.0, max(float(one.abs().max()) for one, _ in slopes))
    return inside[wide], np.stack([((one - other).abs() > 1e-11 * size).any(dim=1).numpy() for one, other in slopes])


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", ["layers", "residual", "pooled before"])
def test_an_entry_has_the_folds_of_itself_alone(kind, exact):
    net, f = slice_of(kind, 1)
    with torch.no_grad():
        rows = next(p for name, p in reversed(list(net.named_parameters())) if name.endswith("weight"))
        rows[0, ::2], rows[1, 1::2] = 0, 0  # so that most units bend one entry alone
    f = st.restrict(net, f.plane, exact=exact)
    edges, bends = bends_of_entries(net, f)
    assert (bends[:, 0] != bends[:, 1]).any()
    index = [(0,) * (len(f.shape) - 1) + (entry,) for entry in range(2)]
    for entry in range(2):
        g = f[index[entry]]
        assert g.shape == ()
        np.testing.assert_array_equal(g.values, f.values.reshape(len(f.values), -1)[:, entry])
        np.testing.assert_array_equal(g.bent[edges], bends[:, entry])
        assert g.count().regions == f.count().regions
        assert sum(g.count(births=True).births) == g.count().folds
        alone = st.restrict(lambda x, at=index[entry]: net(x)[at], f.plane, exact=exact)
        assert (alone.count(), alone.undecided) == (g.count(), 0)
        assert alone.count(births=True).births == g.count(births=True).births
        assert named_units(alone) == named_units(g) or not exact
        assert g.undecided == 0
    either = f[index[0]].bent | f[index[1]].bent
    np.testing.assert_array_equal(either, f.bent)
    assert f[...].count() == f.count()


def test_an_entry_that_sees_part_of_a_layer_leaves_nothing_open():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Unflatten(-1, (4, 2, 2)), nn.ConvTranspose2d(4, 2, 2, 2))
    net = nn.Sequential(*net, nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)).double()
    f = st.restrict(net, square())
    few = 0
    for row, column in itertools.product(range(4), repeat=2):
        alone = st.restrict(lambda x, row=row, column=column: net(x)[..., 0, row, column], square()).count()
        assert f[..., 0, row, column].count() == alone
        assert f[..., 0, row, column].undecided == alone.undecided == 0
        few += alone.folds < f.count().folds
    assert few


def test_entries_are_those_of_an_array():
    _, f = slice_of("layers", 0)
    assert (f[:1].shape, f[[1, 0]].shape, f[-1].shape) == ((1,), (2,), ())
    np.testing.assert_array_equal(f[[1, 0]].values, f.values[:, [1, 0]])
    assert f[[1, 0]][1].count(births=True).births == f[0].count(births=True).births
    assert f[0].maximum()[0] == f.values[:, 0].max()
    assert repr(f[0].folds(births=True)).startswith(f"Births(folds={f[0].count().folds}, modules=('")
    with pytest.raises(ValueError, match=r"take one entry, such as f\[0\]"):
        f.maximum()
    for index, message in ((2, r"shape \(2,\): index 2 is out of bounds"), ((0, 0), "too many indices"), ("a", "only")):
        with pytest.raises(IndexError, match=message):
            f[index]
    with pytest.raises(IndexError, match="takes none"):
        f[2:]
    assert [g.count() for g in f] == [f[0].count(), f[1].count()]
    with pytest.raises(TypeError, match="no entries"):
        list(f[0])


def test_entries_do_not_change_with_the_network():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        net[2].weight[0, ::2] = 0  # that these units do not bend the first entry the weights alone tell
    f = st.restrict(net, square())
    before = [f[i].count() for i in range(3)]
    assert before[0].folds < before[1].folds
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.3)
    assert [f[i].count() for i in range(3)] == before


def test_slices_can_be_stored():
    for kind in ("layers", "residual"):
        for exact in (False, True):
            _, f = slice_of(kind, 0, exact=exact)
            for g in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f), f.to_float()):
                assert named_units(g) == named_units(f)
                assert [g[i].count(births=True).births for i in range(2)] == [
                    f[i].count(births=True).births for i in range(2)
                ]


def test_births_of_operations_that_are_no_modules():
    ways = {
        "abs": (lambda h: h.abs().sum(), [(0, "", 0), (0, "", 1)]),
        "clamp": (lambda h: h.clamp(-0.5, 0.5).sum(), [(0, "", 0), (0, "", 1)]),
        "maximum": (lambda h: torch.maximum(h, -h.flip(0)).sum(), [(0, "", 0)]),
        "where": (lambda h: torch.where(h > 0, 2 * h, h)[1], [(0, "", 1)]),
        "amax": (lambda h: h.reshape(1, 2).amax(1), [(0, "", 0)]),
        "twice": (lambda h: (h.relu() + 0.5).relu().sum() + (h - 0.25).relu().sum(), None),
    }
    for name, (net, units) in ways.items():
        for exact in (False, True):
            f = st.restrict(net, square(), exact=exact)
            assert units is None or sorted(set(named_units(f))) == units, name
            assert sum(f.count(births=True).births) == f.count().folds
    assert set(f.folds(births=True).layers.tolist()) == {0, 2}
    assert f.count(births=True).births[1] == 0


def test_a_window_that_shares_its_entries_is_named_where_its_own_largest_changes():
    # Both windows compare the first two entries; in the first one a third is larger on half of the plane.
    pool = nn.MaxPool2d((1, 3), stride=(1, 1), padding=(0, 1))

    def net(h):
        rows = torch.stack([h[1] * 0 + 3 * h[0] + 0.5, h[0] - h[0], h[1], h[1] * 0 - 9])
        return pool(rows.reshape(1, 1, 1, 4)).reshape(4) @ torch.tensor([0.3, 0.5, 0.7, 1.1], dtype=torch.float64)

    for exact in (False, True):
        f = st.restrict(net, square(), exact=exact)
        born = f.folds(births=True)
        for (p, q), window in zip(np.asarray(born.at, dtype=float), born.units, strict=True):
            # A step aside, and the first window of which the largest entry is another one.
            middle, normal = (p + q) / 2, np.array([p[1] - q[1], q[0] - p[0]])
            sides = [2 * (middle + way * 1e-4 * normal) - 1 for way in (1, -1)]
            entries = [[3 * x + 0.5, 0, y, -9] for x, y in sides]
            seen = [range(max(0, i - 1), min(4, i + 2)) for i in range(4)]
            largest = [[max(window, key=row.__getitem__) for window in seen] for row in entries]
            assert window == next(i for i, (a, b) in enumerate(zip(*largest, strict=True)) if a != b)
        assert len(set(born.units.tolist())) > 1


def test_of_kinks_along_one_edge_the_first_is_named():
    # The upper kink of each unit is the lower one of the other, which is drawn first.
    def clamped(h):
        return torch.stack([h[0], -h[0]]).clamp(-0.5, 0.5) @ torch.tensor([1.0, 3.0])

    # Along this edge the entries change places, but the middle one does not.
    def median(h):
        return torch.stack([h[0], -h[0], h[0] * 0]).median() + h.relu() @ torch.tensor([1.0, 2.0])

    for exact in (False, True):
        assert set(named_units(st.restrict(clamped, square(), exact=exact))) == {(0, "", 0)}
        assert set(named_units(st.restrict(median, square(), exact=exact))) == {(1, "", 0), (1, "", 1)}


def test_of_kinks_in_one_place_of_a_line_the_first_is_named():
    def clamped(h):
        return torch.cat([h, -h]).clamp(-0.5, 0.5) @ torch.tensor([1.0, 3.0])

    def shrunk(h):
        return functional.softshrink(torch.cat([h, -h]), 0.5) @ torch.tensor([1.0, 3.0])

    def branches(h):  # the later branch comes first in the sum
        other = (-2 * h).relu()
        return (h.relu() + 3 * other)[0]

    for net in (clamped, shrunk, branches):
        for exact in (False, True):
            assert set(named_units(st.restrict(net, st.segment([-1.0], [1.5]), exact=exact))) == {(0, "", 0)}


def test_a_fold_has_the_name_of_the_innermost_module_that_has_one():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.acts = [nn.ReLU()]  # of which torch knows nothing

        def forward(self, h):
            return self.acts[0](h)

    net = nn.Sequential(nn.Sequential(nn.Linear(2, 4), Block()), nn.Linear(4, 1)).double()
    for domain in (square(), st.segment([-5.0, -4.0], [5.0, 6.0])):
        assert set(st.restrict(net, domain).folds(births=True).modules) == {"0.1"}


def test_count_takes_planes():
    net, f = slice_of("residual", 0)
    assert st.count(net, f.plane) == f.count()
    assert st.count(net, f.plane, births=True).births == f.count(births=True).births


def test_a_function_along_a_line_is_not_counted_over_a_plane():
    with pytest.raises(TypeError, match="has no values over a plane"):
        st.count(st.restrict(perceptron(1, 8, 1), (-1, 1)), square())
