"""Depth checks of models in coarse formats, of complex ones, of those that grow in width, and of decays."""

import pytest
import torch
from torch import nn

import stability as st
from stability.scaling.depth_training import order_of

from .test_depth_check import by_sgd, plain, square


def test_what_is_lost_in_rounding_is_said_in_coarse_formats():
    x = torch.ones(2, 6, dtype=torch.bfloat16)
    check = st.depth_check(lambda d: plain(d).bfloat16(), (2, 4), x, square, steps=1, seeds=2)
    assert "the change of the last state is lost in rounding at depth 2 for 2 of 2 seeds" in repr(check)


class Turned(nn.Module):
    """Has imaginary weights, so that real parts alone would be zero after an odd number of layers."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(depth))
        for layer in self.layers:
            layer.weight = nn.Parameter(layer.weight.detach().double() * torch.tensor(1j))

    def forward(self, h):
        for layer in self.layers:
            h = layer(h)
        return h


def test_complex_numbers_count_whole():
    x = torch.ones(2, 6, dtype=torch.complex128)
    check = st.depth_check(Turned, (3, 5), x, lambda y: y.abs().square().mean(), by_sgd, 1, 2)
    for seed in (0, 1):
        torch.manual_seed(seed)
        rms = (Turned(3)(x).abs().square().mean() / 2).sqrt()
        assert check.log_state[0, seed, -1].item() == pytest.approx(rms.log().item())
    assert check.log_change.isfinite().all()
    assert check.log_step.isfinite().all()


def test_a_decay_of_weights_is_no_gradient():
    values = [torch.ones(1)]
    assert order_of(torch.optim.SGD(values, lr=1.0, momentum=0.9)) == 1
    assert order_of(torch.optim.SGD(values, lr=1.0, weight_decay=0.1)) is None
    assert order_of(torch.optim.AdamW(values, lr=1.0, weight_decay=0.1)) == 0


def test_models_that_grow_in_width_are_refused():
    def wider(depth):
        width = 4 * depth
        inner = (nn.Linear(width, width) for _ in range(depth))
        return nn.Sequential(nn.Linear(6, width), *inner, nn.Linear(width, 6))

    with pytest.raises(ValueError, match="of Linear have other sizes at depth 4 than at depth 2"):
        st.depth_check(wider, (2, 4), torch.ones(2, 6), square, by_sgd, 1, 2)
