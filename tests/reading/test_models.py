"""Networks as people bring them: their layers by name, from every verb, and what is measured of them by other means."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import stability as st
from stability.jacobians.of_networks import states_of
from stability.reading.derivatives import derivatives
from stability.reading.inputs import Inputs
from stability.reading.read import read
from stability.reading.trees import tensors_in

from ..models import MODELS, Checkpointed, Functional, Language, Recurrent, built, randn, tokens

#: Whose output makes the source, where that is no input.
MAKERS = {
    "language model": "wte",
    "rotary language model": "embed_tokens",
    "encoder and decoder": "source",
    "frozen": "embed",
    "recurrent": "cell",
}
COARSE = {"tied under autocast"}  # works in bfloat16 inside
NAMES = list(MODELS)


def called(net, x):
    inputs = Inputs.of(x, None)
    return net(*inputs.args, **inputs.options)


def direct_jacobian(name, point):
    """Return the Jacobian of one point from the source to the output, one row after the other."""
    model, net = MODELS[name], built(name)
    dim = model.options.get("batch_dim", 0)
    inputs = Inputs.of(model.x, dim).cut(point, point + 1)
    given = []
    if name in MAKERS:

        def replace(_, __, output):
            if given:  # a later call
                return None
            given.extend(t.detach().clone().requires_grad_() for t in tensors_in(output))
            copies = [t.clone() for t in given]
            return tuple(copies) if isinstance(output, tuple) else copies[0]

        net.get_submodule(MAKERS[name]).register_forward_hook(replace)
    else:
        chosen = list(inputs.tensors())[model.options.get("source", 0)][1]
        leaf = chosen.detach().clone().requires_grad_()
        given.append(leaf)
        inputs = inputs.mapped(lambda t: leaf.clone() if t is chosen else t)
    output = model.last(net(*inputs.args, **inputs.options)).flatten()
    rows = [torch.autograd.grad(one, given, retain_graph=True, allow_unused=True) for one in output]
    return torch.stack(
        [
            torch.cat(
                [torch.zeros_like(t).flatten() if g is None else g.flatten() for g, t in zip(row, given, strict=True)]
            )
            for row in rows
        ]
    ).double()


def assert_untouched(net, before):
    for one, other in zip(net.modules(), before["modules"], strict=True):
        hooks = (one._forward_hooks, one._forward_pre_hooks, one._backward_hooks, one._backward_pre_hooks)
        assert not any(hooks)
        assert one.training == other.training
        assert {k: v for k, v in vars(one).items() if isinstance(v, int | float)} == {
            k: v for k, v in vars(other).items() if isinstance(v, int | float)
        }
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == before["requires"]
    for key, value in net.state_dict().items():
        assert torch.equal(value, before["state"][key]), key
    assert torch.equal(torch.get_rng_state(), before["random"])


def snapshot(net):
    return {
        "modules": list(copy.deepcopy(net).modules()),
        "requires": [p.requires_grad for p in net.parameters()],
        "state": {key: value.clone() for key, value in net.state_dict().items()},
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_has_the_layers_of_st_layers_and_leaves_nothing_behind(name):
    model, net = MODELS[name], built(name)
    before = snapshot(net)
    layers = st.layers(net, model.x, **model.options)
    assert layers.names == model.layers
    assert set().union(*(layer.parameters for layer in layers)) == dict(net.named_parameters()).keys()
    options = model.options
    results = [
        st.spectrum(net, model.x, progress=False, **options),
        st.spectrum(net, model.x, k=1, progress=False, **options),
        st.propagation(net, model.x, **options),
        st.gradient_norms(net, model.x, model.loss, **options),
        st.forward_error(net, model.x, ["bfloat16"], **options),
        st.gradient_norms(net, model.x, model.loss, layers),
        st.spectrum(net, model.x, layers, progress=False),
    ]
    for result in results:
        assert result.layers == model.layers
    f = st.first_failure(net, model.x, ["float32"], loss=model.loss, progress=False, **options)
    assert f.depth == len(model.layers)
    assert_untouched(net, before)
    with st.watch(net, source=options.get("source")) as record:
        model.loss(called(net, model.x)).backward()
    assert record.layers == model.layers
    assert len(record) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COARSE])
def test_products_of_jacobians_are_the_jacobian_of_the_whole(name):
    model, net = MODELS[name], built(name)
    reading = read(net, model.x, None, model.options.get("source"), model.options.get("batch_dim", 0))
    with states_of(reading) as (names, states):
        jacobians = [layer.jacobian() for layer in derivatives(names, states)]
    s = st.spectrum(net, model.x, progress=False, **model.options)
    points = len(jacobians[0])
    leading = st.spectrum(net, model.x, k=min(2, *s.sizes), progress=False, **model.options)
    for point in range(points):
        product = np.eye(jacobians[0].shape[2])
        for depth, jacobian in enumerate(jacobians):
            product = jacobian[point] @ product
            expected = np.log(np.maximum(np.linalg.svd(product, compute_uv=False), 1e-300))[: s.log_values.shape[-1]]
            safe = expected > expected[0] + math.log(1e-4)
            found = s.log_values[depth, 0, point, : len(expected)].numpy()
            np.testing.assert_allclose(found[safe], expected[safe], rtol=0, atol=1e-10)
        whole = direct_jacobian(name, point).numpy()
        # The last layer ends where the points do, and the output may be a view of what it makes.
        assert abs(product - whole.reshape(product.shape)).max() <= 1e-12 * abs(whole).max()
    k = leading.log_values.shape[-1]
    np.testing.assert_allclose(leading.log_values, s.log_values[..., :k], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_an_ordinary_backward_pass(name):
    model, net = MODELS[name], built(name)
    g = st.gradient_norms(net, model.x, model.loss, **model.options)
    model.loss(called(net, model.x)).backward()
    tolerance = 1e-5 if name in COARSE else 1e-12
    for parameter, value in net.named_parameters():
        if value.requires_grad:
            expected = value.grad.double().norm().log().item()
            assert g.named[parameter].item() == pytest.approx(expected, abs=tolerance), parameter
    layers = st.layers(net, model.x, **model.options)
    values = dict(net.named_parameters())
    for number, layer in enumerate(layers):
        own = [values[one].grad.flatten().double() for one in layer.parameters if values[one].requires_grad]
        if own:
            expected = torch.cat(own).norm().log().item()
            assert g["parameters"][number, 0].item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COARSE])
def test_gradients_of_states_are_those_of_the_output_taken_back(name):
    model, net = MODELS[name], built(name)
    g = st.gradient_norms(net, model.x, model.loss, **model.options)
    dim = model.options.get("batch_dim", 0)
    reading = read(net, model.x, None, model.options.get("source"), dim)
    with states_of(reading) as (names, states):
        jacobians = [layer.jacobian() for layer in derivatives(names, states)]
        last = states[-1]
    made = name in MAKERS
    assert g.present["input"].tolist() == [not made] + [True] * (len(model.layers) - 1)
    output = called(net, model.x)
    end = model.last(output)
    (back,) = torch.autograd.grad(model.loss(output), end)
    cotangent = last.flat([back.reshape(last.shape)]).numpy()  # (points, numbers)
    for number in range(len(names) - 1, -1, -1):
        cotangent = np.einsum("pm,pmn->pn", cotangent, jacobians[number])
        if g.present["input"][number]:
            expected = math.log(np.linalg.norm(cotangent))
            assert g["input"][number, 0].item() == pytest.approx(expected, abs=1e-11), names[number]


def test_signals_are_the_states_of_the_layers():
    net, x = built("residual net"), MODELS["residual net"].x
    states = [x]
    h = torch.relu(net.bn(net.stem(x)))
    states += [net.stem(x), net.bn(net.stem(x)), h]
    for block in [*net.stage1, *net.stage2]:
        states.append(block(states[-1].clone()))
    states[-1] = states[-1].mean(dim=(2, 3))  # which has no module, and belongs to the layer before it
    states.append(net(x))
    p = st.propagation(net, x)
    for number, state in enumerate(states):
        expected = state.detach().flatten(1).norm(dim=1).log()
        torch.testing.assert_close(p.log_norms[number, 0], expected, rtol=0, atol=1e-12)


def test_a_reentrant_checkpoint_is_refused_by_every_verb():
    net, x = Checkpointed(reentrant=True).double(), randn(2, 5)
    for call in (
        lambda: st.layers(net, x),
        lambda: st.spectrum(net, x, progress=False),
        lambda: st.propagation(net, x),
        lambda: st.gradient_norms(net, x, lambda y: y.sum()),
        lambda: st.forward_error(net, x),
        lambda: st.first_failure(net, x, progress=False),
    ):
        with pytest.raises(ValueError, match=r"Checkpointed checkpoints .* with use_reentrant=True, which hides"):
            call()


def test_gradients_keep_their_exponents_where_layers_share_what_they_use():
    # Weights of 2^-k scale the gradients of all before them by powers of 2, in float64 as in float32 where they vanish.
    torch.manual_seed(0)
    for make in (lambda: built("conditioned"), lambda: built("derived up front")):
        wide = make()
        deep = nn.Sequential(*(copy.deepcopy(wide) for _ in range(40)))
        scaled = nn.Sequential(*(nn.Sequential(part, Scale(2.0**-10)) for part in deep))
        x = randn(3, 6)
        g = st.gradient_norms(scaled.float(), x.float(), lambda y: y.square().sum())
        h = st.gradient_norms(scaled.double(), x, lambda y: y.square().sum())
        assert h["parameters"][0, 0] < math.log(torch.finfo(torch.float32).tiny) - 50
        for name, value in h.named.items():
            assert g.named[name].item() == pytest.approx(value.item(), abs=2e-4), name


class Scale(nn.Module):
    """Keeps the state, and scales what goes back."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, h):
        return self.factor * h + (1 - self.factor) * h.detach()


