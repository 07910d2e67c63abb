"""Values at points of regions that rounding makes narrow, and networks of any format and compiled ones."""

import numpy as np
import pytest
import torch
from torch import nn

import stability as st
from tests.models import compiled

from .random_slices import Network
from .test_slices import perceptron, sample, square


def values(net, plane, at):
    return torch.stack([net(x) for x in torch.from_numpy(plane.inputs(np.asarray(at)))])


@pytest.mark.parametrize("apart", [2.0**-60, 2.0**-54, 3 * 2.0**-53, 2.0**-51, -(2.0**-51)])
def test_a_region_that_rounding_makes_one_place_has_no_points(apart):
    def net(h):
        return h[0].relu() + 3 * h[1].relu() + (h[0] + 0.7 * h[1] - apart).relu()

    plane = st.plane([-1.0, -0.9], [1.0, -0.8], [-0.8, 1.1], rectangle=True)
    exact = st.restrict(net, plane, exact=True)
    assert exact.areas.min() < 1e-29
    at = sample(plane, 500)
    f = exact.to_float()
    assert (f(at) - values(net, plane, at)).abs().max() < 1e-13
    # Of such a region there is no slope.
    assert np.isnan(f.gradients[f.areas < 1e-29]).all()
    assert (np.abs(f.gradients[f.areas > 1e-29]) < 20).all()


@pytest.mark.parametrize("width", [1e-9, 1e-13, 1e-14, 1e-15])
def test_values_in_narrow_regions(width):
    def net(h):
        across = 0.6 * h[0] + 0.8 * h[1]
        return 5 * h[1] + across.relu() + (across - width).relu()

    f = st.restrict(net, square(), exact=True).to_float()
    random = np.random.default_rng(0)
    t, share = random.uniform(-0.9, 0.9, 400), random.random(400) * width
    at = (np.stack([0.6 * share - 0.8 * t, 0.6 * t + 0.8 * share], 1) + 1) / 2
    assert np.abs(f(at) - values(net, f.plane, at).numpy()).max() < 1e-14


# Of these networks regions have corners that rounding alone keeps off a straight side.
@pytest.mark.parametrize("seed", [647, 782, 1785, 2203, 2442, 2904])
def test_values_on_edges_and_between_corners(seed):
    net, random = Network(seed), np.random.default_rng(0)
    f = st.restrict(net, net.plane(), exact=True).to_float()
    places = [
        one + random.random((4, 1)) * (other - one)
        for apart in (1, 2)
        for polygon in f.polygons
        for one, other in zip(polygon, np.roll(polygon, apart, axis=0), strict=True)
    ]
    at = np.concatenate([f.vertices, f.vertices[f.edges].mean(axis=1), *places])
    at = at if net.rectangle else at[at.sum(axis=1) <= 1]
    expected = values(net, f.plane, at.clip(0, 1)).numpy()
    assert np.abs(f(at.clip(0, 1)) - expected).max() < 1e-12 * max(1, np.abs(f.values).max())


def test_functions_of_modules_of_any_format():
    model = perceptron(2, 8, 8, 2)
    for domain in (square(), st.segment([-1.0, 0.0], [1.0, 0.5])):
        found = [st.restrict(lambda h, net=net: net(h)[0], domain).count() for net in (model.float(), model.double())]
        assert found[0] == found[1]
        model.float()
    half = perceptron(2, 8, 8, 2).bfloat16()
    found = [st.restrict(lambda h, net=net: net(h)[0], square()).count() for net in (half, half.double())]
    assert found[0] == found[1]
    with pytest.raises(TypeError, match="what kind of object"):
        st.restrict(lambda h: model(h) * (1 + 1e-2 * isinstance(h, torch.Tensor)), square())


@pytest.mark.filterwarnings("ignore")  # what torch.compile says as it compiles
@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
def test_compiled_networks_are_followed_as_they_are_written(how):
    line = st.segment([-3.0, 0.0], [3.0, 1.5])
    net = nn.Sequential(perceptron(2, 8, 8), perceptron(8, 8, 1)).double()
    over, along = st.restrict(net, square()).count(), st.count(net, line, births=True)
    net = compiled(net, how, part=0)
    assert st.restrict(net, square()).count() == over
    assert st.count(net, line, births=True) == along
    assert along.folds > 0
