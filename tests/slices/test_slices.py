"""Regions, values, level sets and integrals of networks over planes, and what is refused."""

import contextlib
import itertools
from fractions import Fraction

import hypothesis
import hypothesis.strategies as some
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stability as st

from .random_slices import euler

SQUARE = ([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0])


def square():
    return st.plane(*SQUARE, rectangle=True)


def perceptron(*widths, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        linear = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
    return nn.Sequential(linear[0], *(m for one in linear[1:] for m in (nn.ReLU(), one)))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(plane, points, seed=0):
    at = torch.rand((points, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return at if plane.rectangle else torch.where(at.sum(1, keepdim=True) > 1, 1 - at, at)


def agrees(module, plane, points=2000, bound=1e-12):
    f = st.restrict(module, plane)
    at = sample(plane, points)
    inputs = torch.from_numpy(plane.inputs(at.numpy()))
    module = module.double() if isinstance(module, nn.Module) else module
    with torch.no_grad():
        expected = torch.stack([module(x) for x in inputs])
    assert f(at).shape == expected.shape
    assert (f(at) - expected).abs().max() <= bound * max(1.0, expected.abs().max())
    assert euler(f) == 1
    assert abs(f.areas.sum() - (1 if plane.rectangle else 0.5)) < 1e-12
    assert (f.areas > 0).all()
    assert f.undecided == 0
    return f


def test_a_known_slice():
    f = st.restrict(nn.ReLU(), st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True))
    assert f.count() == st.Count(4, None, 4)
    np.testing.assert_allclose(np.sort(f.areas), [0.25] * 4, atol=1e-15)
    np.testing.assert_allclose(f.integral(), [0.25, 0.25], atol=1e-15)
    assert f.folds().shape == (4, 2, 2)
    assert len(f.polygons) == len(f.faces) == 4
    assert all(np.array_equal(f.vertices[face], polygon) for face, polygon in zip(f.faces, f.polygons, strict=True))


def test_every_point_has_the_value_of_the_module():
    model = perceptron(2, 32, 32, 1)
    f = st.restrict(model, square())
    assert f.count().regions == 795  # as regioncam finds
    at = sample(f.plane, 100_000)
    with torch.no_grad():
        expected = model.double()(2 * at - 1)
    # The module's own sums round as well.
    assert (f(at) - expected).abs().max() <= f.errors.max() + 1e-14
    assert f.errors.max() < 1e-12
    assert euler(f) == 1
    assert abs(f.areas.sum() - 1) < 1e-12
    assert f.undecided == 0


@pytest.mark.parametrize("rectangle", [False, True])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (perceptron(5, 12, 12, 3), (5,)),
        (nn.Sequential(nn.Linear(3, 6), nn.PReLU(6), nn.Linear(6, 6), nn.Hardtanh(), nn.Linear(6, 1)), (1, 3)),
        (nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(-0.2), nn.Linear(6, 4), nn.Softshrink(0.1)), (3,)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)), (1, 1, 6, 6)),
        (nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU6(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(4, 2)), (1, 1, 5)),
    ],
)
def test_modules(module, shape, rectangle):
    corners = [random(*shape, seed=seed) for seed in (1, 2, 3)]
    agrees(module, st.plane(*corners, rectangle=rectangle), points=300)


