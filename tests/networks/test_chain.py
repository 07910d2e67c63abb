"""The five chains against one written out by hand, members, step tables and prefixes."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import stability as st

FIVE = ["plain_relu", "residual1_relu", "residual2_relu", "residual2_prelu", "plain_prelu"]


def test_the_article_s_five_in_its_order():
    assert list(st.ARCHITECTURES) == FIVE


def by_hand(chain, seed, x):
    """The article's chains in plain numpy, one seed, one point (n,), no line shared with the module."""
    p = {k: v.detach().numpy()[seed] for k, v in chain.named_parameters()}
    if chain.width == 1:
        p = {k: v.reshape(*v.shape, 1, 1) if k.endswith("weight") else v.reshape(*v.shape, 1) for k, v in p.items()}
    h = np.array(x, dtype=np.float64)
    for layer in range(chain.depth):
        z = p["weight"][layer] @ h + p["bias"][layer]
        name = chain.architecture.name
        a = np.maximum(z, 0) if name.endswith("_relu") else np.where(z > 0, z, p["slope"][layer] * z)
        if name.startswith("plain"):
            h = a
        elif name.startswith("residual1"):
            h = h + a
        else:
            h = h + p["outer_weight"][layer] @ a + p["outer_bias"][layer]
    return p["readout_weight"] @ h + p["readout_bias"] if chain.architecture.name.startswith("plain") else h


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", FIVE)
def test_chains_agree_with_one_written_out_by_hand(name, width):
    chain = st.Chain(name, depth=7, seeds=3, width=width)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(5, width))
    got = chain(torch.from_numpy(x if width > 1 else x[:, 0])).detach().numpy().reshape(3, 5, width)
    for seed in range(3):
        for point in range(5):
            expected = by_hand(chain, seed, x[point])
            # Ten roundings a layer and channel, relative to the largest number that occurs.
            np.testing.assert_allclose(got[seed, point], expected, rtol=0, atol=7 * 10 * width * 2e-16 * 30)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_smooth_activations_at_width_n(activation):
    chain = st.Chain(st.Architecture("smooth", skip=1, maps=2, activation=activation), depth=2, width=3)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    function = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[activation]
    h = x
    for layer in range(2):
        inner = torch.nn.functional.linear(h, chain.weight[0, layer], chain.bias[0, layer])
        h = h + torch.nn.functional.linear(function(inner), chain.outer_weight[0, layer], chain.outer_bias[0, layer])
    torch.testing.assert_close(chain(x)[0], h, rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match="no step table"):
        chain.table()


@pytest.mark.parametrize("width", [1, 3])
def test_a_bypass_of_any_weight(width):
    chain = st.Chain(st.Architecture("half", skip=0.5, maps=2), 2, width=width)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(-1, width)
    p = {k: v.detach()[0].reshape(2, *[width] * (2 if "weight" in k else 1)) for k, v in chain.named_parameters()}
    h = x
    for i in range(2):
        inner = torch.relu(h @ p["weight"][i].T + p["bias"][i])
        h = 0.5 * h + inner @ p["outer_weight"][i].T + p["outer_bias"][i]
    torch.testing.assert_close(chain(x.squeeze(-1) if width == 1 else x)[0].reshape(h.shape), h, rtol=1e-14, atol=1e-14)
    if width == 1:
        assert torch.equal(st.Chain.from_table(chain.table())(x[:, 0]), chain(x[:, 0]))


def test_formulas_are_the_article_s():
    assert [a.formula for a in st.ARCHITECTURES.values()] == [
        "h <- relu(w h + b), then w h + b",
        "h <- h + relu(w h + b)",
        "h <- h + wb relu(wa h + ba) + bb",
        "h <- h + wb prelu(wa h + ba) + bb",
        "h <- prelu(w h + b), then w h + b",
    ]
    assert st.Architecture("half", skip=0.5).formula == "h <- 0.5 h + relu(w h + b)"
    assert st.Architecture("free", skip=None).formula == "h <- s h + relu(w h + b)"


