"""Deaths against rational arithmetic at every point, and against a look without a memory."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import stability as st

POINTS = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
TASK = st.Task(torch.sin, (-3, 3), points=64)


def layer_by_rational_arithmetic(rows, points):
    """Return the first layer behind which the derivative is 0 at every point, 0 for none."""
    dead = np.zeros((len(points), len(rows)), dtype=bool)
    for place, point in enumerate(points):
        h, derivative = Fraction(float(point)), Fraction(1)
        for k, row in enumerate(rows):
            skip, weight, bias, outer, outer_bias, slope = map(Fraction, map(float, row))
            z = weight * h + bias
            branch = 1 if z > 0 else slope
            derivative *= skip + outer * weight * branch
            h = skip * h + outer * branch * z + outer_bias
            dead[place, k] = derivative == 0
    everywhere = dead.all(0)
    return int(everywhere.argmax()) + 1 if everywhere.any() else 0


@given(some.data())
def test_every_look_is_that_of_rational_arithmetic(data):
    # Multiples of a half, so that zeros are hit and layers come back to life.
    depth, looks, seeds = data.draw(some.integers(1, 4)), 6, 3
    generator = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    tables = generator.integers(-2, 3, (looks, seeds, depth, 6)) / 2.0
    tables[:, :, :, 0] *= generator.random((looks, seeds, depth)) < 0.3
    tables[:, :, :, 5] *= generator.random((looks, seeds, depth)) < 0.3
    still = generator.random((looks, 1, depth, 1)) < 0.5  # some layers do not move
    for look in range(1, looks):
        tables[look] = np.where(still[look], tables[look - 1], tables[look])
    expected = np.array([[layer_by_rational_arithmetic(rows, POINTS) for rows in table] for table in tables])
    chain = st.Chain.from_table(tables[0])
    record = st.watch_deaths(chain, POINTS)
    assert record.born.tolist() == expected[0].tolist()
    for look in range(looks):
        chain.set_table(tables[look])
        record(look, torch.zeros(seeds))
        assert record.layer.tolist() == expected[look].tolist()
    assert record.dead.tolist() == (expected > 0).tolist()
    assert record.revivals.tolist() == ((expected[:-1] > 0) & (expected[1:] == 0)).sum(0).tolist()
    for seed in range(seeds):
        deaths = np.flatnonzero(expected[:, seed]) if expected[0, seed] == 0 else []
        when = int(deaths[0]) if len(deaths) else -1
        assert int(record.iteration_of_death[seed]) == when
        assert int(record.layer_of_death[seed]) == (expected[when, seed] if when >= 0 else 0)
        assert record.before[seed].tolist() == tables[max(0, when - 1), seed].tolist()
        assert record.after[seed].tolist() == tables[max(0, when), seed].tolist()


@pytest.mark.parametrize("name", ["plain_relu", "residual1_relu", "residual2_relu", "plain_prelu"])
def test_every_iteration_of_a_training_is_that_of_a_look_without_a_memory(name):
    chain = st.Chain(name, depth=3, seeds=60)
    record, fresh = st.watch_deaths(chain, TASK.x), []
    st.train(
        chain,
        TASK,
        iterations=60,
        progress=False,
        rate=0.1,
        on_iteration=lambda iteration, losses: (
            record(iteration, losses),
            fresh.append(st.watch_deaths(chain, TASK.x).layer),
        ),
    )
    layers = torch.stack(fresh)
    assert torch.equal(record.dead, layers > 0)
    assert torch.equal(record.layer, layers[-1])
    assert (name == "plain_relu") == bool((record.iteration_of_death > 0).any())
    data = record.to_dataset()
    assert data.dead.dims == ("iteration", "seed")
    assert data.layer_of_death.to_numpy().tolist() == record.layer_of_death.tolist()


@pytest.mark.parametrize("name", ["plain_relu", "sometimes_residual"])
def test_the_causes_of_a_death_add_up_to_the_fall_of_the_pre_activation(name, monkeypatch):
    if name == "sometimes_residual":  # a step of two maps without a skip dies as well
        architecture = st.Architecture(name, skip=0, maps=2, activation="relu")
        monkeypatch.setitem(st.ARCHITECTURES, name, architecture)
    chain = st.Chain(name, depth=3, seeds=80)
    record = st.watch_deaths(chain, TASK.x)
    st.train(chain, TASK, iterations=80, progress=False, rate=0.05, on_iteration=record)
    data, died = record.causes(), (record.iteration_of_death > 0).numpy()
    assert died.sum() > 3
    assert (data.distance.notnull().to_numpy() == died).all()
    np.testing.assert_allclose(data.drop_by.sum("mover")[died], data["drop"][died], atol=1e-12)
    for seed in np.flatnonzero(died):
        layer = int(record.layer_of_death[seed])
        z, alive = [], []
        for table in (record.before, record.after):
            part = st.Chain.from_table(table[seed : seed + 1, :layer].numpy())
            step = table[seed, layer - 1]
            h = TASK.x if layer == 1 else part.prefix(layer - 1)(TASK.x)[0].detach()
            z.append((step[1] * h + step[2]).numpy())
            alive.append((st.spectrum(part, TASK.x).signs[-1, 0] != 0).numpy())
        assert not alive[1].any()
        assert int(data.live_points[seed]) == alive[0].sum()
        highest = np.where(alive[0], z[0], -np.inf).argmax()
        assert float(data.distance[seed]) == pytest.approx(z[0][highest], abs=1e-14)
        assert float(data.distance[seed] - data["drop"][seed]) == pytest.approx(z[1][highest], abs=1e-14)
        assert bool(data.all_off[seed]) == (z[1] <= 0).all()


def test_a_derivative_far_below_float64_is_not_0():
    chain = st.Chain("plain_prelu", depth=3000, seeds=4)
    with torch.no_grad():
        chain.weight.mul_(1e-3)
    assert st.spectrum(chain, POINTS).log_values[-1].max() < -10_000
    assert (st.watch_deaths(chain, POINTS).layer == 0).all()


def test_rounding_makes_nobody_alive_or_dead():
    # z = 1e8 (x - 1/3) + ... is 0 up to rounding at x = 1/3: the next step is off everywhere or not, by one ulp.
    x = torch.tensor([1 / 3], dtype=torch.float64)
    for step in range(-3, 4):
        bias = -(1e8 * (1 / 3))
        bias = bias + step * np.spacing(abs(bias))
        rows = np.array([[0.0, 1e8, bias, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
        chain = st.Chain.from_table(rows[None])
        record = st.watch_deaths(chain, x)
        record(0)
        signs = st.spectrum(chain, x).signs
        assert bool(record.layer[0] == 0) == bool(signs[-1, 0, 0] != 0)


def test_float32_and_no_look_at_all():
    chain = st.Chain("plain_relu", depth=4, seeds=20, dtype=torch.float32)
    record = st.watch_deaths(chain, POINTS.float())
    assert record.dead.shape == (0, 20)
    assert (record.born > 0).any()
    assert "0 iterations, 20 seeds" in repr(record)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="only piecewise-linear chains of width 1"):
        st.watch_deaths(st.Chain("plain_relu", depth=2, width=3), POINTS[:, None].expand(-1, 3))
    with pytest.raises(TypeError, match=r"expected a stability\.Chain"):
        st.watch_deaths(torch.nn.Linear(1, 1), POINTS)
    with pytest.raises(ValueError, match="x"):
        st.watch_deaths(st.Chain("plain_relu", depth=2), torch.tensor([float("nan")], dtype=torch.float64))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        st.watch_deaths(st.Chain("plain_relu", depth=2), POINTS.float())