FUNCTIONS = {
    "abs": lambda h: (h.abs() - 0.3).abs(),
    "clamp": lambda h: h.clamp(-0.2, 0.4),
    "maximum": lambda h: torch.maximum(h, h.flip(0) * 0.5),
    "minimum": lambda h: torch.minimum(h, torch.ones(3, dtype=torch.float64) * 0.1),
    "where": lambda h: torch.where(h > 0, 2 * h, h),
    "masked": lambda h: h * (h > 0),
    "amax": lambda h: h.amax(0),
    "norm": lambda h: torch.linalg.vector_norm(h, 1),
    "largest modulus": lambda h: h.norm(torch.inf),
    "cat": lambda h: torch.cat([h.relu(), (-h).relu()]),
    "residual": lambda h: h + F.relu(h @ torch.ones(3, 3, dtype=torch.float64) - 0.2),
    "in place": lambda h: F.relu_(h + 0) + h.sum(),
    "cummax": lambda h: torch.cummax(h, 0).values,
    "sort": lambda h: h.relu().sort().values,
    "topk": lambda h: torch.cat([h, -2 * h]).topk(2).values,
    "median": lambda h: torch.cat([h, 0.5 - h.flip(0)]).median(),
    "kthvalue": lambda h: torch.outer(h, torch.tensor([1.0, 2.0], dtype=torch.float64)).kthvalue(2, dim=0).values,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    corners = [random(3, seed=seed) for seed in (4, 5, 6)]
    f = agrees(FUNCTIONS[name], st.plane(*corners), points=300)
    exact = st.restrict(FUNCTIONS[name], st.plane(*corners), exact=True)
    assert exact.exact
    assert exact.count() == f.count()
    assert exact.areas.sum() == Fraction(1, 2)
    assert f.count().folds > 0


def test_parallel_branches_share_their_kinks():
    def both(h):
        return torch.cat([h.relu(), (-h).relu(), h.abs()])

    f = st.restrict(both, square())
    assert f.count() == st.Count(4, None, 4)


def test_edges_where_nothing_bends_are_no_folds():
    class Dead(nn.Module):
        def forward(self, h):
            return (-(h.relu().sum() + 1)).relu() + h[0]

    f = st.restrict(Dead(), square())
    assert f.count() == st.Count(0, None, 4)
    losing = st.restrict(lambda h: torch.stack([h[0].relu(), h[0] * 0 + 9]).amax(0), square())
    assert losing.count() == st.Count(0, None, 2)


def test_no_region_for_an_order_that_does_not_matter():
    # Of three the lower two change places where the third is above both.
    f = st.restrict(lambda h: torch.stack([h[0], h[1], h[0] * 0 + 0.5]).amax(0), square())
    assert f.count() == st.Count(3, None, 3)


def test_no_region_where_other_ranks_change():
    # Of three the lower two change places where the third is above both.
    f = st.restrict(lambda h: torch.stack([h[0], h[1], h[0] * 0 + 0.5]).topk(1).values, square())
    assert f.count() == st.Count(3, None, 3)
    f = st.restrict(lambda h: torch.cat([h[:1], -h[:1], h[:1] * 0]).median(), square())
    assert f.count().folds == 0
    assert not f.values.any()


def test_the_births_of_an_order_are_windows():
    def net(h):
        return torch.stack([h, torch.stack([h[0] * 0 - 9, h[1] - 0.5])]).sort(1).values @ torch.ones(2)

    def both(h):
        return (torch.stack([h - h.flip(0), h[0] - h]).sort(1).values * torch.tensor([1.0, 3.0])).sum(1)

    for exact in (False, True):
        assert st.restrict(net, square(), exact=exact).count().folds == 0
        born = st.restrict(both, square(), exact=exact).folds(births=True)
        assert (set(born.layers.tolist()), set(born.units.tolist())) == ({0}, {0})
        born = st.restrict(lambda h: both(h)[1:], square(), exact=exact).folds(births=True)
        assert set(born.units.tolist()) == {0}  # along one edge both are; the first is named


def test_an_order_of_too_many_is_refused():
    with pytest.raises(ValueError, match="too much to hold: give a smaller plane"):
        st.restrict(lambda h: (h[0] * torch.arange(5000.0) + h[1]).sort().values, square())


def test_what_the_origin_does_to_a_network_without_biases():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 5, bias=False), nn.ReLU(), nn.Linear(5, 1, bias=False))
    f, exact = (st.restrict(model, square(), exact=exactly) for exactly in (False, True))
    assert f.count() == exact.count() == st.Count(10, None, 10)
    assert f.undecided == 0  # rounding leaves it open, and rational numbers settle it


def test_affine_maps_and_gradients():
    model = perceptron(2, 8, 8, 2)
    f = st.restrict(model, square())
    for region, polygon in enumerate(f.polygons):
        gradient, shift = f.affine(region)
        middle = polygon.mean(axis=0)
        np.testing.assert_allclose(gradient @ middle + shift, f(middle[None])[0], atol=1e-10)
    exact = st.restrict(model, square(), exact=True)
    gradient, shift = exact.affine(0)
    corner = exact.corners[exact.offsets[0] + 1]
    assert ((gradient * exact.vertices[corner]).sum(axis=-1) + shift == exact.values[corner]).all()


def test_integrals_and_extremes():
    model = perceptron(2, 8, 1)
    f = st.restrict(lambda x: model.double()(x)[0], square())
    grid = (np.arange(400) + 0.5) / 400
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    values = f(points)
    assert abs(f.integral() - values.mean()) < 1e-5
    low, place = f.minimum()
    high, top = f.maximum()
    assert low <= values.min() < low + 0.02
    assert high >= values.max() > high - 0.02
    assert abs(f(place[None])[0] - low) < 1e-12
    assert abs(f(top[None])[0] - high) < 1e-12
    exact = st.restrict(lambda x: model.double()(x)[0], square(), exact=True)
    assert isinstance(exact.integral(), Fraction)
    assert abs(float(exact.integral()) - f.integral()) < 1e-14


