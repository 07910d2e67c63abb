"""Gradient norms of chains of any width and of modules, against automatic differentiation of the whole network."""

import copy
import math

import pytest
import torch
from torch import nn

import stability as st
from stability.foundation.log_norms import combine
from stability.foundation.scaled_tensors import Scaled

from ..models import ResidualBlock


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator(), dtype=dtype)


def log(value):
    wide = value.to(torch.complex128) if value.is_complex() else value.double()
    return wide.norm().log() if value.norm() > 0 else torch.tensor(-math.inf, dtype=torch.float64)


def assert_as_autograd(net, x, loss, tolerance=1e-10, **options):
    """Compare every parameter's norm with that of an ordinary backward pass; return the result."""
    reference = copy.deepcopy(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    g = st.gradient_norms(net, x, loss, **options)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed"
    assert all(value.grad is None for value in net.parameters())
    loss(reference(x)).backward()
    for name, value in reference.named_parameters():
        if value.requires_grad:
            assert g.named[name].item() == pytest.approx(log(value.grad).item(), abs=tolerance), name
    total = torch.cat([v.grad.flatten().double() for v in reference.parameters() if v.requires_grad])
    assert g.total.item() == pytest.approx(log(total).item(), abs=tolerance)
    return g


class ResNet(nn.Module):
    """Convolutions, batch normalisation in train mode, in-place activations, and a shortcut that changes the shape."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([ResidualBlock(4), ResidualBlock(4), ResidualBlock(8, 2), ResidualBlock(8)])
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean(dim=(2, 3)))


def test_resnet_in_train_mode():
    torch.manual_seed(0)
    net = ResNet().double()
    target = torch.tensor([0, 3, 1])
    g = assert_as_autograd(net, randn(3, 3, 8, 8), lambda y: nn.functional.cross_entropy(y, target))
    assert g.layers == ("stem", *(f"blocks.{i}" for i in range(4)), "head")
    assert g.path == "autograd"
    # The state before a block, from a pass of its own.
    states = {}
    for i, block in enumerate(net.blocks):
        block.register_forward_pre_hook(lambda _, args, i=i: states.setdefault(i, args[0]).retain_grad())
    nn.functional.cross_entropy(net(randn(3, 3, 8, 8)), target).backward()
    for i in range(4):
        assert g["input"][i + 1, 0].item() == pytest.approx(log(states[i].grad).item(), abs=1e-10)
        own = torch.cat([p.grad.flatten() for p in net.blocks[i].parameters()])
        assert g["parameters"][i + 1, 0].item() == pytest.approx(log(own).item(), abs=1e-10)
        weights = torch.cat([(p * p.grad).flatten() for p in net.blocks[i].parameters() if p.ndim > 1])
        assert g["relative"][i + 1, 0].item() == pytest.approx(log(weights).item(), abs=1e-10)
        biases = torch.cat([p.grad for n, p in net.blocks[i].named_parameters() if n.endswith("bias")])
        assert g["bias"][i + 1, 0].item() == pytest.approx(log(biases).item(), abs=1e-10)


def test_transformer_with_tied_and_frozen_parameters_and_dropout():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
            self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(4)])
            self.layers[3].linear1.weight = self.layers[1].linear1.weight
            self.unembed = nn.Linear(16, 11, bias=False)
            self.unembed.weight = self.embed.weight

        def forward(self, tokens):
            h = self.embed(tokens)
            for layer in self.layers:
                h = layer(h)
            return self.unembed(h)

    torch.manual_seed(0)
    net = Model().double()
    net.layers[0].norm1.weight.requires_grad_(False)
    tokens = torch.randint(0, 11, (3, 7), generator=generator())

    def loss(y):
        return nn.functional.cross_entropy(y.flatten(0, 1), tokens.flatten())

    net.eval()
    g = assert_as_autograd(net, tokens, loss)
    assert g.layers == ("embed", "layers.0", "layers.1", "layers.2", "layers.3", "unembed")
    assert g.present["input"].tolist() == [False] + [True] * 5
    # A tied weight counts with the whole of its gradient in both layers.
    tied = g.named["layers.1.linear1.weight"]
    assert (g["weight"][2] >= tied).all()
    assert (g["weight"][4] >= tied).all()
    ends = g["weight"][[0, 5], 0].tolist()  # the embedding, which is the unembedding too
    assert ends == pytest.approx([g.named["embed.weight"].item()] * 2, abs=1e-12)
    # Dropout is as it was, and so is the random generator.
    net.train()
    torch.manual_seed(3)
    g = st.gradient_norms(net, tokens, loss)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(state, torch.get_rng_state())
    loss(net(tokens)).backward()
    assert g.named["embed.weight"].item() == pytest.approx(log(net.embed.weight.grad).item(), abs=1e-10)


def test_perceptron_and_lists_of_modules():
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6)]
    net = nn.Sequential(*parts).double()
    g = assert_as_autograd(net, randn(5, 8), lambda y: y.square().sum())
    same = st.gradient_norms(parts, randn(5, 8), lambda y: y.square().sum())
    assert torch.equal(same["input"], g["input"])
    flat = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)).double()
    g = assert_as_autograd(flat, randn(5, 8), lambda y: y.square().sum())
    assert g.layers == ("0", "1", "2")
    named = assert_as_autograd(net, randn(5, 8), lambda y: y.square().sum(), layers=["1", "4.0"])
    assert named.layers == ("1", "4.0")


def test_what_passes_a_layer_by_is_taken_into_account():
    class Dense(nn.Module):
        """Every layer takes the sum of all before it, the head takes them all, and one layer is called twice."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(5)])

        def forward(self, x):
            states = [x]
            for layer in [*self.layers, self.layers[2]]:
                states.append(torch.tanh(layer(sum(states))))
            return torch.cat(states, dim=1)

    torch.manual_seed(0)
    assert_as_autograd(Dense().double(), randn(3, 4), lambda y: (y**3).sum())


class Residual(nn.Module):
    """A stack of blocks with a bypass, which is added in place or around a block that changes its state in place."""

    def __init__(self, block, in_place):
        super().__init__()
        self.stem, self.blocks = nn.Linear(5, 5).double(), nn.ModuleList([block() for _ in range(4)])
        self.in_place = in_place

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            if self.in_place:
                h += block(h)
            else:
                h = block(h) + h
        return h


@pytest.mark.parametrize("in_place", [True, False])
def test_states_that_are_changed_in_place(in_place):
    torch.manual_seed(0)
    net = Residual(lambda: nn.Sequential(nn.ReLU(inplace=not in_place), nn.Linear(5, 5)).double(), in_place)
    assert_as_autograd(net, randn(7, 5), lambda y: y.square().mean())
    x = randn(7, 5)
    st.gradient_norms(list(net.blocks), x, lambda y: y.sum())
    assert torch.equal(x, randn(7, 5))
    assert not x.requires_grad


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4).double()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(4, 2, batch_first=True).double() for _ in range(3)])

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h, key=h, value=h, need_weights=False)[0]
        return h