def test_a_loss_of_states_within_the_network_is_taken_whole():
    class Supervised(Functional):
        def forward(self, x):
            states = []
            for step in self.steps:
                x = x + torch.tanh(step(x))
                states.append(x)
            return self.head(x), states

    net, x = Supervised().double(), randn(2, 5)

    def loss(output):
        return output[0].square().mean() + sum(state.square().mean() for state in output[1])

    g = st.gradient_norms(net, x, loss)
    assert g.layers == ("steps.0", "steps.1", "steps.2", "steps.3", "head")
    loss(net(x)).backward()
    for name, value in net.named_parameters():
        assert g.named[name].item() == pytest.approx(value.grad.norm().log().item(), abs=1e-12)
    # The gradient of a state is that of everything that is computed from it.
    states = [x.clone().requires_grad_()]
    for step in net.steps:
        states.append(states[-1] + torch.tanh(step(states[-1])))
        states[-1].retain_grad()
    (net.head(states[-1]).square().mean() + sum(state.square().mean() for state in states[1:])).backward()
    for number, state in enumerate(states):
        assert g["input"][number, 0].item() == pytest.approx(state.grad.norm().log().item(), abs=1e-12)


def test_a_deep_recurrence_keeps_its_gradients_in_the_range():
    net, x = Recurrent(), randn(2, 400, 3, dtype=torch.float32)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 0.1
    exact = st.gradient_norms(copy.deepcopy(net).double(), x.double(), lambda y: y.square().mean(), source="cell")
    g = st.gradient_norms(net, x, lambda y: y.square().mean(), source="cell")
    assert exact["input"][1, 0] < math.log(torch.finfo(torch.float32).tiny) - 100
    torch.testing.assert_close(g["input"], exact["input"], rtol=0, atol=1e-3)


