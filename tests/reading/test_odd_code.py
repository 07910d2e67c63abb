"""Odd but legal code in networks: right, or refused by name, and nothing left behind."""

import copy
import dataclasses
import math
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

import stability as st

from ..models import Functional, built, randn, tokens


def as_autograd(net, x, loss, **options):
    """Hold every parameter's gradient against an ordinary pass of a copy; return the result."""
    twin = copy.deepcopy(net)
    g = st.gradient_norms(net, x, loss, **options)
    loss(twin(*x) if isinstance(x, tuple) else twin(x)).backward()
    for name, value in twin.named_parameters():
        if value.grad is not None:
            expected = value.grad.double().norm()
            assert g.named[name].item() == pytest.approx(math.log(expected) if expected else -math.inf, abs=1e-10), name
    return g


def test_a_complex_number_is_two_real_ones():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(3, 3, dtype=torch.complex128) for _ in range(3)))
    x = torch.randn(2, 3, dtype=torch.complex128)
    product = torch.eye(3, dtype=torch.complex128)
    for layer in net:
        product = layer.weight.detach() @ product
    expected = torch.linalg.svdvals(product).log().repeat_interleave(2)  # each once for either part
    for k in (None, 2):
        s = st.spectrum(net, x, k=k, progress=False)
        torch.testing.assert_close(s.log_values[-1, 0, 0], expected[:k], rtol=0, atol=1e-10)
    p = st.propagation(net, x)
    after = net[0](x).detach()
    cosine = (after[0].conj() @ after[1]).real / (after[0].norm() * after[1].norm())
    assert p.correlations[1, 0, 0].item() == pytest.approx(cosine.item(), abs=1e-12)
    update = ((after - x)[0].norm() / x[0].norm()).log()
    assert p.log_updates[0, 0, 0].item() == pytest.approx(update.item(), abs=1e-12)


def test_a_hook_on_a_state_that_scales_gradients_is_taken_once_or_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            for step in self.steps:
                x = torch.tanh(step(x))
                if x.requires_grad:
                    self.hook(x)
            return x

        def hook(self, x):
            x.register_hook(lambda gradient: 0.5 * gradient)

    class Hidden(Scaled):
        def hook(self, x):
            with torch._C.DisableTorchFunction():  # as compiled code would
                super().hook(x)

    deep = Hidden()
    deep.steps = nn.ModuleList(nn.Linear(4, 4) for _ in range(600))
    with pytest.raises(ValueError, match=r"layers steps.0 and steps.1 do not make up that of both"):
        st.spectrum(deep.double(), randn(2, 4), progress=False)
    net, x = Scaled().double(), randn(2, 4)
    as_autograd(net, x, lambda y: y.square().sum())
    for k in (None, 1):
        with pytest.raises(ValueError, match=r"puts a hook on a tensor as it runs \(register_hook\)"):
            st.spectrum(net, x, k=k, progress=False)


def test_signals_of_what_is_no_point_are_refused():
    class Inside(nn.Module):
        """Sequence first inside, batch first outside."""

        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0) for _ in range(2))

        def forward(self, x):
            x = x.transpose(0, 1)
            for block in self.blocks:
                x = block(x)
            return x.transpose(0, 1)

    net, x = Inside().double(), randn(4, 4, 6)  # as many points as places
    with pytest.raises(ValueError, match=r"layer blocks.0 gives no point a Jacobian of its own"):
        st.propagation(net, x)
    with pytest.raises(ValueError, match=r"layer Flip gives no point|gives no point"):
        st.propagation([lambda h: h.flip(0)], randn(3, 2))
    st.propagation(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double(), randn(4, 3))  # in train mode: as it is


class TwoStreams(nn.Module):
    """No tensor, and no call, separates its layers; what goes back shrinks at each."""

    def __init__(self, depth, shrink):
        super().__init__()
        self.steps, self.shrink = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth)), shrink

    def keep(self, h):
        return self.shrink * h + (1 - self.shrink) * h.detach()

    def forward(self, x):
        h, r = x, x * 0.5
        for step in self.steps:
            h, r = self.keep(torch.tanh(step(h + r)) * 2), self.keep(r) + torch.tanh(h) * 0.5 * self.shrink
        return h + r


