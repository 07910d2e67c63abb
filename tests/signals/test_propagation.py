"""States layer by layer, against plain runs, rational arithmetic and the laws of scaling."""

import dataclasses
import math
from fractions import Fraction

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies
from torch import nn

import stability as st


def log(value):
    """The log of a rational of any size."""
    if value == 0:
        return -math.inf
    shift = value.numerator.bit_length() - value.denominator.bit_length()
    return math.log(abs(value) / Fraction(2) ** shift) + shift * math.log(2)


def by_hand(chain, x):
    """Log norms, relative log updates and cosines from a plain run of the steps."""
    h = x.expand(chain.seeds, *x.shape)
    norms, updates, cosines = [], [], []
    for step in [None, *chain.steps]:
        following = h if step is None else step(h).detach()
        wide, before = (v if v.ndim == 3 else v[..., None] for v in (following, h))
        norms.append(wide.norm(dim=-1).log())
        updates.append((wide - before).norm(dim=-1).log() - before.norm(dim=-1).log())
        cosines.append(torch.nn.functional.cosine_similarity(wide[:, :-1], wide[:, 1:], dim=-1, eps=0))
        h = following
    return torch.stack(norms), torch.stack(updates[1:]), torch.stack(cosines)


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("name", ["plain_prelu", "residual1_relu", "residual2_relu", "tanh", "gelu"])
def test_a_state_in_range_is_that_of_a_plain_run(name, width):
    architecture = st.Architecture(name, skip=1, activation=name) if name in ("tanh", "gelu") else name
    chain = st.Chain(architecture, depth=25, seeds=3, width=width, init="he")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((7,) if width == 1 else (7, 5), dtype=torch.float64, generator=generator)
    p = st.propagation(chain, x)
    norms, updates, cosines = by_hand(chain, x)
    torch.testing.assert_close(p.log_norms, norms, rtol=1e-12, atol=1e-11)
    # Of a small update the difference of two states is what errs.
    torch.testing.assert_close(p.log_updates.exp(), updates.exp(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(p.correlations, cosines, rtol=0, atol=1e-12)
    torch.testing.assert_close(p.log_decorrelations.exp(), 1 - cosines, rtol=1e-9, atol=1e-12)
    assert p.same_shape.all()
    assert p.layers[0] == "step 1"


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(seed=strategies.integers(0, 2**32), reach=strategies.sampled_from([3, 100, 307]))
def test_any_magnitude_matches_rational_arithmetic(seed, reach):
    generator = np.random.default_rng(seed)
    depth = int(generator.integers(1, 15))
    table = generator.choice([-1, 1], (depth, 6)) * 10.0 ** generator.uniform(-reach, reach, (depth, 6))
    table[generator.random((depth, 6)) < 0.3] = 0
    x = generator.choice([-1, 1], 3) * 10.0 ** generator.uniform(-reach, reach, 3)
    p = st.propagation(st.Chain.from_table(table[None]), torch.from_numpy(x))
    for i, point in enumerate(x.tolist()):
        h, error = Fraction(point), Fraction(0)
        for layer in range(depth):
            skip, weight, bias, outer_weight, outer_bias, slope = map(Fraction, table[layer].tolist())
            z = weight * h + bias
            side = 1 if z > 0 else slope
            # Where rounding errors reach a kink, or the sum, nothing is to be compared.
            if abs(z) <= Fraction(1, 10**9) * (abs(weight * h) + abs(bias)) + abs(weight) * error:
                return
            change = outer_weight * side * z
            update = (skip - 1) * h + change + outer_bias
            size = abs(skip * h) + abs(outer_weight * side) * (abs(weight * h) + abs(bias)) + abs(outer_bias)
            error = abs(skip + outer_weight * side * weight) * error + size / 10**14
            before, h = h, skip * h + change + outer_bias
            if abs(h) <= 10**6 * error or abs(update) <= 10**6 * error:
                return
            assert float(p.log_norms[layer + 1, 0, i]) == pytest.approx(log(h), abs=1e-5)
            if before:
                expected = log(update) - log(before)
                assert float(p.log_updates[layer, 0, i]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("activation", ["relu", "prelu", "tanh", "gelu"])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_state_cannot_leave_the_range(activation, width, skip):
    """Against a run that keeps the state in range: weights 2^-60 h are those of h, with the state's logs shifted."""
    architecture = st.Architecture("x", skip=skip, activation=activation)
    chain = st.Chain(architecture, depth=400, seeds=2, width=width, init="uniform")
    x = torch.rand((3,) if width == 1 else (3, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # 0.01 and 100 a layer: without care the state is 0 or infinite after 160 layers.
        chain.weight *= 100 if skip else 0.01
    p = st.propagation(chain, x)
    if activation == "tanh" and skip:
        assert p.log_norms.isfinite().all()
        return
    tiny, huge = (p.log_norms[-1] < -800).any(), (p.log_norms[-1] > 800).any()
    assert huge if skip else tiny or (p.log_norms[-1] == -math.inf).all()
    # Away from zero an activation is homogeneous, up to what float64 can tell, so that a network of the last layers
    # started at the state's direction, at a size beyond where that begins, adds the same to the log.
    half = 200
    size = 2.0**-40 if not skip else 2.0**40
    h, shift = x.expand(2, *x.shape), torch.zeros(2, 3, dtype=torch.float64)
    for layer, step in enumerate(chain.steps):
        h = step(h).detach()
        norm = (h.abs() if width == 1 else h.norm(dim=-1)).clamp(min=1e-300)
        if layer >= half or not bool(((norm > 2.0**-200) & (norm < 2.0**200)).all()):
            factor = size / norm
            h, shift = h * (factor if width == 1 else factor[..., None]), shift - factor.log()
        alive = p.log_norms[layer + 1] > -math.inf
        expected = (h.abs() if width == 1 else h.norm(dim=-1)).log() + shift
        torch.testing.assert_close(p.log_norms[layer + 1][alive], expected[alive], rtol=1e-9, atol=1e-9)


def test_the_bias_of_one_seed_is_nothing_to_another():
    chain, x = st.Chain("plain_prelu", depth=400, seeds=2, width=3), torch.ones(2, 3, dtype=torch.float64)
    with torch.no_grad():
        chain.weight.mul_(1e-4)
        chain.bias.zero_()
    alone = st.propagation(chain, x).log_norms[:, 1]
    with torch.no_grad():
        chain.bias[0] = 1e-3
    assert alone[-1].max() < -2000
    assert torch.equal(st.propagation(chain, x).log_norms[:, 1], alone)


def test_a_bias_beside_a_state_that_has_vanished():
    chain = st.Chain("plain_prelu", depth=302, width=2, init="uniform")
    with torch.no_grad():
        chain.weight.copy_(torch.eye(2, dtype=torch.float64) * 1e-5)
        chain.weight[0, 300:] *= 1e5
        chain.bias[0, 300] = torch.tensor([3.0, -4.0])
    p = st.propagation(chain, torch.ones(1, 2, dtype=torch.float64))
    assert p.log_norms[300].item() == pytest.approx(300 * math.log(1e-5) + math.log(2) / 2, rel=1e-12)
    assert p.log_norms[301].item() == pytest.approx(math.log(math.hypot(3, 1)), rel=1e-12)  # slope 0.25


def test_correlations_of_nearly_equal_states_do_not_cancel():
    chain = st.Chain("plain_prelu", depth=1, width=2, init="identity")
    angle = 1e-10
    x = torch.tensor([[1.0, 1.0], [math.cos(math.pi / 4 + angle), math.sin(math.pi / 4 + angle)]], dtype=torch.float64)
    p = st.propagation(chain, x)
    assert p.log_decorrelations[0].item() == pytest.approx(2 * math.log(angle) - math.log(2), abs=1e-5)
    assert p.correlations[0].item() == 1
    opposite = st.propagation(chain, torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], dtype=torch.float64))
    assert opposite.correlations[0, 0].tolist() == [-1, 0]


def test_a_module_is_its_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True)).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(5, 6, dtype=torch.float64)
    p = st.propagation(net, x, pairs=[(0, 4), (1, 1)])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert p.layers == ("0", "1", "2", "3", "4")
    states = [x, net[0](x), torch.tanh(net[0](x))]
    states += [net[2](states[2]), net[3](net[2](states[2]))]
    states.append(torch.relu(states[-1]))
    for layer, state in enumerate(states):
        largest = state.detach().abs().amax(dim=1).log()
        torch.testing.assert_close(p.log_largest[layer, 0], largest, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(p.log_norms[layer, 0], state.detach().norm(dim=1).log(), rtol=1e-12, atol=1e-12)
    assert p.same_shape.tolist() == [False, True, True, True, True]
    assert (p.log_updates[0] == -math.inf).all()
    expected = ((states[3] - states[2]).norm(dim=1) / states[2].norm(dim=1)).log().detach()
    torch.testing.assert_close(p.log_updates[2, 0], expected, rtol=1e-12, atol=1e-12)
    cosine = torch.nn.functional.cosine_similarity(states[2][:1], states[2][4:], dim=1).item()
    assert p.correlations[2, 0].tolist() == pytest.approx([cosine, 1.0], abs=1e-12)
    data = p.to_dataset()
    assert data.log_norms.dims == ("depth", "seed", "x")
    assert data.log_norms.sel(depth=2, seed=0, x=3).item() == p.log_norms[2, 0, 3].item()


def test_states_that_are_zero_have_no_update_and_pairs_are_neighbours():
    chain = st.Chain("plain_relu", depth=3, seeds=2, width=4)
    with torch.no_grad():
        chain.bias.zero_()
    p = st.propagation(chain, torch.zeros(3, 4, dtype=torch.float64))
    assert (p.log_norms == -math.inf).all()
    assert (p.log_updates == -math.inf).all()
    assert p.pairs.tolist() == [[0, 1], [1, 2]]


def test_tiny_states_pass_biases_by():
    # Steps without biases take the states down to 2^-2250; then biases that the slopes of some neurons take to nothing.
    generator = torch.Generator().manual_seed(0)
    chain = st.Chain("residual2_prelu", depth=53, seeds=2, width=2)
    with torch.no_grad():
        chain.bias[:, :50], chain.outer_bias[:], chain.slope[:, :50] = 0, 0, 1
        chain.weight[:], chain.outer_weight[:, :50] = torch.eye(2), -(1 - 2.0**-45) * torch.eye(2).double()
        chain.bias[:, 50:], chain.slope[:, 50:] = -torch.rand(2, 3, 2, generator=generator).double(), 0
        chain.outer_weight[:, 50:] = torch.randn(2, 3, 2, 2, generator=generator).double()
        chain.bias[0, 52, 1] = 0.25  # which is not taken to nothing
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-0.25, 0.0]], dtype=torch.float64)  # few bits, so that steps are exact
    p = st.propagation(chain, x)
    with mpmath.workprec(5000):
        for member, point in np.ndindex(2, 3):
            h = mpmath.matrix(x[point].tolist())
            for layer in range(54):
                assert p.log_norms[layer, member, point].item() == pytest.approx(float(mpmath.log(mpmath.norm(h))))
                if layer == 53:
                    break
                values = {kind: value[member, layer].tolist() for kind, value in chain.named_parameters()}
                z = mpmath.matrix(values["weight"]) * h + mpmath.matrix(values["bias"])
                z = mpmath.matrix([v if v > 0 else s * v for v, s in zip(z, values["slope"], strict=True)])
                move = mpmath.matrix(values["outer_weight"]) * z + mpmath.matrix(values["outer_bias"])
                size = float(mpmath.log(mpmath.norm(move) / mpmath.norm(h))) if mpmath.norm(move) else -math.inf
                assert p.log_updates[layer, member, point].item() == pytest.approx(size, abs=1e-9)
                h = h + move