def test_a_state_that_is_query_key_and_value_is_one():
    torch.manual_seed(0)
    net, x = Attention(), randn(2, 6, 4)
    g = assert_as_autograd(net, x, lambda y: y.square().mean())
    h, taken = net.stem(x), []
    for block in net.blocks:
        taken.append(h.clone())
        taken[-1].retain_grad()
        h = taken[-1] + block(taken[-1], taken[-1], taken[-1], need_weights=False)[0]
    h.square().mean().backward()
    assert g.layers == ("stem", "blocks.0", "blocks.1", "blocks.2")
    for layer, state in enumerate(taken):
        assert g["input"][layer + 1, 0].item() == pytest.approx(log(state.grad).item(), abs=1e-10)


def test_a_parameter_that_a_layer_holds_twice_counts_once():
    torch.manual_seed(0)
    tied = nn.Linear(4, 4).double()
    net, x = nn.Sequential(nn.Sequential(tied, nn.Tanh(), tied), nn.Linear(4, 2).double()), randn(3, 4)
    g = assert_as_autograd(net, x, lambda y: y.square().sum())
    assert g["weight"][0, 0].item() == pytest.approx(g.named["0.0.weight"].item(), abs=1e-10)
    both = torch.stack([g["weight"][0, 0], g["bias"][0, 0]])
    assert g["parameters"][0, 0].item() == pytest.approx(combine(both, 0).item(), abs=1e-10)
    net(x).square().sum().backward()
    relative = tied.weight.grad * tied.weight.detach()
    assert g["relative"][0, 0].item() == pytest.approx(log(relative).item(), abs=1e-10)


