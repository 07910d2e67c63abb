"""Growth: steps that are put in without a change, where they promise most, below the best splines."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import stability as st
from stability.training.growing import sizes
from stability.training.kernels import kinks

SINE = st.Task(torch.sin, (-3, 3))
FRESH = torch.linspace(-3, 3, 10_000, dtype=torch.float64)


def fresh_errors(chain, target=torch.sin):
    return (chain(FRESH) - target(FRESH)).square().mean(1).detach()


@given(some.integers(1, 50), some.integers(0, 400), some.integers(1, 3000))
def test_sizes_rise_from_the_start_to_the_depth(start, more, iterations):
    found = sizes(start, start + more, iterations)
    assert found[0] == start
    assert found[-1] == start + more
    assert all(b > a for a, b in pairwise(found))
    # Every stage has its iterations, and where they are enough it is one step more.
    assert len(found) - 1 <= max(1, iterations * 2 // 3 // 8)
    if more <= iterations * 2 // 3 // 8:
        assert found == list(range(start, start + more + 1))


@given(some.integers(0, 4), some.floats(-3, 3), some.sampled_from([6, 7]), some.integers(0, 100))
def test_an_inserted_step_changes_nothing(position, kink, side, seed):
    for name in ("residual2_prelu", "plain_prelu"):
        chain = st.Chain(name, 4, seeds=[seed])
        before = chain(FRESH[::100]).detach()
        rows = chain.table()[0]
        table = np.concatenate([rows, np.zeros((1, 6))])
        kinks.insert(table, len(rows), position, kink, side, name == "residual2_prelu")
        after = st.Chain.from_table(table[None], name)(FRESH[::100])
        # A plain chain's step moves the zero, which the next one takes back: a few roundings, amplified.
        tolerance = 0 if name == "residual2_prelu" else 1e-14
        torch.testing.assert_close(after, before, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("depth", "share"), [(10, 0.5), (30, 1.0)])
def test_growth_passes_the_best_spline_of_as_many_folds(depth, share):
    chain = st.Chain("residual2_prelu", depth, seeds=32, init="knots")
    history = st.train(chain, SINE, "growth", progress=False)
    spline = st.references.best_spline(st.Task(torch.sin, (-3, 3), points=2000), depth)
    errors = fresh_errors(chain)
    assert errors.median() < share * spline.lower_bound
    assert errors.max() < 1e-4 if depth == 10 else errors.max() < 1e-5
    torch.testing.assert_close(
        history.best_loss, (chain(SINE.x) - SINE.y).square().mean(1).detach(), rtol=1e-6, atol=1e-14
    )


def test_a_thousand_layers():
    chain = st.Chain("residual2_prelu", 1000, seeds=2, init="knots")
    st.train(chain, SINE, "growth", iterations=150, progress=False)
    assert fresh_errors(chain).max() < 1e-6


def test_growth_uses_the_first_steps_alone():
    """What the other steps held before does not matter."""
    chains = [st.Chain("residual2_prelu", 8, seeds=3, init="knots") for _ in range(2)]
    table = chains[1].table()
    table[:, 2:, 1:] = 0.5
    chains[1].set_table(table)
    for chain in chains:
        st.train(chain, SINE, "growth", iterations=80, start=2, progress=False)
    np.testing.assert_array_equal(chains[0].table(), chains[1].table())


def test_before_all_steps_are_in_the_others_are_the_identity():
    chain, tables = st.Chain("plain_prelu", 6, seeds=2), []
    st.train(chain, SINE, "growth", iterations=60, on_iteration=lambda *_: tables.append(chain.table()), progress=False)
    identity = [0, 1, 0, 1, 0, 1]
    assert (tables[0][:, 1:6] == identity).all()
    unused = [(table[0, :6] == identity).all(1).sum() for table in tables]
    assert unused[0] == 5
    assert unused[-1] == 0
    assert (np.diff(unused) <= 0).all()


def test_members_that_had_arrived_go_on_at_once_after_an_insertion():
    chain = st.Chain("residual2_prelu", 3, seeds=4, init="knots")
    loss = st.train(chain, SINE, "growth", iterations=300, progress=False).loss
    for row in (100, 200):
        torch.testing.assert_close(loss[row], loss[row - 1], rtol=1e-6, atol=0)  # it had arrived
        assert (loss[row + 1] < 0.999 * loss[row]).all()


def test_plain_prelu_can_do_what_the_residual_chain_can():
    """The article's failing architecture, grown: some members pass the best spline of 30 folds."""
    chain = st.Chain("plain_prelu", 30, seeds=16)
    st.train(chain, SINE, "growth", progress=False)
    assert fresh_errors(chain).min() < 6.7e-7
    assert (chain.slope < 0).any()


def test_relu_grows_too_and_keeps_its_slope():
    chain = st.Chain("residual2_relu", 10, seeds=4, init="knots")
    st.train(chain, SINE, "growth", iterations=300, progress=False)
    assert fresh_errors(chain).max() < 2e-5


def test_a_target_that_is_a_chain_is_made_exactly():
    chain = st.Chain("residual2_prelu", 4, seeds=4, init="knots")
    st.train(chain, st.Task(torch.abs, (-3, 3)), "growth", iterations=100, progress=False)
    assert fresh_errors(chain, torch.abs).max() < 1e-20


@pytest.mark.parametrize("name", ["plain_relu", "residual1_relu"])
def test_steps_that_cannot_be_the_identity_and_bend_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot grow: .* take method 'levenberg_marquardt'"):
        st.train(st.Chain(name, 3), SINE, "growth")


@pytest.mark.parametrize("branch", [{"branch": 0.5}, {"branch_power": -0.5}])
def test_a_plain_chain_with_a_factor_on_its_branch_is_refused_at_once(branch):
    scaled = st.Architecture("scaled_prelu", skip=0, maps=1, activation="prelu", readout=True, **branch)
    chain = st.Chain(scaled, 4, seeds=2)
    before = chain.table()
    with pytest.raises(ValueError, match=r"'scaled_prelu' cannot grow: .* no factor on the branch"):
        st.train(chain, SINE, "growth", iterations=10, progress=False)
    assert (chain.table() == before).all()


@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n in ("residual2_prelu", "plain_prelu") for k in st.ARCHITECTURES[n].parameters]
)
def test_growth_leaves_a_frozen_kind_or_refuses(name, kind):
    chain = st.Chain(name, 3, seeds=2)
    value = chain.get_parameter(kind).requires_grad_(False)
    before = value.clone()
    if kind == "readout_weight":
        st.train(chain, SINE, "growth", iterations=30, progress=False)
    else:
        with pytest.raises(ValueError, match="cannot grow"):
            st.train(chain, SINE, "growth", iterations=30, progress=False)
    assert torch.equal(value, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": 4}, ValueError, "start is 4: expected at most the chain's depth, 3"),
        ({"start": 0}, ValueError, "start is 0: expected an integer >= 1"),
        ({"homotopy": 1.5}, ValueError, "homotopy is 1.5: expected a finite number from 0 to 1"),
        ({"homotopy": "half"}, TypeError, "homotopy is 'half'"),
        ({"least_slope": float("nan")}, ValueError, "least_slope is nan: expected a finite number"),
        ({"least_slope": 1.5}, ValueError, "least_slope is 1.5: expected a finite number of at most 1"),
        ({"adam_iterations": -1}, ValueError, "adam_iterations is -1: expected an integer >= 0"),
        ({"every": 0}, ValueError, "every is 0: expected a finite number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        st.train(st.Chain("residual2_prelu", 3), SINE, "growth", **options)
