"""Steps of every order against ones written out by hand, and all verbs on them."""

import copy
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

import stability as st
from stability.foundation.files import read_tensors

X = torch.linspace(-2, 2, 7, dtype=torch.float64)
PLANE = torch.stack([X, X.sin(), 1 - X], dim=1)
ORDERS = ["between", "original", "before_addition", "pre_activation", "full_pre_activation"]
TASK = st.Task(torch.sin, (-3, 3), points=16)

EYE = dataclasses.replace(st.INITS["he"], name="eye", weight=st.Distribution("identity"))


def layer_norm(h):
    return torch.nn.functional.layer_norm(h, h.shape[-1:])


def rms_norm(h):
    return h / (h.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def by_hand(order, h, maps, phi, norm, factor):
    """One residual step in the words of He et al. 2016, maps as functions."""
    v = h
    for number, affine in enumerate(maps):
        last = number == len(maps) - 1
        if order == "pre_activation":
            v = norm(affine(phi(v)))
        elif order == "full_pre_activation":
            v = affine(phi(norm(v)))
        elif order == "before_addition" or (order == "between" and (not last or len(maps) == 1)):
            v = phi(norm(affine(v)))
        elif order == "between":
            v = affine(v)
        else:
            v = norm(affine(v)) if last else phi(norm(affine(v)))
    total = h + factor * v
    return phi(total) if order == "original" else total


@pytest.mark.parametrize("norm", [None, "layer", "rms"])
@pytest.mark.parametrize("maps", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_step_is_that_of_the_paper(order, maps, norm):
    architecture = st.Architecture("block", skip=1, maps=maps, order=order, norm=norm, branch=0.5, branch_power=-0.5)
    depth = 4
    chain = st.Chain(architecture, depth, seeds=2, width=3)
    names = {1: [""], 2: ["", "outer_"], 3: ["", "map2_", "outer_"]}[maps]
    normalise = {None: lambda h: h, "layer": layer_norm, "rms": rms_norm}[norm]
    p = {kind: value.detach() for kind, value in chain.named_parameters()}
    assert list(p) == [f"{name}{part}" for name in names for part in ("weight", "bias")]
    for seed in range(2):
        h = PLANE
        for layer in range(depth):
            affine = [
                lambda v, n=name, s=seed, i=layer: v @ p[f"{n}weight"][s, i].T + p[f"{n}bias"][s, i] for name in names
            ]
            h = by_hand(order, h, affine, torch.relu, normalise, 0.5 / 2)
        torch.testing.assert_close(chain(PLANE)[seed].detach(), h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(("order", "maps"), [("between", 2), ("original", 2), ("before_addition", 3)])
def test_every_verb_takes_every_order(order, maps, width, shared, tmp_path):
    x = X if width == 1 else PLANE
    architecture = st.Architecture(
        "block", skip=1, maps=maps, activation="prelu", order=order, branch_power=-0.5, shared=shared
    )
    chain = st.Chain(architecture, 5, seeds=2, width=width)
    assert not chain.holds_rows
    y = chain(x)
    p = st.propagation(chain, x)
    sizes = y.abs() if width == 1 else y.norm(dim=-1)
    torch.testing.assert_close(p.log_norms[-1], sizes.log().detach(), rtol=0, atol=1e-12)
    g = st.gradient_norms(chain, x, lambda out: out.square().flatten(1).mean(dim=1))
    y.square().flatten(1).mean(dim=1).sum().backward()
    for kind, value in chain.named_parameters():
        torch.testing.assert_close(g.named[kind], value.grad.flatten(1).norm(dim=1).log(), rtol=0, atol=1e-10)
    inputs = x.clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda one: chain(one[None])[0, 0], inputs[2])
    values = torch.linalg.svdvals(jacobian.reshape(width, width)).log()
    torch.testing.assert_close(st.spectrum(chain, x).log_values[-1, 0, 2], values, rtol=0, atol=1e-9)
    again = st.Chain.load(chain.save(tmp_path / "block.safetensors"))
    assert torch.equal(again(x), chain(x))
    assert (again.architecture, again.depth, again.factor) == (chain.architecture, chain.depth, chain.factor)
    h = x.expand(2, *x.shape)
    for step in chain.steps[:3]:
        h = step(h)
    assert torch.equal(chain.prefix(3)(x), h)
    assert torch.equal(st.Chain.load(chain.prefix(3).save(tmp_path / "prefix.safetensors"))(x), h)
    task = TASK if width == 1 else st.Task.from_samples(PLANE, PLANE.sin())
    history = st.train(chain, task, iterations=20, progress=False, checkpoint=tmp_path / "run")
    assert history.path == "torch"
    assert (history.best_loss < history.loss[0]).all()
    assert st.train(chain, task, iterations=20, progress=False, resume=tmp_path / "run").loss.equal(history.loss)


@pytest.mark.parametrize("activation", ["relu", "prelu", "linear"])
@pytest.mark.parametrize(("order", "maps"), [("between", 3), ("original", 1), ("pre_activation", 2)])
def test_folds_come_through_restrict_without_a_table(order, maps, activation):
    architecture = st.Architecture("block", skip=1, maps=maps, activation=activation, order=order, readout=True)
    chain = st.Chain(architecture, 6, seeds=3)
    assert not chain.has_table
    with pytest.raises(ValueError, match="no step table"):
        chain.table()
    t = torch.linspace(-3, 3, 301, dtype=torch.float64)
    functions, y = st.restrict(chain, (-3, 3)), chain(t).detach()
    counted = st.count(chain, (-3, 3))
    for seed, f in enumerate(functions):
        assert (f(t) - y[seed]).abs().max() < 1e-12
        assert counted.folds[seed] == f.count().folds
    assert (sum(counted.folds) > 0) == (activation != "linear")


@pytest.mark.parametrize("maps", [1, 2])
def test_a_factor_and_shared_parameters_fit_a_table_to_the_bit(maps):
    for shared, dtype in itertools.product([False, True], [torch.float64, torch.float32]):
        architecture = st.Architecture("block", skip=1, maps=maps, branch=0.3, branch_power=-0.5, shared=shared)
        chain = st.Chain(architecture, 5, seeds=3, dtype=dtype)
        assert chain.weight.shape == (3, 1 if shared else 5)
        other = st.Chain.from_table(chain.table(), dtype=dtype)
        assert torch.equal(other(X.to(dtype)), chain(X.to(dtype)))
        assert chain.holds_rows == (maps == 1 and not shared)


def test_a_chain_of_one_map_and_a_factor_trains_in_compiled_loops():
    architecture = st.Architecture("block", skip=1, maps=1, activation="prelu", branch_power=-0.5)
    for dtype in (torch.float64, torch.float32):
        compiled, eager = (st.Chain(architecture, 5, seeds=2, dtype=dtype) for _ in range(2))
        history = st.train(compiled, TASK, iterations=10, progress=False)
        assert history.path == "kernel"
        x, y = TASK.x.to(dtype), TASK.y.to(dtype)
        loss = (eager(x) - y).square().mean(dim=1)
        torch.testing.assert_close(history.loss[0].to(dtype), loss.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(st.Chain.from_table(compiled.table(), architecture, dtype).weight, compiled.weight)


def test_a_prefix_keeps_the_factor_of_the_whole():
    architecture = st.Architecture("block", skip=1, maps=2, branch_power=-1)
    chain = st.Chain(architecture, 10)
    assert chain.factor == chain.prefix(3).factor == 0.1
    assert st.Chain(architecture, 3).factor == pytest.approx(1 / 3)
    assert torch.equal(st.Chain(architecture, 3).weight, chain.prefix(3).weight)


def test_shared_steps_are_one():
    chain = st.Chain(st.Architecture("block", skip=1, maps=2, activation="tanh", shared=True), 6, seeds=2, width=3)
    alone = st.Chain(st.Architecture("block", skip=1, maps=2, activation="tanh"), 1, seeds=2, width=3)
    h = PLANE.expand(2, 7, 3)
    for _ in range(6):
        h = alone.steps[0](h)
    assert torch.equal(chain(PLANE), h)
    with pytest.raises(ValueError, match="one cannot be put in alone"):
        chain.insert(2)


@pytest.mark.parametrize("order", ORDERS)
def test_an_identity_start_is_one_or_is_refused(order):
    architecture = st.Architecture("block", skip=1, maps=2, activation="relu", order=order)
    if order in ("original", "before_addition"):
        with pytest.raises(ValueError, match="init 'identity' does not exist"):
            st.Chain(architecture, 3, init="identity")
        return
    chain = st.Chain(architecture, 3, seeds=2, init="identity")
    y = chain(X)
    assert torch.equal(y[1], X)
    (y - 1).square().sum().backward()
    assert chain.outer_weight.grad.abs().sum() > 0
    assert torch.equal(chain.insert(1)(X), y)


def test_an_order_of_ones_own_is_one_line():
    own = ("activation", "map", "add", "map", "activation")
    architecture = st.Architecture("own", skip=1, maps=2, order=list(own))
    assert architecture.parts == own
    assert architecture.formula == "h <- relu(wb (h + wa relu(h) + ba) + bb)"
    chain = st.Chain(architecture, 1, width=3)
    inner = torch.nn.functional.linear(PLANE.relu(), chain.weight[0, 0], chain.bias[0, 0])
    expected = torch.nn.functional.linear(PLANE + inner, chain.outer_weight[0, 0], chain.outer_bias[0, 0]).relu()
    torch.testing.assert_close(chain(PLANE)[0], expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-250, 1e-3, 1e250])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_states_of_normalised_chains_cannot_leave_the_range(norm, scale):
    init = st.Init("no bias", "", bias=st.Distribution("constant", 0.0), outer_bias=st.Distribution("constant", 0.0))
    architecture = st.Architecture("block", skip=1, maps=2, order="full_pre_activation", norm=norm)
    x = PLANE * scale
    p = st.propagation(st.Chain(architecture, 1, width=3, init=init), x)
    h = np.array(x.tolist(), dtype=np.longdouble)
    chain = st.Chain(architecture, 1, width=3, init=init)
    for name in ("", "outer_"):
        centred = h - h.mean(axis=1, keepdims=True) if norm == "layer" else h
        h = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.longdouble(1e-5))
        h = np.maximum(h, 0) @ chain.get_parameter(f"{name}weight").detach()[0, 0].numpy().T
    total = h + x.numpy()
    expected = np.log(np.sqrt((total**2).sum(axis=1))).astype(float)
    np.testing.assert_allclose(p.log_norms[-1, 0], expected, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_normalisation_in_two_bytes_is_that_of_torch(norm, dtype):
    # The square of 400 leaves float16, the mean square does not leave float32, in which torch has it.
    architecture = st.Architecture("block", maps=1, order=("norm", "map", "add"), norm=norm)
    chain = st.Chain(architecture, 1, width=4, init=EYE, dtype=dtype)
    x = (400 * torch.tensor([[1.0, -2.0, 0.5, 1.0], [-1.0, 1.0, 3.0, 0.25]])).to(dtype).requires_grad_()
    y = chain(x)
    given = x.detach().clone().requires_grad_()
    expected = layer_norm(given) if norm == "layer" else torch.nn.functional.rms_norm(given, (4,), eps=1e-5)
    torch.testing.assert_close(y[0], expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    cotangents = torch.arange(8.0).reshape(2, 4).to(dtype)
    y[0].backward(cotangents)
    expected.backward(cotangents)
    torch.testing.assert_close(x.grad, given.grad, rtol=0.05, atol=1e-4)
    wide = st.Chain(architecture, 1, width=4, init=EYE)
    assert not st.first_failure(wide, x.detach().double(), formats=(dtype,), progress=False).first()[:, 0].any()


def test_files_of_the_article_s_five_say_what_they_said(tmp_path):
    path = st.Chain("residual2_prelu", 3).save(tmp_path / "one.safetensors")
    _, metadata = read_tensors(path)
    description = json.loads(metadata["stability.Chain"])
    assert set(description) == {"version", "architecture", "members", "init", "root"}
    assert set(description["architecture"]) == {"name", "skip", "maps", "activation", "readout"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.Chain(st.Architecture("n", norm="layer"), 3), "the width is 1"),
        (lambda: st.Chain(st.Architecture("p", branch_power=400), 10**4), "which is not finite: take a smaller"),
        (lambda: st.Chain(st.Architecture("p", branch_power=-400), 10**4), "which rounds to 0: take a larger"),
        (lambda: st.Chain(st.Architecture("m", maps=3), 3, init="knots"), "a step of six numbers of its own"),
        (lambda: st.Chain.from_table(np.ones((1, 2, 6)), st.Architecture("b", maps=2, branch=2.0)), "give no architec"),
        (lambda: st.theory.lyapunov_exponent(st.Architecture("b", skip=1, branch=2.0)), "a factor on the branch"),
        (lambda: st.theory.step_formula(st.Architecture("b", maps=3)), "another order"),
        (lambda: st.train(st.Chain(st.Architecture("m", skip=1, maps=3), 3), TASK, "growth"), "method 'adam'"),
    ],
)
def test_what_does_not_go_together_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_parameters_of_a_step_are_its_attributes():
    chain = st.Chain("residual2_prelu", depth=3, seeds=2).requires_grad_(False)
    step = chain.steps[1]
    for name in ("weight", "bias", "outer_weight", "outer_bias", "slope"):
        assert torch.equal(getattr(step, name), getattr(chain, name)[:, 1])
    assert torch.equal(copy.deepcopy(step).weight, step.weight)
    with pytest.raises(AttributeError, match="the step has no other: it has weight"):
        _ = step.other