def test_a_gradient_that_leaves_the_range_within_a_layer_is_refused_and_an_exact_zero_is_not():
    torch.manual_seed(0)
    net, x = TwoStreams(30, 1e-3).double(), randn(5, 4)
    exact = st.gradient_norms(net, x, lambda y: y.square().sum())
    assert -210 < exact.named["steps.0.weight"].item() < -190
    with pytest.raises(ValueError, match=r"with respect to .* underflows on its way through a single layer"):
        st.gradient_norms(net.float(), x.float(), lambda y: y.square().sum())
    dead = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        dead[0].bias.fill_(-100)
    g = st.gradient_norms(dead, x.float(), lambda y: y.square().sum())
    assert g.named["0.weight"].item() == -math.inf
    assert g.dead.all()


def test_a_call_that_fails_and_is_caught_is_none():
    class Fails(nn.Module):
        def forward(self, _):
            raise NotImplementedError

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g, self.fast = nn.Linear(4, 4), nn.Linear(4, 4), Fails()

        def forward(self, h):
            h = torch.tanh(self.f(h))
            try:
                h = self.fast(h)
            except NotImplementedError:
                h = self.g(h)
            return h

    layers = st.layers(nn.Sequential(*(Block() for _ in range(3))), torch.randn(2, 4))
    assert layers.names == ("0", "1", "2")
    assert layers[1].parameters == ("1.f.weight", "1.f.bias", "1.g.weight", "1.g.bias")


def test_containers_parameters_gradients_and_generators_are_as_they_were():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.seen, self.cache = nn.Linear(4, 4), [], {"inner": []}
            self.generator = torch.Generator().manual_seed(0)
            self.register_buffer("steps", torch.zeros(2))

        def forward(self, x):
            self.seen.append(x)
            self.cache["inner"].append(x)
            self.cache["new"] = x
            with torch.no_grad():
                self.linear.weight.mul_(0.5)
                self.steps.resize_(3).fill_(1)
            self.linear.bias.requires_grad_(False)
            self.extra = nn.Tanh()
            y = self.extra(self.linear(x) * len(self.seen))
            y.sum().backward(retain_graph=True)
            return y

    net = Restless()
    net.linear.weight.grad = torch.ones(4, 4)
    grad, weight, state = net.linear.weight.grad, net.linear.weight.detach().clone(), net.generator.get_state()
    st.layers(net, torch.ones(2, 4))
    assert net.seen == []
    assert net.cache == {"inner": []}
    assert torch.equal(net.linear.weight, weight)
    assert net.linear.weight.grad is grad
    assert torch.equal(grad, torch.ones(4, 4))
    assert net.linear.bias.requires_grad
    assert net.linear.bias.grad is None
    assert torch.equal(net.steps, torch.zeros(2))
    assert not hasattr(net, "extra")
    assert torch.equal(net.generator.get_state(), state)

    class Lazy(nn.Module):
        def forward(self, x):
            if not hasattr(self, "linear"):
                self.linear = nn.Linear(4, 4)
            return self.linear(x)

    lazy = Lazy()
    with pytest.raises(
        ValueError, match=r"Lazy makes parameters as it runs, linear.weight, linear.bias: run it on one"
    ):
        st.layers(lazy, torch.ones(2, 4))
    assert not hasattr(lazy, "linear")
    lazy(torch.ones(2, 4))
    assert st.layers(lazy, torch.ones(2, 4)).names == ("linear",)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator()

        def forward(self, x):
            return x * torch.rand(x.shape, generator=self.generator, dtype=x.dtype)

    with pytest.raises(ValueError, match="Sequential draws random numbers when it runs, in Own '0'"):
        st.spectrum(nn.Sequential(Own()), randn(2, 3), progress=False)


