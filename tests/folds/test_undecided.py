"""What float64 leaves open is said: without undecided signs, what is found is what rational arithmetic finds."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import stability as st
from stability.folds import replay

LINE = (-2, 2)


class Wrapped(nn.Module):
    """Takes a network off the fast way for layers, onto the rules for single operations."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


class Skipping(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        first, *inner, last = self.layers
        h = first(x)
        for layer in inner:
            h = h + functional.prelu(layer(h), torch.tensor([0.25], dtype=h.dtype))
        return last(h)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return layer


def layers(widths, seed, coarse):
    random = np.random.default_rng(seed)

    def draw(inputs, *shape):
        return (random.integers(-3, 4, shape) / 2 if coarse else random.uniform(-1, 1, shape) / inputs**0.5).tolist()

    return [linear(draw(n, m, n), draw(n, m)) for n, m in itertools.pairwise(widths)]


def perceptron(widths, seed, coarse):
    first, *rest = layers(widths, seed, coarse)
    return nn.Sequential(first, *(module for layer in rest for module in (nn.ReLU(), layer)))


def assert_certain_or_said(net):
    """Where nothing is undecided the counts are those of rational arithmetic. Returns whether nothing was."""
    found, exact = st.restrict(net, LINE).count(), st.restrict(net, LINE, exact=True).count()
    if found.undecided == 0:
        assert (found.folds, found.turns, found.regions) == (exact.folds, exact.turns, exact.regions)
    return found.undecided == 0


widths = some.lists(some.integers(1, 4), min_size=1, max_size=3).map(lambda inner: [1, *inner, 1])


@given(widths, some.integers(0, 10**6), some.booleans())
def test_networks_without_undecided_signs_are_counted_right(widths, seed, coarse):
    net = perceptron(widths, seed, coarse)
    assert_certain_or_said(net)
    assert_certain_or_said(Wrapped(net))


@given(some.integers(1, 4), some.integers(1, 3), some.integers(0, 10**6))
def test_residual_networks_agree_with_rational_arithmetic_within_their_bounds(width, depth, seed):
    net = Skipping(layers([1, *[width] * (depth + 1), 1], seed, coarse=False))
    assert_certain_or_said(net)
    f, exact = st.restrict(net, LINE), st.restrict(net, LINE, exact=True)
    true = exact._at(np.array([Fraction(t) for t in f.knots.tolist()], dtype=object))
    errors = abs(f.values - true.astype(np.float64))
    # The true values are rounded once more where they are compared.
    assert (errors <= f._errors[: len(f.knots)] + 2.0**-53 * abs(f.values)).all()


def test_ordinary_networks_leave_nothing_undecided():
    for seed in range(60):
        net = perceptron([1, 6, 6, 1], seed, coarse=False)
        assert assert_certain_or_said(net)
        assert assert_certain_or_said(Wrapped(net))


def test_a_dead_plateau_is_flat():
    net = nn.Sequential(linear([[-0.1], [-0.6]], [0.1, 0.4]), nn.ReLU(), linear([[-0.3, -0.5]], [0.0]))
    f = st.restrict(net, LINE)
    assert f.slopes[-1] == 0
    assert f.count().turns == f.undecided == 0


def test_kinks_that_rounding_parts_are_joined_by_rational_numbers(monkeypatch):
    net = nn.Sequential(
        linear([[3], [2]], [2, -1]), nn.ReLU(), linear([[-1, 2], [0, 2]], [3, -2]), nn.ReLU(), linear([[2, -2]], [0])
    )
    assert st.restrict(net, LINE, exact=True).count().regions == 5
    for one in (net, Wrapped(net)):
        assert assert_certain_or_said(one)
        with monkeypatch.context() as patch:
            patch.setattr(replay, "BUDGET", 0)
            assert not assert_certain_or_said(one)


def test_folds_that_underflow_are_undecided():
    table = np.array([(0, 1, -0.0005, 1, 0, 0.25)] * 900)
    f = st.restrict(table, (-1, 1))
    assert st.count(table, (-1, 1)).folds == 900 > len(f.folds())
    assert f.undecided > 0
    assert st.restrict(table[:300], (-1, 1)).undecided == 0
    prelu = nn.PReLU().double()

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.prelu = prelu

        def forward(self, x):
            for _ in range(900):
                x = self.prelu(x - 0.0005)
            return x

    f = Loop()(st.segment([-1.0], [1.0]))
    assert len(f.folds()) == 900  # what underflows is held as a number that its error leaves open
    assert f.undecided > 0


@pytest.mark.parametrize("row", [(1, 5, 0, -0.2, 0, 1), (1, 10, 0, -0.1, 0, 1)])
def test_gains_that_cancel_have_their_own_sign(row):
    # 1 - 5 * 0.2 is not 0, as 0.2 is no fifth.
    table = np.array([(0, 1, 0, 1, 0, -1), row])
    f, exact = st.restrict(table, (-1, 1)), st.count(table, (-1, 1))
    assert exact.folds == 1
    assert (f.count().folds, f.count().turns, f.undecided) == (exact.folds, exact.turns, 0)


def test_a_bend_below_the_last_bit_of_its_gains_is_undecided():
    table = np.array([[1e20, 1, 0, 1, 0, 0.25]])
    assert st.count(table, (-1, 1)).folds == 1
    f = st.restrict(table, (-1, 1))
    assert len(f.folds()) == 1 or f.undecided > 0


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_the_error_bounds_of_layers_hold_and_grow_with_the_weights(scale):
    random = np.random.default_rng(0)
    net = nn.Sequential(
        linear((scale * random.uniform(-1, 1, (5, 1))).tolist(), random.uniform(-1, 1, 5).tolist()),
        nn.LeakyReLU(0.3),
        linear((scale * random.uniform(-1, 1, (1, 5))).tolist(), [0.1]),
    )
    for model in (net, Wrapped(net)):
        f, exact = st.restrict(model, LINE), st.restrict(model, LINE, exact=True)
        true = exact._at(np.array([Fraction(t) for t in f.knots.tolist()], dtype=object)).astype(np.float64)
        error = abs(f.values - true)
        assert (error <= f._errors[: len(f.knots)] + 2.0**-53 * abs(true)).all()
        assert f._errors[: len(f.knots)].min() >= 1e-17 * scale**2


def test_the_bound_of_batch_normalisation_covers_a_mean_that_cancels():
    norm = nn.BatchNorm1d(1).double().eval()
    with torch.no_grad():
        norm.running_mean.fill_(1e8 + 0.1)
        norm.running_var.fill_(1 / 3)
        norm.bias.fill_((1e8 + 0.1) / (1 / 3 + norm.eps) ** 0.5)
    f = st.restrict(norm, LINE)
    variance, mean = Fraction(norm.running_var.item()) + Fraction(norm.eps), Fraction(norm.running_mean.item())
    root = Fraction(float(variance) ** 0.5)
    for _ in range(3):  # Newton's method in rationals: the root to 100 digits
        root = (root + variance / root) / 2
    true = [float((Fraction(float(t)) - mean) / root + Fraction(norm.bias.item())) for t in f.knots.tolist()]
    assert (abs(f.values - true) <= f._errors[: len(f.knots)]).all()
    assert abs(f.values - true).max() > 1e-10  # what the bound is for


def doubled(_, __, output):
    return 2 * output


@pytest.mark.parametrize(
    "place", ["activation", "linear", "model", "before", "everywhere", "forward", "pruned", "parametrised"]
)
def test_a_network_of_layers_that_was_changed_is_followed_as_it_is(place):
    net = perceptron([1, 4, 1], 0, coarse=False)
    handle = None
    if place == "activation":
        net[1].register_forward_hook(doubled)
    elif place == "linear":
        net[0].register_forward_hook(doubled)
    elif place == "model":
        net.register_forward_hook(doubled)
    elif place == "before":
        net[1].register_forward_pre_hook(lambda _, args: (args[0] - 0.3,))
    elif place == "everywhere":
        handle = nn.modules.module.register_module_forward_hook(doubled)
    elif place == "forward":
        net[1].forward = lambda x: functional.relu(x - 0.2)
    elif place == "pruned":
        prune.l1_unstructured(net[0], "weight", 2)
    else:
        nn.utils.parametrizations.weight_norm(net[0])
    try:
        f, x = st.restrict(net, LINE), torch.linspace(-2, 2, 41, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(f(x), net(x[:, None])[:, 0], rtol=1e-12, atol=1e-12)
    finally:
        if handle is not None:
            handle.remove()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layers_of_any_float_are_read_as_they_are(dtype):
    net = perceptron([1, 4, 1], 0, coarse=False).to(dtype)
    f, x = st.restrict(net, LINE), torch.linspace(-2, 2, 41, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(f(x), net.double()(x[:, None])[:, 0], rtol=1e-12, atol=1e-12)


def test_channels_that_do_not_fit_are_refused():
    image, row = (
        st.segment(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)),
        st.segment(torch.zeros(1, 2), torch.ones(1, 2)),
    )
    for layer, line in (
        (nn.BatchNorm2d(3).eval(), image),
        (nn.BatchNorm1d(3).eval(), row),
        (nn.PReLU(3), row),
        (nn.Conv2d(3, 2, 3), image),
    ):
        with pytest.raises(ValueError, match=rf"in the module \({type(layer).__name__}\): the layer takes 3 channels"):
            st.restrict(layer, line)


def test_functions_take_their_arguments_by_name():
    line = st.segment(torch.tensor([[0.0, 1.0, -2.0]] * 2), torch.tensor([[1.0, -1.0, 3.0]] * 2))
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    for call in (
        lambda x: functional.linear(input=x, weight=weight.to(x.dtype)),
        lambda x: torch.flatten(input=x),
        lambda x: torch.reshape(input=x, shape=(3, 2)),
        lambda x: torch.clamp(input=x, min=0.2),
        lambda x: torch.max(x, other=-x),
        lambda x: torch.sum(x, axis=1),
        lambda x: x.mean(axis=0),
        lambda x: torch.cat([x, x], axis=1),
    ):
        f = call(line)
        for t in (0.2, 0.7):
            torch.testing.assert_close(
                torch.from_numpy(np.asarray(f(t))), call(torch.from_numpy(line(t))), rtol=0, atol=1e-14
            )


def test_a_turn_between_two_windows_is_counted_once():
    left, right = st.PiecewiseLinear([0.0, 1.0], [0.0, 1.0]), st.PiecewiseLinear([1.0, 2.0], [1.0, 0.0])
    assert st.count([left, right]).turns == 1
    rising = st.PiecewiseLinear([1.0, 2.0], [1.0, 3.0])
    assert st.count([left, rising]).turns == 0


def test_a_network_that_gives_tensors_another_shape_is_refused():
    class TwoMinds(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1).double()

        def forward(self, x):
            y = self.linear(x)
            return torch.cat([y, y], dim=1) if isinstance(x, st.PiecewiseLinear) else y

    with pytest.raises(TypeError, match="asks what kind of object it is given"):
        st.restrict(TwoMinds(), LINE)


@pytest.mark.slow
def test_a_layer_too_wide_for_exact_arithmetic_leaves_undecided_what_it_would_decide():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4097), nn.ReLU(), nn.Linear(4097, 1)).double()
    with torch.no_grad():  # of two equal neurons float64 does not know that they are equal
        net[0].weight[1], net[0].bias[1] = net[0].weight[0] / 3, net[0].bias[0] / 3
    line = st.segment([-1.0, 0.5], [2.0, -1.0])
    assert st.restrict(net, line).undecided > 0
    with pytest.raises(ValueError, match="up to 4096"):
        st.restrict(net, line, exact=True)