def test_a_sixth_architecture_takes_a_few_lines_and_everything_works_on_it(monkeypatch, tmp_path):
    sixth = st.Architecture("residual1_prelu", skip=1, maps=1, activation="prelu")
    monkeypatch.setitem(st.ARCHITECTURES, sixth.name, sixth)
    x = torch.linspace(-3, 3, 11, dtype=torch.float64)
    chain = st.Chain("residual1_prelu", depth=6, seeds=4)
    h = x.expand(4, 11)
    for layer in range(6):
        h = h + torch.nn.functional.leaky_relu(chain.weight[:, layer, None] * h + chain.bias[:, layer, None], 0.25)
    torch.testing.assert_close(chain(x), h, rtol=1e-14, atol=1e-14)
    before = chain.table()
    history = st.train(chain, st.Task(torch.sin, (-3, 3)), iterations=50, progress=False)
    assert history.path == "kernel"
    assert (history.best_loss < history.loss[0]).all()
    assert not np.array_equal(chain.table(), before)
    assert st.spectrum(chain, x).log_values.shape == (6, 4, 11, 1)
    assert torch.equal(st.Chain.load(chain.save(tmp_path / "sixth.safetensors"))(x), chain(x))
    assert st.Chain("residual1_prelu", depth=3, init="identity")(x).equal(x[None])
    assert "prelu(w h + b)" in sixth.formula


# --- members: pure functions of (root, architecture, member, layer) ---

REFUSED = {  # tested in test_initialisation
    ("plain_relu", "identity"),
    ("residual1_relu", "identity"),
    ("plain_relu", "scaled"),
    ("residual1_relu", "scaled"),
    ("plain_prelu", "scaled"),
}
MEMBERS = [
    (name, init, width)
    for name in FIVE
    for init in st.INITS
    for width in (1, 3)
    if (name, init) not in REFUSED and not (init == "knots" and width > 1)
]


@pytest.mark.parametrize(("name", "init", "width"), [case for case in MEMBERS if case[1] not in ("scaled", "knots")])
def test_depth_8_is_the_prefix_of_depth_64(name, init, width):
    shallow = st.Chain(name, 8, seeds=3, init=init, width=width)
    deep = st.Chain(name, 64, seeds=3, init=init, width=width).prefix(8)
    for (kind, a), (_, b) in zip(shallow.named_parameters(), deep.named_parameters(), strict=True):
        assert torch.equal(a, b), kind


@pytest.mark.parametrize(("name", "init", "width"), MEMBERS)
def test_one_seed_alone_is_the_same_among_many_in_any_order(name, init, width):
    many = st.Chain(name, 5, seeds=1000 if width == 1 else 50, init=init, width=width)
    some_of_them = st.Chain(name, 5, seeds=[41, 7], init=init, width=width)
    for kind, value in some_of_them.named_parameters():
        assert torch.equal(value[0], many.get_parameter(kind)[41]), kind
        assert torch.equal(value[1], many.get_parameter(kind)[7]), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_lower_precision_is_the_rounding_of_float64(dtype):
    exact, rounded = (st.Chain("residual2_prelu", 9, seeds=3, width=2, dtype=d) for d in (torch.float64, dtype))
    for kind, value in rounded.named_parameters():
        assert value.dtype == dtype
        assert torch.equal(value, exact.get_parameter(kind).to(dtype)), kind


def test_root_architecture_member_and_layer_each_matter():
    base = st.Chain("plain_relu", 4, seeds=2).weight
    assert not (base == st.Chain("plain_relu", 4, seeds=2, root=1).weight).any()
    assert not (base == st.Chain("plain_prelu", 4, seeds=2).weight).any()
    assert base.unique().numel() == base.numel()
    plain = st.Chain("plain_relu", 4, seeds=9)
    assert not (plain.readout_weight[:, None] == plain.weight).any(), "the read-out has a stream of its own"


def test_the_stream_of_a_member_never_changes():
    # Stored so that a later version cannot move every result without saying so.
    table = st.Chain("residual2_prelu", 2, seeds=[3], root=5).table()
    np.testing.assert_array_equal(table[0], PINNED)


PINNED = [
    [1.0, -0.08013053926622749, 0.1668134125160161, 0.11787109405492946, 0.9752530998157674, 0.25],
    [1.0, -0.1398370125629007, 0.3645891554031968, -0.8828052774324295, 0.911129584826541, 0.25],
]