def test_watching_changes_no_training_and_never_stops_one():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.seen = nn.Linear(4, 4), []

        def forward(self, x):
            self.seen.append(1)
            return self.linear(x) * len(self.seen)

    def trained(watched):
        torch.manual_seed(0)
        net = Counting()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with st.watch(net) if watched else torch.enable_grad():
            for _ in range(3):
                optimizer.zero_grad()
                net(torch.ones(5, 4)).square().mean().backward()
                optimizer.step()
        return net.linear.weight

    assert torch.equal(trained(False), trained(True))

    class Reentrant(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return checkpoint(self.second, self.first(x), use_reentrant=True)

    net = Reentrant()
    with st.watch(net) as record, pytest.warns(UserWarning, match="the whole model is watched as one: .*use_reentrant"):
        net(torch.randn(5, 4)).sum().backward()
    assert record.layers == ("Reentrant",)
    assert len(record) == 2  # one for the segment


def test_activations_inside_dataclasses_are_watched():
    @dataclasses.dataclass
    class State:
        h: torch.Tensor

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, state):
            return State(torch.tanh(self.linear(state.h)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x):
            state = State(x)
            for block in self.blocks:
                state = block(state)
            return state.h

    net = Net()
    with st.watch(net) as record:
        y = net(torch.ones(2, 4))
        y.sum().backward()
    assert record.layers == ("blocks.0", "blocks.1", "blocks.2")
    assert record.log_activations[0, -1, 0].exp().item() == pytest.approx(y.square().mean().sqrt().item(), rel=1e-6)


def test_normalised_weights_scripted_parts_and_inputs_that_ask_for_a_gradient():
    torch.manual_seed(0)
    normalised = nn.Sequential(spectral_norm(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    as_autograd(normalised, randn(5, 4), lambda y: y.square().sum())
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()).double())
    net = nn.Sequential(scripted, nn.Linear(4, 4).double())
    mean = scripted[1].running_mean.clone()
    g = st.gradient_norms(net, randn(5, 4), lambda y: y.square().sum())
    assert torch.equal(scripted[1].running_mean, mean)
    net(randn(5, 4)).square().sum().backward()
    assert g.named["1.weight"].item() == pytest.approx(net[1].weight.grad.norm().log().item(), abs=1e-10)

    class Physics(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))

        def forward(self, x):
            x.requires_grad = True
            u = self.net(x)
            return u + torch.autograd.grad(u.sum(), x, create_graph=True)[0].sum(1, keepdim=True)

    as_autograd(Physics().double(), randn(5, 4), lambda y: y.square().sum())


def test_coarse_sums_and_hooks_on_parameters_are_no_fault():
    torch.manual_seed(0)
    cell = nn.Linear(16, 16)

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                for _ in range(100):
                    x = x + 0.1 * torch.tanh(self.cell(x))
            return x.float()

    g = st.gradient_norms(Loop(), torch.randn(8, 16), lambda y: y.square().mean())
    assert len(g.layers) == 100
    masked = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    plain = st.gradient_norms(masked, randn(5, 4), lambda y: y.square().sum())
    masked[0].weight.register_hook(lambda gradient: gradient * torch.eye(4))
    hooked = st.gradient_norms(masked, randn(5, 4), lambda y: y.square().sum())
    assert torch.equal(hooked.named["0.weight"], plain.named["0.weight"])


def test_masks_beside_tokens_are_no_source():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 4)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True) for _ in range(2)
            )

        def forward(self, ids, mask):
            h = self.embed(ids)
            for block in self.blocks:
                h = block(h, src_mask=mask)
            return h

    net, ids = Masked().double(), tokens(5, 3)
    infinite = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
    for mask in (infinite, infinite.clamp(min=-1e9)):
        for options in ({}, {"source": "embed"}, {"source": 0}):
            assert st.layers(net, (ids, mask), **options).names == ("embed", "blocks.0", "blocks.1")
        as_autograd(net, (ids, mask), lambda y: y.square().sum())


