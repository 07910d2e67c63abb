"""What is not finite is named for what it is, where it appears first; compiled networks are read as they are."""

import math

import pytest
import torch
from torch import nn

import stability as st
from tests.models import compiled


class Does(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


def network(function, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4), Does(function), nn.Linear(4, 4)]
    return nn.Sequential(*layers).to(dtype), torch.randn(3, 4, dtype=dtype)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda h: (-(h**2) - 1).log(), "nan .* log: the logarithm of a negative number"),
        (lambda h: (h * 0).log(), "-inf .* log: the logarithm of 0"),
        (lambda h: (-(h**2)).sqrt(), "nan .* sqrt: the root of a negative number"),
        (lambda h: (h - h) / (h - h), "nan .* div: 0 / 0"),
        (lambda h: h / (h - h), "-?inf .* div: a division by 0, or by a number so small that torch.float64 overflows"),
        (lambda h: (1e4 + h).exp(), "inf .* exp, which overflows torch.float64, which ends at 1.8e[+]308"),
        (lambda h: h.float() * 1e38 * 1e38, "-?inf .* mul, which overflows torch.float32, which ends at 3.4e[+]38"),
        (lambda h: h * torch.full_like(h, math.nan), "nan .* mul: it takes numbers for which it is not defined"),
    ],
)
@pytest.mark.parametrize("verb", ["spectrum", "propagation", "gradient_norms", "first_failure", "forward_error"])
def test_what_is_not_finite_is_named(verb, function, says):
    net, x = network(lambda h: function(h).to(h.dtype))
    verbs = {
        "spectrum": lambda: st.spectrum(net, x, progress=False),
        "propagation": lambda: st.propagation(net, x),
        "gradient_norms": lambda: st.gradient_norms(net, x, lambda y: y.square().mean()),
        "first_failure": lambda: st.first_failure(net, x, ["float16"]),
        "forward_error": lambda: st.forward_error(net, x),
    }
    if verb == "forward_error" and "float32" in says:  # what overflows in a narrower format inside has a truth
        found = st.forward_error(net, x, ["float32"])
        assert found.narrow == ("1",)
        assert found.log_errors["float32"][2:].tolist() == found.log_narrow_errors[2:].tolist() == [[math.inf]] * 2
        return
    with pytest.raises(ValueError, match=f"(?s)the state after layer 1 has .* not finite, the first {says}"):
        verbs[verb]()


def test_autocast_is_named_by_its_format():
    net, x = network(lambda h: h * 1e5, torch.float32)

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, h):
            with torch.autocast("cpu", torch.float16):
                return self.net[2](self.net[1](self.net[0](h)))

    with pytest.raises(ValueError, match=r"overflows torch\.float16, which ends at 6\.55e\+04"):
        st.propagation(Cast(), x)


@pytest.mark.filterwarnings("ignore")  # what torch.compile says as it compiles
@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
def test_compiled_networks_are_read_as_they_are_written(how):
    net, x = network(torch.tanh)
    expected = (
        st.propagation(net, x).log_norms,
        st.spectrum(net, x, progress=False).log_values,
        st.gradient_norms(net, x, lambda y: y.square().mean())["parameters"],
    )
    net = compiled(net, how, part=1)
    net(x)
    found = (
        st.propagation(net, x).log_norms,
        st.spectrum(net, x, progress=False).log_values,
        st.gradient_norms(net, x, lambda y: y.square().mean())["parameters"],
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"is compiled: it does not call its modules one by one"):
        st.watch(net)