def test_a_network_whose_maps_alone_are_beyond_the_budget_is_followed_once(monkeypatch):
    calls = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
            with torch.no_grad():
                self.net[0].weight[1], self.net[0].bias[1] = self.net[0].weight[0] / 3, self.net[0].bias[0] / 3

        def forward(self, x):
            if isinstance(x, st.PiecewiseLinear):
                calls.append(x.exact)
            return self.net(x)

    torch.manual_seed(0)
    net, line = Counted(), st.segment([-3.0, 1.0], [3.0, -2.0])
    exact = st.restrict(net, line)
    assert True in calls
    assert exact.undecided == 0
    calls.clear()
    # The maps alone are 2 x 8 / 10 and 8 / 10 products.
    monkeypatch.setattr(replay, "BUDGET", 2.3)
    assert st.restrict(net, line).undecided > 0
    assert True not in calls
    monkeypatch.setattr(replay, "BUDGET", 2.5)
    st.restrict(net, line)
    assert True in calls


@pytest.mark.parametrize(
    "choose",
    [
        lambda h: h.amax(0),
        lambda h: h.cummax(0).values,
        lambda h: h.sort(0).values[-1],
        lambda h: h.topk(1, 0).values,
        lambda h: torch.stack([*h, h[0] * 0 + 9]).median(0).values,
    ],
)
@pytest.mark.parametrize("how", ["a sum", "a layer", "small numbers", "a choice"])
def test_bends_that_rounding_alone_makes_none_are_undecided(how, choose):
    weights = torch.tensor([0.1, 0.2, -0.30000000000000004], dtype=torch.float64)  # which add up to -2.8e-17

    def bent(h):
        if how == "a sum":
            return 0.1 * h.relu() + 0.2 * h.relu() - 0.30000000000000004 * h.relu()
        if how == "a layer":
            return torch.stack([h.relu()] * 3, -1) @ weights
        if how == "small numbers":
            return h.relu() * 1e-200 * 1e-200
        return torch.where(h > 0, 3 * (0.1 * h), 0.30000000000000004 * h)  # the same number, rounded

    def along(h):
        # The larger one bends by less than the rounding, and the other one not at all.
        return choose(torch.stack([bent(h[:1]), h[:1] * 0 - 5]))

    lines = st.segment([-1.0, 0.5], [1.0, 0.5]), st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True)
    for line in lines:
        for net in (along, lambda h: torch.stack([along(h), along(h)])):  # of a vector slopes do not count
            f, exact = (st.restrict(net, line, exact=exactly).count() for exactly in (False, True))
            assert exact.folds == 1
            assert f == exact
