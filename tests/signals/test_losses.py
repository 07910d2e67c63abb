"""Losses whose gradient is lost inside them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stability as st


def saturated(dtype=torch.float32):
    """A network whose first logit is 200 above the others."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        net[2].bias.copy_(torch.tensor([200.0, 0.0, 0.0]))
    return net, torch.randn(6, 4, dtype=dtype)


CLASSES = torch.zeros(6, dtype=torch.long)
LOST = {
    "LogSoftmax": lambda y: F.cross_entropy(y, CLASSES),
    "Softplus": lambda y: F.softplus(-y[:, 0]).mean(),
    "Sigmoid": lambda y: torch.sigmoid(y[:, 0]).mean(),
    "BinaryCrossEntropyWithLogits": lambda y: F.binary_cross_entropy_with_logits(y[:, 0], torch.ones(6)),
    "Exp": lambda y: (-y[:, 0]).exp().mean(),
    "Tanh": lambda y: y[:, 0].tanh().mean(),
}


@pytest.mark.parametrize("name", LOST)
def test_a_gradient_that_is_lost_inside_the_loss_is_not_called_zero(name):
    net, x = saturated()
    for run in (st.gradient_norms, lambda *args: st.first_failure(*args[:2], ["float16"], args[2])):
        with pytest.raises(ValueError, match=rf"is zero in float32: .* lost inside the loss, in {name},"):
            run(net, x, LOST[name])


def test_where_float64_holds_the_gradient_it_is_measured():
    net, x = saturated(torch.float64)
    found = st.gradient_norms(net, x, LOST["LogSoftmax"])
    assert -250 < found.output[0] < -150


@pytest.mark.parametrize(
    "loss",
    [
        lambda y: F.mse_loss(y, y.detach()),
        lambda y: (y - y.detach()).square().mean(),
        lambda y: torch.log(torch.cosh(y - y.detach())).mean(),
        lambda y: F.cross_entropy(y[:, :1], CLASSES),
        lambda y: F.relu(F.softplus(y) - 500).mean(),
        lambda y: F.relu(y - 500).mean() + 0 * torch.tanh(torch.full((1,), 99.0, requires_grad=True)).sum(),
    ],
)
def test_a_loss_that_is_not_saturated_is_exactly_zero(loss):
    net, x = saturated()
    assert st.gradient_norms(net, x, loss).output[0] == -torch.inf


def test_members_of_a_chain_are_counted():
    chain = st.Chain("residual2_prelu", depth=5, seeds=3)
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    move = torch.tensor([[0.0], [1e4], [1e4]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"float64 for 2 of 3 seeds: .* in Softplus"):
        st.gradient_norms(chain, x, lambda y: F.softplus(y - move).mean(dim=1))
