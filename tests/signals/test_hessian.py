"""Hessians against closed forms of linear chains, torch's own, and matrices that are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

X = torch.linspace(-1, 1, 33, dtype=torch.float64)
SQUARE = float(X.square().mean())
L, A = 16, 1.7


def fit(y):
    return (y - A * X).square().mean(dim=-1)


class Bypassed(nn.Module):
    """h <- h + w_1 ... w_m h, L times: the scalar linear chain of bypass m."""

    def __init__(self, bypass, depth=L, start=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.full((depth, bypass), start, dtype=torch.float64))

    def forward(self, x):
        for row in self.w:
            x = x + row.prod() * x
        return x


def eigenvalues(bypass, depth=L, a=A):
    """Of the mean square error from a x, at zero, descending.

    With F = prod_i (1 + w_i1 ... w_im) it is SQUARE (F - a)^2, and H = 2 SQUARE (grad F grad F^T + (F - a) F''). At
    zero F = 1. With one factor a block all derivatives of F are 1, but for the second one by the same factor, which is
    0; with two, F'' joins the two of a block alone, and grad F = 0; with three there is no second derivative.
    """
    if bypass == 1:
        return 2 * SQUARE * np.array([a - 1 + (2 - a) * depth] + (depth - 1) * [a - 1])
    if bypass == 2:
        return 2 * SQUARE * np.array(depth * [a - 1] + depth * [1 - a])
    return np.zeros(bypass * depth)


@pytest.mark.parametrize("bypass", [1, 2, 3])
@pytest.mark.parametrize("depth", [2, 16, 40])
def test_linear_chains_of_bypass_1_2_and_3_at_zero(bypass, depth):
    h = st.hessian(Bypassed(bypass, depth), X, fit)
    assert h.eigenvalues[0].numpy() == pytest.approx(eigenvalues(bypass, depth), abs=1e-13)
    condition = {1: 1 + (2 - A) * depth / (A - 1), 2: 1.0, 3: math.inf}[bypass]
    assert h.condition.item() == pytest.approx(condition, rel=1e-12)
    assert h.rank.item() == (0 if bypass == 3 else bypass * depth)
    assert h.negative.item() == (depth if bypass == 2 else 0)
    assert h.against_differences.item() < 1e-5
    if depth == 16:  # what is known of them
        assert round(condition, 2) == {1: 7.86, 2: 1.0, 3: math.inf}[bypass]


def test_at_its_minimum_bypass_1_has_one_curved_direction():
    h = st.hessian(Bypassed(1, start=A ** (1 / L) - 1), X, fit)
    # grad F = a / (1 + w), L times, and F = a.
    assert h.eigenvalues[0, 0].item() == pytest.approx(2 * SQUARE * L * A ** (2 - 2 / L), rel=1e-12)
    assert h.zeros.item() == L - 1
    assert h.condition.item() == math.inf
    assert "15 zero" in repr(h)


def test_a_chain_is_its_members_one_by_one():
    chain = st.Chain("residual2_prelu", 6, seeds=3)
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)

    def loss(y):
        return (y - x.sin()).square().mean(dim=-1)

    h = st.hessian(chain, x, loss)
    assert h.parameters == 30
    names = [name for name, _ in chain.named_parameters()]
    for seed in range(3):
        flat = torch.cat([chain.get_parameter(name)[seed].flatten() for name in names]).detach()

        def of_one(values, seed=seed):
            parts = dict(zip(names, values.reshape(5, 6), strict=True))
            every = {n: p.detach().clone() for n, p in chain.named_parameters()}
            every = {n: torch.stack([parts[n] if s == seed else p[s] for s in range(3)]) for n, p in every.items()}
            return loss(torch.func.functional_call(chain, every, (x,)))[seed]

        exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of_one, flat)).flip(0)
        assert (h.eigenvalues[seed] - exact).abs().max() < 1e-10 * exact.abs().max()
    assert (h.residuals < 1e-12).all()
    assert (h.against_differences < 1e-4).all()
    assert h.loss.numpy() == pytest.approx(loss(chain(x)).detach().numpy())


def test_the_extreme_eigenvalues_by_lanczos_are_those_of_all():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 1)).double()
    x = torch.randn(40, 5, dtype=torch.float64)

    def loss(y):
        return (y - x[:, :1]).square().mean()

    every, few = st.hessian(net, x, loss), st.hessian(net, x, loss, k=4)
    assert every.parameters == few.parameters == 241
    assert not few.complete
    assert few.eigenvalues.shape == (1, 8)
    expected = torch.cat([every.eigenvalues[:, :4], every.eigenvalues[:, -4:]], dim=1)
    assert (few.eigenvalues - expected).abs().max() < 1e-9 * every.largest.item()
    assert (few.residuals < 1e-8).all()
    assert st.hessian(net, x, loss, all_up_to=240).eigenvalues.shape == (1, 12)
    chain = st.Chain("residual2_prelu", 4, seeds=2)
    ends = st.hessian(chain, X, fit, k=2).eigenvalues
    own = st.hessian(chain, X, fit).eigenvalues
    assert torch.allclose(ends, torch.cat([own[:, :2], own[:, -2:]], dim=1), rtol=1e-8, atol=1e-10)
    zero = st.hessian(Bypassed(3), X, fit, k=2)
    assert (zero.eigenvalues == 0).all()
    for what in ("condition", "rank"):
        with pytest.raises(ValueError, match="all_up_to="):
            getattr(few, what)


class Once(torch.autograd.Function):
    """A square whose backward pass hides what it depends on."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 2 * x.detach()


class Refuses(Once):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 2 * x


class Squares(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.w, self.function = nn.Parameter(torch.ones(3, dtype=torch.float64)), function

    def forward(self, x):
        return self.function(self.w) * x


def test_wrong_and_missing_second_derivatives_are_told():
    x = torch.ones(3, dtype=torch.float64)
    h = st.hessian(Squares(torch.square), x, lambda y: y.sum())
    assert h.eigenvalues[0].tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert h.against_differences.item() < 1e-6
    wrong = st.hessian(Squares(Once.apply), x, lambda y: y.sum())
    assert wrong.against_differences.item() > 0.5
    assert "wrong derivative" in repr(wrong)
    with pytest.raises(ValueError, match="cannot be differentiated twice"):
        st.hessian(Squares(Refuses.apply), x, lambda y: y.square().sum())


def test_what_has_no_hessian_is_refused():
    x, net = torch.randn(4, 3), nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="draws random numbers when it runs, in Dropout '1'"):
        st.hessian(net, x, lambda y: y.square().mean())
    with pytest.raises(ValueError, match="no 32 eigenvalues"):
        st.hessian(net.eval(), x, lambda y: y.square().mean(), k=16)
    with pytest.raises(ValueError, match="budget is 1e-09 GiB"):
        st.hessian(net, x, lambda y: y.square().mean(), memory=1e-9)
    with pytest.raises(ValueError, match="requires a gradient"):
        st.hessian(net.requires_grad_(False), x, lambda y: y.square().mean())


def test_the_network_is_left_as_it_was_and_frozen_parameters_count_for_nothing():
    chain = st.Chain("residual2_prelu", 4, seeds=2)
    chain.bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in chain.named_parameters()}
    h = st.hessian(chain, X, fit)
    assert h.parameters == 16
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in chain.named_parameters())
    data = h.to_dataset()
    assert data["eigenvalues"].dims == ("seed", "index")
    assert repr(h).startswith("Hessian(16 parameters, 2 seeds: eigenvalues ")
    assert "<" in h._repr_html_()
