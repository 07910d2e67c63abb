"""Levenberg-Marquardt: its Jacobian, its equations and its kinks against algebra that shares no code with them."""

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import stability as st
from stability.networks.kernels.steps import run_forward
from stability.training.kernels import kinks, marquardt
from stability.training.least_squares import numbers, with_unit_weights
from stability.training.levenberg_marquardt import has_arrived
from stability.training.objective import TableObjective
from stability.training.options import Options
from stability.training.status import CONVERGED, MOVING

FIVE = list(st.ARCHITECTURES)
SINE = st.Task(torch.sin, (-3, 3), points=64)
FRESH = torch.linspace(-3, 3, 10_000, dtype=torch.float64)


def random_table(root, rows, points=40):
    """Steps near the identity with unit weights, and the points."""
    generator = np.random.default_rng(root)
    table = generator.uniform(-1, 1, size=(rows, 6))
    table[:, 0] = 1.0
    table[:, 1] = generator.choice([-1.0, 1.0], size=rows)
    return table, np.sort(generator.uniform(-3, 3, size=points)), generator


def residuals(table, x, y):
    """f(x) - y, written out."""
    h = x
    for skip, weight, bias, outer_weight, outer_bias, slope in table:
        z = weight * h + bias
        h = skip * h + outer_weight * np.where(z > 0, z, slope * z) + outer_bias
    return h - y


def jacobian(table, x, y, rows, kinds):
    states = np.empty((len(table) + 1, len(x)))
    out, found = np.empty(len(x)), np.empty((len(rows), len(x)))
    states[0] = x
    run_forward(table, states)
    marquardt.residuals_and_jacobian(table, states, y, rows, kinds, out, found)
    return out, found


@pytest.mark.parametrize("name", FIVE)
def test_the_jacobian_in_the_table_s_entries_is_that_of_automatic_differentiation(name):
    chain = st.Chain(name, 6, seeds=4)
    for kind, value in chain.named_parameters():
        value.requires_grad_(kind != "bias")  # one kind frozen: all the others stand for themselves
    trained = TableObjective(chain, SINE).trained
    rows, kinds = numbers(chain.architecture, trained, -np.inf)
    assert sorted(zip(rows, kinds, strict=True)) == sorted(map(tuple, np.argwhere(trained)))
    for s in range(4):
        table = torch.from_numpy(chain.table()[s]).requires_grad_()

        def output(table):
            h = SINE.x
            for skip, weight, bias, outer_weight, outer_bias, slope in table:
                z = weight * h + bias
                h = skip * h + outer_weight * torch.where(z > 0, z, slope * z) + outer_bias
            return h

        expected = torch.autograd.functional.jacobian(output, table)[:, rows, kinds].T.numpy()
        found, got = jacobian(chain.table()[s], SINE.x.numpy(), SINE.y.numpy(), rows, kinds)
        np.testing.assert_allclose(found, (output(table) - SINE.y).detach().numpy(), rtol=0, atol=1e-14)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * max(1, np.abs(expected).max()))


@given(some.integers(1, 5), some.integers(0, 10**6), some.sampled_from(["random", "no bend", "identity"]))
@settings(max_examples=60)
def test_the_jacobian_in_kinks_and_sides_is_that_of_moving_them(rows, root, start):
    table, x, generator = random_table(root, rows)
    if start == "no bend":
        table[:, 5] = 1.0
    if start == "identity":
        table[:, 3] = 0.0
    y = np.sin(x)
    architecture = st.ARCHITECTURES["residual2_prelu"]
    where, kinds = numbers(architecture, np.tile([False, *[True] * 5], (rows, 1)), -np.inf)
    assert set(kinds) == {2, 4, 6, 7}
    _, found = jacobian(table, x, y, where, kinds)
    direction, moved, step = generator.normal(size=len(where)), np.empty_like(table), 1e-7
    values = []
    for sign in (1, -1):
        marquardt.move(table, where, kinds, sign * step * direction, -np.inf, moved)
        values.append(residuals(moved, x, y))
    difference = (values[0] - values[1]) / (2 * step)
    # At a point that a kink passes between the two, the difference is that of neither side.
    near = np.zeros(len(x), bool)
    for r in range(rows):
        state = residuals(table[:r], x, 0) if r else x
        near |= np.abs(table[r, 1] * state + table[r, 2]) < 1e-4
    np.testing.assert_allclose((direction @ found)[~near], difference[~near], rtol=0, atol=1e-5)