# --- step tables ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FIVE)
def test_tables_round_trip_bit_for_bit(name, dtype):
    chain = st.Chain(name, 12, seeds=5, dtype=dtype)
    table = chain.table()
    assert table.dtype == np.float64
    named = st.Chain.from_table(table, name, dtype=dtype)
    for kind, value in chain.named_parameters():
        assert torch.equal(value, named.get_parameter(kind)), kind
    np.testing.assert_array_equal(named.table(), table)
    np.testing.assert_array_equal(st.Chain.from_table(table).table(), table)


@pytest.mark.parametrize("init", ["pytorch", "knots"])
@pytest.mark.parametrize("name", FIVE)
def test_forward_through_the_table_equals_forward_through_the_module(name, init):
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    chain = st.Chain(name, 40, seeds=20, init=init)
    assert torch.equal(st.Chain.from_table(chain.table())(x), chain(x))


@given(
    some.lists(some.lists(some.floats(-2, 2, width=32), min_size=6, max_size=6), min_size=1, max_size=6),
    some.floats(-3, 3),
)
def test_a_table_computes_what_its_rows_say(rows, x):
    chain = st.Chain.from_table(np.array([rows]))
    h = x
    for skip, weight, bias, outer_weight, outer_bias, slope in rows:
        z = weight * h + bias
        h = skip * h + outer_weight * (z if z > 0 else slope * z) + outer_bias
    assert chain(torch.tensor([x], dtype=torch.float64)).item() == h


def test_from_table_refuses_what_the_architecture_cannot_be():
    table = st.Chain("residual2_relu", 4).table()
    table[0, 2, 5] = 0.5
    with pytest.raises(ValueError, match=r"a step has slope = 0.0, and the table has 0.5 at seed 0, row 2"):
        st.Chain.from_table(table, "residual2_relu")
    with pytest.raises(ValueError, match=r"the read-out has weight = 0.0, .* row 3"):
        st.Chain.from_table(st.Chain("plain_prelu", 4).table()[:, :-1], "plain_prelu")
    with pytest.raises(ValueError, match="at least two rows"):
        st.Chain.from_table(st.Chain("plain_prelu", 4).table()[:, -1:], "plain_prelu")
    table[0, 2, 5] = np.nan
    with pytest.raises(ValueError, match=r"not finite, the first nan at \(0, 2, 5\)"):
        st.Chain.from_table(table)
    with pytest.raises(ValueError, match=r"shape \(4, 6\)"):
        st.Chain.from_table(table[0])
    with pytest.raises(TypeError, match="complex128"):
        st.Chain.from_table(table.astype(complex))
    for shape in ((0, 3, 6), (2, 0, 6), (2, 3, 5)):
        with pytest.raises(ValueError, match="at least one seed and one row"):
            st.Chain.from_table(np.zeros(shape))
    with pytest.raises(TypeError, match="expected a floating dtype"):
        st.Chain.from_table(np.zeros((1, 1, 6)), dtype=torch.int64)
    with pytest.raises(ValueError, match=r"as torch.float32 .* not finite"):
        st.Chain.from_table(np.full((1, 1, 6), 1e300), dtype=torch.float32)


def test_half_precision_tables_are_read_exactly():
    chain = st.Chain("plain_prelu", 3, dtype=torch.bfloat16)
    tensor = torch.from_numpy(chain.table()).to(torch.bfloat16)
    np.testing.assert_array_equal(st.Chain.from_table(tensor).table(), chain.table())
    x = torch.ones(2, dtype=torch.bfloat16)
    exact = st.spectrum(st.Chain.from_table(chain.table()), x.double()).log_values[:3]
    assert torch.equal(st.spectrum(chain, x).log_values, exact)


def test_set_table_changes_the_chain_and_refuses_another_shape():
    chain, other = st.Chain("plain_prelu", 4, seeds=2), st.Chain("plain_prelu", 4, seeds=[5, 6])
    chain.set_table(other.table())
    np.testing.assert_array_equal(chain.table(), other.table())
    with pytest.raises(ValueError, match=r"\(2, 4\) seeds and rows: this chain has \(2, 5\)"):
        chain.set_table(other.table()[:, 1:])