def test_results_are_joined_along_the_seeds():
    chains = [st.Chain("residual2_prelu", depth=4, seeds=seeds, width=3) for seeds in ([0, 1], [2])]
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    joined = st.Propagation.of_seeds([st.propagation(chain, x) for chain in chains])
    whole = st.propagation(st.Chain("residual2_prelu", depth=4, seeds=3, width=3), x)
    assert joined.members == whole.members == (0, 1, 2)
    for field in dataclasses.fields(whole):
        one, other = getattr(joined, field.name), getattr(whole, field.name)
        if isinstance(one, torch.Tensor) and one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name
    first = st.propagation(chains[0], x)
    for other, message in [
        (st.propagation(chains[0].prefix(3), x), "result 1 has other layers"),
        (st.propagation(st.Chain("residual2_prelu", depth=4, width=2), x[:, :2]), "result 1 has other layers"),
        (st.propagation(chains[0], x + 1), "result 1 has other points"),
        (st.propagation(chains[0], x, pairs=[(0, 3)]), "result 1 has other points, or pairs"),
    ]:
        with pytest.raises(ValueError, match=message):
            st.Propagation.of_seeds([first, other])
    with pytest.raises(TypeError, match="result 0 is a int: expected a Propagation"):
        st.Propagation.of_seeds([3])
    with pytest.raises(ValueError, match="no results to join"):
        st.Propagation.of_seeds([])