def test_layers_may_be_named_and_read_once():
    net, x = built("language model"), MODELS["language model"].x
    every = st.layers(net, x, "every")
    assert every.names[:2] == ("wte ... wpe", "h.0.norm1 ... h.0.mix")
    stack = st.layers(net, x, "h")
    assert stack.names == ("h.0", "h.1", "h.2")
    s = st.spectrum(net, x, stack, progress=False)
    assert s.layers == stack.names
    whole = st.spectrum(net, x, progress=False)
    torch.testing.assert_close(s.log_values[0], whole.log_values[1], rtol=0, atol=1e-12)
    g = st.gradient_norms(net, x, lambda y: y["logits"].square().mean(), stack)
    everything = st.gradient_norms(net, x, lambda y: y["logits"].square().mean())
    torch.testing.assert_close(g["input"], everything["input"][1:4], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="source is 'wte', and layers= was read with None"):
        st.spectrum(net, x, stack, source="wte")
    other = built("rotary language model")
    with pytest.raises(ValueError, match=r"layers is 'h': expected the name of a Sequential"):
        st.spectrum(other, {"input_ids": x}, stack, progress=False)
    deeper = Language(depth=4).double()
    with pytest.raises(ValueError, match=r"layers= names 3 layers, h.0 to h.2, and on this x the network has 4"):
        st.spectrum(deeper, x, stack, progress=False)


