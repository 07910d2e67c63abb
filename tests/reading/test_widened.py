"""A network in float64 whose inner conversions to a narrower format are taken out."""

import pytest
import torch
from torch import nn

import stability as st
from stability.reading.widened import widened


class Norm(nn.Module):
    """As in many language models: in float32 whatever the dtype."""

    def __init__(self, width, how):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(width)), how

    def forward(self, h):
        own = h.dtype
        h = {"to": h.to(torch.float32), "float": h.float(), "half": h.half(), "type": h.type(torch.float32)}[self.how]
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(own)


class Softmax(nn.Module):
    def forward(self, h):
        return h + torch.softmax(h, -1, dtype=torch.float32).to(h.dtype) + torch.linspace(0.1, 1, 8).to(h.dtype)


def by_hand(net, x):
    """Return the states after each layer, everything in float64."""
    states = [x]
    for norm, linear, _softmax in net:
        h = states[-1]
        h = norm.weight.double() * h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        h = h @ linear.weight.double().T + linear.bias.double()
        e = (h - h.amax(-1, keepdim=True)).exp()
        states.append(h + e / e.sum(-1, keepdim=True) + torch.linspace(0.1, 1, 8, dtype=torch.float64))
    return states


def network(how="to"):
    torch.manual_seed(0)
    blocks = (nn.Sequential(Norm(8, how), nn.Linear(8, 8), Softmax()) for _ in range(3))
    return nn.Sequential(*blocks)


@pytest.mark.parametrize("how", ["to", "float", "half", "type"])
def test_all_of_a_network_is_in_float64(how):
    net, x = network(how).double(), torch.randn(4, 8, dtype=torch.float64)
    with widened(net) as places, torch.no_grad():
        y = net(x)
    assert set(places) == {f"{layer}.{part}" for layer in range(3) for part in (0, 2)}
    assert (y - by_hand(net, x)[-1]).abs().max() < 1e-14
    with torch.no_grad():
        assert (net(x) - y).abs().max() > 1e-9  # without it, it is not
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_errors_are_against_a_reference_in_float64_and_what_is_not_is_named():
    net, x = network().to(torch.float32), torch.randn(4, 8)
    found = st.forward_error(net, x, ["float32"])
    assert found.narrow == ("0.0", "0.2", "1.0", "1.2", "2.0", "2.2")
    states = by_hand(net, x.double())
    with torch.no_grad():
        h, twin, t = x, network().double(), x.double()
        twin.load_state_dict(net.state_dict())
        for layer in range(3):
            h, t = net[layer](h), twin[layer](t)
            size = states[layer + 1].norm()
            assert found.log_errors["float32"][layer + 1, 0].exp() == pytest.approx(
                float((h - states[layer + 1]).norm() / size), rel=1e-6
            )
            assert found.log_narrow_errors[layer + 1, 0].exp() == pytest.approx(
                float((t - states[layer + 1]).norm() / size), rel=1e-6
            )
    assert "0.0 and 5 more work in a narrower format" in repr(found)
    assert "log_narrow_errors" in found.to_dataset()


def test_a_network_that_stays_in_its_format_has_none():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    found = st.forward_error(net, torch.randn(2, 3))
    assert found.narrow == ()
    assert found.log_narrow_errors is None


class Adds(nn.Module):
    """A layer that adds numbers of its own."""

    def __init__(self, numbers):
        super().__init__()
        self.linear, self.numbers, self.held = nn.Linear(8, 8), numbers, torch.linspace(0.1, 1, 8)

    def forward(self, h):
        return self.linear(h + self.numbers(self, h).to(h.dtype))


def whole(start=0):
    return torch.arange(start, start + 8)


def bits(_, h):
    return h.float().view(torch.int32).bitwise_and(~1).view(torch.float32)


#: What a layer adds, and the same in float64.
NARROW = {
    "sine of whole numbers": (lambda *_: torch.sin(whole(10**6) * 0.1), lambda _: (whole(10**6).double() * 0.1).sin()),
    "quotient": (lambda *_: whole() / 7, lambda _: whole().double() / 7),
    "power": (lambda *_: 10000.0 ** (whole() / 8), lambda _: 10000.0 ** (whole().double() / 8)),
    "held": (lambda m, _: m.held.exp(), lambda m: m.held.double().exp()),
    "matrix": (lambda m, h: h.float() @ m.held.outer(m.held), None),
    "put": (lambda _, h: torch.zeros(4, 8).index_put_((torch.arange(4),), h.float()), None),
}


@pytest.mark.parametrize("name", NARROW)
def test_numbers_that_a_layer_makes_by_itself_are_in_float64(name):
    torch.manual_seed(0)
    net, x = nn.Sequential(*(Adds(NARROW[name][0]) for _ in range(2))).double(), torch.randn(4, 8, dtype=torch.float64)
    with widened(net) as places, torch.no_grad():
        y = net(x)
    assert set(places) == {"0", "1"}
    h = x
    for layer in net:
        held = layer.held.double()
        own = {"matrix": lambda h=h: h @ held.outer(held), "put": lambda h=h: h}  # noqa: B023
        h = layer.linear(h + (own[name]() if name in own else NARROW[name][1](layer)))
    assert (y - h).abs().max() <= 1e-12 * h.abs().max()


def test_random_numbers_are_the_same_and_masks_are_not_named():
    draw = Adds(lambda *_: torch.randn(8, generator=torch.Generator().manual_seed(0)))
    mask = Adds(lambda _, h: h * (h > 0).float() + torch.zeros(8) + torch.full((8, 8), -1.0).triu(1)[0])
    net, x = nn.Sequential(draw, mask).double(), torch.randn(4, 8, dtype=torch.float64)
    with widened(net) as places, torch.no_grad():
        y = net(x)
    assert not places
    with torch.no_grad():
        assert torch.equal(net(x), y)


def test_a_network_that_cannot_be_in_float64_is_named():
    net = nn.Sequential(*(Adds(bits) for _ in range(2)))
    found = st.forward_error(net, torch.randn(4, 8), ["float32"])
    assert found.narrow == ("0", "1")
    assert found.log_narrow_errors is None
    assert "the reference too works in a narrower format in 0, 1" in repr(found)
