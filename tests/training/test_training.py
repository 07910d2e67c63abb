"""Training: the kernel against automatic differentiation, Adam against torch's, members on their own."""

import io
import math
import sys

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import stability as st
from stability.training.adam import adam, clip_by_member, root, sum_by_member
from stability.training.objective import ModuleObjective, TableObjective
from stability.training.options import Options
from stability.training.status import MOVING

FIVE = list(st.ARCHITECTURES)
OPTIONS = Options(10, 0.1, 1.0, adam_iterations=0, homotopy=0.0, start=1, least_slope=-math.inf)
SINE = st.Task(torch.sin, (-3, 3), points=64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("init", ["pytorch", "he"])
@pytest.mark.parametrize("name", FIVE)
def test_the_kernel_and_automatic_differentiation_agree(name, init, dtype):
    chain = st.Chain(name, 20, seeds=10, init=init, dtype=dtype)
    kernel, module = TableObjective(chain, SINE), ModuleObjective(chain, SINE)
    losses, gradients = kernel.losses_and_gradients()
    expected_losses, expected = module.losses_and_gradients()
    eps = torch.finfo(dtype).eps
    # 20 layers of a few roundings each, amplified by at most the size of the sums they enter.
    torch.testing.assert_close(losses, expected_losses, rtol=200 * eps, atol=0)
    by_kind = module._split(expected)
    carrier = st.Chain(name, 20, seeds=10, init=init, dtype=dtype)
    carrier.set_table(gradients_as_table(kernel, gradients, chain))
    for kind, value in carrier.named_parameters():
        # A sum over points may cancel: its terms are as large as the mean error, at most the root of the loss.
        scale = expected.abs().amax(dim=1) + 2 * losses.sqrt()
        scale = scale.reshape(-1, *[1] * (value.ndim - 1))
        assert ((value - by_kind[kind]).abs() <= 200 * eps * scale).all(), kind


def gradients_as_table(kernel, gradients, chain):
    """Put gradients at the free entries and the architecture's constants elsewhere, to read them back by kind."""
    table = chain.table()
    free = kernel.trained
    table[:, free] = gradients.reshape(table.shape).double().numpy()[:, free]
    return table


@given(some.integers(1, 6), some.integers(0, 10**6))
@settings(max_examples=30)
def test_kernel_gradients_of_all_six_columns_agree_with_differences(rows, root):
    generator = np.random.default_rng(root)
    chain = st.Chain.from_table(generator.uniform(-1, 1, size=(1, rows, 6)))
    kernel = TableObjective(chain, SINE)
    direction = torch.from_numpy(generator.normal(size=kernel.parameters.shape))
    _, gradients = kernel.losses_and_gradients()
    start, step = kernel.parameters.clone(), 1e-6
    values = []
    for sign in (1, -1):
        kernel.parameters.copy_(start + sign * step * direction)
        values.append(kernel.losses_and_gradients()[0].item())
    # A central difference with step 1e-6 errs by about 1e-16 / 1e-6 and 1e-12 times the third derivatives.
    assert (gradients * direction).sum().item() == pytest.approx(
        (values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-7
    )


def test_adam_is_torch_s_adam_with_clipping_and_a_cosine_rate():
    chain = st.Chain("residual2_prelu", 6, seeds=[4])
    mine = st.Chain("residual2_prelu", 6, seeds=[4])
    reached = []
    st.train(
        mine,
        SINE,
        iterations=40,
        rate=0.02,
        clip=0.5,
        on_iteration=lambda *_: reached.append(mine.table()),
        progress=False,
    )
    optimizer = torch.optim.Adam(chain.parameters(), lr=0.02)
    for step in range(40):
        np.testing.assert_allclose(reached[step], chain.table(), rtol=0, atol=1e-11)
        optimizer.zero_grad()
        (chain(SINE.x) - SINE.y).square().mean().backward()
        # Not torch.nn.utils.clip_grad_norm_, which adds 1e-6 to the norm.
        norm = torch.cat([p.grad.flatten() for p in chain.parameters()]).norm()
        for p in chain.parameters():
            p.grad *= min(1, 0.5 / norm)
        optimizer.param_groups[0]["lr"] = 0.02 * (0.01 + 0.99 * (1 + math.cos(math.pi * step / 40)) / 2)
        optimizer.step()


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200, 4e307])
def test_clipping_neither_overflows_nor_underflows(size):
    gradients = size * torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    clipped = clip_by_member(gradients, size)
    expected = size * torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(clipped, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_long_row_has_the_same_sum_alone_and_among_others(dtype):
    values = torch.rand(20, 60_000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    before, sums = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sums.append(sum_by_member(values))
            for row, total in zip(values.split(1), sums[0], strict=True):
                assert sum_by_member(row).item() == total.item()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*sums)
    torch.testing.assert_close(sums[0].double(), values.double().sum(1, keepdim=True), rtol=1e-5, atol=0)


def test_roots_are_rounded_correctly():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(100_000, dtype=torch.float64, generator=generator) * 1e-300
    values[0] = 0.0
    expected = [math.sqrt(v) for v in values.tolist()]
    assert root(values).tolist() == values.tolist() == expected


class Stumble:
    """Member 1 has an infinite gradient once, at iteration 3, and a finite loss throughout."""

    def __init__(self):
        self.parameters, self.step = torch.zeros(2, 1, dtype=torch.float64), -1

    def hold_slopes(self):
        pass

    def losses_and_gradients(self, share):
        assert share == 1.0
        self.step += 1
        gradients = torch.ones(2, 1, dtype=torch.float64)
        gradients[1, 0] = math.inf if self.step == 3 else 1.0
        return torch.ones(2, dtype=torch.float64), gradients


def test_a_member_that_stops_neither_coasts_nor_starts_again():
    objective, places, moves = Stumble(), [], []
    for _, status in adam(objective, OPTIONS, {}):
        places.append(objective.parameters[1].item())
        moves.append(status[1].item() == MOVING)
    assert moves == [True] * 3 + [False] * 8
    assert len(set(places[:4])) == 4
    assert len(set(places[3:])) == 1


def test_on_iteration_works_beside_a_member_that_overflows():
    chain = st.Chain("residual2_prelu", 6, seeds=2)
    with pytest.warns(RuntimeWarning, match="2 of 2 members stopped"):
        history = st.train(chain, SINE, iterations=9, rate=1e308, on_iteration=lambda *_: None, progress=False)
    assert history.loss.shape[1] == 2
    assert 1 < len(history.loss) < 10  # there is nothing after the last member has stopped
    assert (history.loss[-1] == math.inf).all()
    assert np.isfinite(chain.table()).all()


def test_a_bound_that_is_not_reached_takes_no_memory():
    chain = st.Chain("residual2_prelu", 3, seeds=2)
    history = st.train(chain, SINE, "levenberg_marquardt", iterations=10**12, progress=False)
    assert (history.converged_iteration >= 0).all()
    assert len(history.loss) <= int(history.converged_iteration.max()) + 2 < 100


@pytest.mark.parametrize("width", [1, 2])
def test_a_member_takes_the_same_path_alone_and_among_others(width):
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None].expand(20, width).squeeze(-1 if width == 1 else 0)
    task = st.Task.from_samples(x, x.sin())
    many, alone = (st.Chain("plain_prelu", 5, seeds=s, width=width) for s in (12, [7]))
    record, single = (st.train(c, task, iterations=60, progress=False) for c in (many, alone))
    # Compiled loops give the same bits; batched matrix products may sum in another order.
    tolerance = {"rtol": 0, "atol": 0} if width == 1 else {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(record.loss[:, 7], single.loss[:, 0], **tolerance)
    for kind, value in alone.named_parameters():
        torch.testing.assert_close(value[0], many.get_parameter(kind)[7], **tolerance)


def test_the_number_of_threads_changes_nothing():
    losses = []
    before = numba.get_num_threads()
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread is all there is")
    try:
        for threads in (1, max(2, before)):
            numba.set_num_threads(threads)
            losses.append(st.train(st.Chain("residual2_prelu", 9, seeds=8), SINE, iterations=50, progress=False).loss)
    finally:
        numba.set_num_threads(before)
    assert torch.equal(*losses)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_chain_ends_at_each_seed_s_best_parameters(dtype):
    chain = st.Chain("residual2_prelu", 10, seeds=60, dtype=dtype)
    # A rate at which the loss jumps, so that the best step is not the last.
    history = st.train(chain, SINE, iterations=80, rate=0.3, progress=False)
    losses = (chain(SINE.x.to(dtype)) - SINE.y.to(dtype)).square().mean(1).double()
    torch.testing.assert_close(losses.detach(), history.best_loss, rtol=1e3 * torch.finfo(dtype).eps, atol=0)
    assert torch.equal(history.best_loss, history.loss.amin(0))
    np.testing.assert_array_equal(history.best_iteration, history.loss.numpy().argmin(0))
    assert (history.best_iteration < 80).any()
    assert history.path == "kernel"


@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_a_member_that_overflows_stops_alone_and_is_reported(path):
    width = 1 if path == "kernel" else 2
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)
    x = x if width == 1 else torch.stack([x, x], 1)
    task = st.Task.from_samples(x, x.sin())
    chain, healthy = (st.Chain("residual2_prelu", 5, seeds=s, width=width) for s in ([3, 8, 5], [3, 5]))
    with torch.no_grad():
        chain.outer_weight[1] = 1e200
    spoiled = chain.outer_weight[1].clone()
    with pytest.warns(RuntimeWarning, match="1 of 3 members stopped .* member 8 at iteration 0"):
        history = st.train(chain, task, iterations=30, progress=False)
    assert history.path == path
    assert history.stopped_iteration.tolist() == [-1, 0, -1]
    assert history.loss[:, 1].isinf().all()
    assert not history.loss.isnan().any()
    assert torch.equal(chain.outer_weight[1], spoiled)
    expected = st.train(healthy, task, iterations=30, progress=False)
    torch.testing.assert_close(history.loss[:, [0, 2]], expected.loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("width", [1, 2])
def test_parameters_that_require_no_gradient_stay(width):
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)
    task = (
        st.Task.from_samples(x, x)
        if width == 1
        else st.Task.from_samples(torch.stack([x, x], 1), torch.stack([x, x], 1))
    )
    chain = st.Chain("plain_prelu", 3, seeds=2, width=width)
    chain.slope.requires_grad_(False)
    chain.readout_bias.requires_grad_(False)
    before = {kind: value.detach().clone() for kind, value in chain.named_parameters()}
    st.train(chain, task, iterations=20, progress=False)
    kept = {kind for kind, value in chain.named_parameters() if torch.equal(value, before[kind])}
    assert kept == {"slope", "readout_bias"}
    chain.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the chain requires a gradient"):
        st.train(chain, task, iterations=20, progress=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(TypeError, match=r"training needs torch\.float32 or torch\.float64"):
        st.train(st.Chain("plain_relu", 3, dtype=dtype), SINE)


def test_on_iteration_sees_the_losses_and_the_chain_of_that_one():
    chain, seen = st.Chain("plain_prelu", 4, seeds=3), []

    def look(step, losses):
        seen.append((step, losses, (chain(SINE.x) - SINE.y).square().mean(1).detach()))

    history = st.train(chain, SINE, iterations=5, on_iteration=look, progress=False)
    assert [step for step, *_ in seen] == list(range(6))
    for step, losses, recomputed in seen:
        assert torch.equal(losses, history.loss[step])
        torch.testing.assert_close(recomputed, losses, rtol=1e-13, atol=0)


def test_an_interruption_keeps_the_best_until_then():
    chain = st.Chain("residual2_prelu", 4, seeds=3)

    def interrupt(step, _losses):
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(st.Interrupted, match=r"interrupted at iteration 10 of 50: .* give checkpoint= to") as caught:
        st.train(chain, SINE, iterations=50, on_iteration=interrupt, progress=False)
    assert isinstance(caught.value, KeyboardInterrupt)
    history = caught.value.history
    assert history.interrupted
    assert len(history.loss) == 11
    losses = (chain(SINE.x) - SINE.y).square().mean(1).detach()
    torch.testing.assert_close(losses, history.loss.amin(0), rtol=1e-13, atol=0)


def test_width_n_trains_through_torch():
    chain = st.Chain(st.Architecture("smooth", skip=1, maps=2, activation="tanh"), 3, seeds=4, width=3)
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None].expand(30, 3)
    history = st.train(chain, st.Task.from_samples(x, x.sin()), iterations=200, progress=False)
    assert history.path == "torch"
    assert (history.best_loss < 0.01 * history.loss[0]).all()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "progress"), [(Terminal, True), (Terminal, False), (io.StringIO, True)])