def test_the_table_says_what_each_layer_holds():
    words = repr(st.layers(built("U"), MODELS["U"].x))
    assert words.splitlines()[2].split() == [
        "d.1",
        "...",
        "u.2",
        "Linear",
        "...",
        "Linear",
        "(2,",
        "5)",
        "150",
        "78.1%",
    ]
    layers = st.layers(built("U"), MODELS["U"].x)
    assert layers[1].modules == ("d.1", "d.2", "u.0", "u.1", "u.2")
    assert all(layer.is_cut for layer in layers)
    tied = repr(st.layers(built("language model"), MODELS["language model"].x))
    assert tied.endswith("88 of the numbers are used by more than one layer.")
    pair = st.layers(built("recurrent"), MODELS["recurrent"].x, source="cell")
    assert pair[0].shape == ((2, 4), (2, 4))
    chain = st.Chain("plain_prelu", depth=3, seeds=2)
    listed = st.layers(chain, torch.zeros(5, dtype=torch.float64))
    assert listed.names == ("step 1", "step 2", "step 3")
    assert sum(layer.count for layer in listed) == listed.total == sum(p.numel() for p in chain.parameters())


def test_what_no_cut_separates_is_one_layer_and_has_no_jacobian():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

        def forward(self, x):
            return self.net(x.detach())

    net, x = Detached().double(), randn(3, 4)
    layers = st.layers(net, x)
    assert [(layer.name, layer.is_cut) for layer in layers] == [("Detached", False)]
    assert set(layers[0].parameters) == dict(net.named_parameters()).keys()
    g = st.gradient_norms(net, x, lambda y: y.square().mean())
    net(x).square().mean().backward()
    for name, value in net.named_parameters():
        assert g.named[name].item() == pytest.approx(value.grad.norm().log().item(), abs=1e-12)
    assert "input" not in g.log_norms
    with pytest.raises(ValueError, match=r"a Jacobian cannot be followed through Detached: its output does not depend"):
        st.spectrum(net, x, progress=False)
    with pytest.raises(ValueError, match="source= names an input, or the call whose result is the first state"):
        st.propagation(net, x)
    assert st.layers(net, x, source="net.0").names == ("net.0", "net.1", "net.2")