def test_level_sets():
    ring = st.restrict(lambda x: x.abs().sum(), square())
    (line,) = ring.level_sets(0.5)
    assert (line[0] == line[-1]).all()
    np.testing.assert_allclose(np.abs(2 * line - 1).sum(axis=1), 0.5, atol=1e-15)
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    assert abs(length - 4 * 0.25 * 2**0.5) < 1e-12
    assert ring.level_sets(3.0) == []
    model = perceptron(2, 16, 16, 1)
    f = st.restrict(lambda x: model.double()(x)[0], square())
    middle = float(np.median(f.values))
    for line in f.level_sets(middle):
        np.testing.assert_allclose(f(line.clip(0, 1)), middle, atol=1e-13)
        closed = (line[0] == line[-1]).all()
        at_rim = [np.minimum(end, 1 - end).min() < 1e-12 for end in (line[0], line[-1])]
        assert closed or all(at_rim)


some_seeds = some.integers(0, 10_000)


@hypothesis.given(seed=some_seeds)
@hypothesis.settings(max_examples=10, deadline=None)
def test_laws(seed):
    model = perceptron(3, 6, 6, 1, seed=seed).double()
    p, q, r = (random(3, seed=3 * seed + i) for i in range(3))
    f = st.restrict(lambda x: model(x)[0], st.plane(p, q, r))
    double = st.restrict(lambda x: 2 * model(x)[0] + 1, st.plane(p, q, r))
    assert double.count() == f.count()
    np.testing.assert_allclose(double.integral(), 2 * f.integral() + 0.5, atol=1e-13)
    # The corners in another order.
    turned = st.restrict(lambda x: model(x)[0], st.plane(q, r, p))
    assert turned.count() == f.count()
    np.testing.assert_allclose(np.sort(turned.areas), np.sort(f.areas), atol=1e-12)
    # The rim is a line.
    rim = st.restrict(lambda x: model(x)[0], st.segment(p, q))
    at = np.linspace(0, 1, 11)
    np.testing.assert_allclose(f(np.stack([at, 0 * at], 1)), rim(at), atol=1e-13)
    on_rim = (f.vertices[f.edges][:, :, 1] == 0).all(axis=1)
    assert on_rim.sum() == rim.count().regions
    # Two triangles are a parallelogram.
    both = st.restrict(lambda x: model(x)[0], st.plane(p, q, r, rectangle=True))
    other = st.restrict(lambda x: model(x)[0], st.plane(q + r - p, r, q))
    np.testing.assert_allclose(f.integral() + other.integral(), both.integral(), atol=1e-12)


@pytest.mark.parametrize(
    ("corners", "error", "message"),
    [
        (([0.0, 0.0], [1.0, 1.0], [2.0, 2.0]), ValueError, "lie on one line"),
        (([0.0, 0.0], [0.0, 0.0], [2.0, 1.0]), ValueError, "lie on one line"),
        (([0.1, 0.3], [0.2, 0.6], [0.4, 1.2]), ValueError, "lie on one line"),
        (([0.0, 0.0], [1.0, np.nan], [2.0, 1.0]), ValueError, "q"),
        (([0.0, 0.0], [1.0, 2.0, 3.0], [2.0, 1.0]), ValueError, "one shape three times"),
        ((0.0, 1.0, 2.0), ValueError, "at least two entries"),
        ((["a", "b"], [1.0, 2.0], [2.0, 1.0]), TypeError, "p"),
    ],
)
def test_planes_that_are_none(corners, error, message):
    with pytest.raises(error, match=message):
        st.plane(*corners)


def test_a_corner_of_several_inputs_is_none():
    corners = [(random(2, seed=seed), random(2, seed=9)) for seed in (1, 2, 3)]
    with pytest.raises(TypeError, match="p is a tuple of several inputs: a plane is of one tensor"):
        st.plane(*corners)