def test_layers_without_a_state_keep_their_place_and_are_left_out_of_the_words():
    embedding = nn.Embedding(4, 3)
    points = torch.tensor([1, 2])
    words = repr(st.gradient_norms(nn.Sequential(embedding), points, lambda y: y.sum()))
    assert words == "GradientNorms(weight, parameters, relative: 1 layers, 1 seeds, path='autograd')"
    g = st.gradient_norms(nn.Sequential(embedding, nn.Linear(3, 3)), points, lambda y: y.sum())
    assert g.layers == ("0", "1")
    assert g.present["input"].tolist() == [False, True]
    size = f"{float(g['input'][1]):+.4g}"
    assert f"{size} at the last layer to {size} at the first, path" in repr(g)
    assert not g.dead.any()


@pytest.mark.parametrize(("dtype", "scale"), [(torch.complex128, 1e-200), (torch.complex64, 1e-30)])
def test_complex_parameters_are_measured_whole(dtype, scale):
    torch.manual_seed(0)
    wide, net = (nn.Sequential(*[nn.Linear(4, 4, dtype=d) for _ in range(3)]) for d in (torch.complex128, dtype))
    wide.load_state_dict(net.state_dict())
    x = randn(5, 4).to(torch.complex128)
    wide(x).abs().sum().backward()
    expected = [[log(p.grad), log(p.grad * p.detach())] for p in (layer.weight for layer in wide)]
    # The square of so small a gradient leaves the range.
    g = st.gradient_norms(net, x.to(dtype), lambda y: scale * y.abs().sum())
    for i in range(3):
        weight, relative = (one.item() + math.log(scale) for one in expected[i])
        tolerance = 1e-10 if dtype == torch.complex128 else 1e-5
        assert g["weight"][i, 0].item() == pytest.approx(weight, abs=tolerance)
        assert g["relative"][i, 0].item() == pytest.approx(relative, abs=tolerance)
    with torch.no_grad():
        net[1].weight[0, 0] = complex(0, math.nan)
    with pytest.raises(ValueError, match=r"the parameter 1.weight has 1 values that are not finite"):
        st.gradient_norms(net, x.to(dtype), lambda y: y.abs().sum())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
)
def test_scaled_tensors_keep_every_number(dtype):
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for size in (least, torch.finfo(dtype).max):
        one = Scaled.of(torch.tensor([size, 0.0], dtype=dtype), torch.tensor(-5000))
        assert one.mantissa.abs().max() < 1
        assert one.mantissa.abs().max() >= 0.5
        expected = math.log(size) - 5000 * math.log(2)
        nothing = Scaled.of(torch.zeros(2, dtype=dtype), torch.tensor(0))
        for total in (one, one + nothing, nothing + one):
            assert total.log_norm().item() == pytest.approx(expected, rel=1e-12)
        twice = one + one
        assert twice.log_norm().item() == pytest.approx(expected + math.log(2), rel=1e-12)


def test_inference_mode_is_no_hindrance():
    net, x = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2)).double(), randn(3, 5)
    expected = st.gradient_norms(net, x, lambda y: y.square().mean()).named
    with torch.inference_mode():
        found = st.gradient_norms(net, randn(3, 5), lambda y: y.square().mean()).named
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_sparse_gradient_is_taken():
    torch.manual_seed(0)
    net, points = nn.Sequential(nn.Embedding(9, 5, sparse=True), nn.Linear(5, 2)).double(), torch.tensor([1, 1, 3])
    g = st.gradient_norms(net, points, lambda y: y.square().mean())
    net(points).square().mean().backward()
    assert g.named["0.weight"].item() == pytest.approx(log(net[0].weight.grad.to_dense()).item(), abs=1e-10)