def test_points_that_depend_on_one_another_are_refused_in_every_way_or_are_one_point():
    layer = nn.TransformerEncoderLayer(6, 2, 8, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    x = randn(4, 2, 6)  # sequence first
    for k in (None, 1):
        with pytest.raises(ValueError, match=r"layer layers.0 gives no point a Jacobian of its own"):
            st.spectrum(net, x, k=k, progress=False)
    jacobian = torch.autograd.functional.jacobian(net, x)
    by_sequence = st.spectrum(net, x, batch_dim=1, progress=False)
    for b in range(2):
        expected = torch.linalg.svdvals(jacobian[:, b, :, :, b].reshape(24, 24)).log()
        found = by_sequence.log_values[-1, 0, b]
        assert (found - expected)[expected > expected[0] - 9].abs().max() < 1e-9
    whole = st.spectrum(net, x, batch_dim=None, progress=False)
    assert whole.log_values.shape == (2, 1, 1, 48)
    expected = torch.linalg.svdvals(jacobian.reshape(48, 48)).log()
    assert (whole.log_values[-1, 0, 0] - expected)[expected > expected[0] - 9].abs().max() < 1e-9


def test_points_in_portions_are_those_of_all():
    net, x = built("two inputs"), MODELS["two inputs"].x
    whole = st.spectrum(net, x, progress=False)
    parts = st.spectrum(net, x, memory=1.2 * 8 * (85 + 6 * 25) / 2**30, progress=False)
    torch.testing.assert_close(parts.log_values, whole.log_values, rtol=0, atol=1e-12)

    class Mixed(nn.Module):
        """Takes something of the batch's length that is no batch."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, x, weights):
            return torch.tanh(self.linear(x)) * weights.sum()

    with pytest.raises(ValueError, match="other states for the points 0 to 0 alone"):
        st.spectrum(Mixed().double(), (x[0], randn(2)), memory=1.2 * 8 * (25 + 6 * 25) / 2**30, progress=False)


def test_nothing_stays_behind_after_an_exception():
    class Failing(Functional):
        def forward(self, x):
            self.state = x
            self.eval()
            torch.rand(1)
            raise KeyboardInterrupt

    net = Failing().double().train()
    before = snapshot(net)
    for call in (
        lambda: st.layers(net, randn(2, 5)),
        lambda: st.gradient_norms(net, randn(2, 5), lambda y: y.sum()),
        lambda: st.spectrum(net, randn(2, 5), progress=False),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
        assert_untouched(net, before)
        assert not hasattr(net, "state")


def test_a_model_that_its_own_hooks_change_when_followed_is_refused():
    net, x = Functional().double(), randn(2, 5)
    net.steps[0].register_forward_hook(lambda module, _, output: output * len(module._forward_hooks))
    with pytest.raises(ValueError, match="Functional gives other values when it is followed"):
        st.layers(net, x)
    calm = Functional().double()
    calm.steps[0].register_forward_hook(lambda _, __, output: 2 * output)
    g = st.gradient_norms(calm, x, lambda y: y.sum())
    calm(x).sum().backward()
    assert g.named["steps.0.weight"].item() == pytest.approx(calm.steps[0].weight.grad.norm().log().item(), abs=1e-12)


def test_random_places_are_named():
    class Noisy(Functional):
        def forward(self, x):
            return super().forward(x + torch.rand(1, dtype=x.dtype))

    for net, place in (
        (Noisy().double(), "in a function outside its modules"),
        (nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.3)).double(), "in Dropout '1'"),
    ):
        with pytest.raises(ValueError, match=f"draws random numbers when it runs, {place}: runs in two formats"):
            st.forward_error(net, randn(2, 5))
    norm = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, track_running_stats=False)).double().eval()
    with pytest.raises(ValueError, match=r"BatchNorm1d '1' keeps no running statistics .* batch_dim=None"):
        st.spectrum(norm, randn(4, 5), progress=False)
    assert st.spectrum(norm, randn(4, 5), batch_dim=None, progress=False).log_values.shape == (2, 1, 1, 20)


def test_what_a_chain_is_is_told_by_its_type():
    class Look(nn.Module):
        """Has what a chain has."""

        def __init__(self):
            super().__init__()
            self.steps = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
            self.members, self.table, self.width, self.depth = (0, 1), lambda: None, 1, 2

        def forward(self, x):
            for step in self.steps:
                x = torch.tanh(step(x))
            return x

    net, x = Look().double(), randn(2, 3)
    s = st.spectrum(net, x, progress=False)
    assert s.layers == ("steps.0", "steps.1")
    assert s.members == (0,)

    class Doubled(st.Chain):
        def forward(self, x):
            return 2 * super().forward(x)

    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    chain, doubled = (kind("residual2_prelu", depth=3, seeds=1) for kind in (st.Chain, Doubled))
    assert st.layers(doubled, x, batch_dim=None).names != st.layers(chain, x).names
    table = chain.table()
    assert torch.equal(st.spectrum(table, x).log_values, st.spectrum(chain, x).log_values)
    with pytest.raises(ValueError, match="a chain's layers are its steps: leave out source="):
        st.spectrum(chain, x, source="steps")


def test_tokens_of_a_decoder_may_be_followed_with_the_encoder_held_fixed():
    model, net = MODELS["encoder and decoder"], built("encoder and decoder")
    found = st.layers(net, model.x, source=1)
    assert found.names == ("target", "decoder.0", "decoder.1", "head")
    s = st.spectrum(net, model.x, source=1, progress=False)
    assert s.log_values.shape == (4, 1, 2, 24)
    tokens_only = st.layers(built("language model"), {"tokens": tokens(2, 4)})
    assert tokens_only.names == MODELS["language model"].layers


def test_a_network_runs_once_a_call_and_once_more_a_format():
    runs = []

    class Counted(Functional):
        def forward(self, x):
            runs.append(x.dtype)
            return super().forward(x)

    net, x = Counted().double(), randn(2, 5)
    layers = st.layers(net, x)
    for call, expected in (
        (lambda: st.layers(net, x), [torch.float64]),
        (lambda: st.spectrum(net, x, progress=False), [torch.float64]),
        (lambda: st.spectrum(net, x, layers, k=1, progress=False), [torch.float64]),
        (lambda: st.propagation(net, x), [torch.float64]),
        (lambda: st.gradient_norms(net, x, lambda y: y.sum()), [torch.float64]),
        (lambda: st.forward_error(net, x, ["float16"]), [torch.float64, torch.float16]),
        (
            lambda: st.first_failure(net, x, ["float16", "float32"], progress=False),
            [torch.float64, torch.float64, torch.float16, torch.float32],  # as it is, in float64, and in each format
        ),
    ):
        runs.clear()
        call()
        assert runs == expected