@given(some.integers(1, 6), some.integers(0, 10**6))
@settings(max_examples=40)
def test_unit_weights_leave_the_function(rows, root):
    table, x, generator = random_table(root, rows)
    table[:, 1] = generator.normal(size=rows) * 10.0 ** generator.integers(-3, 4, size=rows)
    table[generator.uniform(size=rows) < 0.2, 1] = 0.0
    unit = with_unit_weights(table[None], rows)[0]
    assert (np.abs(unit[:, 1]) == 1).all()
    scale = np.abs(residuals(table, x, 0)).max() + np.abs(table).max()
    np.testing.assert_allclose(residuals(unit, x, 0), residuals(table, x, 0), rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("weight", [1e-320, -5e-324])
def test_a_kink_beyond_all_floats_becomes_a_shift(weight):
    table, x, _ = random_table(3, 3)
    table[1, 1], table[1, 2] = weight, 0.7
    unit = with_unit_weights(table[None], 3)[0]
    assert np.isfinite(unit).all()
    np.testing.assert_allclose(residuals(unit, x, 0), residuals(table, x, 0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("points", [12, 40, 64])
def test_an_iteration_solves_the_damped_equations(points):
    """Both ways, in the numbers and in the points, against least squares by an orthogonal factorisation."""
    table, x, _ = random_table(5, 8, points)
    y = np.sin(x)
    architecture = st.ARCHITECTURES["residual2_prelu"]
    rows, kinds = numbers(architecture, np.tile([False, *[True] * 5], (8, 1)), -np.inf)
    assert (len(rows) > points) == (points == 12)
    r, found = jacobian(table, x, y, rows, kinds)
    square = (found**2).sum(1)
    damping = 3.0
    scale = np.maximum(square, 1e-2 * square.mean())
    whole = np.vstack([found.T, np.diag(np.sqrt(damping * scale))])
    expected = np.linalg.lstsq(whole, np.append(-r, np.zeros(len(rows))), rcond=None)[0]
    moved = np.empty_like(table)
    marquardt.move(table, rows, kinds, expected, -np.inf, moved)
    tables, dampings, status = table[None].copy(), np.array([damping]), np.array([MOVING])
    marquardt.iterate(0, 1, tables, marquardt.Fit(x, y, rows, kinds), -np.inf, dampings, status)
    assert np.mean(residuals(tables[0], x, y) ** 2) < np.mean(r**2)
    np.testing.assert_allclose(tables[0], moved, rtol=1e-9, atol=1e-11)


def test_the_factorisation_is_cholesky_s_and_refuses_what_has_none():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(7, 30))
    out = np.zeros((7, 7))
    marquardt.gram(rows, out)
    np.testing.assert_allclose(np.tril(out), np.tril(rows @ rows.T), rtol=1e-13)
    assert marquardt.factorise(out)
    np.testing.assert_allclose(np.tril(out), np.linalg.cholesky(rows @ rows.T), rtol=1e-11)
    values = generator.normal(size=7)
    solved = values.copy()
    marquardt.solve_lower(out, solved)
    marquardt.solve_upper(out, solved)
    np.testing.assert_allclose(solved, np.linalg.solve(rows @ rows.T, values), rtol=1e-10)
    assert not marquardt.factorise(np.diag([1.0, -1.0]))
    assert not marquardt.factorise(np.diag([1.0, np.nan]))


@given(some.integers(2, 5), some.integers(0, 10**6), some.booleans())
@settings(max_examples=40)
def test_the_best_kink_is_the_one_of_the_projections_written_out(rows, root, known):
    table, x, generator = random_table(root, rows)
    y = np.sin(2 * x)
    where, kind = numbers(st.ARCHITECTURES["residual2_prelu"], np.tile([False, *[True] * 5], (rows, 1)), -np.inf)
    r, found = jacobian(table, x, y, where, kind)
    position = int(generator.integers(0, rows + 1))
    h = residuals(table[:position], x, 0) if position else x
    back = np.ones(len(x))
    for step in range(rows - 1, position - 1, -1):
        state = residuals(table[:step], x, 0) if step else x
        skip, weight, bias, outer_weight, _, slope = table[step]
        back *= skip + outer_weight * weight * np.where(weight * state + bias > 0, 1.0, slope)
    factor = np.zeros((0, 0))
    if known:
        # A basis of what the numbers can make; rank is decided here and there, so only well-conditioned cases count.
        singular = np.linalg.svd(found, compute_uv=False)
        found = found[:1] if singular[-1] < 1e-6 * singular[0] else found
        factor = np.zeros((len(found),) * 2)
        marquardt.gram(found, factor)
        assert marquardt.factorise(factor)
        basis = np.linalg.qr(found.T)[0]
    else:
        found, basis = found[:0], np.zeros((len(x), 0))
    r = r - basis @ (basis.T @ r)
    uniform = generator.uniform(size=9)
    got, kink, side = kinks._best_kink(h, back, r, found, factor, uniform, True)
    order, place = np.sort(h), np.sort(uniform) * (len(x) - 1)
    best = 0.0
    scores = {}
    for q in place:
        t = order[int(q)] + (q - int(q)) * (order[min(int(q) + 1, len(x) - 1)] - order[int(q)])
        for s, bend in ((6, np.minimum(h - t, 0)), (7, np.maximum(h - t, 0))):
            bend = bend * back
            own = bend - basis @ (basis.T @ bend)
            if own @ own > 1e-7 * (bend @ bend):
                scores[s, t] = (own @ r) ** 2 / (own @ own)
                best = max(best, scores[s, t])
    if best > 1e-8 * (r @ r):
        assert got == pytest.approx(best, rel=1e-5) or got > best  # a bend just under the share that counts here
        nearest = min(scores, key=lambda key: (key[0] != side, abs(key[1] - kink)))
        if got == pytest.approx(best, rel=1e-5):
            assert scores[nearest] == pytest.approx(best, rel=1e-4)


@given(some.integers(2, 6), some.integers(0, 10**6), some.booleans())
@settings(max_examples=40)
def test_kinks_that_bend_nothing_are_moved_into_the_states_and_the_function_stays(rows, root, relu):
    table, x, generator = random_table(root, rows)
    name = "residual2_relu" if relu else "residual2_prelu"
    y = np.sin(2 * x)
    idle = int(generator.integers(0, rows))
    table[idle, 1], table[idle, 2] = 1.0, (-1 if relu else generator.choice([-1, 1])) * 1e3
    if relu:
        table[:, 5] = 0.0
    before = residuals(table, x, y)
    where, kind = numbers(
        st.ARCHITECTURES[name], np.tile([False, True, True, True, True, not relu], (rows, 1)), -np.inf
    )
    tables, damping, status = table[None].copy(), np.array([7.0]), np.array([CONVERGED])
    uniform = generator.uniform(size=(1, rows, kinks.CANDIDATES))
    fit = marquardt.Fit(x, y, where, kind)
    kinks.use_idle_kinks(0, 1, tables, fit, uniform, 0.0 if relu else np.nan, damping, status)
    scale = 1e3 * max(1, np.abs(before).max())
    np.testing.assert_allclose(residuals(tables[0], x, y), before, rtol=0, atol=1e-12 * scale)
    if status[0] == MOVING:
        assert damping[0] == marquardt.FIRST_DAMPING
        # It helps: the next iteration lowers the error by more than one without it.
        reached = []
        for start in (table, tables[0]):
            one, d, s = start[None].copy(), np.array([1e-2]), np.array([MOVING])
            marquardt.iterate(0, 1, one, fit, -np.inf, d, s)
            reached.append(np.mean(residuals(one[0], x, y) ** 2))
        assert np.isfinite(reached).all()


def test_an_idle_kink_is_put_to_use():
    """Two steps for |x|, the kink of one far outside: without being moved it could never bend."""
    table = np.array([[[1.0, 1.0, 100.0, 0.0, 0.0, 0.25]]])
    chain = st.Chain.from_table(table, "residual2_prelu")
    task = st.Task(torch.abs, (-3, 3), points=63)
    history = st.train(chain, task, "levenberg_marquardt", iterations=60, progress=False)
    assert history.best_loss.item() < 1e-25
    assert history.loss[9].item() > 0.7  # about the best line


def test_the_teacher_is_found_again():
    """A target that a chain makes is fitted to the last digits from a start beside it."""
    teacher = st.Chain("residual2_prelu", 3, seeds=20, init="pytorch")
    for s in range(0, 20, 5):
        y = teacher(SINE.x)[s].detach()
        start = teacher.table()[s : s + 1]
        start[..., 1:] *= 1 + 1e-3 * np.random.default_rng(s).normal(size=start[..., 1:].shape)
        chain = st.Chain.from_table(start, "residual2_prelu")
        history = st.train(
            chain, st.Task.from_samples(SINE.x, y), "levenberg_marquardt", iterations=100, progress=False
        )
        assert history.best_loss.item() < 1e-20


@pytest.mark.parametrize("method", ["levenberg_marquardt", "growth"])
def test_neither_the_batch_nor_the_number_of_threads_changes_anything(method):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread is all there is")
    tables, before = [], numba.get_num_threads()
    try:
        for threads, seeds in ((1, 6), (2, 6), (2, [4]), (2, [5, 4, 1])):
            numba.set_num_threads(threads)
            chain = st.Chain("residual2_prelu", 40, seeds=seeds, init="knots")
            st.train(chain, SINE, method, iterations=60, homotopy=0.2, adam_iterations=5, progress=False)
            tables.append(chain.table()[chain.members.index(4)])
    finally:
        numba.set_num_threads(before)
    for table in tables[1:]:
        np.testing.assert_array_equal(table, tables[0])


@pytest.mark.parametrize(("name", "frozen"), [(a.name, k) for a in st.ARCHITECTURES.values() for k in a.parameters])
def test_frozen_parameters_stay(name, frozen):
    chain = st.Chain(name, 5, seeds=3)
    value = chain.get_parameter(frozen).requires_grad_(False)
    before = value.clone()
    history = st.train(chain, SINE, "levenberg_marquardt", iterations=20, progress=False)
    assert torch.equal(value, before)
    assert (history.best_loss <= history.loss[0]).all()
    assert (history.best_loss < history.loss[0]).any()


@pytest.mark.parametrize("method", ["adam", "levenberg_marquardt", "growth"])
def test_slopes_are_held_and_members_that_are_monotone_stay_above_isotonic_regression(method):
    chain = st.Chain("plain_prelu", 8, seeds=16, init="identity" if method == "growth" else "pytorch")
    history = st.train(chain, SINE, method, iterations=100, least_slope=0.0, progress=False)
    assert (chain.slope >= 0).all()
    assert (history.best_loss >= st.references.best_monotone(SINE) * (1 - 1e-12)).all()
    free = st.Chain("plain_prelu", 8, seeds=16, init="identity" if method == "growth" else "pytorch")
    st.train(free, SINE, method, iterations=100, progress=False)
    assert (free.slope < 0).any()


@pytest.mark.parametrize("least", [-1.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["plain_prelu", "residual2_prelu"])
@pytest.mark.parametrize("method", ["adam", "levenberg_marquardt", "growth"])
def test_slopes_are_held_from_the_first_step_to_the_last(method, name, least):
    chain, seen = st.Chain(name, 6, seeds=6, init="pytorch"), []
    options = {"iterations": 30, "least_slope": least, "progress": False}
    st.train(chain, SINE, method, on_iteration=lambda *_: seen.append(chain.slope.min().item()), **options)
    assert min(seen) >= least
    assert (chain.slope >= least).all()


def test_a_member_that_has_converged_says_so_and_stays():
    chain = st.Chain("residual2_prelu", 3, seeds=8, init="knots")
    history = st.train(chain, SINE, "levenberg_marquardt", iterations=150, progress=False)
    assert (history.converged_iteration > 0).all()
    for s, step in enumerate(history.converged_iteration.tolist()):
        assert (history.loss[step:, s] == history.loss[step, s]).all()
        assert history.loss[step - 1, s] >= history.loss[step, s]
    assert (history.stopped_iteration == -1).all()
    assert "8 converged" in repr(history)
    short = st.train(st.Chain("residual2_prelu", 30, seeds=8, init="knots"), SINE, "levenberg_marquardt", 3)
    assert (short.converged_iteration == -1).all()


def test_the_homotopy_ends_at_the_task_and_its_losses_are_those_of_the_task():
    for method in ("adam", "levenberg_marquardt", "growth"):
        chain, seen = st.Chain("residual2_prelu", 6, seeds=4, init="knots"), []

        def see(_step, losses, chain=chain, seen=seen):
            seen.append((losses, (chain(SINE.x) - SINE.y).square().mean(1).detach()))

        st.train(chain, SINE, method, iterations=30, homotopy=0.5, on_iteration=see, progress=False)
        for losses, expected in seen:
            torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-15)
        assert (seen[-1][0] < seen[0][0]).all()


def test_the_target_moves_from_the_first_iteration_to_the_end_of_its_share():
    options = Options(8, 0.1, 1.0, adam_iterations=0, homotopy=0.5, start=1, least_slope=-np.inf)
    assert [options.share(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert replace(options, homotopy=0.0).share(0) == 1.0


def test_a_run_is_over_only_after_a_look_at_the_kinks_and_at_the_task_s_own_target():
    options = Options(100, 0.1, 1.0, adam_iterations=0, homotopy=0.25, start=1, least_slope=-np.inf)
    arrived, moving = torch.tensor([CONVERGED, CONVERGED]), torch.tensor([CONVERGED, MOVING])
    assert [has_arrived(step, options, arrived) for step in (10, 20, 24, 25, 30)] == [False] * 4 + [True]
    assert not has_arrived(30, options, moving)
    assert not has_arrived(0, replace(options, homotopy=0.0), arrived)


def test_the_iterations_of_adam_before_another_method_are_those_of_adam_on_the_task():
    chains = [st.Chain("residual2_prelu", 6, seeds=3) for _ in range(2)]
    adam = st.train(chains[0], SINE, iterations=7, progress=False)
    both = st.train(
        chains[1], SINE, "levenberg_marquardt", iterations=20, adam_iterations=7, homotopy=0.5, progress=False
    )
    assert torch.equal(both.loss[:7], adam.loss[:7])
    torch.testing.assert_close(both.loss[7], adam.loss[7], rtol=1e-12, atol=0)  # its weights are -1 or 1 now


@pytest.mark.parametrize("steps", [2, 3, 6])
def test_a_member_that_has_arrived_on_the_way_of_the_homotopy_goes_on(steps):
    """It begins at the best fit of the first stage, so that no damping lowers its error there."""
    task = st.Task.from_samples(SINE.x, SINE.x + 1)
    chain = st.Chain("residual2_prelu", 1, init="knots")
    with torch.no_grad():
        chain.outer_bias.fill_(1 / steps)
    for kind, value in chain.named_parameters():
        value.requires_grad_(kind == "outer_bias")
    history = st.train(chain, task, "levenberg_marquardt", iterations=10 * steps, homotopy=0.1, progress=False)
    assert history.best_loss.item() < 1e-20


@pytest.mark.parametrize("method", ["levenberg_marquardt", "growth"])
def test_a_member_that_is_not_finite_stops_alone(method):
    chain = st.Chain("residual2_prelu", 4, seeds=3, init="knots")
    table = chain.table()
    table[1, :, 3] = 1e308
    table[1, :, 2] = 3.0
    chain.set_table(table)
    with pytest.warns(RuntimeWarning, match="1 of 3 members stopped .* member 1 at iteration 0"):
        history = st.train(chain, SINE, method, iterations=20, progress=False)
    assert history.stopped_iteration.tolist() == [-1, 0, -1]
    assert torch.isinf(history.loss[:, 1]).all()
    assert (history.best_loss[[0, 2]] < 0.1).all()


@pytest.mark.parametrize("method", ["levenberg_marquardt", "growth"])
def test_a_member_whose_derivatives_leave_the_range_stops_for_good(method):
    """Its first step is constant up to rounding and its second one steep: its loss is finite."""
    chain = st.Chain("residual2_prelu", 4, seeds=2, init="knots")
    table = chain.table()
    table[1, 0, 1:] = [1, 10, -1, 10, 0.25]
    table[1, 1, 1:] = [1, 10, 1e160, -1e161, 0.25]
    chain.set_table(table)
    options = {"start": 2} if method == "growth" else {}
    with pytest.warns(RuntimeWarning, match="member 1 at iteration 1"):
        history = st.train(chain, SINE, method, iterations=40, progress=False, **options)
    assert history.loss[0].isfinite().all()
    assert history.loss[1:, 1].isinf().all()
    assert history.best_iteration[1] == 0
    assert history.stopped_iteration.tolist() == [-1, 1]
    assert history.converged_iteration[1] == -1


def test_levenberg_marquardt_is_far_below_adam_and_no_member_passes_a_limit():
    chain = st.Chain("residual2_prelu", 30, seeds=8, init="knots")
    task = st.Task(torch.sin, (-3, 3))
    st.train(chain, task, "levenberg_marquardt", progress=False)
    error = (chain(FRESH) - FRESH.sin()).square().mean(1)
    other = st.Chain("residual2_prelu", 30, seeds=8)
    adam = st.train(other, task, iterations=1000, progress=False)  # takes about as long
    assert error.median() < adam.best_loss.median() / 10
    # Levenberg-Marquardt finds the limits of what cannot fit.
    low = st.Chain("residual1_relu", 5, seeds=8)
    history = st.train(low, task, "levenberg_marquardt", progress=False)
    limit = st.references.best_above_identity(task)
    assert limit * (1 - 1e-12) <= history.best_loss.min() < limit * 1.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.Chain("residual2_prelu", 3, dtype=torch.float32), "needs a chain of width 1.*float32"),
        (lambda: st.Chain("residual2_prelu", 3, width=2), r"points of shape \(64,\): a chain of width 2"),
        (
            lambda: st.Chain(st.Architecture("smooth", skip=1, maps=2, activation="tanh"), 3),
            "piecewise linear, in float64",
        ),
    ],
)
def test_chains_that_it_cannot_train_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        st.train(make(), SINE, "levenberg_marquardt")