def test_the_progress_bar_shows_quantiles_on_a_terminal_only(monkeypatch, stream, progress):
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    st.train(st.Chain("plain_relu", 3, seeds=4), SINE, iterations=3, progress=progress)
    expected = stream is Terminal and progress
    assert ("plain_relu L=3" in shown.getvalue()) == ("median" in shown.getvalue()) == expected


def test_the_interval_of_samples_is_their_range():
    assert st.Task.from_samples([3.0, 0.0, 1.0], [0.0, 0.0, 0.0]).interval == (0.0, 3.0)


def test_a_history_is_a_dataset():
    history = st.train(st.Chain("plain_relu", 3, seeds=[4, 6]), SINE, iterations=3, progress=False)
    data = history.to_dataset()
    assert dict(data.sizes) == {"iteration": 4, "seed": 2}
    assert data.seed.values.tolist() == [4, 6]
    for name in ("loss", "best_iteration", "stopped_iteration"):
        np.testing.assert_array_equal(data[name], getattr(history, name))
    assert repr(history).startswith("History('adam', iterations=3, seeds=2, path='kernel', best loss ")


# --- what the article says, and its limits ---


def test_plain_relu_at_depth_30_ends_constant():
    chain = st.Chain("plain_relu", 30, seeds=200)
    st.train(chain, SINE, iterations=300, progress=False)
    output = chain(SINE.x).detach()
    assert (output.amax(1) - output.amin(1) < 1e-9).double().mean() > 0.98