def test_of_several_outputs_the_layers_lead_to_the_farthest():
    class Auxiliary(Functional):
        def __init__(self):
            super().__init__()
            self.auxiliary = nn.Linear(5, 3)

        def forward(self, x):
            x = x + torch.tanh(self.steps[0](x))
            early = self.auxiliary(x)
            for step in self.steps[1:]:
                x = x + torch.tanh(step(x))
            return early, self.head(x)

    layers = st.layers(Auxiliary().double(), randn(2, 5))
    assert layers.names == ("steps.0", "steps.1", "steps.2", "steps.3", "head")


def test_what_holds_no_numbers_is_refused():
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3)).double()
    for call in (st.propagation, st.spectrum):
        with pytest.raises(ValueError, match=r"the state after layer 0 has shape \(5, 0\): it holds no numbers"):
            call(empty, randn(5, 4))
    with pytest.raises(ValueError, match=r"x has shape \(5, 0\): it holds no numbers"):
        st.layers(nn.Identity(), randn(5, 0))


def test_a_loss_may_change_the_output_in_place():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double(), randn(5, 4)
    in_place = st.gradient_norms(net, x, lambda y: y.mul_(3).square().mean())
    plain = st.gradient_norms(net, x, lambda y: (y * 3).square().mean())
    assert in_place.output.item() == pytest.approx(plain.output.item(), abs=1e-12)


def test_readings_in_several_threads_do_not_see_one_another():
    net, x = built("functional residual"), randn(3, 5)
    expected, found, errors = st.propagation(net, x).log_norms, [], []

    def work():
        try:
            found.extend(st.propagation(net, x).log_norms for _ in range(5))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(torch.equal(one, expected) for one in found)


def test_what_a_network_raises_is_named():
    class Divides(nn.Module):
        def forward(self, x):
            return x / (1 // 0)

    with pytest.raises(ValueError, match="Divides does not take x of shape") as wrong:
        st.layers(Divides(), randn(2, 3))
    assert isinstance(wrong.value.__cause__, ZeroDivisionError)


def test_states_between_frozen_layers_keep_their_gradients():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 4), nn.Linear(4, 2)
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, ids):
            h = self.embed(ids)
            for block in self.blocks:
                h = torch.tanh(block(h))
            return self.head(h)

    net, ids = Net().double(), tokens(3, 2)
    whole = st.gradient_norms(net, ids, lambda y: y.square().sum(), source="blocks.0")
    net.embed.requires_grad_(False)
    net.blocks[:3].requires_grad_(False)
    frozen = st.gradient_norms(net, ids, lambda y: y.square().sum(), source="blocks.0")
    assert frozen.present["input"].tolist() == [False, True, True, True, True]
    torch.testing.assert_close(frozen["input"], whole["input"], rtol=0, atol=1e-12)
    net.blocks[0].requires_grad_(False)
    assert st.layers(net, ids, source="blocks.0").names == ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "head")


