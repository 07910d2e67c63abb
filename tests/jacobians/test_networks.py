"""Spectra of networks against the singular values of Jacobians that are formed one point at a time."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

import stability as st
from stability.jacobians.of_networks import states_of
from stability.reading.derivatives import Derivative
from stability.reading.read import read

from .oracle import log_singular_values


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explicit_layers(blocks, x):
    """Jacobians by torch.autograd.functional, one point and one block at a time: [depth][point] -> (m, n)."""
    states, layers = [point[None] for point in x], []
    for block in blocks:
        layers.append(
            [
                torch.autograd.functional.jacobian(
                    lambda v, block=block, shape=h.shape: block(v.reshape(shape)).flatten(), h.flatten()
                )
                for h in states
            ]
        )
        states = [block(h).detach() for h in states]
    return layers


def assert_spectrum(s, blocks, x, tolerance=1e-8, points=None):
    layers = explicit_layers(blocks, x)
    for point in range(len(x)) if points is None else points:
        product = None
        for depth, layer in enumerate(layers):
            product = layer[point] if product is None else layer[point] @ product
            expected = torch.linalg.svdvals(product).log()
            # Formed in float64, a product holds the values down to its rounding noise.
            safe = expected > expected[0] + math.log(1e-6)
            k = len(expected)
            assert (s.log_values[depth, 0, point, :k] - expected).abs()[safe].max() < tolerance


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, h):
        return functional.relu(h + self.body(h), inplace=True)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.layers = nn.Sequential(*[Residual(4) for _ in range(6)])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 10))

    def forward(self, image):
        return self.head(self.layers(self.stem(image)))


def resnet():
    torch.manual_seed(0)
    net = ResNet().double()
    net(rand(16, 3, 6, 6))  # running statistics of its own
    return net.eval()


def transformer(layers=12):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).double().eval()


def test_a_transformer_of_12_blocks_equals_its_explicit_jacobians():
    net, x = transformer(), rand(3, 5, 8)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)  # the copies that torch makes are all alike
    s = st.spectrum(net, x)
    assert s.log_values.shape == (12, 1, 3, 40)
    assert s.layers[0] == "layers.0"
    assert len(s.layers) == 12
    assert_spectrum(s, net.layers, x)
    assert s.self_check.passed.all()


def test_a_resnet_equals_its_explicit_jacobians():
    net, x = resnet(), rand(2, 3, 6, 6)
    whole = st.spectrum(net, x)
    blocks = tuple(f"layers.{i}" for i in range(6))
    assert whole.layers == ("stem.0", "stem.1", *blocks, "head.0", "head.1")
    assert_spectrum(whole, [*net.stem, *net.layers, *net.head], x)
    s = st.spectrum(net, x, layers="layers")
    assert s.layers == blocks
    assert_spectrum(s, net.layers, net.stem(x).detach())
    some = st.spectrum(net, x, layers=["layers.0", "layers.1"])
    assert torch.equal(some.log_values, s.log_values[:2])


def test_a_list_of_modules_is_a_list_of_blocks():
    net, h = resnet(), rand(2, 4, 6, 6)
    found = [st.spectrum(blocks, h).log_values for blocks in (nn.ModuleList(net.layers), list(net.layers), net.layers)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_layers_that_change_the_width():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 7)).double()
    x = rand(3, 6)
    s = st.spectrum(net, x)
    assert s.log_values.shape == (5, 1, 3, 6)
    assert s.sizes == (6, 6, 4, 4, 4)
    assert torch.equal(s.ranks, torch.tensor([6, 6, 4, 4, 4])[:, None, None].expand(5, 1, 3))
    assert s.distance_from_identity is None
    assert_spectrum(s, net, x)


def test_prelu_where_the_batch_is_as_large_as_the_width():
    # torch.vmap(torch.func.jacrev(nn.PReLU())) is silently wrong, or fails, where the batch equals the channels.
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(5, 5), nn.PReLU(5))]).double()
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.9)
    assert_spectrum(st.spectrum(net, rand(5, 5)), net, rand(5, 5))


SMOOTH = st.Architecture("smooth", skip=1, maps=2, activation="tanh")


@pytest.mark.parametrize(("name", "width"), [*((name, 4) for name in (*st.ARCHITECTURES, SMOOTH)), (SMOOTH, 1)])
def test_chains_of_any_width(name, width):
    chain, x = st.Chain(name, 12, seeds=3, width=width), rand(2, width)
    s = st.spectrum(chain, x if width > 1 else x[:, 0])
    assert s.log_values.shape == (12, 3, 2, width)
    assert s.members == (0, 1, 2)
    for member in range(3):
        one = st.Chain(name, 12, seeds=[member], width=width)
        for point in range(2):
            h, layers = (x if width > 1 else x[:, 0])[point][None, None], []
            for step in one.steps:
                layers.append(
                    torch.autograd.functional.jacobian(
                        lambda v, step=step, shape=h.shape: step(v.reshape(shape)).flatten(), h.flatten()
                    ).numpy()
                )
                h = step(h).detach()
            expected = log_singular_values(layers, 120)
            found = s.log_values[-1, member, point].numpy()
            np.testing.assert_array_equal(found == -math.inf, expected == -math.inf)
            alive = expected > -math.inf
            np.testing.assert_allclose(found[alive], expected[alive], atol=1e-9)
    data = s.to_dataset()
    assert data.log_values.dims == ("depth", "seed", "x", "index")


def test_a_deep_chain_of_width_16_is_right_where_a_product_is_not():
    chain, x = st.Chain("plain_prelu", 200, seeds=1, width=16), rand(1, 16)
    s = st.spectrum(chain, x)
    layers = [jacobian[0] for jacobian in [layer.numpy()[None] for layer in _chain_layers(chain, x)]]
    expected = log_singular_values(layers, 900)
    np.testing.assert_allclose(s.log_values[-1, 0, 0], expected, atol=1e-9)
    assert s.log_condition[-1].item() > math.log(1e100)
    assert s.self_check.passed.all()


def _chain_layers(chain, x):
    h = x[None]
    for step in chain.steps:
        yield torch.autograd.functional.jacobian(
            lambda v, s=step, shape=h.shape: s(v.reshape(shape)).flatten(), h.flatten()
        )
        h = step(h).detach()


def test_callables_of_ones_own_and_points_in_portions():
    weights = [rand(6, 6, seed=seed) / math.sqrt(6) for seed in range(8)]
    blocks = [lambda h, w=w: h + torch.sin(h @ w) for w in weights]
    x = rand(7, 6, seed=9)
    whole = st.spectrum(blocks, x)
    assert_spectrum(whole, blocks, x)
    # Memory for two points at a time.
    parts = st.spectrum(blocks, x, memory=2.5 * 8 * (8 * 36 + 6 * 36) / 2**30)
    for name in ("log_values", "undecided", "distance_from_identity", "log_product_distance"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    assert torch.equal(parts.self_check.bound, whole.self_check.bound)
    assert torch.equal(parts.self_check.reversed, whole.self_check.reversed)
    assert torch.equal(parts.x, x)
    with pytest.raises(ValueError, match=r"the Jacobians of one point take .* GiB .*: the budget is 1e-07 GiB"):
        st.spectrum(blocks, x, memory=1e-7)


def test_jacobians_take_the_cheaper_mode(monkeypatch):
    rows = []
    pull, push = Derivative.pull, Derivative.push
    monkeypatch.setattr(Derivative, "pull", lambda d, v: rows.append(("pull", len(v))) or pull(d, v))
    monkeypatch.setattr(Derivative, "push", lambda d, v: rows.append(("push", len(v))) or push(d, v))

    def widen(h):
        return torch.cat([h, h * h, torch.sin(h)], dim=1)

    for net, x, expected, shape in (
        (widen, rand(4, 2), ("push", 2), (4, 6, 2)),
        (lambda h: widen(h).sum(dim=1, keepdim=True), rand(4, 6), ("pull", 1), (4, 1, 6)),
    ):
        with states_of(read([net], x)) as (names, states):
            rows.clear()
            assert Derivative(names[0], *states).jacobian().shape == shape
        assert rows == [expected]


def test_float32_models_are_held_to_their_own_precision():
    net, x = resnet().float(), rand(2, 3, 6, 6).float()
    s = st.spectrum(net, x, layers="layers")
    exact = st.spectrum(net.double(), x.double(), layers="layers")
    assert (s.log_values - exact.log_values).abs()[..., :50].max() < 1e-3
    assert (s.self_check.input_bound > 1e8 * s.self_check.value_bound).all()


# --- leading values ---


@pytest.fixture
def approached(monkeypatch):
    """Approach leading values in narrow states as well, where all of them cost no more."""
    monkeypatch.setattr("stability.jacobians.of_networks.ALL_UP_TO", 0)
    monkeypatch.setattr("stability.jacobians.of_networks.ALL_UP_TO_EACH", 0)


def test_leading_values_of_narrow_states_are_those_of_all():
    layers = [nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 5)]
    net, x = nn.Sequential(*layers).double(), rand(3, 6)
    with torch.no_grad():
        net[3].weight[1:] = net[3].weight[:1]  # rank 1, but for rounding
    full = st.spectrum(net, x)
    assert full.undecided[-1].max() > 0 or full.ranks[-1].max() == 1
    for k in (1, 3):
        leading = st.spectrum(net, x, k=k)
        assert torch.equal(leading.log_values, full.log_values[..., :k])
        assert leading.sizes == (k,) * 4
        zeros = (leading.log_values == -math.inf).sum(dim=-1)
        assert torch.equal(leading.undecided, torch.minimum(full.undecided, zeros))
        assert leading.residuals is None
        assert leading.self_check.passed.all()
        assert leading.distance_from_identity is None


@pytest.mark.usefixtures("approached")
def test_leading_values_without_jacobians():
    net, x = resnet(), rand(2, 3, 6, 6)
    full, leading = st.spectrum(net, x), st.spectrum(net, x, k=3)
    assert leading.log_values.shape == (10, 1, 2, 3)
    assert leading.residuals.max() < 1e-5
    assert (leading.log_values - full.log_values[..., :3]).abs().max() < 1e-9
    assert leading.self_check is None


@pytest.mark.usefixtures("approached")
def test_leading_vectors_at_a_right_angle_to_all_before_are_found():
    """The last layer takes up strongly what those before it have all but lost."""
    n = 40
    one = torch.ones(20, dtype=torch.float64)
    first, last = torch.diag(torch.cat([one, 1e-8 * one])), torch.diag(torch.cat([1e-8 * one, 1e12 * one]))
    net = nn.Sequential(*(nn.Linear(n, n, bias=False, dtype=torch.float64) for _ in range(2)))
    with torch.no_grad():
        net[0].weight.copy_(first)
        net[1].weight.copy_(last)
    s = st.spectrum(net, rand(1, n), k=2)
    assert s.log_values[0, 0, 0].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert s.log_values[1, 0, 0].tolist() == pytest.approx([math.log(1e4)] * 2, abs=1e-12)
    with torch.no_grad():  # not so far apart that rounding alone shows the way
        net[0].weight.copy_(torch.diag(torch.cat([one, 1e-4 * one])))
        net[1].weight.copy_(torch.diag(torch.cat([1e-2 * one, 1e3 * one])))
    s = st.spectrum(net, rand(1, n), k=2)
    assert s.log_values[1, 0, 0].tolist() == pytest.approx([math.log(0.1)] * 2, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_no_leading_value_of_wide_states(dtype):
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(400, 2), nn.Linear(2, 400)

        def forward(self, h):
            return self.up(self.down(h))

    torch.manual_seed(0)
    net = nn.Sequential(Bottleneck(), Bottleneck()).to(dtype)
    s = st.spectrum(net, torch.randn(1, 400, dtype=dtype), k=4, progress=False)
    assert s.ranks.flatten().tolist() == [2, 2]
    assert s.undecided.flatten().tolist() == [2, 2]


@pytest.mark.usefixtures("approached")
@pytest.mark.parametrize("held", [True, False])
def test_a_derivative_that_is_not_finite_is_no_leading_value(held, monkeypatch):
    if not held:
        monkeypatch.setattr("stability.jacobians.leading_values.HELD", 0)

    class Elu(nn.Module):
        def forward(self, h):
            return torch.where(h <= 0, torch.exp(h) - 1, h)  # exp overflows, and 0 times inf is NaN

    net = nn.Sequential(nn.Linear(4, 4), Elu(), nn.Linear(4, 4)).double()
    x = rand(2, 4)
    with torch.no_grad():
        net[0].bias[1] = 1000.0
    with pytest.raises(ValueError, match=r"layer 1.* not finite|layer 1 .* disagree \(by nan\)"):
        st.spectrum(net, x, k=2)


@pytest.mark.usefixtures("approached")
def test_a_value_that_is_zero_has_no_residual():
    net = nn.Sequential(nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)).double()
    with torch.no_grad():
        net[0].weight.zero_()[0, 0] = 2.0
    s = st.spectrum(net, rand(1, 12), k=2)
    assert s.log_values[0, 0, 0].tolist() == [pytest.approx(math.log(2)), -math.inf]
    assert s.residuals[..., 0].max() < 1e-12
    assert s.residuals[..., 1].isnan().all()


@pytest.mark.usefixtures("approached")
def test_leading_values_of_a_deep_chain_and_all_of_a_narrow_one():
    chain, x = st.Chain("plain_prelu", 60, seeds=2, width=6), rand(3, 6)
    full = st.spectrum(chain, x)
    for k in (1, 2, 6):
        leading = st.spectrum(chain, x, k=k)
        assert (leading.log_values - full.log_values[..., :k]).abs().max() < 1e-8, k
        assert leading.residuals.max() < 1e-6


@pytest.mark.usefixtures("approached")
def test_residuals_tell_what_has_not_converged(monkeypatch):
    from stability.jacobians import leading_values

    monkeypatch.setattr(leading_values, "ROUNDS", 1)
    matrix = torch.diag(torch.linspace(1, 0.9, 40, dtype=torch.float64))
    s = st.spectrum([lambda h: h @ matrix], rand(1, 40), k=2)
    errors = (s.log_values[0, 0, 0] - torch.tensor([1.0, 1 - 0.1 / 39], dtype=torch.float64).log()).abs()
    assert (errors > 1e-4).any()
    assert (s.residuals[0, 0, 0] > 1e-3).all()
    assert (errors <= s.residuals[0, 0, 0]).all()


@pytest.mark.usefixtures("approached")
def test_leading_values_of_a_layer_that_cannot_be_differentiated_twice_are_refused(monkeypatch):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(_, h):
            return 2 * h

        @staticmethod
        def backward(_, gradient):
            return 2 * gradient

    class Once(Twice):
        @staticmethod
        @once_differentiable
        def backward(_, gradient):
            return 2 * gradient

    for function in (Twice.apply, Once.apply):
        full = st.spectrum([function], rand(2, 3))
        assert torch.equal(full.log_values, torch.full((1, 1, 2, 3), math.log(2), dtype=torch.float64))
    held = st.spectrum([Once.apply], rand(2, 3), k=1)  # its Jacobian is small enough to be formed
    assert held.log_values.flatten().tolist() == pytest.approx([math.log(2)] * 2, abs=1e-14)
    monkeypatch.setattr("stability.jacobians.leading_values.HELD", 0)
    leading = st.spectrum([Twice.apply], rand(2, 3), k=1)
    assert leading.log_values.flatten().tolist() == pytest.approx([math.log(2)] * 2, abs=1e-14)
    with pytest.raises(ValueError, match=r"layer 0 has no forward mode of differentiation"):
        st.spectrum([Once.apply], rand(2, 3), k=1)


# --- refusals ---


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, h):
        return self.second(2 * self.first(h))


def test_networks_that_have_no_such_spectrum_are_refused():
    x = rand(3, 4)
    linear = nn.Linear(4, 4).double()
    for net, points, options, error, message in (
        (
            nn.Sequential(linear, nn.BatchNorm1d(4).double()),
            x,
            {},
            ValueError,
            r"BatchNorm1d '1' is in train.*eval",
        ),
        (nn.Sequential(linear, nn.Dropout(0.5)), x, {}, ValueError, r"Dropout '1' drops out at random.*eval"),
        (
            [linear, lambda h: functional.dropout(h, 0.5)],
            x,
            {},
            ValueError,
            r"draws random numbers when it runs, in Function '1': it has no one Jacobian",
        ),
        ([linear, lambda h: h - h.mean(dim=0)], x, {}, ValueError, r"layer 1 gives no point a Jacobian of its own"),
        ([linear, lambda h: h - h.mean(dim=0)], x, {"k": 1}, ValueError, "points depend on one another in it"),
        (
            [linear, lambda h: h[:2]],
            x,
            {},
            ValueError,
            r"after layer 1 the state has shape \(2, 4\).* batch of 3 points",
        ),
        ([linear, nn.Linear(5, 5).double()], x, {}, ValueError, r"does not take x of shape \(3, 4\).*cannot be multip"),
        ([linear, lambda h: h.detach()], x, {}, ValueError, "output does not depend on its input by a graph"),
        (
            [linear, lambda h: h / 0],
            x,
            {},
            ValueError,
            r"the state after layer 1 .* not finite, the first .* at \(0, 0\)",
        ),
        ([lambda h: (h * 0).abs().sqrt()], x, {}, ValueError, r"the Jacobian of layer 0 .* not finite at point 0"),
        (
            [lambda h: h * 1e-160] * 3,
            x,
            {},
            ValueError,
            "after layer 1 .* below the smallest normal number",
        ),
        ([linear, "relu"], x, {}, TypeError, "layer 1 is a str: expected a callable"),
        ([], x, {}, ValueError, "has no layers"),
        ([linear], x.long(), {}, ValueError, "does not take x of shape .* and torch.int64"),
        ([lambda h: h.double()], x.long(), {}, ValueError, "whole numbers that no embedding turns into states"),
        ([linear], [1.0], {}, TypeError, "x is a list: expected a tensor"),
        ([linear], x[:0], {}, ValueError, r"x has shape \(0, 4\): expected the batch of points first"),
        ([linear], x * math.nan, {}, ValueError, "x has 12 values that are not finite"),
        ([linear], x, {"k": 0}, ValueError, "k is 0"),
        ([linear], x, {"k": 5}, ValueError, "k is 5: the states have as few as 4 numbers"),
        ([linear], x, {"memory": -1}, ValueError, "memory is -1"),
        (3, x, {}, TypeError, "net is a int: expected a stability.Chain"),
        (Branches().double(), x, {"layers": "layers"}, ValueError, "layers is 'layers': .* none there are"),
        (Branches().double(), x.float(), {}, ValueError, r"does not take x of shape \(3, 4\) and torch.float32"),
        (resnet(), rand(2, 3, 6, 6), {"layers": "layer"}, ValueError, "one of 'stem', 'layers', 'head'"),
        (
            resnet(),
            rand(2, 3, 6, 6),
            {"layers": ["layers.0", "layers.2"]},
            ValueError,
            "between layers.0 and layers.2 the network calls .*layers.1",
        ),
        (resnet(), rand(3, 6, 6)[:1], {}, ValueError, "ResNet does not take x of shape"),
        (Branches().double(), x, {"layers": ["third"]}, ValueError, r"unknown module in layers= 'third': known"),
        (
            Branches().double(),
            x,
            {"source": "third"},
            ValueError,
            r"source is 'third': expected the number or the name",
        ),
        (Branches().double(), x, {"source": 1}, ValueError, "source is 1: there are 1 positional inputs"),
        (
            Branches().double(),
            x,
            {"batch_dim": 2},
            ValueError,
            r"x has shape \(3, 4\): expected the batch .* dimension 2",
        ),
        (st.Chain("plain_relu", 3, width=2), rand(3, 3), {}, ValueError, r"a chain of width 2 takes \(points, 2\)"),
        (st.Chain("plain_relu", 3, width=2), rand(3, 2).float(), {}, TypeError, "x is torch.float32 and the chain is"),
        (st.Chain("plain_relu", 3, width=2), rand(3, 2), {"layers": "steps"}, ValueError, "leave out layers="),
    ):
        with pytest.raises(error, match=message):
            st.spectrum(net, points, progress=False, **options)


def test_what_has_no_module_belongs_to_the_layer_before_it():
    net, x = Branches().double(), rand(3, 4)
    s = st.spectrum(net, x)
    assert s.layers == ("first", "second")
    assert_spectrum(s, [lambda h: 2 * net.first(h), net.second], x)


def test_a_wrong_derivative_is_caught_by_a_probe():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(_, h):
            return h.clone()

        @staticmethod
        def backward(_, gradient):
            return gradient * (1 + 1e-9 * gradient.abs())  # not linear

    with pytest.raises(ValueError, match=r"layer 0 at point . disagrees with a random probe .* not linear"):
        st.spectrum([Wrong.apply], rand(2, 3))


@pytest.mark.usefixtures("approached")
def test_a_derivative_that_differs_between_the_modes_is_caught(monkeypatch):
    monkeypatch.setattr("stability.jacobians.leading_values.HELD", 0)

    class Twofold(torch.autograd.Function):
        @staticmethod
        def forward(_, gradient):
            return 2 * gradient

        @staticmethod
        def backward(_, gradient):
            return gradient

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(_, h):
            return 2 * h

        @staticmethod
        def backward(_, gradient):
            return Twofold.apply(gradient)

    with pytest.raises(ValueError, match="the derivatives of layer 0 in forward and in backward mode disagree"):
        st.spectrum([Wrong.apply], rand(2, 3), k=1)
    full = st.spectrum([Wrong.apply], rand(2, 3))  # which takes the backward pass alone
    assert torch.equal(full.log_values, torch.full((1, 1, 2, 3), math.log(2), dtype=torch.float64))


def test_tokens_go_through_the_model_and_states_are_differentiated():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 8, batch_first=True) for _ in range(3)])

        def forward(self, tokens):
            h = self.embed(tokens)
            for block in self.blocks:
                h = block(h)
            return h.sum()

    torch.manual_seed(0)
    net, tokens = Language().double().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    s = st.spectrum(net, tokens)
    # What takes the points together at the end is no layer, and the source is what the embedding makes.
    assert s.layers == ("embed", "blocks.0", "blocks.1", "blocks.2")
    assert s.log_values.shape == (4, 1, 2, 24)
    assert s.log_values[0].abs().max() < 1e-14
    alone = st.spectrum(net, tokens[:1])  # as for one point
    torch.testing.assert_close(alone.log_values[:, 0, 0, :12], s.log_values[:, 0, 0, :12], rtol=0, atol=1e-9)
    # Layer normalisation after the block takes away the mean and the length of every token: two ranks each.
    assert_spectrum(st.spectrum(net, tokens, layers="blocks"), net.blocks, net.embed(tokens).detach())


# --- exponents ---


def test_exponents_of_gaussian_matrices_are_newmans():
    for n in (1, 2, 5):
        layers = np.random.default_rng(n).standard_normal((6000, n, n))
        found = st.lyapunov(layers, progress=False)
        z = (found.exponents.numpy() - st.theory.gaussian_exponents(n)) / found.standard_errors.numpy()
        assert abs(z).max() < 4
        assert found.standard_errors.max() < 0.05


def test_exponents_of_triangular_matrices_are_the_means_of_the_diagonal():
    # For one triangular matrix over and over they are the logs of its eigenvalues: both signs, and zero.
    layer = np.triu(np.ones((3, 3)), 1) + np.diag([math.e, 1.0, 1 / math.e])
    found = st.lyapunov([layer] * 400, progress=False)
    np.testing.assert_allclose(found.exponents, [1, 0, -1], atol=1e-9)
    assert found.standard_errors.max() < 1e-9
    finite = st.spectrum([layer] * 400).finite_time_exponents[-1]
    assert abs(finite - torch.tensor([1.0, 0, -1])).max() > 1e-4  # what is left of the first layers at this depth


def test_exponents_of_chains_and_of_dead_ones():
    chain, x = st.Chain("plain_prelu", 2000, seeds=20, init="uniform"), torch.tensor([0.5], dtype=torch.float64)
    found = st.lyapunov(chain, x)
    assert found.exponents.shape == (20, 1, 1)
    mean, error = found.pooled()
    assert abs(mean.item() + 1 + math.log(4) / 2) < 4 * error.item()
    wide = st.lyapunov(st.Chain("plain_prelu", 100, seeds=3, width=3), rand(2, 3), progress=False)
    assert wide.exponents.shape == (3, 2, 3)
    assert (wide.exponents[..., :-1] >= wide.exponents[..., 1:]).all()
    dead = st.lyapunov(st.Chain("plain_relu", 200, seeds=3, width=2), rand(1, 2), progress=False)
    assert (dead.exponents[..., -1] == -math.inf).all()
    assert (dead.standard_errors[..., -1] == 0).all()
    assert torch.isfinite(dead.standard_errors).all()
    with pytest.raises(ValueError, match="has 5 layers: an asymptotic exponent"):
        st.lyapunov(st.Chain("plain_prelu", 5), x)
    with pytest.raises(TypeError, match="x is missing"):
        st.lyapunov(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="pooling needs two seeds or more"):
        st.lyapunov([np.eye(2)] * 40).pooled()


def test_a_block_that_stands_in_a_sequential_twice_is_two_layers():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    shared = st.spectrum(nn.Sequential(block, block, block), x)
    alike = st.spectrum([block, block, block], x)
    assert len(shared.log_values) == 3
    assert torch.equal(shared.log_values, alike.log_values)


def test_exponents_fall_and_those_of_matrices_without_a_batch_can_be_printed():
    found = st.lyapunov(torch.randn(60, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert (found.exponents.diff() <= 0).all()
    assert repr(found).startswith(f"LyapunovExponents({float(found.exponents[0]):+.4g}")
    torch.manual_seed(0)
    chain = st.Chain("residual2_prelu", 40, seeds=3, width=3)
    assert (
        st.lyapunov(chain, torch.randn(4, 3, dtype=torch.float64), progress=False).exponents.diff(dim=-1) <= 0
    ).all()
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(40))).double()
    with pytest.raises(ValueError, match="pooling needs two seeds or more, of which a module is one"):
        st.lyapunov(net, rand(5, 3), progress=False).pooled()


def test_a_network_whose_one_point_is_all_of_a_vector_has_a_dataset():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    s = st.spectrum(net, rand(3), batch_dim=None, progress=False)
    assert dict(s.to_dataset().sizes) == {"depth": 3, "seed": 1, "x": 1, "index": 3}
