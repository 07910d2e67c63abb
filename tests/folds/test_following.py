"""A function is one along the line in a network that is followed, and a value with its own calculus everywhere else."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

F = st.PiecewiseLinear([0.0, 1.0, 3.0], [0.0, 2.0, 0.0])
G = st.PiecewiseLinear([0.0, 2.0, 3.0], [1.0, -1.0, 0.0])
CALCULUS = [
    lambda f: f.norm(2),
    lambda f: f.norm(math.inf),
    lambda f: f.inner(G),
    lambda f: f.distance(G),
    lambda f: f.distance(torch.sin),
    lambda f: f.integral(),
    lambda f: f.roots().tolist(),
]
LINE = st.segment([0.0, 1.0], [1.0, -1.0])
EVERYWHERE = nn.modules.module


class Calls(nn.Module):
    """A module of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)

    def training_step(self, x):
        return self(x)


class Holds(nn.Module):
    """A loss of a function that it holds."""

    def __init__(self, function, f):
        super().__init__()
        self.function, self.f = function, f

    def forward(self):
        return self.function(self.f)


# --- outside of networks that are followed ---


@pytest.mark.parametrize("calculus", CALCULUS)
def test_calculus_is_the_same_in_any_method_of_a_module(calculus):
    expected = calculus(F)
    assert Calls(calculus)(F) == expected
    assert Calls(calculus).training_step(F) == expected
    assert nn.Sequential(nn.Identity(), Calls(calculus))(F) == expected
    assert Holds(calculus, F)() == expected


def test_what_a_restriction_returns_has_its_calculus_in_a_module():
    class Loss(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, line):
            f = st.restrict(self.net, line)
            return f.norm(2), f.inner(f), f.integral()

    net = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 5), nn.LeakyReLU(), nn.Linear(5, 1))
    for one in (net, Calls(net)):
        f = st.restrict(one, (-2, 2))
        assert Loss(one)((-2, 2)) == (f.norm(2), f.inner(f), f.integral())


def test_a_function_of_the_network_s_own_is_a_constant_in_it():
    f = st.restrict(Calls(lambda x: x * F.norm(2) + F.inner(G)), LINE)
    np.testing.assert_allclose(f.values, LINE.values * F.norm(2) + F.inner(G), rtol=1e-15)


# --- in networks that are followed ---


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        (lambda x: x / x.norm(), "torch's norm with p = 2"),
        (lambda x: x / (2 * x.relu() + 1).norm(2), "torch's norm with p = 2"),
        (lambda x: x * x.inner(x), "Tensor.inner"),
        (lambda x: x * x.distance(x * 0), "torch's norm with p = 2"),
        (nn.functional.gelu, "torch's gelu"),
        (lambda x: x if x.sum() > 0 else -x, "a comparison or a branch on values"),
    ],
)
def test_in_a_network_the_module_is_named(method, name, exact):
    with pytest.raises(TypeError, match=rf"{name} in the module \(Calls\) cannot be followed"):
        st.restrict(Calls(method), LINE, exact=exact)
    nested = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Calls(method)), nn.Identity())
    with pytest.raises(TypeError, match=rf"{name} in module '1.1' \(Calls\) cannot be followed"):
        st.restrict(nested, LINE, exact=exact)
    with pytest.raises(TypeError, match=f"{name} cannot be followed"):
        st.restrict(method, LINE, exact=exact)


def test_modules_of_a_function_are_named_in_the_outermost_that_it_calls():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Tanh()))
    with pytest.raises(TypeError, match=r"torch's tanh in module '1.1' \(Tanh\)"):
        st.restrict(lambda x: 2 * net(x), LINE)