def test_a_first_failure_of_a_network_with_states_that_the_loss_takes_within():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.LSTMCell(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            state, kept = None, []
            for step in x.unbind(1):
                state = self.cell(step, state)
                kept.append(state[0])
            return self.out(state[0]), kept

    def loss(output):
        return output[0].square().mean() + sum(h.square().mean() for h in output[1])

    net, x = Auxiliary(), randn(2, 5, 3, dtype=torch.float32)
    g = st.gradient_norms(net, x, loss, source="cell")
    # The loss takes the first part of the states between, each of which then does not separate the rest alone.
    known = g.present["input"].tolist()
    assert known[0] is False
    assert known[-1] is True
    assert False in known[1:]
    f = st.first_failure(net, x, ["float16"], loss, source="cell", progress=False)
    assert f.depth == 6
    assert f.measured[0, 2].tolist() == [[0], [0], [-1]]
    assert f.loss_scale("float16") is not None


def test_a_conditioning_that_is_split_beside_a_dead_parameter():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.code, self.embed = nn.Parameter(torch.randn(3)), nn.Linear(3, 24)
            self.blocks, self.dead = nn.ModuleList(nn.Linear(4, 4) for _ in range(6)), nn.Parameter(torch.zeros(4))

        def forward(self, h):
            shifts = self.embed(self.code).split(4)
            for block, shift in zip(self.blocks, shifts, strict=True):
                h = torch.tanh(block(h) + shift)
            return h + 0 * self.dead

    torch.manual_seed(0)
    for dtype in (torch.float64, torch.float32):
        net, x = Split().to(dtype), randn(3, 4, dtype=dtype)
        g = st.gradient_norms(net, x, lambda y: y.square().sum())
        net(x).square().sum().backward()
        assert g.named["dead"].item() == -math.inf
        expected = net.embed.weight.grad.double().norm().log().item()
        assert g.named["embed.weight"].item() == pytest.approx(expected, abs=1e-4)


def test_half_precision_has_room_for_sums_over_a_batch():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).half()
    with torch.no_grad():
        net[0].bias[0] = -100  # a unit that is dead
    x = torch.ones(70_000, 4, dtype=torch.float16)
    g = st.gradient_norms(net, x, lambda y: y.float().mean())
    assert g.named["2.bias"].item() == pytest.approx(0, abs=2e-2)


def test_digits_that_are_lost_within_a_layer_are_refused():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def keep(self, h, factor):
            return factor * h + (1 - factor) * h.detach()

        def forward(self, h):
            return self.keep(self.one(self.keep(h, 1e-21)), 1e-22) + self.keep(self.other(self.keep(h, 1e-21)), 1e-22)

    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), Parallel()), torch.randn(3, 4)
    with pytest.raises(ValueError, match="underflows on its way through a single layer"):
        st.gradient_norms(net, x, lambda y: y.sum())
    assert st.gradient_norms(net.double(), x.double(), lambda y: y.sum()).named["0.weight"].item() < -95


def test_generators_and_arrays_of_numpy_are_as_they_were():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.rng, self.python, self.array = np.random.default_rng(0), random.Random(0), np.zeros(2)

        def forward(self, x):
            self.array += 1
            return x * float(self.rng.random()) * self.python.random()

    net = Random()
    before = str(net.rng.bit_generator.state), net.python.getstate()
    st.propagation(net, randn(2, 3))
    with pytest.raises(ValueError, match="draws random numbers when it runs"):
        st.spectrum(net, randn(2, 3), progress=False)
    assert (str(net.rng.bit_generator.state), net.python.getstate()) == before
    assert net.array.tolist() == [0, 0]


def test_a_derivative_that_is_not_finite_is_no_mixing_of_points():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).double()
    p = st.propagation([net, torch.sqrt], randn(4, 3))
    assert p.layers == ("0.0", "0.1", "1")


def test_complex_states_that_become_real_have_no_update():
    class Real(nn.Module):
        def forward(self, x):
            return x.real

    p = st.propagation(nn.Sequential(nn.Linear(3, 3, dtype=torch.complex128), Real()), randn(2, 3).to(torch.complex128))
    assert p.widths.tolist() == [6, 6, 3]
    assert p.same_shape.tolist() == [True, False]


def test_what_layers_were_read_with_and_of_is_kept():
    net, x = built("functional residual"), randn(3, 5)
    layers = st.layers(net, x)
    with pytest.raises(ValueError, match="batch_dim is None, and layers= was read with 0"):
        st.spectrum(net, x, layers, batch_dim=None, progress=False)
    with pytest.raises(ValueError, match="source is 'head', and layers= was read with None"):
        st.watch(net, layers, source="head")
    with pytest.raises(ValueError, match=r"layers= was read of another model: Linear has no steps.0, of layer steps.0"):
        st.watch(nn.Linear(5, 5), layers)
    chain, points = st.Chain("plain_prelu", depth=3), torch.zeros(2, dtype=torch.float64)
    read = st.layers(chain, points)
    with st.watch(chain, read) as record:
        pass
    assert record.layers[:3] == read.names
    with pytest.raises(ValueError, match="leave out source="):
        st.spectrum(chain, points, read, source="x")
    with pytest.raises(ValueError, match="layers= has 3 layers"):
        st.spectrum(chain.prefix(2), points, read)