# --- prefixes, steps, copies ---


def test_a_prefix_shares_parameters_and_keeps_the_read_out():
    chain = st.Chain("plain_prelu", 10, seeds=2)
    prefix = chain.prefix(4)
    with torch.no_grad():
        prefix.weight[1, 3] = 7.0
        chain.readout_bias[0] = 5.0
    assert chain.weight[1, 3] == 7.0
    assert prefix.readout_bias[0] == 5.0
    assert prefix.depth == 4
    other = st.Chain("plain_prelu", 10, seeds=[9, 4], init="he", root=3)
    assert repr(other.prefix(4)) == repr(other).replace("depth=10", "depth=4")
    assert other.prefix(4).members == (9, 4)
    np.testing.assert_array_equal(prefix.table(), np.delete(chain.table(), range(4, 10), axis=1))
    for depth in (0, 11):
        with pytest.raises(ValueError, match=f"depth is {depth}: expected an integer >= 1 and <= 10"):
            chain.prefix(depth)


@pytest.mark.parametrize("width", [1, 3])
def test_steps_one_after_another_are_the_chain(width):
    chain = st.Chain("residual2_prelu", 6, seeds=3, width=width)
    h = x = torch.ones(5, dtype=torch.float64) if width == 1 else torch.ones(5, width, dtype=torch.float64)
    for step in chain.steps:
        h = step(h)
    assert torch.equal(h, chain(x))
    assert torch.equal(copy.deepcopy(chain)(x), chain(x))


def test_gradients_reach_every_parameter():
    chain = st.Chain("plain_prelu", 3, seeds=2, width=2)
    chain(torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).sum().backward()
    for kind, value in chain.named_parameters():
        assert value.grad is not None, kind
        assert value.grad.abs().sum() > 0, kind


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"architecture": "plain_rellu"}, ValueError, "known are 'plain_relu', .*the nearest is 'plain_relu'"),
        ({"init": "hee"}, ValueError, "known are 'pytorch', .*the nearest is 'he'"),
        ({"depth": 0}, ValueError, "depth is 0: expected an integer >= 1"),
        ({"depth": 2.5}, TypeError, "depth is 2.5: expected an integer"),
        ({"depth": True}, TypeError, "depth is True"),
        ({"seeds": [2**32]}, ValueError, "<= 4294967295"),
        ({"root": 2**64}, ValueError, "expected one that 64 bits hold"),
        ({"width": 0}, ValueError, "width is 0"),
        ({"seeds": 0}, ValueError, "seeds is 0"),
        ({"seeds": [1, -2]}, ValueError, "a member number in seeds is -2"),
        ({"seeds": [4, 1, 4]}, ValueError, r"repeats the member numbers \[4\]"),
        ({"seeds": []}, ValueError, "empty sequence"),
        ({"seeds": "12"}, TypeError, "seeds is '12'"),
        ({"root": -1}, ValueError, "root is -1"),
        ({"dtype": torch.int64}, TypeError, "expected a floating dtype"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_expected(arguments, error, message):
    good = {"architecture": "plain_relu", "depth": 3}
    with pytest.raises(error, match=message):
        st.Chain(**(good | arguments))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(5, 1, dtype=torch.float64), ValueError, r"shape \(5, 1\): a chain of width 1 takes \(points,\)"),
        (torch.zeros(5), TypeError, "x is torch.float32 and the chain is torch.float64"),
        (torch.zeros(0, dtype=torch.float64), ValueError, "no points"),
        ([0.0], TypeError, "x is a list: expected a tensor"),
        (torch.zeros(5, dtype=torch.float64, device="meta"), (ValueError, TypeError), "x is on"),
    ],
)
def test_bad_points_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        st.Chain("plain_relu", 3)(x)
    with pytest.raises(error, match=message):
        st.spectrum(st.Chain("plain_relu", 3), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "swish"}, "unknown activation 'swish'"),
        ({"maps": 0}, "maps is 0"),
        ({"maps": 1.5}, "maps is 1.5"),
        ({"order": "postnorm"}, "unknown order 'postnorm'"),
        ({"order": ("map", "activation")}, "expected one 'add'"),
        ({"order": ("add", "map")}, "before it a branch"),
        ({"order": ("map", "map", "add")}, "2 maps and maps is 1"),
        ({"order": ("map", "norm", "add")}, "norm is None and order"),
        ({"order": ("map", "add"), "norm": "rms"}, "norm is 'rms' and order"),
        ({"norm": "batch"}, "unknown normalisation 'batch'"),
        ({"branch": float("inf")}, "branch is inf"),
        ({"branch_power": float("nan")}, "branch_power is nan"),
        ({"shared": 1}, "shared is 1"),
        ({"skip": None, "shared": True}, "as in a step table"),
        ({"skip": float("nan")}, "skip is nan"),
        ({"skip": "1"}, "skip is '1'"),
        ({"readout": 2}, "readout is 2"),
        ({"name": ""}, "name is ''"),
    ],
)
def test_impossible_architectures_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        st.Architecture(**({"name": "mine"} | fields))