@given(some.integers(1, 60), some.sampled_from(["pytorch", "uniform", "he", "knots"]), some.integers(0, 2**32))
@settings(max_examples=40)
def test_residual1_relu_stays_above_x(depth, init, root):
    chain = st.Chain("residual1_relu", depth, seeds=5, init=init, root=root)
    assert (chain(SINE.x) >= SINE.x).all()
    history = st.train(chain, SINE, iterations=40, rate=0.05, progress=False)
    assert (chain(SINE.x) >= SINE.x).all()
    limit = st.references.best_above_identity(SINE)
    assert (history.best_loss >= limit * (1 - 1e-12)).all()


@pytest.mark.parametrize(
    ("name", "init"), [("plain_relu", "pytorch"), ("plain_prelu", "pytorch"), ("plain_prelu", "identity")]
)
@pytest.mark.parametrize("depth", [2, 5, 30])
def test_no_monotone_member_falls_below_isotonic_regression(name, init, depth):
    chain = st.Chain(name, depth, seeds=60, init=init)
    losses = st.train(chain, SINE, iterations=400, progress=False).best_loss
    monotone = (chain.slope >= 0).all(1) if name == "plain_prelu" else torch.ones(60, dtype=bool)
    assert monotone.any()
    limit = st.references.best_monotone(SINE)
    assert losses[monotone].min() >= limit * (1 - 1e-12)
    output = chain(SINE.x).detach()[monotone].diff(dim=1)
    assert ((output >= -1e-12).all(1) | (output <= 1e-12).all(1)).all()
    if (name, init, depth) == ("plain_prelu", "pytorch", 5):
        assert losses[~monotone].min() < limit, "a slope below 0 folds, and then the limit does not bind"