def test_calls_beyond_the_last_end_of_a_layer_are_not_recorded():
    net, x = built("shared cell"), randn(3, 5)
    with st.watch(net, ["cell#2"]) as record:
        net(x).sum().backward()
    second = net.cell(torch.tanh(net.cell(x)))
    expected = second.square().mean().sqrt().log().item()
    assert record.layers == ("cell#2",)
    assert record.log_activations[0, 0, 0].item() == pytest.approx(expected, abs=1e-12)


def test_points_may_change_their_dimension():
    class Last(nn.Module):
        """Sequence first, and of the sequence its end."""

        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0][-1])

    torch.manual_seed(0)
    net, x = Last().double(), randn(5, 3, 3)  # as many points as inputs
    s = st.spectrum(net, x, batch_dim=1, progress=False)
    assert s.layers == ("lstm", "head")
    for point in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v[:, None])[0], x[:, point]).reshape(2, 15)
        expected = torch.linalg.svdvals(jacobian).log()
        torch.testing.assert_close(s.log_values[-1, 0, point, :2], expected, rtol=0, atol=1e-10)


def test_the_source_is_the_same_whichever_layers_are_named():
    from ..models import MODELS

    net, x = built("encoder and decoder"), MODELS["encoder and decoder"].x
    whole = st.layers(net, x).names
    assert st.layers(net, x, "encoder").names == whole[1:4]
    assert st.layers(net, x, ["encoder.0", "encoder.1"]).names == whole[1:3]
    assert st.layers(net, x, "every").names[0] == "source"
    with pytest.raises(ValueError, match=r"layers is 'head': .* one module is named in a list, layers=\['head'\]"):
        st.layers(net, x, "head")


def test_a_network_that_differentiates_may_be_followed_from_a_call():
    class Physics(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

        def forward(self, x):
            u = self.net(x)
            return torch.autograd.grad(u.sum(), x, create_graph=True)[0]

    net = Physics().double()
    assert st.layers(net, randn(3, 2), source="net.0").layers[0].name in ("net.0", "net", "net.0 ... net")
    as_autograd_of = st.gradient_norms(net, randn(3, 2), lambda y: y.square().sum(), source="net.0")
    x = randn(3, 2).requires_grad_()
    net(x).square().sum().backward()
    expected = net.net[0].weight.grad.norm().log().item()
    assert as_autograd_of.named["net.0.weight"].item() == pytest.approx(expected, abs=1e-11)


def test_leading_values_are_the_same_with_jacobians_and_without(monkeypatch):
    from stability.jacobians import leading_values, of_networks

    monkeypatch.setattr(of_networks, "ALL_UP_TO", 0)
    monkeypatch.setattr(of_networks, "ALL_UP_TO_EACH", 0)
    net, x = built("pre-norm encoder"), randn(2, 3, 8)
    held = st.spectrum(net, x, k=3, progress=False)
    monkeypatch.setattr(leading_values, "HELD", 0)
    free = st.spectrum(net, x, k=3, progress=False)
    torch.testing.assert_close(held.log_values, free.log_values, rtol=0, atol=1e-9)


def test_gradients_that_an_ordinary_pass_contradicts_are_refused(monkeypatch):
    monkeypatch.setattr("stability.reading.backward_pass.scaled_sum", lambda parts: (1.01 * parts[0][0], parts[0][1]))
    with pytest.raises(ValueError, match=r"the gradient of the parameter .* where an ordinary backward pass has"):
        st.gradient_norms(nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double(), randn(2, 3), lambda y: y.sum())
