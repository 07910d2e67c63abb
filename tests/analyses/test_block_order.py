"""The orders of a block against what can be said without training, and the script as a user runs it."""

from pathlib import Path

import numpy as np
import pytest

from tests.analyses.scripts import run

ANALYSES = Path(__file__).parents[2] / "analyses"


@pytest.fixture
def block_order(monkeypatch):
    monkeypatch.syspath_prepend(str(ANALYSES))
    import block_order

    return block_order


def test_only_relu_after_the_addition_loses_directions_and_members(block_order):
    settings = block_order.Settings(depth=6, thin_depth=6, seeds=3, thin_seeds=60, counted_seeds=2)
    found = {
        name: block_order.fresh(name, settings)
        for name in ("width 1: original", "width 1: pre_activation", "width 32: original", "width 32: before_addition")
    }
    assert found["width 1: original"].dead.mean() > 0.02
    assert not found["width 1: pre_activation"].dead.any()
    lost = {name: bool((one.singular == -np.inf).any()) for name, one in found.items() if name.startswith("width 32")}
    assert lost == {"width 32: original": True, "width 32: before_addition": False}
    # A branch that ends in a ReLU with He's weights makes a state grow faster than by the variance alone.
    assert float(found["width 32: before_addition"].state[-1].median()) > 6 * np.log10(2) / 2 - 0.2


def test_networks_of_one_width_have_the_same_weights_in_every_order(block_order):
    settings = block_order.Settings(depth=3)
    one, other = (block_order.networks(f"width 32: {name}", 2, settings) for name in ("between", "original"))
    assert (one.weight == other.weight).all()
    assert one.architecture != other.architecture


@pytest.mark.slow
def test_the_script(tmp_path):
    done = run("block_order", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".nc", ".pdf", ".png"]