def test_nearly_degenerate_planes_are_planes():
    f = st.restrict(lambda x: x.relu().sum(), st.plane([-1.0, -1.0], [1.0, 1.0], [1.0, np.nextafter(1.0, 2)]))
    assert euler(f) == 1


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (nn.Linear(3, 1), ValueError, "takes"),
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), TypeError, "gelu.*module '1'"),
        (lambda h: h.round(), TypeError, "jumps"),
        (lambda h: torch.where(h > 0, h + 1, h), TypeError, "jumps near u ="),
        (lambda h: h * h, TypeError, "product"),
        (lambda h: h + torch.rand(2), TypeError, "random"),
        (lambda h: h * (1 + 1e-9 * isinstance(h, torch.Tensor)), TypeError, "what kind of object"),
        (lambda h: (h, h), TypeError, "one tensor"),
        (nn.Linear, TypeError, "the class Linear"),
        (3, TypeError, "net is a int"),
        ([[0, 1, 0, 1, 0, 0]], TypeError, "interval"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), TypeError, "train mode"),
    ],
)
def test_refusals(net, error, message):
    with pytest.raises(error, match=message):
        st.restrict(net, square())


def test_refused_arguments():
    with pytest.raises(ValueError, match="window"):
        st.restrict(nn.ReLU(), square(), window=10)
    with pytest.raises(ValueError, match=r"more than memory=1e-05 GiB"):
        st.restrict(perceptron(2, 64, 64, 1), square(), memory=1e-5)
    with pytest.raises(TypeError, match="interval"):
        st.restrict(st.Chain("plain_prelu", 3), square())
    f = st.restrict(nn.ReLU(), square())
    for points, message in (([0.5, 0.5], "expected"), ([[0.5, 1.5]], "outside"), ([[0.5, np.nan]], "points")):
        with pytest.raises(ValueError, match=message):
            f(points)
    with pytest.raises(ValueError, match="need a scalar"):
        f.level_sets()
    with pytest.raises(ValueError, match="need a scalar"):
        f.minimum()
    bad = perceptron(2, 4, 1)
    bad[0].weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="weight"):
        st.restrict(bad, square())
    bad = perceptron(2, 4, 1)
    bad[0].bias.data[0] = torch.inf
    for exact in (False, True):
        for domain in (square(), st.segment([0.0, 1.0], [1.0, 0.0])):
            with pytest.raises(ValueError, match=r"the module's 0\.bias"):
                st.restrict(bad, domain, exact=exact)


def test_values_beyond_the_range_of_floats_are_named():
    for exact in (False, True):
        with pytest.raises(ValueError, match="leave float64's range"):
            st.restrict(lambda h: 1e308 * h.relu() * 1e5, square(), exact=exact)
    for seed in range(6):
        net = perceptron(2, 3, 2, seed=seed).double()
        net[0].weight.data.fill_(1e308)
        # Rational numbers are asked where rounding leaves it open, and there they are too large.
        with contextlib.suppress(ValueError):
            assert np.isfinite(st.restrict(net, square()).values).all()


def test_points_as_tensors_arrays_and_none():
    f = st.restrict(nn.ReLU(), square())
    assert f(np.empty((0, 2))).shape == (0, 2)
    assert isinstance(f(torch.rand(3, 2)), torch.Tensor)
    assert isinstance(f(np.random.default_rng(0).random((3, 2))), np.ndarray)


def test_a_refusal_says_over_what_a_network_was_followed():
    with pytest.raises(TypeError, match=r"tanh cannot be followed over a plane"):
        st.restrict(torch.tanh, st.plane([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    with pytest.raises(TypeError, match=r"tanh cannot be followed along a line"):
        st.restrict(torch.tanh, (0.0, 1.0))


def test_edges_that_hang_on_others_alone_are_taken_away_first():
    # Max pooling draws edges that nothing needs; some are all that joins others to the rim of a region.
    with torch.random.fork_rng():
        torch.manual_seed(6)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten())
        net.append(nn.Linear(12, 2))
    corners = [3 * random(1, 1, 6, 6, seed=18 + i) for i in range(3)]
    agrees(net, st.plane(*corners), points=300)


def test_exact_cuts_have_room_where_edges_were_taken_away():
    with torch.random.fork_rng():
        torch.manual_seed(149)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten())
        net.append(nn.Linear(12, 2))
    plane = st.plane(*(3 * random(1, 1, 6, 6, seed=447 + i) for i in range(3)), rectangle=True)
    f = st.restrict(net.double(), plane, exact=True)
    assert f.areas.sum() == 1
    assert f.count() == st.restrict(net, plane).count()


def test_entries_that_a_cut_made_equal_are_no_doubt_in_later_cuts(monkeypatch):
    # Without rational numbers, which would settle it.
    monkeypatch.setattr("stability.slices.follow.BUDGET", 0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    plane = st.plane(*(random(1, 1, 6, 6, seed=3 + i) for i in range(3)))
    f = st.restrict(net, plane)
    assert f.undecided == 0
    assert f.count() == st.restrict(net, plane, exact=True).count()
