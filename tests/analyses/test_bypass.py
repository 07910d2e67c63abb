"""What a bypass of one, two and three maps does, against closed forms, and the script as a user runs it."""

from pathlib import Path

import pytest

import stability as st
from tests.analyses.scripts import run

ANALYSES = Path(__file__).parents[2] / "analyses"


@pytest.fixture
def bypass(monkeypatch):
    monkeypatch.syspath_prepend(str(ANALYSES))
    import bypass

    return bypass


@pytest.mark.parametrize("depth", [4, 16])
def test_hessians_at_zero_are_those_of_the_closed_form(bypass, depth):
    settings = bypass.Settings(seeds=2)
    one, two, three = (bypass.at_start("all maps zero", maps, depth, settings) for maps in (1, 2, 3))
    assert one.condition.to_numpy() == pytest.approx(1 + depth * 0.3 / 0.7, rel=1e-9)
    assert two.condition.to_numpy() == pytest.approx(1, rel=1e-9)
    assert two.negative.to_numpy() == pytest.approx(0.5)
    assert not two.gradient.any()
    assert not three.gradient.any()
    # The gradient of mean (y - a x)^2 for one map is 2 (1 - a) E x^2 in each of L weights.
    square = sum((k / 16) ** 2 for k in range(-16, 17)) / 33
    assert one.gradient.to_numpy() == pytest.approx(2 * 0.7 * square * depth**0.5, rel=1e-9)
    assert (bypass.at_start("last map zero", 3, depth, settings).gradient > 0).all()


def test_layers_that_are_linear_in_their_maps_have_no_higher_order(bypass, monkeypatch):
    small = bypass.Settings(seeds=2)
    assert (bypass.second_order(1, -1.0, 4, small).share > 0.01).all()
    with_tanh = st.Architecture
    monkeypatch.setattr(bypass.st, "Architecture", lambda *a, **k: with_tanh(*a, **k | {"activation": "linear"}))
    assert (bypass.second_order(1, -1.0, 4, small).share < 1e-12).all()
    assert (bypass.second_order(2, -1.0, 4, small).share > 1e-6).all()


@pytest.mark.slow
def test_the_script(tmp_path):
    done = run("bypass", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 5