def test_residual2_prelu_at_depth_30_fits_the_sine():
    chain = st.Chain("residual2_prelu", 30, seeds=32)
    history = st.train(chain, st.Task(torch.sin, (-3, 3), points=256), iterations=1000, progress=False)
    assert history.best_loss.median() < 2e-3


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: st.Task(torch.sin, (3, -3)), ValueError, "empty or reversed"),
        (lambda: st.Task(torch.sin, (0, 0)), ValueError, "empty or reversed"),
        (lambda: st.Task(torch.sin, (0, math.inf)), ValueError, "two finite ends"),
        (lambda: st.Task(torch.sin, 3), TypeError, "expected two numbers"),
        (lambda: st.Task(torch.sin, (0, 1), points=1), ValueError, "points is 1"),
        (lambda: st.Task(lambda x: x[1:], (0, 1)), ValueError, r"maps shape \(256,\) to \(255,\)"),
        (lambda: st.Task(torch.log, (-1, 1)), ValueError, "the target on the interval .* not finite"),
        (lambda: st.Task(lambda x: x.numpy(), (0, 1)), TypeError, "returns a ndarray"),
        (lambda: st.Task(3, (0, 1)), TypeError, "expected a function"),
        (lambda: st.Task.from_samples([0.0, 1.0], [1.0]), ValueError, "expected the same shape twice"),
        (lambda: st.Task.from_samples([0.0], [1.0]), ValueError, "number of samples is 1"),
        (lambda: st.Task.from_samples([0.0, 1.0], [1.0, math.nan]), ValueError, "samples' y"),
        (lambda: st.Task.from_samples([0.0, math.nan], [1.0, 1.0]), ValueError, "samples' x"),
        (lambda: st.Task(torch.sin, (-1.7e308, 1.7e308)), ValueError, "finite distance"),
        (lambda: st.Task(torch.sin, "13"), TypeError, "expected two numbers"),
        (lambda: st.Task(lambda x: x * 1j, (0, 1)), TypeError, "returns torch.complex128: expected real numbers"),
        (lambda: st.Task.from_samples(torch.tensor([1j, 2]), [1.0, 2.0]), TypeError, "expected real numbers"),
        (lambda: st.Task.from_samples([1.0, 2.0], np.array([1j, 2])), TypeError, "y is .*expected real numbers"),
        (lambda: st.Task.from_samples(["a", "b"], [1.0, 2.0]), TypeError, "x is .*expected real numbers"),
        (lambda: st.Task.from_samples([[1.0, 2.0], [3.0]], [1.0, 2.0]), TypeError, "x is .*expected real numbers"),
    ],
)
def test_bad_tasks_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "adamm"}, ValueError, "unknown training method 'adamm': known are 'adam'"),
        ({"stepz": 3}, TypeError, "train has no option 'stepz': it takes rate, clip, adam_iterations"),
        ({"start": 2}, ValueError, "start has no effect with method 'adam'"),
        ({"method": "levenberg_marquardt", "rate": 0.1}, ValueError, "rate has no effect with method 'levenberg_marq"),
        ({"adam_iterations": 2}, ValueError, "adam_iterations has no effect with method 'adam': use iterations"),
        ({"iterations": 0}, ValueError, "iterations is 0"),
        ({"rate": 0}, ValueError, "rate is 0: expected a finite number above 0"),
        ({"rate": -1.0}, ValueError, "rate is -1.0"),
        ({"rate": "fast"}, TypeError, "rate is 'fast'"),
        ({"clip": math.nan}, ValueError, "clip is nan"),
        ({"task": torch.sin}, TypeError, "expected a stability.Task"),
        ({"chain": torch.nn.Linear(1, 1)}, TypeError, "expected a stability.Chain"),
        ({"chain": st.Chain("plain_relu", 2, width=3)}, ValueError, "width 3 needs samples"),
        ({"on_iteration": 3}, TypeError, "on_iteration is 3: expected a function"),
        (
            {"chain": st.Chain("plain_relu", 2, dtype=torch.float32), "task": st.Task(lambda x: x * 1e40, (0, 1))},
            ValueError,
            "the task's y as torch.float32 .point. has 247 values that are not finite",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    good = {"chain": st.Chain("plain_relu", 2), "task": SINE, "progress": False}
    with pytest.raises(error, match=message):
        st.train(**(good | arguments))


def test_parameters_that_are_not_finite_are_refused_before_training():
    chain = st.Chain("plain_relu", 2, seeds=2)
    with torch.no_grad():
        chain.bias[1, 0] = math.nan
    with pytest.raises(
        ValueError, match=r"the chain's bias has 1 values that are not finite, the first nan at \(1, 0\)"
    ):
        st.train(chain, SINE, progress=False)