def test_nothing_underflows_or_overflows_where_autograd_does():
    # A network with weights W / 2^k has the gradients of W times powers of 2, if it has no biases.
    torch.manual_seed(0)
    depth = 120
    orthogonal = [nn.Linear(6, 6, bias=False, dtype=torch.float64) for _ in range(depth)]
    for layer in orthogonal:
        nn.init.orthogonal_(layer.weight)
    near = nn.Sequential(*orthogonal)
    x = randn(4, 6)
    g = assert_as_autograd(near, x, lambda y: y.sum())
    for k in (-9, 8):
        far = copy.deepcopy(near)
        with torch.no_grad():
            for layer in far:
                layer.weight *= 2.0**k
        # So that the state stays in the range, it is doubled or halved in between, outside the layers.
        scaled = nn.Sequential()
        for layer in far:
            scaled.append(nn.Sequential(layer, _Times(2.0**-k)))
        backward = st.gradient_norms(scaled, x, lambda y: y.sum())
        torch.testing.assert_close(backward["input"], g["input"], rtol=0, atol=1e-12)

    class Fading(nn.Module):
        """Keeps the state and shrinks what goes back, by a factor that underflows after 60 layers."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(copy.deepcopy(orthogonal))

        def forward(self, h):
            for layer in self.layers:
                update = layer(h)
                h = 2.0**-20 * update + (1 - 2.0**-20) * update.detach()
            return h

    net = Fading()
    fading = st.gradient_norms(net, x, lambda y: y.sum())
    expected = g["input"] - 20 * math.log(2) * torch.arange(depth, 0, -1, dtype=torch.float64)[:, None]
    torch.testing.assert_close(fading["input"], expected, rtol=0, atol=1e-10)
    assert fading.underflows(torch.float64)[0].all()
    assert not fading.dead.any()
    net(x).sum().backward()
    assert (net.layers[0].weight.grad == 0).all()


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, h):
        return self.factor * h


def test_a_dead_module_is_exactly_dead():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[2].bias.fill_(-100.0)
    g = st.gradient_norms(net, randn(5, 3), lambda y: y.square().sum())
    assert g.dead.all()
    assert (g["input"][:4] == -math.inf).all()
    assert (g["parameters"][:4] == -math.inf).all()
    assert g["bias"][4] > -math.inf


@pytest.mark.parametrize("name", [*st.ARCHITECTURES, "tanh", "gelu"])
@pytest.mark.parametrize("width", [1, 5])
def test_wide_and_smooth_chains(name, width):
    architecture = st.Architecture(name, activation=name, readout=True) if name in ("tanh", "gelu") else name
    chain = st.Chain(architecture, depth=20, seeds=3, width=width, init="he")
    x = randn(16) if width == 1 else randn(16, 5)

    def loss(y):
        return y.square().flatten(1).mean(dim=1)

    g = st.gradient_norms(chain, x, loss)
    loss(chain(x)).sum().backward()
    assert g.path == ("factors" if width == 1 and architecture == name else "autograd")
    for kind, value in chain.named_parameters():
        per_seed = value.grad.reshape(3, -1).norm(dim=1)
        torch.testing.assert_close(g.named[kind].exp(), per_seed, rtol=1e-11, atol=1e-13)
        if not kind.startswith("readout"):
            by_layer = value.grad.reshape(3, 20, -1).norm(dim=2).mT
            torch.testing.assert_close(g[kind].exp(), by_layer, rtol=1e-11, atol=1e-13)
    if width > 1:
        few = st.gradient_norms(chain, x, loss, memory=1e-6)  # a point at a time
        for quantity in g.log_norms:
            torch.testing.assert_close(few[quantity].exp(), g[quantity].exp(), rtol=1e-11, atol=1e-14)


def test_a_width_is_no_reason_for_another_answer():
    # A chain of width 1 as a chain of width 2 whose second neuron does nothing.
    chain = st.Chain("residual2_prelu", depth=12, seeds=2)
    wide = st.Chain("residual2_prelu", depth=12, seeds=2, width=2)
    with torch.no_grad():
        for kind, value in wide.named_parameters():
            value.zero_()
            (value[..., 0, 0] if kind.endswith("weight") else value[..., 0]).copy_(chain.get_parameter(kind))
    x = torch.linspace(-3, 3, 16, dtype=torch.float64)
    one = st.gradient_norms(chain, x, lambda y: (y - x.sin()).square().mean(dim=1))
    two = st.gradient_norms(wide, torch.stack([x, 0 * x], dim=1), lambda y: (y[..., 0] - x.sin()).square().mean(dim=1))
    for quantity in ("input", "slope", "outer_bias", "relative"):
        torch.testing.assert_close(two[quantity], one[quantity], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("width", [1, 3])
def test_a_loss_that_mixes_seeds_is_refused(width):
    chain = st.Chain("residual2_prelu", depth=3, seeds=4, width=width)
    x = randn(5) if width == 1 else randn(5, width)
    for loss in (
        lambda y: (y - y.mean(dim=0)).square().flatten(1).mean(dim=1),
        lambda y: y.flatten(1).mean(dim=1).flip(0),
        lambda y: y.flatten(1).mean(dim=1).softmax(dim=0),
    ):
        with pytest.raises(ValueError, match=r"the loss of seed 0 depends on the output of seed [13]: expected one"):
            st.gradient_norms(chain, x, loss)
    own = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    st.gradient_norms(chain, x, lambda y: y.flatten(1).mean(dim=1) * own)
    st.gradient_norms(st.Chain("residual2_prelu", depth=3, width=width), x, lambda y: y.mean())


def test_joined_seeds():
    torch.manual_seed(0)
    nets = [nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))) for _ in range(3)]
    x = torch.randn(8, 4)
    joined = st.GradientNorms.of_seeds([st.gradient_norms(net, x, lambda y: y.mean()) for net in nets])
    assert joined["weight"].shape == (5, 3)
    assert joined.members == (0, 1, 2)
    assert torch.equal(joined["weight"][:, 1:2], st.gradient_norms(nets[1], x, lambda y: y.mean())["weight"])
    with pytest.raises(ValueError, match="result 1 has other layers"):
        st.GradientNorms.of_seeds([joined, st.gradient_norms(nets[0][:3], x, lambda y: y.mean())])
    with pytest.raises(ValueError, match="no results"):
        st.GradientNorms.of_seeds([])


def test_a_layer_that_takes_no_floats_and_an_output_of_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4))

        def forward(self, tokens):
            h = self.blocks(tokens)
            return h, h.mean()

    torch.manual_seed(0)
    net = Two().double()
    g = assert_as_autograd(net, torch.tensor([0, 3, 1]), lambda y: y[0].square().sum() + y[1])
    assert g.layers == ("blocks.0", "blocks.1", "blocks.2")
    assert g.present["input"].tolist() == [False, True, True]
    assert "-inf" not in repr(g)
    assert g.output.item() == 0


def test_parameters_that_the_loss_does_not_depend_on_are_named_and_in_no_quantity():
    net, x = _Unused(), torch.full((2, 3), 2.0)
    g = st.gradient_norms(net, x, lambda y: y.square().sum())
    assert g.missing == ("spare.weight", "spare.bias")
    assert list(g.named) == ["used.weight", "used.bias"]
    assert "no gradient for 2 parameters (spare.weight, spare.bias)" in repr(g)
    net(x).square().sum().backward()
    own = torch.cat([p.grad.flatten() for p in net.used.parameters()])
    assert g["parameters"].item() == pytest.approx(log(own).item(), abs=1e-6)


def test_quantiles_and_datasets():
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    g = st.gradient_norms(st.Chain("plain_relu", depth=2, seeds=40), x, lambda y: y.square().mean(dim=1))
    assert 0 < g.dead.double().mean() < 1
    over_all, over_alive = g.quantiles("input"), g.quantiles("input", alive=True)
    assert over_all[0, 0] == -math.inf
    assert over_alive[:, 0].isfinite().all()
    alive = g["input"][:, ~g.dead]
    assert ((alive <= over_alive[1][:, None]).double().mean(dim=1) >= 0.5).all()
    assert ((alive < over_alive[1][:, None]).double().mean(dim=1) <= 0.5).all()
    data = g.to_dataset()
    assert data.log_norms.dims == ("quantity", "layer", "seed")
    assert data.log_norms.sel(quantity="weight", layer=2, seed=7).item() == g["weight"][1, 7].item()
    assert data.attrs["path"] == "factors"
    dead = st.gradient_norms(st.Chain("plain_relu", depth=200, seeds=3), x, lambda y: y.square().mean(dim=1))
    with pytest.raises(ValueError, match="all 3 members are dead"):
        dead.quantiles("input", alive=True)
    with pytest.raises(ValueError, match=r"unknown quantity 'weights'.*'weight'"):
        g["weights"]


class _Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)


def _frozen():
    return nn.Linear(3, 3).requires_grad_(False)


def _with(value, everywhere=False):
    net = nn.Linear(3, 3, bias=not everywhere)
    with torch.no_grad():
        net.weight[... if everywhere else (0, 0)] = value
    return net


@pytest.mark.parametrize(
    ("net", "loss", "message"),
    [
        (nn.Linear(3, 3), lambda y: y, "it is a scalar"),
        (nn.Linear(3, 3), lambda y: y.sum().item(), "returns a float"),
        (nn.Linear(3, 3), lambda y: y.sum().detach(), "does not depend"),
        (
            nn.Linear(3, 3),
            lambda _: nn.Linear(1, 1)(torch.ones(1)).sum(),
            "does not depend on the network's parameters",
        ),
        (nn.Linear(3, 3), lambda y: y.sum() / 0, "not finite"),
        (nn.Linear(3, 3), lambda y: (y - y).abs().sqrt().sum(), "not finite"),
        (_frozen(), lambda y: y.sum(), "all are frozen"),
        (_with(math.nan), lambda y: y.sum(), "the parameter weight has 1 values that are not finite"),
        (
            nn.Sequential(_with(3e38), nn.Linear(3, 3)),
            lambda y: y.sum(),
            "the state after layer 0 has 2 values that are not finite.* overflows torch.float32",
        ),
        (
            nn.Sequential(*(_with(1e-20, True) for _ in range(3))),
            lambda y: y.sum(),
            "the state after layer 1 is below the smallest normal number",
        ),
        (nn.Sequential(nn.Linear(3, 3)), lambda y: y.sum(), None),
    ],
)
def test_bad_losses_and_networks_are_refused(net, loss, message):
    x = torch.full((2, 3), 2.0)
    if message is None:
        st.gradient_norms(net, x, loss)
        with pytest.raises(ValueError, match="expected the name of a Sequential"):
            st.gradient_norms(net, x, loss, layers="layers")
        with pytest.raises(ValueError, match="unknown module in layers= '7': known are '0'"):
            st.gradient_norms(net, x, loss, layers=["7"])
        with pytest.raises(ValueError, match="x has 1 values"):
            st.gradient_norms(net, torch.tensor([[1.0, 2.0, math.inf]]), loss)
        return
    with pytest.raises((ValueError, TypeError), match=message):
        st.gradient_norms(net, x, loss)


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x, **options: st.gradient_norms(net, x, lambda y: y.sum(), **options),
        st.propagation,
        st.forward_error,
        st.first_failure,
    ],
    ids=["gradient_norms", "propagation", "forward_error", "first_failure"],
)
def test_all_calls_refuse_the_same_things(call):
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), torch.ones(2, 3)
    with pytest.raises(TypeError, match="layer 1 is a int: expected a callable"):
        call([nn.Linear(3, 3), 3], x)
    with pytest.raises(TypeError, match=r"net is a int: expected a stability\.Chain, an nn\.Module"):
        call(3, x)
    with pytest.raises(TypeError, match="x is a list: expected a tensor"):
        call(net, [x])
    with pytest.raises(ValueError, match=r"x has shape \(0, 3\): expected the batch"):
        call(net, x[:0])
    with pytest.raises(ValueError, match="x has 6 values that are not finite"):
        call(net, x * math.nan)
    with pytest.raises(ValueError, match="the parameter weight has 1 values that are not finite"):
        call(_with(math.inf), x)
    with pytest.raises(
        ValueError, match=r"Sequential does not take x of shape \(2, 4\) and torch.float(32|64): "
    ) as wrong:
        call(net, torch.ones(2, 4))
    assert isinstance(wrong.value.__cause__, RuntimeError)
    if call is not st.forward_error:  # which runs in other dtypes anyway
        with pytest.raises(ValueError, match=r"and torch.float64: .*; its parameters are torch.float32"):
            call(net, x.double())
    with pytest.raises(TypeError, match="layers is 3: expected the name"):
        call(net, x, layers=3)
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\): a chain of width 4 takes \(points, 4\)"):
        call(st.Chain("plain_prelu", 3, width=4), torch.ones(5, 3, dtype=torch.float64))


def test_what_is_no_result_or_no_level_is_refused():
    g = st.gradient_norms(nn.Sequential(nn.Linear(3, 3)), torch.ones(2, 3), lambda y: y.sum())
    with pytest.raises(TypeError, match="result 1 is a dict: expected a GradientNorms"):
        st.GradientNorms.of_seeds([g, {}])
    with pytest.raises(ValueError, match=r"q is \(5, 50\): expected levels from 0 to 1"):
        g.quantiles("input", (5, 50))