def test_what_comes_after_a_module_is_not_in_it():
    class Goes(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first = first

        def forward(self, x):
            try:
                x = self.first(x)
            except TypeError:
                x = -x
            return torch.sigmoid(x)

    for first in (nn.ReLU(), nn.GELU(), nn.Sequential(nn.ReLU(), nn.GELU())):
        with pytest.raises(TypeError, match=r"torch's sigmoid in the module \(Goes\)"):
            st.restrict(Goes(first), LINE)


def test_a_restriction_within_a_network_has_names_of_its_own():
    inner = nn.Sequential(nn.Linear(2, 2), nn.Softplus())

    def says(x):
        with pytest.raises(TypeError, match=r"torch's softplus in module '1' \(Softplus\)"):
            st.restrict(inner, LINE)
        return x.exp()

    with pytest.raises(TypeError, match=r"Tensor.exp in module '0' \(Calls\)"):
        st.restrict(nn.Sequential(Calls(says)), LINE)


def test_without_restrict_a_refusal_names_no_module():
    for module in (nn.GELU(), nn.Sequential(nn.Linear(2, 2), nn.GELU())):
        with pytest.raises(TypeError, match="torch's gelu cannot be followed along a line"):
            module(LINE)


@pytest.mark.parametrize("ends", ["well", "refused", "of its own accord", "windows left half-way"])
def test_nothing_is_left_behind(ends):
    def raises(x):
        raise KeyError(x)

    def hooks():
        return [dict(v) for k, v in vars(EVERYWHERE).items() if k.startswith("_global") and isinstance(v, dict)]

    before = hooks()
    net = nn.Sequential(
        nn.Linear(2, 3), {"refused": nn.GELU(), "of its own accord": Calls(raises)}.get(ends, nn.ReLU())
    )
    if ends == "well":
        st.restrict(net, LINE)
    elif ends == "windows left half-way":
        next(st.restrict(net, LINE, window=4))
    else:
        with pytest.raises((TypeError, KeyError)):
            st.restrict(net, LINE)
    assert hooks() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert Calls(lambda f: f.norm(2))(F) == F.norm(2)
    with pytest.raises(TypeError, match="torch's gelu cannot be followed"):
        nn.GELU()(LINE)


# --- threads ---


def test_threads_follow_and_calculate_at_once():
    # Each is in its network, or in its module, when the others are.
    together = threading.Barrier(3, timeout=60)

    def waits(x):
        together.wait()
        return x

    def refusal(module):
        with pytest.raises(TypeError) as raised:
            st.restrict(nn.Sequential(Calls(waits), module), LINE)
        return str(raised.value).partition(" cannot be followed")[0]

    def calculus(f):
        waits(f)
        return f.norm(2), f.inner(G)

    for _ in range(20):
        with ThreadPoolExecutor(3) as pool:
            one = pool.submit(refusal, nn.GELU())
            other = pool.submit(refusal, nn.Sequential(nn.ReLU(), Calls(lambda x: x / x.norm())))
            free = pool.submit(Calls(calculus), F)
        assert one.result() == "torch's gelu in module '1' (GELU)"
        assert other.result() == "torch's norm with p = 2 in module '1.1' (Calls)"
        assert free.result() == (F.norm(2), F.inner(G))


def test_plain_layers_are_followed_the_fast_way_while_another_network_is():
    net = nn.Sequential(nn.Linear(1, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 1)).double()
    alone = st.restrict(net, (-2, 2))
    meanwhile = []

    def looks(x):
        with ThreadPoolExecutor(1) as pool:
            meanwhile.append(pool.submit(st.restrict, net, (-2, 2)).result())
        return x

    st.restrict(Calls(looks), LINE)
    assert meanwhile
    for f in meanwhile:
        for one, other in ((f.knots, alone.knots), (f.values, alone.values), (f._errors, alone._errors)):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("norm", [lambda x: x.norm(), lambda x: x.norm(2), lambda x: x.inner(x)])
def test_a_norm_is_refused_where_a_network_is_called_directly(norm):
    with pytest.raises(TypeError, match=r"(torch's norm with p = 2|Tensor.inner) cannot be followed along a line"):
        Calls(lambda x: x / norm(x))(st.segment([1.0, 0.0], [1.0, 1.0]))
