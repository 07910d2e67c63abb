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