def test_points_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 2\): a chain of width 3 takes \(points, 3\)"):
        st.Chain("plain_relu", 3, width=3)(torch.zeros(5, 2, dtype=torch.float64))


def test_an_architecture_is_frozen_data():
    with pytest.raises(dataclasses.FrozenInstanceError):
        st.ARCHITECTURES["plain_relu"].skip = 1


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", ["residual2_relu", "residual2_prelu", "plain_prelu"])
def test_an_inserted_step_leaves_the_function_bit_for_bit(name, width):
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    x = x if width == 1 else torch.stack([x, -x, x.sin()], dim=1)
    chain = st.Chain(name, 5, seeds=7, width=width)
    chain.bias.requires_grad_(False)
    for position in range(6):
        deeper = chain.insert(position)
        assert deeper.depth == 6
        assert torch.equal(deeper(x), chain(x))
        assert not deeper.bias.requires_grad
        assert deeper.weight.requires_grad
        for kind, value in chain.named_parameters():
            new = deeper.get_parameter(kind)
            if not kind.startswith("readout"):
                new = torch.cat([new[:, :position], new[:, position + 1 :]], dim=1)
            assert torch.equal(new, value)
    with torch.no_grad():
        deeper.weight += 1
    assert torch.equal(st.Chain(name, 5, seeds=7, width=width)(x), chain(x))


def test_an_inserted_step_can_leave_the_identity():
    chain = st.Chain("residual2_prelu", 3, seeds=2).insert(3).insert(0)
    (chain(torch.linspace(-3, 3, 20, dtype=torch.float64)) ** 2).sum().backward()
    assert (chain.outer_weight.grad[:, [0, 4]] != 0).all()
    table = st.Chain.from_table(np.random.default_rng(0).uniform(-1, 1, (2, 3, 6)))
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    assert torch.equal(table.insert(1)(x), table(x))


@pytest.mark.parametrize("name", ["plain_relu", "residual1_relu"])
def test_no_step_is_inserted_where_none_is_the_identity(name):
    with pytest.raises(ValueError, match="init 'identity' does not exist"):
        st.Chain(name, 3).insert(1)
    with pytest.raises(ValueError, match="position is 4: expected an integer >= 0 and <= 3"):
        st.Chain("residual2_prelu", 3).insert(4)


def test_the_parameters_of_a_chain_with_an_inserted_step_are_copies():
    chain = st.Chain("plain_prelu", 3, seeds=2)
    before = {kind: value.clone() for kind, value in chain.named_parameters()}
    with torch.no_grad():
        for value in chain.insert(1).parameters():
            value += 1
    for kind, value in chain.named_parameters():
        assert torch.equal(value, before[kind])


def test_an_architecture_stands_under_its_own_name():
    other = st.Architecture("other", skip=1)
    with pytest.raises(ValueError, match="the entry 'another' is an architecture called 'other'"):
        st.ARCHITECTURES["another"] = other
    with pytest.raises(TypeError, match="the entry 'other' is a str: expected an Architecture"):
        st.ARCHITECTURES["other"] = "relu"
    assert "other" not in st.ARCHITECTURES
    st.ARCHITECTURES["other"] = other
    try:
        assert st.Chain("other", depth=2).architecture is other
    finally:
        del st.ARCHITECTURES["other"]