def test_bad_input_is_refused():
    chain, x = st.Chain("plain_prelu", depth=3, seeds=2), torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="pairs names points 0 to 3: there are 3"):
        st.propagation(chain, x, pairs=[(0, 3)])
    with pytest.raises(ValueError, match=r"expected integers \(pairs, 2\)"):
        st.propagation(chain, x, pairs=[(0, 1, 2)])
    with pytest.raises(ValueError, match="leave out layers"):
        st.propagation(chain, x, layers="steps")
    with pytest.raises(TypeError, match="expected a stability"):
        st.propagation(lambda h: h, x)
    with pytest.raises(ValueError, match="expected the batch of points first"):
        st.propagation(nn.Linear(1, 1), torch.tensor(1.0))
    with pytest.raises(ValueError, match="x has 1 values"):
        st.propagation(chain, torch.tensor([math.nan, 1.0], dtype=torch.float64))
    shrinking = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    with torch.no_grad():
        for layer in shrinking:
            layer.weight.fill_(1e-20)
    with pytest.raises(ValueError, match=r"below the smallest normal number of torch.float32"):
        st.propagation(shrinking, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"after layer 0 the state has shape .* must be the batch of 2"):
        st.propagation(nn.Sequential(nn.Flatten(0), nn.Linear(4, 4)), torch.ones(2, 2))
    wide = st.Chain("plain_prelu", depth=3, width=2)
    with torch.no_grad():
        wide.bias[0, 1, 0] = math.inf
    with pytest.raises(ValueError, match="the chain's bias"):
        st.propagation(wide, torch.ones(2, 2, dtype=torch.float64))
